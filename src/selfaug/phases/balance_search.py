"""The search of the balance: trials of settings in a study that several processes share, and what runs score."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from selfaug.config import TrainConfig
from selfaug.core.statistics import Interval, PairedDifference, paired_difference, score_interval
from selfaug.errors import DivergedError, SelfAugError
from selfaug.file_lock import FileLock
from selfaug.phases.bench import Bench, scores_of, to_the_last_step
from selfaug.phases.own_process import train_in_own_process
from selfaug.phases.progress import Progress
from selfaug.records import write_text
from selfaug.rundir import RunDir

__all__ = ["BalanceSettings", "Point", "Search", "beyond", "lost_against_base", "name_at", "worker_lock_file"]

_POLL_SECONDS = 1.0

# So many in a row, and what fails them is not their settings.
_TOO_MANY_FAILURES = 3

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
        task_interval: of `task`, 95 %.
        forgetting_interval: of `forgetting`, item by item against the base model.
    """

    run: str
    scale: float
    task: float
    general: float
    forgetting: float
    drift: float
    task_interval: Interval
    forgetting_interval: Interval


class Search:
    """Trials in an optuna study, which several processes may work on.

    Args:
        bench: what asks the runs, and keeps what they answer.
        settings: of the search.
        config: the training's own settings, which are tried first.
        worker: name of this process, as of `worker_lock_file`.
    """

    def __init__(self, bench: Bench, settings: BalanceSettings, config: TrainConfig, worker: str) -> None:
        self.bench, self.settings, self.config, self._worker = bench, settings, config, worker
        self._failures = 0  # in a row
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
            self._retry_failed()
        told = False
        while True:
            with FileLock(self.bench.folder / "locks" / "study.lock"):
                trial = self._next()
            if trial is not None:
                self._try(trial)
            elif self._count(TrialState.RUNNING):
                if not told:
                    told = True
                    self.bench.leave_device()
                    message = "other processes are still trying settings; waiting for them."
                    self.bench.on_progress(Progress("warning", message=message))
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
        trained += [trial.system_attrs["fixed_params"] for trial in self._trials(TrialState.WAITING)]
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
            lock_file = worker_lock_file(self.bench.folder, worker)
            lock = FileLock(lock_file)
            try:
                with lock.acquire(timeout=0):
                    self._study.tell(trial.number, state=TrialState.FAIL)
                    if trial.params:
                        self._study.enqueue_trial(trial.params)
            except Timeout:
                continue  # it is alive
            # When it is let go, since Windows deletes no file that is open. Nobody else gets a lock of this name.
            with suppress(OSError):
                lock_file.unlink()

    def _retry_failed(self) -> None:
        """Settings that failed before this process began are tried again: what failed them may have passed since."""
        for failed in self.failed():
            self._study.enqueue_trial(failed["settings"])

    def _has_failed_before(self, trial: optuna.Trial) -> bool:
        return any(
            "error" in other.user_attrs and other.params == trial.params
            for other in self._trials(TrialState.FAIL)
        )

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
        if values["train"]["warmup"] >= 1:  # in steps: of fewer, the same share
            values["train"]["warmup"] = max(1, round(values["train"]["warmup"] * steps))
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
        told = ", ".join(f"{key} {value:g}" for key, value in settings.items())
        try:
            with FileLock(self.bench.folder / "locks" / f"{name}.lock"):
                write_text(self._config_file(name), config.model_dump_json(indent=1))
                self.bench.leave_device()
                train_in_own_process(config, f"{number}: training", self.bench.on_progress)
                shutil.rmtree(self.run_of(name).checkpoints, ignore_errors=True)
                point = self.point(name, 1.0, "search")
        except SelfAugError as error:
            # What diverges, or fails again, does so by its settings.
            self._failures += not (isinstance(error, DivergedError) or self._has_failed_before(trial))
            trial.set_user_attr("error", str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            # The training's own settings come first: if they fail, so will the others. So they will where the disk is
            # full, or another process has the GPU: to go on would only use them up.
            if self._failures >= _TOO_MANY_FAILURES or not self._count(
                TrialState.COMPLETE, TrialState.RUNNING
            ):
                raise
            message = f"{told}: {error.message}; the search goes on with other settings."
            self.bench.on_progress(Progress("warning", message=message))
            return
        self._failures = 0
        trial.set_user_attr("constraints", [beyond(point.forgetting, self.settings.max_forgetting)])
        trial.set_user_attr("result", {"settings": settings, **asdict(point)})
        self._study.tell(trial, point.task)
        self.bench.on_progress(
            Progress(
                "trial",
                message=f"{number}: {told}: task {100 * point.task:.0f} %{_span(point.task_interval, '.0f')}, "
                f"forgetting {100 * point.forgetting:+.1f} points{_span(point.forgetting_interval, '+.1f')}",
            )
        )

    def point(self, name: str, scale: float, part: str) -> Point:
        """Scores of a run at a scale, made where they are missing.

        Args:
            name: of the run.
            scale: of its adapter.
            part: of the bench's suites: `dev`, `test` or `search`.
        """
        bench, turned = self.bench, name_at(name, scale)
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
            lost_against_base(bench, part, answers).difference,
        )


def name_at(run: str, scale: float) -> str:
    """What a run with its adapter at a scale is called in files; the run's own name at scale 1."""
    return run if scale == 1.0 else f"{run}-scale-{scale}"


def lost_against_base(bench: Bench, part: str, answers: Mapping[str, Sequence[str]]) -> PairedDifference:
    """What the general score is below the base model's, item by item.

    Args:
        bench: with the base model's answers.
        part: of its suites: `dev`, `test` or `search`.
        answers: by suite, in the order of its items.

    Returns:
        Base model's score minus that of the answers, shares.
    """
    general, base = bench.suites[part]["general"], bench.kept("base", part)
    return paired_difference(
        scores_of(general, base["general"]),
        scores_of(general, answers["general"]),
        seed=0,
        clusters=general.together,
    )


def _span(interval: Interval, form: str) -> str:
    """In brackets, in percent or points."""
    return f" ({100 * interval.low:{form}} to {100 * interval.high:{form}})"


def beyond(forgetting: float, bound: float) -> float:
    """How far forgetting is beyond the bound; 0 on it, and less within it. Shares, all three."""
    # As shares of items, 25/50 - 24/50 and 0.02 are the same, and as floats they are not.
    over = forgetting - bound
    return 0.0 if abs(over) <= 1e-12 else over


def worker_lock_file(folder: Path, worker: str) -> Path:
    """The lock that a process holds as long as it works on the balance in a folder; others tell by it that it is alive.

    Args:
        folder: of the balance.
        worker: name of the process, which begins with its PID.
    """
    return folder / "locks" / f"worker-{worker}.lock"
