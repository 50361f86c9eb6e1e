"""Numbered sources that an answer cites, and whether they are the right ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from selfaug.eval.amounts import CITATION, SPAN

__all__ = ["CitationScores", "citation_scores", "cited_sources", "same_value"]


class CitationScores(NamedTuple):
    """How well an answer's sources are those of the gold, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


_SOURCES = re.compile(rf"(\d+)(?:\s*{SPAN}\s*#?(\d+))?", re.IGNORECASE)
_LONGEST_SPAN = 19


def citation_scores(answer: str, gold: str | Iterable[int]) -> CitationScores:
    """Precision, recall and F1 of the numbered sources that an answer cites.

    They are cited like `[2]`, `[1, 3]`, `[1-3]`, `[Passage 2]`, `(Source 2)`, `passage 2` or `Sources: 1 and 3`, with
    such words in other languages too (`[Quelle 2]`, `出典：２`, `[2、3]`), and numbered from 1: `[0]` cites none. Nor
    do subscripts and lists of code between backticks ("row[2]", "x = [2]", "f([2])"), nor what is directly behind
    `argv`, `args` or `arr` anywhere. All else is a source, as in "Europe[2]", so that "row[2]" is one too where no
    backticks are.

    An answer that cites nothing has precision 0, unless gold cites nothing either: then all are 1.

    Args:
        answer: any text.
        gold: numbers of the right sources, or a text that cites them.
    """
    cited = cited_sources(answer)
    right = cited_sources(gold) if isinstance(gold, str) else set(gold)
    if not cited and not right:
        return CitationScores(1.0, 1.0, 1.0)
    hits = len(cited & right)
    precision = hits / len(cited) if cited else 0.0
    recall = hits / len(right) if right else 0.0
    return CitationScores(precision, recall, 2 * hits / (len(cited) + len(right)))


# "``Net income'' rose [1]" has quotation marks of TeX.
_CODE = re.compile(r"```.*?(?:```|\Z)|(?<!`)`(?!`)[^`\n]+`(?!`)", re.DOTALL)
_SUBSCRIPT = re.compile(r"\b(?:argv|args|arr)\[")
# "x = row[1]", "f(x)[1]", "x = [1]", "f([1])"; "30 days[1]" and "ANSWER: yes[1]" are text, in code formatting too.
_SUBSCRIPT_OF_CODE = re.compile(
    r"(?<![\w:.|] )(?<!\w)[a-z_]\w*(?:\[[^\[\]\n]*\]|\([^()\n]*\))*\[|(?:=\s?|\w\()\["
)
_NO_BRACKET = "\0"


def _without_subscripts(text: str) -> str:
    """A text in which lists and subscripts of code have another sign for their bracket, so that none is a source."""

    def closed(found: re.Match[str]) -> str:
        return found[0].replace("[", _NO_BRACKET)

    def of_code(found: re.Match[str]) -> str:
        return _SUBSCRIPT_OF_CODE.sub(closed, found[0])

    return _SUBSCRIPT.sub(closed, _CODE.sub(of_code, text))


# Letters, digits and signs of full width, and katakana of half width.
_OF_OTHER_WIDTH = re.compile("[\uff01-\uffee]+")


def _of_one_width(text: str) -> str:
    """A text without those; all else stays: 10² is not 102."""
    return _OF_OTHER_WIDTH.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)


def same_value(answer: str, gold: str) -> bool:
    """Whether an answer is the gold but for case, spaces, width of letters, and which sources it cites: the value, in
    its form.
    """

    def bare(text: str) -> str:
        plain = "".join(CITATION.sub("", _without_subscripts(_of_one_width(text))).split())
        return unicodedata.normalize("NFC", plain).casefold()  # an accent may be a character of its own

    return bare(answer) == bare(gold)


def cited_sources(text: str) -> set[int]:
    """Numbers of the sources that a text cites, as in `citation_scores`."""
    found: set[int] = set()
    for match in CITATION.finditer(_without_subscripts(_of_one_width(text))):
        for first, last in _SOURCES.findall(match["marks"] or match["several"] or match["one"]):
            begin, end = int(first), int(last or first)
            # A span of more is none of sources.
            found |= {begin, end} | (set(range(begin, end)) if end - begin <= _LONGEST_SPAN else set())
    return found - {0}
