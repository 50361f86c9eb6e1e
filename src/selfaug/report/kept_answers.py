"""Answers that were kept beside a record, request by request."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfaug.errors import DataError
from selfaug.records import read_record

__all__ = ["AnswerFiles", "KeptAnswers", "answer_files", "comparison_answer_files", "read_answers"]

# Our own lines begin with the id: one that isn't asked for needn't be parsed.
_ID = re.compile(r'\{"id": "([^"\\]*)"')


class AnswerFiles(NamedTuple):
    """Answers of several models to one suite.

    Attributes:
        suite: its name.
        labels: of the models, by colour key: base, plain, selfaug.
        files: of their answers, in the same order.
        record: with the scores, and the suite's place in it; None where scores are not kept by request.
    """

    suite: str
    labels: Mapping[str, str]
    files: Sequence[Path]
    record: Path | None


class KeptAnswers(NamedTuple):
    """One request with the answers to it, in the order of the files."""

    prompt: str
    answers: Sequence[str]


def answer_files(folder: Path, kind: str) -> list[AnswerFiles]:
    """Which answers a folder holds.

    Args:
        folder: of a run, an assessment or a comparison.
        kind: of its record.

    Raises:
        DataError: if its record can't be read.
    """
    if kind == "comparison":
        try:
            return comparison_answer_files(read_record(folder / "record.json", kind), folder)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"the record in {folder} does not say whose answers it has ({type(error).__name__}: {error}).",
                hint="it was written by another version of selfaug, or changed.",
            ) from error
    if kind not in ("train", "assessment"):
        return []
    run = folder / "probe" if kind == "assessment" else folder
    place, record = run / "samples" / "evaluation", run / "evaluation.json"
    if not record.is_file():
        return []
    labels = {"base": "base model", "selfaug": "probe" if kind == "assessment" else "tuned model"}
    suites = [file.name.removesuffix("-base.jsonl") for file in sorted(place.glob("*-base.jsonl"))]
    suites.sort(key=lambda name: name != "task")  # the job first
    return _inside(
        folder,
        (
            AnswerFiles(
                name, labels, [place / f"{name}-{model}.jsonl" for model in ("base", "tuned")], record
            )
            for name in suites
        ),
    )


def comparison_answer_files(record: Mapping[str, Any], folder: Path) -> list[AnswerFiles]:
    """The same of base model, plain LoRA and SelfAug in a comparison, of the first seed of each.

    Args:
        record: data of the comparison's record.
        folder: of the comparison.

    Raises:
        LookupError, TypeError, ValueError: if the record lacks what it takes.
    """
    models, labels = ["base"], {"base": "base model"}
    for key, name in (("plain", "plain"), ("selfaug", record["subject"])):
        if name is not None:
            row = record["methods"][name]
            models.append(f"{name}-{row['value']:g}-seed{row['seeds'][0]}")
            labels[key] = str(row["label"])
    place = folder / "answers"
    return _inside(
        folder,
        (
            AnswerFiles(suite, labels, [place / f"test-{model}-{suite}.jsonl" for model in models], None)
            for suite in record["items"]
        ),
    )


def read_answers(files: Sequence[Path], ids: Collection[str] | None = None) -> dict[str, KeptAnswers]:
    """By id, the requests that each of the files has an answer to; none where a file is missing.

    Args:
        files: of one model each.
        ids: those that are wanted, to be quick; None for all.
    """
    if not all(file.is_file() for file in files):
        return {}
    first, *others = files
    found = {
        name: KeptAnswers(str(row.get("prompt", "")), [str(row.get("answer", ""))])
        for name, row in _rows_of(first, ids)
    }
    for file in others:
        answers = {name: str(row.get("answer", "")) for name, row in _rows_of(file, ids)}
        found = {
            name: KeptAnswers(one.prompt, [*one.answers, answers[name]])
            for name, one in found.items()
            if name in answers
        }
    return found


def _rows_of(file: Path, ids: Collection[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and rows, but for what a crash has cut off, and for lines that are of something else."""
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            if ids is not None and (begin := _ID.match(line)) and begin[1] not in ids:
                continue
            try:
                row = json.loads(line)
                name = str(row["id"])
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
            if ids is None or name in ids:
                yield name, row


def _inside(folder: Path, found: Iterable[AnswerFiles]) -> list[AnswerFiles]:
    """Those that are there. Names of suites come from a record: none leads out of its folder."""
    home = folder.resolve()
    return [one for one in found if all(_is_inside(file, home) for file in one.files)]


def _is_inside(file: Path, home: Path) -> bool:
    try:
        return file.is_file() and file.resolve().is_relative_to(home)
    except (OSError, ValueError):  # no name of a file
        return False
