"""The trainer of a run: its base model, its adapter, its settings in trl's words, its anchors, and its callbacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from selfaug.config import TrainConfig, load_config
from selfaug.core.printable import printable_size
from selfaug.data import EncodedRows
from selfaug.errors import ConfigError, ModelError
from selfaug.launcher import is_first_process, process_count
from selfaug.model.loading import load_adapter
from selfaug.phases.inputs import TrainingData, adapter_config, load_base_model
from selfaug.phases.progress import Progress
from selfaug.phases.resuming import Begun
from selfaug.phases.run_models import same_weights, trained_base, trained_weights
from selfaug.phases.training_checks import is_fsdp
from selfaug.records import read_lines
from selfaug.rundir import RunDir
from selfaug.train import SelfAugConfig, SelfAugTrainer
from selfaug.train.anchors import write_anchors
from selfaug.train.run_callbacks import AfterSave, MetricsFile, PlanFile, StepReport

__all__ = ["Training", "add_callbacks", "base_model", "make_trainer", "prepare_anchors", "rows_to_evaluate"]

# From here on the activations of a batch, and not the weights, are what fills a GPU.
_CHECKPOINTING_FROM = 1_000_000_000

# Of a GPU's free memory, for a model that is to be sharded: the first layers that are cut take some, too.
_MOST_OF_GPU = 0.9


@dataclass(frozen=True)
class Training:
    """What is trained, on what, into which run.

    Attributes:
        config: the settings.
        run: that it is written into.
        device, dtype, data: as of `CheckedInputs`.
        model: the base model.
        identity: of the base model, as `base_identity`.
        begun: the run's beginning.
        resume: whether this goes on with it.
        on_progress: called with what the run is doing.
    """

    config: TrainConfig
    run: RunDir
    device: torch.device
    dtype: torch.dtype
    data: TrainingData
    model: Any
    identity: dict[str, Any]
    begun: Begun
    resume: bool
    on_progress: Callable[[Progress], None]


def base_model(
    config: TrainConfig,
    dtype: torch.dtype,
    device: torch.device,
    resume: bool,
    on_progress: Callable[[Progress], None],
) -> Any:
    """The base model on its device; in main memory, if this GPU has no room for what FSDP is to cut into shards.

    FSDP takes it from there layer by layer.

    Args:
        config: the settings.
        dtype: of its weights.
        device: that trains.
        resume: whether this goes on with a run, which has its anchors.
        on_progress: called where it stays in main memory.

    Raises:
        ConfigError: if the model would have to answer there, which takes too long.
    """
    load = partial(load_base_model, config, dtype=dtype)
    if device.type != "cuda" or not is_fsdp() or config.model.quantization == "4bit":
        return load(device=device)
    model: Any = load(device=torch.device("cpu"))
    size, free = model.get_memory_footprint(), torch.cuda.mem_get_info(device)[0]
    # Whole until all of it is cut, beside the shards.
    if size * (1 + 1 / process_count()) <= _MOST_OF_GPU * free:
        return model.to(device)
    needed = f"the model takes {printable_size(size)}, and the GPU has {printable_size(free)} free"
    if config.selfaug.anchors == "self" and not resume:
        raise ConfigError(
            f"selfaug.anchors self can't be had: the model has to be whole to write them; {needed}.",
            hint="name a file of anchors, or leave them out.",
        )
    on_progress(Progress("warning", message=f"{needed}: it stays in main memory until it is sharded."))
    return model


def make_trainer(training: Training) -> SelfAugTrainer:
    """The trainer with its adapter: a new one, or that of the run that training goes on from.

    Raises:
        ConfigError: if the settings can't be trained with.
        StorageError, ModelError: if it goes on from a run that isn't there, or is of another base model, and has no
            checkpoint of its own.
    """
    config, on_progress = training.config, training.on_progress
    # The adapter's first weights are drawn when the trainer is made.
    set_seed(config.train.seed)
    going_on = config.lora.start_from is not None
    model = _with_trained_adapter(training) if going_on else training.model
    try:
        return SelfAugTrainer(
            model=model,
            args=_trainer_settings(training),
            train_dataset=training.data.train.to_dataset(),
            eval_dataset=rows.to_dataset() if (rows := rows_to_evaluate(training)) else None,
            processing_class=training.data.tokenizer,
            peft_config=None if going_on else adapter_config(config.lora, model),
            adapter_is_trained=going_on,
            on_anchor_progress=lambda done, total: on_progress(
                Progress("anchors written by the base model", done, total)
            ),
        )
    except ValueError as error:  # how trl, peft and transformers refuse settings
        raise ConfigError(
            f"training can't be set up: {error}",
            hint="change that setting; `selfaug train --help` shows the flags, and --set reaches the rest.",
        ) from error


def add_callbacks(training: Training, trainer: SelfAugTrainer, *watching: TrainerCallback | None) -> None:
    """Add what writes down and tells how training goes, and what looks at the model at each checkpoint.

    Args:
        training: whose run it is.
        trainer: that trains.
        watching: callbacks that look at the model, in their order; None is none.
    """
    run, on_progress = training.run, training.on_progress
    for quiet in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(quiet)
    trainer.add_callback(MetricsFile(run.metrics))
    trainer.add_callback(PlanFile(run.plan))
    trainer.add_callback(
        StepReport(lambda step, steps, logs: on_progress(Progress("training", step, steps, logs)))
    )
    if is_first_process():
        trainer.add_callback(AfterSave(run.replaced.settle))
    for callback in filter(None, watching):
        trainer.add_callback(callback)
    trainer.on_cache_size = lambda size, folder: on_progress(  # type: ignore[method-assign]
        Progress("reference cache", message=f"the reference cache takes {printable_size(size)} in {folder}.")
    )
    trainer.on_cache_progress = lambda done, total: on_progress(  # type: ignore[method-assign]
        Progress("reference cache", done, total)
    )


def _trainer_settings(training: Training) -> SelfAugConfig:
    """The settings in the words of trl and transformers."""
    config, run, data, device, dtype = (
        training.config, training.run, training.data, training.device, training.dtype
    )  # fmt: skip
    settings = config.train
    mixed = config.lora.method == "full" or device.type == "cuda"
    checkpointing = settings.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = training.identity["parameters"] >= _CHECKPOINTING_FROM
    arguments = SelfAugConfig(
        output_dir=str(run.checkpoints),
        run_name=run.path.name,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        # transformers' "constant" has no warmup, whatever is given.
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        activation_checkpointing=checkpointing,
        packing=settings.packing,
        padding_free=settings.padding_free,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        # The rows fit already. Packing fills rows up to this length; padding-free refuses to have one.
        max_length=data.max_length if settings.packing else None,
        bf16=mixed and dtype is torch.bfloat16,
        fp16=mixed and dtype is torch.float16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        save_total_limit=settings.kept_checkpoints,
        eval_strategy="steps" if rows_to_evaluate(training) else "no",
        eval_steps=settings.eval_steps or settings.save_steps,
        report_to=settings.report_to or "none",
        disable_tqdm=True,
        alpha=config.selfaug.alpha,
        drift_limit=config.selfaug.drift_limit,
        divergence=config.selfaug.divergence,
        divergence_temperature=config.selfaug.divergence_temperature,
        align_boundary=config.selfaug.align_boundary,
        position_fraction=config.selfaug.position_fraction,
        row_fraction=config.selfaug.row_fraction,
        reference=config.selfaug.reference,
        reference_cache_dir=config.selfaug.reference_cache_dir,
        anchors=config.selfaug.anchors,
        anchor_count=config.selfaug.anchor_count,
        anchor_share=config.selfaug.anchor_share,
        chat_template_kwargs=config.data.chat_template_kwargs,
        weight_penalty=config.lora.weight_penalty,
    )
    # Without a launcher one GPU trains, however many there are: the Trainer would use them all, which trl refuses.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def rows_to_evaluate(training: Training) -> EncodedRows | None:
    """Held-out rows that the loss is measured on; None if there are none, or nobody wants to know it."""
    return None if training.config.train.eval_steps == 0 else training.data.eval


def _with_trained_adapter(training: Training) -> Any:
    """The base model with the adapter of the run that training goes on from, or of its own checkpoint.

    The weights of a checkpoint would take the place of those that it began with: that run may be gone by now.

    Raises:
        StorageError, ModelError: if there is none, or it is of another base model.
        ConfigError: if it has another form than the settings say.
    """
    checkpoint = training.run.latest_complete_checkpoint() if training.resume else None
    if checkpoint is None or not (checkpoint / SAFETENSORS_WEIGHTS_NAME).exists():  # as one of shards
        folder = _deployed_adapter(training)
    else:
        folder = checkpoint
    tuned = load_adapter(training.model, folder, trainable=True)
    # PEFT looks there for the base model whenever it saves: in another folder, that run's name for it leads nowhere.
    for adapter in tuned.peft_config.values():
        adapter.base_model_name_or_path = training.model.name_or_path
    return tuned


def _deployed_adapter(training: Training) -> Path:
    """The folder of the adapter of the run that training goes on from.

    Raises:
        StorageError, ModelError: if there is none, or it is of another base model.
        ConfigError: if it has another form than the settings say.
    """
    config = training.config
    before = RunDir.open(str(config.lora.start_from))
    before_config = load_config(before.config)
    problems = [
        f"lora.{name} is {getattr(config.lora, name)} here and {getattr(before_config.lora, name)} there"
        for name in ("method", "rank", "alpha", "target_modules", "dora", "dropout")
        if getattr(config.lora, name) != getattr(before_config.lora, name)
    ]
    if problems:
        raise ConfigError(
            f"training can't go on from {before.path}:",
            problems=problems,
            hint="`selfaug realign RUN` takes over that run's settings.",
        )
    if not same_weights(trained_base(before), training.identity):
        raise ModelError(
            f"{config.model.name} has other weights than the base model that {before.path} was trained on.",
            hint="put those weights back, or name the folder where they are now, --set model.name=FOLDER; or train "
            "anew, on these.",
        )
    return trained_weights(before, before_config)[0]


def prepare_anchors(training: Training, trainer: SelfAugTrainer) -> None:
    """Have the base model write its anchors, or take those that it wrote before the run was cut off."""
    if not is_first_process():
        trainer.prepare_anchors()
        return
    run, args = training.run, trainer.args
    made_with = json.dumps(
        [
            training.identity["weights_hash"],
            training.data.tokenizer.chat_template,
            args.chat_template_kwargs,
            args.anchors,
            args.anchor_count,
            args.seed,
        ]
    ).encode()

    def digest() -> str:
        return hashlib.sha256(made_with + run.anchors.read_bytes()).hexdigest()

    before = training.begun.anchors
    there = None
    if before and run.anchors.exists() and digest() == before["digest"]:
        there = [row["input_ids"] for row in read_lines(run.anchors)], before["seconds"]
    trainer.prepare_anchors(there)
    if trainer.anchors:
        write_anchors(run.anchors, trainer.anchors, training.data.tokenizer)
        note = {"digest": digest(), "seconds": trainer.anchor_seconds}
        replace(training.begun, anchors=note).write(run)
