"""Traffic on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.novelty import NoveltySketch
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.reference_window import ReferenceWindow

DAY = 86_400.0


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Prompts:
    """Prompts whose first token says what drift they have: the scorer reads it off."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def draw(self, *, factor: float = 1.0, unseen: bool = False) -> list[int]:
        """One prompt of training's kind; with drift times a factor, or of tokens that training has not."""
        length = int(self.rng.integers(20, 60))
        # Words of few kinds, so that sequences of three come again.
        body = self.rng.integers(0, 8, size=length) + (1000 if unseen else 10)
        nats = factor * self.rng.lognormal(-4, 0.8)
        return [int(nats * 1e7), *body.tolist()]


def score(prompts: list[list[int]]) -> list[float]:
    """Drift as `Prompts` has written it."""
    return [prompt[0] / 1e7 for prompt in prompts]


@cache
def window(count: int = 1000, seed: int = 1) -> ReferenceWindow:
    """A reference window of such prompts. Don't change it: it is shared."""
    source = Prompts(seed)
    prompts = [source.draw() for _ in range(count)]
    sketch = NoveltySketch.of(prompts)
    return ReferenceWindow(
        np.asarray([len(prompt) for prompt in prompts]),
        np.asarray(score(prompts)),
        np.asarray([sketch.novelty(prompt) for prompt in prompts]),
        {"held out": count, "training": 0},
        "adapter-1",
        sketch,
    )


ALL = MonitorSettings(sample=1.0, compute_share=1.0, scored_per_hour=200, taken_per_hour=1000)
"""Every prompt is measured, and measuring may take all of the time."""


OPENED: list[Any] = []
"""What the test that runs has opened: closed after it, also monitors that stand for a process that was killed."""


def simulated(folder: Path, clock: Clock, **arguments: object) -> Monitor:
    """A monitor without a thread."""
    arguments = {"settings": ALL, "run": "runs/first", **arguments}
    wanted = arguments.pop("window", None) or window()
    measure = arguments.pop("score", score)
    OPENED.append(Monitor(folder, wanted, measure, clock=clock, threaded=False, **arguments))  # type: ignore[arg-type]
    return OPENED[-1]


def signal(monitor: Monitor, name: str) -> dict[str, Any]:
    """What the monitor's status says of a signal."""
    return next(view for view in monitor.status()["signals"] if view["name"] == name)


def run(
    monitor: Monitor,
    clock: Clock,
    prompts: Iterator[list[int]],
    *,
    every: float = 60.0,
    name: str = "request",
) -> list[str]:
    """Offer prompts, one every so many seconds; the state after each. The monitor works after every fifth."""
    states: list[str] = []
    for number, prompt in enumerate(prompts, 1):
        clock.now += every
        monitor.offer(Observation(f"{name}-{clock.now}-{number}", prompt, 20 + (7 * number) % 13))
        if number % 5 == 0:
            monitor.work()
        states.append(monitor.state())
    monitor.work()
    return [*states[:-1], monitor.state()]
