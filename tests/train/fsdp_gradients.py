"""One process of two: gradients of a model sharded by FSDP2 against the same model whole. Started by torchrun.

`fsdp_gradients.py RESULT.json`. The whole model takes all rows at once; each process takes its half of them in
two micro-batches of different sizes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from selfaug import alignment_loss
from selfaug.core.positions import count_tokens
from selfaug.model.head import require_verified_head
from selfaug.model.hidden import causal_model
from selfaug.model.reference import AdapterOff, FrozenCopy, Reference

VOCABULARY = 97


def batch(lengths: list[tuple[int, int]], seed: int) -> dict[str, Tensor]:
    """Rows of (prompt, completion) lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    width = max(sum(length) for length in lengths)
    ids = torch.randint(3, VOCABULARY, (len(lengths), width), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    for row, (prompt, completion) in enumerate(lengths):
        labels[row, :prompt] = -100
        labels[row, prompt + completion :] = -100
        mask[row, prompt + completion :] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


MICRO_BATCHES = [  # of both processes; the counts differ on purpose
    [batch([(9, 2), (4, 5)], 0), batch([(3, 1)], 1)],
    [batch([(12, 3)], 2), batch([(5, 4), (2, 2), (8, 1)], 3)],
]


def build(case: str) -> tuple[nn.Module, Reference]:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings="untied" not in case,
        )
    )
    if case.startswith("lora"):
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        return model.train(), AdapterOff(model)
    reference = FrozenCopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train(), reference


def backward(
    model: nn.Module,
    reference: Reference,
    batches: list[dict[str, Tensor]],
    scale: float,
    row_fraction: float,
) -> list[float]:
    counts = sum(count_tokens(b["labels"], b["attention_mask"]) for group in MICRO_BATCHES for b in group)
    completions, aligned = counts.tolist()  # type: ignore[union-attr]
    sums = [0.0, 0.0]
    for inputs in batches:
        result = alignment_loss(
            model,
            inputs,
            alpha=2.0,
            reference=reference,
            completion_tokens=completions,
            aligned_positions=aligned,
            row_fraction=row_fraction,
            step=0,
        )
        (result.loss * scale).backward()
        sums[0] += result.nll_sum.item() / completions
        sums[1] += result.alignment_sum.item() / aligned
    return sums


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def wrapped_by_accelerate(model: nn.Module) -> nn.Module:
    """Sharded by accelerate's own code, with the settings of recipes/accelerate-fsdp2.yaml.

    What it needs of an Accelerator is given by hand, since that one wants GPUs.
    """
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
        state_dict_type="full_state_dict",
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="no",
        is_main_process=dist.get_rank() == 0,
        device=torch.device("cpu"),
    )
    wrapped: nn.Module = fsdp2_prepare_model(accelerator, model)
    return wrapped


def compare(case: str) -> dict[str, Any]:
    # At step 0, no row of the second process's first micro-batch is drawn, and one of the other's is.
    row_fraction = 0.4 if "some rows" in case else 1.0
    whole, reference = build(case)
    every = [b for group in MICRO_BATCHES for b in group]
    expected_sums = backward(whole, reference, every, 1.0, row_fraction)
    expected = gradients(whole)

    model, reference = build(case)
    if "accelerate" in case:
        model = wrapped_by_accelerate(model)
    else:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in causal_model(model).model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    sharded = all(isinstance(parameter, DTensor) for parameter in model.parameters())
    # Before the first step, as the trainer does.
    require_verified_head(model, MICRO_BATCHES[0][0]["input_ids"])
    # FSDP averages gradients over processes, and the counts are over all of them already.
    mine, scale = MICRO_BATCHES[dist.get_rank()], float(dist.get_world_size())
    sums = torch.tensor(backward(model, reference, mine, scale, row_fraction))
    dist.all_reduce(sums)
    got = gradients(model)
    assert got.keys() == expected.keys()
    difference = sum((got[n].double() - expected[n].double()).square().sum() for n in expected)
    norm = sum(expected[n].double().square().sum() for n in expected)
    return {
        "relative": float((difference / norm).sqrt()),  # type: ignore[union-attr]
        "sums": sums.tolist(),
        "expected_sums": expected_sums,
        "sharded": sharded,
        "gradients": sorted(got),
    }


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    cases = ["lora, tied head", "lora, untied head", "full, tied head", "full, untied head"]
    cases += [f"{case}, accelerate" for case in cases]
    cases += ["lora, tied head, some rows", "full, tied head, some rows"]
    results = {case: compare(case) for case in cases}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    # Both are done. Not through the interpreter's teardown: a gloo thread that is still alive then aborts the
    # process ("terminate called without an active exception"), now and then, after all the work is done.
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
