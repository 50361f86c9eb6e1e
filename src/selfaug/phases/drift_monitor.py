"""Drift while training: on a few general prompts, with the base model's own answers, at every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from selfaug.core.alignment import OutputHead
from selfaug.core.positions import Positions
from selfaug.eval.drift import Drift, measure_drift
from selfaug.eval.general_suite import general_suite, spread_over_kinds
from selfaug.model.generate import chat_prompt_ids, generate_greedy_ids
from selfaug.model.head import find_head
from selfaug.model.hidden import causal_model, evaluation_mode, hidden_states
from selfaug.model.reference import Remembered, copy_of_trained_head

__all__ = ["DriftMonitor", "monitored_texts"]

_ANSWER_TOKENS = 48


def monitored_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    template_arguments: Mapping[str, Any],
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[list[int], int]]:
    """General prompts with the model's own answers, as token ids, and where each answer begins.

    Development items: what is stopped by them is chosen on them.

    Args:
        model: before training.
        tokenizer: its tokeniser, with a chat template.
        count: how many prompts, spread over the kinds of the general suite.
        template_arguments: of the chat template.
        on_progress: called with prompts answered and prompts to answer.
    """
    items = [item for item in general_suite("dev", 1) if not item.choices]
    prompts = [
        chat_prompt_ids(tokenizer, item.prompt, **template_arguments)
        for item in spread_over_kinds(items, count)
    ]
    answers = generate_greedy_ids(
        causal_model(model), prompts, max_new_tokens=_ANSWER_TOKENS, on_progress=on_progress
    )
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True) if answer]


class _AsItIs:
    """The model before training as its own reference: asked once, and remembered."""

    def __init__(self, model: nn.Module) -> None:
        self._own_head = copy_of_trained_head(model)

    def head(self, model: nn.Module) -> OutputHead:
        return self._own_head or find_head(model, reference=True)

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        with evaluation_mode(model), torch.no_grad():
            hidden_BTH, _ = hidden_states(model, inputs)
            return hidden_BTH.flatten(0, 1)[positions.aligned_order].detach()


class DriftMonitor(TrainerCallback):  # type: ignore[misc]
    """Measures drift whenever a checkpoint has been saved, and ends training beyond a limit.

    Args:
        model: before training, with its fresh adapter: what it expects now is what it will be measured against.
        texts: from `monitored_texts`.
        stop_at: nats per token; training ends at the first checkpoint beyond. None never ends it.
        log: called with what was measured.

    Attributes:
        measured: step, nats per token and top-1 agreement at each checkpoint.
        seconds: that measuring took.
        stopped: whether it has ended training.
    """

    def __init__(
        self,
        model: nn.Module,
        texts: Sequence[tuple[list[int], int]],
        stop_at: float | None,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        self._texts, self._stop_at, self._log = texts, stop_at, log
        self.measured: list[dict[str, Any]] = []
        self.stopped = False
        began = time.monotonic()
        self._reference = Remembered(_AsItIs(model))
        self._drift(model)
        self.seconds = time.monotonic() - began

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Measure; ask the Trainer to stop if that is too much."""
        if model is None:
            return
        began = time.monotonic()
        drift = self._drift(model)
        self.seconds += time.monotonic() - began
        found = {
            "step": state.global_step,
            "general_drift": drift.mean,
            "general_top1_agreement": drift.top1_agreement,
        }
        self.measured.append(found)
        if state.is_world_process_zero:
            self._log(found)
        if self._stop_at is not None and drift.mean > self._stop_at:
            self.stopped = control.should_training_stop = True

    def _drift(self, model: nn.Module) -> Drift:
        return measure_drift(
            model,
            [ids for ids, _ in self._texts],
            starts=[start for _, start in self._texts],
            reference=self._reference,
        )
