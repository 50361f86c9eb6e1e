"""Training in a process of its own: complete runs are kept, cut-off ones gone on with, failures told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfaug.errors import SelfAugError
from selfaug.phases import own_process
from selfaug.phases.own_process import _often_saved, train_in_own_process
from selfaug.phases.progress import Progress
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


def test_a_run_that_is_stopped_goes_on_and_ends_as_in_this_process(
    settings, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_process, "_POLL_SECONDS", 0.01)
    rows = settings(finished_run).data.train
    config = settings(tmp_path / "runs" / "one", "train.keep_checkpoints=3", f"data.eval={rows[0]}")

    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done >= 2:
            raise StopError

    with pytest.raises(StopError):
        train_in_own_process(config, "one", stop)
    run = RunDir(config.run.output)
    assert not run.is_complete()
    assert run.latest_complete_checkpoint() is not None

    told: list[Progress] = []
    record = train_in_own_process(config, "one", told.append)
    assert record["steps"] == 6
    assert record["peak_memory_bytes"] > 50e6
    assert {progress.stage for progress in told} == {"one"}
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    whole = load_file(finished_run / "adapter" / "adapter_model.safetensors")
    for name, value in load_file(run.adapter / "adapter_model.safetensors").items():
        torch.testing.assert_close(value, whole[name])
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["one"]  # settings and log are gone
    assert train_in_own_process(config, "one") == record


def test_a_run_is_saved_at_each_quarter_however_short(settings, tmp_path: Path) -> None:
    """What is killed has lost no more."""
    for sets, quarter in (
        (("train.steps=60", "train.save_steps=100"), 15),
        (("train.steps=60", "train.save_steps=10"), 10),
        (("train.steps=2", "train.save_steps=100"), 1),
        # 24 rows, 4 a step.
        (("train.steps=null", "train.epochs=3", "train.save_steps=100"), 5),
    ):
        config = settings(tmp_path / "run", *sets)
        assert _often_saved(config).train.save_steps == quarter
        assert _often_saved(config).model_copy(update={"train": config.train}) == config


def test_checkpoints_of_a_short_run_are_there_when_it_is_stopped(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_process, "_POLL_SECONDS", 0.01)
    config = settings(tmp_path / "runs" / "one", "train.steps=8", "train.save_steps=100")
    run = RunDir(config.run.output)
    found: list[Path] = []

    class StopError(Exception):
        pass

    def look(progress: Progress) -> None:
        if checkpoint := run.latest_complete_checkpoint():
            found.append(checkpoint)
            raise StopError

    with pytest.raises(StopError):
        train_in_own_process(config, "one", look)
    assert int(found[0].name.rpartition("-")[2]) < 8


def test_a_failure_says_what_the_process_said(settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "runs" / "bad", "lora.target_modules=[nothing_like_it]")
    with pytest.raises(SelfAugError, match=r"bad one failed \(exit code \d+\): .*nothing_like_it") as caught:
        train_in_own_process(config, "bad one")
    assert str(tmp_path / "runs" / "bad.log") in str(caught.value.hint)
    assert (tmp_path / "runs" / "bad.log").exists()
