"""Rows as the model sees them, and what is counted of them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfaug.data.sources import Problem

if TYPE_CHECKING:
    import datasets

__all__ = ["IGNORED_LABEL", "EncodeReport", "EncodedRow", "EncodedRows", "token_digest"]

IGNORED_LABEL = -100
"""Label of tokens that carry no nll: the prompt."""

_CHUNK_TOKENS = 1 << 28
"""Of a data set; Arrow's lists end at 2^31 tokens."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as the model sees it.

    A training set may have billions of tokens: they are kept in 4 bytes each.

    Attributes:
        id: as in `Row`.
        ids: token ids of prompt and completion.
        spans: begin and end of each run of tokens that carry nll, in their order.
        dropped_passages: indexes from 0 of the passages that didn't fit.
        dropped_text: these passages as they would have stood in the prompt.
        source: as in `Row`.
        cluster: as in `Row`.
    """

    id: str
    ids: array[int]
    spans: Sequence[tuple[int, int]]
    dropped_passages: list[int] = field(default_factory=list)
    dropped_text: str = ""
    source: str = ""
    cluster: str = ""

    @property
    def input_ids(self) -> list[int]:
        """Prompt and completion, as a new list."""
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """The token itself where it carries nll, `IGNORED_LABEL` elsewhere, as a new list."""
        labels: list[int] = self.label_array().tolist()
        return labels

    def label_array(self) -> NDArray[np.int32]:
        """`labels`, in 4 bytes each [tokens]."""
        ids = np.asarray(self.ids, dtype=np.int32)
        labels = np.full_like(ids, IGNORED_LABEL)
        for start, end in self.spans:
            labels[start:end] = ids[start:end]
        return labels

    def prompt(self) -> memoryview[int]:
        """Token ids before the first one that carries nll, not copied."""
        return memoryview(self.ids)[: self.spans[0][0] if self.spans else len(self.ids)]


def token_digest(ids: array[int] | memoryview[int]) -> bytes:
    """16 bytes that stand for token ids of a row, which may be many."""
    return hashlib.blake2b(ids, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What became of the rows.

    Attributes:
        rows: rows that were encoded.
        rows_of_text: of these, rows of text, which the chat template did not render.
        rows_shortened: of these, rows that lost passages.
        passages_dropped: passages that were lost, over all rows.
        rows_too_long: rows that don't fit, and were left out.
        rows_refused: rows that the chat template can't render faithfully, and were left out.
        prompt_tokens: tokens without nll, over all rows.
        completion_tokens: tokens with nll, over all rows.
        length_p50: median of the tokens in a row.
        length_p95: 95th percentile of the tokens in a row.
        length_max: the longest row, in tokens.
        warnings: what the user should know about how the template renders completions, and of rows without it.
    """

    rows: int
    rows_of_text: int
    rows_shortened: int
    passages_dropped: int
    rows_too_long: int
    rows_refused: int
    prompt_tokens: int
    completion_tokens: int
    length_p50: int
    length_p95: int
    length_max: int
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a record."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Encoded rows, what was counted, and the problems of the rows that were left out."""

    rows: list[EncodedRow]
    report: EncodeReport
    problems: list[Problem]

    def to_dataset(self) -> datasets.Dataset:
        """A `datasets.Dataset` with the columns `input_ids` and `labels`."""
        import datasets
        import pyarrow as pa  # type: ignore[import-untyped]

        chunks: list[list[EncodedRow]] = [[]]
        tokens = 0
        for row in self.rows:
            tokens += len(row.ids)
            if tokens > _CHUNK_TOKENS and chunks[-1]:
                chunks.append([])
                tokens = len(row.ids)
            chunks[-1].append(row)

        def column(of: Callable[[EncodedRow], NDArray[np.int32]]) -> pa.ChunkedArray:
            none, typed = np.empty(0, np.int32), pa.list_(pa.int32())
            made = [
                pa.ListArray.from_arrays(
                    np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int32),
                    np.concatenate([none, *map(of, rows)]),
                )
                for rows in chunks
            ]
            return pa.chunked_array(made, typed)

        ids = column(lambda row: np.asarray(row.ids, dtype=np.int32))
        labels = column(EncodedRow.label_array)
        table = pa.table({"input_ids": ids, "labels": labels})
        # Left to `datasets`, the fingerprint is of a copy of it all.
        digest = hashlib.blake2b(digest_size=8)
        for chunk in (*ids.chunks, *labels.chunks):
            for buffer in filter(None, chunk.buffers()):
                digest.update(buffer)
        return datasets.Dataset(table, fingerprint=digest.hexdigest())
