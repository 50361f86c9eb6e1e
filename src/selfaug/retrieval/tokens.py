"""Text to the words that are searched for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import bm25s
import Stemmer

from selfaug.core.digits import plain_digits
from selfaug.errors import ConfigError
from selfaug.retrieval.glossary import Glossary
from selfaug.retrieval.plain_text import SIGNS_OF_LETTERS, UNSPACED

__all__ = ["Words"]

# Numbers stay whole: "1,536.5" is one word, and a dot at the end of a sentence is not a part of it.
# Korean puts spaces between words, but writes to each what it does in its sentence: 매출은, 매출이.
_IN_TWOS = UNSPACED + "\uac00-\ud7a3"
_OF_TWOS = re.compile(f"[{_IN_TWOS}]")
_WORD = re.compile(
    rf"\d+(?:[.,]\d+)*|[{_IN_TWOS}]+|[^\W{_IN_TWOS}]+(?:[{SIGNS_OF_LETTERS}]+[^\W{_IN_TWOS}]*)*"
)
_GAP = re.compile(rf"(?<=[{UNSPACED}])\s+(?=[{UNSPACED}])")  # where a line ends
# Of Hebrew and Arabic the signs for vowels, and what only draws Arabic letters out; joiners, which say how letters are
# drawn. Between the parts of a Persian word a non-joiner is a space.
_NOT_COMPARED = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670\u200d]|\u200c(?<=[\u0900-\u0dff]\u200c)"
)
_WORD_OF_LETTERS = re.compile(r"[^\W\d_]{2,}")
_LETTERS_AND_DIGITS = re.compile(r"[^\W\d_]+|\d+")
_LETTER_THEN_DIGIT = re.compile(r"[^\W\d_]\d|\d[^\W\d_]")
# Over Latin, Greek and Cyrillic letters; other scripts have marks of their own.
_MARKS = re.compile("[\u0300-\u036f]")
# With marks, of languages that have no others: é is in their names and foreign words alone.
_OWN_LETTERS = {"danish": "å", "finnish": "åäö", "german": "äöü", "norwegian": "å", "swedish": "åäö"}
# In lower case they would be words that every text has. "US$" is a currency.
_COUNTRY = re.compile(r"\b(?:USA?|[Uu]\.[Ss]\.?(?:[Aa]\.?)?)(?![\w$])")
_COMPUTERS = re.compile(r"\bIT\b")
_FEWEST_SHOUTED = 4  # words of a line in capitals that may be a sentence: "WHAT IT MEANS FOR US"
# Words of questions, beside those that every text has.
_QUESTION_WORDS = frozenset(
    "what which who whom whose when where why how much many were did do does has have had been being about from can "  # noqa: SIM905
    "could would should please tell give me us we you i my our your its".split()
)

_PERIOD = re.compile(r"q[1-4]|h[12]")
_QUARTERS = {"first": "q1", "second": "q2", "third": "q3", "fourth": "q4",
             "1st": "q1", "2nd": "q2", "3rd": "q3", "4th": "q4"}  # fmt: skip
_HALVES = {"first": "h1", "second": "h2", "1st": "h1", "2nd": "h2"}
# Periods as a report and a question may write them, and as they are compared: what a text must have for a form to be
# looked for, which takes much longer; the form; and how it is written.
_PERIODS: tuple[tuple[tuple[str, ...], re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    # "1h 30" is a time.
    (("1h", "2h"),
     re.compile(r"\b([12])h(?: ?'?(\d{4})|'?(\d\d))\b"), lambda found: f"h{found[1]} {_year(found[2] or found[3])}"),
    (("half",), re.compile(rf"\b({'|'.join(_HALVES)})[ -]half\b"), lambda found: _HALVES[found[1]]),
    (("1q", "2q", "3q", "4q"),
     re.compile(r"\b([1-4])q ?'?(\d{4}|\d\d)\b"), lambda found: f"q{found[1]} {_year(found[2])}"),
    (("quarter",), re.compile(rf"\b({'|'.join(_QUARTERS)})[ -]quarter\b"), lambda found: _QUARTERS[found[1]]),
    (("fy", "cy"), re.compile(r"\b(fy|cy) ?'?(\d{4}|\d\d)\b"), lambda found: f"{found[1]} {_year(found[2])}"),
    (("fiscal", "financial"),
     re.compile(r"\b(?:fiscal|financial)(?: year)? (\d{4})\b"), lambda found: f"fy {found[1]}"),
    (("fiscal year", "financial year"),
     re.compile(r"\b(\d{4}) (?:fiscal|financial) year\b"), lambda found: f"fy {found[1]}"),
    (("'",), re.compile(r"(?<!\w)'(\d\d)\b"), lambda found: _year(found[1])),
)  # fmt: skip


class Words:
    """Finds the words of a text as they are compared: lower case, without endings, without words like "the".

    Periods are written alike: "2Q23" and "the second quarter of 2023" as "Q2 2023", "1H23" as "H1 2023", "fiscal 2023"
    and "FY23" as "FY 2023", "FY98" as "FY 1998". Accents don't count, but in endings that have some. "US" and "IT" in
    capitals are not "us" and "it". Digits of all scripts are the same, and so are letters of full width. A name such as
    X300 is found by its parts too, and a file's name such as north_report is two words. Of scripts without spaces
    between words, and of Korean, each two letters that follow one another are a word. Vowels that Hebrew and Arabic
    write above and below letters don't count. Words and phrases of a glossary are found by what they mean as well.

    Args:
        language: English name of the documents' language; None compares words as they are.
        glossary: groups of words and phrases that mean the same, as `read_glossary` gives them.

    Raises:
        ConfigError: if endings of the language are not known.
    """

    def __init__(self, language: str | None = "english", glossary: Sequence[Sequence[str]] = ()) -> None:
        self._is_turkish = language == "turkish"
        # Endings of other languages may have accents: these go after them.
        self._folded = _without_accents if language in (None, "english") else _composed
        self._stem: Callable[[str], str] = str
        self._left_out: frozenset[str] = frozenset()
        if language is not None:
            if language not in Stemmer.algorithms():
                raise ConfigError(
                    f"retrieval.language {language!r} is not known.",
                    hint=f"one of {', '.join(Stemmer.algorithms())}; or null.",
                )
            stem = Stemmer.Stemmer(language).stemWord
            if self._is_turkish:
                stem = partial(_stem_dotted, stem)
            if language != "english":
                stem = partial(_stem_without_accents, stem, _OWN_LETTERS.get(language))
            self._stem = lru_cache(maxsize=1 << 17)(stem)
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

    def _split(self, text: str) -> list[str]:
        """A text's words in lower case, its periods written alike."""
        text = plain_digits(text)
        if self._is_turkish:
            text = text.replace("İ", "i")
        return _words_of(self._folded(_with_capitals(text).lower()))

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
            if not word.isalpha() and _LETTER_THEN_DIGIT.search(word) and not _PERIOD.fullmatch(word):
                words += map(self._stem, _LETTERS_AND_DIGITS.findall(word))
        return words


def _with_capitals(text: str) -> str:
    """A text in which "US" and "IT" are told from "us" and "it" without their capitals."""
    if not any(part in text for part in ("US", ".S", ".s", "IT")):
        return text
    return "\n".join(
        line if _is_shouted(line) else _COMPUTERS.sub("itech", _COUNTRY.sub("usa", line))
        for line in text.split("\n")
    )


def _is_shouted(line: str) -> bool:
    """Whether a line is a sentence in capitals, not a name or a row of a table."""
    return line.isupper() and "|" not in line and len(_WORD_OF_LETTERS.findall(line)) >= _FEWEST_SHOUTED


def _composed(lower: str) -> str:
    return lower if lower.isascii() else unicodedata.normalize("NFC", lower)  # é may be one character or two


def _without_accents(lower: str) -> str:
    if lower.isascii():
        return lower
    # Composed again, for the scripts whose marks stay.
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", lower)))


def _stem_without_accents(stem: Callable[[str], str], own: str | None, word: str) -> str:
    """A word without its ending and accents.

    Accents that are none of the language's own letters go first: in German "nestle" has an ending, "nestlé" none.
    """
    if own is not None and not word.isascii():
        word = "".join(letter if letter in own else _without_accents(letter) for letter in word)
    return _without_accents(stem(word))


def _stem_dotted(stem: Callable[[str], str], word: str) -> str:
    """A Turkish word's stem with i for ı, as who has no ı types it, and as names in capitals are meant: INTEL."""
    return stem(word).replace("ı", "i")


def _words_of(lower: str) -> list[str]:
    lower = _with_periods_alike(lower.replace("_", " "))
    if lower.isascii():
        return _WORD.findall(lower)
    lower = _NOT_COMPARED.sub("", lower)
    if not _OF_TWOS.search(lower):
        return _WORD.findall(lower)
    words: list[str] = _WORD.findall(_GAP.sub("", lower))
    return [part for word in words for part in (_each_two(word) if _OF_TWOS.match(word) else [word])]


def _with_periods_alike(lower: str) -> str:
    for needed, form, written in _PERIODS:
        if any(part in lower for part in needed):
            lower = form.sub(written, lower)
    return lower


def _each_two(letters: str) -> list[str]:
    return [letters[place : place + 2] for place in range(max(len(letters) - 1, 1))]


def _year(digits: str) -> str:
    """A year in four digits; of two, 70 to 99 are those of the last century."""
    if len(digits) == 4:
        return digits
    return f"19{digits}" if digits >= "70" else f"20{digits}"
