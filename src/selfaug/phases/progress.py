"""What a command is doing, for those who wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """What a run is doing.

    Attributes:
        stage: "data", "model", "reference cache", "training", "saving"; or "warning", with `message`.
        done: steps or documents that are done.
        total: of so many; 0 where that isn't known.
        metrics: of the last step: `nll`, `alignment_loss`, `alpha`, and what else was logged.
        message: for the user.
    """

    stage: str
    done: int = 0
    total: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
