"""How many requests a tuned model has answered, and in how much time, from what its monitor has kept.

Counts and the detectors' state outlive the rows, which are deleted after some days.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from selfaug.monitoring.store import read_kept

__all__ = ["ServedRequests", "served_requests"]

_WEEK = 7 * 86_400.0
# A signal that every answered request has a value of, also those whose drift was not measured.
_OF_EVERY_REQUEST = "novelty"


@dataclass(frozen=True)
class ServedRequests:
    """Requests of one tuned model.

    Attributes:
        requests: that the monitor has looked at or left out as too many in an hour: at least so many.
        missed: that it had no room for or lost, votes among them; not part of `requests`.
        weeks: from the first request to the monitor's last sign of life, pauses included; 0.0 without requests.
    """

    requests: int
    missed: int
    weeks: float


def served_requests(folder: str | os.PathLike[str]) -> ServedRequests:
    """The requests of the adapter that a monitor watched last.

    Args:
        folder: where the monitor keeps everything; it may be writing at this moment.

    Raises:
        StorageError: if there is nothing from a monitor, or it can't be read.
    """
    kept, counts = read_kept(folder, ["state", "status"])
    state, status = kept.get("state"), kept.get("status")
    signal = {} if state is None else state["signals"].get(_OF_EVERY_REQUEST, {})
    first = signal.get("first")
    if status is None or first is None:
        return ServedRequests(0, 0, 0.0)
    looked_at, left_out = signal["values"], counts.get("thinned", 0)
    others = sum(counts.get(name, 0) for name in ("votes", "canaries", "unanswered"))
    if counts.get("processed", 0) - others - left_out > looked_at:
        # An earlier adapter in the same folder has a part in the counts, and nobody knows which.
        left_out = 0
    missed = status["counts"]["dropped"] + status["counts"]["lost"]
    return ServedRequests(looked_at + left_out, missed, max(0.0, status["time"] - first) / _WEEK)
