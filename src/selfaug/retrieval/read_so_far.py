"""What a run that was cut off had read: the chunks of each document, kept beside the index until it is whole.

A line of JSON a document, or a file that could not be read, after a line with the settings that chunks depend on. Lines
are only added, so a kill at any moment leaves at most a last one that is not whole, which the next run cuts off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfaug.retrieval.chunking import Chunk

__all__ = ["ReadSoFar"]


class ReadSoFar:
    """Documents with their chunks, in a file that lasts until `remove`.

    Use as a context manager while documents are added: it begins the file, or goes on with the one that is there.

    Args:
        file: where they are kept; one that was made with other settings is begun anew.
        settings: that chunks depend on.

    Attributes:
        documents: what is known of each, by path; the last one, where it was read twice.
        unreadable: what is known of each file that could not be read, by path.

    Raises:
        OSError: if the file can't be read, or, later, written.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file = file
        self._header = _line({"settings": dict(settings)})
        self.documents: dict[str, dict[str, Any]] = {}
        self.unreadable: dict[str, dict[str, Any]] = {}
        self._places: dict[str, int] = {}
        self._whole = 0  # bytes
        if file.exists():
            self._find()

    def __enter__(self) -> ReadSoFar:
        self._writing = self._file.open("r+b" if self._whole else "wb")
        self._writing.truncate(self._whole)
        self._writing.seek(self._whole)
        if not self._whole:
            self._writing.write(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.close()

    def add(self, document: Mapping[str, Any], chunks: Sequence[Chunk]) -> None:
        """Keep a document; it is in the file when this returns."""
        self._write({"document": dict(document), "chunks": [asdict(chunk) for chunk in chunks]})

    def add_unreadable(self, file: Mapping[str, Any]) -> None:
        """Keep what is known of a file that could not be read; it has its `path`."""
        self._write({"unreadable": dict(file)})

    def _write(self, content: Mapping[str, Any]) -> None:
        self._writing.write(_line(content))
        self._writing.flush()

    def chunks_of(self, path: str) -> list[Chunk]:
        """The chunks of one of `documents`."""
        with self._file.open("rb") as file:
            file.seek(self._places[path])
            return [Chunk(**chunk) for chunk in json.loads(file.readline())["chunks"]]

    def remove(self) -> None:
        """The file goes: all that it keeps is in the index."""
        self._file.unlink(missing_ok=True)

    def _find(self) -> None:
        """Where the whole lines begin."""
        with self._file.open("rb") as file:
            if file.readline() != self._header:
                return
            self._whole = file.tell()
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    found = json.loads(line)
                except ValueError:  # a loss of power can leave anything at the end
                    return
                if (unreadable := found.get("unreadable")) is not None:
                    self.unreadable[unreadable["path"]] = unreadable
                else:
                    document = found["document"]
                    self.documents[document["path"]] = document
                    self._places[document["path"]] = self._whole
                self._whole += len(line)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n"
