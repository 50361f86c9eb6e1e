"""Training that was killed and resumed gives the adapter of training that was not, bit by bit.

The run that is killed is a process of its own, ended by SIGKILL: nothing gets a chance to be tidied up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import LORA, curve, make_trainer, relative, run_options, text_rows, trained
from transformers import TrainerCallback

from selfaug.errors import ConfigError, StorageError
from selfaug.model.reference import CachedReference
from selfaug.rundir import CHECKPOINT_STATE, latest_complete_checkpoint

SCRIPT = Path(__file__).with_name("tiny_training.py")


def options_of(model: Path, output_dir: Path, **options: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "output_dir": str(output_dir),
        "rows": 20,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 9,
        "save_strategy": "steps",
        "save_steps": 3,
        "alpha": 2.0,
        **options,
    }


def run_until_killed(folder: Path, options: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "options.json").write_text(json.dumps(options))
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr[-3000:]


def metrics(result: dict[str, Any]) -> list[dict[str, float]]:
    return [
        {name: value for name, value in entry.items() if name != "tokens_per_second"}
        for entry in result["history"]
        if "nll" in entry
    ]


CASES = {
    "LoRA with everything that has a state": {
        "drift_limit": 0.02,
        "position_fraction": 0.5,
        "lora": {**LORA, "lora_dropout": 0.2},
        "anchor_share": 0.7,
    },
    "full fine-tuning with a cache": {"lora": None, "reference": "cache", "learning_rate": 1e-3},
    # Cut off in its second epoch, which has an order of its own.
    "rows of like length": {"train_sampling_strategy": "group_by_length", "rows": 16, "kill_step": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_after_kill_is_the_uninterrupted_run(case: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    options = {"reference_cache_dir": str(tmp_path / "cache"), **CASES[case]}
    kill_step = options.pop("kill_step", 5)
    if "anchor_share" in options:
        options["anchors"] = str(tmp_path / "anchors.jsonl")
        (tmp_path / "anchors.jsonl").write_text('{"input_ids": [3, 4, 5, 6]}\n{"input_ids": [9, 8, 7]}\n')
    whole = run_options(options_of(tiny_model_dir, tmp_path / "whole", **options))
    output = tmp_path / "cut" / "out"
    run_until_killed(tmp_path / "cut", options_of(tiny_model_dir, output, **options, kill_step=kill_step))
    latest = latest_complete_checkpoint(output)
    assert latest is not None
    assert latest.name == f"checkpoint-{kill_step // 3 * 3}"
    resumed = run_options(options_of(tiny_model_dir, output, **options, resume=True))
    assert relative(resumed["final"], whole["final"]) == 0.0
    assert metrics(resumed) == metrics(whole)
    assert [entry["step"] for entry in metrics(resumed)] == list(range(1, 10))
    alphas = {entry["alpha"] for entry in metrics(whole)}
    assert (len(alphas) > 5) == ("drift_limit" in options)


@pytest.mark.parametrize("lora", [LORA, None])
def test_what_auto_has_chosen_stays_where_the_disk_has_less_room(
    lora: dict[str, Any] | None, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the cache fits depends on what is free, and resuming must not be another training for that."""
    options = options_of(
        tiny_model_dir,
        tmp_path / "out",
        lora=lora,
        learning_rate=1e-3,
        reference_cache_dir=str(tmp_path / "cache"),
        rows=8,
    )
    whole = run_options(options)
    assert list((tmp_path / "cache").glob("piece-*"))
    for step in (6, 9):
        shutil.rmtree(tmp_path / "out" / f"checkpoint-{step}")
    monkeypatch.setattr("selfaug.train.reference_choice.has_room", lambda size, folder: False)
    trainer = make_trainer(
        tiny_model_dir,
        tmp_path / "out",
        lora=lora,
        **{
            name: value
            for name, value in options.items()
            if name not in ("model", "output_dir", "lora", "rows")
        },
    )
    assert trainer.reference_kind == ("adapter_off" if lora else "frozen_copy")
    trainer.evaluate(trainer.train_dataset)  # the reference is ready for it, and another is needed afterwards
    trainer.train(resume_from_checkpoint=True)
    assert trainer.reference_kind == "cache"
    assert isinstance(trainer._reference, CachedReference)
    assert relative(trained(trainer), whole["final"]) == 0.0


def test_trained_anew_after_it_was_broken_off_in_the_same_process(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """As in a notebook: what the steps that were thrown away had gathered is in no log, and not in alpha."""

    class BreakOff(TrainerCallback):
        breaks = True

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5 and self.breaks:
                self.breaks = False
                raise KeyboardInterrupt

    options = {
        "drift_limit": 0.02,
        "logging_steps": 3,
        "save_strategy": "steps",
        "save_steps": 3,
        "max_steps": 9,
    }
    whole = make_trainer(tiny_model_dir, tmp_path / "whole", **options)
    whole.train()
    cut = make_trainer(tiny_model_dir, tmp_path / "cut", callbacks=[BreakOff()], **options)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    cut.train(resume_from_checkpoint=True)
    names = ("step", "nll", "alignment_loss", "alpha", "num_tokens")
    assert curve(cut, *names) == curve(whole, *names)
    assert relative(trained(cut), trained(whole)) == 0.0


def test_frozen_copy_is_made_before_a_checkpoint_is_loaded(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The reference of a resumed full fine-tuning is the base model, not the checkpoint."""
    options = options_of(
        tiny_model_dir, tmp_path / "whole", lora=None, reference="frozen_copy", learning_rate=1e-3
    )
    whole = run_options(options)
    shutil.rmtree(tmp_path / "whole" / "checkpoint-9")
    shutil.rmtree(tmp_path / "whole" / "checkpoint-6")
    resumed = run_options({**options, "resume": True})
    assert relative(resumed["final"], whole["final"]) == 0.0
    assert metrics(resumed) == metrics(whole)


def test_incomplete_checkpoint_is_passed_over(tiny_model_dir: Path, tmp_path: Path) -> None:
    """As if killed while checkpoint 6 was being written: its state, which comes last, is missing."""
    options = options_of(tiny_model_dir, tmp_path / "whole")
    whole = run_options(options)
    shutil.rmtree(tmp_path / "whole" / "checkpoint-9")
    incomplete = tmp_path / "whole" / "checkpoint-6"
    (incomplete / CHECKPOINT_STATE).unlink()
    (incomplete / "optimizer.pt").write_bytes(b"")
    resumed = run_options({**options, "resume": True})
    assert relative(resumed["final"], whole["final"]) == 0.0
    assert metrics(resumed) == metrics(whole)


def test_killed_while_the_cache_is_built(tiny_model_dir: Path, tmp_path: Path) -> None:
    options = {"reference": "cache", "rows": 500, "max_steps": 4}
    whole = run_options(
        options_of(tiny_model_dir, tmp_path / "a", **options, reference_cache_dir=str(tmp_path / "b"))
    )
    output, cache = tmp_path / "cut" / "out", tmp_path / "c"
    options["reference_cache_dir"] = str(cache)
    run_until_killed(tmp_path / "cut", options_of(tiny_model_dir, output, **options, kill_document=10))
    assert list(cache.glob("piece-*"))
    again = run_options(options_of(tiny_model_dir, output, **options))
    assert 0 < again["cache_batches"] < whole["cache_batches"]  # it has gone on
    assert relative(again["final"], whole["final"]) == 0.0
    assert metrics(again) == metrics(whole)


def test_checkpoints_that_can_not_be_resumed(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_dir, tmp_path)
    with pytest.raises(StorageError, match="no complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(StorageError, match="not written to its end"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}


class BeforeStep(TrainerCallback):
    """Does something before a step ends, and so before its checkpoint is written."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.action(state)


def test_a_save_that_is_cut_off_leaves_the_checkpoint_before_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    """With one checkpoint to keep: the one before goes when the new one has all of its files."""
    in_the_way = tmp_path / "checkpoint-2" / f".{CHECKPOINT_STATE}"
    trainer = make_trainer(
        tiny_model_dir,
        tmp_path,
        callbacks=[BeforeStep(2, lambda state: in_the_way.mkdir(parents=True))],
        save_total_limit=1,
        **SAVING,
    )
    with pytest.raises(IsADirectoryError):
        trainer.train()
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").exists()
    assert latest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    in_the_way.rmdir()
    make_trainer(tiny_model_dir, tmp_path, save_total_limit=1, **SAVING).train(resume_from_checkpoint=True)
    assert [one.name for one in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    kept = torch.load(tmp_path / "checkpoint-3" / "training_args.bin", weights_only=False)
    assert kept.save_total_limit == 1


def test_a_checkpoint_that_is_deleted_is_incomplete_first_and_the_best_one_is_not_deleted(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[tuple[str, bool, bool]] = []

    def delete(folder: Any, *args: Any, **options: Any) -> None:
        name, there = os.path.basename(folder), os.path.exists
        if name.startswith("checkpoint-"):
            deleted.append((name, there(f"{folder}/optimizer.pt"), there(f"{folder}/{CHECKPOINT_STATE}")))
        rmtree(folder, *args, **options)

    rmtree = shutil.rmtree
    monkeypatch.setattr("selfaug.train.checkpoints.shutil.rmtree", delete)

    def is_best(state: Any) -> None:
        state.best_model_checkpoint = str(tmp_path / "checkpoint-1")

    trainer = make_trainer(
        tiny_model_dir, tmp_path, callbacks=[BeforeStep(2, is_best)], save_total_limit=2, **SAVING
    )
    trainer.train()
    assert deleted == [("checkpoint-2", True, False)]
    assert latest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_what_a_kill_left_of_a_checkpoint_is_deleted_before_complete_ones(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    def leave(_: Any) -> None:
        (tmp_path / "checkpoint-7").mkdir()

    trainer = make_trainer(
        tiny_model_dir, tmp_path, callbacks=[BeforeStep(3, leave)], save_total_limit=2, **SAVING
    )
    trainer.train()
    assert sorted(one.name for one in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]


def test_resuming_with_another_alpha_drift_limit_or_number_of_processes_is_refused(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Alpha goes on from the checkpoint's: another one that is given would not be taken."""
    options: dict[str, Any] = {**SAVING, "max_steps": 1}
    make_trainer(tiny_model_dir, tmp_path, alpha=0.25, drift_limit=0.1, **options).train()
    for changed in ({"alpha": 2.0}, {"drift_limit": 0.2}, {"drift_limit": None}):
        given = {"alpha": 0.25, "drift_limit": 0.1, **changed}
        trainer = make_trainer(tiny_model_dir, tmp_path, **given, **options)
        with pytest.raises(ConfigError) as error:
            trainer.train(resume_from_checkpoint=True)
        both = "alpha={alpha} and drift_limit={drift_limit}"
        assert "with alpha=0.25 and drift_limit=0.1," in error.value.message
        assert f", and {both.format(**given)} is given." in error.value.message
    file = tmp_path / "checkpoint-1" / CHECKPOINT_STATE
    state = json.loads(file.read_text())
    assert state["processes"] == 1
    file.write_text(json.dumps({**state, "processes": 4}))
    trainer = make_trainer(tiny_model_dir, tmp_path, alpha=0.25, drift_limit=0.1, **options)
    with pytest.raises(ConfigError, match="trained by 4 processes, and 1 would go on"):
        trainer.train(resume_from_checkpoint=True)
    trainer.restore(tmp_path / "checkpoint-1")  # nothing is trained on


def test_no_step_is_trained_after_the_last_checkpoint(tiny_model_dir: Path, tmp_path: Path) -> None:
    """In the middle of an epoch of five steps, which the Trainer enters again."""
    options = options_of(tiny_model_dir, tmp_path / "out", lr_scheduler_type="constant")
    whole = run_options(options)
    resumed = run_options({**options, "resume": True})
    assert relative(resumed["final"], whole["final"]) == 0.0
    assert metrics(resumed) == metrics(whole)


def test_more_steps_after_a_finished_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    """With a constant learning rate, 4 steps and 4 more are 8 steps."""
    changes = {"lr_scheduler_type": "constant", "per_device_train_batch_size": 3, "logging_steps": 3}
    whole = make_trainer(tiny_model_dir, tmp_path / "a", text_rows(10), max_steps=8, **changes)
    whole.train()
    first = make_trainer(
        tiny_model_dir,
        tmp_path / "b",
        text_rows(10),
        max_steps=4,
        save_strategy="steps",
        save_steps=4,
        **changes,
    )
    first.train()
    shutil.rmtree(tmp_path / "a")
    more = make_trainer(tiny_model_dir, tmp_path / "b", text_rows(10), max_steps=8, **changes)
    more.train(resume_from_checkpoint=True)
    assert relative(trained(more), trained(whole)) == 0.0
    assert curve(more, "num_tokens")[-1] == curve(whole, "num_tokens")[-1]
