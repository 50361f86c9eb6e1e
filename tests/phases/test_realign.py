"""A deployed run learns from new rows: from its adapter, aligned with the base model, with old rows rehearsed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from realigning import LENIENT, chat, quick, run_command
from selfaug.config import dump_config, load_config
from selfaug.data import RetrievalTemplate
from selfaug.errors import ConfigError, DataError, ModelError, StorageError
from selfaug.phases.held_out import hold_out
from selfaug.phases.progress import Progress
from selfaug.phases.realign import RealignSettings, _output, realign, realign_config
from selfaug.phases.realign_checks import (
    judged_by_both,
)
from selfaug.phases.realign_comparison import (
    old_task_sources,
)
from selfaug.phases.registry import add_run
from selfaug.phases.run_models import hash_of_weights
from selfaug.phases.train import Interrupted, train
from selfaug.phases.trained_template import TEMPLATE
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.registry import CANDIDATE, CHAMPION, Registry
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


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
    # Whose adapter it is made of is known by its hash, in what leaves the machine too, without the place.
    made_of = hash_of_weights(copied_run / "adapter")
    assert record["went_on_from"] == {"run": str(copied_run), "weights": made_of}
    manifest = read_record(new / "adapter" / "selfaug_manifest.json", "manifest")
    assert manifest["went_on_from"] == {"run": "copied", "weights": made_of}
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
    # Where the deployed run was trained anew in its folder, a checkpoint goes on, but is not compared with it.
    run = RunDir(tmp_path / "other")
    run.record.unlink()
    save_file(
        {name: 2 * one for name, one in before.items()}, copied_run / "adapter" / "adapter_model.safetensors"
    )
    with pytest.raises(StorageError, match=f"begun from another adapter than {copied_run} has now"):
        realign(copied_run, quick(new_rows, output=str(run.path)), sets=["train.steps=2"])
    assert not run.record.exists()
    # Nor is the deployed run needed any more, unless its rows are.
    away = copied_run.rename(tmp_path / "away")
    begun = read_record(run.started, "train-started")
    rehearsed = {"digest": "another"}
    write_record(run.started, "train-started", begun | {"data": begun["data"] | {"replay": rehearsed}})
    with pytest.raises(ConfigError, match="training rows are not those") as refused:
        train(other, resume=True)
    assert f"that {copied_run} had learnt, and that run is not there" in str(refused.value.hint)
    write_record(run.started, "train-started", begun)
    assert train(other, resume=True).record["went_on_from"]["weights"] == made_of
    away.rename(copied_run)
    # Without one it can't be gone on with.
    run.record.unlink()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(ConfigError, match="can't be resumed") as refused:
        train(other, resume=True)
    assert refused.value.problems == [f"the adapter of {copied_run} is not the one that the run began with"]


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


def test_the_checkpoint_is_not_chosen_on_rows_that_the_gate_judges_by(
    copied_run: Path,
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


def test_the_deployed_runs_evaluation_at_its_end_is_not_done_again(copied_run: Path) -> None:
    run = RunDir(copied_run)
    content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    content["evaluation"]["at_end"] = "fast"
    run.config.write_text(run.config_text(yaml.safe_dump(content)), encoding="utf-8")
    for sets, at_end in (([], "none"), (["evaluation.at_end=full"], "full")):
        assert realign_config(run, ["second.jsonl"], sets=sets).evaluation.at_end == at_end


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


def test_held_out_rows_are_beside_a_run_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of flags, and a shell after `--output=`, leave `~` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _output(RunDir(tmp_path / "old"), "~/new/") == str(tmp_path / "new")


@pytest.mark.parametrize(("within", "named"), [("", "."), ("adapter", "..")])
def test_inside_its_folder_a_run_has_its_own_name(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, within: str, named: str
) -> None:
    """The new run was `.-realigned`, hidden in the deployed one."""
    monkeypatch.chdir(copied_run / within)
    config = realign_config(RunDir(named), ["second.jsonl"])
    assert (config.run.output, config.lora.start_from) == (f"{copied_run}-realigned", str(copied_run))


def test_several_processes_of_a_launcher_are_refused(
    copied_run: Path, new_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a launcher has started 2 processes of `selfaug realign`"):
        realign(copied_run, quick(new_rows))


def test_a_folder_that_was_killed_while_it_was_made_is_made_again(
    copied_run: Path, new_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    """With the deployed run's base model and held-out rows where they are now."""
    old = RunDir(copied_run)
    content = yaml.safe_load(old.config.read_text(encoding="utf-8"))
    moved = [f"model.name={content['model']['name']}", f"data.eval=[{held_out}]"]
    content["model"]["name"], content["data"]["eval"] = "gone", ["gone.jsonl"]
    old.config.write_text(old.config_text(yaml.safe_dump(content)), encoding="utf-8")
    new, sets = RunDir.create(tmp_path / "new"), ["train.steps=1", *moved]
    config = realign_config(old, [str(new_rows)], output=str(new.path), sets=sets)
    new.config.write_text(new.config_text(dump_config(config)), encoding="utf-8")
    # But not while another process is making it.
    with new.training(), pytest.raises(StorageError, match="is being trained"):
        realign(copied_run, quick(new_rows, output=str(new.path)), sets=sets)
    assert new.is_run()
    found = realign(copied_run, quick(new_rows, output=str(new.path)), sets=sets)
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
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    shutil.rmtree(folder / "adapter")
    found = realign(copied_run, quick(new_rows, output=str(folder)), sets=sets)
    assert all(torch.equal(weights(folder)[name], one) for name, one in weights(tmp_path / "whole").items())
    assert found.record["run"] == str(folder)


def test_a_run_that_passes_becomes_the_candidate_and_nothing_is_promoted(
    copied_run: Path, new_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    data = ("--data", str(new_rows), "--eval-data", str(held_out), "--registry", str(registry))
    result = run_command(str(copied_run), *data, *LENIENT)
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
    assert f"page:   {RunDir(new).report}\n" in result.stdout
    assert "Against the deployed run" in RunDir(new).report.read_text(encoding="utf-8")
    started = read_record(new / "started.json", "train-started")
    assert json.dumps(started["data"]).count(str(new_rows)) >= 1
    config = load_config(new / "config.yaml")
    assert config.data.replay == load_config(copied_run / "config.yaml").data.train
    assert config.data.replay_share == 0.1
    # The same command again takes what is there, and is the candidate again where a newer one was.
    other = opened.add(tmp_path / "other", weights="others", base="tiny")
    opened.point(CANDIDATE, other.number)
    again = run_command(str(copied_run), *data, *LENIENT, "--json")
    assert again.exit_code == 0
    assert (
        json.loads(again.stdout)["gate"] == json.loads((new / "realignment.json").read_text())["data"]["gate"]
    )
    assert "not the champion" not in again.stderr
    assert "version 2 takes the place of version 3 as the candidate" in again.stderr
    # Once it is promoted, the deployed run is not the champion any more, which is as it should be.
    opened.point(CHAMPION, 2)
    # From then on another one can be the candidate, and stays it.
    fourth = opened.add(tmp_path / "fourth", weights="of the fourth", base="tiny")
    opened.point(CANDIDATE, fourth.number)
    again = run_command(str(copied_run), *data, *LENIENT)
    assert "not the champion" not in again.stderr
    assert f"version 2 is the champion of {registry}" in " ".join(again.stderr.split())
    assert "promote 2" not in again.stderr
    opened.point(CHAMPION, other.number)
    again = run_command(str(copied_run), *data, *LENIENT, "--json")
    assert f"not the champion of {registry}: that is {other.run}" in " ".join(again.stderr.split())
    assert read_record(new / "realignment.json", "realignment")["champion_instead"] == other.run
    # The deployed weights in another folder, as in one that was copied, are the deployed run.
    copy = opened.add(tmp_path / "copy", weights=opened.version(1).weights, base="tiny")
    opened.point(CHAMPION, copy.number)
    again = run_command(str(copied_run), *data, *LENIENT)
    assert again.exit_code == 0
    assert "not the champion" not in again.stderr
    assert "version 2 was the champion" in " ".join(again.stderr.split())
    assert "champion_instead" not in read_record(new / "realignment.json", "realignment")
    candidate = opened.current(CANDIDATE)
    assert candidate is not None
    assert candidate[0].number == fourth.number
    # One that was promoted while this one was trained counts as well.
    settings = quick(
        new_rows,
        eval_data=[str(held_out)],
        registry=str(registry),
        max_task_loss=1,
        max_general_loss=1,
        min_new_gain=-1,
    )
    told: list[str] = []

    def promoted_meanwhile(progress: Progress) -> None:
        told.append(progress.message)
        if "nothing to train" in progress.message:
            opened.point(CHAMPION, other.number)

    found = realign(copied_run, settings, sets=["train.steps=2"], on_progress=promoted_meanwhile)
    assert found.record["champion_instead"] == other.run
    assert sum("is not the champion" in message for message in told) == 1


def test_that_another_run_is_the_champion_is_said_before_training(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    add_run(registry, copied_run)
    other = Registry(registry).add(tmp_path / "other", weights="others", base="tiny")
    Registry(registry).point(CHAMPION, other.number)

    def stop(progress: Progress) -> None:
        if "is not the champion" in progress.message:
            raise KeyboardInterrupt(progress.message)

    with pytest.raises(KeyboardInterrupt, match="the new run won't know"):
        realign(copied_run, quick(new_rows, registry=str(registry)), on_progress=stop)
    assert not Path(f"{copied_run}-realigned").exists()
    # But it knows what it was made from, by way of others too.
    add_run(registry, copied_run, parent=other.number)
    with pytest.raises(KeyboardInterrupt, match="not compared with that one, from which it goes on"):
        realign(copied_run, quick(new_rows, registry=str(registry)), on_progress=stop)
    # As `promote` has it, by weights: in whatever folder these are.
    renamed = Registry(registry).add(tmp_path / "renamed", weights="others", base="tiny")
    Registry(registry).point(CHAMPION, renamed.number)
    with pytest.raises(KeyboardInterrupt, match=r"renamed\..*from which it goes on"):
        realign(copied_run, quick(new_rows, registry=str(registry)), on_progress=stop)


def test_a_run_that_loses_too_much_fails_its_gate(copied_run: Path, new_rows: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry.sqlite"
    bounds = ("--max-task-loss", "-1", "--registry", str(registry))
    result = run_command(str(copied_run), "--data", str(new_rows), *bounds)
    assert result.exit_code == 3
    assert "gate: fail" in result.stdout
    assert not registry.exists()


def test_new_rows_are_held_out_where_none_are_given(copied_run: Path, tmp_path: Path) -> None:
    rows = [chat(f"the revenue of {number}?", "none") for number in range(200)]
    file = tmp_path / "new.jsonl"
    write_lines(file, rows)
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
    write_lines(file, rows)
    other = run_command(str(copied_run), "--data", str(file), *LENIENT)
    assert other.exit_code == 1
    assert "has other rows" in other.stderr
    assert "--output" in other.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == kept


def test_what_was_set_apart_for_nothing_is_gone(copied_run: Path, tmp_path: Path) -> None:
    """Else the same command, with rows that were mended, would be refused."""
    file, folder = tmp_path / "new.jsonl", copied_run.with_name("copied-realigned-rows")
    write_lines(file, ({"prompt": f"{number}?", "completion": "none"} for number in range(200)))
    with pytest.raises(DataError, match="write them as `messages`"):
        realign(copied_run, quick(file))
    assert not folder.exists()
    write_lines(file, (chat(f"{number}?", "none") for number in range(200)))

    def stop(progress: Progress) -> None:
        if "are held out" in progress.message:
            raise KeyboardInterrupt(str(sorted(folder.iterdir())))

    with pytest.raises(KeyboardInterrupt, match="1-new-held-out"):
        realign(copied_run, quick(file), on_progress=stop)
    assert not folder.exists()
    # What an earlier command has left is not this one's.
    hold_out(RunDir(copied_run), load_config(copied_run / "config.yaml"), [str(file)], folder, share=0.1)
    (folder / "1-new-train.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        realign(copied_run, quick(file), on_progress=stop)
    assert [left.name for left in folder.iterdir()] == ["1-new-held-out.jsonl"]


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


def test_its_folders_are_beside_the_new_run_however_that_is_named(copied_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    rows = [chat(f"the revenue of {number}?", "none") for number in range(200)]
    write_lines(file, rows)

    def stop(progress: Progress) -> None:
        if progress.stage == "training":
            raise KeyboardInterrupt

    for name, output, sets in (
        ("second", f"{tmp_path}/second/", ()),
        ("third", None, (f"run.output={tmp_path}/third",)),
    ):
        # Two at once don't replace each other's rows.
        held = RunDir(tmp_path / name).training()
        with held, pytest.raises(StorageError, match="is being trained"):
            realign(copied_run, quick(file, output=output), sets=sets)
        assert not (tmp_path / f"{name}-rows").exists()
        with pytest.raises(Interrupted):
            realign(copied_run, quick(file, output=output), sets=sets, on_progress=stop)
        assert (tmp_path / name / "config.yaml").exists()
        assert (tmp_path / f"{name}-rows" / "1-new-train.jsonl").exists()


def test_a_share_of_the_rows_is_held_out_where_prompts_come_again(tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    rows = [{"prompt": f"the revenue of {n // 5}?", "completion": f"{n}"} for n in range(1000)]
    write_lines(file, rows)
    config = load_config(None, {"--model": "tiny", "--train": ["old.jsonl"]})
    found = hold_out(RunDir(tmp_path), config, [str(file)], tmp_path / "rows", share=0.1)
    assert (found.rows, found.of) == (100, 1000)
    apart, kept = ({row["prompt"] for row in read_lines(name)} for name in (*found.eval_data, *found.data))
    assert (len(apart), apart & kept) == (20, set())
    write_lines(file, ({**row, "prompt": "one"} for row in rows))
    assert hold_out(RunDir(tmp_path), config, [str(file)], tmp_path / "none", share=0.1).rows == 0


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
