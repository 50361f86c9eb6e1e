"""Held-out rows that a run was trained on: what it scores there is what it remembers."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig
from selfaug.data import RetrievalTemplate, Row, embedded_general_rows
from selfaug.data.same_prompt import asked_among, learnt_prompts, without_held_out
from selfaug.data.sources import describe_sources
from selfaug.errors import SelfAugError
from selfaug.phases.inputs import read_rows, rows_still_there
from selfaug.phases.learnt import prompts_learnt_by
from selfaug.phases.run_files import load_run_config, sources_when_trained
from selfaug.rundir import RunDir

__all__ = ["trained_on"]


class _ChangedError(Exception):
    """Rows are not what they were when a run was trained on them."""


class _GoneError(Exception):
    """Rows that a run was trained on, or a run that it went on from, are not there any more."""


def trained_on(
    run: RunDir, config: TrainConfig, sources: Sequence[str], asked: Sequence[str], *, offline: bool
) -> dict[str, Any]:
    """How many of the rows that are asked have a prompt that the run, or one that it went on from, was trained on.

    Args:
        run: a run.
        config: its settings, from `load_run_config`.
        sources: of the held-out rows.
        asked: ids of those that are asked.
        offline: use only what is on this machine.

    Returns:
        For the record: `rows`, so many, `of` so many; `rows` is None where nobody can tell, and `why` says why not.

    Raises:
        DataError: if the held-out rows can't be used.
    """
    held_out = {row.id: row for row in _read(config, sources, offline=offline)}
    unknown = {"rows": None, "of": len(asked)}
    # The rows of the training may be nobody's business who evaluates: this only warns.
    try:
        learnt = _learnt(run, config, offline=offline)
    except _ChangedError:
        return {**unknown, "why": "rows have changed since the run was trained"}
    except (SelfAugError, OSError, _GoneError):
        return {**unknown, "why": "not all training rows can be read here"}
    return {**unknown, "rows": sum(asked_among([held_out[name] for name in asked], learnt))}


def _learnt(run: RunDir, config: TrainConfig, *, offline: bool, later: Set[str] = frozenset()) -> set[bytes]:
    """Digests of the prompts that a run was trained on, or that some were replayed of, and of the runs before it.

    Args:
        run, config, offline: as for `trained_on`.
        later: folders of the runs that went on from it.

    Raises:
        SelfAugError, OSError, _GoneError, _ChangedError: if some can't be read, or have changed.
    """
    own = prompts_learnt_by(run)
    if own is None:
        own = learnt_prompts(_own_rows(run, config, offline=offline))
    if config.lora.start_from is None:
        return own
    before = RunDir(config.lora.start_from)
    later = later | {os.path.realpath(run.path)}
    if os.path.realpath(before.path) in later:
        raise _GoneError
    if before.is_run():
        return own | _learnt(before, load_run_config(before), offline=offline, later=later)
    # `realign` keeps what that one was trained on in `data.replay`, and those before it.
    kept = _rows(run, config, "replay", offline=offline)
    if not kept:
        raise _GoneError
    return own | learnt_prompts(kept)


def _own_rows(run: RunDir, config: TrainConfig, *, offline: bool) -> list[Row]:
    """Rows that this run was trained on, or that some were replayed of, as its training chose them."""
    data = config.data
    train = _rows(run, config, "train", offline=offline)
    replay = _rows(run, config, "replay", offline=offline) if data.replay_share > 0 else []
    if not data.skip_held_out:
        return train + replay
    # Those that were not replayed were compared too.
    old = replay or rows_still_there(_with_offline(config, True), RetrievalTemplate(), data.replay)
    held_out = _rows(run, config, "eval", offline=offline)
    kept, kept_old = without_held_out(held_out, train, old)
    return kept + kept_old if replay else kept


def _rows(run: RunDir, config: TrainConfig, part: str, *, offline: bool) -> list[Row]:
    """Rows of a setting of `data`, where they are those that the run was trained with.

    Raises:
        SelfAugError, OSError, _GoneError, _ChangedError: if some can't be read, or have changed.
    """
    sources = [source for source in dict.fromkeys(getattr(config.data, part)) if source != "embedded"]
    begun = sources_when_trained(run, part)
    _require_unchanged(begun, sources)
    rows = []
    for source in sources:
        # A folder that isn't here would be taken for a data set of the hub.
        from_hub = {"source": source} in begun
        rows += _read(config, [source], offline=offline or not from_hub)
    return rows


def _require_unchanged(begun: Sequence[dict[str, Any]], sources: Sequence[str]) -> None:
    """Refuse files that are not those that a run was trained with, as far as that is known.

    Raises:
        _GoneError, OSError: if one is gone or can't be read.
        _ChangedError: if one has changed.
    """
    before = {one["sha256"]: one["source"] for one in begun if "sha256" in one}
    now = {one["sha256"] for one in describe_sources(sources) if "sha256" in one}
    if before and now - before.keys():
        raise _ChangedError("files have changed.")
    # Those that come with selfaug are none of the user's.
    if {Path(before[digest]).name for digest in before.keys() - now} - {embedded_general_rows().name}:
        raise _GoneError


def _read(config: TrainConfig, sources: Sequence[str], *, offline: bool) -> list[Row]:
    # The form of the prompts is none of what is compared. Rows that training has refused are left out.
    return read_rows(_with_offline(config, offline), RetrievalTemplate(), sources, skip_bad_rows=True).rows


def _with_offline(config: TrainConfig, offline: bool) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"offline": offline})})
