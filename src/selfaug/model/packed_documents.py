"""Whether a model keeps the documents of a packed row apart: asked of the model itself, on a few tokens.

Not every architecture makes its mask from position ids, and a state that runs along the row (Mamba, linear
attention, short convolutions) begins anew at a document only in some implementations. Nothing says so: the model
computes each document with the ones before it as its context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from selfaug.errors import ModelError
from selfaug.model.head import rounding_dtype
from selfaug.model.hidden import causal_model, evaluation_mode, few_tokens, hidden_states

__all__ = ["require_documents_apart"]

_TOKENS = 16

_APART: WeakSet[nn.Module] = WeakSet()


def require_documents_apart(model: nn.Module, pack: Callable[[list[list[int]]], dict[str, Any]]) -> None:
    """Refuse a model in whose packed rows a document sees those before it; looked at once for each model.

    A document that stands in one row twice, with another one between, must have the same hidden states both times.

    Args:
        model: the model as the training loop calls it, under the autocast that it trains under.
        pack: a batch of one row, on the model's device, of the token ids of several documents.

    Raises:
        ModelError: if they differ by more than rounding, or the model does not take what tells documents apart.
    """
    inner = causal_model(model)
    if inner in _APART:
        return
    ids = few_tokens(model, 2 * _TOKENS)
    document, between = ids[:_TOKENS], ids[_TOKENS:]
    attention = getattr(inner.config, "_attn_implementation", None)
    refused = f"{type(inner).__name__} does not keep packed documents apart (attention {attention})"
    hint = (
        "leave train.packing and train.padding_free out. In Python, a model that is loaded with "
        "attn_implementation='flash_attention_2' may keep them apart."
    )
    with evaluation_mode(model):
        try:
            hidden_BTH, _ = hidden_states(model, pack([document, between, document]))
        except (TypeError, ValueError) as error:  # transformers' own, of layers that lack a kernel for it
            raise ModelError(f"{refused}: {str(error).rstrip('.')}.", hint=hint) from error
    if len(hidden_BTH) != 1:  # a collator of the user's own, which gives each document a row
        return
    first_TH, again_TH = (hidden_BTH[0, begin : begin + _TOKENS].float() for begin in (0, 2 * _TOKENS))
    # The median, since rounding may send single tokens to another expert.
    difference = ((again_TH - first_TH).norm(dim=-1) / first_TH.norm(dim=-1)).median().item()
    # A few roundings, of which most come out alike both times; another document in the context is far more.
    allowed = max(4 * torch.finfo(rounding_dtype(hidden_BTH, model)).eps, 1e-3)
    if not difference <= allowed:
        raise ModelError(
            f"{refused}: a document's hidden states change by {difference:.2g} of their size with what stands before "
            f"it in the row (rounding would explain {allowed:.2g}).",
            hint=hint,
        )
    _APART.add(inner)
