from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from selfaug.model import memory as module
from selfaug.model.memory import peak_memory

CPU = torch.device("cpu")
CHILD = "import torch\nfrom selfaug.model.memory import peak_memory\nprint(peak_memory(torch.device('cpu')))"


def test_it_is_the_highest_and_stays_when_the_memory_is_given_back() -> None:
    before = peak_memory(CPU)
    large = np.ones(before + 100_000_000, dtype=np.uint8)
    peak = peak_memory(CPU)
    assert before + 90_000_000 < peak < 2 * before + 400_000_000
    del large
    assert peak_memory(CPU) > 0.95 * peak  # the kernel counts in batches


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux passes it on")
def test_a_process_does_not_begin_with_the_peak_of_the_one_that_started_it() -> None:
    large = np.ones(1_500_000_000, dtype=np.uint8)
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 1_200_000_000 < len(large)


def test_without_proc_the_system_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = peak_memory(CPU)
    monkeypatch.setattr(module, "_STATUS", tmp_path / "missing")
    told = peak_memory(CPU)
    assert known is not None
    assert told is not None
    assert told >= 0.5 * known
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory(CPU) is None
