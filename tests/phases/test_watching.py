"""When the canary set of a watched run is replayed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from selfaug.phases.watching import Watching, WatchSettings
from selfaug.serving.upstream import UpstreamAwayError

SOON, LATER = 60.0, 86_400.0


class Engine:
    """An engine that is always idle."""

    def when_idle(self, work: Callable[[], Any], **_: Any) -> Any:
        return work()


class Stop:
    """Says for how long it was waited, and ends when nothing more is found."""

    def __init__(self, found: list[Any]) -> None:
        self.found, self.waits = found, list[float]()

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return not self.found

    def is_set(self) -> bool:
        return False


@pytest.mark.parametrize("engine", [Engine(), None], ids=["here", "elsewhere"])
@pytest.mark.parametrize(
    ("first", "found", "waits"),
    [
        ([], [[], None, []], [LATER] * 4),
        (None, [[]], [LATER, LATER]),
        (["the adapter is missing"], [["it still is"], []], [SOON, SOON, LATER]),
        ([], [MemoryError(), ["another answer"], [], []], [LATER, SOON, SOON, LATER, LATER]),
        ([], [UpstreamAwayError("gone"), []], [LATER, SOON, LATER]),
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
        None,
        form=None,
        settings=WatchSettings(canary_seconds=LATER),
        check=check,
        on_canary=told.append,
        tell=lambda _: None,
    )
    monkeypatch.setattr(watching, "_stop", stop)
    monkeypatch.setattr(watching, "_take", lambda problems: None)
    watching._watch(first)
    assert stop.waits == waits
    assert len(told) == len(found)


def test_a_schedule_that_is_shorter_than_that_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop([["another answer"]])
    watching = Watching(
        "run",
        None,
        None,
        None,
        form=None,
        settings=WatchSettings(canary_seconds=5.0),
        check=lambda: stop.found.pop(0),
        on_canary=lambda _: None,
        tell=lambda _: None,
    )
    monkeypatch.setattr(watching, "_stop", stop)
    monkeypatch.setattr(watching, "_take", lambda problems: None)
    watching._watch(["another answer"])
    assert stop.waits == [5.0, 5.0]
