"""Held-out rows of a re-alignment's new data, where its user has set none apart."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig
from selfaug.data.row import Row, as_read
from selfaug.data.same_prompt import prompt_keys, taught_among
from selfaug.errors import StorageError
from selfaug.phases.inputs import read_rows, rows_still_there, template_of
from selfaug.phases.learnt import learnt_so_far
from selfaug.phases.run_files import place_of
from selfaug.records import as_json, read_lines, write_lines, writing_into
from selfaug.rundir import RunDir

__all__ = ["HELD_OUT_SHARE", "LEAST_HELD_OUT", "HeldOut", "held_out_before", "hold_out", "kept_if_begun"]

HELD_OUT_SHARE = 0.1
LEAST_HELD_OUT = 20
"""With fewer rows no difference is told from chance, and training needs them more."""
_MOST = 500
"""Rows: more would make the comparison slow, and decide little that these don't."""


@dataclass(frozen=True)
class HeldOut:
    """New rows, set apart.

    Attributes:
        data: sources to learn from: files where rows were held out, else those that were given.
        eval_data: files of the held-out rows; empty if there were too few rows.
        rows: how many are held out.
        of: how many new rows there are, but for those that are `known`.
        known: how many ask what was held out before, or were learnt before, answer and all; 0 for a run that has
            begun: only its division counts then.
        unknown: whether not all is known that was learnt before, so that some of it may count as new.
        written: files that were not there before.
    """

    data: list[str]
    eval_data: list[str]
    rows: int
    of: int
    known: int = 0
    unknown: bool = False
    written: Sequence[Path] = field(default=(), compare=False)


def hold_out(
    run: RunDir,
    config: TrainConfig,
    data: Sequence[str],
    folder: Path,
    *,
    share: float,
) -> HeldOut:
    """Set a share of new rows apart: the same ones each time, and rows that ask the same on the same side.

    What the deployed run's held-out rows ask is not held out a second time, nor what it was trained on, with the same
    completion: that would measure what it knows already.

    Args:
        run: the deployed run: it knows what it has learnt.
        config: its settings: how rows are read, and which ones were held out before.
        data: sources of the new rows; each stays one of its own, of which old rows are drawn later.
        folder: where a file for each side of each source is written.
        share: of all rows; at least 20 and at most 500 rows are held out, or none if there are too few.

    Raises:
        DataError: if rows can't be used.
        StorageError: if the folder can't be written, or holds other rows: a run may be judged by those, or they may be
            rehearsed, though its own folder is elsewhere by now.
    """
    rows = _read(config, data)
    learnt = learnt_so_far(run, config)
    keys, known = _keys(config, rows, learnt.digests)
    new = [key for key in keys if key not in known]
    chosen = _chosen(new, min(_MOST, round(share * len(new))))
    held_out = [row for row, key in zip(rows, keys, strict=True) if key in chosen]
    if len(held_out) < LEAST_HELD_OUT:
        return HeldOut(list(data), [], 0, len(new), len(rows) - len(new), not learnt.whole)
    kept = [row for row, key in zip(rows, keys, strict=True) if key not in chosen]
    train, apart = _files(kept, data, folder, "train"), _files(held_out, data, folder, "held-out")
    written = _write(train | apart, folder)
    return HeldOut(
        list(map(str, train)),
        list(map(str, apart)),
        len(held_out),
        len(new),
        len(rows) - len(new),
        not learnt.whole,
        written,
    )


@contextlib.contextmanager
def kept_if_begun(held_out: HeldOut | None, run: RunDir) -> Iterator[None]:
    """Take back what `hold_out` has written where the block ends in an error, or by Ctrl-C, and no run has begun.

    Nothing was trained with it then, and rows that are mended since would be refused beside it.

    Args:
        held_out: what was set apart; None where nothing was.
        run: that is trained with it.
    """
    try:
        yield
    except BaseException:
        if held_out is not None and held_out.written:
            # Another process that trains the run has found these files there, and needs them.
            with contextlib.suppress(StorageError), run.training():
                if not run.started.exists():
                    _take_back(held_out.written)
        raise


def held_out_before(
    config: TrainConfig, begun: TrainConfig, data: Sequence[str], folder: Path
) -> HeldOut | None:
    """What `hold_out` set apart for a run that has begun: its rows stay as they were divided.

    Another share, or another version, would divide them otherwise by now; so would old rows that have changed since.

    Args:
        config, data, folder: as of `hold_out`.
        begun: settings of the run.

    Returns:
        None if the run was not begun with files of the folder.

    Raises:
        DataError: if rows can't be used.
        StorageError: if the files have other rows than `data`.
    """
    old = {place_of(source) for source in config.data.eval}
    train, held_out = (
        [folder / Path(source).name for source in sources]
        for sources in (
            begun.data.train,
            [source for source in begun.data.eval if place_of(source) not in old],
        )
    )
    if not held_out or not all(file.exists() for file in (*train, *held_out)):
        return None
    rows = _read(config, data)
    apart = [line for file in held_out for line in read_lines(file)]
    all_lines = [*apart, *(line for file in train for line in read_lines(file))]
    if _without_ids(all_lines) != _without_ids(map(as_read, rows)):
        raise StorageError(
            f"{folder} has other rows: the run that is there was begun with those.",
            hint="choose another --output for these rows; or give those again, to go on.",
        )
    return HeldOut(list(map(str, train)), list(map(str, held_out)), len(apart), len(rows))


def _read(config: TrainConfig, sources: Sequence[str]) -> list[Row]:
    return read_rows(config, template_of(config), sources).rows


def _keys(config: TrainConfig, rows: Sequence[Row], learnt: set[bytes]) -> tuple[list[bytes], set[bytes]]:
    """What each new row asks; and what of that was held out before, or learnt with the same completion."""
    template = template_of(config)
    held_out = rows_still_there(config, template, config.data.eval)
    # What a question is asked about counts in old rows, too: a standard question is the same only about the same.
    old = rows_still_there(config, template, [*config.data.train, *config.data.replay])
    together = [*held_out, *old, *rows]
    keys, new = prompt_keys(together), len(together) - len(rows)
    taught = taught_among(together, learnt)[new:]
    known = {key for key, is_known in zip(keys[new:], taught, strict=True) if is_known}
    return keys[new:], {*keys[: len(held_out)], *known}


def _files(
    rows: Sequence[Row], data: Sequence[str], folder: Path, side: str
) -> dict[Path, list[dict[str, Any]]]:
    """Files, and what comes into them: the rows of each source that has some."""
    found = {
        folder / f"{number}-{Path(source).stem}-{side}.jsonl": [
            as_read(row) for row in rows if row.source == source
        ]
        for number, source in enumerate(dict.fromkeys(map(str, data)), 1)
    }
    return {file: of_source for file, of_source in found.items() if of_source}


def _write(files: Mapping[Path, list[dict[str, Any]]], folder: Path) -> list[Path]:
    """Write them, but for those that an earlier attempt has left, and say which; none where one holds other rows."""
    with writing_into(folder, hint="choose another --output."):
        folder.mkdir(parents=True, exist_ok=True)
        there = {file: _without_ids(read_lines(file)) for file in files if file.exists()}
    if others := [file for file, rows in there.items() if rows != _without_ids(files[file])]:
        raise StorageError(
            f"{others[0]} holds other rows, which may be of an earlier re-alignment: its run may be judged by them, "
            "and they may be rehearsed.",
            hint=f"choose another --output; or, if no run was trained with them, delete {folder}.",
        )
    written = [file for file in files if file not in there]
    try:
        for file in written:
            write_lines(file, files[file], private=True)  # it may have what users wrote
    except BaseException:
        _take_back(written)
        raise
    return written


def _take_back(files: Sequence[Path]) -> None:
    """Delete them, and their folder where nothing else is in it."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        files[0].parent.rmdir()


def _without_ids(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """What is in the rows, however often: ids may be of where their file lay."""
    return Counter(json.dumps(as_json({**row, "id": None}), sort_keys=True) for row in rows)


def _chosen(keys: Iterable[bytes], count: int) -> set[bytes]:
    """Keys of so many rows at most, in an order that has nothing to do with that of the rows."""
    chosen: set[bytes] = set()
    for key, rows_of_it in sorted(Counter(keys).items()):
        if rows_of_it <= count:
            chosen.add(key)
            count -= rows_of_it
    return chosen
