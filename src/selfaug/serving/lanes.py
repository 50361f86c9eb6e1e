"""Models that answer, and which of them share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from selfaug.model.running_batch import RunningBatch
from selfaug.serving.generation import BASE, Model

__all__ = ["Lane", "lanes_of", "rows_can_mix"]


class Lane:
    """A batch of requests to one model in memory.

    Args:
        model: with its adapter, if it has one.
        serves: which of the two models its rows may be of: both where the adapter can be off for some rows.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, serves: Sequence[Model]) -> None:
        self.serves = frozenset(serves)
        self._model = model
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

    def use_adapter(self, adapter: str) -> None:
        """Have another of the model's adapters on for rows of the tuned model, from now on. There are no rows now."""
        assert not self._of
        if self._adapter is not None:
            self._model.set_adapter(adapter, inference_mode=True)
            self._adapter = adapter

    def join(self, prompts: Sequence[Sequence[int]], models: Sequence[Model]) -> Tensor:
        """Logits [prompts, vocabulary] of the first token of each answer."""
        with self._adapter_for(models) as arguments:
            logits_NV = self._batch.join(prompts, **arguments)
        self._of += models
        return logits_NV

    def step(self, token_ids: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after these tokens [rows]."""
        with self._adapter_for(self._of) as arguments:
            return self._batch.step(token_ids, **arguments)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""
        self._batch.keep(rows)
        self._of = [self._of[row] for row in rows]

    def clear(self) -> None:
        """All rows are gone."""
        self.keep([])

    def _adapter_for(self, models: Sequence[Model]) -> Any:
        """Runs with the adapter on for the tuned rows only; gives the further arguments of the forward."""
        if self._adapter is None or BASE not in models:
            return nullcontext({})
        if len(set(models)) == 1:
            return _Off(self._model)
        names = ["__base__" if model == BASE else self._adapter for model in models]
        return nullcontext({"adapter_names": names})


class _Off:
    """The adapter is off within."""

    def __init__(self, model: Any) -> None:
        self._off = model.disable_adapter()

    def __enter__(self) -> dict[str, Any]:
        self._off.__enter__()
        return {}

    def __exit__(self, *error: Any) -> None:
        self._off.__exit__(*error)


def lanes_of(tuned: PreTrainedModel | PeftModel, base: PreTrainedModel | None) -> list[Lane]:
    """One lane for both models where rows of both can share a batch, else one for each.

    Args:
        tuned: the tuned model.
        base: the base model; None: the tuned model with its adapter off.
    """
    if base is not None:
        return [Lane(base, ["base"]), Lane(tuned, ["tuned"])]
    if isinstance(tuned, PeftModel) and rows_can_mix(tuned, tuned.active_adapter):
        return [Lane(tuned, ["base", "tuned"])]
    return [Lane(tuned, ["base"]), Lane(tuned, ["tuned"])]


def rows_can_mix(model: PeftModel, adapter: str) -> bool:
    """Whether peft can have the adapter on for some rows: plain LoRA without trained copies of whole modules."""
    config = model.peft_config[adapter]
    return (
        config.peft_type == "LORA"
        and not getattr(config, "use_dora", False)
        and not getattr(config, "modules_to_save", None)
    )
