"""Rows of the splits from question-answer pairs, and how often the right passage is found."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from selfaug.core.statistics import wilson_interval
from selfaug.data.sources import Problem, problems_error
from selfaug.errors import DataError
from selfaug.phases.progress import Progress
from selfaug.phases.question_files import load_pairs
from selfaug.prepare_config import PrepareConfig
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index
from selfaug.retrieval.pairs import Pair, find_gold
from selfaug.retrieval.recall import first_right
from selfaug.retrieval.retriever import Retriever
from selfaug.retrieval.rows import RowForm, make_row
from selfaug.retrieval.split import near_duplicates, split_documents
from selfaug.retrieval.tokens import Words

__all__ = ["SPLITS", "make_rows", "measure_recall", "pairs_with_gold"]

SPLITS = ("train", "validation", "test")

_DEPTHS = (1, 3, 5, 10)

Report = Callable[[Progress], None]


def make_rows(
    config: PrepareConfig, index: Index, retriever: Retriever, on_progress: Report
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Rows by split, and what there is to say about them."""
    pairs, gold, problems = pairs_with_gold(
        index, config.questions.files, on_progress, skip_bad_rows=config.questions.skip_bad_rows
    )
    paths = [document["path"] for document in index.documents]
    words = Words(config.retrieval.language)
    alike = near_duplicates([pair.question for pair in pairs], config.split.similar, words)
    split_of, splits = _split(config, pairs, gold, alike, paths)
    form = RowForm(
        config.rows.passages,
        config.rows.no_answer_share,
        config.rows.no_answer,
        config.rows.completion,
        config.split.seed,
    )
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    within = {split: {path for path in paths if splits[path] == split} for split in SPLITS}
    for done, pair in enumerate(pairs, 1):
        split = split_of[pair.id]
        own = [chunk for chunk in gold[pair.id] if chunk.document in within[split]]
        row = make_row(pair, own, index, form, within[split])
        if row["context"]:
            rows[split].append(row)
        else:
            problems.append(Problem(pair.id, 0, "no passage shares a word with its question"))
        if done % 100 == 0:
            on_progress(Progress("making rows", done, len(pairs)))
    if not rows["train"]:
        raise DataError(
            f"of {len(pairs):,} questions none is left to train on.",
            hint="questions about one document stay in one split: give questions about more documents, or lower "
            "split.validation and split.test.",
        )
    return rows, {
        "questions": {
            "pairs": len(pairs),
            "left_out": [str(problem) for problem in problems],
            "unanswerable": sum(pair.answer is None for pair in pairs),
            "similar": len({index for pair in alike for index in pair}),
        },
        "rows": {
            split: {
                "rows": len(rows[split]),
                "documents": len(within[split]),
                "without_answer": sum(row["value"] is None for row in rows[split]),
                "gold_at": dict(sorted(Counter(str(row["gold"]) for row in rows[split]).items())),
                "passages": sum(len(row["context"]) for row in rows[split]) / max(1, len(rows[split])),
            }
            for split in SPLITS
        },
        "splits": splits,
        "recall": measure_recall(pairs, gold, retriever, max(*_DEPTHS, config.rows.passages), on_progress),
    }


def pairs_with_gold(
    index: Index, files: Sequence[str], on_progress: Report = lambda _: None, *, skip_bad_rows: bool = False
) -> tuple[list[Pair], dict[str, list[Chunk]], list[Problem]]:
    """The pairs of some files, the chunks that hold each one's answer by its id, and what is left out.

    Raises:
        DataError: if a pair is bad, or its answer stands in no chunk, with all problems.
    """
    paths = [document["path"] for document in index.documents]
    pairs, problems = load_pairs(files, set(paths), skip_bad_rows=skip_bad_rows)
    gold: dict[str, list[Chunk]] = {}
    for done, pair in enumerate(pairs, 1):
        gold[pair.id] = find_gold(pair, index)
        if done % 100 == 0:
            on_progress(Progress("looking for the answers", done, len(pairs)))
    lost = [pair for pair in pairs if pair.answer is not None and not gold[pair.id]]
    if lost:
        problems += [Problem(pair.id, 0, _where_it_is_not(pair)) for pair in lost]
        if not skip_bad_rows or len(lost) == len(pairs):
            raise problems_error(
                f"the answers of {len(lost):,} of {len(pairs):,} questions stand in no passage.",
                problems[-len(lost) :],
                hint="name the `document`, and by `evidence` the words that say it where the answer says it in "
                "others; or leave these out with --skip-bad-rows.",
            )
        missing = {pair.id for pair in lost}
        pairs = [pair for pair in pairs if pair.id not in missing]
    return pairs, gold, problems


def _where_it_is_not(pair: Pair) -> str:
    place = " or ".join(pair.documents) if pair.documents else "the passages found for it"
    words = f"the evidence {pair.evidence!r:.60}" if pair.evidence else f"the answer {pair.answer!r:.60}"
    page = f", page {pair.page}" if pair.page else ""
    return f"{words} is not in {place}{page}"


def _split(
    config: PrepareConfig,
    pairs: Sequence[Pair],
    gold: dict[str, list[Chunk]],
    alike: Sequence[tuple[int, int]],
    paths: Sequence[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """The split of each pair by its id, and of each document by its path."""
    shares = {"validation": config.split.validation, "test": config.split.test}
    shares = {"train": 1.0 - sum(shares.values()), **shares}
    documents = [sorted({*pair.documents, *(chunk.document for chunk in gold[pair.id])}) for pair in pairs]
    splits = split_documents(paths, documents, alike, shares, config.split.seed)
    of_pair = {pair.id: splits[found[0]] for pair, found in zip(pairs, documents, strict=True) if found}
    for one, other in alike:  # a question without a document goes with one that is like it
        for first, second in ((one, other), (other, one)):
            if pairs[second].id in of_pair:
                of_pair.setdefault(pairs[first].id, of_pair[pairs[second].id])
    # The rest has no document to go with; no split may be left without its share of them.
    rest = sorted((pair.id for pair in pairs if pair.id not in of_pair), key=_shuffled(config.split.seed))
    dealt = Counter[str]()
    wanted = [split for split, share in shares.items() if share > 0 and split in splits.values()]
    for number, name in enumerate(rest, 1):
        of_pair[name] = max(wanted, key=lambda one: (shares[one] * number - dealt[one], shares[one]))
        dealt[of_pair[name]] += 1
    return of_pair, splits


def _shuffled(seed: int) -> Callable[[str], bytes]:
    return lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()


def measure_recall(
    pairs: Sequence[Pair],
    gold: dict[str, list[Chunk]],
    retriever: Retriever,
    depth: int,
    on_progress: Report = lambda _: None,
) -> dict[str, Any]:
    """How often a right passage is among the first that are found, in all documents.

    Returns:
        `questions` (those that have an answer), `at` (by depth: share, and its 95 % Wilson interval), and `missed`:
        the ids of the questions whose passage is not found at all.
    """
    asked = [pair for pair in pairs if pair.answer is not None and gold[pair.id]]
    places: list[int | None] = []
    for done, pair in enumerate(asked, 1):
        found = retriever.search(pair.question, depth)
        words = None if isinstance(retriever, Index) else pair.answer
        places.append(first_right(found, gold[pair.id], words))
        if done % 100 == 0:
            on_progress(Progress("measuring recall", done, len(asked)))
    if not asked:
        return {"questions": 0, "at": {}, "missed": []}
    at = {}
    for k in sorted({*_DEPTHS, depth}):
        if k <= depth:
            hits = sum(place is not None and place <= k for place in places)
            interval = wilson_interval(hits, len(asked))
            at[str(k)] = {"recall": hits / len(asked), "low": interval.low, "high": interval.high}
    missed = [pair.id for pair, place in zip(asked, places, strict=True) if place is None]
    return {"questions": len(asked), "at": at, "missed": missed}
