"""Models that answer, and which of them share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from selfaug.model.running_batch import RunningBatch
from selfaug.serving.generation import BASE, TUNED, Model

__all__ = ["AdapterSwitch", "Lane", "lanes_of", "rows_can_mix"]


class Lane:
    """A batch of requests to one model in memory.

    Args:
        model: with its adapter, if it has one.
        serves: which of the two models its rows may be of: both where the adapter can be off for some rows.
        switch: of the model's adapter, which lanes of one model share.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, serves: Sequence[Model], switch: AdapterSwitch
    ) -> None:
        self.serves = frozenset(serves)
        self._model, self._switch = model, switch
        self._adapter = model.active_adapter if isinstance(model, PeftModel) else None
        self._batch = RunningBatch(model)
        self._of: list[Model] = []

    def __len__(self) -> int:
        return len(self._batch)

    @property
    def open(self) -> bool:
        """Whether requests can join now."""
        return self._batch.open

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self._model.device

    def settle(self) -> None:
        """Leave the model with its adapter on, as whatever else uses it expects it."""
        self._switch.on()

    def use_adapter(self, adapter: str) -> None:
        """Have another of the model's adapters on for rows of the tuned model, from now on. There are no rows now."""
        assert not self._of
        if self._adapter is not None:
            self._model.set_adapter(adapter, inference_mode=True)
            self._adapter = adapter

    def join(self, prompts: Sequence[Sequence[int]], models: Sequence[Model]) -> Tensor:
        """Logits [prompts, vocabulary] of the first token of each answer."""
        logits_NV = self._batch.join(prompts, **self._arguments(models))
        self._of += models
        return logits_NV

    def step(self, token_ids: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after these tokens [rows]."""
        return self._batch.step(token_ids, **self._arguments(self._of))

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""
        self._batch.keep(rows)
        self._of = [self._of[row] for row in rows]

    def clear(self) -> None:
        """All rows are gone."""
        self.keep([])

    def _arguments(self, models: Sequence[Model]) -> dict[str, Any]:
        """Further arguments of the forward, with the adapter on for the tuned rows only."""
        if self._adapter is None:
            return {}
        if TUNED not in models:
            self._switch.off()
            return {}
        self._switch.on()
        if BASE not in models:
            return {}
        return {"adapter_names": ["__base__" if model == BASE else self._adapter for model in models]}


class AdapterSwitch:
    """Whether a model's adapter is on. It stays so between tokens: switching takes as long as a small model's step.

    Args:
        model: None, or one without an adapter, has nothing to switch.
    """

    def __init__(self, model: PreTrainedModel | PeftModel | None) -> None:
        self._model = model
        self._off: AbstractContextManager[None] | None = None

    def off(self) -> None:
        """The model is the base model from now on."""
        if self._off is None and isinstance(self._model, PeftModel):
            self._off = self._model.disable_adapter()
            self._off.__enter__()

    def on(self) -> None:
        """The model is the tuned model from now on: before anything else uses it, too."""
        if self._off is not None:
            off, self._off = self._off, None
            off.__exit__(None, None, None)


def lanes_of(tuned: PreTrainedModel | PeftModel, base: PreTrainedModel | None) -> list[Lane]:
    """One lane for both models where rows of both can share a batch, else one for each.

    Args:
        tuned: the tuned model.
        base: the base model; None: the tuned model with its adapter off.
    """
    switch = AdapterSwitch(tuned)
    if base is not None:
        return [Lane(base, ["base"], AdapterSwitch(base)), Lane(tuned, ["tuned"], switch)]
    if isinstance(tuned, PeftModel) and rows_can_mix(tuned, tuned.active_adapter):
        return [Lane(tuned, ["base", "tuned"], switch)]
    return [Lane(tuned, ["base"], switch), Lane(tuned, ["tuned"], switch)]


def rows_can_mix(model: PeftModel, adapter: str) -> bool:
    """Whether peft can have the adapter on for some rows: plain LoRA without trained copies of whole modules."""
    config = model.peft_config[adapter]
    return (
        config.peft_type == "LORA"
        and not getattr(config, "use_dora", False)
        and not getattr(config, "modules_to_save", None)
    )
