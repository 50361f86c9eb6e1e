"""Drift of a tuned model on three kinds of text, and where in them it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from selfaug.core.statistics import mean_interval
from selfaug.eval.drift import Drift, measure_drift
from selfaug.model.reference import Reference
from selfaug.phases.suites import Suite

__all__ = ["OWN_ANSWERS", "measured_drifts"]

OWN_ANSWERS = "the base model's own answers"
"""Needs no labels and no data; style would leak there."""

# Prompts that a drift is measured on, at most; and those that are shown token by token.
_MOST_PROMPTS = 64
_SHOWN = 6


def measured_drifts(
    model: nn.Module,
    reference: Reference | None,
    tokenizer: PreTrainedTokenizerBase,
    suites: Mapping[str, Suite],
    base_answers: Sequence[str],
    keep_in: Path,
    report: Callable[[str], Callable[[int, int], None]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Drift on prompts of the task, of the user's suites, on general ones, and on the reference model's answers.

    Args:
        model: the tuned model.
        reference: as for `measure_drift`.
        tokenizer: of both models.
        suites: with "general", "task" if there are rows, and those of the user.
        base_answers: the reference model's answers to the general suite.
        keep_in: as for `measure_drift`.
        report: makes a function for progress from a name.

    Returns:
        By kind of text: nats per token with its interval, top-1 agreement, tokens, nats by tenth of the text, and nats
        per token of each prompt. And of each kind the texts that drifted most, token by token.
    """
    general = suites["general"]
    kinds: dict[str, tuple[list[str], list[list[int]], list[int]]] = {}
    names = {"task": "prompts of the task", "general": "general prompts"}
    # The user's own between the two: "general" was asked last.
    for key, suite in suites.items():
        chosen = suite.evenly(range(len(suite.ids)) if key not in names else suite.written, _MOST_PROMPTS)
        prompts = [suite.prompts[index] for index in chosen]
        kinds[names.get(key, f"prompts of {key}")] = (
            [suite.ids[index] for index in chosen],
            prompts,
            [1] * len(prompts),
        )
    chosen = general.evenly(general.written, _MOST_PROMPTS)
    chosen = [index for index in chosen if base_answers[index].strip()]
    kinds[OWN_ANSWERS] = (
        [general.ids[index] for index in chosen],
        [
            general.prompts[index] + tokenizer(base_answers[index], add_special_tokens=False)["input_ids"]
            for index in chosen
        ],
        [len(general.prompts[index]) for index in chosen],
    )
    found, shown = {}, []
    for name, (ids, sequences, starts) in kinds.items():
        if not any(len(sequence) > start for sequence, start in zip(sequences, starts, strict=True)):
            continue
        drift = measure_drift(
            model,
            sequences,
            starts=starts,
            reference=reference,
            keep_in=keep_in,
            on_progress=report(f"drift: {name}"),
        )
        found[name] = {
            "nats": mean_interval(
                [sum(nats) for nats in drift.per_token], [len(nats) for nats in drift.per_token], seed=0
            ),
            "top1_agreement": drift.top1_agreement,
            "tokens": drift.tokens,
            "by_tenth": _by_tenth(drift),
            "by_prompt": {
                one: sum(nats) / len(nats) for one, nats in zip(ids, drift.per_token, strict=True) if nats
            },
        }
        shown += _token_by_token(name, ids, sequences, starts, drift, tokenizer)
    return found, shown


def _by_tenth(drift: Drift) -> list[float | None]:
    """Mean nats in each tenth of the texts; None where no text has a token."""
    sums, counts = np.zeros(10), np.zeros(10)
    for nats in drift.per_token:
        for place, value in enumerate(nats):
            tenth = 10 * place // len(nats)
            sums[tenth] += value
            counts[tenth] += 1
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def _token_by_token(
    kind: str,
    ids: Sequence[str],
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    drift: Drift,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Those that drifted most: tokens as texts, and the nats of each; None where it was not measured."""
    means = [sum(nats) / len(nats) if nats else 0.0 for nats in drift.per_token]
    most = sorted(range(len(ids)), key=lambda index: -means[index])[:_SHOWN]
    return [
        {
            "kind": kind,
            "id": ids[index],
            "tokens": [tokenizer.decode([token]) for token in sequences[index]],
            "nats": [None] * max(1, starts[index]) + drift.per_token[index],
        }
        for index in most
    ]
