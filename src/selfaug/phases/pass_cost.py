"""What a forward pass costs a token: products with the weights, and attention, which grows with the row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

__all__ = ["PassCost", "pass_cost"]


@dataclass(frozen=True)
class PassCost:
    """Multiplications of a forward pass.

    Attributes:
        weights: of each token with the weights, those of experts that it isn't sent to left out.
        heads: of each token with one other token, in a layer with attention.
        windows: how many layers look back at most so many tokens; None is the whole row.
    """

    weights: float
    heads: int
    windows: dict[int | None, int]

    def per_token(self, lengths: ArrayLike) -> NDArray[np.float64]:
        """Of a token, on average over rows with these numbers of tokens [rows]."""
        tokens = np.maximum(np.asarray(lengths, dtype=np.float64), 1)
        cost = np.full_like(tokens, self.weights)
        for window, layers in self.windows.items():
            within = tokens if window is None else np.minimum(tokens, window)
            # Half of the row is before a token; of a row beyond the window, the whole window is before most of them.
            before = within - within**2 / (2 * tokens)
            cost += layers * 2 * self.heads * before  # its key, and its value
        return cost


def pass_cost(model: nn.Module, config: Any) -> PassCost:
    """The costs of a model, by the shapes of its weights and by its config.

    Args:
        model: its structure; the weights may be on the meta device.
        config: of its text model. Layers with a state instead of attention cost the same for each token.
    """
    asked = getattr(config, "num_experts_per_tok", None)
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((found for name in names if (found := getattr(config, name, None))), None)
    share = asked / experts if asked and experts else 1.0
    embedding = getattr(model.get_input_embeddings(), "weight", None)  # type: ignore[operator]
    head = getattr(model.get_output_embeddings(), "weight", None)  # type: ignore[operator]
    weights = sum(
        weight.numel() * (share if ".experts." in name else 1.0)
        for name, weight in model.named_parameters()
        if weight is not embedding or embedding is head  # which is looked up, and not multiplied with
    )
    number = getattr(config, "num_attention_heads", None) or 0
    width = getattr(config, "head_dim", None) or (config.hidden_size // number if number else 0)
    return PassCost(weights, number * width, _windows(config) if number else {})


def _windows(config: Any) -> dict[int | None, int]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {window: config.num_hidden_layers}
    windows = {
        "full_attention": None,
        "hybrid": None,
        "sliding_attention": window,
        "chunked_attention": getattr(config, "attention_chunk_size", None),
    }
    return dict(Counter(windows[kind] for kind in kinds if kind in windows))
