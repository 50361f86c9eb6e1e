from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl

from selfaug.train.run_callbacks import StopOnSignal


def step_end(stop: StopOnSignal) -> TrainerControl:
    args: Any = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    control = TrainerControl()
    stop.on_step_end(args, None, control)
    return control


@pytest.mark.parametrize(
    "sent", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGTERM]]
)
def test_signals_end_training_after_the_step(sent: list[int]) -> None:
    told: list[str] = []
    stop = StopOnSignal(lambda: told.append("stopping"))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    stop.on_train_begin(None, None, None)
    try:
        assert not step_end(stop).should_training_stop
        for number in [*sent, signal.SIGTERM]:
            os.kill(os.getpid(), number)
        assert not stop.stopping  # nothing has ended before the end of the step
        control = step_end(stop)
        assert (control.should_save, control.should_training_stop, stop.stopping) == (True, True, True)
        assert told == ["stopping"]
    finally:
        stop.restore()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_second_interrupt_ends_it_at_once() -> None:
    stop = StopOnSignal()
    stop.on_train_begin(None, None, None)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        stop.restore()


def test_a_signal_counts_where_nobody_can_be_told_of_it() -> None:
    def gone() -> None:
        raise BrokenPipeError

    stop = StopOnSignal(gone)
    stop.on_train_begin(None, None, None)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert step_end(stop).should_save
    finally:
        stop.restore()


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda *_: None])
def test_a_hangup_that_is_ignored_or_taken_stays_so(own: Any) -> None:
    before = signal.signal(signal.SIGHUP, own)
    stop = StopOnSignal()
    stop.on_train_begin(None, None, None)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not step_end(stop).should_training_stop
    finally:
        stop.restore()
        assert signal.signal(signal.SIGHUP, before) == own
