"""How far a LoRA adapter has moved the weights: what parameter constraints hold small."""

from __future__ import annotations

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from selfaug.errors import ConfigError
from selfaug.model.hidden import unwrap

__all__ = ["lora_change"]


def lora_change(model: nn.Module) -> Tensor:
    """Σ over layers of ‖ΔW‖²_F with ΔW = s·B·A, differentiable, without ever making ΔW.

    ‖BA‖²_F = tr(AᵀBᵀBA) = Σ (BᵀB) ∘ (AAᵀ): two products of rank × rank size a layer.

    Args:
        model: with an active LoRA adapter on linear layers.

    Returns:
        Scalar, float32.

    Raises:
        ConfigError: if there is no such adapter, or it is one of DoRA.
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
                    if name in module.lora_A:
                        a_RI = module.lora_A[name].weight.float()
                        b_OR = module.lora_B[name].weight.float()
                        squares.append(module.scaling[name] ** 2 * ((b_OR.T @ b_OR) * (a_RI @ a_RI.T)).sum())
    if not squares:
        raise ConfigError(
            "weight_penalty constrains the change of a LoRA adapter on linear layers, and there is none.",
            hint="pass a LoraConfig as peft_config, or leave weight_penalty at 0.",
        )
    return torch.stack(squares).sum()
