"""Live traffic: what the real monitor kept is what is shown, and the course that it keeps for that."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from looking import looking_at
from lxml import html as parser
from simulated import DAY, Clock, Prompts, run, simulated, window
from starlette.testclient import TestClient

from report_records import write_run
from selfaug.dashboard.monitoring import _highest, monitor_view
from selfaug.errors import StorageError
from selfaug.monitoring import monitor as module
from selfaug.monitoring.monitor import Monitor
from selfaug.monitoring.reference_window import ReferenceWindow
from selfaug.monitoring.store import Batch, read_changes, read_kept
from selfaug.registry import Registry
from selfaug.report.document import Chart, Section, Table


@pytest.fixture(scope="module")
def small() -> ReferenceWindow:
    return window(50)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def trace_of(folder: Path) -> list[dict[str, Any]]:
    kept, _ = read_kept(folder, ["trace"])
    trace: list[dict[str, Any]] = kept["trace"]
    return trace


def beat(monitor: Monitor, clock: Clock, seconds: float, count: int = 1) -> None:
    for _ in range(count):
        clock.now += seconds
        monitor.work()


# ---- the course that the monitor keeps


def test_a_point_every_fifteen_minutes(tmp_path: Path, clock: Clock, small: ReferenceWindow) -> None:
    monitor = simulated(tmp_path, clock, window=small)
    began = clock.now
    beat(monitor, clock, 60, 120)
    times = [point["time"] - began for point in trace_of(tmp_path)]
    assert times == [60.0 + 900 * number for number in range(8)]
    run(monitor, clock, (Prompts().draw() for _ in range(60)))
    last = trace_of(tmp_path)[-1]
    assert last["state"] == "learning"
    status = read_kept(tmp_path, ["status"])[0]["status"]
    known = {view["name"] for view in status["signals"] if view["statistic"] is not None}
    assert set(last["signals"]) <= known
    assert all(len(pair) == 2 for pair in last["signals"].values())
    monitor.close()


def test_the_course_goes_on_after_a_restart_and_begins_anew_with_another_adapter(
    tmp_path: Path, clock: Clock, small: ReferenceWindow
) -> None:
    monitor = simulated(tmp_path, clock, window=small)
    beat(monitor, clock, 900, 5)
    monitor.close()
    before = trace_of(tmp_path)
    assert len(before) == 5
    monitor = simulated(tmp_path, clock, window=small)
    beat(monitor, clock, 60)
    assert trace_of(tmp_path) == before, "not a point a start"
    beat(monitor, clock, 900)
    assert trace_of(tmp_path)[:-1] == before
    monitor.close()
    monitor = simulated(tmp_path, clock, window=replace(small, adapter="adapter-2"))
    beat(monitor, clock, 60)
    assert len(trace_of(tmp_path)) == 1
    monitor.close()


def test_the_course_has_a_bound(
    tmp_path: Path, clock: Clock, small: ReferenceWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._MOST_TRACED * module._TRACE_EVERY == 30 * DAY
    monkeypatch.setattr(module, "_MOST_TRACED", 5)
    monitor = simulated(tmp_path, clock, window=small)
    beat(monitor, clock, 900, 12)
    found = trace_of(tmp_path)
    assert [clock.now - point["time"] for point in found] == [3600.0, 2700.0, 1800.0, 900.0, 0.0]
    monitor.close()


def test_a_clock_that_was_wrong_does_not_end_the_course(
    tmp_path: Path, clock: Clock, small: ReferenceWindow
) -> None:
    monitor = simulated(tmp_path, clock, window=small)
    beat(monitor, clock, 900, 3)
    right = clock.now
    beat(monitor, clock, 100 * DAY)
    clock.now = right
    run(monitor, clock, (Prompts().draw() for _ in range(10)), every=180)
    assert [point["time"] - right for point in trace_of(tmp_path)] == [-1800.0, -900.0, 0.0, 900.0, 1800.0]
    monitor.close()


def test_what_could_not_be_written_is_no_point(
    tmp_path: Path, clock: Clock, small: ReferenceWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = simulated(tmp_path, clock, window=small)
    beat(monitor, clock, 900)
    commit = monitor._store.commit

    def full(_: object) -> int:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(monitor._store, "commit", full)
    beat(monitor, clock, 900, 3)
    monkeypatch.setattr(monitor._store, "commit", commit)
    beat(monitor, clock, 60)
    first, second = trace_of(tmp_path)
    assert second["time"] - first["time"] == 3 * 900 + 60
    monitor.close()


# ---- changes


def test_changes_are_the_last_ones_in_their_order(runs_root: Path) -> None:
    place = runs_root / "served" / "monitor"
    every = read_changes(place, 1000)
    assert [one["time"] for one in every] == sorted(one["time"] for one in every)
    of_all = [(one["before"], one["after"]) for one in every if one["signal"] == "monitor"]
    assert of_all[0][0] == "no_data"
    assert of_all[-1][1] == read_kept(place, ["status"])[0]["status"]["state"]
    assert all(left[1] == right[0] for left, right in itertools.pairwise(of_all))
    assert read_changes(place, 2) == every[-2:]
    assert read_changes(place, 0) == []
    with pytest.raises(StorageError, match="no request has been watched yet"):
        read_changes(runs_root / "evaluated" / "monitor", 5)


def test_changes_are_read_while_they_are_written(
    tmp_path: Path, clock: Clock, small: ReferenceWindow
) -> None:
    monitor = simulated(tmp_path, clock, window=small)
    run(monitor, clock, (Prompts().draw() for _ in range(5)))
    assert [one["after"] for one in read_changes(tmp_path, 9) if one["signal"] == "monitor"] == ["learning"]
    monitor.close()


# ---- the page


def table(sections: list[Section], title: str) -> list[list[str]]:
    blocks = [block for section in sections for block in section.blocks]
    found = next(one for one in blocks if isinstance(one, Table) and one.title == title)
    return [[cell.value for cell in row] for row in found.rows]


def charts(sections: list[Section]) -> list[Chart]:
    return [block for section in sections for block in section.blocks if isinstance(block, Chart)]


def test_the_page_shows_what_the_monitor_kept(runs_root: Path, client: TestClient) -> None:
    folder = runs_root / "served"
    status = read_kept(folder / "monitor", ["status"])[0]["status"]
    assert status["state"] == "drift"
    view = monitor_view(folder)
    assert view["outcome"] == "bad"
    tiles = {tile.name: tile for tile in view["tiles"]}
    assert tiles["State"].value == "drift"
    assert tiles["Requests watched"].value == "925"
    drift = next(one for one in status["signals"] if one["name"] == "drift")
    assert tiles["Drift of live prompts"].value == f"{drift['value']:.4f}"
    assert tiles["Canary set"].value == "not replayed"
    signals = table(view["sections"], "Signals")
    assert [row[0] for row in signals] == [one["name"].replace("_", " ") for one in status["signals"]]
    changes = table(view["sections"], "Every change")
    assert len(changes) == len(read_changes(folder / "monitor", 200))
    assert changes[0][3] in ("drift", "watch"), "the newest is on top"
    assert table(view["sections"], "Counts")[-1] == ["offered in all", "925"]
    states, *course = charts(view["sections"])
    assert [row[1] for row in states.rows][:2] == ["no data", "learning"]
    assert states.rows[-1][1] == "drift"
    assert any(chart.name == "CUSUM of drift with its limit" for chart in course)
    page = parser.fromstring(client.get("/monitor/served").text)
    text = " ".join(page.text_content().split())
    assert view["verdict"] in text
    assert 'href="/monitor/served"' in client.get("/run/served").text
    assert 'href="/monitor/served"' in client.get("/monitor").text
    assert "/monitor/evaluated" not in client.get("/monitor").text


def test_nothing_has_been_watched_yet(tmp_path: Path, clock: Clock, small: ReferenceWindow) -> None:
    folder = write_run(tmp_path / "run").path
    client = looking_at(tmp_path)
    answer = client.get("/monitor/run")
    assert answer.status_code == 422
    assert "no request has been watched yet" in answer.text
    monitor = simulated(folder / "monitor", clock, window=small)
    assert "No request has been watched yet." in client.get("/monitor/run").text
    clock.now += 1
    monitor.work()
    text = client.get("/monitor/run").text
    assert "No request has come for a day, or none yet; nobody has watched since 2023" in text
    assert "There is nothing to draw yet." in text
    assert "None yet." in text
    monitor.close()
    (folder / "monitor" / "monitor.sqlite").write_bytes(
        b"not a database, but long enough to be taken for one" * 9
    )
    answer = client.get("/monitor/run")
    assert answer.status_code == 422
    assert "can't be used" in parser.fromstring(answer.text).text_content()


def test_what_the_canary_set_has_shown(tmp_path: Path, clock: Clock, small: ReferenceWindow) -> None:
    monitor = simulated(tmp_path / "monitor", clock, window=small)

    def shown() -> tuple[str, str]:
        clock.now += 60
        monitor.work()
        view = monitor_view(tmp_path, now=clock.now)
        return next(tile.value for tile in view["tiles"] if tile.name == "Canary set"), view["verdict"]

    assert shown() == ("not replayed", "No request has come for a day, or none yet.")
    monitor.canary(False, "another answer")
    assert shown() == (
        "changed",
        "The canary set did not come back; no signal of live traffic alerts.",
    )
    monitor.canary(True)
    assert shown() == ("as recorded", "No request has come for a day, or none yet.")
    monitor.close()


def point(
    time: float, state: str, statistic: float | None = None, limit: float | None = 5.0
) -> dict[str, Any]:
    signals = {} if statistic is None else {"drift": [statistic, limit]}
    return {"time": time, "state": state, "signals": signals}


@pytest.fixture
def shown(tmp_path: Path, clock: Clock, small: ReferenceWindow) -> Iterator[Any]:
    """The view of a monitor whose course is given."""
    monitor = simulated(tmp_path / "monitor", clock, window=small)
    monitor.work()

    def view(trace: list[dict[str, Any]]) -> dict[str, Any]:
        monitor._store.commit(Batch(kept={"trace": trace}))
        return monitor_view(tmp_path, now=clock.now)

    yield view
    monitor.close()


def test_a_long_course_loses_neither_a_short_alert_nor_its_end(shown: Any, clock: Clock) -> None:
    trace = [point(clock.now - 900 * (2880 - number), "ok", 1.0) for number in range(2880)]
    trace[1001] = point(trace[1001]["time"], "drift", 9.0)
    trace[-1] = point(trace[-1]["time"], "watch", 4.0)
    view = shown(trace)
    states, course = charts(view["sections"])
    assert [row[1] for row in states.rows] == ["ok", "drift", "ok", "watch"]
    assert len(course.svg) < 40_000
    assert len(course.rows) <= 21
    assert max(float(row[1]) for row in course.rows) == 9.0
    assert float(course.rows[-1][1]) == 4.0
    kept = _highest([(one, *one["signals"]["drift"]) for one in trace], 190)
    assert len(kept) < 200
    assert max(kept, key=lambda one: one[1])[0] is trace[1001]
    assert kept[-1][0] is trace[-1]


def test_courses_of_every_length_are_drawn(shown: Any, clock: Clock) -> None:
    def names(trace: list[dict[str, Any]]) -> list[str]:
        return [chart.name for chart in charts(shown(trace)["sections"])]

    both = ["State over time", "CUSUM of drift with its limit"]
    assert names([]) == []
    assert names([point(clock.now, "ok", 1.0)]) == []
    assert names([point(clock.now - 900, "no_data"), point(clock.now, "learning")]) == both[:1]
    assert names([point(clock.now - 900, "ok"), point(clock.now, "ok", 1.0)]) == both[:1]
    assert names([point(clock.now - 900, "ok", 0.0), point(clock.now, "ok", 1.0)]) == both
    assert names([point(clock.now - 900, "ok", 0.0, None), point(clock.now, "ok", 1.0, None)]) == both
    assert (
        names([point(clock.now + 900, "of a newer version", 0.0), point(clock.now + 1800, "ok", 1.0)]) == both
    )
    for count in (189, 190, 191, 380, 381):
        assert len(_highest([(point(0, "ok"), float(number), None) for number in range(count)], 190)) <= 191
    assert _highest([], 190) == []


def test_a_state_from_before_a_day_of_silence_is_no_state_unless_it_is_an_alert(
    tmp_path: Path, clock: Clock, small: ReferenceWindow
) -> None:
    monitor = simulated(tmp_path / "monitor", clock, window=small)
    beat(monitor, clock, 900, 2)
    status = read_kept(tmp_path / "monitor", ["status"])[0]["status"]
    for state, after in (("ok", "no data"), ("watch", "no data"), ("drift", "drift"), ("realign", "realign")):
        monitor._store.commit(Batch(kept={"status": {**status, "state": state}}))
        assert monitor_view(tmp_path, now=clock.now)["tiles"][0].value == state
        assert monitor_view(tmp_path, now=clock.now + 2 * DAY)["tiles"][0].value == after
    # Sooner than that, nobody knows whether it is still so.
    monitor._store.commit(Batch(kept={"status": {**status, "state": "ok"}}))
    views = [monitor_view(tmp_path, now=status["time"] + seconds) for seconds in (60, 900)]
    assert [view["outcome"] for view in views] == ["good", "open"]
    assert [view["tiles"][0].value for view in views] == ["ok", "not watched"]
    assert views[1]["verdict"].startswith("Nobody has watched since 2023-11-1")
    monitor.close()


def test_the_alert_of_a_run_that_another_has_replaced_is_over_a_day_later(
    tmp_path: Path, clock: Clock, small: ReferenceWindow
) -> None:
    folder = write_run(tmp_path / "served").path
    monitor = simulated(folder / "monitor", clock, window=small)
    beat(monitor, clock, 900, 2)
    status = read_kept(folder / "monitor", ["status"])[0]["status"]
    monitor._store.commit(Batch(kept={"status": {**status, "state": "drift"}}))
    registry = Registry(tmp_path / "registry.sqlite")
    client = looking_at(tmp_path)

    def state(days: float) -> str:
        return str(monitor_view(folder, registry=registry.path, now=clock.now + days * DAY)["tiles"][0].value)

    gone = "No request has come for a day, or none yet; nobody has watched since"
    assert state(2) == "drift"
    assert gone not in client.get("/monitor/served").text  # years later
    for one in (folder, tmp_path / "next"):
        registry.point("champion", registry.add(one, weights=one.name, base="tiny").number)
    assert [state(0.5), state(2)] == ["drift", "no data"]
    assert gone in client.get("/monitor/served").text  # which asks the registry in the folder that it shows
    monitor.close()


def test_when_it_was_last_heard_of(tmp_path: Path, clock: Clock, small: ReferenceWindow) -> None:
    monitor = simulated(tmp_path / "monitor", clock, window=small)
    beat(monitor, clock, 900, 2)
    assert monitor_view(tmp_path, now=clock.now)["tiles"][0].value == "no data"
    monitor.close()
    assert monitor_view(tmp_path, now=clock.now - 99)["tiles"][0].notes == ["0 seconds ago"], "clocks differ"
    assert monitor_view(tmp_path, now=clock.now + 3600)["tiles"][0].notes == ["60 minutes ago"]
    assert monitor_view(tmp_path, now=clock.now + 3 * DAY)["tiles"][0].notes == ["72 hours ago"]
