"""The passages that a row is made of, as the retriever finds them that later answers questions from the documents."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from selfaug.errors import ConfigError
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index
from selfaug.retrieval.pairs import Sign
from selfaug.retrieval.recall import right_places
from selfaug.retrieval.retriever import Passage, Retriever

__all__ = ["row_passages"]

_SEARCHED_PER_PASSAGE = 4
# A retriever that can't be told which documents to search is asked for more, up to so many times as many.
_MOST_TIMES = 64


def row_passages(
    question: str,
    gold: Sequence[Chunk],
    signs: Sequence[Sign],
    retriever: Retriever,
    count: int,
    within: Collection[str],
) -> tuple[list[Passage], list[Passage]]:
    """Passages that hold the answer, and passages that are found for the question, the best first.

    Both are the retriever's own: of one that cuts the documents otherwise than our index, no passage of ours stands
    beside them, which would be known by its looks. So it has to find the right one itself.

    Args:
        question: in words.
        gold: our chunks that hold the answer.
        signs: of the answer, from `signs_of`.
        retriever: our index, or a user's.
        count: passages in a row.
        within: documents that passages may come from: those of the row's split.

    Raises:
        ConfigError: if a user's retriever doesn't say which document a passage is from.
    """
    own = [chunk for chunk in gold if chunk.document in within]
    wanted = count * _SEARCHED_PER_PASSAGE + len(own)
    if isinstance(retriever, Index):
        return [_passage(chunk) for chunk in own], retriever.search(question, wanted, within=within)
    return _of_users(question, own, signs, retriever, wanted, within)


def _passage(chunk: Chunk) -> Passage:
    return Passage(chunk.passage, chunk.document, chunk.id, chunk.page)


def _of_users(
    question: str,
    gold: Sequence[Chunk],
    signs: Sequence[Sign],
    retriever: Retriever,
    count: int,
    within: Collection[str],
) -> tuple[list[Passage], list[Passage]]:
    """The right passages, and the first of those that are found; more are asked for until both are there."""
    asked = count
    while True:
        found = retriever.search(question, asked)
        _require_documents(question, found)
        inside = [passage for passage in found if passage.document in within]
        right = [inside[place - 1] for place in right_places(inside, gold, signs)]
        enough = len(inside) >= count and (right or not gold)
        if enough or len(found) < asked or asked >= count * _MOST_TIMES:
            return right, inside[:count]
        asked *= 4


def _require_documents(question: str, found: Sequence[Passage]) -> None:
    nameless = next((passage for passage in found if not passage.document), None)
    if nameless is not None:
        raise ConfigError(
            f"the retriever gave a passage without its document for {question!r:.80}: {nameless.text!r:.80}; rows "
            "can't be kept apart by documents then.",
            hint="let it give mappings with `text` and `document`, the path within the folder of documents.",
        )
