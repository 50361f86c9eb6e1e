"""Held-out rows that a run was trained on: what it scores there is what it remembers."""

from __future__ import annotations

from collections.abc import Sequence

from selfaug.config import TrainConfig
from selfaug.data import RetrievalTemplate, Row
from selfaug.data.same_prompt import asked_among, without_held_out
from selfaug.errors import SelfAugError
from selfaug.phases.inputs import read_rows

__all__ = ["trained_on"]


def trained_on(
    config: TrainConfig, sources: Sequence[str], asked: Sequence[str], *, offline: bool
) -> int | None:
    """How many of the rows that are asked have the prompt of a row that the run, or one that it went on from, was
    trained on.

    Args:
        config: of the run.
        sources: of the held-out rows.
        asked: ids of those that are asked.
        offline: use only what is on this machine.

    Returns:
        None where training rows can't be read any more.

    Raises:
        DataError: if the held-out rows can't be used.
    """
    config = config.model_copy(update={"run": config.run.model_copy(update={"offline": offline})})
    held_out = {row.id: row for row in _rows(config, sources)}
    try:
        trained = _trained(config)
    except SelfAugError:
        return None
    return sum(asked_among([held_out[name] for name in asked], trained))


def _trained(config: TrainConfig) -> list[Row]:
    """Rows that were trained on, or that some were replayed of.

    Raises:
        SelfAugError: if some can't be read.
    """
    data = config.data
    # Where training went on from another run, `data.replay` is what that one was trained on, and those before it.
    learnt_before = data.replay_share > 0 or config.lora.start_from is not None
    sources = [*data.train, *(data.replay if learnt_before else [])]
    rows = [
        row for source in dict.fromkeys(sources) if source != "embedded" for row in _rows(config, [source])
    ]
    return without_held_out(_rows(config, data.eval), rows)[0] if data.skip_held_out else rows


def _rows(config: TrainConfig, sources: Sequence[str]) -> list[Row]:
    # The form of the prompts is none of what is compared. Rows that training has refused are left out.
    return read_rows(config, RetrievalTemplate(), sources, skip_bad_rows=True).rows if sources else []
