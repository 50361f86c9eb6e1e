"""The value model against the worked case of its specification, a naive loop, and what must hold for any inputs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from selfaug.core.roi import (
    ARMS,
    Accuracy,
    ArmName,
    RoiInputs,
    credit,
    pert,
    roi,
    routed,
    simulate,
    tornado,
)

DEFAULT = RoiInputs()
BASE, LORA, SELFAUG = Accuracy(0.62, 0.72), Accuracy(0.80, 0.50), Accuracy(0.80, 0.70)
ACCURACIES: dict[ArmName, Accuracy] = {
    "base": BASE,
    "lora": LORA,
    "lora_router": routed(LORA, BASE, 0.95, 0.95),
    "selfaug": SELFAUG,
}
RANGES = {
    "adoption": (0.2, 0.4, 0.6),
    "realised_share": (0.25, 0.5, 0.75),
    "minutes_saved": (4.0, 8.0, 12.0),
    "minutes_failed": (1.0, 3.0, 8.0),
    "minutes_checking": (0.5, 1.0, 2.0),
    "requests_per_week": (8.0, 15.0, 25.0),
    "hourly_cost": (45.0, 60.0, 80.0),
    "serving_per_month": (1000.0, 1800.0, 4000.0),
}
COUNTS: Any = {
    "base": ((124, 200), (144, 200)),
    "lora": ((160, 200), (100, 200)),
    "selfaug": ((160, 200), (140, 200)),
}


def naive_npv(i: Any, arm: ArmName, accuracy: Accuracy) -> float:
    """Month by month, as the specification says."""
    q = i.task_share * accuracy.task + (1 - i.task_share) * accuracy.general
    h = (q * i.minutes_saved - (1 - q) * i.minutes_failed - i.minutes_checking) / 60
    tuned = arm != "base"
    gpu_hours = i.gpu_hours if arm == "selfaug" or i.plain_gpu_hours is None else i.plain_gpu_hours
    setup = i.setup_hours if tuned else i.base_setup_hours
    total = -(setup * i.engineer_hourly_cost + i.onboarding_hours * i.workers * i.adoption * i.hourly_cost)
    if tuned:
        total -= i.trainings * gpu_hours * i.gpu_price
    for t in range(1, 12 * i.years + 1):
        users = i.workers * i.adoption * min(1, t / i.ramp_months)
        value = users * i.requests_per_week * i.weeks_per_year / 12 * h
        value *= i.hourly_cost * i.realised_share * (1 - i.haircut)
        cost = i.serving_per_month + i.support_per_user_month * users
        if tuned:
            cost += i.monitoring_per_month
            if t % 6 == 0:
                cost += 2 * gpu_hours * i.gpu_price + 16 * i.engineer_hourly_cost
        if arm == "lora_router":
            cost += i.second_endpoint_per_month + 10 * i.engineer_hourly_cost
        total += (value - cost) / (1 + i.discount_rate) ** (t / 12)
    return float(total)


def test_the_worked_case_to_the_unit() -> None:
    found = roi(DEFAULT, "selfaug", SELFAUG)
    assert found.usefulness == pytest.approx(0.77)
    assert found.hours_per_year == pytest.approx(4112.4)
    assert found.value_per_year == pytest.approx(104_866, abs=0.5)
    assert found.first_cost == pytest.approx(22_968, abs=0.005)
    assert found.benefits == pytest.approx(251_087, abs=0.5)
    assert found.costs == pytest.approx(94_442, abs=0.5)
    assert found.npv == pytest.approx(156_645, abs=0.5)
    assert found.roi == pytest.approx(1.659, abs=0.0005)
    assert found.payback_month == 7
    assert found.break_even == pytest.approx(0.1407, abs=0.00005)
    others = {"base": 104_208, "lora": 119_572, "lora_router": 126_353}
    for arm in ARMS[:-1]:
        assert roi(DEFAULT, arm, ACCURACIES[arm]).npv == pytest.approx(others[arm], abs=0.5)
    npv, more = credit(DEFAULT, ACCURACIES)
    assert npv.item() == pytest.approx(found.npv)
    assert more.item() == pytest.approx(30_292, abs=0.5)


SHARES = st.floats(0, 1)
MONEY = st.floats(0, 5_000)
LIMITS = {
    "workers": st.floats(1, 1e6), "ramp_months": st.floats(1, 24), "requests_per_week": st.floats(0, 500),
    "weeks_per_year": st.floats(1, 52), "haircut": st.floats(0, 0.9), "discount_rate": st.floats(0, 0.5),
    "years": st.integers(1, 10), "plain_gpu_hours": st.none() | MONEY,
}  # fmt: skip
SHARE_NAMES = ("adoption", "task_share", "realised_share")
INPUTS = st.builds(
    RoiInputs,
    **{
        field.name: LIMITS.get(field.name, SHARES if field.name in SHARE_NAMES else MONEY)
        for field in fields(RoiInputs)
    },
)
ARM = st.sampled_from(ARMS)
ACCURACY = st.builds(Accuracy, SHARES, SHARES)


def magnitude(inputs: RoiInputs, arm: ArmName, accuracy: Accuracy) -> float:
    found = roi(inputs, arm, accuracy)
    return 1e-9 * (abs(found.benefits) + found.costs + 1)


@given(INPUTS, ARM, ACCURACY)
def test_it_is_the_sum_over_the_months(inputs: RoiInputs, arm: ArmName, accuracy: Accuracy) -> None:
    found = roi(inputs, arm, accuracy)
    assert found.npv == pytest.approx(naive_npv(inputs, arm, accuracy), abs=magnitude(inputs, arm, accuracy))


@given(INPUTS, ARM, ACCURACY, st.floats(0.01, 100))
def test_another_currency_changes_the_sums_in_proportion(
    inputs: RoiInputs, arm: ArmName, accuracy: Accuracy, rate: float
) -> None:
    prices = [
        name
        for name in (field.name for field in fields(RoiInputs))
        if name.endswith(("_cost", "_price", "_per_month", "_user_month"))
    ]
    assert len(prices) == 7
    exchanged = replace(inputs, **{name: getattr(inputs, name) * rate for name in prices})
    found, other = roi(inputs, arm, accuracy), roi(exchanged, arm, accuracy)
    assert other.npv == pytest.approx(rate * found.npv, abs=rate * magnitude(inputs, arm, accuracy))
    assert other.hours_per_year == found.hours_per_year


@given(
    INPUTS,
    ARM,
    ACCURACY,
    st.sampled_from(["serving_per_month", "minutes_failed", "minutes_checking", "haircut"]),
)
def test_what_costs_more_is_worth_no_more(
    inputs: RoiInputs, arm: ArmName, accuracy: Accuracy, name: str
) -> None:
    more = replace(
        inputs,
        **{
            name: min(0.9, 1.1 * getattr(inputs, name))
            if name == "haircut"
            else 1.1 * getattr(inputs, name) + 1
        },
    )
    found, other = roi(inputs, arm, accuracy), roi(more, arm, accuracy)
    tolerance = magnitude(inputs, arm, accuracy) + magnitude(more, arm, accuracy)
    if name != "haircut" or found.benefits >= 0:
        assert other.npv <= found.npv + tolerance


@given(INPUTS, ARM, st.tuples(SHARES, SHARES), SHARES)
def test_better_answers_are_worth_no_less(
    inputs: RoiInputs, arm: ArmName, task: tuple[float, float], general: float
) -> None:
    worse, better = (Accuracy(one, general) for one in sorted(task))
    assert roi(inputs, arm, worse).npv <= roi(inputs, arm, better).npv + magnitude(inputs, arm, better)


@given(INPUTS, ARM, ACCURACY)
def test_after_the_ramp_every_year_is_worth_the_same_before_discounting(
    inputs: RoiInputs, arm: ArmName, accuracy: Accuracy
) -> None:
    steady = replace(inputs, ramp_months=1.0)

    def npv(years: int) -> float:
        return roi(replace(steady, years=years), arm, accuracy).npv

    second, third = npv(2) - npv(1), npv(3) - npv(2)
    tolerance = 10 * magnitude(replace(steady, years=3), arm, accuracy)
    assert third * (1 + float(inputs.discount_rate)) == pytest.approx(second, abs=tolerance)


@given(INPUTS, ARM, ACCURACY)
def test_at_break_even_it_is_worth_nothing(inputs: RoiInputs, arm: ArmName, accuracy: Accuracy) -> None:
    found = roi(inputs, arm, accuracy)
    at = {share: roi(replace(inputs, adoption=share), arm, accuracy).npv for share in (0.0, 0.5, 1.0)}
    if found.break_even == "always":
        assert min(at.values()) >= -magnitude(replace(inputs, adoption=1.0), arm, accuracy)
    elif found.break_even == "never":
        assert at[0.0] < 0 or at[1.0] < 0
        assert at[1.0] < 0 or at[1.0] <= at[0.0]
    else:
        assert 0 <= found.break_even <= 1
        root = replace(inputs, adoption=found.break_even)
        assert roi(root, arm, accuracy).npv == pytest.approx(
            0, abs=magnitude(replace(inputs, adoption=1.0), arm, accuracy)
        )


def test_what_never_pays_says_so() -> None:
    useless = roi(DEFAULT, "selfaug", Accuracy(0.0, 0.0))
    assert useless.npv < 0
    assert useless.payback_month is None
    assert useless.break_even == "never"
    free = replace(DEFAULT, setup_hours=0.0, gpu_hours=0.0, serving_per_month=0.0, monitoring_per_month=0.0)
    free = replace(free, engineer_hourly_cost=0.0, onboarding_hours=0.0)
    found = roi(free, "selfaug", SELFAUG)
    assert found.break_even == "always"
    assert found.payback_month == 1
    assert roi(replace(free, support_per_user_month=0.0), "selfaug", SELFAUG).roi == 0.0


def test_draws_give_what_the_specification_simulated() -> None:
    found = simulate(DEFAULT, COUNTS, RANGES)
    assert found.npv == pytest.approx((-11_000, 128_000, 378_000), abs=9_000)
    assert found.chance_of_credit == pytest.approx(0.89, abs=0.03)
    backwards = dict(reversed(list(RANGES.items())))
    assert simulate(DEFAULT, COUNTS, backwards) == found
    assert simulate(DEFAULT, COUNTS, RANGES, seed=1) != found


def test_the_credit_is_that_of_draws_one_by_one() -> None:
    rng = np.random.default_rng(7)
    credits = []
    for _ in range(1500):
        values = {name: float(pert(*ends, 1, rng)[0]) for name, ends in RANGES.items()}
        drawn: Any = replace(DEFAULT, **values)  # type: ignore[arg-type]
        of: dict[ArmName, Accuracy] = {
            arm: Accuracy(*(float(rng.beta(k + 0.5, n - k + 0.5)) for k, n in counts))
            for arm, counts in COUNTS.items()
        }
        of["lora_router"] = routed(of["lora"], of["base"], 0.95, 0.95)
        npv = {arm: naive_npv(drawn, arm, accuracy) for arm, accuracy in of.items()}
        credits.append(npv["selfaug"] - max(npv[arm] for arm in ARMS[:-1]))
    found = simulate(DEFAULT, COUNTS, RANGES)
    # Four standard errors of a share, and of percentiles whose density is at least 1 in 200,000.
    assert found.chance_of_credit == pytest.approx(np.mean([one > 0 for one in credits]), abs=0.035)
    assert found.credit == pytest.approx(np.percentile(credits, [5, 50, 95]).tolist(), abs=5_000)


def test_a_router_is_right_about_each_kind_of_request_by_itself() -> None:
    found = routed(LORA, BASE, 1.0, 0.5)
    assert found.task == LORA.task
    assert found.general == pytest.approx((BASE.general + LORA.general) / 2)
    assert routed(LORA, BASE, 0.5, 1.0) == (pytest.approx((LORA.task + BASE.task) / 2), BASE.general)


def test_rates_of_a_router_that_were_counted_are_drawn_and_others_are_not() -> None:
    """The counts have the arms so far apart that the credit is against the router, and all else is certain."""
    sure: Any = {
        "base": ((1e9, 1e10), (9e9, 1e10)),
        "lora": ((9e9, 1e10), (1e9, 1e10)),
        "selfaug": ((9e9, 1e10), (8e9, 1e10)),
    }

    def width(items: tuple[float, float] | None) -> float:
        low, _, high = simulate(DEFAULT, sure, {}, router_right=(0.9, 0.9), router_items=items).credit
        return high - low

    assert width(None) < 100
    few, many = width((20, 20)), width((2000, 2000))
    assert many > 20 * width(None)
    assert few == pytest.approx(10 * many, rel=0.15)  # a hundred times the items
    of_task, of_general = width((20, 1e10)), width((1e10, 20))
    # The job's requests are 70 of 100.
    assert of_task / of_general == pytest.approx(7 / 3, rel=0.1)


def test_plain_lora_pays_for_its_own_hours() -> None:
    own = replace(DEFAULT, plain_gpu_hours=2.0)
    # Six trainings before, and two more in each of six half years.
    factors = sum(1.1 ** (-month / 12) for month in range(6, 37, 6))
    saved = (8.0 - 2.0) * 3.5 * (6 + 2 * factors)
    for arm in ARMS:
        before, now = (roi(inputs, arm, ACCURACIES[arm]).npv for inputs in (DEFAULT, own))
        assert now - before == pytest.approx(saved if arm.startswith("lora") else 0.0)


def test_without_plain_lora_there_is_no_router() -> None:
    found = simulate(DEFAULT, {name: COUNTS[name] for name in ("base", "selfaug")}, RANGES, draws=500)
    assert found.credit[1] > simulate(DEFAULT, COUNTS, RANGES, draws=500).credit[1]


def test_draws_of_a_range_have_its_mean_and_ends() -> None:
    rng = np.random.default_rng(0)
    drawn = pert(1.0, 3.0, 8.0, 200_000, rng)
    assert drawn.mean() == pytest.approx((1 + 4 * 3 + 8) / 6, abs=0.01)
    assert drawn.min() >= 1
    assert drawn.max() <= 8
    assert (pert(2.0, 2.0, 2.0, 5, rng) == 2).all()
    with pytest.raises(ValueError, match="low ≤ mode ≤ high"):
        pert(3.0, 2.0, 4.0, 5, rng)


def test_each_input_alone_moves_the_value_the_farthest_first() -> None:
    swings = tornado(DEFAULT, "selfaug", SELFAUG, {**RANGES, "setup_hours": (200.0, 200.0, 200.0)})
    assert {swing.name for swing in swings} == {*RANGES, "setup_hours"}
    sizes = [abs(swing.high - swing.low) for swing in swings]
    assert sizes == sorted(sizes, reverse=True)
    assert swings[-1].low == swings[-1].high == pytest.approx(156_645, abs=0.5)
    adoption = next(swing for swing in swings if swing.name == "adoption")
    assert adoption.low < 156_645 < adoption.high


def test_accuracies_of_few_items_move_the_value_too() -> None:
    few: Any = ((19.2, 24), (170, 200))
    task, general = tornado(DEFAULT, "selfaug", Accuracy(0.80, 0.85), {}, few)
    assert (task.name, general.name) == ("selfaug.task", "selfaug.general")
    ends = beta(19.2 + 0.5, 24 - 19.2 + 0.5).ppf([0.1, 0.9])
    expected = [naive_npv(DEFAULT, "selfaug", Accuracy(end, 0.85)) for end in ends]
    assert [task.low, task.high] == pytest.approx(expected)
    assert 0 < general.high - general.low < task.high - task.low


@pytest.mark.parametrize("ranges", [{"adoptoin": (0.0, 0.1, 0.2)}, {"years": (1.0, 2.0, 3.0)}])
def test_an_input_that_there_is_not_is_an_error(ranges: dict[str, tuple[float, float, float]]) -> None:
    with pytest.raises(ValueError, match="there is no uncertain input"):
        simulate(DEFAULT, COUNTS, ranges)
    with pytest.raises(ValueError, match="there is no uncertain input"):
        tornado(DEFAULT, "selfaug", SELFAUG, ranges)


def test_a_range_out_of_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="low ≤ mode ≤ high"):
        tornado(DEFAULT, "selfaug", SELFAUG, {"adoption": (0.5, 0.4, 0.6)})
