"""What is counted of an optimizer step before its first forward pass, over all of its micro-batches and processes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfaug.core.positions import IGNORED, count_tokens
from selfaug.train.dataset_rows import no_prompt_tokens

__all__ = ["PromptWatch", "StepCounts", "count_step"]

_MOST_STEPS_WITHOUT_PROMPTS = 10
"""So many steps of a stream, or of a collator of the user's, without one prompt token, and there will be none."""


class StepCounts(NamedTuple):
    """What `count_step` counts, in its order.

    Attributes:
        completion_tokens: N_c of the loss.
        aligned_positions: N_p of the loss.
        within_prompts: aligned positions without the boundaries; 0 where they aren't asked for.
        batches: micro-batches; 0 in the steps that the Trainer asks for after the last row of a stream.
        masked_labels: tokens that are to be learnt, and are padding; 0 where they aren't asked for.
    """

    completion_tokens: int
    aligned_positions: int
    within_prompts: int
    batches: int
    masked_labels: int


def count_step(
    batches: list[dict[str, Any]],
    *,
    align_boundary: bool,
    for_prompts: bool,
    for_masked_labels: bool,
    device: torch.device,
) -> Tensor:
    """Counts of one process's micro-batches, with their anchors.

    Args:
        batches: of the step.
        align_boundary: as of `alignment_loss`.
        for_prompts: count `within_prompts`.
        for_masked_labels: count `masked_labels`.
        device: where they are added up.

    Returns:
        `StepCounts` of this process, to be added up over all of them [5].
    """
    # Added up where they are, and fetched once: on a GPU each fetch waits for all that was begun.
    counts = torch.zeros(len(StepCounts._fields), dtype=torch.int64, device=device)
    counts[3] = len(batches)
    for batch in batches:
        for part in (batch, batch.get("anchors")):
            if part is not None:
                counts[:2] += _count(part, align_boundary).to(device)
        if for_prompts:  # without the boundary: a document that is all completion has one too
            counts[2] += _count(batch, False)[1].to(device)
        if for_masked_labels:
            counts[4] += _count_masked_labels(batch).to(device)
    return counts


def _count(batch: dict[str, Tensor], align_boundary: bool) -> Tensor:
    return count_tokens(
        batch["labels"], batch.get("attention_mask"), batch.get("position_ids"), align_boundary=align_boundary
    )


def _count_masked_labels(batch: dict[str, Tensor]) -> Tensor:
    mask = batch.get("attention_mask")
    labels = batch["labels"]
    return torch.zeros((), dtype=torch.int64) if mask is None else ((labels != IGNORED) & (mask == 0)).sum()


class PromptWatch:
    """Does what `require_prompt_tokens` does, for rows that are only seen as they come, or as a collator makes them.

    One prompt token is enough, as there: later steps may be without, where few rows have a prompt.

    Args:
        own_collator: whether a collator of the user's makes the batches.

    Attributes:
        steps_without: steps so far, as long as none has had a prompt token; None once one has.
    """

    def __init__(self, *, own_collator: bool) -> None:
        self.steps_without: int | None = 0
        self._own_collator = own_collator

    def look_at(self, within_prompts: int) -> None:
        """Look at a step.

        Args:
            within_prompts: its prompt tokens, without those at the boundaries.

        Raises:
            DataError: if there were none in the first steps.
        """
        if within_prompts or self.steps_without is None:
            self.steps_without = None
            return
        self.steps_without += 1
        if self.steps_without == _MOST_STEPS_WITHOUT_PROMPTS:
            raise no_prompt_tokens(
                f"the rows of the first {self.steps_without} steps", own_collator=self._own_collator
            )
