"""Texts taken apart for checks: words, numbers, sentences, paragraphs, items of lists."""

from __future__ import annotations

import re

from selfaug.core.digits import plain_digits
from selfaug.eval.plain_latex import plain_latex
from selfaug.eval.text_scorers import HANGUL, contains
from selfaug.retrieval.plain_text import UNSPACED

__all__ = [
    "bullets",
    "folded",
    "is_number",
    "mentions",
    "numbered_items",
    "numbers",
    "paragraphs",
    "plain_number",
    "sentences",
    "without_item_number",
    "words",
]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
# A number with its thousands separators; a full stop or comma that only ends the clause is not part of it. A comma is
# one of decimals before one or two last digits ("3,5"), after a zero ("0,125"), and where points, spaces that forbid a
# break or apostrophes divide thousands; in "1,2,3" it is none, nor after a year ("in 2022,15 people").
_DIGITS = r"""
    [-−\u2010\u2011]?
    (?:
        (?!0,)\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?
      | \d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?
      | \d{1,3}(?:['’\u00a0\u202f\u2009]\d{3})+(?!\d)(?:[.,]\d+)?
      | \d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)
      | \d{1,3}(?:\.\d{3}){2,}(?!\.?\d)
      | (?<!\d,)(?!(?:19|20)\d\d,)(?:\d+,\d{1,2}|0,\d+)(?![.,]?\d)
      | \d+(?:\.\d+)?
      | \.\d+
    )
"""
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}", re.VERBOSE)
# Directly beside letters of Japanese, Chinese and Thai; behind some it is the number of something: 第3, 表3, ステップ3.
_NUMBER_BESIDE = re.compile(
    rf"(?<![^\W{UNSPACED}])(?<![.\u30a1-\u30fc第表図图注題题問问例式頁页章节節源典料献録录步歩骤驟段条條項项号號])"
    rf"(?<!ที่)(?<!หน้า)(?<!ข้อ){_DIGITS}",
    re.VERBOSE,
)
_APART = re.compile(r"['’\u00a0\u202f\u2009]")
_BULLET = re.compile(r"^\s*(?:\*\*)?[-*•–+]\s+(?=.*\w)", re.MULTILINE)
_NUMBERED = re.compile(
    r"^\s*(?:[#*]+\s*)?(?:step\s+\d{1,2}(?:\*\*)?\s*[.):–—-]|\(?\d{1,2}(?:\*\*)?\s*[.):])(?!\d)\s*(?:\*\*\s*)?"
    r"(?=.*[^\W\d])",
    re.MULTILINE | re.I,
)
_TITLE = re.compile(r"[\s#*_]*<<.*>>[\s*_]*")
_POSTSCRIPT = re.compile(r"\W*p\.?\s?s\b", re.I)
# Not where a sentence goes on after what is said in it: "Who is there?" asked the fox.
# Chinese and Japanese put no space behind its end.
_SENTENCE_END = re.compile(
    r"(?<=[.!?…])(?:\**\s+|[\"'”’)*]+\s++(?![a-z]))|(?<=[。！？])\s*(?![。！？」』”’\"')）*\s])|\n+"
)
# Abbreviations whose full stop does not end a sentence, and those that may be its last word.
_ABBREVIATION = re.compile(
    r"\b(Mr|Mrs|Ms|Dr|Prof|St|vs|e\.g|i\.e|(?:etc|a\.m|p\.m|U\.S|U\.K|Inc|Ltd|approx)(?=\.\s+(?-i:[a-z\d]))|"
    r"No(?=\.\s+\d))\.",
    re.I,
)
# Letters of words that stand within longer ones: no space is beside them, or an ending of Korean is behind them.
_WITHIN_OTHERS = re.compile(f"[{UNSPACED}{HANGUL}]")
# Words of other scripts have no other letter beside them, but one of a script without spaces. Patterns with so many
# letters take a hundred times as long to make, so texts without these letters have simple ones.
_UNSPACED = re.compile(f"[{UNSPACED}]")
_NOT_BESIDE_LETTERS = (r"(?<!\w)", r"(?!\w)")
_BESIDE_UNSPACED = (rf"(?<![^\W{UNSPACED}])", rf"(?![^\W{UNSPACED}])")


def words(text: str) -> list[str]:
    """Words of letters; digits and signs are none."""
    return _WORD.findall(text)


def numbers(text: str, *, beside_letters: bool = False) -> list[str]:
    """Numbers as written, without thousands separators and useless zeros (`1,536.0` is `1536`, `.5` is `0.5`).

    Decimals after a comma and other signs between thousands are read where they can be nothing else, or hardly
    (`3,5`, `1.234,56`, `1'234`), `1{,}234` as LaTeX means it; `1.234` is less than two.

    Args:
        text: any text.
        beside_letters: where no number stands apart, take those directly beside letters of Japanese, Chinese and Thai
            (`答案是12`).
    """
    plain = plain_digits(plain_latex(text))
    found = _NUMBER.findall(plain)
    if not found and beside_letters:
        found = _NUMBER_BESIDE.findall(plain)
    return [plain_number(number) for number in found]


def is_number(text: str) -> bool:
    """Whether a text is a number, as `numbers` reads it, and nothing else."""
    return _NUMBER.fullmatch(plain_digits(text.strip())) is not None


def bullets(text: str) -> list[str]:
    """Lines that start with a bullet (-, *, •, –, +), without it."""
    return [
        line[match.end() :].strip() for line in _opened(text).splitlines() if (match := _BULLET.match(line))
    ]


def numbered_items(text: str) -> list[str]:
    """Lines that start with a number (`1.`, `(2)`, `**3.`, `Step 4:`), without it; a bullet may stand before it."""
    lines = [_BULLET.sub("", line) for line in _opened(text).splitlines()]
    return [line[match.end() :].strip() for line in lines if (match := _NUMBERED.match(line))]


def sentences(text: str) -> list[str]:
    """Pieces with a word or more that end with . ! ? or a line break, but no title; marks of list items are cut off."""
    lines = [_NUMBERED.sub("", _BULLET.sub("", line)) for line in _opened(text).splitlines()]
    joined = _ABBREVIATION.sub(r"\1", "\n".join(line for line in lines if not _TITLE.fullmatch(line)))
    return [piece.strip() for piece in _SENTENCE_END.split(joined) if words(piece)]


def paragraphs(text: str) -> list[str]:
    """Blocks of text with an empty line between them; a title and a postscript are none."""
    lines = [line for line in _opened(text).splitlines() if not _TITLE.fullmatch(line)]
    blocks = [block.strip() for block in re.split(r"\n\s*\n", "\n".join(lines)) if words(block)]
    return [block for block in blocks if not _POSTSCRIPT.match(block)]


def _opened(text: str) -> str:
    """Without the quotation mark that opens the whole text: what stands after it may be a list's first item."""
    return re.sub(r'\A\s*["“”„«]\s*', "", text)


def without_item_number(line: str) -> str:
    """A line without the number of a list's item that it begins with; a bullet may stand before that."""
    return _NUMBERED.sub("", _BULLET.sub("", line))


def folded(text: str) -> str:
    """Lower case, with single spaces and straight quotes."""
    straight = text.translate(str.maketrans("“”‘’", "\"\"''"))
    return " ".join(straight.lower().split())


def mentions(text: str, word: str) -> bool:
    """Whether a word is in a text, or its plural; of one that ends in `*`, any word with that beginning.

    Words of Japanese, Chinese, Thai and Korean are looked for as `contains` does.
    """
    stem, word = word.endswith("*"), folded(word.rstrip("*"))
    ending = r"\w*" if stem else r"(?:e?s|'s)?"
    if _WITHIN_OTHERS.search(word):
        return (
            contains(text, word)
            or re.search(rf"(?<!\w){re.escape(word)}{ending}(?!\w)", folded(text)) is not None
        )
    before, after = _BESIDE_UNSPACED if _UNSPACED.search(text) else _NOT_BESIDE_LETTERS
    return re.search(rf"{before}{re.escape(word)}{ending}{after}", folded(text)) is not None


def plain_number(text: str) -> str:
    """A number without thousands separators and useless zeros, with a point before its decimals."""
    whole, comma, decimals = text.rpartition(",")
    of_decimals = len(decimals) < 3 or whole.lstrip("-−\u2010\u2011") == "0"
    if comma and (of_decimals or "." in whole or _APART.search(whole)):
        text = f"{whole.replace('.', '')}.{decimals}"
    elif text.count(".") > 1:
        text = text.replace(".", "")
    plain = re.sub("[−\u2010\u2011]", "-", _APART.sub("", text.replace(",", "")))
    plain = re.sub(r"^(-?)\.", r"\g<1>0.", plain)
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
