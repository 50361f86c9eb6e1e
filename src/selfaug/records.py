"""Records: versioned JSON files through which the phases meet, and JSON lines for what grows.

A record is `{"kind", "version", "created", "selfaug", "data"}`. It appears under its name only when it is
complete, so its existence means that the phase that wrote it is complete. NaN and infinity, which JSON
doesn't have, are written as null.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from selfaug.errors import DataError, StorageError

__all__ = [
    "append_line",
    "as_json",
    "is_failed_write",
    "make_readable",
    "read_lines",
    "read_record",
    "write_lines",
    "write_record",
    "write_text",
    "writing_into",
]

_VERSION = 1
"""Of the layout of records."""


def write_record(path: str | os.PathLike[str], kind: str, data: Mapping[str, Any]) -> None:
    """Write a record atomically: after a crash there is the old file or the new one, never a part.

    Args:
        path: the file; its folder must exist.
        kind: what the record is about ("train"); checked when it is read.
        data: JSON values, also paths, dataclasses, and numbers of numpy and torch.

    Raises:
        StorageError: if the file can't be written.
    """
    record = {
        "kind": kind,
        "version": _VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "selfaug": _selfaug_version(),
        "data": as_json(data),
    }
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Data of a record.

    Args:
        path: the file.
        kind: the kind that it has to be.

    Raises:
        DataError: if it is missing, damaged, of another kind, or written by a newer selfaug.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.parent.is_dir():
            raise DataError(
                f"{path} does not exist.",
                hint="a record is written last: the phase that writes it did not finish.",
            ) from error
        is_file = path.parent.exists()
        raise DataError(
            f"{path.parent} is a file, not a folder." if is_file else f"there is no folder {path.parent}.",
            hint="check the path.",
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} can't be read: {error}", hint="restore the file, or run the phase again."
        ) from error
    if not isinstance(record, dict) or not {"kind", "version", "data"} <= record.keys():
        raise DataError(f"{path} is not a selfaug record.", hint="give the folder of a run.")
    if record["kind"] != kind:
        raise DataError(
            f"{path} is a record of kind {record['kind']!r}, but {kind!r} is needed.",
            hint=f"give the folder that a command wrote whose records are of kind {kind!r}.",
        )
    written = int(record["version"])
    if written > _VERSION:
        raise DataError(
            f"{path} has version {written}; "
            f"this selfaug ({_selfaug_version()}) reads up to version {_VERSION}.",
            hint=f"update selfaug: the file was written by {record.get('selfaug', 'a newer version')}.",
        )
    data: dict[str, Any] = record["data"]
    return data


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


# Read once, at the beginning: it is only told to who sets it, and is that of all threads, whose files would be open to
# everybody for that moment.
_UMASK = _umask()


def make_readable(file: str | os.PathLike[str]) -> None:
    """Give a file that was made for its owner alone the permissions of any other new file."""
    os.chmod(file, 0o666 & ~_UMASK)


def write_text(path: str | os.PathLike[str], text: str, *, private: bool = False) -> None:
    """Write a text file atomically: a temporary file beside it, flushed to the disk, then renamed.

    Args:
        path: the file; replaced if it is there.
        text: its content.
        private: whether only its owner can read it (mode 0600), whatever the umask: it has what users wrote, or did.

    Raises:
        StorageError: if it can't be written; nothing is left behind then.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        # Lines end as on any system: shells on Linux, and what reads a template, take no carriage returns.
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if not private:
            make_readable(temporary)  # which mkstemp makes for the owner alone
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"can't write {path}: {error.strerror or error}",
            hint="check free space and permissions of its folder.",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


@contextlib.contextmanager
def writing_into(folder: Path, *, hint: str) -> Iterator[None]:
    """For what makes a folder, or writes into it.

    Args:
        folder: as it is told.
        hint: what to do if that fails.

    Raises:
        StorageError: if it fails.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"can't write into {folder}: {error.strerror or error}", hint=hint) from error


def is_failed_write(error: Exception) -> bool:
    """Whether a file could not be written to its end; torch and safetensors have errors of their own for that."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    signs = ("PytorchStreamWriter", "inline_container", "No space left", "StorageFull", "FileTooLarge")
    return any(sign in str(error) for sign in signs)


def append_line(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Add one JSON line to a file, and hand it to the operating system at once.

    Raises:
        StorageError: if it can't be written.
    """
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(as_json(data), ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise StorageError(
            f"can't write {path}: {error.strerror or error}", hint="check free space."
        ) from error


def write_lines(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], *, private: bool = False
) -> None:
    """Write a JSON lines file atomically.

    Args:
        path: the file; replaced if it is there.
        rows: one a line.
        private: as for `write_text`.

    Raises:
        StorageError: if it can't be written; nothing is left behind then.
    """
    lines = [json.dumps(as_json(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_text(path, "".join(lines), private=private)


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Lines of a JSON lines file; a last line that was cut off by a crash is left out.

    Raises:
        DataError: if another line is damaged.
    """
    # Not splitlines: JSON may hold other ends of lines, such as U+2028, as they are.
    lines = Path(path).read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):  # cut off, or the only one of an empty file
                break
            raise DataError(
                f"{path}, line {number}: not JSON ({error}).", hint="restore the file, or delete that line."
            ) from error
    return rows


def as_json(value: Any) -> Any:
    """A value as records and lines have it, of what JSON knows; NaN and infinity become None."""
    return to_jsonable_python(value, inf_nan_mode="null", fallback=lambda array: array.tolist())


def _selfaug_version() -> str:
    try:
        return version("selfaug")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
