"""Drift: KL(reference ‖ tuned) in nats per token, on given prompts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from selfaug.core.alignment import token_divergence
from selfaug.core.positions import Positions
from selfaug.errors import DataError
from selfaug.model.head import find_head
from selfaug.model.hidden import causal_model, evaluation_mode, hidden_states
from selfaug.model.reference import AdapterOff, Reference
from selfaug.model.right_padding import mark_needless_mask
from selfaug.records import append_line, read_lines, write_lines

__all__ = ["Drift", "measure_drift"]

# Of a batch, padding included. Eight sequences of 2,048 tokens, as long as rows are unless set otherwise.
_MOST_TOKENS = 16_384


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
    keep_in: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Drift:
    """Drift of a tuned model against its reference model, on token sequences.

    Args:
        model: the tuned model.
        sequences: token ids of each sequence (a prompt, or a prompt with the reference model's answer).
        starts: of each sequence, the first token that is measured: the length of the prompt, to measure an answer
            only. By default all tokens but the first, which nothing predicts.
        reference: where the reference model's hidden states come from; None switches the model's adapter off.
        batch_size: sequences run at once, at most: fewer of long ones, and where a GPU's memory doesn't suffice for so
            many.
        keep_in: JSON lines file of one tuned and reference model: batches that it has are not measured again, and
            each one is added when it is measured, so that a kill loses one at most. Delete it when all is done.
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
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    kept = _kept(keep_in)
    per_token: list[list[float]] = [[] for _ in sequences]
    agreed = done = 0
    while done < len(order):
        chunk = order[done : done + batch_size]
        while len(chunk) > 1 and len(chunk) * len(sequences[chunk[-1]]) > _MOST_TOKENS:
            chunk.pop()  # the longest
        rows, starts_of_rows = [sequences[i] for i in chunk], [first[i] for i in chunk]
        name = _name(rows, starts_of_rows)
        if name not in kept:
            try:
                kept[name] = _measured(model, reference, rows, starts_of_rows)
            except torch.OutOfMemoryError:
                if len(chunk) < 2:
                    raise
                batch_size = len(chunk) // 2
                continue
            if keep_in is not None:
                append_line(keep_in, {"batch": name, **kept[name]})
        agreed += kept[name]["agreed"]
        for i, nats in zip(chunk, kept[name]["nats"], strict=True):
            per_token[i] = nats
        done += len(chunk)
        if on_progress:
            on_progress(done, len(order))
    count = sum(map(len, per_token))
    total = math.fsum(value for nats in per_token for value in nats)
    return Drift(total / count, agreed / count, count, per_token)


def _measured(
    model: nn.Module, reference: Reference, sequences: Sequence[Sequence[int]], first: Sequence[int]
) -> dict[str, Any]:
    """One batch: `nats` at each measured token of each sequence, and at how many both models' first choice `agreed`."""
    device = next(model.parameters()).device
    pad = getattr(causal_model(model).config, "pad_token_id", None) or 0
    ids = torch.full((len(sequences), max(map(len, sequences))), pad)
    mask = torch.zeros_like(ids)
    measured = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
        # The position before a token predicts it.
        measured[row, first[row] - 1 : len(sequence) - 1] = True
    flat = measured.reshape(-1).nonzero().flatten().to(device)
    if not flat.numel():
        return {"nats": [[] for _ in sequences], "agreed": 0}
    # Of long rows the mask would be larger than all else: it has a place for every two tokens.
    inputs = mark_needless_mask(model, {"input_ids": ids.to(device), "attention_mask": mask.to(device)})
    positions = Positions(order=flat, targets=flat[:0], aligned=flat.numel())
    reference_NH = reference.hidden(model, inputs, positions)
    with evaluation_mode(model):
        hidden_BTH, _ = hidden_states(model, inputs)
    divergence_N, agreement_N = token_divergence(
        hidden_BTH.flatten(0, 1)[flat], find_head(model), reference_NH, reference.head(model)
    )
    nats = iter(divergence_N.tolist())
    return {
        "nats": [list(islice(nats, tokens)) for tokens in measured.sum(1).tolist()],
        "agreed": int(agreement_N.sum()),
    }


def _name(sequences: Sequence[Sequence[int]], first: Sequence[int]) -> str:
    """Of a batch, by its tokens: what changed since is measured anew."""
    listed = [[int(start), *map(int, sequence)] for start, sequence in zip(first, sequences, strict=True)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:32]


def _kept(file: Path | None) -> dict[str, dict[str, Any]]:
    if file is None or not file.exists():
        return {}
    lines = read_lines(file)
    write_lines(file, lines)  # without a last line that was cut off: the next one would be joined to it
    for line in lines:  # a model that is broken drifts by NaN, for which JSON has nothing
        line["nats"] = [[math.nan if value is None else value for value in nats] for nats in line["nats"]]
    return {line["batch"]: line for line in lines}
