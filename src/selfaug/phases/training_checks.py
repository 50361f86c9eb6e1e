"""What training refuses before it loads a model, and what an estimate of it refuses too."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch

from selfaug.config import LoraSettings, TrainConfig
from selfaug.core.printable import counted
from selfaug.errors import ConfigError
from selfaug.eval.scorers import named_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.phases.chosen_on import is_chosen_on
from selfaug.phases.evaluate import FAST_ROWS, require_chat_template
from selfaug.phases.evaluation_settings import suites_of
from selfaug.phases.inputs import (
    TrainingData,
    compute_dtype,
    load_training_data,
    tokenizer_of,
    training_device,
)
from selfaug.phases.suites import scored_by, task_prompts
from selfaug.settings_file import nearest_name
from selfaug.train.anchors import read_anchors

__all__ = ["CheckedInputs", "checked_inputs", "is_fsdp", "is_sharded", "require_evaluable"]

# Of trackers that are called otherwise.
_PACKAGES = {"azure_ml": "azureml-core", "flyte": "flytekit"}


class CheckedInputs(NamedTuple):
    """What a training has before its model.

    Attributes:
        device: that it takes.
        dtype: of matrix products.
        data: tokeniser and rows; its warnings tell of settings that count for nothing, too.
    """

    device: torch.device
    dtype: torch.dtype
    data: TrainingData


def checked_inputs(config: TrainConfig, day: date | None = None, *, learnt: bool = False) -> CheckedInputs:
    """Refuse what can't be used, before anything long; what is read for that is returned.

    Args:
        config: the settings.
        day: that a chat template writes into prompts as today's; None for today.
        learnt: as of `load_training_data`.

    Raises:
        ConfigError: if scorer, trackers, device, dtype, template or anchors can't be used.
        DataError, ModelError: if rows, anchors or tokeniser can't be used.
    """
    named_scorer(config.train.best_scorer)
    _require_trackers(config.train.report_to)
    device = training_device(config.model.device)
    dtype = compute_dtype(config, device)
    data = load_training_data(config, day=day, learnt=learnt)
    if config.selfaug.anchors not in ("none", "self"):  # the trainer, which has the model, reads them again
        read_anchors(
            Path(config.selfaug.anchors), data.tokenizer, data.max_length, config.data.chat_template_kwargs
        )
    told = [_said_of_unused(config.lora), _said_of_one_checkpoint(config, len(data.train.rows))]
    data = replace(data, warnings=[*data.warnings, *filter(None, told)])
    return CheckedInputs(device, dtype, data)


def _said_of_unused(lora: LoraSettings) -> str | None:
    """Which settings of an adapter are given where the method has none of that form; None if none are."""
    names = {
        "lora": [],
        "osf": ["rank", "alpha", "dropout", "dora"],
        "full": ["rank", "alpha", "dropout", "dora", "target_modules", "preserved"],
    }[lora.method]
    usual = LoraSettings()
    given = [f"lora.{name}" for name in names if getattr(lora, name) != getattr(usual, name)]
    if not given:
        return None
    trained = "trains all weights" if lora.method == "full" else "trains the share that lora.preserved leaves"
    verb = "counts" if len(given) == 1 else "count"
    return f"{', '.join(given)} {verb} for nothing: lora.method {lora.method} {trained}."


def _said_of_one_checkpoint(config: TrainConfig, rows: int) -> str | None:
    """That what goes by checkpoints has only the last one to go by; None if there are more, or nothing does.

    Args:
        config: the settings.
        rows: to train on; packed, they are fewer, and so are the steps.
    """
    train, names = config.train, []
    if config.selfaug.stop_at_drift is not None:
        names.append("selfaug.stop_at_drift")
    if train.best_of_rows > 0:
        names.append("train.best_of_rows")
    steps = train.planned_steps(rows)
    if not names or train.save_steps < steps:
        return None
    return (
        f"{' and '.join(names)} will see one checkpoint, the last: a checkpoint is saved every {train.save_steps:,} "
        f"steps (train.save_steps), and the training has {counted(steps, 'step')}. Give --save-steps "
        f"{max(1, steps // 5)} or so."
    )


def is_sharded() -> bool:
    """Whether the launcher has this process hold a part of the weights only (FSDP, DeepSpeed).

    Where weights lie in pieces on several GPUs, none of them holds a model that could be asked.
    """
    return is_fsdp() or _is_set("ACCELERATE_USE_DEEPSPEED")


def is_fsdp() -> bool:
    """Whether the launcher has FSDP cut the weights."""
    return _is_set("ACCELERATE_USE_FSDP")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


def require_evaluable(config: TrainConfig) -> None:
    """Refuse what the evaluation at the end would refuse, before anything long; without one, nothing.

    Raises:
        ConfigError, DataError: if scorer, suites or rows can't be used, or the model is sharded.
        ModelError: if it has no chat template.
    """
    settings = config.evaluation
    if settings.at_end == "none":
        return
    if is_sharded():
        raise ConfigError(
            "evaluation.at_end: a model that is sharded over processes can't be evaluated in the same command.",
            hint="leave it out, and give `selfaug evaluate RUN` afterwards.",
        )
    if is_chosen_on(config, settings.data):  # under another name: by its own, the settings were refused
        raise ConfigError(
            "evaluation.data: the checkpoint is chosen on rows of data.eval (train.best_of_rows), and these are among "
            "them, as a copy or in a folder.",
            hint="give others: what is chosen on rows can't be reported on them.",
        )
    tokenizer = tokenizer_of(config)
    require_chat_template(
        tokenizer, config.model.name, then="give that folder as --model; or leave --evaluate out"
    )
    score, *others = [named_scorer(name) for name in (settings.scorer, *settings.also_score)]
    files, made = suites_of(settings.suites)
    for name in files.keys() - made.keys():
        read_suite(files[name])
    if sources := settings.data or config.data.eval:
        suite = task_prompts(
            config,
            tokenizer,
            sources,
            score=score,
            items=FAST_ROWS if settings.at_end == "fast" else None,
            max_new_tokens=settings.max_new_tokens,
        )
        for other in others:
            scored_by(suite, other)
    elif set(settings.also_score) - {settings.scorer}:
        raise ConfigError(
            "evaluation.also_score: needs held-out rows, and there are none.",
            hint="give them with evaluation.data or data.eval, or leave it out.",
        )


def _require_trackers(names: list[str]) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(
                f"train.report_to: there is no tracker {name!r}{nearest_name(name, INTEGRATION_TO_CALLBACK)}.",
                hint=f"choose among {', '.join(sorted(INTEGRATION_TO_CALLBACK))}; none, alone, is no tracker.",
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(
                f"train.report_to {name!r} can't be used: {error}",
                hint=f"run `pip install {_PACKAGES.get(name, name)}`, or leave it out.",
            ) from error
