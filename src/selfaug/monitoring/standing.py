"""What the state of a run's monitor has become since its last sign of life."""

from __future__ import annotations

import os

from selfaug.core.alert_state import QUIET_AFTER, State, after_silence
from selfaug.registry import DEFAULT_REGISTRY, champion_instead_of

__all__ = ["standing_state"]


def standing_state(
    state: State,
    seconds: float,
    run: str | os.PathLike[str],
    registry: str | os.PathLike[str] = DEFAULT_REGISTRY,
) -> State:
    """What a state has become so many seconds after the monitor's last sign of life.

    Args:
        state: as it was written down then.
        seconds: since then.
        run: folder of the run.
        registry: the file that says whether another run has taken its place: its alert is over a day later then.
    """
    if seconds > QUIET_AFTER and champion_instead_of(run, registry) is not None:
        return "no_data"  # what was wrong with its traffic is its successor's to find
    return after_silence(state, seconds)
