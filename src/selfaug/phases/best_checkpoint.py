"""The best checkpoint: at each, some held-out rows are answered and scored, and the run ends with the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
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

from selfaug.config import TrainConfig
from selfaug.core.printable import counted
from selfaug.errors import ConfigError, StorageError
from selfaug.eval.scorers import named_scorer
from selfaug.model.generate import end_tokens, generate_greedy_ids
from selfaug.model.hidden import causal_model
from selfaug.phases.drift_monitor import DriftMonitor
from selfaug.phases.inputs import TrainingData
from selfaug.phases.progress import Progress
from selfaug.phases.suites import Suite, task_prompts
from selfaug.records import append_line, read_lines
from selfaug.rundir import RunDir
from selfaug.train import SelfAugTrainer

__all__ = ["BestCheckpoint", "best_checkpoint", "load_adapter_weights", "take_best"]

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
        # Of a model that had diverged it is there without a number, and within no bound.
        self.drifts = {
            int(line["step"]): math.nan if line["general_drift"] is None else float(line["general_drift"])
            for line in scored
            if "general_drift" in line
        }
        self.seconds = 0.0

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the best score within the bound; of equals, the earliest. None without any."""
        eligible = [step for step in sorted(self.scores) if self._is_within(step)]
        return max(eligible, key=lambda step: (self.scores[step], -step), default=None)

    def chosen(self, last: int) -> int | None:
        """Step that the run ends with: `best`, but the last where the scores tell no checkpoint from another.

        Only at the end: an earlier one of equals is kept until then, and the last one is always there.

        Args:
            last: step of the last checkpoint.
        """
        equal = len(set(self.scores.values())) == 1
        return last if equal and last in self.scores and self._is_within(last) else self.best

    def report(self, state: TrainerState) -> dict[str, Any]:
        """For the run's record."""
        chosen = self.chosen(state.global_step)
        return {
            "step": state.global_step if chosen is None else chosen,
            "within": chosen is not None,
            "seconds": self.seconds,
            "scores": {str(step): score for step, score in sorted(self.scores.items())},
        }

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
        asked = causal_model(model)
        answers = generate_greedy_ids(
            asked,
            self._suite.prompts,
            eos_ids=end_tokens(asked, self._tokenizer),
            max_new_tokens=self._suite.limits,
            batch_size=_BATCH,
        )
        scores = [
            self._suite.score(index, self._tokenizer.decode(answer, skip_special_tokens=True))
            for index, answer in enumerate(answers)
        ]
        cut_off = sum(len(answer) >= limit for answer, limit in zip(answers, self._suite.limits, strict=True))
        self.seconds += time.monotonic() - began
        step = state.global_step
        # Rounding may let processes on GPUs of two kinds answer differently, and all take the same checkpoint.
        (self.scores[step],) = broadcast_object_list([sum(scores) / len(scores)])
        drift = self._drift(step)
        if drift is not None:
            self.drifts[step] = drift
        if state.is_world_process_zero:
            self._log({"step": step, "task_score": self.scores[step], "task_cut_off": cut_off / len(answers)})

    def _is_within(self, step: int) -> bool:
        return self._bound is None or self.drifts.get(step, 0.0) <= self._bound

    def _pin(self, args: TrainingArguments, state: TrainerState) -> None:
        """The Trainer never deletes what it holds for the best checkpoint."""
        if self.best is not None:
            state.best_metric = self.scores[self.best]
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{self.best}")


def best_checkpoint(
    trainer: SelfAugTrainer,
    run: RunDir,
    data: TrainingData,
    config: TrainConfig,
    monitor: DriftMonitor | None,
    on_progress: Callable[[Progress], None],
) -> BestCheckpoint | None:
    """The choice of a run's best checkpoint, or None where it is not wanted.

    Args:
        trainer, run, data, config: of the run.
        monitor: whose drift `selfaug.stop_at_drift` bounds.
        on_progress: called with each score.

    Raises:
        ConfigError: if the model's weights are not whole on any process.
    """
    if config.train.best_of_rows == 0:
        return None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError("train.best_of_rows can't be kept: the model is sharded.", hint="leave it out.")
    suite = task_prompts(
        config,
        data.tokenizer,
        config.data.eval,
        score=named_scorer(config.train.best_scorer),
        items=config.train.best_of_rows,
        max_new_tokens=None,
        day=data.day,
    )
    if suite.warning is not None:
        on_progress(Progress("warning", message=suite.warning))

    def log(found: dict[str, Any]) -> None:
        append_line(run.metrics, found)
        told = f"score on {len(suite.ids)} held-out rows at step {found['step']}: {found['task_score']:.3f}"
        if cut_off := round(found["task_cut_off"] * len(suite.ids)):
            told += (
                f" ({counted(cut_off, 'answer was', 'answers were')} cut off at {max(suite.limits):,} tokens)"
            )
        on_progress(Progress("score", message=told))

    def drift(step: int) -> float | None:
        return None if monitor is None else monitor.drift(step)

    scored = read_lines(run.metrics) if run.metrics.exists() else []
    return BestCheckpoint(suite, data.tokenizer, scored, drift, config.selfaug.stop_at_drift, log)


def take_best(trainer: SelfAugTrainer, run: RunDir, best: BestCheckpoint) -> str:
    """Put the best checkpoint's adapter into the model; what to tell about it."""
    last = trainer.state.global_step
    chosen = best.chosen(last)
    if chosen is None:
        return f"no checkpoint is within selfaug.stop_at_drift: the last one, step {last}, is kept."
    if chosen != best.best:
        return f"all checkpoints have the same score, {best.scores[last]:.3f}: the last one, step {last}, is kept."
    if chosen != last:
        load_adapter_weights(trainer.model, run.checkpoints / f"checkpoint-{chosen}")
        # What was evaluated last were the last weights.
        trainer.state.log_history = [logs for logs in trainer.state.log_history if "eval_nll" not in logs]
    return f"the best checkpoint is that of step {chosen}, with a score of {best.scores[chosen]:.3f}."


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
