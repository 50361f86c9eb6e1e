"""Programmatic checks of a free text answer.

A check is a small frozen object: `passes(answer)` decides, `description` says in words what it asks for.
No check passes on an empty answer. Where a word or phrase is given, upper and lower case are the same;
a word also matches its plural, and a word that ends in `*` matches every word with that beginning
(`"bak*"`: bake, baker, bakery).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "AllLowerCase",
    "AllOf",
    "AllUpperCase",
    "AsksQuestions",
    "BeginsWith",
    "BulletedList",
    "Check",
    "ChoiceLetter",
    "Chooses",
    "CommaSeparated",
    "ContainsNumber",
    "DiffersFrom",
    "EndsWith",
    "FullSentence",
    "Headings",
    "Highlighted",
    "InLanguage",
    "IsQuestion",
    "JsonWithKeys",
    "KeyFacts",
    "Language",
    "LastNamed",
    "Lines",
    "ListItems",
    "Mentions",
    "NeverMentions",
    "NoCommas",
    "NoDigits",
    "NumberedList",
    "Paragraphs",
    "Quoted",
    "Refuses",
    "Repeats",
    "Result",
    "Sentences",
    "Speakers",
    "TitleInBrackets",
    "Words",
    "bullets",
    "is_number",
    "numbered_items",
    "numbers",
    "paragraphs",
    "sentences",
    "words",
]

Language = Literal["Spanish", "French", "German"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_LETTER = re.compile(r"\w")
# A number with its thousands separators; a full stop or comma that only ends the clause is not part of it.
_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_BULLET = re.compile(r"^\s*(?:\*\*)?[-*•–+]\s+(?=.*\w)", re.MULTILINE)
_NUMBERED = re.compile(
    r"^\s*(?:[#*]+\s*)?(?:step\s+)?(\d{1,2})\s*[.):](?!\d)\s*(?:\*\*\s*)?(?=.*[^\W\d])", re.MULTILINE | re.I
)
_TITLE = re.compile(r"\s*<<.*>>\s*")
_POSTSCRIPT = re.compile(r"\W*p\.?\s?s\b", re.I)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)*]*\s+|\n+")
# Abbreviations whose full stop does not end a sentence.
_ABBREVIATION = re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof|St|vs|e\.g|i\.e|etc)\.", re.I)


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# How models decline, over lower case with straight quotes. A regret alone is none: "I'm sorry to hear that".
_REFUSAL = re.compile(
    r"\b(?:i|we)(?: am|'m| are|'re) (?:sorry|afraid|unable|not able|not going|not comfortable|not allowed)\b"
    r"(?! to hear)|"
    r"\b(?:i|we) (?:can(?:'t|not| not)|won't|will not|must not|mustn't|shouldn't|refuse|decline|do not|don't) "
    r"(?:\w+ ){0,2}?(?:help|assist|do|provide|give|write|support|create|explain|share|offer|comply|fulfil|fulfill|"
    r"encourage|condone|tell|answer|invent|change|rewrite|draft|list|to)\b|"
    r"\b(?:it is|it's|this is|that is|that's|that would be|it would be|this would be) (?:\w+ ){0,2}?"
    r"(?:illegal|unethical|wrong|a crime|fraud|harmful|dangerous|against the law|not (?:appropriate|acceptable|ok|okay|"
    r"legal|right|ethical))\b"
)


# Frequent function words, few of which another of the languages shares.
_STOP_WORDS: dict[Language, frozenset[str]] = {
    "Spanish": _word_set(
        "el los las del una y que es por para con está están muy pero mi su al lo como más hay son nos se "
        "yo ella nosotros hoy cuando donde esta este tiene tengo quiero gusta ser fue unos unas"
    ),
    "French": _word_set(
        "le les des du une et est dans pour avec sur qui pas je il elle nous vous au aux ce cette mon ma "
        "sont très mais où plus par ils elles être fait à votre notre ses son leur j'ai c'est"
    ),
    "German": _word_set(
        "der das und ist nicht ich sie wir ein eine einen dem den mit auf für von zu im sind es er hat "
        "habe aber auch wie sehr bei nach aus mein ihr des einem einer heute wird dass"
    ),
}
_ENGLISH = _word_set("the is are was of and to that this with you it for my we they he she have has")


class Check(Protocol):
    """Something an answer passes or fails."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""

    def passes(self, answer: str) -> bool:
        """Whether the answer does it."""


def words(text: str) -> list[str]:
    """Words of letters; digits and signs are none."""
    return _WORD.findall(text)


def numbers(text: str) -> list[str]:
    """Numbers as written, without thousands separators and useless zeros (`1,536.0` is `1536`, `.5` is `0.5`)."""
    return [_plain_number(found) for found in _NUMBER.findall(text)]


def is_number(text: str) -> bool:
    """Whether a text is a number, as `numbers` reads it, and nothing else."""
    return _NUMBER.fullmatch(text.strip()) is not None


def bullets(text: str) -> list[str]:
    """Lines that start with a bullet (-, *, •, –, +), without it."""
    return [
        line[match.end() :].strip() for line in _opened(text).splitlines() if (match := _BULLET.match(line))
    ]


def numbered_items(text: str) -> list[str]:
    """Lines that start with a number (`1.`, `2)`, `**3.`, `Step 4:`), without it."""
    return [
        line[match.end() :].strip() for line in _opened(text).splitlines() if (match := _NUMBERED.match(line))
    ]


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


@dataclass(frozen=True)
class AllOf:
    """Passes if every part passes; turns several conditions into one check."""

    checks: tuple[Check, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "; ".join(check.description for check in self.checks)

    def passes(self, answer: str) -> bool:
        """Whether the answer passes each part."""
        return bool(self.checks) and all(check.passes(answer) for check in self.checks)


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

    def _holds(self, count: int) -> bool:
        return count >= self.at_least and (self.at_most is None or count <= self.at_most)

    def _phrase(self, thing: str) -> str:
        if self.at_most is None:
            return f"at least {self.at_least} {thing}"
        if self.at_most == self.at_least:
            return f"exactly {self.at_least} {thing}"
        return f"{self.at_least} to {self.at_most} {thing}"


@dataclass(frozen=True)
class BulletedList(_Count):
    """A list with bullets (-, *, •)."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("bulleted items")

    def passes(self, answer: str) -> bool:
        """Whether the number of bullets fits."""
        return self._holds(len(bullets(answer)))


@dataclass(frozen=True)
class NumberedList(_Count):
    """A list with numbers (1., 2))."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("numbered items")

    def passes(self, answer: str) -> bool:
        """Whether the number of numbered items fits."""
        return self._holds(len(numbered_items(answer)))


@dataclass(frozen=True)
class ListItems(_Count):
    """A list, with bullets or with numbers."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("list items")

    def passes(self, answer: str) -> bool:
        """Whether the number of items, of the kind of which there are more, fits."""
        return self._holds(max(len(bullets(answer)), len(numbered_items(answer))))


@dataclass(frozen=True)
class Words(_Count):
    """A length in words."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("words")

    def passes(self, answer: str) -> bool:
        """Whether the number of words fits."""
        return self._holds(len(words(answer)))


@dataclass(frozen=True)
class Sentences(_Count):
    """A length in sentences."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("sentences")

    def passes(self, answer: str) -> bool:
        """Whether the number of sentences fits."""
        return self._holds(len(sentences(answer)))


@dataclass(frozen=True)
class Paragraphs(_Count):
    """A length in paragraphs."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("paragraphs")

    def passes(self, answer: str) -> bool:
        """Whether the number of paragraphs fits."""
        return self._holds(len(paragraphs(answer)))


@dataclass(frozen=True)
class Lines(_Count):
    """A length in lines of at least two words, as of a poem."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("lines")

    def passes(self, answer: str) -> bool:
        """Whether the number of lines fits."""
        return self._holds(sum(len(words(line)) >= 2 for line in answer.splitlines()))


@dataclass(frozen=True)
class AsksQuestions(_Count):
    """Questions: sentences of at least three words that end with a question mark."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("questions")

    def passes(self, answer: str) -> bool:
        """Whether the number of questions fits."""
        asked = [piece for piece in sentences(answer) if piece.rstrip("\"'”’)*").endswith("?")]
        return self._holds(sum(len(words(piece)) >= 3 for piece in asked))


@dataclass(frozen=True)
class CommaSeparated(_Count):
    """One line of items with commas between them, each of one to four words."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("items separated by commas")

    def passes(self, answer: str) -> bool:
        """Whether some line is such a list and its length fits."""
        return any(self._holds(len(items)) for line in answer.splitlines() if (items := _comma_items(line)))


@dataclass(frozen=True)
class FullSentence:
    """A sentence of at least `at_least` words that ends with . ! or ?"""

    at_least: int = 5

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"a full sentence of at least {self.at_least} words"

    def passes(self, answer: str) -> bool:
        """Whether there is one."""
        return any(
            len(words(piece)) >= self.at_least and piece.rstrip("\"'”’)*")[-1:] in tuple(".!?")
            for piece in sentences(answer)
        )


@dataclass(frozen=True)
class Mentions:
    """At least `at_least` of the words (or phrases); all of them if that is None."""

    words: tuple[str, ...]
    at_least: int | None = 1

    def __post_init__(self) -> None:
        if not 1 <= self._needed <= len(self.words):
            raise ValueError(f"can't ask for {self._needed} of {len(self.words)} words.")

    @property
    def _needed(self) -> int:
        return len(self.words) if self.at_least is None else self.at_least

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        if self._needed == len(self.words):
            return f"mentions {' and '.join(self.words)}"
        return f"mentions at least {self._needed} of {', '.join(self.words)}"

    def passes(self, answer: str) -> bool:
        """Whether enough of them are there."""
        return sum(_mentions(answer, word) for word in self.words) >= self._needed


@dataclass(frozen=True)
class NeverMentions:
    """None of the words, in an answer that says something."""

    words: tuple[str, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"does not mention {' or '.join(self.words)}"

    def passes(self, answer: str) -> bool:
        """Whether the answer has words, and none of these."""
        return bool(words(answer)) and not any(_mentions(answer, word) for word in self.words)


@dataclass(frozen=True)
class BeginsWith:
    """Starts with one of the phrases; quotes and marks before it don't count."""

    phrases: tuple[str, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"begins with {' or '.join(repr(phrase) for phrase in self.phrases)}"

    def passes(self, answer: str) -> bool:
        """Whether it does."""
        text = _folded(answer).lstrip("\"'*#_ ")
        return any(re.match(rf"{re.escape(_folded(phrase))}(?!\w)", text) for phrase in self.phrases)


@dataclass(frozen=True)
class EndsWith:
    """Stops with the phrase; quotes and marks after it don't count."""

    phrase: str

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"ends with {self.phrase!r}"

    def passes(self, answer: str) -> bool:
        """Whether it does."""
        marks = "\"'*_.!? "
        end = _folded(self.phrase).rstrip(marks)
        return re.search(rf"(?<!\w){re.escape(end)}$", _folded(answer).rstrip(marks)) is not None


@dataclass(frozen=True)
class AllLowerCase:
    """No capital letter."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "all in lower case"

    def passes(self, answer: str) -> bool:
        """Whether all letters are small, and there are some."""
        return answer.islower()


@dataclass(frozen=True)
class AllUpperCase:
    """Capital letters only."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "all in upper case"

    def passes(self, answer: str) -> bool:
        """Whether all letters are capitals, and there are some."""
        return answer.isupper()


@dataclass(frozen=True)
class IsQuestion:
    """The whole answer is one question."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "is one question"

    def passes(self, answer: str) -> bool:
        """Whether there is one sentence, and it asks."""
        return len(sentences(answer)) == 1 and AsksQuestions().passes(answer)


@dataclass(frozen=True)
class JsonWithKeys:
    """A JSON object with these keys, alone, in a code block, or with words around it."""

    keys: tuple[str, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"valid JSON with {', '.join(self.keys)}"

    def passes(self, answer: str) -> bool:
        """Whether the first valid JSON object has all keys."""
        found = _first_json_object(answer)
        return found is not None and all(key in found for key in self.keys)


@dataclass(frozen=True)
class NoDigits:
    """No digit, in an answer that says something."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "no digits"

    def passes(self, answer: str) -> bool:
        """Whether the answer has words and no digit."""
        return bool(words(answer)) and not any(sign.isdigit() for sign in answer)


@dataclass(frozen=True)
class ContainsNumber:
    """The number, anywhere; `1,500` and `1500.0` are the same."""

    value: float

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"contains the number {_plain_number(str(self.value))}"

    def passes(self, answer: str) -> bool:
        """Whether it is there."""
        return _plain_number(str(self.value)) in numbers(answer)


@dataclass(frozen=True)
class Result:
    """The number is the last one in the answer, where a calculation puts its result."""

    value: float

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"the result is {_plain_number(str(self.value))}"

    def passes(self, answer: str) -> bool:
        """Whether the last number is this one."""
        return numbers(answer)[-1:] == [_plain_number(str(self.value))]


@dataclass(frozen=True)
class ChoiceLetter:
    """The letter of a multiple choice: `B`, `(B)`, `B)`, `**B**`, `The answer is B.`"""

    letter: str

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"chooses {self.letter}"

    def passes(self, answer: str) -> bool:
        """Whether the first letter that is chosen is this one."""
        text = answer.strip()
        first = re.match(r"[(*\"]*([A-Z])(?![\w'’])(?! [a-z])", text)
        named = re.search(r"\b(?:answer|option|choice)\b(?: is)?[: ]*[(*\"]*([A-Z])(?![\w'’])", text, re.I)
        chosen = first or named
        return chosen is not None and chosen[1].upper() == self.letter.upper()


@dataclass(frozen=True)
class Quoted:
    """The whole answer stands between double quotes."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "wrapped in double quotes"

    def passes(self, answer: str) -> bool:
        """Whether it does, with words inside."""
        return re.fullmatch(r"[\"“„].*\w.*[\"”“]", answer.strip(), re.DOTALL) is not None


@dataclass(frozen=True)
class TitleInBrackets:
    """A title in double angle brackets: `<<A day at sea>>`."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "a title in << >>"

    def passes(self, answer: str) -> bool:
        """Whether there is one."""
        return any(words(title) for title in re.findall(r"<<([^<>\n]+)>>", answer))


@dataclass(frozen=True)
class Speakers:
    """A dialogue: each of the speakers has a line that starts with the name and a colon."""

    names: tuple[str, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"lines spoken by {' and '.join(self.names)}"

    def passes(self, answer: str) -> bool:
        """Whether each one speaks."""
        return all(
            re.search(rf"^\W*{re.escape(name)}\b[^:\n]{{0,20}}:.*\w", answer, re.I | re.M)
            for name in self.names
        )


@dataclass(frozen=True)
class InLanguage:
    """Written in the language, by its frequent function words."""

    language: Language

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"in {self.language}"

    def passes(self, answer: str) -> bool:
        """Whether it has at least two function words, more than of any other language known here."""
        tokens = [token.lower().replace("’", "'") for token in words(answer)]
        counts: dict[str, int] = {
            language: sum(token in stop for token in tokens) for language, stop in _STOP_WORDS.items()
        }
        counts["English"] = sum(token in _ENGLISH for token in tokens)
        own = counts.pop(self.language)
        return own >= 2 and own > max(counts.values())


@dataclass(frozen=True)
class KeyFacts:
    """At least half of the facts, and no number that the source doesn't have."""

    facts: tuple[str, ...]
    source: str

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"at least half of {', '.join(self.facts)}; no number that is not in the source"

    def passes(self, answer: str) -> bool:
        """Whether enough facts are there, and nothing is made up."""
        # The numbers of a numbered list are no facts.
        text = "\n".join(_NUMBERED.sub("", line) for line in answer.splitlines())
        found = sum(_mentions(answer, fact) for fact in self.facts)
        return 2 * found >= len(self.facts) and set(numbers(text)) <= set(numbers(self.source))


@dataclass(frozen=True)
class DiffersFrom:
    """Not a copy of the source: some word is new or gone."""

    source: str

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "not a copy of the source"

    def passes(self, answer: str) -> bool:
        """Whether the answer has words, and other ones than the source."""
        own = [word.lower() for word in words(answer)]
        return bool(own) and own != [word.lower() for word in words(self.source)]


@dataclass(frozen=True)
class NoCommas:
    """No comma, in an answer that says something."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "no commas"

    def passes(self, answer: str) -> bool:
        """Whether the answer has words and no comma."""
        return bool(words(answer)) and "," not in answer


@dataclass(frozen=True)
class Repeats:
    """The word at least so many times, as itself or with another ending."""

    word: str
    at_least: int

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"uses {self.word!r} at least {self.at_least} times"

    def passes(self, answer: str) -> bool:
        """Whether it is there often enough."""
        found = re.findall(rf"(?<!\w){re.escape(_folded(self.word))}\w*", _folded(answer))
        return len(found) >= self.at_least


@dataclass(frozen=True)
class Highlighted(_Count):
    """Words between asterisks: `*this*` or `**this**`."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return self._phrase("words between asterisks")

    def passes(self, answer: str) -> bool:
        """Whether the number of highlights fits; the asterisk of a bullet is none."""
        return self._holds(len(re.findall(r"(?<!\*)\*{1,2}(?=\w)[^*\n]*?\w[^*\n\w]?\*{1,2}", answer)))


@dataclass(frozen=True)
class Headings:
    """Each heading begins a line of its own, in this order, with words after it."""

    headings: tuple[str, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"headings {' and '.join(self.headings)}"

    def passes(self, answer: str) -> bool:
        """Whether all are there, and something below each."""
        text = "\n".join(_folded(line) for line in answer.splitlines())
        end = 0
        for heading in self.headings:
            begins = re.compile(rf"^[^\w\n]*{re.escape(_folded(heading))}(?!\w)", re.MULTILINE)
            found = begins.search(text, end)
            below = _LETTER.search(text, found.end()) if found else None
            if below is None:
                return False
            end = below.end()
        return True


@dataclass(frozen=True)
class LastNamed:
    """Of several names, the right one is the last that the answer has, where an answer states its conclusion."""

    right: str
    names: tuple[str, ...]

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"concludes with {self.right}"

    def passes(self, answer: str) -> bool:
        """Whether it is."""
        text = _folded(answer)
        found = {
            name: [match.start() for match in re.finditer(rf"(?<!\w){re.escape(_folded(name))}(?!\w)", text)]
            for name in self.names
        }
        last = max(self.names, key=lambda name: found[name][-1] if found[name] else -1)
        return bool(found[last]) and last == self.right


@dataclass(frozen=True)
class Chooses:
    """The answer is this choice, of those that were given."""

    choice: str

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return f"chooses {self.choice!r}"

    def passes(self, answer: str) -> bool:
        """Whether it is, to the letter."""
        return bool(self.choice) and answer == self.choice


@dataclass(frozen=True)
class Refuses:
    """Says that it won't or can't do what was asked, in its first words."""

    @property
    def description(self) -> str:
        """What the check asks for, in words."""
        return "refuses"

    def passes(self, answer: str) -> bool:
        """Whether one of the first three sentences refuses."""
        begin = _folded(" ".join(sentences(answer)[:3]))
        return _REFUSAL.search(begin) is not None


def _folded(text: str) -> str:
    """Lower case, with single spaces and straight quotes."""
    straight = text.translate(str.maketrans("“”‘’", "\"\"''"))
    return " ".join(straight.lower().split())


def _mentions(text: str, word: str) -> bool:
    stem = word.endswith("*")
    ending = r"\w*" if stem else r"(?:e?s|'s)?"
    return (
        re.search(rf"(?<!\w){re.escape(_folded(word.rstrip('*')))}{ending}(?!\w)", _folded(text)) is not None
    )


def _plain_number(text: str) -> str:
    plain = re.sub(r"^(-?)\.", r"\g<1>0.", text.replace(",", "").replace("−", "-"))
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _comma_items(line: str) -> list[str]:
    """Items of a line like `red, green and blue`, or nothing if it is another kind of line."""
    items = [item.strip() for item in re.split(r",\s*(?:and\s+|or\s+)?", line.strip().rstrip("."))]
    return items if len(items) > 1 and all(1 <= len(words(item)) <= 4 for item in items) else []


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
