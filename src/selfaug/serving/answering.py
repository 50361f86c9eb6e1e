"""Answers that an engine in this process makes."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from selfaug.core.printable import counted
from selfaug.errors import DataError, ModelError
from selfaug.serving.gate import Admission
from selfaug.serving.generation import (
    TUNED,
    EngineError,
    Model,
    OverloadedError,
    Piece,
    Sampling,
    TokenChance,
)
from selfaug.serving.metrics import Metrics
from selfaug.serving.one_at_a_time import OneAtATime
from selfaug.serving.openai_requests import ChatRequest, CompletionRequest, RagRequest, StreamOptions
from selfaug.serving.openai_responses import (
    chat_chunk,
    chat_response,
    completion_response,
    error_body,
    event,
    head,
    usage,
)
from selfaug.serving.response_schemas import CHAT, COMPLETION, RAG, described
from selfaug.serving.served import ApiError, FoundPrompt, Served
from selfaug.serving.watcher import Answered

__all__ = ["add_answers", "unless_gone"]

_T = TypeVar("_T")


@dataclass
class _Choice:
    """An answer as it comes.

    Attributes:
        prompt: token ids.
        written: what the user wrote; None if that were token ids.
        passages: that were found for it; None without retrieval.
        row: as in `Answered`.
    """

    prompt: list[int]
    sampling: Sampling
    written: str | None = None
    passages: int | None = None
    row: Mapping[str, Any] | None = None
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    chances: list[TokenChance] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish
        self.chances += piece.chances

    @property
    def told_chances(self) -> list[TokenChance] | None:
        return None if self.sampling.chances is None else self.chances


class _Answering:
    """The answers to one request, and what is measured about them."""

    def __init__(
        self,
        request: Request,
        served: Served,
        metrics: Metrics,
        operation: str,
        name: str,
        choices: Sequence[_Choice],
        prompt_tokens: int,
        each: int = 1,
    ) -> None:
        self.name, self.choices = name, list(choices)
        self.prompt_tokens = prompt_tokens
        self.created = int(time.time())
        self.identifier = f"{_PREFIXES[operation]}-{secrets.token_hex(12)}"
        self._each = each  # choices of a prompt
        self._served, self._metrics = served, metrics
        # Of the run that answers, whichever is served when it has.
        self._watcher = served.watcher
        self._admission: Admission = request.state.admission
        self._model = served.model(name)
        self._labels = (served.tuned if self._model == TUNED else served.base, operation)
        self._facts: dict[str, Any] = request.state.facts
        self._facts.update(model=self._labels[0], prompt_tokens=prompt_tokens)
        self._began = self._admission.arrived
        self._first = 0.0

    @property
    def usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, self._tokens())

    @property
    def complete(self) -> bool:
        return all(choice.finish is not None for choice in self.choices)

    async def pieces(self) -> AsyncGenerator[list[tuple[int, Piece]]]:
        """Pieces of all choices, by the choice's number: each time all that have arrived.

        Raises:
            ApiError: if the engine is overloaded, fails, or takes too long. What else it raises is raised here.
        """
        arrived: asyncio.Queue[tuple[int, Piece] | Exception] = asyncio.Queue()
        tasks = [asyncio.create_task(self._follow(i, arrived)) for i in range(len(self.choices))]
        # Cheaper than waiting for each piece with a limit: that makes a task a piece.
        left = self._began + self._served.request_seconds - time.monotonic()
        alarm = asyncio.get_running_loop().call_later(max(left, 0.0), arrived.put_nowait, TimeoutError())
        try:
            await asyncio.sleep(0)  # each task has taken its first step: the engine has what it is asked
            self._admission.leave()
            while not self.complete:
                found = [await arrived.get()]
                while not arrived.empty():
                    found.append(arrived.get_nowait())
                pieces = [one for one in found if not isinstance(one, Exception)]
                if not self._first and any(_tells_when_it_began(piece) for _, piece in pieces):
                    self._first = time.monotonic()
                for index, piece in pieces:
                    self.choices[index].take(piece)
                if pieces:
                    yield pieces
                for one in found:
                    if isinstance(one, Exception) and not self.complete:
                        raise one
            self._observe()
        except OverloadedError as error:
            raise _overloaded(error) from error
        except EngineError as error:
            self._facts["error"] = error.logged
            raise ApiError(error.status, str(error), code="engine_failure", wait=error.retry_after) from error
        except TimeoutError as error:
            raise _too_late(self._served) from error
        finally:
            self._measure(self._error_type(sys.exception()))
            alarm.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._facts["completion_tokens"] = self._tokens()

    async def _follow(self, index: int, arrived: asyncio.Queue[tuple[int, Piece] | Exception]) -> None:
        choice = self.choices[index]
        try:
            async with aclosing(
                self._served.engine.generate(self._model, choice.prompt, choice.sampling)
            ) as made:
                async for piece in made:
                    await arrived.put((index, piece))
        except Exception as error:  # any: else the request would wait for it until its time is over
            await arrived.put(error)

    def _tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    def _error_type(self, error: BaseException | None) -> str:
        """How it ended, as the metrics' `error_type`: empty if it was answered."""
        if self.complete:  # a client that goes away with the last piece has its answer
            return ""
        if isinstance(error, ApiError):
            return _TIMEOUT if error.status == 504 else error.code or _OTHER
        return _CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else _OTHER

    def _measure(self, error_type: str) -> None:
        if error_type == _OVERLOADED:  # nothing was begun: thousands of these would hide how long others wait
            return
        ended = time.monotonic()
        labels = (*self._labels, error_type)
        self._metrics.duration.labels(*labels).observe(ended - self._began)
        if self._first:
            self._metrics.first_token.labels(*labels).observe(self._first - self._began)
            self._facts["seconds_to_first_token"] = round(self._first - self._began, 4)
        elif error_type in (_TIMEOUT, _CANCELLED) and self._would_tell_when_it_began():
            # At least as long: without those who waited in vain, a server would look the quicker the slower it is.
            self._metrics.first_token.labels(*labels).observe(ended - self._began)
        if not error_type:
            self._measure_tokens(ended)

    def _measure_tokens(self, ended: float) -> None:
        tokens = self._tokens()
        self._metrics.tokens.labels(*self._labels, "input").observe(self.prompt_tokens)
        self._metrics.tokens.labels(*self._labels, "output").observe(tokens)
        if self._first and tokens > 1:
            self._metrics.output_token.labels(*self._labels).observe((ended - self._first) / (tokens - 1))

    def _would_tell_when_it_began(self) -> bool:
        """Whether a first token would have been noticed: another server sends an answer that is wanted whole in one."""
        return self._served.engine.whole_in_pieces or not self.choices[0].sampling.whole

    def _observe(self) -> None:
        """Tell whoever watches of each prompt with the first of its answers."""
        if self._watcher is None or self._model != TUNED:
            return
        for number, one in enumerate(self.choices[:: self._each]):
            name = f"{self.identifier}-{number}" if number else self.identifier
            self._watcher.answered(
                Answered(name, one.prompt, one.tokens, one.text, one.written, one.passages, one.row)
            )


_TIMEOUT, _OVERLOADED, _CANCELLED, _OTHER = "timeout", "overloaded", "cancelled", "_OTHER"
"""What requests end with, as `error_type`; `_OTHER` is the name that OpenTelemetry's conventions give to the rest."""


def _overloaded(error: OverloadedError) -> ApiError:
    return ApiError(429, "too many requests are waiting.", code=_OVERLOADED, wait=error.retry_after)


def _too_late(served: Served) -> ApiError:
    return ApiError(
        504, f"the answer was not complete after {served.request_seconds:g} seconds.", code=_TIMEOUT
    )


def _tells_when_it_began(piece: Piece) -> bool:
    """Whether it has a first token; of an answer that comes in one piece nobody knows when that was there."""
    return piece.tokens == 1 or (piece.tokens > 1 and piece.finish is None)


_PREFIXES = {"chat": "chatcmpl", "text_completion": "cmpl", "rag": "rag"}


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The work's result; it is given up if the client goes away."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client went away.")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _drain(answering: _Answering) -> None:
    async with aclosing(answering.pieces()) as pieces:
        async for _ in pieces:
            pass


async def _next(pieces: AsyncGenerator[_T]) -> _T:
    return await anext(pieces)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    request: Request,
    answering: _Answering,
    chunks: Callable[[int, Piece], Sequence[Mapping[str, Any]]],
    last: Sequence[Mapping[str, Any] | str | Callable[[], Mapping[str, Any]]],
) -> StreamingResponse:
    """A stream of events. Errors before the first piece are answers of their own; later ones are events."""
    pieces = answering.pieces()
    try:
        first = await unless_gone(request, _next(pieces))
    except BaseException:
        await pieces.aclose()
        raise

    def told(arrived: Sequence[tuple[int, Piece]]) -> bytes:
        # What came together goes together: a write a token costs more than all else of a gateway.
        made = [event(chunk) for index, piece in arrived for chunk in chunks(index, piece)]
        if answering.complete:
            made += [event(make() if callable(make) else make) for make in last]
        return b"".join(made)

    async def events() -> AsyncIterator[bytes]:
        async with aclosing(pieces):
            try:
                if text := told(first):
                    yield text
                async for arrived in pieces:
                    if text := told(arrived):
                        yield text
            except ApiError as error:
                facts = request.state.facts
                facts.setdefault("error", error.code)
                facts["failed"] = error.status  # the client was told 200 before
                yield event(error_body(error.status, str(error), code=error.code))

    return StreamingResponse(
        events(),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _longest(served: Served, prompt: list[int], asked: int | None, param: str) -> int:
    """Tokens that the answer may have."""
    if not prompt:
        raise ApiError(400, "the prompt has no tokens.", code="invalid_value", param=param)
    room = served.window - len(prompt)
    if room < 1 or (asked is not None and asked > room):
        raise ApiError(
            400,
            f"the prompt has {len(prompt):,} tokens"
            + ("" if asked is None else f" and the answer may have {asked:,}")
            + f"; together at most {served.window:,} are possible.",
            code="context_length_exceeded",
            param=param,
        )
    return min(room, asked or served.max_tokens)


def _require_room(served: Served, answers: int, param: str) -> None:
    """Refuse a request that no waiting helps: with more answers than there are places."""
    if answers > served.most_at_once:
        raise ApiError(
            400,
            f"{answers} answers are asked for; this server takes at most {served.most_at_once} at once.",
            code="invalid_value",
            param=param,
        )


def _described(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return described(200, "The answer; with `stream`, events of its pieces.", schema, streams=True)


def _admission(served: Served) -> Callable[[Request], AsyncIterator[None]]:
    """Has a request wait while another run takes the place of the one that is served."""

    async def admission(request: Request) -> AsyncIterator[None]:
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(served.request_seconds):
                while not served.gate.let_in():
                    await unless_gone(request, served.gate.opened())
        except OverloadedError as error:
            raise _overloaded(error) from error
        except TimeoutError as error:
            raise _too_late(served) from error
        request.state.admission = admitted = Admission(served.gate, arrived)
        try:
            yield
        finally:
            admitted.leave()

    return admission


def add_answers(app: FastAPI, served: Served, metrics: Metrics) -> None:
    """Add the paths that an engine answers."""
    prompts_of, let_in = _Prompts(served), [Depends(_admission(served))]

    @app.post("/v1/chat/completions", response_model=None, responses=_described(CHAT), dependencies=let_in)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """The next turn of a chat."""
        served.require_ready()
        served.model(body.model)
        _require_room(served, body.n or 1, "n")
        messages = [{"role": _role(one.role), "content": one.text} for one in body.messages]
        prompt = await prompts_of.chat(request, messages)
        longest = _longest(served, prompt, body.asked_tokens, "messages")
        written = next((one.text for one in reversed(body.messages) if one.role == "user"), None)
        choices = [
            _Choice(prompt, body.sampling(choice, longest, body.chances), written, row={"messages": messages})
            for choice in range(body.n or 1)
        ]
        answering = _Answering(
            request, served, metrics, "chat", body.model, choices, len(prompt), body.n or 1
        )
        identifier = answering.identifier
        if not body.stream:
            await unless_gone(request, _drain(answering))
            return {
                **head("chat.completion", identifier, answering.created, body.model),
                "choices": [
                    chat_response(index, one.text, one.finish or "stop", one.told_chances)
                    for index, one in enumerate(choices)
                ],
                "usage": answering.usage,
            }

        opening = head("chat.completion.chunk", identifier, answering.created, body.model)
        begun: set[int] = set()

        def chunks(index: int, piece: Piece) -> list[dict[str, Any]]:
            told = None if choices[index].sampling.chances is None else piece.chances
            found = [] if index in begun else [chat_chunk(index, "", role=True)]
            begun.add(index)
            if piece.text or piece.chances:
                found.append(chat_chunk(index, piece.text, chances=told))
            if piece.finish:
                found.append(chat_chunk(index, None, finish=piece.finish))
            return [{**opening, "choices": [choice]} for choice in found]

        return await _stream(request, answering, chunks, _ends(body.stream_options, opening, answering))

    @app.post("/v1/completions", response_model=None, responses=_described(COMPLETION), dependencies=let_in)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        """The continuation of a text, or of several."""
        served.require_ready()
        served.model(body.model)
        if not 1 <= len(body.prompts) * (body.n or 1) <= _MOST_COMPLETIONS:
            raise ApiError(
                400,
                f"{counted(len(body.prompts), 'prompt')} with {counted(body.n or 1, 'answer')} each: 1 to "
                f"{_MOST_COMPLETIONS} answers are possible in a request.",
                code="invalid_value",
                param="prompt",
            )
        _require_room(served, len(body.prompts) * (body.n or 1), "prompt")
        prompts = await prompts_of.texts(request, body.prompts)
        choices = [
            _Choice(
                prompt,
                body.sampling(choice, _longest(served, prompt, body.asked_tokens, "prompt"), body.chances),
                one if isinstance(one, str) else None,
                row={"prompt": one} if isinstance(one, str) else None,
            )
            for prompt, one in zip(prompts, body.prompts, strict=True)
            for choice in range(body.n or 1)
        ]
        tokens = sum(map(len, prompts))
        answering = _Answering(
            request, served, metrics, "text_completion", body.model, choices, tokens, body.n or 1
        )
        opening = head("text_completion", answering.identifier, answering.created, body.model)
        if not body.stream:
            await unless_gone(request, _drain(answering))
            found = [
                completion_response(index, one.text, one.finish, one.told_chances)
                for index, one in enumerate(choices)
            ]
            return {**opening, "choices": found, "usage": answering.usage}

        offsets: Counter[int] = Counter()

        def chunks(index: int, piece: Piece) -> list[dict[str, Any]]:
            told = None if choices[index].sampling.chances is None else piece.chances
            if not (piece.text or piece.chances or piece.finish):
                return []
            offset = offsets[index]
            offsets[index] += len(piece.text)
            return [
                {**opening, "choices": [completion_response(index, piece.text, piece.finish, told, offset)]}
            ]

        return await _stream(request, answering, chunks, _ends(body.stream_options, opening, answering))

    @app.post("/v1/rag/answer", response_model=None, responses=_described(RAG), dependencies=let_in)
    async def rag(body: RagRequest, request: Request) -> Any:
        """An answer from the documents, with its sources."""
        served.require_ready()
        find = served.find
        if find is None:
            raise ApiError(
                404, "the run that is served has no documents.", code="no_documents", param="question"
            )
        name = body.model or served.tuned
        model = served.model(name)
        # In a small window an answer that nobody asked to be long leaves three quarters to the passages.
        asked = body.max_tokens or min(served.max_tokens, 256, served.window // 4)
        found = await prompts_of.found(request, find, body.question, asked, model)
        longest = _longest(served, found.prompt, body.max_tokens, "question")
        choice = _Choice(
            found.prompt,
            Sampling(min(longest, asked), whole=not body.stream),
            body.question,
            len(found.sources),
            {"question": body.question, "context": [one["text"] for one in found.sources]},
        )
        answering = _Answering(request, served, metrics, "rag", name, [choice], len(found.prompt))
        opening = head("rag.answer", answering.identifier, answering.created, name)

        def result() -> dict[str, Any]:
            cited = set(found.cited(choice.text))
            sources = [
                {"number": number, "cited": number in cited, **source}
                for number, source in enumerate(found.sources, start=1)
            ]
            return {
                **opening,
                "answer": choice.text,
                "sources": sources,
                "finish_reason": choice.finish,
                "usage": answering.usage,
            }

        if not body.stream:
            await unless_gone(request, _drain(answering))
            return result()

        def chunks(_: int, piece: Piece) -> list[dict[str, Any]]:
            return [{**opening, "object": "rag.answer.chunk", "text": piece.text}] if piece.text else []

        return await _stream(request, answering, chunks, [result, "[DONE]"])


_MOST_COMPLETIONS = 64


def _ends(
    options: StreamOptions | None, opening: Mapping[str, Any], answering: _Answering
) -> list[Mapping[str, Any] | str | Callable[[], Mapping[str, Any]]]:
    """What a stream ends with."""
    if options is not None and options.include_usage:
        return [lambda: {**opening, "choices": [], "usage": answering.usage}, "[DONE]"]
    return ["[DONE]"]


def _role(role: str) -> str:
    return "system" if role == "developer" else role


class _Prompts:
    """Makes the prompts of requests, while the event loop goes on with all others.

    Reading a megabyte of text takes a tokeniser a second, and a search may ask another server.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._tokenising = OneAtATime("selfaug-tokenising", served.most_at_once)
        self._searching = OneAtATime("selfaug-searching", served.most_at_once)

    async def chat(self, request: Request, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a chat."""
        chat_ids = self._served.chat_ids
        return await self._made(request, self._tokenising, lambda: chat_ids(messages), "messages")

    async def texts(self, request: Request, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids of texts, and of what was sent as such."""
        return await self._made(
            request, self._tokenising, lambda: [_text_prompt(self._served, one) for one in prompts], "prompt"
        )

    async def found(
        self,
        request: Request,
        find: Callable[[str, int, Model], FoundPrompt],
        question: str,
        max_tokens: int,
        model: Model,
    ) -> FoundPrompt:
        """A question with what is found for it."""
        return await self._made(
            request, self._searching, lambda: find(question, max_tokens, model), "question"
        )

    async def _made(self, request: Request, thread: OneAtATime, make: Callable[[], _T], param: str) -> _T:
        """What a thread makes.

        Raises:
            ApiError: if it can't be made of what was asked, or not in time, or too much is waiting.
        """
        try:
            # The time at the gate counts.
            left = request.state.admission.arrived + self._served.request_seconds - time.monotonic()
            async with asyncio.timeout(left):
                return await unless_gone(request, thread.do(make))
        except (DataError, ModelError) as error:
            raise ApiError(400, str(error), code="invalid_value", param=param) from error
        except OverloadedError as error:
            raise _overloaded(error) from error
        except TimeoutError as error:
            raise _too_late(self._served) from error


def _text_prompt(served: Served, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        return served.text_ids(prompt)
    if any(token >= served.vocabulary for token in prompt):
        raise ApiError(
            400,
            f"there are tokens from 0 to {served.vocabulary - 1:,}.",
            code="invalid_value",
            param="prompt",
        )
    return prompt
