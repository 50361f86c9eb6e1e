"""Held-out rows of a re-alignment's new data, where its user has set none apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig
from selfaug.data import RetrievalTemplate, load_rows
from selfaug.data.rows import Row, as_read
from selfaug.errors import StorageError
from selfaug.records import read_lines, write_lines

__all__ = ["HELD_OUT_SHARE", "LEAST_HELD_OUT", "HeldOut", "hold_out"]

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
        of: how many new rows there are.
    """

    data: list[str]
    eval_data: list[str]
    rows: int
    of: int


def hold_out(
    config: TrainConfig,
    data: Sequence[str],
    folder: Path,
    *,
    share: float,
    offline: bool,
    begun: bool = False,
) -> HeldOut:
    """Set a share of new rows apart: the same ones each time, and equal prompts on the same side.

    Args:
        config: of the deployed run: how rows are read.
        data: sources of the new rows; each stays one of its own, of which old rows are drawn later.
        folder: where a file for each side of each source is written.
        share: of all rows; at least 20 and at most 500 rows are held out, or none if there are too few.
        offline: refuse hub data sets.
        begun: a run has been trained on what the folder has: the files have to be what they would be now.

    Raises:
        DataError: if rows can't be used.
        StorageError: if the folder can't be written, or is another run's.
    """
    loaded = load_rows(
        data,
        template=RetrievalTemplate.from_file(config.data.template) if config.data.template else None,
        every_assistant_turn=config.data.every_assistant_turn,
        skip_bad_rows=config.data.skip_bad_rows,
        split=config.data.split,
        offline=offline,
    )
    chosen = _chosen(loaded.rows, min(_MOST, round(share * len(loaded.rows))))
    held_out = [row for row in loaded.rows if _digest(row) in chosen]
    if len(held_out) < LEAST_HELD_OUT:
        return HeldOut(list(data), [], 0, len(loaded.rows))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write into {folder}: {error.strerror or error}", hint="choose another --output."
        ) from error
    kept = [row for row in loaded.rows if _digest(row) not in chosen]
    return HeldOut(
        _written(kept, data, folder, "train", begun),
        _written(held_out, data, folder, "held-out", begun),
        len(held_out),
        len(loaded.rows),
    )


def _written(rows: Sequence[Row], data: Sequence[str], folder: Path, side: str, begun: bool) -> list[str]:
    """Files of the rows of each source that has some; where a run has begun with them, they are left as they are.

    Raises:
        StorageError: if a run has begun with other rows.
    """
    files = []
    for number, source in enumerate(dict.fromkeys(map(str, data)), 1):
        found = [as_read(row) for row in rows if row.source == source]
        if found:
            file = folder / f"{number}-{Path(source).stem}-{side}.jsonl"
            if not begun:
                write_lines(file, found)
            elif not file.exists() or _without_ids(read_lines(file)) != _without_ids(found):
                raise StorageError(
                    f"{file} has other rows: the run that is there was begun with those.",
                    hint="choose another --output for these rows or this --hold-out; or give those again, to go on.",
                )
            files.append(str(file))
    return files


def _without_ids(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What is in the rows: ids may be of where their file lay."""
    return [json.dumps({**row, "id": None}, sort_keys=True) for row in rows]


def _chosen(rows: Sequence[Row], count: int) -> set[bytes]:
    """Digests of prompts with so many rows at most, in an order that has nothing to do with that of the rows."""
    chosen: set[bytes] = set()
    for digest, rows_of_it in sorted(Counter(map(_digest, rows)).items()):
        if rows_of_it <= count:
            chosen.add(digest)
            count -= rows_of_it
    return chosen


def _digest(row: Row) -> bytes:
    return hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).digest()
