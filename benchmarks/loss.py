"""The alignment loss alone against its peers: error, time, peak memory.

    python -m benchmarks.loss --output benchmarks/results/loss.md

Each method gets the hidden states of both models at the same positions and the head's weight, which is frozen, and
gives the mean KL(reference ‖ tuned) and its gradient with respect to the tuned hidden states:

    selfaug   selfaug.core.alignment.fused_loss
    trl       trl.kernels.chunked_divergence.ChunkedDivergenceFunction, beta 0
    liger     liger_kernel.chunked_loss.LigerFusedLinearJSDLoss, beta 0, not compiled
    naive     logits of both models whole, then torch's log_softmax and kl_div in float32, by autograd

The truth is the same in float64, from the same (already rounded) inputs. Two drifts: about 0.05 nats, as in the
middle of training, and about 1e-4 nats, as at its beginning, where the sum nearly cancels. "Worst position" is the
largest error at a single position, where the method says what each position has.

Each measurement is a process of its own. Peak memory is what the first call adds to the process with its inputs
loaded; the first call is not timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from benchmarks.processes import in_own_process, interleaved, prepare
from benchmarks.report import machine, median_and_range, publish, ratio_of_rounds, table
from selfaug.core.alignment import OutputHead, fused_loss, token_divergence
from selfaug.model.memory import peak_memory

SIZES = {
    "tiny": (96, 1024, 64),
    "small": (512, 8192, 256),
    "smollm2": (1888, 49152, 576),
    "qwen2.5-7b": (1888, 152064, 3584),
}
"""Positions, vocabulary, width."""

DRIFTS = {"0.05": 0.105, "1e-4": 0.0047}
"""Standard deviation of the difference between the hidden states that gives about so many nats."""


def _selfaug(tuned: Tensor, reference: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    no_targets = torch.zeros(0, dtype=torch.long, device=tuned.device)
    loss = fused_loss(
        tuned,
        OutputHead(weight),
        no_targets,
        nll_weight=0.0,
        reference_hidden_AH=reference,
        alignment_weight=1.0 / tuned.shape[0],
    ).loss
    loss.backward()
    return loss.detach(), None


def _trl(tuned: Tensor, reference: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    divergence, _ = ChunkedDivergenceFunction.apply(tuned, weight, None, reference, weight, None, 0.0)
    loss = divergence.mean()
    loss.backward()
    return loss.detach(), divergence.detach()


def _liger(tuned: Tensor, reference: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    labels = torch.zeros(tuned.shape[0], dtype=torch.long, device=tuned.device)
    jsd = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)
    loss = jsd(tuned, weight, reference, weight, labels)
    loss.backward()
    return loss.detach(), None


def _naive(tuned: Tensor, reference: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    log_p = functional.log_softmax(functional.linear(tuned, weight).float(), -1)
    log_q = functional.log_softmax(functional.linear(reference, weight).float(), -1)
    divergence = functional.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1)
    loss = divergence.mean()
    loss.backward()
    return loss.detach(), divergence.detach()


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]] = {
    "selfaug": _selfaug,
    "trl": _trl,
    "liger": _liger,
    "naive": _naive,
}


def write_truth(file: str, size: str, dtype: str, device: str, threads: int | None) -> None:
    """Inputs and their float64 divergence and gradient, for both drifts."""
    prepare(threads)
    torch.manual_seed(0)
    positions, vocabulary, width = SIZES[size]
    # Logits with a standard deviation of 3: top probabilities as of a language model that is in doubt.
    weight = (torch.randn(vocabulary, width) * (3 / width**0.5)).to(getattr(torch, dtype))
    tensors = {"weight": weight}
    exact = weight.to(device, torch.float64)
    for name, deviation in DRIFTS.items():
        reference = torch.randn(positions, width)
        tuned = (reference + deviation * torch.randn(positions, width)).to(weight.dtype)
        reference = reference.to(weight.dtype)
        divergences, gradients = [], []
        for start in range(0, positions, 64):
            tuned_NH = tuned[start : start + 64].to(device, torch.float64)
            log_p = torch.log_softmax(tuned_NH @ exact.T, -1)
            log_q = torch.log_softmax(reference[start : start + 64].to(device, torch.float64) @ exact.T, -1)
            divergences.append((log_q.exp() * (log_q - log_p)).sum(-1))
            gradients.append((log_p.exp() - log_q.exp()) @ exact / positions)
        tensors[f"{name} tuned"], tensors[f"{name} reference"] = tuned, reference
        tensors[f"{name} divergence"] = torch.cat(divergences).cpu()
        tensors[f"{name} gradient"] = torch.cat(gradients).cpu()
    save_file(tensors, file)


def measure(file: str, method: str, device: str, repeats: int, threads: int | None) -> dict[str, Any]:
    """Error, time and memory of one method in this process."""
    prepare(threads)
    tensors = load_file(file)
    weight = tensors["weight"].clone().to(device)
    run = METHODS[method]
    result: dict[str, Any] = {"seconds": []}
    for drift in DRIFTS:
        tuned = tensors[f"{drift} tuned"].clone().to(device).requires_grad_()
        reference = tensors[f"{drift} reference"].clone().to(device)
        before = peak_memory(torch.device(device))
        loss, divergence = run(tuned, reference, weight)
        # The second drift adds nothing to the peak of the first.
        result.setdefault("peak_bytes", peak_memory(torch.device(device)) - before)
        assert tuned.grad is not None
        if method == "selfaug":  # its loss is a sum; for measuring there is a function of the same arithmetic
            divergence, _ = token_divergence(tuned.detach(), OutputHead(weight), reference)
        truth = tensors[f"{drift} divergence"]
        gradient = tensors[f"{drift} gradient"]
        result[drift] = {
            "truth": truth.mean().item(),
            "mean": abs(loss.double().item() - truth.mean().item()),
            "worst": None if divergence is None else (divergence.double().cpu() - truth).abs().max().item(),
            "gradient": ((tuned.grad.double().cpu() - gradient).norm() / gradient.norm()).item(),
        }
    for _ in range(repeats):
        tuned.grad = None
        began = time.perf_counter()
        run(tuned, reference, weight)
        if device == "cuda":
            torch.cuda.synchronize()
        result["seconds"].append(time.perf_counter() - began)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "smollm2"], metavar="NAME")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="timed calls of each process")
    parser.add_argument("--threads", type=int, help="of torch; its own default if left out")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    where = machine(arguments.device, arguments.threads)
    methods = list(arguments.methods)
    if "liger" in methods and importlib.util.find_spec("liger_kernel") is None:
        methods.remove("liger")
        print("liger left out: `pip install liger-kernel`", file=sys.stderr)
    parts, results = [], []
    for size in arguments.sizes:
        for dtype in arguments.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder) / "truth.safetensors")
                in_own_process(write_truth, file, size, dtype, arguments.device, arguments.threads)
                runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
                for number, method in interleaved(methods, arguments.rounds):
                    run = in_own_process(
                        measure, file, method, arguments.device, arguments.repeats, arguments.threads
                    )
                    runs[method].append(run)
                    results.append({"size": size, "dtype": dtype, "method": method, "round": number, **run})
                    print(
                        f"{size} {dtype} {method}: {min(run['seconds']):.3f} s", file=sys.stderr, flush=True
                    )
            parts.append(_part(size, dtype, runs))
    text = (
        f"Mean KL(reference ‖ tuned) and its gradient. {arguments.rounds} rounds of {arguments.repeats} timed calls; "
        "seconds: median (lowest–highest).\n\n" + "\n\n".join(parts)
    )
    data = {
        "arguments": {key: value for key, value in vars(arguments).items() if key != "output"},
        "results": results,
    }
    publish("loss", f"The loss alone, {arguments.device}", text, data, arguments.output, where)


def _part(size: str, dtype: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    """Heading and table of one size and dtype."""
    positions, vocabulary, width = SIZES[size]
    seconds = {name: [min(run["seconds"]) for run in found] for name, found in runs.items()}
    rows = []
    for name, found in runs.items():
        row: dict[str, Any] = {"": name}
        for drift in DRIFTS:
            errors = found[0][drift]
            worst = "–" if errors["worst"] is None else f"{errors['worst']:.1e}"
            row[f"error, KL {drift}"] = f"{errors['mean']:.1e}"
            row[f"worst position, KL {drift}"] = worst
            row[f"gradient, KL {drift}"] = f"{errors['gradient']:.1e}"
        row["seconds"] = median_and_range([value for run in found for value in run["seconds"]])
        row["× selfaug"] = ratio_of_rounds(seconds[name], seconds.get("selfaug"))
        row["memory added, MB"] = f"{statistics.median(run['peak_bytes'] for run in found) / 1e6:.0f}"
        rows.append(row)
    truths = ", ".join(f"{next(iter(runs.values()))[0][drift]['truth']:.3g}" for drift in DRIFTS)
    return (
        f"## {size}, {dtype}: {positions:,} positions, vocabulary {vocabulary:,}, width {width:,}\n\n"
        f"Errors of KL in nats, of gradients relative (L2). True KL: {truths} nats.\n\n{table(rows)}"
    )


if __name__ == "__main__":
    main()
