"""The gate: what waits at it, and what it keeps from changing."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from serving_fixtures import KEY, Running, served_by, soon
from transformers import PreTrainedTokenizerFast

from selfaug.serving.gate import Gate
from selfaug.serving.generation import EngineError, Model, Piece, Sampling
from selfaug.serving.served import Served

BODY = {"model": "champion", "prompt": "the year", "max_tokens": 2}


def test_it_is_closed_only_when_all_that_were_let_in_have_left() -> None:
    gate, closed = Gate(), threading.Event()

    def close() -> None:
        with gate.closed():
            closed.set()

    assert gate.let_in()
    thread = threading.Thread(target=close)
    thread.start()
    assert soon(lambda: gate._closed)
    assert not gate.let_in()
    assert not closed.wait(0.2)
    gate.leave()
    assert closed.wait(10)
    thread.join(10)
    assert gate.let_in()


class Engine:
    """Notes whether the gate could be closed when it is asked."""

    waiting = running = 0
    whole_in_pieces = True

    def __init__(self) -> None:
        self.served: Served
        self.inside: list[int] = []

    async def generate(
        self, model: Model, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Piece]:
        self.inside.append(self.served.gate._inside)
        if prompt[0] == 9:
            raise EngineError("it can't")
        yield Piece("a", 1, [], None)
        yield Piece("", 0, [], "stop")

    def close(self) -> None: ...


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_inside_until_the_engine_has_all_that_it_asks(
    tiny_tokenizer: PreTrainedTokenizerFast, start: Callable[..., Running], stream: bool
) -> None:
    engine = Engine()
    engine.served = served_by(engine, tiny_tokenizer)
    with httpx.Client(
        base_url=start(engine.served).url,
        headers={"authorization": f"Bearer {KEY}"},
        timeout=60,
        trust_env=False,
    ) as client:

        def status(**changed: Any) -> int:
            return client.post("/v1/completions", json={**BODY, "stream": stream, **changed}).status_code

        assert status(prompt=["a", "b", "c"], n=3, temperature=1) == 200
        assert engine.inside == [1] * 9
        for expected, changed in ((404, {"model": "x"}), (500, {"prompt": [9, 9]}), (400, {"prompt": ""})):
            assert status(**changed) == expected
        assert soon(lambda: engine.served.gate._inside == 0)


def test_those_before_a_closed_gate_wait_as_long_and_as_many_as_the_limits_say(
    served: Served, client: httpx.Client
) -> None:
    served.gate = Gate(most_waiting=1)
    with ThreadPoolExecutor(1) as pool:
        with served.gate.closed():
            first = pool.submit(client.post, "/v1/completions", json=BODY)
            assert soon(lambda: served.gate.waiting == 1)
            assert "selfaug_requests_waiting 1.0" in client.get("/metrics").text
            refused = client.post("/v1/completions", json=BODY)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "overloaded"
            assert not first.done()
        assert first.result().status_code == 200
        served.request_seconds = 0.1
        with served.gate.closed():
            late = client.post("/v1/completions", json=BODY)
            assert late.json()["error"]["code"] == "timeout"
    assert served.gate.waiting == 0
