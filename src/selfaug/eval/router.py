"""A router in front of two models: does this prompt belong to the tuned model's job?

The workaround that an application needs when fine-tuning has made a model forget: the tuned model gets the job's
prompts, the base model everything else. The router here is a linear discriminant over the mean of the prompt's token
embeddings, which costs next to nothing and needs no text but the training prompts and requests that the base model
wrote itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

__all__ = ["PromptRouter"]

_SHRINKAGE = 0.5
"""Share of the covariance that is replaced by a multiple of the identity."""


class PromptRouter:
    """Linear discriminant with a shrunk covariance.

    Args:
        model: whose input embeddings describe a prompt.
        task_prompts: token ids of prompts of the job.
        other_prompts: token ids of other prompts.

    Raises:
        ValueError: if either kind has no prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task_prompts: Sequence[Sequence[int]],
        other_prompts: Sequence[Sequence[int]],
    ) -> None:
        if not task_prompts or not other_prompts:
            raise ValueError("a router needs prompts of the job and others")
        # In main memory: a GPU's is wanted for the models that are asked next.
        self._embeddings = model.get_input_embeddings().weight.detach().cpu()
        task_NH, other_NH = self._features(task_prompts), self._features(other_prompts)
        centres = task_NH.mean(axis=0), other_NH.mean(axis=0)
        residuals = np.concatenate([task_NH - centres[0], other_NH - centres[1]])
        covariance = residuals.T @ residuals / len(residuals)
        width = covariance.shape[0]
        scale = max(float(np.trace(covariance)) / width, 1e-12)
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * scale * np.eye(width)
        direction = np.linalg.solve(shrunk, centres[0] - centres[1])
        spread = float(direction @ (centres[0] - centres[1]))
        # A prompt like the job's mean scores 1, one like the others' mean 0.
        self._direction = direction / max(spread, 1e-12)
        self._zero = float(self._direction @ centres[1])

    def scores(self, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Near 1 for prompts of the job, near 0 for others."""
        return [float(value) for value in self._features(prompts) @ self._direction - self._zero]

    def _features(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Mean token embedding of each prompt: [N, H]."""
        rows = [self._embeddings[torch.as_tensor(list(prompt))].double().mean(0) for prompt in prompts]
        return np.asarray(torch.stack(rows).numpy(), dtype=np.float64)
