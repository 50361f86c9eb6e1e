"""What a run will need, before it begins: memory, time and disk. Writes nothing."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM
from trl import pack_dataset

from selfaug.config import TrainConfig
from selfaug.core.alignment import default_chunk_rows
from selfaug.core.printable import printable_size
from selfaug.errors import StorageError
from selfaug.model.adapters import fused_outputs
from selfaug.model.cache import PASSES_THAT_PAY, Document, ReferenceCache, has_room
from selfaug.model.loading import load_model_config
from selfaug.phases.doctor import memory
from selfaug.phases.inputs import (
    TrainingData,
    adapter_config,
    load_base_model,
    require_known_tokens,
    require_usable_after_training,
)
from selfaug.phases.training_checks import checked_inputs, is_sharded, require_evaluable
from selfaug.rundir import RunDir
from selfaug.train.reference_choice import require_cacheable, why_rows_depend_on_their_batch

__all__ = ["Estimate", "estimate"]

# A model this small is loaded and timed; the others are only calculated.
_MEASURE_SHARE_OF_MEMORY = 0.3
_SAMPLE_TOKENS = 512

_BYTES_IN_4_BITS = 0.55
"""Of a quantised parameter, its share of the scales included."""


_ANCHOR_TOKENS = 128
"""About as many as a request and its answer have (`train/anchors.py`)."""


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        device: where it will run.
        dtype: of matrix products.
        processes: that the launcher has started; memory is what each of them needs.
        rows: training rows, those that are replayed too.
        tokens: in them, and in the anchors that go with them.
        steps: optimizer steps.
        parameters: of the model.
        trainable: of these, or of the adapter, what is trained.
        weights_bytes: memory of the weights, with a frozen copy if the reference needs one.
        optimizer_bytes: memory of gradients and of Adam's moments.
        activations_bytes: memory of one micro-batch of the longest rows.
        memory_bytes: the sum, and a tenth for what is not counted.
        memory_free_bytes: on the device, or None if not known.
        seconds: of training, or None if it was not measured.
        disk_bytes: of checkpoints and final weights.
        cache_bytes: that a reference cache will grow by, if the settings ask for one.
        disk_free_bytes: at the output folder.
        how: how each number was come by.
        warnings: what won't fit, and what else the user should know.
    """

    device: str
    dtype: str
    processes: int
    rows: int
    tokens: int
    steps: int
    parameters: int
    trainable: int
    weights_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    memory_bytes: int
    memory_free_bytes: int | None
    seconds: float | None
    disk_bytes: int
    cache_bytes: int
    disk_free_bytes: int
    how: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Measured:
    """One forward and backward pass over a sample."""

    seconds_per_token: float
    reference_seconds_per_token: float
    saved_bytes_per_token: float
    tokens: int


def estimate(config: TrainConfig, *, on_stage: Callable[[str], None] = lambda _: None) -> Estimate:
    """Estimate memory, time and disk of a run.

    Raises:
        ConfigError, DataError, ModelError, StorageError: as training would, before it begins; but for an output that
            holds something: nothing is written there, so that is a warning.
    """
    if (trainer := RunDir(config.run.output).trainer()) is not None:
        raise StorageError(
            f"{config.run.output} is being trained by {trainer}.",
            hint="give another --output: that of a new run, which is what is estimated.",
        )
    taken = _taken(config)
    require_evaluable(config)
    on_stage("data")
    device, dtype, data = checked_inputs(config)
    on_stage("model")
    model_config = load_model_config(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=config.run.offline
    )
    text_config = model_config.get_text_config()
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(
            model_config, trust_remote_code=config.model.trust_remote_code
        )
    parameters = sum(weight.numel() for weight in skeleton.parameters())
    full = config.lora.method == "full"
    trainable = parameters if full else _adapter_parameters(skeleton, config)
    osf = _osf_numbers(skeleton, config) if config.lora.method == "osf" else None

    settings = config.train
    checkpointing = settings.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = parameters >= 1_000_000_000
    lengths = _sequence_lengths(data, config)
    rows, tokens = len(data.train.rows), sum(len(row.input_ids) for row in data.train.rows)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = settings.batch_size * settings.gradient_accumulation * processes
    steps = settings.steps or math.ceil(math.ceil(len(lengths) / per_step) * settings.epochs)
    passes = settings.epochs if settings.steps is None else steps * per_step / len(lengths)
    layers, hidden = text_config.num_hidden_layers, text_config.hidden_size
    documents = _documents(data, config)
    there = _cache_there(config, type(skeleton).__name__, hidden, dtype, documents)
    most = tokens * hidden * (4 if full else dtype.itemsize)
    sizes = [len(document.input_ids) for document in documents]
    if config.selfaug.reference == "cache" and config.selfaug.alpha > 0:
        other = "adapter_off" if not full else None if is_sharded() else "frozen_copy"
        require_cacheable(model_config, sizes, other=other)
    depends = why_rows_depend_on_their_batch(model_config, sizes)
    reference = _reference(
        config, 0 if depends else passes, most, there.bytes_to_write(documents) if there else most
    )
    missing = there.missing(documents) if there else documents
    states = sum(document.rows for document in missing)

    how = [f"parameters: counted in the model's structure ({type(skeleton).__name__}), without its weights"]
    if processes > 1:
        how.append(
            f"processes: {processes:,} share the rows; memory is of each, with whole weights (not sharded)"
        )
    width = 4 if full else dtype.itemsize
    quantized = _quantized_parameters(skeleton) if config.model.quantization == "4bit" else 0
    weights = int(quantized * _BYTES_IN_4_BITS + (parameters - quantized) * width)
    each = f"{width} bytes a parameter"
    if quantized:
        each = f"{_BYTES_IN_4_BITS:g} bytes a parameter of linear layers, {width} of embeddings, head and the rest"
    if reference == "frozen_copy":
        weights *= 2
        how.append(f"weights: tuned model and frozen reference model, {each} each")
    elif reference == "adapter_off":
        how.append(f"weights: {each}; the reference is the same weights without the adapter")
    else:
        how.append(f"weights: {each}")
    stored_quantized = getattr(model_config, "quantization_config", None) is not None
    if stored_quantized:
        how.append("weights: the model is stored quantised, and is counted as if it were not: it takes less")
    if osf is not None:
        weights += 4 * (trainable + osf.frozen)
        how.append(
            "weights: beside them, OSF has the singular directions that it trains, their first values, and U or V of "
            "those that it preserves, 4 bytes a number"
        )
    half = dtype is not torch.float32
    if full and half:
        weights += 2 * parameters
        how.append("weights: copies in 16 bits that autocast keeps for a step, 2 bytes a parameter")
    optimizer = trainable * 12
    if config.evaluation.at_end != "none":
        how.append("the evaluation at the end is not counted")
    how.append("optimizer: gradient and two moments of Adam, 4 bytes each a trained parameter")
    if processes > 1:
        optimizer += trainable * 4
        how.append("optimizer: gradients once more, as they are exchanged, 4 bytes a trained parameter")

    free = _free_memory(device)
    measured = None
    if (
        free is None
        or weights * (2 if config.model.quantization == "none" else 1) < free * _MEASURE_SHARE_OF_MEMORY
    ):
        on_stage("measuring")
        measured = _measure(config, data, device, dtype)
    longest = settings.batch_size * max(lengths)
    if settings.packing:
        how.append(
            f"steps: {rows:,} rows are packed into {len(lengths):,} of at most {data.max_length:,} tokens"
        )
    if config.selfaug.anchors != "none":
        tokens += int(config.selfaug.anchor_share * rows * _ANCHOR_TOKENS)
        how.append(
            f"anchors: {config.selfaug.anchor_share:g} a row, counted as {_ANCHOR_TOKENS} tokens each; writing them "
            "is not counted"
        )
    if checkpointing:  # which has one layer's OSF factors at a time
        activations = longest * hidden * dtype.itemsize * (layers + 40)
        how.append(
            "activations: gradient checkpointing keeps one hidden state a layer, and one layer in full, "
            "for a micro-batch of the longest rows"
        )
    elif measured is not None:
        activations = int(longest * measured.saved_bytes_per_token)
        how.append(
            f"activations: bytes kept for the backward pass, measured on {measured.tokens} tokens, "
            "for a micro-batch of the longest rows"
        )
    else:
        activations = longest * hidden * dtype.itemsize * layers * 17
        how.append("activations: 17 hidden states a layer and token, for a micro-batch of the longest rows")
    if osf is not None and not checkpointing:
        activations += 4 * osf.joined
        how.append("activations: OSF joins its factors in each pass, and keeps them for the backward pass")
    vocabulary = text_config.vocab_size
    # Logits, and their logarithms.
    chunk = 2 * 4 * vocabulary * min(longest, default_chunk_rows(device, vocabulary))
    activations += chunk * (2 if reference else 1)
    how.append(
        f"activations: logits of one chunk of positions, of {'both models' if reference else 'the model'}"
    )
    if full:
        # The sum over chunks, and a product or what is handed on of it; for products in 16 bits a copy of the head.
        activations += vocabulary * hidden * (10 if half else 8)
        how.append("activations: gradient of the head, which is made beside the others")
    memory = int((weights + optimizer + activations) * 1.1)

    seconds = None
    if measured is not None:
        shared = tokens / processes
        again = measured.reference_seconds_per_token * shared  # a forward pass over all rows
        seconds = (measured.seconds_per_token * shared + (again if checkpointing else 0)) * passes
        if reference:
            to_build = states / max(1, sum(document.rows for document in documents))
            seconds += again * (to_build if reference == "cache" else passes)
        how.append(
            f"time: one forward and backward pass, and one of the reference model"
            f"{' (once, for the cache)' if reference == 'cache' else ''}, timed on "
            f"{measured.tokens} tokens, for {shared * passes:,.0f} tokens"
            f"{' of each process' if processes > 1 else ''}; saving and evaluating not counted"
        )
    else:
        how.append("time: not measured: the model is too large to load for an estimate")

    disk = trainable * 4 * (3 * (settings.kept_checkpoints + 1) + 1)
    how.append(
        f"disk: {settings.kept_checkpoints + 1} checkpoints (weights and two moments, 4 bytes each), "
        "and the result"
    )
    cache = 0
    if reference == "cache":
        how.append("reference cache: one hidden state a prompt token of all rows, those to evaluate on too")
        if there and len(missing) < len(documents):
            how.append(
                f"reference cache: {there.folder} has {len(documents) - len(missing):,} of {len(documents):,} "
                "different rows already, if its model has these weights, which training compares"
            )
        if config.selfaug.anchors == "self":
            states += config.selfaug.anchor_count * _ANCHOR_TOKENS
            how.append(f"reference cache: {_ANCHOR_TOKENS} of each anchor")
        cache = states * hidden * dtype.itemsize
    folder = next(
        parent for parent in (Path(config.run.output).absolute(), *Path(config.run.output).absolute().parents)
        if parent.exists()
    )  # fmt: skip
    disk_free = shutil.disk_usage(folder).free
    warnings = [*taken, *data.warnings]
    if free is not None and memory > free:
        fewer_bits = config.model.quantization == "none" and not stored_quantized
        warnings.append(
            f"needs {printable_size(memory)} of memory, {printable_size(free)} are free: lower train.batch_size, "
            f"{'' if fewer_bits else 'or '}set train.gradient_checkpointing=true"
            f"{', or model.quantization=4bit' if fewer_bits else ''}."
        )
    if disk + cache > disk_free:
        warnings.append(
            f"needs {printable_size(disk + cache)} of disk, {printable_size(disk_free)} are free."
        )
    return Estimate(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        processes=processes,
        rows=rows,
        tokens=tokens,
        steps=steps,
        parameters=parameters,
        trainable=trainable,
        weights_bytes=weights,
        optimizer_bytes=optimizer,
        activations_bytes=activations,
        memory_bytes=memory,
        memory_free_bytes=free,
        seconds=seconds,
        disk_bytes=disk,
        cache_bytes=cache,
        disk_free_bytes=disk_free,
        how=how,
        warnings=warnings,
    )


def _taken(config: TrainConfig) -> list[str]:
    """A warning where training would refuse its output for what is in there.

    Raises:
        StorageError: if nothing can be written there.
    """
    RunDir(config.run.output).require_writable()
    try:
        RunDir.require_free(config.run.output, overwrite=config.run.overwrite)
    except StorageError as error:
        return [f"training would refuse: {error.message} To train, {error.hint}"]
    return []


def _reference(config: TrainConfig, passes: float, most: int, missing: int) -> str | None:
    """Where the reference model will come from, as the trainer decides; None without alignment.

    Args:
        config: the settings.
        passes: over the rows for which a cache would do; 0 where none can hold them.
        most: bytes of a whole cache.
        missing: bytes that one that is there already would grow by.
    """
    settings = config.selfaug
    if settings.alpha == 0:
        return None
    if settings.reference != "auto":
        return settings.reference
    if passes and is_sharded() and config.lora.method == "full":
        return "cache"  # the trainer refuses a frozen copy there, and there is no adapter to switch off
    if passes >= PASSES_THAT_PAY and has_room(min(most, missing), settings.reference_cache_dir):
        return "cache"
    return "frozen_copy" if config.lora.method == "full" else "adapter_off"


def _sequence_lengths(data: TrainingData, config: TrainConfig) -> list[int]:
    """Tokens of each sequence that a batch is made of: of each row, or of those that packing makes of them."""
    if not config.train.packing:
        return [len(row.input_ids) for row in data.train.rows]
    packed = pack_dataset(data.train.to_dataset().select_columns(["input_ids"]), data.max_length)
    return [len(ids) for ids in packed["input_ids"]]


def _documents(data: TrainingData, config: TrainConfig) -> list[Document]:
    """What a reference cache holds of the rows: equal rows are there once."""
    evaluated = data.eval is not None and config.train.eval_steps != 0
    rows = [*data.train.rows, *(data.eval.rows if data.eval and evaluated else ())]
    documents = [Document(row.input_ids, row.labels) for row in rows]
    return list({document.key: document for document in documents}.values())


def _cache_there(
    config: TrainConfig, kind: str, width: int, dtype: torch.dtype, documents: list[Document]
) -> ReferenceCache | None:
    """The cache on the disk that lacks least of the rows, of a model like this one, whose weights aren't read here."""
    if config.selfaug.alpha == 0 or config.selfaug.reference not in ("auto", "cache"):
        return None
    like = {"class": kind, "compute_dtype": str(dtype)}
    found = ReferenceCache.existing(config.selfaug.reference_cache_dir, like)
    return min(
        (cache for cache in found if cache.width == width),
        key=lambda cache: cache.bytes_to_write(documents),
        default=None,
    )


def _quantized_parameters(model: nn.Module) -> int:
    """Numbers that bitsandbytes stores in 4 bits: weights of linear layers, without the output head."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    weights: list[Any] = [
        module.weight
        for module in model.modules()
        if module is not head and type(module).__name__ in ("Linear", "Conv1D")
    ]
    return sum(weight.numel() for weight in weights)


def _adapter_parameters(model: nn.Module, config: TrainConfig) -> int:
    """Two factors for each linear layer that the adapter targets."""
    lora = config.lora
    if lora.method == "osf":
        return _osf_numbers(model, config).trained
    return sum(
        lora.rank * (one + other) + (max(one, other) if lora.dora else 0)
        # GPT-2's Conv1D is a linear layer with its weight transposed.
        for one, other in _target_shapes(model, config, {"Linear", "Conv1D"})
    )


class _OsfNumbers(NamedTuple):
    """Numbers that PEFT's OSF holds beside the base weights.

    Attributes:
        trained: U, S and V of the singular directions that aren't preserved.
        frozen: their first values, and U or V of the preserved ones, whichever isn't square.
        joined: U and V of the trained ones and of their first values side by side, as a forward pass makes them.
    """

    trained: int
    frozen: int
    joined: int


def _osf_numbers(model: nn.Module, config: TrainConfig) -> _OsfNumbers:
    trained = frozen = joined = 0
    for one, other in _target_shapes(model, config, {"Linear"}):  # it leaves other layers as they are
        preserved = int(min(one, other) * config.lora.preserved)
        rank = min(one, other) - preserved
        trained += rank * (one + other + 1)
        frozen += rank * (one + other + 1) + (preserved * max(one, other) if one != other else 0)
        joined += 2 * rank * (one + other)
    return _OsfNumbers(trained, frozen, joined)


def _target_shapes(model: nn.Module, config: TrainConfig, kinds: Collection[str]) -> list[torch.Size]:
    """Shape of each weight that the adapter targets; the output head is no target."""
    targets = config.lora.target_modules
    every = targets == ["all-linear"]
    without = fused_outputs(model) if every and config.lora.method == "lora" else []
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        module.weight.shape
        for name, module in model.named_modules()
        if module is not head
        and type(module).__name__ in kinds
        and (every or _ends_with_one(name, targets))
        and not _ends_with_one(name, without)
    ]


def _ends_with_one(name: str, ends: Iterable[str]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = memory()
    return None if known is None else known[0]


def _measure(config: TrainConfig, data: TrainingData, device: torch.device, dtype: torch.dtype) -> _Measured:
    """Time a forward and backward pass on a row of median length, cut to a sample's."""
    full = config.lora.method == "full"
    model: Any = load_base_model(
        config.model, dtype=torch.float32 if full else dtype, device=device, offline=config.run.offline
    )
    require_usable_after_training(model, config.lora)
    require_known_tokens(model, data)
    adapter = adapter_config(config.lora, model)
    if adapter is not None:
        model = get_peft_model(model, adapter)
    model.train()
    ids = sorted((row.input_ids for row in data.train.rows), key=len)[len(data.train.rows) // 2]
    # Told apart from the weights by their shapes.
    widths = {size for weight in model.parameters() for size in weight.shape}
    osf_shapes: set[tuple[int, ...]] = set()
    if config.lora.method == "osf":  # its factors are joined by two, in every pass anew
        pairs = [weight.shape for weight in model.parameters() if weight.requires_grad and weight.ndim == 2]
        osf_shapes = {shape for one, other in pairs for shape in ((2 * one, other), (one, 2 * other))}
        osf_shapes |= {shape[::-1] for shape in osf_shapes}
        widths |= {size for shape in osf_shapes for size in shape}
    length = min(len(ids), _SAMPLE_TOKENS)
    while length in widths and length > 2:
        length -= 1
    batch = torch.tensor([ids[:length]], device=device)
    own = {weight.data_ptr() for weight in model.parameters()}
    # Autocast keeps copies of the weights in 16 bits; they don't grow with the batch.
    copied = {shape for weight in model.parameters() for shape in (weight.shape, weight.shape[::-1])}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_copy = full and tensor.dtype is not torch.float32 and tensor.shape in copied
        if tensor.data_ptr() not in own and not is_copy and tuple(tensor.shape) not in osf_shapes:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast(
        device.type, dtype, enabled=dtype is not torch.float32 and (full or device.type == "cuda")
    )
    # The first pass is warm-up, and tells what is kept for the backward pass. Logits of all tokens are left
    # out: this model call keeps them, training works on the head in chunks.
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, labels=batch).loss.backward()
    logits = batch.shape[1] * model.config.get_text_config().vocab_size
    kept = sum(size for size in saved.values() if size not in (2 * logits, 4 * logits))
    timed = []
    for backward in (True, False):
        begin = _clock(device)
        with autocast, torch.set_grad_enabled(backward):
            loss = model(batch, labels=batch).loss
            if backward:
                loss.backward()
        timed.append((_clock(device) - begin) / batch.shape[1])
    return _Measured(timed[0], timed[1], kept / batch.shape[1], batch.shape[1])


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
