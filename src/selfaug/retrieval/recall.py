"""How often the right passage is found."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.pairs import holds
from selfaug.retrieval.retriever import Passage

__all__ = ["first_right"]


def first_right(passages: Sequence[Passage], gold: Sequence[Chunk], answer: str | None) -> int | None:
    """Place of the first right passage among those that were found, from 1; None if none is.

    Args:
        passages: that were found, the best first.
        gold: chunks that hold the answer.
        answer: the answer's words, by which a passage of a retriever that doesn't know our chunks is right, where it
            is from a gold chunk's document or from one that isn't named; None for a retriever that knows them: the
            same words elsewhere may be about something else.
    """
    right = {chunk.id for chunk in gold}
    documents: Collection[str] = {chunk.document for chunk in gold} | {""}
    for place, passage in enumerate(passages, 1):
        if passage.id in right:
            return place
        if answer is not None and passage.document in documents and holds(passage.text, answer):
            return place
    return None
