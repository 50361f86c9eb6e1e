"""What a fine-tuned model is worth: value, costs and net present value of four ways to answer a team's requests.

Value is requests times measured usefulness. What matters is the credit: how much more one way is worth than the best
of the others, not than doing nothing. All is plain arithmetic on arrays that broadcast, so that one model computes the
table, the Monte Carlo draws and the sliders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ARMS",
    "HOURS_OF_TRAINING_AGAIN",
    "MONTHS_BETWEEN_TRAININGS",
    "MOST_HOURS_A_WEEK",
    "ROUTER_HOURS",
    "TRAININGS_AGAIN",
    "Accuracy",
    "ArmName",
    "RoiInputs",
    "RoiResult",
    "Simulation",
    "Swing",
    "credit",
    "pert",
    "roi",
    "routed",
    "simulate",
    "tornado",
]

ArmName = Literal["base", "lora", "lora_router", "selfaug"]
ARMS: tuple[ArmName, ...] = ("base", "lora", "lora_router", "selfaug")
"""No tuning; plain LoRA; plain LoRA for the job and the base model for the rest, behind a router; SelfAug."""

MOST_HOURS_A_WEEK = 2.2
"""Hours saved per active user and week beyond which an input is not credible: what users report in surveys."""

MONTHS_BETWEEN_TRAININGS = 6
"""After which a tuned model is trained again."""
TRAININGS_AGAIN = 2
"""Each time."""
HOURS_OF_TRAINING_AGAIN = 16
"""Each time, an engineer's."""
ROUTER_HOURS = 10
"""An engineer's in a month, for the router's upkeep."""

_SWUNG_TO = (0.1, 0.9)
"""Percentiles of an input that is moved alone."""

Value = float | NDArray[np.float64]
"""One value, or draws: [D]."""


@dataclass(frozen=True)
class RoiInputs:
    """What is assumed about people, requests and prices; the defaults are illustrative.

    Attributes:
        workers: people who could use it.
        adoption: share of them who do.
        ramp_months: until all of these do, evenly.
        requests_per_week: of an active user.
        weeks_per_year: worked.
        task_share: share of the requests that are the job the model was tuned for.
        minutes_saved: by a useful answer.
        minutes_failed: lost by one that is not.
        minutes_checking: spent on any answer.
        hourly_cost: of a worker, in currency.
        engineer_hourly_cost: of an engineer, in currency.
        realised_share: of the hours reclaimed, those that become value.
        haircut: taken off the value, for what was overlooked.
        gpu_hours: of a training.
        plain_gpu_hours: of a training of plain LoRA, with or without a router; None: `gpu_hours`.
        trainings: before the model is deployed.
        gpu_price: currency per hour.
        setup_hours: an engineer's, for a tuned model.
        base_setup_hours: the same without tuning.
        onboarding_hours: of each active user.
        serving_per_month: currency.
        monitoring_per_month: currency, for a tuned model.
        second_endpoint_per_month: currency, where the router's two models need two servers.
        support_per_user_month: currency per active user and month.
        discount_rate: per year.
        years: looked ahead.
    """

    workers: Value = 200.0
    adoption: Value = 0.40
    ramp_months: Value = 6.0
    requests_per_week: Value = 15.0
    weeks_per_year: Value = 46.0
    task_share: Value = 0.70
    minutes_saved: Value = 8.0
    minutes_failed: Value = 3.0
    minutes_checking: Value = 1.0
    hourly_cost: Value = 60.0
    engineer_hourly_cost: Value = 90.0
    realised_share: Value = 0.50
    haircut: Value = 0.15
    gpu_hours: Value = 8.0
    trainings: Value = 6.0
    gpu_price: Value = 3.50
    setup_hours: Value = 200.0
    base_setup_hours: Value = 80.0
    onboarding_hours: Value = 1.0
    serving_per_month: Value = 1800.0
    monitoring_per_month: Value = 100.0
    second_endpoint_per_month: Value = 0.0
    support_per_user_month: Value = 2.0
    discount_rate: Value = 0.10
    years: int = 3
    plain_gpu_hours: Value | None = None


class Accuracy(NamedTuple):
    """Share of useful answers: to requests of the job, and to all others."""

    task: Value
    general: Value


@dataclass(frozen=True)
class RoiResult:
    """What one arm is worth.

    Attributes:
        usefulness: share of all requests that are answered usefully.
        hours_per_user_week: reclaimed by an active user; may be negative.
        hours_per_year: reclaimed by all, after the ramp.
        value_per_year: of these, in currency.
        first_cost: before the first month.
        benefits: present value.
        costs: present value, the first cost included.
        npv: benefits − costs.
        roi: npv / costs.
        payback_month: first month after which the sum of all months, not discounted, stays at 0 or above; None: none
            within `years`, which doesn't say that there is none later.
        break_even: least adoption that pays, `"always"` (at none, too) or `"never"` (not at 100 % either).
    """

    usefulness: float
    hours_per_user_week: float
    hours_per_year: float
    value_per_year: float
    first_cost: float
    benefits: float
    costs: float
    npv: float
    roi: float
    payback_month: int | None
    break_even: float | Literal["always", "never"]


@dataclass(frozen=True)
class Simulation:
    """Of all draws: 5th, 50th and 95th percentile in currency, and how often the credit was above 0."""

    npv: tuple[float, float, float]
    credit: tuple[float, float, float]
    chance_of_credit: float


class Swing(NamedTuple):
    """An arm's NPV with one input at its 10th and at its 90th percentile, and all others as they are.

    An accuracy's name is that of the arm and its kind, such as `"selfaug.task"`.
    """

    name: str
    low: float
    high: float


def routed(tuned: Accuracy, base: Accuracy, right_task: Value, right_general: Value) -> Accuracy:
    """Accuracy behind a router.

    Args:
        tuned: of the model for the job.
        base: of the model for all other requests.
        right_task: share of the job's requests that it sends to the tuned model.
        right_general: share of all others that it sends to the base model.
    """
    return Accuracy(
        right_task * tuned.task + (1 - right_task) * base.task,
        right_general * base.general + (1 - right_general) * tuned.general,
    )


def roi(inputs: RoiInputs, arm: ArmName, accuracy: Accuracy) -> RoiResult:
    """All that is shown of an arm.

    Args:
        inputs: single numbers, no draws.
        arm: which.
        accuracy: of it.
    """
    flow = _cash_flow(inputs, arm, accuracy)
    benefits, costs = (float(total.item()) for total in flow.present_values())
    usefulness, hours = _usefulness(inputs, accuracy)
    a_year = inputs.workers * inputs.adoption * inputs.requests_per_week * inputs.weeks_per_year * hours
    # Users, and with them everything that is not fixed, are in proportion to adoption: two points are the whole line.
    at_none, at_all = (
        float(_npv(replace(inputs, adoption=adoption), arm, accuracy).item()) for adoption in (0.0, 1.0)
    )
    break_even: float | Literal["always", "never"]
    if min(at_none, at_all) >= 0:
        break_even = "always"
    elif max(at_none, at_all) < 0 or at_all <= at_none:
        break_even = "never"
    else:
        break_even = at_none / (at_none - at_all)
    running = np.cumsum(flow.net[:, 0]) - float(flow.first.item())
    below = np.flatnonzero(running < 0)
    first = 1 if not below.size else int(below[-1]) + 2
    return RoiResult(
        usefulness=float(usefulness),
        hours_per_user_week=float(inputs.requests_per_week * hours),
        hours_per_year=float(a_year),
        value_per_year=float(a_year * _value_of_an_hour(inputs)),
        first_cost=float(flow.first.item()),
        benefits=benefits,
        costs=costs,
        npv=benefits - costs,
        roi=(benefits - costs) / costs if costs else 0.0,
        payback_month=first if first <= len(running) else None,
        break_even=break_even,
    )


def credit(
    inputs: RoiInputs, accuracies: Mapping[ArmName, Accuracy], subject: ArmName = "selfaug"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """NPV of an arm, and how much more that is than the best other arm's: [D] each.

    Args:
        inputs: numbers or draws.
        accuracies: of all arms to be considered.
        subject: which.
    """
    npv = {arm: _npv(inputs, arm, accuracy) for arm, accuracy in accuracies.items()}
    others = np.stack(np.broadcast_arrays(*(value for arm, value in npv.items() if arm != subject)))
    return npv[subject], npv[subject] - others.max(axis=0)


def pert(low: float, mode: float, high: float, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws of a PERT distribution: a beta distribution between two ends with mean (low + 4·mode + high) / 6.

    Raises:
        ValueError: if they are not in order.
    """
    if not low <= mode <= high:
        raise ValueError(f"need low ≤ mode ≤ high, got {low}, {mode}, {high}.")
    if low == high:
        return np.full(draws, low)
    span = high - low
    return low + span * rng.beta(1 + 4 * (mode - low) / span, 1 + 4 * (high - mode) / span, draws)


def simulate(
    inputs: RoiInputs,
    counts: Mapping[Literal["base", "lora", "selfaug"], tuple[tuple[float, float], tuple[float, float]]],
    ranges: Mapping[str, tuple[float, float, float]],
    *,
    router_right: tuple[float, float] = (0.95, 0.95),
    router_items: tuple[float, float] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Simulation:
    """Monte Carlo over what is uncertain: accuracies as Beta(k + ½, n − k + ½), inputs as PERT.

    Every arm sees the same draws of the inputs, so that the credit is a paired difference.

    Args:
        inputs: what is not drawn.
        counts: useful answers k and items n, for requests of the job and for the others, by arm.
        ranges: lowest, likeliest and highest value by name of the input.
        router_right: shares of the job's requests and of the others that are sent to the right model, see `routed`.
        router_items: on how many requests each was counted, to be drawn as the accuracies are; None: certain.
        draws: how many.
        seed: of the draws.

    Raises:
        ValueError: for an input that there is not, or a range that is not in order.
    """
    _require_names(ranges)
    rng = np.random.default_rng(seed)
    # In a fixed order, so that the same seed gives the same draws whatever the order of the mappings.
    drawn: dict[str, Any] = {}
    for name in sorted(ranges):
        drawn[name] = pert(*ranges[name], draws, rng)
    accuracies: dict[ArmName, Accuracy] = {}
    for arm in sorted(counts):
        accuracies[arm] = Accuracy(*(rng.beta(k + 0.5, n - k + 0.5, draws) for k, n in counts[arm]))
    if "lora" in accuracies and "base" in accuracies:
        right: list[Value] = list(router_right)
        if router_items is not None:
            counted = zip(router_right, router_items, strict=True)
            right = [rng.beta(share * n + 0.5, (1 - share) * n + 0.5, draws) for share, n in counted]
        # Made of the two models that were drawn: draws of its own would count the same uncertainty twice.
        accuracies["lora_router"] = routed(accuracies["lora"], accuracies["base"], *right)
    npv, more = credit(replace(inputs, **drawn), accuracies)
    return Simulation(_percentiles(npv), _percentiles(more), float((more > 0).mean()))


def tornado(
    inputs: RoiInputs,
    arm: ArmName,
    accuracy: Accuracy,
    ranges: Mapping[str, tuple[float, float, float]],
    counts: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> list[Swing]:
    """How far each uncertain input, and each accuracy, alone moves an arm's NPV; the farthest first.

    Args:
        inputs: the others.
        arm: which.
        accuracy: of it.
        ranges: lowest, likeliest and highest value by name of the input, distributed as in `simulate`.
        counts: of the arm, as there: useful answers k and items n, for requests of the job and for the others; None:
            its accuracies are certain.

    Raises:
        ValueError: for an input that there is not, or a range that is not in order.
    """
    from scipy.special import betaincinv

    _require_names(ranges)
    swings = []
    for name, (low, mode, high) in ranges.items():
        if not low <= mode <= high:
            raise ValueError(f"need low ≤ mode ≤ high, got {low}, {mode}, {high}.")
        span = high - low
        ends = [low, high]
        if span:
            shape = 1 + 4 * (mode - low) / span, 1 + 4 * (high - mode) / span
            ends = [low + span * float(betaincinv(*shape, share)) for share in _SWUNG_TO]
        changed: list[dict[str, Any]] = [{name: end} for end in ends]
        npv = [float(_npv(replace(inputs, **change), arm, accuracy).item()) for change in changed]
        swings.append(Swing(name, *npv))
    for kind, (k, n) in () if counts is None else zip(Accuracy._fields, counts, strict=True):
        shares = [float(betaincinv(k + 0.5, n - k + 0.5, share)) for share in _SWUNG_TO]
        npv = [float(_npv(inputs, arm, accuracy._replace(**{kind: share})).item()) for share in shares]
        swings.append(Swing(f"{arm}.{kind}", *npv))
    return sorted(swings, key=lambda swing: -abs(swing.high - swing.low))


@dataclass(frozen=True)
class _CashFlow:
    """Before the first month, [D]; each month's value and costs, and what discounting leaves of them, [T, D]."""

    first: NDArray[np.float64]
    value: NDArray[np.float64]
    cost: NDArray[np.float64]
    factor: NDArray[np.float64]

    @property
    def net(self) -> NDArray[np.float64]:
        return self.value - self.cost

    def present_values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (self.value * self.factor).sum(axis=0), self.first + (self.cost * self.factor).sum(axis=0)


def _usefulness(inputs: RoiInputs, accuracy: Accuracy) -> tuple[Value, Value]:
    """Share of the requests with a useful answer, and hours that a request reclaims."""
    useful = inputs.task_share * accuracy.task + (1 - inputs.task_share) * accuracy.general
    minutes = useful * inputs.minutes_saved - (1 - useful) * inputs.minutes_failed - inputs.minutes_checking
    return useful, minutes / 60


def _value_of_an_hour(inputs: RoiInputs) -> Value:
    return inputs.hourly_cost * inputs.realised_share * (1 - inputs.haircut)


def _cash_flow(inputs: RoiInputs, arm: ArmName, accuracy: Accuracy) -> _CashFlow:
    tuned, engineer = arm != "base", inputs.engineer_hourly_cost
    month_T1 = np.arange(1.0, 12 * inputs.years + 1)[:, None]
    active = inputs.workers * inputs.adoption
    users_TD = active * np.minimum(1.0, month_T1 / inputs.ramp_months)
    _, hours = _usefulness(inputs, accuracy)
    value = (
        users_TD * inputs.requests_per_week * inputs.weeks_per_year / 12 * hours * _value_of_an_hour(inputs)
    )
    hours_of_training = inputs.plain_gpu_hours
    if arm == "selfaug" or hours_of_training is None:
        hours_of_training = inputs.gpu_hours
    training = hours_of_training * inputs.gpu_price
    cost = users_TD * inputs.support_per_user_month + inputs.serving_per_month
    first = (inputs.setup_hours if tuned else inputs.base_setup_hours) * engineer
    first = first + inputs.onboarding_hours * active * inputs.hourly_cost
    if tuned:
        again = TRAININGS_AGAIN * training + HOURS_OF_TRAINING_AGAIN * engineer
        cost = cost + inputs.monitoring_per_month + (month_T1 % MONTHS_BETWEEN_TRAININGS == 0) * again
        first = first + inputs.trainings * training
    if arm == "lora_router":
        cost = cost + inputs.second_endpoint_per_month + ROUTER_HOURS * engineer
    factor = (1 + inputs.discount_rate) ** (-month_T1 / 12)
    return _CashFlow(np.atleast_1d(np.asarray(first)), value, cost, factor)


def _npv(inputs: RoiInputs, arm: ArmName, accuracy: Accuracy) -> NDArray[np.float64]:
    benefits, costs = _cash_flow(inputs, arm, accuracy).present_values()
    return benefits - costs


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return float(low), float(middle), float(high)


def _require_names(names: Mapping[str, object]) -> None:
    known = {field.name for field in fields(RoiInputs)} - {"years"}
    if unknown := sorted(set(names) - known):
        raise ValueError(
            f"there is no uncertain input {', '.join(unknown)}; there are {', '.join(sorted(known))}."
        )
