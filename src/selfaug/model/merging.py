"""An adapter merged into the weights, checked to give the model that it gave beside them."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from selfaug.errors import ModelError
from selfaug.model.hidden import causal_model

__all__ = ["merge"]

# What both models are given.
_TOKENS = 16

# Of the largest logit: what float32 may lose on the way through all layers.
_ROUNDING = 1e-3


def merge(model: PeftModel) -> Any:
    """The base model with its adapter in its weights, by PEFT's `merge_and_unload`.

    Merging changes a tensor wherever it is used, an adapter only its own layer: an embedding whose weight is also the
    head's is one such case. So the logits of a few tokens are compared, where the model can compute on its device.

    Args:
        model: in float32 and evaluation mode; its weights are changed.

    Raises:
        ModelError: if the merged model computes something else, by more than rounding.
    """
    try:
        before_TV = _logits(model)
    except (RuntimeError, ValueError):  # layers that have kernels for a GPU alone can't compute here
        return model.merge_and_unload().eval()
    merged = model.merge_and_unload().eval()
    # Of the median token: where two experts are as good as each other, rounding sends single tokens to the other one.
    difference = (_logits(merged) - before_TV).abs().amax(-1).median().item()
    allowed = _ROUNDING * before_TV.abs().max().item()
    if difference > allowed:
        raise ModelError(
            f"merged into the weights, this adapter gives another model than beside them: logits differ by "
            f"{difference:.3g}, rounding would explain {allowed:.3g}. So it is where it changes an embedding whose "
            "weight is also the head's.",
            hint="use the adapter unmerged, as `selfaug serve RUN` and `selfaug export RUN --vllm` do; or train anew "
            "with it on other layers (lora.target_modules).",
        )
    return merged


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Logits [T, vocabulary] of tokens from the middle of the vocabulary: special ones are at its ends."""
    size = causal_model(model).config.get_text_config().vocab_size
    ids = torch.linspace(size // 4, size // 2, _TOKENS, device=model.device).long()
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
    return logits.float()
