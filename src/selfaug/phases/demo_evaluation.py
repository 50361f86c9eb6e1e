"""What the demo asks the base model and both tuned ones, and what it makes of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.core.statistics import mean_interval, paired_difference, score_interval, wilson_interval
from selfaug.data.market_reports import market_report_rows, market_report_template
from selfaug.data.special_tokens import without_special_tokens
from selfaug.eval.drift import Drift, measure_drift
from selfaug.eval.general_suite import EXECUTIVE_ITEM, GeneralItem, Half, Level, score_general
from selfaug.eval.house_style import TaskScore, leaks_house_style, score_task_answer
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import DEMO_MODEL, load_model
from selfaug.model.merging import merge
from selfaug.model.reference import FrozenModel, Reference, Remembered
from selfaug.phases.suites import Suite, answers_to, general_prompts, select_items

__all__ = [
    "Answers",
    "DriftMeter",
    "OnProgress",
    "Questions",
    "ask",
    "model_result",
    "questions",
    "side_by_side",
    "task_scores",
    "tuned_model",
]

OnProgress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is."""

Answers = dict[str, list[str]]
"""Texts under "task" and "general"."""

_LEVEL: Level = 1
"""Of the general suite: the one that is made for models as small as the demo's."""

_TASK_TOKENS = 32

# Prompts decoded together. Many: on a CPU, decoding waits for the weights, whatever the number of rows.
_BATCHES = {"task": 32, "general": 128}

# Drift is measured on every so-manieth general prompt: kinds of 32 prompts give two of each.
_EVERY = 16


@dataclass(frozen=True)
class Questions:
    """What every model is asked.

    Attributes:
        rows: of the market reports: what is asked on the task.
        items: of the general suite.
        task: the rows as prompts.
        general: the items as prompts.
    """

    rows: list[dict[str, Any]]
    items: list[GeneralItem]
    task: Suite
    general: Suite


def questions(
    tokenizer: PreTrainedTokenizerBase, half: Half, task_items: int, general_items: int | None
) -> Questions:
    """Questions of one half; so many general items, or all of the level."""
    rows, template = market_report_rows(half, task_items), market_report_template()
    items = select_items(half, _LEVEL, general_items)
    plain = without_special_tokens(tokenizer)
    task = Suite(
        ids=[row["id"] for row in rows],
        texts=[row["question"] for row in rows],
        prompts=[
            chat_prompt_ids(
                tokenizer, template.messages(plain(row["question"]), [*map(plain, row["context"])])
            )
            for row in rows
        ],
        limits=[_TASK_TOKENS] * len(rows),
        choices=[()] * len(rows),
        score=lambda index, answer: float(_task_score(rows[index], answer).exact),
    )
    return Questions(rows, items, task, general_prompts(tokenizer, items, {}))


def tuned_model(adapter: Path) -> Any:
    """The demo's model with an adapter, merged into it where that rounds nothing away: then it answers faster."""
    model = PeftModel.from_pretrained(load_model(DEMO_MODEL), str(adapter)).eval()
    return merge(model) if model.dtype is torch.float32 else model


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Questions,
    folder: Path,
    name: str,
    on_progress: OnProgress = lambda *_: None,
) -> Answers:
    """Greedy answers of one model, those that are in the folder and the others, which are added to it.

    Args:
        model: that is asked.
        tokenizer: its tokeniser.
        asked: the questions.
        folder: of the answers: `NAME-task.jsonl` and `NAME-general.jsonl`.
        name: of the model, for files.
        on_progress: called with answers that are there and all.
    """

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(stage, done, total)

    return {
        suite: answers_to(
            prompts, folder / f"{name}-{suite}.jsonl", model, tokenizer, _BATCHES[suite], report(stage)
        )
        for suite, prompts, stage in (
            ("task", asked.task, "task questions"),
            ("general", asked.general, "general requests"),
        )
    }


class DriftMeter:
    """Drift on the reference model's own answers to general prompts: it needs no labels, and style would leak there.

    Every sixteenth prompt tells it well enough for the time, and half of those for the curve over the steps.

    Args:
        base: the reference model.
        tokenizer: its tokeniser.
        asked: what it was asked.
        answers: its answers to the general prompts.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        asked: Questions,
        answers: Sequence[str],
    ) -> None:
        self._reference: Reference = Remembered(FrozenModel(base))
        chosen = asked.general.written[::_EVERY]
        self._starts = [len(asked.general.prompts[index]) for index in chosen]
        self._sequences = [
            asked.general.prompts[index] + tokenizer(answers[index], add_special_tokens=False)["input_ids"]
            for index in chosen
        ]

    def drift(self, model: PreTrainedModel, on_progress: OnProgress = lambda *_: None) -> Drift:
        """Of a tuned model."""
        on_progress("drift", 0, len(self._sequences))
        return measure_drift(
            model,
            self._sequences,
            starts=self._starts,
            reference=self._reference,
            on_progress=lambda done, total: on_progress("drift", done, total),
        )

    def curve(
        self, run: Path, final: Drift, on_progress: OnProgress = lambda *_: None
    ) -> list[dict[str, float]]:
        """Drift at each checkpoint of a run. Step 0 is 0, for both models are equal; the last is the final one."""
        curve = [{"step": 0, "drift": 0.0}]
        steps = sorted(
            int(path.name.partition("-")[2]) for path in (run / "checkpoints").glob("checkpoint-*")
        )
        on_progress("drift over steps", 0, len(steps))
        for done, step in enumerate(steps, 1):
            if step < steps[-1]:
                model = tuned_model(run / "checkpoints" / f"checkpoint-{step}")
                drift = measure_drift(
                    model, self._sequences[::2], starts=self._starts[::2], reference=self._reference
                ).mean
            else:
                nats = [value for tokens in final.per_token[::2] for value in tokens]
                drift = sum(nats) / len(nats)
            curve.append({"step": step, "drift": drift})
            on_progress("drift over steps", done, len(steps))
        return curve


def task_scores(asked: Questions, answers: Answers) -> list[TaskScore]:
    """Exact answer and right source of each task question."""
    return [_task_score(row, answer) for row, answer in zip(asked.rows, answers["task"], strict=True)]


def _task_score(row: dict[str, Any], answer: str) -> TaskScore:
    return score_task_answer(answer, row["value"], row["gold"])


def general_scores(asked: Questions, answers: Answers) -> list[float]:
    """Share of its checks that each general answer passes."""
    return [asked.general.score(index, answer) for index, answer in enumerate(answers["general"])]


def model_result(
    asked: Questions, answers: Answers, base_answers: Answers | None, drift: Drift | None
) -> dict[str, Any]:
    """One row of the table: every share with its interval.

    Args:
        asked: what the model was asked.
        answers: what it answered.
        base_answers: what the base model answered; None if this is the base model.
        drift: of the model; None if this is the base model.
    """
    task, general = task_scores(asked, answers), general_scores(asked, answers)
    written = [answers["general"][index] for index in asked.general.written]
    leaks = sum(leaks_house_style(answer) for answer in written)
    return {
        "exact": wilson_interval(sum(score.exact for score in task), len(task)),
        "source": wilson_interval(sum(score.source for score in task), len(task)),
        "general": score_interval(general, seed=0),
        "difference": None
        if base_answers is None
        else paired_difference(general, general_scores(asked, base_answers), seed=0),
        "leaks": wilson_interval(leaks, len(written)),
        "words": sum(len(answer.split()) for answer in written) / len(written),
        "drift": None
        if drift is None
        else mean_interval(
            [sum(tokens) for tokens in drift.per_token], [len(tokens) for tokens in drift.per_token], seed=0
        ),
        "top1_agreement": None if drift is None else drift.top1_agreement,
        "task_items": len(task),
        "general_items": len(general),
    }


def side_by_side(asked: Questions, answers: dict[str, Answers]) -> list[dict[str, Any]]:
    """The executive's request first, then one prompt of each other kind, with all models' answers."""
    items = asked.items
    # A choice is no answer to look at.
    places = sorted(asked.general.written, key=lambda place: items[place].id != EXECUTIVE_ITEM)
    first = {items[place].kind: place for place in reversed(places)}
    chosen = [place for place in places if first[items[place].kind] == place]
    return [
        {
            "id": items[i].id,
            "kind": items[i].kind,
            "prompt": items[i].prompt,
            "answers": {name: given["general"][i] for name, given in answers.items()},
            "passed": {name: score_general(items[i], given["general"][i]) for name, given in answers.items()},
            "leaks": {name: leaks_house_style(given["general"][i]) for name, given in answers.items()},
        }
        for i in chosen
    ]
