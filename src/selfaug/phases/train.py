"""Training: settings to a run folder with an adapter and its record."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from selfaug.config import TrainConfig, dump_config
from selfaug.core.printable import printable_size
from selfaug.data import EncodedRow
from selfaug.errors import SelfAugError, StorageError
from selfaug.eval.general_suite import FAST_ITEMS
from selfaug.launcher import is_first_process, process_count
from selfaug.model.loading import best_dtype
from selfaug.model.memory import release_memory
from selfaug.phases.best_checkpoint import BestCheckpoint, best_checkpoint, take_best
from selfaug.phases.canary import canary_rows, write_canary
from selfaug.phases.drift_monitor import DriftMonitor, drift_monitor
from selfaug.phases.evaluate import FAST_ROWS, evaluate
from selfaug.phases.evaluate import RECORD_KIND as EVALUATION
from selfaug.phases.inputs import require_known_tokens, require_usable_after_training
from selfaug.phases.learnt import write_learnt
from selfaug.phases.manifest import write_manifest
from selfaug.phases.model_card import model_card
from selfaug.phases.progress import Progress
from selfaug.phases.resuming import Begun, in_dtype_of, require_same_data, require_same_settings
from selfaug.phases.run_files import require_named_base, with_found_files
from selfaug.phases.run_models import base_identity, step_of, weights_folder
from selfaug.phases.suites import AskSettings
from selfaug.phases.trainer_setup import (
    Training,
    add_callbacks,
    base_model,
    make_trainer,
    prepare_anchors,
    rows_to_evaluate,
)
from selfaug.phases.training_checks import CheckedInputs, checked_inputs, require_evaluable
from selfaug.phases.training_record import final_evaluation, training_record
from selfaug.records import is_failed_write, make_readable, read_record, write_record, write_text
from selfaug.rundir import RunDir
from selfaug.train import SelfAugTrainer
from selfaug.train.checkpoints import require_processes
from selfaug.train.run_callbacks import NotANumber, StopOnSignal, keep_metrics_until

__all__ = ["RECORD_KIND", "Interrupted", "TrainResult", "train"]

RECORD_KIND = "train"

_STOPPING = "stopping after this step, with a checkpoint; Ctrl-C again stops at once."


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
    first = is_first_process()
    run = RunDir.open(config.run.output) if resume else RunDir(config.run.output)
    found = with_found_files(run, config) if resume else config
    # A complete run has nothing to train, and needs the model only if it is evaluated.
    if resume and (config.evaluation.at_end != "none" or not run.is_complete()):
        require_named_base(run, found)
    require_evaluable(found)
    with run.training() if first else contextlib.nullcontext():
        trained = (_gone_on_with if resume else _begun_anew)(config, on_progress)
        release_memory()  # trainer and optimizer, which know each other
        if config.evaluation.at_end == "none" or not first:
            return trained
        return replace(trained, evaluation=_evaluated(found, RunDir(trained.run), on_progress))


def _evaluated(config: TrainConfig, run: RunDir, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    """The evaluation of a complete run, made or gone on with; or the one that is there, if it isn't of a checkpoint."""
    if run.evaluation.exists():
        there = read_record(run.evaluation, EVALUATION)
        if there["settings"]["step"] is None:
            on_progress(Progress("warning", message=f"{run.path} has an evaluation already."))
            return there
    settings = config.evaluation
    fast = settings.at_end == "fast"
    try:
        return evaluate(
            run.path,
            AskSettings(
                scorer=settings.scorer,
                level=settings.level,
                suites=settings.suites,
                general_items=FAST_ITEMS if fast else None,
                task_items=FAST_ROWS if fast else None,
                max_new_tokens=settings.max_new_tokens,
            ),
            data=settings.data,
            also_score=settings.also_score,
            device=config.model.device,
            offline=config.run.offline,
            replace_checkpoint=True,
            on_progress=on_progress,
        ).record
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            "stopped; the run is complete, and answers are kept. To go on with its evaluation: "
            f"{run.resume_command} --evaluate {settings.at_end}"
        ) from interrupt


def _begun_anew(config: TrainConfig, on_progress: Callable[[Progress], None]) -> TrainResult:
    """Train from the beginning. What comes to nothing before there is something to go on from leaves no folder."""
    first = is_first_process()
    if first:
        RunDir.require_free(config.run.output, overwrite=config.run.overwrite)
    on_progress(Progress("data"))
    today = date.today()
    inputs = checked_inputs(config, today, learnt=first)
    model = _loaded(config, inputs, on_progress, resume=False)
    identity = base_identity(model, config.model.name)
    if first:
        run = RunDir.create(config.run.output, overwrite=config.run.overwrite)
    else:
        run = RunDir(config.run.output)
    # It belongs to this command: whoever gives the run's settings to another one would replace what is there, too.
    config = config.model_copy(update={"run": config.run.model_copy(update={"overwrite": False})})
    try:
        with _told_how_to_go_on(run):
            begun = Begun.here(config, inputs.data, identity, today, inputs.dtype)
            if first:
                write_text(run.config, run.config_text(dump_config(config)))
                write_learnt(run, inputs.data.learnt)
                begun.write(run)
            # Or it would be held for hours, with some bytes a row.
            inputs = inputs._replace(data=replace(inputs.data, learnt=b""))
            return _run(
                Training(config, run, *inputs, model, identity, begun, resume=False, on_progress=on_progress)
            )
    except Exception:
        # Some things show only when the trainer is made, or when its reference is: then there is nothing to go on from.
        if first and not run.is_worth_keeping():
            run.discard()
        raise


def _gone_on_with(config: TrainConfig, on_progress: Callable[[Progress], None]) -> TrainResult:
    """Train on from the latest complete checkpoint of a run, or take a run that is complete."""
    run = RunDir.open(config.run.output)

    def tell(told: str) -> None:
        on_progress(Progress("warning", message=told))

    require_same_settings(run, config)
    config = with_found_files(run, config, tell)
    if run.is_complete():
        tell(f"{run.path} is complete already; nothing to train.")
        return TrainResult(run.path, read_record(run.record, RECORD_KIND))
    begun = Begun.read(run)
    require_processes(str(run.path), begun.processes, process_count())
    on_progress(Progress("data"))
    inputs = checked_inputs(in_dtype_of(begun, config), date.fromisoformat(begun.day))
    if config.model.dtype == "auto" and inputs.dtype is not best_dtype(inputs.device):
        name = str(inputs.dtype).removeprefix("torch.")
        tell(f"{run.path} began in {name} and goes on in it, though it is not the fastest on this device.")
    model = _loaded(config, inputs, on_progress, resume=True)
    identity = base_identity(model, config.model.name)
    require_same_data(run, begun, config, inputs.data, identity)
    begun = begun.with_versions_of_now(run, tell)
    if is_first_process():
        begun.write(run)
        # The plan of the process before: whoever looks would count the pause since as work.
        with contextlib.suppress(OSError):
            run.plan.unlink()
    with _told_how_to_go_on(run):
        return _run(
            Training(config, run, *inputs, model, identity, begun, resume=True, on_progress=on_progress)
        )


def _loaded(
    config: TrainConfig, inputs: CheckedInputs, on_progress: Callable[[Progress], None], *, resume: bool
) -> Any:
    """The base model, which the rows and the settings must suit."""
    for warning in inputs.data.warnings:
        on_progress(Progress("warning", message=warning))
    on_progress(Progress("model"))
    # All weights trained in 16 bits would lose the small updates; autocast keeps the products in 16 bits.
    dtype = torch.float32 if config.lora.method == "full" else inputs.dtype
    model = base_model(config, dtype, inputs.device, resume, on_progress)
    if not resume:  # what has begun can still be used, with its adapter beside the weights
        require_usable_after_training(model, config.lora)
    require_known_tokens(model, inputs.data)
    return model


@contextlib.contextmanager
def _told_how_to_go_on(run: RunDir) -> Iterator[None]:
    """Have an interrupted training say how to go on with it."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as interrupt:
        if is_first_process() and run.replaced.settle():
            raise Interrupted("stopped before the first checkpoint.") from interrupt
        where = "on from the last checkpoint" if run.latest_complete_checkpoint() else "on, from the start"
        raise Interrupted(f"stopped at once. To go {where}: {run.resume_command}") from interrupt


def _run(training: Training) -> TrainResult:
    """Train to the end, and write what the run promises; the record last."""
    config, run, data = training.config, training.run, training.data
    checkpoint = run.latest_complete_checkpoint() if training.resume else None
    if training.resume and is_first_process():
        _keep_steps_until(checkpoint, training)
    trainer = make_trainer(training)
    of_canary = canary_rows((data.eval or data.train).rows)
    for rows in filter(None, (data.train, data.eval)):
        rows.rows.clear()  # the trainer has them as Arrow has them: once more would be as much memory again
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    _require_space(run, trainable, config, trainer)
    monitor = drift_monitor(trainer, run, data, config, training.on_progress)
    best = best_checkpoint(trainer, run, data, config, monitor, training.on_progress)
    if checkpoint is None:  # which has them
        prepare_anchors(training, trainer)

    began = time.monotonic()
    with _explained(run):
        evaluation = _trained(training, trainer, checkpoint, monitor, best, of_canary)
    if not is_first_process():
        return TrainResult(run.path, {})
    record = training_record(training, trainer, trainable, evaluation)
    if monitor is not None:
        record["monitor"] = monitor.report(time.monotonic() - began)
    if best is not None:
        record["best"] = {
            "rows": config.train.best_of_rows, "scorer": config.train.best_scorer, **best.report(trainer.state)
        }  # fmt: skip
    write_text(weights_folder(run, config) / "README.md", model_card(config, record))
    write_manifest(weights_folder(run, config), config, record)
    write_record(run.record, RECORD_KIND, record)
    run.replaced.settle()
    return TrainResult(run.path, record)


def _trained(
    training: Training,
    trainer: SelfAugTrainer,
    checkpoint: Path | None,
    monitor: DriftMonitor | None,
    best: BestCheckpoint | None,
    of_canary: list[EncodedRow],
) -> dict[str, float]:
    """Train, and save the weights and the canary set; returns metrics of the evaluation rows, if there are any."""
    config, run, on_progress = training.config, training.run, training.on_progress
    stop = StopOnSignal(lambda: on_progress(Progress("warning", message=_STOPPING)))
    # The monitor before the best checkpoint, which goes by its drift.
    add_callbacks(training, trainer, monitor, best, stop, NotANumber())
    try:
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
        evaluation = final_evaluation(trainer) if rows_to_evaluate(training) else {}
        _save(trainer, weights_folder(run, config))
        # Sharded weights can't answer in one process.
        if is_first_process() and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            tokenizer, arguments = training.data.tokenizer, config.data.chat_template_kwargs
            write_canary(run, trainer.model, tokenizer, of_canary, arguments, training.dtype)
        return evaluation
    finally:
        stop.restore()


def _keep_steps_until(checkpoint: Path | None, training: Training) -> None:
    """Forget the metrics of steps after the checkpoint that training goes on from; tell which that is."""
    step = step_of(checkpoint) if checkpoint else 0
    keep_metrics_until(training.run.metrics, step)
    where = f"from step {step}" if checkpoint else "from the start: there is no complete checkpoint"
    training.on_progress(Progress("warning", message=f"resuming {training.run.path} {where}."))


def _has_ended_at(
    checkpoint: Path, trainer: SelfAugTrainer, monitor: DriftMonitor, best: BestCheckpoint | None
) -> bool:
    """Whether drift ends the run at the checkpoint that it would go on from: killed after it, before its record.

    Then the trainer has that checkpoint's weights and state, as it had at the kill. Asked before training, since the
    Trainer looks whether it should stop only after a step.
    """
    step = step_of(checkpoint)
    if monitor.drift(step) is not None and not monitor.stopped:
        return False
    trainer.restore(checkpoint)
    if monitor.drift(step) is None:
        monitor.measure(trainer.model, trainer.state)
    if monitor.stopped and best is not None:
        best.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    return monitor.stopped


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


def _save(trainer: SelfAugTrainer, folder: Path) -> None:
    """Write the weights and the tokeniser beside their place, then rename."""
    first = is_first_process()
    partial = folder.with_name(f"{folder.name}.partial")
    if first:
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if first:
        for file in partial.glob("*.safetensors"):
            make_readable(file)
        # A pickle of the arguments: nobody needs it, and loading one runs code.
        (partial / "training_args.bin").unlink(missing_ok=True)
        partial.rename(folder)
