"""The demo: one small real model, specialised by plain LoRA and by SelfAug, and what each of them forgets.

Both are ordinary `selfaug train` runs with the same rows, order, steps, seed and learning rate; only alpha differs.
Alpha and the other settings were chosen on development items (benchmarks/demo_settings.py); what is reported here
are test items: questions about companies that no training row mentions, and general prompts that nothing was
chosen on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from selfaug.config import TrainConfig, load_config
from selfaug.core.detectable import detectable_difference
from selfaug.core.statistics import (
    paired_difference,
)
from selfaug.data.market_reports import market_report_rows, market_report_template
from selfaug.eval.general_suite import Half
from selfaug.eval.house_style import LEAK_PATTERN
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer
from selfaug.phases.bench import contents_of
from selfaug.phases.demo_evaluation import (
    DriftMeter,
    OnProgress,
    ask,
    model_result,
    questions,
    side_by_side,
    task_scores,
    tuned_model,
)
from selfaug.phases.made_of import made_of
from selfaug.phases.progress import Progress
from selfaug.phases.train import train
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import read_lines, read_record, write_lines, write_record, write_text, writing_into
from selfaug.rundir import RunDir

__all__ = [
    "FULL",
    "METHODS",
    "QUICK",
    "RECORD_KIND",
    "DemoComparison",
    "DemoSettings",
    "comparison_of_demo",
    "run_demo",
    "train_config",
    "write_data",
]

RECORD_KIND = "demo"

METHODS = {"plain": "plain LoRA", "selfaug": "SelfAug"}
"""Folder and name of each method."""

_CONTENTS = {"record.json", "report.html", "samples", "data", *METHODS}


@dataclass(frozen=True)
class DemoSettings:
    """What a demo does. Both methods share everything but alpha.

    Attributes:
        steps: optimizer steps, of `batch_size` rows each; every row is seen once.
        batch_size: rows a step.
        rank: of the LoRA adapter on all linear layers.
        learning_rate: highest, of a cosine schedule with warm-up over a tenth of the steps.
        alpha: weight of the alignment in SelfAug; plain LoRA has 0.
        position_fraction: share of the prompt positions that is aligned each step.
        anchors: requests that the base model writes and SelfAug aligns beside the rows; 0 for none.
        anchor_share: anchors that go with a row.
        task_items: held-out questions that are asked.
        general_items: general requests that are asked; None for all of the half's first level.
        seed: of rows' order, adapter and sampling.
        half: development or test items.
    """

    steps: int = 56
    batch_size: int = 4
    rank: int = 16
    learning_rate: float = 1e-3
    alpha: float = 4.0
    position_fraction: float = 0.25
    anchors: int = 48
    anchor_share: float = 0.25
    task_items: int = 64
    general_items: int | None = None
    seed: int = 0
    half: Half = "test"


FULL = DemoSettings()
QUICK = DemoSettings(steps=16, anchors=16, task_items=16, general_items=24)


def run_demo(
    output: Path,
    *,
    quick: bool = False,
    settings: DemoSettings | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train both methods, evaluate base and both, and write record and samples.

    What was cut off goes on where it stopped when it is called again with the same folder and settings.

    Args:
        output: folder of the demo; the two runs are in it.
        quick: a smaller taste.
        settings: instead of those of `quick`.
        overwrite: delete the demo that is there.
        on_progress: called with what is being done.

    Returns:
        Data of the demo's record.

    Raises:
        StorageError: if the folder holds something else, or a finished demo.
        ModelError: if the demo's model is not installed.
    """
    settings = settings or (QUICK if quick else FULL)
    folder = WorkFolder(output, "demo", _CONTENTS, last=("report.html", "record.json"), at_once=["data"])
    with folder.settled():
        cut_off = folder.open(asdict(settings), overwrite=overwrite)
        return _demo(output, settings, quick, cut_off, lambda: folder.seconds, on_progress)


def _demo(
    output: Path,
    settings: DemoSettings,
    quick: bool,
    cut_off: bool,
    seconds: Callable[[], float],
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    if (output / "record.json").exists():
        return read_record(output / "record.json", RECORD_KIND)
    tokenizer = load_tokenizer(DEMO_MODEL)
    write_data(output, settings)

    for name in METHODS:
        _train(output, name, settings, on_progress)

    asked = questions(tokenizer, settings.half, settings.task_items, settings.general_items)
    models = {"base": load_model(DEMO_MODEL)} | {
        name: tuned_model(output / name / "adapter") for name in METHODS
    }

    def report(label: str) -> OnProgress:
        return lambda stage, done, total: on_progress(Progress(f"{label}: {stage}", done, total))

    (output / "samples").mkdir(exist_ok=True)
    answers = {
        name: ask(model, tokenizer, asked, output / "samples", name, report(METHODS.get(name, "base model")))
        for name, model in models.items()
    }

    meter = DriftMeter(models["base"], tokenizer, asked, answers["base"]["general"])
    results = {
        "base": {
            "label": "base model",
            **model_result(asked, answers["base"], None, None),
            "train_seconds": None,
        }
    }
    curves = {}
    for name, label in METHODS.items():
        drift = meter.drift(models[name], report(label))
        curves[name] = meter.curve(output / name, drift, report(label))
        of_run = read_record(output / name / "record.json", "train")
        results[name] = {
            "label": label,
            **model_result(asked, answers[name], answers["base"], drift),
            "train_seconds": of_run["seconds"],
            "anchor_seconds": of_run["anchor_seconds"],
        }
    results["selfaug"]["exact_against_plain"] = paired_difference(
        *(
            [float(score.exact) for score in task_scores(asked, answers[name])]
            for name in ("selfaug", "plain")
        ),
        seed=0,
    )

    changed = results["selfaug"]["difference"]
    seen = detectable_difference(changed.items, discordance=changed.discordance, cancelled=changed.cancelled)
    trained = read_record(output / "plain" / "record.json", "train")
    config = train_config(output, "plain", settings)
    sources = contents_of({"data.train": config.data.train, "data.template": [str(config.data.template)]})
    data = {
        "settings": asdict(settings),
        "made_of": made_of(trained, sources, asdict(settings)),
        "quick": quick,
        "model": DEMO_MODEL,
        "task_prompt_tokens": int(statistics.median(len(prompt) for prompt in asked.task.prompts)),
        "results": results,
        "detectable_difference": seen.difference,
        "discordance": changed.discordance,
        "task_example": {
            "question": asked.rows[0]["question"],
            "expected": asked.rows[0]["answer"],
            "answers": {name: given["task"][0] for name, given in answers.items()},
        },
        "side_by_side": side_by_side(asked, answers),
        "curves": {name: {"drift": curves[name], "steps": _steps(output / name)} for name in METHODS},
        "environment": trained["environment"],
        "dtype": trained["model"]["dtype"],
        "threads": torch.get_num_threads(),
        "seconds": seconds(),
        "cut_off": cut_off,
    }
    write_record(output / "record.json", RECORD_KIND, data)
    return read_record(output / "record.json", RECORD_KIND)


def write_data(output: Path, settings: DemoSettings) -> None:
    """The rows and their template as files, as a user would have them."""
    with writing_into(output, hint="give another --output."):
        (output / "data").mkdir(parents=True, exist_ok=True)
    _write_rows(
        output / "data" / "train.jsonl",
        market_report_rows("train", settings.steps * settings.batch_size, settings.seed),
    )
    write_text(
        output / "data" / "template.yaml", json.dumps(market_report_template().to_dict(), indent=1) + "\n"
    )


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    write_lines(path, [{key: row[key] for key in ("id", "question", "context", "answer")} for row in rows])


def train_config(output: Path, name: str, settings: DemoSettings) -> TrainConfig:
    """Settings of one method's run in the demo's folder; its rows are where `write_data` puts them."""
    return load_config(None, *_training(output, name, settings))


def _training(output: Path, name: str, settings: DemoSettings) -> tuple[dict[str, object], list[str]]:
    """Flags and further settings of one method's run."""
    alpha = settings.alpha if name == "selfaug" else 0.0
    return (
        {
            "--model": DEMO_MODEL,
            "--train": [str(output / "data" / "train.jsonl")],
            "--template": str(output / "data" / "template.yaml"),
            "--rank": settings.rank,
            "--alpha": alpha,
            "--position-fraction": settings.position_fraction,
            "--steps": settings.steps,
            "--batch-size": settings.batch_size,
            "--gradient-accumulation": 1,
            "--learning-rate": settings.learning_rate,
            "--save-steps": max(1, settings.steps // 4),
            "--seed": settings.seed,
            "--output": str(output / name),
            "--offline": True,
        },
        [
            f"lora.alpha={2 * settings.rank}",
            "train.warmup=0.1",
            "selfaug.monitor_prompts=0",
            "train.keep_checkpoints=4",
            f"selfaug.anchors={'self' if alpha > 0 and settings.anchors > 0 else 'none'}",
            f"selfaug.anchor_count={max(1, settings.anchors)}",
            f"selfaug.anchor_share={settings.anchor_share}",
        ],
    )


@dataclass(frozen=True)
class DemoComparison:
    """The demo's training and evaluation for `selfaug compare --demo`.

    Attributes:
        flags: of the training, as for `load_config`.
        sets: of the training.
        dev: rows to choose on.
        test: rows to report on.
        scorer: exact value in the house style.
        leak_pattern: what the house style leaves in an answer.
    """

    flags: dict[str, object]
    sets: list[str]
    dev: list[str]
    test: list[str]
    scorer: str
    leak_pattern: str


def comparison_of_demo(folder: Path, settings: DemoSettings = FULL) -> DemoComparison:
    """Write the demo's rows into a folder, and say how to compare methods on them."""
    write_data(folder, settings)
    halves: dict[Half, str] = {}
    for half in ("dev", "test"):
        halves[half] = str(folder / "data" / f"{half}.jsonl")
        _write_rows(Path(halves[half]), market_report_rows(half, settings.task_items))
    flags, sets = _training(folder, "selfaug", settings)
    return DemoComparison(
        flags, sets, [halves["dev"]], [halves["test"]], "selfaug.eval.house_style:exact_value", LEAK_PATTERN
    )


def _train(output: Path, name: str, settings: DemoSettings, on_progress: Callable[[Progress], None]) -> None:
    config = train_config(output, name, settings)
    run = RunDir(output / name)
    if run.is_complete():
        return
    run.discard_unstarted()

    def show(progress: Progress) -> None:
        if progress.stage == "training":
            progress = Progress(f"{METHODS[name]}: training", progress.done, progress.total, progress.metrics)
        on_progress(progress)

    train(config, resume=run.is_run(), on_progress=show)


def _steps(run: Path) -> list[dict[str, Any]]:
    """Step, nll and alignment loss of a run's metrics."""
    return [
        {key: row.get(key) for key in ("step", "nll", "alignment_loss")}
        for row in read_lines(run / "metrics.jsonl")
        if "nll" in row
    ]
