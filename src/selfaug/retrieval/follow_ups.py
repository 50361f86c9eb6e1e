"""Further questions about the passages of a training row: each passage is read once and asked about several times."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfaug.retrieval.pairs import Pair, Sign
from selfaug.retrieval.retriever import Passage
from selfaug.retrieval.rows import RowForm, completion_of, has_answer

__all__ = ["Asked", "add_follow_ups", "turns_of"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a split.

    Attributes:
        pair: question and answer.
        gold: passages that hold its answer.
        signs: of the answer.
        near: documents that are nearly the same as those of `gold`.
    """

    pair: Pair
    gold: Sequence[Passage]
    signs: Sequence[Sign]
    near: Collection[str] = ()

    def is_answered_by(self, text: str, document: str | None, *, titled: bool = False) -> bool:
        """Whether a passage of a document holds its answer, or could be taken to; `titled` as of `has_answer`."""
        of_gold = document in self.near or any(passage.document == document for passage in self.gold)
        return any(passage.text == text for passage in self.gold) or has_answer(
            self.pair, self.signs, text, of_gold=of_gold, titled=titled
        )


def add_follow_ups(
    rows: Sequence[dict[str, Any]],
    asked: Sequence[Asked],
    form: RowForm,
    documents: Mapping[str, str],
) -> None:
    """Give each row, in place, up to `form.follow_ups` further questions, as `follow_ups`.

    They are questions whose answer stands in exactly one of the row's passages; and, for `form.no_answer_share` of
    them, questions about the same documents that none of its passages answers. Which ones depends on the row's id
    and the seed alone.

    Args:
        rows: from `make_row`, of one split.
        asked: the questions of that split.
        form: what rows are made of.
        documents: of the rows' passages, by their texts.
    """
    by_text: dict[str, list[Asked]] = defaultdict(list)
    by_document: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        for text in dict.fromkeys(passage.text for passage in one.gold):  # a copy says the same
            by_text[text].append(one)
        for document in sorted({passage.document or "" for passage in one.gold}):
            by_document[document].append(one)
    for row in rows:
        found = _follow_ups(row, by_text, by_document, documents, form)
        if found:
            row["follow_ups"] = found


def turns_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each question of a row with its answer, in their order."""
    return [(one["question"], one["answer"]) for one in (row, *row.get("follow_ups", ()))]


def _follow_ups(
    row: Mapping[str, Any],
    by_text: Mapping[str, Sequence[Asked]],
    by_document: Mapping[str, Sequence[Asked]],
    documents: Mapping[str, str],
    form: RowForm,
) -> list[dict[str, Any]]:
    draw = random.Random(f"{form.seed}:{row['id']}:follow-ups")
    texts: list[str] = row["context"]
    answered = [
        (one, number)
        for number, text in enumerate(texts, 1)
        for one in by_text.get(text, ())
        if one.pair.id != row["id"]
        and not any(
            one.is_answered_by(other, documents.get(other), titled=form.titled)
            for other in texts
            if other != text
        )
    ]
    chosen = draw.sample(answered, min(form.follow_ups, len(answered)))
    found: list[dict[str, Any]] = []
    unanswered: list[Asked] | None = None  # looked for when it is needed: it takes much longer than the rest
    for one, number in chosen:
        gold: int | None = number
        if draw.random() < form.no_answer_share:
            if unanswered is None:
                near = {documents[text]: None for text in texts if text in by_text}
                unanswered = _unanswered(row, near, by_document, documents, form)
            if unanswered:
                one, gold = unanswered.pop(draw.randrange(len(unanswered))), None
        answer = completion_of(form, one.pair.answer if gold else None, gold)
        found.append({"question": one.pair.question, "answer": answer, "gold": gold})
    return found


def _unanswered(
    row: Mapping[str, Any],
    near: Iterable[str],
    by_document: Mapping[str, Sequence[Asked]],
    documents: Mapping[str, str],
    form: RowForm,
) -> list[Asked]:
    """Questions about some documents that none of the row's passages answers, each once."""
    found = {one.pair.id: one for document in near for one in by_document.get(document, ())}
    return [
        one
        for one in found.values()
        if one.pair.id != row["id"]
        and not any(
            one.is_answered_by(text, documents.get(text), titled=form.titled) for text in row["context"]
        )
    ]
