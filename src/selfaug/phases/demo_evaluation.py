"""What the demo asks the base model and both tuned ones, and what it makes of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.core.statistics import mean_interval, paired_difference, score_interval, wilson_interval
from selfaug.data.market_reports import market_report_rows, market_report_template
from selfaug.eval.drift import Drift, measure_drift
from selfaug.eval.general_suite import (
    EXECUTIVE_ITEM,
    GeneralItem,
    Half,
    plain_instructions,
    score_general,
    spread_over_kinds,
)
from selfaug.eval.house_style import leaks_house_style, score_task_answer
from selfaug.model.generate import chat_prompt_ids, generate_greedy
from selfaug.model.loading import DEMO_MODEL, load_model
from selfaug.model.reference import FrozenModel, Reference, Remembered

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

_TASK_TOKENS = 32

_BATCH = 152
"""Prompts decoded together. Large: on a CPU, decoding waits for the weights, whatever the number of rows."""

# Drift is measured on every so-manieth general prompt: suites of 8 prompts a kind give one of each.
_EVERY = 8


@dataclass(frozen=True)
class Questions:
    """What every model is asked.

    Attributes:
        task: rows of the market reports.
        general: items of the general suite.
        task_prompts: token ids of each row's prompt.
        general_prompts: token ids of each item's prompt.
    """

    task: list[dict[str, Any]]
    general: list[GeneralItem]
    task_prompts: list[list[int]]
    general_prompts: list[list[int]]

    @property
    def texts(self) -> list[str]:
        """Questions and prompts as texts, task first."""
        return [row["question"] for row in self.task] + [item.prompt for item in self.general]


def questions(
    tokenizer: PreTrainedTokenizerBase, half: Half, task_items: int, general_items: int | None
) -> Questions:
    """Questions of one half; so many general items, or all."""
    task, template = market_report_rows(half, task_items), market_report_template()
    general = plain_instructions(half)
    if general_items is not None:
        general = spread_over_kinds(general, general_items)
    return Questions(
        task,
        general,
        [chat_prompt_ids(tokenizer, template.messages(row["question"], row["context"])) for row in task],
        [chat_prompt_ids(tokenizer, item.prompt) for item in general],
    )


def tuned_model(adapter: Path) -> PreTrainedModel:
    """The demo's model with an adapter merged into it: it answers as fast as the base model."""
    model = PeftModel.from_pretrained(load_model(DEMO_MODEL), str(adapter))
    merged: PreTrainedModel = model.merge_and_unload().eval()
    return merged


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Questions,
    on_progress: OnProgress = lambda *_: None,
) -> Answers:
    """Greedy answers of one model."""

    def report(stage: str, total: int) -> Callable[[int, int], None]:
        on_progress(stage, 0, total)
        return lambda done, total: on_progress(stage, done, total)

    return {
        "task": generate_greedy(
            model,
            tokenizer,
            asked.task_prompts,
            max_new_tokens=_TASK_TOKENS,
            on_progress=report("task questions", len(asked.task)),
        ),
        "general": generate_greedy(
            model,
            tokenizer,
            asked.general_prompts,
            max_new_tokens=[item.max_new_tokens for item in asked.general],
            batch_size=_BATCH,
            on_progress=report("general prompts", len(asked.general)),
        ),
    }


class DriftMeter:
    """Drift on the reference model's own answers to general prompts: it needs no labels, and style would leak there.

    Every eighth prompt tells it well enough for the time, and half of those for the curve over the steps.

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
        self._starts = [len(prompt) for prompt in asked.general_prompts][::_EVERY]
        self._sequences = [
            prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
            for prompt, answer in zip(asked.general_prompts[::_EVERY], answers[::_EVERY], strict=True)
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


def task_scores(asked: Questions, answers: Answers) -> list[Any]:
    """Exact answer and right source of each task question."""
    return [
        score_task_answer(answer, row["value"], row["gold"])
        for answer, row in zip(answers["task"], asked.task, strict=True)
    ]


def general_scores(asked: Questions, answers: Answers) -> list[float]:
    """Share of its checks that each general answer passes."""
    return [
        score_general(item, answer) for item, answer in zip(asked.general, answers["general"], strict=True)
    ]


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
    leaks = sum(leaks_house_style(answer) for answer in answers["general"])
    return {
        "exact": wilson_interval(sum(score.exact for score in task), len(task)),
        "source": wilson_interval(sum(score.source for score in task), len(task)),
        "general": score_interval(general, seed=0),
        "difference": None
        if base_answers is None
        else paired_difference(general, general_scores(asked, base_answers), seed=0),
        "leaks": wilson_interval(leaks, len(general)),
        "words": sum(len(answer.split()) for answer in answers["general"]) / len(general),
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
    items = asked.general
    chosen = [i for i, item in enumerate(items) if item.id == EXECUTIVE_ITEM]
    kinds = {items[i].kind for i in chosen}
    for i, item in enumerate(items):
        if item.kind not in kinds:
            kinds.add(item.kind)
            chosen.append(i)
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
