"""What a run will need, before it begins: memory, time and disk. Writes nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from trl import pack_dataset

from selfaug.config import TrainConfig
from selfaug.core.alignment import default_chunk_rows
from selfaug.core.printable import counted, printable_size
from selfaug.data import EncodedRows
from selfaug.errors import StorageError
from selfaug.launcher import process_count
from selfaug.model.cache import PASSES_THAT_PAY, Document, ReferenceCache
from selfaug.model.disk_room import has_room
from selfaug.model.loading import auto_class, load_model_config
from selfaug.phases.doctor import memory
from selfaug.phases.inputs import TrainingData
from selfaug.phases.parameter_counts import OsfNumbers, adapter_parameters, osf_numbers, quantized_parameters
from selfaug.phases.pass_cost import PassCost, pass_cost
from selfaug.phases.sample_pass import SamplePass, time_sample_pass
from selfaug.phases.training_checks import checked_inputs, is_sharded, require_evaluable
from selfaug.rundir import RunDir
from selfaug.train.reference_choice import require_cacheable, why_rows_depend_on_their_batch

__all__ = ["Estimate", "estimate"]

# A model this small is loaded and timed; the others are only calculated.
_MEASURE_SHARE_OF_MEMORY = 0.3

_BYTES_IN_4_BITS = 0.55
"""Of a quantised parameter, its share of the scales included."""


_NOT_TIMED = SamplePass(
    seconds_per_token=3.0, reference_seconds_per_token=1.0, saved_bytes_per_token=0.0, tokens=1
)
"""In forward passes instead of seconds: a backward pass takes as long as two."""

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
        seconds: of training and of measuring the loss on held-out rows, or None if it was not measured.
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
    run = _known(config, device, dtype, data)
    weights, optimizer = _weights(run), _optimizer(run)
    free = _free_memory(device)
    sample = None
    loaded = weights.amount * (2 if config.model.quantization == "none" else 1)
    if free is None or loaded < free * _MEASURE_SHARE_OF_MEMORY:
        on_stage("measuring")
        sample = time_sample_pass(config, data, device, dtype)
    activations = _activations(run, sample)
    time, disk, cache = _time(run, sample), _disk(run), _cache(run)
    memory = int((weights.amount + optimizer.amount + activations.amount) * 1.1)
    disk_free = _free_disk(config)
    warnings = [*taken, *data.warnings]
    if free is not None and memory > free:
        fewer_bits = config.model.quantization == "none" and not run.stored_quantized
        warnings.append(
            f"needs {printable_size(memory)} of memory, {printable_size(free)} are free: lower train.batch_size, "
            f"{'' if fewer_bits else 'or '}set train.gradient_checkpointing=true"
            f"{', or model.quantization=4bit' if fewer_bits else ''}."
        )
    training, evaluating = _durations(run, sample or _NOT_TIMED)
    if evaluating > training:
        assert data.eval is not None
        warnings.append(
            f"measuring the loss on {counted(len(data.eval.rows), 'held-out row')} "
            f"{counted(_evaluations(run), 'time')} takes {evaluating / training:.1f} times as long as the training: "
            "raise train.eval_steps, or give fewer of them; with 0 it is never measured."
        )
    if disk.amount + cache.amount > disk_free:
        warnings.append(
            f"needs {printable_size(disk.amount + cache.amount)} of disk, {printable_size(disk_free)} are free."
        )
    parts = (_structure(run), weights, optimizer, _rows(run), activations, time, disk, cache)
    return Estimate(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        processes=run.processes,
        rows=len(data.train.rows),
        tokens=run.tokens,
        steps=run.steps,
        parameters=run.parameters,
        trainable=run.trainable,
        weights_bytes=int(weights.amount),
        optimizer_bytes=int(optimizer.amount),
        activations_bytes=int(activations.amount),
        memory_bytes=memory,
        memory_free_bytes=free,
        seconds=None if sample is None else time.amount,
        disk_bytes=int(disk.amount),
        cache_bytes=int(cache.amount),
        disk_free_bytes=disk_free,
        how=[line for part in parts for line in part.how],
        warnings=warnings,
    )


# ---- what is known of the run


@dataclass(frozen=True)
class _Known:
    """What the parts of an estimate are added up from.

    Attributes:
        config, device, dtype, data: of the training.
        architecture: name of the model's class.
        parameters: of the model.
        trainable: of these, or of the adapter, what is trained.
        quantized: parameters that are loaded in 4 bits.
        osf: numbers of an OSF adapter; None for others.
        stored_quantized: whether the model's files are.
        layers, hidden, vocabulary: sizes of the model.
        checkpointing: whether activations are made anew in the backward pass.
        lengths: tokens of each sequence that a batch is made of.
        tokens: in the rows, and in the anchors that go with them.
        cost: of a forward pass.
        processes: that the launcher has started.
        steps: optimizer steps.
        passes: over the rows.
        documents: that a reference cache holds.
        there: a cache that has some of them already.
        reference: where the reference model comes from; None without alignment.
    """

    config: TrainConfig
    device: torch.device
    dtype: torch.dtype
    data: TrainingData
    architecture: str
    parameters: int
    trainable: int
    quantized: int
    osf: OsfNumbers | None
    stored_quantized: bool
    layers: int
    hidden: int
    vocabulary: int
    checkpointing: bool
    lengths: list[int]
    tokens: int
    cost: PassCost
    processes: int
    steps: int
    passes: float
    documents: list[Document]
    there: ReferenceCache | None
    reference: str | None

    @property
    def full(self) -> bool:
        """Whether all weights are trained, in float32."""
        return self.config.lora.method == "full"

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return 4 if self.full else self.dtype.itemsize

    @property
    def half(self) -> bool:
        """Whether products are in 16 bits."""
        return self.dtype is not torch.float32

    @property
    def missing(self) -> list[Document]:
        """What a cache has to be given yet."""
        return self.there.missing(self.documents) if self.there else self.documents


class _Part(NamedTuple):
    """Bytes (or seconds), and how they were come by."""

    amount: float
    how: list[str]


def _known(config: TrainConfig, device: torch.device, dtype: torch.dtype, data: TrainingData) -> _Known:
    model_config = load_model_config(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=config.run.offline
    )
    text_config = model_config.get_text_config()
    with torch.device("meta"):
        skeleton = auto_class(model_config).from_config(
            model_config, trust_remote_code=config.model.trust_remote_code
        )
    parameters = sum(weight.numel() for weight in skeleton.parameters())
    settings, full = config.train, config.lora.method == "full"
    checkpointing = settings.gradient_checkpointing
    lengths, tokens = _sequence_lengths(data, config), sum(len(row.ids) for row in data.train.rows)
    steps = settings.planned_steps(len(lengths))
    passes = settings.epochs if settings.steps is None else steps * settings.rows_a_step / len(lengths)
    documents = _documents(data, config)
    there = _cache_there(config, type(skeleton).__name__, text_config.hidden_size, dtype, documents)
    sizes = [len(document.input_ids) for document in documents]
    if config.selfaug.reference == "cache" and config.selfaug.alpha > 0:
        other = "adapter_off" if not full else None if is_sharded() else "frozen_copy"
        require_cacheable(model_config, sizes, other=other)
    depends = why_rows_depend_on_their_batch(model_config, sizes)
    most = tokens * text_config.hidden_size * (4 if full else dtype.itemsize)
    of_reference = 0 if depends else passes * config.selfaug.row_fraction
    reference = _reference(config, of_reference, most, there.bytes_to_write(documents) if there else most)
    if config.selfaug.anchors != "none":
        tokens += int(config.selfaug.anchor_share * len(data.train.rows) * _ANCHOR_TOKENS)
    return _Known(
        config=config,
        device=device,
        dtype=dtype,
        data=data,
        architecture=type(skeleton).__name__,
        parameters=parameters,
        trainable=parameters if full else adapter_parameters(skeleton, config),
        quantized=quantized_parameters(skeleton) if config.model.quantization == "4bit" else 0,
        osf=osf_numbers(skeleton, config) if config.lora.method == "osf" else None,
        stored_quantized=getattr(model_config, "quantization_config", None) is not None,
        layers=text_config.num_hidden_layers,
        hidden=text_config.hidden_size,
        vocabulary=text_config.vocab_size,
        checkpointing=parameters >= 1_000_000_000 if checkpointing == "auto" else checkpointing,
        lengths=lengths,
        tokens=tokens,
        cost=pass_cost(skeleton, text_config),
        processes=process_count(),
        steps=steps,
        passes=passes,
        documents=documents,
        there=there,
        reference=reference,
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
        passes: of the reference over the rows, for which a cache would do; 0 where none can hold them.
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
        return [len(row.ids) for row in data.train.rows]
    packed = pack_dataset(data.train.to_dataset().select_columns(["input_ids"]), data.max_length)
    return [len(ids) for ids in packed["input_ids"]]


def _documents(data: TrainingData, config: TrainConfig) -> list[Document]:
    """What a reference cache holds of the rows: equal rows are there once."""
    evaluated = data.eval is not None and config.train.eval_steps != 0
    rows = [*data.train.rows, *(data.eval.rows if data.eval and evaluated else ())]
    documents = [Document(row.ids, row.label_array().data) for row in rows]
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


# ---- the parts


def _structure(run: _Known) -> _Part:
    how = [f"parameters: counted in the model's structure ({run.architecture}), without its weights"]
    if run.processes > 1:
        how.append(
            f"processes: {run.processes:,} share the rows; memory is of each, with whole weights (not sharded)"
        )
    return _Part(run.parameters, how)


def _weights(run: _Known) -> _Part:
    """Memory of the weights, of a frozen copy, and of what lies beside them for a whole step."""
    weights = int(run.quantized * _BYTES_IN_4_BITS + (run.parameters - run.quantized) * run.width)
    each = f"{run.width} bytes a parameter"
    if run.quantized:
        each = f"{_BYTES_IN_4_BITS:g} bytes a parameter of linear layers, {run.width} of embeddings, head and the rest"
    how = [f"weights: {each}"]
    if run.reference == "frozen_copy":
        weights *= 2
        how = [f"weights: tuned model and frozen reference model, {each} each"]
    elif run.reference == "adapter_off":
        how = [f"weights: {each}; the reference is the same weights without the adapter"]
    if run.stored_quantized:
        how.append("weights: the model is stored quantised, and is counted as if it were not: it takes less")
    if run.osf is not None:
        weights += 4 * (run.trainable + run.osf.frozen)
        how.append(
            "weights: beside them, OSF has the singular directions that it trains, their first values, and U or V of "
            "those that it preserves, 4 bytes a number"
        )
    if run.full and run.half:
        weights += 2 * run.parameters
        how.append("weights: copies in 16 bits that autocast keeps for a step, 2 bytes a parameter")
    return _Part(weights, how)


def _optimizer(run: _Known) -> _Part:
    optimizer = run.trainable * 12
    how = []
    if run.config.evaluation.at_end != "none":
        how.append("the evaluation at the end is not counted")
    how.append("optimizer: gradient and two moments of Adam, 4 bytes each a trained parameter")
    if run.processes > 1:
        optimizer += run.trainable * 4
        how.append("optimizer: gradients once more, as they are exchanged, 4 bytes a trained parameter")
    return _Part(optimizer, how)


def _rows(run: _Known) -> _Part:
    """What rows are made into."""
    settings, rows, how = run.config.selfaug, len(run.data.train.rows), []
    if run.config.train.packing:
        how.append(
            f"steps: {rows:,} rows are packed into {len(run.lengths):,} of at most {run.data.max_length:,} tokens"
        )
    if settings.anchors != "none":
        how.append(
            f"anchors: {settings.anchor_share:g} a row, counted as {_ANCHOR_TOKENS} tokens each; writing them "
            "is not counted"
        )
    return _Part(run.tokens, how)


def _activations(run: _Known, sample: SamplePass | None) -> _Part:
    """Memory of one micro-batch of the longest rows."""
    how = []
    longest = run.config.train.batch_size * max(run.lengths)
    if run.checkpointing:  # which has one layer's OSF factors at a time
        activations = longest * run.hidden * run.dtype.itemsize * (run.layers + 40)
        how.append(
            "activations: gradient checkpointing keeps one hidden state a layer, and one layer in full, "
            "for a micro-batch of the longest rows"
        )
    elif sample is not None:
        activations = int(longest * sample.saved_bytes_per_token)
        how.append(
            f"activations: bytes kept for the backward pass, measured on {sample.tokens} tokens, "
            "for a micro-batch of the longest rows"
        )
    else:
        activations = longest * run.hidden * run.dtype.itemsize * run.layers * 17
        how.append("activations: 17 hidden states a layer and token, for a micro-batch of the longest rows")
    if run.osf is not None and not run.checkpointing:
        activations += 4 * run.osf.joined
        how.append("activations: OSF joins its factors in each pass, and keeps them for the backward pass")
    # Logits, and their logarithms.
    chunk = 2 * 4 * run.vocabulary * min(longest, default_chunk_rows(run.device, run.vocabulary))
    activations += chunk * (2 if run.reference else 1)
    how.append(
        f"activations: logits of one chunk of positions, of {'both models' if run.reference else 'the model'}"
    )
    if run.full:
        # The sum over chunks, and a product or what is handed on of it; for products in 16 bits a copy of the head.
        activations += run.vocabulary * run.hidden * (10 if run.half else 8)
        how.append("activations: gradient of the head, which is made beside the others")
    return _Part(activations, how)


def _time(run: _Known, sample: SamplePass | None) -> _Part:
    """Seconds of training, and of measuring the loss on held-out rows."""
    if sample is None:
        return _Part(math.nan, ["time: not measured: the model is too large to load for an estimate"])
    training, evaluating = _durations(run, sample)
    how = [
        f"time: one forward and backward pass, and one of the reference model"
        f"{' (once, for the cache)' if run.reference == 'cache' else ''}, timed on "
        f"rows of {sample.tokens} tokens, for {run.tokens / run.processes * run.passes:,.0f} tokens"
        f"{' of each process' if run.processes > 1 else ''}; saving is not counted, nor is writing answers at "
        "checkpoints"
    ]
    slower = _slower(run, _lengths(run.data.train), sample)
    if abs(slower - 1) > 0.01:
        how.append(
            f"time: in rows of their lengths a token takes {slower:.2f} times as long as in the timed one, by the "
            "multiplications of attention and weights"
        )
    if evaluating:
        how.append(
            f"time: the loss is measured on the held-out rows {counted(_evaluations(run), 'time')}, which takes "
            f"{evaluating / (training + evaluating):.0%} of it"
        )
    return _Part(training + evaluating, how)


def _durations(run: _Known, sample: SamplePass) -> tuple[float, float]:
    """Seconds of training, and of measuring the loss on held-out rows."""
    shared = run.tokens / run.processes
    slower = _slower(run, _lengths(run.data.train), sample)
    again = sample.reference_seconds_per_token * shared * slower  # a forward pass over all rows
    training = (sample.seconds_per_token * shared * slower + (again if run.checkpointing else 0)) * run.passes
    if run.reference == "cache":
        missing = [len(document.input_ids) for document in run.missing]  # held-out ones, too
        each = sample.reference_seconds_per_token * _slower(run, missing, sample)
        training += each * sum(missing) / run.processes
    elif run.reference:
        rows = sum(_lengths(run.data.train))  # of which a share is drawn; anchors are drawn themselves
        drawn = run.config.selfaug.row_fraction * rows + run.tokens - rows
        training += again * run.passes * drawn / run.tokens
    if not _evaluations(run) or run.data.eval is None:
        return training, 0.0
    held_out = _lengths(run.data.eval)
    tokens = sum(held_out) / run.processes * _evaluations(run)
    models = 2 if run.reference and run.reference != "cache" else 1
    each = sample.reference_seconds_per_token * _slower(run, held_out, sample)
    return training, models * tokens * each


def _evaluations(run: _Known) -> int:
    """How often the loss is measured on held-out rows: every so many steps, and at the end."""
    settings = run.config.train
    if run.data.eval is None or settings.eval_steps == 0:
        return 0
    return math.ceil(run.steps / (settings.eval_steps or settings.save_steps))


def _lengths(rows: EncodedRows) -> list[int]:
    return [len(row.ids) for row in rows.rows]


def _slower(run: _Known, lengths: list[int], sample: SamplePass) -> float:
    """How many times as long a token of rows of these lengths takes as one of the sample: attention grows with them."""
    if not lengths:
        return 1.0
    return float(np.average(run.cost.per_token(lengths), weights=lengths) / run.cost.per_token(sample.tokens))


def _disk(run: _Known) -> _Part:
    """Disk of checkpoints and final weights."""
    kept = run.config.train.kept_checkpoints
    disk = run.trainable * 4 * (3 * (kept + 1) + 1)
    return _Part(
        disk,
        [f"disk: {kept + 1} checkpoints (weights and two moments, 4 bytes each), and the result"],
    )


def _cache(run: _Known) -> _Part:
    """Disk that the reference cache grows by."""
    if run.reference != "cache":
        return _Part(0, [])
    how = ["reference cache: one hidden state a prompt token of all rows, those to evaluate on too"]
    missing, documents = run.missing, len(run.documents)
    states = sum(document.rows for document in missing)
    if run.there and len(missing) < documents:
        how.append(
            f"reference cache: {run.there.folder} has {documents - len(missing):,} of {documents:,} "
            "different rows already, if its model has these weights, which training compares"
        )
    if run.config.selfaug.anchors == "self":
        states += run.config.selfaug.anchor_count * _ANCHOR_TOKENS
        how.append(f"reference cache: {_ANCHOR_TOKENS} of each anchor")
    return _Part(states * run.hidden * run.dtype.itemsize, how)


def _free_disk(config: TrainConfig) -> int:
    """Bytes, where the run's folder will be."""
    output = Path(config.run.output).absolute()
    folder = next(place for place in (output, *output.parents) if place.exists())
    return shutil.disk_usage(folder).free


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = memory()
    return None if known is None else known[0]
