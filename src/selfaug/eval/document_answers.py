"""The sides of an answer from documents: its value, its source, and whether there is one at all.

Value and source are looked at where the documents have an answer, abstention where they have none: one score over both
could be had by always, or never, answering.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from selfaug.eval.abstention import abstains
from selfaug.eval.citations import cited_sources, same_value
from selfaug.eval.scorers import Scorer

__all__ = ["Side", "rows_of_side", "sides_of", "unknown_no_answers"]


@dataclass(frozen=True)
class Side:
    """One thing that an answer gets right or wrong.

    Attributes:
        name: as it is shown.
        answerable: whether it is looked at where there is an answer, or where there is none.
        score: of an answer.
        cited: it is looked at only where the right answer cites a source.
    """

    name: str
    answerable: bool
    score: Scorer
    cited: bool = False


def sides_of(no_answers: Collection[str]) -> tuple[Side, ...]:
    """All sides.

    Args:
        no_answers: what rows say where there is no answer, those that are asked and those that the model was trained
            on; none tells it by the phrases of `abstains`.
    """

    def says_none(answer: str, gold: str) -> bool:
        """Whether an answer says that there is none, in the rows' words or in its own.

        A right value never does, nor what sounds like none where the right answer does too and cites the same source.
        """
        if any(same_value(answer, words) for words in no_answers):
            return True
        as_gold = abstains(gold) and not cited_sources(answer).isdisjoint(cited_sources(gold))
        return abstains(answer) and not as_gold and not same_value(answer, gold)

    return (
        Side("value", True, lambda answer, gold, prompt: float(same_value(answer, gold))),
        Side(
            "source",
            True,
            lambda answer, gold, prompt: float(cited_sources(answer) == cited_sources(gold)),
            cited=True,
        ),
        Side(
            "answers where it can",
            True,
            lambda answer, gold, prompt: float(bool(answer.strip()) and not says_none(answer, gold)),
        ),
        Side(
            "abstains where it must",
            False,
            lambda answer, gold, prompt: float(
                abstains(answer) or any(same_value(answer, words) for words in (gold, *no_answers))
            ),
        ),
    )


def rows_of_side(side: Side, golds: Sequence[str], no_answers: Collection[str]) -> list[int]:
    """Indices of the rows that a side is looked at in, by their right answers; `no_answers` as of `sides_of`.

    Where there are none, a right answer that cites a source is one, however it sounds.
    """

    def is_none(gold: str) -> bool:
        if no_answers:
            return any(same_value(gold, words) for words in no_answers)
        return abstains(gold) and not cited_sources(gold)

    return [
        index
        for index, gold in enumerate(golds)
        if is_none(gold) != side.answerable and (not side.cited or cited_sources(gold))
    ]


def unknown_no_answers(no_answers: Collection[str]) -> list[str]:
    """What rows say where there is no answer, if `abstains` knows none of it.

    Then a model that was trained on the rows is known to abstain by their words, and one that wasn't, such as the base
    model, may not be: its language may be none of those that are known.
    """
    return [] if any(map(abstains, no_answers)) else list(no_answers)
