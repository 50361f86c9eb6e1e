"""Answers that were kept, request by request: found, filtered, searched and compared word by word."""

from __future__ import annotations

import difflib
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfaug.records import read_record
from selfaug.report.kept_answers import AnswerFiles, read_answers

__all__ = ["CHANGES", "Change", "KeptSamples", "Samples", "Shown", "differing_words"]

Change = Literal["lost", "gained", "same", "unscored"]
CHANGES: tuple[Change, ...] = ("lost", "gained", "same", "unscored")
"""What became of a request's score: failures first."""

# Words with the spaces between them, so half as many words.
_MOST_WORDS = 1_200

# The same word at so many pairs of places takes seconds: answers that say the same over and over.
_MOST_PAIRS = 45_000

# Suites whose texts are kept, and the bytes of their files: the one that was looked at last is kept whatever it has.
_KEPT = 4
_KEPT_BYTES = 200_000_000


@dataclass(frozen=True)
class Shown:
    """One request with its answers and scores, in the order of the models."""

    id: str
    change: Change
    prompt: str
    answers: Sequence[str]
    scores: Sequence[float | None]


class Samples:
    """One suite's requests, and how the score of each changed.

    Args:
        found: the files.
    """

    def __init__(self, found: AnswerFiles) -> None:
        self._models = len(found.files)
        self._rows = read_answers(found.files)
        scores = _scores(found)
        self._scores = {name: scores.get(name) for name in self._rows}
        order = {change: rank for rank, change in enumerate(CHANGES)}
        self._changes = {name: _change(self._scores[name]) for name in self._rows}
        self._ids = sorted(self._rows, key=lambda name: order[self._changes[name]])

    def counts(self) -> dict[Change, int]:
        """How many of each change."""
        found: dict[Change, int] = dict.fromkeys(CHANGES, 0)
        for change in self._changes.values():
            found[change] += 1
        return found

    def select(self, change: str = "", search: str = "") -> list[str]:
        """Ids with that change, whose prompt or answers hold the text, whatever its case; failures first.

        Args:
            change: one of `CHANGES`; empty for all.
            search: the text, or a part of the id; empty for all.
        """
        wanted = search.lower()
        return [
            name
            for name in self._ids
            if not change or self._changes[name] == change
            if not search
            or any(
                wanted in text.lower() for text in (name, self._rows[name].prompt, *self._rows[name].answers)
            )
        ]

    def shown(self, ids: Sequence[str]) -> list[Shown]:
        """Requests with all their texts."""
        return [Shown(name, self._changes[name], *self._rows[name], self._score_row(name)) for name in ids]

    def _score_row(self, name: str) -> list[float | None]:
        scores = self._scores[name]
        return [None] * self._models if scores is None else [scores["base"], scores["tuned"]]


class KeptSamples:
    """The suites that were looked at last, as long as their files stay as they are."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Samples] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, found: AnswerFiles) -> Samples:
        """Read, or kept from before."""
        files = [*found.files, *([] if found.record is None else [found.record])]
        stats = [file.stat() for file in files]
        key = (
            found.suite,
            *((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in zip(files, stats, strict=True)),
        )
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Samples(found)
                while len(self._kept) > 1 and (len(self._kept) > _KEPT or self._bytes() > _KEPT_BYTES):
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _bytes(self) -> int:
        return sum(size for _, *files in self._kept for _, _, size in files)


def differing_words(one: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces, each with whether the other text lacks it; those that would take long are left whole."""
    words = [re.findall(r"\s+|[^\s]+", text) for text in (one, other)]
    if max(map(len, words)) > _MOST_WORDS or _pairs(*words) > _MOST_PAIRS:
        return [(one, False)], [(other, False)]
    mine: list[tuple[str, bool]] = []
    theirs: list[tuple[str, bool]] = []
    # Spaces are equal beside equal words only: to match each of them with each takes seconds.
    matcher = difflib.SequenceMatcher(str.isspace, words[0], words[1], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        for pieces, part in ((mine, words[0][a:b]), (theirs, words[1][c:d])):
            if part:
                pieces.append(("".join(part), kind != "equal"))
    return mine, theirs


def _pairs(one: Sequence[str], other: Sequence[str]) -> int:
    """How many pairs of places have the same word."""
    counts = Counter(word for word in other if not word.isspace())
    return sum(counts[word] for word in one)


def _scores(found: AnswerFiles) -> Mapping[str, Mapping[str, float]]:
    if found.record is None:
        return {}
    evaluation = read_record(found.record, "evaluation")
    try:
        scores: Mapping[str, Mapping[str, float]] = evaluation["suites"][found.suite]["scores"]
        return {
            name: of
            for name, of in scores.items()
            if all(isinstance(of.get(model), int | float) for model in ("base", "tuned"))
        }
    except (AttributeError, LookupError, TypeError):  # a suite without scores, or with others
        return {}


def _change(scores: Mapping[str, float] | None) -> Change:
    if scores is None:
        return "unscored"
    change = scores["tuned"] - scores["base"]
    return "lost" if change < 0 else "gained" if change > 0 else "same"
