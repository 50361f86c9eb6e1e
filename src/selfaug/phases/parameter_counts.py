"""How many numbers a model and its adapter hold, counted in the model's structure, without its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from selfaug.config import TrainConfig
from selfaug.model.adapters import fused_layers

__all__ = ["OsfNumbers", "adapter_parameters", "osf_numbers", "quantized_parameters"]


def quantized_parameters(model: nn.Module) -> int:
    """Numbers that bitsandbytes stores in 4 bits: weights of linear layers, without the output head."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    weights: list[Any] = [
        module.weight
        for module in model.modules()
        if module is not head and type(module).__name__ in ("Linear", "Conv1D")
    ]
    return sum(weight.numel() for weight in weights)


def adapter_parameters(model: nn.Module, config: TrainConfig) -> int:
    """Two factors for each linear layer that the adapter targets."""
    lora = config.lora
    if lora.method == "osf":
        return osf_numbers(model, config).trained
    return sum(
        lora.rank * (one + other) + (max(one, other) if lora.dora else 0)
        # GPT-2's Conv1D is a linear layer with its weight transposed.
        for one, other in _target_shapes(model, config, {"Linear", "Conv1D"})
    )


class OsfNumbers(NamedTuple):
    """Numbers that PEFT's OSF holds beside the base weights.

    Attributes:
        trained: U, S and V of the singular directions that aren't preserved.
        frozen: their first values, and U or V of the preserved ones, whichever isn't square.
        joined: U and V of the trained ones and of their first values side by side, as a forward pass makes them.
    """

    trained: int
    frozen: int
    joined: int


def osf_numbers(model: nn.Module, config: TrainConfig) -> OsfNumbers:
    """Of an OSF adapter with these settings."""
    trained = frozen = joined = 0
    for one, other in _target_shapes(model, config, {"Linear"}):  # it leaves other layers as they are
        preserved = int(min(one, other) * config.lora.preserved)
        rank = min(one, other) - preserved
        trained += rank * (one + other + 1)
        frozen += rank * (one + other + 1) + (preserved * max(one, other) if one != other else 0)
        joined += 2 * rank * (one + other)
    return OsfNumbers(trained, frozen, joined)


def _target_shapes(model: nn.Module, config: TrainConfig, kinds: Collection[str]) -> list[torch.Size]:
    """Shape of each weight that the adapter targets; the output head is no target."""
    targets = config.lora.target_modules
    every = targets == ["all-linear"]
    without = fused_layers(model) if every and config.lora.method == "lora" else []
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        module.weight.shape
        for name, module in model.named_modules()
        if module is not head
        and type(module).__name__ in kinds
        and (every or _ends_with_one(name, targets))
        and not _ends_with_one(name, without)
    ]


def _ends_with_one(name: str, ends: Iterable[str]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)
