"""Closes what tests of the monitor leave open, of which Python 3.13 warns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from simulated import OPENED


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()
