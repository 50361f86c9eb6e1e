"""Work that leaves no thread behind."""

from __future__ import annotations

import threading

import pytest

from selfaug.model.own_thread import in_own_thread


def test_the_thread_has_ended_when_its_result_is_there() -> None:
    thread = in_own_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_what_it_raises_is_raised_here() -> None:
    def broken() -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        in_own_thread(broken)
