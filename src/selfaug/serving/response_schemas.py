"""What the responses are made of, for the API's description. Made by hand: handlers give plain objects or streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CHAT", "COMPLETION", "FEEDBACK", "MODEL", "MODELS", "RAG", "described"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(properties: Mapping[str, Schema], *, more: bool = False) -> Schema:
    """An object that has all of these, and nothing else unless more is said."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": dict(properties),
        "additionalProperties": more,
    }


def _list(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_USAGE = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_FINISH: Schema = {"enum": ["stop", "length", "content_filter"]}
_TOKEN = {
    "token": _TEXT,
    "logprob": _NUMBER,
    "bytes": _or_null(_list({"type": "integer", "minimum": 0, "maximum": 255})),
}
_CHAT_LOGPROBS = _object(
    {
        "content": _list(_object({**_TOKEN, "top_logprobs": _list(_object(_TOKEN))})),
        "refusal": {"type": "null"},
    }
)
_COMPLETION_LOGPROBS = _object(
    {
        "tokens": _list(_TEXT),
        "token_logprobs": _list(_NUMBER),
        "top_logprobs": _list({"type": "object", "additionalProperties": _NUMBER}),
        "text_offset": _list(_COUNT),
    }
)
_MESSAGE = _object({"role": {"const": "assistant"}, "content": _TEXT, "refusal": {"type": "null"}})


def _response(kind: str, properties: Mapping[str, Schema]) -> Schema:
    head = {"id": _TEXT, "object": {"const": kind}, "created": _COUNT, "model": _TEXT}
    return _object({**head, **properties, "usage": _USAGE})


def _choices(properties: Mapping[str, Schema]) -> Schema:
    return _list(_object({"index": _COUNT, **properties, "finish_reason": _FINISH}), minItems=1)


CHAT = _response(
    "chat.completion", {"choices": _choices({"message": _MESSAGE, "logprobs": _or_null(_CHAT_LOGPROBS)})}
)
COMPLETION = _response(
    "text_completion", {"choices": _choices({"text": _TEXT, "logprobs": _or_null(_COMPLETION_LOGPROBS)})}
)
_SOURCE = _object(
    {
        "number": {"type": "integer", "minimum": 1},
        "cited": {"type": "boolean"},
        "document": _TEXT,
        "page": _or_null({"type": "integer"}),
        "id": _TEXT,
        "text": _TEXT,
    }
)
RAG = _response("rag.answer", {"answer": _TEXT, "sources": _list(_SOURCE), "finish_reason": _FINISH})
FEEDBACK = _object({"object": {"const": "feedback"}, "id": _TEXT, "vote": {"enum": ["up", "down"]}})
MODEL = _object(
    {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": {"const": "selfaug"},
        "root": _TEXT,
        "parent": _or_null(_TEXT),
        "max_model_len": {"type": "integer", "minimum": 1},
    }
)
MODELS = _object({"object": {"const": "list"}, "data": _list(MODEL, minItems=1)})


def described(
    status: int, description: str, schema: Schema, *, streams: bool = False
) -> dict[int | str, dict[str, Any]]:
    """A path's answer as FastAPI takes it.

    Args:
        status: of the answer.
        description: in words.
        schema: of its JSON.
        streams: whether it may come as events, too.
    """
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if streams:
        content["text/event-stream"] = {}
    return {status: {"description": description, "content": content}}
