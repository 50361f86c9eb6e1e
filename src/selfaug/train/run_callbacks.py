"""Callbacks of a run: metrics to a file, signals to a checkpoint, progress to whoever shows it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfaug.errors import DivergedError
from selfaug.records import append_line, read_lines, write_record, write_text

__all__ = [
    "AfterSave",
    "MetricsFile",
    "NotANumber",
    "PlanFile",
    "StepReport",
    "StopOnSignal",
    "keep_metrics_until",
]


def keep_metrics_until(path: str | os.PathLike[str], step: int) -> None:
    """Drop the lines after `step`, so that a resumed run writes none twice."""
    path = Path(path)
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line, row in zip(lines, read_lines(path), strict=False) if row["step"] <= step]
    write_text(path, "".join(kept))


class MetricsFile(TrainerCallback):  # type: ignore[misc]
    """One JSON line a step; evaluations in lines of their own, with names that begin with `eval_`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write what is logged; not the summary that the Trainer logs at its end."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            append_line(self._path, {"step": state.global_step, **logs})


class PlanFile(TrainerCallback):  # type: ignore[misc]
    """Writes down how many steps are planned and when they began, for whoever looks while it trains."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Once a process: a resumed run begins at its checkpoint's step."""
        if state.is_world_process_zero:
            plan = {
                "steps": state.max_steps,
                "from_step": state.global_step,
                "began": time.time(),
            }
            write_record(self._path, "plan", plan)


class StepReport(TrainerCallback):  # type: ignore[misc]
    """Calls `report(step, steps, logs)` when training begins and with every log."""

    def __init__(self, report: Callable[[int, int, Mapping[str, Any]], None]) -> None:
        self._report = report

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A resumed run begins at its checkpoint's step."""
        if state.is_world_process_zero:
            self._report(state.global_step, state.max_steps, {})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report a step's metrics."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            self._report(state.global_step, state.max_steps, logs)


HAVE_TO_BE_NUMBERS = ("nll", "alignment_loss", "grad_norm")
"""Metrics of a step that are finite unless training has diverged."""


class NotANumber(TrainerCallback):  # type: ignore[misc]
    """Ends training when the nll is no longer a number: nothing that follows would be one.

    To be added after all callbacks that ask for a checkpoint.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Log before each checkpoint, which comes after it: one of no numbers would push out a good one."""
        if control.should_save:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Look at the step's metrics."""
        wrong = [
            name
            for name in HAVE_TO_BE_NUMBERS
            if isinstance((logs or {}).get(name), float) and not math.isfinite((logs or {})[name])
        ]
        # An overflow of the gradient is what float16's scaler expects and skips.
        if args.fp16:
            wrong = [name for name in wrong if name != "grad_norm"]
        if wrong:
            raise DivergedError(
                f"training has diverged: at step {state.global_step}, {' and '.join(wrong)} "
                + ("is not a finite number." if len(wrong) == 1 else "are not finite numbers."),
                hint="lower train.learning_rate, or use model.dtype float32 or bfloat16; "
                "what is in checkpoints/ is of steps before, and where --resume ends so again, the last of them is "
                "to be deleted.",
            )


class AfterSave(TrainerCallback):  # type: ignore[misc]
    """Calls `action()` whenever a checkpoint has been saved."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The checkpoint is complete."""
        self._action()


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Turns Ctrl-C, SIGTERM and SIGHUP into a checkpoint after the current step and the end of training.

    Under a launcher, a signal to one process stops all of them after the same step: one that stopped alone would
    leave the others waiting for it. A second Ctrl-C stops at once; SIGTERM never does, which a launcher sends after the
    terminal's Ctrl-C. SIGHUP, of a terminal that is closed, is taken where nobody has: not under `nohup`, which ignores
    it, and not from a program with a handler of its own. Signals are taken from the first step on: before it, there is
    nothing to save.

    Attributes:
        stopping: whether a process was signalled, and training ends because of it.
    """

    def __init__(self, on_signal: Callable[[], None] = lambda: None) -> None:
        self.stopping = False
        self._received: set[int] = set()
        self._on_signal = on_signal
        self._previous: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take the signals; possible in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in _signals():
                self._previous[number] = signal.signal(number, self._handle)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask the Trainer to save and stop, if any process was signalled."""
        signalled = len(self._received)
        if args.world_size > 1:
            of_all = torch.tensor(signalled, device=args.device)
            torch.distributed.all_reduce(of_all)
            signalled = int(of_all)
        if signalled > 0:
            self.stopping = True
            control.should_save = True
            control.should_training_stop = True

    @property
    def received(self) -> bool:
        """Whether this process was signalled, be it after the last step."""
        return bool(self._received)

    def restore(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._received:
            self.restore()
            raise KeyboardInterrupt
        first = not self._received
        self._received.add(number)
        if first:
            # Whoever is told may be gone, or be in the middle of a line: the step that is interrupted must not fail.
            with contextlib.suppress(Exception):
                self._on_signal()


def _signals() -> list[int]:
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # which Windows has not
    # Ignored under `nohup`; where a program has its own use of it, such as to read its settings anew, it keeps that.
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:
        numbers.append(hangup)
    return numbers
