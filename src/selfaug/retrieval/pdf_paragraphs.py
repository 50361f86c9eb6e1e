"""From the lines of a PDF's pages to headings and paragraphs; running headers and footers are left out."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfaug.retrieval.document import Block
from selfaug.retrieval.pdf_lines import HYPHEN, Line
from selfaug.retrieval.plain_text import EAST_ASIAN, joined, tidy
from selfaug.retrieval.table_text import is_figure

__all__ = ["Style", "document_style", "is_heading", "page_blocks", "running_lines"]

HEADING_FROM = 1.12
"""Times the size of most letters."""

LONGEST_HEADING = 160
MOST_HEADINGS = 0.3
"""Of all letters; a document with more of them in large type is not one whose sizes say what headings are."""

_CERTAIN_HEADING = 1.3  # times the size of most letters: larger than page numbers are set
_PAGES_THAT_REPEAT = 0.4  # left and right pages may differ
_EDGE_LINES = 2
_MARK = re.compile(r"(?:[•‣▪●◦■□○➢✓–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
_BULLET = re.compile(r"[•‣▪●◦■□○➢✓]\s+")
_LEADERS = re.compile(r"(?:\. ?){4}|…\s*\d+$")
_NUMBER = re.compile(r"\d+")
_YEAR = re.compile(r"(19|20)\d\d")
_COMPOUND = re.compile(r"[^\W\d_]+-[^\W\d_]+")
_WORD = re.compile(rf"[^{EAST_ASIAN}\u3001-\u301b\uff01-\uff1f]+|.")  # up to where a line may end
_SENTENCE_ENDS = (".", "!", "?", ":", "。", "！", "？", "：")
_CLOSING = "\"'”’)」』）"
_BROKEN = re.compile(rf"([\w'’-]*)\s*{HYPHEN}\s*(\w*)")


@dataclass(frozen=True)
class Style:
    """What holds for a whole document.

    Attributes:
        size: of most letters, in points; 0 where there are none.
        levels: of headings, by the size of their letters.
        leading: usual distance of one baseline from the next, as a multiple of the size.
        compounds: words that have a hyphen within a line, in lower case.
    """

    size: float
    levels: dict[float, int]
    leading: float
    compounds: frozenset[str]


def document_style(lines: Sequence[Line]) -> Style:
    """Style of a document from all of its lines."""
    letters = _letters_by_size(lines)
    body = _body_size(letters)
    large = {line.size for line in lines if _may_be_heading(line) and line.size >= HEADING_FROM * body > 0}
    if sum(letters[size] for size in large) > MOST_HEADINGS * sum(letters.values()):
        large = set()
    steps = [
        (above.bottom - below.top) / below.size
        for above, below in pairwise(lines)
        if above.size == below.size == body > 0 and 0.8 < (above.bottom - below.top) / below.size < 2.5
    ]
    broken = any(HYPHEN in line.text or line.text.endswith("-") for line in lines)
    compounds = (word.lower() for line in lines for word in _COMPOUND.findall(line.text)) if broken else ()
    return Style(
        body,
        {size: min(level, 6) for level, size in enumerate(sorted(large, reverse=True), start=1)},
        statistics.median(steps) if steps else 1.2,
        frozenset(compounds),
    )


def _letters_by_size(lines: Iterable[Line]) -> Counter[float]:
    letters: Counter[float] = Counter()
    for line in lines:
        letters[line.size] += len(line.text)
    return letters


def _body_size(letters: Counter[float]) -> float:
    return letters.most_common(1)[0][0] if letters else 0.0


def _may_be_heading(line: Line) -> bool:
    return (
        len(line.text) <= LONGEST_HEADING
        and any(map(str.isalpha, line.text))
        and not _LEADERS.search(line.text)  # an entry of a table of contents
    )


def is_heading(line: Line, style: Style) -> bool:
    """Whether a line is a heading, or a part of one."""
    return line.size in style.levels and _may_be_heading(line)


def running_lines(pages: Sequence[Sequence[Line]]) -> set[int]:
    """`id`s of lines at the upper or lower edge that return on most pages, counting page numbers included.

    A heading that counts ("Chapter 3" on page 3) is told from a page number by its letters and by what is below it.
    """
    places: dict[tuple[str, float], set[int]] = {}
    edges = [(number, line) for number, lines in enumerate(pages) for line in _edge_lines(lines)]
    large = _CERTAIN_HEADING * _body_size(_letters_by_size(line for lines in pages for line in lines))
    lowest = [min((line.top for line in lines), default=0.0) for lines in pages]

    def keys(line: Line, number: int) -> Iterator[str]:
        yield line.text
        if not (line.size >= large and line.top > lowest[number] and _may_be_heading(line)):
            yield from _without_page_number(line.text, number)

    for number, line in edges:
        for key in keys(line, number):
            places.setdefault((key, line.size), set()).add(number)
    enough = max(3, _PAGES_THAT_REPEAT * sum(map(bool, pages)))
    return {
        id(line)
        for number, line in edges
        if any(len(places[key, line.size]) >= enough for key in keys(line, number))
    }


def _edge_lines(lines: Sequence[Line]) -> Iterable[Line]:
    by_height = sorted(lines, key=lambda line: -line.top)
    return {id(line): line for line in by_height[:_EDGE_LINES] + by_height[-_EDGE_LINES:]}.values()


def _without_page_number(text: str, page: int) -> Iterator[str]:
    """The text with its first or last number as a distance from the page's: a data row keeps its own.

    A year is no page number: a page each for 2021, 2022 and 2023 begins with what counts as the pages do.
    """
    numbers = list(_NUMBER.finditer(text))
    for found in {numbers[0], numbers[-1]} if numbers else ():
        if len(found[0]) < 6 and not _YEAR.fullmatch(found[0]):
            yield f"{text[: found.start()]}<{int(found[0]) - page}>{text[found.end() :]}"


def page_blocks(lines: Sequence[Line], page: int, style: Style) -> Iterator[Block]:
    """Headings and paragraphs of a run of lines in reading order.

    Args:
        lines: of one page.
        page: its number, from 1.
        style: of the document.
    """
    for run in _runs(lines, style):
        level = style.levels.get(run[0].size, 0) if all(map(_may_be_heading, run)) else 0
        if level:
            text = joined(line.text for line in run)
            yield Block("heading", tidy(_mended(text, style)), level=level, page=page)
            continue
        for paragraph in _paragraphs(run):
            parts = (tidy(_mended(part, style)) for part in paragraph)
            if text := "\n".join(part for part in parts if part):
                yield Block("text", text, page=page)


def _runs(lines: Sequence[Line], style: Style) -> Iterator[list[Line]]:
    """Lines that follow one another at the usual distance, in letters of about the same size."""
    run: list[Line] = []
    for line in lines:
        if run and not _follows(run[-1], line, style):
            yield run
            run = []
        run.append(line)
    if run:
        yield run


def _follows(above: Line, below: Line, style: Style) -> bool:
    if style.levels.get(above.size, 0) != style.levels.get(below.size, 0):
        return False
    step = (above.bottom - below.top) / max(below.size, 1.0)
    same_row = abs(step) < 0.3 and below.left >= above.right - 1
    beneath = 0 < step < 1.25 * style.leading and below.left < above.right
    return same_row or (beneath and max(above.size, below.size) < 1.3 * min(above.size, below.size))


def _paragraphs(run: Sequence[Line]) -> Iterator[list[str]]:
    """Paragraphs of a run, each as the lines that it keeps: items of a list, rows of a table without rules."""
    left, right = min(line.left for line in run), max(line.right for line in run)
    kept = [_unmarked(run[0].text)]
    in_item = bool(_MARK.match(run[0].text))
    for above, line in pairwise(run):
        begins_item = bool(_BULLET.match(line.text)) or (
            bool(_MARK.match(line.text))
            and (in_item or above.text.endswith(":") or _ended(above, line, right))
        )
        indented = not in_item and line.left > left + 0.8 * line.size and above.left <= left + 0.5 * line.size
        if abs(above.bottom - line.top) < 0.3 * line.size:
            kept[-1] += " " + line.text
        elif begins_item or _rows_of_figures(above, line):
            kept.append(_unmarked(line.text))
            in_item = in_item or begins_item
        elif indented or (
            _ended(above, line, right) and above.text.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
        ):
            yield kept
            kept, in_item = [line.text], False
        elif _ended(above, line, right):
            kept.append(line.text)
        else:
            kept[-1] = _continued(kept[-1], line.text)
    yield kept


def _unmarked(text: str) -> str:
    return _BULLET.sub("- ", text, count=1) if _BULLET.match(text) else text


def _ended(above: Line, below: Line, right: float) -> bool:
    """Whether a line was ended on purpose: the first word of the next one would have had room on it."""
    word = next(_WORD.finditer(below.text.split(maxsplit=1)[0]))[0]
    width = (below.right - below.left) * (len(word) + 1) / max(len(below.text), 1)
    return above.right + max(width, 0.0) + 0.5 * below.size < right


def _rows_of_figures(above: Line, below: Line) -> bool:
    """Whether both lines look like rows of a table without rules: several words, of which the last is a number."""
    words = (above.text.split(), below.text.split())
    return all(len(line) > 1 and (is_figure(line[-1]) or line[-1].isdecimal()) for line in words)


def _continued(text: str, more: str) -> str:
    if text.endswith("-") and text[-2:-1].isalpha() and more[:1].islower():
        return text[:-1] + HYPHEN + more
    return joined((text, more))


def _mended(text: str, style: Style) -> str:
    """Words that were divided at the end of a line are made whole; compounds keep their hyphen."""

    def whole(found: re.Match[str]) -> str:
        left, right = found[1], found[2]
        first = re.findall(r"[^\W\d_]+", left)[-1:] or [""]
        second = re.match(r"[^\W\d_]*", right)
        compound = f"{first[0]}-{second[0] if second else ''}".lower()
        divided = left[-1:].isalpha() and right[:1].islower() and compound not in style.compounds
        return left + ("" if divided else "-") + right

    return _BROKEN.sub(whole, text) if HYPHEN in text else text
