"""Batches padded on the right without their attention mask, for models that come to the same without it.

A token of a causal model sees nothing behind it, so padding there changes padding alone. The mask has its price all
the same: with one, torch's attention computes the half of the square that nobody sees, reads the mask, and takes keys
and values repeated for each head of a group, where without one a kernel made for causal attention does.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from selfaug.model.head import rounding_dtype
from selfaug.model.hidden import MASK_IS_NEEDLESS, causal_model, evaluation_mode, few_tokens, hidden_states

__all__ = ["mark_needless_mask"]

_TOKENS, _PADDED = 16, 6

_NEEDS_NO_MASK: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def mark_needless_mask(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch, for `hidden_states` to run without its mask, if it pads on the right alone and the model lets it.

    Whether the model's real tokens need the mask is asked of the model itself, once, on a few tokens. Every process
    asks at its first batch, whatever that is: sharded models run on all of them or on none.

    Args:
        model: the model as the training loop calls it, under the autocast that it trains under.
        inputs: a batch, with `attention_mask` [B, T] or without.
    """
    inner = causal_model(model)
    if inner not in _NEEDS_NO_MASK:
        _NEEDS_NO_MASK[inner] = _ignores_right_padding(model)
    mask = inputs.get("attention_mask")
    # A router's auxiliary loss takes padding out by the mask.
    if mask is None or mask.ndim != 2 or inputs.get("output_router_logits") or not _NEEDS_NO_MASK[inner]:
        return inputs
    # transformers looks whether a mask is all ones: on a GPU, this waits as long as that.
    if not bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return inputs
    return {**inputs, MASK_IS_NEEDLESS: True}


def _ignores_right_padding(model: nn.Module) -> bool:
    """Whether real tokens have the same hidden states with the mask and without, but for rounding."""
    inner = causal_model(model)
    if getattr(inner.config, "_attn_implementation", None) != "sdpa":
        return False  # others have no use for it, or take rows apart by it and leave padding out
    device = next(model.parameters()).device
    ids = torch.tensor([few_tokens(model, _TOKENS)] * 2, device=device)
    mask = torch.ones_like(ids)
    mask[1, -_PADDED:] = 0
    with evaluation_mode(model):
        masked_BTH, _ = hidden_states(model, {"input_ids": ids, "attention_mask": mask})
        bare_BTH, _ = hidden_states(model, {"input_ids": ids})
    masked_TH, bare_TH = (one[1, :-_PADDED].float() for one in (masked_BTH, bare_BTH))
    if _has_no_kernel_for_groups(inner.config, rounding_dtype(bare_BTH, model), device):
        return False
    # The median, since rounding may send single tokens to another expert.
    difference: float = ((masked_TH - bare_TH).norm(dim=-1) / masked_TH.norm(dim=-1)).median().item()
    return difference <= max(4 * torch.finfo(rounding_dtype(bare_BTH, model)).eps, 1e-3)


def _has_no_kernel_for_groups(config: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether keys that several heads share are attended to without a mask by torch's plainest kernel alone.

    Of a GPU's others, those that take such keys as they are need 16 bits and compute capability 8. The plainest keeps
    each head's square for the backward pass; with a mask, keys are repeated, which the memory-efficient one takes.
    """
    config = config.get_text_config()
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if device.type != "cuda" or groups == config.num_attention_heads:
        return False
    return dtype == torch.float32 or torch.cuda.get_device_capability(device) < (8, 0)
