"""The best checkpoint by held-out rows: which one it is, that it is kept, and that the run ends with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfaug.config import TrainConfig
from selfaug.errors import ConfigError, StorageError
from selfaug.phases.best_checkpoint import BestCheckpoint, load_adapter_weights
from selfaug.phases.progress import Progress
from selfaug.phases.suites import Suite
from selfaug.phases.train import Interrupted, train
from selfaug.records import read_lines
from selfaug.report.document_text import document_markdown
from selfaug.report.open_report import report_on

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]

GIVEN: list[float] = []
"""What the scorer below gives next, row by row; then zeros."""


def as_given(answer: str, gold: str) -> float:
    return GIVEN.pop(0) if GIVEN else 0.0


@pytest.fixture(autouse=True)
def nothing_given() -> None:
    GIVEN.clear()


def with_rows(settings: Settings, run: Path, *more: str) -> TrainConfig:
    return settings(
        run, f"data.eval={settings(run).data.train[0]}", "train.best_of_rows=2", "train.keep_checkpoints=1",
        f"train.best_scorer={__name__}:as_given", *more,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_the_run_ends_with_the_best_checkpoint_and_it_was_kept(settings: Settings, tmp_path: Path) -> None:
    GIVEN.extend([0.0, 0.25, 1.0, 0.5, 0.5, 0.5])
    told: list[Progress] = []
    record = train(with_rows(settings, tmp_path / "run"), on_progress=told.append).record
    assert record["best"]["scores"] == {"2": 0.125, "4": 0.75, "6": 0.5}
    assert record["best"]["step"] == 4
    assert any("best checkpoint is that of step 4" in progress.message for progress in told)
    run = tmp_path / "run"
    # The model never ends an answer by itself.
    assert [line["task_cut_off"] for line in read_lines(run / "metrics.jsonl") if "task_score" in line] == [
        1.0
    ] * 3
    assert any("(2 answers were cut off at 64 tokens)" in progress.message for progress in told)
    card = (run / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "The weights are those of step 4: the best of 3 checkpoints on 2 held-out rows" in card
    # One checkpoint is kept beside the best.
    assert {folder.name for folder in (run / "checkpoints").glob("checkpoint-*")} == {
        "checkpoint-4",
        "checkpoint-6",
    }
    ended, best, last = (
        weights(run / name) for name in ("adapter", "checkpoints/checkpoint-4", "checkpoints/checkpoint-6")
    )
    assert ended.keys() == best.keys()
    assert all(torch.equal(ended[name], best[name]) for name in best)
    assert any(not torch.equal(ended[name], last[name]) for name in last)
    # What is recorded was measured with the weights that were written.
    evaluations = [line["eval_nll"] for line in read_lines(run / "metrics.jsonl") if "eval_nll" in line]
    assert record["evaluation"]["eval_nll"] == pytest.approx(evaluations[1], rel=1e-5)
    assert evaluations[2] != pytest.approx(evaluations[1], rel=1e-5)


def test_the_last_one_may_be_the_best(settings: Settings, tmp_path: Path) -> None:
    GIVEN.extend([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    record = train(with_rows(settings, tmp_path / "run")).record
    assert record["best"]["step"] == 6
    ended, last = (weights(tmp_path / "run" / name) for name in ("adapter", "checkpoints/checkpoint-6"))
    assert all(torch.equal(ended[name], last[name]) for name in last)


def cut_off_at_step_4(config: TrainConfig) -> None:
    def cut(progress: Progress) -> None:
        if progress.stage == "score" and "step 4" in progress.message:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(config, on_progress=cut)


def test_a_resumed_run_knows_the_earlier_scores(settings: Settings, tmp_path: Path) -> None:
    GIVEN.extend([1.0, 1.0])
    config = with_rows(settings, tmp_path / "run")
    cut_off_at_step_4(config)
    record = train(config, resume=True).record
    assert record["best"]["scores"] == {"2": 1.0, "4": 0.0, "6": 0.0}
    assert record["best"]["step"] == 2
    ended, best = (weights(tmp_path / "run" / name) for name in ("adapter", "checkpoints/checkpoint-2"))
    assert all(torch.equal(ended[name], best[name]) for name in best)


def test_a_checkpoint_that_was_not_scored_before_the_kill_is_scored_at_the_resumption(
    settings: Settings, tmp_path: Path
) -> None:
    config = with_rows(settings, tmp_path / "run")

    def cut(progress: Progress) -> None:
        if progress.stage == "drift" and "step 4" in progress.message:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(config, on_progress=cut)
    GIVEN.extend([1.0, 0.5])
    record = train(config, resume=True).record
    assert record["best"]["scores"] == {"2": 0.0, "4": 0.75, "6": 0.0}
    assert record["best"]["step"] == 4


def test_a_last_checkpoint_that_was_not_scored_is_scored_and_no_step_is_trained(
    settings: Settings, tmp_path: Path
) -> None:
    config = with_rows(settings, tmp_path / "run", "train.steps=4", "train.save_steps=2")

    def cut(progress: Progress) -> None:
        if progress.stage == "drift" and "step 4" in progress.message:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(config, on_progress=cut)
    GIVEN.extend([1.0, 0.5])
    record = train(config, resume=True).record
    assert record["best"]["scores"] == {"2": 0.0, "4": 0.75}
    assert record["steps"] == record["best"]["step"] == 4


def test_what_decides_the_best_checkpoint_stays_the_same_when_resumed(
    settings: Settings, tmp_path: Path
) -> None:
    rows = tmp_path / "held-out.jsonl"
    lines = Path(settings(tmp_path).data.train[0]).read_text(encoding="utf-8")
    rows.write_text(lines, encoding="utf-8")
    config = with_rows(settings, tmp_path / "run", f"data.eval={rows}")
    cut_off_at_step_4(config)
    with pytest.raises(ConfigError, match="other settings") as refused:
        train(with_rows(settings, tmp_path / "run", f"data.eval={rows}", "train.save_steps=3"), resume=True)
    assert refused.value.problems == ["train.save_steps: the run has 2, now it is 3"]
    rows.write_text(lines.replace("14 million", "15 million"), encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be resumed") as refused:
        train(config, resume=True)
    assert "held-out rows, by which its checkpoint is chosen" in refused.value.problems[0]
    rows.rename(tmp_path / "elsewhere.jsonl")
    moved = with_rows(settings, tmp_path / "run", f"data.eval={tmp_path / 'elsewhere.jsonl'}")
    (tmp_path / "elsewhere.jsonl").write_text(lines, encoding="utf-8")
    assert train(moved, resume=True).record["steps"] == 6


def test_none_within_the_drift_that_is_allowed_keeps_the_last(settings: Settings, tmp_path: Path) -> None:
    told: list[Progress] = []
    config = with_rows(settings, tmp_path / "run", "selfaug.stop_at_drift=1e-12")
    record = train(config, on_progress=told.append).record
    assert record["best"]["step"] == record["steps"] == 2
    assert any("no checkpoint is within" in progress.message for progress in told)
    card = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    page = document_markdown(report_on(tmp_path / "run"))
    for shown in (card, page.replace("\\", "")):  # which escapes underscores
        text = " ".join(shown.split())
        assert (
            "No checkpoint was within selfaug.stop_at_drift; the weights are the last one's, of step 2."
            in text
        )
        assert "The weights are those of step" not in text


def callback(lines: list[dict[str, Any]], bound: float | None) -> BestCheckpoint:
    suite = Suite([], [], [], [], [], lambda index, answer: 0.0)
    return BestCheckpoint(suite, None, lines, lambda step: None, bound, lambda found: None)


def test_the_earliest_of_equals_within_the_bound() -> None:
    lines = [
        {"step": step, "task_score": score, "general_drift": drift}
        for step, score, drift in ((10, 0.5, 0.01), (20, 0.8, 0.02), (30, 0.8, 0.02), (40, 0.9, 0.06))
    ]
    assert callback(lines, None).best == 40
    assert callback(lines, 0.05).best == 20
    assert callback(lines, 0.001).best is None
    assert callback([], None).best is None
    # A model that had diverged has no drift, and is within no bound.
    diverged = [*lines, {"step": 50, "task_score": 0.95, "general_drift": None}]
    assert callback(diverged, 0.05).best == 20
    state = SimpleNamespace(global_step=40, best_metric=None, best_model_checkpoint=None)
    callback(lines, 0.05).on_train_begin(SimpleNamespace(output_dir="out"), state, None, model=object())
    assert state.best_model_checkpoint == str(Path("out") / "checkpoint-20")
    assert state.best_metric == 0.8


def test_scores_that_are_all_equal_choose_nothing_and_the_last_is_kept() -> None:
    equal = [{"step": step, "task_score": 0.0, "general_drift": step / 1000} for step in (10, 20, 30)]
    assert callback(equal, None).best == 10
    assert callback(equal, None).chosen(30) == 30
    assert callback(equal, None).report(SimpleNamespace(global_step=30))["step"] == 30
    assert callback(equal, 0.025).chosen(30) == 10  # the last one is beyond the bound
    assert callback(equal, 0.001).chosen(30) is None
    assert callback([*equal, {"step": 40, "task_score": -1.0}], None).chosen(40) == 10


def test_a_best_checkpoint_that_is_gone_is_an_error(finished_run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "checkpoint-2"
    empty.mkdir()
    with pytest.raises(StorageError, match="was the best checkpoint"):
        load_adapter_weights(None, empty)
    assert not list(empty.iterdir())


def test_settings_that_dont_fit_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"best_of_rows: needs data\.eval"):
        settings(tmp_path / "run", "train.best_of_rows=2")
    with pytest.raises(ConfigError, match="keeps the best adapter"):
        with_rows(settings, tmp_path / "run", "lora.method=full")
    with pytest.raises(ConfigError, match="no scorer"):
        train(with_rows(settings, tmp_path / "run", "train.best_scorer=unheard-of"))
    assert not (tmp_path / "run").exists()
