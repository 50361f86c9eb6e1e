"""One evaluation of the trainer's: what its batches have added up to, and which reference its rows have."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn

from selfaug.errors import CacheError
from selfaug.model.reference import AdapterOff, CachedReference, Reference
from selfaug.train.dataset_rows import documents

__all__ = ["Evaluation"]


class Evaluation:
    """One evaluation, from its first batch to its last.

    Args:
        rows: that are evaluated, prepared; None where batches come without an evaluation.

    Attributes:
        sums: what each batch has added (`batch_sums`).
        reference: of its rows, where training has a reference cache; None until it is asked for.
    """

    def __init__(self, rows: Any = None) -> None:
        self.sums: list[Tensor] = []
        self.reference: Reference | None = None
        self._rows = rows

    def total(self) -> Tensor:
        """The sums of all batches, of which there must be one."""
        return torch.stack(self.sums).sum(0)

    def reference_of_rows(
        self, of_training: Reference | None, model: nn.Module, *, is_sharded: bool
    ) -> Reference | None:
        """The reference for the rows of this evaluation: rows that the trainer was not made with are in no cache.

        Decided for all rows at once, so that all processes do the same.

        Args:
            of_training: the reference of the training rows.
            model: the tuned model.
            is_sharded: whether FSDP or DeepSpeed has it, which leaves no room for a frozen copy.

        Raises:
            CacheError: if there is nothing else to have it from.
        """
        if not isinstance(of_training, CachedReference):
            return of_training
        if self.reference is None:
            # A stream can't be looked through first.
            is_stream = not isinstance(self._rows, Dataset)
            if not is_stream and not of_training.cache.missing(documents(self._rows)):
                self.reference = of_training
            elif isinstance(model, PeftModel):
                self.reference = AdapterOff(model)
            else:
                raise _not_in_the_cache(is_stream=is_stream, is_sharded=is_sharded)
        return self.reference


def _not_in_the_cache(*, is_stream: bool, is_sharded: bool) -> CacheError:
    what = "a data set but a stream" if is_stream else "in the reference cache"
    copied = "" if is_sharded else ", or use reference='frozen_copy'"  # which shards refuse
    return CacheError(
        f"these rows are not {what}, and the whole model trains: the reference model is no more.",
        hint=f"give them as eval_dataset when the trainer is made{copied}.",
    )
