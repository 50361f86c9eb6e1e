"""The balance: the best at the job that stays within a bound on forgetting.

Settings are searched on a subset of the development items, the best of them asked all of these, their finished adapters
turned down in steps (the dial) and asked again, one point chosen by a rule, written as a run, and confirmed on test
items. Processes that are given the same command share the search. Everything is kept as it is made.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from selfaug.config import TrainConfig, training_settings
from selfaug.core.gate import at_most
from selfaug.core.pareto import knee, pareto_front
from selfaug.core.statistics import Interval, PairedDifference, paired_difference, score_interval
from selfaug.errors import ConfigError, SelfAugError, StorageError
from selfaug.file_lock import FileLock
from selfaug.model.cache import PASSES_THAT_PAY, Document, has_room
from selfaug.phases.bench import (
    FOLDERS,
    Bench,
    EvaluationSettings,
    choices,
    contents_of_sources,
    open_bench,
    said_of_left_out,
    scores_of,
    to_the_last_step,
)
from selfaug.phases.inputs import compute_dtype, trained_rows
from selfaug.phases.own_process import train_in_own_process
from selfaug.phases.progress import Progress
from selfaug.phases.suites import compare_answers
from selfaug.phases.turned_run import write_turned_run
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import read_record, write_record, write_text
from selfaug.rundir import RunDir
from selfaug.train.reference_choice import why_rows_depend_on_their_batch

__all__ = ["BEST", "RECORD_KIND", "BalanceSettings", "Point", "balance", "chosen_point"]

RECORD_KIND = "balance"

BEST = "best"
"""Folder of the chosen point, in that of the balance: a run."""

# Earlier versions wrote the chosen adapter alone, as `adapter`.
_CONTENTS = {"record.json", "report.html", BEST, "adapter", "study.log", "locks", "trials", *FOLDERS}

# What may be more when the command is given again: what is there counts. All else has to stay as it is.
_GROWING = ("trials", "finalists", "scales")

_POLL_SECONDS = 1.0
_NAME = "balance"


@dataclass(frozen=True)
class BalanceSettings:
    """What is searched, and for what; trials, finalists and scales may be more when it is gone on with, or finished.

    Attributes:
        max_forgetting: share; the general score may be so much below the base model's.
        trials: settings that are tried; the training's own come first.
        finalists: of them, how many are asked all development items.
        search_task_items: how many rows the trials are scored on; None for all.
        search_general_items: how many general requests; None for all.
        scales: of the dial, beside 1; between 0 and 1.
        seed: of the search.
    """

    max_forgetting: float = 0.02
    trials: int = 12
    finalists: int = 3
    search_task_items: int | None = 48
    search_general_items: int | None = 96
    scales: Sequence[float] = (0.8, 0.6, 0.4)
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """A run with its adapter turned to a scale, and what it scores on development items.

    Attributes:
        run: name of the run.
        scale: of its adapter.
        task: mean score at the job.
        general: mean score on general requests.
        forgetting: what that is below the base model's.
        drift: nats per token on the base model's own answers.
        task_interval: of `task`, 95 %; None in records of earlier versions, as the next.
        forgetting_interval: of `forgetting`, item by item against the base model.
    """

    run: str
    scale: float
    task: float
    general: float
    forgetting: float
    drift: float
    task_interval: Interval | None = None
    forgetting_interval: Interval | None = None


def balance(
    config: TrainConfig,
    evaluation: EvaluationSettings,
    settings: BalanceSettings,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Search, turn the dial, choose, confirm; write record and the chosen point's run.

    Args:
        config: the training whose settings are searched; its output is the balance's folder.
        evaluation: what all models are asked.
        settings: of the search.
        overwrite: replace the balance that is there.
        on_progress: called with what is being done.

    Returns:
        Data of the record.

    Raises:
        ConfigError, DataError, ModelError: before anything long.
        StorageError: if the folder holds something else, a balance with other settings or sources, or one that has
            all that is asked for; if it should be replaced while other processes work on it; or if the run of an
            earlier choice would be, though it has been evaluated or served.
        SelfAugError: if the training's own settings can't be trained.
    """
    _check(config, evaluation, settings)
    if (left_out := said_of_left_out(config)) is not None:
        on_progress(Progress("warning", message=left_out))
    folder = Path(config.run.output)
    work = WorkFolder(folder, "balance", _CONTENTS, last=["record.json"])
    # Whoever holds its lock is alive: the trials of the others were cut off.
    worker = f"{os.getpid()}-{time.time_ns()}"
    with work.settled(), contextlib.ExitStack() as alive:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes, one asks the base model; the others find its answers.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if overwrite:
                _require_nobody_works(folder)
            before = None if overwrite else work.begun_with()
            chosen = choices(config, evaluation, before)
            fixed = _fixed(config, evaluation, settings) | chosen
            # Earlier versions wrote down what may grow, too.
            fixed.update({key: value for key, value in (before or {}).items() if key in _GROWING})
            more = before is not None and not _is_done(folder, settings)
            bench = open_bench(
                folder,
                config,
                evaluation,
                lambda: work.open(
                    fixed, overwrite=overwrite, more=more, sources=contents_of_sources(config, evaluation)
                ),
                work.complete_sources,
                on_progress,
                chosen,
            )
            bench.add_subset(
                "search", "dev", task=settings.search_task_items, general=settings.search_general_items
            )
            for part in ("locks", "trials"):
                (folder / part).mkdir(exist_ok=True)
            alive.enter_context(FileLock(_lock_file(folder, worker)))
        return _balanced(bench, config, settings, worker, lambda: work.seconds)


def _fixed(config: TrainConfig, evaluation: EvaluationSettings, settings: BalanceSettings) -> dict[str, Any]:
    """What has to be the same to go on, beside how rows and requests are chosen."""
    return {
        **asdict(evaluation),
        **{key: value for key, value in asdict(settings).items() if key not in _GROWING},
        "config": training_settings(config),
    }


def _is_done(folder: Path, settings: BalanceSettings) -> bool:
    """Whether there is a record of at least so many trials, finalists and scales."""
    if not (folder / "record.json").exists():
        return False
    made = read_record(folder / "record.json", RECORD_KIND)["settings"]
    return (
        made["trials"] >= settings.trials
        and made["finalists"] >= settings.finalists
        and set(made["scales"]) >= set(settings.scales)
    )


def _with_earlier(folder: Path, settings: BalanceSettings) -> BalanceSettings:
    """The settings, and what the record that is there has beyond them: its trials and points can still be chosen."""
    if not (folder / "record.json").exists():
        return settings
    made = read_record(folder / "record.json", RECORD_KIND)["settings"]
    return replace(
        settings,
        trials=max(settings.trials, made["trials"]),
        finalists=max(settings.finalists, made["finalists"]),
        scales=sorted({*settings.scales, *made["scales"]}, reverse=True),
    )


def _lock_file(folder: Path, worker: str) -> Path:
    return folder / "locks" / f"worker-{worker}.lock"


def _require_nobody_works(folder: Path) -> None:
    """Refuse to replace what other processes are writing.

    Raises:
        StorageError: if there are some.
    """
    for file in sorted((folder / "locks").glob("worker-*.lock")):
        try:
            with FileLock(file).acquire(timeout=0):
                pass
        except Timeout as error:
            raise StorageError(
                f"another process (PID {file.stem.split('-')[1]}) works on the balance in {folder}.",
                hint="leave out --overwrite to work on it too; or stop that process first (Ctrl-C, or `kill` with its "
                "PID), or give another --output.",
            ) from error


def _balanced(
    bench: Bench,
    config: TrainConfig,
    settings: BalanceSettings,
    worker: str,
    seconds: Callable[[], float],
) -> dict[str, Any]:
    folder, evaluation = bench.folder, bench.settings
    search = _Search(bench, settings, _with_cache(bench, config, settings), worker)
    search.run()

    with FileLock(folder / "locks" / "finish.lock"):
        if _is_done(folder, settings):  # another process was quicker
            return read_record(folder / "record.json", RECORD_KIND)
        settings = _with_earlier(folder, settings)
        trials = search.completed()
        if not trials:
            raise SelfAugError(
                "no trial could be trained and asked:",
                problems=[f"{trial['settings']}: {trial['error']}" for trial in search.failed()],
                hint=f"what the trainings said is in {folder / 'runs'}; the same command tries them again.",
            )
        runs = [trial["run"] for trial in _finalists(trials, settings)]
        points = _dial(bench, settings, search, [*dict.fromkeys([*runs, *_earlier_finalists(folder)])])
        chosen, reason = chosen_point(points, settings.max_forgetting)
        front = pareto_front([(point.general, point.task) for point in points])
        bend = knee([(points[i].general, points[i].task) for i in front])
        _write_best(bench, search, chosen)
        data = {
            "settings": {"config": config.model_dump(mode="json"), **asdict(evaluation), **asdict(settings)},
            "level": bench.level,
            "test_prompts_seen": bench.seen,
            "trials": trials,
            "failed_trials": search.failed(),
            "points": [asdict(point) for point in points],
            "front": front,
            "knee": None if bend is None else front[bend],
            "chosen": points.index(chosen),
            "reason": reason,
            "best": BEST,
            "base": {"dev": bench.mean_scores(bench.kept("base", "dev"), "dev")},
            **_confirmed(bench, search, chosen, settings.max_forgetting),
            "device": str(bench.device),
            "seconds": seconds(),
        }
        write_record(folder / "record.json", RECORD_KIND, data)
    return read_record(folder / "record.json", RECORD_KIND)


def chosen_point(points: Sequence[Point], max_forgetting: float) -> tuple[Point, str]:
    """The best at the job among those within the bound, and why; of equals, the one that retains most.

    Where none is within the bound, the one that forgets least.
    """
    within = [point for point in points if _beyond(point.forgetting, max_forgetting) <= 0]
    if within:
        best = max(within, key=lambda point: (point.task, point.general))
        return best, (
            f"the best at the job of {len(within)} points, out of {len(points)}, that forget at most "
            f"{_points(max_forgetting)} on development items"
        )
    best = min(points, key=lambda point: (point.forgetting, -point.task))
    return best, (
        f"none of {len(points)} points forgets as little as {_points(max_forgetting)} on development items; "
        "this one forgets least. The same command goes on from here with more --trials or --finalists, or with a "
        "smaller --scale"
    )


def _beyond(forgetting: float, bound: float) -> float:
    """How far forgetting is beyond the bound; 0 on it, and less within it."""
    # As shares of items, 25/50 - 24/50 and 0.02 are the same, and as floats they are not.
    over = forgetting - bound
    return 0.0 if abs(over) <= 1e-12 else over


def _points(bound: float) -> str:
    """A bound as it was given: 2.04 points, not 2.0."""
    shown = f"{round(100 * bound, 3):g}"
    return f"{shown if '.' in shown else f'{shown}.0'} points"


def _check(config: TrainConfig, evaluation: EvaluationSettings, settings: BalanceSettings) -> None:
    problems = evaluation.problems()
    if config.lora.method != "lora":
        problems.append(
            f"lora.method {config.lora.method}: the dial turns a LoRA adapter; use lora.method lora"
        )
    if config.lora.dora:
        problems.append(
            "lora.dora: weights with a DoRA adapter turned down don't lie between those of both models; set it to "
            "false"
        )
    if config.lora.start_from is not None:
        problems.append(
            "lora.start_from: the search tries other ranks than that run's; leave it out, every trial starts from the "
            "base model"
        )
    if config.selfaug.alpha <= 0 and config.selfaug.drift_limit is None:
        problems.append("selfaug.alpha must be more than 0, or there is nothing to balance with")
    if not 0 <= settings.max_forgetting < 1:
        problems.append(f"--max-forgetting {settings.max_forgetting:g} is a share, such as 0.02")
    for name in ("trials", "finalists"):
        if getattr(settings, name) < 1:
            problems.append(f"--{name} must be at least 1")
    if bad := [scale for scale in settings.scales if not 0 < scale < 1]:
        problems.append(
            f"--scale {', '.join(f'{scale:g}' for scale in bad)}: scales of the dial lie between 0 and 1; 1 is always "
            "among them"
        )
    if problems:
        raise ConfigError(
            "the balance can't be found:",
            problems=problems,
            hint="`selfaug balance --help` shows the flags and an example.",
        )


def _with_cache(bench: Bench, config: TrainConfig, settings: BalanceSettings) -> TrainConfig:
    """All trials pass over the same rows: they share a reference cache where it pays, and has room on the disk."""
    if config.selfaug.reference != "auto" or config.train.packing:
        return config
    begun = next((bench.folder / "trials").glob("*.json"), None)
    if begun is not None:
        # As decided then: room that the cache has taken since is not free any more, and runs go on with their settings.
        reference = TrainConfig.model_validate_json(begun.read_text(encoding="utf-8")).selfaug.reference
    else:
        reference = "cache" if _cache_pays(bench, config, settings) else "auto"
    return config.model_copy(
        update={"selfaug": config.selfaug.model_copy(update={"reference": reference})}, deep=True
    )


def _cache_pays(bench: Bench, config: TrainConfig, settings: BalanceSettings) -> bool:
    """Whether all trials together pass over the rows often enough, and the cache leaves half of the disk's room.

    Anchors that the base model writes are few beside that half.
    """
    train = config.train
    if train.steps is None and train.epochs * settings.trials < PASSES_THAT_PAY:
        return False
    documents = [Document(row.input_ids, row.labels) for row in trained_rows(config)]
    if why_rows_depend_on_their_batch(bench.base.config, (len(document.input_ids) for document in documents)):
        return False
    if train.steps is None:
        passes = train.epochs * settings.trials
    else:
        per_step = train.batch_size * train.gradient_accumulation
        passes = settings.trials * train.steps * per_step / len(documents)
    states = sum({document.key: document.rows for document in documents}.values())
    width = bench.base.config.get_text_config().hidden_size
    size = states * width * compute_dtype(config, bench.device).itemsize
    return passes >= PASSES_THAT_PAY and has_room(size, config.selfaug.reference_cache_dir)


# ---- the search


class _Search:
    """Trials in an optuna study, which several processes may work on."""

    def __init__(self, bench: Bench, settings: BalanceSettings, config: TrainConfig, worker: str) -> None:
        self.bench, self.settings, self.config, self._worker = bench, settings, config, worker
        self._knob = "alpha" if config.selfaug.drift_limit is None else "drift_limit"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        log = str(bench.folder / "study.log")
        self._study = optuna.create_study(
            # Links don't work on every file system; opening a file exclusively does.
            storage=JournalStorage(JournalFileBackend(log, lock_obj=JournalFileOpenLock(log))),
            study_name=_NAME,
            load_if_exists=True,
            direction="maximize",
        )

    def run(self) -> None:
        """Try settings until there are enough; returns when all trials have ended, those of other processes too."""
        with FileLock(self.bench.folder / "locks" / "study.lock"):
            self._take_over()
        while True:
            with FileLock(self.bench.folder / "locks" / "study.lock"):
                trial = self._next()
            if trial is not None:
                self._try(trial)
            elif self._count(TrialState.RUNNING):
                time.sleep(_POLL_SECONDS)
                with FileLock(self.bench.folder / "locks" / "study.lock"):
                    self._take_over()
            else:
                return

    def completed(self) -> list[dict[str, Any]]:
        """Settings and scores of the trials, in their order; one that was cut off and done again counts once."""
        found: dict[str, dict[str, Any]] = {}
        for trial in self._trials(TrialState.COMPLETE):
            found.setdefault(trial.user_attrs["result"]["run"], trial.user_attrs["result"])
        return list(found.values())

    def failed(self) -> list[dict[str, Any]]:
        """Settings that could not be trained, each once, and why; but for those that could be, or may be, when tried
        again.
        """
        others = self._trials(TrialState.COMPLETE, TrialState.RUNNING)
        trained = [trial.params for trial in others]
        errors = {
            tuple(trial.params.items()): {"settings": trial.params, "error": trial.user_attrs["error"]}
            for trial in self._trials(TrialState.FAIL)
            if "error" in trial.user_attrs and trial.params not in trained
        }
        return list(errors.values())

    def run_of(self, name: str) -> RunDir:
        """Folder of a run."""
        return RunDir(self.bench.folder / "runs" / name)

    def config_of(self, name: str) -> TrainConfig:
        """Settings of a run."""
        return TrainConfig.model_validate_json(self._config_file(name).read_text(encoding="utf-8"))

    def _config_file(self, name: str) -> Path:
        return self.bench.folder / "trials" / f"{name}.json"

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _count(self, *states: TrialState) -> int:
        return len(self._trials(*states))

    def _next(self) -> optuna.Trial | None:
        """A trial to work on, or None if there are enough."""
        # They come first, again and again if they have failed: for a reason that passes, such as a full disk.
        if not self._count(TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING):
            self._study.enqueue_trial(self._own())
        waiting = self._count(TrialState.WAITING)
        errors = len(self.failed())
        begun = self._count(TrialState.COMPLETE, TrialState.RUNNING) + errors
        if not waiting and begun >= self.settings.trials:
            return None
        # A seed for each trial: processes with one and the same would try the same settings.
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(3, self.settings.trials // 3),
            seed=self.settings.seed + len(self._trials()),
            constraints_func=lambda trial: trial.user_attrs["constraints"],
        )
        trial = self._study.ask()
        trial.set_user_attr("worker", self._worker)
        return trial

    def _take_over(self) -> None:
        """Trials whose process is gone are tried again, with the same settings: their runs go on."""
        for trial in self._trials(TrialState.RUNNING):
            worker = trial.user_attrs.get("worker", "")
            if worker == self._worker:
                continue
            lock_file = _lock_file(self.bench.folder, worker)
            lock = FileLock(lock_file)
            try:
                with lock.acquire(timeout=0):
                    self._study.tell(trial.number, state=TrialState.FAIL)
                    if trial.params:
                        self._study.enqueue_trial(trial.params)
                    lock_file.unlink(missing_ok=True)
            except Timeout:
                pass  # it is alive

    def _own(self) -> dict[str, Any]:
        """The training's own settings, as a trial."""
        return {
            self._knob: getattr(self.config.selfaug, self._knob),
            "learning_rate": self.config.train.learning_rate,
            "rank": self.config.lora.rank,
            "steps": 1.0,
        }

    def _suggested(self, trial: optuna.Trial) -> TrainConfig:
        """Settings of a trial: knob and learning rate up to eight and four times smaller and larger."""
        own = self._own()

        def near(name: str, factor: float) -> float:
            value = trial.suggest_float(name, own[name] / factor, own[name] * factor, log=True)
            return float(f"{value:.3g}")

        knob, learning_rate = near(self._knob, 8), near("learning_rate", 4)
        rank = trial.suggest_categorical(
            "rank", sorted({max(1, own["rank"] // 2), own["rank"], 2 * own["rank"]})
        )
        steps = trial.suggest_categorical("steps", [0.5, 0.75, 1.0])
        values = json.loads(self.config.model_dump_json())
        values["selfaug"][self._knob] = knob
        values["train"]["learning_rate"] = learning_rate
        # The adapter's strength s = alpha / rank stays as it is.
        values["lora"].update(rank=rank, alpha=values["lora"]["alpha"] * rank / own["rank"])
        if values["train"]["steps"] is None:
            values["train"]["epochs"] *= steps
        else:
            values["train"]["steps"] = max(1, round(values["train"]["steps"] * steps))
        name = f"{self._knob}-{knob:g}-lr-{learning_rate:g}-rank-{rank}-length-{steps:g}"
        to_the_last_step(values)
        values["run"].update(output=str(self.run_of(name).path), overwrite=False)
        return TrainConfig.model_validate(values)

    def _try(self, trial: optuna.Trial) -> None:
        config = self._suggested(trial)
        name = Path(config.run.output).name
        settings = {
            self._knob: getattr(config.selfaug, self._knob),
            "learning_rate": config.train.learning_rate,
            "rank": config.lora.rank,
            "length": trial.params["steps"],
        }
        number = f"trial {len(self._trials(TrialState.COMPLETE)) + 1} of {self.settings.trials}"
        try:
            with FileLock(self.bench.folder / "locks" / f"{name}.lock"):
                write_text(self._config_file(name), config.model_dump_json(indent=1))
                self.bench.leave_device()
                train_in_own_process(config, f"{number}: training", self.bench.on_progress)
                shutil.rmtree(self.run_of(name).checkpoints, ignore_errors=True)
                point = self.point(name, 1.0, "search")
        except SelfAugError as error:
            trial.set_user_attr("error", str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            if not self._count(TrialState.COMPLETE, TrialState.RUNNING):
                raise  # the training's own settings come first: if they fail, so will the others
            return
        trial.set_user_attr("constraints", [_beyond(point.forgetting, self.settings.max_forgetting)])
        trial.set_user_attr("result", {"settings": settings, **asdict(point)})
        self._study.tell(trial, point.task)
        told = ", ".join(f"{key} {value:g}" for key, value in settings.items())
        self.bench.on_progress(
            Progress(
                "trial",
                message=f"{number}: {told}: task {100 * point.task:.0f} %{_span(point.task_interval, '.0f')}, "
                f"forgetting {100 * point.forgetting:+.1f} points{_span(point.forgetting_interval, '+.1f')}",
            )
        )

    def point(self, name: str, scale: float, part: str) -> Point:
        """Scores of a run at a scale, made where they are missing."""
        bench, turned = self.bench, _name_at(name, scale)
        answers = bench.answers(
            turned, part, lambda: bench.model(self.run_of(name), self.config_of(name), scale=scale)
        )
        scores, base = bench.mean_scores(answers, part), bench.mean_scores(bench.kept("base", part), part)
        drift = bench.drift(turned, part) or {"nats": [0.0], "tokens": [1]}
        task = bench.suites[part]["task"]
        return Point(
            name,
            scale,
            scores["task"],
            scores["general"],
            base["general"] - scores["general"],
            sum(drift["nats"]) / sum(drift["tokens"]),
            score_interval(scores_of(task, answers["task"]), seed=0, clusters=task.together),
            _lost(bench, part, answers).difference,
        )


def _name_at(run: str, scale: float) -> str:
    """What a run with its adapter at a scale is called in files."""
    return run if scale == 1.0 else f"{run}-scale-{scale}"


def _lost(bench: Bench, part: str, answers: Mapping[str, Sequence[str]]) -> PairedDifference:
    """What the general score is below the base model's, item by item."""
    general, base = bench.suites[part]["general"], bench.kept("base", part)
    return paired_difference(
        scores_of(general, base["general"]),
        scores_of(general, answers["general"]),
        seed=0,
        clusters=general.together,
    )


def _span(interval: Interval | None, form: str) -> str:
    """In brackets, in percent or points."""
    return "" if interval is None else f" ({100 * interval.low:{form}} to {100 * interval.high:{form}})"


def _finalists(trials: Sequence[dict[str, Any]], settings: BalanceSettings) -> list[dict[str, Any]]:
    """Those on the front, from the bound on: the best within it first, then those that the dial may bring within."""
    order = sorted(
        trials,
        key=lambda trial: (
            _beyond(trial["forgetting"], settings.max_forgetting) > 0,
            -trial["task"],
            trial["forgetting"],
        ),
    )
    front = {trials[i]["run"] for i in pareto_front([(trial["general"], trial["task"]) for trial in trials])}
    order.sort(key=lambda trial: trial["run"] not in front)
    return order[: settings.finalists]


def _earlier_finalists(folder: Path) -> list[str]:
    """Those of the record that is there, in which there is less than is asked for now: they have been asked all."""
    if not (folder / "record.json").exists():
        return []
    return [point["run"] for point in read_record(folder / "record.json", RECORD_KIND)["points"]]


def _dial(bench: Bench, settings: BalanceSettings, search: _Search, runs: Sequence[str]) -> list[Point]:
    """The finalists at every scale, on all development items."""
    scales = [1.0, *sorted(set(settings.scales), reverse=True)]
    found: list[Point] = []
    for run in runs:
        for scale in scales:
            bench.on_progress(Progress("dial", len(found), len(runs) * len(scales)))
            found.append(search.point(run, scale, "dev"))
    return found


# ---- the chosen point


def _write_best(bench: Bench, search: _Search, chosen: Point) -> None:
    """The chosen point as a run. What it is asked by default is the user's, which no trial has, but for rows that it
    was chosen on; what a re-alignment would take over is the user's, too.
    """
    folder, config, users = bench.folder, search.config_of(chosen.run), search.config
    known = {_resolved(source) for source in bench.settings.dev}
    held_out = [source for source in users.data.eval if _resolved(source) not in known]
    asked_at_end = [source for source in users.evaluation.data if _resolved(source) not in known]
    if len(held_out) < len(users.data.eval):
        message = "best/ was chosen on rows of data.eval; give others with --data."
        bench.on_progress(Progress("warning", message=message))
    asked = {
        "data": config.data.model_copy(update={"eval": held_out}),
        "selfaug": config.selfaug.model_copy(
            update=users.selfaug.model_dump(include={"monitor_prompts", "stop_at_drift"})
        ),
        "train": config.train.model_copy(
            update=users.train.model_dump(include={"eval_steps", "keep_checkpoints", "report_to"})
        ),
        "evaluation": users.evaluation.model_copy(update={"data": asked_at_end}),
        "run": config.run.model_copy(update={"output": str(folder / BEST)}),
    }
    bench.leave_device()
    write_turned_run(
        search.run_of(chosen.run), config.model_copy(update=asked, deep=True), chosen.scale, bench.device
    )
    shutil.rmtree(folder / "adapter", ignore_errors=True)  # an earlier version's, of an earlier choice


def _resolved(source: str) -> Path:
    """A file may be spelled in several ways."""
    return Path(source).expanduser().resolve()


def _confirmed(bench: Bench, search: _Search, chosen: Point, max_forgetting: float) -> dict[str, Any]:
    """The chosen point on test items: scores, paired differences to the base model, and the bound."""
    search.point(chosen.run, chosen.scale, "test")
    turned = _name_at(chosen.run, chosen.scale)
    answers, base = bench.kept(turned, "test"), bench.kept("base", "test")
    cut_off = {"base": bench.cut_off("base", "test"), "tuned": bench.cut_off(turned, "test")}
    test = {
        name: {
            **compare_answers(suite, answers[name], base[name]),
            "cut_off": {which: shares[name] for which, shares in cut_off.items()},
            "own_limits": name == "general",
        }
        for name, suite in bench.suites["test"].items()
    }
    lost = _lost(bench, "test", answers)
    at_stake = test["general"]["base"].value
    gate = at_most(
        "forgetting",
        lost.difference,
        max_forgetting,
        lost.items,
        at_stake=at_stake,
        clusters=lost.clusters,
    )
    drift = bench.drift(turned, "test") or {"nats": [], "tokens": []}
    return {
        "test": test,
        "test_gate": asdict(gate),
        "test_drift": float(np.sum(drift["nats"]) / np.sum(drift["tokens"])),
    }
