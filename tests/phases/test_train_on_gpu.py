"""What only a GPU can show; left out where there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.model.reference import AdapterOff
from selfaug.phases.canary import canary_problems
from selfaug.phases.run_models import load_run_models, trained_weights
from selfaug.records import read_lines, write_lines
from selfaug.rundir import RunDir

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def _rows(folder: Path) -> Path:
    file = folder / "rows.jsonl"
    rows = [{"prompt": f"the revenue in year {n}", "completion": f" was {n} million"} for n in range(16)]
    write_lines(file, rows)
    return file


def _train(folder: Path, model: Path, name: str, *sets: str) -> list[dict[str, float]]:
    arguments = [
        "train",
        "--model",
        str(model),
        "--train",
        str(_rows(folder)),
        "--output",
        str(folder / name),
    ]
    arguments += ["--steps", "6", "--set", "train.batch_size=4", "--set", "train.gradient_accumulation=1"]
    arguments += ["--set", "selfaug.monitor_prompts=0", *(part for one in sets for part in ("--set", one))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (metrics,) = (folder / name).glob("metrics.jsonl")
    return [line for line in read_lines(metrics) if "alignment_loss" in line]


@pytest.mark.parametrize("reference", ["adapter_off", "cache"])
def test_first_step_is_exactly_aligned_and_later_ones_are_not(tmp_path, tiny_model_dir, reference):
    lines = _train(tmp_path, tiny_model_dir, reference, f"selfaug.reference={reference}")
    assert (
        lines[0]["alignment_loss"] == 0 if reference == "adapter_off" else lines[0]["alignment_loss"] < 1e-5
    )
    assert lines[-1]["alignment_loss"] > 0
    assert lines[-1]["nll"] < lines[0]["nll"]


@pytest.mark.parametrize(
    "sets",
    [
        ["lora.method=full"],
        ["model.dtype=float16"],
        ["train.padding_free=true"],
        ["train.packing=true"],
        ["train.gradient_checkpointing=true"],
        ["selfaug.position_fraction=0.5"],
    ],
)
def test_every_kind_of_training_starts_aligned_and_learns(tmp_path, tiny_model_dir, sets):
    lines = _train(tmp_path, tiny_model_dir, "kind", *sets)
    assert lines[0]["alignment_loss"] < 1e-5
    assert lines[-1]["nll"] < lines[0]["nll"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_was_trained_is_what_is_loaded(tmp_path, tiny_model_dir, dtype):
    _train(
        tmp_path,
        tiny_model_dir,
        "run",
        f"model.dtype={dtype}",
        "selfaug.alpha=0.1",
        "train.learning_rate=1e-2",
    )
    run = RunDir(tmp_path / "run")
    for device in ("cuda", "cpu"):
        weights = trained_weights(run, load_config(run.config))[0]
        _, tuned = load_run_models(run, load_config(run.config), weights, device=torch.device(device))
        assert canary_problems(run, tuned, AdapterOff(tuned)) == []


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_four_bit_weights_are_trained_over(tmp_path, tiny_model_dir):
    lines = _train(tmp_path, tiny_model_dir, "qlora", "model.quantization=4bit")
    assert lines[0]["alignment_loss"] == 0
    assert lines[-1]["alignment_loss"] > 0
    assert lines[-1]["nll"] < lines[0]["nll"]
    assert (tmp_path / "qlora" / "adapter" / "adapter_model.safetensors").exists()
