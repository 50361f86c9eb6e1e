"""Evaluation of a run: base and tuned model on the task's held-out rows and on general requests, and the gate.

Both models answer the same prompts, so every difference is taken item by item. Answers are written as they are made:
an evaluation that was cut off goes on with the next prompts.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from selfaug.config import LevelName, TrainConfig, load_config
from selfaug.core.forecast import Forecast
from selfaug.core.gate import at_least, at_most, overall
from selfaug.core.statistics import Interval
from selfaug.core.trained_on import trained_on_in_words
from selfaug.data.sources import require_names
from selfaug.errors import ConfigError, DataError, ModelError, StorageError
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.general_suite import Half, Level
from selfaug.eval.own_suites import names_function, own_suite
from selfaug.eval.scorers import Scorer, files_of_scorer, named_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.model.hidden import adapter_off
from selfaug.model.loading import context_window, load_tokenizer
from selfaug.model.reference import FrozenModel
from selfaug.model.stored_weights import stored_tokenizer_hash
from selfaug.phases.drift_suites import OWN_ANSWERS, measured_drifts
from selfaug.phases.forecasts import expected_forgetting, other_level, read_forecast
from selfaug.phases.inputs import describe_sources, resolve_device
from selfaug.phases.lm_eval_suites import Benchmark, benchmark_answers, hash_of_tasks, require_benchmarks
from selfaug.phases.prepared_folder import no_answer_of
from selfaug.phases.progress import Progress
from selfaug.phases.run_files import load_run_config, require_named_files, tell_of_changes
from selfaug.phases.run_models import (
    TOKENIZER,
    alike_where_known,
    hash_of_weights,
    load_run_models,
    trained_alike,
    trained_weights,
)
from selfaug.phases.suites import (
    Suite,
    answers_to,
    choice_of_rows,
    compare_answers,
    compare_scores,
    compare_sides,
    fitting_level,
    general_prompts,
    level_of,
    scored_by,
    select_items,
    share_cut_off,
    share_cut_off_by_level,
    suite_file_prompts,
    task_prompts,
)
from selfaug.phases.trained_on import trained_on
from selfaug.phases.trained_template import trained_no_answer, trained_template
from selfaug.phases.work_time import WORKED, WorkTime
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.replaced import Replaced
from selfaug.rundir import RunDir

__all__ = [
    "FAST_ROWS",
    "RECORD_KIND",
    "Evaluation",
    "digests_of",
    "evaluate",
    "require_chat_template",
    "suites_of",
]

RECORD_KIND = "evaluation"

MODELS = ("base", "tuned")

_STARTED = "started.json"
_DRIFT_SO_FAR = "drift-so-far.jsonl"

_TASK_FILES = "benchmark_files"

_RESERVED = {"task", "general"}

FAST_ROWS = 32
"""Rows that are asked beside the fast subset of the general suite."""


@dataclass(frozen=True)
class Evaluation:
    """Data of an evaluation's record, and the gate's result.

    Attributes:
        record: as written.
        outcome: of the gate; None where this command gave no bounds, whatever an earlier one has decided.
    """

    record: dict[str, Any]
    outcome: str | None


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: Sequence[str] = (),
    scorer: str = "exact",
    also_score: Sequence[str] = (),
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
        also_score: other scorers, for what the same answers are worth by them; the gate doesn't look at these.
        half: of the general suite; choose on "dev", report on "test".
        level: of the general suite: "1" to "3", "all", or "auto" for the hardest at which the base model still passes
            40 % of a few development items.
        suites: beside the general suite: JSONL files of the user's own questions (see `selfaug.eval.suite_files`), or
            functions as `module:function` (see `selfaug.eval.own_suites`).
        benchmarks: tasks of lm-eval.
        benchmark_tasks: folder with task files of the user's.
        benchmark_items: how many of each; None for all.
        general_items: how many general requests; None for all of the half and level.
        task_items: how many rows, evenly over their sources; None for all.
        max_new_tokens: longest answer to a row.
        batch_size: prompts answered together; what is lost when it is cut off.
        max_forgetting: share; the gate's bound on score(base) − score(tuned) over the general requests.
        min_task_gain: share; the gate's bound on score(tuned) − score(base) over the rows.
        forecast: folder of a comparison of the same base model: what its runs forgot at this drift is shown beside.
        device: "auto", "cpu" or "cuda".
        offline: use only what is on this machine.
        overwrite: evaluate anew where there is an evaluation. Without it, bounds, a forecast and other scorers are
            added to one with the same settings, whose answers stay.
        base_from: a run that was evaluated with the same settings; the base model's answers are taken from there.
        on_progress: called with what is being done.

    Raises:
        StorageError: if there is no such run, or an evaluation with other settings or of files that have changed since.
        ConfigError, DataError, ModelError: if scorer, rows, forecast or models can't be used.
    """
    folder = RunDir.open(run)

    def tell(told: str) -> None:
        on_progress(Progress("warning", message=told))

    config = load_run_config(folder, tell)
    score = named_scorer(scorer)
    others = {name: named_scorer(name) for name in also_score if name != scorer}
    needs_rows = {"--min-task-gain": min_task_gain is not None, "--also-score": bool(others)}
    if any(needs_rows.values()) and not (data or config.data.eval):
        given = " and ".join(name for name, needs in needs_rows.items() if needs)
        raise ConfigError(
            f"{given}: needs held-out rows, and the run was trained without any.",
            hint="give them with --data.",
        )
    if config.is_chosen_on(data):
        raise ConfigError(
            "the run's checkpoint was chosen on rows of data.eval (train.best_of_rows), which can't be reported on.",
            hint="give others with --data.",
        )
    as_set = load_config(folder.config)  # with names as they are, wherever their files are found from here
    foretold = None if forecast is None else read_forecast(forecast, as_set.model.name)
    chosen = level_of(level)
    if forecast is not None and chosen is not None:
        _require_level(forecast, chosen.level)
    weights, step = trained_weights(folder, config)
    if benchmarks:
        require_benchmarks(benchmarks, benchmark_tasks)
    files, made = suites_of(suites, benchmarks)
    sources = [os.path.expanduser(source) for source in data or config.data.eval]
    require_names(sources)
    named = sources if data else as_set.data.eval
    settings = {
        "data": named, "scorer": scorer, "half": half, "level": level,
        "suites": {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items()
                   if Path(file).is_file()}
        | {name: _hash_of_items(items) for name, items in made.items()},
        "benchmarks": list(benchmarks), "benchmark_tasks": benchmark_tasks, "benchmark_items": benchmark_items,
        "general_items": general_items, "task_items": task_items, "max_new_tokens": max_new_tokens, "step": step,
        "weights": hash_of_weights(weights), **choice_of_rows(task_items),
        TOKENIZER: stored_tokenizer_hash(config.model.name),
    }  # fmt: skip
    if benchmarks and benchmark_tasks is not None:
        settings[_TASK_FILES] = hash_of_tasks(benchmark_tasks)
    judges = {one for name, file in files.items() if name not in made for one in _judges_of(file)}
    contents = digests_of([*sources, *files_of_scorer(scorer), *sorted(judges)])
    name_of = dict(zip(sources, named, strict=True))
    contents = {name_of.get(source, source): digests for source, digests in contents.items()}
    work = folder.samples / "evaluation"
    spent = WorkTime(work / WORKED)
    replaced = _replaced(folder, work)
    replaced.recover()
    offline = offline or config.run.offline

    def tokenizer_of_model() -> PreTrainedTokenizerBase:
        return load_tokenizer(
            config.model.name, trust_remote_code=config.model.trust_remote_code, offline=offline
        )

    def held_out(tokenizer: PreTrainedTokenizerBase) -> Suite:
        if not data:
            require_named_files(folder, config, "eval", instead="give held-out rows with --data")
        tell_of_changes(folder, config, "train", *([] if data else ["eval"]), tell=tell)
        return task_prompts(
            config,
            tokenizer,
            sources,
            score=score,
            items=task_items,
            max_new_tokens=max_new_tokens,
            offline=offline,
            template=trained_template(folder),
        )

    if not overwrite:
        if folder.evaluation.exists():
            return _decided_anew(
                folder,
                settings,
                contents,
                max_forgetting,
                min_task_gain,
                forecast,
                foretold,
                lambda: _scored_anew(held_out(tokenizer_of_model()), others, work) if others else {},
            )
        _require_same(folder, work, settings)
    on_progress(Progress("data"))
    tokenizer = tokenizer_of_model()
    # One from a hub may not have been here before.
    settings[TOKENIZER] = settings[TOKENIZER] or stored_tokenizer_hash(config.model.name)
    require_chat_template(
        tokenizer, config.model.name, then=f"name that folder in {folder.config}, at model.name"
    )
    window = context_window(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=offline
    )
    template = config.data.chat_template_kwargs
    asked: dict[str, Suite] = {}
    other_suites: dict[str, Suite] = {}
    known_rows: dict[str, Any] | None = None
    if sources:
        asked["task"] = held_out(tokenizer)
        ids = [one.partition(": ")[2] for one in asked["task"].ids]
        known_rows = trained_on(folder, config, sources, ids, offline=offline)
        if (worth := trained_on_in_words(known_rows)) is not None:
            tell(f"{worth}.")
        other_suites = {name: scored_by(asked["task"], other) for name, other in others.items()}
    for name, file in files.items():
        asked[name] = (
            general_prompts(tokenizer, made[name], template)
            if name in made
            else suite_file_prompts(tokenizer, read_suite(file), max_new_tokens, template, window=window)
        )
    resolved = resolve_device(device)
    known = None if base_from is None else _evaluated_alike(base_from, folder, config, settings, resolved)
    on_progress(Progress("model"))
    base, tuned = load_run_models(folder, config, weights, device=resolved, offline=offline)
    if overwrite and replaced.entries():
        replaced.move()  # not before all of this has worked
    with replaced.settled(), _opened(work, settings, spent):

        def report(stage: str) -> Callable[[int, int], None]:
            return lambda done, total: on_progress(Progress(stage, done, total))

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
            for warning in chosen.warnings:
                on_progress(Progress("warning", message=warning))
            if forecast is not None and (why := other_level(forecast, chosen.level)):
                on_progress(Progress("warning", message=f"no forecast is made: {why}"))
                foretold = None
        general_requests = select_items(half, chosen.level, general_items)
        asked["general"] = general_prompts(tokenizer, general_requests, template)
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
                        template_arguments=template,
                    )
        drifts, most_drifted = measured_drifts(
            tuned,
            None if base is None else FrozenModel(base),
            tokenizer,
            asked,
            answers["general"]["base"],
            work / _DRIFT_SO_FAR,
            report,
        )
        write_lines(work / "drift.jsonl", most_drifted)

        results = {
            name: {
                **compare_answers(suite, answers[name]["tuned"], answers[name]["base"]),
                "cut_off": {which: share_cut_off(suite, work / f"{name}-{which}.jsonl") for which in MODELS},
                "own_limits": name == "general" or name in made,
            }
            for name, suite in asked.items()
        }
        results["general"]["cut_off_by_level"] = {
            which: share_cut_off_by_level(general_requests, work / f"general-{which}.jsonl")
            for which in MODELS
        }
        results |= {task: _compare_benchmarks(task, **found) for task, found in scored.items()}
        sides: dict[str, Any] = {}
        if config.data.prepared is not None and "task" in asked:
            sides = compare_sides(
                asked["task"],
                answers["task"]["tuned"],
                answers["task"]["base"],
                # The model's own words, and those of rows that were prepared anew since.
                list(filter(None, (trained_no_answer(folder), no_answer_of(Path(config.data.prepared))))),
            )
        differences = {name: asdict(suite["difference"]) for name, suite in results.items()}
        gate = _gate(differences, results["general"]["base"].value, max_forgetting, min_task_gain)
        data_of_record = {
            "run": str(folder.path),
            "settings": settings,
            "contents": contents,
            "level": asdict(chosen),
            "suites": results,
            "benchmarks": {
                task: {which: found[which].table for which in MODELS} for task, found in scored.items()
            },
            "sides": sides,
            "trained_on": known_rows,
            "also": {
                name: compare_answers(suite, answers["task"]["tuned"], answers["task"]["base"])
                for name, suite in other_suites.items()
            },
            "drift": drifts,
            "forecast": None
            if foretold is None
            or OWN_ANSWERS not in drifts
            or not math.isfinite(drifts[OWN_ANSWERS]["nats"].value)
            else expected_forgetting(foretold, drifts[OWN_ANSWERS]["nats"].value),
            "gate": gate,
            "device": str(resolved),
            "threads": torch.get_num_threads(),
            "seconds": spent.seconds,
        }
        evaluation = _written(folder, data_of_record, gate)
        (work / _DRIFT_SO_FAR).unlink(missing_ok=True)
        return evaluation


def _written(run: RunDir, record: dict[str, Any], gate: Mapping[str, Any] | None) -> Evaluation:
    """The evaluation with this record, which is written, and with what this command's bounds say."""
    write_record(run.evaluation, RECORD_KIND, record)
    return Evaluation(read_record(run.evaluation, RECORD_KIND), None if gate is None else gate["outcome"])


def _decided_anew(
    run: RunDir,
    settings: dict[str, Any],
    contents: dict[str, list[str]],
    max_forgetting: float | None,
    min_task_gain: float | None,
    forecast: str | None,
    foretold: Forecast | None,
    also: Callable[[], dict[str, Any]],
) -> Evaluation:
    """The evaluation that is there with other bounds, scorers or another forecast: answers and drift stay as they are.

    Raises:
        StorageError: if there is nothing to decide anew, or the evaluation has other settings, or is of files that have
            changed since.
        ConfigError: if the forecast is of another level.
    """
    record = read_record(run.evaluation, RECORD_KIND)
    # Whichever rows were asked, the record says so, and its answers stay.
    changed = [name for name in _changed(record["settings"], settings) if name != "task_choice"]
    known = record.get("contents", {})  # there are none in older records
    stale = sorted(file for file in contents if known.get(file, contents[file]) != contents[file])
    if stale and not changed:
        raise StorageError(
            f"{run.path} was evaluated before {', '.join(stale)} changed: its numbers are of what was in there then.",
            hint="use --overwrite to evaluate it by what is in there now.",
        )
    gate = _gate(
        {name: suite["difference"] for name, suite in record["suites"].items()},
        record["suites"]["general"]["base"]["value"],
        max_forgetting,
        min_task_gain,
    )
    scored = {} if changed else also()
    if changed or (gate is None and foretold is None and not scored):
        other = f", with another {', '.join(changed)}" if changed else ""
        raise StorageError(
            f"{run.path} has an evaluation already{other}.",
            hint=f"look at {run.evaluation}; with the same settings, give bounds for its gate (--max-forgetting, "
            "--min-task-gain) or other scorers (--also-score); or use --overwrite.",
        )
    if gate is not None:
        record["gate"] = gate
    # Null where the model is broken, and drifts by no number.
    moved = record["drift"].get(OWN_ANSWERS, {"nats": {"value": None}})["nats"]["value"]
    if forecast is not None and foretold is not None and moved is not None:
        _require_level(forecast, record["level"]["level"])
        record["forecast"] = expected_forgetting(foretold, moved)
    record["also"] = record.get("also", {}) | scored
    return _written(run, record, gate)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ."""
    # Of earlier versions, which kept the home folder's sign as it was.
    before = {**before, "data": [os.path.expanduser(source) for source in before.get("data", [])]}
    changed = [key for key in now if before.get(key) != now[key]]
    if alike_where_known(before.get(TOKENIZER), now.get(TOKENIZER)):
        changed = [key for key in changed if key != TOKENIZER]
    if _TASK_FILES not in before and before.get("benchmark_tasks") == now.get("benchmark_tasks"):
        changed = [key for key in changed if key != _TASK_FILES]  # of earlier versions, which didn't keep it
    return sorted(changed)


def digests_of(sources: Sequence[str]) -> dict[str, list[str]]:
    """SHA-256 of each file that rows, or the schema of a scorer, are read from; by source.

    There are none of a hub data set, nor of a file that is gone: what was evaluated can be decided on without it.
    """
    digests = {
        name: [one["sha256"] for one in describe_sources([name]) if "sha256" in one] for name in sources
    }
    return {name: found for name, found in digests.items() if found}


def _judges_of(suite: str) -> list[str]:
    """Files that the scorers in a suite's lines read; none of one that can't be read any more, nor has to be."""
    try:
        return [file for row in read_suite(suite) for file in row.judged_by]
    except DataError:
        return []


def _hash_of_items(items: Sequence[GeneralItem]) -> str:
    """The same in each process: a check of the user's own may be shown by where it lies in memory."""
    shown = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(items))
    return hashlib.sha256(shown.encode()).hexdigest()


def _compare_benchmarks(task: str, base: Benchmark, tuned: Benchmark) -> dict[str, Any]:
    """As `compare_answers`, of a task of lm-eval.

    Raises:
        StorageError: if one model was asked other items than the other, before an interruption or after it.
    """
    asked = [[(row["id"], row["prompt"]) for row in of.items] for of in (base, tuned)]
    if asked[0] != asked[1]:
        raise StorageError(
            f"base and tuned model were asked different items of {task}: its task file or its data have changed "
            "since the base model was asked.",
            hint="use --overwrite to ask both models again.",
        )
    return compare_scores(
        [row["id"] for row in base.items], *([row["score"] for row in of.items] for of in (tuned, base))
    )


def _scored_anew(suite: Suite, scorers: Mapping[str, Scorer], work: Path) -> dict[str, Any]:
    """What the kept answers to the task's rows are worth by other scorers, as `compare_answers` by each.

    Raises:
        DataError: if they can't score the rows.
        StorageError: if there are not the answers to these rows any more.
    """
    suites = {name: scored_by(suite, scorer) for name, scorer in scorers.items()}
    answers = {}
    for which in MODELS:
        file = work / f"task-{which}.jsonl"
        kept = {row["id"]: row for row in read_lines(file)} if file.exists() else {}
        asked = zip(suite.ids, suite.texts, strict=True)
        if any(name not in kept or kept[name]["prompt"] != text for name, text in asked):
            raise StorageError(
                f"{file} has not the answers to these rows: it was moved, or the rows or their prompts have changed "
                "since.",
                hint="use --overwrite to ask both models again. A chat template that writes today's date into each "
                "prompt, as Llama 3.2's does, makes others of them each day: train with the date fixed, as in "
                "`data.chat_template_kwargs: {date_string: 26 Jul 2024}`.",
            )
        answers[which] = [kept[name]["answer"] for name in suite.ids]
    return {name: compare_answers(one, answers["tuned"], answers["base"]) for name, one in suites.items()}


def _require_level(forecast: str, level: Level | None) -> None:
    """Refuse a forecast from requests of another level.

    Raises:
        ConfigError: if it is.
    """
    if why := other_level(forecast, level):
        raise ConfigError(
            why, hint="evaluate on the comparison's level, with --level, or leave out --forecast."
        )


def require_chat_template(tokenizer: PreTrainedTokenizerBase, model: str, *, then: str) -> None:
    """Refuse a model that can't be asked general requests, before anything long.

    Args:
        tokenizer: of the model.
        model: its name.
        then: what to do with a folder in which it has a chat template.

    Raises:
        ModelError: if it has none.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{model} has no chat template, by which it is asked the general requests.",
            hint="save model and tokeniser into a folder (`save_pretrained` of each), the tokeniser with a "
            f"`tokenizer.chat_template` of your choice, and {then}.",
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
    run: str | os.PathLike[str],
    asking: RunDir,
    config: TrainConfig,
    settings: dict[str, Any],
    device: torch.device,
) -> Path:
    """Folder of the answers of another run's evaluation, whose base model was asked the same.

    Args:
        run: whose answers are wanted.
        asking, config: the run that is evaluated.
        settings, device: of the evaluation.

    Raises:
        ConfigError: if it was another model, or was asked something else.
    """
    other = RunDir.open(run)
    other_config = load_run_config(other)
    record = read_record(other.evaluation, RECORD_KIND)
    differ = [key for key in _changed(record["settings"], settings) if key not in ("step", "weights")]
    # Another one may have lain under the same name: each run agrees with the weights that it was trained on.
    if other_config.model != config.model or not trained_alike(asking, other):
        differ.append("base model")
    if other_config.data.chat_template_kwargs != config.data.chat_template_kwargs:
        differ.append("data.chat_template_kwargs")
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
        write_lines(own, list(suite.kept(read_lines(source / file)).values()))


def _require_same(run: RunDir, work: Path, settings: dict[str, Any]) -> None:
    """Refuse where there are the answers of an evaluation with other settings."""
    if (work / _STARTED).exists():
        before = read_record(work / _STARTED, "evaluation-started")
        changed = _changed(before, settings)
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
        has_begun=lambda: any(file.stat().st_size for file in work.glob("*.jsonl") if file.name != WORKED),
        homes={place.name: place for place in places},
    )


@contextmanager
def _opened(work: Path, settings: dict[str, Any], spent: WorkTime) -> Iterator[None]:
    """The folder of the answers, new or the one that is there; the time is written down in it at the end."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write into {work}: {error.strerror or error}", hint="change the folder's permissions."
        ) from error
    if not (work / _STARTED).exists():
        write_record(work / _STARTED, "evaluation-started", settings)
    try:
        yield
    finally:
        spent.keep()


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
    differences: dict[str, dict[str, Any]],
    general_base: float,
    max_forgetting: float | None,
    min_task_gain: float | None,
) -> dict[str, Any] | None:
    """What the bounds say, for the record; None without any.

    Args:
        differences: fields of a `PairedDifference` by suite, as a record has them.
        general_base: the base model's general score, a share: more it can't forget.
        max_forgetting: share of the general score.
        min_task_gain: share of the task score.
    """
    bounds = []
    if max_forgetting is not None:
        general = differences["general"]
        gained = Interval(**general["difference"])
        lost = Interval(-gained.value, -gained.high, -gained.low)
        bounds.append(at_most("forgetting", lost, max_forgetting, general["items"], at_stake=general_base))
    if min_task_gain is not None:
        task = differences["task"]
        bounds.append(at_least("task gain", Interval(**task["difference"]), min_task_gain, task["items"]))
    return {"outcome": overall(bounds), "bounds": [asdict(one) for one in bounds]} if bounds else None
