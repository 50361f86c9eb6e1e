"""Tables in Markdown, with the machine and versions that they come from, and the same data as JSON beside them."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["machine", "median_and_range", "publish", "ratio_of_rounds", "table", "versions"]

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "liger-kernel", "selfaug")


def machine(device: str, threads: int | None) -> dict[str, Any]:
    """Where the figures come from; the load says whether something else was running."""
    try:
        cpu = next(
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "bf16 instructions": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
        "torch threads": threads or torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of what is measured."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def median_and_range(values: Sequence[float], digits: int = 3) -> str:
    """`median (lowest–highest)`."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low}–{high})"


def ratio_of_rounds(values: Sequence[float], base: Sequence[float] | None) -> str:
    """Median and range of value / base, taken round by round, so that slow rounds are slow for both."""
    if base is None:
        return "–"
    return median_and_range([value / other for value, other in zip(values, base, strict=True)], 2)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as a Markdown table; numbers to the right."""
    names = list(rows[0])
    lines = [
        "| " + " | ".join(names) + " |",
        "|" + "|".join("---" if index == 0 else "---:" for index in range(len(names))) + "|",
    ]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def publish(
    module: str,
    title: str,
    text: str,
    data: Mapping[str, Any],
    output: Path | None,
    where: Mapping[str, Any],
) -> None:
    """Print a report; with `output`, write it there and its data as JSON beside it."""
    used = versions()
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    report = "\n\n".join(
        [
            f"# {title}",
            text,
            "Machine: " + ", ".join(f"{name} {value}" for name, value in where.items()) + ".",
            "Versions: " + ", ".join(f"{name} {value}" for name, value in used.items()) + ".",
            f"Command: `{command}`",
        ]
    )
    print(report, flush=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report + "\n", encoding="utf-8")
        everything = {"title": title, "machine": dict(where), "versions": used, **data}
        output.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
