from __future__ import annotations

import ntpath
import os
from pathlib import Path

import pytest

from selfaug.relative_path import relative_path


def test_a_path_on_another_drive_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert relative_path(tmp_path / "runs" / "one", tmp_path) == os.path.join("runs", "one")
    monkeypatch.setattr(os.path, "relpath", ntpath.relpath)
    assert relative_path("D:\\runs\\one", "D:\\work") == "..\\runs\\one"
    assert relative_path("D:\\runs\\one", "C:\\work") == "D:\\runs\\one"
