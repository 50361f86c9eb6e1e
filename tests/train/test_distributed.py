"""Two real processes (gloo, CPU) train as one does.

Shown: DDP through torchrun and `accelerate launch`, with `SelfAugTrainer`; FSDP2's `fully_shard` directly, with
`alignment_loss`; FSDP2 through accelerate, which takes it on GPUs only, on devices that are pretended
(tests/pretend_cuda) where there aren't two. Not shown: DeepSpeed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import relative, run_options

SCRIPT = Path(__file__).with_name("tiny_training.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip


def launch(launcher: list[str], script: Path, *arguments: str, ends_with: int = 0) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if launcher is FSDP2 and torch.cuda.device_count() < 2:
        environment |= {"PRETEND_CUDA": "1", "PYTHONPATH": str(SCRIPT.parents[1] / "pretend_cuda")}
    finished = subprocess.run(
        [sys.executable, *launcher, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert finished.returncode == ends_with, finished.stderr[-4000:]
    assert "find_unused_parameters" not in finished.stderr


def assert_same_training(two: Any, one: Any, *, padding_free: bool = False) -> None:
    assert (two["processes"], one["processes"]) == (2, 1)
    assert relative(two["gradients"], one["gradients"]) < 1e-5
    assert relative(two["final"], one["final"]) < 1e-4
    logged = [[e for e in result["history"] if "nll" in e] for result in (two, one)]
    assert len(logged[0]) == len(logged[1]) == 5
    for entry, expected in zip(*logged, strict=True):
        for name in ("loss", "nll", "alignment_loss", "num_tokens", "alpha"):
            assert entry[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-7), name
    if not two["evaluation"]:
        return
    if not padding_free:  # where one has a prediction for each batch
        # Seven rows in batches of two over two processes: one of them has a row less.
        assert two["predictions"] == one["predictions"] == 7
        for name in ("eval_rows", "test_rows", "apart_rows"):
            assert two["evaluation"][name] == one["evaluation"][name]
            assert len(one["evaluation"][name]) == 8
    names = ("nll", "alignment_loss", "loss", "mean_token_accuracy")
    for name in (f"{part}_{name}" for part in ("eval", "test") for name in names):
        assert two["evaluation"][name] == pytest.approx(one["evaluation"][name], rel=1e-4), name


def assert_as_one(folder: Path, options: dict[str, Any]) -> None:
    """What two processes have written to the folder is what this one gets from these options."""
    two = [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in (0, 1)]
    one = run_options(
        {
            **options,
            "reference": "adapter_off" if options.get("lora", True) else "frozen_copy",
            "per_device_train_batch_size": 4 * options.get("gradient_accumulation_steps", 1),
            "gradient_accumulation_steps": 1,
        }
    )
    assert_same_training(two[0], one, padding_free=bool(options.get("padding_free")))
    assert relative(two[1]["final"], two[0]["final"]) == 0.0
    if options.get("reference") == "cache":
        assert two[0]["reference_bytes"] > 0
        assert min(result["cache_batches"] for result in two) > 0  # each process has computed a part


RECIPE = SCRIPT.parents[2] / "recipes" / "accelerate-fsdp2.yaml"
FSDP2 = ["-m", "accelerate.commands.launch", "--config_file", str(RECIPE), "--num_processes", "2",
         "--mixed_precision", "no", "--main_process_port", "0"]  # fmt: skip

# By launcher, what the two processes train one after the other: most of the time goes to starting them.
LAUNCHES: dict[str, tuple[list[str], list[dict[str, Any]]]] = {
    "torchrun": (
        TORCHRUN,
        [
            {"evaluates_first": True},
            {
                "position_fraction": 0.5,
                "reference": "cache",
                "rows": 400,
                "drift_limit": 0.01,
                "anchor_share": 0.7,
            },
        ],
    ),
    "accelerate launch": (
        ACCELERATE,
        [{"padding_free": True, "gradient_accumulation_steps": 2}, {"row_fraction": 0.4}],
    ),
}


needs_devices = pytest.mark.skipif(
    torch.cuda.device_count() < 2 and (shutil.which("g++") is None or torch.version.cuda is not None),
    reason="needs two GPUs, or g++ and a build of torch without CUDA",
)

# By accelerate, which shards on GPUs only.
SHARDED: list[dict[str, Any]] = [
    {"reference": "adapter_off"},
    {"reference": "adapter_off", "row_fraction": 0.4, "gradient_accumulation_steps": 2, "padding_free": True},
    {"reference": "adapter_off", "anchor_share": 0.7, "position_fraction": 0.5},
    # Others than its own rows can't be evaluated then.
    {"reference": "cache", "lora": None, "learning_rate": 1e-3, "eval_rows": 0},
]


@needs_devices
def test_two_processes_that_share_the_weights_train_as_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    two_processes_train_as_one(FSDP2, SHARDED, tiny_model_dir, tmp_path)


@needs_devices
def test_shared_weights_resume_after_a_kill(tiny_model_dir: Path, tmp_path: Path) -> None:
    options = {
        "model": str(tiny_model_dir),
        "rows": 40,
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    for name, changes in {"whole": {}, "cut": {"kill_step": 3}, "resumed": {"resume": True}}.items():
        output = tmp_path / ("out" if changes else "out-of-whole")
        (tmp_path / name).mkdir()
        (tmp_path / name / "options.json").write_text(
            json.dumps({**options, "output_dir": str(output), **changes})
        )
        launch(FSDP2, SCRIPT, str(tmp_path / name), ends_with=1 if name == "cut" else 0)
    whole, resumed = (
        torch.load(tmp_path / name / "result-0.pt", weights_only=True) for name in ("whole", "resumed")
    )
    assert not (tmp_path / "cut" / "result-0.pt").exists()
    assert relative(resumed["final"], whole["final"]) == 0.0


@pytest.mark.parametrize("name", LAUNCHES)
def test_two_processes_train_as_one(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    two_processes_train_as_one(*LAUNCHES[name], tiny_model_dir, tmp_path)


def two_processes_train_as_one(
    launcher: list[str], trainings: list[dict[str, Any]], tiny_model_dir: Path, tmp_path: Path
) -> None:
    anchors = tmp_path / "anchors.jsonl"
    anchors.write_text('{"input_ids": [3, 4, 5, 6]}\n{"input_ids": [9, 8, 7, 3, 11]}\n', encoding="utf-8")
    common = {
        "model": str(tiny_model_dir),
        "output_dir": str(tmp_path / "out"),
        "rows": 40,
        "eval_rows": 7,
        "max_steps": 5,
        "different": True,
        "alpha": 2.0,
    }
    trainings = [
        {**common, **changes, **({"anchors": str(anchors)} if "anchor_share" in changes else {})}
        for changes in trainings
    ]
    folders = [tmp_path / str(place) for place, _ in enumerate(trainings)]
    for folder, options in zip(folders, trainings, strict=True):
        folder.mkdir()
        of_two = {
            **options,
            "reference_cache_dir": str(folder / "cache"),
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
        }
        (folder / "options.json").write_text(json.dumps(of_two))
    launch(launcher, SCRIPT, *map(str, folders))
    for folder, options in zip(folders, trainings, strict=True):
        assert_as_one(folder, options)


def test_sharded_models_have_the_gradients_of_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND_CUDA", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch(TORCHRUN, SCRIPT.with_name("fsdp_gradients.py"), str(tmp_path / "result.json"))
    results = json.loads((tmp_path / "result.json").read_text())
    kinds = ["lora, tied head", "lora, untied head", "full, tied head", "full, untied head"]
    some = [f"{kind}, tied head, some rows" for kind in ("lora", "full")]
    assert list(results) == [*kinds, *(f"{kind}, accelerate" for kind in kinds), *some]
    for case, result in results.items():
        assert result["sharded"], case
        assert result["relative"] < 1e-5, case
        assert result["sums"] == pytest.approx(result["expected_sums"], rel=1e-5), case
        assert result["sums"][1] > 1e-4, case  # there was something to align
        head = [name for name in result["gradients"] if "lm_head" in name or "embed_tokens" in name]
        assert len(head) == (0 if case.startswith("lora") else 2 if "untied" in case else 1), case
