"""The monitor on a clock that is moved by hand, and its thread."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from simulated import ALL, DAY, OPENED, Clock, Prompts, run, score, signal, simulated, window

from selfaug.core import metric_names
from selfaug.core.alert_state import STATES
from selfaug.errors import ConfigError, StorageError
from selfaug.monitoring.monitor import Monitor, MonitorSettings, lowest_priority
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.served_requests import served_requests
from selfaug.monitoring.signals import Signals
from selfaug.monitoring.store import (
    Batch,
    Store,
    acknowledge,
    add_vote,
    purge,
    read_changes,
    read_kept,
    read_texts,
)
from selfaug.records import read_lines, read_record
from selfaug.wording.monitor_words import state_meaning

SHORT = MonitorSettings(sample=1.0, compute_share=1.0, learning_days=0.5)
"""Half a day is enough to learn, at one request a minute."""


def draws(count: int, source: Prompts, **how: Any) -> Iterator[list[int]]:
    return (source.draw(**how) for _ in range(count))


@pytest.fixture
def clock() -> Clock:
    return Clock()


Learnt = Callable[..., Monitor]


@pytest.fixture(scope="module")
def kept_learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, Prompts]:
    """The folder of a monitor that has learnt, when that was, and what draws the prompts after those. It is shared."""
    folder, clock, source = tmp_path_factory.mktemp("learnt") / "monitor", Clock(), Prompts()
    monitor = simulated(folder, clock, settings=SHORT)
    assert set(run(monitor, clock, draws(715, source), name="first")[5:]) == {"learning"}
    assert run(monitor, clock, draws(10, source), name="then")[-1] == "ok"
    monitor.close()
    return folder, clock.now, source


@pytest.fixture
def learnt(tmp_path: Path, clock: Clock, kept_learnt: tuple[Path, float, Prompts]) -> Learnt:
    """Opens a monitor that has learnt, in a folder of the test's own; the source goes on where learning ended."""
    folder, now, drawn = kept_learnt

    def opened(source: Prompts | None = None, **more: Any) -> Monitor:
        clock.now = now
        if source is not None:
            source.rng = deepcopy(drawn.rng)
        monitor = simulated(
            Path(shutil.copytree(folder, tmp_path / "monitor")), clock, settings=SHORT, **more
        )
        monitor.work()
        assert monitor.state() == "ok"
        return monitor

    return opened


def balance(monitor: Monitor) -> None:
    """Every offered thing is counted once."""
    counts = monitor.counts()
    waiting = monitor._queue.qsize() + len(monitor._pending)
    assert counts["offered"] == counts["dropped"] + counts["processed"] + counts["lost"] + waiting, counts


# ---- states


def test_learning_then_ok_then_drift_then_realign_then_ok(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    source = Prompts()
    monitor = learnt(source)
    assert set(run(monitor, clock, draws(1000, source), name="quiet")) == {"ok"}
    states = run(monitor, clock, draws(400, source, factor=2.0), name="moved")
    assert "drift" in states
    assert 20 < states.index("drift") < 150
    assert set(states[: states.index("drift")]) <= {"ok", "watch"}
    drift = signal(monitor, "drift")
    assert drift["state"] == "drift"
    assert drift["value"] > 1.5 * drift["reference"]
    assert run(monitor, clock, draws(1500, source, factor=2.0), name="lasting")[-1] == "realign"
    # Back to normal: quiet is believed only after three windows of it.
    states = run(monitor, clock, draws(800, source), name="calm")
    assert states[-1] == "ok"
    assert 300 <= states.index("ok") < 450
    assert monitor.state() == "ok"
    balance(monitor)


def test_without_requests_there_is_no_data(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    monitor.work()
    assert monitor.state() == "no_data"
    run(monitor, clock, draws(3, Prompts()))
    assert monitor.state() == "learning"
    clock.now += 2 * DAY
    monitor.work()
    assert monitor.state() == "no_data"


def test_drift_outlives_silence_and_is_no_second_alert(tmp_path: Path, clock: Clock, learnt: Learnt) -> None:
    source = Prompts()
    monitor = learnt(source)
    assert run(monitor, clock, draws(400, source, factor=2.0), name="friday")[-1] == "drift"
    clock.now += 2 * DAY
    monitor.work()
    assert monitor.state() == "drift"
    assert [signal(monitor, name)["state"] for name in ("drift", "prompt_length")] == ["drift", "no_data"]
    told = next(
        sample
        for sample in monitor.metrics()
        if sample.name == metric_names.SIGNAL_STATE and sample.labels == {"signal": "drift", "state": "drift"}
    )
    assert told.value == 1
    # The same across a restart in the silence.
    monitor.close()
    monitor = simulated(tmp_path / "monitor", clock, settings=SHORT)
    monitor.work()
    assert monitor.state() == "drift"
    # It has not lasted for a day: nobody knows what the weekend would have been like.
    run(monitor, clock, draws(50, source, factor=2.0), name="monday")
    assert monitor.state() == "drift"
    assert len(list((tmp_path / "monitor" / "alerts").iterdir())) == 1


def test_prompts_of_another_kind_are_novel_though_their_drift_is_less(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    source = Prompts()
    monitor = learnt(source)
    mixed = (source.draw(factor=0.5, unseen=number % 2 == 0) for number in range(300))
    states = run(monitor, clock, mixed)
    assert states.index("drift") < 150
    assert [signal(monitor, name)["state"] for name in ("novelty", "drift")] == ["drift", "ok"]


def test_votes_need_fifty_and_only_the_first_on_a_request_counts(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    source = Prompts()
    monitor = learnt(source)

    def vote(number: int, up: bool, name: str) -> None:
        clock.now += 60
        monitor.vote(f"{name}-{number}", up)
        monitor.work()

    def thumbs() -> dict[str, Any]:
        return signal(monitor, "thumbs_down")

    for number in range(49):
        vote(number, number % 10 > 0, "a")
    for number in range(40):  # said again, the other way
        vote(number, False, "a")
    clock.now += 0.5 * DAY
    vote(0, False, "a")
    assert (thumbs()["values"], thumbs()["state"]) == (49, "learning")
    vote(0, True, "b")
    assert (thumbs()["values"], thumbs()["state"]) == (50, "ok")
    for number in range(60):
        vote(number, False, "c")
    assert thumbs()["state"] == "drift"
    balance(monitor)


def test_refusals_that_rise_are_found(tmp_path: Path, clock: Clock) -> None:
    source = Prompts()
    monitor = simulated(tmp_path, clock, settings=SHORT)
    rng = np.random.default_rng(0)
    for share, count, expected in ((0.02, 725, "ok"), (0.25, 300, "drift")):
        for number, prompt in enumerate(draws(count, source)):
            clock.now += 60
            monitor.offer(Observation(f"{clock.now}", prompt, 20, refused=bool(rng.random() < share)))
            if number % 5 == 4:
                monitor.work()
        assert signal(monitor, "refusals")["state"] == expected
        assert signal(monitor, "format_violations")["state"] == "no_data"  # nobody looked


def test_a_canary_set_that_does_not_come_back_is_drift_at_once(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(2, Prompts()))
    monitor.canary(False, "drift of prompt 3 is 0.2, recorded 0.02")
    monitor.work()
    assert monitor.state() == "drift"
    assert monitor.status()["canary"] == {"passed": False, "why": "drift of prompt 3 is 0.2, recorded 0.02"}
    monitor.canary(True)
    monitor.work()
    assert monitor.state() == "learning"


def test_a_canary_set_that_nobody_has_replayed_neither_came_back_nor_did_not(
    tmp_path: Path, clock: Clock
) -> None:
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(2, Prompts()))
    assert monitor.status()["canary"] == {"passed": None, "why": ""}
    assert monitor.state() == "learning"
    monitor.canary(True)
    monitor.work()
    assert monitor.status()["canary"]["passed"] is True


def test_a_restart_while_the_canary_set_fails_is_no_all_clear_and_no_second_alert(
    tmp_path: Path, clock: Clock
) -> None:
    monitor = simulated(tmp_path, clock, canary=[])
    monitor.work()
    monitor.canary(False, "another answer")
    monitor.work()
    assert monitor.state() == "drift"
    monitor.close()
    clock.now += 60
    monitor = simulated(tmp_path, clock, canary=["another", "answer"])
    monitor.work()
    assert monitor.state() == "drift"
    assert monitor.status()["canary"] == {"passed": False, "why": "another; answer"}
    monitor.canary(False, "another; answer")
    monitor.work()
    changes = [(one["before"], one["after"]) for one in read_changes(tmp_path, 10)]
    assert changes == [("no_data", "drift")]
    assert len(list((tmp_path / "alerts").iterdir())) == 1


def test_an_alert_of_the_canary_set_alone_is_named_so_and_proposes_no_realignment(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    settings = {"run": "runs/first"}
    monitor = learnt(realign=settings)
    monitor.canary(False, "the adapter is another one")
    monitor.work()
    (alert,) = (tmp_path / "monitor" / "alerts").iterdir()
    report = (alert / "report.md").read_text(encoding="utf-8")
    assert "UTC: the canary set did not come back. Adapter" in report
    assert "The canary set did not come back: the adapter is another one." in report
    assert "drift in" not in report
    assert "realign.yaml" not in report
    assert "No signal of live traffic alerts." in report
    assert not (alert / "realign.yaml").exists()
    assert read_record(alert / "record.json", "drift-report")["realign"] is None
    # With a signal that alerts too it is an alert of traffic.
    monitor.canary(True)
    monitor.work()
    clock.now += 1
    monitor.canary(False, "the adapter is another one")
    run(monitor, clock, draws(400, Prompts(5), factor=3.0))
    monitor.canary(True)
    monitor.work()
    assert state_meaning("drift", monitor.status()).startswith("live traffic is not like")


def test_traffic_unlike_training_from_the_first_day_is_found_afterwards(tmp_path: Path, clock: Clock) -> None:
    source = Prompts()
    monitor = simulated(tmp_path, clock, settings=SHORT)
    states = run(monitor, clock, draws(1200, source, factor=3.0))
    assert "drift" in states
    assert "unlike" in signal(monitor, "drift")["note"]


def test_a_drift_that_nobody_measures_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    """As behind a gateway: the models are elsewhere."""
    settings = replace(SHORT, sample=0.0)
    monitor = simulated(tmp_path, clock, settings=settings)
    states = run(monitor, clock, draws(730, Prompts()))
    assert (states[700], states[-1]) == ("learning", "ok")
    states = run(monitor, clock, draws(300, Prompts(), unseen=True), name="moved")
    assert "drift" in states
    of_signals = [one.labels["signal"] for one in monitor.metrics() if one.name == metric_names.SIGNAL_STATE]
    assert "novelty" in of_signals
    assert "drift" not in of_signals  # an alert from when it was measured would never end
    clock.now += 2 * DAY
    monitor.close()
    quiet = simulated(tmp_path / "quiet", clock, settings=settings)
    quiet.work()
    assert quiet.state() == "no_data"


def test_a_question_that_nothing_is_found_for_moves_the_rate_of_these_alone(
    tmp_path: Path, clock: Clock
) -> None:
    def values(monitor: Monitor) -> dict[str, int]:
        return {view["name"]: view["values"] for view in monitor.status()["signals"] if view["values"]}

    monitor = simulated(tmp_path, clock, settings=replace(SHORT, keep_texts=True))
    for number, prompt in enumerate(draws(6, Prompts())):
        monitor.offer(Observation(f"answered-{number}", prompt, 20, refused=False, empty_retrieval=False))
        monitor.offer(Observation(f"empty-{number}", [], 0, empty_retrieval=True, text="where?"))
        clock.now += 60
        monitor.work()
    answered = dict.fromkeys(("drift", "novelty", "prompt_length", "completion_length", "refusals"), 6)
    assert values(monitor) == {**answered, "empty_retrieval": 12}
    counts = monitor.counts()
    assert (counts["processed"], counts["scored"], counts["unanswered"]) == (12, 6, 6)
    assert counts["over_hour"] == counts["thinned"] == 0
    balance(monitor)
    assert served_requests(tmp_path).requests == 6
    # What is read again after a restart is the same.
    seen = monitor.status()["signals"]
    monitor.close()
    again = simulated(tmp_path, clock, settings=SHORT)
    again.work()
    assert again.status()["signals"] == seen
    assert read_texts(tmp_path)[0]["text"] == "where?"


# ---- what an alert writes


def test_an_alert_freezes_its_evidence_and_proposes_a_realignment(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    settings = {"model": {"name": "base"}, "data": {"train": ["new.jsonl"]}}
    monitor = learnt(realign=settings)
    run(monitor, clock, draws(300, Prompts(5), factor=3.0))
    (alert,) = (tmp_path / "monitor" / "alerts").iterdir()
    rows = read_lines(alert / "evidence.jsonl")
    assert len(rows) > 700
    assert set(rows[-1]) >= {"drift", "novelty", "prompt_tokens", "prompt_hash"}
    report = (alert / "report.md").read_text(encoding="utf-8")
    assert "drift in drift" in report
    assert "| drift | " in report
    assert yaml.safe_load((alert / "realign.yaml").read_text(encoding="utf-8")) == settings
    record = read_record(alert / "record.json", "drift-report")
    assert record["change"]["after"] == "drift"
    assert record["rows"] == len(rows)
    # Evidence is of the moment: what comes later does not change it, nor is there a second one while it lasts.
    run(monitor, clock, draws(300, Prompts(6), factor=3.0))
    assert len(list((tmp_path / "monitor" / "alerts").iterdir())) == 1
    assert len(read_lines(alert / "evidence.jsonl")) == len(rows)
    # But another signal that alerts meanwhile is another thing to know.
    run(monitor, clock, draws(150, Prompts(7), factor=3.0, unseen=True))
    _, second = sorted((tmp_path / "monitor" / "alerts").iterdir())
    assert read_record(second / "record.json", "drift-report")["change"]["signal"] == "novelty"


def test_an_alert_that_is_acknowledged_ends_and_the_next_one_is_an_alert_again(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    folder = tmp_path / "monitor"
    monitor = learnt()
    acknowledge(folder, ["drift", "thumbs_down"], time=clock.now)  # there is none yet
    assert run(monitor, clock, draws(200, Prompts(5), factor=3.0), name="moved")[-1] == "drift"
    # Values that were offered before may come later, as here all of them: their alert is another one.
    acknowledge(folder, ["drift"], time=clock.now + DAY)
    clock.now += 60
    monitor.work()
    assert monitor.state() == "ok"
    view = signal(monitor, "drift")
    assert (view["state"], view["statistic"]) == ("ok", 0)
    last = [(one["signal"], one["before"], one["after"]) for one in read_changes(folder, 2)]
    assert last == [("drift", "drift", "ok"), ("monitor", "drift", "ok")]
    # What it has learnt stays, over a restart too.
    monitor.close()
    monitor = simulated(folder, clock, settings=SHORT)
    assert run(monitor, clock, draws(200, Prompts(6), factor=3.0), name="again")[-1] == "drift"
    assert len(list((folder / "alerts").iterdir())) == 2


# ---- cost


def test_sampling_takes_its_share_and_the_same_requests_each_time(tmp_path: Path, clock: Clock) -> None:
    settings = MonitorSettings(sample=0.1, compute_share=1.0, scored_per_hour=1e6, taken_per_hour=1e6)
    monitor = simulated(tmp_path, clock, settings=settings)
    run(monitor, clock, draws(2000, Prompts()), every=1.0)
    counts = monitor.counts()
    assert 140 < counts["scored"] < 260
    assert monitor.status()["coverage"] == pytest.approx(counts["scored"] / counts["processed"])
    other = simulated(tmp_path / "other", Clock(), settings=settings)
    run(other, other._clock, draws(2000, Prompts()), every=1.0)  # type: ignore[arg-type]
    assert other.counts()["scored"] == counts["scored"]


def test_no_more_than_so_many_an_hour(tmp_path: Path, clock: Clock) -> None:
    settings = MonitorSettings(sample=1.0, compute_share=1.0, scored_per_hour=100, taken_per_hour=300)
    monitor = simulated(tmp_path, clock, settings=settings)
    run(monitor, clock, draws(3600, Prompts()), every=2.0)
    counts = monitor.counts()
    assert 195 <= counts["scored"] <= 210
    assert 595 <= counts["processed"] - counts["scored"] - counts["thinned"] <= 630
    assert counts["over_hour"] == 3600 - counts["scored"]
    balance(monitor)


def test_measuring_takes_no_more_than_its_share_of_the_time(tmp_path: Path, clock: Clock) -> None:
    calls = []

    def slow(prompts: list[list[int]]) -> list[float]:
        calls.append((clock.now, len(prompts)))
        time.sleep(0.02)
        return score(prompts)

    settings = MonitorSettings(sample=1.0, compute_share=0.001, scored_per_hour=1e6, batch_size=4)
    monitor = simulated(tmp_path, clock, settings=settings, score=slow)
    run(monitor, clock, draws(200, Prompts()), every=1.0)
    # 0.02 seconds at a thousandth: at most once in 20 seconds, then as many as fit into a batch.
    assert 5 <= len(calls) <= 10
    assert max(size for _, size in calls) == 4
    assert np.diff([at for at, _ in calls]).min() >= 20
    assert monitor.counts()["over_compute"] > 100
    balance(monitor)


def test_a_prompt_does_not_wait_for_compute_for_ever(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    monitor._next_score = float("inf")
    monitor.offer(Observation("a", [1, 2, 3], 5))
    monitor.work()
    assert monitor.counts()["processed"] == 0
    clock.now += 601
    monitor.work()
    assert (monitor.counts()["processed"], monitor.counts()["over_compute"]) == (1, 1)
    # As many can wait as are measured at once.
    many = simulated(tmp_path / "many", clock, settings=replace(ALL, batch_size=40, scored_per_hour=2000))
    many._next_score = float("inf")
    for number in range(100):
        many.offer(Observation(f"{number}", [1, 2, 3], 5))
    many.work()
    assert (len(many._pending), many.counts()["over_compute"]) == (100, 0)


def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock, settings=SHORT)
    clock.now += 1e6
    run(monitor, clock, draws(3, Prompts()), name="ahead")
    clock.now -= 1e6
    run(monitor, clock, draws(3, Prompts()), name="right")
    assert monitor.counts()["scored"] == 6
    assert monitor.status()["time"] == clock.now


def test_after_the_clock_was_set_back_as_many_an_hour_as_before(tmp_path: Path, clock: Clock) -> None:
    settings = MonitorSettings(sample=1.0, compute_share=1.0, scored_per_hour=60, taken_per_hour=60)
    monitor = simulated(tmp_path, clock, settings=settings)
    clock.now += DAY
    run(monitor, clock, draws(1, Prompts()), name="ahead")
    clock.now -= DAY
    run(monitor, clock, draws(120, Prompts()), name="right")
    assert monitor.counts()["scored"] == 121
    assert monitor.counts()["over_hour"] == 0
    # Nor more: what was saved up is five minutes' worth.
    run(monitor, clock, draws(120, Prompts()), name="hurried", every=1.0)
    assert monitor.counts()["scored"] <= 121 + 2 + 5


# ---- failures


@pytest.mark.parametrize("answer", ["raises", "too few", "not a number", "nonsense"])
def test_a_scorer_that_fails_costs_the_drift_and_nothing_else(
    tmp_path: Path, clock: Clock, answer: str
) -> None:
    def broken(prompts: list[list[int]]) -> Any:
        if answer == "raises":
            raise RuntimeError("CUDA out of memory")
        return {"too few": [], "not a number": [float("nan")] * len(prompts), "nonsense": None}[answer]

    monitor = simulated(tmp_path, clock, score=broken)
    run(monitor, clock, draws(20, Prompts()))
    counts = monitor.counts()
    assert (counts["processed"], counts["scored"], counts["score_failed"]) == (20, 0, 20)
    if answer == "raises":
        assert monitor.status()["last_error"] == "RuntimeError"
    balance(monitor)


def test_offering_never_raises_and_a_full_queue_drops(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock, settings=MonitorSettings(queue_size=10))
    for number in range(25):
        monitor.offer(Observation(f"{number}", [1, 2, 3], 5))
    assert monitor.counts()["dropped"] == 15
    monitor.work()
    monitor.offer(None)  # type: ignore[arg-type]
    monitor.offer(Observation("x", None, 5))  # type: ignore[arg-type]
    monitor.vote(3, True)  # type: ignore[arg-type]
    monitor.work()
    monitor.close()
    monitor.offer(Observation("late", [1, 2], 5))
    monitor.vote("late", True)
    monitor.close()


def test_what_the_canary_set_shows_is_never_dropped(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock, settings=MonitorSettings(queue_size=2))
    for number in range(3):
        monitor.offer(Observation(f"{number}", [1, 2, 3], 5))
    monitor.canary(False, "another answer")
    monitor.vote("0", True)
    assert monitor.counts()["dropped"] == 1
    monitor.work()
    assert monitor.state() == "drift"
    assert monitor.counts()["votes"] == 1
    balance(monitor)


def test_what_comes_while_a_prompt_waits_to_be_measured_is_not_dropped(tmp_path: Path, clock: Clock) -> None:
    """As on a server that is never idle, where each prompt waits for its turn: it is asked meanwhile."""
    waited: list[tuple[int, int]] = []

    def busy(prompts: list[list[int]]) -> list[float]:
        committed = read_kept(tmp_path, ["status"])[1]["votes"]
        waited.append((monitor._queue.qsize(), committed))
        for _ in prompts:
            for number in range(300):
                clock.now += 0.1
                monitor.offer(Observation(f"{clock.now}-{number}", [5, 6, 7], 5))
            monitor.vote(f"{clock.now}", True)
        return score(prompts)

    settings = MonitorSettings(sample=0.05, scored_per_hour=1e6, taken_per_hour=10, batch_size=1)
    monitor = simulated(tmp_path, clock, settings=settings, score=busy)
    for number in range(900):
        monitor.offer(Observation(f"first-{number}", [1, 2, 3], 5))
    monitor.vote("first-3", True)
    while len(waited) < 5:
        monitor.work()
    # All that came before is written down before the next prompt waits.
    assert waited == [(0, 1 + number) for number in range(5)]
    counts = monitor.counts()
    assert (counts["dropped"], counts["lost"]) == (0, 0)
    balance(monitor)


def test_a_measurement_that_ends_late_keeps_nobody_and_the_folder_is_let_go_of_after_it(
    tmp_path: Path,
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(prompts: list[list[int]]) -> list[float]:
        begun.set()
        go.wait(60)
        return [0.5] * len(prompts)

    monitor = Monitor(tmp_path, window(), slow, settings=SHORT)
    monitor.offer(Observation("measured", [1, 2, 3], 5))
    assert begun.wait(60)
    monitor.offer(Observation("waits", [1, 2, 3], 5))
    monitor.close(0.01)
    with pytest.raises(StorageError, match="another monitor is using"):
        Monitor(tmp_path, window(), slow)
    go.set()
    assert monitor._thread is not None
    monitor._thread.join(60)
    assert read_kept(tmp_path, ["status"])[1]["processed"] == 2
    Monitor(tmp_path, window(), slow).close()


def test_what_makes_the_work_fail_is_counted_as_lost(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(5, Prompts()))
    monitor.offer(Observation("bad", None, 5))  # type: ignore[arg-type]
    monitor.offer(Observation("good", [1, 2, 3], 5))
    monitor.work()
    balance(monitor)
    assert monitor.counts()["lost"] >= 1
    run(monitor, clock, draws(5, Prompts()))
    assert monitor.counts()["scored"] >= 10
    balance(monitor)
    monitor.close()
    assert read_kept(tmp_path, ["status"])[1]["lost"] == monitor.counts()["lost"]


def test_a_full_disk_is_survived(tmp_path: Path, clock: Clock, learnt: Learnt) -> None:
    """The store refuses to grow; detection goes on, and what could not be written is counted as lost."""
    monitor = learnt()
    kept = monitor.counts()["processed"]
    page = monitor._store._connection.execute("PRAGMA page_count").fetchone()[0]
    monitor._store._connection.execute(f"PRAGMA max_page_count = {page}")
    states = run(monitor, clock, draws(300, Prompts(5), factor=3.0), name="full")
    assert "drift" in states
    counts = monitor.counts()
    assert counts["lost"] > 200
    assert monitor.status()["last_error"] == "OperationalError"
    balance(monitor)
    monitor._store._connection.execute("PRAGMA max_page_count = 1000000")
    run(monitor, clock, draws(10, Prompts(6)), name="again")
    assert monitor.counts()["processed"] >= kept + 10
    monitor.close()
    status, counts = read_kept(tmp_path / "monitor", ["status"])
    assert (counts["lost"], counts["processed"]) == (monitor.counts()["lost"], monitor.counts()["processed"])
    # The change to drift was not written when it happened, and is now.
    changes = simulated(tmp_path / "monitor", clock)
    found = changes._store._connection.execute("SELECT after FROM changes WHERE signal = 'drift'").fetchall()
    assert ("drift",) in found
    assert status["status"]["state"] == "drift"


@pytest.mark.parametrize("most_bytes", [100_000, 1_200_000], ids=["of numbers", "of texts"])
def test_a_full_store_has_room_again_and_keeps_nothing_for_longer(
    tmp_path: Path, clock: Clock, most_bytes: int
) -> None:
    settings = MonitorSettings(
        sample=0.0, taken_per_hour=1e6, keep_texts=True, keep_days=2.0, most_bytes=most_bytes
    )
    monitor = simulated(tmp_path, clock, settings=settings)
    of_texts = most_bytes > 1_000_000
    asked, repeats = (600, 200) if of_texts else (800, 20)

    def ask(count: int, name: str) -> None:
        for number in range(count):
            clock.now += 60
            monitor.offer(Observation(f"{name}-{number}", [1, 2, 3], 5, text=f"{name} the plan " * repeats))
            if number % 5 == 4:
                monitor.work()

    def kept(query: str) -> list[tuple[Any, ...]]:
        return monitor._store._connection.execute(query).fetchall()

    ask(asked, "first")
    assert monitor.status()["last_error"] == "OperationalError"
    balance(monitor)
    if of_texts:  # what the newest requests say is kept; numbers are kept of all
        assert monitor.counts()["lost"] == 0
        assert kept("SELECT count(*) FROM rows") == [(asked,)]
        newest = kept("SELECT max(row_id), count(*) FROM texts JOIN rows ON rows.id = row_id")
        assert newest[0][0] > 550
        assert newest[0][1] < 400
    else:
        assert monitor.counts()["lost"] > 0
    clock.now += 3 * DAY
    ask(20, "later")
    names = [name for (name,) in kept("SELECT request_id FROM rows ORDER BY id")]
    assert names == [f"later-{number}" for number in range(20)]
    assert kept("SELECT count(*) FROM texts WHERE text LIKE '%first%'") == [(0,)]
    lost = monitor.counts()["lost"]
    assert lost == 0 if of_texts else lost < asked
    monitor.close()


@pytest.mark.parametrize("bounded", [False, True], ids=["full disk", "full store"])
def test_on_a_full_disk_no_text_is_deleted(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, bounded: bool
) -> None:
    """Which SQLite calls full, too: only a store that is as large as it may be has to make room by itself."""
    settings = MonitorSettings(sample=0.0, keep_texts=True, most_bytes=1_000_000 if bounded else 2 << 30)
    monitor = simulated(tmp_path, clock, settings=settings)

    def ask(name: str) -> None:
        clock.now += 60
        monitor.offer(Observation(name, [1, 2, 3], 5, text=f"{name} the plan"))
        monitor.work()

    ask("before")
    commit = monitor._store.commit

    def full(batch: Batch) -> int:
        if any(row.text is not None for row in batch.rows):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return commit(batch)

    monkeypatch.setattr(monitor._store, "commit", full)
    ask("while it is full")
    assert monitor.counts()["lost"] == 0
    assert monitor.status()["last_error"] == "OperationalError"
    monkeypatch.setattr(monitor._store, "commit", commit)
    ask("afterwards")
    monitor.close()
    kept = [text["request_id"] for text in read_texts(tmp_path)]
    assert kept == ["before", "afterwards"][bounded:]
    store = Store(tmp_path)
    assert len(store.history("novelty", "adapter-1", None)[0]) == 3
    store.close()


def test_a_store_that_another_process_has_is_waited_for_and_no_count_goes_down(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(5, Prompts()))
    other = sqlite3.connect(tmp_path / "monitor.sqlite", isolation_level=None)
    OPENED.append(other)
    monitor._store._connection.execute("PRAGMA busy_timeout = 1")
    commit, shown, fails = monitor._store.commit, list[int](), 1

    def seen(batch: Batch) -> int:
        shown.append(monitor.counts()["processed"])
        if len(shown) > fails and other.in_transaction:
            other.rollback()
        return commit(batch)

    monkeypatch.setattr(monitor._store, "commit", seen)
    for fails, written, lost in ((1, 6, 0), (2, 6, 1)):
        clock.now += 1
        other.execute("BEGIN IMMEDIATE")  # as another writer that takes long
        monitor.offer(Observation(f"{fails}", [1, 2, 3], 5))
        monitor.work()
        assert (monitor.counts()["processed"], monitor.counts()["lost"]) == (written, lost)
        if other.in_transaction:
            other.rollback()
        assert shown == [5 if fails == 1 else 6] * 2
        shown.clear()
    other.close()
    monitor.close()


def test_a_report_that_finds_no_room_is_written_later(tmp_path: Path, clock: Clock) -> None:
    """No file may grow: it is as on a full disk."""
    resource = pytest.importorskip("resource")
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(10, Prompts()))
    monitor.canary(False, "another template")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        monitor.work()
        at = clock.now
        clock.now += 30
        monitor.work()  # not at once again
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert monitor.state() == "drift"
    assert list((tmp_path / "alerts").iterdir()) == []
    clock.now += 60
    monitor.work()
    (alert,) = (tmp_path / "alerts").iterdir()
    assert len(read_lines(alert / "evidence.jsonl")) == 10
    assert (alert / "evidence.jsonl").stat().st_mode & 0o077 == 0
    record = read_record(alert / "record.json", "drift-report")
    assert (record["time"], record["change"]["after"]) == (at, "drift")  # what was known then
    clock.now += 60
    monitor.work()
    assert len(list((tmp_path / "alerts").iterdir())) == 1
    monitor.close()


def test_a_purge_that_fails_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock, settings=MonitorSettings(sample=0.0, keep_days=1.0))
    run(monitor, clock, draws(5, Prompts()))
    clock.now += 2 * DAY
    other = sqlite3.connect(tmp_path / "monitor.sqlite", isolation_level=None)
    OPENED.append(other)
    monitor._store._connection.execute("PRAGMA busy_timeout = 1")
    other.execute("BEGIN IMMEDIATE")  # as another writer that takes long
    monitor.work()
    assert monitor.status()["last_error"] == "OperationalError"
    other.execute("ROLLBACK")
    clock.now += 60
    monitor.work()
    assert other.execute("SELECT count(*) FROM rows").fetchone() == (0,)
    other.close()
    monitor.close()


def test_what_comes_while_there_is_much_to_purge_is_committed_between_its_pieces(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a start with fewer days; a monitor that ends meanwhile leaves the rest to the next one."""

    def counted() -> list[int]:
        with closing(sqlite3.connect(tmp_path / "monitor.sqlite")) as other:
            return [
                other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("rows", "votes")
            ]

    monkeypatch.setattr("selfaug.monitoring.store._PURGED_AT_ONCE", 20)
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(50, Prompts()), every=1.0)
    monitor.close()
    clock.now += 2 * DAY
    monitor = simulated(tmp_path, clock, settings=replace(ALL, keep_days=1.0))
    for number, left in enumerate((30, 10), 1):
        monitor.vote(f"{number}", True)
        monitor.work()
        assert counted() == [left, number]
    monitor.vote("last", True)
    monitor.close()
    assert counted() == [10, 3]
    monitor = simulated(tmp_path, clock, settings=replace(ALL, keep_days=1.0))
    monitor.work()
    assert counted() == [0, 3]
    monitor.close()


def test_an_alert_whose_evidence_cannot_be_read_is_reported_without(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    run(monitor, clock, draws(5, Prompts()))
    monitor._store._connection.execute("ALTER TABLE rows RENAME COLUMN drift TO lost")  # damaged
    monitor.canary(False, "another template")
    monitor.work()
    (alert,) = (tmp_path / "alerts").iterdir()
    assert read_lines(alert / "evidence.jsonl") == []
    assert "another template" in (alert / "report.md").read_text(encoding="utf-8")
    monitor.close()


# ---- across restarts


def test_a_restart_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    """Stopped in the middle of learning and again afterwards: all signals are as without."""
    one, other = Clock(), Clock()
    through = simulated(tmp_path / "through", one, settings=SHORT)
    cut = simulated(tmp_path / "cut", other, settings=SHORT)
    source, again = Prompts(), Prompts()
    for part in (300, 450, 77, 200):
        run(through, one, draws(part, source), name=f"{part}")
        run(cut, other, draws(part, again), name=f"{part}")
        cut.close()
        cut = simulated(tmp_path / "cut", other, settings=SHORT)
    cut.work()
    assert through.status()["signals"] == cut.status()["signals"]
    assert through.counts() == cut.counts()
    assert through.state() == cut.state() == "ok"


def test_a_purge_while_it_is_learning_makes_it_begin_anew_at_the_next_start(
    tmp_path: Path, clock: Clock
) -> None:
    def view(name: str) -> dict[str, Any]:
        return signal(monitor, name)

    monitor = simulated(tmp_path, clock, settings=SHORT)
    source = Prompts()
    run(monitor, clock, draws(499, source), every=100.0)
    assert view("novelty")["values"] == 499
    purge(tmp_path, clock.now + 1)
    assert view("novelty")["values"] == 499  # it has them in memory
    monitor.close()
    monitor = simulated(tmp_path, clock, settings=SHORT)
    assert set(run(monitor, clock, draws(499, source), every=100.0, name="again")) == {"learning"}
    assert (view("novelty")["values"], view("refusals")["values"]) == (499, 0)
    assert served_requests(tmp_path).requests == 998  # these have come all the same
    assert run(monitor, clock, draws(5, source), every=100.0, name="enough")[-1] == "ok"
    assert view("completion_length")["reference"] == pytest.approx(26, abs=0.5)


@pytest.mark.parametrize("before", [60, 20], ids=["learnt", "learning"])
def test_votes_that_were_written_while_nobody_watched_are_taken_at_the_next_start(
    tmp_path: Path, clock: Clock, before: int
) -> None:
    def thumbs() -> dict[str, Any]:
        return signal(monitor, "thumbs_down")

    settings = replace(SHORT, learning_days=0.01)
    monitor = simulated(tmp_path, clock, settings=settings)
    for number, prompt in enumerate(draws(160, Prompts())):
        clock.now += 60
        monitor.offer(Observation(f"{number}", prompt, 20))
        if number < before:
            monitor.vote(f"{number}", True)
        monitor.work()
    monitor.close()
    learns = before < 50
    for number in range(before, 130):
        clock.now += 60
        assert add_vote(tmp_path, f"{number}", False, time=clock.now)
    for _ in range(2):  # once, though it is opened twice
        monitor = simulated(tmp_path, clock, settings=settings)
        monitor.work()
        assert thumbs()["values"] == 130
        assert thumbs()["state"] == ("ok" if learns else "drift")
        assert thumbs()["value"] == pytest.approx(1 if learns else 0.7)
        counts = monitor.counts()
        assert counts["votes"] == before
        monitor.close()
    changes = [(one["signal"], one["after"]) for one in read_changes(tmp_path, 10)]
    assert changes.count(("thumbs_down", "drift")) == (not learns)
    assert len(list((tmp_path / "alerts").glob("*"))) == (not learns)


def test_another_adapter_begins_anew(tmp_path: Path, clock: Clock, learnt: Learnt) -> None:
    monitor = learnt()
    monitor.close()
    monitor = simulated(tmp_path / "monitor", clock, window=replace(window(), adapter="adapter-2"))
    run(monitor, clock, draws(1, Prompts()))
    assert monitor.state() == "learning"
    assert monitor.status()["signals"][0]["values"] == 1


def test_an_adapter_after_another_that_had_learnt_is_watched_after_a_restart(
    tmp_path: Path, clock: Clock, learnt: Learnt
) -> None:
    learnt().close()
    second = replace(window(), adapter="adapter-2")
    folder = tmp_path / "monitor"
    for values in (1, 2):
        monitor = simulated(folder, clock, window=second, settings=SHORT)
        run(monitor, clock, draws(1, Prompts(values)), name=f"second-{values}")
        assert monitor.status()["signals"][0]["values"] == values
        assert monitor.state() == "learning"
        monitor.close()
        assert read_kept(folder, ["lessons"])[0]["lessons"] == {}
    # Also where the first one's lessons are left there.
    third = simulated(tmp_path / "third", clock, settings=SHORT)
    run(third, clock, draws(1, Prompts()))
    third.close()
    store = Store(tmp_path / "third")
    store.commit(Batch(kept={"lessons": {"drift": {"threshold": 1.0, "note": ""}}}))
    store.close()
    third = simulated(tmp_path / "third", clock, settings=SHORT)
    assert run(third, clock, draws(1, Prompts(2)), name="again")[-1] == "learning"
    assert third.status()["signals"][0]["values"] == 2


def test_one_monitor_at_a_time(tmp_path: Path, clock: Clock) -> None:
    monitor = simulated(tmp_path, clock)
    with pytest.raises(StorageError, match="another monitor"):
        simulated(tmp_path, clock)
    monitor.close()
    simulated(tmp_path, clock).close()


def test_a_damaged_store_says_so(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "monitor.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StorageError, match="can't be used"):
        simulated(tmp_path, clock)


def test_a_webhook_that_is_no_address_is_refused(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(ConfigError, match="no address"):
        simulated(tmp_path, clock, webhook="file:///etc/passwd")


# ---- the thread


def test_the_thread_does_it_all_and_waits_for_nothing(tmp_path: Path) -> None:
    released = threading.Event()

    def stuck(prompts: list[list[int]]) -> list[float]:
        released.wait(20)
        return score(prompts)

    monitor = Monitor(tmp_path, window(), stuck, settings=ALL)
    source = Prompts()
    began = time.perf_counter()
    for number, prompt in enumerate(draws(200, source)):
        monitor.offer(Observation(f"{number}", prompt, 9))
        monitor.state()
        monitor.status()
        monitor.metrics()
    assert time.perf_counter() - began < 3  # the scorer hangs all the while
    released.set()
    limit = time.monotonic() + 20
    while monitor.counts()["processed"] < 150 and time.monotonic() < limit:
        time.sleep(0.02)
    monitor.close()
    counts = monitor.counts()
    assert counts["processed"] == 200
    assert counts["scored"] > 0
    balance(monitor)


# ---- metrics


def test_another_programs_priority_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off Linux, the number of a thread is nobody's or another process's."""
    lowered: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "setpriority", lambda *given: lowered.append(given))
    lowest_priority()
    monkeypatch.setattr(sys, "platform", "darwin")
    lowest_priority()
    assert lowered == [(os.PRIO_PROCESS, threading.get_native_id(), 19)]


def test_metrics_are_those_that_are_named(tmp_path: Path, clock: Clock) -> None:
    # Not one that was opened again: its histograms are empty.
    monitor = simulated(tmp_path, clock, settings=SHORT)
    run(monitor, clock, draws(725, Prompts()))
    samples = monitor.metrics()
    for sample in samples:
        name = sample.name
        for ending in ("_bucket", "_sum", "_count"):
            if name.removesuffix(ending) in metric_names.HISTOGRAMS:
                name = name.removesuffix(ending)
        assert name in metric_names.METRICS
    assert len({(sample.name, *sample.labels.items()) for sample in samples}) == len(samples)
    states = {
        sample.labels["state"]: sample.value for sample in samples if sample.name == metric_names.ALERT_STATE
    }
    assert states == {name: float(name == "ok") for name in STATES}
    buckets = [sample.value for sample in samples if sample.name == f"{metric_names.PROMPT_DRIFT}_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == monitor.counts()["scored"]
    assert json.loads(json.dumps(monitor.status()))["state"] == "ok"


def test_counts_of_each_adapter_are_a_series_of_their_own(tmp_path: Path, clock: Clock) -> None:
    """Else a server that goes back to a run seems to have had all its requests at that moment."""
    series = set()
    for adapter in ("a" * 64, "b" * 64):
        folder = tmp_path / adapter[0]
        monitor = Monitor(folder, replace(window(), adapter=adapter), score, clock=clock, threaded=False)
        found = [sample for sample in monitor.metrics() if sample.name == metric_names.OBSERVATIONS]
        assert {sample.labels["outcome"] for sample in found} == set(monitor.counts())
        series |= {sample.labels["adapter"] for sample in found}
        monitor.close()
    assert series == {"a" * 12, "b" * 12}


def test_signals_take_values_in_any_pieces() -> None:
    """Many at once or one by one: the same statistics and states."""
    rng = np.random.default_rng(0)
    reference = window()
    times = 1e9 + 60.0 * np.arange(3000)
    nats = rng.lognormal(-4, 0.8, 3000) * np.where(np.arange(3000) > 2000, 2, 1)
    lengths = rng.integers(20, 60, 3000)
    found = []
    for size in (1, 7, 3000):
        signals = Signals(reference, scored_per_hour=200, taken_per_hour=1000, learning_days=0.5)
        changes = []
        for begin in range(721):  # learning ends with the batch that brings enough
            part = slice(begin, begin + 1)
            changes += signals.update("drift", times[part], nats[part], lengths[part])
        for begin in range(721, 3000, size):
            part = slice(begin, min(3000, begin + size))
            changes += signals.update("drift", times[part], nats[part], lengths[part])
        found.append((signals.views(times[-1])[0], [(one.before, one.after) for one in changes]))
    assert found[0][1] == found[1][1]
    assert found[0][0].state == found[1][0].state == found[2][0].state == "drift"
    assert found[2][0].statistic == pytest.approx(found[0][0].statistic)
