"""A deployed run learns from new rows: from its adapter, aligned with the base model, with old rows rehearsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from selfaug.cli.main import app
from selfaug.config import dump_config, load_config
from selfaug.errors import ConfigError
from selfaug.phases.realign import RealignSettings, realign, realign_config
from selfaug.phases.train import train
from selfaug.records import read_lines, read_record
from selfaug.registry import CANDIDATE, CHAMPION, Registry
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def new_rows(tiny_rows: Path, tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in tiny_rows.read_text(encoding="utf-8").splitlines()]
    file = tmp_path / "new.jsonl"
    swapped = [
        {**row, "answer": "none"} if "answer" in row else {**row, "completion": "none"} for row in rows
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in swapped[:16]), encoding="utf-8")
    return file


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


def test_it_goes_on_from_the_deployed_adapter(copied_run: Path, new_rows: Path, tmp_path: Path) -> None:
    """With a learning rate of nothing it is the deployed adapter, and its alignment what the deployed run has moved."""
    config = realign_config(
        RunDir(copied_run), [str(new_rows)], sets=["train.steps=2", "train.learning_rate=1.0e-30"]
    )
    record = train(config).record
    new = Path(config.run.output)
    assert new == copied_run.with_name("copied-realigned")
    before, after = weights(copied_run), weights(new)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = read_lines(new / "metrics.jsonl")
    first = next(row for row in rows if "alignment_loss" in row)
    assert first["alignment_loss"] > 1e-5  # against the base model, not against what was deployed
    assert record["noise_floor"] is None
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
    again = realign_config(RunDir(copied_run), ["second.jsonl"], eval_data=old)
    assert again.data.eval == old


def test_a_folder_that_was_killed_while_it_was_made_is_made_again(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    config = realign_config(
        RunDir(copied_run), [str(new_rows)], output=str(tmp_path / "new"), sets=["train.steps=1"]
    )
    new = RunDir.create(tmp_path / "new")
    new.config.write_text(new.config_text(dump_config(config)), encoding="utf-8")
    assert realign(copied_run, quick(new_rows), config=config).run == new.path


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
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    data = ("--data", str(new_rows), "--eval-data", str(new_rows), "--registry", str(registry))
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


def test_a_run_that_loses_too_much_fails_its_gate(copied_run: Path, new_rows: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry.sqlite"
    bounds = ("--max-task-loss", "-2", "--registry", str(registry))
    result = run_command(str(copied_run), "--data", str(new_rows), *bounds)
    assert result.exit_code == 3
    assert "gate: fail" in result.stdout
    assert not registry.exists()


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
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="not valid") as combination:
        realign_config(RunDir(copied_run), [str(new_rows)], sets=["lora.method=full"])
    assert any("start_from" in problem for problem in combination.value.problems)
    settings = copied_run / "config.yaml"
    settings.write_text(settings.read_text().replace("method: lora", "method: osf"), encoding="utf-8")
    with pytest.raises(ConfigError, match="goes on from a LoRA adapter"):
        realign(copied_run, quick(new_rows))
