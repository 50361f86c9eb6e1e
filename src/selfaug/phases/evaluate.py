"""Evaluation of a run: base and tuned model on the task's held-out rows and on general requests, and the gate.

Both models answer the same prompts, so every difference is taken item by item. Answers are written as they are made:
an evaluation that was cut off goes on with the next prompts.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from selfaug.config import LevelName, TrainConfig, load_config
from selfaug.core.gate import GateResult, at_least, at_most, overall
from selfaug.core.statistics import Interval, PairedDifference
from selfaug.errors import ConfigError, StorageError
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.general_suite import Half
from selfaug.eval.own_suites import names_function, own_suite
from selfaug.eval.scorers import named_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.model.hidden import adapter_off
from selfaug.model.loading import load_tokenizer
from selfaug.model.reference import FrozenModel
from selfaug.phases.drift_suites import OWN_ANSWERS, measured_drifts
from selfaug.phases.forecasts import expected_forgetting, read_forecast
from selfaug.phases.inputs import resolve_device
from selfaug.phases.lm_eval_suites import Benchmark, benchmark_answers, require_benchmarks
from selfaug.phases.prepared_folder import no_answer_of
from selfaug.phases.progress import Progress
from selfaug.phases.run_models import hash_of_weights, load_run_models, trained_weights
from selfaug.phases.suites import (
    Suite,
    answers_to,
    compare_answers,
    compare_scores,
    compare_sides,
    fitting_level,
    general_prompts,
    level_of,
    select_items,
    suite_file_prompts,
    task_prompts,
)
from selfaug.phases.trained_template import trained_template
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.replaced import Replaced
from selfaug.rundir import RunDir

__all__ = ["FAST_ROWS", "RECORD_KIND", "Evaluation", "evaluate", "suites_of"]

RECORD_KIND = "evaluation"

MODELS = ("base", "tuned")

_STARTED = "started.json"

_RESERVED = {"task", "general"}

FAST_ROWS = 32
"""Rows that are asked beside the fast subset of the general suite."""


@dataclass(frozen=True)
class Evaluation:
    """Data of an evaluation's record, and the gate's result.

    Attributes:
        record: as written.
        outcome: of the gate; None without bounds.
    """

    record: dict[str, Any]
    outcome: str | None


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: Sequence[str] = (),
    scorer: str = "exact",
    half: Half = "test",
    level: LevelName = "auto",
    suites: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    benchmark_tasks: str | None = None,
    benchmark_items: int | None = None,
    general_items: int | None = None,
    task_items: int | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    max_forgetting: float | None = None,
    min_task_gain: float | None = None,
    forecast: str | None = None,
    device: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
    base_from: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Evaluation:
    """Ask base and tuned model the task's held-out rows and general requests; compare, and decide the gate.

    Args:
        run: folder of a run.
        data: sources of held-out rows; those that the run evaluated on if empty. Without any, there is no task score.
        scorer: a name as in `eval/scorers.py`.
        half: of the general suite; choose on "dev", report on "test".
        level: of the general suite: "1" to "3", "all", or "auto" for the hardest at which the base model still passes
            40 % of a few development items.
        suites: beside the general suite: JSONL files of the user's own questions (see `selfaug.eval.suite_files`), or
            functions as `module:function` (see `selfaug.eval.own_suites`).
        benchmarks: tasks of lm-eval.
        benchmark_tasks: folder with task files of the user's.
        benchmark_items: how many of each; None for all.
        general_items: how many general requests; None for all of the half and level.
        task_items: how many rows; None for all.
        max_new_tokens: longest answer to a row.
        batch_size: prompts answered together; what is lost when it is cut off.
        max_forgetting: share; the gate's bound on score(base) − score(tuned) over the general requests.
        min_task_gain: share; the gate's bound on score(tuned) − score(base) over the rows.
        forecast: folder of a comparison of the same base model: what its runs forgot at this drift is shown beside.
        device: "auto", "cpu" or "cuda".
        offline: use only what is on this machine.
        overwrite: evaluate anew where there is an evaluation.
        base_from: a run that was evaluated with the same settings; the base model's answers are taken from there.
        on_progress: called with what is being done.

    Raises:
        StorageError: if there is no such run, or an evaluation with other settings.
        ConfigError, DataError, ModelError: if scorer, rows or models can't be used.
    """
    folder = RunDir.open(run)
    config = load_config(folder.config)
    score = named_scorer(scorer)
    if min_task_gain is not None and not (data or config.data.eval):
        raise ConfigError(
            "--min-task-gain needs held-out rows, and the run was trained without any.",
            hint="give them with --data.",
        )
    foretold = None if forecast is None else read_forecast(forecast, config.model.name)
    weights, step = trained_weights(folder, config)
    if benchmarks:
        require_benchmarks(benchmarks, benchmark_tasks)
    files, made = suites_of(suites, benchmarks)
    sources = list(data or config.data.eval)
    settings = {
        "data": sources, "scorer": scorer, "half": half, "level": level,
        "suites": {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items()
                   if Path(file).is_file()}
        | {name: hashlib.sha256(repr(items).encode()).hexdigest() for name, items in made.items()},
        "benchmarks": list(benchmarks), "benchmark_tasks": benchmark_tasks, "benchmark_items": benchmark_items,
        "general_items": general_items, "task_items": task_items, "max_new_tokens": max_new_tokens, "step": step,
        "weights": hash_of_weights(weights),
    }  # fmt: skip
    began = time.monotonic()
    work = folder.samples / "evaluation"
    replaced = _replaced(folder, work)
    replaced.recover()
    if not overwrite:
        _require_free(folder, work, settings)
    on_progress(Progress("data"))
    offline = offline or config.run.offline
    tokenizer = load_tokenizer(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=offline
    )
    template = config.data.chat_template_kwargs
    asked: dict[str, Suite] = {}
    if sources:
        asked["task"] = task_prompts(
            config,
            tokenizer,
            sources,
            score=score,
            items=task_items,
            max_new_tokens=max_new_tokens,
            offline=offline,
            template=trained_template(folder),
        )
    for name, file in files.items():
        asked[name] = (
            general_prompts(tokenizer, made[name], template)
            if name in made
            else suite_file_prompts(tokenizer, read_suite(file), max_new_tokens, template)
        )
    resolved = resolve_device(device)
    known = None if base_from is None else _evaluated_alike(base_from, config, settings, resolved)
    on_progress(Progress("model"))
    base, tuned = load_run_models(folder, config, weights, device=resolved, offline=offline)
    if overwrite and replaced.entries():
        replaced.move()  # not before all of this has worked
    with replaced.settled():
        _open(work, settings)

        def report(stage: str) -> Callable[[int, int], None]:
            return lambda done, total: on_progress(Progress(stage, done, total))

        chosen = level_of(level)
        if chosen is None:
            with _answering(base, tuned, "base") as model:
                chosen = fitting_level(
                    work / "level-base.jsonl",
                    model,
                    tokenizer,
                    template,
                    batch_size,
                    report("base: which level"),
                )
        general = general_prompts(tokenizer, select_items(half, chosen.level, general_items), template)
        asked["general"] = general
        if known is not None:
            _take_base_answers(known, work, asked)

        answers: dict[str, dict[str, list[str]]] = {}
        for name, suite in asked.items():
            answers[name] = {}
            for which in MODELS:
                with _answering(base, tuned, which) as model:
                    answers[name][which] = answers_to(
                        suite,
                        work / f"{name}-{which}.jsonl",
                        model,
                        tokenizer,
                        batch_size,
                        report(f"{which}: {name}"),
                    )
        scored: dict[str, dict[str, Benchmark]] = {}
        for task in benchmarks:
            scored[task] = {}
            for which in MODELS:
                on_progress(Progress(f"{which}: {task}", message=f"{which} model: {task}, through lm-eval"))
                with _answering(base, tuned, which) as model:
                    scored[task][which] = benchmark_answers(
                        model,
                        tokenizer,
                        task,
                        work / f"{task}-{which}.jsonl",
                        folder=benchmark_tasks,
                        items=benchmark_items,
                        batch_size=batch_size,
                    )
        drifts, most_drifted = measured_drifts(
            tuned,
            None if base is None else FrozenModel(base),
            tokenizer,
            asked,
            answers["general"]["base"],
            report,
        )
        write_lines(work / "drift.jsonl", most_drifted)

        results = {
            name: compare_answers(suite, answers[name]["tuned"], answers[name]["base"])
            for name, suite in asked.items()
        }
        results |= {
            task: compare_scores(
                [row["id"] for row in found["base"].items],
                *([row["score"] for row in found[which].items] for which in ("tuned", "base")),
            )
            for task, found in scored.items()
        }
        sides: dict[str, Any] = {}
        if config.data.prepared is not None and "task" in asked:
            sides = compare_sides(
                asked["task"],
                answers["task"]["tuned"],
                answers["task"]["base"],
                no_answer_of(Path(config.data.prepared)),
            )
        gate = _gate(results, max_forgetting, min_task_gain)
        data_of_record = {
            "run": str(folder.path),
            "settings": settings,
            "level": asdict(chosen),
            "suites": results,
            "benchmarks": {
                task: {which: found[which].table for which in MODELS} for task, found in scored.items()
            },
            "sides": sides,
            "drift": drifts,
            "forecast": None
            if foretold is None or OWN_ANSWERS not in drifts
            else expected_forgetting(foretold, drifts[OWN_ANSWERS]["nats"].value),
            "gate": None
            if gate is None
            else {"outcome": overall(gate), "bounds": [asdict(one) for one in gate]},
            "device": str(resolved),
            "threads": torch.get_num_threads(),
            "seconds": time.monotonic() - began,
        }
        write_record(folder.evaluation, RECORD_KIND, data_of_record)
        return Evaluation(
            read_record(folder.evaluation, RECORD_KIND), None if gate is None else overall(gate)
        )


def suites_of(
    suites: Sequence[str], benchmarks: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, list[GeneralItem]]]:
    """Suites of the user's by name, and the items of those that a function makes.

    Args:
        suites: JSONL files, or functions as `module:function`.
        benchmarks: whose names are taken.

    Raises:
        ConfigError: if two have the same name, or a function can't be used.
    """
    files = {_suite_name(suite): suite for suite in suites}
    if len(files) < len(suites) or (_RESERVED | set(benchmarks)) & files.keys():
        raise ConfigError(
            "suites must have names of their own, other than task, general and the benchmarks': "
            f"{', '.join(map(str, suites))}.",
            hint="rename a file: its name without the ending is the suite's.",
        )
    return files, {name: own_suite(suite) for name, suite in files.items() if names_function(suite)}


def _suite_name(suite: str) -> str:
    return suite.partition(":")[2] if names_function(suite) else Path(suite).stem


def _evaluated_alike(
    run: str | os.PathLike[str], config: TrainConfig, settings: dict[str, Any], device: torch.device
) -> Path:
    """Folder of the answers of another run's evaluation, whose base model was asked the same."""
    other = RunDir.open(run)
    record = read_record(other.evaluation, RECORD_KIND)
    differ = sorted(
        key for key in settings.keys() - {"step", "weights"} if record["settings"].get(key) != settings[key]
    )
    if load_config(other.config).model != config.model:
        differ.append("base model")
    if record["device"] != str(device):
        differ.append("device")
    if differ:
        raise ConfigError(
            f"the base model was asked something else when {other.path} was evaluated: another {', '.join(differ)}.",
            hint="evaluate both runs with the same settings, or leave out --base-from.",
        )
    return other.samples / "evaluation"


def _take_base_answers(source: Path, work: Path, asked: dict[str, Suite]) -> None:
    """Copy the answers to the same prompts, unless this evaluation has begun with its own."""
    for name, suite in asked.items():
        file, own = f"{name}-base.jsonl", work / f"{name}-base.jsonl"
        if own.exists() or not (source / file).exists():
            continue
        texts = dict(zip(suite.ids, suite.texts, strict=True))
        write_lines(own, [row for row in read_lines(source / file) if texts.get(row["id"]) == row["prompt"]])


def _require_free(run: RunDir, work: Path, settings: dict[str, Any]) -> None:
    """Refuse where there is an evaluation, or the answers of one with other settings."""
    if run.evaluation.exists():
        raise StorageError(
            f"{run.path} has an evaluation already.", hint=f"look at {run.evaluation}, or use --overwrite."
        )
    if (work / _STARTED).exists():
        before = read_record(work / _STARTED, "evaluation-started")
        changed = sorted(key for key in settings if before.get(key) != settings[key])
        if changed:
            raise StorageError(
                f"{run.path} has an evaluation that was cut off, with another {', '.join(changed)}.",
                hint="give the same settings to go on with it, or --overwrite.",
            )


def _replaced(run: RunDir, work: Path) -> Replaced:
    """The evaluation that is there, for when it is overwritten."""
    places = [run.evaluation, run.report, work]
    return Replaced(
        run.samples,
        "evaluation",
        entries=lambda: [place for place in places if place.exists()],
        is_usable=run.evaluation.exists,
        has_begun=lambda: any(file.stat().st_size for file in work.glob("*.jsonl")),
        homes={place.name: place for place in places},
    )


def _open(work: Path, settings: dict[str, Any]) -> None:
    """Make the folder of the answers, or go on with the one that is there."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write into {work}: {error.strerror or error}", hint="change the folder's permissions."
        ) from error
    if not (work / _STARTED).exists():
        write_record(work / _STARTED, "evaluation-started", settings)


@contextmanager
def _answering(base: Any, tuned: Any, model: str) -> Iterator[Any]:
    """The model of that name."""
    if model == "tuned":
        yield tuned
    elif base is not None:
        yield base
    else:
        with adapter_off(tuned):
            yield tuned


def _gate(
    results: dict[str, dict[str, Any]], max_forgetting: float | None, min_task_gain: float | None
) -> list[GateResult] | None:
    bounds = []
    if max_forgetting is not None:
        general: PairedDifference = results["general"]["difference"]
        lost = general.difference
        bounds.append(
            at_most("forgetting", Interval(-lost.value, -lost.high, -lost.low), max_forgetting, general.items)
        )
    if min_task_gain is not None:
        task: PairedDifference = results["task"]["difference"]
        bounds.append(at_least("task gain", task.difference, min_task_gain, task.items))
    return bounds or None
