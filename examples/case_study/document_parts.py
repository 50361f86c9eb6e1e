"""What a document is made of before it is written in a format: sections of paragraphs, findings and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from world import Period

__all__ = [
    "Block",
    "Draft",
    "DraftSection",
    "Findings",
    "Format",
    "Mention",
    "Paragraph",
    "Table",
    "context_of",
]

Format = Literal["pdf", "docx", "xlsx", "html", "md"]

_WORDS_AROUND = 3


@dataclass(frozen=True)
class Paragraph:
    text: str

    @property
    def lines(self) -> list[str]:
        """As it can be read."""
        return [self.text]


@dataclass(frozen=True)
class Findings:
    """A list with bullets."""

    items: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """As it can be read, without the bullets."""
        return list(self.items)


@dataclass(frozen=True)
class Table:
    """A table whose first row is its header."""

    rows: tuple[tuple[str, ...], ...]

    @property
    def lines(self) -> list[str]:
        """As it can be read: a line a row."""
        return [" | ".join(row) for row in self.rows]


Block = Paragraph | Findings | Table


@dataclass(frozen=True)
class Mention:
    """A figure that a section states.

    Attributes:
        subject: company, sector, or the house.
        metric: its key, or its name in a memo.
        scope: segment or region, or None.
        period: of the figure.
        value: as sentences have it, with unit.
        evidence: what stands in the section: the value and the words before it, or the cell of the table.
    """

    subject: str
    metric: str
    scope: str | None
    period: Period
    value: str
    evidence: str


@dataclass(frozen=True)
class DraftSection:
    heading: str
    blocks: tuple[Block, ...]
    mentions: tuple[Mention, ...]

    @property
    def text(self) -> str:
        """As it can be read, without the heading."""
        return "\n".join(line for block in self.blocks for line in block.lines)

    @property
    def words(self) -> int:
        """Words and numbers of its text."""
        return len(re.findall(r"\w[\w.,&'’-]*", self.text))


@dataclass(frozen=True)
class Draft:
    """A document before it is written.

    Attributes:
        path: relative, with forward slashes.
        title: names company (or sector, or topic) and period.
        byline: a line under the title.
        company: or None, if it is about a sector or the house.
        period: that it is about.
        format: that it is written in.
        sections: in reading order.
    """

    path: str
    title: str
    byline: str
    company: str | None
    period: Period
    format: Format
    sections: tuple[DraftSection, ...]


def context_of(value: str, sentence: str) -> str:
    """The value with up to three words before it in the sentence, or after it if it comes first.

    Raises:
        ValueError: if the value is not in the sentence.
    """
    found = re.search(rf"(?<![\w.,]){re.escape(value)}(?![\w%]|[.,]\d)", sentence)
    if found is None:
        raise ValueError(f"{value!r} is not in {sentence!r}.")
    before = re.findall(r"\S+\s+", sentence[: found.start()])[-_WORDS_AROUND:]
    if before:
        return "".join(before) + value
    after = re.findall(r"\s+\S+", sentence[found.end() :])[:_WORDS_AROUND]
    return (value + "".join(after)).rstrip(".,;:")
