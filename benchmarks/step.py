"""Time and peak memory of one optimizer step, for each way to train.

    python -m benchmarks.step --output benchmarks/results/step.md
    python -m benchmarks.step --shape qwen2.5-7b --device cuda

Each variant runs in a process of its own, and the variants take turns for several rounds. A process trains through
the Trainer; a step's time is from the end of the step before it to its own end, so that loading the batch, counting
its tokens, logging and the optimizer are in it, for every variant alike. The reference cache is built before the
first step and is not in it: `benchmarks.run` measures whole runs. Peak memory is that of the whole process on a CPU,
and that of the timed steps on a GPU.

"Matrix products" is the ratio to alpha=0 that would be measured if nothing but the matrix products cost time, and all
of them ran at the same rate. With T tokens, P weights in the linear layers before the head, L in LoRA's matrices, H
in the head, and S FLOPs for attention's scores and values in one forward pass (causal: half of the square):

    tuned model     forward 2·T·(P + L) + S, backward 2·T·P + 4·T·L + 2·S (base weights are frozen: no gradient of
                    theirs); gradient checkpointing does the forward twice
    reference       forward 2·T·P + S: adapter off and published pattern; a cache has none
    head            2·H for each product at a position. alpha=0: logits and gradient, at completion positions.
                    SelfAug: the same at completion and aligned positions, and the reference's logits at the aligned
                    ones. Published pattern: all three, at all positions. trl: logits, logits again in the backward
                    pass, and gradient; at all positions on a CPU, at completion positions on a GPU.

It is a floor for our own variants as far as the rest of the step (norms, softmax, LoRA's small products, optimizer)
can't be avoided; where alpha=0 spends a larger share on that rest than the alignment does, the measured ratio can be
below it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.processes import in_own_process, interleaved, prepare
from benchmarks.report import machine, median_and_range, publish, ratio_of_rounds, table
from benchmarks.shapes import SHAPES, Shape, build_rows, weights
from benchmarks.variants import VARIANTS, make_trainer
from selfaug.model.memory import peak_memory


class StepClock(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self, device: str, warmup: int) -> None:
        self.device, self.warmup = device, warmup
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) == self.warmup and self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def seconds(self) -> list[float]:
        """Of the steps after the warm-up."""
        return [
            end - begin
            for begin, end in zip(self.ends[self.warmup - 1 :], self.ends[self.warmup :], strict=False)
        ]


def measure(
    name: str, shape_name: str, device: str, dtype: str, warmup: int, steps: int, threads: int | None
) -> dict[str, Any]:
    """Train a few steps in this process."""
    prepare(threads)
    shape = SHAPES[shape_name]
    clock = StepClock(device, warmup)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            name,
            shape,
            build_rows(shape, shape.batch * (warmup + steps)),
            Path(folder),
            dtype=dtype,
            device=device,
            callbacks=[clock],
            max_steps=warmup + steps,
        )
        trainer.train()
    return {"seconds": clock.seconds, "peak_bytes": peak_memory(torch.device(device))}


def matrix_flops(name: str, shape: Shape, device: str) -> float:
    """FLOPs of the matrix products of one step; see the head of this file."""
    variant, config = VARIANTS[name], shape.config()
    body, lora, head = weights(shape)
    length = shape.prompt + shape.completion
    tokens = shape.batch * length
    width = config.num_attention_heads * getattr(
        config, "head_dim", config.hidden_size // config.num_attention_heads
    )
    scores = 4 * width * config.num_hidden_layers * shape.batch * length * (length + 1) / 2
    forward = 2 * tokens * (body + lora) + scores
    total = forward * (2 if shape.checkpointing else 1) + tokens * (2 * body + 4 * lora) + 2 * scores
    if name == "published" or variant.settings.get("reference") == "adapter_off":
        total += variant.rows * (2 * tokens * body + scores)
    completions = shape.batch * shape.completion
    if name == "trl":
        products = 3 * (tokens if device == "cpu" else completions)
    elif name == "published":
        products = 3 * tokens
    else:
        # The boundary position of a row carries both losses, but is projected once; it goes with its row.
        boundary = variant.rows * shape.batch if variant.settings["alpha"] else 0
        aligned = variant.fraction * boundary * (shape.prompt - 1) + boundary
        products = 2 * (completions + aligned - boundary) + aligned
    return total + 2 * head * products


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--warmup", type=int, default=1, help="steps of each process that are not timed (at least 1)"
    )
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each process")
    parser.add_argument("--threads", type=int, help="of torch; its own default if left out")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    where = machine(arguments.device, arguments.threads)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.variants}
    for number, name in interleaved(arguments.variants, arguments.rounds):
        result = in_own_process(
            measure,
            name,
            arguments.shape,
            arguments.device,
            arguments.dtype,
            max(1, arguments.warmup),
            arguments.steps,
            arguments.threads,
        )
        results[name].append(result)
        seconds = ", ".join(f"{value:.3f}" for value in result["seconds"])
        print(f"round {number + 1} of {arguments.rounds}: {name}: {seconds} s", file=sys.stderr, flush=True)

    shape = SHAPES[arguments.shape]
    seconds = {name: [statistics.median(run["seconds"]) for run in runs] for name, runs in results.items()}
    peaks = {name: [float(run["peak_bytes"]) for run in runs] for name, runs in results.items()}
    flops = {name: matrix_flops(name, shape, arguments.device) for name in VARIANTS}
    rows = [
        {
            "": VARIANTS[name].label,
            "seconds a step": median_and_range([value for run in runs for value in run["seconds"]]),
            "× `alpha=0`": ratio_of_rounds(seconds[name], seconds.get("alpha0")),
            "× trl": ratio_of_rounds(seconds[name], seconds.get("trl")),
            "matrix products × `alpha=0`": f"{flops[name] / flops['alpha0']:.2f}",
            "TFLOP": f"{flops[name] / 1e12:.3g}",
            "peak memory, GB": f"{statistics.median(peaks[name]) / 1e9:.2f}",
            "memory × `alpha=0`": ratio_of_rounds(peaks[name], peaks.get("alpha0")),
        }
        for name, runs in results.items()
    ]
    text = (
        f"{arguments.shape} shape, {arguments.dtype}, batch {shape.batch} × {shape.prompt + shape.completion} tokens "
        f"({shape.prompt} prompt, {shape.completion} completion), LoRA on all linear layers, AdamW, gradient "
        f"checkpointing {'on' if shape.checkpointing else 'off'}. {arguments.rounds} rounds of {arguments.steps} "
        "timed steps; median (lowest–highest); ratios are taken round by round.\n\n" + table(rows)
    )
    data = {
        "arguments": {key: value for key, value in vars(arguments).items() if key != "output"},
        "results": results,
        "matrix_flops": {name: flops[name] for name in results},
    }
    publish(
        "step",
        f"One optimizer step: {arguments.shape}, {arguments.device}",
        text,
        data,
        arguments.output,
        where,
    )


if __name__ == "__main__":
    main()
