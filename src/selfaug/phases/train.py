"""Training: settings to a run folder with an adapter and its record."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, PeftConfig
from peft.utils import CONFIG_NAME
from transformers import PrinterCallback, ProgressCallback, set_seed

from selfaug.config import TrainConfig, dump_config, load_config
from selfaug.core.printable import printable_size
from selfaug.data import EncodedRows
from selfaug.errors import ConfigError, ModelError, SelfAugError, StorageError
from selfaug.eval.general_suite import FAST_ITEMS
from selfaug.model.loading import best_dtype, load_adapter
from selfaug.model.memory import peak_memory, release_memory
from selfaug.phases.best_checkpoint import BestCheckpoint, best_checkpoint, take_best
from selfaug.phases.canary import canary_rows, write_canary
from selfaug.phases.drift_monitor import DriftMonitor, drift_monitor
from selfaug.phases.evaluate import FAST_ROWS, evaluate
from selfaug.phases.evaluate import RECORD_KIND as EVALUATION
from selfaug.phases.inputs import (
    TrainingData,
    adapter_config,
    load_base_model,
    require_known_tokens,
    require_usable_after_training,
    writes_date,
)
from selfaug.phases.learnt import write_learnt
from selfaug.phases.model_card import model_card
from selfaug.phases.progress import Progress
from selfaug.phases.run_files import FOLDER, with_found_files, with_places
from selfaug.phases.run_models import (
    base_identity,
    hashes_of_weights,
    same_weights,
    trained_base,
    trained_weights,
)
from selfaug.phases.trained_template import TEMPLATE, template_before
from selfaug.phases.training_checks import checked_inputs, is_fsdp, require_evaluable
from selfaug.records import is_failed_write, make_readable, read_lines, read_record, write_record, write_text
from selfaug.rundir import RunDir
from selfaug.train import SelfAugConfig, SelfAugTrainer
from selfaug.train.anchors import write_anchors
from selfaug.train.checkpoints import require_processes
from selfaug.train.run_callbacks import (
    AfterSave,
    MetricsFile,
    NotANumber,
    PlanFile,
    StepReport,
    StopOnSignal,
    keep_metrics_until,
)

__all__ = ["RECORD_KIND", "Interrupted", "TrainResult", "train"]

RECORD_KIND = "train"

# What a run's beginning tells one that is resumed.
_DAY, _DTYPE, _PROCESSES = "day", "dtype", "processes"

# From here on the activations of a batch, and not the weights, are what fills a GPU.
_CHECKPOINTING_FROM = 1_000_000_000

# Of a GPU's free memory, for a model that is to be sharded: the first layers that are cut take some, too.
_MOST_OF_GPU = 0.9

# Settings that a resumed run may change: they don't touch the numbers.
_FREE_ON_RESUME = {
    "run": {"output", "overwrite", "offline"},
    "train": {"save_steps", "keep_checkpoints", "report_to", "logging_steps"},
    "data": {"train", "eval", "template", "split"},  # what is read from them is compared by its hash
    "selfaug": {"reference_cache_dir"},
    "evaluation": {"at_end", "data", "scorer", "also_score", "level", "suites", "max_new_tokens"},
}


@dataclass(frozen=True)
class TrainResult:
    """A complete run.

    Attributes:
        run: its folder.
        record: data of its record; empty in a process of a launcher that is not the first.
        evaluation: data of its evaluation's record, if the settings ask for one.
    """

    run: Path
    record: dict[str, Any]
    evaluation: dict[str, Any] | None = None


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; the text says how to go on."""


def train(
    config: TrainConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] = lambda _: None
) -> TrainResult:
    """Train, and write the run folder; its record last. Then evaluate the run, if the settings say so.

    Under a launcher, the first process evaluates.

    Args:
        config: the settings.
        resume: go on with the run in `config.run.output` from its latest complete checkpoint.
        on_progress: called with what the run is doing.

    Raises:
        ConfigError, DataError, ModelError: before anything is written.
        StorageError: if the folder is taken, another process trains in it, it can't be written, or the disk is too
            small.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, when a checkpoint is saved.
    """
    first = os.environ.get("RANK", "0") == "0"
    run = RunDir.open(config.run.output) if resume else RunDir(config.run.output)
    found = with_found_files(run, config) if resume else config
    require_evaluable(found)
    with run.training() if first else contextlib.nullcontext():
        trained = _trained(config, resume, on_progress)
        release_memory()  # trainer and optimizer, which know each other
        if config.evaluation.at_end == "none" or not first:
            return trained
        return replace(trained, evaluation=_evaluated(found, RunDir(trained.run), on_progress))


def _evaluated(config: TrainConfig, run: RunDir, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    """The evaluation of a complete run, made or gone on with; or the one that is there."""
    if run.evaluation.exists():
        on_progress(Progress("warning", message=f"{run.path} has an evaluation already."))
        return read_record(run.evaluation, EVALUATION)
    settings = config.evaluation
    fast = settings.at_end == "fast"
    try:
        return evaluate(
            run.path,
            data=settings.data,
            scorer=settings.scorer,
            also_score=settings.also_score,
            level=settings.level,
            suites=settings.suites,
            general_items=FAST_ITEMS if fast else None,
            task_items=FAST_ROWS if fast else None,
            max_new_tokens=settings.max_new_tokens,
            device=config.model.device,
            offline=config.run.offline,
            on_progress=on_progress,
        ).record
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            "stopped; the run is complete, and answers are kept. To go on with its evaluation: "
            f"{run.resume_command} --evaluate {settings.at_end}"
        ) from interrupt


def _trained(config: TrainConfig, resume: bool, on_progress: Callable[[Progress], None]) -> TrainResult:
    """Train, or go on with a run, or take one that is complete."""
    main = os.environ.get("RANK", "0") == "0"
    if resume:
        run = RunDir.open(config.run.output)
        _require_same_settings(run, config)
        config = with_found_files(run, config, lambda told: on_progress(Progress("warning", message=told)))
        if run.is_complete():
            on_progress(Progress("warning", message=f"{run.path} is complete already; nothing to train."))
            return TrainResult(run.path, read_record(run.record, RECORD_KIND))
        require_processes(str(run.path), _begun(run).get(_PROCESSES), _processes())
    elif main:
        RunDir.require_free(config.run.output, overwrite=config.run.overwrite)

    on_progress(Progress("data"))
    # A chat template may write today's date into prompts: what is resumed has that of its beginning.
    day = _day_of(run) if resume else date.today()
    device, dtype, data = checked_inputs(
        _in_dtype_of(run, config) if resume else config, day, learnt=main and not resume
    )
    if resume and config.model.dtype == "auto" and dtype is not best_dtype(device):
        name = str(dtype).removeprefix("torch.")
        told = f"{run.path} began in {name} and goes on in it, though it is not the fastest on this device."
        on_progress(Progress("warning", message=told))
    for warning in data.warnings:
        on_progress(Progress("warning", message=warning))
    on_progress(Progress("model"))
    full = config.lora.method == "full"
    # All weights trained in 16 bits would lose the small updates; autocast keeps the products in 16 bits.
    model = _base_model(config, torch.float32 if full else dtype, device, resume, on_progress)
    if not resume:  # what has begun can still be used, with its adapter beside the weights
        require_usable_after_training(model, config.lora)
    require_known_tokens(model, data)
    identity = base_identity(model, config.model.name)

    if resume:
        run = RunDir.open(config.run.output)
        _require_same_data(run, config, data, identity)
    elif main:
        run = RunDir.create(config.run.output, overwrite=config.run.overwrite)
    else:
        run = RunDir(config.run.output)
    try:
        if main and not resume:
            write_text(run.config, run.config_text(dump_config(config)))
            began = {
                "data": data.report,
                "model": identity,
                FOLDER: os.getcwd(),
                _DAY: str(day),
                _DTYPE: str(dtype),
                _PROCESSES: _processes(),
            }
            if (template := template_before(config)) is not None:
                began[TEMPLATE] = template.to_dict()
            write_learnt(run, data.learnt)
            data = replace(data, learnt=b"")  # 16 bytes a row, for hours
            write_record(run.started, "train-started", began)
        return _run(config, run, data, model, identity, device, dtype, resume, main, on_progress)
    except Exception:
        # Some things show only when the trainer is made, or when its reference is: then there is nothing to go on from.
        if main and not resume and not run.is_worth_keeping():
            run.discard()
        raise
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Interrupted):
            raise
        if main and run.replaced.settle():
            raise Interrupted("stopped before the first checkpoint.") from interrupt
        where = "on from the last checkpoint" if run.latest_complete_checkpoint() else "on, from the start"
        raise Interrupted(f"stopped at once. To go {where}: {run.resume_command}") from interrupt


def _base_model(
    config: TrainConfig,
    dtype: torch.dtype,
    device: torch.device,
    resume: bool,
    on_progress: Callable[[Progress], None],
) -> Any:
    """The base model on its device; in main memory, if this GPU has no room for what FSDP is to cut into shards.

    FSDP takes it from there layer by layer.

    Raises:
        ConfigError: if the model would have to answer there, which takes too long.
    """
    load = partial(load_base_model, config.model, dtype=dtype, offline=config.run.offline)
    if device.type != "cuda" or not is_fsdp() or config.model.quantization == "4bit":
        return load(device=device)
    model: Any = load(device=torch.device("cpu"))
    size, free = model.get_memory_footprint(), torch.cuda.mem_get_info(device)[0]
    # Whole until all of it is cut, beside the shards.
    if size * (1 + 1 / _processes()) <= _MOST_OF_GPU * free:
        return model.to(device)
    needed = f"the model takes {printable_size(size)}, and the GPU has {printable_size(free)} free"
    if config.selfaug.anchors == "self" and not resume:
        raise ConfigError(
            f"selfaug.anchors self can't be had: the model has to be whole to write them; {needed}.",
            hint="name a file of anchors, or leave them out.",
        )
    on_progress(Progress("warning", message=f"{needed}: it stays in main memory until it is sharded."))
    return model


def _run(
    config: TrainConfig,
    run: RunDir,
    data: TrainingData,
    model: Any,
    identity: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    resume: bool,
    main: bool,
    on_progress: Callable[[Progress], None],
) -> TrainResult:
    checkpoint = run.latest_complete_checkpoint() if resume else None
    if resume and main:
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        keep_metrics_until(run.metrics, step)
        where = f"from step {step}" if checkpoint else "from the start: there is no complete checkpoint"
        on_progress(Progress("warning", message=f"resuming {run.path} {where}."))
    trainer = _trainer(config, run, data, model, identity, device, dtype, resume, checkpoint, on_progress)
    of_canary = canary_rows((data.eval or data.train).rows)
    for rows in filter(None, (data.train, data.eval)):
        rows.rows.clear()  # the trainer has them as Arrow has them: once more would be as much memory again
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    _require_space(run, trainable, config, trainer)
    monitor = drift_monitor(trainer, run, data, config, on_progress)
    best = best_checkpoint(trainer, run, data, config, monitor, on_progress)
    if checkpoint is None:  # which has them
        if main:
            _prepare_anchors(run, data, identity, trainer)
        else:
            trainer.prepare_anchors()
    stop = StopOnSignal(lambda: on_progress(Progress("warning", message=_STOPPING)))
    _add_callbacks(trainer, run, main, monitor, best, on_progress)
    trainer.add_callback(stop)
    trainer.add_callback(NotANumber())

    began = time.monotonic()
    try:
        with _explained(run):
            if monitor is None or checkpoint is None or not _has_ended_at(checkpoint, trainer, monitor, best):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if stop.stopping:
                raise Interrupted(
                    f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
                    f"a checkpoint is saved. To go on: {run.resume_command}"
                )
            # No step follows, after which a signal would be heeded: from here on it stops at once, as does one that
            # has come since the last step.
            stop.restore()
            if stop.received:
                raise KeyboardInterrupt
            if monitor is not None and monitor.stopped:
                on_progress(Progress("warning", message=monitor.why_stopped(trainer.state)))
            if best is not None:
                on_progress(Progress("best checkpoint", message=take_best(trainer, run, best)))
            on_progress(Progress("saving"))
            evaluation = _evaluate(trainer) if _rows_to_evaluate(config, data) else {}
            _save(trainer, run.model if config.lora.method == "full" else run.adapter, main)
            # Sharded weights can't answer in one process.
            if main and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
                write_canary(
                    run, trainer.model, data.tokenizer, of_canary, config.data.chat_template_kwargs, dtype
                )
    finally:
        stop.restore()
    if not main:
        return TrainResult(run.path, {})
    record = _record(config, run, data, identity, trainer, trainable, evaluation, device)
    if monitor is not None:
        record["monitor"] = monitor.report(time.monotonic() - began)
    if best is not None:
        record["best"] = {
            "rows": config.train.best_of_rows, "scorer": config.train.best_scorer, **best.report(trainer.state)
        }  # fmt: skip
    folder = run.model if config.lora.method == "full" else run.adapter
    write_text(folder / "README.md", model_card(config, record))
    write_record(run.record, RECORD_KIND, record)
    run.replaced.settle()
    return TrainResult(run.path, record)


def _trainer(
    config: TrainConfig,
    run: RunDir,
    data: TrainingData,
    model: Any,
    identity: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    resume: bool,
    checkpoint: Path | None,
    on_progress: Callable[[Progress], None],
) -> SelfAugTrainer:
    """The trainer with its adapter: a new one, or that of the run that training goes on from.

    Raises:
        ConfigError: if the settings can't be trained with.
    """
    # The adapter's first weights are drawn when the trainer is made.
    set_seed(config.train.seed)
    going_on = config.lora.start_from is not None
    if going_on:
        model = _with_trained_adapter(config, model, identity, resume)
    try:
        trainer = SelfAugTrainer(
            model=model,
            args=_trainer_settings(config, run, device, dtype, identity["parameters"], data),
            train_dataset=data.train.to_dataset(),
            eval_dataset=rows.to_dataset() if (rows := _rows_to_evaluate(config, data)) else None,
            processing_class=data.tokenizer,
            peft_config=None if going_on else _adapter_as_begun(config, model, checkpoint),
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
    return trainer


def _adapter_as_begun(config: TrainConfig, model: Any, checkpoint: Path | None) -> PeftConfig | None:
    """The adapter that is made: on the layers of the checkpoint's, as earlier versions left out others."""
    adapter = adapter_config(config.lora, model)
    # Checkpoints of shards may lack the file.
    if isinstance(adapter, LoraConfig) and checkpoint is not None and (checkpoint / CONFIG_NAME).exists():
        adapter.exclude_modules = LoraConfig.from_pretrained(str(checkpoint)).exclude_modules
    return adapter


def _add_callbacks(
    trainer: SelfAugTrainer,
    run: RunDir,
    main: bool,
    monitor: DriftMonitor | None,
    best: BestCheckpoint | None,
    on_progress: Callable[[Progress], None],
) -> None:
    """What writes down and tells how training goes, and what looks at the model at each checkpoint."""
    for quiet in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(quiet)
    trainer.add_callback(MetricsFile(run.metrics))
    trainer.add_callback(PlanFile(run.plan))
    trainer.add_callback(
        StepReport(lambda step, steps, logs: on_progress(Progress("training", step, steps, logs)))
    )
    if main:
        trainer.add_callback(AfterSave(run.replaced.settle))
    if monitor is not None:
        trainer.add_callback(monitor)
    if best is not None:  # after the monitor, whose drift it goes by
        trainer.add_callback(best)
    trainer.on_cache_size = lambda size, folder: on_progress(  # type: ignore[method-assign]
        Progress("reference cache", message=f"the reference cache takes {printable_size(size)} in {folder}.")
    )
    trainer.on_cache_progress = lambda done, total: on_progress(  # type: ignore[method-assign]
        Progress("reference cache", done, total)
    )


def _with_trained_adapter(config: TrainConfig, model: Any, identity: dict[str, Any], resume: bool) -> Any:
    """The base model with the adapter of the run that training goes on from.

    Its dropout is that run's. Earlier versions began with others and didn't say so: what they began goes on.

    Raises:
        StorageError, ModelError: if there is none, or it is of another base model.
        ConfigError: if it has another form than the settings say.
    """
    before = RunDir.open(str(config.lora.start_from))
    before_config = load_config(before.config)
    problems = [
        f"lora.{name} is {getattr(config.lora, name)} here and {getattr(before_config.lora, name)} there"
        for name in ("method", "rank", "alpha", "target_modules", "dora", *(() if resume else ("dropout",)))
        if getattr(config.lora, name) != getattr(before_config.lora, name)
    ]
    if problems:
        raise ConfigError(
            f"training can't go on from {before.path}:",
            problems=problems,
            hint="`selfaug realign RUN` takes over that run's settings.",
        )
    if not same_weights(trained_base(before), identity):
        raise ModelError(
            f"{config.model.name} has other weights than the base model that {before.path} was trained on.",
            hint="put those weights back, or name the folder where they are now, --set model.name=FOLDER; or train "
            "anew, on these.",
        )
    tuned = load_adapter(model, trained_weights(before, before_config)[0], trainable=True)
    # PEFT looks there for the base model whenever it saves: in another folder, that run's name for it leads nowhere.
    for adapter in tuned.peft_config.values():
        adapter.base_model_name_or_path = model.name_or_path
    return tuned


def _prepare_anchors(
    run: RunDir, data: TrainingData, identity: dict[str, Any], trainer: SelfAugTrainer
) -> None:
    """Have the base model write its anchors, or take those that it wrote before the run was cut off."""
    args = trainer.args
    made_with = json.dumps(
        [
            identity["weights_hash"],
            data.tokenizer.chat_template,
            args.chat_template_kwargs,
            args.anchors,
            args.anchor_count,
            args.seed,
        ]
    ).encode()

    def digest() -> str:
        return hashlib.sha256(made_with + run.anchors.read_bytes()).hexdigest()

    started = _begun(run)
    before = started.get("anchors")
    there = None
    if before and run.anchors.exists() and digest() == before["digest"]:
        there = [row["input_ids"] for row in read_lines(run.anchors)], before["seconds"]
    trainer.prepare_anchors(there)
    if trainer.anchors:
        write_anchors(run.anchors, trainer.anchors, data.tokenizer)
        note = {"digest": digest(), "seconds": trainer.anchor_seconds}
        write_record(run.started, "train-started", {**started, "anchors": note})


def _has_ended_at(
    checkpoint: Path, trainer: SelfAugTrainer, monitor: DriftMonitor, best: BestCheckpoint | None
) -> bool:
    """Whether drift ends the run at the checkpoint that it would go on from: killed after it, before its record.

    Then the trainer has that checkpoint's weights and state, as it had at the kill. Asked before training, since the
    Trainer looks whether it should stop only after a step.
    """
    step = int(checkpoint.name.rpartition("-")[2])
    if monitor.drift(step) is not None and not monitor.stopped:
        return False
    trainer.restore(checkpoint)
    if monitor.drift(step) is None:
        monitor.measure(trainer.model, trainer.state)
    if monitor.stopped and best is not None:
        best.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    return monitor.stopped


_STOPPING = "stopping after this step, with a checkpoint; Ctrl-C again stops at once."


def _trainer_settings(
    config: TrainConfig,
    run: RunDir,
    device: torch.device,
    dtype: torch.dtype,
    parameters: int,
    data: TrainingData,
) -> SelfAugConfig:
    """The settings in the words of trl and transformers."""
    settings, full = config.train, config.lora.method == "full"
    mixed = full or device.type == "cuda"
    checkpointing = settings.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = parameters >= _CHECKPOINTING_FROM
    arguments = SelfAugConfig(
        output_dir=str(run.checkpoints),
        run_name=run.path.name,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
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
        eval_strategy="steps" if _rows_to_evaluate(config, data) else "no",
        eval_steps=settings.eval_steps or settings.save_steps,
        report_to=settings.report_to or "none",
        disable_tqdm=True,
        alpha=config.selfaug.alpha,
        drift_limit=config.selfaug.drift_limit,
        divergence=config.selfaug.divergence,
        divergence_temperature=config.selfaug.divergence_temperature,
        align_boundary=config.selfaug.align_boundary,
        position_fraction=config.selfaug.position_fraction,
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


def _rows_to_evaluate(config: TrainConfig, data: TrainingData) -> EncodedRows | None:
    """Held-out rows that the loss is measured on; None if there are none, or nobody wants to know it."""
    return None if config.train.eval_steps == 0 else data.eval


def _require_same_settings(run: RunDir, config: TrainConfig) -> None:
    """A resumed run must give the same numbers, so it must have the same settings."""
    before, now = load_config(run.config).model_dump(), config.model_dump()
    # A file may have another name in another folder.
    before_there, now_there = (
        with_places(run, one).model_dump() for one in (load_config(run.config), config)
    )
    free = dict(_FREE_ON_RESUME)
    if config.train.best_of_rows > 0 or config.selfaug.stop_at_drift is not None:
        # What the run ends with is then decided at its checkpoints.
        free["train"] = free["train"] - {"save_steps"}
    problems = [
        f"{section}.{key}: the run has {before[section][key]!r}, now it is {now[section][key]!r}"
        for section in before
        for key in before[section]
        if before_there[section][key] != now_there[section][key] and key not in free.get(section, ())
    ]
    if problems:
        raise ConfigError(
            f"{run.path} can't be resumed with other settings:",
            problems=problems,
            hint=f"`{run.resume_command}` alone takes those of the run.",
        )


def _require_same_data(
    run: RunDir, config: TrainConfig, data: TrainingData, identity: dict[str, Any]
) -> None:
    started = _begun(run)
    problems = []
    if _digests(started["data"], "train", "replay") != _digests(data.report, "train", "replay"):
        problems.append("the training rows are not those that the run began with")
        if data.day is None and writes_date(data.tokenizer):
            problems[0] += (
                ", perhaps since the chat template writes today's date into prompts; earlier versions did not write "
                "down when a run began"
            )
    if config.train.best_of_rows > 0 and _digests(started["data"], "eval") != _digests(data.report, "eval"):
        problems.append(
            "the held-out rows, by which its checkpoint is chosen (train.best_of_rows), are not those that the run "
            "began with"
        )
    if started["model"]["weights_hash"] != identity["weights_hash"]:
        problems.append("the base model's weights are not those that the run began with")
    if problems:
        raise ConfigError(
            f"{run.path} can't be resumed:", problems=problems, hint="begin a new run with another --output."
        )


def _day_of(run: RunDir) -> date | None:
    """The day that a run began on; None where an earlier version began it, which did not write it down."""
    day = _begun(run).get(_DAY)
    return None if day is None else date.fromisoformat(day)


def _in_dtype_of(run: RunDir, config: TrainConfig) -> TrainConfig:
    """The settings, where "auto" is the dtype that a run began in: another kind of device would take another.

    Of all weights trained, earlier versions did not write that down.
    """
    begun = _begun(run)
    dtype = begun.get(_DTYPE) or (None if config.lora.method == "full" else begun["model"].get("dtype"))
    if config.model.dtype != "auto" or dtype is None:
        return config
    model = config.model.model_copy(update={"dtype": dtype.removeprefix("torch.")})
    return config.model_copy(update={"model": model})


def _begun(run: RunDir) -> dict[str, Any]:
    return read_record(run.started, "train-started")


def _processes() -> int:
    """How many a launcher has started for this training, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _digests(report: Mapping[str, Any], *parts: str) -> list[Any]:
    """Hashes of these rows, as the model sees them."""
    return [report[part]["digest"] for part in parts if part in report]


def _require_space(run: RunDir, trainable: int, config: TrainConfig, trainer: SelfAugTrainer) -> None:
    """Refuse to begin if the checkpoints won't fit, beside the reference cache where that is on the same disk.

    A checkpoint holds the trained weights and two moments of Adam, in 32 bits; the oldest goes only after the
    newest is written. A run that is replaced goes after the first, and checkpoints that are there make room for others.
    """
    checkpoint = trainable * 4 * 3
    needed = checkpoint * (config.train.kept_checkpoints + 1) + trainable * 4
    free, replaced = shutil.disk_usage(run.path).free, run.replaced.size()
    free -= trainer.cache_bytes_to_write(run.path, spare=free - needed)
    there = sum(file.stat().st_size for file in run.checkpoints.glob("checkpoint-*/**/*") if file.is_file())
    if needed > free + replaced + there:
        beside = "" if trainer.reference_kind != "cache" else " beside the reference cache"
        raise StorageError(
            f"the checkpoints need {printable_size(needed)}, {run.path} has "
            f"{printable_size(max(0, free + replaced + there))} free{beside}.",
            hint="free space, choose another --output, or set train.keep_checkpoints=1.",
        )
    if checkpoint > free:
        raise StorageError(
            f"the first checkpoint needs {printable_size(checkpoint)} beside the run that it replaces, {run.path} has "
            f"{printable_size(free)} free.",
            hint="free space, choose another --output, or delete the run that is there.",
        )


@contextlib.contextmanager
def _explained(run: RunDir) -> Iterator[None]:
    """Turn the errors that a run can meet into errors that say what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SelfAugError(
            f"out of GPU memory: {str(error).splitlines()[0]}",
            hint="halve train.batch_size and double train.gradient_accumulation (the same numbers), set "
            "train.gradient_checkpointing=true, or model.quantization=4bit.",
        ) from error
    except Exception as error:
        if not is_failed_write(error):
            raise
        free = shutil.disk_usage(run.path).free
        raise StorageError(
            f"can't write into {run.path}: the disk is full or a quota is reached ({printable_size(free)} free).",
            hint="free space, then "
            + (f"go on: {run.resume_command}" if run.is_worth_keeping() else "give the same command again."),
        ) from error


def _evaluate(trainer: SelfAugTrainer) -> dict[str, float]:
    """Metrics of the final weights: those of the last step's evaluation, if there was one."""
    for logs in reversed(trainer.state.log_history):
        if "eval_nll" in logs and logs["step"] == trainer.state.global_step:
            return dict(logs)
    metrics: dict[str, float] = trainer.evaluate()
    return metrics


def _save(trainer: SelfAugTrainer, folder: Path, main: bool) -> None:
    """Write the weights and the tokeniser beside their place, then rename."""
    partial = folder.with_name(f"{folder.name}.partial")
    if main:
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if main:
        for file in partial.glob("*.safetensors"):
            make_readable(file)
        # A pickle of the arguments: nobody needs it, and loading one runs code.
        (partial / "training_args.bin").unlink(missing_ok=True)
        partial.rename(folder)


def _record(
    config: TrainConfig,
    run: RunDir,
    data: TrainingData,
    identity: dict[str, Any],
    trainer: SelfAugTrainer,
    trainable: int,
    evaluation: Mapping[str, float],
    device: torch.device,
) -> dict[str, Any]:
    settings = yaml.safe_load(dump_config(config))
    rows = [row for row in read_lines(run.metrics) if "nll" in row] if run.metrics.exists() else []
    last = rows[-max(1, len(rows) // 4) :]
    return {
        # As it was given: resumed in another folder, the run has found it elsewhere.
        "model": {"name": load_config(run.config).model.name, "trainable": trainable, **identity},
        "data": data.report,
        "settings": settings,
        "settings_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": trainer.seconds,
        "anchor_seconds": trainer.anchor_seconds,
        "noise_floor": trainer.noise_floor,
        "final": {name: _mean(last, name) for name in ("nll", "alignment_loss", "alpha")},
        "evaluation": {name: value for name, value in evaluation.items() if name.startswith("eval_")},
        "reference": trainer.reference_kind,
        "reference_cache_bytes": trainer.reference_bytes,
        "anchors": len(trainer.anchors),
        "peak_memory_bytes": peak_memory(device),
        "weights": hashes_of_weights(run),
        "environment": {
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU ({platform.machine()})",
            "processes": trainer.accelerator.num_processes,
            "python": platform.python_version(),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("selfaug", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
            },
        },
    }


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None
