"""Text to the words that are searched for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

import bm25s
import Stemmer

from selfaug.errors import ConfigError
from selfaug.retrieval.glossary import Glossary
from selfaug.retrieval.plain_text import UNSPACED

__all__ = ["Words"]

# Numbers stay whole: "1,536.5" is one word, and a dot at the end of a sentence is not a part of it.
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{UNSPACED}]+|[^\W{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD_BEFORE = re.compile(r"\d+(?:[.,]\d+)*|\w+")
_LETTERS_AND_DIGITS = re.compile(r"[^\W\d_]+|\d+")
_LETTER_THEN_DIGIT = re.compile(r"[^\W\d_]\d|\d[^\W\d_]")
# Words of questions, beside those that every text has.
_QUESTION_WORDS = frozenset(
    "what which who whom whose when where why how much many were did do does has have had been being about from can "  # noqa: SIM905
    "could would should please tell give me us we you i my our your its".split()
)

_QUARTER = re.compile(r"q[1-4]")
_QUARTERS = {"first": "q1", "second": "q2", "third": "q3", "fourth": "q4",
             "1st": "q1", "2nd": "q2", "3rd": "q3", "4th": "q4"}  # fmt: skip
# Periods as a report and a question may write them, and as they are compared.
_PERIODS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\b([1-4])q ?'?(\d{4}|\d\d)\b"), lambda found: f"q{found[1]} {_year(found[2])}"),
    (re.compile(rf"\b({'|'.join(_QUARTERS)})[ -]quarter\b"), lambda found: _QUARTERS[found[1]]),
    (re.compile(r"\b(fy|cy) ?'?(\d{4}|\d\d)\b"), lambda found: f"{found[1]} {_year(found[2])}"),
    (re.compile(r"\b(?:fiscal|financial)(?: year)? (\d{4})\b"), lambda found: f"fy {found[1]}"),
    (re.compile(r"\b(\d{4}) (?:fiscal|financial) year\b"), lambda found: f"fy {found[1]}"),
    (re.compile(r"(?<!\w)'(\d\d)\b"), lambda found: _year(found[1])),
)  # fmt: skip


class Words:
    """Finds the words of a text as they are compared: lower case, without endings, without words like "the".

    Periods are written alike: "2Q23" and "the second quarter of 2023" as "Q2 2023", "fiscal 2023" and "FY23" as
    "FY 2023", "FY98" as "FY 1998". A name such as X300 is found by its parts too, and a file's name such as
    north_report is two words. Of scripts without spaces between words each two letters that follow one another are a
    word. Words and phrases of a glossary are found by what they mean as well.

    Args:
        language: English name of the documents' language; None compares words as they are.
        glossary: groups of words and phrases that mean the same, as `read_glossary` gives them.
        as_before: find the words that the indexes of an earlier selfaug hold: north_report is one, and so is what
            stands between two spaces in any script.

    Raises:
        ConfigError: if endings of the language are not known.
    """

    def __init__(
        self,
        language: str | None = "english",
        glossary: Sequence[Sequence[str]] = (),
        *,
        as_before: bool = False,
    ) -> None:
        self.language = language
        self._split = _split_as_before if as_before else _split
        self._stem: Callable[[str], str] = str
        self._left_out: frozenset[str] = frozenset()
        if language is not None:
            if language not in Stemmer.algorithms():
                raise ConfigError(
                    f"retrieval.language {language!r} is not known.",
                    hint=f"one of {', '.join(Stemmer.algorithms())}; or null.",
                )
            self._stem = lru_cache(maxsize=1 << 17)(Stemmer.Stemmer(language).stemWord)
            if language == "english":
                self._left_out = _QUESTION_WORDS | frozenset(bm25s.stopwords.STOPWORDS_EN)
        self._glossary = Glossary(glossary, self.stems) if glossary else None

    def __call__(self, text: str) -> list[str]:
        """The words, in order, a name's parts after it; then what they mean by the glossary."""
        found = self._split(text)
        return [*self._searched(found), *self._meanings(found)]

    def of_question(self, text: str) -> list[str]:
        """A question's words: what it means counts twice, since its own words may be those of other passages."""
        found = self._split(text)
        return [*self._searched(found), *2 * self._meanings(found)]

    def stems(self, text: str) -> list[str]:
        """All words of a text, without their endings."""
        return [self._stem(word) for word in self._split(text)]

    def _meanings(self, found: Sequence[str]) -> list[str]:
        if self._glossary is None:
            return []
        return self._glossary.meanings([self._stem(word) for word in found])

    def _searched(self, found: Sequence[str]) -> list[str]:
        words: list[str] = []
        for word in found:
            if word in self._left_out:
                continue
            words.append(self._stem(word))
            if _LETTER_THEN_DIGIT.search(word) and not _QUARTER.fullmatch(word):
                words += map(self._stem, _LETTERS_AND_DIGITS.findall(word))
        return words


def _split(text: str) -> list[str]:
    """A text's words in lower case, its periods written alike."""
    lower = text.lower().replace("_", " ")
    if not lower.isascii():
        lower = unicodedata.normalize("NFC", lower)  # é may be one character or two
    lower = _with_periods_alike(lower)
    words: list[str] = _WORD.findall(lower)
    if not _UNSPACED.search(lower):
        return words
    return [part for word in words for part in (_each_two(word) if _UNSPACED.match(word) else [word])]


def _split_as_before(text: str) -> list[str]:
    return _WORD_BEFORE.findall(_with_periods_alike(text.lower()))


def _with_periods_alike(lower: str) -> str:
    for form, written in _PERIODS:
        lower = form.sub(written, lower)
    return lower


def _each_two(letters: str) -> list[str]:
    return [letters[place : place + 2] for place in range(max(len(letters) - 1, 1))]


def _year(digits: str) -> str:
    """A year in four digits; of two, 70 to 99 are those of the last century."""
    if len(digits) == 4:
        return digits
    return f"19{digits}" if digits >= "70" else f"20{digits}"
