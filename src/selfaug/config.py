"""Settings of a training run.

Precedence: `--set` over flags over the file over the defaults. Paths are relative to the working folder; `~` is the
home folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from selfaug.launcher import process_count
from selfaug.settings_file import (
    Integer,
    Number,
    Section,
    SettingsForm,
    Strings,
    from_home,
    read_settings,
    refuse_combinations,
)

__all__ = [
    "ASKING_FLAGS",
    "FLAGS",
    "LevelName",
    "TrainConfig",
    "dump_config",
    "load_config",
    "training_settings",
]

FLAGS: dict[str, str] = {
    "--model": "model.name",
    "--dtype": "model.dtype",
    "--device": "model.device",
    "--prepared": "data.prepared",
    "--train": "data.train",
    "--eval": "data.eval",
    "--template": "data.template",
    "--every-assistant-turn": "data.every_assistant_turn",
    "--skip-bad-rows": "data.skip_bad_rows",
    "--max-length": "data.max_length",
    "--rank": "lora.rank",
    "--method": "lora.method",
    "--alpha": "selfaug.alpha",
    "--drift-limit": "selfaug.drift_limit",
    "--position-fraction": "selfaug.position_fraction",
    "--reference": "selfaug.reference",
    "--anchors": "selfaug.anchors",
    "--epochs": "train.epochs",
    "--steps": "train.steps",
    "--batch-size": "train.batch_size",
    "--gradient-accumulation": "train.gradient_accumulation",
    "--learning-rate": "train.learning_rate",
    "--save-steps": "train.save_steps",
    "--seed": "train.seed",
    "--evaluate": "evaluation.at_end",
    "--output": "run.output",
    "--overwrite": "run.overwrite",
    "--offline": "run.offline",
}
"""The settings that have a flag of their own in `selfaug train`, by flag."""

ASKING_FLAGS: dict[str, str] = {
    "--scorer": "evaluation.scorer",
    "--level": "evaluation.level",
    "--max-new-tokens": "evaluation.max_new_tokens",
    "--suite": "evaluation.suites",
}
"""Those that have one in the commands that ask models and take settings: `assess`, `compare` and `balance`.

Of suites, the last two go by the flag alone.
"""


LevelName = Literal["auto", "1", "2", "3", "all"]
"""Which level of the general suite is asked; "auto" is what fits the base model."""


def _level_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value  # a 2 in YAML is a number


class ModelSettings(Section):
    """Which model, and how it is loaded."""

    name: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model. Only for models that you have read."
    )
    quantization: Literal["none", "4bit"] = Field(
        default="none",
        description="Load the base weights in 4 bits (QLoRA); needs the extra `qlora`, and is meant for an NVIDIA GPU.",
    )

    _paths = field_validator("name")(from_home)


class DataSettings(Section):
    """Where the rows come from and how they become tokens."""

    prepared: str | None = Field(
        default=None,
        min_length=1,
        description="Folder that `selfaug prepare` wrote: its rows for training and validation, and its template, "
        "unless others are given beside it; `selfaug ask` searches its index. Given above a file's rows, or above "
        "another folder, as over a run's `config.yaml`, it brings its own in their place.",
    )
    train: Strings = Field(min_length=1)
    eval: Strings = Field(default=[])
    template: str | None = Field(default=None, min_length=1)
    every_assistant_turn: bool = False
    skip_bad_rows: bool = False
    skip_held_out: bool = Field(
        default=False,
        description="Leave rows of `data.train` and `data.replay` out that ask what a row of `data.eval` asks: the "
        "same question, first user message or prompt. `selfaug realign` sets it.",
    )
    max_length: Annotated[Integer, Field(ge=8)] = 2048
    split: str = Field(
        default="train",
        description="Split of a hub data set that names none, as in `owner/name@validation`. Files have none.",
    )
    replay: Strings = Field(
        default=[],
        description="General or old rows that are mixed in (data replay): files, folders, or `embedded` for a small "
        "set that comes with selfaug. They are drawn evenly over these sources: each gives as many as any other, or "
        "all it has.",
    )
    replay_share: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.2,
        description="Share of all rows that are replayed ones, if there are any; repeated if too few. 0 replays none, "
        "and `data.replay` is only kept for a later `selfaug realign`.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default={}, description="Arguments of the chat template, such as `enable_thinking: false`."
    )

    _paths = field_validator("prepared", "train", "eval", "template", "replay")(from_home)

    @model_validator(mode="before")
    @classmethod
    def _takes_what_is_prepared(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("prepared"), str):
            return values
        taken = _taken_from(values["prepared"])
        if not os.path.exists(taken["eval"][0]):
            taken["eval"] = []
        return {**taken, **values}


def _taken_from(prepared: str) -> dict[str, Any]:
    """What settings of `data` are with a prepared folder, unless they are given; with its rows for validation."""
    folder = Path(from_home(prepared))
    return {
        "train": [str(folder / "train.jsonl")],
        "eval": [str(folder / "validation.jsonl")],
        "template": str(folder / "template.yaml"),
    }


class LoraSettings(Section):
    """What is trained: a LoRA adapter, or with `method: full` all weights."""

    method: Literal["lora", "full", "osf"] = Field(
        default="lora",
        description="`osf` is PEFT's orthogonal subspace fine-tuning: `lora.preserved` of each weight's singular "
        "directions stay, and the others are trained.",
    )
    rank: Annotated[Integer, Field(ge=1)] = 16
    alpha: Annotated[Number, Field(gt=0)] = Field(
        default=32,
        description="The adapter's output is scaled by `lora.alpha / lora.rank`. Not the alignment's weight.",
    )
    dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Dropout on the adapter's input. Never on in the reference pass."
    )
    target_modules: Strings = Field(
        default=["all-linear"],
        description="Layers with an adapter, by the ends of their names; `all-linear` takes all but the head, "
        "and but those layers of Mamba blocks whose weight is taken alone, by kernels or otherwise.",
    )
    dora: bool = Field(default=False, description="DoRA: magnitude and direction of the weights apart.")
    weight_penalty: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="Constrains the weights instead of the outputs: so much times the squared Frobenius norm of the "
        "adapter's change, summed over layers, is added to the loss.",
    )
    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="Run whose LoRA adapter training goes on from, as `selfaug realign` does; the reference stays the "
        "base model. Rank, layers and dropout must be that run's.",
    )
    preserved: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.5, description="With `osf`: share of the singular directions that stay as they are."
    )

    _paths = field_validator("start_from")(from_home)


class AlignmentSettings(Section):
    """The alignment loss and its reference model."""

    alpha: Annotated[Number, Field(ge=0)] = 0.5
    drift_limit: Annotated[Number, Field(gt=0)] | None = None
    divergence: Literal["forward", "reverse"] = "forward"
    divergence_temperature: Annotated[Number, Field(gt=0)] = 1.0
    align_boundary: bool = True
    position_fraction: Annotated[Number, Field(gt=0, le=1)] = 1.0
    row_fraction: Annotated[Number, Field(gt=0, le=1)] = 1.0
    reference: Literal["auto", "adapter_off", "frozen_copy", "cache"] = "auto"
    reference_cache_dir: str | None = None
    anchors: Annotated[str, Field(min_length=1)] = "none"
    anchor_count: Annotated[Integer, Field(ge=1)] = 96
    anchor_share: Annotated[Number, Field(gt=0, le=16)] = 0.5
    monitor_prompts: Annotated[Integer, Field(ge=0, le=152)] = Field(
        default=32,
        description="Drift is measured at each checkpoint on so many general prompts, with the base model's own "
        "answers; 0 measures none.",
    )
    stop_at_drift: Annotated[Number, Field(gt=0)] | None = Field(
        default=None,
        description="Training ends at the first checkpoint whose drift on these prompts, in nats per token, is beyond "
        "this.",
    )

    _paths = field_validator("reference_cache_dir", "anchors")(from_home)


class OptimizerSettings(Section):
    """Steps, batches and the optimizer. One step sees batch_size * gradient_accumulation rows a process."""

    epochs: Annotated[Number, Field(gt=0)] = Field(
        default=1.0,
        description="Passes over the rows. Given as a flag or by `--set`, it counts before a `train.steps` that was "
        "given below it: in the file, say.",
    )
    steps: Annotated[Integer, Field(ge=1)] | None = Field(
        default=None, description="Optimizer steps, instead of epochs."
    )
    batch_size: Annotated[Integer, Field(ge=1)] = 4
    gradient_accumulation: Annotated[Integer, Field(ge=1)] = 4
    learning_rate: Annotated[Number, Field(gt=0)] = 2e-4
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        default="cosine",
        description="How the learning rate goes down. With `constant` and `constant_with_warmup`, which are the same, "
        "it only goes up first: `train.warmup: 0` is constant from the first step.",
    )
    warmup: Annotated[Number, Field(ge=0)] = Field(
        default=0.03, description="Steps in which it goes up; a number below 1 is a share of all steps."
    )
    weight_decay: Annotated[Number, Field(ge=0)] = Field(
        default=0.0, description="Of AdamW, on the trained weights."
    )
    max_grad_norm: Annotated[Number, Field(ge=0)] = Field(
        default=1.0, description="Longer gradients are cut to this norm; 0 cuts none."
    )
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = 42
    # "auto": from a billion parameters on, where activations and not weights fill the memory.
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto",
        description="Compute activations again instead of keeping them; `auto` from a billion parameters on.",
    )
    packing: bool = Field(
        default=False,
        description="Fill each row of a batch with several training rows; refused for models that don't keep these "
        "apart.",
    )
    padding_free: bool = Field(
        default=False,
        description="One long row a batch, without padding; refused for models that don't keep its training rows "
        "apart.",
    )
    group_by_length: bool = Field(
        default=False,
        description="Rows of like length come in the same step, so that there is less padding to compute.",
    )
    logging_steps: Annotated[Integer, Field(ge=1)] = Field(
        default=1, description="Steps between two lines of metrics.jsonl; checkpoints have one, too."
    )
    save_steps: Annotated[Integer, Field(ge=1)] = 100
    keep_checkpoints: Annotated[Integer, Field(ge=1)] = Field(
        default=2, description="So many of the latest are kept."
    )
    eval_steps: Annotated[Integer, Field(ge=0)] | None = Field(
        default=None,
        description="Steps between evaluations; as `train.save_steps` if not set. 0 evaluates never, not at the end "
        "either.",
    )
    best_of_rows: Annotated[Integer, Field(ge=0)] = Field(
        default=0,
        description="At each checkpoint, so many rows of `data.eval`, evenly over its sources, are answered and "
        "scored, and the run ends with the best checkpoint, among those within `selfaug.stop_at_drift` if that is set; "
        "0 ends with the last. What is chosen on these rows can't be reported on them.",
    )
    best_scorer: str = Field(
        default="exact", min_length=1, description="How these answers are scored, as for `selfaug evaluate`."
    )
    report_to: Strings = Field(
        default=[],
        description="Trackers by transformers' names (trackio, mlflow, wandb, tensorboard). None by default.",
    )

    @field_validator("report_to")
    @classmethod
    def _none_is_no_tracker(cls, names: list[str]) -> list[str]:
        return [] if names == ["none"] else names

    @property
    def kept_checkpoints(self) -> int:
        """So many stay. With the best one, at least two: else nothing but it would be left to resume from."""
        return max(2, self.keep_checkpoints) if self.best_of_rows else self.keep_checkpoints

    @property
    def rows_a_step(self) -> int:
        """Rows that an optimizer step sees, over all processes."""
        return self.batch_size * self.gradient_accumulation * process_count()

    def planned_steps(self, rows: int) -> int:
        """Optimizer steps of the whole training.

        Args:
            rows: to train on; of packed ones, the rows that they are packed into.
        """
        return self.steps or math.ceil(math.ceil(rows / self.rows_a_step) * self.epochs)


class EvaluationSettings(Section):
    """What base and tuned model are asked when training is done, in the same command."""

    at_end: Literal["none", "fast", "full"] = Field(
        default="none",
        description="Evaluate the finished run as `selfaug evaluate` does: `full` asks everything, `fast` 96 general "
        "requests and 32 rows.",
    )
    data: Strings = Field(default=[], description="Held-out rows; those of `data.eval` if there are none.")
    scorer: str = Field(default="exact", min_length=1, description="How answers to the rows are scored.")
    also_score: Strings = Field(
        default=[], description="Other scorers, for what the same answers are worth by them."
    )
    level: Annotated[LevelName, BeforeValidator(_level_as_text)] = Field(
        default="auto", description="Of the general requests."
    )
    suites: Strings = Field(default=[], description="Questions of your own, JSONL or `module:function`.")
    max_new_tokens: Annotated[Integer, Field(ge=1)] = Field(
        default=128, description="Longest answer to a row."
    )

    _paths = field_validator("data", "suites")(from_home)


class RunSettings(Section):
    """Where the run is written."""

    output: str = Field(default="runs/first", min_length=1)
    overwrite: bool = False
    offline: bool = False

    _paths = field_validator("output")(from_home)


class TrainConfig(Section):
    """All settings of a training run. `load_config` reads one; `dump_config` writes it."""

    model: ModelSettings
    data: DataSettings
    lora: LoraSettings = LoraSettings()
    selfaug: AlignmentSettings = AlignmentSettings()
    train: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    run: RunSettings = RunSettings()

    def is_chosen_on(self, sources: Sequence[str]) -> bool:
        """Whether the checkpoint is chosen on rows of these sources; none stand for those of `data.eval`.

        This goes by names, and reads no file; `selfaug.phases.chosen_on` goes by what is in them.
        """
        # A file may be spelled in several ways.
        chosen, asked = (
            {Path(source).expanduser().resolve() for source in of}
            for of in (self.data.eval, sources or self.data.eval)
        )
        return self.train.best_of_rows > 0 and not asked.isdisjoint(chosen)

    @model_validator(mode="after")
    def _settings_fit_together(self) -> TrainConfig:
        model, lora, selfaug, train = self.model, self.lora, self.selfaug, self.train
        full, chosen = lora.method == "full", train.best_of_rows > 0
        refuse_combinations(
            {
                "model.quantization: 4-bit weights can't be trained, or decomposed by osf; use lora.method lora": (
                    model.quantization == "4bit" and lora.method != "lora"
                ),
                # trl keeps the adapter in bfloat16 then, and CUDA's scaler of float16's gradients takes none of these.
                "model.quantization: adapters on 4-bit weights don't train in float16; set model.dtype to bfloat16, or "
                "to float32 on GPUs before Ampere": model.quantization == "4bit" and model.dtype == "float16",
                "lora.start_from: goes on from a LoRA adapter; use lora.method lora": (
                    lora.start_from is not None and lora.method != "lora"
                ),
                "lora.weight_penalty: constrains a LoRA adapter's change; use lora.method lora, no DoRA": (
                    lora.weight_penalty > 0 and (lora.method != "lora" or lora.dora)
                ),
                "selfaug.stop_at_drift: needs selfaug.monitor_prompts > 0 to see the drift": (
                    selfaug.stop_at_drift is not None and selfaug.monitor_prompts == 0
                ),
                "train.best_of_rows: needs data.eval, whose rows are answered at each checkpoint": (
                    chosen and not self.data.eval
                ),
                "train.group_by_length: saves padding, of which packed and padding-free batches have none": (
                    train.group_by_length and (train.packing or train.padding_free)
                ),
                "train.best_of_rows: keeps the best adapter; with lora.method full, leave it out": chosen
                and full,
                "evaluation.data: the checkpoint is chosen on rows of data.eval (train.best_of_rows), which can't be "
                "reported on then; give others": (
                    self.evaluation.at_end != "none" and self.is_chosen_on(self.evaluation.data)
                ),
                "selfaug.drift_limit: is held by moving alpha, which starts from selfaug.alpha, 0 here; give --alpha "
                "above 0": (selfaug.drift_limit is not None and selfaug.alpha == 0),
                "selfaug.drift_limit: goes by each step's alignment loss, which is 0 in steps where no row is drawn; "
                "with selfaug.row_fraction below 1, give --alpha instead": (
                    selfaug.drift_limit is not None and selfaug.row_fraction < 1
                ),
                "selfaug.anchors: are aligned and nothing else, so they need selfaug.alpha > 0": (
                    selfaug.anchors != "none" and selfaug.alpha == 0
                ),
                "selfaug.reference: full fine-tuning has no adapter; use frozen_copy or cache": (
                    full and selfaug.reference == "adapter_off"
                ),
            }
        )
        return self


def _outdated(of_file: Mapping[str, Any], given: Mapping[str, object], above: Collection[str]) -> list[str]:
    """Settings that what is given above them speaks against: steps instead of epochs, and a file's rows of another
    folder. Rows that the command has given stay."""
    rows = _outdated_rows(of_file, given)
    return [*_outdated_steps(of_file, given, above), *(name for name in rows if name not in above)]


def _outdated_steps(_: Mapping[str, Any], given: Mapping[str, object], __: Collection[str]) -> list[str]:
    return ["train.steps"] if "train.epochs" in given else []


def _outdated_rows(of_file: Mapping[str, Any], given: Mapping[str, object]) -> list[str]:
    """A run's `config.yaml` has the rows of its prepared folder written out: given another one, they would stay. So
    would the rows of a file that has no such folder."""
    data = of_file["data"] if isinstance(of_file.get("data"), dict) else {}
    before = data.get("prepared")
    if not isinstance(given.get("data.prepared"), str):
        return []
    if before is None and data.get("train"):
        return ["data.train", "data.eval", "data.template"]
    if not isinstance(before, str):
        return []
    taken = _taken_from(before)
    outdated = [f"data.{name}" for name, value in taken.items() if data.get(name) == value]
    # Without rows for validation, config.yaml has none.
    if data.get("eval") == [] and not os.path.exists(taken["eval"][0]):
        outdated.append("data.eval")
    return outdated


_FORM = SettingsForm(
    TrainConfig,
    FLAGS | ASKING_FLAGS,
    required={"model": "model.name", "data": "data.train"},
    command="selfaug train",
    outdated=_outdated,
)


def load_config(
    file: str | os.PathLike[str] | None = None,
    flags: Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
    *,
    command: str = "selfaug train",
    rows_stay: bool = False,
) -> TrainConfig:
    """Settings from a YAML file, flags and `--set a.b=value`; the later ones win.

    So epochs win over steps that were given before, and another `data.prepared` brings its own rows and template
    instead of those of the one before.

    Args:
        file: YAML file with the sections of `TrainConfig`.
        flags: values by flag ("--alpha"), see `FLAGS` and `ASKING_FLAGS`; None means not given.
        sets: texts of the form "section.key=value"; the value is read as YAML.
        command: whose help an error names.
        rows_stay: keep the file's rows and template with another `data.prepared`.

    Raises:
        ConfigError: with every problem in `problems`: its place, what is wrong, and the nearest valid name.
    """
    form = replace(_FORM, command=command, outdated=_outdated_steps if rows_stay else _outdated)
    return read_settings(form, None if file is None else Path(file), flags, sets)


def training_settings(config: TrainConfig) -> dict[str, Any]:
    """What has to be the same to go on with several runs of these settings, as JSON values."""
    return config.model_dump(mode="json", exclude={"run", "evaluation"})


def dump_config(config: TrainConfig) -> str:
    """The settings as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
