"""Evaluation of a run on prepared rows: value, source and abstention apart, a suite in Python, the base asked once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from asking import evaluate
from selfaug.cli.evaluation_view import show_evaluation
from selfaug.config import load_config
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.eval.form_checks import Words
from selfaug.eval.general_item import GeneralItem
from selfaug.phases.bench import content_of_base
from selfaug.phases.progress import Progress
from selfaug.phases.train import train
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.report.open_report import page_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

FEW: dict[str, Any] = {"level": "1", "general_items": 2, "max_new_tokens": 3, "device": "cpu"}


def two_requests() -> list[GeneralItem]:
    return [GeneralItem(f"r{n}", "list", 1, f"List {n} colours.", (Words(1),), 2) for n in (2, 3)]


@pytest.fixture
def prepared_run(copied_run: Path, tiny_rows: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run that says that its rows were prepared, and rows of which every third has no answer, and one no source."""
    file = copied_run / "config.yaml"
    marker, _, text = file.read_text(encoding="utf-8").partition("\n")
    config = yaml.safe_load(text)
    config["data"]["prepared"] = str(tmp_path)
    file.write_text(f"{marker}\n{yaml.safe_dump(config)}", encoding="utf-8")
    rows = read_lines(tiny_rows)[:6]
    for row in rows[::3]:
        row["answer"] = "The documents don't say."
    for row in (rows[2], *rows[4:]):
        row["answer"] += " [1]"
    asked = tmp_path / "asked.jsonl"
    write_lines(asked, rows)
    return copied_run, asked


def test_sides_are_scored_where_they_can_be(
    prepared_run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, asked = prepared_run
    record = evaluate(
        run, **FEW, data=[str(asked)], scorer="value", suites=["test_evaluate_documents:two_requests"]
    ).record
    assert {name: side["items"] for name, side in record["sides"].items()} == {
        "value": 4, "source": 3, "answers where it can": 4, "abstains where it must": 2,
    }  # fmt: skip
    assert list(record["suites"]) == ["task", "two_requests", "general"]
    assert set(record["suites"]["two_requests"]["scores"]) == {"r2", "r3"}
    show_evaluation(record)
    assert "task: abstains" in capsys.readouterr().out
    assert "the job: abstains where it must" in page_of(run)


def test_the_base_model_is_asked_once(
    prepared_run: tuple[Path, Path], finished_run: Path, tmp_path: Path
) -> None:
    run, asked = prepared_run
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.yaml", "started.json", "record.json", "adapter"):
        (other / name).symlink_to(run / name)
    settings = {**FEW, "data": [str(asked)], "suites": ["test_evaluate_documents:two_requests"]}
    with pytest.raises(DataError, match="does not exist"):
        evaluate(other, **settings, base_from=run)
    first = evaluate(run, **settings).record
    with pytest.raises(ConfigError, match="another general_items, scorer"):
        evaluate(other, **{**settings, "general_items": 1}, scorer="f1", base_from=run)
    stages: list[tuple[str, int]] = []
    second = evaluate(
        other,
        **settings,
        base_from=run,
        on_progress=lambda progress: stages.append((progress.stage, progress.done)),
    ).record
    for suite in ("task", "two_requests", "general"):
        assert [done for stage, done in stages if stage == f"base: {suite}"] == [
            first["suites"][suite]["items"]
        ]
    assert second["suites"] == first["suites"]
    assert second["sides"] == first["sides"]


def test_answers_of_a_base_model_that_was_asked_otherwise_are_not_taken(
    copied_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.yaml", "started.json", "record.json", "adapter"):
        (other / name).symlink_to(copied_run / name)
    evaluate(copied_run, **FEW)

    def refused(match: str) -> None:
        with pytest.raises(ConfigError, match=f"another {match}[.]"):
            evaluate(other, **FEW, base_from=copied_run)

    # Thinking was on in the other run: the general requests are the same texts, and other prompts.
    text = (copied_run / "config.yaml").read_text(encoding="utf-8")
    marker, _, settings = text.partition("\n")
    config = yaml.safe_load(settings)
    config["data"]["chat_template_kwargs"] = {"enable_thinking": False}
    (other / "config.yaml").unlink()
    (other / "config.yaml").write_text(f"{marker}\n{yaml.safe_dump(config)}", encoding="utf-8")
    refused("data.chat_template_kwargs")
    (other / "config.yaml").write_text(text, encoding="utf-8")
    # Other weights lay in the same folder when the other run was trained.
    record = read_record(copied_run / "record.json", "train")
    (other / "record.json").unlink()
    for key in ("stored_weights_hash", "weights_hash"):
        record["model"][key] = "another"
        if key == "weights_hash":  # as it is of a model without safetensors
            del record["model"]["stored_weights_hash"]
        write_record(other / "record.json", "train", record)
        refused("base model")


def test_a_changed_chat_template_is_not_taken_for_the_one_that_was_asked_by(
    settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    run = tmp_path / "run"
    train(settings(run, f"model.name={model}", "train.steps=1"))

    def cut(progress: Progress) -> None:
        if progress.stage == "tuned: general" and progress.done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(run, **FEW, on_progress=cut)
    template = model / "chat_template.jinja"
    before = template.read_text(encoding="utf-8")
    template.write_text(before.replace("assistant", "model"), encoding="utf-8")
    with pytest.raises(StorageError, match="cut off, with another tokenizer_and_template"):
        evaluate(run, **FEW)
    # Where the model's files couldn't be read there is no such hash, and the evaluation is gone on with.
    started = run / "samples" / "evaluation" / "started.json"
    begun = read_record(started, "evaluation-started")
    write_record(
        started, "evaluation-started", {k: v for k, v in begun.items() if k != "tokenizer_and_template"}
    )
    evaluate(run, **FEW)
    template.write_text(before, encoding="utf-8")
    with pytest.raises(StorageError, match="already, with another tokenizer_and_template"):
        evaluate(run, **FEW, max_forgetting=0.5)
    config = load_config(run / "config.yaml")
    assert content_of_base(config).keys() == {
        f"model.name {model}",
        f"tokeniser and chat template of {model}",
    }


def test_rows_without_an_answer_are_those_of_the_preparation(
    prepared_run: tuple[Path, Path], tmp_path: Path
) -> None:
    run, asked = prepared_run
    write_record(tmp_path / "record.json", "prepare", {"settings": {"rows": {"no_answer": "N/A"}}})
    rows = read_lines(asked)
    for row in rows[1:4]:
        row["answer"] = "N/A"
    write_lines(asked, rows)
    sides = evaluate(run, **FEW, data=[str(asked)], scorer="value").record["sides"]
    assert {name: side["items"] for name, side in sides.items()} == {
        "value": 3, "source": 2, "answers where it can": 3, "abstains where it must": 3,
    }  # fmt: skip


def test_a_model_abstains_in_the_words_of_its_training(
    prepared_run: tuple[Path, Path], tmp_path: Path
) -> None:
    """The folder was prepared anew with other words."""
    run, asked = prepared_run
    started = read_record(run / "started.json", "train-started")
    started["data"]["no_answer"] = "Keine Angabe."
    write_record(run / "started.json", "train-started", started)
    write_record(tmp_path / "record.json", "prepare", {"settings": {"rows": {"no_answer": "N/A"}}})
    rows = read_lines(asked)
    for row, words in zip(rows, ("N/A", "Keine Angabe."), strict=False):
        row["answer"] = words
    write_lines(asked, rows)
    sides = evaluate(run, **FEW, data=[str(asked)], scorer="value").record["sides"]
    assert sides["abstains where it must"]["items"] == 2


def test_the_prompts_are_those_of_the_training(prepared_run: tuple[Path, Path], tmp_path: Path) -> None:
    run, asked = prepared_run

    def prompts() -> list[str]:
        evaluate(run, **FEW, data=[str(asked)], scorer="value", overwrite=True)
        return [row["prompt"] for row in read_lines(run / "samples" / "evaluation" / "task-tuned.jsonl")]

    before = prompts()
    # Prepared anew with another template, the file that the run names says something else.
    file = run / "config.yaml"
    marker, _, text = file.read_text(encoding="utf-8").partition("\n")
    config = yaml.safe_load(text)
    config["data"]["template"] = str(tmp_path / "template.yaml")
    file.write_text(f"{marker}\n{yaml.safe_dump(config)}", encoding="utf-8")
    (tmp_path / "template.yaml").write_text("user: 'ANOTHER {passages} {question}'")
    assert prompts() == before
