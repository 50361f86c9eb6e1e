"""Training in a process of its own: complete runs are kept, cut-off ones gone on with, failures told."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfaug.errors import DivergedError, SelfAugError, StorageError
from selfaug.phases import own_process
from selfaug.phases.own_process import _often_saved, train_in_own_process
from selfaug.phases.progress import Progress
from selfaug.phases.train import train
from selfaug.records import append_line, read_record
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


def test_a_run_that_is_stopped_goes_on_and_ends_as_in_this_process(
    settings, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_process, "_POLL_SECONDS", 0.01)
    rows = settings(finished_run).data.train
    more = ("train.keep_checkpoints=3", "train.save_steps=100", f"data.eval={rows[0]}")
    config = settings(tmp_path / "runs" / "one", *more)
    run = RunDir(config.run.output)

    class StopError(Exception):
        pass

    found: list[Path] = []

    def stop(progress: Progress) -> None:
        if checkpoint := run.latest_complete_checkpoint():  # though it is shorter than its save_steps
            found.append(checkpoint)
            raise StopError

    with pytest.raises(StopError):
        train_in_own_process(config, "one", stop)
    assert not run.is_complete()
    assert int(found[0].name.rpartition("-")[2]) < 6
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


def test_a_failure_says_what_the_process_said(settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "runs" / "bad", "lora.target_modules=[nothing_like_it]")
    with pytest.raises(SelfAugError, match=r"bad one failed \(exit code \d+\): .*nothing_like_it") as caught:
        train_in_own_process(config, "bad one")
    assert str(tmp_path / "runs" / "bad.log") in str(caught.value.hint)
    assert (tmp_path / "runs" / "bad.log").exists()


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[subprocess.Popen[bytes]]]:
    """Instead of `selfaug train`, which takes seconds to start, a process that runs this code."""

    def put(code: str) -> list[subprocess.Popen[bytes]]:
        begun: list[subprocess.Popen[bytes]] = []
        real = subprocess.Popen

        def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            begun.append(real([sys.executable, "-c", code], **options))  # type: ignore[call-overload]
            return begun[-1]

        monkeypatch.setattr(own_process, "_POLL_SECONDS", 0.01)
        monkeypatch.setattr(own_process.subprocess, "Popen", start)
        return begun

    return put


def test_a_training_that_has_diverged_is_told_apart(settings, tmp_path: Path, child) -> None:
    child("import sys; print('training has diverged', file=sys.stderr); raise SystemExit(1)")
    run = RunDir(tmp_path / "runs" / "one")
    append = partial(append_line, run.metrics)
    for nll, grad_norm, dtype, failure in (
        (1.0, 1.0, "float32", SelfAugError),
        (math.nan, 1.0, "float16", DivergedError),
        (1.0, math.inf, "float32", DivergedError),
        (1.0, math.inf, "float16", SelfAugError),  # its scaler skips such a step
    ):
        run.path.mkdir(parents=True, exist_ok=True)
        append({"step": 1, "nll": nll, "grad_norm": grad_norm})
        with pytest.raises(
            SelfAugError, match=r"one failed \(exit code 1\): training has diverged"
        ) as caught:
            train_in_own_process(settings(run.path, f"model.dtype={dtype}"), "one")
        assert type(caught.value) is failure


def test_one_process_trains_a_run_at_a_time(settings, copied_run: Path, tmp_path: Path) -> None:
    config = settings(tmp_path / "runs" / "one", "train.steps=1")
    run = RunDir(config.run.output)
    with run.training():
        with pytest.raises(StorageError, match=rf"one is being trained by .*\(PID {os.getpid()}\)") as caught:
            train(config)
        assert f"selfaug train --resume --output {run.path}" in str(caught.value)
    assert not run.path.parent.exists()  # nothing came into it
    with RunDir(copied_run).training():
        before = sorted(copied_run.rglob("*"))
        with pytest.raises(StorageError, match="is being trained"):
            train(settings(copied_run, "run.overwrite=true"))
        with pytest.raises(StorageError, match="is being trained"):
            train(settings(copied_run), resume=True)
        assert sorted(copied_run.rglob("*")) == before
        assert RunDir(copied_run).trainer() == f"another process (PID {os.getpid()})"
    assert RunDir(copied_run).trainer() is None
    assert not list(copied_run.glob(".*"))
    # Of one that was killed, the file is left, and no lock.
    run.path.mkdir(parents=True)
    (run.path / ".lock").write_text("1\n", encoding="utf-8")
    train(config)
    assert run.is_complete()
    assert not list(run.path.glob(".*"))


@pytest.mark.parametrize("came", ["before", "since"])
def test_a_process_that_trains_the_run_already_is_waited_for(
    settings, finished_run: Path, tmp_path: Path, child, monkeypatch: pytest.MonkeyPatch, came: str
) -> None:
    """As after a kill of `selfaug compare`, whose training lives on."""
    begun = child("raise SystemExit('refused: it is being trained')")
    run = RunDir(tmp_path / "runs" / "one")
    with contextlib.ExitStack() as other:
        if came == "before":
            other.enter_context(run.training())
        else:
            start = own_process.subprocess.Popen

            def come_first(*arguments: object, **options: object) -> object:
                other.enter_context(run.training())
                return start(*arguments, **options)

            monkeypatch.setattr(own_process.subprocess, "Popen", come_first)
        told: list[Progress] = []

        def finish(progress: Progress) -> None:
            told.append(progress)
            if progress.stage == "warning":
                shutil.copytree(finished_run, run.path, dirs_exist_ok=True)
                other.close()

        record = train_in_own_process(settings(run.path), "one", finish)
    assert record == read_record(finished_run / "record.json", "train")
    assert f"one: {run.path} is being trained by another process (PID {os.getpid()}); waiting for it." in [
        progress.message for progress in told
    ]
    assert len(begun) == (came == "since")


def test_what_the_process_said_has_all_characters(
    settings, tmp_path: Path, child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a file, Windows writes in an encoding that has few."""
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    child("raise SystemExit('Zürich ✓')")
    with pytest.raises(SelfAugError, match=r"one failed \(exit code 1\): Zürich ✓"):
        train_in_own_process(settings(tmp_path / "runs" / "one"), "one")


@pytest.mark.parametrize("kills", [False, True])
def test_ctrl_c_kills_no_process_that_saves_its_checkpoint(
    settings, tmp_path: Path, child, monkeypatch: pytest.MonkeyPatch, kills: bool
) -> None:
    """Where to ask it to end is to kill it: it has had the Ctrl-C, too."""
    ready = tmp_path / "ready"
    begun = child(f"import time; open({str(ready)!r}, 'w').close(); time.sleep(0.3); raise SystemExit(3)")
    monkeypatch.setattr(own_process, "_TERMINATE_KILLS", kills)

    def interrupt(_: Progress) -> None:
        if ready.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_own_process(settings(tmp_path / "runs" / "one"), "one", interrupt)
    assert begun[0].returncode == (3 if kills else -signal.SIGTERM)


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_waits_for_a_step_that_takes_long_and_a_second_one_does_not(
    settings, tmp_path: Path, child, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    ready = tmp_path / "ready"
    begun = child(
        f"import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); open({str(ready)!r}, 'w').close()\n"
        f"time.sleep(0.1)\ntime.sleep({60 if again else 1})\nraise SystemExit(3)"
    )
    monkeypatch.setattr(own_process, "_STOP_SECONDS", 0.05)
    told: list[str] = []

    def interrupt(progress: Progress) -> None:
        if progress.stage == "warning":
            told.append(progress.message)
        if ready.exists() and (again or not told):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_own_process(settings(tmp_path / "runs" / "one"), "one", interrupt)
    assert told == ["one: stopping after this step, with a checkpoint; Ctrl-C again stops at once."]
    assert begun[0].returncode == (-9 if again else 3)


def test_runs_whose_names_have_dots_have_files_of_their_own(settings, tmp_path: Path, child) -> None:
    child("raise SystemExit('broken')")
    for name in ("full-0.02-seed0", "full-0.1-seed0"):
        with pytest.raises(SelfAugError, match="broken") as caught:
            train_in_own_process(settings(tmp_path / name), name)
        assert f"{tmp_path / name}.log;" in str(caught.value)
    assert {file.name for file in tmp_path.glob("*.*ml")} == {"full-0.02-seed0.yaml", "full-0.1-seed0.yaml"}
