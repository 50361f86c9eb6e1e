"""The dashboard with many runs: time of its pages, and its memory.

    python -m benchmarks.dashboard --output benchmarks/results/dashboard.md

Writes runs as training and evaluation leave them (records, metrics, answers, made of random numbers), starts
`selfaug dashboard` on them, and asks for pages, each several times, as a browser would.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.report import machine, publish, table
from selfaug.records import write_record

_WORDS = (
    *("revenue", "company", "year", "million", "report", "margin", "growth", "market", "board", "staff"),
    *("city", "plan", "north", "sales"),
)


def write_runs(root: Path, runs: int, samples: int, metrics: int) -> None:
    """So many runs with, together, so many samples and rows of metrics."""
    rng = random.Random(0)
    for number in range(runs):
        _write_run(
            root / f"project-{number % 10}" / f"run-{number:04d}", rng, samples // runs, metrics // runs
        )


def _write_run(folder: Path, rng: random.Random, samples: int, metrics: int) -> None:
    answers = folder / "samples" / "evaluation"
    answers.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "# A selfaug run.\nmodel:\n  name: example/model\ndata:\n  train: [rows.jsonl]\n", encoding="utf-8"
    )
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, metrics + 1):
            row = {
                "step": step, "nll": 2.0 / step**0.5, "alignment_loss": 0.02 + 0.001 * rng.random(),
                "alpha": 0.5 + 0.1 * rng.random(), "learning_rate": 1e-4, "tokens_per_second": 900.0,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    suites = {}
    for suite, count in (("task", samples // 3), ("general", samples - samples // 3)):
        ids = [f"{suite}-{one:06d}" for one in range(count)]
        suites[suite] = _suite(
            {one: {"base": float(rng.random() < 0.5), "tuned": float(rng.random() < 0.6)} for one in ids}
        )
        for model in ("base", "tuned"):
            with (answers / f"{suite}-{model}.jsonl").open("w", encoding="utf-8") as file:
                for one in ids:
                    row = {"id": one, "prompt": _text(rng, 60), "answer": _text(rng, 40)}
                    file.write(json.dumps(row) + "\n")
    interval = {"value": 0.02, "low": 0.01, "high": 0.03}
    drift = {"nats": interval, "top1_agreement": 0.95, "tokens": 9000, "by_tenth": [0.02] * 10}
    evaluation = {
        "run": str(folder), "settings": {"scorer": "exact", "half": "test", "step": None, "weights": "ab" * 32},
        "level": {"level": 1, "scores": {"1": 0.6}}, "suites": suites, "benchmarks": {},
        "also": {}, "sides": {},
        "drift": {"the job's prompts": drift, "general prompts": drift}, "forecast": None, "gate": None,
        "device": "cpu", "threads": 2, "seconds": 61.0,
    }  # fmt: skip
    write_record(folder / "evaluation.json", "evaluation", evaluation)
    record = {
        "model": {"name": "example/model", "trainable": 1000, "weights_hash": "cd" * 16},
        "data": {"train": {"rows": metrics, "sources": [{"source": "rows.jsonl", "sha256": "01" * 32}]}},
        "settings_sha256": "ef" * 32, "steps": metrics, "epochs": 1.0, "seconds": 900.0, "anchor_seconds": 0.0,
        "noise_floor": 1e-9,
        "final": {"nll": 0.1, "alignment_loss": 0.02, "alpha": 0.5}, "evaluation": {}, "reference_cache_bytes": 0,
        "anchors": 0, "peak_memory_bytes": 3_000_000_000, "weights": [],
        "environment": {"device": "CPU", "processes": 1, "python": "3.11", "versions": {"selfaug": "0.1.0"}},
    }  # fmt: skip
    write_record(folder / "record.json", "train", record)


def _suite(scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    base, tuned = (statistics.fmean(one[model] for one in scores.values()) for model in ("base", "tuned"))

    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    difference = {
        "difference": interval(tuned - base),
        "p_value": 0.2,
        "better": 1,
        "worse": 1,
        "items": len(scores),
        "discordance": 0.5,
        "clusters": None,
    }
    return {
        "items": len(scores), "base": interval(base), "tuned": interval(tuned), "difference": difference,
        "retention": interval(tuned / base), "detectable_difference": 0.08, "scores": scores,
    }  # fmt: skip


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))


class _Dashboard:
    """The command itself, in a process of its own."""

    def __init__(self, root: Path) -> None:
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selfaug", "dashboard", str(root), "--port", "0", "--no-token"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        self.seconds_to_listen = time.perf_counter() - begun

    def __enter__(self) -> _Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def seconds(self, path: str) -> tuple[float, int]:
        """To the last byte of a page, and its bytes."""
        begun = time.perf_counter()
        with urllib.request.urlopen(f"{self.address}{path.lstrip('/')}", timeout=120) as answer:
            size = len(answer.read())
        return time.perf_counter() - begun, size

    def megabytes(self) -> float:
        """The most memory that it had so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(match[1]) / 1000 if match else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--metrics", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch, which isn't used here; only told")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        write_runs(root, arguments.runs - 1, arguments.samples // 2, arguments.metrics // 2)
        # One has as many as all others together: a long training with a large evaluation.
        _write_run(root / "large", random.Random(1), arguments.samples // 2, arguments.metrics // 2)
        some = "project-0/run-0000"
        pages = {
            "runs": "/",
            "runs, second page": "/?page=2",
            "runs, searched": "/?search=run-0004",
            "a run": f"/run/{some}",
            "answers of it": f"/samples/{some}",
            "answers, searched": f"/samples/{some}?search=revenue",
            "the large run": "/run/large",
            "answers of it (large)": "/samples/large?suite=general",
            "answers, last page (large)": "/samples/large?suite=general&page=999999",
            "answers, searched (large)": "/samples/large?suite=general&search=nowhere",
            "two runs beside each other": f"/compare?run={some}&run=large",
            "business case": "/roi",
            "explanations": "/explain",
        }
        with _Dashboard(root) as dashboard:
            rows = []
            for name, path in pages.items():
                first, size = dashboard.seconds(path)
                again = [dashboard.seconds(path)[0] for _ in range(arguments.rounds)]
                rows.append(
                    {
                        "page": name,
                        "first time, ms": f"{1000 * first:.0f}",
                        "then, ms (median)": f"{1000 * statistics.median(again):.0f}",
                        "kB": f"{size / 1000:.0f}",
                    }
                )
            listening, memory = dashboard.seconds_to_listen, dashboard.megabytes()
    text = (
        f"{arguments.runs} runs with {arguments.samples:,} answered requests and {arguments.metrics:,} rows of "
        "metrics, of which one run has half. "
        f"It listens {listening:.1f} s after its start, and had {memory:.0f} MB of memory at most.\n\n{table(rows)}"
    )
    data = {
        "rows": rows,
        "seconds_to_listen": listening,
        "megabytes": memory,
        "settings": vars(arguments) | {"output": None},
    }
    publish("dashboard", "The dashboard with many runs", text, data, arguments.output, where)


if __name__ == "__main__":
    main()
