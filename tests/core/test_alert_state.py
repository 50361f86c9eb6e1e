from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfaug.core.alert_state import CLEAN_STEPS, REALIGN_AFTER, AlertLevel, next_level, worst


def after(level: AlertLevel, *ratios: float, seconds: float = 60.0, start: float = 0.0) -> AlertLevel:
    for number, ratio in enumerate(ratios):
        level = next_level(level, ratio, start + seconds * number)
    return level


def test_an_alert_is_raised_at_once() -> None:
    assert after(AlertLevel(), 0.74).state == "ok"
    assert after(AlertLevel(), 0.75).state == "watch"
    assert after(AlertLevel(), 1.0).state == "drift"
    assert next_level(AlertLevel(), 1.0, 0.0, step_done=False).state == "drift"


@pytest.mark.parametrize("state", ["watch", "drift", "realign"])
def test_it_is_cleared_only_after_three_clean_windows(state) -> None:
    level = AlertLevel(state, since=0.0)
    assert after(level, *[0.49] * (CLEAN_STEPS - 1)).state == state
    assert after(level, *[0.49] * CLEAN_STEPS).state == "ok"
    # One that is not clean begins the count anew, also under the threshold.
    assert after(level, *[0.1] * (CLEAN_STEPS - 1), 0.5, *[0.1] * (CLEAN_STEPS - 1)).state == state


def test_looks_between_the_steps_do_not_count_as_clean() -> None:
    level = AlertLevel("drift", since=0.0)
    for _ in range(100):
        level = next_level(level, 0.0, 1.0, step_done=False)
    assert level.state == "drift"


def test_drift_that_lasts_a_day_calls_for_realignment() -> None:
    level = next_level(AlertLevel(), 1.2, 1000.0)
    assert next_level(level, 1.0, 1000.0 + REALIGN_AFTER - 1).state == "drift"
    assert next_level(level, 1.0, 1000.0 + REALIGN_AFTER).state == "realign"
    # Not while it is quiet again, and not by a second alarm of an old one.
    assert next_level(level, 0.2, 1000.0 + REALIGN_AFTER).state == "drift"
    assert next_level(next_level(level, 1.0, 5000.0), 1.0, 6000.0).since == 1000.0


def test_what_is_not_counted_is_no_time_in_drift() -> None:
    level = next_level(AlertLevel(), 1.2, 1000.0)
    monday = 1000.0 + 2.5 * REALIGN_AFTER
    level = next_level(level, 1.0, monday, not_counted=2 * REALIGN_AFTER)
    assert level.state == "drift"
    assert next_level(level, 1.0, monday + REALIGN_AFTER / 2).state == "realign"
    assert next_level(AlertLevel(), 0.5, 1000.0, not_counted=5.0).since is None


@given(st.lists(st.floats(0, 2), max_size=60))
def test_states_move_as_they_may(ratios: list[float]) -> None:
    """Never from watch or alert to anything milder but ok, and to ok only when all of the last steps were clean."""
    level = AlertLevel()
    allowed = {
        "ok": {"ok", "watch", "drift"},
        "watch": {"watch", "drift", "ok"},
        "drift": {"drift", "realign", "ok"},
        "realign": {"realign", "ok"},
    }
    for number, ratio in enumerate(ratios):
        new = next_level(level, ratio, 7200.0 * number)
        assert new.state in allowed[level.state]
        if new.state == "ok" and level.state != "ok":
            assert max(ratios[number + 1 - CLEAN_STEPS : number + 1]) < 0.5
        level = new


def test_worst() -> None:
    assert worst(["ok", "drift", "watch"]) == "drift"
    assert worst(["no_data", "learning"]) == "learning"
