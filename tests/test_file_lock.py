"""Locks end with their process, and are refused where there are none."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest

from selfaug.errors import StorageError
from selfaug.file_lock import FileLock, NoLocksError
from selfaug.rundir import RunDir, alone_in


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker in their place would be waited for once its process was killed."""

    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(NoLocksError, match="has no file locks: Function not implemented") as error:
        FileLock(tmp_path / "a.lock").acquire(timeout=0)
    assert str(tmp_path) in error.value.message
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(run.config_text(""), encoding="utf-8")
    with pytest.raises(StorageError, match="can't be replaced") as error:
        run.replaced.move()
    assert "--output" in str(error.value.hint)
    assert run.config.exists()
    before = sorted(run.path.iterdir())
    with alone_in(run.path, "is being trained", hint=""):
        pass
    assert sorted(run.path.iterdir()) == before  # a lock that was left there would seem to be held
