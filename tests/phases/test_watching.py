"""When the canary set of a watched run is replayed again."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfaug.monitoring.monitor import Monitor
from selfaug.phases.watching import DriftModels, Watching, WatchSettings
from selfaug.serving.upstream import UpstreamAwayError
from selfaug.serving.watcher import Answered

AT_ONCE, SOON, LATER = 2.0, 60.0, 86_400.0


class Engine:
    """An engine that is always idle."""

    def when_idle(self, work: Callable[[], Any], **_: Any) -> Any:
        return work()


class Stop:
    """Says for how long it was waited, and ends when nothing more is found."""

    def __init__(self, found: list[Any]) -> None:
        self.found, self.waits, self.ended = found, list[float](), False

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.ended = not self.found
        return self.ended

    def is_set(self) -> bool:
        return self.ended

    def clear(self) -> None:
        pass

    def put_into(self, watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("_stop", "_wake"):
            monkeypatch.setattr(watching, name, self)


@pytest.mark.parametrize("engine", [Engine(), None], ids=["here", "elsewhere"])
@pytest.mark.parametrize(
    ("first", "found", "waits"),
    [
        ([], [[], None, []], [LATER] * 4),
        (None, [[]], [LATER, LATER]),
        (["the adapter is missing"], [["it still is"], []], [SOON, SOON, LATER]),
        ([], [MemoryError(), ["another answer"], [], []], [LATER, SOON, SOON, LATER, LATER]),
        ([], [UpstreamAwayError("gone"), []], [LATER, AT_ONCE, LATER]),
    ],
)
def test_a_replay_that_showed_something_is_soon_done_again(
    monkeypatch: pytest.MonkeyPatch,
    engine: Any,
    first: list[str] | None,
    found: list[Any],
    waits: list[float],
) -> None:
    stop = Stop(list(found))

    def check() -> list[str] | None:
        one: Any = stop.found.pop(0)
        if isinstance(one, Exception):
            raise one
        return one  # type: ignore[no-any-return]

    told: list[list[str] | None] = []
    watching = Watching(
        "run",
        engine,
        None,
        form=None,
        settings=WatchSettings(canary_seconds=LATER),
        check=check,
        on_canary=told.append,
        tell=lambda _: None,
    )
    stop.put_into(watching, monkeypatch)
    monkeypatch.setattr(watching, "_take", lambda problems: None)
    watching._watch(first)
    assert stop.waits == waits
    assert len(told) == len(found)


def test_a_monitor_that_could_not_be_opened_is_tried_again_between_replays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stop, opened = Stop([[], []]), list[object]()

    def full(problems: object) -> Monitor:
        opened.append(problems)
        raise OSError("no space left")

    told: list[str] = []
    watching = Watching(
        tmp_path,
        None,
        None,
        form=None,
        settings=WatchSettings(canary_seconds=150.0),
        check=lambda: stop.found.pop(0),
        on_canary=lambda _: None,
        tell=told.append,
    )
    stop.put_into(watching, monkeypatch)
    monkeypatch.setattr(watching, "_open", full)
    watching._watch(None)
    assert stop.waits == [60.0, 60.0, 30.0] * 2 + [60.0]
    # What the last replay has found is what the monitor begins with.
    assert opened == [None] * 3 + [[]] * 4
    # It measures one prompt at a time: each may wait for a busy server, and what comes meanwhile waits for it.
    assert watching._monitor_settings().batch_size == 1
    assert told == ["NOT watched: OSError: no space left"]
    assert watching.samples() == [("selfaug_monitor_watching", {}, 0.0)]


def test_a_window_that_cannot_be_measured_is_not_measured_all_the_time(tmp_path: Path) -> None:
    watching = Watching(
        tmp_path,
        None,
        None,
        form=None,
        settings=WatchSettings(),
        check=None,
        on_canary=lambda _: None,
        tell=lambda _: None,
    )
    assert watching._rest(0.5) == SOON
    assert watching._rest(600.0) == 6000.0
    (tmp_path / "monitor").mkdir()
    (tmp_path / "monitor" / "reference.json").touch()
    assert watching._rest(600.0) == SOON


def test_the_end_waits_for_models_that_are_still_being_loaded_for_the_run_before(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def load() -> DriftModels:
        begun.set()
        assert go_on.wait(20)
        raise OSError("gone")

    before, now = (
        Watching(
            tmp_path,
            None,
            models,
            form=None,
            settings=WatchSettings(),
            check=None,
            on_canary=lambda _: None,
            tell=lambda _: None,
        )
        for models in (load, None)
    )
    before.start(None)
    assert begun.wait(20)
    now.start(None, after=before)
    now.close()
    ending = threading.Thread(target=now.join, args=[0.01], daemon=True)
    ending.start()
    ending.join(0.2)
    assert ending.is_alive()
    go_on.set()
    ending.join(20)
    assert not ending.is_alive()
    now.join()


def test_a_schedule_that_is_shorter_than_that_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop([["another answer"]])
    watching = Watching(
        "run",
        None,
        None,
        form=None,
        settings=WatchSettings(canary_seconds=5.0),
        check=lambda: stop.found.pop(0),
        on_canary=lambda _: None,
        tell=lambda _: None,
    )
    stop.put_into(watching, monkeypatch)
    monkeypatch.setattr(watching, "_take", lambda problems: None)
    watching._watch(["another answer"])
    assert stop.waits == [5.0, 5.0]


def test_an_end_at_the_last_moment_of_a_pause_is_no_reason_for_another_pause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits = list[float | None]()

    class LastMoment(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            watching.cancel()
            return False

    watching = Watching(
        tmp_path,
        None,
        None,
        form=None,
        settings=WatchSettings(),
        check=None,
        on_canary=lambda _: None,
        tell=lambda _: None,
    )
    monkeypatch.setattr(watching, "_wake", LastMoment())
    monkeypatch.setattr(watching, "_open_monitor", lambda problems: pytest.fail("it has ended"))
    watching._open_after = SOON
    assert watching._waited(LATER, None)
    assert watching._waited(SOON, None)
    assert waits == [SOON]


def test_the_form_is_of_what_comes_after_the_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offered(list[Any]):
        offer = list.append

    watching = Watching(
        "run",
        None,
        None,
        form=re.compile(r"ANSWER: \d+"),
        settings=WatchSettings(),
        check=None,
        on_canary=lambda _: None,
        tell=lambda _: None,
    )
    offered = Offered()
    monkeypatch.setattr(watching, "_monitor", offered)
    for answer in ("<think>\n\n</think>\n\nANSWER: 5", "ANSWER: 5", "<think>ANSWER: 5</think>It is 5."):
        watching.answered(Answered("r", [1], 3, answer, passages=1))
    assert [one.format_violation for one in offered] == [False, False, True]
