"""The balance: the best at the job that stays within a bound on forgetting.

Settings are searched on a subset of the development items, the best of them asked all of these, their finished adapters
turned down in steps (the dial) and asked again, one point chosen by a rule, written as a run, and confirmed on test
items. Processes that are given the same command share the search. Everything is kept as it is made.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from selfaug.config import TrainConfig, training_settings
from selfaug.core.gate import at_most
from selfaug.core.pareto import knee, pareto_front
from selfaug.core.printable import counted
from selfaug.data.sources import content_keys
from selfaug.errors import ConfigError, SelfAugError, StorageError
from selfaug.file_lock import FileLock
from selfaug.model.cache import PASSES_THAT_PAY, Document
from selfaug.model.disk_room import has_room
from selfaug.phases.balance_search import (
    BalanceSettings,
    Point,
    Search,
    beyond,
    lost_against_base,
    name_at,
    worker_lock_file,
)
from selfaug.phases.bench import (
    FOLDERS,
    Bench,
    BenchSettings,
    contents_of_sources,
    day_of,
    open_bench,
    said_of_evaluation,
    said_of_left_out,
)
from selfaug.phases.inputs import compute_dtype, trained_rows
from selfaug.phases.made_of import made_of
from selfaug.phases.own_process import require_no_launcher
from selfaug.phases.progress import Progress
from selfaug.phases.suites import compare_answers
from selfaug.phases.turned_run import later_runs, write_turned_run
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import read_record, write_record
from selfaug.train.reference_choice import why_rows_depend_on_their_batch

__all__ = ["BEST", "RECORD_KIND", "BalanceSettings", "Point", "balance", "chosen_point"]

RECORD_KIND = "balance"

BEST = "best"
"""Folder of the chosen point, in that of the balance: a run. That of a later choice is `best-2`, beside it."""

_CONTENTS = {"record.json", "report.html", BEST, "study.log", "locks", "trials", *FOLDERS}

# What may be more when the command is given again: what is there counts. All else has to stay as it is.
_GROWING = ("trials", "finalists", "scales")


def balance(
    config: TrainConfig,
    evaluation: BenchSettings,
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
            all that is asked for; or if it should be replaced while other processes work on it.
        SelfAugError: if the training's own settings can't be trained, and no others have been; or if three trials in a
            row fail for reasons that are not their settings.
    """
    require_no_launcher(
        "balance",
        "start one process a GPU instead, without the launcher: the same command in each terminal, with "
        "CUDA_VISIBLE_DEVICES=0, 1 and so on; they share the search.",
    )
    _check(config, evaluation, settings)
    asked_here = "--dev, --test and --suite say what is asked"
    for told in filter(None, (said_of_left_out(config), said_of_evaluation(config, asked_here))):
        on_progress(Progress("warning", message=told))
    folder = Path(config.run.output)
    contents = {*_CONTENTS, *(run.name for run in later_runs(folder / BEST))}
    work = WorkFolder(folder, "balance", contents, last=["record.json"])
    # Whoever holds its lock is alive: the trials of the others were cut off.
    worker = f"{os.getpid()}-{time.time_ns()}"
    with work.settled(), contextlib.ExitStack() as alive:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes, one asks the base model; the others find its answers. "." has no name of its own.
        beside = folder.absolute()
        with _waited_for(
            beside.with_name(f".{beside.name}.lock"),
            f"another process asks the base model in {folder} first; waiting for it.",
            on_progress,
        ):
            if overwrite:
                _require_nobody_works(folder)
            before = None if overwrite else work.begun_with()
            day = day_of(before)
            fixed = _fixed(config, evaluation, settings, day)
            _require_same_bound(folder, before, fixed)
            more = before is not None and not _is_done(folder, settings)
            bench = open_bench(
                folder,
                config,
                evaluation,
                lambda: work.open(
                    fixed,
                    overwrite=overwrite,
                    more=more,
                    sources=contents_of_sources(config, evaluation),
                    finished_hint=None if before is None else _failed_in_words(folder),
                ),
                work.complete_sources,
                on_progress,
                date.fromisoformat(day),
            )
            bench.add_subset(
                "search", "dev", task=settings.search_task_items, general=settings.search_general_items
            )
            for part in ("locks", "trials"):
                (folder / part).mkdir(exist_ok=True)
            alive.enter_context(FileLock(worker_lock_file(folder, worker)))
        record = _balanced(bench, config, settings, worker, work)
        if (failed := _failed_in_words(folder)) is not None:
            on_progress(Progress("warning", message=f"{failed}."))
        return record


def _fixed(
    config: TrainConfig, evaluation: BenchSettings, settings: BalanceSettings, day: str
) -> dict[str, Any]:
    """What has to be the same to go on."""
    return {
        **asdict(evaluation),
        **{key: value for key, value in asdict(settings).items() if key not in _GROWING},
        "config": training_settings(config),
        "day": day,
    }


def _require_same_bound(folder: Path, before: Mapping[str, Any] | None, fixed: Mapping[str, Any]) -> None:
    """Say what another bound costs, where nothing else is asked for.

    Args:
        folder: of the balance.
        before: the settings that it was begun with; None where nothing was begun.
        fixed: those that are given now.

    Raises:
        StorageError: if the bound is another one.
    """
    name = "max_forgetting"
    if before is None or before.get(name) == fixed[name]:
        return
    # As the marker has them: tuples are lists there.
    if json.loads(json.dumps({**fixed, name: before.get(name)})) == before:
        raise StorageError(
            f"{folder} holds a balance with other settings: {name} is {before.get(name)} there, not {fixed[name]}.",
            hint="the bound has led the search, so another one takes a search of its own: with another --output, or "
            "--overwrite, all trials are trained anew. To do without, look at the points that have been tried: "
            f"`points` in {folder / 'record.json'} tells what each forgets, once the search has finished.",
        )


@contextlib.contextmanager
def _waited_for(file: Path, message: str, on_progress: Callable[[Progress], None]) -> Iterator[None]:
    """Hold the lock on a file; if another process has it, that is said before it is waited for."""
    lock = FileLock(file)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        on_progress(Progress("warning", message=message))
        held = lock.acquire()
    with held:
        yield


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


def _failed_in_words(folder: Path) -> str | None:
    """How many settings of a finished search failed, and what tries them again; None where none did."""
    if not (folder / "record.json").exists():
        return None
    record = read_record(folder / "record.json", RECORD_KIND)
    if not record["failed_trials"]:
        return None
    failed = counted(len(record["failed_trials"]), "setting")
    return f"{failed} failed: the same command with more --trials than {record['settings']['trials']} tries again"


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
                hint="leave out --overwrite (or, where the settings say so, give --set run.overwrite=false) to work on "
                "it too; or stop that process first (Ctrl-C, or `kill` with its PID), or give another --output.",
            ) from error


def _balanced(
    bench: Bench,
    config: TrainConfig,
    settings: BalanceSettings,
    worker: str,
    work: WorkFolder,
) -> dict[str, Any]:
    folder, evaluation = bench.folder, bench.settings
    search = Search(bench, settings, _with_cache(bench, config, settings), worker)
    search.run()

    bench.leave_device()  # to the process that finishes it
    finishing = "another process asks the finalists and finishes the search; waiting for it."
    with _waited_for(folder / "locks" / "finish.lock", finishing, bench.on_progress):
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
        best = _write_best(bench, search, chosen)
        trained = read_record(search.run_of(chosen.run).record, "train")
        asked = {"config": config.model_dump(mode="json"), **asdict(evaluation), **asdict(settings)}
        data = {
            "settings": asked,
            "made_of": made_of(trained, work.sources(), {**asked, "config": training_settings(config)}),
            "level": bench.level,
            "test_prompts_seen": bench.seen,
            "trials": trials,
            "failed_trials": search.failed(),
            "points": [asdict(point) for point in points],
            "front": front,
            "knee": None if bend is None else front[bend],
            "chosen": points.index(chosen),
            "reason": reason,
            "best": best,
            "base": {"dev": bench.mean_scores(bench.kept("base", "dev"), "dev")},
            **_confirmed(bench, search, chosen, settings.max_forgetting),
            "environment": trained["environment"],
            "device": str(bench.device),
            "seconds": work.seconds,
        }
        write_record(folder / "record.json", RECORD_KIND, data)
    return read_record(folder / "record.json", RECORD_KIND)


def chosen_point(points: Sequence[Point], max_forgetting: float) -> tuple[Point, str]:
    """The best at the job among those within the bound, and why; of equals, the one that retains most.

    Where none is within the bound, the one that forgets least.
    """
    within = [point for point in points if beyond(point.forgetting, max_forgetting) <= 0]
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


def _points(bound: float) -> str:
    """A bound as it was given: 2.04 points, not 2.0."""
    shown = f"{round(100 * bound, 3):g}"
    return f"{shown if '.' in shown else f'{shown}.0'} points"


def _check(config: TrainConfig, evaluation: BenchSettings, settings: BalanceSettings) -> None:
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
    train, share = config.train, config.selfaug.row_fraction
    if train.steps is None and train.epochs * settings.trials * share < PASSES_THAT_PAY:
        return False
    documents = [Document(row.ids, row.label_array().data) for row in trained_rows(config)]
    if why_rows_depend_on_their_batch(bench.base.config, (len(document.input_ids) for document in documents)):
        return False
    if train.steps is None:
        passes = train.epochs * settings.trials
    else:
        passes = settings.trials * train.steps * train.rows_a_step / len(documents)
    states = sum({document.key: document.rows for document in documents}.values())
    width = bench.base.config.get_text_config().hidden_size
    size = states * width * compute_dtype(config, bench.device).itemsize
    return passes * share >= PASSES_THAT_PAY and has_room(size, config.selfaug.reference_cache_dir)


def _finalists(trials: Sequence[dict[str, Any]], settings: BalanceSettings) -> list[dict[str, Any]]:
    """Those on the front, from the bound on: the best within it first, then those that the dial may bring within."""
    order = sorted(
        trials,
        key=lambda trial: (
            beyond(trial["forgetting"], settings.max_forgetting) > 0,
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


def _dial(bench: Bench, settings: BalanceSettings, search: Search, runs: Sequence[str]) -> list[Point]:
    """The finalists at every scale, on all development items."""
    scales = [1.0, *sorted(set(settings.scales), reverse=True)]
    found: list[Point] = []
    for run in runs:
        for scale in scales:
            bench.on_progress(Progress("dial", len(found), len(runs) * len(scales)))
            found.append(search.point(run, scale, "dev"))
    return found


# ---- the chosen point


def _write_best(bench: Bench, search: Search, chosen: Point) -> str:
    """The chosen point as a run; returns the name of its folder. What it is asked by default is the user's, which no
    trial has, but for rows that it was chosen on; what a re-alignment would take over is the user's, too.
    """
    folder, config, users = bench.folder, search.config_of(chosen.run), bench.config
    known = content_keys(bench.settings.dev)
    held_out, asked_at_end = (
        [source for source in sources if known.isdisjoint(content_keys([source]))]
        for sources in (users.data.eval, users.evaluation.data)
    )
    asked = {
        "data": config.data.model_copy(update={"eval": held_out}),
        "selfaug": config.selfaug.model_copy(
            # The cache, too, pays for all trials together, and not for one run.
            update=users.selfaug.model_dump(include={"monitor_prompts", "stop_at_drift", "reference"})
        ),
        "train": config.train.model_copy(
            update=users.train.model_dump(include={"eval_steps", "keep_checkpoints", "report_to"})
        ),
        "evaluation": users.evaluation.model_copy(update={"data": asked_at_end}),
        "run": config.run.model_copy(update={"output": str(folder / BEST)}),
    }
    bench.leave_device()
    best = write_turned_run(
        search.run_of(chosen.run), config.model_copy(update=asked, deep=True), chosen.scale, bench.device
    ).path.name
    if best != BEST:
        message = f"{BEST}/ stays as it is, for who uses it: the point that is chosen now is {best}/."
        bench.on_progress(Progress("warning", message=message))
    if len(held_out) < len(users.data.eval):
        message = f"{best}/ was chosen on rows of data.eval; give others with --data."
        bench.on_progress(Progress("warning", message=message))
    return best


def _confirmed(bench: Bench, search: Search, chosen: Point, max_forgetting: float) -> dict[str, Any]:
    """The chosen point on test items: scores, paired differences to the base model, and the bound."""
    search.point(chosen.run, chosen.scale, "test")
    turned = name_at(chosen.run, chosen.scale)
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
    lost = lost_against_base(bench, "test", answers)
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
