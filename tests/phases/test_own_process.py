"""Training in a process of its own: complete runs are kept, cut-off ones gone on with, failures told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfaug.errors import SelfAugError
from selfaug.phases import own_process
from selfaug.phases.own_process import train_in_own_process
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


def test_a_failure_says_what_the_process_said(settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "runs" / "bad", "lora.target_modules=[nothing_like_it]")
    with pytest.raises(SelfAugError, match=r"bad one failed \(exit code \d+\): .*nothing_like_it") as caught:
        train_in_own_process(config, "bad one")
    assert str(tmp_path / "runs" / "bad.log") in str(caught.value.hint)
    assert (tmp_path / "runs" / "bad.log").exists()
