"""Models that answer, and which of them share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from selfaug.model.hidden import adapter_off
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
        self._switch.use(adapter)

    def join(self, prompts: Sequence[Sequence[int]], models: Sequence[Model]) -> Tensor:
        """Logits [prompts, vocabulary] of the first token of each answer."""
        self._switch.on_for(models, beside=self._of)
        logits_NV = self._batch.join(prompts)
        self._of += models
        return logits_NV

    def step(self, token_ids: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after these tokens [rows]."""
        self._switch.on_for(self._of)
        return self._batch.step(token_ids)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""
        self._batch.keep(rows)
        self._of = [self._of[row] for row in rows]

    def clear(self) -> None:
        """All rows are gone."""
        self.keep([])


class AdapterSwitch:
    """Whether a model's adapter is on, and for which rows of a batch.

    Switching takes as long as a small model's step, so the adapter stays as it is between tokens. Rows of the base
    model beside rows of the tuned one get nothing added by the adapter: what plain LoRA adds is the output of one
    module a layer, and there it is made zero.

    Args:
        model: None, or one without an adapter, has nothing to switch.
    """

    def __init__(self, model: PreTrainedModel | PeftModel | None) -> None:
        self._model = model if isinstance(model, PeftModel) else None
        self._off: AbstractContextManager[None] | None = None
        self._of: tuple[Model, ...] = ()
        self._of_base = torch.empty(0, dtype=torch.bool)
        self._base_rows: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def off(self) -> None:
        """The model is the base model from now on."""
        if self._off is None and self._model is not None:
            self._off = adapter_off(self._model)
            self._off.__enter__()

    def on(self) -> None:
        """The model is the tuned model from now on: before anything else uses it, too."""
        self._base_rows = None
        if self._off is not None:
            off, self._off = self._off, None
            off.__exit__(None, None, None)

    def on_for(self, models: Sequence[Model], *, beside: Sequence[Model] = ()) -> None:
        """The next forward's rows are of these models.

        Args:
            models: of each row.
            beside: of rows that have their turn soon: not worth switching for.
        """
        if TUNED not in models and TUNED not in beside:
            self.off()
            return
        self.on()
        if self._model is not None and BASE in models:
            if not self._hooks:
                self._hooks = [
                    module.register_forward_hook(self._without_base_rows)
                    for module in _added_by(self._model, self._model.active_adapter)
                ]
            if tuple(models) != self._of:
                self._of = tuple(models)
                self._of_base = torch.tensor([model == BASE for model in models], device=self._model.device)
            self._base_rows = self._of_base

    def use(self, adapter: str) -> None:
        """Another of the model's adapters is the one that is switched, and on now."""
        self.on()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._model is not None:
            self._model.set_adapter(adapter, inference_mode=True)

    def _without_base_rows(self, _: nn.Module, __: Any, added: Tensor) -> Tensor | None:
        if self._base_rows is None:
            return None
        return added.masked_fill_(self._base_rows.view(-1, *[1] * (added.dim() - 1)), 0.0)


def lanes_of(tuned: PreTrainedModel | PeftModel, base: PreTrainedModel | None) -> list[Lane]:
    """One lane for both models where rows of both can share a batch, else one for each.

    Args:
        tuned: the tuned model.
        base: the base model; None: the tuned model with its adapter off.
    """
    switch = AdapterSwitch(tuned)
    if base is not None:
        return [Lane(base, ["base"], AdapterSwitch(base)), Lane(tuned, ["tuned"], switch)]
    if isinstance(tuned, PeftModel) and rows_can_mix(tuned):
        return [Lane(tuned, ["base", "tuned"], switch)]
    return [Lane(tuned, ["base"], switch), Lane(tuned, ["tuned"], switch)]


def rows_can_mix(model: PeftModel) -> bool:
    """Whether the adapter that is on can be on for some rows only: plain LoRA of modules that see a batch row by row.

    Not with trained copies of whole modules, trained embeddings or parameters, or where modules see tokens of all
    rows in one list, as experts do.
    """
    adapter = model.active_adapter
    config = model.peft_config[adapter]
    if config.peft_type != "LORA" or getattr(config, "modules_to_save", None):
        return False
    layers = [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer) and (adapter in module.lora_B or adapter in module.lora_embedding_B)
    ]
    modules = _added_by(model, adapter)
    plain = all(
        adapter not in layer.lora_variant and adapter not in layer.lora_embedding_A for layer in layers
    )
    return plain and len(modules) == len(layers) and _see_rows(model, modules)


def _added_by(model: PeftModel, adapter: str) -> list[nn.Module]:
    """The modules whose outputs are what the adapter adds, before they are scaled."""
    layers = (module for module in model.modules() if isinstance(module, LoraLayer))
    return [layer.lora_B[adapter] for layer in layers if adapter in layer.lora_B]


@torch.no_grad()
def _see_rows(model: PeftModel, modules: Sequence[nn.Module]) -> bool:
    """Whether each of these modules' outputs has a row for each row of a batch."""
    rows, tokens = 2, 3
    shapes: list[torch.Size] = []
    hooks = [module.register_forward_hook(lambda _, __, out: shapes.append(out.shape)) for module in modules]
    try:
        model(input_ids=torch.zeros(rows, tokens, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return len(shapes) == len(modules) and all(shape[:2] == (rows, tokens) for shape in shapes)
