"""The answers of an engine to one request: as they come, what is measured about them, and how they go out."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from selfaug.serving.gate import Admission
from selfaug.serving.generation import TUNED, EngineError, OverloadedError, Piece, Sampling, TokenChance
from selfaug.serving.metrics import Metrics
from selfaug.serving.openai_responses import error_body, event, usage
from selfaug.serving.served import ApiError, Served
from selfaug.serving.watcher import Answered

__all__ = ["Answering", "Choice", "overloaded", "reply", "too_late", "unless_gone"]

_T = TypeVar("_T")
Chunks = Callable[[int, Piece], Sequence[Mapping[str, Any]]]
Last = Sequence[Mapping[str, Any] | str | Callable[[], Mapping[str, Any]]]


@dataclass
class Choice:
    """An answer as it comes.

    Attributes:
        prompt: token ids.
        written: what the user wrote; None if that were token ids.
        passages: that were found for it; None without retrieval.
        row: as in `Answered`.
        chances: of its tokens, if it goes out whole: nobody reads those of a stream again.
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
        """Add what comes next."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish
        if self.sampling.whole:
            self.chances += piece.chances

    def told(self, chances: list[TokenChance]) -> list[TokenChance] | None:
        """Chances of its tokens, if they were asked for."""
        return None if self.sampling.chances is None else chances


class Answering:
    """The answers to one request, and what is measured about them."""

    def __init__(
        self,
        request: Request,
        served: Served,
        metrics: Metrics,
        operation: str,
        name: str,
        choices: Sequence[Choice],
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
        """Tokens of prompts and answers."""
        return usage(self.prompt_tokens, self._tokens())

    @property
    def complete(self) -> bool:
        """Whether all choices have come to their end."""
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
            raise overloaded(error) from error
        except EngineError as error:
            self._facts["error"] = error.logged
            raise ApiError(error.status, str(error), code="engine_failure", wait=error.retry_after) from error
        except TimeoutError as error:
            raise too_late(self._served) from error
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


def overloaded(error: OverloadedError) -> ApiError:
    """What a client is told where too much waits."""
    return ApiError(429, "too many requests are waiting.", code=_OVERLOADED, wait=error.retry_after)


def too_late(served: Served) -> ApiError:
    """What a client is told whose time is over."""
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


async def _drain(answering: Answering) -> None:
    async with aclosing(answering.pieces()) as pieces:
        async for _ in pieces:
            pass


async def _next(pieces: AsyncGenerator[_T]) -> _T:
    return await anext(pieces)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def reply(
    request: Request,
    answering: Answering,
    stream: bool | None,
    whole: Callable[[], Mapping[str, Any]],
    chunks: Chunks,
    last: Last,
) -> Any:
    """What the client gets: what `whole` makes once all has arrived, or a stream of events.

    These are what `chunks` makes of a choice's number and its next piece, and `last`, or what that makes at the end.
    """
    if stream:
        return await _stream(request, answering, chunks, last)
    await unless_gone(request, _drain(answering))
    return whole()


async def _stream(request: Request, answering: Answering, chunks: Chunks, last: Last) -> StreamingResponse:
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
