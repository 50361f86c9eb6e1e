"""One forward and backward pass over a short row: how long it takes, and what it keeps in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model

from selfaug.config import TrainConfig
from selfaug.phases.inputs import (
    TrainingData,
    adapter_config,
    load_base_model,
    require_known_tokens,
    require_usable_after_training,
)

__all__ = ["SamplePass", "time_sample_pass"]

_SAMPLE_TOKENS = 512
_MOST_PASSES, _SECONDS = 5, 3.0


@dataclass(frozen=True)
class SamplePass:
    """What was measured.

    Attributes:
        seconds_per_token: of a forward and backward pass.
        reference_seconds_per_token: of a forward pass without gradient.
        saved_bytes_per_token: that are kept for the backward pass, without logits.
        tokens: of the row; as many of its kind as a step has were timed at once.
    """

    seconds_per_token: float
    reference_seconds_per_token: float
    saved_bytes_per_token: float
    tokens: int


def time_sample_pass(
    config: TrainConfig, data: TrainingData, device: torch.device, dtype: torch.dtype
) -> SamplePass:
    """Time a forward and backward pass on a row of median length, cut to a sample's."""
    full = config.lora.method == "full"
    model: Any = load_base_model(config, dtype=torch.float32 if full else dtype, device=device)
    require_usable_after_training(model, config.lora)
    require_known_tokens(model, data)
    adapter = adapter_config(config.lora, model)
    if adapter is not None:
        model = get_peft_model(model, adapter)
    model.train()
    ids = sorted((row.ids for row in data.train.rows), key=len)[len(data.train.rows) // 2]
    # Told apart from the weights by their shapes.
    widths = {size for weight in model.parameters() for size in weight.shape}
    osf_shapes: set[tuple[int, ...]] = set()
    if config.lora.method == "osf":  # its factors are joined by two, in every pass anew
        pairs = [weight.shape for weight in model.parameters() if weight.requires_grad and weight.ndim == 2]
        osf_shapes = {shape for one, other in pairs for shape in ((2 * one, other), (one, 2 * other))}
        osf_shapes |= {shape[::-1] for shape in osf_shapes}
        widths |= {size for shape in osf_shapes for size in shape}
    length = min(len(ids), _SAMPLE_TOKENS)
    while length in widths and length > 2:
        length -= 1
    batch = torch.tensor([ids[:length].tolist()], device=device)
    own = {weight.data_ptr() for weight in model.parameters()}
    # Autocast keeps copies of the weights in 16 bits; they don't grow with the batch.
    copied = {shape for weight in model.parameters() for shape in (weight.shape, weight.shape[::-1])}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_copy = full and tensor.dtype is not torch.float32 and tensor.shape in copied
        if tensor.data_ptr() not in own and not is_copy and tuple(tensor.shape) not in osf_shapes:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast(
        device.type, dtype, enabled=dtype is not torch.float32 and (full or device.type == "cuda")
    )
    # The first pass is warm-up, and tells what is kept for the backward pass. Logits of all tokens are left
    # out: this model call keeps them, training works on the head in chunks.
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, labels=batch).loss.backward()
    logits = batch.shape[1] * model.config.get_text_config().vocab_size
    kept = sum(size for size in saved.values() if size not in (2 * logits, 4 * logits))
    # As many rows at once as a step has, within a sample's tokens: a pass over a few tokens costs as much as over many.
    rows = max(1, min(config.train.batch_size, _SAMPLE_TOKENS // batch.shape[1]))
    batches = batch.repeat(rows, 1)
    timed = []
    for backward in (True, False):
        seconds: list[float] = []
        while len(seconds) < _MOST_PASSES and sum(seconds) < _SECONDS:
            begin = _clock(device)
            with autocast, torch.set_grad_enabled(backward):
                loss = model(batches, labels=batches).loss
                if backward:
                    loss.backward()
            seconds.append(_clock(device) - begin)
        timed.append(
            min(seconds) / batches.numel()
        )  # others take longer because of what else the machine does
    return SamplePass(timed[0], timed[1], kept / batch.shape[1], batch.shape[1])


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
