"""The reference window: prompts of training with their drift, which live prompts are compared with.

Held-out prompts come first, because live ones are unseen too; training prompts fill up what is missing. It holds
numbers and hashes, and no text.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfaug.errors import DataError
from selfaug.monitoring.novelty import NoveltySketch
from selfaug.records import read_record, write_record, writing_into

__all__ = ["WANTED_PROMPTS", "ReferenceWindow", "Score", "measure_reference_window"]

Floats = NDArray[np.float64]

Score = Callable[[list[list[int]]], list[float]]
"""From prompts as token ids to the drift of each, in nats per prompt token."""

RECORD_KIND = "reference-window"
_RECORD, _SKETCH = "reference.json", "novelty.npy"

WANTED_PROMPTS = 1000
"""With fewer, false alarms come more often than the budget says."""
_FEWEST_PROMPTS = 20

_DRIFT_FLOOR = 1e-6
"""Nats: below is rounding."""
_DEVIATION_FLOOR = 0.1
"""Of the logarithm: a rise of less than ten per cent is not worth an alert, however alike the prompts are."""

_MOST_BUCKETS, _FEWEST_IN_BUCKET = 4, 250


@dataclass(frozen=True)
class ReferenceWindow:
    """Prompts of training, as numbers.

    Attributes:
        lengths: tokens of each prompt [M].
        drift: of each, nats per prompt token [M].
        novelty: of each [M].
        sources: how many are held out and how many are training prompts.
        adapter: which weights were measured.
        sketch: of all training prompts.
        wanted: how many prompts were asked for: there are fewer where the rows had no more. None if it isn't known.
    """

    lengths: NDArray[np.int64]
    drift: Floats
    novelty: Floats
    sources: dict[str, int]
    adapter: str
    sketch: NoveltySketch
    wanted: int | None = None

    def __post_init__(self) -> None:
        size = len(self.lengths)
        if size < _FEWEST_PROMPTS:
            raise DataError(
                f"a reference window of {size} prompts says too little; {_FEWEST_PROMPTS} is the least, and "
                f"{WANTED_PROMPTS:,} are wanted.",
                hint="name more held-out rows with --data.",
            )

    @cached_property
    def _buckets(self) -> tuple[Floats, Floats, Floats]:
        """Lengths at which buckets begin, but for the first; mean and deviation of the logarithm in each."""
        edges = _edges(self.lengths)
        logs, bucket = _logs(self.drift), np.searchsorted(edges, self.lengths, side="right")
        groups = [logs[bucket == number] for number in range(len(edges) + 1)]
        deviations = [max(float(group.std(ddof=1)), _DEVIATION_FLOOR) for group in groups]
        return edges, np.asarray([group.mean() for group in groups]), np.asarray(deviations)

    def summary(self) -> dict[str, Any]:
        """How many prompts it has, and of which kind."""
        return {"prompts": len(self.lengths), **self.sources}

    def standardised(self, drift: ArrayLike, lengths: ArrayLike) -> Floats:
        """z = (ln drift - mean) / deviation, each within the bucket of the prompt's length: [N].

        Up to four buckets of about equal numbers of reference prompts.

        Args:
            drift: nats per prompt token [N].
            lengths: tokens of each prompt [N].
        """
        edges, means, deviations = self._buckets
        bucket = np.searchsorted(edges, lengths, side="right")
        return np.asarray((_logs(drift) - means[bucket]) / deviations[bucket], dtype=np.float64)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the record `reference.json` and, before it, the sketch.

        Raises:
            StorageError: if that fails.
        """
        folder = Path(folder)
        with writing_into(folder, hint="check free space."):
            folder.mkdir(parents=True, exist_ok=True)
            self.sketch.save(folder / _SKETCH)
        data = {
            "adapter": self.adapter,
            "sources": self.sources,
            "lengths": self.lengths,
            "drift": self.drift,
            "novelty": self.novelty,
            "wanted": self.wanted,
        }
        write_record(folder / _RECORD, RECORD_KIND, data)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ReferenceWindow:
        """Read what `save` wrote.

        Raises:
            DataError: if it is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / _RECORD).exists():
            raise DataError(
                f"{folder} has no reference window.",
                hint="make it with `selfaug monitor RUN --reference`.",
            )
        data: dict[str, Any] = read_record(folder / _RECORD, RECORD_KIND)
        try:
            return cls(
                np.asarray(data["lengths"], dtype=np.int64),
                np.asarray(data["drift"], dtype=np.float64),
                np.asarray(data["novelty"], dtype=np.float64),
                data["sources"],
                data["adapter"],
                NoveltySketch.load(folder / _SKETCH),
                data.get("wanted"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / _RECORD} is damaged: {error!r}", hint="make the reference window anew."
            ) from error


def measure_reference_window(
    held_out: Sequence[Sequence[int]],
    training: Sequence[Sequence[int]],
    score: Score,
    *,
    adapter: str,
    prompts: int = WANTED_PROMPTS,
    batch_size: int = 32,
    undated: Callable[[Sequence[int]], Sequence[int]] = lambda prompt: prompt,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> ReferenceWindow:
    """Measure the drift of held-out prompts, and of training prompts where those are too few.

    Args:
        held_out: token ids of the held-out rows' prompts.
        training: of the training rows' prompts; novelty is against all of them.
        score: the function that live prompts are measured with.
        adapter: which weights `score` measures.
        prompts: how many are wanted.
        batch_size: prompts given to `score` at once.
        undated: takes a date out of a prompt that is another one each day: else each live prompt would be novel.
        on_progress: called with prompts measured and prompts to measure.

    Raises:
        DataError: if there are too few prompts.
    """
    rng = random.Random("reference window")

    def drawn(rows: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        usable = [row for row in rows if len(row) > 1]  # nothing predicts the first token
        return [list(row) for row in (usable if len(usable) <= count else rng.sample(usable, count))]

    unseen = drawn(held_out, prompts)
    seen = drawn(training, prompts - len(unseen)) if len(unseen) < prompts else []
    chosen = [*unseen, *seen]
    # Longest last, so that a batch has prompts of about one length.
    chosen.sort(key=len)
    drift: list[float] = []
    for begin in range(0, len(chosen), batch_size):
        drift += score(chosen[begin : begin + batch_size])
        on_progress(len(drift), len(chosen))
    sketch = NoveltySketch.of(map(undated, training))
    return ReferenceWindow(
        np.asarray([len(row) for row in chosen], dtype=np.int64),
        np.asarray(drift, dtype=np.float64),
        np.asarray([sketch.novelty(undated(row)) for row in chosen], dtype=np.float64),
        {"held out": len(unseen), "training": len(seen)},
        adapter,
        sketch,
        prompts,
    )


def _logs(drift: ArrayLike) -> Floats:
    return np.log(np.maximum(np.asarray(drift, dtype=np.float64), _DRIFT_FLOOR))


def _edges(lengths: NDArray[np.int64]) -> Floats:
    """Where buckets of about equal numbers begin; equal lengths are never torn apart."""
    count = min(_MOST_BUCKETS, max(1, len(lengths) // _FEWEST_IN_BUCKET))
    edges: list[float] = []
    below = 0
    for edge in np.unique(np.quantile(lengths, np.arange(1, count) / count)):
        upto = int((lengths < edge).sum())
        if min(upto - below, len(lengths) - upto) >= _FEWEST_IN_BUCKET // 2:
            edges.append(float(edge))
            below = upto
    return np.asarray(edges, dtype=np.float64)
