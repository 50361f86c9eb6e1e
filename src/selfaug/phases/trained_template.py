"""What a run was trained with of its prepared folder, whatever that says by now."""

from __future__ import annotations

from selfaug.data.template import RetrievalTemplate
from selfaug.records import read_record
from selfaug.rundir import RunDir

__all__ = ["trained_no_answer", "trained_template"]


def trained_template(run: RunDir) -> RetrievalTemplate | None:
    """The template as it was when the training began; None where the run was not trained on retrieval rows.

    Raises:
        DataError: if the record of the beginning is missing or damaged.
    """
    trained = read_record(run.started, "train-started")["data"]["train"].get("template")
    return None if trained is None else RetrievalTemplate(**trained)


def trained_no_answer(run: RunDir) -> str | None:
    """What its rows said where there was no answer; None where they were not prepared, or an older version trained it.

    Raises:
        DataError: if the record of the beginning is missing or damaged.
    """
    no_answer: str | None = read_record(run.started, "train-started")["data"].get("no_answer")
    return no_answer
