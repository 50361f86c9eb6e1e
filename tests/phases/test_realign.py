"""A deployed run learns from new rows: from its adapter, aligned with the base model, with old rows rehearsed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from selfaug.cli.main import app
from selfaug.config import dump_config, load_config
from selfaug.data import RetrievalTemplate, load_rows
from selfaug.data.rows import as_read
from selfaug.errors import ConfigError, DataError, ModelError, StorageError
from selfaug.phases.held_out import hold_out
from selfaug.phases.progress import Progress
from selfaug.phases.realign import RealignSettings, _output, _withdrawn, realign, realign_config
from selfaug.phases.realign_checks import (
    judged_by_both,
    other_documents,
    require_trained_form,
    require_trained_template,
)
from selfaug.phases.realign_comparison import (
    _contents_of_scorers,
    _outcome,
    _require_judged_alike,
    old_task_scorers,
    old_task_sources,
)
from selfaug.phases.registry import add_run
from selfaug.phases.train import train
from selfaug.phases.trained_template import TEMPLATE
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.registry import CANDIDATE, CHAMPION, Registry
from selfaug.report.document_text import document_markdown
from selfaug.report.run_report import run_report
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def asking(file: Path, what: str, rows: Path) -> Path:
    """Sixteen of the rows, that ask for something else and are answered so."""
    asked = [
        {**row, "question": row["question"].replace("revenue", what), "answer": "none"}
        for row in read_lines(rows)[:16]
    ]
    write_lines(file, asked)
    return file


@pytest.fixture
def new_rows(tiny_rows: Path, tmp_path: Path) -> Path:
    return asking(tmp_path / "new.jsonl", "profit", tiny_rows)


@pytest.fixture
def held_out(tiny_rows: Path, tmp_path: Path) -> Path:
    return asking(tmp_path / "held-out.jsonl", "loss", tiny_rows)


def chat(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def run_command(*arguments: str) -> Result:
    quick = (
        "--steps",
        "2",
        "--general-items",
        "2",
        "--task-items",
        "3",
        "--max-new-tokens",
        "3",
        "--level",
        "1",
    )
    return CliRunner().invoke(app, ["realign", *arguments, *quick])


def quick(data: Path, **more: Any) -> RealignSettings:
    few: dict[str, Any] = {"general_items": 2, "task_items": 3, "max_new_tokens": 3, "level": "1"}
    return RealignSettings([str(data)], **{**few, **more})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_it_goes_on_from_the_deployed_adapter(
    copied_run: Path, new_rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a learning rate of nothing it is the deployed adapter, and its alignment what the deployed run has moved."""
    config = realign_config(
        RunDir(copied_run), [str(new_rows)], sets=["train.steps=2", "train.learning_rate=1.0e-30"]
    )
    record = train(config).record
    new = Path(config.run.output)
    assert new == copied_run.with_name("copied-realigned")
    assert "adapter changes the model" not in caplog.text  # as is meant
    # The form of its prompts is known where the deployed run is not there any more.
    assert read_record(new / "started.json", "train-started")[TEMPLATE] == RetrievalTemplate().to_dict()
    before, after = weights(copied_run), weights(new)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = read_lines(new / "metrics.jsonl")
    first = next(row for row in rows if "alignment_loss" in row)
    assert first["alignment_loss"] > 1e-5  # against the base model, not against what was deployed
    assert record["noise_floor"] is None
    # So is the drift that is watched: what the deployed run ended with.
    deployed = read_record(copied_run / "record.json", "train")["monitor"]["checkpoints"][-1]
    assert deployed["general_drift"] > 1e-5
    watched = record["monitor"]["checkpoints"][-1]
    assert watched["general_drift"] == pytest.approx(deployed["general_drift"], rel=1e-4)
    # And with a real one it is another.
    other = realign_config(
        RunDir(copied_run), [str(new_rows)], output=str(tmp_path / "other"), sets=["train.steps=2"]
    )
    train(other)
    assert any(not torch.equal(before[name], one) for name, one in weights(tmp_path / "other").items())


def test_held_out_rows_of_every_task_stay_what_the_old_task_is_judged_by(
    copied_run: Path, new_rows: Path
) -> None:
    old = load_config(RunDir(copied_run).config).data.eval
    second = realign_config(RunDir(copied_run), ["second.jsonl"], eval_data=["second-dev.jsonl"])
    assert second.data.eval == [*old, "second-dev.jsonl"]
    for spelled in (old, [os.path.relpath(source) for source in old]):
        again = realign_config(RunDir(copied_run), ["second.jsonl"], eval_data=spelled)
        assert again.data.eval == old
        assert "both judged by" in str(judged_by_both(again.data.eval, spelled))
    assert judged_by_both(old, ["second-dev.jsonl"]) is None
    # Next month's file in the folder that the old task is judged by.
    assert f"both judged by {new_rows}" in str(judged_by_both([str(new_rows.parent)], [str(new_rows)]))
    # Others can stand for the deployed run's.
    moved = ["data.eval=[moved.jsonl]"]
    third = realign_config(RunDir(copied_run), ["second.jsonl"], eval_data=["second-dev.jsonl"], sets=moved)
    assert third.data.eval == ["moved.jsonl", "second-dev.jsonl"]
    settings = RealignSettings(["second.jsonl"], eval_data=["second-dev.jsonl"])
    config = load_config(RunDir(copied_run).config)
    assert [old_task_sources(config, one, settings) for one in (second, third)] == [old, ["moved.jsonl"]]
    # So they can where the new rows have taken the place of the deployed run's.
    fourth = realign_config(RunDir(copied_run), ["second.jsonl"], eval_data=old, sets=moved)
    assert fourth.data.eval == ["moved.jsonl", *old]
    assert old_task_sources(config, fourth, replace(settings, eval_data=old)) == ["moved.jsonl"]
    assert old_task_sources(config, again, replace(settings, eval_data=old)) == old


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


def test_the_checkpoint_is_not_chosen_on_rows_that_the_gate_judges_by(
    copied_run: Path, new_rows: Path
) -> None:
    run = RunDir(copied_run)
    content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    content["train"]["best_of_rows"] = 2
    run.config.write_text(run.config_text(yaml.safe_dump(content)), encoding="utf-8")
    assert realign_config(run, ["second.jsonl"]).train.best_of_rows == 0
    with pytest.raises(
        ConfigError, match=r"best_of_rows is 3: a re-alignment's gate judges by rows of data\.eval"
    ):
        realign_config(run, ["second.jsonl"], sets=["train.best_of_rows=3"])
    chosen = realign_config(run, ["second.jsonl"]).model_copy(update={"train": load_config(run.config).train})
    with pytest.raises(ConfigError, match="best_of_rows is 2"):
        realign(copied_run, quick(new_rows), config=chosen)
    assert not Path(chosen.run.output).exists()


def test_anchors_are_written_once(copied_run: Path, tmp_path: Path) -> None:
    run = RunDir(copied_run)
    settings = yaml.safe_load(run.config.read_text())
    assert realign_config(run, ["second.jsonl"]).selfaug.anchors == "none"
    settings["selfaug"]["anchors"] = "self"
    run.config.write_text(yaml.safe_dump(settings))
    assert realign_config(run, ["second.jsonl"]).selfaug.anchors == "self"  # none were written
    run.anchors.write_text('{"text": "hi", "input_ids": [5, 6]}\n')
    assert realign_config(run, ["second.jsonl"]).selfaug.anchors == str(run.anchors)
    for one, anchors in (
        ("selfaug.anchors=none", "none"),
        ("selfaug.anchor_count=7", "self"),
        ("train.seed=1", "self"),
    ):
        assert realign_config(run, ["second.jsonl"], sets=[one]).selfaug.anchors == anchors


def test_sources_are_rehearsed_by_later_runs_whatever_was_rehearsed_before(
    copied_run: Path, tmp_path: Path
) -> None:
    old = load_config(copied_run / "config.yaml").data.train
    second = realign_config(
        RunDir(copied_run), ["second.jsonl"], rehearsal=0, output=str(tmp_path / "second")
    )
    assert (second.data.replay, second.data.replay_share) == (old, 0)
    run = RunDir.create(second.run.output)
    run.config.write_text(run.config_text(dump_config(second)), encoding="utf-8")
    third = realign_config(run, ["third.jsonl"])
    assert (third.data.replay, third.data.replay_share) == (["second.jsonl", *old], 0.1)
    # What is learnt a second time is one source, not two.
    again = third.model_copy(update={"data": third.data.model_copy(update={"train": old})})
    run.config.write_text(run.config_text(dump_config(again)), encoding="utf-8")
    assert realign_config(run, ["fourth.jsonl"]).data.replay == [*old, "second.jsonl"]


ALL_RIGHT, ALL_WRONG = "regex:(?s:.*)", "regex:(?!)"


def test_old_rows_are_judged_by_the_scorer_that_they_came_with(
    copied_run: Path, new_rows: Path, held_out: Path, tiny_rows: Path, tmp_path: Path
) -> None:
    old = load_config(copied_run / "config.yaml").data.eval
    third, third_held_out = (
        asking(tmp_path / f"{name}.jsonl", name, tiny_rows) for name in ("third", "held")
    )
    lenient = ("--max-task-loss", "1", "--max-general-loss", "1", "--min-new-gain", "-1")
    second_run, third_run = tmp_path / "second", tmp_path / "third"
    first = ("--scorer", ALL_WRONG, "--old-scorer", ALL_RIGHT, "--output", str(second_run))
    result = run_command(
        *(str(copied_run), "--data", str(new_rows), "--eval-data", str(held_out), *first, *lenient)
    )
    assert result.exit_code == 0, result.output
    record = read_record(second_run / "realignment.json", "realignment")
    assert record["scorers"] == {old[0]: ALL_RIGHT, str(held_out): ALL_WRONG}
    # The next one says nothing of old rows, and rehearses none. Its new rows were held out before, too.
    new = ("--data", str(third), "--eval-data", str(third_held_out), "--eval-data", str(held_out))
    result = run_command(
        *(str(second_run), *new, "--output", str(third_run), "--rehearsal", "0", "--scorer", "f1", *lenient)
    )
    assert result.exit_code == 0, result.output
    record = read_record(third_run / "realignment.json", "realignment")
    assert record["scorers"] == {old[0]: ALL_RIGHT, str(held_out): ALL_WRONG, str(third_held_out): "f1"}
    said = (
        f"old task by {ALL_RIGHT} ({old[0]}), {ALL_WRONG} ({held_out}); "
        f"new task by f1 ({third_held_out}, {held_out})"
    )
    assert record["judged"] == said
    assert f"judged: {said}" in result.stdout
    # Three of each old source's rows, of which there are 24 and 16.
    scores = list(record["suites"]["old task"]["scores"].values())
    assert scores == [{"base": 1.0, "tuned": 1.0}] * 3 + [{"base": 0.0, "tuned": 0.0}] * 3
    lines = read_lines(third_run / "samples" / "realignment" / "old-task-new.jsonl")
    assert [line["id"] for line in lines] == list(record["suites"]["old task"]["scores"])
    assert [line["id"] for line in lines] == [f"{i}: row-{row}" for i, row in enumerate((0, 8, 16, 0, 5, 10))]
    assert record["suites"]["new task"]["items"] == 3
    assert "replay" not in read_record(third_run / "record.json", "train")["data"]


def test_whose_scorer_old_rows_have(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(copied_run)
    config = load_config(run.config)
    source = config.data.eval[0]

    def scorers(**more: Any) -> dict[str, str]:
        settings = RealignSettings(["new.jsonl"], scorer="f1", **more)
        return old_task_scorers(run, config, settings, config.data.eval)

    assert scorers() == {source: "f1"}
    # That of an evaluation, or of the one at the end of training, if these rows were evaluated.
    write_record(run.evaluation, "evaluation", {"settings": {"scorer": "contains", "data": ["others.jsonl"]}})
    assert scorers() == {source: "f1"}
    write_record(run.evaluation, "evaluation", {"settings": {"scorer": "exact", "data": [source]}})
    assert scorers() == {source: "exact"}
    # Earlier versions kept the home folder's sign as it was.
    monkeypatch.setenv("HOME", str(Path(source).parent))
    kept = {"scorer": "contains", "data": [f"~/{Path(source).name}"]}
    write_record(run.evaluation, "evaluation", {"settings": kept})
    assert scorers() == {source: "contains"}
    write_record(run.evaluation, "evaluation", {"settings": {"scorer": "exact", "data": [source]}})
    deployed = config
    for rows, judges in ((["others.jsonl"], "exact"), ([], "value"), ([source], "value")):
        own = config.evaluation.model_copy(update={"scorer": "value", "data": rows})
        config = deployed.model_copy(update={"evaluation": own})
        assert scorers() == {source: judges}
    # A re-aligned run's, from before each source had its own; and since.
    before: dict[str, Any] = {"settings": {"scorer": "number"}}
    write_record(run.realignment, "realignment", before)
    assert scorers() == {source: "number"}
    write_record(run.realignment, "realignment", {**before, "scorers": {source: "gone:score"}})
    with pytest.raises(ConfigError, match=r"can't be judged: scorer 'gone:score'") as refused:
        scorers()
    assert "--old-scorer" in str(refused.value.hint)
    assert scorers(old_scorer="contains") == {source: "contains"}


def test_held_out_rows_are_beside_a_run_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of flags, and a shell after `--output=`, leave `~` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _output(RunDir(tmp_path / "old"), "~/new/") == str(tmp_path / "new")


def test_a_folder_that_was_killed_while_it_was_made_is_made_again(
    copied_run: Path, new_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    """With the deployed run's base model and held-out rows where they are now."""
    old = RunDir(copied_run)
    content = yaml.safe_load(old.config.read_text(encoding="utf-8"))
    moved = [f"model.name={content['model']['name']}", f"data.eval=[{held_out}]"]
    content["model"]["name"], content["data"]["eval"] = "gone", ["gone.jsonl"]
    old.config.write_text(old.config_text(yaml.safe_dump(content)), encoding="utf-8")
    config = realign_config(
        old, [str(new_rows)], output=str(tmp_path / "new"), sets=["train.steps=1", *moved]
    )
    new = RunDir.create(tmp_path / "new")
    new.config.write_text(new.config_text(dump_config(config)), encoding="utf-8")
    found = realign(copied_run, quick(new_rows), config=config)
    assert (found.run, set(found.record["suites"])) == (new.path, {"old task", "general"})
    assert found.record["scorers"] == {str(held_out): "exact"}


def test_resumed_it_is_as_if_it_had_not_been_cut_off(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    sets = ["train.steps=4", "train.save_steps=2"]
    whole = realign_config(RunDir(copied_run), [str(new_rows)], output=str(tmp_path / "whole"), sets=sets)
    train(whole)
    cut = realign_config(RunDir(copied_run), [str(new_rows)], output=str(tmp_path / "cut"), sets=sets)
    train(cut)
    folder = tmp_path / "cut"
    (folder / "record.json").unlink()
    import shutil

    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    shutil.rmtree(folder / "adapter")
    found = realign(copied_run, quick(new_rows), config=cut)
    assert all(torch.equal(weights(folder)[name], one) for name, one in weights(tmp_path / "whole").items())
    assert found.record["run"] == str(folder)


def test_a_run_that_passes_becomes_the_candidate_and_nothing_is_promoted(
    copied_run: Path, new_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    data = ("--data", str(new_rows), "--eval-data", str(held_out), "--registry", str(registry))
    lenient = ("--max-task-loss", "1", "--max-general-loss", "1", "--min-new-gain", "-1")
    result = run_command(str(copied_run), *data, *lenient)
    assert result.exit_code == 0, result.output
    assert "gate: pass" in result.stdout
    assert "selfaug registry promote 2" in result.stderr
    for name in ("old task", "new task", "general", "deployed", "re-aligned"):
        assert name in result.stdout
    opened = Registry(registry)
    candidate = opened.current(CANDIDATE)
    assert candidate is not None
    assert (candidate[0].number, candidate[0].parent) == (2, 1)
    assert opened.current(CHAMPION) is None
    new = copied_run.with_name("copied-realigned")
    record = read_record(new / "realignment.json", "realignment")
    assert set(record["suites"]) == {"old task", "new task", "general"}
    assert record["deployed"] == str(copied_run)
    started = read_record(new / "started.json", "train-started")
    assert json.dumps(started["data"]).count(str(new_rows)) >= 1
    config = load_config(new / "config.yaml")
    assert config.data.replay == load_config(copied_run / "config.yaml").data.train
    assert config.data.replay_share == 0.1
    # The same command again takes what is there.
    again = run_command(str(copied_run), *data, *lenient, "--json")
    assert again.exit_code == 0
    assert (
        json.loads(again.stdout)["gate"] == json.loads((new / "realignment.json").read_text())["data"]["gate"]
    )
    assert "not the champion" not in again.stderr
    # Once it is promoted, the deployed run is not the champion any more, which is as it should be.
    opened.point(CHAMPION, 2)
    assert "not the champion" not in run_command(str(copied_run), *data, *lenient).stderr
    other = opened.add(tmp_path / "other", weights="others", base="tiny")
    opened.point(CHAMPION, other.number)
    again = run_command(str(copied_run), *data, *lenient, "--json")
    assert f"not the champion of {registry}: that is {other.run}" in " ".join(again.stderr.split())
    assert read_record(new / "realignment.json", "realignment")["champion_instead"] == other.run
    opened.point(CHAMPION, 1)
    assert run_command(str(copied_run), *data, *lenient).exit_code == 0
    assert "champion_instead" not in read_record(new / "realignment.json", "realignment")


def test_that_another_run_is_the_champion_is_said_before_training(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    add_run(registry, copied_run)
    other = Registry(registry).add(tmp_path / "other", weights="others", base="tiny")
    Registry(registry).point(CHAMPION, other.number)

    def stop(progress: Progress) -> None:
        if "is not the champion" in progress.message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        realign(copied_run, quick(new_rows, registry=str(registry)), on_progress=stop)
    assert not Path(f"{copied_run}-realigned").exists()


def test_a_run_that_loses_too_much_fails_its_gate(copied_run: Path, new_rows: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry.sqlite"
    bounds = ("--max-task-loss", "-1", "--registry", str(registry))
    result = run_command(str(copied_run), "--data", str(new_rows), *bounds)
    assert result.exit_code == 3
    assert "gate: fail" in result.stdout
    assert not registry.exists()


LENIENT = ("--max-task-loss", "1", "--max-general-loss", "1", "--min-new-gain", "-1")


def test_new_rows_are_held_out_where_none_are_given(copied_run: Path, tmp_path: Path) -> None:
    rows = [chat(f"the revenue of {number}?", "none") for number in range(200)]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = run_command(str(copied_run), "--data", str(file), *LENIENT)
    assert result.exit_code == 0, result.output
    folder = copied_run.with_name("copied-realigned-rows")
    held_out = folder / "1-new-held-out.jsonl"
    assert f"20 of 200 new rows are held out, to measure the new task by: {held_out}" in result.stderr
    new = copied_run.with_name("copied-realigned")
    config = load_config(new / "config.yaml")
    assert config.data.train == [str(folder / "1-new-train.jsonl")]
    assert config.data.eval[-1] == str(held_out)  # what the next re-alignment judges its old task by
    record = read_record(new / "realignment.json", "realignment")
    assert set(record["suites"]) == {"old task", "new task", "general"}
    assert record["gate"]["unmeasured"] == []
    assert read_record(new / "record.json", "train")["data"]["train"]["rows"] == 180
    # What was trained on stays; other rows under the same name are no reason to say the same of them.
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    assert run_command(str(copied_run), "--data", str(file), *LENIENT).exit_code == 0
    rows = [chat(f"the revenue of {number}?", "some") for number in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = run_command(str(copied_run), "--data", str(file), *LENIENT)
    assert other.exit_code == 1
    assert "has other rows" in other.stderr
    assert "--output" in other.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == kept


def test_what_was_held_out_is_not_trained_on_by_a_later_re_alignment(
    copied_run: Path, tmp_path: Path
) -> None:
    def written(file: Path, count: int) -> str:
        write_lines(file, [chat(f"the revenue of {number}?", f"{number}") for number in range(count)])
        return str(file)

    month, both = written(tmp_path / "month.jsonl", 200), written(tmp_path / "both.jsonl", 220)
    second, third = tmp_path / "second", tmp_path / "third"
    assert run_command(str(copied_run), "--data", month, *LENIENT, "--output", str(second)).exit_code == 0
    given = (str(second), "--data", both, *LENIENT, "--allow-unmeasured", "--output", str(third))
    result = run_command(*given)
    assert result.exit_code == 0, result.output
    assert "200 of 220 rows are not new" in result.stderr
    # Of the first run's old rows all are its held-out rows too: they are not rehearsed either.
    assert "not trained on, because held-out rows ask the same: 20 new rows, 24 old rows" in result.stdout
    record = read_record(third / "realignment.json", "realignment")
    assert record["left_out"] == {"train": 20, "replay": 24}
    assert read_record(third / "record.json", "train")["data"]["train"]["rows"] == 200
    # It can be decided anew without the rows that the deployed run was trained on.
    (tmp_path / "second-rows" / "1-month-train.jsonl").unlink()
    again = run_command(*given, "--max-task-loss", "-1")
    assert again.exit_code == 3, again.output


def test_what_an_earlier_version_has_begun_goes_on(copied_run: Path, tmp_path: Path) -> None:
    """Its rows were divided by whole prompts, and its settings know nothing of held-out prompts."""
    rows = [chat(f"the revenue of {number // 2}?", f"{number}") for number in range(200)]
    rows = [{**row, "messages": [{"role": "system", "content": "in" + " short" * (at % 2)}, *row["messages"]]}
            for at, row in enumerate(rows)]  # fmt: skip
    file, new, folder = tmp_path / "new.jsonl", tmp_path / "new", tmp_path / "new-rows"
    write_lines(file, rows)
    folder.mkdir()
    apart, kept = folder / "1-new-held-out.jsonl", folder / "1-new-train.jsonl"
    every = [as_read(row) for row in load_rows([file]).rows]
    write_lines(apart, every[:40:2])
    write_lines(kept, [*every[1:40:2], *every[40:]])
    given = (str(copied_run), "--data", str(file), *LENIENT, "--output", str(new))
    divided = (str(copied_run), "--data", str(kept), "--eval-data", str(apart), *given[3:])
    assert run_command(*divided, "--set", "data.skip_held_out=false").exit_code == 0
    begun = RunDir(new)
    content = yaml.safe_load(begun.config.read_text(encoding="utf-8"))
    assert content["data"].pop("skip_held_out") is False
    begun.config.write_text(begun.config_text(yaml.safe_dump(content)), encoding="utf-8")
    for left in (begun.realignment, begun.record):
        left.unlink()
    shutil.rmtree(new / "adapter")
    shutil.rmtree(new / "samples")
    again = run_command(*given)
    assert again.exit_code == 0, again.output
    assert read_record(new / "realignment.json", "realignment")["left_out"] == {}


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


def test_a_finished_comparison_is_decided_by_the_bounds_of_now(
    copied_run: Path, new_rows: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--data", str(new_rows), "--eval-data", str(held_out))
    assert run_command(str(copied_run), *data, *LENIENT).exit_code == 0
    new = copied_run.with_name("copied-realigned")
    with monkeypatch.context() as patched:
        patched.setattr("selfaug.phases.realign_comparison.answers_to", None)
        strict = run_command(str(copied_run), *data, *LENIENT[2:], "--max-task-loss", "-1")
        assert strict.exit_code == 3, strict.output
        record = read_record(new / "realignment.json", "realignment")
        assert record["settings"]["max_task_loss"] == -1
        assert record["gate"]["outcome"] == "fail"
        # The deployed model passes none of the old rows: there is nothing that it could lose.
        nothing = run_command(str(copied_run), *data, *LENIENT[2:], "--max-task-loss", "0.03")
        assert nothing.exit_code == 3, nothing.output
        assert "the deployed model passes only 0\N{NO-BREAK SPACE}% of these" in nothing.stdout
        page = run_report(RunDir(new))
        assert "the deployed model passes only" in document_markdown(page)
        assert page.outcome == "open"
        # Intervals of an earlier version, which were too narrow, decide nothing: the items' scores do.
        interval = record["suites"]["new task"]["difference"]["difference"]
        low = interval["low"]
        interval["low"] = interval["value"]
        write_record(new / "realignment.json", "realignment", record)
        undecided = run_command(str(copied_run), *data, *LENIENT[:4], "--min-new-gain", "-0.01")
        assert undecided.exit_code == 3, undecided.output
        record = read_record(new / "realignment.json", "realignment")
        assert record["suites"]["new task"]["difference"]["difference"]["low"] == low
        assert run_command(str(copied_run), *data, *LENIENT).exit_code == 0
        other = run_command(str(copied_run), *data, *LENIENT, "--scorer", "f1")
        assert other.exit_code == 1
        assert "with another scorer" in other.stderr
        record["settings"]["tokenizer_and_template"] = "another"
        write_record(new / "realignment.json", "realignment", record)
        other = run_command(str(copied_run), *data, *LENIENT)
        assert other.exit_code == 1
        assert "with another tokenizer_and_template" in other.stderr
    # Cut off: answers that were asked for otherwise are not gone on with.
    (new / "realignment.json").unlink()
    other = run_command(str(copied_run), *data, *LENIENT, "--scorer", "f1")
    assert other.exit_code == 1
    assert "with another scorer" in other.stderr


def test_a_schema_that_has_changed_since_decides_nothing_anew(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}', encoding="utf-8")
    scorers = {"new.jsonl": f"schema:{schema}", "old.jsonl": "exact"}
    record = {"scorers": scorers, "contents": _contents_of_scorers(scorers)}
    _require_judged_alike(RunDir(tmp_path), record)
    schema.write_text('{"type": "array"}', encoding="utf-8")
    with pytest.raises(StorageError, match=r"before .*schema\.json changed") as caught:
        _require_judged_alike(RunDir(tmp_path), record)
    assert "delete realignment.json" in str(caught.value.hint)
    _require_judged_alike(RunDir(tmp_path), {"scorers": scorers})  # of an earlier version


def test_its_folders_are_beside_the_new_run_however_that_is_named(copied_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    rows = [chat(f"the revenue of {number}?", "none") for number in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, flags in (
        ("second", ("--output", f"{tmp_path}/second/")),
        ("third", ("--set", f"run.output={tmp_path}/third")),
    ):
        result = run_command(str(copied_run), "--data", str(file), *LENIENT, *flags)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name / "realignment.json").exists()
        assert (tmp_path / f"{name}-rows" / "1-new-train.jsonl").exists()


def test_a_share_of_the_rows_is_held_out_where_prompts_come_again(tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    rows = [{"prompt": f"the revenue of {n // 5}?", "completion": f"{n}"} for n in range(1000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = load_config(None, {"--model": "tiny", "--train": ["old.jsonl"]})
    found = hold_out(RunDir(tmp_path), config, [str(file)], tmp_path / "rows", share=0.1, offline=True)
    assert (found.rows, found.of) == (100, 1000)
    apart, kept = ({row["prompt"] for row in read_lines(name)} for name in (*found.eval_data, *found.data))
    assert (len(apart), apart & kept) == (20, set())
    file.write_text("".join(json.dumps({**row, "prompt": "one"}) + "\n" for row in rows), encoding="utf-8")
    assert (
        hold_out(RunDir(tmp_path), config, [str(file)], tmp_path / "none", share=0.1, offline=True).rows == 0
    )


def test_nothing_passes_on_a_task_without_rows_unless_that_is_wanted(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    settings = copied_run / "config.yaml"
    content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    content["data"]["eval"] = []
    settings.write_text(RunDir(copied_run).config_text(yaml.safe_dump(content)), encoding="utf-8")
    command = (str(copied_run), "--data", str(new_rows), *LENIENT, "--registry", str(registry))
    result = run_command(*command)
    assert result.exit_code == 3, result.output
    assert "gate: inconclusive" in result.stdout
    assert "not measured, for want of held-out rows: old task, new task" in result.stdout
    # Said before the training, too.
    assert "of 16 rows, 0.1 is less than 20" in result.stderr
    assert "the old task has none" in result.stderr
    assert "--allow-unmeasured" in result.stderr
    assert not registry.exists()
    new = copied_run.with_name("copied-realigned")
    gate = read_record(new / "realignment.json", "realignment")["gate"]
    assert (gate["outcome"], gate["of_bounds"]) == ("inconclusive", "pass")
    # It need not be learnt again.
    trained = (new / "record.json").read_bytes()
    again = run_command(*command, "--allow-unmeasured")
    assert again.exit_code == 0, again.output
    assert "gate: pass" in again.stdout
    assert (new / "record.json").read_bytes() == trained
    record = read_record(new / "realignment.json", "realignment")
    assert (record["gate"]["outcome"], record["settings"]["allow_unmeasured"]) == ("pass", True)
    assert Registry(registry).current(CANDIDATE) is not None
    # What passes no more is no candidate any more.
    strict = run_command(*command)
    assert strict.exit_code == 3, strict.output
    assert "version 2 does not pass any more" in strict.stderr
    assert Registry(registry).current(CANDIDATE) is None
    # Where it is the champion by now, that is what has to be said.
    Registry(registry).point(CANDIDATE, 2)
    Registry(registry).point(CHAMPION, 2)
    assert "is still served; `selfaug registry rollback" in str(_withdrawn(RunDir(new), str(registry)))
    assert Registry(registry).current(CANDIDATE) is None


@pytest.mark.parametrize("of_bounds", ["pass", "fail", "inconclusive"])
def test_what_a_task_without_rows_makes_of_an_outcome(of_bounds: Any) -> None:
    strict, lenient = RealignSettings(["new.jsonl"]), RealignSettings(["new.jsonl"], allow_unmeasured=True)
    assert _outcome(of_bounds, [], strict) == of_bounds
    assert _outcome(of_bounds, ["new task"], lenient) == of_bounds
    assert _outcome(of_bounds, ["new task"], strict) == ("fail" if of_bounds == "fail" else "inconclusive")


def test_what_it_can_not_go_on_from(copied_run: Path, new_rows: Path, tmp_path: Path) -> None:
    config = realign_config(
        RunDir(copied_run),
        [str(new_rows)],
        output=str(tmp_path / "new"),
        sets=["lora.rank=3", "lora.alpha=5"],
    )
    with pytest.raises(ConfigError, match="can't go on from") as refused:
        train(config)
    assert len(refused.value.problems) == 2
    record = read_record(copied_run / "record.json", "train")
    record["model"]["stored_weights_hash"] = "another"
    write_record(copied_run / "record.json", "train", record)
    config = realign_config(RunDir(copied_run), [str(new_rows)], output=str(tmp_path / "new"))
    with pytest.raises(ModelError, match="has other weights than the base model that") as other:
        train(config)
    assert "put those weights back" in str(other.value.hint)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="not valid") as combination:
        realign_config(RunDir(copied_run), [str(new_rows)], sets=["lora.method=full"])
    assert any("start_from" in problem for problem in combination.value.problems)
    settings = copied_run / "config.yaml"
    settings.write_text(settings.read_text().replace("method: lora", "method: osf"), encoding="utf-8")
    with pytest.raises(ConfigError, match="goes on from a LoRA adapter"):
        realign(copied_run, quick(new_rows))


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
    with pytest.raises(StorageError, match="did not finish"):
        realign(copied_run, settings)
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


@pytest.mark.parametrize(("words", "told"), [(None, True), ("Keine Angabe.", False)])
def test_what_the_deployed_run_says_where_there_is_no_answer_is_known(
    copied_run: Path, new_rows: Path, tmp_path: Path, words: str | None, told: bool
) -> None:
    """The rows of other documents may say it in other words."""
    run = RunDir(copied_run)
    started = read_record(run.started, "train-started")
    started["data"]["no_answer"] = words
    write_record(run.started, "train-started", started)
    held_out = tmp_path / "held-out.jsonl"
    write_lines(held_out, [{**read_lines(new_rows)[0], "answer": "Keine Angabe."}])
    said: list[str] = []

    def until_training(progress: Progress) -> None:
        said.append(progress.message)
        if progress.stage == "data":
            raise KeyboardInterrupt

    settings = quick(new_rows, eval_data=[str(held_out)], scorer="abstains", old_scorer="exact")
    with pytest.raises(KeyboardInterrupt):
        realign(copied_run, settings, on_progress=until_training)
    assert any("abstains" in message for message in said) == told


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
    old = {name: value for name, value in train_part.items() if name != "rows_of_text"}
    for parts in (
        {"train": {**train_part, "rows_of_text": 1}},
        {"train": train_part, "replay": {**train_part, "rows_of_text": 1}},
        {"train": {**old, "forms": {"prompt-completion": 1}}},  # nobody knows: an earlier version's
    ):
        write_record(run.started, "train-started", {**started, "data": {**data, **parts}})
        require_trained_form(run, config, [])
    write_record(run.started, "train-started", {**started, "data": {**data, "train": old}})
    with pytest.raises(DataError, match="plain text"):
        require_trained_form(run, config, [])


def test_a_re_alignment_that_was_begun_by_choosing_on_rows_says_so(copied_run: Path, new_rows: Path) -> None:
    chosen = realign_config(RunDir(copied_run), [str(new_rows)])
    begun = RunDir.create(chosen.run.output)
    content = yaml.safe_load(RunDir(copied_run).config.read_text(encoding="utf-8"))
    content["train"]["best_of_rows"] = 2
    begun.config.write_text(begun.config_text(yaml.safe_dump(content)), encoding="utf-8")
    shutil.copy(RunDir(copied_run).started, begun.started)
    with pytest.raises(StorageError, match=r"was begun with train\.best_of_rows"):
        realign(copied_run, quick(new_rows))
