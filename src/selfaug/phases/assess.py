"""Baseline assessment: how good the base model is at the job and in general, and how much plain fine-tuning would cost.

A short run of plain LoRA (the probe) is trained and evaluated: what it forgets is measured, not guessed. The probe is
an ordinary run without alignment, in the assessment's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from selfaug.config import OptimizerSettings, TrainConfig, training_settings
from selfaug.core.detectable import detectable_difference
from selfaug.core.positions import IGNORED
from selfaug.core.statistics import ASSUMED_CORRELATION, cluster_correlation, expected_design_effect
from selfaug.eval.scorers import files_of_scorer, named_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.model.memory import release_memory
from selfaug.phases.bench import content_of_base, contents_of, said_of_evaluation
from selfaug.phases.data_checks import asked_rows, check_data, similar_questions
from selfaug.phases.evaluate import evaluate, require_chat_template
from selfaug.phases.evaluation_settings import hash_of_items, suites_of
from selfaug.phases.inputs import (
    TrainingData,
    compute_dtype,
    load_base_model,
    load_training_data,
    model_window,
    resolve_device,
)
from selfaug.phases.lm_eval_suites import hash_of_tasks, require_benchmarks
from selfaug.phases.made_of import made_of
from selfaug.phases.own_process import require_no_launcher
from selfaug.phases.progress import Progress
from selfaug.phases.suites import (
    AskSettings,
    select_items,
    spread_over_sources,
    suite_file_prompts,
    task_prompts,
)
from selfaug.phases.train import train
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir
from selfaug.train.loss import alignment_loss

__all__ = ["RECORD_KIND", "assess"]

RECORD_KIND = "assessment"

PROBE_STEPS = 40

_SURPRISE = "surprise.json"
_SURPRISE_ROWS = 64
_SMALLEST_BUDGET = 0.02


def assess(
    config: TrainConfig,
    ask: AskSettings,
    *,
    probe_steps: int = PROBE_STEPS,
    benchmarks: Sequence[str] = (),
    benchmark_tasks: str | None = None,
    benchmark_items: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Check the data, train the probe, evaluate base model and probe; what was cut off goes on.

    Args:
        config: settings of the training that is planned; its output is the assessment's folder. The probe has neither
            its alignment, nor its replayed rows, weight penalty, or adapter to start from. Where something else than
            LoRA is planned, the probe is LoRA all the same, at LoRA's default learning rate.
        ask: what base model and probe are asked.
        probe_steps: optimizer steps of the probe.
        benchmarks: tasks of lm-eval that both are asked, too.
        benchmark_tasks: folder with task files of the user's.
        benchmark_items: how many of each; None for all.
        on_progress: called with what is being done.

    Returns:
        Data of the assessment's record.

    Raises:
        ConfigError, DataError, ModelError: as training and evaluation do, before anything long.
        StorageError: if the folder holds something else, a finished assessment, or one with other settings or sources.
    """
    require_no_launcher("assess", "start it without the launcher, as one process.")
    score = named_scorer(ask.scorer)
    folder = Path(config.run.output)
    work = WorkFolder(
        folder, "assessment", {"record.json", "report.html", "probe", _SURPRISE}, last=["record.json"]
    )
    more: dict[str, Any] = {}
    if benchmarks:
        require_benchmarks(benchmarks, benchmark_tasks)
        more = {
            "benchmarks": list(benchmarks),
            "benchmark_tasks": benchmark_tasks,
            "benchmark_items": benchmark_items,
        }
    settings = {"config": training_settings(config), "probe_steps": probe_steps, **asdict(ask), **more}
    of_suites = _contents_of_suites(ask.suites, benchmarks, benchmark_tasks)
    if (other := _other_method(config)) is not None:
        on_progress(Progress("warning", message=f"lora.method is {config.lora.method}: {other}"))
    if (left_out := said_of_evaluation(config, "rows of data.eval are asked", with_suites=True)) is not None:
        on_progress(Progress("warning", message=left_out))
    on_progress(Progress("data"))
    # What is replayed is none of the job's rows, and the probe is trained without it.
    data = load_training_data(_without_replay(config))
    require_chat_template(data.tokenizer, config.model.name, then="give that folder as --model")
    if config.data.eval:  # refuses rows that the scorer can't score
        task_prompts(
            config,
            data.tokenizer,
            config.data.eval,
            score=score,
            items=ask.task_items,
            max_new_tokens=ask.max_new_tokens,
        )
    for file in _files_of_suites(ask.suites, benchmarks):  # refuses questions that the model has no room for
        suite_file_prompts(
            data.tokenizer,
            read_suite(file),
            ask.max_new_tokens,
            config.data.chat_template_kwargs,
            window=model_window(config),
        )
    with work.settled():
        sources = {
            "data.train": config.data.train,
            "data.eval": config.data.eval,
            "data.template": [config.data.template] if config.data.template else [],
            "--scorer": files_of_scorer(ask.scorer),
        }
        contents = contents_of(sources) | of_suites | content_of_base(config)
        work.open(settings, overwrite=config.run.overwrite, sources=contents)
        return _assessed(config, ask, more, settings, data, work, on_progress)


def _files_of_suites(suites: Sequence[str], benchmarks: Sequence[str]) -> list[str]:
    """Suites that are read from files; others are made by functions."""
    files, made = suites_of(suites, benchmarks)
    return [file for name, file in files.items() if name not in made]


def _contents_of_suites(
    suites: Sequence[str], benchmarks: Sequence[str], benchmark_tasks: str | None
) -> dict[str, Any]:
    """What identifies the content of the user's own suites and tasks, by what they are named by.

    Raises:
        ConfigError, DataError: if one of them can't be used.
    """
    files, made = suites_of(suites, benchmarks)
    read = _files_of_suites(suites, benchmarks)
    judges = {judge for file in read for row in read_suite(file) for judge in row.judged_by}
    contents = contents_of({"--suite": read, "scorers of --suite": sorted(judges)})
    contents |= {f"--suite {files[name]}": [hash_of_items(items)] for name, items in made.items()}
    if benchmarks and benchmark_tasks is not None:
        contents[f"--benchmark-tasks {benchmark_tasks}"] = [hash_of_tasks(benchmark_tasks)]
    return contents


def _assessed(
    config: TrainConfig,
    ask: AskSettings,
    benchmarks: Mapping[str, Any],
    settings: dict[str, Any],
    data: TrainingData,
    work: WorkFolder,
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    device, folder = resolve_device(config.model.device), work.path
    surprise = _surprise(folder / _SURPRISE, config, data, device, on_progress)
    work.complete_sources(content_of_base(config))  # one from a hub may not have been here before
    release_memory()  # training loads the base model anew, and a GPU may have room for one
    findings = check_data(data)
    findings += similar_questions(
        asked_rows(config, config.data.train),
        asked_rows(config, config.data.eval) if config.data.eval else None,
    )

    probe = RunDir(folder / "probe")
    probe.discard_unstarted()
    trained = train(
        _probe_config(config, probe, settings["probe_steps"], len(data.train.rows)),
        resume=probe.is_run(),
        on_progress=lambda progress: on_progress(_named(progress)),
    )
    if probe.evaluation.exists():
        evaluation = read_record(probe.evaluation, "evaluation")
    else:
        evaluation = evaluate(
            probe.path,
            ask,
            **benchmarks,
            device=config.model.device,
            offline=config.run.offline,
            on_progress=on_progress,
        ).record

    general = evaluation["suites"]["general"]
    to_be_asked = select_items("test", evaluation["level"]["level"], None)
    record = {
        "settings": settings,
        "made_of": made_of(trained.record, work.sources(), settings),
        "data": data.report,
        "findings": [asdict(finding) for finding in findings],
        "surprise": surprise,
        "level": evaluation["level"],
        "suites": evaluation["suites"],
        "benchmarks": evaluation["benchmarks"],
        "drift": evaluation["drift"],
        "probe": {
            "steps": trained.record["steps"],
            "seconds": trained.record["seconds"],
            "nll": trained.record["final"]["nll"],
        },
        # Of all requests that `selfaug evaluate` asks, however few were asked here. For a training that keeps more than
        # the probe does: how many answers it will change isn't known.
        "budget": proposed_budget(
            detectable_difference(
                len(to_be_asked),
                design_effect=_design_effect(general, [item.cluster for item in to_be_asked]),
            ).difference,
            general["base"]["value"],
        ),
        "budget_items": len(to_be_asked),
        "trained_on": evaluation["trained_on"],
        "environment": trained.record["environment"],
        "verdict": verdict(evaluation["suites"], trained.record["steps"], _other_method(config)),
        "seconds": work.seconds,
    }
    write_record(folder / "record.json", RECORD_KIND, record)
    return read_record(folder / "record.json", RECORD_KIND)


def _design_effect(general: Mapping[str, Any], to_be_asked: Sequence[str]) -> float:
    """How many of the requests that `selfaug evaluate` asks tell as much as one.

    Few of them may be forms of one request, as by design of those that are spread over the kinds, where many of all
    are: what was measured of the few is how far such forms go together.

    Args:
        general: of the probe's evaluation.
        to_be_asked: cluster of each request.
    """
    measured: float = general["difference"]["design_effect"]
    if general["items"] == len(to_be_asked):
        return measured
    asked = general.get("clusters", [])  # only where some share one
    return expected_design_effect(
        to_be_asked, cluster_correlation(asked, measured) if asked else ASSUMED_CORRELATION
    )


def _surprise(
    file: Path,
    config: TrainConfig,
    data: TrainingData,
    device: torch.device,
    on_progress: Callable[[Progress], None],
) -> dict[str, float | int]:
    """nll of prompts and completions under the base model: how far the rows are from what it expects.

    Nats per token, over some rows, evenly chosen; a completion that costs more than its prompt is new in its form. The
    file has what was found before the assessment was cut off.
    """
    if file.exists():
        return read_record(file, "surprise")
    on_progress(Progress("model"))
    model = load_base_model(config, dtype=compute_dtype(config, device), device=device)
    places = spread_over_sources([""] * len(data.train.rows), _SURPRISE_ROWS)
    rows = [data.train.rows[place] for place in places]
    sums = {"prompt": [0.0, 0.0], "completion": [0.0, 0.0]}
    with torch.no_grad():
        for done, row in enumerate(rows, 1):
            ids = torch.tensor([row.input_ids], device=device)
            labels = torch.tensor([row.labels], device=device)
            for part, targets in (
                ("prompt", torch.where(labels == IGNORED, ids, IGNORED)),
                ("completion", labels),
            ):
                result = alignment_loss(model, {"input_ids": ids, "labels": targets}, alpha=0.0)
                sums[part][0] += float(result.nll_sum)
                sums[part][1] += float(result.completion_tokens)
            on_progress(Progress("base model on the rows", done, len(rows)))
    found = {
        "rows": len(rows),
        **{f"{part}_nll": total / max(1.0, tokens) for part, (total, tokens) in sums.items()},
    }
    write_record(file, "surprise", found)
    return found


def _without_replay(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"replay": []})})


def _other_method(config: TrainConfig) -> str | None:
    """What the probe is where the planned training is not LoRA, as a sentence; None where it is."""
    if config.lora.method == "lora":
        return None
    planned = "full fine-tuning" if config.lora.method == "full" else "OSF"
    return (
        f"the probe is plain LoRA all the same, at LoRA's default learning rate "
        f"({OptimizerSettings().learning_rate:g}), and {planned} can forget more than it, or less."
    )


def _probe_config(config: TrainConfig, probe: RunDir, steps: int, rows: int) -> TrainConfig:
    """The planned training for a few steps, as LoRA, without anything that is against forgetting.

    Args:
        config: the planned training.
        probe: where the probe goes.
        steps: of the probe.
        rows: that the planned training has, without replayed ones.
    """
    train = config.train
    values = config.model_dump()
    values["lora"].update(method="lora", weight_penalty=0.0, start_from=None)
    values["data"]["replay"] = []
    values["selfaug"].update(
        alpha=0.0, drift_limit=None, anchors="none", reference="auto", stop_at_drift=None
    )
    values["train"].update(steps=steps, save_steps=max(1, steps // 2), report_to=[], best_of_rows=0)
    if config.lora.method != "lora":
        # What suits all weights is far too little for an adapter, which would then forget nothing.
        values["train"].update(learning_rate=OptimizerSettings().learning_rate)
    if train.warmup >= 1:  # in steps: of few, the same share
        warmup = round(train.warmup * steps / train.planned_steps(rows))
        values["train"].update(warmup=min(train.warmup, max(1, warmup)))
    values["evaluation"].update(at_end="none")
    values["run"].update(output=str(probe.path), overwrite=False)
    return TrainConfig.model_validate(values)


def _named(progress: Progress) -> Progress:
    if progress.stage != "training":
        return progress
    return Progress("probe: plain LoRA", progress.done, progress.total, progress.metrics)


def proposed_budget(detectable: float | None, base: float) -> float | None:
    """Forgetting to allow, a share: what the requests of the gate can show at all, and no less than two points.

    A smaller budget could not be told from none. None if there are too few items to see anything, or if the base
    model's score is no larger than the budget would be: then it could forget everything and keep it.
    """
    if detectable is None:
        return None
    budget = max(_SMALLEST_BUDGET, round(detectable, 3))
    return budget if budget < base else None


def verdict(suites: dict[str, Any], steps: int, other_method: str | None = None) -> str:
    """What the assessment says, in a sentence or three, made from its numbers.

    Args:
        suites: of the probe's evaluation.
        steps: of the probe.
        other_method: what the probe is where the planned training is not LoRA; None where it is.
    """
    lost = suites["general"]["difference"]["difference"]
    span = f"{_points(-lost['value'])} ({_number(-lost['high'])} to {_number(-lost['low'])})"
    if lost["high"] < 0:
        text = f"Plain LoRA makes this model forget: after {steps} steps it lost {span} of its general score."
    elif lost["low"] > 0:
        text = (
            f"The probe of {steps} steps gained {_points(lost['value'])} in general: nothing was forgotten."
        )
    else:
        text = (
            f"The probe of {steps} steps shows no forgetting that these requests can tell from none: {span}; "
            "a longer training can still forget."
        )
    if "task" in suites:
        gain = suites["task"]["difference"]["difference"]
        base = suites["task"]["base"]["value"]
        learned = "learned" if gain["low"] > 0 else "did not measurably learn"
        text += (
            f" The base model scores {100 * base:.0f} % at the job; the probe {learned} it "
            f"({round(100 * gain['value']) + 0.0:+.0f} points).".replace("-", "\N{MINUS SIGN}")
        )
    if other_method is not None:
        text += f" {other_method[0].upper()}{other_method[1:]}"
    return text


def _points(share: float) -> str:
    return f"{_number(share)} points"


def _number(share: float) -> str:
    rounded = round(100 * share, 1) + 0.0  # no minus before a zero
    return f"{rounded:.1f}".replace("-", "\N{MINUS SIGN}")
