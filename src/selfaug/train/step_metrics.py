"""Metrics of a step or an evaluation: what each micro-batch adds, the means of all that, and tokens per second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from selfaug.train.loss import AlignmentLoss

__all__ = ["TokenRate", "batch_sums", "means_of"]


def batch_sums(
    result: AlignmentLoss,
    inputs: dict[str, Any],
    *,
    router_loss: Tensor | None,
    are_anchors: bool,
    device: torch.device,
) -> Tensor:
    """What a micro-batch adds to the metrics of its step, or of its evaluation.

    Args:
        result: the batch's loss.
        inputs: the batch.
        router_loss: of a mixture of experts; None without, and where it is not to be logged.
        are_anchors: whether the batch is of anchors: it is no micro-batch of its own then.
        device: where sums are added up.

    Returns:
        Sums [9], without gradient, to be added up over micro-batches and processes for `means_of`.
    """
    tokens = _real_tokens(inputs)
    if are_anchors:  # one that stands for none doesn't count
        tokens = tokens * (result.aligned_positions > 0)
    has_float64 = device.type in ("cpu", "cuda")
    return torch.stack(
        [
            value.detach().to(device=device, dtype=torch.float64 if has_float64 else torch.float32)
            for value in (
                result.nll_sum,
                result.alignment_sum,
                result.entropy_sum,
                result.correct,
                result.completion_tokens,
                result.aligned_positions,
                tokens,
                torch.zeros((), device=device) if router_loss is None else router_loss,
                torch.full((), float(not are_anchors), device=device),
            )
        ]
    )


def means_of(sums: Tensor, *, has_reference: bool, has_router_loss: bool) -> tuple[dict[str, float], float]:
    """Metrics from what all micro-batches of all processes have added (`batch_sums`), and the number of tokens.

    Args:
        sums: of all of them [9].
        has_reference: whether there is an alignment loss.
        has_router_loss: whether there is a router's.
    """
    nll, alignment, entropy, correct, completions, aligned, tokens, router_loss, batches = sums.tolist()
    metrics = {
        "nll": nll / max(completions, 1.0),
        "entropy": entropy / max(completions, 1.0),
        "mean_token_accuracy": correct / max(completions, 1.0),
    }
    if has_reference:
        metrics["alignment_loss"] = alignment / max(aligned, 1.0)
    if has_router_loss:
        metrics["aux_loss"] = router_loss / batches
    return metrics, tokens


def _real_tokens(inputs: dict[str, Any]) -> Tensor:
    """Tokens of a micro-batch without padding, where the batch says what is padding."""
    mask = inputs.get("attention_mask")
    return mask.sum() if mask is not None else torch.tensor(inputs["input_ids"].numel())


class TokenRate:
    """Tokens per second of training, without the time of what is done in between."""

    def __init__(self) -> None:
        self._since: tuple[float, int] | None = None  # seconds, and the tokens by then

    def begin(self, tokens: int) -> None:
        """Begin to measure, if that isn't begun yet.

        Args:
            tokens: trained on so far.
        """
        if self._since is None:
            self._since = (time.perf_counter(), tokens)

    def stop(self) -> None:
        """Measure no further, until it is begun anew."""
        self._since = None

    def take(self, tokens: int) -> float | None:
        """Tokens per second since this was last asked; None where there were none.

        Args:
            tokens: trained on so far.
        """
        now = time.perf_counter()
        if self._since is None or tokens <= self._since[1]:
            return None
        seconds, before = self._since
        self._since = (now, tokens)
        return (tokens - before) / (now - seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within takes no time of training."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            seconds, tokens = self._since  # of a rate that was taken in between, if there was one
            self._since = (seconds + time.perf_counter() - max(began, seconds), tokens)
