"""How many requests a monitor has counted, and in how much time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from simulated import ALL, DAY, Clock, Prompts, run, simulated, window

from selfaug.errors import StorageError
from selfaug.monitoring.monitor import Monitor
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.served_requests import ServedRequests, served_requests
from selfaug.monitoring.store import purge

HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hourly(monitor: Monitor, clock: Clock, count: int, name: str = "request") -> None:
    source = Prompts()
    run(monitor, clock, (source.draw() for _ in range(count)), every=HOUR, name=name)


def test_requests_are_counted_from_the_first_to_the_last_sign_of_life(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    hourly(monitor, clock, 14 * 24 + 1)
    assert served_requests(tmp_path) == ServedRequests(14 * 24 + 1, 0, pytest.approx(2.0))
    clock.now += 7 * DAY  # nobody asks, and the monitor lives
    monitor.work()
    assert served_requests(tmp_path) == ServedRequests(14 * 24 + 1, 0, pytest.approx(3.0))
    monitor.close()


def test_votes_and_canaries_are_no_requests_and_what_was_thinned_is_one(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(
        tmp_path, clock, settings=replace(ALL, sample=0.0, taken_per_hour=60.0, queue_size=100)
    )
    source = Prompts()
    for number in range(120):  # five at once are allowed, and one a minute
        clock.now += 1
        monitor.offer(Observation(f"{number}", source.draw(), 5))
        monitor.work()
    monitor.vote("3", True)
    monitor.canary(True)
    monitor.work()
    counts = monitor.counts()
    assert counts["thinned"] > 100
    assert (served_requests(tmp_path).requests, served_requests(tmp_path).missed) == (120, 0)
    for number in range(150):  # nobody takes them away
        monitor.offer(Observation(f"late-{number}", source.draw(), 5))
    monitor.close()
    assert (served_requests(tmp_path).requests, served_requests(tmp_path).missed) == (220, 50)


def test_it_outlives_a_purge_and_a_restart(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    hourly(monitor, clock, 24 * 40)
    monitor.close()
    before = served_requests(tmp_path)
    assert before.requests == 24 * 40
    assert before.weeks == pytest.approx(40 / 7, abs=0.01)
    purge(tmp_path, clock.now + 1)
    assert served_requests(tmp_path) == before
    again = simulated(tmp_path, clock)
    hourly(again, clock, 24 * 2, name="again")
    again.close()
    after = served_requests(tmp_path)
    assert after.requests == 24 * 42
    assert after.weeks == pytest.approx(6.0, abs=0.01)


def test_another_adapter_begins_anew(tmp_path: Path, clock: Clock) -> None:
    first = simulated(tmp_path, clock, settings=replace(ALL, sample=0.0, taken_per_hour=2.0))
    source = Prompts()
    for number in range(50):
        clock.now += 60
        first.offer(Observation(f"{number}", source.draw(), 5))
        first.work()
    first.close()
    assert served_requests(tmp_path).requests == 50
    second = simulated(tmp_path, clock, window=replace(window(), adapter="adapter-2"))
    hourly(second, clock, 30)
    second.close()
    # What the first one's monitor left out is not known to be the second's.
    assert served_requests(tmp_path) == ServedRequests(30, 0, pytest.approx(29 * HOUR / (7 * DAY), rel=0.05))


def test_without_requests_there_is_no_time(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(StorageError, match="no request has been watched yet"):
        served_requests(tmp_path)
    monitor = simulated(tmp_path, clock)
    assert served_requests(tmp_path) == ServedRequests(0, 0, 0.0)  # a file, and nothing in it
    monitor.canary(True)
    monitor.work()
    monitor.close()
    assert served_requests(tmp_path) == ServedRequests(0, 0, 0.0)
