"""Training rows: the passages of a prompt, and the completion that is right for them."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from selfaug.core.digits import plain_digits
from selfaug.retrieval.chunking import without_title
from selfaug.retrieval.pairs import Pair, Sign, holds, signed
from selfaug.retrieval.retriever import Passage

__all__ = ["RowForm", "completion_of", "has_answer", "make_row"]

_FIGURE = re.compile(r"\d+(?:[.,'\u2019 \u00a0\u202f]\d{3})*(?:[.,]\d+)?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_FEWEST_DIGITS = 3  # of a figure that hardly stands somewhere by chance
# Of a passage. The first line of a user's own may be a sentence or a row.
_HEADING = re.compile(r"[^\n|]*[^\n|.!?。！？]\n")


@dataclass(frozen=True, slots=True)
class RowForm:
    """What rows are made of.

    Attributes:
        passages: in a prompt.
        no_answer_share: share of the rows whose passages don't have the answer, in [0, 1).
        no_answer: what is right to say then.
        completion: has `{answer}`, may have `{sources}`.
        seed: of the places of the gold passages, of which rows have none, and of the further questions.
        follow_ups: most further questions about the same passages.
        titled: whether each passage begins with its document's title, as chunks of ours do.
    """

    passages: int = 5
    no_answer_share: float = 0.1
    no_answer: str = "The documents don't say."
    completion: str = "{answer} {sources}"
    seed: int = 0
    follow_ups: int = 0
    titled: bool = False


def make_row(
    pair: Pair,
    gold: Sequence[Passage],
    found: Sequence[Passage],
    form: RowForm,
    signs: Sequence[Sign],
    near: Collection[str] = (),
) -> dict[str, Any]:
    """A retrieval row.

    The gold passage stands anywhere among the distractors, each place being as likely; distractors are passages that
    are found for the question and don't hold the answer. Place and absence depend on the pair's id and the seed alone.

    Args:
        pair: the question.
        gold: passages that hold its answer, of the row's split; at least one if there is an answer.
        found: passages of the row's split that are found for the question, the best first.
        form: what rows are made of.
        signs: of the answer: a row without it has no passage with them, whatever document that is from.
        near: documents that are nearly the same as those of `gold`: what they say of the answer is not wrong either.

    Returns:
        `id`, `question`, `context` (passages) and `answer` (the completion); and for those who look closer `value`
        (the answer alone, or None), `gold` (number of the passage that holds it, from 1, or None), `documents`
        (that hold it) and `passages` (ids).
    """
    draw = random.Random(f"{form.seed}:{pair.id}")
    with_gold = pair.answer is not None and draw.random() >= form.no_answer_share
    place, chosen = draw.random(), draw.random()
    distractors = _distractors(pair, gold, found, form, signs, near)
    silent = [
        passage for passage in distractors if not has_answer(pair, signs, passage.text, titled=form.titled)
    ]
    if with_gold or (pair.answer is not None and not silent):  # a row without any passage is none
        with_gold = True
        passages = distractors[: form.passages - 1]
        number = int(place * (len(passages) + 1))
        passages.insert(number, gold[int(chosen * len(gold))])
    else:
        passages, number = silent[: form.passages], -1
    value = pair.answer if with_gold else None
    return {
        "id": pair.id,
        "question": pair.question,
        "context": [passage.text for passage in passages],
        "answer": completion_of(form, value, number + 1),
        "value": value,
        "gold": number + 1 if with_gold else None,
        "documents": list(pair.documents),
        "passages": [passage.id for passage in passages],
    }


def completion_of(form: RowForm, value: str | None, number: int | None) -> str:
    """What is right to say: the answer with the number of its passage, or that there is none."""
    if value is None:
        return form.no_answer
    return form.completion.format(answer=value, sources=f"[{number}]").strip()


def _distractors(
    pair: Pair,
    gold: Sequence[Passage],
    found: Sequence[Passage],
    form: RowForm,
    signs: Sequence[Sign],
    near: Collection[str],
) -> list[Passage]:
    """What was found for the question, and is wrong."""
    right = {passage.text for passage in gold}
    of_gold = {*near, *(passage.document for passage in gold)}
    return [
        passage
        for passage in found
        if passage.text not in right
        # The same document may say it again, in words that the pair's evidence doesn't know.
        and not (
            passage.document in of_gold
            and has_answer(pair, signs, passage.text, of_gold=True, titled=form.titled)
        )
    ]


def has_answer(
    pair: Pair, signs: Sequence[Sign], text: str, *, of_gold: bool = False, titled: bool = False
) -> bool:
    """Whether a passage would make it wrong to say that the passages don't have the answer.

    The title of its document doesn't: "Norvik annual report 2023" stands above passages that say nothing of a purchase
    which was closed in 2023. It counts where the right passage has the answer nowhere else.

    Args:
        pair: question and answer.
        signs: of the answer.
        text: of the passage.
        of_gold: whether it is from a document that holds the answer: there small figures alone say it, too.
        titled: whether it begins with its document's title, as chunks of ours do.
    """
    if pair.answer is None:
        return False
    said = without_title(text) if titled else text
    return _says(said, _beneath_heading(text, titled), pair.answer, of_gold) or any(
        sign.stands_in(text if sign.with_title else said) for sign in signs
    )


def _beneath_heading(text: str, titled: bool) -> str:
    if titled:
        return text.partition("\n")[2]
    heading = _HEADING.match(text)
    return text[heading.end() :] if heading else text


def _says(text: str, beneath: str, answer: str, with_small_figures: bool) -> bool:
    """Whether a passage has an answer's words, or all its figures: a table has "$3,689 million" as 3,689.

    Figures alone are looked for beneath the heading: "2023-05-12: Results" stands above every passage of a document.
    """
    answer = plain_digits(answer)
    figures = [figure for figure in _FIGURE.findall(answer) if not _YEAR.fullmatch(figure)]
    if holds(beneath if figures == [answer] else text, answer):
        return True
    if not figures or not (with_small_figures or any(map(_is_long, figures))):
        return False
    return all(any(holds(beneath, words) for words in signed(figure)) for figure in figures)


def _is_long(figure: str) -> bool:
    return sum(map(str.isdigit, figure)) >= _FEWEST_DIGITS
