"""Held-out rows that a run was trained on: what it scores there is what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfaug.config import TrainConfig
from selfaug.data import RetrievalTemplate
from selfaug.data.same_prompt import asked_among
from selfaug.errors import SelfAugError
from selfaug.phases.inputs import read_rows
from selfaug.phases.learnt import learnt_so_far
from selfaug.rundir import RunDir

__all__ = ["trained_on"]


def trained_on(
    run: RunDir, config: TrainConfig, sources: Sequence[str], asked: Sequence[str]
) -> dict[str, Any]:
    """How many of the rows that are asked have a prompt that the run, or one that it went on from, was trained on.

    Args:
        run: a run.
        config: its settings, from `load_run_config`.
        sources: of the held-out rows.
        asked: ids of those that are asked.

    Returns:
        For the record: `rows`, so many, `of` so many; `rows` is None where one of these runs is gone, or can't be read.

    Raises:
        DataError: if the held-out rows can't be used.
    """
    # The form of the prompts is none of what is compared. Rows that training has refused are left out.
    rows = read_rows(config, RetrievalTemplate(), sources, skip_bad_rows=True).rows
    held_out = {row.id: row for row in rows}
    # What was learnt may be nobody's business who evaluates: this only warns.
    try:
        learnt = learnt_so_far(run, config)
    except (SelfAugError, OSError):
        return {"rows": None, "of": len(asked)}
    known = asked_among([held_out[name] for name in asked], learnt.digests)
    return {"rows": sum(known) if learnt.whole else None, "of": len(asked)}
