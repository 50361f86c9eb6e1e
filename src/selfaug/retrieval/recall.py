"""How often the right passage is found."""

from __future__ import annotations

from collections.abc import Sequence

from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.pairs import Sign
from selfaug.retrieval.retriever import Passage

__all__ = ["first_right", "right_places"]


def first_right(passages: Sequence[Passage], gold: Sequence[Chunk], signs: Sequence[Sign]) -> int | None:
    """Place of the first right passage among those that were found, from 1; None if none is.

    Args:
        passages: that were found, the best first.
        gold: chunks that hold the answer.
        signs: as of `right_places`.
    """
    return next(iter(right_places(passages, gold, signs)), None)


def right_places(passages: Sequence[Passage], gold: Sequence[Chunk], signs: Sequence[Sign]) -> list[int]:
    """Places, from 1, of the right ones among passages.

    Args:
        passages: that were found.
        gold: chunks that hold the answer.
        signs: by which a passage of a retriever that doesn't know our chunks is right, where it is from a sign's
            document or from one that isn't named; none for a retriever that knows them: the same words elsewhere may
            be about something else.
    """
    right = {chunk.id for chunk in gold}
    said = {chunk.passage for chunk in gold}  # a search gives one of the passages that say the same
    return [
        place
        for place, passage in enumerate(passages, 1)
        if passage.id in right
        or passage.text in said
        or any(passage.document in (sign.document, "") and sign.stands_in(passage.text) for sign in signs)
    ]
