"""States of an alert, with hysteresis: it is raised at once, and cleared only after a while of quiet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from selfaug.core.change_detection import STEP, WINDOW

__all__ = [
    "ALERTS",
    "STATES",
    "UNWATCHED_AFTER",
    "AlertLevel",
    "State",
    "after_silence",
    "holds",
    "next_level",
    "worst",
]

State = Literal["no_data", "learning", "ok", "watch", "drift", "realign"]

STATES: tuple[State, ...] = ("no_data", "learning", "ok", "watch", "drift", "realign")
"""From the least to the most severe."""

ALERTS: tuple[State, ...] = ("drift", "realign")

WATCH_FROM = 0.75
"""Share of the threshold."""
CLEAN_UNDER = 0.5
CLEAN_STEPS = 3 * WINDOW // STEP
"""Three windows."""
REALIGN_AFTER = 86_400.0
"""Seconds in drift. An incident of some hours calls for a look, not for training."""
QUIET_AFTER = 86_400.0
"""Seconds without a value, and there is no data, unless there is an alert."""
UNWATCHED_AFTER = 600.0
"""Seconds without a sign of life of the monitor, and nobody watches. It gives one each minute."""
LONGEST_PAUSE = QUIET_AFTER / 4
"""Seconds between two values that count as time in drift at most: nothing has shown that it lasted any longer."""


@dataclass(frozen=True)
class AlertLevel:
    """Where one signal stands.

    Attributes:
        state: one of `STATES`.
        clean: steps since the statistic was last at half its threshold or more.
        since: when drift began, in seconds, later by what pauses don't count; None while there is none.
    """

    state: State = "ok"
    clean: int = 0
    since: float | None = None


def next_level(
    level: AlertLevel, ratio: float, time: float, *, step_done: bool = True, not_counted: float = 0.0
) -> AlertLevel:
    """The level after a look at the statistic.

    Args:
        level: before.
        ratio: the statistic's highest value since the last look, over its threshold.
        time: of the look, in seconds.
        step_done: whether `STEP` values have come since the last look that counted.
        not_counted: seconds since the last look that are no time in drift: pauses beyond `LONGEST_PAUSE`.
    """
    if level.since is not None:
        level = replace(level, since=level.since + not_counted)
    clean = 0 if ratio >= CLEAN_UNDER else level.clean + int(step_done)
    if ratio >= 1 and level.state not in ALERTS:
        return AlertLevel("drift", 0, time)
    if clean >= CLEAN_STEPS:
        return AlertLevel("ok", clean, None)
    lasting = level.since is not None and time - level.since >= REALIGN_AFTER
    if level.state == "drift" and lasting and ratio >= CLEAN_UNDER:
        return replace(level, state="realign", clean=clean)
    if ratio >= WATCH_FROM and level.state == "ok":
        return replace(level, state="watch", clean=clean)
    return replace(level, clean=clean)


def after_silence(state: State, seconds: float) -> State:
    """What a state has become when nothing has come since.

    An alert outlives silence: nothing has shown that it is over, and it would be a second one when requests come again.

    Args:
        state: when the last value came.
        seconds: since then.
    """
    return "no_data" if seconds > QUIET_AFTER and state not in ALERTS else state


def holds(state: State, seconds: float) -> bool:
    """Whether a state still says something: that all was well then doesn't, where nobody has watched since.

    Args:
        state: as it is now.
        seconds: since the monitor's last sign of life.
    """
    return seconds <= UNWATCHED_AFTER or state == "no_data" or state in ALERTS


def worst(states: Iterable[State]) -> State:
    """The most severe of them.

    Raises:
        ValueError: without any.
    """
    return max(states, key=STATES.index)
