"""How a question and its passages become the messages of a prompt."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from selfaug.errors import ConfigError

__all__ = ["RetrievalTemplate"]


@dataclass(frozen=True, slots=True)
class RetrievalTemplate:
    """Turns a question and its passages into the messages of a prompt.

    A brace that is meant literally is written twice.

    Attributes:
        system: text of the system message, or None for no system message.
        passage: one passage; has `{text}`, may have `{number}` (from 1).
        separator: what stands between two passages.
        user: text of the user message; has `{passages}` and `{question}`.

    Raises:
        ConfigError: if a placeholder is missing or unknown, with all problems at once.
    """

    system: str | None = "Answer the question from the passages. Name the passage you used by its number."
    passage: str = "[{number}] {text}"
    separator: str = "\n\n"
    user: str = "{passages}\n\nQuestion: {question}"

    def __post_init__(self) -> None:
        problems = [
            *_type_problems(self),
            *_placeholder_problems("passage", self.passage, required={"text"}, optional={"number"}),
            *_placeholder_problems("user", self.user, required={"passages", "question"}, optional=set()),
        ]
        if problems:
            raise ConfigError(
                "the retrieval template is wrong.",
                problems=problems,
                hint="'passage' needs {text} and may have {number}; 'user' needs {passages} and {question}; "
                "write a literal brace twice.",
            )

    @classmethod
    def from_file(cls, path: str | Path) -> RetrievalTemplate:
        """Read a template from YAML with the attributes as keys; what is left out keeps its default.

        Raises:
            ConfigError: if the file can't be read, has unknown keys, or the template is wrong.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"can't read the template {path}: {error.strerror}.", hint="check the path."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the template {path} is not valid YAML: {error}",
                hint="indent with spaces, put texts that hold a colon or a brace in quotes, and save it as UTF-8.",
            ) from error
        if not isinstance(content, dict):
            raise ConfigError(
                f"the template {path} must hold keys and values.", hint=f"keys: {', '.join(_keys())}."
            )
        unknown = [_unknown_key(str(key)) for key in content if key not in _keys()]
        if unknown:
            raise ConfigError(
                f"the template {path} is wrong.", problems=unknown, hint=f"keys: {', '.join(_keys())}."
            )
        return cls(**content)

    def messages(self, question: str, passages: Sequence[str]) -> list[dict[str, Any]]:
        """Messages of the prompt: the system message, if there is one, and the user message.

        Anybody can have written question and passages: what becomes tokens is made by `without_special_tokens` before.
        """
        numbered = self.separator.join(
            self.format_passage(number, text) for number, text in enumerate(passages, 1)
        )
        user = {"role": "user", "content": self.user.format(passages=numbered, question=question)}
        return [user] if self.system is None else [{"role": "system", "content": self.system}, user]

    def follow_up(self, question: str) -> dict[str, Any]:
        """The user message of a further question about the same passages, which the first message has."""
        return {"role": "user", "content": self.user.format(passages="", question=question).strip()}

    def dialogue(self, passages: Sequence[str], turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """All messages of a retrieval row.

        Args:
            passages: in the order of the prompt.
            turns: questions with their answers; the passages stand with the first.
        """
        messages: list[dict[str, Any]] = []
        for question, answer in turns:
            if messages:
                messages.append(self.follow_up(question))
            else:
                messages = self.messages(question, passages)
            messages.append({"role": "assistant", "content": answer})
        return messages

    def format_passage(self, number: int, text: str) -> str:
        """One passage as it stands in the prompt; `number` counts from 1."""
        return self.passage.format(number=number, text=text)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_file` reads them."""
        return asdict(self)

    def digest(self) -> str:
        """Hash of the template, equal for equal templates on every machine."""
        content = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]


def _keys() -> list[str]:
    return [field.name for field in fields(RetrievalTemplate)]


def _unknown_key(key: str) -> str:
    near = difflib.get_close_matches(key, _keys(), n=1)
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _type_problems(template: RetrievalTemplate) -> list[str]:
    problems = []
    for field in fields(template):
        value: object = getattr(template, field.name)
        if not isinstance(value, str) and not (field.name == "system" and value is None):
            problems.append(f"{field.name!r} must be text, it is {type(value).__name__}")
    if isinstance(template.system, str) and not template.system.strip():
        problems.append("'system' is empty; leave out the system message with null")
    return problems


def _placeholder_problems(name: str, text: object, *, required: set[str], optional: set[str]) -> list[str]:
    if not isinstance(text, str):
        return []  # said by _type_problems
    try:
        parts = [
            (field, spec, conversion)
            for _, field, spec, conversion in Formatter().parse(text)
            if field is not None
        ]
    except ValueError as error:
        return [f"{name!r}: {error}"]
    found = {field for field, _, _ in parts}
    problems = [f"{name!r} lacks {{{field}}}" for field in sorted(required - found)]
    # Attribute access, indexes, formats and conversions are refused: the values are plain text.
    problems += [f"{name!r} has unknown {{{field}}}" for field in sorted(found - required - optional)]
    problems += [
        f"{name!r}: {{{field}}} takes no format" for field, spec, conversion in parts if spec or conversion
    ]
    return problems
