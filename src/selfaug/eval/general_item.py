"""One request of the general suite: a prompt with its checks, or with choices of which one is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfaug.eval.checks import Check

__all__ = ["FITTING_SCORE", "LEVELS", "GeneralItem", "Half", "Level", "score_general"]

Half = Literal["dev", "test"]

Level = Literal[1, 2, 3]
LEVELS: tuple[Level, ...] = (1, 2, 3)

FITTING_SCORE = 0.4
"""What a base model passes, at least, of a level that fits it."""


@dataclass(frozen=True)
class GeneralItem:
    """One prompt with its checks.

    Attributes:
        id: begins with the half.
        kind: what it asks for; items of one kind have the same checks.
        level: of difficulty: 1 for the smallest models, 3 for the largest.
        prompt: the user's words.
        checks: of the answer.
        max_new_tokens: that an answer needs; 0 where one of the choices is the answer.
        choices: of a multiple choice: the answer is the one that the model finds likeliest.
        request: id of the item whose request this one makes under constraints; empty if it is none of them.
    """

    id: str
    kind: str
    level: Level
    prompt: str
    checks: tuple[Check, ...]
    max_new_tokens: int
    choices: tuple[str, ...] = ()
    request: str = ""

    @property
    def cluster(self) -> str:
        """What this item shares with others: forms of one request succeed or fail together more often than not."""
        return self.request or self.id


def score_general(item: GeneralItem, answer: str) -> float:
    """Share of the item's checks that the answer passes."""
    return sum(check.passes(answer) for check in item.checks) / len(item.checks)
