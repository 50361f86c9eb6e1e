"""Checks of the rows before training: duplicates, contradictions, leakage into the held-out rows, lengths."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from selfaug.config import TrainConfig
from selfaug.core.printable import counted
from selfaug.data import Row
from selfaug.data.encoded_rows import token_digest
from selfaug.eval.text_scorers import normalize_answer
from selfaug.phases.inputs import TrainingData, read_rows, template_of
from selfaug.prepare_config import SplitSettings
from selfaug.retrieval.split import near_duplicates
from selfaug.retrieval.tokens import Words

__all__ = ["AskedRow", "Finding", "asked_rows", "check_data", "similar_questions"]

SIMILAR = float(SplitSettings.model_fields["similar"].default)
"""Questions that share so much of their words are alike, as for `selfaug prepare`."""

# Of a question that is shown, so many characters.
_SHOWN = 60


@dataclass(frozen=True)
class Finding:
    """One check of the data.

    Attributes:
        name: what was looked at.
        status: "ok", or "warning" where someone should look.
        found: what was found, with numbers.
    """

    name: str
    status: Literal["ok", "warning"]
    found: str


class AskedRow(NamedTuple):
    """A row by what it asks.

    Attributes:
        question: of a retrieval row without its passages, else what the user said last.
        completion: text.
        whole: of rows that are copies of each other, the same.
    """

    question: str
    completion: str
    whole: str


def check_data(data: TrainingData) -> list[Finding]:
    """Duplicates, contradictions, leakage into the held-out rows, and lengths."""
    rows = data.train.rows
    whole = Counter(token_digest(row.ids) for row in rows)
    doubled = sum(count - 1 for count in whole.values())
    completions: dict[bytes, set[bytes]] = {}
    for row in rows:
        completions.setdefault(token_digest(row.prompt()), set()).add(token_digest(row.ids))
    contradicting = sum(len(found) > 1 for found in completions.values())
    findings = [
        _finding("duplicates", doubled, f"{doubled:,} of {len(rows):,} training rows are there already"),
        _finding(
            "contradictions",
            contradicting,
            f"{counted(contradicting, 'prompt has', 'prompts have')} more than one completion",
        ),
    ]
    if data.eval is None:
        findings.append(
            Finding(
                "held-out rows", "warning", "there are none: the job's score can't be measured; see --eval"
            )
        )
    else:
        leaked = sum(token_digest(row.prompt()) in completions for row in data.eval.rows)
        findings.append(
            _finding(
                "leakage", leaked, f"{leaked:,} of {len(data.eval.rows):,} held-out prompts are trained on"
            )
        )
    report = data.train.report
    too_long = counted(report.rows_too_long, "doesn't", "don't")
    findings.append(
        _finding(
            "lengths",
            report.rows_shortened + report.rows_too_long,
            f"median {report.length_p50:,}, longest {report.length_max:,} of {data.max_length:,} tokens; "
            f"{counted(report.rows_shortened, 'row')} lost passages, {too_long} fit",
        )
    )
    return findings


def asked_rows(config: TrainConfig, sources: Sequence[str]) -> list[AskedRow]:
    """Rows by what they ask, read as for training.

    Raises:
        DataError: if they can't be read.
    """
    rows = read_rows(config, template_of(config), sources).rows
    return [AskedRow(_question(row), _completion(row), repr((row.prompt, row.completion))) for row in rows]


def similar_questions(train: Sequence[AskedRow], held_out: Sequence[AskedRow] | None) -> list[Finding]:
    """Rows that ask the same in the same or nearly the same words, within training and between it and held-out rows.

    The same question about other documents is another one; so this asks to look, and decides nothing. In training,
    only rows that have the same completion too are counted, and no copies, which are counted as duplicates.

    Args:
        train: training rows.
        held_out: held-out rows; None if there are none.
    """
    rows = [*train, *(held_out or ())]
    alike = _alike([row.question for row in rows])
    # By question and completion; of rows that are not copies two are enough to find one that is not a copy.
    known: dict[int, dict[str, list[AskedRow]]] = defaultdict(dict)
    pairs = []
    for row, own in zip(train, alike, strict=False):
        completion = normalize_answer(row.completion)
        near = [other for question in own for other in known[question].get(completion, ())]
        pairs += [(row, other) for other in near if other.whole != row.whole][:1]
        kept = known[own[0]].setdefault(completion, [])
        if len(kept) < 2 and all(other.whole != row.whole for other in kept):
            kept.append(row)
    findings = [
        _finding(
            "near-duplicates",
            len(pairs),
            f"{len(pairs):,} of {len(train):,} training rows ask in nearly the words of another, and have its "
            "completion" + _example(pairs),
        )
    ]
    if held_out is None:
        return findings
    leaked, pairs = 0, []
    for row, own in zip(held_out, alike[len(train) :], strict=True):
        trained = (other for question in own for of_one in known[question].values() for other in of_one)
        pairs += [(row, other) for other in islice(trained, 1)]
        leaked += any(normalize_answer(row.completion) in known[question] for question in own)
    findings.append(
        _finding(
            "similar questions",
            len(pairs),
            f"{len(pairs):,} of {len(held_out):,} held-out questions are asked in training too, in the same or nearly "
            f"the same words, whatever their passages; {leaked:,} of them have the same completion there"
            + _example(pairs),
        )
    )
    return findings


def _alike(questions: Sequence[str]) -> list[list[int]]:
    """Of each question: the number of its words, and the numbers of those that are alike.

    Questions of the same words have the same number: a thousand copies are a million pairs.
    """
    words = Words()
    numbers: dict[object, int] = {}
    of_each = []
    first = []
    for question in questions:
        # A question of words that all texts have is known by its text.
        key = frozenset(words(question)) or normalize_answer(question)
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(question)
        of_each.append(numbers[key])
    groups = [[number] for number in range(len(first))]
    for one, other in near_duplicates(first, SIMILAR, words):
        groups[one].append(other)
        groups[other].append(one)
    return [groups[number] for number in of_each]


def _example(pairs: Sequence[tuple[AskedRow, AskedRow]]) -> str:
    """One pair, in other words if there is one: what is meant shows best there."""
    if not pairs:
        return ""
    one, other = max(pairs, key=lambda pair: pair[0].question != pair[1].question)
    if one.question == other.question:
        return f", such as {_quoted(one.question)}"
    return f", such as {_quoted(one.question)} and {_quoted(other.question)}"


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line if len(line) <= _SHOWN else line[: _SHOWN - 1] + '…'}”"


def _question(row: Row) -> str:
    if row.retrieval is not None:
        return row.retrieval.question
    if isinstance(row.prompt, str):
        return row.prompt
    said = [message["content"] for message in row.prompt if message["role"] == "user"]
    return str(said[-1]) if said else ""


def _completion(row: Row) -> str:
    return row.completion if isinstance(row.completion, str) else str(row.completion[-1]["content"])


def _finding(name: str, count: int, found: str) -> Finding:
    return Finding(name, "warning" if count else "ok", found)
