"""What accelerate has to do otherwise, so that several processes and shards come to the gradient of one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from selfaug.errors import ConfigError
from selfaug.train.model_checks import uses_all_parameters

__all__ = ["set_up_accelerator"]


def set_up_accelerator(accelerator: Any, model: nn.Module, *, find_unused_parameters: bool | None) -> None:
    """Refuse what would split rows, and have gradients added up as the loss needs it.

    Args:
        accelerator: the Trainer's.
        model: before it is wrapped.
        find_unused_parameters: what the settings have DDP do; None where they leave it open.

    Raises:
        ConfigError: with context or sequence parallelism.
    """
    parallelism = accelerator.parallelism_config
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise ConfigError(
            "context and sequence parallelism split rows, which the alignment does not support.",
            hint="shard the weights instead (FSDP2), with reference='adapter_off'.",
        )
    shards = getattr(accelerator.state, "fsdp_plugin", None)
    if shards is not None and isinstance(shards.mixed_precision_policy, MixedPrecisionPolicy):
        # accelerate would have gradients of micro-batches and processes added up in 16 bits.
        shards.mixed_precision_policy = replace(shards.mixed_precision_policy, reduce_dtype=torch.float32)
    if shards is not None and not isinstance(model, PeftModel):
        # Else each process keeps all gradients whole until the last micro-batch, as large as the model.
        accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    if find_unused_parameters is None and uses_all_parameters(model):
        # transformers has DDP look for unused ones in every step of a PEFT model, which then warns.
        accelerator.ddp_handler.find_unused_parameters = False
