"""A report as Markdown and as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from selfaug.core.printable import printable
from selfaug.report.document import Answers, Block, Cell, Chart, HeatedText, Report, Table

__all__ = ["document_json", "document_markdown"]

_SIGNS = {"good": "✓", "mixed": "◐", "bad": "✗", "open": "?"}
_MOST_CHARACTERS = 4_000

# Signs of Markdown, of HTML, and of addresses that readers of Markdown make links of by themselves.
_SIGN = re.compile(r"[\\`*_\[\]<>|#~&]|(?<=http):|(?<=https):|(?<=www)\.", re.IGNORECASE)


def document_markdown(report: Report) -> str:
    """A report as Markdown: pictures as their tables, texts of models in fences."""
    parts = [f"# {_line(report.name)}", f"**{_SIGNS[report.outcome]} {_line(report.verdict)}**"]
    if report.tiles:
        rows = [[tile.name, tile.value, "; ".join(tile.notes)] for tile in report.tiles]
        parts.append(_table(["", "", ""], rows))
    for section in report.sections:
        parts.append(f"## {_line(section.title)}")
        if section.about:
            parts.append(_paragraph(section.about))
        for block in section.blocks:
            parts += _block(block)
    parts.append("## Where these numbers come from")
    parts.append("\n".join(f"- {_line(name)}: {_line(value)}" for name, value in report.provenance))
    parts.append(f"Made by `{report.made_by}`.")
    return "\n\n".join(parts) + "\n"


def document_json(report: Report) -> dict[str, Any]:
    """A report as JSON values: the numbers of pictures, without the pictures."""
    values = asdict(report)
    values["tiles"] = [tile._asdict() for tile in report.tiles]
    values["provenance"] = [{"name": name, "value": value} for name, value in report.provenance]
    values["sections"] = [
        {
            "title": section.title,
            "about": section.about,
            "blocks": [_values(block) for block in section.blocks],
        }
        for section in report.sections
    ]
    return values


def _values(block: Block) -> dict[str, Any]:
    values = {"kind": block.kind, **asdict(block)}
    values.pop("svg", None)
    if isinstance(block, Table):
        values["rows"] = [[cell._asdict() for cell in row] for row in block.rows]
    elif isinstance(block, Answers):
        values["answers"] = [answer._asdict() for answer in block.answers]
    return values


def _block(block: Block) -> list[str]:
    if isinstance(block, Table):
        rows = [[_cell(cell) for cell in row] for row in block.rows]
        return [
            *([f"### {_line(block.title)}"] if block.title else []),
            _table(block.columns, rows),
            *([_paragraph(block.caption)] if block.caption else []),
        ]
    if isinstance(block, Chart):
        return [f"### {_line(block.name)}", _paragraph(block.about), _table(block.columns, block.rows)]
    if isinstance(block, Answers):
        return _answers(block)
    if isinstance(block, HeatedText):
        return [_paragraph(f"{block.title}: farthest, in nats: {block.farthest}")] if block.farthest else []
    return [_paragraph(f"{f'{block.badge}: ' if block.badge else ''}{block.text}")]


def _answers(block: Answers) -> list[str]:
    parts = [f"### {_line(block.title)}", _fenced(block.prompt)]
    for answer in block.answers:
        badges = f" ({', '.join(map(_line, answer.badges))})" if answer.badges else ""
        parts += [f"{_paragraph(answer.label)}{badges}:", _fenced(answer.text)]
    return parts


def _cell(cell: Cell) -> str:
    return f"{cell.value} ({cell.note})" if cell.value and cell.note else cell.value or cell.note


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_line, columns)) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(_line, row)) + " |" for row in rows)])


def _line(text: str) -> str:
    """A text in one line, where nothing in it is markup."""
    flat = " ".join(printable(text[:_MOST_CHARACTERS]).split())
    return _SIGN.sub(r"\\\g<0>", flat)


def _paragraph(text: str) -> str:
    """The same at the beginning of a line, where it could begin a list or underline the line before."""
    return re.sub(r"^(\d*)([-+=]|(?<=\d)[.)](?=\s))", r"\1\\\2", _line(text))


def _fenced(text: str) -> str:
    """A text as it is, in a fence longer than any in it."""
    shown = printable(text[:_MOST_CHARACTERS])
    longest = max((len(found) for found in re.findall(r"`{3,}", shown)), default=2)
    cut = f"\n… cut off here: {len(text):,} characters" if len(text) > _MOST_CHARACTERS else ""
    fence = "`" * (longest + 1)
    return f"{fence}text\n{shown}{cut}\n{fence}"
