"""What a run's beginning tells whoever goes on with it, and what has to be the same then."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import torch

from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError, DataError, SelfAugError
from selfaug.launcher import process_count
from selfaug.phases.inputs import TrainingData
from selfaug.phases.run_files import with_places
from selfaug.phases.run_models import hash_of_weights, trained_weights
from selfaug.phases.trained_template import template_before
from selfaug.phases.versions import NOT_KNOWN, installed_versions, versions_so_far
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir

__all__ = [
    "WENT_ON_FROM",
    "Begun",
    "in_dtype_of",
    "other_adapter",
    "require_same_data",
    "require_same_settings",
]

WENT_ON_FROM = "went_on_from"
"""In a run's started.json and record: the run whose adapter its training went on from, and the hash of that."""

# Settings that a resumed run may change: they don't touch the numbers.
_FREE_ON_RESUME = {
    "run": {"output", "overwrite", "offline"},
    "train": {"save_steps", "keep_checkpoints", "report_to", "logging_steps"},
    "data": {"train", "eval", "template", "split"},  # what is read from them is compared by its hash
    "selfaug": {"reference_cache_dir"},
    "evaluation": {"at_end", "data", "scorer", "also_score", "level", "suites", "max_new_tokens"},
}


@dataclass(frozen=True)
class Begun:
    """A run's beginning: its started.json.

    Attributes:
        data: what is known of its rows, as `TrainingData.report`.
        model: what its base model is, as `base_identity`.
        folder: the working folder of its training.
        day: that it began on, as YYYY-MM-DD: a chat template may write it into prompts.
        dtype: of matrix products, as torch prints it.
        processes: that train it.
        template: of the runs that it goes on from, which may not be there any more; None without.
        anchors: hash and seconds of those that its base model has written; None before.
        base_folder: the base model's name, if it is a folder; None for one of the hub.
        versions: of the libraries, as of `versions_so_far`.
        went_on_from: the run whose adapter its training goes on from, and the hash of that; None without.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    folder: str
    day: str
    dtype: str
    processes: int
    template: dict[str, Any] | None = None
    anchors: dict[str, Any] | None = None
    base_folder: str | None = None
    versions: list[dict[str, str]] = field(default_factory=lambda: [NOT_KNOWN])
    went_on_from: dict[str, str] | None = None

    @classmethod
    def here(
        cls, config: TrainConfig, data: TrainingData, model: dict[str, Any], day: date, dtype: torch.dtype
    ) -> Begun:
        """Of a run that begins in this process.

        Args:
            config: its settings.
            data: its rows.
            model: what its base model is.
            day: that is today's in prompts.
            dtype: of matrix products.
        """
        template, base = template_before(config), config.model.name
        return cls(
            data=data.report,
            model=model,
            folder=os.getcwd(),
            day=str(day),
            dtype=str(dtype),
            processes=process_count(),
            template=None if template is None else template.to_dict(),
            base_folder=base if os.path.isdir(base) else None,
            versions=[installed_versions()],
            went_on_from=_start_adapter(config),
        )

    @classmethod
    def read(cls, run: RunDir) -> Begun:
        """That of a run.

        Raises:
            DataError: if it is missing or damaged.
        """
        begun = read_record(run.started, "train-started")
        try:
            return cls(**begun)
        except TypeError as error:
            raise DataError(
                f"{run.started} is damaged, or of another selfaug: {error}",
                hint="begin a new run with another --output.",
            ) from error

    def with_versions_of_now(self, run: RunDir, tell: Callable[[str], None]) -> Begun:
        """The same with the versions of now, where they are others, which is told.

        Args:
            run: that is gone on with.
            tell: called with what has changed.
        """
        return replace(self, versions=versions_so_far(self.versions, str(run.path), tell))

    def write(self, run: RunDir) -> None:
        """Write it into the run's folder."""
        there = {name: value for name, value in vars(self).items() if value is not None}
        write_record(run.started, "train-started", there)


def require_same_settings(run: RunDir, config: TrainConfig) -> None:
    """Refuse other settings than the run's: resumed, it must give the same numbers.

    Raises:
        ConfigError: with all that differ.
    """
    own = load_config(run.config)
    before, now = own.model_dump(), config.model_dump()
    # A file may have another name in another folder.
    before_there, now_there = (with_places(run, one).model_dump() for one in (own, config))
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


def require_same_data(
    run: RunDir, begun: Begun, config: TrainConfig, data: TrainingData, model: dict[str, Any]
) -> None:
    """Refuse other rows, another base model or another adapter than those that the run began with.

    Another adapter only where there is no checkpoint to go on from.

    Args:
        run: that is gone on with.
        begun: its beginning.
        config: its settings.
        data: the rows as they are now.
        model: what the base model is now, as `base_identity`.

    Raises:
        ConfigError: with all that differ.
    """
    problems, hint = [], "begin a new run with another --output."
    if _digests(begun.data, "train", "replay") != _digests(data.report, "train", "replay"):
        if _digests(begun.data, "replay") != _digests(data.report, "replay") and _start_is_gone(
            begun, config
        ):
            hint = (
                f"the rows that are rehearsed are those that {config.lora.start_from} had learnt, and that run is not "
                f"there, or not as it was: put it back; or {hint}"
            )
        problems.append("the training rows are not those that the run began with")
    if config.train.best_of_rows > 0 and _digests(begun.data, "eval") != _digests(data.report, "eval"):
        problems.append(
            "the held-out rows, by which its checkpoint is chosen (train.best_of_rows), are not those that the run "
            "began with"
        )
    if begun.model["weights_hash"] != model["weights_hash"]:
        problems.append("the base model's weights are not those that the run began with")
    # A checkpoint's weights take the place of those that it began with.
    if run.latest_complete_checkpoint() is None and (other := other_adapter(begun, config)) is not None:
        problems.append(f"the adapter of {other} is not the one that the run began with")
    if problems:
        raise ConfigError(f"{run.path} can't be resumed:", problems=problems, hint=hint)


def _start_is_gone(begun: Begun, config: TrainConfig) -> bool:
    """Whether the run that training goes on from isn't there any more, or was trained anew."""
    try:
        return other_adapter(begun, config) is not None
    except SelfAugError:
        return True


def other_adapter(begun: Begun, config: TrainConfig) -> str | None:
    """The run whose adapter training goes on from, if that is not the one any more that a run began with.

    Args:
        begun: the run's beginning. Runs that an earlier selfaug began don't tell which it was.
        config: its settings.

    Raises:
        StorageError: if there is no such adapter.
    """
    if begun.went_on_from is None or (now := _start_adapter(config)) is None:
        return None
    return None if now["weights"] == begun.went_on_from["weights"] else now["run"]


def _start_adapter(config: TrainConfig) -> dict[str, str] | None:
    """The run whose adapter training begins with, and what identifies that; None where it begins with a new one."""
    if config.lora.start_from is None:
        return None
    before = RunDir.open(config.lora.start_from)
    weights = trained_weights(before, load_config(before.config))[0]
    return {"run": str(before.path), "weights": hash_of_weights(weights)}


def in_dtype_of(begun: Begun, config: TrainConfig) -> TrainConfig:
    """The settings, where "auto" is the dtype that a run began in: another kind of device would take another."""
    if config.model.dtype != "auto":
        return config
    model = config.model.model_copy(update={"dtype": begun.dtype.removeprefix("torch.")})
    return config.model_copy(update={"model": model})


def _digests(report: Mapping[str, Any], *parts: str) -> list[Any]:
    """Hashes of these rows, as the model sees them."""
    return [report[part]["digest"] for part in parts if part in report]
