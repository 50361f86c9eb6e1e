"""Rows of files and hub data sets, validated. Every bad row is reported, all at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from selfaug.data.row import Row
from selfaug.data.row_fields import FORMS, InvalidRowError, read_row
from selfaug.data.sources import SKIP_FLAGS, Problem, RawRow, problems_error, read_rows
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import DataError

__all__ = ["LoadedRows", "load_rows"]


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """Valid rows, the problems of the rows that were skipped, and how many rows of each form there are."""

    rows: list[Row]
    problems: list[Problem]
    forms: dict[str, int]


def load_rows(
    sources: Sequence[str | Path],
    *,
    template: RetrievalTemplate | None = None,
    every_assistant_turn: bool = False,
    skip_bad_rows: bool = False,
    split: str = "train",
    offline: bool = False,
) -> LoadedRows:
    """Read and validate the rows of all sources.

    Forms of a row, by its fields:

    - `prompt` and `completion`, both text, or both messages (the completion is one assistant message);
    - `messages`: the last assistant turn is the completion, what follows it is cut off; an assistant turn may have
      OpenAI's `weight`, and is not trained where it is 0;
    - `question`, `context` (text, or a list of passages) and `answer`, put into `template`; may have `gold`, the
      number of the passage that the answer is from, and `follow_ups`: a list of further questions about the same
      passages, each with `question`, `answer` and, if known, `gold`. Every answer is trained then.

    An `id` is optional, and so are `tools` (a list, also as JSON in a text) and `chat_template_kwargs` (an object, also
    as JSON), the row's own arguments of the chat template. Rows of one `cluster` (text or a number, as
    `selfaug prepare` writes it), or else with the same first one of `documents`, hang together: intervals of scores go
    by it. Other fields are ignored. In CSV files `messages`, `follow_ups`, and `context` where it is a list, are
    written as JSON.

    Args:
        sources: as for `read_rows`.
        template: for retrieval rows; None takes the default template.
        every_assistant_turn: in `messages` rows train every assistant turn, not only the last.
        skip_bad_rows: leave bad rows out and return their problems.
        split: the split of hub data sets.
        offline: refuse hub data sets.

    Raises:
        DataError: if a row is bad (with `skip_bad_rows`: if every row is), with all problems; or if a file is named
            twice.
    """
    template = template or RetrievalTemplate()
    rows: list[Row] = []
    problems: list[Problem] = []
    forms: Counter[str] = Counter()
    places: dict[str, str] = {}
    files: dict[str, str] = {}
    read: set[str] = set()
    total = unreadable_rows = 0
    for source in sources:
        raw_rows, unreadable = read_rows(source, split=split, offline=offline)
        read |= _require_new(raw_rows, read)
        problems += unreadable
        unreadable_rows += len(unreadable)
        total += len(raw_rows) + len(unreadable)
        for raw in raw_rows:
            try:
                form, row = read_row(raw, str(source), template, every_assistant_turn)
                if row.id in places and files[row.id] != raw.file:
                    # Each of two files counts its own rows, and both may begin with 1.
                    row = replace(row, id=f"{raw.file}:{row.id}")
                if row.id in places:
                    raise InvalidRowError(f"the id {row.id!r} is taken by {places[row.id]}")
            except InvalidRowError as invalid:
                problems.append(Problem(raw.file, raw.line, str(invalid)))
                continue
            places[row.id], files[row.id] = f"{raw.file}:{raw.line}", raw.file
            rows.append(row)
            forms[form] += 1
    # What couldn't be read at all was found first.
    hint = _hint(problems, len(problems) > unreadable_rows, bool(rows))
    problems.sort(key=lambda problem: (problem.file, problem.line))
    if problems and (not skip_bad_rows or not rows):
        raise problems_error(f"{len(problems):,} of {total:,} rows can't be used.", problems, hint=hint)
    return LoadedRows(rows, problems, dict(forms))


def _require_new(rows: Sequence[RawRow], places: Set[str]) -> set[str]:
    """Refuse a file that was read before, however it is spelled: its ids would be taken by its own rows.

    Returns:
        The places of the rows' files.

    Raises:
        DataError: if one of them is there already.
    """
    files = {file: os.path.realpath(file) for file in dict.fromkeys(row.file for row in rows)}
    if twice := next((file for file, place in files.items() if place in places), None):
        raise DataError(
            f"{twice} is named twice.",
            hint="name it once; for its rows to count more in training, give a copy of it under another name.",
        )
    return set(files.values())


def _hint(problems: Sequence[Problem], fields_are_wrong: bool, some_are_valid: bool) -> str:
    hints = ["save the file as UTF-8."] if any("UTF-" in one.reason for one in problems) else []
    if fields_are_wrong:
        forms = "; ".join(" + ".join(fields) for fields in FORMS.values())
        hints.append(f"a row has the fields {forms}.")
    # That a whole file is left out is not what anybody means by it.
    rows_alone = not any(one.whole for one in problems)
    skip = f"; or leave the bad ones out with {SKIP_FLAGS}" if some_are_valid and rows_alone else ""
    return " ".join([*hints, f"Correct the {'rows' if rows_alone else 'files'}{skip}."])
