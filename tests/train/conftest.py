"""Fixtures of the training tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from datasets import disable_progress_bars, enable_progress_bars


@pytest.fixture(autouse=True)
def quiet_and_single_threaded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    disable_progress_bars()
    yield
    enable_progress_bars()
    torch.set_num_threads(threads)
