from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_index import write

from selfaug.retrieval.index import Index


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[[dict[str, list[str]]], Index]:
    return lambda texts: write(tmp_path / "index", texts)
