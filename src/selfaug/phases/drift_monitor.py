"""Drift while training: on a few general prompts, with the base model's own answers, at every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from selfaug.config import TrainConfig
from selfaug.core.alignment import OutputHead
from selfaug.core.positions import Positions
from selfaug.errors import ConfigError
from selfaug.eval.drift import Drift, measure_drift
from selfaug.eval.general_suite import general_suite, spread_over_kinds
from selfaug.model.generate import chat_prompt_ids, end_tokens, generate_greedy_ids
from selfaug.model.head import find_head
from selfaug.model.hidden import causal_model, hidden_states, reference_mode
from selfaug.model.reference import Remembered, copy_of_trained_head
from selfaug.phases.inputs import TrainingData
from selfaug.phases.progress import Progress
from selfaug.records import append_line, read_lines, write_lines
from selfaug.rundir import RunDir
from selfaug.train import SelfAugTrainer

__all__ = ["DriftMonitor", "drift_monitor", "monitored_texts"]

_ANSWER_TOKENS = 48
_MEASURED = ("step", "general_drift", "general_top1_agreement")


def monitored_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    template_arguments: Mapping[str, Any],
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[list[int], int]]:
    """General prompts with the base model's own answers, as token ids, and where each answer begins.

    Development items: what is stopped by them is chosen on them.

    Args:
        model: before training; its adapter is off, which may be one that training goes on from.
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
    asked = causal_model(model)
    with reference_mode(model):
        answers = generate_greedy_ids(
            asked,
            prompts,
            eos_ids=end_tokens(asked, tokenizer),
            max_new_tokens=_ANSWER_TOKENS,
            on_progress=on_progress,
        )
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True) if answer]


class _BaseModel:
    """The model before training, without its adapter, as the reference: asked once, and remembered.

    Without it, since an adapter that training goes on from has moved the model already.

    Attributes:
        trained: whether training may have changed the model: nobody can ask it as it was then.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own_head = copy_of_trained_head(model)
        self.trained = False

    def head(self, model: nn.Module) -> OutputHead:
        return self._own_head or find_head(model, reference=True)

    def hidden(self, model: nn.Module, inputs: dict[str, Any], positions: Positions) -> Tensor:
        if self.trained:  # drift against the tuned model would be 0
            raise RuntimeError("drift was asked for on a text that the base model had not seen.")
        with reference_mode(model):
            hidden_BTH, _ = hidden_states(model, inputs)
            return hidden_BTH.flatten(0, 1)[positions.aligned_order]


class DriftMonitor(TrainerCallback):  # type: ignore[misc]
    """Measures drift whenever a checkpoint has been saved, and ends training beyond a limit.

    Args:
        model: before training: what it expects now, with its adapter off, is what it will be measured against.
        texts: from `monitored_texts`.
        stop_at: nats per token; training ends at the first checkpoint beyond. None never ends it.
        measured: lines of an interrupted run's metrics with `step` and `general_drift`.
        log: called with what was measured.
        autocast: gives what products are computed in, the same before training as at checkpoints.

    Attributes:
        measured: step, nats per token and top-1 agreement at each checkpoint, those before a resumption too.
        seconds: that measuring took since then.
    """

    def __init__(
        self,
        model: nn.Module,
        texts: Sequence[tuple[list[int], int]],
        stop_at: float | None,
        measured: Sequence[Mapping[str, Any]],
        log: Callable[[dict[str, Any]], None],
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._texts, self._stop_at, self._log, self._autocast = texts, stop_at, log, autocast
        # Of a model that had diverged it is there without a number.
        self.measured = [
            {name: line[name] for name in _MEASURED}
            for line in measured
            if line.get("general_drift") is not None
        ]
        began = time.monotonic()
        base = _BaseModel(model)
        self._reference = Remembered(base)
        self._drift(model)
        base.trained = True
        self._first_seconds = self.seconds = time.monotonic() - began

    @property
    def stopped(self) -> bool:
        """Whether the last checkpoint's drift is beyond the limit, which ends training."""
        if self._stop_at is None or not self.measured:
            return False
        return not self.measured[-1]["general_drift"] <= self._stop_at  # beyond it is what is no number, too

    def drift(self, step: int) -> float | None:
        """Nats per token at a checkpoint, or None where it was not measured."""
        found = (one["general_drift"] for one in self.measured if one["step"] == step)
        return next(map(float, found), None)

    def why_stopped(self, state: TrainerState) -> str:
        """For the user."""
        return (
            f"stopped at step {state.global_step} of {state.max_steps}: drift on general prompts is "
            f"{self.measured[-1]['general_drift']:.4f} nats per token, beyond selfaug.stop_at_drift {self._stop_at:g}."
        )

    def report(self, training_seconds: float) -> dict[str, Any]:
        """For the run's record.

        Args:
            training_seconds: of this process since its first step, measuring at checkpoints included.
        """
        return {
            "seconds": self.seconds,
            # The base model was measured before the first step.
            "share_of_time": self.seconds / (self._first_seconds + training_seconds),
            "stopped": self.stopped,
            "checkpoints": self.measured,
        }

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Measure; ask the Trainer to stop if that is too much."""
        if model is not None:
            self.measure(model, state)
        if self.stopped:
            control.should_training_stop = True

    def measure(self, model: nn.Module, state: TrainerState) -> None:
        """Measure the model as it is, and log it as that of the state's step."""
        began = time.monotonic()
        drift = self._drift(model)
        self.seconds += time.monotonic() - began
        # Processes on GPUs of two kinds differ by rounding, and must stop after the same step: the first one's counts.
        (measured,) = broadcast_object_list([(drift.mean, drift.top1_agreement)])
        found = dict(zip(_MEASURED, (state.global_step, *measured), strict=True))
        self.measured.append(found)
        if state.is_world_process_zero:
            self._log(found)

    def _drift(self, model: nn.Module) -> Drift:
        with self._autocast():
            return measure_drift(
                model,
                [ids for ids, _ in self._texts],
                starts=[start for _, start in self._texts],
                reference=self._reference,
            )


def drift_monitor(
    trainer: SelfAugTrainer,
    run: RunDir,
    data: TrainingData,
    config: TrainConfig,
    on_progress: Callable[[Progress], None],
) -> DriftMonitor | None:
    """The monitor of a run, or None where it is not wanted or can't measure.

    Raises:
        ConfigError: if it can't measure what `selfaug.stop_at_drift` goes by.
    """
    count, stop_at = config.selfaug.monitor_prompts, config.selfaug.stop_at_drift
    if count == 0:
        return None
    why = ""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        why = "the model is sharded"
    elif data.tokenizer.chat_template is None:
        why = "the tokeniser has no chat template to ask general prompts with"
    if why:
        if stop_at is not None:
            raise ConfigError(f"selfaug.stop_at_drift can't be kept: {why}.", hint="leave it out.")
        return None
    texts = _texts_of_run(trainer, run, data, config, on_progress)
    if not texts:  # a model without words
        return None
    measured = read_lines(run.metrics) if run.metrics.exists() else []

    def log(found: dict[str, Any]) -> None:
        # Not by the Trainer's own log, which would end the window that its metrics are averaged over.
        append_line(run.metrics, found)
        told = (
            f"drift on general prompts at step {found['step']}: {found['general_drift']:.4f} nats per token"
        )
        on_progress(Progress("drift", message=told))

    return DriftMonitor(trainer.model, texts, stop_at, measured, log, autocast=trainer.accelerator.autocast)


def _texts_of_run(
    trainer: SelfAugTrainer,
    run: RunDir,
    data: TrainingData,
    config: TrainConfig,
    on_progress: Callable[[Progress], None],
) -> list[tuple[list[int], int]]:
    """General prompts with answers: those that the run has, if it goes on, else new ones, which it keeps."""
    if run.general_answers.exists():
        return [(line["input_ids"], line["answer_from"]) for line in read_lines(run.general_answers)]
    texts = monitored_texts(
        trainer.model,
        data.tokenizer,
        config.selfaug.monitor_prompts,
        config.data.chat_template_kwargs,
        lambda done, total: on_progress(Progress("general prompts for drift", done, total)),
    )
    if trainer.is_world_process_zero():
        write_lines(
            run.general_answers,
            [
                {"text": data.tokenizer.decode(ids), "input_ids": ids, "answer_from": start}
                for ids, start in texts
            ],
        )
    return texts
