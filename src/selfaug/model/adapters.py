"""Which adapters leave the base weights exact when they are switched off."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.osf import OSFLayer
from safetensors.torch import load_file, save_file
from torch import nn

from selfaug.errors import ModelError
from selfaug.model.fingerprint import is_adapter_tensor
from selfaug.model.hidden import causal_model, unwrap
from selfaug.records import make_readable

__all__ = [
    "begins_at_random",
    "changes_nothing_yet",
    "fused_layers",
    "keep_preserved_directions",
    "leaves_base_when_made",
    "require_adapters_of_peft",
    "scale_adapter",
    "why_base_changes_when_made",
    "why_base_is_lost",
    "why_not_exact",
    "write_scaled_adapter",
]

# Shown by tests/model/test_adapters.py: switched off after training, the model gives the base model's logits bit
# by bit. Anything else is refused until it has been shown.
_EXACT_TYPES = {"ADALORA", "HRA", "IA3", "LOHA", "LOKR", "LORA", "OFT", "OSF", "VERA"}
_EXACT_LORA_INITS = {True, False, None, "eva", "gaussian", "mica", "orthogonal"}
_EXACT_LORA_VARIANTS = {
    "alora_invocation_tokens",
    "monteclora_config",
    "use_bdlora",
    "use_dora",
    "velora_config",
}
_INITS = ("init_lora_weights", "init_ia3_weights", "init_weights")


def why_not_exact(model: nn.Module) -> str | None:
    """Why switching the adapters off does not give the base model back, or None if it does."""
    peft_model = unwrap(model)
    if not isinstance(peft_model, PeftModel):
        return "the model has no adapter"
    if _is_merged(peft_model):
        return "it is merged into the base weights, and taking it out again would leave them rounded"
    for config in peft_model.peft_config.values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in _EXACT_TYPES:
            return f"the adapter type {kind} is not known to leave the base weights as they are"
        if reason := _why_base_changes(config):
            return reason
        if unknown := sorted(_lora_variants(config) - _EXACT_LORA_VARIANTS):
            return f"{unknown[0]} is not known to leave the base weights as they are"
        bias = getattr(config, "bias", "none")
        if bias != "none":
            return f"bias={bias!r} trains the base model's own biases"
    inner = peft_model.get_base_model()
    for name, parameter in inner.named_parameters():
        if parameter.requires_grad and not is_adapter_tensor(inner, name):
            return f"weights of the base model train too, such as {name}"
    return None


def fused_layers(model: nn.Module) -> list[str]:
    """Ends of the names of layers whose weight a state-space kernel takes by itself, such as `mixer.out_proj`.

    A Mamba block is known by its A and D. The kernels for training multiply with the weight of its last layer instead
    of calling it, and in Mamba's first version with those of x_proj and dt_proj (of the latter without kernels too).
    An adapter on them would learn nothing; PEFT refuses the last one for most models. Jamba calls x_proj: behind
    it are norms with weights, which the kernels don't have.
    """
    ends = set()
    for name, module in model.named_modules():
        if all(hasattr(module, part) for part in ("A_log", "D", "out_proj")):
            taken = ["out_proj"]
            if all(hasattr(module, part) for part in ("dt_proj", "x_proj")):
                norm = getattr(module, "dt_layernorm", None)
                calls_it = norm is not None and any(True for _ in norm.parameters())
                taken += ["dt_proj"] if calls_it else ["dt_proj", "x_proj"]
            ends |= {f"{name.rpartition('.')[2]}.{part}" for part in taken}
    return sorted(ends)


def leaves_base_when_made(model: PeftModel) -> bool:
    """Whether making the adapters has left the base model as it is when they are off; training them need not.

    Some adapters begin with a part of the base weights, which is missing when they are off.
    """
    return not _is_merged(model) and why_base_changes_when_made(model) is None


def why_base_changes_when_made(model: PeftModel) -> str | None:
    """Which setting of an adapter changed the base model when the adapter was made, or None if none did."""
    return next(filter(None, map(_why_base_changes, model.peft_config.values())), None)


def _why_base_changes(config: Any) -> str | None:
    init = getattr(config, "init_lora_weights", None)
    if init not in _EXACT_LORA_INITS:
        return f"init_lora_weights={init!r} changes the base weights when the adapter is made"
    if getattr(config, "kasa_config", None):
        return "kasa_config changes the base weights when the adapter is made"
    if getattr(config, "layer_replication", None):
        return "layer_replication repeats layers of the base model, and they stay with the adapter off"
    return None


def why_base_is_lost(model: PeftModel) -> str | None:
    """Why the adapter and the weights that it left are not the base model together either; None if they are."""
    for config in model.peft_config.values():
        if getattr(config, "kasa_config", None):
            return "kasa_config takes the smallest singular values out of the base weights"
        if getattr(config, "init_lora_weights", None) == "loftq":
            return (
                "init_lora_weights='loftq' rounds the base weights, and the adapter makes up for a part of it"
            )
    return None


def _lora_variants(config: Any) -> set[str]:
    """Fields by which a config asks for another layer than plain LoRA's."""
    return {
        field.name
        for field in dataclasses.fields(config)
        if field.metadata.get("is_lora_variant") and getattr(config, field.name)
    }


def changes_nothing_yet(model: PeftModel) -> bool:
    """Whether the adapters are LoRA's as they are made, so that the model is the base model; False for all others.

    ΔW = s·B·A, where B begins as 0.
    """
    weights = [weight for name, weight in model.named_parameters() if _is_lora_b(name)]
    kinds = {str(getattr(one.peft_type, "value", one.peft_type)) for one in model.peft_config.values()}
    return bool(weights) and kinds == {"LORA"} and not any(bool(weight.any()) for weight in weights)


def begins_at_random(model: nn.Module) -> bool:
    """Whether an adapter was asked for that changes the model as soon as it is made, as `init_lora_weights=False`."""
    configs = getattr(model, "peft_config", {}).values()
    return any(getattr(config, name, None) is False for config in configs for name in _INITS)


def _is_lora_b(name: str) -> bool:
    return "lora_B" in name or "lora_embedding_B" in name  # an embedding has its B under a name of its own


def _is_merged(model: PeftModel) -> bool:
    return any(getattr(module, "merged_adapters", None) for module in model.modules())


def require_adapters_of_peft(model: nn.Module) -> None:
    """Refuse a reference model with adapters in it that nobody here would switch off.

    transformers puts them in itself (`load_adapter`, `add_adapter`, `from_pretrained` of an adapter's folder), and the
    model stays a plain one: taken as it is, the tuned model would be its own reference. With an adapter of PEFT's
    around it, the first one is replaced, or stays beside it.

    Raises:
        ModelError: with the way to load it by PEFT.
    """
    if getattr(causal_model(model), "_hf_peft_config_loaded", False):
        raise ModelError(
            "transformers itself has put an adapter into the model (load_adapter, add_adapter, or from_pretrained of "
            "an adapter's folder), so that it can't be told from the reference model.",
            hint="load the base model; for a new adapter, pass peft_config=…, and one that is there load as "
            "PeftModel.from_pretrained(base, folder, is_trainable=True).",
        )


def require_exact(model: nn.Module) -> None:
    """Refuse adapters that can't be switched off exactly.

    Raises:
        ModelError: with the reason and what to use instead.
    """
    reason = why_not_exact(model)
    if reason:
        raise ModelError(
            f"the reference model can't be had by switching the adapter off: {reason}.",
            hint="use reference='frozen_copy' (FrozenCopy of the model before training), which keeps a second copy of "
            "it in memory, or plain LoRA (init_lora_weights=True, bias='none').",
        )


def keep_preserved_directions(model: nn.Module) -> None:
    """Hang PEFT's projection of the gradients on OSF's factors again.

    In PEFT 0.21 it hangs on the parameters that are made first, in the weights' type. Those of 16 bits are then
    replaced by float32 ones, which train without it, and nothing is preserved.
    """
    for layer in model.modules():
        if isinstance(layer, OSFLayer):
            layer._detach_hooks()
            for name in layer.osf_svd_params:
                layer._attach_hooks(name)


def scale_adapter(model: PeftModel, scale: float) -> None:
    """Multiply a LoRA adapter's change by `scale`: 0 is the base model, 1 the tuned one.

    Source: WiSE-FT (arXiv 2109.01903), interpolation between both models' weights.

    Raises:
        ModelError: if there is no LoRA adapter.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise ModelError(
            "only LoRA adapters can be scaled, and the model has none.",
            hint="give a model with a LoRA adapter.",
        )
    for layer in layers:
        for name in layer.active_adapters:
            layer.scaling[name] *= scale


def write_scaled_adapter(adapter: Path, scale: float, target: Path) -> None:
    """Write a LoRA adapter as `scale_adapter` leaves it, for plain PEFT: B is scaled, since ΔW = s·B·A.

    Args:
        adapter: folder of the adapter.
        scale: of its change.
        target: a folder that isn't there yet.
    """
    shutil.copytree(adapter, target)
    file = target / "adapter_model.safetensors"
    tensors = {
        name: tensor * scale if _is_lora_b(name) else tensor for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    make_readable(file)
