"""The drift controller against simulated plants: training, seen from alpha."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from selfaug.core.controller import DriftController


def cosine(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def run(
    controller: DriftController | None,
    *,
    steps: int,
    alpha: float = 0.5,
    warmup: int | None = None,
    noise: float = 0.2,
    seed: int = 0,
    schedule: Callable[[int, int, int], float] = cosine,
) -> tuple[list[float], list[float]]:
    """True drift, and alpha, of each step of Adam on a quadratic task and a quadratic drift.

    Drift is 0 at the start; what is measured of it is noisy; parameters lag behind the gradient by Adam's momentum
    and hardly move at the end of the schedule: what makes control of real training hard.
    """
    rng = random.Random(seed)
    size = 32
    task = [math.exp(rng.uniform(-3, 1)) for _ in range(size)]
    goal = [rng.gauss(0, 1) for _ in range(size)]
    stiffness = [math.exp(rng.uniform(-4, 0)) * 2 / size for _ in range(size)]
    theta, momentum, square = [0.0] * size, [0.0] * size, [0.0] * size
    drifts, alphas = [], []
    warmup = max(1, steps // 20) if warmup is None else warmup
    for step in range(steps):
        drift = 0.5 * sum(s * t * t for s, t in zip(stiffness, theta, strict=True))
        rate = 0.08 * schedule(step, steps, warmup)
        for i in range(size):
            pull = task[i] * (theta[i] - goal[i]) * 3 / size + rng.gauss(0, 0.3) / size
            gradient = pull + alpha * stiffness[i] * theta[i]
            momentum[i] = 0.9 * momentum[i] + 0.1 * gradient
            square[i] = 0.999 * square[i] + 0.001 * gradient * gradient
            first, second = momentum[i] / (1 - 0.9 ** (step + 1)), square[i] / (1 - 0.999 ** (step + 1))
            theta[i] -= rate * first / (math.sqrt(second) + 1e-8)
        drifts.append(drift)
        alphas.append(alpha)
        if controller is not None:
            alpha = controller.update(drift * math.exp(rng.gauss(0, noise) - noise * noise / 2))
    return drifts, alphas


def last_quarter(values: list[float]) -> float:
    last = values[-(len(values) // 4) :]
    return sum(last) / len(last)


@pytest.mark.parametrize(
    ("steps", "shares", "within"),
    [(400, (0.6, 0.2, 0.05), 0.15), (120, (0.6, 0.4, 0.2), 0.15), (60, (0.4, 0.2), 0.25)],
)
def test_last_quarter_is_near_the_limit(steps: int, shares: tuple[float, ...], within: float) -> None:
    """Limits are shares of the drift of plain fine-tuning. Sixty steps are hardly enough for this plant."""
    for seed in range(4):
        plain = last_quarter(run(None, steps=steps, alpha=0.0, seed=seed)[0])
        for share in shares:
            drifts, _ = run(DriftController(limit=share * plain), steps=steps, seed=seed)
            assert last_quarter(drifts) == pytest.approx(share * plain, rel=within), (seed, share)


def test_a_constant_alpha_is_not_near_the_limit() -> None:
    """The test above would fail without a controller."""
    plain, constant = (last_quarter(run(None, steps=120, alpha=alpha)[0]) for alpha in (0.0, 0.5))
    assert all(abs(constant / (share * plain) - 1) > 0.15 for share in (0.4, 0.2, 0.05))


def test_a_long_warmup_without_drift_can_be_recovered_from() -> None:
    """Alpha falls while nothing drifts, and comes back."""
    plain = last_quarter(run(None, steps=300, alpha=0.0)[0])
    controller = DriftController(limit=0.1 * plain)
    drifts, alphas = run(controller, steps=300, warmup=100)
    assert min(alphas) < 0.05 < 0.5 < alphas[-1]
    assert last_quarter(drifts) == pytest.approx(0.1 * plain, rel=0.15)


def test_bounds_of_alpha() -> None:
    controller = DriftController(limit=0.1)
    for _ in range(500):
        controller.update(0.0)
    assert controller.alpha == pytest.approx(controller.minimum)
    for _ in range(500):
        controller.update(5.0)
    assert controller.alpha == pytest.approx(controller.maximum)
    assert controller.update(0.0) < controller.maximum  # nothing has wound up meanwhile


def test_at_the_limit_alpha_rests() -> None:
    controller = DriftController(limit=0.1, alpha=3.0)
    for _ in range(10):
        controller.update(0.1)
    assert controller.alpha == pytest.approx(3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_left_out(value: float) -> None:
    controller = DriftController(limit=0.1)
    controller.update(0.2)
    before = controller.state()
    assert controller.update(value) == before["alpha"]
    assert controller.state() == before


def test_state_goes_on_where_it_was() -> None:
    controller = DriftController(limit=0.1)
    values = [0.0, 0.05, 0.3, 0.2, 0.11, 0.09]
    for value in values[:3]:
        controller.update(value)
    restored = DriftController.from_state(controller.state())
    assert [controller.update(v) for v in values[3:]] == [restored.update(v) for v in values[3:]]
