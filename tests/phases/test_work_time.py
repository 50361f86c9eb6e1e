"""How long a command has worked: over all its processes, and nothing of what was refused or replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfaug.errors import StorageError
from selfaug.phases import work_time
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import write_record


def test_the_time_of_a_folder_is_that_of_all_that_worked_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(work_time.time, "monotonic", lambda: now[0])

    def work(seconds: float, *, fails: bool = False, overwrite: bool = False) -> float:
        folder = WorkFolder(tmp_path / "work", "comparison", {"record.json"}, last=["record.json"])
        with folder.settled():
            folder.open({}, overwrite=overwrite)
            now[0] += seconds
            if fails:
                raise KeyboardInterrupt
            write_record(tmp_path / "work" / "record.json", "comparison", {})
            return folder.seconds

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            work(100, fails=True)
        now[0] += 1e6
    assert work(10) == 210
    with pytest.raises(StorageError, match="finished comparison"):
        work(5)
    assert len((tmp_path / "work" / "worked.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    # What replaces it and is cut off at once leaves it as it was.
    with pytest.raises(KeyboardInterrupt):
        work(1, fails=True, overwrite=True)
    assert len((tmp_path / "work" / "worked.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert work(7, overwrite=True) == 7


def test_where_the_time_cant_be_written_down_nothing_else_is_lost(tmp_path: Path) -> None:
    spent = work_time.WorkTime(tmp_path / "gone" / "worked.jsonl")
    spent.keep()
    assert spent.seconds >= 0
