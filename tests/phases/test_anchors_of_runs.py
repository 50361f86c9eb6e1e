"""Anchors that the base model writes: once for each run, however often it is cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_weights import same, weights

from cutting import CutError, cut_at
from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError
from selfaug.phases.progress import Progress
from selfaug.phases.train import Interrupted, train
from selfaug.records import read_lines, read_record
from selfaug.rundir import RunDir
from selfaug.train import SelfAugTrainer, selfaug_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers about itself
    pytest.mark.usefixtures("short_anchors"),
]

Settings = Callable[..., TrainConfig]


def test_a_resumed_run_does_not_have_its_anchors_written_again(copied_run: Path, settings: Settings) -> None:
    config = settings(copied_run, "selfaug.anchors=self", "selfaug.anchor_count=2", "run.overwrite=true")
    train(config)
    (copied_run / "record.json").unlink()
    told: list[str] = []
    train(config, resume=True, on_progress=lambda progress: told.append(progress.stage))
    assert "anchors written by the base model" not in told
    assert read_record(copied_run / "record.json", "train")["anchors"] == 2


@pytest.mark.parametrize("since", ["nothing", "damaged", "another count"])
def test_a_run_cut_off_before_its_first_checkpoint_keeps_its_anchors(
    settings: Settings, tmp_path: Path, since: str
) -> None:
    def cut(progress: Progress) -> None:
        if progress.stage == "training":
            raise KeyboardInterrupt

    run = RunDir(tmp_path / "run")
    few = ("selfaug.anchors=self", "selfaug.anchor_count=2")
    config = settings(run.path, *few)
    with pytest.raises(Interrupted, match="from the start"):
        train(config, on_progress=cut)
    written = run.anchors.read_bytes()
    seconds = read_record(run.started, "train-started").get("anchors", {}).get("seconds")
    if since == "damaged":
        run.anchors.write_bytes(written[: len(written) // 2])
    elif since == "another count":
        text = run.config.read_text(encoding="utf-8")
        run.config.write_text(text.replace("anchor_count: 2", "anchor_count: 3"), encoding="utf-8")
        config = load_config(run.config)
    told: list[str] = []
    record = train(config, resume=True, on_progress=lambda progress: told.append(progress.stage)).record
    assert ("anchors written by the base model" in told) == (since != "nothing")
    assert (record["anchor_seconds"] == seconds) == (since == "nothing")
    assert record["anchors"] == config.selfaug.anchor_count
    assert (run.anchors.read_bytes() == written) == (since != "another count")


def test_anchors_are_written_once_and_shown(settings: Settings, tmp_path: Path) -> None:
    few = ("selfaug.anchor_count=3", "selfaug.anchor_share=1")
    stages: list[tuple[str, int]] = []
    result = train(
        settings(tmp_path / "run", "selfaug.anchors=self", *few),
        on_progress=lambda progress: stages.append((progress.stage, progress.done)),
    )
    assert ("anchors written by the base model", 6) in stages
    written = read_lines(tmp_path / "run" / "anchors.jsonl")
    assert len(written) == result.record["anchors"] == 3
    assert all(set(line) == {"text", "input_ids"} for line in written)
    # The same from the file, and nothing is written then but the run itself.
    again = train(settings(tmp_path / "again", f"selfaug.anchors={tmp_path / 'run' / 'anchors.jsonl'}", *few))
    assert again.record["anchors"] == 3
    assert same(weights(tmp_path / "run"), weights(tmp_path / "again"))


def test_writing_anchors_is_part_of_the_time_and_a_resumed_run_has_all_of_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def takes(seconds: float, done: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*given: Any, **named: Any) -> Any:
            now[0] += seconds
            return done(*given, **named)

        return slow

    monkeypatch.setattr(selfaug_trainer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(selfaug_trainer, "self_anchors", takes(1000, lambda *_, **__: [[3, 4], [5, 6]]))
    monkeypatch.setattr(SelfAugTrainer, "training_step", takes(10, SelfAugTrainer.training_step))
    config = settings(
        tmp_path / "run", "selfaug.anchors=self", "train.gradient_accumulation=1", "selfaug.monitor_prompts=0"
    )

    with pytest.raises(CutError):
        train(config, on_progress=cut_at("training", 3))
    now[0] += 1e6  # until somebody goes on with it
    record = train(config, resume=True).record
    assert (record["seconds"], record["anchor_seconds"]) == (1000 + 6 * 10, 1000)
    whole = train(settings(tmp_path / "whole", "selfaug.anchors=self", "train.steps=1")).record
    assert (whole["seconds"], whole["anchor_seconds"]) == (1000 + 2 * 10, 1000)


def test_anchors_without_alignment_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"selfaug\.anchors: are aligned and nothing else"):
        settings(tmp_path, "selfaug.anchors=self", "selfaug.alpha=0")
