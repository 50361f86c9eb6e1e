"""How often a retriever finds the right passage for labelled questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfaug.errors import DataError
from selfaug.phases.prepared_folder import prepared_record, prepared_retriever
from selfaug.phases.prepared_rows import homes_of, measure_recall, pairs_with_gold, with_copies
from selfaug.phases.progress import Progress
from selfaug.retrieval.index import Index
from selfaug.retrieval.retriever import own_retriever

__all__ = ["recall"]


def recall(
    prepared: Path,
    questions: Sequence[str],
    *,
    depth: int = 10,
    retriever: str | None = None,
    skip_bad_rows: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Recall by depth.

    Args:
        prepared: folder that `selfaug prepare` wrote; its index says which passages are right.
        questions: files of question-answer pairs that name their documents.
        depth: passages that are looked at.
        retriever: "bm25" or `module:function`; by default as prepared.
        skip_bad_rows: leave bad pairs out.
        on_progress: called with what is being done.

    Returns:
        As `measure_recall`, with `left_out`: what is wrong with pairs that were left out.

    Raises:
        DataError: if the folder or the pairs can't be used.
        ConfigError: if the retriever can't be used.
    """
    record = prepared_record(prepared)
    index = Index(prepared / "index")
    if retriever is None:
        searched = prepared_retriever(prepared, record)
    else:
        searched = index if retriever == "bm25" else own_retriever(retriever)
    pairs, gold, problems = pairs_with_gold(index, questions, on_progress, skip_bad_rows=skip_bad_rows)
    homes = homes_of(pairs, gold, index, with_copies(record.get("near_copies", []), index))
    found = measure_recall(pairs, gold, searched, depth, homes, on_progress)
    if not found["questions"]:
        raise DataError(
            "none of the questions has an answer in the documents.", hint="give pairs with an answer."
        )
    return {**found, "left_out": [str(problem) for problem in problems]}
