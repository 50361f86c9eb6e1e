"""General instructions with programmatic checks: what a specialised model should still be able to do.

Two halves of the same kinds with different topics and wordings. On the development half anything may be
chosen; the test half is only reported. The kinds, and how strict their checks are, were chosen on the
development half so that SmolLM2-135M-Instruct scores between 40 and 70 % over all of them: where a model
passes nothing, no loss can be seen. Single items were never chosen by their result.

The checks ask for presence and substance (so many bullets, words that belong to the topic), so that an
answer in a short fixed style fails. The prompts are ours, in `general_dev.json` and `general_test.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

from selfaug.eval.checks import (
    AllOf,
    AsksQuestions,
    BeginsWith,
    Check,
    DiffersFrom,
    FullSentence,
    InLanguage,
    JsonWithKeys,
    KeyFacts,
    Language,
    Lines,
    ListItems,
    Mentions,
    NumberedList,
    Sentences,
    Words,
)
from selfaug.eval.checks import words as words_of

__all__ = ["EXECUTIVE_ITEM", "GeneralItem", "Half", "general_suite", "score_general", "spread_over_kinds"]

Half = Literal["dev", "test"]

EXECUTIVE_ITEM = "test-executive-bullets-01"
"""Id of the request that the demo shows side by side."""


@dataclass(frozen=True)
class GeneralItem:
    """One prompt with its checks."""

    id: str
    kind: str
    prompt: str
    checks: tuple[Check, ...]
    max_new_tokens: int


def general_suite(half: Half) -> list[GeneralItem]:
    """Items of one half, always in the same order."""
    return list(_items(half))


def spread_over_kinds(items: Sequence[GeneralItem], count: int) -> list[GeneralItem]:
    """So many items, kinds in turn, the executive's request among them."""
    by_kind: dict[str, list[GeneralItem]] = {}
    for item in sorted(items, key=lambda item: item.id != EXECUTIVE_ITEM):
        by_kind.setdefault(item.kind, []).append(item)
    turns = [
        kind[turn]
        for turn in range(max(map(len, by_kind.values())))
        for kind in by_kind.values()
        if turn < len(kind)
    ]
    return turns[:count]


def score_general(item: GeneralItem, answer: str) -> float:
    """Share of the item's checks that the answer passes."""
    return sum(check.passes(answer) for check in item.checks) / len(item.checks)


# What a kind asks of an answer, from the prompt and the words that belong to its topic.
_Checks = Callable[[str, tuple[str, ...]], tuple[Check, ...]]


def _executive_bullets(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return ListItems(3), KeyFacts(words, prompt)


def _executive_summary(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    # A summary is shorter than what it sums up: most of the prompt copied is none.
    length = Words(8, 3 * len(words_of(prompt)) // 4)
    return (AllOf((FullSentence(8), length, KeyFacts(words, prompt))),)


def _bulleted_list(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((ListItems(3), Mentions(words))),)


def _numbered_steps(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((NumberedList(3), Mentions(words, 2))),)


def _explanation(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Sentences(2), Mentions(words, 3))),)


def _comparison(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Words(30), Mentions(words, None))),)


def _story(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Words(40), Mentions(words, None))),)


def _poem(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Lines(4), Mentions(words, 2))),)


def _email(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    greeting = BeginsWith(("Subject", "Dear", "Hi", "Hello"))
    return greeting, AllOf((Words(25), Mentions(words, 2)))


def _rewrite(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    source = prompt.partition(": ")[2]
    return (AllOf((FullSentence(4), Mentions(words, 2), DiffersFrom(source))),)


def _extraction(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((ListItems(len(words)), Mentions(words, None))),)


def _translation(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Words(5), InLanguage(cast(Language, words[0])))),)


def _fact(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((FullSentence(5), Mentions(words))),)


def _json(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (JsonWithKeys(words),)


def _questions(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AsksQuestions(int(words[0])),)


def _opening_phrase(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((BeginsWith(words), Words(8))),)


def _advice(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Sentences(3), Mentions(words, 2))),)


def _naming(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (ListItems(int(words[0])),)


def _description(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Words(30), Mentions(words, 3))),)


# Each kind's checks, and the new tokens that an answer to it needs.
_KINDS: dict[str, tuple[_Checks, int]] = {
    "executive bullets": (_executive_bullets, 80),
    "executive summary": (_executive_summary, 64),
    "bulleted list": (_bulleted_list, 80),
    "numbered steps": (_numbered_steps, 80),
    "explanation": (_explanation, 80),
    "comparison": (_comparison, 80),
    "story": (_story, 80),
    "poem": (_poem, 80),
    "email": (_email, 80),
    "rewrite": (_rewrite, 48),
    "extraction": (_extraction, 48),
    "translation": (_translation, 48),
    "fact": (_fact, 32),
    "json": (_json, 64),
    "questions": (_questions, 64),
    "opening phrase": (_opening_phrase, 48),
    "advice": (_advice, 80),
    "naming": (_naming, 80),
    "description": (_description, 80),
}


@cache
def _items(half: Half) -> tuple[GeneralItem, ...]:
    text = files("selfaug.eval").joinpath(f"general_{half}.json").read_text(encoding="utf-8")
    return tuple(
        _item(half, kind, number, row["prompt"], tuple(row["words"]))
        for kind, rows in json.loads(text).items()
        for number, row in enumerate(rows, start=1)
    )


def _item(half: Half, kind: str, number: int, prompt: str, words: tuple[str, ...]) -> GeneralItem:
    name = f"{half}-{kind.replace(' ', '-')}-{number:02d}"
    checks, max_new_tokens = _KINDS[kind]
    return GeneralItem(name, kind, prompt, checks(prompt, words), max_new_tokens)
