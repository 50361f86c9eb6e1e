"""Checks of the form of an answer: layout, length, beginning and end, letters and marks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfaug.eval.text_parts import (
    bullets,
    folded,
    numbered_items,
    paragraphs,
    sentences,
    without_item_number,
    words,
)

__all__ = [
    "AllLowerCase",
    "AllUpperCase",
    "AsksQuestions",
    "BeginsWith",
    "BulletedList",
    "EndsWith",
    "FullSentence",
    "Headings",
    "Highlighted",
    "JsonWithKeys",
    "Lines",
    "ListItems",
    "NoCommas",
    "NoDigits",
    "NoLabels",
    "NumberedList",
    "Paragraphs",
    "Quoted",
    "Sentences",
    "TitleInBrackets",
    "Words",
]

_LETTER = re.compile(r"\w")
# One asterisk between letters or digits is a product's: 2*3*4.
_HIGHLIGHT = re.compile(r"(?<!\*)(?:(?<!\w)\*|\*{2,3})(?=[^\w\s*]{0,2}\w)[^*\n]*?\w[^*\n\w]{0,3}\*{1,3}")
# Within a sentence too: "Who is there?" asked the fox.
_ASKING = r"(?<![!?])!*\?[!?]*+[\"'”’)*_`]*+"
_QUESTION_END = re.compile(rf"{_ASKING}\s+")
_ASKED = re.compile(rf"{_ASKING}\Z")
# No postscript: of that, two capitals are left (PS:, PD:).
_LABEL = re.compile(r"(?<!\w)[A-ZÀ-ÖØ-Þ]{3,}[*_]{0,2}[ \t]?:")


@dataclass(frozen=True)
class _Count:
    """A number of things, at least `at_least` and at most `at_most`."""

    at_least: int = 1
    at_most: int | None = None

    def __post_init__(self) -> None:
        if self.at_least < 1 or (self.at_most is not None and self.at_most < self.at_least):
            raise ValueError(
                f"a count needs 1 <= at_least <= at_most, got {self.at_least} and {self.at_most}."
            )

    def _count(self, things: Sequence[str], *, times: int = 1) -> int:
        """How many there are.

        Where more is always enough, what is said again counts only so many times: a model in a loop repeats itself. Of
        an exact number, or of at most so many, all count.
        """
        if self.at_most is not None:
            return len(things)
        return sum(min(count, times) for count in Counter(map(_gist, things)).values())

    def _holds(self, count: int) -> bool:
        return count >= self.at_least and (self.at_most is None or count <= self.at_most)


@dataclass(frozen=True)
class BulletedList(_Count):
    """A list with bullets (-, *, •)."""

    def passes(self, answer: str) -> bool:
        """Whether the number of bullets fits."""
        return self._holds(self._count(bullets(answer)))


@dataclass(frozen=True)
class NumberedList(_Count):
    """A list with numbers (1., 2))."""

    def passes(self, answer: str) -> bool:
        """Whether the number of numbered items fits."""
        return self._holds(self._count(numbered_items(answer)))


@dataclass(frozen=True)
class ListItems(_Count):
    """A list, with bullets or with numbers."""

    def passes(self, answer: str) -> bool:
        """Whether the number of items, of the kind of which there are more, fits."""
        return self._holds(max(self._count(bullets(answer)), self._count(numbered_items(answer))))


@dataclass(frozen=True)
class Words(_Count):
    """A length in words."""

    def passes(self, answer: str) -> bool:
        """Whether the number of words fits, and at least half as many as are asked for differ."""
        found = words(answer)
        return self._holds(len(found)) and 2 * len(set(map(folded, found))) >= self.at_least


@dataclass(frozen=True)
class Sentences(_Count):
    """A length in sentences."""

    def passes(self, answer: str) -> bool:
        """Whether the number of sentences fits."""
        return self._holds(self._count(sentences(answer)))


@dataclass(frozen=True)
class Paragraphs(_Count):
    """A length in paragraphs."""

    def passes(self, answer: str) -> bool:
        """Whether the number of paragraphs fits."""
        return self._holds(len(paragraphs(answer)))


@dataclass(frozen=True)
class Lines(_Count):
    """A length in lines of at least two words, as of a poem."""

    def passes(self, answer: str) -> bool:
        """Whether the number of lines fits."""
        # A refrain is there twice.
        lines = [line for line in answer.splitlines() if len(words(line)) >= 2]
        return self._holds(self._count(lines, times=2))


@dataclass(frozen=True)
class AsksQuestions(_Count):
    """Questions: sentences of at least three words that end with a question mark."""

    def passes(self, answer: str) -> bool:
        """Whether the number of questions fits."""
        parts = [part for one in sentences(answer) for part in _questions_apart(one)]
        asked = [part for part in parts if _ASKED.search(part) and len(words(part)) >= 3]
        return self._holds(self._count(asked))


@dataclass(frozen=True)
class FullSentence:
    """A sentence of at least `at_least` words that ends with . ! or ?"""

    at_least: int = 5

    def passes(self, answer: str) -> bool:
        """Whether there is one."""
        return any(
            len(words(piece)) >= self.at_least and piece.rstrip("\"'”’)*")[-1:] in tuple(".!?")
            for piece in sentences(answer)
        )


@dataclass(frozen=True)
class BeginsWith:
    """Starts with one of the phrases; quotes and marks before it don't count."""

    phrases: tuple[str, ...]

    def passes(self, answer: str) -> bool:
        """Whether it does."""
        text = folded(answer).lstrip("\"'*#_ ")
        return any(re.match(rf"{re.escape(folded(phrase))}(?!\w)", text) for phrase in self.phrases)


@dataclass(frozen=True)
class EndsWith:
    """Stops with the phrase; quotes and marks after it don't count."""

    phrase: str

    def passes(self, answer: str) -> bool:
        """Whether it does."""
        marks = "\"'*_.!? "
        end = folded(self.phrase).rstrip(marks)
        return re.search(rf"(?<!\w){re.escape(end)}$", folded(answer).rstrip(marks)) is not None


@dataclass(frozen=True)
class AllLowerCase:
    """No capital letter."""

    def passes(self, answer: str) -> bool:
        """Whether all letters are small, and there are some."""
        return answer.islower()


@dataclass(frozen=True)
class AllUpperCase:
    """Capital letters only."""

    def passes(self, answer: str) -> bool:
        """Whether all letters are capitals, and there are some."""
        return answer.isupper()


@dataclass(frozen=True)
class JsonWithKeys:
    """A JSON object with these keys, alone, in a code block, or with words around it."""

    keys: tuple[str, ...]

    def passes(self, answer: str) -> bool:
        """Whether the first valid JSON object has all keys."""
        found = _first_json_object(answer)
        return found is not None and all(key in found for key in self.keys)


@dataclass(frozen=True)
class NoDigits:
    """No digit, in an answer that says something."""

    def passes(self, answer: str) -> bool:
        """Whether the answer has words and no digit."""
        return bool(words(answer)) and not any(sign.isdigit() for sign in answer)


@dataclass(frozen=True)
class Quoted:
    """The whole answer stands between double quotes."""

    def passes(self, answer: str) -> bool:
        """Whether it does, with words inside."""
        return re.fullmatch(r"[\"“„].*\w.*[\"”“]", answer.strip(), re.DOTALL) is not None


@dataclass(frozen=True)
class TitleInBrackets:
    """A title in double angle brackets: `<<A day at sea>>`."""

    def passes(self, answer: str) -> bool:
        """Whether there is one."""
        return any(words(title) for title in re.findall(r"<<([^<>\n]+)>>", answer))


@dataclass(frozen=True)
class NoCommas:
    """No comma, in an answer that says something."""

    def passes(self, answer: str) -> bool:
        """Whether the answer has words and no comma."""
        return bool(words(answer)) and "," not in answer


@dataclass(frozen=True)
class NoLabels:
    """No label in capitals with a colon behind it, as in a form (`NAME: …`), in an answer that says something."""

    def passes(self, answer: str) -> bool:
        """Whether the answer has words and no label."""
        return bool(words(answer)) and _LABEL.search(answer) is None


@dataclass(frozen=True)
class Highlighted(_Count):
    """Words between asterisks: `*this*` or `**this**`."""

    def passes(self, answer: str) -> bool:
        """Whether the number of highlights fits; the asterisk of a bullet is none."""
        return self._holds(len(_HIGHLIGHT.findall(answer)))


@dataclass(frozen=True)
class Headings:
    """Each heading begins a line of its own, in this order, with words after it."""

    headings: tuple[str, ...]

    def passes(self, answer: str) -> bool:
        """Whether all are there, and something below each."""
        text = "\n".join(folded(line) for line in answer.splitlines())
        end = 0
        for heading in self.headings:
            begins = re.compile(rf"^[^\w\n]*{re.escape(folded(heading))}(?!\w)", re.MULTILINE)
            found = begins.search(text, end)
            below = _LETTER.search(text, found.end()) if found else None
            if below is None:
                return False
            end = below.end()
        return True


def _gist(text: str) -> str:
    """A text without case, the number of a list's item, and marks around it."""
    return folded(without_item_number(text)).strip(" *_\"'.,;:!?")


def _questions_apart(sentence: str) -> list[str]:
    """A sentence, cut behind each question in it."""
    ends = [match.end() for match in _QUESTION_END.finditer(sentence)]
    return [sentence[a:b].strip() for a, b in zip([0, *ends], [*ends, len(sentence)], strict=True)]


def _first_json_object(text: str) -> dict[str, object] | None:
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        except RecursionError:  # a thousand that open in each other, each of which would be tried
            return None
        if isinstance(found, dict):
            return found
    return None
