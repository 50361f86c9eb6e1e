"""Drift: KL(reference ‖ tuned) in nats per token, on given prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from selfaug.core.alignment import token_divergence
from selfaug.core.positions import Positions
from selfaug.errors import DataError
from selfaug.model.head import find_head
from selfaug.model.hidden import causal_model, evaluation_mode, hidden_states
from selfaug.model.reference import AdapterOff, Reference

__all__ = ["Drift", "measure_drift"]


class Drift(NamedTuple):
    """Drift on a set of token sequences.

    Attributes:
        mean: nats per token, over all measured tokens.
        top1_agreement: share of tokens at which both models have the same first choice.
        tokens: number of measured tokens.
        per_token: of each sequence, nats at each measured token.
    """

    mean: float
    top1_agreement: float
    tokens: int
    per_token: list[list[float]]


def measure_drift(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    *,
    starts: Sequence[int] | None = None,
    reference: Reference | None = None,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> Drift:
    """Drift of a tuned model against its reference model, on token sequences.

    Args:
        model: the tuned model.
        sequences: token ids of each sequence (a prompt, or a prompt with the reference model's answer).
        starts: of each sequence, the first token that is measured: the length of the prompt, to measure an answer
            only. By default all tokens but the first, which nothing predicts.
        reference: where the reference model's hidden states come from; None switches the model's adapter off.
        batch_size: sequences run at once.
        on_progress: called with sequences done and sequences to do.

    Raises:
        DataError: if there is no token to measure.
        ModelError: if the adapter changes base weights.
    """
    first = [1] * len(sequences) if starts is None else [max(1, start) for start in starts]
    if len(first) != len(sequences):
        raise DataError(
            f"{len(sequences)} sequences, but {len(first)} starts.", hint="give one start for each sequence."
        )
    if not any(start < len(sequence) for start, sequence in zip(first, sequences, strict=True)):
        raise DataError(
            "there is no token to measure drift on.", hint="give sequences of two tokens or more."
        )
    reference = reference or AdapterOff(model)
    device = next(model.parameters()).device
    pad = getattr(causal_model(model).config, "pad_token_id", None) or 0
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    per_token: list[list[float]] = [[] for _ in sequences]
    total, agreed, count = 0.0, 0, 0
    for begin in range(0, len(order), batch_size):
        chunk = order[begin : begin + batch_size]
        width = max(len(sequences[i]) for i in chunk)
        ids = torch.full((len(chunk), width), pad)
        mask = torch.zeros_like(ids)
        measured = torch.zeros_like(ids, dtype=torch.bool)
        for row, i in enumerate(chunk):
            ids[row, : len(sequences[i])] = torch.as_tensor(sequences[i])
            mask[row, : len(sequences[i])] = 1
            # The position before a token predicts it.
            measured[row, first[i] - 1 : len(sequences[i]) - 1] = True
        flat = measured.reshape(-1).nonzero().flatten().to(device)
        if flat.numel():
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            positions = Positions(order=flat, targets=flat[:0], aligned=flat.numel())
            reference_NH = reference.hidden(model, inputs, positions)
            with evaluation_mode(model):
                hidden_BTH, _ = hidden_states(model, inputs)
            divergence_N, agreement_N = token_divergence(
                hidden_BTH.flatten(0, 1)[flat], find_head(model), reference_NH, reference.head(model)
            )
            total += divergence_N.double().sum().item()
            agreed += int(agreement_N.sum())
            count += flat.numel()
            nats = iter(divergence_N.tolist())
            for i, tokens in zip(chunk, measured.sum(1).tolist(), strict=True):
                per_token[i] = list(islice(nats, tokens))
        if on_progress:
            on_progress(min(begin + batch_size, len(order)), len(order))
    return Drift(total / count, agreed / count, count, per_token)
