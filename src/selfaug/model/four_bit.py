"""4-bit weights of bitsandbytes on a CPU: what keeps them trainable."""

from __future__ import annotations

from torch import nn

from selfaug.errors import ModelError

__all__ = ["keep_unpacked", "require_unpacked"]


def keep_unpacked(model: nn.Module) -> None:
    """Have 4-bit layers stay as they were loaded.

    On CPUs with bf16 instructions, one pass in evaluation mode and without gradient, such as the reference's, has a
    bitsandbytes layer pack its weight for good: with scales rounded to bf16, and for a kernel without a backward pass.
    Adapters below it would get no gradient through it, with a mere warning of torch's.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def require_unpacked(model: nn.Module) -> None:
    """Refuse to train over layers that are packed already.

    Raises:
        ModelError: if a pass without gradient has packed them.
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                f"the 4-bit weight of {name} has been packed by a pass without gradient, and nothing flows back "
                "through it.",
                hint="load the model anew, and make the trainer before the model answers anything.",
            )
