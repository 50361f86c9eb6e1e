"""The engine behind another server: any that speaks OpenAI's API and takes token ids, such as vLLM.

Prompts go there as token ids, made here with the run's own template: another server's idea of the chat template can't
change what the model sees.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
from transformers import PreTrainedTokenizerBase

from selfaug.errors import ModelError
from selfaug.model.generate import chat_ends
from selfaug.serving.generation import EngineError, Model, OverloadedError, Piece, Sampling, TokenChance

__all__ = ["AnswerEnds", "UpstreamAwayError", "UpstreamEngine"]

_CONNECT_SECONDS = 5.0

_KEPT_SECONDS = 2.0
"""That a connection is kept for the next request: less than the other server keeps it (vLLM, by uvicorn's default, 5).

A request that is sent into its closing would fail.
"""

_MOST_TEXT = 300

_MOST_STOPS = 4
"""Texts that end an answer which OpenAI's API takes."""

_END_IDS = "stop_token_ids"

_MOST_LINE = 8 << 20
"""Bytes of an event without an end that are kept: far more than an event has."""

_FINISHES = (None, "length", "content_filter")
"""Why an answer has ended, or that it hasn't; what else a server says ("stop", "eos_token") is an end of its own."""

_CUT_OFF = ("abort", "error", "cancelled", "timeout")
"""What servers say of an answer that they gave up, vLLM the first two."""

_UNREADABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What an answer that has not the form of one raises where it is read."""


class UpstreamAwayError(ModelError):
    """The other server doesn't answer, or not yet: it may be loading its models."""


class AnswerEnds:
    """How another server is told which tokens end an answer: it may know of a text's end only, and go on after a turn.

    OpenAI's API has no field for such tokens; that of vLLM, and of others after it, is `stop_token_ids`. A server that
    refuses a field which it doesn't know is told the text of a turn's end instead.

    Args:
        tokenizer: of the models.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._ids = sorted(chat_ends(tokenizer))
        # Not that of the model's own end, which every server knows: `</s>` may stand in an answer in HTML.
        self._texts = [
            str(tokenizer.decode([token])) for token in self._ids if token != tokenizer.eos_token_id
        ]
        self._refused = False

    def ways(self, stop: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """What a request says about where its answer ends, and after a refusal of ids what it says instead.

        Args:
            stop: texts that end it, too.
        """
        if self._ids and not self._refused:
            yield _stopping(stop) | {_END_IDS: self._ids}
        yield _stopping([*stop, *self._texts][:_MOST_STOPS])

    def may_be_refused(self, fields: Mapping[str, Any], status: int, answer: bytes) -> bool:
        """Whether an answer may be a refusal of the ids that a request had: the next way is to be tried."""
        return _END_IDS in fields and status in (400, 422) and _END_IDS.encode() in answer

    def were_taken(self, fields: Mapping[str, Any]) -> None:
        """The other server has taken a request with these."""
        self._refused = bool(self._ids) and _END_IDS not in fields


def _stopping(texts: Sequence[str]) -> dict[str, Any]:
    return {"stop": list(texts)} if texts else {}


class UpstreamEngine:
    """Answers requests through another server.

    Attributes:
        whole_in_pieces: as for `Engine`.
        shown: its address as others may see it, without a password.

    Args:
        url: its address, with `/v1`.
        names: what it calls the models.
        ends: what it is told about the end of an answer.
        key: for it; None sends none.
        max_running: requests that it gets at once.
        max_waiting: requests that may wait beside these; more are refused.
    """

    whole_in_pieces = False

    def __init__(
        self,
        url: str,
        names: Mapping[Model, str],
        *,
        ends: AnswerEnds,
        key: str | None,
        max_running: int,
        max_waiting: int,
    ) -> None:
        self.url, self.names, self.ends = url.rstrip("/"), dict(names), ends
        self.shown = str(httpx.URL(self.url).copy_with(userinfo=b""))
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._most = max_running + max_waiting
        self._max_running = max_running
        self._asked = 0
        self._client: httpx.AsyncClient | None = None

    async def generate(
        self, model: Model, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Piece]:
        """Answer a prompt; see `Engine`."""
        if self._asked >= self._most:
            raise OverloadedError(1.0)
        self._asked += 1
        body = self._body(model, prompt, sampling)
        try:
            if sampling.whole:
                yield await self._whole(body, sampling.stop)
            else:
                async for piece in self._pieces(body, sampling.stop):
                    yield piece
        except httpx.HTTPError as error:
            raise EngineError(f"the server behind this one failed: {type(error).__name__}", 502) from error
        finally:
            self._asked -= 1

    @property
    def waiting(self) -> int:
        """Requests beyond those that the other server gets at once."""
        return max(0, self._asked - self._max_running)

    @property
    def running(self) -> int:
        """Requests that the other server has."""
        return min(self._asked, self._max_running)

    def begin_no_more(self) -> None:
        """Nothing is done: what it has begun is for the other server to say."""

    def close(self) -> None:
        """Nothing is left to be done: connections end with the event loop that they belong to."""

    def _connection(self) -> httpx.AsyncClient:
        # Made by the event loop that uses it. How long an answer may take is the caller's to say.
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self.url,
                headers=self.headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
                limits=httpx.Limits(
                    max_connections=self._max_running,
                    max_keepalive_connections=self._max_running,
                    keepalive_expiry=_KEPT_SECONDS,
                ),
                trust_env=False,
            )
        return self._client

    def _body(self, model: Model, prompt: Sequence[int], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.names[model],
            "prompt": list(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if not sampling.whole:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.chances is not None:
            body["logprobs"] = sampling.chances
        return body

    @asynccontextmanager
    async def _accepted(self, body: dict[str, Any], stop: Sequence[str]) -> AsyncIterator[httpx.Response]:
        """The response to a request that the other server answers; what it answers is still to be read."""
        for ends in self.ends.ways(stop):
            async with self._connection().stream("POST", "/completions", json=body | ends) as response:
                if response.status_code == 200:
                    self.ends.were_taken(ends)
                    yield response
                    return
                answer = await response.aread()
            if not self.ends.may_be_refused(ends, response.status_code, answer):
                break
        raise _refusal(response, answer)

    async def _whole(self, body: dict[str, Any], stop: Sequence[str]) -> Piece:
        """The answer in one."""
        async with self._accepted(body, stop) as response:
            await response.aread()
        try:
            answer = response.json()
            choice = answer["choices"][0]
            piece = _piece(choice)
            tokens = int(answer["usage"]["completion_tokens"]) - _end_tokens(choice)
        except _UNREADABLE as error:
            raise EngineError("the server behind this one sent no valid answer", 502) from error
        return piece._replace(tokens=tokens, finish=piece.finish or "stop")

    async def _pieces(self, body: dict[str, Any], stop: Sequence[str]) -> AsyncGenerator[Piece]:
        """Pieces as they come; the last one is held back until the number of tokens is known."""
        told = 0
        last: Piece | None = None
        async with self._accepted(body, stop) as response:
            async for event in _events(response):
                if "error" in event:
                    raise EngineError(
                        f"the server behind this one failed: {_message(event['error'])}",
                        502,
                        logged="the server behind this one failed in the middle of an answer",
                    )
                try:
                    tokens = int(event["usage"]["completion_tokens"]) if event.get("usage") else None
                    choices = event.get("choices")
                    piece = _piece(choices[0]) if choices else None
                    ended = _end_tokens(choices[0]) if choices else 0
                except _UNREADABLE as error:
                    raise _no_valid_event() from error
                if tokens is not None and last is not None:
                    last = last._replace(tokens=max(0, tokens - told))
                if piece is None:
                    continue
                if piece.finish is None:
                    told += piece.tokens
                    yield piece
                else:
                    last = piece
                    told += ended
        if last is None:
            raise EngineError("the server behind this one ended in the middle of an answer", 502)
        yield last


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in _lines(response):
        text = line.removeprefix(b"data:").strip()
        if text == line or not text:
            continue
        if text == b"[DONE]":
            return
        try:
            event = json.loads(text)
        except ValueError as error:
            raise _no_valid_event() from error
        if not isinstance(event, dict):
            raise _no_valid_event()
        yield event


async def _lines(response: httpx.Response) -> AsyncIterator[bytearray]:
    """Lines as a stream of events has them.

    A line feed ends them. httpx takes every character for an end that Python's `splitlines` does, such as U+2028, and
    answers may have these.
    """
    rest = bytearray()
    async for part in response.aiter_bytes():
        rest += part
        if b"\n" in part:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r")
        if len(rest) > _MOST_LINE:
            raise _no_valid_event()
    yield rest


def _no_valid_event() -> EngineError:
    return EngineError("the server behind this one sent no valid event", 502)


def _piece(choice: Mapping[str, Any]) -> Piece:
    """A chunk of a completion. Without log-probabilities one with text counts as a token, until usage says more."""
    chances = _chances(choice.get("logprobs"))
    chances = chances[: max(0, len(chances) - _end_tokens(choice))]
    text = choice.get("text") or ""
    return Piece(text, len(chances) or int(bool(text)), chances, _finish(choice.get("finish_reason")))


def _finish(reason: str | None) -> str | None:
    """Why an answer has ended, in OpenAI's words.

    Raises:
        EngineError: if it was cut off: it is no answer.
    """
    if reason in _CUT_OFF:
        raise EngineError(f"the server behind this one cut the answer off ({reason})", 502)
    return reason if reason in _FINISHES else "stop"


def _end_tokens(choice: Mapping[str, Any]) -> int:
    """Tokens that were counted though they are no part of the answer, but its end: vLLM does so, and says it."""
    by_token = "stop_reason" in choice and not isinstance(choice["stop_reason"], str)
    return int(by_token and choice.get("finish_reason") == "stop")


def _chances(logprobs: Mapping[str, Any] | None) -> list[TokenChance]:
    if not logprobs or not logprobs.get("tokens"):
        return []
    tokens, own = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return [
        _chance(token, chance)._replace(
            alternatives=[_chance(*other) for other in sorted((top or {}).items(), key=lambda one: -one[1])]
        )
        for token, chance, top in zip(tokens, own, tops, strict=True)
    ]


def _chance(token: str, logprob: float | None) -> TokenChance:
    """Which part of a character it may be, completions don't say."""
    data = None if "\N{REPLACEMENT CHARACTER}" in token else token.encode()
    return TokenChance(token, float(logprob or 0.0), data)


def _refusal(response: httpx.Response, body: bytes) -> Exception:
    """What the other server's refusal means for the client of this one."""
    status = response.status_code
    if status == 429:
        return OverloadedError(_wait(response))
    logged = f"the server behind this one refused: {status}"
    if status == 503:  # not 429: that it is away is no fault of the client's, and counts as an error
        return EngineError(logged, 503, retry_after=_wait(response))
    try:
        message = _message(json.loads(body).get("error", body.decode(errors="replace")))
    except (ValueError, AttributeError):
        message = body.decode(errors="replace")[:_MOST_TEXT]
    # Its 401 and 404 are about the key and the names that this server was given: the client can't do anything.
    # What it says may be the prompt again: for the client, not for the log.
    return EngineError(f"{logged} {message}", 400 if status in (400, 422) else 502, logged=logged)


def _wait(response: httpx.Response) -> float:
    """Seconds that it asks to wait, at least one; one, if it says nothing that is understood."""
    wait = response.headers.get("retry-after", "")
    return max(1.0, float(wait)) if wait.isdecimal() else 1.0


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, Mapping) else error)[:_MOST_TEXT]
