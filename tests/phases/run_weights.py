"""Weights of runs, and whether they are the same."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of a run's adapter."""
    return load_file(run / "adapter" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both have the same names and values."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
