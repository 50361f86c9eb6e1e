"""General requests with programmatic checks: what a specialised model should still be able to do.

Two halves of the same kinds with different topics and wordings. On the development half anything may be
chosen; the test half is only reported. Three levels of difficulty: where a model passes nothing, or everything, no
loss can be seen. The kinds of level 1, and how strict their checks are, were chosen on the development half so that
SmolLM2-135M-Instruct scores between 40 and 70 % over all of them; the higher levels ask for more of the same, and
were never adjusted to a model. Single items were never chosen by their result.

The checks ask for presence and substance (so many bullets, words that belong to the topic), so that an
answer in a short fixed style fails. The prompts are ours: those in `general_dev.json` and `general_test.json` are
written by hand, others are composed of these (composed_items.py) or come from a generator (generated_items.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

from selfaug.eval.checks import (
    AllOf,
    Check,
    Chooses,
    DiffersFrom,
    InLanguage,
    KeyFacts,
    Language,
    Mentions,
    Refuses,
)
from selfaug.eval.composed_items import Request, composed_items
from selfaug.eval.form_checks import (
    AsksQuestions,
    BeginsWith,
    FullSentence,
    JsonWithKeys,
    Lines,
    ListItems,
    NoLabels,
    NumberedList,
    Sentences,
    Words,
)
from selfaug.eval.general_item import LEVELS, GeneralItem, Half, Level, score_general
from selfaug.eval.generated_items import arithmetic_items, reading_items
from selfaug.eval.text_parts import mentions
from selfaug.eval.text_parts import words as words_of

__all__ = [
    "EXECUTIVE_ITEM",
    "FAST_ITEMS",
    "LEVELS",
    "GeneralItem",
    "Half",
    "Level",
    "general_suite",
    "score_general",
    "spread_over_kinds",
]

EXECUTIVE_ITEM = "test-executive-bullets-01"
"""Id of the request that the demo shows side by side."""

FAST_ITEMS = 96
"""Items of the fast subset, spread over the kinds."""


def general_suite(half: Half, level: Level | None = None) -> list[GeneralItem]:
    """Items of one half, always in the same order: those of one level, or all."""
    return [item for item in _items(half) if level in (None, item.level)]


def spread_over_kinds(items: Sequence[GeneralItem], count: int) -> list[GeneralItem]:
    """So many items, kinds in turn, the executive's request among them; of a kind, evenly over its items."""
    by_kind: dict[str, list[GeneralItem]] = {}
    for item in sorted(items, key=lambda item: item.id != EXECUTIVE_ITEM):
        by_kind.setdefault(item.kind, []).append(item)
    most = max(map(len, by_kind.values()))
    turns = [kind for turn in range(most) for kind in by_kind if turn < len(by_kind[kind])][:count]
    asked = Counter(turns)
    taken: Counter[str] = Counter()
    spread = []
    for kind in turns:
        own = by_kind[kind]
        # From the middle of each part: the first of a kind are not like all of it, they were written at another time.
        place = (2 * taken[kind] + 1) * len(own) // (2 * asked[kind])
        spread.append(own[0] if not taken[kind] and own[0].id == EXECUTIVE_ITEM else own[place])
        taken[kind] += 1
    return spread


# What a kind asks of an answer, from the prompt and the words that belong to its topic.
_Checks = Callable[[str, tuple[str, ...]], tuple[Check, ...]]


def _source(prompt: str) -> str:
    """The text that a summary or a rewrite is asked of: it stands after the instruction and a colon."""
    return prompt.partition(": ")[2]


def _executive_bullets(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return ListItems(3), KeyFacts(words, prompt)


def _executive_summary(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    # A summary is shorter than what it sums up: neither that copied, nor most of the prompt, is one.
    source = _source(prompt)
    most = min(3 * len(words_of(prompt)) // 4, len(words_of(source)) - 1)
    return (AllOf((FullSentence(8), Words(8, most), KeyFacts(words, prompt), DiffersFrom(source))),)


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
    greeting = BeginsWith(("Subject", "Dear", "Hi", "Hello", "Hey"))
    return greeting, AllOf((Words(25), Mentions(words, 2)))


def _rewrite(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    # One of the words is neither in the source nor in the instruction: a copy with another word in it is no rewrite.
    new = tuple(word for word in words if not mentions(prompt, word))
    return (AllOf((FullSentence(4), Mentions(words, 2), Mentions(new), DiffersFrom(_source(prompt)))),)


def _extraction(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((ListItems(len(words)), Mentions(words, None))),)


def _translation(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((Words(5), InLanguage(cast(Language, words[0])), NoLabels())),)


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


def _refusal(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (Refuses(),)


def _users_language(prompt: str, words: tuple[str, ...]) -> tuple[Check, ...]:
    return (AllOf((InLanguage(cast(Language, words[0])), Sentences(int(words[1])), NoLabels())),)


# Checks of each kind of instruction, and the new tokens that an answer to it needs.
_INSTRUCTIONS: dict[str, tuple[_Checks, int]] = {
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


# Kinds with a level of their own for each prompt.
_WRITTEN_KINDS = _INSTRUCTIONS | {"refusal": (_refusal, 48), "user's language": (_users_language, 80)}

# What constraints are composed with: requests that can be answered in any form.
_COMPOSED_WITH = ("explanation", "advice", "description", "story")


@cache
def _items(half: Half) -> tuple[GeneralItem, ...]:
    text = files("selfaug.eval").joinpath(f"general_{half}.json").read_text(encoding="utf-8")
    written: dict[str, list[dict[str, Any]]] = json.loads(text)
    requests = [
        Request(_name(half, kind, number), row["prompt"], tuple(row["words"]))
        for kind in _COMPOSED_WITH
        for number, row in enumerate(written[kind], start=1)
    ]
    return (
        *(
            _item(half, kind, number, row)
            for kind, rows in written.items()
            for number, row in enumerate(rows, start=1)
        ),
        *composed_items(half, requests),
        *arithmetic_items(half),
        *reading_items(half),
    )


def _item(half: Half, kind: str, number: int, row: dict[str, Any]) -> GeneralItem:
    name = _name(half, kind, number)
    level: Level = row.get("level", 1)
    if "choices" in row:  # the first one is right; the model is never shown them in an order
        choices = tuple(row["choices"])
        return GeneralItem(name, kind, level, row["prompt"], (Chooses(choices[0]),), 0, choices)
    checks, max_new_tokens = _WRITTEN_KINDS[kind]
    return GeneralItem(
        name, kind, level, row["prompt"], checks(row["prompt"], tuple(row["words"])), max_new_tokens
    )


def _name(half: Half, kind: str, number: int) -> str:
    return f"{half}-{kind.replace(' ', '-').replace(chr(39), '')}-{number:02d}"
