"""The numbers and bullets that Word puts before paragraphs, as it shows them: no paragraph's text has them.

A paragraph, or its style, names a list (`num`), which is of a kind (`abstractNum`) that says for each of nine levels
how it counts. Lists of one kind go on counting where the other one ended, unless one says with which number it starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from selfaug.retrieval.docx_styles import W, bases_of, is_on, value, with_bases
from selfaug.retrieval.list_numbers import roman
from selfaug.retrieval.plain_text import tidy

__all__ = ["BULLET", "ListMark", "ParagraphNumbers"]

BULLET = "- "

_DEEPEST = 8
_GONE = tuple(f"{W}rPr/{W}{name}" for name in ("del", "moveFrom", "vanish"))
_MOST_LETTERS = 20
_PLACE = re.compile(r"%([1-9])")


class ListMark(NamedTuple):
    """What stands before a paragraph.

    Attributes:
        depth: of its list, from 0.
        text: the number or bullet with a space after it; empty for an item that is shown without.
    """

    depth: int
    text: str


@dataclass(frozen=True, slots=True)
class _Level:
    """How a level counts.

    Attributes:
        start: its first number.
        format: Word's name for how a number is written.
        text: of the whole mark, with `%1` for the number of the first level, and so on.
        restart: it begins anew after a paragraph of this level or one above, from 1; 0 for never, None for all above.
        is_legal: whether all numbers in it are digits.
        style: that has this level; empty if none has.
    """

    start: int
    format: str
    text: str
    restart: int | None
    is_legal: bool
    style: str


@dataclass(frozen=True, slots=True)
class _List:
    """A list: the kind it is of, its levels, and the levels that don't go on from another list, with their starts."""

    kind: str
    levels: dict[int, _Level]
    begins_anew: dict[int, int]


class ParagraphNumbers:
    """Counts the paragraphs of a document, which have to come in its order, those without text too.

    Args:
        numbering: root of the part that has the lists; None if there is none.
        styles: root of the part that has the styles.
    """

    def __init__(self, numbering: Any, styles: Any) -> None:
        self._bases = bases_of(styles)
        found = {
            style.get(W + "styleId", ""): style.find(f"{W}pPr/{W}numPr") for style in styles.iter(W + "style")
        }
        self._of_styles = {style: properties for style, properties in found.items() if properties is not None}
        self._lists = {} if numbering is None else self._read(numbering)
        self._counts: dict[str, list[int | None]] = {}
        self._begun: set[tuple[str, int]] = set()

    def next(self, paragraph: Any, *, has_text: bool = True) -> ListMark | None:
        """What stands before the next paragraph; None if it is in no list.

        Args:
            paragraph: of the document.
            has_text: whether there is some to be read in it; without any one that is hidden or deleted isn't counted.
        """
        properties = paragraph.find(W + "pPr")
        if properties is None or (not has_text and _is_gone(properties)):
            return None
        own = properties.find(W + "numPr")
        styles = list(with_bases(value(properties.find(W + "pStyle")), self._bases))
        of_styles = [self._of_styles[style] for style in styles if style in self._of_styles]
        said = [*([] if own is None else [own]), *of_styles]
        if not said:
            return None
        name = _first(said, "numId")
        if name == "0":  # numbering switched off
            return None
        listed = self._lists.get(name)
        level = _level_number(_first(said[:1], "ilvl")) if own is not None else None
        if level is None and listed is not None:
            level = _linked_level(listed, styles)
        if level is None:
            level = _level_number(_first(of_styles, "ilvl")) or 0
        if listed is None or level not in listed.levels:
            return ListMark(level, BULLET)
        return ListMark(level, self._mark(name, listed, level))

    def _mark(self, name: str, listed: _List, level: int) -> str:
        counts = self._counts.setdefault(listed.kind, [None] * (_DEEPEST + 1))
        before = counts[level]
        begins = level in listed.begins_anew and (name, level) not in self._begun
        self._begun.add((name, level))
        counts[level] = _start(listed, level) if begins or before is None else before + 1
        for deeper in range(level + 1, _DEEPEST + 1):
            restart = listed.levels[deeper].restart if deeper in listed.levels else None
            if restart is None or level < restart:
                counts[deeper] = None
        own = listed.levels[level]
        if own.format == "bullet":
            return BULLET

        def number(place: re.Match[str]) -> str:
            of = int(place[1]) - 1
            count = counts[of]
            written = "decimal" if own.is_legal or of not in listed.levels else listed.levels[of].format
            return _written(_start(listed, of) if count is None else count, written)

        text = tidy(_PLACE.sub(number, own.text))
        return f"{text} " if text else ""

    def _read(self, numbering: Any) -> dict[str, _List]:
        kinds = {kind.get(W + "abstractNumId", ""): kind for kind in numbering.iter(W + "abstractNum")}
        lists = {one.get(W + "numId", ""): one for one in numbering.iter(W + "num")}
        found = {}
        for name, one in lists.items():
            kind = value(one.find(W + "abstractNumId"))
            style = value(kinds[kind].find(W + "numStyleLink")) if kind in kinds else ""
            if style in self._of_styles:  # its levels are those of a style's list
                linked = lists.get(_first([self._of_styles[style]], "numId"))
                kind = kind if linked is None else value(linked.find(W + "abstractNumId"))
            if kind in kinds:
                found[name] = _list(kind, kinds[kind], one)
        return found


def _list(kind: str, described: Any, one: Any) -> _List:
    levels = dict(_levels(described))
    begins_anew = {}
    for override in one.findall(W + "lvlOverride"):
        levels |= dict(_levels(override))
        level = _level_number(override.get(W + "ilvl", ""))
        start = _whole(value(override.find(W + "startOverride")))
        if level is not None and level in levels and start is not None:
            levels[level] = replace(levels[level], start=start)
            begins_anew[level] = start
    return _List(kind, levels, begins_anew)


def _levels(parent: Any) -> Iterator[tuple[int, _Level]]:
    for element in parent.findall(W + "lvl"):
        level = _level_number(element.get(W + "ilvl", ""))
        if level is None:
            continue
        yield (
            level,
            _Level(
                start=_whole(value(element.find(W + "start"))) or 0,
                # One of Word's newer formats stands beside an older one that is meant for other programs.
                format=value(next(element.iter(W + "numFmt"), None)) or "decimal",
                text=value(element.find(W + "lvlText")),
                restart=_whole(value(element.find(W + "lvlRestart"))),
                is_legal=is_on(element.find(W + "isLgl")),
                style=value(element.find(W + "pStyle")),
            ),
        )


def _linked_level(listed: _List, styles: list[str]) -> int | None:
    """The level that the list has for a style, or the nearest one that it is based on."""
    linked = {level.style: number for number, level in listed.levels.items() if level.style}
    return next((linked[style] for style in styles if style in linked), None)


def _start(listed: _List, level: int) -> int:
    return listed.levels[level].start if level in listed.levels else 1


def _first(said: list[Any], name: str) -> str:
    """The first value of this name."""
    return next(filter(None, (value(properties.find(W + name)) for properties in said)), "")


def _is_gone(properties: Any) -> bool:
    return any(is_on(properties.find(path)) for path in _GONE)


def _level_number(text: str) -> int | None:
    number = _whole(text)
    return None if number is None else min(number, _DEEPEST)


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 9 else None


def _written(number: int, name: str) -> str:
    """A number in one of Word's formats; in digits where that is none of these."""
    return _FORMATS.get(name, str)(number)


def _repeated_letter(number: int) -> str:
    """As Word counts: a to z, aa, bb, and so on."""
    if number < 1:
        return str(number)
    times, place = divmod(number - 1, 26)
    return chr(ord("a") + place) * min(times + 1, _MOST_LETTERS)


_FORMATS: dict[str, Callable[[int], str]] = {
    "decimalZero": "{:02}".format,
    "lowerLetter": _repeated_letter,
    "upperLetter": lambda number: _repeated_letter(number).upper(),
    "lowerRoman": roman,
    "upperRoman": lambda number: roman(number).upper(),
    "bullet": lambda _: "",
    "none": lambda _: "",
}
