"""Held-out rows of a re-alignment's new data, where its user has set none apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig
from selfaug.data import embedded_general_rows
from selfaug.data.rows import Row, as_read
from selfaug.data.same_prompt import answer_of, asked_among, prompt_keys
from selfaug.data.sources import describe_sources
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import StorageError
from selfaug.phases.inputs import read_rows, rows_still_there, template_of
from selfaug.phases.learnt import learnt_so_far
from selfaug.phases.run_files import place_of, runs_before, sources_when_trained
from selfaug.records import read_lines, write_lines
from selfaug.rundir import RunDir

__all__ = ["HELD_OUT_SHARE", "LEAST_HELD_OUT", "HeldOut", "held_out_before", "hold_out"]

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
        changed: files that the deployed run was trained with and that have changed since, or are not there any more:
            which of the rows it has learnt is not known, so none counts as `known` for that.
    """

    data: list[str]
    eval_data: list[str]
    rows: int
    of: int
    known: int = 0
    changed: list[str] = field(default_factory=list)


def hold_out(
    run: RunDir,
    config: TrainConfig,
    data: Sequence[str],
    folder: Path,
    *,
    share: float,
    offline: bool,
) -> HeldOut:
    """Set a share of new rows apart: the same ones each time, and rows that ask the same on the same side.

    What the deployed run's held-out rows ask is not held out a second time, nor what it was trained on, with the same
    completion: that would measure what it knows already.

    Args:
        run: the deployed run: it knows what its files were when it was trained.
        config: its settings: how rows are read, and which ones were held out and learnt before.
        data: sources of the new rows; each stays one of its own, of which old rows are drawn later.
        folder: where a file for each side of each source is written.
        share: of all rows; at least 20 and at most 500 rows are held out, or none if there are too few.
        offline: refuse hub data sets.

    Raises:
        DataError: if rows can't be used.
        StorageError: if the folder can't be written.
    """
    config = _read_offline(config, offline)
    rows = _read(config, data)
    keys, known, changed = _keys(run, config, rows)
    new = [key for key in keys if key not in known]
    chosen = _chosen(new, min(_MOST, round(share * len(new))))
    held_out = [row for row, key in zip(rows, keys, strict=True) if key in chosen]
    if len(held_out) < LEAST_HELD_OUT:
        return HeldOut(list(data), [], 0, len(new), len(rows) - len(new), changed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write into {folder}: {error.strerror or error}", hint="choose another --output."
        ) from error
    kept = [row for row, key in zip(rows, keys, strict=True) if key not in chosen]
    return HeldOut(
        _written(kept, data, folder, "train"),
        _written(held_out, data, folder, "held-out"),
        len(held_out),
        len(new),
        len(rows) - len(new),
        changed,
    )


def held_out_before(
    config: TrainConfig, begun: TrainConfig, data: Sequence[str], folder: Path, *, offline: bool
) -> HeldOut | None:
    """What `hold_out` set apart for a run that has begun: its rows stay as they were divided.

    Another share, or another version, would divide them otherwise by now; so would old rows that have changed since.

    Args:
        config, data, folder, offline: as of `hold_out`.
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
    rows = _read(_read_offline(config, offline), data)
    apart = [line for file in held_out for line in read_lines(file)]
    all_lines = [*apart, *(line for file in train for line in read_lines(file))]
    if _without_ids(all_lines) != _without_ids(map(as_read, rows)):
        raise StorageError(
            f"{folder} has other rows: the run that is there was begun with those.",
            hint="choose another --output for these rows; or give those again, to go on.",
        )
    return HeldOut(list(map(str, train)), list(map(str, held_out)), len(apart), len(rows))


def _read_offline(config: TrainConfig, offline: bool) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"offline": offline})})


def _read(config: TrainConfig, sources: Sequence[str]) -> list[Row]:
    return read_rows(config, template_of(config), sources).rows


def _keys(run: RunDir, config: TrainConfig, rows: Sequence[Row]) -> tuple[list[bytes], set[bytes], list[str]]:
    """What each new row asks; what of that was held out before, or learnt with the same completion; and the files of
    which nobody knows what was learnt."""
    template = template_of(config)
    held_out = rows_still_there(config, template, config.data.eval)
    learnt, changed = _learnt(run, config, template)
    keys = prompt_keys([*held_out, *learnt, *rows])
    of_held_out, of_learnt, of_new = (
        keys[: len(held_out)],
        keys[len(held_out) : len(held_out) + len(learnt)],
        keys[len(held_out) + len(learnt) :],
    )
    answered = {(key, answer_of(row)) for key, row in zip(of_learnt, learnt, strict=True)}
    known_now = {key for key, row in zip(of_new, rows, strict=True) if (key, answer_of(row)) in answered}
    return of_new, {*of_held_out, *known_now}, changed


def _learnt(run: RunDir, config: TrainConfig, template: RetrievalTemplate) -> tuple[list[Row], list[str]]:
    """Rows that a run was trained on, and its files that are not what they were then.

    Where it has rehearsed none, what it keeps for later was learnt by the runs before it, as the files were then.
    """
    one, its = run, config
    found = []
    for one, its in ((run, config), *runs_before(config)):
        found.append(_learnt_of(one, config, template, "train", its.data.train))
        if sources_when_trained(one, "replay") or not one.started.exists():
            found.append(_learnt_of(one, config, template, "replay", its.data.replay))
            break
    else:
        if its.lora.start_from is not None:  # the run before is gone
            found.append(_learnt_of(one, config, template, "replay", its.data.replay))
    rows = [row for part, _ in found for row in part]
    if (learnt := learnt_so_far(run, config)) is not None:  # a file can have had rows that were none to learn
        rows = [row for row, known in zip(rows, asked_among(rows, learnt.prompts), strict=True) if known]
    return rows, list(dict.fromkeys(file for _, changed in found for file in changed))


def _learnt_of(
    run: RunDir, config: TrainConfig, template: RetrievalTemplate, part: str, named: Sequence[str]
) -> tuple[list[Row], list[str]]:
    """Rows of a part of a run's data, and its files that are not what they were then.

    Of a JSONL file that has only got longer since, the rows that it had then. A file that is new, as next month's in a
    folder, has none, and where a file of then is gone, its rows may be in that one. Where it isn't known what the files
    were, they are taken as they are.
    """
    sources = [source for source in dict.fromkeys(named) if source != "embedded"]
    before = {one["sha256"]: one for one in sources_when_trained(run, part) if "sha256" in one}
    if not before:
        return rows_still_there(config, template, sources), []
    rows: list[Row] = []
    changed: list[str] = []
    met: set[str] = set()
    for source in sources:
        files = [{"source": source}]
        with suppress(OSError):  # as for rows that can't be read
            files = describe_sources([source])
        for now in files:
            found = rows_still_there(config, template, [now["source"]])
            if "sha256" not in now or now["sha256"] in before:  # a data set of the hub has no hash
                rows += found
                met.add(now.get("sha256", ""))
            elif same := [one for one in before.values() if _name(one) == _name(now)]:
                lines = {one["sha256"]: _lines_before(Path(now["source"]), one) for one in same}
                most = max(lines.values())
                rows += [row for row in found if row.line <= most]
                if not most:
                    changed.append(now["source"])
                met |= {one for one, count in lines.items() if count or not most}
    # Those that come with selfaug are none of the user's.
    own = [one for one in before.values() if _name(one) != embedded_general_rows().name]
    return rows, [*changed, *(one["source"] for one in own if one["sha256"] not in met)]


def _name(described: dict[str, Any]) -> str:
    """Of a file, wherever it lies: it may be named from another folder."""
    return Path(described["source"]).name


def _lines_before(file: Path, before: dict[str, Any]) -> int:
    """Lines that a JSONL file had, if it still begins with all of them; else 0."""
    if file.suffix.lower() != ".jsonl":
        return 0
    with file.open("rb") as stream:
        start = stream.read(before["bytes"])
    if hashlib.sha256(start).hexdigest() != before["sha256"]:
        return 0
    return start.count(b"\n") + (not start.endswith(b"\n"))


def _written(rows: Sequence[Row], data: Sequence[str], folder: Path, side: str) -> list[str]:
    """Files of the rows of each source that has some."""
    files = []
    for number, source in enumerate(dict.fromkeys(map(str, data)), 1):
        found = [as_read(row) for row in rows if row.source == source]
        if found:
            file = folder / f"{number}-{Path(source).stem}-{side}.jsonl"
            write_lines(file, found, private=True)  # it may have what users wrote
            files.append(str(file))
    return files


def _without_ids(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """What is in the rows, however often: ids may be of where their file lay, and earlier files have no clusters."""
    return Counter(json.dumps({**row, "id": None, "cluster": None}, sort_keys=True) for row in rows)


def _chosen(keys: Iterable[bytes], count: int) -> set[bytes]:
    """Keys of so many rows at most, in an order that has nothing to do with that of the rows."""
    chosen: set[bytes] = set()
    for key, rows_of_it in sorted(Counter(keys).items()):
        if rows_of_it <= count:
            chosen.add(key)
            count -= rows_of_it
    return chosen
