"""The demo: one small real model, specialised by plain LoRA and by SelfAug, and what each of them forgets.

Both are ordinary `selfaug train` runs with the same rows, order, steps, seed and learning rate; only alpha differs.
Alpha and the other settings were chosen on development items (benchmarks/demo_settings.py); what is reported here
are test items: questions about companies that no training row mentions, and general prompts that nothing was
chosen on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from selfaug.config import TrainConfig, load_config
from selfaug.core.statistics import detectable_difference, mean_interval, paired_difference, wilson_interval
from selfaug.data.market_reports import market_report_rows, market_report_template
from selfaug.errors import StorageError
from selfaug.eval.drift import Drift, measure_drift
from selfaug.eval.general_suite import EXECUTIVE_ITEM, GeneralItem, Half, general_suite, score_general
from selfaug.eval.generate import chat_prompt_ids, generate_greedy
from selfaug.eval.house_style import leaks_house_style, score_task_answer
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer
from selfaug.phases.train import Progress, train
from selfaug.records import read_lines, read_record, write_record, write_text
from selfaug.rundir import RunDir

__all__ = ["FULL", "METHODS", "QUICK", "RECORD_KIND", "DemoSettings", "run_demo"]

RECORD_KIND = "demo"

METHODS = {"plain": "plain LoRA", "selfaug": "SelfAug"}
"""Folder and name of each method."""

_TASK_TOKENS = 32

_MARKER = "demo.json"


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
        task_items: held-out questions that are asked.
        general_items: general prompts that are asked; None for all of the half.
        seed: of rows' order, adapter and sampling.
        half: development or test items.
    """

    steps: int = 56
    batch_size: int = 4
    rank: int = 16
    learning_rate: float = 1e-3
    alpha: float = 4.0
    position_fraction: float = 1.0
    task_items: int = 64
    general_items: int | None = None
    seed: int = 0
    half: Half = "test"


FULL = DemoSettings()
QUICK = DemoSettings(steps=16, task_items=16, general_items=19)


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
    began = time.monotonic()
    cut_off = _open(output, settings, overwrite)
    if (output / "record.json").exists():
        return read_record(output / "record.json", RECORD_KIND)
    earlier = _seconds_of_complete_runs(output)
    tokenizer = load_tokenizer(DEMO_MODEL)
    _write_data(output, settings)

    for name in METHODS:
        _train(output, name, settings, on_progress)

    task = market_report_rows(settings.half, settings.task_items)
    items = general_suite(settings.half)
    if settings.general_items is not None:
        items = _spread(items, settings.general_items)
    template = market_report_template()
    task_prompts = [
        chat_prompt_ids(tokenizer, template.messages(row["question"], row["context"])) for row in task
    ]
    general_prompts = [chat_prompt_ids(tokenizer, item.prompt) for item in items]

    model: Any = load_model(DEMO_MODEL)
    for name in METHODS:
        model = _add_adapter(model, output / name / "adapter", name)
    answers = {}
    for name in ("base", *METHODS):
        label = METHODS.get(name, "base")
        with _using(model, name):
            answers[name] = _answers(
                output / "samples" / f"{name}.jsonl",
                lambda label=label: {  # type: ignore[misc]
                    "task": generate_greedy(
                        model,
                        tokenizer,
                        task_prompts,
                        max_new_tokens=_TASK_TOKENS,
                        on_progress=_report(on_progress, f"{label}: task questions", len(task)),
                    ),
                    "general": generate_greedy(
                        model,
                        tokenizer,
                        general_prompts,
                        max_new_tokens=[item.max_new_tokens for item in items],
                        batch_size=64,
                        on_progress=_report(on_progress, f"{label}: general prompts", len(items)),
                    ),
                },
                [row["question"] for row in task] + [item.prompt for item in items],
            )

    # Drift on the reference model's own answers: it needs no labels, and it is where style would leak. Half of
    # them, and an eighth for the curve, tell it well enough for the time.
    sequences = [
        prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
        for prompt, answer in zip(general_prompts, answers["base"]["general"], strict=True)
    ]
    starts = [len(prompt) for prompt in general_prompts]
    drifts = {}
    for name, label in METHODS.items():
        with _using(model, name):
            report = _report(on_progress, f"{label}: drift", len(sequences[::2]))
            drifts[name] = measure_drift(model, sequences[::2], starts=starts[::2], on_progress=report)
    curves = {
        name: _drift_curve(model, output / name, sequences[::8], starts[::8], on_progress, label)
        for name, label in METHODS.items()
    }

    data = {
        "settings": asdict(settings),
        "quick": quick,
        "model": DEMO_MODEL,
        "task_prompt_tokens": sorted(len(prompt) for prompt in task_prompts)[len(task_prompts) // 2],
        "results": _results(task, items, answers, drifts, output),
        "detectable_difference": detectable_difference(len(items)).difference,
        "task_example": {
            "question": task[0]["question"],
            "expected": task[0]["answer"],
            "answers": {name: given["task"][0] for name, given in answers.items()},
        },
        "side_by_side": _side_by_side(items, answers),
        "curves": {name: {"drift": curves[name], "steps": _steps(output / name)} for name in METHODS},
        "environment": read_record(output / "plain" / "record.json", "train")["environment"],
        "threads": torch.get_num_threads(),
        "seconds": earlier + time.monotonic() - began,
        "cut_off": cut_off,
    }
    write_record(output / "record.json", RECORD_KIND, data)
    return read_record(output / "record.json", RECORD_KIND)


def _open(output: Path, settings: DemoSettings, overwrite: bool) -> bool:
    """Make the demo's folder, or go on with a cut-off one; returns whether there was one.

    A finished demo whose page was not written yet counts as cut off.
    """
    marker = output / _MARKER
    if output.exists() and not output.is_dir():
        raise StorageError(f"{output} is a file, not a folder.", hint="give another --output.")
    if output.exists() and any(output.iterdir()):
        if not marker.is_file():
            raise StorageError(f"{output} is not empty and not a demo.", hint="give another --output.")
        same = read_record(marker, "demo-started")["settings"] == asdict(settings)
        finished = (output / "record.json").exists()
        if overwrite:
            _clear(output)
        elif finished and (output / "report.html").exists():
            raise StorageError(
                f"{output} already holds a finished demo.",
                hint=f"look at {output / 'report.html'}, give another --output, or --overwrite.",
            )
        elif not same:
            raise StorageError(
                f"{output} holds a demo with other settings.", hint="give another --output, or --overwrite."
            )
    cut_off = marker.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not cut_off:
            write_record(marker, "demo-started", {"settings": asdict(settings)})
        (output / "samples").mkdir(exist_ok=True)
        (output / "data").mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write into {output}: {error.strerror or error}", hint="give another --output."
        ) from error
    return cut_off


def _clear(output: Path) -> None:
    """Delete a demo, but never what is not part of one. The marker goes last: what is left is still a demo."""
    ours = {_MARKER, "record.json", "report.html", "samples", "data", *METHODS}
    foreign = sorted(
        entry.name
        for entry in output.iterdir()
        if entry.name not in ours and not any(entry.name.startswith(f".{name}.") for name in ours)
    )
    if foreign:
        raise StorageError(
            f"{output} holds a demo, and files that selfaug did not write: {', '.join(foreign[:5])}.",
            hint="move them away first, or give another --output.",
        )
    try:
        for entry in sorted(output.iterdir(), key=lambda entry: entry.name == _MARKER):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except OSError as error:
        raise StorageError(
            f"can't clear {output}: {error.strerror or error}", hint="give another --output."
        ) from error


def _seconds_of_complete_runs(output: Path) -> float:
    """Training time of an earlier session. What it evaluated is not counted: nobody wrote its time down."""
    records = (output / name / "record.json" for name in METHODS)
    return sum(float(read_record(path, "train")["seconds"]) for path in records if path.exists())


def _write_data(output: Path, settings: DemoSettings) -> None:
    """The rows and their template as files, as a user would have them."""
    rows = market_report_rows("train", settings.steps * settings.batch_size, settings.seed)
    lines = [json.dumps({key: row[key] for key in ("id", "question", "context", "answer")}) for row in rows]
    write_text(output / "data" / "train.jsonl", "\n".join(lines) + "\n")
    write_text(
        output / "data" / "template.yaml", json.dumps(market_report_template().to_dict(), indent=1) + "\n"
    )


def _config(output: Path, name: str, settings: DemoSettings) -> TrainConfig:
    alpha = settings.alpha if name == "selfaug" else 0.0
    return load_config(
        None,
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
        [f"lora.alpha={2 * settings.rank}", "train.warmup=0.1", "train.keep_checkpoints=4"],
    )


def _train(output: Path, name: str, settings: DemoSettings, on_progress: Callable[[Progress], None]) -> None:
    config = _config(output, name, settings)
    run = RunDir(output / name)
    if run.is_complete():
        return
    if run.is_run() and not run.started.exists():  # killed while the folder was made
        run.discard()

    def show(progress: Progress) -> None:
        if progress.stage == "training":
            progress = Progress(f"{METHODS[name]}: training", progress.done, progress.total, progress.metrics)
        on_progress(progress)

    train(config, resume=run.is_run(), on_progress=show)


def _add_adapter(model: Any, folder: Path, name: str) -> Any:
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), adapter_name=name)
        return model
    return PeftModel.from_pretrained(model, str(folder), adapter_name=name).eval()


class _using:  # noqa: N801 (reads as a phrase: with _using(model, "plain"))
    """The model with one of its adapters, or as the base model."""

    def __init__(self, model: PeftModel, name: str) -> None:
        self.model, self.name = model, name

    def __enter__(self) -> None:
        if self.name == "base":
            self.off = self.model.disable_adapter()
            self.off.__enter__()
        else:
            self.model.set_adapter(self.name)

    def __exit__(self, *error: Any) -> None:
        if self.name == "base":
            self.off.__exit__(*error)


def _answers(
    path: Path, generate: Callable[[], dict[str, list[str]]], prompts: list[str]
) -> dict[str, list[str]]:
    """Answers from the samples file of a cut-off demo, or made now and written there."""
    if not path.exists():
        made = generate()
        kinds = [kind for kind, texts in made.items() for _ in texts]
        texts = [text for texts in made.values() for text in texts]
        lines = [
            json.dumps({"suite": kind, "prompt": prompt, "answer": text}, ensure_ascii=False)
            for kind, prompt, text in zip(kinds, prompts, texts, strict=True)
        ]
        write_text(path, "\n".join(lines) + "\n")
    rows = read_lines(path)
    return {kind: [row["answer"] for row in rows if row["suite"] == kind] for kind in ("task", "general")}


def _drift_curve(
    model: Any,
    run: Path,
    sequences: list[list[int]],
    starts: list[int],
    on_progress: Callable[[Progress], None],
    label: str,
) -> list[dict[str, float]]:
    """Drift at each checkpoint. Step 0 is 0: both models are equal."""
    curve = [{"step": 0, "drift": 0.0}]
    checkpoints = sorted(
        (run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    for done, checkpoint in enumerate(checkpoints, 1):
        model.load_adapter(str(checkpoint), adapter_name="checkpoint")
        with _using(model, "checkpoint"):
            drift = measure_drift(model, sequences, starts=starts)
            # PEFT warns when the adapter in use is deleted.
            model.set_adapter(run.name)
        model.delete_adapter("checkpoint")
        curve.append({"step": int(checkpoint.name.split("-")[1]), "drift": drift.mean})
        on_progress(Progress(f"{label}: drift over steps", done, len(checkpoints)))
    return curve


def _results(
    task: Sequence[dict[str, Any]],
    items: Sequence[GeneralItem],
    answers: dict[str, dict[str, list[str]]],
    drifts: dict[str, Drift],
    output: Path,
) -> dict[str, dict[str, Any]]:
    """One row of the table a model: every share with its interval."""
    base_general = [
        score_general(item, answer) for item, answer in zip(items, answers["base"]["general"], strict=True)
    ]
    results = {}
    for name, given in answers.items():
        scores = [
            score_task_answer(answer, row["value"], row["gold"])
            for answer, row in zip(given["task"], task, strict=True)
        ]
        general = [score_general(item, answer) for item, answer in zip(items, given["general"], strict=True)]
        leaks = sum(leaks_house_style(answer) for answer in given["general"])
        drift = drifts.get(name)
        run = {} if name == "base" else read_record(output / name / "record.json", "train")
        results[name] = {
            "label": METHODS.get(name, "base model"),
            "exact": wilson_interval(sum(score.exact for score in scores), len(scores)),
            "source": wilson_interval(sum(score.source for score in scores), len(scores)),
            "general": mean_interval(general, seed=0),
            "difference": None if name == "base" else paired_difference(general, base_general, seed=0),
            "leaks": wilson_interval(leaks, len(items)),
            "words": sum(len(answer.split()) for answer in given["general"]) / len(items),
            "drift": None
            if drift is None
            else mean_interval(
                [sum(tokens) for tokens in drift.per_token],
                [len(tokens) for tokens in drift.per_token],
                seed=0,
            ),
            "top1_agreement": None if drift is None else drift.top1_agreement,
            "task_items": len(task),
            "general_items": len(items),
            "train_seconds": run.get("seconds"),
        }
    results["selfaug"]["exact_against_plain"] = paired_difference(
        *(
            [
                float(score_task_answer(answer, row["value"], row["gold"]).exact)
                for answer, row in zip(answers[name]["task"], task, strict=True)
            ]
            for name in ("selfaug", "plain")
        ),
        seed=0,
    )
    return results


def _side_by_side(
    items: Sequence[GeneralItem], answers: dict[str, dict[str, list[str]]]
) -> list[dict[str, Any]]:
    """The executive's request first, then one prompt of each other kind, with all three answers."""
    chosen = [i for i, item in enumerate(items) if item.id == EXECUTIVE_ITEM]
    kinds = {items[i].kind for i in chosen}
    for i, item in enumerate(items):
        if item.kind not in kinds:
            kinds.add(item.kind)
            chosen.append(i)
    return [
        {
            "id": items[i].id,
            "kind": items[i].kind,
            "prompt": items[i].prompt,
            "answers": {name: given["general"][i] for name, given in answers.items()},
            "passed": {name: score_general(items[i], given["general"][i]) for name, given in answers.items()},
            "leaks": {name: leaks_house_style(given["general"][i]) for name, given in answers.items()},
        }
        for i in chosen
    ]


def _steps(run: Path) -> list[dict[str, Any]]:
    """Step, nll and alignment loss of a run's metrics."""
    return [
        {key: row.get(key) for key in ("step", "nll", "alignment_loss")}
        for row in read_lines(run / "metrics.jsonl")
        if "nll" in row
    ]


def _spread(items: Sequence[GeneralItem], count: int) -> list[GeneralItem]:
    """So many items, kinds in turn, the executive's request among them."""
    by_kind: dict[str, list[GeneralItem]] = {}
    for item in sorted(items, key=lambda item: item.id != EXECUTIVE_ITEM):
        by_kind.setdefault(item.kind, []).append(item)
    turns = [
        kind[turn]
        for turn in range(max(map(len, by_kind.values())))
        for kind in by_kind.values()
        if turn < len(kind)
    ]
    return turns[:count]


def _report(on_progress: Callable[[Progress], None], stage: str, total: int) -> Callable[[int, int], None]:
    """A batch can take a minute: the stage is shown when it begins, too."""
    on_progress(Progress(stage, 0, total))
    return lambda done, total: on_progress(Progress(stage, done, total))
