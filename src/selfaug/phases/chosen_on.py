"""Rows on which a run's checkpoint is chosen: they can't be reported on."""

from __future__ import annotations

from collections.abc import Sequence

from selfaug.config import TrainConfig
from selfaug.data.sources import content_keys
from selfaug.phases.run_files import sources_when_trained
from selfaug.rundir import RunDir

__all__ = ["is_chosen_on"]


def is_chosen_on(config: TrainConfig, sources: Sequence[str], run: RunDir | None = None) -> bool:
    """As `TrainConfig.is_chosen_on`, which goes by names; here by what is in the files.

    Args:
        config: of the run.
        sources: of rows; none stand for those of `data.eval`.
        run: that was trained with it: what its files were then counts as well.
    """
    if config.train.best_of_rows == 0:
        return False
    before = [] if run is None else sources_when_trained(run, "eval")
    known = content_keys(config.data.eval) | {one["sha256"] for one in before if "sha256" in one}
    return not content_keys(sources or config.data.eval).isdisjoint(known)
