"""Multiple choice by log-likelihood: which of the given continuations does the model find most likely?

A prompt is run once, whatever the number of its choices: they continue from its key-value cache, or its states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfaug.model.hidden import evaluation_mode
from selfaug.model.running_batch import RunningBatch, forward_options, has_recurrent_states, left_padded

__all__ = ["ChoiceItem", "choice_log_likelihoods"]


class ChoiceItem(NamedTuple):
    """One question.

    Attributes:
        prompt: token ids before the choices.
        choices: token ids of each choice.
    """

    prompt: Sequence[int]
    choices: Sequence[Sequence[int]]


def choice_log_likelihoods(
    model: PreTrainedModel, items: Sequence[ChoiceItem], *, batch_size: int = 16
) -> list[list[float]]:
    """Log-likelihood of each choice after its prompt: nats, summed over the choice's tokens.

    To compare choices of different lengths, divide by the number of tokens or of characters, as the benchmark wants.

    Args:
        model: in any mode; runs in evaluation mode and gets its mode back.
        items: questions with their choices.
        batch_size: prompts run together; prompts of like length share a batch. Fewer where a GPU's memory doesn't
            suffice for so many.

    Raises:
        ValueError: if a prompt or a choice has no tokens, or an item no choices.
        ModelError: if padding would get into the model's states.
    """
    for number, item in enumerate(items):
        if not item.prompt or not item.choices or not all(len(choice) for choice in item.choices):
            raise ValueError(f"item {number}: prompt, choices and each choice must not be empty")
    order = sorted(range(len(items)), key=lambda index: len(items[index].prompt), reverse=True)
    results: list[list[float]] = [[] for _ in items]
    start = 0
    score = _score_by_token if has_recurrent_states(model) else _score
    with evaluation_mode(model):
        while start < len(order):
            batch = order[start : start + batch_size]
            try:
                scores = iter(score([items[i] for i in batch], model))
            except torch.OutOfMemoryError:
                if len(batch) < 2:
                    raise
                batch_size = len(batch) // 2
                continue
            for index in batch:
                results[index] = [next(scores) for _ in items[index].choices]
            start += len(batch)
    return results


def _score(items: Sequence[ChoiceItem], model: PreTrainedModel) -> list[float]:
    """Of all choices of all items, in their order."""
    device = model.device
    # Padded on the left, every prompt's choices begin at the same place.
    ids, mask, positions = left_padded([item.prompt for item in items], device)
    options = forward_options(model)
    if "position_ids" in options:
        options["position_ids"] = positions
    output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options)

    choices = [choice for item in items for choice in item.choices]
    rows = torch.tensor([row for row, item in enumerate(items) for _ in item.choices], device=device)
    longest = max(len(choice) for choice in choices)
    choice_ids = torch.tensor(
        [list(choice) + [0] * (longest - len(choice)) for choice in choices], device=device
    )
    real = torch.tensor(
        [[1] * len(choice) + [0] * (longest - len(choice)) for choice in choices], device=device
    )
    scores = _log_p(output.logits[:, -1][rows], choice_ids[:, 0])
    if longest > 1:
        cache = output.past_key_values
        cache.batch_select_indices(rows)
        if "position_ids" in options:
            steps = torch.arange(1, longest, device=device)
            options["position_ids"] = positions[rows, -1:] + steps
        options.pop("logits_to_keep", None)
        logits = model(
            input_ids=choice_ids[:, :-1],
            attention_mask=torch.cat([mask[rows], real[:, :-1]], dim=1),
            past_key_values=cache,
            use_cache=True,
            **options,
        ).logits
        # A choice at a time: float32 copies of all logits at once would be the largest tensor by far.
        for row in range(len(choices)):
            length = len(choices[row]) - 1
            scores[row] += _log_p(logits[row, :length], choice_ids[row, 1 : length + 1]).sum()
    return [float(score) for score in scores]


def _score_by_token(items: Sequence[ChoiceItem], model: PreTrainedModel) -> list[float]:
    """Of all choices of all items, in their order; the tokens of a choice are given one by one."""
    batch = RunningBatch(model)
    logits = batch.join([item.prompt for item in items])
    rows = [row for row, item in enumerate(items) for _ in item.choices]
    batch.keep(rows)
    choices = [choice for item in items for choice in item.choices]
    longest = max(len(choice) for choice in choices)
    choice_ids = torch.tensor(
        [list(choice) + [0] * (longest - len(choice)) for choice in choices], device=model.device
    )
    lengths = torch.tensor([len(choice) for choice in choices], device=model.device)
    scores = _log_p(logits[rows], choice_ids[:, 0])
    for place in range(1, longest):
        logits = batch.step(choice_ids[:, place - 1])
        scores += torch.where(place < lengths, _log_p(logits, choice_ids[:, place]), 0.0)
    return [float(score) for score in scores]


def _log_p(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """float64 log-probabilities of the targets, from float32 statistics."""
    logits_NV = logits_NV.float()
    chosen = logits_NV.gather(-1, targets_N[:, None]).squeeze(-1)
    return (chosen - logits_NV.logsumexp(-1)).double()
