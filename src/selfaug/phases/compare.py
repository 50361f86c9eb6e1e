"""Comparison of methods: the same data, order, steps, seeds and evaluation for all, and the same number of trials.

Each method's knob is chosen on development items, by one rule; what is reported are test items, with every seed.
Runs, answers and drift are kept as they are made: a comparison that was cut off goes on with what is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfaug.config import TrainConfig, training_settings
from selfaug.core.detectable import detectable_difference
from selfaug.core.forecast import FEWEST_RUNS, Run, forgetting_forecast
from selfaug.core.statistics import (
    mean_interval,
    pooled_difference,
    pooled_interval,
    retention,
)
from selfaug.core.subset import subset_agreement
from selfaug.errors import ConfigError
from selfaug.eval.general_suite import FAST_ITEMS, Half, general_suite, spread_over_kinds
from selfaug.phases.bench import (
    FOLDERS,
    Answers,
    Bench,
    BenchSettings,
    DriftOn,
    contents_of_sources,
    day_of,
    open_bench,
    said_of_evaluation,
    said_of_left_out,
    scores_of,
)
from selfaug.phases.made_of import made_of
from selfaug.phases.method_bench import MethodBench, Variant, problems_of
from selfaug.phases.methods import METHODS, Method
from selfaug.phases.own_process import require_no_launcher
from selfaug.phases.progress import Progress
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import read_record, write_record

__all__ = ["RECORD_KIND", "CompareSettings", "chosen_value", "compare", "seeds_there"]

RECORD_KIND = "comparison"

# Nats per token, for the forecast that is shown.
_FORECAST_DRIFTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.5)

_NO_DRIFT_LIMIT = (
    "selfaug.drift_limit is left out: a comparison holds alpha constant, and tries two values of it."
)


@dataclass(frozen=True)
class CompareSettings:
    """What is compared.

    Attributes:
        methods: names in `METHODS`. Those that the folder has already stay in the comparison.
        seeds: of training, of these methods; the runs of the first one ever are the trials. Seeds that a method has
            already stay.
        leak_pattern: regular expression of the job's answer style, counted in general answers; None counts nothing.
        task_slack: share; a knob's value is chosen for what it retains among those whose task score is at most this
            much below plain LoRA's.
    """

    methods: Sequence[str] = tuple(METHODS)
    seeds: Sequence[int] = (0, 1)
    leak_pattern: str | None = None
    task_slack: float = 0.02


def compare(
    config: TrainConfig,
    evaluation: BenchSettings,
    settings: CompareSettings,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train and evaluate every method; write record and answers.

    Args:
        config: the training that all methods share; its output is the comparison's folder.
        evaluation: what all models are asked.
        settings: what is compared.
        overwrite: replace the comparison that is there.
        on_progress: called with what is being done.

    Returns:
        Data of the comparison's record.

    Raises:
        ConfigError, DataError, ModelError: before anything long.
        StorageError: if the folder holds something else, or a comparison with other settings or sources, or another
            process compares in it.
    """
    require_no_launcher("compare", "start it without the launcher, as one process.")
    work = _work_folder(config.run.output)
    asked = _checked(config, evaluation, settings)
    if config.selfaug.drift_limit is not None:
        on_progress(Progress("warning", message=_NO_DRIFT_LIMIT))
    asked_here = "--dev, --test and --suite say what is asked"
    for told in filter(None, (said_of_left_out(config), said_of_evaluation(config, asked_here))):
        on_progress(Progress("warning", message=told))
    with work.alone():
        return _compared_in(work, config, evaluation, settings, asked, overwrite, on_progress)


def _compared_in(
    work: WorkFolder,
    config: TrainConfig,
    evaluation: BenchSettings,
    settings: CompareSettings,
    asked: Sequence[Method],
    overwrite: bool,
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """The comparison in its folder, begun or gone on with; arguments as of `compare`."""
    folder = work.path
    begun = None if overwrite else work.begun_with()
    known = {} if overwrite else _seeds_of_methods(folder / "record.json")
    # The runs of the first seed are the trials, so every method has it.
    first_seed = settings.seeds[0] if begun is None else int(begun["first_seed"])
    seeds_of = _with_more(known, asked, [first_seed, *settings.seeds])
    # Methods and seeds may be added to a comparison later: all else has to stay as it is.
    fixed = {key: value for key, value in asdict(settings).items() if key not in ("methods", "seeds")}
    day = day_of(begun)
    fixed.update(asdict(evaluation), day=day, first_seed=first_seed)
    fixed["config"] = training_settings(config)
    with work.settled():
        evaluated = open_bench(
            folder,
            config,
            evaluation,
            lambda: work.open(
                fixed,
                overwrite=overwrite,
                more=seeds_of != known,
                sources=contents_of_sources(config, evaluation),
            ),
            work.complete_sources,
            on_progress,
            date.fromisoformat(day),
        )
        return _compared(evaluated, config, settings, seeds_of, first_seed, work)


def _compared(
    evaluated: Bench,
    config: TrainConfig,
    settings: CompareSettings,
    seeds_of: Mapping[str, list[int]],
    first_seed: int,
    work: WorkFolder,
) -> dict[str, Any]:
    folder, evaluation = evaluated.folder, evaluated.settings
    methods = [METHODS[name] for name in seeds_of]
    bench = MethodBench(evaluated, first_seed)

    trials: dict[str, list[Trial]] = {}
    for method in methods:
        trials[method.name] = [_trial(bench, Variant(method, value, first_seed)) for value in method.values]
        if method.name == "plain":
            bench.plain_value = chosen_value(trials["plain"], 0.0, best_task=True)
    floor = max(trial["task"] for trial in trials["plain"]) - settings.task_slack
    chosen = {
        name: bench.plain_value if name == "plain" else chosen_value(found, floor)
        for name, found in trials.items()
    }
    subject = _subject(trials, chosen, floor)
    table = _Table(
        bench,
        {
            method.name: [Variant(method, chosen[method.name], seed) for seed in seeds_of[method.name]]
            for method in methods
        },
        settings.leak_pattern,
    )
    runs = _runs(bench, trials, table.variants)
    trained = bench.training_record(table.variants["plain"][0])
    asked = {
        "config": config.model_dump(mode="json"),
        **asdict(evaluation),
        **asdict(settings),
        "methods": list(seeds_of),
        "seeds": _in_order(seed for seeds in seeds_of.values() for seed in seeds),
    }
    data = {
        "settings": asked,
        "made_of": made_of(trained, work.sources(), {**asked, "config": training_settings(config)}),
        "level": evaluated.level,
        "items": {name: len(suite.ids) for name, suite in table.suites.items()},
        "clusters": {
            name: clusters
            for name, suite in table.suites.items()
            if (clusters := len(set(suite.together))) < len(suite.ids)
        },
        "test_prompts_seen": evaluated.seen,
        "detectable_difference": {
            **table.detectable(subject or "plain", "general"),
            "method": subject or "plain",
            "suites": {name: table.detectable(subject or "plain", name) for name in table.suites},
        },
        "base": table.base_row(),
        "methods": {
            method.name: {
                "label": method.label,
                "knob": method.knob,
                "value": chosen[method.name],
                "seeds": seeds_of[method.name],
                "trials": trials[method.name],
                "models": method.models,
                **table.row(method),
                "against_subject": None if subject in (None, method.name) else table.against(subject, method),
                "against_seeds": [] if subject is None else _shared(seeds_of[subject], seeds_of[method.name]),
            }
            for method in methods
        },
        "subject": subject,
        "not_run": [name for name in METHODS if name not in chosen],
        "runs": runs,
        "forecast": _forecast(runs),
        "fast_subset": _fast_subset(evaluated, runs),
        "environment": trained["environment"],
        "device": str(evaluated.device),
        "threads": torch.get_num_threads(),
        "seconds": work.seconds,
    }
    write_record(folder / "record.json", RECORD_KIND, data)
    return read_record(folder / "record.json", RECORD_KIND)


def chosen_value(trials: Sequence[Mapping[str, float]], floor: float, *, best_task: bool = False) -> float:
    """The knob's value, from scores on development items.

    Among values whose task score reaches the floor, the one that retains most in general; where none does, the one
    with the best task score. Ties go to the first.

    Args:
        trials: with `value`, `task` and `general`.
        floor: least task score.
        best_task: go by the task score alone: what plain fine-tuning is for.
    """
    # As shares of items, 6/50 and 7/50 - 0.02 are the same, and as floats they are not.
    eligible = [trial for trial in trials if trial["task"] >= floor - 1e-12]
    if best_task or not eligible:
        return float(max(trials, key=lambda trial: trial["task"])["value"])
    return float(max(eligible, key=lambda trial: trial["general"])["value"])


def _checked(config: TrainConfig, evaluation: BenchSettings, settings: CompareSettings) -> list[Method]:
    """The methods in the table's order.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = evaluation.problems()
    problems += [
        f"there is no method {name!r}; methods are {', '.join(METHODS)}"
        for name in settings.methods
        if name not in METHODS
    ]
    if not settings.seeds:
        problems.append("at least one seed is needed")
    # Plain LoRA is what all others are measured by, and what two of them are made of.
    wanted = [method for name, method in METHODS.items() if name in {"plain", *settings.methods}]
    shared = []
    if config.selfaug.alpha <= 0:
        shared.append("selfaug.alpha must be more than 0: SelfAug is tried with it and with twice as much")
    if config.lora.method != "lora" or config.lora.weight_penalty:
        shared.append("the training should be LoRA without a penalty: the methods change what they are about")
    if config.lora.start_from is not None:
        shared.append("lora.start_from: every method starts from the base model; leave it out")
    problems += shared
    refused = {} if shared else {one.name: found for one in wanted if (found := problems_of(config, one))}
    problems += [f"method {name}: {problem}" for name, found in refused.items() for problem in found]
    if settings.leak_pattern is not None:
        try:
            re.compile(settings.leak_pattern)
        except re.error as error:
            problems.append(f"the leak pattern is not a regular expression: {error}")
    if problems:
        others = " ".join(f"--method {method.name}" for method in wanted if method.name not in refused)
        raise ConfigError(
            "the comparison can't be made:",
            problems=problems,
            hint=f"change these settings, or leave these methods out: {others}"
            if refused
            else "`selfaug compare --help` shows the flags and an example.",
        )
    return wanted


def _work_folder(path: str | os.PathLike[str]) -> WorkFolder:
    return WorkFolder(Path(path), RECORD_KIND, {"record.json", "report.html", *FOLDERS}, last=["record.json"])


def seeds_there(folder: str | os.PathLike[str]) -> list[int]:
    """Seeds of the comparison in a folder, each once: of one that was cut off the first; none where there is none.

    Args:
        folder: of the comparison; it need not exist.

    Raises:
        DataError: if what is there can't be read.
    """
    begun = _work_folder(folder).begun_with()
    if begun is None:
        return []
    found = _seeds_of_methods(Path(folder) / "record.json").values()
    return _in_order([int(begun["first_seed"]), *(seed for seeds in found for seed in seeds)])


def _seeds_of_methods(record: Path) -> dict[str, list[int]]:
    """The seeds of each method of a finished comparison; nothing where there is none."""
    if not record.exists():
        return {}
    return {name: row["seeds"] for name, row in read_record(record, RECORD_KIND)["methods"].items()}


def _with_more(
    known: Mapping[str, Sequence[int]], asked: Sequence[Method], seeds: Sequence[int]
) -> dict[str, list[int]]:
    """The seeds of each method: those that it has, and for what is asked for now these; in the table's order."""
    wanted = {method.name for method in asked}
    return {
        name: _in_order([*known.get(name, ()), *(seeds if name in wanted else ())])
        for name in METHODS
        if name in known or name in wanted
    }


def _mean_of_known(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def _in_order(seeds: Iterable[int]) -> list[int]:
    """Each once, as they first come."""
    return list(dict.fromkeys(seeds))


def _shared(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [seed for seed in one if seed in other]


# ---- trials


Trial = dict[str, float]
"""A value of the knob with its scores on development items: value, task, general."""


def _trial(bench: MethodBench, variant: Variant) -> Trial:
    scores = bench.bench.mean_scores(bench.answers(variant, "dev"), "dev")
    return {"value": variant.value, "task": scores["task"], "general": scores["general"]}


def _subject(trials: Mapping[str, Sequence[Trial]], chosen: Mapping[str, float], floor: float) -> str | None:
    """Which SelfAug is tested against the others: with or without anchors, by the rule of the trials."""
    names = [name for name in ("selfaug", "selfaug-anchors") if name in chosen]
    if not names:
        return None
    found = [
        next({**trial, "value": float(place)} for trial in trials[name] if trial["value"] == chosen[name])
        for place, name in enumerate(names)
    ]
    return names[int(chosen_value(found, floor))]


def _runs(
    bench: MethodBench, trials: Mapping[str, Sequence[Trial]], results: Mapping[str, Sequence[Variant]]
) -> list[dict[str, Any]]:
    """Drift and general scores of every model: on test items if it is reported, else on development items."""
    found: dict[Variant, Half] = {}
    for name, of_method in trials.items():
        seed = results[name][0].seed
        found |= {Variant(METHODS[name], trial["value"], seed): "dev" for trial in of_method}
        found |= dict.fromkeys(results[name], "test")
    runs = []
    for variant, half in found.items():
        suite = bench.bench.suites[half]["general"]
        if drift := bench.bench.drift(variant.name, half):
            runs.append(
                {
                    "method": variant.method.name,
                    "value": variant.value,
                    "seed": variant.seed,
                    "half": half,
                    "drift": sum(drift["nats"]) / sum(drift["tokens"]),
                    "general": scores_of(suite, bench.answers(variant, half)["general"]),
                    "base": scores_of(suite, bench.bench.kept("base", half)["general"]),
                }
            )
    return runs


def _forecast(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How forgetting goes with drift; None with too few runs, or where nothing was forgotten.

    A run that another method only uses again (an adapter scaled down) is no other run: it would count twice.
    """
    known = [
        # Both halves have as many items, and not the same ones.
        Run(run["drift"], run["base"], run["general"], run["half"])
        for run in runs
        if METHODS[run["method"]].trained
    ]
    if len(known) < FEWEST_RUNS or len({run.forgetting for run in known}) < 2:
        return None
    forecast = forgetting_forecast(known, seed=0)
    return {
        **asdict(forecast),
        "at": {f"{drift:g}": asdict(forecast.at(drift)) for drift in _FORECAST_DRIFTS},
    }


def _fast_subset(bench: Bench, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How well the fast subset of the general suite orders the reported models; None where it is all of it.

    None, too, where fewer items were asked than the level has: `evaluate --fast` chooses from all of them.
    """
    items = general_suite("test", bench.level["level"])
    asked = bench.settings.general_items
    reported = [run for run in runs if run["half"] == "test"]
    if (asked is not None and asked < len(items)) or len(items) <= FAST_ITEMS or len(reported) < 2:
        return None
    places = {item.id: place for place, item in enumerate(items)}
    chosen = sorted(places[item.id] for item in spread_over_kinds(items, FAST_ITEMS))
    scores = [run["general"] for run in reported]
    return asdict(subset_agreement(scores, reported[0]["base"], chosen, seed=0))


# ---- the table


class _Table:
    """Test scores of the chosen variants, over their seeds."""

    def __init__(
        self, bench: MethodBench, variants: dict[str, list[Variant]], leak_pattern: str | None
    ) -> None:
        self.bench, self.variants = bench, variants
        self.suites = bench.bench.suites["test"]
        self.pattern = None if leak_pattern is None else re.compile(leak_pattern)
        self.answers = {
            name: [bench.answers(variant, "test") for variant in found] for name, found in variants.items()
        }
        self.base_answers = [bench.bench.kept("base", "test")]

    def base_row(self) -> dict[str, Any]:
        cut_off = self.bench.bench.cut_off("base", "test")
        return {
            "suites": {
                name: {
                    "score": pooled_interval(scores, seed=0, clusters=self.suites[name].together),
                    "scores": scores,
                    "cut_off": cut_off[name],
                }
                for name, scores in (
                    (name, self._all_scores(self.base_answers, name)) for name in self.suites
                )
            },
            "leaks": self._leaks(self.base_answers),
        }

    def row(self, method: Method) -> dict[str, Any]:
        answers = self.answers[method.name]
        cut_off = [self.bench.bench.cut_off(variant.name, "test") for variant in self.variants[method.name]]
        suites = {}
        for name in self.suites:
            scores, base = self._all_scores(answers, name), self._all_scores(self.base_answers, name)
            together = self.suites[name].together
            suites[name] = {
                "score": pooled_interval(scores, seed=0, clusters=together),
                "difference": pooled_difference(scores, base, seed=0, clusters=together),
                "retention": retention(scores, base[0], seed=0, clusters=together),
                "by_seed": [float(np.mean(of_seed)) for of_seed in scores],
                "scores": scores,
                "cut_off": _mean_of_known([of_seed[name] for of_seed in cut_off]),
            }
        return {
            "suites": suites,
            "leaks": self._leaks(answers),
            "drift": self._drift(method, "own"),
            "task_drift": self._drift(method, "task"),
            "routed_right": self._routed_right(method),
            **self._costs(method),
        }

    def detectable(self, method: str, suite: str) -> dict[str, Any]:
        """The smallest difference to the base model that a suite can show, and on what share of its items a method is
        better and worse.

        The difference is that of the items' means over seeds, which scatter less than a seed's own scores; the shares
        are the means of the seeds' own.
        """
        scores = self._all_scores(self.answers[method], suite)
        base = self._all_scores(self.base_answers, suite)
        paired = pooled_difference(scores, base, seed=0, clusters=self.suites[suite].together)
        found = detectable_difference(
            paired.items,
            discordance=paired.discordance,
            cancelled=paired.cancelled,
            design_effect=paired.design_effect,
        )
        return {
            "difference": found.difference,
            "better": float(np.mean(np.asarray(scores) > np.asarray(base))),
            "worse": float(np.mean(np.asarray(scores) < np.asarray(base))),
        }

    def against(self, subject: str, method: Method) -> dict[str, Any]:
        """The subject's scores minus the method's, item by item and seed by seed, over the seeds that both have."""
        given: dict[str, list[Answers]] = {subject: [], method.name: []}
        seeds = _shared(*([variant.seed for variant in self.variants[name]] for name in given))
        for name, answers in given.items():
            by_seed = dict(
                zip((variant.seed for variant in self.variants[name]), self.answers[name], strict=True)
            )
            answers += [by_seed[seed] for seed in seeds]
        return {
            name: pooled_difference(
                *(self._all_scores(answers, name) for answers in given.values()),
                seed=0,
                clusters=suite.together,
            )
            for name, suite in self.suites.items()
        }

    def _all_scores(self, answers: Sequence[Answers], name: str) -> list[list[float]]:
        """[S, N]: a row a seed."""
        return [scores_of(self.suites[name], given[name]) for given in answers]

    def _leaks(self, answers: Sequence[Answers]) -> Any:
        """Share of the general answers, freely written, that carry the job's style."""
        if self.pattern is None:
            return None
        general = self.suites["general"]
        found = [
            [float(self.pattern.search(given["general"][index]) is not None) for index in general.written]
            for given in answers
        ]
        together = general.together
        return pooled_interval(found, seed=0, clusters=[together[index] for index in general.written])

    def _drift(self, method: Method, on: DriftOn) -> dict[str, Any] | None:
        """Over all seeds; prompts are what is resampled."""
        kept = [self.bench.bench.drift(variant.name, "test", on) for variant in self.variants[method.name]]
        known = [one for one in kept if one is not None]
        if not known:
            return None
        nats, tokens = (np.sum([one[key] for one in known], axis=0) for key in ("nats", "tokens"))
        return {
            "nats": mean_interval(nats, tokens, seed=0),
            "top1_agreement": float(np.mean([one["top1_agreement"] for one in known])),
            "by_seed": [sum(one["nats"]) / sum(one["tokens"]) for one in known],
        }

    def _routed_right(self, method: Method) -> dict[str, float] | None:
        if method.name != "router":
            return None
        routes = self.bench.routes(self.variants["router"][0], "test")
        return {
            "task": float(np.mean(routes["task"])),
            "general": float(np.mean([not to_tuned for to_tuned in routes["general"]])),
        }

    def _costs(self, method: Method) -> dict[str, Any]:
        """Time and memory of a run, and what it needed beside the rows."""
        records = [self.bench.training_record(variant) for variant in self.variants[method.name]]
        files = [self.bench.written_data(method, variant.seed) for variant in self.variants[method.name]]
        # Later seeds find texts of the first one's rows: what a run needs is what the first one took.
        written = [file[1] for file in files if file is not None]
        # None where all of them ask what held-out rows ask.
        replayed = [record["data"]["replay"] for record in records if "replay" in record["data"]]
        return {
            "train_seconds": float(np.mean([record["seconds"] for record in records])),
            # Part of them: each run has anchors of its own written.
            "anchor_seconds": float(np.mean([record.get("anchor_seconds", 0.0) for record in records]))
            if method.trained
            else 0.0,
            "write_seconds": max((one["seconds"] for one in written), default=0.0),
            # Some systems don't say.
            "peak_memory_bytes": max(
                (peak for record in records if (peak := record["peak_memory_bytes"]) is not None),
                default=None,
            ),
            # Where there are too few, they are repeated.
            "general_rows": max(
                (min(one["rows_replayed"], one["rows_available"]) for one in replayed), default=0
            )
            if method.name == "replay"
            else 0,
            "written_rows": max((one["rows"] for one in written), default=0),
            "written_rows_asked": max((one.get("rows_asked", 0) for one in written), default=0),
            "written_rows_cut_off": max((one.get("rows_cut_off", 0) for one in written), default=0),
            "anchors": max(record["anchors"] for record in records) if method.trained else 0,
            "reference_cache": any(record.get("reference") == "cache" for record in records),
        }
