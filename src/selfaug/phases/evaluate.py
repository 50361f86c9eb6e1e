"""Evaluation of a run: base and tuned model on the task's held-out rows and on general requests, and the gate.

Both models answer the same prompts, so every difference is taken item by item. Answers are written as they are made:
an evaluation that was cut off goes on with the next prompts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from selfaug.config import TrainConfig, load_config
from selfaug.core.forecast import Forecast
from selfaug.core.gate import bound_on_gain, bound_on_loss, bound_on_retention, bound_on_score, overall
from selfaug.core.trained_on import trained_on_in_words
from selfaug.data.sources import require_names
from selfaug.errors import ConfigError, ModelError, StorageError
from selfaug.eval.document_answers import unknown_no_answers
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.general_suite import Half, Level
from selfaug.eval.scorers import Scorer, named_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.model.stored_weights import stored_tokenizer_hash
from selfaug.phases.both_models import DRIFT_SO_FAR, MODELS, BothModels, answers_file
from selfaug.phases.canary import lacks_canary, write_missing_canary
from selfaug.phases.chosen_on import is_chosen_on
from selfaug.phases.drift_suites import OWN_ANSWERS
from selfaug.phases.evaluation_settings import Questions, changed_settings, suites_of
from selfaug.phases.forecasts import expected_forgetting, other_level, read_forecast
from selfaug.phases.inputs import model_window, resolve_device, tokenizer_of
from selfaug.phases.lm_eval_suites import Benchmark, require_benchmarks
from selfaug.phases.model_card import write_evaluation_on_card
from selfaug.phases.progress import Progress
from selfaug.phases.run_files import load_run_config, require_named_base, require_named_files, tell_of_changes
from selfaug.phases.run_models import (
    TOKENIZER,
    load_run_models,
    trained_alike,
    trained_weights,
)
from selfaug.phases.suites import (
    AskSettings,
    Suite,
    compare_answers,
    compare_scores,
    compare_sides,
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
from selfaug.phases.versions import NOT_KNOWN, for_record, versions_so_far
from selfaug.phases.work_time import WORKED, WorkTime
from selfaug.records import as_json, read_lines, read_record, write_lines, write_record, writing_into
from selfaug.replaced import Replaced
from selfaug.rundir import RunDir

__all__ = [
    "FAST_ROWS",
    "RECORD_KIND",
    "Evaluation",
    "evaluate",
    "require_chat_template",
]

RECORD_KIND = "evaluation"

_STARTED = "started.json"

_VERSIONS = "versions"
"""In there, beside the settings."""

FAST_ROWS = 32
"""Rows that are asked beside the fast subset of the general suite."""


@dataclass(frozen=True)
class _Bounds:
    """Of the gate, as of `evaluate`; None where there is none."""

    max_forgetting: float | None
    min_retention: float | None
    min_task_gain: float | None
    min_task_score: float | None

    @property
    def given(self) -> bool:
        return any(bound is not None for bound in asdict(self).values())

    @property
    def of_task(self) -> dict[str, float | None]:
        """Those that need held-out rows, by their flags."""
        return {"--min-task-gain": self.min_task_gain, "--min-task-score": self.min_task_score}


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
    ask: AskSettings,
    *,
    data: Sequence[str] = (),
    also_score: Sequence[str] = (),
    half: Half = "test",
    benchmarks: Sequence[str] = (),
    benchmark_tasks: str | None = None,
    benchmark_items: int | None = None,
    max_forgetting: float | None = None,
    min_retention: float | None = None,
    min_task_gain: float | None = None,
    min_task_score: float | None = None,
    forecast: str | None = None,
    device: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
    replace_checkpoint: bool = False,
    base_from: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Evaluation:
    """Ask base and tuned model the task's held-out rows and general requests; compare, and decide the gate.

    The canary set of a complete run that has none is recorded, too.

    Args:
        run: folder of a run.
        ask: what both models are asked.
        data: sources of held-out rows; those that the run evaluated on if empty. Without any, there is no task score.
        also_score: other scorers, for what the same answers are worth by them; the gate doesn't look at these.
        half: of the general suite; choose on "dev", report on "test".
        benchmarks: tasks of lm-eval.
        benchmark_tasks: folder with task files of the user's.
        benchmark_items: how many of each; None for all.
        max_forgetting: share; the gate's bound on score(base) − score(tuned) over the general requests.
        min_retention: share; the gate's bound on score(tuned) / score(base) over the general requests.
        min_task_gain: share; the gate's bound on score(tuned) − score(base) over the rows.
        min_task_score: share; the gate's bound on score(tuned) over the rows.
        forecast: folder of a comparison of the same base model: what its runs forgot at this drift is shown beside.
        device: "auto", "cpu" or "cuda".
        offline: use only what is on this machine.
        overwrite: evaluate anew where there is an evaluation. Without it, bounds, a forecast and other scorers are
            added to one with the same settings, whose answers stay; where none of these is given, a canary set.
        replace_checkpoint: evaluate a complete run anew where what is there, or was cut off, is of a checkpoint.
        base_from: a run that was evaluated with the same settings; the base model's answers are taken from there.
        on_progress: called with what is being done.

    Raises:
        StorageError: if there is no such run, or an evaluation with other settings or of files that have changed since.
        ConfigError, DataError, ModelError: if scorer, rows, forecast or models can't be used.
    """
    folder = RunDir.open(run)

    def tell(told: str) -> None:
        on_progress(Progress("warning", message=told))

    config = load_run_config(folder, tell, offline=offline)
    bounds = _Bounds(max_forgetting, min_retention, min_task_gain, min_task_score)
    named_scorer(ask.scorer)  # refuses one that there isn't
    others = {name: named_scorer(name) for name in also_score if name != ask.scorer}
    _require_reportable_rows(folder, config, data, bounds, with_others=bool(others))
    as_set = load_config(folder.config)  # with names as they are, wherever their files are found from here
    foretold = None if forecast is None else read_forecast(forecast, as_set.model.name)
    level = level_of(ask.level)
    if forecast is not None and level is not None:
        _require_level(forecast, level.level)
    weights, step = trained_weights(folder, config)
    if benchmarks:
        require_benchmarks(benchmarks, benchmark_tasks)
    files, made = suites_of(ask.suites, benchmarks)
    sources = [os.path.expanduser(source) for source in data or config.data.eval]
    require_names(sources)
    questions = Questions(
        ask, sources, sources if data else as_set.data.eval, half, files, made, benchmarks, benchmark_tasks,
        benchmark_items,
    )  # fmt: skip
    settings, contents = questions.settings(config.model.name, weights, step), questions.contents()
    prompts = _Prompts(folder, config, questions, bool(data), tell)
    work = folder.samples / "evaluation"
    spent = WorkTime(work / WORKED)
    replaced = _replaced(folder, work)
    replaced.recover()
    if replace_checkpoint and step is None and (before := _step_evaluated(folder, work)) is not None:
        tell(
            f"{folder.path} was evaluated at step {before}, before its training ended; it is evaluated anew."
        )
        overwrite = True
    if not overwrite:
        if folder.evaluation.exists():
            return _decided_anew(
                folder,
                settings,
                contents,
                bounds,
                forecast,
                foretold,
                lambda: (
                    _scored_anew(prompts.of_rows(_tokenizer(folder, config)), others, work, tell)
                    if others
                    else {}
                ),
                lambda: lacks_canary(folder) and _canary_added(folder, config, weights, device, on_progress),
                tell,
            )
        _require_same(folder, work, settings)
    on_progress(Progress("data"))
    tokenizer = _tokenizer(folder, config)
    # One from a hub may not have been here before.
    settings[TOKENIZER] = settings[TOKENIZER] or stored_tokenizer_hash(config.model.name)
    require_chat_template(
        tokenizer, config.model.name, then=f"name that folder in {folder.config}, at model.name"
    )
    asked, known_rows = prompts.suites(tokenizer)
    otherwise = {name: scored_by(asked["task"], other) for name, other in others.items()}
    _tell_of_scores([*asked.values(), *otherwise.values()], tell)
    resolved = resolve_device(device)
    known = None if base_from is None else _evaluated_alike(base_from, folder, config, settings, resolved)
    on_progress(Progress("model"))
    base, tuned = load_run_models(folder, config, weights, device=resolved)
    if lacks_canary(folder):
        write_missing_canary(folder, config, tuned, tokenizer, on_progress)
    if overwrite and replaced.entries():
        replaced.move()  # not before all of this has worked
    template = config.data.chat_template_kwargs
    models = BothModels(base, tuned, tokenizer, template, ask.batch_size, work, on_progress)
    with replaced.settled(), _opened(folder, work, settings, spent, tell) as versions:
        if level is None:
            level = models.fitting_level()
            for warning in level.warnings:
                tell(warning)
            if forecast is not None and (why := other_level(forecast, level.level)):
                tell(f"no forecast is made: {why}")
                foretold = None
        requests = select_items(half, level.level, ask.general_items)
        asked["general"] = general_prompts(tokenizer, requests, template)
        if known is not None:
            _take_base_answers(known, work, asked)
        measured = _measured(models, config, questions, asked, otherwise, requests)
        results, drift = measured["suites"], measured["drift"].get(OWN_ANSWERS, {"nats": None})["nats"]
        gate = _gate(as_json(results), bounds)
        record = {
            "run": str(folder.path),
            "settings": settings,
            "contents": contents,
            "level": asdict(level),
            "trained_on": known_rows,
            **measured,
            "forecast": None
            if foretold is None or drift is None or not math.isfinite(drift.value)
            else expected_forgetting(foretold, drift.value),
            "gate": gate,
            "device": str(resolved),
            "threads": torch.get_num_threads(),
            "seconds": spent.seconds,
            **for_record(versions),
        }
        evaluation = _written(folder, record, gate, tell)
        (work / DRIFT_SO_FAR).unlink(missing_ok=True)
        return evaluation


def _canary_added(
    run: RunDir, config: TrainConfig, weights: Path, device: str, on_progress: Callable[[Progress], None]
) -> bool:
    """Whether the canary set of a run that lacks it is recorded, as of `write_missing_canary`."""
    tokenizer = _tokenizer(run, config)
    on_progress(Progress("model"))
    _, tuned = load_run_models(run, config, weights, device=resolve_device(device))
    return write_missing_canary(run, config, tuned, tokenizer, on_progress)


def _tokenizer(run: RunDir, config: TrainConfig) -> PreTrainedTokenizerBase:
    require_named_base(run, config)
    return tokenizer_of(config)


@dataclass(frozen=True)
class _Prompts:
    """Makes prompts of the questions of a run, but for the general requests.

    Attributes:
        run: that is evaluated.
        config: its settings.
        questions: what is asked.
        given: whether the rows were named; else they are those that the run evaluated on.
        tell: called with each warning.
    """

    run: RunDir
    config: TrainConfig
    questions: Questions
    given: bool
    tell: Callable[[str], None]

    def of_rows(self, tokenizer: PreTrainedTokenizerBase) -> Suite:
        """Of the held-out rows."""
        if not self.given:
            require_named_files(self.run, self.config, "eval", instead="give held-out rows with --data")
        tell_of_changes(self.run, self.config, "train", *([] if self.given else ["eval"]), tell=self.tell)
        ask = self.questions.ask
        return task_prompts(
            self.config,
            tokenizer,
            self.questions.sources,
            score=named_scorer(ask.scorer),
            items=ask.task_items,
            max_new_tokens=ask.max_new_tokens,
            template=trained_template(self.run),
            no_answer=trained_no_answer(self.run),
        )

    def suites(self, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Suite], dict[str, Any] | None]:
        """Of the rows, if there are any, and of the user's own suites, by name; and how many of the rows were trained
        on, as of `trained_on`.
        """
        asked: dict[str, Suite] = {}
        known_rows = None
        if self.questions.sources:
            asked["task"] = self.of_rows(tokenizer)
            ids = asked["task"].row_ids
            known_rows = trained_on(self.run, self.config, self.questions.sources, ids)
            if (worth := trained_on_in_words(known_rows)) is not None:
                self.tell(f"{worth}.")
        return asked | self._own_suites(tokenizer), known_rows

    def _own_suites(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Suite]:
        template, window = self.config.data.chat_template_kwargs, model_window(self.config)
        made, limit = self.questions.made, self.questions.ask.max_new_tokens
        return {
            name: general_prompts(tokenizer, made[name], template)
            if name in made
            else suite_file_prompts(tokenizer, read_suite(file), limit, template, window=window)
            for name, file in self.questions.files.items()
        }


def _require_reportable_rows(
    run: RunDir, config: TrainConfig, data: Sequence[str], bounds: _Bounds, *, with_others: bool
) -> None:
    """Refuse what needs held-out rows without any, and rows on which the run's checkpoint was chosen.

    Args:
        run: that is evaluated.
        config: its settings.
        data: sources that were named; those that the run evaluated on if empty.
        bounds: of the gate.
        with_others: whether answers are scored otherwise, too.

    Raises:
        ConfigError: if there are none, or they were chosen on.
    """
    needing = [flag for flag, bound in bounds.of_task.items() if bound is not None]
    needing += ["--also-score"] if with_others else []
    if needing and not (data or config.data.eval):
        given = " and ".join(needing)
        raise ConfigError(
            f"{given}: needs held-out rows, and the run was trained without any.",
            hint="give them with --data.",
        )
    if is_chosen_on(config, data, run):
        raise ConfigError(
            "the run's checkpoint was chosen on rows of data.eval (train.best_of_rows), which can't be reported on.",
            hint="give others with --data.",
        )


def _measured(
    models: BothModels,
    config: TrainConfig,
    questions: Questions,
    asked: Mapping[str, Suite],
    otherwise: Mapping[str, Suite],
    requests: Sequence[GeneralItem],
) -> dict[str, Any]:
    """What both models answer, what that is worth, and how far they are apart, for the record.

    Args:
        models: that are asked.
        config: of the run; answers to prepared rows are judged by value, sources and abstention, too.
        questions: with the benchmarks.
        asked: suites by name.
        otherwise: the task's rows with other scorers, by name.
        requests: of the suite "general".
    """
    answers, work = models.answers(asked), models.work
    scored = models.benchmarks(questions.benchmarks, questions.benchmark_tasks, questions.benchmark_items)
    drifts, most_drifted = models.drifts(asked, answers["general"]["base"])
    write_lines(work / "drift.jsonl", most_drifted)
    suites = {
        name: {
            **compare_answers(suite, answers[name]["tuned"], answers[name]["base"]),
            "cut_off": {which: share_cut_off(suite, answers_file(work, name, which)) for which in MODELS},
            "own_limits": name == "general" or name in questions.made,
        }
        for name, suite in asked.items()
    }
    suites["general"]["cut_off_by_level"] = {
        which: share_cut_off_by_level(requests, answers_file(work, "general", which)) for which in MODELS
    }
    return {
        "suites": {**suites, **{task: _compare_benchmarks(task, **found) for task, found in scored.items()}},
        "benchmarks": {
            task: {which: found[which].table for which in MODELS} for task, found in scored.items()
        },
        "sides": {}
        if config.data.prepared is None or "task" not in asked
        else compare_sides(asked["task"], answers["task"]["tuned"], answers["task"]["base"]),
        "unknown_no_answers": unknown_no_answers(asked["task"].no_answers) if "task" in asked else [],
        "also": {
            name: compare_answers(suite, answers["task"]["tuned"], answers["task"]["base"])
            for name, suite in otherwise.items()
        },
        "drift": drifts,
    }


def _written(
    run: RunDir, record: dict[str, Any], gate: Mapping[str, Any] | None, tell: Callable[[str], None]
) -> Evaluation:
    """The evaluation with this record, which is written, there and on the model card, and with what this command's
    bounds say.
    """
    write_record(run.evaluation, RECORD_KIND, record)
    written = read_record(run.evaluation, RECORD_KIND)
    if record["settings"]["step"] is None:  # else it is of a checkpoint, which has no card
        try:
            write_evaluation_on_card(run, written)
        except StorageError as error:  # the numbers are there, and count
            tell(f"the model card is as it was before: {error.message}")
    return Evaluation(written, None if gate is None else gate["outcome"])


def _with_units(gate: Mapping[str, Any]) -> dict[str, Any]:
    """A gate as it is recorded today: the first ones had bounds in points alone, and didn't say so."""
    return {**gate, "bounds": [{"unit": "points", **one} for one in gate["bounds"]]}


def _decided_anew(
    run: RunDir,
    settings: dict[str, Any],
    contents: dict[str, list[str]],
    bounds: _Bounds,
    forecast: str | None,
    foretold: Forecast | None,
    also: Callable[[], dict[str, Any]],
    canary: Callable[[], bool],
    tell: Callable[[str], None],
) -> Evaluation:
    """The evaluation that is there with other bounds, scorers or another forecast: answers and drift stay as they are,
    and so does, as `gates_before`, what was decided otherwise.

    Where none of these is given, `canary` adds a canary set, if it can, and the evaluation stays as it is. Where one
    is, no model is loaded, as a gate should be quick, and a canary set that is missing is told.

    Raises:
        StorageError: if there is nothing to decide anew, or the evaluation has other settings, or is of files that have
            changed since.
        ConfigError: if the forecast is of another level.
    """
    record = read_record(run.evaluation, RECORD_KIND)
    changed, known = changed_settings(record["settings"], settings), record["contents"]
    stale = sorted(file for file in contents if known.get(file, contents[file]) != contents[file])
    if stale and not changed:
        raise StorageError(
            f"{run.path} was evaluated before {', '.join(stale)} changed: its numbers are of what was in there then.",
            hint="use --overwrite to evaluate it by what is in there now.",
        )
    scored = {} if changed else also()
    if changed or not (bounds.given or foretold is not None or scored or canary()):
        other = f", with another {', '.join(changed)}" if changed else ""
        raise StorageError(
            f"{run.path} has an evaluation already{other}.",
            hint=f"look at {run.evaluation}; with the same settings, give bounds for its gate (--max-forgetting, "
            "--min-retention, --min-task-gain, --min-task-score) or other scorers (--also-score); or use --overwrite.",
        )
    gate = _gate(record["suites"], bounds)
    if gate is not None:
        if record["gate"] is not None and _with_units(record["gate"]) != gate:
            record["gates_before"] = [*record.get("gates_before", []), record["gate"]]
        record["gate"] = gate
    # Null where the model is broken, and drifts by no number.
    moved = record["drift"].get(OWN_ANSWERS, {"nats": {"value": None}})["nats"]["value"]
    if forecast is not None and foretold is not None and moved is not None:
        _require_level(forecast, record["level"]["level"])
        record["forecast"] = expected_forgetting(foretold, moved)
    record["also"] |= scored
    if lacks_canary(run):
        tell(
            "no canary set is recorded: give the same command without bounds, --forecast and --also-score to record it."
        )
    return _written(run, record, gate, tell)


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


def _tell_of_scores(suites: Iterable[Suite], tell: Callable[[str], None]) -> None:
    for suite in suites:
        if suite.warning is not None:
            tell(suite.warning)


def _scored_anew(
    suite: Suite, scorers: Mapping[str, Scorer], work: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """What the kept answers to the task's rows are worth by other scorers, as `compare_answers` by each.

    Raises:
        DataError: if they can't score the rows.
        StorageError: if there are not the answers to these rows any more.
    """
    suites = {name: scored_by(suite, scorer) for name, scorer in scorers.items()}
    _tell_of_scores(suites.values(), tell)
    answers = {}
    for which in MODELS:
        file = answers_file(work, "task", which)
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
    differ = [key for key in changed_settings(record["settings"], settings) if key not in ("step", "weights")]
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
        own, theirs = (answers_file(folder, name, "base") for folder in (work, source))
        if own.exists() or not theirs.exists():
            continue
        write_lines(own, list(suite.kept(read_lines(theirs)).values()))


def _require_same(run: RunDir, work: Path, settings: dict[str, Any]) -> None:
    """Refuse where there are the answers of an evaluation with other settings."""
    if (work / _STARTED).exists():
        before = read_record(work / _STARTED, "evaluation-started")
        changed = changed_settings(before, settings)
        if changed:
            raise StorageError(
                f"{run.path} has an evaluation that was cut off, with another {', '.join(changed)}.",
                hint="give the same settings to go on with it, or --overwrite.",
            )


def _step_evaluated(run: RunDir, work: Path) -> int | None:
    """Step of the checkpoint that was evaluated, to the end or not; None if none was, or the run was at its end."""
    if run.evaluation.exists():
        settings = read_record(run.evaluation, RECORD_KIND)["settings"]
    elif (work / _STARTED).exists():
        settings = read_record(work / _STARTED, "evaluation-started")
    else:
        return None
    step: int | None = settings["step"]
    return step


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
def _opened(
    run: RunDir, work: Path, settings: dict[str, Any], spent: WorkTime, tell: Callable[[str], None]
) -> Iterator[list[dict[str, str]]]:
    """The folder of the answers, new or the one that is there; the time is written down in it at the end.

    Yields the versions that answers were made with, as of `versions_so_far`.
    """
    with writing_into(work, hint="change the folder's permissions."):
        work.mkdir(parents=True, exist_ok=True)
    begun, before = settings, list[dict[str, str]]()
    if (work / _STARTED).exists():
        begun = read_record(work / _STARTED, "evaluation-started")
        before = begun.get(_VERSIONS, [NOT_KNOWN])
    versions = versions_so_far(before, f"the evaluation of {run.path}", tell)
    write_record(work / _STARTED, "evaluation-started", {**begun, _VERSIONS: versions})
    try:
        yield versions
    finally:
        spent.keep()


def _gate(suites: Mapping[str, Mapping[str, Any]], bounds: _Bounds) -> dict[str, Any] | None:
    """What the bounds say, for the record; None without any.

    Args:
        suites: what both models score, as a record has it.
        bounds: that are given.
    """
    general, found = suites["general"], []
    if bounds.max_forgetting is not None:
        at_stake = general["base"]["value"]
        found.append(bound_on_loss("forgetting", general["difference"], bounds.max_forgetting, at_stake))
    if bounds.min_retention is not None:
        found.append(bound_on_retention("retention", general, bounds.min_retention))
    if bounds.min_task_gain is not None:
        found.append(bound_on_gain("task gain", suites["task"]["difference"], bounds.min_task_gain))
    if bounds.min_task_score is not None:
        found.append(bound_on_score("task score", suites["task"], bounds.min_task_score))
    if not found:
        return None
    gate: dict[str, Any] = as_json({"outcome": overall(found), "bounds": [asdict(one) for one in found]})
    return gate
