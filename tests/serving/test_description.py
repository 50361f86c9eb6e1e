"""The API does what its OpenAPI description says, whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving_fixtures import KEY, Running, served_by, tiny_pair
from transformers import PreTrainedTokenizerFast

from selfaug.core.metric_names import Sample
from selfaug.errors import DataError
from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.guard import Limits
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import FoundPrompt
from selfaug.serving.watcher import Answered

ASKED = [{"role": "user", "content": "the revenue of the year?"}]
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Watcher:
    """Takes votes on answers whose name is short."""

    def answered(self, request: Answered) -> None:
        pass

    def vote(self, request_id: str, up: bool) -> bool:
        return len(request_id) < 40

    def samples(self) -> list[Sample]:
        return []


@pytest.fixture(scope="module")
def server(tiny_tokenizer: PreTrainedTokenizerFast) -> Iterator[Running]:
    def find(question: str, *_: Any) -> FoundPrompt:
        if not question.strip():
            raise DataError("the question is empty.")
        sources = [
            {"document": "a.pdf", "page": 3, "id": "a-1", "text": "the year"},
            {"document": "b.md", "page": None, "id": "", "text": "x"},
        ]
        return FoundPrompt(tiny_tokenizer("the revenue")["input_ids"], sources, lambda text: [2])

    engine = EmbeddedEngine(tiny_pair(tiny_tokenizer), None, tiny_tokenizer, max_batch=4)
    served = served_by(engine, tiny_tokenizer, request_seconds=120.0, find=find, watcher=Watcher())
    served.max_tokens = 4
    app = create_app(served, keys=ApiKeys.of(KEY), limits=Limits(requests_per_minute=0), log=lambda _: None)
    running = Running(app, served.readiness)
    yield running
    running.stop()
    engine.close()


@pytest.fixture(scope="module")
def description(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=HEADERS)


OPERATIONS = [
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/metrics"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{name}"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/rag/answer"),
    ("post", "/v1/feedback"),
]


def test_all_operations_are_here(description: Any) -> None:
    described = {(one.ok().method, one.ok().path) for one in description.get_all_operations()}
    assert described == set(OPERATIONS)


# Nothing that is sent with GET can be wrong.
PAIRS = [
    *((method, path, GenerationMode.POSITIVE) for method, path in OPERATIONS),
    *((method, path, GenerationMode.NEGATIVE) for method, path in OPERATIONS if method == "post"),
]


@pytest.mark.parametrize(("method", "path", "mode"), PAIRS)
def test_what_is_sent_is_answered_as_described(
    description: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = description[path][method]

    # Not that every body of the right form is taken: whether a prompt fits into the window is seen by its tokens.
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(operation.as_strategy(generation_mode=mode))
    def sent(case: Any) -> None:
        answer = case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])
        statuses.add(answer.status_code)

    statuses: set[int] = set()
    sent()
    if (
        mode is GenerationMode.POSITIVE and path != "/v1/models/{name}"
    ):  # which has no names of its own accord
        assert statuses & {200, 202}, "nothing was ever answered: that says little"


def test_what_is_answered_has_a_schema_that_would_notice(description: Any) -> None:
    """Every path that answers in JSON says what it answers, and an answer without one of its fields is not that."""
    for method, path in OPERATIONS:
        if path in ("/health", "/ready", "/metrics"):
            continue
        responses = description.raw_schema["paths"][path][method]["responses"]
        (good,) = (answer for status, answer in responses.items() if status.startswith("2"))
        schema = good["content"]["application/json"]["schema"]
        assert len(schema["required"]) >= 2, path
        assert not Draft202012Validator(schema).is_valid({}), path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASKED, "n": 2, "logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {"messages": ASKED, "logprobs": True}),
        ("/v1/completions", {"prompt": ["the", "year"], "logprobs": 2}),
        ("/v1/completions", {"prompt": "the"}),
        ("/v1/rag/answer", {"question": "the year"}),
        ("/v1/feedback", {"id": "a", "vote": "up"}),
        ("/v1/models", None),
        ("/v1/models/{name}", None),
    ],
)
def test_answers_are_as_described(
    server: Running, description: Any, path: str, body: dict[str, Any] | None
) -> None:
    method = "get" if body is None else "post"
    if body is not None and path != "/v1/feedback":
        body = {**body, "model": "first", "max_tokens": 2}
    answer = httpx.request(
        method, server.url + path.replace("{name}", "first"), json=body, headers=HEADERS, trust_env=False
    )
    described = description.raw_schema["paths"][path][method]["responses"][str(answer.status_code)]
    assert answer.is_success, answer.text
    Draft202012Validator(described["content"]["application/json"]["schema"]).validate(answer.json())
