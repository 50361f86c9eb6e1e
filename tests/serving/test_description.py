"""The API does what its OpenAPI description says, whatever is sent."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving_fixtures import KEY, Running, served_by, tiny_pair
from transformers import PreTrainedTokenizerFast

from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.guard import Limits
from selfaug.serving.keys import ApiKeys

HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def description(tiny_tokenizer: PreTrainedTokenizerFast) -> Any:
    engine = EmbeddedEngine(tiny_pair(tiny_tokenizer), None, tiny_tokenizer, max_batch=4)
    served = served_by(engine, tiny_tokenizer, request_seconds=120.0)
    served.max_tokens = 4
    app = create_app(served, keys=ApiKeys.of(KEY), limits=Limits(requests_per_minute=0), log=lambda _: None)
    running = Running(app, served.readiness)
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json", headers=HEADERS)
    yield schema
    running.stop()
    engine.close()


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


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_sent_is_answered_as_described(
    description: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = description[path][method]
    if mode is GenerationMode.NEGATIVE and path in (
        "/health",
        "/ready",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
    ):
        return  # nothing that is sent there can be wrong

    # Not that every body of the right form is taken: whether a prompt fits into the window is seen by its tokens.
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(operation.as_strategy(generation_mode=mode))
    def sent(case: Any) -> None:
        case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])

    sent()
