"""Rows of the splits from question-answer pairs, and how often the right passage is found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from selfaug.core.printable import counted
from selfaug.core.statistics import score_interval
from selfaug.data.sources import Problem, problems_error
from selfaug.phases.known_splits import SPLITS, KnownSplits
from selfaug.phases.progress import Progress
from selfaug.phases.question_files import load_pairs
from selfaug.prepare_config import PrepareConfig
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.follow_ups import Asked, add_follow_ups
from selfaug.retrieval.index import Index
from selfaug.retrieval.near_copies import near_copies
from selfaug.retrieval.pairs import Pair, find_gold, forget_passages, may_be_chance, signs_of
from selfaug.retrieval.recall import first_right
from selfaug.retrieval.retriever import Retriever
from selfaug.retrieval.row_passages import row_passages
from selfaug.retrieval.rows import RowForm, make_row
from selfaug.retrieval.split import Splits, near_duplicates, split_documents
from selfaug.retrieval.tokens import Words

__all__ = ["homes_of", "make_rows", "measure_recall", "pairs_with_gold", "with_copies"]

_DEPTHS = (1, 3, 5, 10)
_NAMED = 3
_RESAMPLES = 2_000  # more take seconds for thousands of questions, and hardly move the ends of an interval

Report = Callable[[Progress], None]


def make_rows(
    config: PrepareConfig, index: Index, retriever: Retriever, known: KnownSplits, on_progress: Report
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], KnownSplits]:
    """Rows by split, what there is to say about them, and what is in which split.

    Raises:
        DataError: if a pair is bad, or none is left to train on.
        ConfigError: if a user's retriever gives what rows can't be made of.
    """
    pairs, gold, problems = pairs_with_gold(
        index, config.questions.files, on_progress, skip_bad_rows=config.questions.skip_bad_rows
    )
    digests = {document["path"]: document["digest"] for document in index.documents}
    paths = list(digests)
    words = Words(config.retrieval.language)
    alike = near_duplicates([pair.question for pair in pairs], config.split.similar, words)
    sketches = {one["digest"]: one["sketch"] for one in index.documents if one["sketch"]}
    near = _near_copies(config, {**known.sketches, **sketches})
    nearly_the_same = _first_paths(near, digests)
    by_known = replace(known, documents=known.of(digests, near))
    splits = _split(config, pairs, gold, alike, paths, by_known, [*index.copies, *nearly_the_same])
    form = RowForm(
        config.rows.passages,
        config.rows.no_answer_share,
        config.rows.no_answer,
        config.rows.completion,
        config.split.seed,
        config.rows.follow_ups,
        titled=isinstance(retriever, Index),
    )
    asked: list[Asked] = []  # of those that are trained on
    of_text: dict[str, str] = {}  # the documents of their passages
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    within = {split: {path for path in paths if splits.documents[path] == split} for split in SPLITS}
    near_of = with_copies(nearly_the_same, index)
    homes = homes_of(pairs, gold, index, near_of)
    for done, pair in enumerate(pairs, 1):
        split = splits.questions[pair.id]
        signs = signs_of(pair, gold[pair.id])
        right, found = row_passages(
            pair.question, gold[pair.id], signs, retriever, config.rows.passages, within[split]
        )
        if pair.answer is not None and not right:
            problems.append(Problem(pair.id, 0, "the retriever finds no passage with its answer"))
        elif not right and not found:
            problems.append(Problem(pair.id, 0, "no passage of its split is found for its question"))
        else:
            near_gold = {path for chunk in gold[pair.id] for path in near_of.get(chunk.document, ())}
            rows[split].append(make_row(pair, right, found, form, signs, near_gold))
            if (home := homes.get(pair.id)) is not None:
                rows[split][-1]["cluster"] = home
            if split == "train":
                passages = {passage.text: passage.document for passage in (*right, *found)}
                of_text |= {text: passages[text] for text in rows[split][-1]["context"]}
            if split == "train" and pair.answer is not None:
                asked.append(Asked(pair, right, signs, near_gold))
        if done % 100 == 0:
            on_progress(Progress("making rows", done, len(pairs)))
    add_follow_ups(rows["train"], asked, form, of_text)
    if not rows["train"]:
        raise problems_error(
            f"of {len(pairs):,} questions none is left to train on.",
            problems,
            hint="questions about one document stay in one split: give questions about more documents, or lower "
            "split.validation and split.test. A retriever of your own has to name each passage's `document` by its "
            "path in the folder.",
        )
    same_words = _same_words(pairs, words, near_of, index)
    _tell_same_words(same_words, on_progress)
    _warn_of_empty_splits(config, rows, splits, bool(same_words), on_progress)
    _tell_near_copies(nearly_the_same, on_progress)
    by_chance = [pair.id for pair in pairs if may_be_chance(pair, gold[pair.id])]
    _tell_of_chance(by_chance, on_progress)
    if splits.moved:
        shown = ", ".join(splits.moved[:5]) + (", ..." if len(splits.moved) > 5 else "")
        message = (
            f"{counted(len(splits.moved), 'document is', 'documents are')} in another split than before, because a "
            f"question, or a copy, joins {'it' if len(splits.moved) == 1 else 'them'} to documents that were trained "
            f"on: {shown}"
        )
        on_progress(Progress("warning", message=message))
    report = {
        "questions": {
            "pairs": len(pairs),
            "left_out": [str(problem) for problem in problems],
            "unanswerable": sum(pair.answer is None for pair in pairs),
            "similar": len({index for pair in alike for index in pair}),
            "by_chance": by_chance,
        },
        "rows": {
            split: {
                "rows": len(rows[split]),
                "documents": len(within[split]),
                "without_answer": sum(row["value"] is None for row in rows[split]),
                "gold_at": dict(sorted(Counter(str(row["gold"]) for row in rows[split]).items())),
                "passages": sum(len(row["context"]) for row in rows[split]) / max(1, len(rows[split])),
                "follow_ups": sum(len(row.get("follow_ups", ())) for row in rows[split]),
            }
            for split in SPLITS
        },
        "splits": splits.documents,
        "near_copies": nearly_the_same,
        "recall": measure_recall(
            pairs, gold, retriever, max(*_DEPTHS, config.rows.passages), homes, on_progress
        ),
    }
    in_split = {pair.question: splits.questions[pair.id] for pair in pairs}
    of_files = {digest: splits.documents[path] for path, digest in digests.items()}
    return rows, report, KnownSplits(splits.documents, in_split, of_files, sketches)


def pairs_with_gold(
    index: Index, files: Sequence[str], on_progress: Report = lambda _: None, *, skip_bad_rows: bool = False
) -> tuple[list[Pair], dict[str, list[Chunk]], list[Problem]]:
    """The pairs of some files, the chunks that hold each one's answer by its id, and what is left out.

    Raises:
        DataError: if a pair is bad, or its answer stands in no chunk, with all problems.
    """
    paths = [document["path"] for document in index.documents]
    pairs, problems = load_pairs(files, set(paths), skip_bad_rows=skip_bad_rows)
    gold: dict[str, list[Chunk]] = {pair.id: [] for pair in pairs}
    # By documents: a long one's passages are made plain once for all questions about it.
    by_documents = groupby(sorted(pairs, key=lambda pair: pair.documents), key=lambda pair: pair.documents)
    done = 0
    for _, about in by_documents:
        for pair in about:
            gold[pair.id] = find_gold(pair, index)
            done += 1
            if done % 100 == 0:
                on_progress(Progress("looking for the answers", done, len(pairs)))
        forget_passages()
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
    known: KnownSplits,
    copies: Sequence[Sequence[str]],
) -> Splits:
    """The split of each pair by its id, and of each document by its path."""
    shares = {"validation": config.split.validation, "test": config.split.test}
    shares = {"train": 1.0 - sum(shares.values()), **shares}
    return split_documents(
        paths,
        {pair.id: _documents_of(pair, gold[pair.id]) for pair in pairs},
        alike,
        shares,
        config.split.seed,
        known.documents,
        {pair.id: known.questions[pair.question] for pair in pairs if pair.question in known.questions},
        copies,
    )


def _near_copies(config: PrepareConfig, sketches: Mapping[str, str]) -> list[list[str]]:
    """Digests of documents that are nearly the same, as far as these are to stay together."""
    least = config.split.similar_documents
    return [] if least is None else near_copies(sketches, least)


def _first_paths(sets: Sequence[Sequence[str]], digests: Mapping[str, str]) -> list[list[str]]:
    """Sets of digests as paths, in their order: of each file that is there the first one, of a file that is gone none.

    Args:
        sets: of digests.
        digests: by path.
    """
    first = {digest: path for path, digest in reversed(list(digests.items()))}
    there = [sorted(first[digest] for digest in same if digest in first) for same in sets]
    return sorted(paths for paths in there if len(paths) > 1)


def with_copies(sets: Sequence[Sequence[str]], index: Index) -> dict[str, set[str]]:
    """By path, of the sets' files and of files that are the same: all of its set, and their copies.

    Args:
        sets: of paths of documents that are nearly the same.
        index: of the documents.
    """
    whole = ({copy for path in same for copy in index.copies_of(path)} for same in sets)
    return {path: same for same in whole for path in same}


def _tell_near_copies(sets: Sequence[Sequence[str]], on_progress: Report) -> None:
    if not sets:
        return
    shown = "; ".join(
        " = ".join(paths[:_NAMED]) + " = ..." * (len(paths) > _NAMED) for paths in sets[:_NAMED]
    )
    message = (
        f"{sum(map(len, sets)):,} documents are nearly the same as others, such as one report in two formats, and stay "
        f"in one split with these (split.similar_documents): {shown}{'; ...' * (len(sets) > _NAMED)}"
    )
    on_progress(Progress("warning", message=message))


def _same_words(
    pairs: Sequence[Pair], words: Words, near_of: Mapping[str, Collection[str]], index: Index
) -> list[str]:
    """Questions that have the same words, and no document in common; a document and what is nearly the same are one."""
    alike: dict[frozenset[str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.documents:
            # "What is it?" and "Who are they?" have no words that count, and are not the same.
            alike[frozenset(words(pair.question)) or frozenset([pair.question])].append(pair)
    found = []
    for asked in alike.values():
        about = [{min(near_of.get(path) or index.copies_of(path)) for path in one.documents} for one in asked]
        if not set.intersection(*about):
            found += [pair.question for pair in asked]
    return found


def _tell_same_words(questions: Sequence[str], on_progress: Report) -> None:
    if not questions:
        return
    message = (
        f"{len(questions):,} questions have the same words about different documents, such as {questions[0]!r:.80}: no "
        "search can tell which one is meant, and they stay in one split. Put the company or the period into each."
    )
    on_progress(Progress("warning", message=message))


def _tell_of_chance(questions: Sequence[str], on_progress: Report) -> None:
    if not questions:
        return
    have = counted(len(questions), "question has", "questions have")
    message = (
        f"{have} neither `evidence` nor `page`, and an answer that stands in several sentences or rows: each passage "
        "with one of them counts as right, though some may speak of other things. Give `evidence`; the card "
        f"names them: {', '.join(questions[:_NAMED])}"
        f"{', ...' * (len(questions) > _NAMED)}"
    )
    on_progress(Progress("warning", message=message))


def _documents_of(pair: Pair, gold: Sequence[Chunk]) -> set[str]:
    """The documents that a pair goes with.

    An answer alone, such as "yes", stands in many documents that have nothing to do with each other: of these it goes
    with the one that is found first for the question.
    """
    if not pair.documents and pair.evidence is None:
        return {chunk.document for chunk in gold[:1]}
    return {*pair.documents, *(chunk.document for chunk in gold)}


def homes_of(
    pairs: Sequence[Pair],
    gold: Mapping[str, Sequence[Chunk]],
    index: Index,
    near_of: Mapping[str, Collection[str]],
) -> dict[str, str]:
    """By id, the document that a pair is about first of all: questions about one hang together.

    Of documents that are the same, or nearly so, it is always the same one.

    Args:
        pairs: of which those that are about none are left out.
        gold: chunks that hold each one's answer, by its id.
        index: of the documents.
        near_of: by path, of documents that are nearly the same as others: from `with_copies`.
    """
    homes: dict[str, str] = {}
    for pair in pairs:
        if about := [*pair.documents, *(chunk.document for chunk in gold[pair.id][:1])]:
            home = about[0]
            homes[pair.id] = min({home, *index.copies_of(home), *near_of.get(home, ())})
    return homes


def _warn_of_empty_splits(
    config: PrepareConfig,
    rows: Mapping[str, Sequence[Any]],
    splits: Splits,
    same_words: bool,
    on_progress: Report,
) -> None:
    shares = {"validation": config.split.validation, "test": config.split.test}
    together = (
        f"{counted(sum(splits.asked), 'question about documents makes', 'questions about documents make')} "
        f"{counted(len(splits.asked), 'set that stays', 'sets that stay')} together, the largest of "
        f"{max(splits.asked, default=0):,}: questions about one document, questions that are alike, and documents that "
        "one question names, whose `evidence` stands in several, or that are copies or nearly so"
    )
    apart = (
        "Put the company or the period into questions that have the same words"
        if same_words
        else "Ask about more documents, name the `document` that a question is about"
    )
    for split in (split for split, share in shares.items() if share > 0 and not rows[split]):
        message = f"split.{split} is {shares[split]:g}, and no row is in it: {together}. {apart}, or raise the share."
        on_progress(Progress("warning", message=message))


def measure_recall(
    pairs: Sequence[Pair],
    gold: dict[str, list[Chunk]],
    retriever: Retriever,
    depth: int,
    homes: Mapping[str, str],
    on_progress: Report = lambda _: None,
) -> dict[str, Any]:
    """How often a right passage is among the first that are found, in all documents.

    Of a question without a document, the right passages are some of those that a search finds for it, and one whose
    answer is not among these is no question with an answer here: they would make the search look better than it is.
    They are left out where others name documents.

    Args:
        pairs: the questions.
        gold: chunks that hold each one's answer, by its id.
        retriever: that is measured.
        depth: passages that are looked at.
        homes: from `homes_of`: the intervals are those of `score_interval` with these as clusters.
        on_progress: called with what is being done.

    Returns:
        `questions` (those that have an answer), `at` (by depth: share, and its 95 % interval), `missed`: the
        ids of the questions whose passage is not found at all, `unnamed`: how many of `questions` name no document,
        `unnamed_left_out`: how many were left out for that, `by_chance`: the ids of those for which a passage may be
        right by chance (`may_be_chance`), and `without_chance`: by depth, the share of the others; empty if there are
        none.
    """
    answered = [pair for pair in pairs if pair.answer is not None and gold[pair.id]]
    named = [pair for pair in answered if pair.documents]
    asked = named or answered
    unnamed = {
        "unnamed": 0 if named else len(asked),
        "unnamed_left_out": len(answered) - len(asked),
    }
    places: list[int | None] = []
    for done, pair in enumerate(asked, 1):
        found = retriever.search(pair.question, depth)
        signs = [] if isinstance(retriever, Index) else signs_of(pair, gold[pair.id])
        places.append(first_right(found, gold[pair.id], signs))
        if done % 100 == 0:
            on_progress(Progress("measuring recall", done, len(asked)))
    by_chance = [pair.id for pair in asked if may_be_chance(pair, gold[pair.id])]
    unsure = {*by_chance}
    certain = [place for pair, place in zip(asked, places, strict=True) if pair.id not in unsure]
    clusters = [homes[pair.id] for pair in asked]
    at, without_chance = {}, {}
    for k in sorted({*_DEPTHS, depth}) if asked else []:
        if k <= depth:
            interval = score_interval(
                _found_among(k, places), seed=0, clusters=clusters, resamples=_RESAMPLES
            )
            at[str(k)] = {"recall": interval.value, "low": interval.low, "high": interval.high}
            if certain:
                without_chance[str(k)] = sum(_found_among(k, certain)) / len(certain)
    missed = [pair.id for pair, place in zip(asked, places, strict=True) if place is None]
    return {
        "questions": len(asked),
        "at": at,
        "missed": missed,
        **unnamed,
        "by_chance": by_chance,
        "without_chance": without_chance,
    }


def _found_among(k: int, places: Sequence[int | None]) -> list[float]:
    """1 for each right passage that is among the first k, else 0."""
    return [float(place is not None and place <= k) for place in places]
