"""Rows of like length in the same batch, in an order that an interrupted training finds again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

__all__ = ["LengthOrder"]


class LengthOrder(Sampler[int]):
    """transformers' order by length, drawn anew for each epoch from a seed.

    transformers' own draws from torch's global state, which is another one where training was resumed.

    Args:
        grouped: transformers' own, which knows the lengths.
        seed: of all epochs.
    """

    def __init__(self, grouped: LengthGroupedSampler, seed: int) -> None:
        self.grouped, self.seed, self.epoch = grouped, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.grouped)

    def __iter__(self) -> Iterator[int]:
        self.grouped.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(self.grouped)
