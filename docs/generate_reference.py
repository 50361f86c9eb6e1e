"""Write docs/reference from the code: `python docs/generate_reference.py`.

A test compares what is there with what this makes, so the reference can't fall behind.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any

import typer
from trl import SFTConfig

import selfaug
from selfaug import errors
from selfaug.cli.main import app
from selfaug.config import FLAGS, TrainConfig
from selfaug.core.roi import HOURS_OF_TRAINING_AGAIN, MONTHS_BETWEEN_TRAININGS, ROUTER_HOURS, TRAININGS_AGAIN
from selfaug.data.template import RetrievalTemplate
from selfaug.eval.drift import Drift
from selfaug.model import reference
from selfaug.phases.ask import Answer, Assistant
from selfaug.prepare_config import PREPARE_FLAGS, PrepareConfig
from selfaug.retrieval.retriever import Passage
from selfaug.roi_config import ArmSettings, InputSettings, RoiConfig, quantity_of
from selfaug.train.loss import AlignmentLoss

FOLDER = Path(__file__).parent / "reference"
GENERATED = (
    "<!-- Generated from the code by docs/generate_reference.py: change the code, then run `make docs`. -->"
)


def pages() -> dict[str, str]:
    """Name and text of every page."""
    return {
        "cli.md": command_line(),
        "settings.md": settings(),
        "prepare-settings.md": prepare_settings(),
        "roi-settings.md": roi_settings(),
        "selfaug-config.md": selfaug_config(),
        "api.md": public_api(),
    }


def command_line() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", GENERATED, "", group.help, ""]
    lines += [
        "`python -m selfaug` is the same as `selfaug`. Results go to stdout, progress and notes to stderr.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | failed at run time |",
        "| 2 | wrong usage, settings, data or model |",
        "| 3 | the gate did not pass: a bound failed, or there are too few items to decide |",
        "| 4 | live traffic has drifted, or the canary set did not come back |",
        "| 130 | interrupted |",
    ]
    for name in group.list_commands(typer.Context(group)):
        command = group.commands[name]
        lines += ["", f"## selfaug {name}", "", command.help.strip(), ""]
        if command.epilog:
            lines += [command.epilog.replace("Example: ", "Example: `") + "`", ""]
        lines += ["| option | meaning |", "|---|---|"]
        lines += [
            f"| {_option(parameter)} | {_cell(parameter.help)} |"
            for parameter in command.params
            if not parameter.hidden
        ]
    return "\n".join(lines) + "\n"


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    default = parameter.default
    shown = not parameter.is_flag and isinstance(default, str | int | float) and default != ""
    told = f"{default:g}" if isinstance(default, float) else default
    return f"`{', '.join(parameter.opts)}{value}`" + (f" ({told})" if shown else "")


def settings() -> str:
    """Every setting of `TrainConfig` with type, default and flag."""
    return _settings("Settings", TrainConfig, FLAGS, "train")


def prepare_settings() -> str:
    """Every setting of `PrepareConfig` with type, default and flag."""
    return _settings("Settings of selfaug prepare", PrepareConfig, PREPARE_FLAGS, "prepare")


def _settings(title: str, config: Any, flag_names: dict[str, str], command: str) -> str:
    lines = [f"# {title}", "", GENERATED, "", (inspect.getdoc(config) or "").partition("\n")[0], ""]
    lines += [
        "They come from a YAML file (`--config`), flags, and `--set section.key=value`; the later ones win. All "
        "problems are reported at once. Paths are relative to the working folder.",
    ]
    flags = {target: flag for flag, target in flag_names.items()}
    helps = _flag_helps(command)
    described = _attributes(inspect.getdoc(selfaug.SelfAugConfig) or "")
    for section, outer in config.model_fields.items():
        model: Any = outer.annotation
        lines += ["", f"## {section}", "", inspect.getdoc(model) or "", ""]
        lines += ["| setting | type | default | flag | meaning |", "|---|---|---|---|---|"]
        for key, field in model.model_fields.items():
            name = f"{section}.{key}"
            flag = flags.get(name)
            meaning = field.description
            if meaning is None:
                meaning = described[key] if section == "selfaug" else helps[flag or name]
            default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
            shown = f"`{flag}`" if flag else ""
            lines.append(
                f"| `{key}` | {_cell(_type(field.annotation) + _limits(field.metadata))} | {default} | {shown} | "
                f"{_cell(meaning)} |"
            )
    return "\n".join(lines) + "\n"


def roi_settings() -> str:
    """Every setting of `RoiConfig` with default, limits, unit and meaning."""
    lines = ["# Settings of selfaug roi", "", GENERATED, "", inspect.getdoc(RoiConfig) or "", ""]
    lines += [
        "They come from a YAML file (`--config`) and `--set section.key=value`; the later ones win. All problems are "
        "reported at once. What is given wins over what a comparison (`gpu_hours`, accuracies) or a run that is served "
        "(`requests_per_week`) has measured.",
    ]
    lines += ["", "## inputs", "", inspect.getdoc(InputSettings) or "", ""]
    lines += ["| setting | default | from | to | unit | meaning |", "|---|---|---|---|---|---|"]
    for key, field in InputSettings.model_fields.items():
        low, likeliest, high = field.default if isinstance(field.default, tuple) else (field.default,) * 3
        certain = low == likeliest == high
        default = f"{likeliest:g}" if certain else f"[{low:g}, {likeliest:g}, {high:g}]"
        of, meaning = quantity_of(key), _cell(field.description or "")
        lines.append(f"| `{key}` | `{default}` | {of.low:,.12g} | {of.high:,.12g} | {of.unit} | {meaning} |")
    lines += [
        "",
        f"Fixed, and no settings: a tuned model is trained again every {MONTHS_BETWEEN_TRAININGS} months, with "
        f"{TRAININGS_AGAIN} trainings and {HOURS_OF_TRAINING_AGAIN} hours of an engineer each time; a router takes "
        f"{ROUTER_HOURS} hours of an engineer a month.",
    ]
    arms = [name for name, field in RoiConfig.model_fields.items() if field.annotation is ArmSettings]
    lines += ["", f"## {', '.join(arms)}", "", inspect.getdoc(ArmSettings) or "", ""]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for key, field in ArmSettings.model_fields.items():
        lines.append(
            f"| `{key}` | {_cell(_type(field.annotation) + _limits(field.metadata))} | `{_yaml(field.default)}` | "
            f"{_cell(field.description or '')} |"
        )
    return "\n".join(lines) + "\n"


def _flag_helps(command: str) -> dict[str, str]:
    group: Any = typer.main.get_command(app)
    return {
        option: parameter.help for parameter in group.commands[command].params for option in parameter.opts
    }


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    """A type in the words of YAML."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0]) + _limits(arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is list:
        return "list of texts, or one"
    if origin is dict:
        return "mapping"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return words[annotation]


def _limits(metadata: typing.Iterable[Any]) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    flat = [part for entry in metadata for part in (entry, *getattr(entry, "metadata", ()))]
    limits = [
        f" {sign} {getattr(part, name)}"
        for part in flat
        for name, sign in signs.items()
        if getattr(part, name, None) is not None
    ]
    return ",".join(limits)


def selfaug_config() -> str:
    """The fields that `SelfAugConfig` adds to trl's `SFTConfig`, or gives another default."""
    theirs = {field.name: field.default for field in dataclasses.fields(SFTConfig)}
    doc = inspect.getdoc(selfaug.SelfAugConfig) or ""
    described = _attributes(doc)
    lines = ["# SelfAugConfig", "", GENERATED, "", doc.partition("\nAttributes:")[0].strip(), ""]
    lines += ["All fields of trl's `SFTConfig` besides these.", ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(selfaug.SelfAugConfig):
        if "help" in field.metadata and (field.name not in theirs or field.name == "max_length"):
            meaning = described.get(field.name) or field.metadata["help"]
            lines.append(
                f"| `{field.name}` | `{_cell(str(field.type))}` | `{field.default!r}` | {_cell(meaning)} |"
            )
    return "\n".join(lines) + "\n"


def _attributes(doc: str) -> dict[str, str]:
    """The texts under "Attributes:" of a docstring, by name."""
    block = doc.partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2][0].upper() + match[2][1:]
        elif name:
            found[name] += " " + line.strip()
    return found


def public_api() -> str:
    """Signature and docstring of every public name, of the references and of the errors."""
    lines = ["# Python", "", GENERATED, "", "`from selfaug import ...`; kept stable."]
    for name in sorted(selfaug.__all__):
        thing = getattr(selfaug, name)
        lines += _entry(name, thing)
        if name == "SelfAugConfig":
            lines += ["", "Its fields: [SelfAugConfig](selfaug-config.md)."]
    lines += ["", "# Results"]
    lines += _entry("AlignmentLoss", AlignmentLoss, module="selfaug.train.loss")
    lines += _entry("Drift", Drift, module="selfaug.eval.drift")
    lines += _entry("Assistant", Assistant, module="selfaug.phases.ask")
    lines += _entry("Answer", Answer, module="selfaug.phases.ask")
    lines += _entry("Passage", Passage, module="selfaug.retrieval.retriever")
    lines += ["", "# Reference models", "", _block(inspect.getdoc(reference) or "")]
    for name in reference.__all__:
        lines += _entry(name, getattr(reference, name), module="selfaug.model.reference")
    lines += ["", "# Templates"]
    lines += _entry("RetrievalTemplate", RetrievalTemplate, module="selfaug.data")
    lines += [
        "",
        "# Errors",
        "",
        "`from selfaug.errors import ...`",
        "",
        _block(inspect.getdoc(errors) or ""),
    ]
    return "\n".join(lines) + "\n"


def _entry(name: str, thing: Any, *, module: str = "selfaug") -> list[str]:
    lines = ["", f"## {name}", "", f"`from {module} import {name}`", ""]
    doc = inspect.getdoc(thing) or ""
    if not inspect.isclass(thing):
        return [*lines, _block(_signature(name, thing) + "\n\n" + _indented(doc))]
    if name == "SelfAugConfig":
        return [*lines, doc.partition("\n")[0]]
    lines.append(_block(_signature(name, thing) + "\n\n" + _indented(doc)))
    for member, raw in vars(thing).items():
        method = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        text = inspect.getdoc(method) or ""
        # Methods that say what they are for; what only fills an interface is left to the interface.
        if member.startswith("_") or not inspect.isfunction(method) or not text or text.startswith("See "):
            continue
        if name == "SelfAugTrainer" and hasattr(thing.__base__, member):
            continue
        lines += [
            "",
            f"### {name}.{member}",
            "",
            _block(_signature(member, method) + "\n\n" + _indented(text)),
        ]
    return lines


def _signature(name: str, thing: Any) -> str:
    """The signature as in the code, a parameter a line where it is long."""
    signature = inspect.signature(thing)
    parameters, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parameters.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        parameters.append(_parameter(parameter))
    returned = signature.return_annotation
    result = "" if returned in (inspect.Signature.empty, "None", None) else f" -> {returned}"
    short = f"{name}({', '.join(parameters)}){result}"
    if len(short) <= 90:
        return short
    inner = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{name}(\n{inner}){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        # Named tuples wrap their annotations.
        text += f": {getattr(parameter.annotation, '__forward_arg__', parameter.annotation)}"
    if parameter.default is not parameter.empty:
        # A function's repr has its address in it.
        text += f" = {'...' if callable(parameter.default) else repr(parameter.default)}"
    return text


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
