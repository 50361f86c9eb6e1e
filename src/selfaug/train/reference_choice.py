"""Which reference a training is aligned to, chosen while the model is whole and untrained."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import IterableDataset
from peft import PeftModel

from selfaug.core.alignment import OutputHead
from selfaug.core.positions import IGNORED
from selfaug.errors import ConfigError, ModelError
from selfaug.model.adapters import changes_nothing_yet, why_base_changes_when_made, why_not_exact
from selfaug.model.cache import PASSES_THAT_PAY, SECONDS_UNTIL_SEEN, Document, ReferenceCache
from selfaug.model.disk_room import has_room
from selfaug.model.fingerprint import fingerprint
from selfaug.model.hidden import causal_model
from selfaug.model.reference import (
    AdapterOff,
    FrozenCopy,
    Reference,
    adapter_change,
    copy_of_trained_head,
    require_whole_base,
)
from selfaug.train.dataset_rows import count_row_tokens, documents
from selfaug.train.selfaug_config import SelfAugConfig

__all__ = [
    "AlignedRows",
    "ChosenReference",
    "choose_reference",
    "require_cacheable",
    "require_rows_to_draw",
    "require_shared_folder",
    "require_untouched_base",
    "warn_of_trained_adapter",
    "why_rows_depend_on_their_batch",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignedRows:
    """All that is aligned to the reference, and that a cache of it has to hold.

    Attributes:
        train: prepared rows.
        evals: prepared rows of each evaluation.
        anchors: token ids of each.
    """

    train: Any
    evals: list[Any]
    anchors: list[list[int]]

    def has_stream(self) -> bool:
        """Whether some rows are only seen as they come, and may never end."""
        return any(isinstance(rows, IterableDataset) for rows in (self.train, *self.evals))

    def documents(self) -> Iterator[Document]:
        """The documents of all rows, and the anchors."""
        for part in self.parts():
            yield from part

    def parts(self) -> Iterator[Iterator[Document]]:
        """The documents of each data set, and the anchors: runs with other anchors share what they have of the rows."""
        for rows in (self.train, *self.evals):
            yield documents(rows)
        yield (Document(ids, [IGNORED] * len(ids)) for ids in self.anchors)

    def lengths(self) -> Iterator[int]:
        """Tokens of each document."""
        return (len(document.input_ids) for document in self.documents())

    def tokens(self) -> int:
        """Tokens of all documents."""
        rows = sum(count_row_tokens(rows) for rows in (self.train, *self.evals))
        return rows + sum(map(len, self.anchors))


@dataclass(frozen=True)
class ChosenReference:
    """What `choose_reference` gives.

    Attributes:
        kind: "adapter_off", "frozen_copy" or "cache".
        reference: None with a cache, which has to be built first.
        cache: None without one.
        own_head: with a cache, a copy of the head if it trains.
    """

    kind: str
    reference: Reference | None
    cache: ReferenceCache | None = None
    own_head: OutputHead | None = None


def choose_reference(
    model: Any,
    args: SelfAugConfig,
    aligned: AlignedRows,
    *,
    compute_dtype: torch.dtype | None,
    is_sharded: bool,
    own_collator: bool = False,
    chosen: str | None = None,
) -> ChosenReference:
    """The reference that `args` ask for. Frozen copies and fingerprints are taken here; all processes take part.

    Args:
        model: before training, and before it is wrapped.
        args: the settings; "auto" takes the cache where it pays, and else what needs the least memory. Of shards
            without an adapter, it takes the cache wherever there can be one.
        aligned: what a cache will have to hold.
        compute_dtype: of autocast; None without.
        is_sharded: whether FSDP or DeepSpeed will cut the model into shards.
        own_collator: whether the user's collator makes the batches: of other documents than the rows', for all that
            is known.
        chosen: what "auto" has come to before; None for a choice of its own.

    Raises:
        ConfigError: if what is asked for can't be with this model, these rows or shards.
        StorageError: if a cache has no room, or can't be written.
        ModelError: if the model's adapter can't be switched off, or a copy would not be the base model.
    """
    reason = why_not_exact(model) if isinstance(model, PeftModel) else "the model has no adapter"
    kind = args.reference
    if kind == "auto" and chosen is not None:
        kind = chosen
    elif kind == "auto":
        takes_cache = not own_collator and _takes_cache(
            model, args, aligned, compute_dtype, reason, is_sharded=is_sharded
        )
        kind = "cache" if takes_cache else "frozen_copy" if reason else "adapter_off"
    if kind == "adapter_off":
        if not isinstance(model, PeftModel):
            raise ConfigError(
                "reference='adapter_off' needs an adapter, and the whole model trains.",
                hint="pass a peft_config, or use reference='frozen_copy' or 'cache'.",
            )
        return ChosenReference(kind, AdapterOff(model))
    if kind == "frozen_copy":
        if is_sharded:
            raise ConfigError(
                "reference='frozen_copy' keeps a whole second model on each device, which sharding wants to avoid.",
                hint=f"use LoRA with reference='adapter_off'; or {_cache_instead(model, aligned)}.",
            )
        return ChosenReference(kind, FrozenCopy(model))
    other = "adapter_off" if not reason else None if is_sharded else "frozen_copy"
    if aligned.has_stream():
        raise ConfigError(
            "reference='cache' needs a data set of known length, not an IterableDataset: to train on, and to evaluate "
            "on.",
            hint="make it a datasets.Dataset, or use " + (f"reference='{other}'." if other else "LoRA."),
        )
    if reason and isinstance(model, PeftModel):
        raise ConfigError(
            f"reference='cache' needs the adapter to be switched off exactly: {reason}.",
            hint="use plain LoRA." if is_sharded else "use reference='frozen_copy', or plain LoRA.",
        )
    require_cacheable(causal_model(model).config, aligned.lengths(), other=other, begun=chosen is not None)
    cache = ReferenceCache.open(
        args.reference_cache_dir,
        model,
        compute_dtype=compute_dtype,
        identity=_fingerprint(model, compute_dtype),
    )
    cache.require_room(aligned.documents(), aligned.tokens())
    return ChosenReference(kind, None, cache, copy_of_trained_head(model, args.device))


def require_untouched_base(model: PeftModel) -> None:
    """Refuse a model whose adapter changed base weights when it was made, somewhere else.

    Both together are the base model only while the adapter is new, and one that is trained looks the same. Of repeated
    layers it can be seen.

    Args:
        model: as it is handed to the trainer.

    Raises:
        ModelError: with the way to have the trainer make the adapter, or what to use instead.
    """
    require_whole_base(model)
    reason = why_base_changes_when_made(model)
    repeats = any(getattr(config, "layer_replication", None) for config in model.peft_config.values())
    if reason is None or (repeats and changes_nothing_yet(model)):
        return
    raise ModelError(
        f"the model comes with its adapter, and {reason}: the reference model is only in it if the adapter is new, "
        + ("and this one is not." if repeats else "which can't be seen."),
        hint="pass the base model, and peft_config=…: the trainer makes the adapter."
        # Repeated layers share their weights: what is merged into one would be in the others too.
        + (
            ""
            if repeats
            else " One that is trained already, merge into its model (merge_and_unload), which is the reference then, "
            "and begin a new LoRA; in a loop of your own, pass reference=FrozenModel(base)."
        ),
    )


def warn_of_trained_adapter(model: PeftModel) -> None:
    """Say so where the model with its adapter is another than the reference, the one without, from the beginning.

    PEFT's recipes for quantised PiSSA and LoftQ begin with an adapter that holds a part of the base model, and whose
    config says nothing of it.

    Args:
        model: as it is handed to the trainer, on its device; its adapter can be switched off.
    """
    difference, allowed = adapter_change(model)
    if difference > allowed:
        logger.warning(
            "the adapter changes the model already (hidden states by %.2g of their size), and the reference is the "
            "model without it. If that is what you train on from, adapter_is_trained=True says so; if the adapter "
            "holds a part of the base model (quantised PiSSA, LoftQ), the reference is wrong: use plain LoRA on the "
            "4-bit base",
            difference,
        )


def _cache_instead(model: Any, aligned: AlignedRows) -> str:
    """How to come to a cache, as the words of a hint."""
    if aligned.has_stream():
        return "reference='cache', on data sets of known length"
    depends = why_rows_depend_on_their_batch(causal_model(model).config, aligned.lengths())
    return f"leave out longer rows for reference='cache': {depends}" if depends else "reference='cache'"


def require_cacheable(config: Any, lengths: Iterable[int], *, other: str | None, begun: bool = False) -> None:
    """Refuse a reference cache of a model whose hidden states of a row depend on the rows beside it.

    Args:
        config: of the model.
        lengths: tokens of each document.
        other: the reference that is to be taken instead; None where there is no other.
        begun: whether the run has the cache already, from before this was known.

    Raises:
        ConfigError: if they do.
    """
    if depends := why_rows_depend_on_their_batch(config, lengths):
        instead = (
            f"use reference='{other}' or 'auto', or leave out longer rows."
            if other
            else "leave longer rows out."
        )
        raise ConfigError(
            f"reference='cache' would hold hidden states of another model than the one that trains: {depends}.",
            hint="begin a new run: this one was aligned to such states." if begun else instead,
        )


def require_rows_to_draw(aligned: AlignedRows, config: Any, *, are_packed: bool, with_anchors: bool) -> None:
    """Refuse `row_fraction` where what is left out of a batch changes what is in it.

    Args:
        aligned: the rows.
        config: of the model.
        are_packed: whether rows are packed or padding-free.
        with_anchors: whether anchors are among the rows of a batch.

    Raises:
        ConfigError: if it does.
    """
    if with_anchors:
        raise ConfigError(
            "row_fraction would draw anchors too: they are among the rows of a batch with DeepSpeed, and of a stream "
            "that several processes share.",
            hint="leave row_fraction at 1, or anchors at 'none'.",
        )
    if not are_packed or aligned.has_stream():
        return
    if depends := why_rows_depend_on_their_batch(config, aligned.lengths()):
        raise ConfigError(
            f"row_fraction with packed or padding-free rows would align to another model: {depends}.",
            hint="leave row_fraction at 1, or leave packing and padding_free out.",
        )


def why_rows_depend_on_their_batch(config: Any, lengths: Iterable[int]) -> str | None:
    """Why hidden states of a row depend on the rows that it is batched with, so that no cache can hold them.

    Rotary embeddings of the kinds "longrope" (Phi-3 and Phi-4-mini with 128k) and "dynamic" choose the frequencies of
    a whole batch by its longest row, as transformers computes them.

    Args:
        config: of the model.
        lengths: tokens of each document; only looked at with such a model.

    Returns:
        The reason, or None where a row's hidden states are its own.
    """
    limits = _rope_limits(config.get_text_config())
    if not limits:
        return None
    kind, limit = min(limits, key=lambda found: found[1])
    longest = max(lengths, default=0)
    if longest <= limit:
        return None
    return (
        f"the model's rotary embedding ({kind}) changes for a whole batch once a row has over {limit:,} tokens, and "
        f"the longest has {longest:,}"
    )


def _rope_limits(text_config: Any) -> list[tuple[str, int]]:
    """Kind of each rotary embedding that goes by the longest row of a batch, and the tokens from which on it does."""
    parameters = getattr(text_config, "rope_parameters", None) or {}
    limits = []
    # Some models have one for each type of layer.
    for one in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        kind = one.get("rope_type") or "default"
        if kind == "longrope":
            limit = one.get("original_max_position_embeddings") or text_config.max_position_embeddings
            limits.append((kind, int(limit)))
        elif "dynamic" in kind:
            limits.append((kind, int(text_config.max_position_embeddings)))
    return limits


def _fingerprint(model: Any, compute_dtype: torch.dtype | None) -> dict[str, str]:
    """Of the reference model. All processes take part."""
    # Every process has read the same weights, but only the first may hold them (FSDP loads lazily).
    identity = [fingerprint(model, compute_dtype=compute_dtype)]
    broadcast_object_list(identity)
    return identity[0]


def _takes_cache(
    model: Any,
    args: SelfAugConfig,
    aligned: AlignedRows,
    compute_dtype: torch.dtype | None,
    not_exact: str | None,
    *,
    is_sharded: bool,
) -> bool:
    """Whether "auto" takes the cache: three or more passes, room on the disk, one machine, and an exact one.

    Shards without an adapter have no other reference.
    """
    if aligned.has_stream() or (not_exact and isinstance(model, PeftModel)):
        return False
    is_only_one = is_sharded and not_exact is not None
    if not is_only_one and _passes(args, len(aligned.train)) < PASSES_THAT_PAY:
        return False
    if why_rows_depend_on_their_batch(causal_model(model).config, aligned.lengths()):
        return False
    if is_only_one:
        return True
    if len(_machines()) > 1:
        return False
    # A whole cache, or what one of this model lacks that is there already.
    width = model.config.get_text_config().hidden_size
    fits = [
        has_room(count_row_tokens(aligned.train) * width * model.dtype.itemsize, args.reference_cache_dir)
    ]
    broadcast_object_list(fits)  # all processes go the same way: they take the fingerprint together
    return fits[0] or _is_there_with_room(model, args.reference_cache_dir, aligned, compute_dtype)


def require_shared_folder(cache: ReferenceCache, documents: list[Document], *, is_sharded: bool) -> None:
    """Refuse to compute what a cache lacks by machines that have a folder each; all processes take part.

    Each would lack what the others compute.

    Args:
        cache: of this training.
        documents: all that it has to hold.
        is_sharded: whether FSDP or DeepSpeed has the model, which leaves no room for a frozen copy.

    Raises:
        ConfigError: on all processes, if they are on several machines that don't see the same files there, and one of
            them lacks something.
    """
    machines = _machines()
    if len(machines) == 1 or not any(_from_all(bool(cache.missing(documents)))) or _is_shared(cache.folder):
        return
    other = "LoRA, with reference='adapter_off'"
    if not is_sharded:
        other = "another reference: 'adapter_off' with an adapter, 'frozen_copy' without"
    raise ConfigError(
        f"the reference cache lacks rows, and {cache.folder} is not the same folder on all machines "
        f"({', '.join(machines)}): each would lack what the others compute.",
        hint=f"give a folder that all of them share as reference_cache_dir, or use {other}.",
    )


def _is_shared(folder: Path) -> bool:
    """Whether all processes see what the first one writes there; all take part."""
    name = [f".meeting-{secrets.token_hex(8)}"]
    broadcast_object_list(name)
    file = folder / name[0]
    is_first = PartialState().is_main_process
    if is_first:
        file.touch()
    until = time.monotonic() + SECONDS_UNTIL_SEEN
    while not (seen := name[0] in os.listdir(folder)) and time.monotonic() < until:
        time.sleep(1.0)
    shared = all(_from_all(seen))
    if is_first:
        file.unlink(missing_ok=True)
    return shared


def _machines() -> list[str]:
    """Names of those that the processes run on; all processes take part."""
    return sorted(set(_from_all(socket.gethostname())))


def _from_all(value: Any) -> list[Any]:
    """What each process calls this with, for all of them."""
    # accelerate gathers nothing on a TPU, of one process either.
    found: list[Any] = gather_object([value]) if PartialState().num_processes > 1 else [value]
    return found


def _passes(args: SelfAugConfig, rows: int) -> float:
    """How often the reference model would go over the rows without a cache."""
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    passes = args.num_train_epochs if args.max_steps <= 0 else args.max_steps * per_step / rows
    return float(passes * args.row_fraction)


def _is_there_with_room(
    model: Any,
    folder: str | os.PathLike[str] | None,
    aligned: AlignedRows,
    compute_dtype: torch.dtype | None,
) -> bool:
    """Whether a cache of this model is there already, and what it lacks has room on the disk."""
    # Of other weights too, at first: hashing them takes long.
    like = {"class": type(causal_model(model)).__name__}
    there = [
        [
            cache.identity
            for cache in ReferenceCache.existing(folder, like)
            if has_room(cache.bytes_to_write(aligned.documents()), folder)
        ]
    ]
    broadcast_object_list(there)
    return bool(there[0]) and _fingerprint(model, compute_dtype) in there[0]
