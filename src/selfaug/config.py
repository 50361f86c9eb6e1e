"""Settings of a training run: from a YAML file, flags and `--set`, checked all at once.

Precedence: `--set` over flags over the file over the defaults. Paths are relative to the working folder.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from selfaug.errors import ConfigError

__all__ = ["FLAGS", "LevelName", "TrainConfig", "dump_config", "load_config"]

FLAGS: dict[str, str] = {
    "--model": "model.name",
    "--dtype": "model.dtype",
    "--device": "model.device",
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
    "--output": "run.output",
    "--overwrite": "run.overwrite",
    "--offline": "run.offline",
}
"""The settings that have a flag of their own, by flag."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _not_a_bool(value: Any) -> Any:
    # Pydantic takes true for 1, and a "yes" in YAML is true.
    if isinstance(value, bool):
        raise PydanticCustomError("number_expected", "should be a number, not true or false")
    return value


Strings = Annotated[list[str], BeforeValidator(_as_list)]
Integer = Annotated[int, BeforeValidator(_not_a_bool)]
Number = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]


class _Section(BaseModel):
    # Fields such as model_name are ours to use; nothing is added to what the user writes.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


LevelName = Literal["auto", "1", "2", "3", "all"]
"""Which level of the general suite is asked; "auto" is what fits the base model."""


class ModelSettings(_Section):
    """Which model, and how it is loaded."""

    name: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model. Only for models that you have read."
    )
    quantization: Literal["none", "4bit"] = Field(
        default="none",
        description="Load the base weights in 4 bits (QLoRA); needs the extra `qlora` and CUDA.",
    )


class DataSettings(_Section):
    """Where the rows come from and how they become tokens."""

    train: Strings = Field(min_length=1)
    eval: Strings = []
    template: str | None = None
    every_assistant_turn: bool = False
    skip_bad_rows: bool = False
    max_length: Annotated[Integer, Field(ge=8)] = 2048
    split: str = Field(default="train", description="Split of a hub data set. Files have none.")
    replay: Strings = Field(
        default=[],
        description="General rows that are mixed in (data replay): files, or `embedded` for a small set that comes "
        "with selfaug.",
    )
    replay_share: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.2,
        description="Share of all rows that are replayed ones, if there are any; repeated if too few.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default={}, description="Arguments of the chat template, such as `enable_thinking: false`."
    )


class LoraSettings(_Section):
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
        description="Layers with an adapter, by the ends of their names; `all-linear` takes all but the head.",
    )
    dora: bool = Field(default=False, description="DoRA: magnitude and direction of the weights apart.")
    weight_penalty: Annotated[Number, Field(ge=0)] = Field(
        default=0.0,
        description="Constrains the weights instead of the outputs: so much times the squared Frobenius norm of the "
        "adapter's change, summed over layers, is added to the loss.",
    )
    preserved: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.5, description="With `osf`: share of the singular directions that stay as they are."
    )


class AlignmentSettings(_Section):
    """The alignment loss and its reference model."""

    alpha: Annotated[Number, Field(ge=0)] = 0.5
    drift_limit: Annotated[Number, Field(gt=0)] | None = None
    divergence: Literal["forward", "reverse"] = "forward"
    divergence_temperature: Annotated[Number, Field(gt=0)] = 1.0
    align_boundary: bool = True
    position_fraction: Annotated[Number, Field(gt=0, le=1)] = 1.0
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


class OptimizerSettings(_Section):
    """Steps, batches and the optimizer. One step sees batch_size * gradient_accumulation rows a process."""

    epochs: Annotated[Number, Field(gt=0)] = 1.0
    steps: Annotated[Integer, Field(ge=1)] | None = None
    batch_size: Annotated[Integer, Field(ge=1)] = 4
    gradient_accumulation: Annotated[Integer, Field(ge=1)] = 4
    learning_rate: Annotated[Number, Field(gt=0)] = 2e-4
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        default="cosine", description="How the learning rate goes down."
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
    packing: bool = Field(default=False, description="Fill each row of a batch with several training rows.")
    padding_free: bool = Field(
        default=False,
        description="One long row a batch, without padding; needs attention that knows documents.",
    )
    logging_steps: Annotated[Integer, Field(ge=1)] = Field(
        default=1, description="Steps between two lines of metrics.jsonl."
    )
    save_steps: Annotated[Integer, Field(ge=1)] = 100
    keep_checkpoints: Annotated[Integer, Field(ge=1)] = Field(
        default=2, description="So many of the latest are kept."
    )
    eval_steps: Annotated[Integer, Field(ge=1)] | None = Field(
        default=None, description="Steps between evaluations; as `train.save_steps` if not set."
    )
    best_of_rows: Annotated[Integer, Field(ge=0)] = Field(
        default=0,
        description="At each checkpoint, so many rows of `data.eval` are answered and scored, and the run ends with "
        "the best checkpoint, among those within `selfaug.stop_at_drift` if that is set; 0 ends with the last. What "
        "is chosen on these rows can't be reported on them.",
    )
    best_scorer: str = Field(
        default="exact", min_length=1, description="How these answers are scored, as for `selfaug evaluate`."
    )
    report_to: Strings = Field(
        default=[],
        description="Trackers by transformers' names (trackio, mlflow, wandb, tensorboard). None by default.",
    )

    @property
    def kept_checkpoints(self) -> int:
        """So many stay. With the best one, at least two: else nothing but it would be left to resume from."""
        return max(2, self.keep_checkpoints) if self.best_of_rows else self.keep_checkpoints


class RunSettings(_Section):
    """Where the run is written."""

    output: str = Field(default="runs/first", min_length=1)
    overwrite: bool = False
    offline: bool = False


class TrainConfig(_Section):
    """All settings of a training run. `load_config` reads one; `dump_config` writes it."""

    model: ModelSettings
    data: DataSettings
    lora: LoraSettings = LoraSettings()
    selfaug: AlignmentSettings = AlignmentSettings()
    train: OptimizerSettings = OptimizerSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _settings_fit_together(self) -> TrainConfig:
        if self.model.quantization == "4bit" and self.lora.method == "full":
            raise PydanticCustomError(
                "combination", "model.quantization: 4-bit weights can't be trained; use lora.method lora"
            )
        if self.train.packing and self.selfaug.reference == "cache":
            raise PydanticCustomError(
                "combination",
                "train.packing: splits rows, which a reference cache stores whole; turn one of them off",
            )
        if self.lora.weight_penalty > 0 and (self.lora.method != "lora" or self.lora.dora):
            raise PydanticCustomError(
                "combination",
                "lora.weight_penalty: constrains a LoRA adapter's change; use lora.method lora, no DoRA",
            )
        if self.selfaug.stop_at_drift is not None and self.selfaug.monitor_prompts == 0:
            raise PydanticCustomError(
                "combination", "selfaug.stop_at_drift: needs selfaug.monitor_prompts > 0 to see the drift"
            )
        if self.train.best_of_rows > 0 and not self.data.eval:
            raise PydanticCustomError(
                "combination",
                "train.best_of_rows: needs data.eval, whose rows are answered at each checkpoint",
            )
        if self.train.best_of_rows > 0 and self.lora.method == "full":
            raise PydanticCustomError(
                "combination",
                "train.best_of_rows: keeps the best adapter; with lora.method full, leave it out",
            )
        if self.selfaug.anchors != "none" and self.selfaug.alpha == 0:
            raise PydanticCustomError(
                "combination", "selfaug.anchors: are aligned and nothing else, so they need selfaug.alpha > 0"
            )
        if self.lora.method == "full" and self.selfaug.reference == "adapter_off":
            raise PydanticCustomError(
                "combination", "selfaug.reference: full fine-tuning has no adapter; use frozen_copy or cache"
            )
        return self


def load_config(
    file: str | os.PathLike[str] | None = None,
    flags: Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
) -> TrainConfig:
    """Settings from a YAML file, flags and `--set a.b=value`; the later ones win.

    Args:
        file: YAML file with the sections of `TrainConfig`.
        flags: values by flag ("--alpha"), see `FLAGS`; None means not given.
        sets: texts of the form "section.key=value"; the value is read as YAML.

    Raises:
        ConfigError: with every problem in `problems`: its place, what is wrong, and the nearest valid name.
    """
    settings: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    problems: list[str] = []
    if file is not None:
        settings = _read_yaml(Path(file), places, problems)
    for flag, value in (flags or {}).items():
        if value is not None:
            _put(settings, places, FLAGS[flag], value, flag)
    for text in sets:
        name, separator, raw = text.partition("=")
        if not separator or not name.strip():
            problems.append(f"--set {text}: should be section.key=value")
            continue
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError:
            value = raw  # a text such as "[INST]: x" need not be YAML
        _put(settings, places, name.strip(), value, f"--set {name.strip()}")
    try:
        config = TrainConfig.model_validate(settings)
    except ValidationError as error:
        problems += [_problem(detail, places) for detail in error.errors(include_url=False)]
    if problems:
        raise ConfigError(
            "the settings are not valid:" if len(problems) > 1 else "a setting is not valid:",
            problems=problems,
            hint="`selfaug train --help` shows the flags and an example.",
        )
    return config


def dump_config(config: TrainConfig) -> str:
    """The settings as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path, places: dict[tuple[str, ...], str], problems: list[str]) -> dict[str, Any]:
    """Settings of a YAML file; notes the line of each key, and doubled keys as problems."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"settings file {path} does not exist.", hint="check the path given to --config."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"settings file {path} is not UTF-8: {error}", hint="save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"settings file {path} can't be read: {error.strerror or error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path}{at}: not valid YAML ({getattr(error, 'problem', None) or error})."
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: should hold sections ({', '.join(TrainConfig.model_fields)}).")
    for keys, line in _lines(node):
        if keys in places:
            problems.append(f"{path}, line {line}: {'.'.join(keys)} is given a second time")
        places[keys] = f"{path}, line {line}"
    return cast("dict[str, Any]", settings)


def _lines(node: yaml.Node | None, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """The keys of a YAML tree, each as a path from the root, with their lines (from 1)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*above, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _lines(value, keys)


def _put(
    settings: dict[str, Any], places: dict[tuple[str, ...], str], name: str, value: object, place: str
) -> None:
    """Set one value by its dotted name."""
    keys = tuple(name.split("."))
    section = settings
    for key in keys[:-1]:
        if not isinstance(section.setdefault(key, {}), dict):
            return  # `selfaug: 5` in the file: stays, and is reported as not being a section
        section = section[key]
    section[keys[-1]] = value
    # What the file said below this key is gone.
    for known in [known for known in places if known[: len(keys)] == keys]:
        del places[known]
    places[keys] = place


def _problem(detail: ErrorDetails, places: Mapping[tuple[str, ...], str]) -> str:
    """One line for one error of pydantic: place, name, what is wrong, and what to write instead."""
    keys = tuple(str(key) for key in detail["loc"])
    if detail["type"] == "combination":
        # Found after all fields are valid, so it has no place; its text opens with the setting's name.
        keys = tuple(detail["msg"].partition(":")[0].split("."))
        return f"{_place(keys, places)}: {detail['msg']}"
    names = [key for key in keys if not key.isdigit()]
    field = _field(names)
    name = ".".join(names)
    place = _place(tuple(names), places)
    if detail["type"] == "missing":
        flag = next((flag for flag, target in FLAGS.items() if target == _required(name)), None)
        return f"{_required(name)} is missing: give it in the file" + (f" or with {flag}" if flag else "")
    if detail["type"] == "extra_forbidden":
        return f"{place}: there is no setting {name}{_nearest(names)}"
    given = detail["input"]
    if detail["type"] == "model_type":
        valid = ", ".join(_SECTIONS[names[0]].model_fields) if names and names[0] in _SECTIONS else ""
        return f"{place}: {name} should be a section with {valid}, got {given!r}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    message = re.sub(r"^input should be ", "should be ", message)
    line = f"{place}: {name} {message}, got {given!r}"
    if detail["type"] == "literal_error" and field is not None:
        close = difflib.get_close_matches(
            str(given), [str(value) for value in get_args(field)], n=1, cutoff=0.5
        )
        line += f" (did you mean {close[0]}?)" if close else ""
    return line


_SECTIONS: dict[str, type[_Section]] = {
    name: cast("type[_Section]", field.annotation) for name, field in TrainConfig.model_fields.items()
}


def _required(name: str) -> str:
    """The setting that is missing, where pydantic names only the missing section."""
    return {"model": "model.name", "data": "data.train"}.get(name, name)


def _field(names: Sequence[str]) -> Any:
    """Type of a setting, or None if there is no such setting."""
    if len(names) == 1:
        return _SECTIONS.get(names[0])
    if len(names) == 2 and names[0] in _SECTIONS:
        field = _SECTIONS[names[0]].model_fields.get(names[1])
        return None if field is None else field.annotation
    return None


def _place(keys: tuple[str, ...], places: Mapping[tuple[str, ...], str]) -> str:
    """Where a setting was given; that of its section if only that is known."""
    for length in range(len(keys), 0, -1):
        if keys[:length] in places:
            return places[keys[:length]]
        below = [place for known, place in places.items() if known[:length] == keys[:length]]
        if below:
            return below[0]
    return "defaults"


def _nearest(names: Sequence[str]) -> str:
    """A question with the setting that was most likely meant, or nothing."""
    inside = {f"{section}.{key}": key for section, model in _SECTIONS.items() for key in model.model_fields}
    last = names[-1]
    # The same section first, then the same key in another section, then the names of sections.
    here = [name for name in inside if len(names) > 1 and name.startswith(f"{names[0]}.")]
    for candidates in (
        {key: name for name, key in inside.items() if name in here},
        {name: name for name in _SECTIONS} if len(names) == 1 else {},
        {key: name for name, key in inside.items()},
    ):
        close = difflib.get_close_matches(last, candidates, n=1, cutoff=0.7)
        if close:
            return f" (did you mean {candidates[close[0]]}?)"
    return ""
