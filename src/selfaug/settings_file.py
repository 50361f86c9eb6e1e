"""Settings from a YAML file, flags and `--set`, checked all at once.

Precedence: `--set` over flags over the file over the defaults.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from selfaug.errors import ConfigError

__all__ = [
    "Integer",
    "Number",
    "Section",
    "SettingsForm",
    "Strings",
    "from_home",
    "nearest_name",
    "read_settings",
    "read_yaml",
    "refuse_combinations",
]

Settings = TypeVar("Settings", bound="Section")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _not_a_bool(value: Any) -> Any:
    # Pydantic takes true for 1, and a "yes" in YAML is true.
    if isinstance(value, bool):
        raise PydanticCustomError("number_expected", "should be a number, not true or false")
    return value


Strings = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)]
Integer = Annotated[int, BeforeValidator(_not_a_bool)]
Number = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]


def from_home(value: Any) -> Any:
    """Paths that begin with `~`, which a shell leaves as it is in a file of settings and after `--output=`."""
    if isinstance(value, list):
        return [from_home(one) for one in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


class Section(BaseModel):
    """A group of settings: unknown keys are errors, and nothing is changed after it was checked."""

    # Fields such as model_name are ours to use; nothing is added to what the user writes.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class SettingsForm(Generic[Settings]):
    """What the settings of a command are, and how a user gives them.

    Attributes:
        kind: a section whose fields are sections.
        flags: names of settings ("data.train") by the flag that gives them.
        required: which setting is missing where pydantic names only the missing section.
        command: whose help shows flags and an example.
        outdated: names of settings that count no longer, though they are not given anew, where others are: by what was
            the file (which may hold anything that YAML can), values by name of what now comes above it, and names of
            what the command has given before.
    """

    kind: type[Settings]
    flags: Mapping[str, str]
    required: Mapping[str, str] = field(default_factory=dict)
    command: str = "selfaug"
    outdated: Callable[[Mapping[str, Any], Mapping[str, object], Collection[str]], Iterable[str]] = (
        lambda *_: ()
    )


def read_settings(
    form: SettingsForm[Settings],
    file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
) -> Settings:
    """Settings from a YAML file, flags and `--set a.b=value`; the later ones win.

    Args:
        form: what they are.
        file: YAML file with the sections.
        flags: values by flag ("--alpha"); None means not given.
        sets: texts of the form "section.key=value"; the value is read as YAML.

    Raises:
        ConfigError: with every problem in `problems`: its place, what is wrong, and the nearest valid name.
    """
    settings: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    problems: list[str] = []
    if file is not None:
        sections = ", ".join(form.kind.model_fields)
        settings = read_yaml(
            file, places, problems, f"it should hold sections ({sections}), with their settings below them."
        )
    of_file = deepcopy(settings)
    given = {flag: value for flag, value in (flags or {}).items() if value is not None}
    _forget(settings, places, form.outdated(of_file, {form.flags[flag]: given[flag] for flag in given}, ()))
    above = {form.flags[flag] for flag in given}
    for flag, value in given.items():
        _put(settings, places, form.flags[flag], value, flag, problems)
    for text in sets:
        name, separator, raw = text.partition("=")
        if not separator or not name.strip():
            problems.append(f"--set {text}: should be section.key=value")
            continue
        try:
            value = yaml.load(raw, Loader=_Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            value = raw  # a text such as "[INST]: x" need not be YAML, and 2024-02-30 is no date
        _forget(settings, places, form.outdated(of_file, {name.strip(): value}, above))
        above.add(name.strip())
        _put(settings, places, name.strip(), value, f"--set {name.strip()}", problems)
    try:
        config = form.kind.model_validate(settings)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "combination":
                problems += [_combination(text, places) for text in detail["msg"].split("\n")]
            else:
                problems.append(_problem(detail, places, form))
    if problems:
        raise ConfigError(
            "the settings are not valid:" if len(problems) > 1 else "a setting is not valid:",
            problems=problems,
            hint=f"`{form.command} --help` shows the flags and an example.",
        )
    return config


def read_yaml(
    path: Path, places: dict[tuple[str, ...], str], problems: list[str], form: str
) -> dict[str, Any]:
    """Settings of a YAML file; notes the line of each key, and doubled keys as problems.

    Args:
        path: of the file.
        places: takes where each key stands.
        problems: takes what is wrong.
        form: what the file should hold, for the hint where it doesn't.

    Raises:
        ConfigError: if it can't be read, or is not YAML with keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"settings file {path} does not exist.", hint="check the path given to --config."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"settings file {path} is not UTF-8: {error}", hint="save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(
            f"settings file {path} can't be read: {error.strerror or error}",
            hint="give a file that can be read to --config.",
        ) from error
    try:
        lines = list(_lines(yaml.compose(text, Loader=_Loader)))
        settings = yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise ConfigError(
            f"{path}: a part of it holds itself, or too many others one in the other.",
            hint=f"{form} Take out the alias (*name) that stands inside what it is the name of.",
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # also of a date such as 2024-02-30
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path}{at}: not valid YAML ({getattr(error, 'problem', None) or error}).",
            hint=f"{form} Indent with spaces, and put texts that hold a colon or a brace in quotes.",
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{path} is not a file of settings.",
            hint=form,
        )
    for keys, line in lines:
        if keys in places:
            problems.append(f"{path}, line {line}: {'.'.join(keys)} is given a second time")
        places[keys] = f"{path}, line {line}"
    return cast("dict[str, Any]", settings)


class _Loader(yaml.SafeLoader):
    """Takes integers as flags do. In YAML 1.1, 010 is eight and 1:30 is ninety: here they are left for the setting."""


_INTEGER = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INTEGER, re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)


def _lines(node: yaml.Node | None, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """The keys of a YAML tree, each as a path from the root, with their lines (from 1)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*above, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _lines(value, keys)


def _put(
    settings: dict[str, Any],
    places: dict[tuple[str, ...], str],
    name: str,
    value: object,
    place: str,
    problems: list[str],
) -> None:
    """Set one value by its dotted name; notes as a problem where that is below something without names."""
    keys = tuple(name.split("."))
    section = settings
    for depth, key in enumerate(keys[:-1], start=1):
        if not isinstance(section.setdefault(key, {}), dict):
            if depth > 1:  # `selfaug: 5` in the file stays, and is reported as not being a section
                above = ".".join(keys[:depth])
                kind = "a list, to be given whole" if isinstance(section[key], list) else "one value"
                problems.append(f"{place}: {above} is {kind}; it has no {'.'.join(keys[depth:])}")
            return
        section = section[key]
    section[keys[-1]] = value
    # What the file said below this key is gone.
    _forget_places(places, keys)
    places[keys] = place


def _forget(settings: dict[str, Any], places: dict[tuple[str, ...], str], names: Iterable[str]) -> None:
    """Take settings ("data.train") out again, as if they had not been given."""
    for name in names:
        section, _, key = name.partition(".")
        if isinstance(settings.get(section), dict):
            settings[section].pop(key, None)
            _forget_places(places, (section, key))


def _forget_places(places: dict[tuple[str, ...], str], keys: tuple[str, ...]) -> None:
    for known in [known for known in places if known[: len(keys)] == keys]:
        del places[known]


def refuse_combinations(checks: Mapping[str, bool]) -> None:
    """For a validator of settings that are valid one by one: tells of all that don't fit together.

    Args:
        checks: whether something is wrong, by what is told of it: a text of one line that begins with the name of a
            setting and a colon.
    """
    if wrong := [text for text, is_wrong in checks.items() if is_wrong]:
        raise PydanticCustomError("combination", "\n".join(wrong))


def _combination(text: str, places: Mapping[tuple[str, ...], str]) -> str:
    # Found after all fields are valid, so it has no place; its text opens with the setting's name.
    return f"{_place(tuple(text.partition(':')[0].split('.')), places)}: {text}"


def _problem(detail: ErrorDetails, places: Mapping[tuple[str, ...], str], form: SettingsForm[Any]) -> str:
    """One line for one error of pydantic: place, name, what is wrong, and what to write instead."""
    keys = tuple(str(key) for key in detail["loc"])
    names = [key for key in keys if not key.isdigit()]
    sections = _sections(form.kind)
    field = _field(names, sections)
    name = ".".join(names)
    place = _place(tuple(names), places)
    if detail["type"] == "missing":
        missing = form.required.get(name, name)
        flag = next((flag for flag, target in form.flags.items() if target == missing), None)
        return f"{missing} is missing: give it in the file" + (f" or with {flag}" if flag else "")
    if detail["type"] == "extra_forbidden":
        return f"{place}: there is no setting {name}{_nearest(names, sections)}"
    given = detail["input"]
    if detail["type"] == "model_type":
        valid = ", ".join(sections[names[0]].model_fields) if names and names[0] in sections else ""
        return f"{place}: {name} should be a section with {valid}, got {given!r}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    message = re.sub(r"^input should be ", "should be ", message)
    if detail["type"] == "string_too_short" and given == "":
        return f"{place}: {name} is an empty text: perhaps a variable is not set"
    line = f"{place}: {name} {message}, got {given!r}"
    if detail["type"] == "literal_error" and field is not None:
        close = difflib.get_close_matches(
            str(given), [str(value) for value in get_args(field)], n=1, cutoff=0.5
        )
        line += f" (did you mean {close[0]}?)" if close else ""
    return line


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What somebody may have meant, in brackets; empty where nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _sections(kind: type[BaseModel]) -> dict[str, type[Section]]:
    return {name: cast("type[Section]", field.annotation) for name, field in kind.model_fields.items()}


def _field(names: Sequence[str], sections: Mapping[str, type[Section]]) -> Any:
    """Type of a setting, or None if there is no such setting."""
    if len(names) == 1:
        return sections.get(names[0])
    if len(names) == 2 and names[0] in sections:
        field = sections[names[0]].model_fields.get(names[1])
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


def _nearest(names: Sequence[str], sections: Mapping[str, type[Section]]) -> str:
    """A question with the setting that was most likely meant, or nothing."""
    inside = {f"{section}.{key}": key for section, model in sections.items() for key in model.model_fields}
    last = names[-1]
    # The same section first, then the same key in another section, then the names of sections.
    here = [name for name in inside if len(names) > 1 and name.startswith(f"{names[0]}.")]
    for candidates, cutoff in (
        ({key: name for name, key in inside.items() if name in here}, 0.6),
        ({name: name for name in sections} if len(names) == 1 else {}, 0.7),
        ({key: name for name, key in inside.items()}, 0.7),
    ):
        close = difflib.get_close_matches(last, candidates, n=1, cutoff=cutoff)
        if close:
            return f" (did you mean {candidates[close[0]]}?)"
    return ""
