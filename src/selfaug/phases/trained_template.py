"""What a run was trained with of its prepared folder, whatever that says by now."""

from __future__ import annotations

from selfaug.config import TrainConfig
from selfaug.data.template import RetrievalTemplate
from selfaug.phases.run_files import load_run_config, runs_before
from selfaug.records import read_record
from selfaug.rundir import RunDir

__all__ = ["TEMPLATE", "template_before", "trained_no_answer", "trained_template"]

TEMPLATE = "template"
"""In a run's started.json: the template of the runs that it went on from, which may not be there any more."""


def trained_template(run: RunDir) -> RetrievalTemplate | None:
    """The template as it was when the training began; None where the run was not trained on retrieval rows.

    One that was re-aligned with other rows alone may have rehearsed such rows, or have learnt them in the run that it
    went on from.

    Raises:
        DataError: if the record of a beginning is missing or damaged.
        ConfigError: if settings of runs before it can't be read.
    """
    return _own_template(run) or template_before(load_run_config(run))


def template_before(config: TrainConfig) -> RetrievalTemplate | None:
    """The template of the runs that training goes on from, as far as they are there; None where there is none.

    Args:
        config: of the training.

    Raises:
        ConfigError, DataError: if settings or records of these runs can't be read.
    """
    before = (_own_template(one) for one, _ in runs_before(config) if one.started.exists())
    return next((template for template in before if template is not None), None)


def _own_template(run: RunDir) -> RetrievalTemplate | None:
    """The template of the rows that a run was trained on, or that some were rehearsed of, or that it says of before."""
    begun = read_record(run.started, "train-started")
    found = [begun["data"].get(part, {}).get("template") for part in ("train", "replay")]
    trained = next((template for template in (*found, begun.get(TEMPLATE)) if template is not None), None)
    return None if trained is None else RetrievalTemplate(**trained)


def trained_no_answer(run: RunDir) -> str | None:
    """What its rows said where there was no answer; None where they were not prepared.

    Raises:
        DataError: if the record of the beginning is missing or damaged.
    """
    no_answer: str | None = read_record(run.started, "train-started")["data"].get("no_answer")
    return no_answer
