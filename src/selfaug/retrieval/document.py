"""What every document becomes, whatever its format: blocks in reading order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Block", "Contents", "Document", "UnreadableDocument"]


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, a paragraph or list, or a table.

    Attributes:
        kind: "heading", "text", or "table".
        text: a table as Markdown, with a header row; the others without markup, a list with an item a line. Never
            empty.
        level: of a heading, from 1; 0 otherwise.
        page: from 1, where the format has pages; else None.
        sheet: of a spreadsheet.
    """

    kind: Literal["heading", "text", "table"]
    text: str
    level: int = 0
    page: int | None = None
    sheet: str | None = None


class Contents(NamedTuple):
    """What a reader of a format finds in a file.

    Attributes:
        title: that the file says; empty where it says none.
        blocks: in reading order.
        missing: as that of a `Document`.
    """

    title: str
    blocks: list[Block]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read.

    Attributes:
        path: relative to the folder, with forward slashes.
        title: its own, or its first heading, or the file's name without its ending; both, where the heading is only
            that of a section.
        digest: SHA-256 of the file, in hexadecimal.
        blocks: in reading order.
        missing: what of the file is not in the blocks, or may be wrong in them, in words for the user; empty where
            nothing is known to be.
    """

    path: str
    title: str
    digest: str
    blocks: tuple[Block, ...]
    missing: str = ""


class UnreadableDocument(Exception):  # noqa: N818 (a result that is raised, not a failure of the program)
    """Why a file was not read, in words for the user; the other files are read all the same.

    Args:
        reason: one line, to be shown after the file's name and a colon: `scanned; needs OCR first`.
        may_pass: whether the cause may be gone another time, though the file and the limits are the same.
    """

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass
