"""How far a LoRA adapter has moved the weights: what parameter constraints hold small."""

from __future__ import annotations

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from selfaug.errors import ConfigError
from selfaug.model.hidden import unwrap

__all__ = ["lora_change"]


def lora_change(model: nn.Module) -> Tensor:
    """Σ over layers of ‖ΔW‖²_F with ΔW = s·B·A, differentiable, without ever making ΔW.

    ‖BA‖²_F = tr(AᵀBᵀBA) = Σ (BᵀB) ∘ (AAᵀ): two products of rank × rank size a layer.

    Args:
        model: with an active LoRA adapter on linear layers, embeddings, or experts that are one tensor.

    Returns:
        Scalar, float32.

    Raises:
        ConfigError: if there is no such adapter, or it is one of DoRA or on other layers.
    """
    peft_model = unwrap(model)
    squares = []
    if isinstance(peft_model, PeftModel):
        if any(getattr(config, "use_dora", False) for config in peft_model.peft_config.values()):
            raise ConfigError(
                "weight_penalty constrains s·B·A, and DoRA's change of the weights is another.",
                hint="leave use_dora out of the LoraConfig, or weight_penalty at 0.",
            )
        for module in peft_model.modules():
            if isinstance(module, LoraLayer):
                for name in module.active_adapters:
                    if (factors := _factors(module, name)) is not None:
                        a_ERI, b_EOR = factors
                        products = (b_EOR.mT @ b_EOR) * (a_ERI @ a_ERI.mT)
                        squares.append(module.scaling[name] ** 2 * products.sum())
    if not squares:
        raise ConfigError(
            "weight_penalty constrains the change of a LoRA adapter, and there is none.",
            hint="pass a LoraConfig as peft_config, or leave weight_penalty at 0.",
        )
    return torch.stack(squares).sum()


def _factors(layer: LoraLayer, name: str) -> tuple[Tensor, Tensor] | None:
    """A [E, R, I] and B [E, O, R] of each of a layer's E matrices, in float32; None if it has no such adapter.

    Raises:
        ConfigError: if the layer is neither a linear one nor an embedding.
    """
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name].float()[None], layer.lora_embedding_B[name].float()[None]
    if name not in layer.lora_A:
        return None
    if not isinstance(layer.lora_A[name], nn.Linear):
        raise ConfigError(
            f"weight_penalty constrains s·B·A of linear layers, and the adapter is on a {type(layer).__name__}.",
            hint="name linear layers in the adapter's target_modules, or leave weight_penalty at 0.",
        )
    a_RI, b_OR = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
    if not isinstance(layer, ParamWrapper):
        return a_RI[None], b_OR[None]
    # Experts in one tensor have one A and one B: A's rows go expert by expert, B's columns rank by rank.
    experts = layer.num_experts
    a_ERI = a_RI.reshape(experts, -1, a_RI.shape[1])
    return a_ERI, b_OR.reshape(len(b_OR), -1, experts).permute(2, 0, 1)
