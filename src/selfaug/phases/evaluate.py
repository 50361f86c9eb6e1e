"""Evaluation of a run: base and tuned model on the task's held-out rows and on general requests, and the gate.

Both models answer the same prompts, so every difference is taken item by item. Answers are written as they are made:
an evaluation that was cut off goes on with the next prompts.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from selfaug.config import TrainConfig, load_config
from selfaug.core.gate import GateResult, at_least, at_most, overall
from selfaug.core.statistics import (
    Interval,
    PairedDifference,
    detectable_difference,
    mean_interval,
    paired_difference,
    score_interval,
)
from selfaug.errors import ConfigError, StorageError
from selfaug.eval.answer_scorers import citation_scores, exact_match, numeric_match, token_f1
from selfaug.eval.drift import measure_drift
from selfaug.eval.general_suite import (
    GeneralItem,
    Half,
    general_suite,
    score_general,
    spread_over_kinds,
)
from selfaug.model.generate import chat_prompt_ids, generate_greedy
from selfaug.model.loading import load_model, load_tokenizer
from selfaug.model.reference import FrozenModel
from selfaug.phases.chat import trained_weights
from selfaug.phases.inputs import compute_dtype, load_base_model, load_training_data, resolve_device
from selfaug.phases.train import Progress
from selfaug.records import append_line, read_lines, read_record, write_record
from selfaug.rundir import RunDir

__all__ = ["RECORD_KIND", "SCORERS", "Evaluation", "evaluate"]

RECORD_KIND = "evaluation"

MODELS = ("base", "tuned")

_STARTED = "started.json"

Scorer = Callable[[str, str], float]
"""Score in [0, 1] of an answer, given the row's completion."""


def _citations(answer: str, gold: str) -> float:
    """F1 of the sources cited; the row's completion cites the right ones."""
    return citation_scores(answer, gold).f1


SCORERS: dict[str, Scorer] = {
    "exact": lambda answer, gold: float(exact_match(answer, [gold])),
    "f1": lambda answer, gold: token_f1(answer, [gold]),
    "numeric": lambda answer, gold: float(numeric_match(answer, gold)),
    "citations": _citations,
}
"""Scorers by the name that a user gives."""


@dataclass(frozen=True)
class Evaluation:
    """Data of an evaluation's record, and the gate's result.

    Attributes:
        record: as written.
        outcome: of the gate; None without bounds.
    """

    record: dict[str, Any]
    outcome: str | None


@dataclass(frozen=True)
class _Prompts:
    """What both models are asked."""

    ids: list[str]
    texts: list[str]
    prompts: list[list[int]]
    limits: list[int]
    score: Callable[[int, str], float] = field(repr=False)


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: Sequence[str] = (),
    scorer: str = "exact",
    half: Half = "test",
    general_items: int | None = None,
    task_items: int | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    max_forgetting: float | None = None,
    min_task_gain: float | None = None,
    device: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Evaluation:
    """Ask base and tuned model the task's held-out rows and general requests; compare, and decide the gate.

    Args:
        run: folder of a run.
        data: sources of held-out rows; those that the run evaluated on if empty. Without any, there is no task score.
        scorer: one of `SCORERS`, or "module:function" that takes an answer and the row's completion.
        half: of the general suite; choose on "dev", report on "test".
        general_items: how many general requests; None for all of the half.
        task_items: how many rows; None for all.
        max_new_tokens: longest answer to a row.
        batch_size: prompts answered together; what is lost when it is cut off.
        max_forgetting: share; the gate's bound on score(base) − score(tuned) over the general requests.
        min_task_gain: share; the gate's bound on score(tuned) − score(base) over the rows.
        device: "auto", "cpu" or "cuda".
        offline: use only what is on this machine.
        overwrite: evaluate anew where there is an evaluation.
        on_progress: called with what is being done.

    Raises:
        StorageError: if there is no such run, or an evaluation with other settings.
        ConfigError, DataError, ModelError: if scorer, rows or models can't be used.
    """
    folder = RunDir.open(run)
    config = load_config(folder.config)
    score = _scorer(scorer)
    if min_task_gain is not None and not (data or config.data.eval):
        raise ConfigError(
            "--min-task-gain needs held-out rows, and the run was trained without any.",
            hint="give them with --data.",
        )
    weights, step = trained_weights(folder, config)
    settings = {
        "data": list(data or config.data.eval), "scorer": scorer, "half": half, "general_items": general_items,
        "task_items": task_items, "max_new_tokens": max_new_tokens, "step": step, "weights": _hash(weights),
    }  # fmt: skip
    began = time.monotonic()
    work = folder.samples / "evaluation"
    if not overwrite:
        _require_free(folder, work, settings)
    on_progress(Progress("data"))
    tokenizer, suites = _suites(config, settings, score, offline)
    on_progress(Progress("model"))
    resolved = resolve_device(device)
    base, tuned = _models(config, weights, resolved, offline)
    _open(folder, work, settings, overwrite)  # nothing is replaced before all of this has worked

    answers: dict[str, dict[str, list[str]]] = {}
    for name, suite in suites.items():
        answers[name] = {}
        for model in MODELS:
            with _answering(base, tuned, model) as answering:
                answers[name][model] = _answers(
                    work / f"{name}-{model}.jsonl",
                    suite,
                    answering,
                    tokenizer,
                    batch_size,
                    lambda done, total, stage=f"{model}: {name}": on_progress(  # type: ignore[misc]
                        Progress(stage, done, total)
                    ),
                )
    general = suites["general"]
    drift = measure_drift(
        tuned,
        [
            prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
            for prompt, answer in zip(general.prompts, answers["general"]["base"], strict=True)
        ],
        starts=[len(prompt) for prompt in general.prompts],
        reference=None if base is None else FrozenModel(base),
        on_progress=lambda done, total: on_progress(Progress("drift", done, total)),
    )

    results = {name: _result(suite, answers[name]) for name, suite in suites.items()}
    gate = _gate(results, max_forgetting, min_task_gain)
    data_of_record = {
        "run": str(folder.path),
        "settings": settings,
        "suites": results,
        "drift": {
            "nats": mean_interval(
                [sum(tokens) for tokens in drift.per_token],
                [len(tokens) for tokens in drift.per_token],
                seed=0,
            ),
            "top1_agreement": drift.top1_agreement,
            "tokens": drift.tokens,
        },
        "gate": None if gate is None else {"outcome": overall(gate), "bounds": [asdict(one) for one in gate]},
        "device": str(resolved),
        "threads": torch.get_num_threads(),
        "seconds": time.monotonic() - began,
    }
    write_record(folder.evaluation, RECORD_KIND, data_of_record)
    return Evaluation(read_record(folder.evaluation, RECORD_KIND), None if gate is None else overall(gate))


def _scorer(name: str) -> Scorer:
    """A scorer by its name, or a function of the user's."""
    if name in SCORERS:
        return SCORERS[name]
    module, separator, function = name.partition(":")
    known = f"use one of {', '.join(SCORERS)}, or module:function with a function of your own."
    if not separator:
        raise ConfigError(f"there is no scorer {name!r}.", hint=known)
    try:
        found: Scorer = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"scorer {name!r} can't be imported: {error}.", hint=known) from error

    def score(answer: str, gold: str) -> float:
        value = float(found(answer, gold))
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"scorer {name!r} gave {value}, not a score between 0 and 1.")
        return value

    return score


def _hash(weights: Path) -> str:
    """Of the trained weights: answers of other weights must not be taken for theirs."""
    digest = hashlib.sha256()
    for file in sorted(weights.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


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


def _open(run: RunDir, work: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of the answers, or go on with the one that is there."""
    try:
        if overwrite and work.exists():
            shutil.rmtree(work)
        if overwrite:
            run.evaluation.unlink(missing_ok=True)
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"can't write into {work}: {error.strerror or error}") from error
    if not (work / _STARTED).exists():
        write_record(work / _STARTED, "evaluation-started", settings)


def _suites(
    config: TrainConfig, settings: dict[str, Any], score: Scorer, offline: bool
) -> tuple[PreTrainedTokenizerBase, dict[str, _Prompts]]:
    """Tokeniser, and the prompts of each suite: "task" (if there are rows) and "general"."""
    offline = offline or config.run.offline
    tokenizer = load_tokenizer(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=offline
    )
    suites = {}
    if settings["data"]:
        # Held-out rows are read as training rows are: the same template, window and checks.
        as_rows = config.data.model_copy(update={"train": settings["data"], "eval": []})
        in_run = config.run.model_copy(update={"offline": offline})
        data = load_training_data(config.model_copy(update={"data": as_rows, "run": in_run}))
        suites["task"] = _task(tokenizer, data.train.rows[: settings["task_items"]], settings, score)
    items = general_suite(settings["half"])
    if settings["general_items"] is not None:
        items = spread_over_kinds(items, settings["general_items"])
    suites["general"] = _general(tokenizer, items, config.data.chat_template_kwargs)
    return tokenizer, suites


def _task(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any], settings: dict[str, Any], score: Scorer
) -> _Prompts:
    prompts, golds = [], []
    for row in rows:
        # The last completion of a row; what stands before it is its prompt, token by token as in training.
        start = len(row.labels)
        while start > 0 and row.labels[start - 1] >= 0:
            start -= 1
        prompts.append(list(row.input_ids[:start]))
        golds.append(tokenizer.decode(row.input_ids[start:], skip_special_tokens=True).strip())
    return _Prompts(
        # Ids need not be unique in files of the user's.
        ids=[f"{number}: {row.id}" for number, row in enumerate(rows)],
        texts=[tokenizer.decode(prompt) for prompt in prompts],
        prompts=prompts,
        limits=[settings["max_new_tokens"]] * len(rows),
        score=lambda index, answer: score(answer.strip(), golds[index]),
    )


def _general(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[GeneralItem], template_arguments: dict[str, Any]
) -> _Prompts:
    return _Prompts(
        ids=[item.id for item in items],
        texts=[item.prompt for item in items],
        prompts=[chat_prompt_ids(tokenizer, item.prompt, **template_arguments) for item in items],
        limits=[item.max_new_tokens for item in items],
        score=lambda index, answer: score_general(items[index], answer),
    )


def _models(config: TrainConfig, weights: Path, device: torch.device, offline: bool) -> tuple[Any, Any]:
    """Base and tuned model; None for the base if it is the tuned model with its adapter off."""
    base = load_base_model(
        config.model,
        dtype=compute_dtype(config, device),
        device=device,
        offline=offline or config.run.offline,
    )
    if config.lora.method == "full":
        return base, load_model(weights, dtype=base.dtype, device=device, offline=True)
    return None, PeftModel.from_pretrained(base, weights).eval()


@contextmanager
def _answering(base: Any, tuned: Any, model: str) -> Iterator[Any]:
    """The model of that name."""
    if model == "tuned":
        yield tuned
    elif base is not None:
        yield base
    else:
        with tuned.disable_adapter():
            yield tuned


def _answers(
    path: Path,
    suite: _Prompts,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Answers to all prompts: those in the file, and the others made and added to it, a batch at a time."""
    known = {row["id"]: row["answer"] for row in read_lines(path)} if path.exists() else {}
    missing = [index for index, name in enumerate(suite.ids) if name not in known]
    on_progress(len(known), len(suite.ids))
    # Like lengths together, the longest first, as generation itself would sort them.
    missing.sort(key=lambda index: (suite.limits[index], len(suite.prompts[index])), reverse=True)
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        answers = generate_greedy(
            model,
            tokenizer,
            [suite.prompts[i] for i in batch],
            max_new_tokens=[suite.limits[i] for i in batch],
            batch_size=batch_size,
        )
        for index, answer in zip(batch, answers, strict=True):
            name = suite.ids[index]
            append_line(path, {"id": name, "prompt": suite.texts[index], "answer": answer})
            known[name] = answer
        on_progress(len(known), len(suite.ids))
    return [known[name] for name in suite.ids]


def _result(suite: _Prompts, answers: dict[str, list[str]]) -> dict[str, Any]:
    """Scores of both models with intervals, their difference item by item, and the items."""
    scores = {
        model: [suite.score(index, answer) for index, answer in enumerate(given)]
        for model, given in answers.items()
    }
    base, tuned = (score_interval(scores[model], seed=0) for model in MODELS)
    difference = paired_difference(scores["tuned"], scores["base"], seed=0)
    return {
        "items": len(suite.ids),
        "base": base,
        "tuned": tuned,
        "difference": difference,
        "retention": tuned.value / base.value if base.value > 0 else None,
        "detectable_difference": detectable_difference(len(suite.ids)).difference,
        "scores": {
            name: {model: values[index] for model, values in scores.items()}
            for index, name in enumerate(suite.ids)
        },
    }


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
