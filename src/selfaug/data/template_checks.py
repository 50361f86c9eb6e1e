"""What a chat template makes of a row's messages: what it leaves out, writes in quotes, or refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from selfaug.data.row import Row

__all__ = [
    "REASONING",
    "Turn",
    "has_thoughts",
    "lacks_reasoning",
    "quoted_arguments",
    "template_errors",
    "unfaithful",
]

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Fields of an assistant message in which data sets keep its thoughts, apart from its content."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A trained turn as text: up to where generation starts, and up to its end."""

    prompt: str
    whole: str


def template_errors() -> tuple[type[Exception], ...]:
    """What a chat template raises: on purpose, or because a message isn't as it expects."""
    import jinja2

    return (jinja2.TemplateError, TypeError, ValueError, KeyError)


def unfaithful(row: Row, messages: list[dict[str, Any]], trained: list[int], turns: list[Turn]) -> str:
    """What the template leaves out of the row; empty if nothing.

    Whitespace aside: templates trim. The text of assistant turns that aren't trained is left alone: models that
    reason strip their thinking from earlier turns on purpose.
    """
    prompt, before = _squash(turns[-1].prompt), messages[: trained[-1]]
    for index, message in enumerate(before):
        if message["role"] != "assistant" and not _is_rendered(message, prompt):
            return f"the chat template leaves out or changes the {message['role']} message {index}"
    calls = [name for message in before for name in _tool_names(message.get("tool_calls"))]
    if name := _unnamed([*_tool_names(row.tools), *calls], prompt):
        return f"the chat template leaves out the tool {name!r}, or a call of it"
    for index, turn in zip(trained, turns, strict=True):
        message, whole = messages[index], _squash(turn.whole)
        if _squash(message["content"]) not in whole:
            return f"the chat template leaves out or changes the assistant message {index}, which is trained"
        # What is called stands in the prompt already, where the tools are described.
        written = whole.removeprefix(_squash(turn.prompt))
        if name := _unnamed(_tool_names(message.get("tool_calls")), written):
            return f"the chat template leaves out the call of {name!r} in message {index}, which is trained"
    return ""


def _is_rendered(message: dict[str, Any], prompt: str) -> bool:
    content = message["content"]
    if _squash(content) in prompt:
        return True
    # Some templates, such as Llama 3.1's, write as JSON what a tool has given.
    return message["role"] == "tool" and _squash(json.dumps(content, ensure_ascii=False)[1:-1]) in prompt


def quoted_arguments(messages: list[dict[str, Any]], trained: list[int], turns: list[Turn]) -> str | None:
    """The name of a called function whose arguments, JSON in a text, the template writes as JSON of this text.

    No server reads such a call. Other templates write the text as it stands, and want it so.
    """
    texts = [
        (index, function)
        for index, message in enumerate(messages)
        for function in _functions(message.get("tool_calls"))
        if isinstance(function.get("arguments"), str)
    ]
    if not texts:
        return None
    prompt = _squash(turns[-1].prompt)
    written = {
        index: _squash(turn.whole).removeprefix(_squash(turn.prompt))
        for index, turn in zip(trained, turns, strict=True)
    }
    for index, function in texts:
        arguments = _parsed(function["arguments"])
        # A "{}" in quotes may stand elsewhere in the prompt, as in the description of a tool.
        if not isinstance(arguments, dict) or (not arguments and index not in written):
            continue
        if _squash(json.dumps(function["arguments"], ensure_ascii=False)) in written.get(index, prompt):
            return str(function.get("name"))
    return None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _functions(described: object) -> list[dict[str, Any]]:
    """Functions in a list of tools or of calls, as far as it has the usual form."""
    entries = described if isinstance(described, list) else []
    functions = [entry.get("function", entry) for entry in entries if isinstance(entry, dict)]
    return [function for function in functions if isinstance(function, dict)]


def _tool_names(described: object) -> list[str]:
    names = [function.get("name") for function in _functions(described)]
    return [name for name in names if isinstance(name, str)]


def _unnamed(names: list[str], text: str) -> str | None:
    """The first of the names that the text, without whitespace, has less often."""
    return next((name for name, count in Counter(names).items() if text.count(_squash(name)) < count), None)


def lacks_reasoning(trained: list[dict[str, Any]], turns: list[Turn]) -> bool:
    """Whether the template leaves out with which thoughts a trained turn came about; of several texts it takes one."""
    for message, turn in zip(trained, turns, strict=True):
        texts = [_squash(text) for key in REASONING if isinstance(text := message.get(key), str)]
        whole = _squash(turn.whole)
        if any(texts) and not any(text in whole for text in texts if text):
            return True
    return False


def has_thoughts(row: Row) -> bool:
    """Whether an answer has thoughts, in a field of its own or in its content."""
    turns = [turn for turn in (*row.prompt, *row.completion) if isinstance(turn, dict)]
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    return any("</think>" in turn["content"] or any(map(turn.get, REASONING)) for turn in answers)


def _squash(text: str) -> str:
    return "".join(text.split())
