"""The head of a causal model: found, and checked against the model's own logits before anything relies on it."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from selfaug.core.alignment import OutputHead
from selfaug.errors import ModelError
from selfaug.model.hidden import causal_model, evaluation_mode, hidden_states, output_module, unwrap

__all__ = ["find_head", "require_verified_head", "rounding_dtype", "verify_head"]

_VERIFIED: WeakSet[nn.Module] = WeakSet()

# Few tokens of one row: what the check is made on.
_CHECKED_TOKENS = 16

# PEFT wraps a head that shares its weight with the embedding along with it.
_TOKENS_HINT = (
    "leave out `trainable_token_indices`: this model's head has the embedding's weight, so that the tokens change "
    "both. To train new tokens, put the embedding in `modules_to_save`, with `ensure_weight_tying=True`."
)

_AUTOCAST_HINT = (
    "the model was prepared for mixed precision, which covers its forward pass alone: call `alignment_loss` inside "
    "`with accelerator.autocast():`."
)


def find_head(model: nn.Module, *, reference: bool = False) -> OutputHead:
    """Head of a causal model, through any wrappers.

    Args:
        model: the model, or a PEFT, DDP or FSDP2 wrapper of it.
        reference: for a head that an adapter trains (`modules_to_save`), the original instead of the trained one.

    Raises:
        ModelError: if the head is not a plain linear layer.
    """
    module = output_module(model)
    if isinstance(module, ModulesToSaveWrapper):
        # The adapter that is active need not be one that trains the head.
        names = [] if reference else module.active_adapters
        module = module.modules_to_save[names[0]] if names else module.original_module
    if type(module).__module__.startswith("peft.") or getattr(module, "weight", None) is None:
        raise ModelError(
            f"the head of {type(causal_model(model)).__name__} is a {type(module).__name__}: its logits are not "
            "hidden · weightᵀ + bias of one weight matrix.",
            hint=_TOKENS_HINT
            if isinstance(module, TrainableTokensWrapper)
            else "take the head out of the adapter's `target_modules`; to train it whole, put it in "
            "`modules_to_save`.",
        )
    weight: Any = module.weight
    if weight.ndim != 2:
        raise ModelError(
            f"the weight of the head of {type(causal_model(model)).__name__} is not whole on this process (shape "
            f"{list(weight.shape)}), as where FSDP's first version or DeepSpeed's ZeRO-3 has sharded it.",
            hint="shard with FSDP2 (`fsdp_version: 2`), which gathers it; or take ZeRO-2, which leaves it whole.",
        )
    config = causal_model(model).config.get_text_config()
    return OutputHead(
        weight=_whole(weight),
        bias=_whole(getattr(module, "bias", None)),
        scale=_logit_scale(config),
        softcap=_softcap(config),
    )


def _whole(parameter: Any) -> Any:
    """A parameter that FSDP2 has sharded again, gathered; anything else as it is."""
    if not isinstance(parameter, DTensor):
        return parameter
    if parameter.requires_grad and torch.is_grad_enabled():
        raise ModelError(
            "the head trains and is sharded apart from the root of the model, so its gradient can't be reduced.",
            hint="wrap the decoder layers and the root with `fully_shard`, and leave the head in the root's group, or "
            "in one that isn't resharded after the forward pass (accelerate's default).",
        )
    return parameter.full_tensor()


def _logit_scale(config: Any) -> float:
    """Factor between the head's product and the logits, by the names that transformers' models give it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None or config.model_type == "minicpm3":  # it divides the hidden states before the head
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1.0 / float(divisor)


def _softcap(config: Any) -> float | None:
    """Bound that the logits are held within by a tanh, by the names that transformers' models give it."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    found = (getattr(config, name, None) for name in names)
    return next((float(one) for one in found if one is not None), None)


def verify_head(model: nn.Module, head: OutputHead, inputs: dict[str, Any]) -> None:
    """Check that head(hidden states) are the model's own logits on a batch of a few tokens.

    The check runs the model with the adapters and the autocast that it stands under, and without dropout.

    Raises:
        ModelError: if they differ by more than rounding, or are no numbers; training on them would be training on
            something else.
    """
    with evaluation_mode(model):
        hidden_BTH, _ = hidden_states(model, inputs)
        own = model(**{**inputs, "use_cache": False}).logits.float()
    if own.isnan().any():
        raise ModelError(
            f"{type(causal_model(model)).__name__} has logits that are no numbers (NaN): its weights are damaged, or "
            f"its numbers too large for {str(next(model.parameters()).dtype).removeprefix('torch.')}.",
            hint="use --set model.dtype=float32 or bfloat16, or get the model anew.",
        )
    ours = head.to_dtype(_product_dtype(head, hidden_BTH)).logits(
        hidden_BTH.to(_product_dtype(head, hidden_BTH))
    )
    difference = (own - ours).abs().max().item()
    # A few roundings of the largest logit, 3 % in bfloat16; a missing scale, bias or softcap is far more.
    allowed = max(4 * torch.finfo(rounding_dtype(own, model)).eps, 1e-4) * max(own.abs().max().item(), 1e-3)
    if not difference <= allowed:
        raise ModelError(
            f"{type(causal_model(model)).__name__} computes its logits in a way that selfaug does not reproduce "
            f"(largest difference {difference:.3g}, rounding would explain {allowed:.3g}).",
            hint=_AUTOCAST_HINT
            if _has_autocast_of_its_own(model)
            else "please report the architecture; until then train it with alpha=0 through trl's SFTTrainer.",
        )


def require_verified_head(model: nn.Module, input_ids: Tensor) -> None:
    """`verify_head`, once for each model, on the first tokens of some rows [B, T]."""
    inner = causal_model(model)
    if inner not in _VERIFIED:
        # Without gradient also where the head is found: FSDP2 has it in pieces until the first forward pass.
        with torch.no_grad():
            verify_head(model, find_head(model), {"input_ids": input_ids[:1, :_CHECKED_TOKENS]})
        _VERIFIED.add(inner)


def _has_autocast_of_its_own(model: nn.Module) -> bool:
    """Whether accelerate has put autocast around the model's forward pass, and there is none around the check."""
    wrapped = any("_original_forward" in vars(inner) for inner in (unwrap(model), causal_model(model)))
    return wrapped and not torch.is_autocast_enabled(next(model.parameters()).device.type)


def _product_dtype(head: OutputHead, hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype


def rounding_dtype(output: Tensor, model: nn.Module) -> torch.dtype:
    """The dtype whose rounding a model's logits or hidden states carry, even when they are returned as float32."""
    if torch.is_autocast_enabled(output.device.type):
        return torch.get_autocast_dtype(output.device.type)
    return getattr(causal_model(model), "dtype", torch.float32)
