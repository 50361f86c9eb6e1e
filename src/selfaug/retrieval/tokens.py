"""Text to the words that are searched for."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import bm25s
import Stemmer

from selfaug.errors import ConfigError

__all__ = ["Words"]

# Numbers stay whole: "1,536.5" is one word, and a dot at the end of a sentence is not a part of it.
_WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+")
_LETTERS_AND_DIGITS = re.compile(r"[^\W\d_]+|\d+")
_SHORT_YEAR = re.compile(r"(?:fy|cy|')\s?(\d\d)\b")
# Words of questions, beside those that every text has.
_QUESTION_WORDS = frozenset(
    "what which who whom whose when where why how much many were did do does has have had been being about from can "  # noqa: SIM905
    "could would should please tell give me us we you i my our your its".split()
)
_LETTER_THEN_DIGIT = re.compile(r"[^\W\d_]\d|\d[^\W\d_]")


class Words:
    """Finds the words of a text as they are compared: lower case, without endings, without words like "the".

    A name such as Q3 or FY2023 is found by its parts too, and FY23 by 2023.

    Args:
        language: English name of the documents' language; None compares words as they are.

    Raises:
        ConfigError: if endings of the language are not known.
    """

    def __init__(self, language: str | None = "english") -> None:
        self.language = language
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

    def __call__(self, text: str) -> list[str]:
        """The words, in order; parts of a name come after it."""
        lower = text.lower()
        words: list[str] = []
        for found in _WORD.findall(lower):
            if found in self._left_out:
                continue
            words.append(self._stem(found))
            if _LETTER_THEN_DIGIT.search(found):
                words += map(self._stem, _LETTERS_AND_DIGITS.findall(found))
        words += [f"20{year}" for year in _SHORT_YEAR.findall(lower)]
        return words
