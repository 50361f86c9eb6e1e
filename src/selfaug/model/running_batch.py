"""Decoding several prompts together, where prompts may join and leave while the others go on."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

from selfaug.errors import ModelError

__all__ = [
    "NoRoomError",
    "RunningBatch",
    "forward_options",
    "has_recurrent_states",
    "left_padded",
    "require_generation",
    "rows_can_join",
]

# Tokens that the key-value cache has room for beyond those it holds, whenever it must be copied to grow.
_ROOM = 64


class NoRoomError(torch.OutOfMemoryError):
    """A GPU's memory doesn't suffice for prompts that were to join a batch, or for its rows' next tokens: the rows are
    as they were."""


class RunningBatch:
    """Rows of a key-value cache, padded on the left so that every row's next token is at the same place.

    The caller holds the model in evaluation mode and without gradients.

    Args:
        model: a causal model.

    Raises:
        ModelError: if padding would change what the model computes.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._options = forward_options(model)
        self._cache_name = _cache_name(model)
        self._forget()

    def _forget(self) -> None:
        self._cache: Any = None
        self._mask = self._positions = torch.empty(0, 0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self._mask)

    @property
    def width(self) -> int:
        """Tokens of the longest row, padding included."""
        return self._mask.shape[1]

    @property
    def open(self) -> bool:
        """Whether prompts can join: always when it is empty, later only where all layers of the cache are plain.

        Sliding windows, recurrent states and the like know their own rows only; there a batch ends first.
        """
        return self._cache is None or (
            type(self._cache) is DynamicCache
            and all(type(layer) is _RoomyLayer for layer in self._cache.layers)
        )

    def join(self, prompts: Sequence[Sequence[int]], **arguments: Any) -> Tensor:
        """Run prompts and take them in as the last rows.

        Args:
            prompts: token ids of each.
            arguments: of the model's forward, beyond ids, mask, positions and cache.

        Returns:
            Logits [prompts, vocabulary] of the token that follows each.

        Raises:
            ValueError: if the batch isn't open.
            ModelError: if the model gives no cache.
            NoRoomError: if a GPU's memory doesn't suffice to run them, or to hold them beside the others.
        """
        if not self.open:
            raise ValueError("rows can't join a cache that has other layers than plain ones")
        token_ids, mask, positions = left_padded(prompts, self._model.device)
        try:
            output = self._forward(token_ids, mask, positions, None, arguments)
        except torch.OutOfMemoryError as error:
            raise NoRoomError(str(error)) from error
        cache = getattr(output, self._cache_name, None)
        if cache is None:
            raise _can_not_generate(self._model, "its output has no cache for the next token to go on from")
        if self._cache is None:
            self._cache, self._mask = cache, mask
            self._positions = positions[:, -1:]
            _make_room(cache)
        else:
            width = max(self.width, mask.shape[1])
            self._take_in(cache, width)
            self._mask = torch.cat([_padded(self._mask, width), _padded(mask, width)])
            self._positions = torch.cat([self._positions, positions[:, -1:]])
        return self._last(output)

    def _take_in(self, cache: Any, width: int) -> None:
        """Rows of another cache into all layers, or into none. All rows are as long as the longest prompt then."""
        layers, taken, problem = self._cache.layers, 0, ""
        try:
            # One by one: each layer's rows are held twice for as long as it takes, not those of all.
            for layer, joining in zip(layers, cache.layers, strict=True):
                layer.take_in(joining, width)
                taken += 1
        except torch.OutOfMemoryError as error:
            problem = str(error)
        if taken < len(layers):  # after the error, which keeps what the layer that failed has made
            for layer in layers[:taken]:
                layer.give_back(len(self), self.width)
            raise NoRoomError(problem)

    def step(self, token_ids: Tensor, *, over: Sequence[int] = (), **arguments: Any) -> Tensor:
        """Run the next token [rows] of every row; logits [rows, vocabulary] of the one after it.

        Args:
            token_ids: of each row.
            over: rows that are as long as they may be, and only carried along until they are taken out: they stay at
                their last position, for the next one may be beyond the model's window.
            arguments: as for `join`.

        Raises:
            NoRoomError: if a GPU's memory doesn't suffice, and all layers of the cache are plain. Others can't take a
                token back: there, it is torch's own error.
        """
        try:
            mask = torch.cat([self._mask, self._mask.new_ones(len(self), 1)], dim=1)
            forward = torch.ones_like(self._positions)
            if over:
                forward[list(over)] = 0
            positions = self._positions + forward
            output = self._forward(token_ids[:, None], mask, positions, self._cache, arguments)
        except torch.OutOfMemoryError as error:
            if not self.open:
                raise
            for layer in self._cache.layers:
                layer.take_back(self.width)
            raise NoRoomError(str(error)) from error
        self._mask, self._positions = mask, positions
        return self._last(output)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order; columns that are padding in all of them go."""
        if not rows:
            self._forget()
            return
        chosen = torch.tensor(rows, device=self._mask.device)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]
        _select_rows(self._cache, chosen)
        padding = int(self._mask.any(0).int().argmax())
        if padding and self.open:
            self._mask = self._mask[:, padding:]
            for layer in self._cache.layers:
                layer.drop_left(padding)

    def _forward(
        self, token_ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, arguments: dict[str, Any]
    ) -> Any:
        options = dict(self._options)
        if "position_ids" in options:
            options["position_ids"] = positions
        options[self._cache_name] = cache
        # States hold no padding, and Mamba would lay the mask of all tokens so far over the next one.
        if cache is None or self._cache_name != _STATES:
            options["attention_mask"] = mask
        return self._model(input_ids=token_ids, use_cache=True, **options, **arguments)

    @staticmethod
    def _last(output: Any) -> Tensor:
        logits: Tensor = output.logits[:, -1]
        return logits


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the key-value cache with room to grow: a token is written into it without copying all before it."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._take(layer.keys, layer.values)

    def _take(self, keys: Tensor, values: Tensor) -> None:
        self._buffers = [
            torch.cat([states, states.new_empty(*states.shape[:2], _ROOM, states.shape[3])], dim=2)
            for states in (keys, values)
        ]
        self._show(0, keys.shape[2])

    def _show(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self.keys, self.values = (buffer[:, :, start:end] for buffer in self._buffers)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The new tokens' states taken in; returns those of all tokens."""
        end = self._end + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._take(
                torch.cat([self.keys, key_states], dim=2), torch.cat([self.values, value_states], dim=2)
            )
        else:
            for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[:, :, self._end : end] = states
            self._show(self._start, end)
        return self.keys, self.values

    def take_back(self, width: int) -> None:
        """Only the first columns are there again, whether the layer has taken a token in beyond them or not."""
        self._show(self._start, self._start + width)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch only: in place, if they are in order, where memory has no room for a copy."""
        rows = indices.tolist()
        try:
            self._take(self.keys[indices], self.values[indices])
            return
        except torch.OutOfMemoryError:
            if rows != sorted(rows):
                raise
        for buffer in self._buffers:
            for place, row in enumerate(rows):
                if place != row:
                    buffer[place] = buffer[row]
        self._buffers = [buffer[: len(rows)] for buffer in self._buffers]
        self._show(self._start, self._end)

    def drop_left(self, columns: int) -> None:
        """The first columns are nobody's any more."""
        self._show(self._start + columns, self._end)

    def take_in(self, layer: DynamicLayer, width: int) -> None:
        """Rows of another cache after its own, all of them padded on the left to `width` columns."""
        rows = len(self.keys)
        buffers = []
        for own, joining in ((self.keys, layer.keys), (self.values, layer.values)):
            # Zeros where there is padding: a masked key counts with weight 0, which 0 x NaN would not be.
            buffer = own.new_zeros(rows + len(joining), own.shape[1], width + _ROOM, own.shape[3])
            buffer[:rows, :, width - own.shape[2] : width] = own
            buffer[rows:, :, width - joining.shape[2] : width] = joining
            buffers.append(buffer)
        self._buffers = buffers
        self._show(0, width)

    def give_back(self, rows: int, width: int) -> None:
        """Only the first rows are there again, of `width` columns, and not the memory of the others where it can be."""
        self._buffers = [buffer[:rows] for buffer in self._buffers]
        self._show(self._end - width, self._end)
        with suppress(torch.OutOfMemoryError):
            self._take(self.keys, self.values)


def rows_can_join(model: PreTrainedModel) -> bool:
    """Whether prompts can join a batch of a model that is not empty, as its settings tell; see `RunningBatch.open`."""
    return all(type(layer) is DynamicLayer for layer in _cache_layers(model))


def has_recurrent_states(model: PreTrainedModel) -> bool:
    """Whether a layer keeps a state instead of keys and values of all tokens, as the model's settings tell.

    Not every such layer goes on from its state with several tokens at once: they must be given one by one.
    """
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in _cache_layers(model))


def _cache_layers(model: PreTrainedModel) -> list[Any]:
    try:
        return list(DynamicCache(config=model.config).layers)
    except (
        AttributeError,
        KeyError,
    ):  # a model with code of its own may have layers that transformers doesn't know
        return []


@torch.no_grad()
def require_generation(model: PreTrainedModel) -> None:
    """Refuse a model in evaluation mode that `RunningBatch` can't decode with; costs a pass of one token.

    Raises:
        ModelError: with the reason.
    """
    RunningBatch(model).join([[0]])


def _can_not_generate(model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"{type(_base(model)).__name__} can't write answers in batches: {why}.",
        hint="take another model. The loss itself needs no generation: `alignment_loss` in a loop of your own.",
    )


_STATES = "cache_params"
"""What Mamba and its kin call their cache, which is states only."""


def _cache_name(model: PreTrainedModel) -> str:
    """Name of the cache, both in what a model's forward takes and in what it gives.

    Raises:
        ModelError: if the cache is of states that padding would get into.
    """
    base = _base(model)
    accepted = inspect.signature(base.forward).parameters
    if _STATES not in accepted or "past_key_values" in accepted:
        return "past_key_values"
    if "attention_mask" not in accepted:
        raise _can_not_generate(model, "it takes no mask, so that padding would get into its states")
    if getattr(base.config, "use_bias", False):
        raise _can_not_generate(model, "a bias is added to masked padding too, and gets into its states")
    return _STATES


def _select_rows(cache: Any, rows: Tensor) -> None:
    layers = getattr(cache, "layers", ())
    if not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
        cache.batch_select_indices(rows)
        return
    for layer in layers:
        # Recurrent states have a method for beam search alone; the other one fails at them, or leaves them out.
        recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
        (layer.reorder_cache if recurrent else layer.batch_select_indices)(rows)


def _make_room(cache: Any) -> None:
    """In plain layers only: sliding windows and other kinds know best how they grow."""
    if type(cache) is DynamicCache:
        cache.layers = [
            _RoomyLayer(layer) if type(layer) is DynamicLayer and layer.is_initialized else layer
            for layer in cache.layers
        ]


def _padded(mask: Tensor, width: int) -> Tensor:
    return torch.cat([mask.new_zeros(len(mask), width - mask.shape[1]), mask], dim=1)


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and positions [N, T] of prompts that all end in the last column."""
    width = max(len(prompt) for prompt in prompts)
    token_ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )
    # Padding must not count: a row's first token is at position 0 wherever it stands in the batch.
    return torch.tensor(token_ids, device=device), mask, (mask.cumsum(-1) - 1).clamp(min=0)


def forward_options(model: PreTrainedModel) -> dict[str, Any]:
    """Arguments that most models take, but not all: those with ALiBi, for one, have no positions."""
    accepted = inspect.signature(_base(model).forward).parameters
    # trl has a mixture's config ask for its router's loss, which does not know of a cache.
    options: dict[str, Any] = {"logits_to_keep": 1, "position_ids": None, "output_router_logits": False}
    return {name: value for name, value in options.items() if name in accepted}


def _base(model: PreTrainedModel) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
