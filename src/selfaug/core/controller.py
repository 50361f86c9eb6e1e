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

    The error is relative and linear, alignment loss / limit − 1: its mean is 0 exactly when the mean alignment
    loss is the limit, however noisy single steps are, which is why nothing needs to be smoothed (the optimizer's
    momentum smooths what alpha does). It is −1 while both models are still equal, and is cut off at +1, so that an
    early overshoot counts as much as the slack before it.

    The gains are as high as short runs with a decaying learning rate need: late in the schedule parameters barely
    move, so alpha has to be right by then. benchmarks/drift_limit.py measures them on a real model.

    Attributes:
        limit: nats per prompt token.
        alpha: current weight.
        minimum: alpha is never below; not 0, where it could not come back from.
        maximum: alpha is never above: a limit that can't be met must not turn training into noise.
        rate: change of log alpha per step and unit of error.
        damping: change of log alpha per unit of change of the error.
        error: of the last step; None before the first.
    """

    limit: float
    alpha: float = 0.5
    minimum: float = 1e-3
    maximum: float = 1e3
    rate: float = 0.15
    damping: float = 2.0
    error: float | None = None

    def update(self, alignment_loss: float) -> float:
        """Take in one step's alignment loss (nats per prompt token) and return alpha for the next step."""
        if not math.isfinite(alignment_loss):
            return self.alpha
        error = min(1.0, max(0.0, alignment_loss) / self.limit - 1.0)
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
