"""The drift limit on real training of a tiny model, and the controller's place in the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import curve, make_trainer, text_rows

STEPS = 100
LIMITS = [0.008, 0.004, 0.002]  # plain fine-tuning drifts by 0.0126
OPTIONS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
}


def last_quarter(model: Path, folder: Path, **changes: object) -> tuple[float, list[float]]:
    trainer = make_trainer(model, folder, text_rows(200), **{**OPTIONS, **changes})
    trainer.train()
    losses = [value for (value,) in curve(trainer, "alignment_loss")][-STEPS // 4 :]
    return sum(losses) / len(losses), [value for (value,) in curve(trainer, "alpha")]


@pytest.mark.parametrize("limit", LIMITS)
def test_last_quarter_is_within_15_percent_of_the_limit(
    limit: float, tiny_model_dir: Path, tmp_path: Path
) -> None:
    mean, alphas = last_quarter(tiny_model_dir, tmp_path, drift_limit=limit)
    assert mean == pytest.approx(limit, rel=0.15)
    assert alphas[0] == 0.5
    assert len(set(alphas)) > STEPS // 2


def test_limits_are_ones_that_a_constant_alpha_misses(tiny_model_dir: Path, tmp_path: Path) -> None:
    mean, alphas = last_quarter(tiny_model_dir, tmp_path, alpha=0.5)
    assert set(alphas) == {0.5}
    assert sum(abs(mean / limit - 1) > 0.15 for limit in LIMITS) >= 2
