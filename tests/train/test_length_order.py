"""Rows of like length share a step, in an order of each epoch's own that its seed gives again."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tiny_training import make_trainer, text_rows

from selfaug.train.length_order import LengthOrder


def order(trainer, epoch: int, state: int = 0) -> list[int]:
    """In which rows come; what torch has drawn before makes no difference."""
    torch.manual_seed(state)
    sampler = trainer._get_train_sampler()
    assert isinstance(sampler, LengthOrder)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_rows_of_a_step_are_of_like_length(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_model_dir,
        tmp_path / "out",
        text_rows(64),
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        seed=3,
    )
    lengths = [len(row["input_ids"]) for row in trainer.train_dataset]

    def spread(rows: list[int]) -> float:
        steps = [[lengths[row] for row in rows[begin : begin + 4]] for begin in range(0, 64, 4)]
        return sum(max(step) - min(step) for step in steps)

    first = order(trainer, 0)
    assert sorted(first) == list(range(64))
    shuffled = random.Random(0).sample(range(64), 64)
    assert spread(first) < 0.6 * spread(shuffled)
    assert order(trainer, 0, state=5) == first
    assert order(trainer, 1) != first
    assert order(trainer, 1, state=5) == order(trainer, 1)


def test_other_orders_are_the_trainers_own(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_dir, tmp_path / "out", text_rows(8))
    assert not isinstance(trainer._get_train_sampler(), LengthOrder)
