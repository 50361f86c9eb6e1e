"""A gateway: its clients can't tell it from the server behind it, unless that fails."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from peft import PeftModel
from serving_fixtures import KEY, Running, served_by, soon
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AddedToken, PreTrainedTokenizerFast

from selfaug.model.generate import chat_ends, generate_greedy_ids
from selfaug.serving import upstream
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.generation import Piece, Sampling
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import Readiness
from selfaug.serving.upstream import AnswerEnds, UpstreamEngine

ASKED: list[Any] = [{"role": "user", "content": "the revenue of the year?"}]
OTHER_KEY = "the key of the server behind"

Start = Callable[..., Running]


@pytest.fixture
def gateway(
    start: Start, tiny_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., tuple[Running, openai.OpenAI]]:
    def make(url: str, **more: Any) -> tuple[Running, openai.OpenAI]:
        limits = {"max_running": 8, "max_waiting": 4, **more.pop("limits", {})}
        tokenizer = more.pop("tokenizer", tiny_tokenizer)
        engine = UpstreamEngine(
            f"{url}/v1",
            {"base": "tiny", "tuned": "first"},
            ends=AnswerEnds(tokenizer),
            key=more.pop("key", OTHER_KEY),
            **limits,
        )
        running = start(served_by(engine, tokenizer, **more), keys=ApiKeys.of(KEY))
        return running, openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)

    return make


def test_it_answers_as_the_server_behind_it(
    server: Running, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    direct = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    _, through = gateway(server.url, key=KEY)
    settings: list[dict[str, Any]] = [
        {"max_tokens": 12},
        {"max_tokens": 6, "n": 3, "temperature": 2.0, "seed": 1, "top_p": 0.9},
        {"max_tokens": 4, "logprobs": True, "top_logprobs": 2},
    ]
    for model in ("first", "tiny", "champion"):
        for more in settings:
            one, other = (
                ai.chat.completions.create(model=model, messages=ASKED, **more) for ai in (direct, through)
            )
            assert [choice.message.content for choice in one.choices] == [
                choice.message.content for choice in other.choices
            ]
            assert [choice.finish_reason for choice in one.choices] == [
                choice.finish_reason for choice in other.choices
            ]
            assert one.usage == other.usage
            if "logprobs" in more:
                for a, b in zip(one.choices, other.choices, strict=True):
                    assert a.logprobs is not None
                    assert b.logprobs is not None
                    assert [t.token for t in a.logprobs.content or []] == [
                        t.token for t in b.logprobs.content or []
                    ]
                    assert [t.logprob for t in a.logprobs.content or []] == pytest.approx(
                        [t.logprob for t in b.logprobs.content or []], abs=1e-4
                    )
    text = direct.completions.create(model="first", prompt="the year", max_tokens=8).choices[0].text
    assert through.completions.create(model="first", prompt="the year", max_tokens=8).choices[0].text == text
    stopped = [
        ai.completions.create(model="first", prompt="the year", max_tokens=8, stop=text[2:4])
        for ai in (direct, through)
    ]
    assert stopped[0].choices == stopped[1].choices
    pieces = list(
        through.chat.completions.create(
            model="first", messages=ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    whole = direct.chat.completions.create(model="first", messages=ASKED, max_tokens=12)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
    assert said == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    with pytest.raises(openai.NotFoundError):
        through.chat.completions.create(model="unknown", messages=ASKED)


class LikeVllm:
    """Ends answers with its tokeniser's end and what a request names beside it, and counts these, as vLLM does.

    Args:
        refuses: whether it refuses a field that OpenAI's API doesn't have.
    """

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerFast, *, refuses: bool) -> None:
        self.engine, self._end, self._refuses = (
            EmbeddedEngine(model, None, tokenizer),
            tokenizer.eos_token_id,
            refuses,
        )
        self.seen: list[dict[str, Any]] = []
        app = Starlette(routes=[Route("/v1/completions", self._completions, methods=["POST"])])
        self.running = Running(app, Readiness())

    def stop(self) -> None:
        self.running.stop()
        self.engine.close()

    async def _completions(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.seen.append(body)
        named = body.get("stop_token_ids", [])
        if named and self._refuses:
            message = "Unrecognized request argument supplied: stop_token_ids"
            return JSONResponse({"error": {"message": message}}, 400)
        self.engine._ends = frozenset([self._end, *named])
        sampling = Sampling(
            body["max_tokens"], stop=tuple(body.get("stop", [])), chances=body.get("logprobs")
        )
        choices, tokens = [], 0
        async for piece in self.engine.generate("tuned", body["prompt"], sampling):
            tokens += 1
            choices.append(self._choice(piece, sampling))
        usage = {"completion_tokens": tokens}
        if body.get("stream"):
            events = [{"choices": [choice]} for choice in choices] + [{"choices": [], "usage": usage}]
            return Response(
                "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
            )
        whole = choices[-1] | {"text": "".join(choice["text"] for choice in choices)}
        if sampling.chances is not None:
            whole["logprobs"] = {
                name: [one for choice in choices for one in choice["logprobs"][name]]
                for name in ("tokens", "token_logprobs", "top_logprobs")
            }
        return JSONResponse({"choices": [whole], "usage": usage})

    def _choice(self, piece: Piece, sampling: Sampling) -> dict[str, Any]:
        by_token = piece.finish == "stop" and piece.tokens == 0
        chances: list[tuple[str, float, dict[str, float]]] = [
            (one.token, one.logprob, {other.token: other.logprob for other in one.alternatives})
            for one in piece.chances
        ]
        if by_token:
            chances.append(("the end", -0.5, {}))
        names = ("tokens", "token_logprobs", "top_logprobs")
        return {
            "text": piece.text,
            "finish_reason": piece.finish,
            "stop_reason": "a text" if piece.finish == "stop" and not by_token else None,
            "logprobs": None
            if sampling.chances is None
            else {name: [one[place] for one in chances] for place, name in enumerate(names)},
        }


@pytest.mark.parametrize("refuses", [False, True])
def test_an_answer_ends_with_the_turn_where_the_server_behind_knows_the_end_of_a_text_only(
    tuned: PeftModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    start: Start,
    gateway: Callable[..., tuple[Running, openai.OpenAI]],
    refuses: bool,
) -> None:
    prompt = tiny_tokenizer("the revenue")["input_ids"]
    answer = generate_greedy_ids(tuned, [prompt], max_new_tokens=60)[0]
    letters = [(place, tiny_tokenizer.convert_ids_to_tokens(token)) for place, token in enumerate(answer)]
    end = next(text for place, text in letters if place > 2 and re.fullmatch("[a-z]+", text))
    # A template of its own ends turns with a token that the answer has.
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([AddedToken(end, normalized=False)])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", end)
    assert chat_ends(tokenizer) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end)}
    engine = EmbeddedEngine(tuned, None, tokenizer)
    behind = LikeVllm(tuned, tiny_tokenizer, refuses=refuses)
    try:
        direct = openai.OpenAI(
            base_url=f"{start(served_by(engine, tokenizer)).url}/v1", api_key=KEY, max_retries=0
        )
        _, through = gateway(behind.running.url, tokenizer=tokenizer)
        text = direct.completions.create(model="first", prompt=prompt, max_tokens=60).choices[0].text
        assert len(text) > 1
        for more in ({}, {"stop": [text[1]]}, {"max_tokens": 2}, {} if refuses else {"logprobs": 2}):
            settings: dict[str, Any] = {"model": "first", "prompt": prompt, "max_tokens": 60, **more}
            one, other = (ai.completions.create(**settings) for ai in (direct, through))
            assert one.choices[0].finish_reason == ("length" if "max_tokens" in more else "stop")
            streamed = [
                list(ai.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
                for ai in (direct, through)
            ]
            found = [chunk.choices[0] for chunk in streamed[1] if chunk.choices]
            assert "".join(choice.text for choice in found) == other.choices[0].text == one.choices[0].text
            assert found[-1].finish_reason == other.choices[0].finish_reason == one.choices[0].finish_reason
            if not refuses:  # a text that ends an answer is counted, by whatever server
                assert one.usage == other.usage == streamed[0][-1].usage == streamed[1][-1].usage
            if "logprobs" in more:
                assert one.choices[0].logprobs is not None
                assert other.choices[0].logprobs is not None
                tokens = one.choices[0].logprobs.tokens
                assert other.choices[0].logprobs.tokens == tokens
                told = [choice.logprobs.tokens or [] for choice in found if choice.logprobs]
                assert [token for some in told for token in some] == tokens
        # What it doesn't take it is asked for once.
        assert sum("stop_token_ids" in body for body in behind.seen) == (1 if refuses else len(behind.seen))
    finally:
        behind.stop()
        engine.close()


class Stub:
    """A server that does as it is told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.ports: list[int] = []
        self.gone = threading.Event()
        self.lines: Callable[[], AsyncIterator[str]] | None = None
        self.answer: Response | None = None
        app = Starlette(routes=[Route("/v1/completions", self._completions, methods=["POST"])])
        self.running = Running(app, Readiness())

    async def _completions(self, request: Request) -> Response:
        self.seen.append((dict(request.headers), json.loads(await request.body())))
        assert request.client is not None
        self.ports.append(request.client.port)
        if self.answer is not None:
            return self.answer
        lines = self.lines
        assert lines is not None

        async def events() -> AsyncIterator[str]:
            try:
                async for line in lines():
                    yield line
            finally:
                self.gone.set()

        return StreamingResponse(events(), media_type="text/event-stream")


def chunk(text: str, finish: str | None = None, **more: Any) -> str:
    return f"data: {json.dumps({'choices': [{'text': text, 'finish_reason': finish}], **more})}\n\n"


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.running.stop()


def test_keys_names_and_counts(stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]) -> None:
    async def lines() -> AsyncIterator[str]:
        yield ": a comment\n\n"
        yield chunk("two tokens", None)
        yield chunk(" end", "eos")
        yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 5}})}\n\n"
        yield "data: [DONE]\n\n"

    stub.lines = lines
    running, ai = gateway(stub.running.url)
    found = list(
        ai.chat.completions.create(
            model="champion",
            messages=ASKED,
            max_tokens=9,
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(one.choices[0].delta.content or "" for one in found if one.choices)
    assert said == "two tokens end"
    assert found[-2].choices[0].finish_reason == "stop"
    assert found[-1].usage is not None
    assert found[-1].usage.completion_tokens == 5
    headers, body = stub.seen[0]
    assert headers["authorization"] == f"Bearer {OTHER_KEY}"
    assert KEY not in json.dumps(headers) + json.dumps(body)
    assert (body["model"], body["max_tokens"], body["seed"], body["stream"]) == ("first", 9, 3, True)
    assert all(isinstance(token, int) for token in body["prompt"])
    metrics = running.metrics()
    assert "gen_ai_client_token_usage_sum" in metrics
    running, without = gateway(stub.running.url, key=None)
    whole = {"text": "at once", "finish_reason": "eos"}
    stub.answer = JSONResponse({"choices": [whole], "usage": {"completion_tokens": 2}})
    answer = without.chat.completions.create(model="first", messages=ASKED)
    metrics = running.metrics()
    assert re.search(r"^gen_ai_server_request_duration_seconds_count\{.*\} 1.0$", metrics, re.MULTILINE)
    # Of an answer in one piece nobody knows when its first token was there.
    assert "gen_ai_server_time_to_first_token_seconds_count{" not in metrics
    assert answer.choices[0].message.content == "at once"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    assert "authorization" not in stub.seen[1][0]
    assert "stream" not in stub.seen[1][1]


def test_pieces_that_come_together_are_told_one_by_one(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    def token(text: str) -> str:
        chances = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5}]}
        return json.dumps({"choices": [{"text": text, "finish_reason": None, "logprobs": chances}]})

    async def lines() -> AsyncIterator[str]:
        yield "".join(f"data: {token(text)}\n\n" for text in ("ab", "cde", "f")) + chunk("", "stop")

    stub.lines = lines
    _, ai = gateway(stub.running.url)
    found = list(ai.completions.create(model="first", prompt="the", max_tokens=4, logprobs=1, stream=True))
    assert [one.choices[0].text for one in found] == ["ab", "cde", "f", ""]
    offsets = [one.choices[0].logprobs.text_offset for one in found if one.choices[0].logprobs]
    assert offsets[:3] == [[0], [2], [5]]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (JSONResponse({"error": {"message": "prompt too long"}}, 400), 400, "prompt too long"),
        (JSONResponse({"error": "no key"}, 401), 502, "401 no key"),
        (JSONResponse({"error": {"message": "no such model"}}, 404), 502, "no such model"),
        (Response("<html>", 500), 502, "500"),
        (Response("[]", 500), 502, "500"),
        (Response("busy", 429, headers={"retry-after": "7"}), 429, "waiting"),
        (Response("busy", 429, headers={"retry-after": "0"}), 429, "waiting"),
        (Response("busy", 429, headers={"retry-after": "\xb2"}), 429, "waiting"),
        (Response("busy", 503), 503, "refused: 503"),
        (Response("busy", 503, headers={"retry-after": "7"}), 503, "refused: 503"),
        (Response("no json"), 502, "no valid answer"),
        (JSONResponse({"choices": []}), 502, "no valid answer"),
        (Response("data: no json\n\n"), 502, "no valid event"),
        (Response("data: [1]\n\n"), 502, "no valid event"),
        (Response("data: 5\n\n"), 502, "no valid event"),
        (Response('data: {"choices": [5]}\n\n'), 502, "no valid event"),
        (Response('data: {"choices": {}, "usage": {"prompt_tokens": 1}}\n\n'), 502, "no valid event"),
        (
            Response('data: {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": []}}]}\n\n'),
            502,
            "no valid event",
        ),
        (Response(b"data: \xff\n\n"), 502, "no valid event"),
        (Response("data: [DONE]\n\n"), 502, "in the middle"),
        (
            JSONResponse({"choices": [{"text": "a", "finish_reason": "abort"}]}),
            502,
            "cut the answer off (abort)",
        ),
        (
            Response('data: {"choices": [{"text": "", "finish_reason": "error"}]}\n\n'),
            502,
            "cut the answer off",
        ),
        (Response('data: {"error": {"message": "out of memory"}}\n\n'), 502, "out of memory"),
    ],
)
def test_what_goes_wrong_behind_it_is_said(
    stub: Stub,
    gateway: Callable[..., tuple[Running, openai.OpenAI]],
    answer: Response,
    status: int,
    message: str,
) -> None:
    stub.answer = answer
    _, ai = gateway(stub.running.url)
    stream = answer.body.startswith(b"data: ")
    with pytest.raises(openai.APIStatusError) as refused:
        ai.chat.completions.create(model="first", messages=ASKED, stream=stream)
    assert refused.value.status_code == status
    assert message in str(refused.value)
    if status in (429, 503):
        wanted = "7" if answer.headers.get("retry-after") == "7" else "1"
        assert refused.value.response.headers["retry-after"] == wanted


def test_a_refusal_that_only_repeats_the_request_is_none_of_the_ends(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    _, ai = gateway(stub.running.url)
    stub.answer = JSONResponse({"error": {"message": "too long: {'stop_token_ids': [2]}"}}, 400)
    with pytest.raises(openai.BadRequestError, match="too long"):
        ai.chat.completions.create(model="first", messages=ASKED)
    stub.answer = JSONResponse({"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}})
    ai.chat.completions.create(model="first", messages=ASKED)
    assert ["stop_token_ids" in body for _, body in stub.seen] == [True, False, True]


@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"error": {"message": "can't read 'the secret of Kelvandra'"}}, 400),
        Response("Kelvandra", 500),
        Response('data: {"error": {"message": "Kelvandra"}}\n\n'),
        Response("Kelvandra"),
    ],
)
def test_what_the_server_behind_it_says_is_not_logged(
    stub: Stub,
    gateway: Callable[..., tuple[Running, openai.OpenAI]],
    answer: Response,
    log: list[str],
) -> None:
    stub.answer = answer
    _, ai = gateway(stub.running.url)
    with pytest.raises(openai.APIStatusError):
        ai.chat.completions.create(model="first", messages=ASKED, stream=answer.body.startswith(b"data: "))
    assert soon(lambda: len(log) == 1)
    assert "the server behind this one" in json.loads(log[0])["error"]
    assert "Kelvandra" not in log[0]


def test_an_answer_may_have_any_character(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    """Also those that Python takes for the end of a line, and one that comes in two parts."""
    text = "one\u2028two\u2029three\x85four\u00e9"

    async def lines() -> AsyncIterator[Any]:
        for piece, finish in ((text, None), ("", "stop")):
            event = json.dumps({"choices": [{"text": piece, "finish_reason": finish}]}, ensure_ascii=False)
            sent = f"data: {event}\r\n\r\n".encode()
            cut = sent.find(b"\xc3") + 1
            yield sent[:cut]
            await asyncio.sleep(0.05)
            yield sent[cut:]

    stub.lines = lines
    running, ai = gateway(stub.running.url)
    found = ai.chat.completions.create(model="first", messages=ASKED, stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in found) == text
    # Clients that read lines as Python has them get whole events.
    asked = {"model": "first", "prompt": "the", "stream": True}
    with httpx.stream(
        "POST",
        f"{running.url}/v1/completions",
        json=asked,
        headers={"authorization": f"Bearer {KEY}"},
        trust_env=False,
    ) as stream:
        lines_read = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert json.loads(lines_read[0])["choices"][0]["text"] == text


def test_an_answer_that_was_filtered_says_so(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    choice = {"text": "a", "finish_reason": "content_filter"}
    stub.answer = JSONResponse({"choices": [choice], "usage": {"completion_tokens": 1}})
    _, ai = gateway(stub.running.url)
    found = ai.chat.completions.create(model="first", messages=ASKED)
    assert found.choices[0].finish_reason == "content_filter"


def test_a_connection_is_given_up_before_the_server_behind_does(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upstream._KEPT_SECONDS < 5  # uvicorn's, and so vLLM's
    monkeypatch.setattr(upstream, "_KEPT_SECONDS", 0.5)
    stub.answer = JSONResponse({"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}})
    _, ai = gateway(stub.running.url)
    for pause in (0.0, 0.0, 0.8):
        time.sleep(pause)
        ai.chat.completions.create(model="first", messages=ASKED)
    assert stub.ports[0] == stub.ports[1] != stub.ports[2]


def test_an_event_that_never_ends_is_given_up(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "_MOST_LINE", 1000)

    async def lines() -> AsyncIterator[str]:
        while True:
            yield "x" * 100
            await asyncio.sleep(0.001)

    stub.lines = lines
    _, ai = gateway(stub.running.url)
    with pytest.raises(openai.APIStatusError, match="no valid event"):
        ai.chat.completions.create(model="first", messages=ASKED, stream=True)


def test_a_stream_that_fails_counts_as_a_failure(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]], log: list[str]
) -> None:
    async def fails() -> AsyncIterator[str]:
        yield chunk("begun")
        await asyncio.sleep(0.05)
        yield 'data: {"error": {"message": "out of memory"}}\n\n'

    stub.lines = fails
    running, ai = gateway(stub.running.url)
    with pytest.raises(openai.APIError, match="out of memory"):
        list(ai.chat.completions.create(model="first", messages=ASKED, stream=True))
    assert soon(lambda: len(log) == 1)
    line = json.loads(log[0])
    assert (line["status"], line["failed"]) == (200, 502)
    assert line["error"] == "the server behind this one failed in the middle of an answer"
    metrics = running.metrics()
    assert 'selfaug_requests_total{path="/v1/chat/completions",status="502"} 1.0' in metrics
    assert 'path="/v1/chat/completions",status="200"' not in metrics


def test_a_server_that_is_gone_or_slow(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    async def never() -> AsyncIterator[str]:
        yield chunk("begun")
        await asyncio.sleep(60)

    stub.lines = never
    running, ai = gateway(stub.running.url, request_seconds=1.0)
    began = time.monotonic()
    with pytest.raises(openai.APIStatusError) as slow:
        ai.chat.completions.create(model="first", messages=ASKED)
    assert slow.value.status_code == 504
    assert time.monotonic() - began < 10
    metrics = running.metrics()
    assert 'gen_ai_server_request_duration_seconds_count{error_type="timeout",' in metrics
    # Its first token may have been there: beside answers in one piece, which have none, such waits would be all.
    assert "gen_ai_server_time_to_first_token_seconds_count{" not in metrics
    assert stub.gone.wait(10)  # it was told that nobody waits any more
    _, lost = gateway("http://127.0.0.1:9")
    with pytest.raises(openai.APIStatusError) as gone:
        lost.chat.completions.create(model="first", messages=ASKED)
    assert gone.value.status_code == 502
    assert "ConnectError" in str(gone.value)


def test_one_that_dies_in_the_middle_of_a_stream_is_an_event(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    async def dies() -> AsyncIterator[str]:
        yield chunk("begun")
        await asyncio.sleep(0.05)
        raise OSError("gone")

    stub.lines = dies
    _, ai = gateway(stub.running.url)
    said: list[str | None] = []

    def listen() -> None:
        stream = ai.chat.completions.create(model="first", messages=ASKED, stream=True)
        said.extend(piece.choices[0].delta.content for piece in stream)

    with pytest.raises(openai.APIError, match="failed"):
        listen()
    assert "begun" in said


def test_a_client_that_goes_away_is_gone_behind_it_too(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    async def slowly() -> AsyncIterator[str]:
        for _ in range(1000):
            yield chunk("more ")
            await asyncio.sleep(0.02)

    stub.lines = slowly
    running, ai = gateway(stub.running.url)
    stream = ai.chat.completions.create(model="first", messages=ASKED, stream=True)
    next(iter(stream))
    stream.close()
    assert stub.gone.wait(10)
    stub.gone.clear()
    with pytest.raises(openai.APITimeoutError):
        ai.with_options(timeout=0.3).chat.completions.create(model="first", messages=ASKED)
    assert stub.gone.wait(10)
    assert running.thread.is_alive()


def test_what_is_too_much_is_429_and_places_are_free_again(
    stub: Stub, gateway: Callable[..., tuple[Running, openai.OpenAI]]
) -> None:
    go = threading.Event()

    async def waits() -> AsyncIterator[str]:
        while not go.is_set():
            await asyncio.sleep(0.01)
        yield json.dumps(
            {"choices": [{"text": "done", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
        )

    stub.lines = waits
    running, ai = gateway(stub.running.url, limits={"max_running": 2, "max_waiting": 1})
    answers: list[str | None] = []

    def ask() -> None:
        found = ai.chat.completions.create(model="first", messages=ASKED)
        answers.append(found.choices[0].message.content)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert soon(lambda: len(stub.seen) == 2)

    def metric(name: str) -> float:
        text = running.metrics()
        return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])

    assert soon(lambda: metric("selfaug_requests_waiting") == 1)
    assert metric("selfaug_requests_running") == 2
    with pytest.raises(openai.RateLimitError):
        ai.chat.completions.create(model="first", messages=ASKED)
    go.set()
    for thread in threads:
        thread.join(30)
    assert answers == ["done"] * 3
    assert ai.chat.completions.create(model="first", messages=ASKED).choices[0].message.content == "done"
