"""What a report is made of, before it is a page, a text or JSON: one verdict, four tiles, sections, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from selfaug.wording.comparison_results import TextTable

__all__ = [
    "Answer",
    "Answers",
    "Block",
    "Cell",
    "Chart",
    "HeatedText",
    "Outcome",
    "Report",
    "Section",
    "Summary",
    "Table",
    "Text",
    "Tile",
    "of_texts",
]

Outcome = Literal["good", "mixed", "bad", "open"]
"""Of what a report is about: as hoped, in part, not, or not known."""


class Tile(NamedTuple):
    """A measure in large, with its interval or what it is compared with in small."""

    name: str
    value: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Text:
    """A paragraph; a badge before it says an outcome in a word."""

    text: str
    badge: str = ""

    kind: ClassVar[Literal["text"]] = "text"


class Cell(NamedTuple):
    """A value, its interval or explanation in small, and perhaps bars: heights in percent, from left to right."""

    value: str
    note: str = ""
    bars: Sequence[int] = ()


@dataclass(frozen=True)
class Table:
    """The first column names the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    kind: ClassVar[Literal["table"]] = "table"


@dataclass(frozen=True)
class Chart:
    """A picture with what it takes to read it without seeing it.

    Attributes:
        name: heading.
        about: what it shows and how to read it, in a sentence.
        svg: without namespace, to stand in an HTML page.
        columns: names of the data table's columns.
        rows: the numbers of the picture, as texts.
    """

    name: str
    about: str
    svg: str
    columns: list[str]
    rows: list[list[str]]

    kind: ClassVar[Literal["chart"]] = "chart"


class Answer(NamedTuple):
    """What a model answered; `key` is its colour and mark: base, plain, selfaug or other."""

    key: str
    label: str
    text: str
    badges: Sequence[str] = ()


@dataclass(frozen=True)
class Answers:
    """One request and the answers of several models, side by side."""

    title: str
    prompt: str
    answers: Sequence[Answer]
    opened: bool = False

    kind: ClassVar[Literal["answers"]] = "answers"


@dataclass(frozen=True)
class HeatedText:
    """A text, token by token, with how far the model's expectation of each has moved.

    Attributes:
        title: what text it is.
        tokens: as texts.
        nats: of each; None where it was not measured.
        farthest: the tokens that moved most, in words, for who can't see the heat.
        opened: whether it is shown at once.
    """

    title: str
    tokens: Sequence[str]
    nats: Sequence[float | None]
    farthest: str
    opened: bool = False

    kind: ClassVar[Literal["heat"]] = "heat"


Block = Text | Table | Chart | Answers | HeatedText


class Section(NamedTuple):
    """A heading, what it is about, and what stands under it."""

    title: str
    about: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Summary:
    """What is said first of a run, a comparison or another record.

    Attributes:
        kind: of the record: train, comparison, balance, assessment or demo.
        name: what it is about, in a few words.
        outcome: see there.
        verdict: one sentence that someone who trains no models understands.
        tiles: task gain, retention, drift and cost, as far as they are known.
    """

    kind: str
    name: str
    outcome: Outcome
    verdict: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Report(Summary):
    """All that is shown.

    Attributes:
        sections: in the order in which they are read.
        provenance: where the numbers come from: names and values.
        made_by: the command whose record this is.
    """

    sections: Sequence[Section]
    provenance: Sequence[tuple[str, str]]
    made_by: str


def of_texts(table: TextTable, title: str | None = None) -> Table:
    """A table of texts as a table of cells."""
    rows = [[Cell(cell) for cell in row] for row in table.rows]
    return Table(table.title if title is None else title, table.columns, rows, table.caption)
