"""The reference model's hidden states, three ways behind one interface.

- `AdapterOff`: the base weights under a LoRA (or kin) adapter are the reference; no extra memory.
- `FrozenModel`: a second model; `FrozenCopy` makes it, for full fine-tuning and adapters that change base weights.
- `CachedReference`: hidden states computed once and kept on disk.

`Remembered` keeps in memory what one of them gave, for measuring several tuned models on the same few batches.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from selfaug.core.alignment import OutputHead
from selfaug.core.positions import Positions
from selfaug.errors import ModelError
from selfaug.model.adapters import (
    leaves_base_when_made,
    require_adapters_of_peft,
    require_exact,
    why_base_is_lost,
    why_not_exact,
)
from selfaug.model.cache import ReferenceCache
from selfaug.model.four_bit import keep_unpacked
from selfaug.model.head import find_head, rounding_dtype
from selfaug.model.hidden import (
    VIRTUAL_TOKENS_HINT,
    causal_model,
    evaluation_mode,
    few_tokens,
    hidden_states,
    reference_mode,
    unwrap,
)

__all__ = [
    "AdapterOff",
    "CachedReference",
    "FrozenCopy",
    "FrozenModel",
    "Reference",
    "Remembered",
    "adapter_change",
    "copy_of_trained_head",
    "require_whole_base",
]


class Reference(Protocol):
    """Where the reference model's hidden states come from."""

    def head(self, model: nn.Module) -> OutputHead:
        """The reference model's head; `model` is the tuned model as the training loop calls it."""

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        """Hidden states [A, width] of the reference model at the aligned positions of a batch, without gradient."""


class AdapterOff:
    """The tuned model with its adapter switched off.

    Raises:
        ModelError: if the adapter changes base weights.
    """

    def __init__(self, model: nn.Module) -> None:
        require_exact(model)

    def head(self, model: nn.Module) -> OutputHead:
        """See `Reference.head`."""
        return find_head(model, reference=True)

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        """See `Reference.hidden`."""
        with reference_mode(model):
            return _hidden_at_aligned(model, inputs, positions)


class FrozenModel:
    """A second model, which nothing trains."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.requires_grad_(False).eval()
        keep_unpacked(self.model)  # its weights are to be those that are trained over

    def head(self, model: nn.Module) -> OutputHead:
        """See `Reference.head`."""
        return find_head(self.model)

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        """See `Reference.hidden`."""
        with torch.no_grad():
            return _hidden_at_aligned(self.model, inputs, positions)


def _hidden_at_aligned(model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
    """Hidden states [A, width] at the aligned positions; rows that were not drawn are not run."""
    order = positions.aligned_order
    if positions.rows_drawn:
        inputs, order = _drawn_rows(inputs, order)
    hidden_BTH, _ = hidden_states(model, inputs)
    return hidden_BTH.flatten(0, 1)[order]


def _drawn_rows(inputs: dict[str, Any], order: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The rows of a batch that have aligned positions, and these positions in them.

    Without any, it is one token: where weights are sharded, all processes have to make a pass.
    """
    batch, width = inputs["input_ids"].shape
    if batch == 1 and "position_ids" in inputs:
        return _drawn_documents(inputs, order)
    rows = (order // width).unique()
    if len(rows) == batch:
        return inputs, order
    by_row = {
        name: value
        for name, value in inputs.items()
        if isinstance(value, Tensor) and value.shape[:2] == (batch, width)
    }
    if len(rows) == 0:
        return {**inputs, **{name: value[:1, :1] for name, value in by_row.items()}}, order
    inputs = {**inputs, **{name: value[rows] for name, value in by_row.items()}}
    return inputs, torch.searchsorted(rows, order // width) * width + order % width


def _drawn_documents(inputs: dict[str, Any], order: Tensor) -> tuple[dict[str, Any], Tensor]:
    """As `_drawn_rows`, of one row of documents without padding between them (packed or padding-free)."""
    positions = inputs["position_ids"][0]
    starts = torch.ones_like(positions, dtype=torch.bool)
    starts[1:] = positions[1:] != positions[:-1] + 1
    document = starts.cumsum(0) - 1
    kept = torch.isin(document, document[order])
    if not len(order):
        kept[0] = True
    named = ("input_ids", "position_ids", "attention_mask")
    inputs = {**inputs, **{name: inputs[name][:, kept] for name in named if name in inputs}}
    if "cu_seq_lens_q" in inputs:  # trl's collator has all of these
        ends = torch.cat([starts[kept].nonzero().flatten(), kept.sum()[None]])
        lengths = ends.diff()
        numbers = torch.arange(len(lengths), dtype=torch.int32, device=lengths.device)
        inputs.update(dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), ends.int()))
        inputs.update(dict.fromkeys(("max_length_q", "max_length_k"), int(lengths.max())))
        inputs["seq_idx"] = numbers.repeat_interleave(lengths)[None]
    return inputs, (kept.cumsum(0) - 1)[order]


class FrozenCopy(FrozenModel):
    """A second copy of the model, made before training starts: without its adapter, which may be trained already.

    With an adapter that changes base weights when it is made (PiSSA, OLoRA), the copy is of the model as it is now.
    That is the base model only while such an adapter is new: once trained, it can't be told from a new one.

    Raises:
        ModelError: if that is not the base model, because the adapter begins as something else than none, making it
            lost a part of the base weights (KaSA, LoftQ), or transformers itself has put one in.
    """

    def __init__(self, model: nn.Module) -> None:
        require_adapters_of_peft(model)
        _require_no_virtual_tokens(model)
        require_whole_base(model)
        super().__init__(copy.deepcopy(model))
        self._adapter_is_off = why_not_exact(self.model) is None
        if self._adapter_is_off:
            adapted: Any = unwrap(self.model)
            adapted.base_model.disable_adapter_layers()
        # trl replaces `forward` on the instance by a function that stays bound to the model it was made for: in a
        # copy it would run the tuned model.
        causal_model(self.model).__dict__.pop("forward", None)
        if not self._adapter_is_off:
            _require_base_model(self.model)

    def head(self, model: nn.Module) -> OutputHead:
        """See `Reference.head`."""
        return find_head(self.model, reference=self._adapter_is_off)


def _require_no_virtual_tokens(model: nn.Module) -> None:
    """Refuse adapters that begin with random tokens before the prompt."""
    adapted = unwrap(model)
    if isinstance(adapted, PeftModel) and adapted.active_peft_config.is_prompt_learning:
        raise ModelError(
            "a model before prompt or prefix tuning is no reference: its virtual tokens are random.",
            hint=VIRTUAL_TOKENS_HINT,
        )


def require_whole_base(model: nn.Module) -> None:
    """Refuse adapters that begin as another model than the base model, which is nowhere any more.

    Raises:
        ModelError: with what to use instead.
    """
    adapted = unwrap(model)
    if isinstance(adapted, PeftModel) and (reason := why_base_is_lost(adapted)):
        raise ModelError(
            f"a copy of the model as it is now is no reference: {reason}.",
            hint="use plain LoRA (init_lora_weights=True), on a base model in 4 bits where memory is small; in a loop "
            "of your own, pass reference=FrozenModel(base), a second model without the adapter.",
        )


def _require_base_model(model: nn.Module) -> None:
    """Refuse an adapter with which a model is not the base model: asked of the model on a few tokens.

    Where making the adapter took something out of the base weights (PiSSA, OLoRA), both together are the base model.
    """
    adapted = unwrap(model)
    if not isinstance(adapted, PeftModel) or not leaves_base_when_made(adapted):
        return
    difference, allowed = adapter_change(model)
    if not difference <= allowed:
        raise ModelError(
            "the adapter doesn't begin as the base model, so that a copy of the model as it is now is no reference: "
            f"with it, hidden states differ by {difference:.2g} of their size (rounding would explain {allowed:.2g}).",
            hint="use LoRA (init_lora_weights=True), or make the adapter so that it changes nothing at first; in a "
            "loop of your own, pass reference=FrozenModel(base), a second model without it.",
        )


def adapter_change(model: nn.Module) -> tuple[float, float]:
    """How far a model with an adapter is from the one without it, on a few tokens.

    Returns:
        The change of the hidden states as a share of their size, and how much of it rounding would explain.
    """
    inputs = {"input_ids": torch.tensor([few_tokens(model, 16)], device=next(model.parameters()).device)}
    with evaluation_mode(model):
        on_BTH, _ = hidden_states(model, inputs)
    with warnings.catch_warnings():
        # PEFT's, that biases stay as they were trained. They haven't been, or that is what is found here.
        warnings.simplefilter("ignore")
        with reference_mode(model):
            off_BTH, _ = hidden_states(model, inputs)
    difference = ((on_BTH - off_BTH).float().norm() / off_BTH.float().norm()).item()
    return difference, max(4 * torch.finfo(rounding_dtype(off_BTH, model)).eps, 1e-4)


class Remembered:
    """What another reference gives, kept in main memory for rows that are asked for again, in any batch."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._kept: dict[tuple[bytes, bytes], Tensor] = {}

    def head(self, model: nn.Module) -> OutputHead:
        """See `Reference.head`."""
        return self.reference.head(model)

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        """See `Reference.hidden`."""
        ids, order = inputs["input_ids"].cpu(), positions.aligned_order.cpu()
        real = inputs.get("attention_mask", torch.ones_like(ids)).cpu().bool()
        place = real.cumsum(1) - 1  # of a token among its row's real ones
        row, column = order // ids.shape[1], order % ids.shape[1]
        asked = [(row == r).nonzero().flatten() for r in range(len(ids))]
        keys = [
            (ids[r][real[r]].numpy().tobytes(), place[r, column[here]].numpy().tobytes())
            for r, here in enumerate(asked)
        ]
        if not all(key in self._kept for key in keys):
            hidden = self.reference.hidden(model, inputs, positions).cpu()
            for key, here in zip(keys, asked, strict=True):
                self._kept.setdefault(key, hidden[here])
        by_row = torch.cat([self._kept[key] for key in keys])
        return by_row[torch.cat(asked).argsort()].to(inputs["input_ids"].device)


def copy_of_trained_head(model: nn.Module, device: torch.device | None = None) -> OutputHead | None:
    """The head as it is now, if it trains, on its own or another device; None if it stays what it is."""
    head = find_head(model, reference=True)
    if not head.weight.requires_grad and (head.bias is None or not head.bias.requires_grad):
        return None
    device = device or head.weight.device
    bias = None if head.bias is None else head.bias.detach().to(device, copy=True)
    return OutputHead(head.weight.detach().to(device, copy=True), bias, head.scale, head.softcap)


class CachedReference:
    """Hidden states from a `ReferenceCache`, with the reference model's own head.

    Args:
        cache: holds every document that will be asked for.
        model: the model before training. If its head trains, a copy of the head is kept.
        own_head: that copy, from `copy_of_trained_head`, where the model has been trained or sharded since.
    """

    def __init__(self, cache: ReferenceCache, model: nn.Module, own_head: OutputHead | None = None) -> None:
        self.cache = cache
        self._own_head = own_head or copy_of_trained_head(model)

    def head(self, model: nn.Module) -> OutputHead:
        """See `Reference.head`."""
        return self._own_head or find_head(model, reference=True)

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        """See `Reference.hidden`."""
        return self.cache.batch(inputs, positions)
