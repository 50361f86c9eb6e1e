"""The best checkpoint: at each, some held-out rows are answered and scored, and the run ends with the best."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from selfaug.errors import StorageError
from selfaug.model.generate import generate_greedy
from selfaug.model.hidden import causal_model
from selfaug.phases.suites import Suite

__all__ = ["BestCheckpoint", "load_adapter_weights"]

_BATCH = 32
_WEIGHTS = "adapter_model.safetensors"


class BestCheckpoint(TrainerCallback):  # type: ignore[misc]
    """Scores rows whenever a checkpoint has been saved, and keeps the best one from being deleted.

    Args:
        suite: rows to answer.
        tokenizer: of the model.
        scored: lines of an interrupted run's metrics with `step`, `task_score` and `general_drift`.
        drift: of the checkpoint that was just saved, in nats per token, or None.
        bound: nats per token; beyond it a checkpoint is not eligible. None for no bound.
        log: called with what was measured.

    Attributes:
        scores: mean score by step.
        drifts: drift by step, where it was measured.
        seconds: that answering took.
    """

    def __init__(
        self,
        suite: Suite,
        tokenizer: PreTrainedTokenizerBase,
        scored: list[dict[str, Any]],
        drift: Callable[[int], float | None],
        bound: float | None,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        self._suite, self._tokenizer, self._drift = suite, tokenizer, drift
        self._bound, self._log = bound, log
        self.scores = {
            int(line["step"]): float(line["task_score"]) for line in scored if "task_score" in line
        }
        self.drifts = {
            int(line["step"]): float(line["general_drift"]) for line in scored if "general_drift" in line
        }
        self.seconds = 0.0

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the best score within the bound; of equals, the earliest. None without any."""
        eligible = [step for step in sorted(self.scores) if self._is_within(step)]
        return max(eligible, key=lambda step: (self.scores[step], -step), default=None)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """A resumed run may have been killed between its checkpoint and the score of it."""
        if state.global_step > 0 and model is not None:
            if state.global_step not in self.scores:
                self._measure(model, state)
            self._pin(args, state)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Score the rows; what is best so far is not deleted."""
        if model is not None and state.global_step not in self.scores:
            self._measure(model, state)
            self._pin(args, state)

    def _measure(self, model: nn.Module, state: TrainerState) -> None:
        began = time.monotonic()
        answers = generate_greedy(
            causal_model(model),
            self._tokenizer,
            self._suite.prompts,
            max_new_tokens=self._suite.limits,
            batch_size=_BATCH,
        )
        scores = [self._suite.score(index, answer) for index, answer in enumerate(answers)]
        self.seconds += time.monotonic() - began
        step = state.global_step
        self.scores[step] = sum(scores) / len(scores)
        drift = self._drift(step)
        if drift is not None:
            self.drifts[step] = drift
        if state.is_world_process_zero:
            self._log({"step": step, "task_score": self.scores[step]})

    def _is_within(self, step: int) -> bool:
        return self._bound is None or self.drifts.get(step, 0.0) <= self._bound

    def _pin(self, args: TrainingArguments, state: TrainerState) -> None:
        """The Trainer never deletes what it holds for the best checkpoint."""
        if self.best is not None:
            state.best_metric = self.scores[self.best]
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{self.best}")


def load_adapter_weights(model: PeftModel, checkpoint: Path) -> None:
    """Put a checkpoint's adapter into a model that has its like.

    Raises:
        StorageError: if the checkpoint has no adapter.
    """
    file = checkpoint / _WEIGHTS
    if not file.exists():
        raise StorageError(
            f"{checkpoint} was the best checkpoint, and its adapter is not there.",
            hint="the last checkpoint is; set train.best_of_rows=0 to end with that.",
        )
    set_peft_model_state_dict(model, load_file(file))
