"""The paths that an engine answers: what each makes of a request, and what its responses look like."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request

from selfaug.core.printable import counted
from selfaug.errors import DataError, ModelError
from selfaug.serving.answering import Answering, Choice, Last, overloaded, reply, too_late, unless_gone
from selfaug.serving.gate import Admission
from selfaug.serving.generation import Model, OverloadedError, Piece, Sampling
from selfaug.serving.metrics import Metrics
from selfaug.serving.one_at_a_time import OneAtATime
from selfaug.serving.openai_requests import ChatRequest, CompletionRequest, RagRequest, StreamOptions
from selfaug.serving.openai_responses import chat_chunk, chat_response, completion_response, head
from selfaug.serving.response_schemas import CHAT, COMPLETION, RAG, described
from selfaug.serving.served import ApiError, FoundPrompt, Served

__all__ = ["add_answers"]

_T = TypeVar("_T")
_MOST_COMPLETIONS = 64
_MOST_CHANCES = 500_000
"""Log-probabilities of an answer: kept until it goes out, or its client reads its pieces, at some 500 bytes each."""


def add_answers(app: FastAPI, served: Served, metrics: Metrics) -> None:
    """Add the paths that an engine answers."""
    paths, let_in = _Paths(served, metrics), [Depends(_admission(served))]
    for path, answer, schema in (
        ("/v1/chat/completions", paths.chat, CHAT),
        ("/v1/completions", paths.completions, COMPLETION),
        ("/v1/rag/answer", paths.rag, RAG),
    ):
        told = described(200, "The answer; with `stream`, events of its pieces.", schema, streams=True)
        app.post(path, response_model=None, responses=told, dependencies=let_in)(answer)


class _Paths:
    def __init__(self, served: Served, metrics: Metrics) -> None:
        self._served, self._metrics, self._prompts = served, metrics, _Prompts(served)

    async def chat(self, body: ChatRequest, request: Request) -> Any:
        """The next turn of a chat."""
        served = self._served
        served.require_ready()
        served.model(body.model)
        count = body.n or 1
        _require_room(served, count, "n")
        messages = [{"role": _role(one.role), "content": one.text} for one in body.messages]
        prompt = await self._prompts.chat(request, messages)
        longest = _longest(served, prompt, body.asked_tokens, "messages")
        written = next((one.text for one in reversed(body.messages) if one.role == "user"), None)
        choices = [
            Choice(prompt, body.sampling(choice, longest, body.chances), written, row={"messages": messages})
            for choice in range(count)
        ]
        _require_few_chances(choices)
        answering = Answering(request, served, self._metrics, "chat", body.model, choices, len(prompt), count)
        named = (answering.identifier, answering.created, body.model)
        opening = head("chat.completion.chunk", *named)
        begun: set[int] = set()

        def whole() -> dict[str, Any]:
            found = [
                chat_response(index, one.text, one.finish or "stop", one.told(one.chances))
                for index, one in enumerate(choices)
            ]
            return {**head("chat.completion", *named), "choices": found, "usage": answering.usage}

        def chunks(index: int, piece: Piece) -> list[dict[str, Any]]:
            found = [] if index in begun else [chat_chunk(index, "", role=True)]
            begun.add(index)
            if piece.text or piece.chances:
                found.append(chat_chunk(index, piece.text, chances=choices[index].told(piece.chances)))
            if piece.finish:
                found.append(chat_chunk(index, None, finish=piece.finish))
            return [{**opening, "choices": [choice]} for choice in found]

        last = _ends(body.stream_options, opening, answering)
        return await reply(request, answering, body.stream, whole, chunks, last)

    async def completions(self, body: CompletionRequest, request: Request) -> Any:
        """The continuation of a text, or of several."""
        served = self._served
        served.require_ready()
        served.model(body.model)
        count = body.n or 1
        if not 1 <= len(body.prompts) * count <= _MOST_COMPLETIONS:
            raise ApiError(
                400,
                f"{counted(len(body.prompts), 'prompt')} with {counted(count, 'answer')} each: 1 to "
                f"{_MOST_COMPLETIONS} answers are possible in a request.",
                code="invalid_value",
                param="prompt",
            )
        _require_room(served, len(body.prompts) * count, "prompt")
        prompts = await self._prompts.texts(request, body.prompts)
        choices = [
            Choice(
                prompt,
                body.sampling(choice, _longest(served, prompt, body.asked_tokens, "prompt"), body.chances),
                one if isinstance(one, str) else None,
                row={"prompt": one} if isinstance(one, str) else None,
            )
            for prompt, one in zip(prompts, body.prompts, strict=True)
            for choice in range(count)
        ]
        _require_few_chances(choices)
        tokens = sum(map(len, prompts))
        answering = Answering(
            request, served, self._metrics, "text_completion", body.model, choices, tokens, count
        )
        opening = head("text_completion", answering.identifier, answering.created, body.model)
        offsets: Counter[int] = Counter()

        def whole() -> dict[str, Any]:
            found = [
                completion_response(index, one.text, one.finish, one.told(one.chances))
                for index, one in enumerate(choices)
            ]
            return {**opening, "choices": found, "usage": answering.usage}

        def chunks(index: int, piece: Piece) -> list[dict[str, Any]]:
            if not (piece.text or piece.chances or piece.finish):
                return []
            offset, told = offsets[index], choices[index].told(piece.chances)
            offsets[index] += len(piece.text)
            return [
                {**opening, "choices": [completion_response(index, piece.text, piece.finish, told, offset)]}
            ]

        last = _ends(body.stream_options, opening, answering)
        return await reply(request, answering, body.stream, whole, chunks, last)

    async def rag(self, body: RagRequest, request: Request) -> Any:
        """An answer from the documents, with its sources."""
        served = self._served
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
        found = await self._prompts.found(request, find, body.question, asked, model)
        longest = _longest(served, found.prompt, body.max_tokens, "question")
        choice = Choice(
            found.prompt,
            Sampling(min(longest, asked), whole=not body.stream),
            body.question,
            len(found.sources),
            {"question": body.question, "context": [one["text"] for one in found.sources]},
        )
        answering = Answering(request, served, self._metrics, "rag", name, [choice], len(found.prompt))
        opening = head("rag.answer", answering.identifier, answering.created, name)

        def whole() -> dict[str, Any]:
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

        def chunks(_: int, piece: Piece) -> list[dict[str, Any]]:
            return [{**opening, "object": "rag.answer.chunk", "text": piece.text}] if piece.text else []

        return await reply(request, answering, body.stream, whole, chunks, [whole, "[DONE]"])


def _admission(served: Served) -> Callable[[Request], AsyncIterator[None]]:
    """Has a request wait while another run takes the place of the one that is served."""

    async def admission(request: Request) -> AsyncIterator[None]:
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(served.request_seconds):
                while not served.gate.let_in():
                    await unless_gone(request, served.gate.opened())
        except OverloadedError as error:
            raise overloaded(error) from error
        except TimeoutError as error:
            raise too_late(served) from error
        request.state.admission = admitted = Admission(served.gate, arrived)
        try:
            yield
        finally:
            admitted.leave()

    return admission


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


def _require_few_chances(choices: Sequence[Choice]) -> None:
    """Refuse a request whose log-probabilities could fill the memory.

    Those of a stream too: they wait for a client that reads more slowly than they come.
    """
    kept = [one.sampling for one in choices if one.sampling.chances is not None]
    count = sum(one.max_tokens * (1 + (one.chances or 0)) for one in kept)
    if count > _MOST_CHANCES:
        raise ApiError(
            400,
            f"{counted(len(kept), 'answer')} of up to {max(one.max_tokens for one in kept):,} tokens could have "
            f"{count:,} log-probabilities; {_MOST_CHANCES:,} are possible. Lower max_tokens, the number of answers "
            "or that of alternatives.",
            code="invalid_value",
            param="logprobs",
        )


def _ends(options: StreamOptions | None, opening: Mapping[str, Any], answering: Answering) -> Last:
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
            raise overloaded(error) from error
        except TimeoutError as error:
            raise too_late(self._served) from error


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
