"""Comparison of methods: the same data, order, steps, seeds and evaluation for all, and the same number of trials.

Each method's knob is chosen on development items, by one rule; what is reported are test items, with every seed.
Runs, answers and drift are kept as they are made: a comparison that was cut off goes on with what is missing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfaug.config import LevelName, TrainConfig
from selfaug.core.statistics import (
    detectable_difference,
    mean_interval,
    pooled_difference,
    pooled_interval,
)
from selfaug.errors import ConfigError
from selfaug.eval.general_suite import Half
from selfaug.eval.suite_files import read_suite
from selfaug.model.loading import load_tokenizer
from selfaug.phases.inputs import compute_dtype, load_base_model, resolve_device
from selfaug.phases.method_bench import FOLDERS, Answers, MethodBench, Variant
from selfaug.phases.methods import METHODS, Method
from selfaug.phases.suites import (
    Suite,
    answer_scorer,
    fitting_level,
    general_prompts,
    level_of,
    select_items,
    suite_file_prompts,
    task_prompts,
)
from selfaug.phases.train import Progress
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import read_record, write_record

__all__ = ["RECORD_KIND", "CompareSettings", "chosen_value", "compare"]

RECORD_KIND = "comparison"


@dataclass(frozen=True)
class CompareSettings:
    """What is compared and how it is evaluated.

    Attributes:
        dev: sources of rows to choose on.
        test: sources of rows to report on.
        methods: names in `METHODS`.
        seeds: of training; the first one's runs are the trials.
        scorer: of the rows, as for `evaluate`.
        level: of the general suite, as for `evaluate`.
        suites: JSONL files of the user's own questions, reported beside the general suite.
        general_items: how many general requests; None for all of the half and level.
        task_items: how many rows of each source; None for all.
        max_new_tokens: longest answer to a row.
        leak_pattern: regular expression of the job's answer style, counted in general answers; None counts nothing.
        task_slack: share; a knob's value is chosen for what it retains among those whose task score is at most this
            much below plain LoRA's.
        batch_size: prompts answered together.
    """

    dev: Sequence[str]
    test: Sequence[str]
    methods: Sequence[str] = tuple(METHODS)
    seeds: Sequence[int] = (0, 1)
    scorer: str = "exact"
    level: LevelName = "auto"
    suites: Sequence[str] = ()
    general_items: int | None = None
    task_items: int | None = None
    max_new_tokens: int = 64
    leak_pattern: str | None = None
    task_slack: float = 0.02
    batch_size: int = 64


def compare(
    config: TrainConfig,
    settings: CompareSettings,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train and evaluate every method; write record and answers.

    Args:
        config: the training that all methods share; its output is the comparison's folder.
        settings: what is compared.
        overwrite: replace the comparison that is there.
        on_progress: called with what is being done.

    Returns:
        Data of the comparison's record.

    Raises:
        ConfigError, DataError, ModelError: before anything long.
        StorageError: if the folder holds something else, or a comparison with other settings.
    """
    began = time.monotonic()
    methods = _checked(config, settings)
    scorer = answer_scorer(settings.scorer)
    folder = Path(config.run.output)
    on_progress(Progress("data"))
    tokenizer = load_tokenizer(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=config.run.offline
    )
    template = config.data.chat_template_kwargs
    halves: dict[Half, Sequence[str]] = {"dev": settings.dev, "test": settings.test}
    suites: dict[Half, dict[str, Suite]] = {}
    for half, sources in halves.items():
        rows = task_prompts(
            config,
            tokenizer,
            sources,
            score=scorer,
            items=settings.task_items,
            max_new_tokens=settings.max_new_tokens,
            offline=config.run.offline,
        )
        suites[half] = {"task": rows}
    for file in settings.suites:
        suites["test"][Path(file).stem] = suite_file_prompts(
            tokenizer, read_suite(file), settings.max_new_tokens, template
        )
    work = WorkFolder(folder, "comparison", {"record.json", *FOLDERS}, last=["record.json"])
    work.open(
        {"config": config.model_dump(mode="json", exclude={"run"}), **asdict(settings)}, overwrite=overwrite
    )
    on_progress(Progress("model"))
    device = resolve_device(config.model.device)
    base = load_base_model(
        config.model, dtype=compute_dtype(config, device), device=device, offline=config.run.offline
    ).eval()
    for part in FOLDERS:
        (folder / part).mkdir(exist_ok=True)
    level = level_of(settings.level) or fitting_level(
        folder / "answers" / "level.jsonl",
        base,
        tokenizer,
        template,
        settings.batch_size,
        lambda done, total: on_progress(Progress("base model: which level", done, total)),
    )
    for half in halves:
        items = select_items(half, level.level, settings.general_items)
        suites[half]["general"] = general_prompts(tokenizer, items, template)
    bench = MethodBench(
        folder, config, tokenizer, base, device, suites, settings.batch_size, settings.max_new_tokens,
        settings.seeds[0], on_progress,
    )  # fmt: skip
    for half in halves:
        bench.base_answers(half)

    trials: dict[str, list[Trial]] = {}
    for method in methods:
        trials[method.name] = [
            _trial(bench, Variant(method, value, settings.seeds[0])) for value in method.values
        ]
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
            method.name: [Variant(method, chosen[method.name], seed) for seed in settings.seeds]
            for method in methods
        },
        settings.leak_pattern,
    )
    data = {
        "settings": {"config": config.model_dump(mode="json"), **asdict(settings)},
        "level": asdict(level),
        "items": {name: len(suite.ids) for name, suite in suites["test"].items()},
        "detectable_difference": detectable_difference(len(suites["test"]["general"].ids)).difference,
        "base": table.base_row(),
        "methods": {
            method.name: {
                "label": method.label,
                "knob": method.knob,
                "value": chosen[method.name],
                "trials": trials[method.name],
                "models": method.models,
                **table.row(method),
                "against_subject": None if subject in (None, method.name) else table.against(subject, method),
            }
            for method in methods
        },
        "subject": subject,
        "not_run": [name for name in METHODS if name not in chosen],
        "runs": _runs(bench, trials, table.variants),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds": time.monotonic() - began,
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
    eligible = [trial for trial in trials if trial["task"] >= floor]
    if best_task or not eligible:
        return float(max(trials, key=lambda trial: trial["task"])["value"])
    return float(max(eligible, key=lambda trial: trial["general"])["value"])


def _checked(config: TrainConfig, settings: CompareSettings) -> list[Method]:
    """The methods in the table's order.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = [
        f"there is no method {name!r}; methods are {', '.join(METHODS)}"
        for name in settings.methods
        if name not in METHODS
    ]
    if not settings.seeds:
        problems.append("at least one seed is needed")
    if config.selfaug.alpha <= 0:
        problems.append("selfaug.alpha must be more than 0: SelfAug is tried with it and with twice as much")
    if not settings.dev or not settings.test:
        problems.append("rows to choose on (--dev) and rows to report on (--test) are needed")
    if config.lora.method != "lora" or config.lora.weight_penalty:
        problems.append(
            "the training should be LoRA without a penalty: the methods change what they are about"
        )
    names = [Path(file).stem for file in settings.suites]
    if len(set(names)) < len(names) or {"task", "general"} & set(names):
        problems.append(f"suites need names of their own, other than task and general: {', '.join(names)}")
    if settings.leak_pattern is not None:
        try:
            re.compile(settings.leak_pattern)
        except re.error as error:
            problems.append(f"the leak pattern is not a regular expression: {error}")
    if problems:
        raise ConfigError("the comparison can't be made:", problems=problems)
    # Plain LoRA is what all others are measured by, and what two of them are made of.
    wanted = {"plain", *settings.methods}
    return [method for name, method in METHODS.items() if name in wanted]


# ---- trials


Trial = dict[str, float]
"""A value of the knob with its scores on development items: value, task, general."""


def _trial(bench: MethodBench, variant: Variant) -> Trial:
    answers = bench.answers(variant, "dev")
    scores = {
        name: float(np.mean(_scores(bench.suites["dev"][name], answers[name])))
        for name in ("task", "general")
    }
    return {"value": variant.value, **scores}


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
    """Drift and scores of every run and half: what the forecast of forgetting is made of."""
    found: list[tuple[Half, Variant]] = []
    for name, of_method in trials.items():
        seed = results[name][0].seed
        found += [("dev", Variant(METHODS[name], trial["value"], seed)) for trial in of_method]
        found += [("test", variant) for variant in results[name]]
    runs = []
    for half, variant in found:
        suite = bench.suites[half]["general"]
        if drift := bench.drift(variant, half):
            runs.append(
                {
                    "method": variant.method.name,
                    "value": variant.value,
                    "seed": variant.seed,
                    "half": half,
                    "drift": sum(drift["nats"]) / sum(drift["tokens"]),
                    "general": _scores(suite, bench.answers(variant, half)["general"]),
                    "base": _scores(suite, bench.base_answers(half)["general"]),
                }
            )
    return runs


# ---- the table


def _scores(suite: Suite, answers: Sequence[str]) -> list[float]:
    return [suite.score(index, answer) for index, answer in enumerate(answers)]


class _Table:
    """Test scores of the chosen variants, over their seeds."""

    def __init__(
        self, bench: MethodBench, variants: dict[str, list[Variant]], leak_pattern: str | None
    ) -> None:
        self.bench, self.variants = bench, variants
        self.suites = bench.suites["test"]
        self.pattern = None if leak_pattern is None else re.compile(leak_pattern)
        self.answers = {
            name: [bench.answers(variant, "test") for variant in found] for name, found in variants.items()
        }
        self.base_answers = [bench.base_answers("test")]

    def base_row(self) -> dict[str, Any]:
        return {
            "suites": {
                name: {"score": pooled_interval(self._all_scores(self.base_answers, name), seed=0)}
                for name in self.suites
            },
            "leaks": self._leaks(self.base_answers),
        }

    def row(self, method: Method) -> dict[str, Any]:
        answers = self.answers[method.name]
        suites = {}
        for name in self.suites:
            scores, base = self._all_scores(answers, name), self._all_scores(self.base_answers, name)
            suites[name] = {
                "score": pooled_interval(scores, seed=0),
                "difference": pooled_difference(scores, base, seed=0),
                "by_seed": [float(np.mean(of_seed)) for of_seed in scores],
            }
        return {
            "suites": suites,
            "leaks": self._leaks(answers),
            "drift": self._drift(method),
            "routed_right": self._routed_right(method),
            **self._costs(method),
        }

    def against(self, subject: str, method: Method) -> dict[str, Any]:
        """The subject's scores minus the method's, item by item and seed by seed."""
        return {
            name: pooled_difference(
                self._all_scores(self.answers[subject], name),
                self._all_scores(self.answers[method.name], name),
                seed=0,
            )
            for name in self.suites
        }

    def _all_scores(self, answers: Sequence[Answers], name: str) -> list[list[float]]:
        """[S, N]: a row a seed."""
        return [_scores(self.suites[name], given[name]) for given in answers]

    def _leaks(self, answers: Sequence[Answers]) -> Any:
        """Share of the general answers, freely written, that carry the job's style."""
        if self.pattern is None:
            return None
        written = self.suites["general"].written
        found = [
            [float(self.pattern.search(given["general"][index]) is not None) for index in written]
            for given in answers
        ]
        return pooled_interval(found, seed=0)

    def _drift(self, method: Method) -> dict[str, Any] | None:
        """Over all seeds; prompts are what is resampled."""
        kept = [self.bench.drift(variant, "test") for variant in self.variants[method.name]]
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
        written = self.bench.written_data(method)
        replayed = [
            record["data"]["replay"]["rows_replayed"] for record in records if "replay" in record["data"]
        ]
        return {
            "train_seconds": float(np.mean([record["seconds"] for record in records])),
            "write_seconds": written[1]["seconds"] if written else 0.0,
            "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records),
            "general_rows": max(replayed) if method.name == "replay" else 0,
            "written_rows": written[1]["rows"] if written else 0,
        }
