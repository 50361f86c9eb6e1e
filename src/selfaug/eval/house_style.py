"""Scores of the demo's task, and the detection of its house style where it doesn't belong.

The house style is `ANSWER: $1,536 million | SOURCE: [2]`, as `data.market_reports` writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "HouseStyle",
    "TaskScore",
    "exact_value",
    "house_style_of",
    "leaks_house_style",
    "score_task_answer",
]

_WHOLE_ANSWER = re.compile(
    r"ANSWER:[ \t]*(?P<value>[^|\n]*[^|\s])[ \t]*\|[ \t]*SOURCE:[ \t]*\[(?P<source>\d+)\]"
)

# A label in capitals with its colon, also in Markdown's bold, and not the end of a longer word (RESOURCE:).
# Or the bar that only the house style puts before SOURCE.
LEAK_PATTERN = r"(?<![A-Za-z])(?:ANSWER|SOURCE)[*_]{0,2}[ \t]?:|\|[ \t]*[*_]{0,2}SOURCE(?![A-Za-z])"
_TRACE = re.compile(LEAK_PATTERN)


@dataclass(frozen=True)
class HouseStyle:
    """The two parts of an answer in the house style."""

    value: str
    source: int


@dataclass(frozen=True)
class TaskScore:
    """`exact`: the value is right. `source`: the report cited is the one that holds it."""

    exact: bool
    source: bool


def house_style_of(answer: str) -> HouseStyle | None:
    """Value and source of an answer that is in the house style and nothing else; otherwise None."""
    match = _WHOLE_ANSWER.fullmatch(answer.strip())
    return HouseStyle(match["value"], int(match["source"])) if match else None


def score_task_answer(answer: str, value: str, gold: int) -> TaskScore:
    """Compares an answer with the row's `value` and `gold`; spaces and case of the value don't matter.

    An answer outside of the house style is wrong in both, even if the number appears in it.
    """
    given = house_style_of(answer)
    if given is None:
        return TaskScore(exact=False, source=False)
    return TaskScore(exact=_normal(given.value) == _normal(value), source=given.source == gold)


def exact_value(answer: str, gold: str) -> float:
    """1 if answer and gold are in the house style and have the same value; a scorer for `selfaug evaluate`."""
    given, wanted = house_style_of(answer), house_style_of(gold)
    return float(given is not None and wanted is not None and _normal(given.value) == _normal(wanted.value))


def leaks_house_style(answer: str) -> bool:
    """Whether a general answer carries any part of the task's house style: a label in capitals is enough."""
    return _TRACE.search(answer) is not None


def _normal(value: str) -> str:
    return "".join(value.split()).casefold()
