"""Which rows ask the same: held-out rows measure nothing where their question was learnt from another row."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from itertools import chain, islice
from typing import Any

from selfaug.data.row import Row

__all__ = [
    "DIGEST_BYTES",
    "asked_among",
    "learnt_digests",
    "prompt_keys",
    "taught_among",
    "without_held_out",
    "without_rows_of",
]

DIGEST_BYTES = 16
"""Of each that `learnt_digests` gives."""

_MOST_SETTINGS = 5
"""A question comes back with other passages a few times; what is asked in more settings is said everywhere."""


def prompt_keys(rows: Sequence[Row]) -> list[bytes]:
    """A key for each row; rows that ask the same have the same key, whatever their answers.

    A retrieval row asks its question, a chat its first user message, any other row its prompt; letters' case and white
    space don't count. So a question is the same with other passages, and a chat is the same when it has gone on.

    But a greeting, "Classify this:" or a question about each of many contracts begins rows that have nothing in common.
    So where the same words stand in more than five settings among these rows, those are compared too. The setting of a
    question is its passages, that of a chat what stands before the first user message, and the second one.

    Args:
        rows: all those between which it is asked.
    """
    return [keys[0] for keys in _keys(rows)]


def without_held_out(held_out: Sequence[Row], *parts: Sequence[Row]) -> list[list[Row]]:
    """The rows of each part that don't ask what held-out rows ask, in their order; all parts are compared at once."""
    keys = iter(prompt_keys([*held_out, *chain(*parts)]))
    known = set(islice(keys, len(held_out)))
    return [[row for row in part if next(keys) not in known] for part in parts]


def without_rows_of(others: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The rows that have not the whole prompt and the answer of one of the others, in their order.

    Prompts are alike as for `asked_among`: a standard question about another contract is another one.
    """
    known = {(_prompts(row)[-1], _digest(row.completion)) for row in others}
    return [row for row in rows if (_prompts(row)[-1], _digest(row.completion)) not in known]


def learnt_digests(rows: Sequence[Row]) -> set[bytes]:
    """What `asked_among` and `taught_among` go by of rows that were trained on.

    Digests of each prompt that they teach to answer, and of what each row asks and answers.
    """
    return {digest for row in rows for digest in _prompts(row)}.union(chain.from_iterable(_taught(rows)))


def asked_among(rows: Sequence[Row], learnt: Set[bytes]) -> list[bool]:
    """Whether the prompt of each row is one that other rows teach to answer, and not only the same question.

    Letters' case and white space don't count. The prompt of a retrieval row is its passages, in their order, and the
    last of its questions; others teach each of theirs. That of a chat is all its messages; others teach what stands
    before each assistant turn, where every one is trained. That of any other row is its text.

    Args:
        rows: of which it is asked.
        learnt: from `learnt_digests` of the others.
    """
    return [_prompts(row)[-1] in learnt for row in rows]


def taught_among(rows: Sequence[Row], learnt: Set[bytes]) -> list[bool]:
    """Whether each row asks and answers what one of the others does.

    What it asks is compared as by `prompt_keys`: a question is the same with other passages, but where its words stand
    in more than five settings, among these rows or among the others.

    Args:
        rows: of which it is asked.
        learnt: from `learnt_digests` of the others.
    """
    return [not learnt.isdisjoint(digests) for digests in _taught(rows)]


def _taught(rows: Sequence[Row]) -> Iterator[list[bytes]]:
    """Digests of what each row answers to each of its keys."""
    for row, keys in zip(rows, _keys(rows), strict=True):
        yield [_digest([key.hex(), row.completion])[:DIGEST_BYTES] for key in keys]


def _keys(rows: Sequence[Row]) -> Iterator[list[bytes]]:
    """What each row asks: its words, where these don't stand everywhere, and its words in their setting."""
    asked = [_asked(row) for row in rows]
    settings: dict[bytes, set[bytes]] = defaultdict(set)
    for words, setting in asked:
        settings[words].add(setting)
    for words, setting in asked:
        in_setting = words + setting
        yield [in_setting] if len(settings[words]) > _MOST_SETTINGS else [words, in_setting]


def _prompts(row: Row) -> list[bytes]:
    """Digests of the prompts that a row teaches to answer; the last one is that of its completion."""
    return [digest[:DIGEST_BYTES] for digest in _whole_digests(row)]


def _whole_digests(row: Row) -> list[bytes]:
    if row.retrieval is not None:
        parts = row.retrieval
        questions = [parts.question, *(one.question for one in parts.follow_ups)]
        passages = _digest([_words(passage) for passage in parts.passages]).hex()
        return [_digest([passages, _words(question)]) for question in questions]
    if isinstance(row.prompt, str):
        return [_digest(_words(row.prompt))]
    turns = [[turn["role"], _words(turn["content"]), turn.get("tool_calls")] for turn in row.prompt]
    return [_digest(turns[:end]) for end in row.trained_turns()]


def _asked(row: Row) -> tuple[bytes, bytes]:
    """Digests of what a row asks, and of the setting that it asks it in: texts of all rows would be there twice."""
    if row.retrieval is not None:
        return _digest(_words(row.retrieval.question)), _digest(row.retrieval.passages)
    if isinstance(row.prompt, str):
        return _digest(_words(row.prompt)), b""
    users = [place for place, turn in enumerate(row.prompt) if turn["role"] == "user"]
    if not users:
        return _digest(row.prompt), b""
    second = row.prompt[users[1]]["content"] if len(users) > 1 else None
    before = row.prompt[: users[0]]
    return _digest(_words(row.prompt[users[0]]["content"])), _digest([before, second])


def _words(text: str) -> str:
    # A letter with an accent is one character or two.
    return unicodedata.normalize("NFC", " ".join(text.split())).casefold()


def _digest(value: Any) -> bytes:
    # Messages of Parquet files may hold dates.
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()
