"""Holds the alignment loss to a drift limit by moving alpha (dual ascent)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

__all__ = ["DriftController"]


@dataclass
class DriftController:
    """Moves alpha so that the alignment loss settles at a limit.

    Alpha is the multiplier of the constraint "alignment loss ≤ limit": it rises while the constraint is violated
    and falls while there is slack (dual ascent, in log alpha, so that a factor of two takes as many steps at 0.01
    as at 10). A term on the change of the error damps the oscillation that the lag of training would cause.

    Attributes:
        limit: nats per prompt token.
        alpha: current weight.
        minimum: alpha is never below; not 0, where it could not come back from.
        maximum: alpha is never above: a limit that can't be met must not turn training into noise.
        rate: change of log alpha per step and unit of error.
        damping: change of log alpha per unit of change of the error.
        smoothing: weight of the past in the running mean of the alignment loss.
    """

    limit: float
    alpha: float = 0.5
    minimum: float = 1e-3
    maximum: float = 1e3
    rate: float = 0.1
    damping: float = 1.0
    smoothing: float = 0.8
    mean: float = 0.0
    weight: float = 0.0
    error: float | None = None

    def update(self, alignment_loss: float) -> float:
        """Take in one step's alignment loss (nats per prompt token) and return alpha for the next step."""
        if not math.isfinite(alignment_loss):
            return self.alpha
        self.mean = self.smoothing * self.mean + (1 - self.smoothing) * max(alignment_loss, 0.0)
        self.weight = self.smoothing * self.weight + 1 - self.smoothing
        # The logarithm makes twice the limit and half of it equally wrong; at the start, where both models are
        # equal, it is cut off.
        error = max(-1.0, min(1.0, math.log(max(self.mean / self.weight, 1e-30) / self.limit)))
        change = 0.0 if self.error is None else error - self.error
        self.error = error
        log_alpha = math.log(self.alpha) + self.rate * error + self.damping * change
        self.alpha = math.exp(max(math.log(self.minimum), min(math.log(self.maximum), log_alpha)))
        return self.alpha

    def state(self) -> dict[str, float | None]:
        """What a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, float | None]) -> DriftController:
        """The controller as it was when `state` was taken."""
        return cls(**state)  # type: ignore[arg-type]
