from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from selfaug import records
from selfaug.errors import DataError, StorageError
from selfaug.records import (
    append_line,
    make_readable,
    read_lines,
    read_record,
    write_lines,
    write_record,
    write_text,
)


@dataclass
class Point:
    x: float
    where: Path


def test_a_record_comes_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, "train", {"steps": 3, "text": "Zürich", "nested": {"a": [1, 2.5, None, True]}})
    assert read_record(path, "train") == {
        "steps": 3,
        "text": "Zürich",
        "nested": {"a": [1, 2.5, None, True]},
    }
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["kind"], written["version"]) == ("train", 1)
    assert written["created"].endswith("+00:00")


def test_lines_end_alike_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported, such as a script for a shell on Linux, may be written on Windows."""

    def as_on_windows(file: object, mode: str, *, encoding: str, newline: str = "\r\n") -> object:
        return open(file, mode, encoding=encoding, newline=newline)  # type: ignore[call-overload]

    monkeypatch.setattr(records.os, "fdopen", as_on_windows)
    monkeypatch.setattr(records, "open", as_on_windows, raising=False)
    write_text(tmp_path / "script", "a\nb\n")
    append_line(tmp_path / "lines", {"a": 1})
    assert (tmp_path / "script").read_bytes() == b"a\nb\n"
    assert (tmp_path / "lines").read_bytes() == b'{"a": 1}\n'


def test_files_of_other_threads_are_not_open_to_all_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask is that of the whole process, and can only be read by being set."""
    (tmp_path / "usual").touch()
    made = tmp_path / "made"
    made.touch(0o600)

    def refused(_: int) -> int:
        raise AssertionError("the umask is set")

    monkeypatch.setattr("os.umask", refused)
    make_readable(made)
    assert made.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_values_of_numpy_torch_and_dataclasses_become_json(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(
        path,
        "train",
        {"n": np.float32(0.5), "t": torch.tensor(2.0), "a": np.arange(2), "p": Point(1.0, Path("a/b"))},
    )
    assert read_record(path, "train") == {"n": 0.5, "t": 2.0, "a": [0, 1], "p": {"x": 1.0, "where": "a/b"}}


def test_nan_and_infinity_become_null_because_json_has_neither(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, "train", {"a": float("nan"), "b": [float("inf"), np.float64("nan")]})
    assert "NaN" not in path.read_text(encoding="utf-8")
    assert read_record(path, "train") == {"a": None, "b": [None, None]}


def test_a_value_that_json_does_not_know_is_an_error_and_leaves_the_old_record(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, "train", {"steps": 1})
    with pytest.raises(AttributeError, match="'object' object has no"):
        write_record(path, "train", {"steps": object()})
    assert read_record(path, "train") == {"steps": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"kind": "train", "version": 4, "data": {}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"version 4; this selfaug .* reads up to version 1") as error:
        read_record(path, "train")
    assert error.value.hint is not None
    assert "update selfaug" in error.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read"),
        (b'{"kind": "train", "ver', "can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"[1, 2]", "not a selfaug record"),
        (b'{"kind": "demo", "version": 1, "data": {}}', "is a record of kind 'demo', but 'train' is needed"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_record(path, "train")


def test_a_missing_record_is_an_error_that_says_what_it_means(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as error:
        read_record(tmp_path / "record.json", "train")
    assert "did not finish" in str(error.value)


def test_a_full_disk_leaves_the_old_record_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, "train", {"steps": 1})
    # A limit on the size of files is how a test meets a disk that takes no more, without a disk of its own.
    code = (
        "import resource, signal, sys\n"
        "from selfaug.errors import StorageError\n"
        "from selfaug.records import write_record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_record(sys.argv[1], 'train', {'text': 'x' * 5000})\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "can't write" in result.stdout, result.stderr
    assert read_record(path, "train") == {"steps": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't write"):
        write_record(tmp_path / "missing" / "record.json", "train", {})


def test_lines_are_added_and_a_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"step": 1, "nll": 2.0})
    append_line(path, {"step": 2, "nll": float("nan")})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "nl')
    assert read_lines(path) == [{"step": 1, "nll": 2.0}, {"step": 2, "nll": None}]


def test_a_line_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    row = {"answer": "one\u2028two\x85three\x0cfour\r\nfive"}
    append_line(tmp_path / "rows.jsonl", row)
    write_lines(tmp_path / "again.jsonl", [row, row])
    assert read_lines(tmp_path / "rows.jsonl") == [row]
    assert read_lines(tmp_path / "again.jsonl") == [row, row]
    (tmp_path / "empty.jsonl").touch()
    assert read_lines(tmp_path / "empty.jsonl") == []


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        read_lines(path)
