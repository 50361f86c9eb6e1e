"""What a re-alignment refuses before anything is trained, and what it tells of."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from realigning import LENIENT, quick, run_command
from selfaug.config import load_config
from selfaug.data import RetrievalTemplate
from selfaug.errors import ConfigError, DataError, ModelError, StorageError
from selfaug.phases.realign import realign, realign_config
from selfaug.phases.realign_checks import (
    other_documents,
    require_trained_form,
    require_trained_template,
)
from selfaug.records import read_record, write_record
from selfaug.registry import Registry
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def test_what_can_not_be_judged_is_refused_before_training(
    copied_run: Path, new_rows: Path, held_out: Path
) -> None:
    with pytest.raises(DataError, match="16 of 16 held-out rows can't be scored so"):
        realign(copied_run, quick(new_rows, eval_data=[str(held_out)], scorer="numeric", task_items=None))
    run = RunDir(copied_run)
    record = read_record(run.record, "train")
    record["model"]["stored_tokenizer_hash"] = "another"
    write_record(run.record, "train", record)
    with pytest.raises(ModelError, match="has another tokeniser or chat template than when") as caught:
        realign(copied_run, quick(new_rows))
    assert "train anew" in str(caught.value.hint)
    content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    content["data"]["eval"] = ["gone.jsonl"]
    run.config.write_text(run.config_text(yaml.safe_dump(content)), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"gone\.jsonl does not exist: it is named by the run's data\.eval"
    ) as gone:
        realign(copied_run, quick(new_rows))
    assert "--set data.eval=[FILE]" in str(gone.value.hint)
    assert not Path(f"{copied_run}-realigned").exists()


def test_new_rows_of_other_documents_are_told_of(copied_run: Path, tmp_path: Path) -> None:
    for name in ("reports", "reports-2"):
        (tmp_path / name / "index").mkdir(parents=True)
        for file in ("record.json", "index/index.json", "train.jsonl"):
            (tmp_path / name / file).touch()
    before, after, alone = (
        str(tmp_path / name) for name in ("reports/train.jsonl", "reports-2/train.jsonl", "new.jsonl")
    )
    config = load_config(RunDir(copied_run).config)
    assert other_documents(config, [after]) is None
    data = config.data.model_copy(update={"prepared": str(tmp_path / "reports")})
    config = config.model_copy(update={"data": data})
    assert other_documents(config, [before, alone, "owner/name"]) is None
    told = str(other_documents(config, [alone, after]))
    assert f"--set data.prepared={os.path.relpath(tmp_path / 'reports-2')}" in told


def test_other_rows_do_not_get_the_verdict_of_those_before(
    copied_run: Path, new_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    """Too few rows to set some apart, and held-out rows that are given: no file is made of either."""
    data = ("--data", str(new_rows), "--eval-data", str(held_out))
    assert run_command(str(copied_run), *data, *LENIENT).exit_code == 0
    verdict = copied_run.with_name("copied-realigned") / "realignment.json"
    before = verdict.read_bytes()
    moved = tmp_path / "elsewhere.jsonl"
    new_rows.rename(moved)  # a file is known by what is in it
    assert run_command(str(copied_run), "--data", str(moved), *data[2:], *LENIENT).exit_code == 0
    lines = held_out.read_text(encoding="utf-8").splitlines(keepends=True)
    for file, what in ((moved, "new rows"), (held_out, "held-out rows")):
        whole = file.read_bytes()
        file.write_text("".join(lines[:-1]), encoding="utf-8")
        refused = run_command(str(copied_run), "--data", str(moved), *data[2:], *LENIENT)
        assert refused.exit_code == 1
        assert f"was begun with other {what}" in refused.stderr
        assert "--output" in refused.stderr
        file.write_bytes(whole)
    assert verdict.read_bytes() == before


def test_what_can_not_be_registered_is_refused_before_training(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    settings = quick(new_rows, registry=str(tmp_path / "registry.sqlite"))
    registry = Registry(tmp_path / "registry.sqlite")
    new = Path(f"{copied_run}-realigned")
    registry.add(new, weights="of a run that was deleted", base="tiny")
    with pytest.raises(ConfigError, match=r"copied-realigned is version 1 already, with other weights"):
        realign(copied_run, settings)
    registry.add(copied_run, weights="of another training", base="tiny")
    with pytest.raises(ConfigError, match="copied is version 2 already, with other weights"):
        realign(copied_run, settings)
    (copied_run / "record.json").unlink()
    for registered in (settings, quick(new_rows)):  # its weights may go on changing
        with pytest.raises(StorageError, match="did not finish"):
            realign(copied_run, registered)
    assert not new.exists()


def test_prompts_of_another_form_are_refused(copied_run: Path, new_rows: Path) -> None:
    """A folder that was prepared anew with another template has it in the file that the run names."""
    run = RunDir(copied_run)
    started = read_record(run.started, "train-started")
    started["data"]["train"]["template"] = replace(RetrievalTemplate(), separator=" / ").to_dict()
    write_record(run.started, "train-started", started)
    with pytest.raises(ConfigError, match="another form than those that") as caught:
        realign(copied_run, quick(new_rows))
    assert "data.template" in str(caught.value.hint)
    assert not Path(f"{copied_run}-realigned").exists()


def test_documents_that_the_new_run_could_not_be_asked_about_are_refused(
    copied_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "index").mkdir()
    for file in ("index/index.json", "train.jsonl"):
        (tmp_path / file).touch()
    run = RunDir(copied_run)
    config = realign_config(run, ["new.jsonl"], sets=[f"data.prepared={tmp_path}"])
    template = RetrievalTemplate()
    write_record(tmp_path / "record.json", "prepare", {"template": template.to_dict()})
    require_trained_template(run, config)
    other = replace(template, separator=" / ").to_dict()
    write_record(tmp_path / "record.json", "prepare", {"template": other})
    with pytest.raises(ConfigError, match="was prepared for prompts of another form"):
        require_trained_template(run, config)
    require_trained_template(run, realign_config(run, ["new.jsonl"], sets=["data.prepared=null"]))


def test_plain_text_is_refused_where_none_was_trained_on(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"prompt": "the revenue?", "completion": "none"}) + "\n", encoding="utf-8")
    for settings in (quick(file), quick(new_rows, eval_data=[str(file)])):
        with pytest.raises(DataError, match=r"new rows are plain text, the first of them .*text\.jsonl:1"):
            realign(copied_run, settings)
    assert not Path(f"{copied_run}-realigned").exists()
    # A prompt that was rendered by hand is the one that is served.
    rendered = {"prompt": "<|im_start|>user\nthe revenue?", "completion": "none"}
    file.write_text(json.dumps(rendered) + "\n", encoding="utf-8")
    config = realign_config(RunDir(copied_run), [str(file)])
    require_trained_form(RunDir(copied_run), config, [])


def test_a_run_that_was_trained_on_text_takes_it(copied_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"prompt": "the revenue?", "completion": "none"}) + "\n", encoding="utf-8")
    run = RunDir(copied_run)
    config = realign_config(run, [str(file)])
    started = read_record(run.started, "train-started")
    data, train_part = started["data"], started["data"]["train"]
    assert train_part["rows_of_text"] == 0
    with pytest.raises(DataError, match="plain text"):
        require_trained_form(run, config, [])
    for parts in (
        {"train": {**train_part, "rows_of_text": 1}},
        {"train": train_part, "replay": {**train_part, "rows_of_text": 1}},
    ):
        write_record(run.started, "train-started", {**started, "data": {**data, **parts}})
        require_trained_form(run, config, [])
