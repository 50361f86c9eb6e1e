"""Rows filled up with empty ones so that all processes evaluate as many, and results without those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers.trainer_utils import EvalPrediction

from selfaug.core.positions import IGNORED
from selfaug.train.dataset_rows import row_lengths

__all__ = ["count_added", "fill_up", "of_given_rows", "without_added"]


def fill_up(rows: Dataset, multiple: int, pad_token_id: int) -> Dataset:
    """Prepared rows with empty ones at the end, up to a multiple of so many: what counts for nothing fills a batch."""
    lacking = -len(rows) % multiple
    if lacking == 0:
        return rows
    # One token predicts nothing: it has no nll and no alignment.
    empty = {"input_ids": [pad_token_id], "labels": [IGNORED], "seq_lengths": [1]}
    rows = rows.select_columns([name for name in rows.column_names if name in empty])
    columns = {name: [empty[name]] * lacking for name in rows.column_names}
    return concatenate_datasets([rows, Dataset.from_dict(columns, features=rows.features)])


def count_added(rows: Dataset) -> int:
    """How many rows at the end are empty, as `fill_up` adds them."""
    count_for_something = np.flatnonzero(row_lengths(rows) > 1)
    return len(rows) - (int(count_for_something[-1]) + 1 if count_for_something.size else 0)


def without_added(values: Any, filled: int, given: int) -> Any:
    """Results without the rows that a data set was filled up with; what has no entry for each row stays whole.

    Args:
        values: an array, None, or several of them in a tuple, list or mapping.
        filled: rows with the added ones.
        given: rows without them.
    """
    if isinstance(values, list | tuple):
        return type(values)(without_added(one, filled, given) for one in values)
    if isinstance(values, Mapping):
        return {name: without_added(one, filled, given) for name, one in values.items()}
    return values[:given] if values is not None and len(values) == filled else values


def of_given_rows(
    compute_metrics: Callable[..., dict[str, Any]], filled: int, given: int, *, apart: bool
) -> Callable[..., dict[str, Any]]:
    """A user's metrics, of results without the rows that a data set was filled up with.

    Args:
        compute_metrics: the user's.
        filled, given: as of `without_added`.
        apart: whether results are lists of batches; `filled` and `given` are rows of the last one then.
    """

    def without(values: Any) -> Any:
        if apart and isinstance(values, list):
            return [*values[:-1], *(without_added(last, filled, given) for last in values[-1:])]
        return without_added(values, filled, given)

    def compute(found: EvalPrediction, **named: Any) -> dict[str, Any]:
        if named.get("compute_result", True):  # with `batch_eval_metrics`, False but for the last batch
            parts = ("predictions", "label_ids", "inputs", "losses")
            found = EvalPrediction(*(without(getattr(found, one)) for one in parts))
        return compute_metrics(found, **named)

    return compute
