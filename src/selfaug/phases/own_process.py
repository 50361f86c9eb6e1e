"""A training run in a process of its own: its peak memory is its own, and nothing of it is left behind."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig, dump_config
from selfaug.errors import ConfigError, DivergedError, SelfAugError
from selfaug.launcher import process_count
from selfaug.phases.inputs import load_training_data
from selfaug.phases.progress import Progress
from selfaug.records import read_lines, read_record, write_text
from selfaug.rundir import RunDir
from selfaug.train.run_callbacks import HAVE_TO_BE_NUMBERS

__all__ = ["require_no_launcher", "train_in_own_process"]

_POLL_SECONDS = 1.0
# A step that takes longer is told of.
_STOP_SECONDS = 10.0
# Windows has no signal that asks a process to end: `terminate` kills it.
_TERMINATE_KILLS = os.name == "nt"


def train_in_own_process(
    config: TrainConfig, stage: str, on_progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Train, or go on with a run that was cut off, as `selfaug train` does; returns the data of its record.

    Checkpoints are saved after each quarter of the steps, or more often if the settings say so. A process that trains
    the run already, such as one whose parent was killed, is waited for.

    Args:
        config: settings; a run that is complete in their output is not trained again.
        stage: what progress is called.
        on_progress: called about once a second.

    Raises:
        SelfAugError: with what the process said, if it failed; a DivergedError if it has diverged.
        KeyboardInterrupt: when the process has saved its checkpoint; a second one doesn't wait for that.
    """
    run = RunDir(config.run.output)
    while not run.is_complete():
        _wait_for_trainer(run, config, stage, on_progress)
        if not run.is_complete():
            _train(run, config, stage, on_progress)
    return read_record(run.record, "train")


def require_no_launcher(command: str, hint: str) -> None:
    """Refuse several processes of a launcher: each would do all of the work, and the trainings that it starts would
    wait for those of the others.

    Args:
        command: that was given.
        hint: how to start it instead.

    Raises:
        ConfigError: if there are several.
    """
    if (processes := process_count()) > 1:
        raise ConfigError(
            f"a launcher has started {processes} processes of `selfaug {command}`, each of which would do all of it.",
            hint=hint,
        )


def _wait_for_trainer(
    run: RunDir, config: TrainConfig, stage: str, on_progress: Callable[[Progress], None]
) -> None:
    """Until no other process trains the run."""
    trainer = run.trainer()
    if trainer is not None:
        on_progress(
            Progress("warning", message=f"{stage}: {run.path} is being trained by {trainer}; waiting for it.")
        )
    while trainer is not None:
        time.sleep(_POLL_SECONDS)
        on_progress(_progress(run.metrics, stage, config.train.steps or 0))
        trainer = run.trainer()


def _train(run: RunDir, config: TrainConfig, stage: str, on_progress: Callable[[Progress], None]) -> None:
    """One process; if another one has come first, the run need not be complete at the end.

    Raises:
        SelfAugError: if it failed.
    """
    run.discard_unstarted()
    run.path.parent.mkdir(parents=True, exist_ok=True)
    settings, log = (run.path.with_name(f"{run.path.name}.{kind}") for kind in ("yaml", "log"))
    write_text(settings, dump_config(_often_saved(config)))
    command = [sys.executable, "-m", "selfaug", "train", "--config", str(settings), "--no-page"]
    if run.is_run():
        command.append("--resume")
        command += ["--output", str(run.path)]
    with log.open("w", encoding="utf-8") as told:
        # Into a file, Python writes in the system's encoding, which on Windows is not what the log is read as.
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told, env=environment)
        try:
            while process.poll() is None:
                time.sleep(_POLL_SECONDS)
                on_progress(_progress(run.metrics, stage, config.train.steps or 0))
        except BaseException as error:
            # Ctrl-C reaches the whole group: the run saves its checkpoint. Anything else asks it to.
            if not (_TERMINATE_KILLS and isinstance(error, KeyboardInterrupt)):
                process.terminate()
            _wait_for_end(process, stage, on_progress)
            raise
    if not run.is_complete():
        if run.trainer() is not None:
            return
        lines = [
            line
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip() and not line.startswith("Hint: ")  # about a command that the user did not give
        ]
        raise (DivergedError if _has_diverged(run.metrics, config) else SelfAugError)(
            f"{stage} failed (exit code {process.returncode}): {lines[-1] if lines else 'it said nothing'}",
            hint=f"all that it said is in {log}; the same command goes on from its last checkpoint.",
        )
    for file in (settings, log):
        file.unlink(missing_ok=True)


def _has_diverged(metrics: Path, config: TrainConfig) -> bool:
    """Whether a training that failed has logged a step whose metrics are no numbers, which it writes as null."""
    last = _last_step(metrics)
    # In float16 gradients overflow now and then, and the step is skipped.
    skipped = "grad_norm" if config.model.dtype == "float16" else None
    return any(last.get(name, 0.0) is None for name in HAVE_TO_BE_NUMBERS if name != skipped)


def _wait_for_end(
    process: subprocess.Popen[bytes], stage: str, on_progress: Callable[[Progress], None]
) -> None:
    """However long its step takes; whatever interrupts that, a second Ctrl-C too, kills it."""
    try:
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            message = f"{stage}: stopping after this step, with a checkpoint; Ctrl-C again stops at once."
            on_progress(Progress("warning", message=message))
            process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise


def _often_saved(config: TrainConfig) -> TrainConfig:
    """The same training with a checkpoint at each quarter: many are shorter than the steps that are usual between two.

    Raises:
        DataError: if its rows can't be used.
    """
    settings = config.train
    steps = settings.steps
    if steps is None:
        steps = settings.planned_steps(len(load_training_data(config).train.rows))
    often = settings.model_copy(update={"save_steps": min(settings.save_steps, math.ceil(steps / 4))})
    return config.model_copy(update={"train": often})


def _progress(metrics: Path, stage: str, steps: int) -> Progress:
    last = _last_step(metrics)
    return Progress(stage, int(last.get("step", 0)), steps, last)


def _last_step(metrics: Path) -> dict[str, Any]:
    rows = read_lines(metrics) if metrics.exists() else []
    return next((row for row in reversed(rows) if "nll" in row), {})
