"""The example without trl runs, learns, and does not depend on the micro-batch."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_loop.py"


def history(model_dir: Path, tokenizer: Any, **changes: Any) -> list[tuple[float, float]]:
    example = runpy.run_path(str(EXAMPLE))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    torch.manual_seed(0)
    result: list[tuple[float, float]] = example["train"](
        model, tokenizer, example["ROWS"], **{"steps": 8, "learning_rate": 1e-2, **changes}
    )
    return result


def test_it_learns_and_stays_near(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    free = history(tiny_model_dir, tiny_tokenizer, alpha=1e-9)
    aligned = history(tiny_model_dir, tiny_tokenizer, alpha=20.0)
    assert free[0][1] == aligned[0][1] == 0.0  # both models are still the same
    assert aligned[-1][0] < aligned[0][0] - 0.05
    assert 0 < aligned[-1][1] < 0.7 * free[-1][1]
    plain = history(tiny_model_dir, tiny_tokenizer, alpha=0.0)
    assert all(alignment == 0 for _, alignment in plain)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_micro_batch_changes_nothing(micro_batch: int, tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    expected = history(tiny_model_dir, tiny_tokenizer, alpha=2.0, micro_batch=4)
    got = history(tiny_model_dir, tiny_tokenizer, alpha=2.0, micro_batch=micro_batch)
    for step, other in zip(got, expected, strict=True):
        assert step == pytest.approx(other, abs=1e-4)


def test_it_runs_as_a_script(tiny_model_dir: Path) -> None:
    finished = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tiny_model_dir)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert finished.stdout.count("alignment loss") == 10
