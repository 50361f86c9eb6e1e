"""Raw rows to validated rows. Every bad row is reported, all at once."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.data.sources import Problem, RawRow, problems_error, read_rows, value_kind
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import DataError

__all__ = [
    "OWN_TEMPLATE_ARGUMENTS",
    "FollowUp",
    "LoadedRows",
    "RetrievalParts",
    "Row",
    "as_read",
    "load_rows",
]

FORMS = {
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "retrieval": ("question", "context", "answer"),
}
"""The fields that make a row one of the forms. A row may have other fields; they are ignored."""

_FORM_FIELDS = tuple(field for form in FORMS.values() for field in form)
_ROLES = ("system", "developer", "user", "assistant", "tool")

OWN_TEMPLATE_ARGUMENTS = frozenset(
    {"conversation", "messages", "add_generation_prompt", "tokenize", "tools", "return_dict"}
)
"""Arguments of the chat template that are set here, and that no `chat_template_kwargs` may set."""

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


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A further question about the passages of a retrieval row, asked in a turn of its own.

    Attributes:
        question: in words.
        answer: the completion.
        gold: as in `RetrievalParts`.
    """

    question: str
    answer: str
    gold: int | None = None


@dataclass(frozen=True, slots=True)
class RetrievalParts:
    """What the prompt of a retrieval row was made from, so that it can be made anew with fewer passages.

    Attributes:
        question: in words; the first one.
        passages: in the order of the prompt.
        template: of the prompt.
        gold: number of the passage that the answer is from, from 1; None where the row doesn't say.
        answer: to the first question.
        follow_ups: further questions, with their answers; the row's completion is the last one's.
    """

    question: str
    passages: tuple[str, ...]
    template: RetrievalTemplate
    gold: int | None = None
    answer: str = ""
    follow_ups: tuple[FollowUp, ...] = ()

    @property
    def fewest(self) -> int:
        """Passages that the prompt can't lose: the answers need their own, and cite them by their numbers."""
        golds = [self.gold, *(one.gold for one in self.follow_ups)]
        return max(gold or 1 for gold in golds)

    def messages(self, keep: int, plain: Callable[[str], str] = str) -> list[dict[str, Any]]:
        """Messages of the prompt with the first `keep` passages: all but the last answer.

        Args:
            keep: passages.
            plain: how questions and passages are written. For messages that become tokens: what
                `without_special_tokens` gives for the tokeniser.
        """
        turns = [(self.question, self.answer), *((one.question, one.answer) for one in self.follow_ups)]
        written = [(plain(question), answer) for question, answer in turns]
        return self.template.dialogue([plain(text) for text in self.passages[:keep]], written)[:-1]

    def format_passage(self, index: int, plain: Callable[[str], str]) -> str:
        """The passage at an index, from 0, as it stands in the prompt."""
        return self.template.format_passage(index + 1, plain(self.passages[index]))


@dataclass(frozen=True, slots=True)
class Row:
    """A valid training row: both prompt and completion are text, or both are messages.

    Attributes:
        id: the row's own id, or `file:line`; unique among the rows that were loaded together: a row whose id another
            file has taken is called `file:id`.
        prompt: text or messages. Those of a retrieval row are to be shown and compared: `prompt_for` gives what
            becomes tokens.
        completion: text, or a list with one assistant message.
        file: where the row is from.
        line: as in `RawRow`.
        retrieval: the parts of the prompt of a retrieval row.
        tools: descriptions of tools for the chat template.
        every_assistant_turn: the assistant turns in `prompt` are trained too.
        source: that it was loaded from, as `load_rows` was given it.
        chat_template_kwargs: arguments of the chat template for this row alone; None where it has none of its own.
        cluster: what the row hangs together with, such as the document that it is about; empty if nobody knows.
    """

    id: str
    prompt: str | list[dict[str, Any]]
    completion: str | list[dict[str, Any]]
    file: str
    line: int
    retrieval: RetrievalParts | None = None
    tools: list[dict[str, Any]] | None = None
    every_assistant_turn: bool = False
    source: str = ""
    chat_template_kwargs: dict[str, Any] | None = None
    cluster: str = ""

    def template_arguments(self, of_all: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the chat template: the row's own go before those of all rows."""
        return {**of_all, **(self.chat_template_kwargs or {})}

    def trained_turns(self) -> list[int]:
        """Places of the trained turns among the messages of prompt and completion; the completion is the last one.

        Only of a row of messages. A turn of weight 0 is not trained, nor is one without a prompt before it.
        """
        assert isinstance(self.prompt, list)
        last = len(self.prompt)
        if not self.every_assistant_turn:
            return [last]
        return [*(at for at, message in enumerate(self.prompt) if at and _is_trained(message)), last]

    def prompt_for(self, plain: Callable[[str], str], keep: int | None = None) -> str | list[dict[str, Any]]:
        """The prompt that becomes tokens.

        Args:
            plain: what `without_special_tokens` gives for the tokeniser: questions and passages of a retrieval row
                are written by it.
            keep: passages of a retrieval row; None for all.
        """
        if self.retrieval is None:
            return self.prompt
        return self.retrieval.messages(len(self.retrieval.passages) if keep is None else keep, plain)


def as_read(row: Row) -> dict[str, Any]:
    """A row in a form that `load_rows` reads it from again: passages can still be dropped, and none that is gold."""
    fields: dict[str, Any] = {"id": row.id}
    if row.retrieval is not None:
        (answer,) = (turn["content"] for turn in row.completion if isinstance(turn, dict))
        parts = row.retrieval
        first = parts.answer if parts.follow_ups else answer
        fields |= {"question": parts.question, "context": list(parts.passages), "answer": first}
        if parts.gold is not None:
            fields["gold"] = parts.gold
        if parts.follow_ups:
            # The completion may have been written anew.
            last = dataclasses.replace(parts.follow_ups[-1], answer=answer)
            fields["follow_ups"] = [dataclasses.asdict(one) for one in (*parts.follow_ups[:-1], last)]
    elif row.every_assistant_turn:
        fields["messages"] = [*row.prompt, *row.completion]
    else:
        fields |= {"prompt": row.prompt, "completion": row.completion}
    if row.tools is not None:
        fields["tools"] = row.tools
    if row.chat_template_kwargs is not None:
        fields["chat_template_kwargs"] = row.chat_template_kwargs
    if row.cluster:
        fields["cluster"] = row.cluster
    return fields


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """Valid rows, the problems of the rows that were skipped, and how many rows of each form there are."""

    rows: list[Row]
    problems: list[Problem]
    forms: dict[str, int]


class _InvalidRowError(Exception):
    """Why a row is refused; becomes a `Problem`."""


def load_rows(
    sources: Sequence[str | Path],
    *,
    template: RetrievalTemplate | None = None,
    every_assistant_turn: bool = False,
    skip_bad_rows: bool = False,
    split: str = "train",
    offline: bool = False,
) -> LoadedRows:
    """Read and validate the rows of all sources.

    Forms of a row, by its fields:

    - `prompt` and `completion`, both text, or both messages (the completion is one assistant message);
    - `messages`: the last assistant turn is the completion, what follows it is cut off; an assistant turn may have
      OpenAI's `weight`, and is not trained where it is 0;
    - `question`, `context` (text, or a list of passages) and `answer`, put into `template`; may have `gold`, the
      number of the passage that the answer is from, and `follow_ups`: a list of further questions about the same
      passages, each with `question`, `answer` and, if known, `gold`. Every answer is trained then.

    An `id` is optional, and so are `tools` (a list, also as JSON in a text) and `chat_template_kwargs` (an object, also
    as JSON), the row's own arguments of the chat template. Rows of one `cluster` (text or a number, as
    `selfaug prepare` writes it), or else with the same first one of `documents`, hang together: intervals of scores go
    by it. Other fields are ignored. In CSV files `messages`, `follow_ups`, and `context` where it is a list, are
    written as JSON.

    Args:
        sources: as for `read_rows`.
        template: for retrieval rows; None takes the default template.
        every_assistant_turn: in `messages` rows train every assistant turn, not only the last.
        skip_bad_rows: leave bad rows out and return their problems.
        split: the split of hub data sets.
        offline: refuse hub data sets.

    Raises:
        DataError: if a row is bad (with `skip_bad_rows`: if every row is), with all problems; or if a file is named
            twice.
    """
    template = template or RetrievalTemplate()
    rows: list[Row] = []
    problems: list[Problem] = []
    forms: Counter[str] = Counter()
    places: dict[str, str] = {}
    files: dict[str, str] = {}
    read: set[str] = set()
    total = unreadable_rows = 0
    for source in sources:
        raw_rows, unreadable = read_rows(source, split=split, offline=offline)
        read |= _require_new(raw_rows, read)
        problems += unreadable
        unreadable_rows += len(unreadable)
        total += len(raw_rows) + len(unreadable)
        for raw in raw_rows:
            try:
                form, row = _row(raw, str(source), template, every_assistant_turn)
                if row.id in places and files[row.id] != raw.file:
                    # Each of two files counts its own rows, and both may begin with 1.
                    row = dataclasses.replace(row, id=f"{raw.file}:{row.id}")
                if row.id in places:
                    raise _InvalidRowError(f"the id {row.id!r} is taken by {places[row.id]}")
            except _InvalidRowError as invalid:
                problems.append(Problem(raw.file, raw.line, str(invalid)))
                continue
            places[row.id], files[row.id] = f"{raw.file}:{raw.line}", raw.file
            rows.append(row)
            forms[form] += 1
    # What couldn't be read at all was found first.
    hint = _hint(problems, len(problems) > unreadable_rows, bool(rows))
    problems.sort(key=lambda problem: (problem.file, problem.line))
    if problems and (not skip_bad_rows or not rows):
        raise problems_error(f"{len(problems):,} of {total:,} rows can't be used.", problems, hint=hint)
    return LoadedRows(rows, problems, dict(forms))


def _require_new(rows: Sequence[RawRow], places: Set[str]) -> set[str]:
    """Refuse a file that was read before, however it is spelled: its ids would be taken by its own rows.

    Returns:
        The places of the rows' files.

    Raises:
        DataError: if one of them is there already.
    """
    files = {file: os.path.realpath(file) for file in dict.fromkeys(row.file for row in rows)}
    if twice := next((file for file, place in files.items() if place in places), None):
        raise DataError(
            f"{twice} is named twice.",
            hint="name it once; for its rows to count more in training, give a copy of it under another name.",
        )
    return set(files.values())


def _hint(problems: Sequence[Problem], fields_are_wrong: bool, some_are_valid: bool) -> str:
    hints = ["save the file as UTF-8."] if any("UTF-" in one.reason for one in problems) else []
    if fields_are_wrong:
        forms = "; ".join(" + ".join(fields) for fields in FORMS.values())
        hints.append(f"a row has the fields {forms}.")
    # That a whole file is left out is not what anybody means by it.
    rows_alone = not any(one.whole for one in problems)
    skip = "; or leave the bad rows out with --skip-bad-rows" if some_are_valid and rows_alone else ""
    return " ".join([*hints, f"Correct the {'rows' if rows_alone else 'files'}{skip}."])


def _row(
    raw: RawRow, source: str, template: RetrievalTemplate, every_assistant_turn: bool
) -> tuple[str, Row]:
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
        raise _InvalidRowError(f"has the fields of more than one form: {' and '.join(complete)}")
    if not fields:
        raise _InvalidRowError("has no fields")
    if list(fields) == ["text"]:
        raise _InvalidRowError(
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
    raise _InvalidRowError(f"{'; '.join(reasons)}; found {found}")


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
        raise _InvalidRowError(f"{name!r} must be text, it is {value_kind(value)}")
    if not value.strip():
        raise _InvalidRowError(f"{name!r} is empty")
    return _encodable(name, value)


def _encodable(name: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can escape half of a surrogate pair; no tokeniser takes it.
        raise _InvalidRowError(
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
            raise _InvalidRowError("'prompt' is empty")
        if not completion_messages:
            raise _InvalidRowError("'completion' is empty")
        if len(completion_messages) != 1 or completion_messages[0]["role"] != "assistant":
            raise _InvalidRowError(
                "'completion' must be one assistant message; for more turns use 'messages'"
            )
        _not_empty_turn("completion", completion_messages[0])
        if not _is_trained(completion_messages[0]):
            raise _InvalidRowError("'completion' has the weight 0, so there is nothing to train")
        return prompt_messages, completion_messages
    raise _InvalidRowError(
        "'prompt' and 'completion' must both be text or both be lists of messages, "
        f"they are {value_kind(prompt)} and {value_kind(completion)}"
    )


def _split_messages(value: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not isinstance(value, list):
        raise _InvalidRowError(f"'messages' must be a list of messages, it is {value_kind(value)}")
    messages = _messages("messages", value)
    last = max((index for index, message in enumerate(messages) if _is_trained(message)), default=None)
    if last is None:
        weightless = any(message["role"] == "assistant" for message in messages)
        raise _InvalidRowError(
            "'messages' has no assistant turn" + (" of another weight than 0" if weightless else "")
        )
    if last == 0:
        raise _InvalidRowError("'messages' has no prompt before its assistant turn")
    for index, message in enumerate(messages[: last + 1]):
        if message["role"] == "assistant":
            _not_empty_turn(f"messages[{index}]", message)
    return messages[:last], messages[last : last + 1]


def _messages(name: str, value: list[object]) -> list[dict[str, Any]]:
    return [_message(f"{name}[{index}]", message) for index, message in enumerate(value)]


def _message(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _InvalidRowError(
            f"{name!r} must be an object with 'role' and 'content', it is {value_kind(value)}"
        )
    message = {str(key): item for key, item in value.items() if item is not None}
    if "role" not in message:
        instead = " (did you mean it by 'from'?)" if "from" in message else ""
        raise _InvalidRowError(f"{name!r} has no 'role'{instead}")
    role = message["role"]
    if role not in _ROLES:
        near = _FOREIGN_ROLES.get(str(role).lower()) or next(
            iter(difflib.get_close_matches(str(role).lower(), _ROLES, n=1)), None
        )
        meant = f"; did you mean {near!r}?" if near else f"; roles are {', '.join(_ROLES)}"
        raise _InvalidRowError(f"{name!r} has the unknown role {role!r}{meant}")
    if role == "assistant" and message.get("weight", 1) not in (0, 1):
        raise _InvalidRowError(
            f"{name!r} has the weight {message['weight']!r}; it may be 0, for a turn that is not trained, or 1"
        )
    # Some templates take a turn with an empty list of calls for one that calls a tool.
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    # An assistant turn that calls a tool may come without content.
    elif role == "assistant":
        message.setdefault("content", "")
    if "content" not in message:
        raise _InvalidRowError(f"{name!r} has no 'content'")
    if not isinstance(message["content"], str):
        raise _InvalidRowError(
            f"the content of {name!r} must be text, it is {value_kind(message['content'])}"
        )
    _encodable(name, message["content"])
    if role == "user" and not message["content"].strip():
        raise _InvalidRowError(f"the content of {name!r} is empty")
    return message


def _is_trained(message: dict[str, Any]) -> bool:
    """Whether it is an assistant turn that may be trained: none that OpenAI's `weight` takes out."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def _not_empty_turn(name: str, message: dict[str, Any]) -> None:
    if not message["content"].strip() and not message.get("tool_calls"):
        raise _InvalidRowError(f"{name!r} is empty")


def _passages(value: object) -> tuple[str, ...]:
    passages = [value] if isinstance(value, str) else value
    if not isinstance(passages, list):
        raise _InvalidRowError(f"'context' must be text or a list of passages, it is {value_kind(value)}")
    if not passages:
        raise _InvalidRowError("'context' is empty")
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
        raise _InvalidRowError(
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
    raise _InvalidRowError(f"'tools' must be a list of objects, it is {value_kind(value)}")


def _template_arguments(value: object) -> dict[str, Any] | None:
    if isinstance(value, str):
        # What is no JSON is refused as the text that it is.
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value or "null")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _InvalidRowError(f"'chat_template_kwargs' must be an object, it is {value_kind(value)}")
    arguments = {str(name): item for name, item in value.items() if item is not None}
    if clash := sorted(OWN_TEMPLATE_ARGUMENTS & arguments.keys()):
        raise _InvalidRowError(
            f"'chat_template_kwargs' can't set {', '.join(clash)}: selfaug sets it itself; leave it out"
        )
    return arguments or None


def _id(raw: RawRow, value: object) -> str:
    if value is None or value == "":
        return f"{raw.file}:{raw.line}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _InvalidRowError(f"'id' must be text or a whole number, it is {value_kind(value)}")
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
            raise _InvalidRowError(
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
