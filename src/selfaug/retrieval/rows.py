"""Training rows: the passages of a prompt, and the completion that is right for them."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index
from selfaug.retrieval.pairs import Pair, holds

__all__ = ["RowForm", "make_row"]

_SEARCHED_PER_PASSAGE = 4


@dataclass(frozen=True, slots=True)
class RowForm:
    """What rows are made of.

    Attributes:
        passages: in a prompt.
        no_answer_share: share of the rows whose passages don't have the answer, in [0, 1).
        no_answer: what is right to say then.
        completion: has `{answer}`, may have `{sources}`.
        seed: of the places of the gold passages, and of which rows have none.
    """

    passages: int = 5
    no_answer_share: float = 0.1
    no_answer: str = "The documents don't say."
    completion: str = "{answer} {sources}"
    seed: int = 0


def make_row(
    pair: Pair, gold: Sequence[Chunk], index: Index, form: RowForm, within: Collection[str]
) -> dict[str, Any]:
    """A retrieval row.

    The gold passage stands anywhere among the distractors, each place being as likely; distractors are passages that
    are found for the question and don't hold the answer. Place and absence depend on the pair's id and the seed alone.

    Args:
        pair: the question.
        gold: chunks that hold its answer, from `find_gold`.
        index: to find distractors in.
        form: what rows are made of.
        within: documents that passages may come from: those of the row's split.

    Returns:
        `id`, `question`, `context` (passages) and `answer` (the completion); and for those who look closer `value`
        (the answer alone, or None), `gold` (number of the passage that holds it, from 1, or None), `documents`
        (that hold it) and `passages` (ids of the chunks).
    """
    draw = random.Random(f"{form.seed}:{pair.id}")
    with_gold = pair.answer is not None and draw.random() >= form.no_answer_share
    place, chosen = draw.random(), draw.random()
    found = index.ranked(pair.question, form.passages * _SEARCHED_PER_PASSAGE + len(gold), within=within)
    distractors = _distractors(pair, gold, [chunk for chunk, _ in found])
    if with_gold:
        chunks = distractors[: form.passages - 1]
        number = int(place * (len(chunks) + 1))
        chunks.insert(number, gold[int(chosen * len(gold))])
    else:
        chunks, number = distractors[: form.passages], -1
    value = pair.answer if with_gold else None
    completion = (
        form.no_answer
        if value is None
        else form.completion.format(answer=value, sources=f"[{number + 1}]").strip()
    )
    return {
        "id": pair.id,
        "question": pair.question,
        "context": [chunk.passage for chunk in chunks],
        "answer": completion,
        "value": value,
        "gold": number + 1 if with_gold else None,
        "documents": list(pair.documents),
        "passages": [chunk.id for chunk in chunks],
    }


def _distractors(pair: Pair, gold: Sequence[Chunk], found: Sequence[Chunk]) -> list[Chunk]:
    """What was found for the question, and is wrong."""
    right = {chunk.id for chunk in gold}
    of_gold = {chunk.document for chunk in gold}
    return [
        chunk
        for chunk in found
        if chunk.id not in right
        # The same document may say it again, in words that the pair's evidence doesn't know.
        and not (pair.answer is not None and chunk.document in of_gold and holds(chunk.passage, pair.answer))
    ]
