"""The fields of a raw row to a valid row, or why it can't be used."""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import re
import warnings
from typing import Any

from selfaug.data.row import OWN_TEMPLATE_ARGUMENTS, FollowUp, RetrievalParts, Row, is_trained
from selfaug.data.sources import RawRow, value_kind
from selfaug.data.template import RetrievalTemplate

__all__ = ["FORMS", "InvalidRowError", "read_row"]

FORMS = {
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "retrieval": ("question", "context", "answer"),
}
"""The fields that make a row one of the forms. A row may have other fields; they are ignored."""

_FORM_FIELDS = tuple(field for form in FORMS.values() for field in form)
_ROLES = ("system", "developer", "user", "assistant", "tool")

_PYTHON_LIST = re.compile(r"""\[\s*\{?\s*['"].*['"}]\s*\]""", re.DOTALL)
"""What Python prints of a list of texts or objects begins and ends like this; pandas writes that into CSV files."""
_NUMPY_GAPS = re.compile(r"""(?<=['"}]) (\.\.\. )?(?=['"{])""")
"""Between the items of an array, as numpy prints it; the dots stand for those that it leaves out."""
_WHOLE_NUMBER = re.compile(r"[0-9]+(\.0+)?")

# Names that other tools use, and that are too far from ours for difflib.
_FOREIGN_FIELDS = {
    "instruction": "prompt",
    "input": "prompt",
    "output": "completion",
    "response": "completion",
    "target": "completion",
    "conversation": "messages",
    "conversations": "messages",
    "query": "question",
    "documents": "context",
    "passages": "context",
}
_FOREIGN_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
}


class InvalidRowError(Exception):
    """Why a row is refused; becomes a `Problem`."""


def read_row(
    raw: RawRow, source: str, template: RetrievalTemplate, every_assistant_turn: bool
) -> tuple[str, Row]:
    """Its form, and the row.

    Args:
        raw: the row.
        source: that it was loaded from.
        template: for a retrieval row.
        every_assistant_turn: in `messages` train every assistant turn.

    Raises:
        InvalidRowError: with the reason.
    """
    # A column that is missing from some rows of a Parquet file or a hub data set is None there.
    fields = {name: value for name, value in raw.fields.items() if value is not None}
    form = _form(fields, raw.fields)
    prompt: str | list[dict[str, Any]]
    completion: str | list[dict[str, Any]]
    retrieval: RetrievalParts | None = None
    if form == "prompt-completion":
        prompt, completion = _prompt_completion(fields["prompt"], fields["completion"])
    elif form == "messages":
        prompt, completion = _split_messages(_from_csv(raw, fields, "messages"))
    else:
        passages = _passages(_from_csv(raw, fields, "context"))
        retrieval = RetrievalParts(
            _text("question", fields["question"]),
            passages,
            template,
            _gold(fields.get("gold"), len(passages)),
            _text("answer", fields["answer"]),
            _follow_ups(_from_csv(raw, fields, "follow_ups"), len(passages)),
        )
        prompt = retrieval.messages(len(retrieval.passages))
        last = retrieval.follow_ups[-1].answer if retrieval.follow_ups else retrieval.answer
        completion = [{"role": "assistant", "content": last}]
    return form, Row(
        id=_id(raw, fields.get("id")),
        prompt=prompt,
        completion=completion,
        file=raw.file,
        line=raw.line,
        retrieval=retrieval,
        tools=_tools(_list_from_text("tools", fields.get("tools"))),
        every_assistant_turn=bool(retrieval and retrieval.follow_ups)
        or (every_assistant_turn and form == "messages"),
        source=source,
        chat_template_kwargs=_template_arguments(fields.get("chat_template_kwargs")),
        cluster=_cluster(fields),
    )


def _form(fields: dict[str, Any], raw_fields: dict[str, Any]) -> str:
    complete = [form for form, needed in FORMS.items() if all(name in fields for name in needed)]
    if len(complete) == 1:
        return complete[0]
    if complete:
        raise InvalidRowError(f"has the fields of more than one form: {' and '.join(complete)}")
    if not fields:
        raise InvalidRowError("has no fields")
    if list(fields) == ["text"]:
        raise InvalidRowError(
            "has only 'text'; prompt and completion must be apart, the prompt is what is aligned"
        )
    meant = {near: name for name in fields if (near := _nearest_field(str(name)))}
    known = meant.keys() | fields.keys()
    form = max(FORMS, key=lambda form: sum(name in known for name in FORMS[form]) / len(FORMS[form]))
    reasons = []
    for name in FORMS[form]:
        if name in fields:
            continue
        reason = f"{name!r} is null" if name in raw_fields else f"{name!r} is missing"
        reasons.append(f"{reason} (did you mean it by {meant[name]!r}?)" if name in meant else reason)
    found = ", ".join(repr(str(name)) for name in list(fields)[:12])
    raise InvalidRowError(f"{'; '.join(reasons)}; found {found}")


def _nearest_field(name: str) -> str | None:
    if name in _FORM_FIELDS:
        return None
    foreign = _FOREIGN_FIELDS.get(name.lower())
    if foreign:
        return foreign
    near = difflib.get_close_matches(name.lower(), _FORM_FIELDS, n=1, cutoff=0.7)
    return near[0] if near else None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRowError(f"{name!r} must be text, it is {value_kind(value)}")
    if not value.strip():
        raise InvalidRowError(f"{name!r} is empty")
    return _encodable(name, value)


def _encodable(name: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can escape half of a surrogate pair; no tokeniser takes it.
        raise InvalidRowError(
            f"{name!r} has half of a surrogate pair at character {error.start + 1}"
        ) from error
    return text


def _prompt_completion(
    prompt: object, completion: object
) -> tuple[str | list[dict[str, Any]], str | list[dict[str, Any]]]:
    if isinstance(prompt, str) and isinstance(completion, str):
        return _text("prompt", prompt), _text("completion", completion)
    if isinstance(prompt, list) and isinstance(completion, list):
        prompt_messages = _messages("prompt", prompt)
        completion_messages = _messages("completion", completion)
        if not prompt_messages:
            raise InvalidRowError("'prompt' is empty")
        if not completion_messages:
            raise InvalidRowError("'completion' is empty")
        if len(completion_messages) != 1 or completion_messages[0]["role"] != "assistant":
            raise InvalidRowError("'completion' must be one assistant message; for more turns use 'messages'")
        _not_empty_turn("completion", completion_messages[0])
        if not is_trained(completion_messages[0]):
            raise InvalidRowError("'completion' has the weight 0, so there is nothing to train")
        return prompt_messages, completion_messages
    raise InvalidRowError(
        "'prompt' and 'completion' must both be text or both be lists of messages, "
        f"they are {value_kind(prompt)} and {value_kind(completion)}"
    )


def _split_messages(value: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not isinstance(value, list):
        raise InvalidRowError(f"'messages' must be a list of messages, it is {value_kind(value)}")
    messages = _messages("messages", value)
    last = max((index for index, message in enumerate(messages) if is_trained(message)), default=None)
    if last is None:
        weightless = any(message["role"] == "assistant" for message in messages)
        raise InvalidRowError(
            "'messages' has no assistant turn" + (" of another weight than 0" if weightless else "")
        )
    if last == 0:
        raise InvalidRowError("'messages' has no prompt before its assistant turn")
    for index, message in enumerate(messages[: last + 1]):
        if message["role"] == "assistant":
            _not_empty_turn(f"messages[{index}]", message)
    return messages[:last], messages[last : last + 1]


def _messages(name: str, value: list[object]) -> list[dict[str, Any]]:
    return [_message(f"{name}[{index}]", message) for index, message in enumerate(value)]


def _message(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRowError(
            f"{name!r} must be an object with 'role' and 'content', it is {value_kind(value)}"
        )
    message = {str(key): item for key, item in value.items() if item is not None}
    if "role" not in message:
        instead = " (did you mean it by 'from'?)" if "from" in message else ""
        raise InvalidRowError(f"{name!r} has no 'role'{instead}")
    role = message["role"]
    if role not in _ROLES:
        near = _FOREIGN_ROLES.get(str(role).lower()) or next(
            iter(difflib.get_close_matches(str(role).lower(), _ROLES, n=1)), None
        )
        meant = f"; did you mean {near!r}?" if near else f"; roles are {', '.join(_ROLES)}"
        raise InvalidRowError(f"{name!r} has the unknown role {role!r}{meant}")
    if role == "assistant" and message.get("weight", 1) not in (0, 1):
        raise InvalidRowError(
            f"{name!r} has the weight {message['weight']!r}; it may be 0, for a turn that is not trained, or 1"
        )
    # Some templates take a turn with an empty list of calls for one that calls a tool.
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    # An assistant turn that calls a tool may come without content.
    elif role == "assistant":
        message.setdefault("content", "")
    if "content" not in message:
        raise InvalidRowError(f"{name!r} has no 'content'")
    if not isinstance(message["content"], str):
        raise InvalidRowError(f"the content of {name!r} must be text, it is {value_kind(message['content'])}")
    _encodable(name, message["content"])
    if role == "user" and not message["content"].strip():
        raise InvalidRowError(f"the content of {name!r} is empty")
    return message


def _not_empty_turn(name: str, message: dict[str, Any]) -> None:
    if not message["content"].strip() and not message.get("tool_calls"):
        raise InvalidRowError(f"{name!r} is empty")


def _passages(value: object) -> tuple[str, ...]:
    passages = [value] if isinstance(value, str) else value
    if not isinstance(passages, list):
        raise InvalidRowError(f"'context' must be text or a list of passages, it is {value_kind(value)}")
    if not passages:
        raise InvalidRowError("'context' is empty")
    if isinstance(value, str):
        return (_text("context", value),)
    return tuple(_text(f"context[{index}]", passage) for index, passage in enumerate(passages))


def _gold(value: object, passages: int) -> int | None:
    """The number of a passage; None for anything else, since a user's field may have the name.

    Where rows have none, columns hold floats, and CSV files their texts.
    """
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= passages:
        return None
    return value


def _follow_ups(value: object, passages: int) -> tuple[FollowUp, ...]:
    if value is None or value == "":
        return ()
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InvalidRowError(
            f"'follow_ups' must be a list of objects with 'question' and 'answer', it is {value_kind(value)}"
        )
    return tuple(
        FollowUp(
            _text(f"follow_ups[{place}].question", one.get("question")),
            _text(f"follow_ups[{place}].answer", one.get("answer")),
            _gold(one.get("gold"), passages),
        )
        for place, one in enumerate(value)
    )


def _tools(value: object) -> list[dict[str, Any]] | None:
    if value is None or value in ([], ""):
        return None
    if isinstance(value, list) and all(isinstance(tool, dict) for tool in value):
        return value
    raise InvalidRowError(f"'tools' must be a list of objects, it is {value_kind(value)}")


def _template_arguments(value: object) -> dict[str, Any] | None:
    if isinstance(value, str):
        # What is no JSON is refused as the text that it is.
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value or "null")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRowError(f"'chat_template_kwargs' must be an object, it is {value_kind(value)}")
    arguments = {str(name): item for name, item in value.items() if item is not None}
    if clash := sorted(OWN_TEMPLATE_ARGUMENTS & arguments.keys()):
        raise InvalidRowError(
            f"'chat_template_kwargs' can't set {', '.join(clash)}: selfaug sets it itself; leave it out"
        )
    return arguments or None


def _id(raw: RawRow, value: object) -> str:
    if value is None or value == "":
        return f"{raw.file}:{raw.line}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRowError(f"'id' must be text or a whole number, it is {value_kind(value)}")
    return _encodable("id", str(value))


def _cluster(fields: dict[str, Any]) -> str:
    """Empty for what can't be read as one: a user's fields may have the names."""
    value = fields.get("cluster")
    if isinstance(value, str | int | float) and not isinstance(value, bool) and value == value:  # no NaN
        return str(value).strip()
    documents = fields.get("documents")
    # The first one is the question's own: others quote it, and would put its questions into clusters apart.
    if isinstance(documents, list) and documents and isinstance(documents[0], str):
        return documents[0]
    return ""


def _from_csv(raw: RawRow, fields: dict[str, Any], name: str) -> object:
    """A field; of a CSV cell that holds a list as JSON, this list."""
    value: object = fields.get(name)
    return _list_from_text(name, value) if raw.file.lower().endswith(".csv") else value


def _list_from_text(name: str, value: object) -> object:
    """The list of texts or objects that a text holds as JSON; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        items: list[object] = json.loads(value)
    except (ValueError, RecursionError):
        if _is_python_list(value.strip()):
            raise InvalidRowError(
                f"{name!r} looks like a list as Python prints it; write it as JSON (json.dumps)"
            ) from None
        return value  # text that happens to begin with a bracket, such as "[1] ..."
    return items if all(isinstance(item, str | dict) for item in items) else value


def _is_python_list(text: str) -> bool:
    """Whether a text is a list or an array as it is printed, and none that has brackets at both ends."""
    if not _PYTHON_LIST.fullmatch(text):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes
        warnings.simplefilter("ignore", DeprecationWarning)  # of the same, before Python 3.12
        try:
            # In one line, since a text with a line break in it is none that Python takes.
            tree = ast.parse(_NUMPY_GAPS.sub(", ", " ".join(text.split())), mode="eval")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return False
    return isinstance(tree.body, ast.List)
