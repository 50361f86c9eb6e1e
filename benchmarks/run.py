"""Whole training runs of one and of three epochs, from making the trainer to the last step.

    python -m benchmarks.run --output benchmarks/results/run.md

A reference cache costs one forward pass over the data before the first step and saves one in each epoch: here the
building (and the fingerprint of the weights that it is keyed by) is part of the time. Each run is a process of its
own, and the variants take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.processes import in_own_process, interleaved, prepare
from benchmarks.report import machine, median_and_range, publish, ratio_of_rounds, table
from benchmarks.shapes import SHAPES, build_rows
from benchmarks.variants import VARIANTS, make_trainer
from selfaug.model.memory import peak_memory

_DEFAULT = ["alpha0", "adapter_off", "cache", "cache_25"]


def measure(
    name: str, epochs: int, rows: int, shape_name: str, device: str, dtype: str, threads: int | None
) -> dict[str, float]:
    """One run in this process. The first step of a process is slower than the rest: it is part of a run."""
    prepare(threads)
    shape = SHAPES[shape_name]
    data = build_rows(shape, rows)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trainer = make_trainer(
            name, shape, data, Path(folder), dtype=dtype, device=device, num_train_epochs=epochs
        )
        trainer.train()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "peak_bytes": peak_memory(torch.device(device)),
            "cache_bytes": getattr(trainer, "reference_bytes", 0),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=_DEFAULT, metavar="NAME")
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of torch; its own default if left out")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    where = machine(arguments.device, arguments.threads)
    shape = SHAPES[arguments.shape]
    rows, results = [], []
    for epochs in arguments.epochs:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.variants}
        for number, name in interleaved(arguments.variants, arguments.rounds):
            run = in_own_process(
                measure,
                name,
                epochs,
                arguments.rows,
                arguments.shape,
                arguments.device,
                arguments.dtype,
                arguments.threads,
            )
            runs[name].append(run)
            results.append({"variant": name, "epochs": epochs, "round": number, **run})
            print(f"{epochs} epochs: {name}: {run['seconds']:.1f} s", file=sys.stderr, flush=True)
        seconds = {name: [run["seconds"] for run in found] for name, found in runs.items()}
        rows += [
            {
                "": VARIANTS[name].label,
                "epochs": epochs,
                "steps": epochs * -(-arguments.rows // shape.batch),
                "seconds": median_and_range(seconds[name], 2),
                "× `alpha=0`": ratio_of_rounds(seconds[name], seconds.get("alpha0")),
                "× adapter off": ratio_of_rounds(seconds[name], seconds.get("adapter_off")),
                "cache on disk, MB": f"{found[0]['cache_bytes'] / 1e6:.1f}",
                "peak memory, GB": f"{statistics.median(run['peak_bytes'] for run in found) / 1e9:.2f}",
            }
            for name, found in runs.items()
        ]
    text = (
        f"{arguments.shape} shape, {arguments.dtype}, {arguments.rows} rows of {shape.prompt + shape.completion} "
        f"tokens ({shape.prompt} prompt), {shape.batch} rows a step. {arguments.rounds} rounds; median "
        "(lowest–highest). Building the cache is included.\n\n" + table(rows)
    )
    data = {
        "arguments": {key: value for key, value in vars(arguments).items() if key != "output"},
        "results": results,
    }
    publish("run", f"Whole runs: {arguments.shape}, {arguments.device}", text, data, arguments.output, where)


if __name__ == "__main__":
    main()
