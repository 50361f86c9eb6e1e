"""Formulas of a page, in a line as one types them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from lxml import etree

from selfaug.retrieval.plain_text import tidy

__all__ = ["formula"]

_ANNOTATIONS = ("annotation", "annotation-xml")
# What stands before the second part of these, and the third: 4.2 over 5 is not 4.25.
_BETWEEN = {
    "mfrac": ("/",),
    "msup": ("^",),
    "msub": ("_",),
    "msubsup": ("_", "^"),
    "munder": ("_",),
    "mover": ("^",),
    "munderover": ("_", "^"),
}
_ROWS = frozenset({"mtr", "mlabeledtr"})
_HAS_PARENTHESES = re.compile(r"\([^()]*\)")


class _Part(NamedTuple):
    """A part of a formula in a line.

    Attributes:
        text: of it.
        kind: "fraction"; "row" of several parts; "other" that are built of parts; or "token", which are not.
    """

    text: str
    kind: str


def formula(math: Any) -> str:
    """As its author wrote it in TeX, where the page says that; else the text of its parts.

    Args:
        math: the element.
    """
    for annotation in math.iterdescendants("annotation"):
        if annotation.get("encoding", "").lower() == "application/x-tex":
            return tidy("".join(annotation.itertext()))
    opened: list[list[_Part]] = [[]]  # of each element that has begun and not ended: its parts
    walk = etree.iterwalk(math, events=("start", "end"))
    for event, element in walk:
        if event == "start":
            text = _text(element)
            opened.append([_Part(text, "token")] if text else [])
            if element.tag in _ANNOTATIONS:
                opened[-1].clear()
                walk.skip_subtree()
            continue
        part = _in_a_line(element, opened.pop())
        after = tidy(element.tail or "") if element is not math else ""
        opened[-1].append(_Part(part.text + after, "row") if after else part)
    return opened[0][0].text


def _text(element: Any) -> str:
    text = element.text or ""
    if element.tag != "mtext":
        return tidy(text)
    # " if " keeps its spaces: nothing else divides it from what is beside it.
    return f"{' ' * text[:1].isspace()}{tidy(text)}{' ' * text[-1:].isspace()}"


def _in_a_line(element: Any, parts: Sequence[_Part]) -> _Part:
    tag = element.tag
    if tag == "msqrt":
        return _Part("√" + _held_together(_row(parts)), "other")
    if tag == "mroot":
        return _Part(f"root({', '.join(part.text for part in parts)})", "other")
    if tag in _BETWEEN:
        signs = ("", *_BETWEEN[tag])
        written = [
            (signs[place] if place < len(signs) else "") + _held_together(part)
            for place, part in enumerate(parts)
        ]
        return _Part("".join(written), "fraction" if tag == "mfrac" else "other")
    if tag == "mfenced":
        inner = ", ".join(part.text for part in parts)
        return _Part(element.get("open", "(") + inner + element.get("close", ")"), "row")
    if tag in _ROWS:
        return _Part(" ".join(part.text for part in parts), "row")
    if tag == "mtable":
        return _Part("; ".join(part.text for part in parts), "row")
    return _row(parts)


def _held_together(part: _Part) -> str:
    """In parentheses what is of several parts, as that of a power, or beneath a fraction's bar."""
    has_some = part.kind in ("row", "fraction") and not _HAS_PARENTHESES.fullmatch(part.text)
    return f"({part.text})" if has_some else part.text


def _row(parts: Sequence[_Part]) -> _Part:
    """Parts beside one another, with a space where two numbers would be read as one: four and a half is not 41/2."""
    shown = [part for part in parts if part.text]
    if len(shown) < 2:
        return shown[0] if shown else _Part("", "token")
    text = shown[0].text
    for before, part in pairwise(shown):
        divided = part.kind == "fraction" or (
            part.text[0].isdigit() and (before.kind, part.kind) != ("token", "token")
        )
        text += (" " if divided and text[-1].isdigit() else "") + part.text
    return _Part(text, "row")
