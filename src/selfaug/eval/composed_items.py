"""Instructions made harder by composition: a request of level 1 with constraints on the form of its answer.

Level 2 adds two constraints, each with a check of its own; level 3 adds four, and the answer must keep all of them.
A constraint only counts in an answer to the request (ten words or more, one of the topic's among them): a short answer
in some fixed style keeps many a constraint by saying nothing.

The idea of constraints that a program can check is that of IFEval (arXiv 2311.07911); texts and checks are ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfaug.eval.checks import AllOf, Check, Mentions, NeverMentions, Repeats
from selfaug.eval.form_checks import (
    AllLowerCase,
    AllUpperCase,
    AsksQuestions,
    BeginsWith,
    BulletedList,
    EndsWith,
    Headings,
    Highlighted,
    NoCommas,
    NoDigits,
    NumberedList,
    Paragraphs,
    Quoted,
    Sentences,
    TitleInBrackets,
    Words,
)
from selfaug.eval.general_item import GeneralItem, Half, Level

__all__ = ["COMPOSED_KINDS", "Request", "composed_items"]


@dataclass(frozen=True)
class Request:
    """What constraints are added to.

    Attributes:
        item: id of the item that makes it without them.
        prompt: the user's words.
        words: of its topic.
    """

    item: str
    prompt: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class _Constraint:
    """A constraint on the form of an answer.

    Attributes:
        kind: its name.
        about: parts of an answer that it decides; constraints that share one don't go together.
        make: the sentence for the prompt, and its check, from a random generator and the request's words.
    """

    kind: str
    about: frozenset[str]
    make: Callable[[random.Random, tuple[str, ...]], tuple[str, Check]]


_CLOSINGS = ("That is all for now.", "I hope this helps.", "Let me know what you think.", "And so it goes.")
_OPENINGS = ("Here is what I know", "Let me begin", "A fair question", "First of all")
_FORBIDDEN = ("very", "because", "important", "people", "good", "also")


def _bullets(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    count = rng.randint(3, 6)
    return f"Answer with exactly {count} bullet points.", BulletedList(count, count)


def _numbered(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    count = rng.randint(3, 6)
    return f"Answer with a numbered list of exactly {count} items.", NumberedList(count, count)


def _sentences(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    count = rng.randint(2, 5)
    return f"Use exactly {count} sentences.", Sentences(count, count)


def _paragraphs(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    count = rng.randint(2, 3)
    return f"Write exactly {count} paragraphs with an empty line between them.", Paragraphs(count, count)


def _short(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    most = rng.choice((25, 30, 40))
    return f"Use at most {most} words.", Words(_FEWEST_WORDS, most)


def _long(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    least = rng.choice((50, 60, 70))
    return f"Use at least {least} words.", Words(least)


def _range(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    least = rng.choice((40, 50, 60))
    return f"Use between {least} and {least + 15} words.", Words(least, least + 15)


def _opening(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    phrase = rng.choice(_OPENINGS)
    return f'Begin your answer with the words "{phrase}".', BeginsWith((phrase,))


def _closing(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    phrase = rng.choice(_CLOSINGS)
    return f'End your answer with the exact words "{phrase}"', EndsWith(phrase)


def _forbidden(rng: random.Random, _: tuple[str, ...]) -> tuple[str, Check]:
    some = tuple(rng.sample(_FORBIDDEN, 2))
    return f'Never use the words "{some[0]}" and "{some[1]}".', NeverMentions(some)


def _repeated(rng: random.Random, words: tuple[str, ...]) -> tuple[str, Check]:
    # Whole words; a beginning such as "memor*" is a word only where a request has no others.
    whole = [word for word in words if word.isalpha() and len(word) > 2]
    word = rng.choice(whole or [word.rstrip("*") for word in words])
    return f'Use the word "{word}" at least three times.', Repeats(word, 3)


# Words that are prescribed have a case of their own.
_CASE = frozenset(
    {"case", *(f"case of the {part}" for part in ("opening", "closing", "headings", "postscript"))}
)

_CONSTRAINTS = (
    _Constraint("exactly so many bullets", frozenset({"layout", "sentences"}), _bullets),
    _Constraint("exactly so many numbered items", frozenset({"layout", "sentences"}), _numbered),
    _Constraint("exactly so many sentences", frozenset({"layout", "sentences"}), _sentences),
    _Constraint("exactly so many paragraphs", frozenset({"layout"}), _paragraphs),
    _Constraint("at most so many words", frozenset({"length"}), _short),
    _Constraint("at least so many words", frozenset({"length"}), _long),
    _Constraint("a range of words", frozenset({"length"}), _range),
    _Constraint("opening words", frozenset({"start", "case of the opening"}), _opening),
    _Constraint("closing words", frozenset({"end", "case of the closing"}), _closing),
    _Constraint("forbidden words", frozenset({"vocabulary"}), _forbidden),
    _Constraint("repeated word", frozenset({"repetition"}), _repeated),
    _Constraint(
        "lower case", _CASE, lambda *_: ("Write in lower case letters only.", AllLowerCase())
    ),
    _Constraint(
        "upper case", _CASE, lambda *_: ("Write in capital letters only.", AllUpperCase())
    ),
    _Constraint(
        "title", frozenset({"start"}),
        lambda *_: ("Put a title in double angle brackets, such as <<title>>, on the first line.", TitleInBrackets()),
    ),
    _Constraint(
        "quotation marks", frozenset({"start", "end"}),
        lambda *_: ("Wrap the whole answer in double quotation marks.", Quoted()),
    ),
    _Constraint("no commas", frozenset({"commas"}), lambda *_: ("Don't use any commas.", NoCommas())),
    _Constraint(
        "no digits", frozenset({"digits", "layout"}), lambda *_: ("Don't use any digits.", NoDigits())
    ),
    _Constraint(
        "highlighted words", frozenset({"marks"}),
        lambda *_: ("Mark at least two words with asterisks, such as *this*.", Highlighted(2)),
    ),
    _Constraint(
        "headings", frozenset({"layout", "start", "sentences", "case of the headings"}),
        lambda *_: (
            'Divide it into two parts with the headings "Part 1" and "Part 2".', Headings(("Part 1", "Part 2"))
        ),
    ),
    _Constraint(
        "question to the reader", frozenset({"end", "sentences"}),
        lambda *_: ("Ask the reader a question at some point.", AsksQuestions(1)),
    ),
    _Constraint(
        "postscript", frozenset({"end", "sentences", "case of the postscript"}),
        lambda *_: ('Add a postscript that begins with "P.S." at the end.', Mentions(("P.S",))),
    ),
)  # fmt: skip

COMPOSED_KINDS = (*(constraint.kind for constraint in _CONSTRAINTS), "four constraints at once")

_PER_REQUEST = 2
_FEWEST_WORDS = 10
_CONSTRAINTS_AT: dict[Level, int] = {2: 2, 3: 4}
# Most constraints are kept or not at the answer's end: it has to have one.
_TOKENS: dict[Level, int] = {2: 256, 3: 320}


def composed_items(half: Half, requests: Sequence[Request]) -> list[GeneralItem]:
    """Items of level 2 and 3 from requests of one half, always the same.

    The first constraint goes round, so that each is asked for about equally often; the others are drawn from those
    that go together with it.
    """
    items = []
    for level, count in _CONSTRAINTS_AT.items():
        rng = random.Random(f"{half}/composed/{level}")
        for number in range(_PER_REQUEST * len(requests)):
            request = requests[number % len(requests)]
            chosen = [_CONSTRAINTS[number % len(_CONSTRAINTS)]]
            while len(chosen) < count:
                fitting = [
                    constraint
                    for constraint in _CONSTRAINTS
                    if not any(constraint.about & other.about for other in chosen)
                ]
                chosen.append(rng.choice(fitting))
            made = [constraint.make(rng, request.words) for constraint in chosen]
            substance = (Mentions(request.words), Words(_FEWEST_WORDS))
            checks = tuple(AllOf((*substance, check)) for _, check in made)
            if level == 3:
                checks = (AllOf((*substance, *(check for _, check in made))),)
            kind = chosen[0].kind if level == 2 else COMPOSED_KINDS[-1]
            items.append(
                GeneralItem(
                    id=f"{half}-composed-{level}-{number + 1:02d}",
                    kind=kind,
                    level=level,
                    prompt=" ".join([request.prompt, *(text for text, _ in made)]),
                    checks=checks,
                    max_new_tokens=_TOKENS[level],
                    request=request.item,
                )
            )
    return items
