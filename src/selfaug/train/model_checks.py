"""What the trainer asks of its arguments, and of a model before it trains: where it lies, its layers and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from selfaug.errors import ConfigError
from selfaug.model.adapters import fused_layers, require_adapters_of_peft
from selfaug.model.fingerprint import is_adapter_tensor
from selfaug.model.hidden import causal_model
from selfaug.train.reference_choice import require_untouched_base
from selfaug.train.selfaug_config import SelfAugConfig

__all__ = [
    "forget_absent_layers",
    "has_no_experts",
    "refuse_arguments",
    "require_one_device",
    "takes_only_peft",
    "uses_all_parameters",
]

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def refuse_arguments(model: Any, args: Any, others: Mapping[str, Any]) -> None:
    """Refuse what can't be seen any more, or can't be undone, once trl has the model.

    Args:
        model: as it is given: a name, too.
        args: the settings.
        others: arguments of the Trainer's.

    Raises:
        ConfigError, ModelError: with what to use instead.
    """
    if not isinstance(args, SelfAugConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}.",
            hint="make it a SelfAugConfig: it takes all of SFTConfig's fields.",
        )
    if others.get("compute_loss_func") is not None:
        raise ConfigError(
            "compute_loss_func can't be used: the loss is nll plus alignment.",
            hint="leave it out; `selfaug.alignment_loss` is the loss for a loop of your own.",
        )
    if takes_only_peft(args, others) and isinstance(model, nn.Module):
        require_adapters_of_peft(model)  # before trl puts another adapter into it, and the first one is lost
    if args.alpha > 0 and isinstance(model, PeftModel):
        require_untouched_base(model)


def takes_only_peft(args: SelfAugConfig, others: Mapping[str, Any]) -> bool:
    """Whether an adapter of another library than PEFT would be in the way."""
    return args.alpha > 0 or others.get("peft_config") is not None


def uses_all_parameters(model: nn.Module) -> bool:
    """Whether every parameter takes part in every step.

    So it is in text models without experts that some step may not ask, and without adapters on layers that are not
    called.
    """
    inner = causal_model(model)
    text_config = inner.config.get_text_config()
    if text_config is not inner.config or any("expert" in name for name in text_config.to_dict()):
        return False
    fused = [f".{end}." for end in fused_layers(inner)]
    return not any(
        parameter.requires_grad and any(end in name for end in fused) and is_adapter_tensor(inner, name)
        for name, parameter in inner.named_parameters()
    )


def require_one_device(model: PreTrainedModel) -> None:
    """Refuse a model that is spread over devices, as trl loads one by its name where a process sees several GPUs."""
    devices = sorted(map(str, set((getattr(model, "hf_device_map", None) or {}).values())))
    if len(devices) < 2:
        return
    spread = (
        f"spread over {len(devices)} devices ({', '.join(devices)}), and the alignment needs it whole on one."
    )
    if {"cpu", "disk"} & set(devices):
        raise ConfigError(
            f"the model doesn't fit on the GPU: it is {spread}",
            hint='load it in half the bytes, with model_init_kwargs={"dtype": "bfloat16"} in the SelfAugConfig, or in '
            "4 bits, with a quantization_config and LoRA; or take a smaller model.",
        )
    raise ConfigError(
        f"the model is {spread}",
        hint="let the process see one GPU (CUDA_VISIBLE_DEVICES=0); to train on several, start a process for each "
        "with torchrun or `accelerate launch`.",
    )


def forget_absent_layers(model: PreTrainedModel) -> None:
    """Drop classes that a model doesn't have from those that it names as its layers, on which it is sharded.

    A model with a vision tower takes over the tower's names (transformers): Gemma 3 those of a whole SigLIP, of which
    it has a part, and accelerate refuses to shard a model without a layer that it names.
    """
    present = {type(module).__name__ for module in model.modules()}
    model._no_split_modules = present & set(getattr(model, "_no_split_modules", None) or ())


def has_no_experts(text_config: Any) -> bool:
    """Whether the config of a family with experts says that this model has none."""
    by_layer = getattr(text_config, "layers_num_experts", None)
    if by_layer is not None:  # Jamba's, whose layers of one have no router
        return max(by_layer, default=0) <= 1
    counts = [getattr(text_config, name, None) for name in _EXPERT_COUNTS]
    return 0 in counts and not any(counts)
