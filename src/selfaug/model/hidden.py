"""Hidden states before the head, through the root module's forward.

Through the root, because FSDP2 gathers parameters there; and taken where they enter the head, because that is the
one place that has the same meaning in every architecture. The head itself sees only the last position, so no
tensor of size [tokens, vocabulary] comes to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfaug.errors import ModelError
from selfaug.model.four_bit import keep_unpacked

__all__ = [
    "MASK_IS_NEEDLESS",
    "VIRTUAL_TOKENS_HINT",
    "adapter_off",
    "causal_model",
    "evaluation_mode",
    "few_tokens",
    "hidden_states",
    "output_module",
    "own_forward",
    "reference_mode",
    "unwrap",
]

_FORWARD_INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
    "seq_idx",
    "output_router_logits",
)
"""What a batch may hand to a causal model's forward; labels never."""

MASK_IS_NEEDLESS = "mask_is_needless"
"""Entry of a batch whose real tokens come out the same without its attention mask."""

VIRTUAL_TOKENS_HINT = (
    "adapters that add virtual tokens (prompt or prefix tuning) are not supported; use LoRA."
)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP, `torch.compile` and engine wrappers; a PEFT model stays one.

    Wrappers are told by their class: those of DeepSpeed and FSDP pass on the attributes of the model inside.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module) or (
            not isinstance(model, PeftModel | PreTrainedModel)
            and isinstance(inner := getattr(model, "module", None), nn.Module)
        ):
            model = inner
        else:
            return model


def causal_model(model: nn.Module) -> Any:
    """The transformers model inside all wrappers."""
    model = unwrap(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def output_module(model: nn.Module) -> nn.Module:
    """The module that is called as the head.

    Raises:
        ModelError: if there is none.
    """
    module = causal_model(model).get_output_embeddings()
    if module is None:
        raise ModelError(
            f"{type(causal_model(model)).__name__} has no output embeddings: it is not a causal language model.",
            hint="load it with AutoModelForCausalLM.",
        )
    return module  # type: ignore[no-any-return]


def hidden_states(model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
    """Hidden states that enter the head, [B, T, width], and the model's output (whose logits are of one position).

    Args:
        model: the model as the training loop calls it, wrappers included.
        inputs: a batch; what a forward does not take (labels) or need (`MASK_IS_NEEDLESS`) is left out.

    Raises:
        ModelError: if the model does not call its head on hidden states of all positions.
    """
    captured: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        captured.append(args[0])
        # Contiguous: of a strided slice, torch makes a product for each row, each with its own copy of the weight.
        return (args[0][:, -1:].contiguous(), *args[1:])

    taken = {name: inputs[name] for name in _FORWARD_INPUTS if name in inputs}
    if inputs.get(MASK_IS_NEEDLESS):
        taken.pop("attention_mask", None)
    handle = output_module(model).register_forward_pre_hook(keep)
    try:
        output = model(**taken, use_cache=False)
    finally:
        handle.remove()
    batch, width = inputs["input_ids"].shape
    if len(captured) != 1 or captured[0].shape[:2] != (batch, width):
        shapes = [tuple(tensor.shape) for tensor in captured]
        raise ModelError(
            f"{type(causal_model(model)).__name__} does not hand the hidden states of all {batch} × {width} tokens "
            f"to its head in one call (it handed over {shapes}).",
            hint=VIRTUAL_TOKENS_HINT,
        )
    return captured[0], output


def few_tokens(model: nn.Module, count: int) -> list[int]:
    """Token ids to try a model on, evenly from its vocabulary: the ends of one have tokens without a meaning."""
    vocabulary = int(causal_model(model).config.get_text_config().vocab_size)
    return [number * vocabulary // (count + 1) for number in range(1, count + 1)]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradient and no dropout; afterwards each module's training flag and the random state are as they were."""
    keep_unpacked(model)
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters()).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """The model without the autocast that accelerate has put around its forward for training: as it is when loaded."""
    wrapped, own = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if wrapped is None or own is None:
        yield
        return
    model.__dict__["forward"] = own
    try:
        yield
    finally:
        model.__dict__["forward"] = wrapped


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """The model as it is without its adapter.

    PEFT's `disable_adapter` without taking stock of the whole model each time, which takes as long as the switching.
    """
    config = model.peft_config[model.active_adapter]
    if config.is_prompt_learning or config.is_adaption_prompt:
        with model.disable_adapter():
            yield
        return
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if layers and all(layer.disable_adapters for layer in layers):
        yield
        return
    try:
        model.base_model.disable_adapter_layers()
        yield
    finally:
        model.base_model.enable_adapter_layers()


@contextmanager
def reference_mode(model: nn.Module) -> Iterator[None]:
    """`evaluation_mode` with the adapter off.

    PEFT sets `requires_grad` when it switches adapters on again: it is put back to what it was.
    """
    peft_model = unwrap(model)
    with evaluation_mode(model):
        if not isinstance(peft_model, PeftModel):
            yield
            return
        gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            with adapter_off(peft_model):
                yield
        finally:
            for parameter, requires_grad in gradients:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
