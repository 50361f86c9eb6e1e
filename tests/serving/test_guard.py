"""What the server lets in, and what it never tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from serving_fixtures import KEY, Running, served_by, soon
from transformers import PreTrainedTokenizerFast

from selfaug.core.rate_limit import RateLimit
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.records import read_record, write_record
from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.generation import Piece
from selfaug.serving.guard import Guard, Limits
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import FoundPrompt, Readiness, Served

SECRET = "Kelvandra's unpublished numbers"
CHAT = {"model": "first", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}


def paths_of(client: httpx.Client) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    return found


def slow_down(engine: EmbeddedEngine) -> None:
    """Twenty tokens a second, to the limit."""
    engine._ends = frozenset()
    step = engine._lanes[0].step

    def slow(token_ids: Any) -> Any:
        time.sleep(0.05)
        return step(token_ids)

    engine._lanes[0].step = slow  # type: ignore[method-assign]


def test_everything_but_health_and_ready_needs_the_key(client: httpx.Client, server: Running) -> None:
    described = paths_of(client)
    paths = [
        *described,
        "/openapi.json",
        "/docs",
        "/redoc",
        "/",
        "/nothing",
        "/v1/",
        "//health",
        "/health/",
        "/ready/x",
    ]
    assert {"/v1/chat/completions", "/v1/models", "/metrics", "/health"} <= set(paths)
    with httpx.Client(base_url=server.url, trust_env=False) as without:
        for path in paths:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"):
                found = without.request(method, path.replace("{name}", "first"))
                if path in ("/health", "/ready"):
                    assert found.status_code == (200 if method in ("GET", "HEAD") else 405), (method, path)
                else:
                    assert found.status_code == 401, (method, path)
                    assert found.headers["www-authenticate"] == "Bearer"
        # As a path in other words, and as a key in other places.
        for path in ("/v1/../v1/models", "/%76%31/models", "/health/../v1/models", "/v1/models?key=" + KEY):
            assert without.get(path).status_code == 401
        for headers in (
            [("authorization", KEY)],
            [("authorization", f"Basic {KEY}")],
            [("authorization", "Bearer")],
            [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")],
            [("x-api-key", KEY)],
            [("cookie", f"authorization=Bearer {KEY}")],
        ):
            assert without.get("/v1/models", headers=headers).status_code == 401
        for good in (f"Bearer {KEY}", f"bearer  {KEY}"):
            assert without.get("/v1/models", headers={"authorization": good}).status_code == 200


def test_every_response_has_the_headers_that_keep_browsers_out(client: httpx.Client, server: Running) -> None:
    answers = [client.get("/v1/models"), client.get("/nothing"), client.post("/v1/chat/completions", json={})]
    answers.append(httpx.get(f"{server.url}/v1/models", trust_env=False))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
        assert len(answer.headers["x-request-id"]) == 16


def test_errors_are_openais(client: httpx.Client) -> None:
    for answer, status in (
        (client.get("/nothing"), 404),
        (client.post("/v1/chat/completions/", json=CHAT), 404),  # no redirect to plain HTTP
        (client.put("/v1/models"), 405),
        (client.post("/v1/chat/completions", content=b"{not json"), 400),
        (client.post("/v1/chat/completions", content=b"\xff\xfe"), 400),
        (client.post("/v1/chat/completions", json=[1]), 400),
        (client.post("/v1/chat/completions", json={**CHAT, "model": "other"}), 404),
    ):
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"
    # As clients of the Responses API ask, and those whose address lacks the `/v1`.
    for path in ("/v1/responses", "/chat/completions"):
        message = client.post(path, json=CHAT).json()["error"]["message"]
        assert "this server has /v1/models, /v1/chat/completions, " in message
        assert "no Responses API" in message


def test_a_body_as_curl_sends_it_is_told_what_header_it_lacks(client: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/v1/chat/completions", content=json.dumps(CHAT), headers=form)
    assert answer.status_code == 400
    assert "with the header `content-type: application/json`" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ('{"model": ', None, "the body is no JSON"),
        ("[1]", None, "the body is no JSON object"),
        (
            '{"messages": [{"role": "user", "content": null}]}',
            "messages.0.content",
            "it is a text, or a list",
        ),
        (
            '{"messages": [{"role": "tool", "content": "x"}]}',
            "messages.0.role",
            "turns of tools are not served",
        ),
        (
            r'{"messages": [{"role": "user", "content": "cut \ud83d"}]}',
            "messages.0.content.0.text",
            "cut in two",
        ),
        (
            r'{"messages": [{"role": "user", "content": [{"type": "text", "text": "\ude00"}]}]}',
            "messages.0.content.0.text",
            "cut in two",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "messages.0.content.0.type",
            "Input should be 'text'",
        ),
    ],
)
def test_what_is_wrong_with_a_body_is_said_with_its_field(
    client: httpx.Client, body: str, param: str | None, message: str
) -> None:
    model = '{"model": "first", "max_tokens": 1, '
    body = body.replace('{"messages"', model + '"messages"')
    answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], message in error["message"]) == (param, True), error
    whole = {**CHAT, "messages": [{"role": "user", "content": "\U0001f600"}]}
    assert client.post("/v1/chat/completions", json=whole).status_code == 200


def test_a_page_elsewhere_that_has_its_name_point_here_gets_nothing(
    served: Served, start: Callable[..., Running]
) -> None:
    for only_here, statuses in ((True, [200, 200, 421, 421]), (False, [200] * 4)):
        server = start(served, keys=None, only_here=only_here)
        hosts = ("127.0.0.1:8000", "localhost", "app.localhost:8000", "192.168.1.1")
        found = [
            httpx.get(f"{server.url}/v1/models", headers={"host": host}, trust_env=False) for host in hosts
        ]
        assert [answer.status_code for answer in found] == statuses
        # A page of its own name, which sends what browsers send without asking first: no key, no kind of content.
        for origin, status in (
            ("http://evil.example", 403 if only_here else 200),
            ("null", 403 if only_here else 200),
            ("http://localhost:3000", 200),
            ("http://[::1]", 200),
            ("http://tauri.localhost", 200),
            ("http://app.localhost:5173", 200),
            ("http://localhost.evil.example", 403 if only_here else 200),
            (f"chrome-extension://{'a' * 200}", 403 if only_here else 200),
        ):
            json_type = {"content-type": "application/json", "origin": origin}
            posted = httpx.post(
                f"{server.url}/v1/chat/completions", json=CHAT, headers=json_type, trust_env=False
            )
            assert posted.status_code == status, (origin, posted.text)
        if only_here:
            message = posted.json()["error"]["message"]
            page = f"'chrome-extension://{'a' * 81}'"
            assert f"answers no page of {page}: start the server with a key." in message
        content = json.dumps(CHAT).encode()
        posted = httpx.post(f"{server.url}/v1/chat/completions", content=content, trust_env=False)
        assert "content-type" not in posted.request.headers
        assert posted.status_code == 400
    # Who asks whether it lives may be a name of this machine's own making.
    asked = httpx.get(f"{server.url}/health", headers={"host": "evil.example"}, trust_env=False)
    assert asked.status_code == 200


def test_a_body_is_neither_large_nor_slow(
    start: Callable[..., Running], engine: EmbeddedEngine, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    limits = Limits(body_bytes=2000, body_seconds=0.5)
    server = start(served_by(engine, tiny_tokenizer), limits=limits)
    address = urlsplit(server.url)
    first = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    head = f"{first}content-type: application/json\r\n"

    def answer(sent: str, *, wait: float = 0) -> str:
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(sent.encode())
            time.sleep(wait)
            told = ""
            while "}" not in told:
                told += connection.recv(4096).decode()
            return told

    announced = answer(f"{head}content-length: 2001\r\n\r\n")
    assert announced.startswith("HTTP/1.1 413")
    assert "larger than 2,000 bytes" in announced
    # Without a length: in chunks.
    chunked = answer(f"{head}transfer-encoding: chunked\r\n\r\n9c4\r\n{'x' * 2500}\r\n")
    assert chunked.startswith("HTTP/1.1 413")
    slow = answer(f"{head}content-length: 100\r\n\r\n{{", wait=0.7)
    assert slow.startswith("HTTP/1.1 408")
    assert "not here after 0.5 seconds" in slow
    small = f'{{"model": "first", "prompt": "the", "max_tokens": 1}}{" " * 100}'
    assert answer(f"{head}content-length: {len(small)}\r\n\r\n{small}").startswith("HTTP/1.1 200")
    # Nor is one waited for where no key is needed.
    open_path = f"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: {limits.body_bytes}\r\n\r\n"
    assert answer(open_path).startswith("HTTP/1.1 405")
    # Without a key nothing of a body is read.
    unread = answer(f"{head.replace(KEY, 'other')}content-length: 10000000\r\n\r\n")
    assert unread.startswith("HTTP/1.1 401")


def test_neither_log_nor_metrics_have_text_of_users(client: httpx.Client, log: list[str]) -> None:
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert client.post("/v1/chat/completions", json={**CHAT, "model": SECRET}).status_code == 404
    assert client.post("/v1/chat/completions", json={**CHAT, "temperature": SECRET}).status_code == 400
    client.get(f"/{SECRET}")
    client.get(f"/v1/models/{SECRET}")
    client.get("/v1/models", params={"q": SECRET}, headers={"user-agent": SECRET})
    assert soon(lambda: len(log) == 6)
    lines = [json.loads(line) for line in log]
    assert [line["status"] for line in lines] == [200, 404, 400, 404, 404, 200]
    assert lines[0]["path"] == "/v1/chat/completions"
    assert lines[0]["model"] == "first"
    assert lines[0]["completion_tokens"] == 3
    assert lines[3]["path"] == "other"
    assert lines[4]["path"] == "/v1/models"
    told = client.get("/metrics").text
    for text in ("".join(log), told):
        assert "Kelvandra" not in text
        assert "unpublished" not in text
        assert KEY not in text


def test_metrics_count_what_was_answered(client: httpx.Client) -> None:
    client.post("/v1/chat/completions", json=CHAT)
    client.post("/v1/completions", json={"model": "tiny", "prompt": "the", "max_tokens": 2})
    client.get("/v1/nothing")
    told = client.get("/metrics").text
    labels = 'gen_ai_operation_name="chat",gen_ai_request_model="first"'
    for name, ended in (
        ("gen_ai_server_request_duration_seconds", 'error_type="",'),
        ("gen_ai_server_time_to_first_token_seconds", 'error_type="",'),
        ("gen_ai_server_time_per_output_token_seconds", ""),
    ):
        assert f"{name}_count{{{ended}{labels}}} 1.0" in told
    output = 'gen_ai_operation_name="text_completion",gen_ai_request_model="tiny",gen_ai_token_type="output"'
    assert f"gen_ai_client_token_usage_sum{{{output}}} 2.0" in told
    assert 'selfaug_requests_total{path="/v1/chat/completions",status="200"} 1.0' in told
    assert 'selfaug_requests_total{path="other",status="404"} 1.0' in told
    assert "selfaug_ready 1.0" in told
    assert "selfaug_requests_running 0.0" in told


def test_a_server_that_is_not_ready_answers_nothing_and_says_why(
    client: httpx.Client, served: Served
) -> None:
    assert client.get("/ready").json() == {"ready": True, "reason": "tests"}
    served.readiness.become(False, "the adapter is another one")
    ready = client.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["reason"] == "the adapter is another one"
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "first", "prompt": "x"}),
        ("/v1/rag/answer", {"question": "x"}),
    ):
        refused = client.post(path, json=body)
        assert refused.status_code == 503
        assert "the adapter is another one" in refused.json()["error"]["message"]
        assert "retry-after" in refused.headers
    assert client.get("/health").status_code == 200
    assert client.get("/v1/models").status_code == 200
    served.readiness.become(False, "shutting down")
    served.readiness.become(True, "replayed")
    assert not served.readiness.ready


def test_ready_tells_no_details_without_the_key(
    client: httpx.Client, server: Running, served: Served
) -> None:
    readiness = served.readiness
    readiness.become(
        False, "http://10.0.0.7:8001/v1 does not answer", "waiting for the server behind this one"
    )
    readiness.not_followed = "/srv/runs/second has other weights"
    assert client.get("/ready").json() == {
        "ready": False,
        "reason": "http://10.0.0.7:8001/v1 does not answer",
        "not_followed": "/srv/runs/second has other weights",
    }
    for headers in ({}, {"authorization": "Bearer another"}):
        found = httpx.get(f"{server.url}/ready", headers=headers, trust_env=False)
        assert found.status_code == 503
        assert found.json() == {
            "ready": False,
            "reason": "waiting for the server behind this one",
            "not_followed": "the registry's champion is not what is served",
        }


def test_an_answer_that_takes_too_long_is_given_up(
    start: Callable[..., Running], engine: EmbeddedEngine, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    server = start(served_by(engine, tiny_tokenizer, request_seconds=0.2))
    slow_down(engine)
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    ) as client:
        late = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 100})
        assert late.status_code == 504
        assert late.json()["error"]["message"] == "the answer was not complete after 0.2 seconds."
        with client.stream(
            "POST", "/v1/chat/completions", json={**CHAT, "max_tokens": 100, "stream": True}
        ) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert stream.status_code == 200
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
    assert soon(lambda: engine.running == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("patience", "error_type"), [(30.0, "timeout"), (0.1, "cancelled")])
def test_who_waited_in_vain_has_waited_too(
    start: Callable[..., Running],
    tuned: Any,
    tiny_tokenizer: PreTrainedTokenizerFast,
    log: list[str],
    stream: bool,
    patience: float,
    error_type: str,
) -> None:
    """Else the metrics have the quick ones only: a server that answers none in time would look like an idle one."""
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=1, max_waiting=1)
    server = start(served_by(engine, tiny_tokenizer, request_seconds=0.3))
    release = threading.Event()
    busy = threading.Thread(target=engine.when_idle, args=[lambda: release.wait(30)])
    busy.start()
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    ) as client:
        with contextlib.suppress(httpx.TimeoutException):
            late = client.post("/v1/chat/completions", json={**CHAT, "stream": stream}, timeout=patience)
            assert late.status_code == 504
        assert soon(lambda: len(log) == 1)
        told = client.get("/metrics").text
    release.set()
    busy.join(30)
    engine.close()
    labels = f'error_type="{error_type}",gen_ai_operation_name="chat",gen_ai_request_model="first"'
    for name in ("gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds"):
        assert f"{name}_count{{{labels}}} 1.0" in told
        (seconds,) = re.findall(rf"^{name}_sum{{{labels}}} (\S+)$", told, re.MULTILINE)
        assert min(patience, 0.3) * 0.5 < float(seconds) < 10
    assert "gen_ai_client_token_usage_count{" not in told


def test_when_too_many_wait_the_next_is_told_when_to_come_again(
    start: Callable[..., Running], tuned: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=1, max_waiting=0)
    slow_down(engine)
    server = start(served_by(engine, tiny_tokenizer))
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    ) as client:
        body = {**CHAT, "stream": True, "max_tokens": 200}
        with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()  # kept: without it the stream would end
            next(lines)
            for streaming in (True, False):
                refused = client.post("/v1/chat/completions", json={**CHAT, "stream": streaming})
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json()["error"]["code"] == "overloaded"
            # Who was told at once has not waited.
            assert "gen_ai_server_request_duration_seconds_count{" not in client.get("/metrics").text
    engine.close()


def test_an_engine_that_fails_is_a_server_error_without_details(
    client: httpx.Client, engine: EmbeddedEngine, log: list[str]
) -> None:
    def broken(token_ids: Any) -> Any:
        raise RuntimeError(SECRET)

    engine._lanes[0].step = broken  # type: ignore[method-assign]
    failed = client.post("/v1/chat/completions", json=CHAT)
    assert failed.status_code == 500
    assert failed.json()["error"] == {
        "message": "RuntimeError while answering",
        "type": "server_error",
        "param": None,
        "code": "engine_failure",
    }
    assert soon(lambda: len(log) == 1)
    assert json.loads(log[-1])["error"] == "RuntimeError while answering"
    assert SECRET not in failed.text + "".join(log)


def test_an_unexpected_error_is_logged_without_what_it_says(
    client: httpx.Client, served: Served, log: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its message may have the user's words, as a KeyError has, and a traceback would show it."""

    def broken(messages: Any) -> list[int]:
        raise KeyError(SECRET)

    served.chat_ids = broken
    failed = client.post("/v1/chat/completions", json=CHAT)
    assert failed.status_code == 500
    assert failed.json()["error"]["message"] == "KeyError in the server."
    assert soon(lambda: len(log) == 2)
    failure, request = (json.loads(line) for line in log)
    assert (failure["event"], failure["error"], request["status"]) == ("failure", "KeyError", 500)
    assert failure["id"] == request["id"] == failed.headers["x-request-id"]
    assert failure["calls"][-1].startswith("test_guard.py:")
    assert failure["calls"][-1].endswith(" broken")
    told = capfd.readouterr()
    assert SECRET not in failed.text + "".join(log) + told.out + told.err


def test_an_error_that_explains_another_is_logged_as_where_that_was(
    client: httpx.Client, served: Served, log: list[str]
) -> None:
    def search_of_the_users(messages: Any) -> list[int]:
        raise KeyError(SECRET)

    def explained(messages: Any) -> list[int]:
        try:
            return search_of_the_users(messages)
        except KeyError as error:
            raise ConfigError(f"the retriever failed for {SECRET}.") from error

    served.chat_ids = explained
    failed = client.post("/v1/chat/completions", json=CHAT)
    assert failed.status_code == 500
    assert soon(lambda: len(log) == 2)
    failure = json.loads(log[0])
    assert failure["error"] == "KeyError"
    assert failure["calls"][-1].endswith(" search_of_the_users")
    assert SECRET not in failed.text + "".join(log)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_raises_what_nobody_expects_keeps_nobody_waiting(
    client: httpx.Client, served: Served, log: list[str], pieces: int, stream: bool
) -> None:
    class Broken:
        waiting = running = 0
        whole_in_pieces = True

        async def generate(self, *_: Any) -> AsyncGenerator[Piece]:
            for _ in range(pieces):
                yield Piece("begun", 1, [], None)
                await asyncio.sleep(0.05)
            raise KeyError(SECRET)

    served.engine = Broken()  # type: ignore[assignment]
    began = time.monotonic()
    begun = stream and pieces > 0
    if begun:  # there the answer ends
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    else:
        failed = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert failed.status_code == 500
        assert failed.json()["error"]["message"] == "KeyError in the server."
    assert time.monotonic() - began < 30
    assert soon(lambda: len(log) == 2)
    failure, request = (json.loads(line) for line in log)
    assert (failure["event"], failure["error"]) == ("failure", "KeyError")
    assert request["status"] == (200 if begun else 500)
    assert request.get("failed") == (500 if begun else None)
    assert request.get("error") == ("KeyError" if begun else None)
    assert SECRET not in "".join(log)
    told = client.get("/metrics").text
    assert 'selfaug_requests_total{path="/v1/chat/completions",status="500"} 1.0' in told
    assert 'gen_ai_server_request_duration_seconds_count{error_type="_OTHER",' in told
    assert ("gen_ai_server_time_to_first_token_seconds_count{" in told) == (pieces > 0)


def test_the_description_has_the_names_that_are_served_now(client: httpx.Client, served: Served) -> None:
    def names() -> list[str]:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        found: list[str] = schemas["ChatRequest"]["properties"]["model"]["enum"]
        return found

    assert names() == ["first", "tiny", "champion"]
    served.names = {"second": "tuned", "tiny": "base", "champion": "tuned"}
    assert names() == ["second", "tiny", "champion"]


def test_answers_from_documents_have_their_sources(
    start: Callable[..., Running], engine: EmbeddedEngine, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def find(question: str, *_: Any) -> FoundPrompt:
        if "nothing" in question:
            raise DataError("no passage shares a word with it.")
        sources = [
            {"document": "a.pdf", "page": 3, "text": "the year"},
            {"document": "b.md", "page": None, "text": "x"},
        ]
        return FoundPrompt(tiny_tokenizer(question)["input_ids"], sources, lambda text: [2])

    server = start(served_by(engine, tiny_tokenizer, find=find))
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    ) as client:
        found = client.post("/v1/rag/answer", json={"question": "the revenue?", "max_tokens": 5}).json()
        assert found["model"] == "first"
        assert found["usage"]["completion_tokens"] == 5
        assert [(s["number"], s["cited"], s["document"]) for s in found["sources"]] == [
            (1, False, "a.pdf"),
            (2, True, "b.md"),
        ]
        body = {"question": "the revenue?", "max_tokens": 5, "stream": True}
        with client.stream("POST", "/v1/rag/answer", json=body) as stream:
            events = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
        assert events[-1] == "[DONE]"
        last = json.loads(events[-2])
        assert last["answer"] == found["answer"] == "".join(json.loads(one)["text"] for one in events[:-2])
        assert last["sources"] == found["sources"]
        nothing = client.post("/v1/rag/answer", json={"question": "nothing"})
        assert nothing.status_code == 400
        assert "no passage shares a word" in nothing.json()["error"]["message"]
        assert client.post("/v1/rag/answer", json={"question": "x", "more": 1}).status_code == 400


def test_a_run_without_documents_answers_nothing_from_them(client: httpx.Client) -> None:
    refused = client.post("/v1/rag/answer", json={"question": "x"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "no_documents"


def test_without_keys_no_key_is_asked_for(start: Callable[..., Running], served: Served) -> None:
    server = start(served, keys=None)
    assert httpx.get(f"{server.url}/v1/models", trust_env=False).status_code == 200


def test_running_answers_end_before_the_server_does(start: Callable[..., Running], served: Served) -> None:
    server = start(served)
    with (
        httpx.Client(
            base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
        ) as client,
        client.stream(
            "POST", "/v1/chat/completions", json={**CHAT, "max_tokens": 60, "stream": True}
        ) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        server.server.handle_exit(15, None)
        assert not served.readiness.ready
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    server.thread.join(20)
    assert not server.thread.is_alive()


def test_who_is_not_answered_in_time_is_told_when_to_come_again(
    tuned: Any, tiny_tokenizer: PreTrainedTokenizerFast, log: list[str]
) -> None:
    """At once, where nothing has begun; when the time of running answers is over, where something has."""
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=2, max_waiting=4)
    slow_down(engine)
    served = served_by(engine, tiny_tokenizer)
    app = create_app(served, keys=None, log=log.append)
    server = Running(app, served.readiness, drain_seconds=1, on_exit=engine.begin_no_more)
    answers: dict[str, tuple[httpx.Response, float]] = {}

    def ask(name: str, stream: bool) -> None:
        body = {**CHAT, "max_tokens": 200, "stream": stream}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30, trust_env=False)
        answers[name] = (answer, time.monotonic())

    threads = []
    for names, begun in (
        ({"runs": False, "streams": True}, lambda: engine.running == 2),
        ({"waits": False, "would stream": True}, lambda: engine.waiting == 2),
    ):
        threads += [threading.Thread(target=ask, args=one) for one in names.items()]
        for thread in threads[-2:]:
            thread.start()
        assert soon(begun)
    began = time.monotonic()
    server.server.handle_exit(15, None)
    for thread in [*threads, server.thread]:
        thread.join(30)
    for name in ("waits", "would stream", "runs"):
        answer, ended = answers[name]
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "shutting down" in answer.json()["error"]["message"]
        assert (ended - began < 0.9) == (name != "runs")
    streamed = answers["streams"][0]
    assert streamed.status_code == 200
    last = streamed.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
    lines = [json.loads(line) for line in log]
    assert sorted(line.get("failed", line["status"]) for line in lines) == [503] * 4
    engine.close()


def test_a_response_that_is_no_stream_is_cut_off_where_it_is() -> None:
    done: list[int] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        await asyncio.sleep(60)

    guard = Guard(
        app,
        keys=None,
        limits=Limits(),
        known=lambda path: path,
        on_done=lambda path, status, seconds: done.append(status),
        log=lambda _: None,
    )
    server = Running(guard, Readiness(), drain_seconds=1)
    with httpx.stream("GET", server.url, trust_env=False, timeout=30) as answer:
        server.server.handle_exit(15, None)
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()
    server.thread.join(30)
    assert done == [200]


def test_a_log_that_cannot_be_written_stops_nothing(served: Served) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    refused: list[OSError] = []

    def log(line: str) -> None:
        try:
            with full.open("w", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            refused.append(error)
            raise

    server = Running(create_app(served, keys=None, log=log), served.readiness)
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        body = {"model": "first", "prompt": "the", "max_tokens": 1}
        assert [client.post("/v1/completions", json=body).status_code for _ in range(3)] == [200] * 3
    server.stop()
    assert len(refused) == 3


def test_other_protocols_are_left_alone(served: Served) -> None:
    app = create_app(served, keys=None, log=lambda _: None)

    async def websocket() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "websocket", "path": "/v1/models", "headers": []}, receive, send)
        return sent

    assert asyncio.run(websocket()) == []


# ---- keys and rates


def test_a_key_is_shown_once_and_stored_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "serving" / "keys.json"
    keys, key = ApiKeys.make(file)
    assert key in keys
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert key in ApiKeys.load(file)
    for other in ("", key[:-1], f"{key} ", None, 5):
        assert other not in keys
    _, second = ApiKeys.make(file)
    assert key not in ApiKeys.load(file)
    assert second in ApiKeys.load(file)
    assert second != key


def test_a_key_before_is_taken_for_as_long_as_was_said(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys, first = ApiKeys.make(file, keep_hours=3)
    assert keys.until is None  # there was none before
    began = int(time.time())
    keys, second = ApiKeys.make(file, keep_hours=2)
    assert first in keys
    assert second in keys
    assert keys.until is not None
    assert began + 7200 <= keys.until <= time.time() + 7200
    # Another one after it gives the first no more time, and keeps the second.
    _, third = ApiKeys.make(file, keep_hours=48)
    ends = {one["sha256"]: one.get("until", "") for one in read_record(file, "api-keys")["keys"]}
    assert len(ends) == 3
    assert [end != "" and datetime.fromisoformat(end).timestamp() > keys.until for end in ends.values()] == [
        False, True, False
    ]  # fmt: skip
    # When its time is over it is refused, by a server that has been running since as well.
    record = read_record(file, "api-keys")
    record["keys"][1]["until"] = datetime.now(UTC).isoformat()
    write_record(file, "api-keys", record)
    keys = ApiKeys.load(file)
    assert second not in keys
    assert first in keys
    # Nor is it kept then; and with no time given none is.
    _, fourth = ApiKeys.make(file, keep_hours=1)
    keys = ApiKeys.load(file)
    assert [key in keys for key in (first, second, third, fourth)] == [True, False, True, True]
    ApiKeys.make(file)
    assert not any(key in ApiKeys.load(file) for key in (first, second, third, fourth))


def test_a_key_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "serving").write_text("a file")
    with pytest.raises(StorageError, match="can't write"):
        ApiKeys.make(tmp_path / "serving" / "keys.json")


def test_rates_are_a_bucket_that_fills_with_time() -> None:
    rate = RateLimit(1, burst=60)
    assert [rate.wait(0) for _ in range(60)] == [0] * 60
    assert rate.wait(0) == pytest.approx(1)
    assert rate.wait(0.5) == pytest.approx(0.5)
    assert rate.wait(1) == 0
    assert [rate.wait(1e6) > 0 for _ in range(61)] == [False] * 60 + [True]
    assert [rate.wait(now) > 0 for now in (1, 2)] == [True, False]  # the clock was set back
    assert RateLimit(0, burst=0).wait(0) == math.inf
