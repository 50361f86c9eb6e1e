"""How much of a prompt training has not seen: the share of its three-token sequences that other prompts don't have.

Only hashes are kept, as bits. Each prompt belongs to one of two halves by a hash of its tokens, and is compared with
the training prompts of the other half. So a training prompt's own tokens never count as known, and training prompts
and live ones are measured alike.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfaug.errors import DataError

__all__ = ["NoveltySketch"]

_FEWEST_BITS, _MOST_BITS = 16, 27
_BITS_A_SEQUENCE = 8
_FEWEST_MERGED = 1 << 22
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


class NoveltySketch:
    """Hashed three-token sequences of training prompts.

    Args:
        halves: bits of each half, packed: [2, 2^bits / 8].
    """

    def __init__(self, halves: NDArray[np.uint8]) -> None:
        self._halves = halves
        self._shift = np.uint64(64 - (halves.shape[1] * 8).bit_length() + 1)

    @classmethod
    def of(cls, prompts: Iterable[Sequence[int]]) -> NoveltySketch:
        """The sketch of these prompts' token ids; one bit in eight or fewer is set, up to 16 MB a half."""
        halves = _Places(), _Places()
        for prompt in prompts:
            halves[_half(prompt)].add(_hashes(prompt))
        distinct = [half.distinct() for half in halves]
        largest = max(len(half) for half in distinct)
        bits = min(_MOST_BITS, max(_FEWEST_BITS, (_BITS_A_SEQUENCE * largest).bit_length()))
        packed = []
        for half in distinct:
            flags = np.zeros(1 << bits, dtype=bool)
            flags[half >> np.uint32(_MOST_BITS - bits)] = True
            packed.append(np.packbits(flags, bitorder="little"))
        return cls(np.stack(packed))

    def novelty(self, prompt: Sequence[int]) -> float:
        """Share of the prompt's three-token sequences that the other half's prompts don't have, in [0, 1].

        0 for prompts of fewer than three tokens.
        """
        hashes = _hashes(prompt)
        if hashes.size == 0:
            return 0.0
        places = hashes >> self._shift
        bits = self._halves[1 - _half(prompt)]
        known = (bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)) & 1
        return float(1 - known.mean())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bits, atomically.

        Raises:
            OSError: if that fails.
        """
        partial = Path(f"{os.fspath(path)}.partial")
        with partial.open("wb") as file:
            np.save(file, self._halves)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoveltySketch:
        """Read what `save` wrote.

        Raises:
            DataError: if it is missing or damaged.
        """
        try:
            halves: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{os.fspath(path)} can't be read: {error}", hint="make the reference window anew."
            ) from error
        size = halves.shape[1] * 8 if halves.ndim == 2 else 0
        if halves.dtype != np.uint8 or halves.shape[0] != 2 or size < 8 or size & (size - 1):
            raise DataError(
                f"{os.fspath(path)} holds no sketch of prompts.", hint="make the reference window anew."
            )
        return cls(halves)


class _Places:
    """The different places of many hashes among the most bits; a training set may have billions of hashes."""

    def __init__(self) -> None:
        self._distinct = np.empty(0, np.uint32)
        self._new: list[NDArray[np.uint32]] = []
        self._count = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        places = np.unique((hashes >> np.uint64(64 - _MOST_BITS)).astype(np.uint32))
        self._new.append(places)
        self._count += len(places)
        if self._count > max(_FEWEST_MERGED, len(self._distinct)):
            self.distinct()

    def distinct(self) -> NDArray[np.uint32]:
        if self._new:
            self._distinct = np.unique(np.concatenate([self._distinct, *self._new]))
            self._new, self._count = [], 0
        return self._distinct


def _half(prompt: Sequence[int]) -> int:
    ids = np.asarray(prompt, dtype="<i8")
    return hashlib.blake2b(ids.tobytes(), digest_size=1).digest()[0] & 1


def _hashes(prompt: Sequence[int]) -> NDArray[np.uint64]:
    """A 64-bit hash of each three-token sequence."""
    ids = np.asarray(prompt, dtype=np.uint64)
    if ids.size < 3:
        return np.empty(0, np.uint64)
    first, second, third = (np.uint64(multiplier) for multiplier in _MULTIPLIERS)
    mixed: NDArray[np.uint64] = ids[:-2] * first + ids[1:-1] * second + ids[2:] * third
    mixed ^= mixed >> np.uint64(29)
    mixed *= first
    mixed ^= mixed >> np.uint64(32)
    return mixed
