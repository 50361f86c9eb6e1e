"""A long text or a slow search keeps no other request waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from serving_fixtures import KEY, Running, served_by, soon
from transformers import PreTrainedTokenizerFast

from selfaug.model.generate import chat_prompt_ids, text_prompt_ids
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.one_at_a_time import OneAtATime
from selfaug.serving.served import FoundPrompt, Served

CHAT = {"model": "first", "messages": [{"role": "user", "content": "the year"}], "max_tokens": 2}
TEXT = {"model": "first", "prompt": "the year", "max_tokens": 2}
QUESTION = {"question": "the year", "max_tokens": 2}


class Slow:
    """What makes prompts, and waits until it may."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.go, self.began = threading.Event(), threading.Semaphore(0)
        self.calls = 0
        self._tokenizer = tokenizer

    def text_ids(self, text: str) -> list[int]:
        self.calls += 1
        self.began.release()
        assert self.go.wait(30)
        return list(self._tokenizer(text)["input_ids"])

    def find(self, question: str, *_: Any) -> FoundPrompt:
        return FoundPrompt(self.text_ids(question), [], lambda _: [])


@pytest.fixture
def slow(tiny_tokenizer: PreTrainedTokenizerFast) -> Iterator[Slow]:
    slow = Slow(tiny_tokenizer)
    yield slow
    slow.go.set()


@pytest.fixture
def begin(
    start: Callable[..., Running], engine: EmbeddedEngine, tiny_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Running]:
    def make(slow: Slow, **more: Any) -> Running:
        served: Served = served_by(engine, tiny_tokenizer, find=slow.find, **more)
        served.text_ids = slow.text_ids
        return start(served)

    return make


def client_of(server: Running, seconds: float = 20) -> httpx.Client:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=seconds, trust_env=False)


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", TEXT), ("/v1/rag/answer", QUESTION)])
def test_other_requests_are_answered_meanwhile(
    slow: Slow, begin: Callable[..., Running], path: str, body: dict[str, Any]
) -> None:
    server = begin(slow)
    with client_of(server) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, path, json=body)
        assert slow.began.acquire(timeout=10)
        with client_of(server, seconds=10) as other:
            assert other.get("/health").status_code == 200
            if path == "/v1/rag/answer":  # nor does a search keep a tokeniser waiting
                assert other.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert not waiting.done()
        slow.go.set()
        assert waiting.result(20).status_code == 200


def test_too_many_that_wait_are_refused_and_those_before_are_answered(
    slow: Slow, begin: Callable[..., Running]
) -> None:
    server = begin(slow, most_at_once=2)
    with client_of(server) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, "/v1/rag/answer", json=QUESTION) for _ in range(2)]
        assert slow.began.acquire(timeout=10)
        with client_of(server, seconds=10) as other:

            def refused() -> bool:
                try:
                    return other.post("/v1/rag/answer", json=QUESTION, timeout=0.3).status_code == 429
                except httpx.TimeoutException:  # the second had not come yet; this one has gone
                    return False

            assert soon(refused)
            answer = other.post("/v1/rag/answer", json=QUESTION)
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "overloaded"
        slow.go.set()
        assert [one.result(20).status_code for one in waiting] == [200, 200]


def test_a_client_that_has_gone_is_not_searched_for(
    slow: Slow, begin: Callable[..., Running], log: list[str]
) -> None:
    server = begin(slow)
    with client_of(server) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/rag/answer", json=QUESTION)
        assert slow.began.acquire(timeout=10)
        with client_of(server, seconds=0.3) as hasty, pytest.raises(httpx.TimeoutException):
            hasty.post("/v1/rag/answer", json=QUESTION)
        assert soon(lambda: any('"status": 499' in line for line in log))
        slow.go.set()
        assert waiting.result(20).status_code == 200
    assert slow.calls == 1


def test_what_takes_too_long_is_given_up(slow: Slow, begin: Callable[..., Running]) -> None:
    server = begin(slow, request_seconds=0.3)
    with client_of(server) as client:
        late = client.post("/v1/completions", json=TEXT)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "timeout"


def test_a_tokeniser_is_used_by_one_thread_at_a_time() -> None:
    inside, most = [], []

    class Tokenizer:
        chat_template = "there is one"

        def __call__(self, text: str) -> dict[str, list[int]]:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()
            return {"input_ids": [len(text)]}

        def apply_chat_template(self, chat: Any, **_: Any) -> list[int]:
            return self(chat[0]["content"])["input_ids"]

    tokenizer: Any = Tokenizer()
    with ThreadPoolExecutor(4) as pool:
        found = [
            *pool.map(lambda text: chat_prompt_ids(tokenizer, text), ["a", "ab"] * 5),
            *pool.map(lambda text: text_prompt_ids(tokenizer, text), ["abc", "abcd"] * 5),
        ]
    assert found == [[1], [2]] * 5 + [[3], [4]] * 5
    assert max(most) == 1


def test_a_search_that_never_comes_back_keeps_no_process_alive() -> None:
    """What is not a daemon is waited for when the interpreter ends."""
    began, go = threading.Event(), threading.Event()

    async def asked() -> None:
        def search() -> None:
            began.set()
            go.wait(30)

        searching = asyncio.ensure_future(OneAtATime("never-ends", 1).do(search))
        await asyncio.to_thread(began.wait, 30)
        assert [thread.daemon for thread in threading.enumerate() if thread.name == "never-ends"] == [True]
        searching.cancel()

    asyncio.run(asked())
    go.set()


def test_what_a_future_does_not_take_is_raised_too() -> None:
    """A retriever of the user's that is out of passages: it would be waited for until the request's end."""

    async def ask() -> Any:
        return await OneAtATime("searches", 4).do(lambda: next(iter([])))

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(ask(), 10))
