"""The fingerprint of a reference model: what its hidden states depend on."""

from __future__ import annotations

import hashlib
import json

import torch
import xxhash
from torch import nn
from torch.distributed.tensor import DTensor

from selfaug.model.hidden import causal_model

__all__ = ["fingerprint", "is_adapter_tensor"]

# Where PEFT keeps what it has wrapped; a layer that trains single tokens is itself inside a wrapper.
_WRAPPED = ("base_layer", "original_module", "token_adapter")

# Names, versions and training switches: they change nothing about hidden states.
_VOLATILE_CONFIG = {
    "_name_or_path",
    "architectures",
    "transformers_version",
    "use_cache",
    "output_router_logits",
    "pad_token_id",  # trl sets these to the tokeniser's
    "bos_token_id",
    "eos_token_id",
}


def fingerprint(model: nn.Module, *, compute_dtype: torch.dtype | None = None) -> dict[str, str]:
    """What hidden states of the reference model depend on, apart from the token ids.

    Args:
        model: the tuned model before training, or the reference model itself; adapter weights are left out.
        compute_dtype: dtype of autocast, if it is on.
    """
    inner = causal_model(model)
    config = {key: value for key, value in inner.config.to_dict().items() if key not in _VOLATILE_CONFIG}
    digest = xxhash.xxh3_128()
    tensors = 0
    for name, tensor in sorted([*inner.named_parameters(), *inner.named_buffers()]):
        parts = name.split(".")
        if any(part.startswith(("lora_", "modules_to_save")) for part in parts):
            continue
        if is_adapter_tensor(inner, name):
            continue
        plain = ".".join(part for part in parts if part not in _WRAPPED)
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        digest.update(f"{plain} {whole.dtype} {tuple(whole.shape)}".encode())
        digest.update(whole.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
        tensors += 1
    return {
        "weights": digest.hexdigest(),
        "config": hashlib.blake2b(
            json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16
        ).hexdigest(),
        "class": type(inner).__name__,
        "attention": str(getattr(inner.config, "_attn_implementation", None)),
        "compute_dtype": str(compute_dtype or getattr(inner, "dtype", None)),
        "tensors": str(tensors),
    }


def is_adapter_tensor(model: nn.Module, name: str) -> bool:
    """Whether a tensor belongs to an adapter layer and not to the base layer inside it.

    Args:
        model: the transformers model that the adapter was put into.
        name: of the tensor in it; a copy that an adapter trains (`modules_to_save`) is the adapter's.
    """
    module, parts = model, name.split(".")
    for depth, part in enumerate(parts[:-1]):
        if type(module).__module__.startswith("peft.") and part not in _WRAPPED:
            return True
        module = getattr(module, part)
        if depth == len(parts) - 2 and type(module).__module__.startswith("peft."):
            return True
    return False
