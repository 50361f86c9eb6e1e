"""Responses of OpenAI's API: objects, chunks of a stream, errors."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from typing import Any

from selfaug.serving.generation import TokenChance

__all__ = [
    "chat_chunk",
    "chat_response",
    "completion_response",
    "error_body",
    "event",
    "head",
    "usage",
]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "invalid_request_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = _KINDS.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_LINE_ENDS = ("\x85", "\u2028", "\u2029")
"""What JSON has as it is, and clients that read lines with Python's `splitlines`, as httpx does, take for their end."""


def event(data: Mapping[str, Any] | str) -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in _LINE_ENDS:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"data: {text}\n\n".encode()


def head(kind: str, identifier: str, created: int, model: str) -> dict[str, Any]:
    """What every response and every chunk begins with."""
    return {"id": identifier, "object": kind, "created": created, "model": model}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def chat_chunk(
    index: int,
    text: str | None,
    *,
    role: bool = False,
    finish: str | None = None,
    chances: Sequence[TokenChance] | None = None,
) -> dict[str, Any]:
    """One choice of a chunk of a chat."""
    delta: dict[str, Any] = {"role": "assistant"} if role else {}
    if text is not None:
        delta["content"] = text
    return {
        "index": index,
        "delta": delta,
        "logprobs": _chat_logprobs(chances),
        "finish_reason": finish,
    }


def chat_response(
    index: int, text: str, finish: str, chances: Sequence[TokenChance] | None
) -> dict[str, Any]:
    """One choice of a chat."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": _chat_logprobs(chances),
        "finish_reason": finish,
    }


def completion_response(
    index: int, text: str, finish: str | None, chances: Sequence[TokenChance] | None, offset: int = 0
) -> dict[str, Any]:
    """One choice of a completion, or of a chunk of one; `offset` is the length of the text before it."""
    return {
        "index": index,
        "text": text,
        "logprobs": _completion_logprobs(chances, offset),
        "finish_reason": finish,
    }


def _chat_logprobs(chances: Sequence[TokenChance] | None) -> dict[str, Any] | None:
    if chances is None:
        return None
    return {
        "content": [
            {
                **_chance(one),
                "top_logprobs": [_chance(other) for other in one.alternatives],
            }
            for one in chances
        ],
        "refusal": None,
    }


def _chance(one: TokenChance) -> dict[str, Any]:
    data = None if one.data is None else list(one.data)
    return {"token": one.token, "logprob": one.logprob, "bytes": data}


def _completion_logprobs(chances: Sequence[TokenChance] | None, offset: int) -> dict[str, Any] | None:
    if chances is None:
        return None
    offsets = []
    # A token that is a part of a character begins where that does.
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    for one in chances:
        offsets.append(offset)
        offset += len(one.token if one.data is None else characters.decode(one.data))
    return {
        "tokens": [one.token for one in chances],
        "token_logprobs": [one.logprob for one in chances],
        "top_logprobs": [_by_text(one.alternatives) for one in chances],
        "text_offset": offsets,
    }


def _by_text(likeliest: Sequence[TokenChance]) -> dict[str, float]:
    """Log-probabilities by text: of tokens that read alike, as parts of characters do, that of the likeliest."""
    found: dict[str, float] = {}
    for one in likeliest:
        found.setdefault(one.token, one.logprob)
    return found
