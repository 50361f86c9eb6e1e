"""The API does what its OpenAPI description says, whatever is sent."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from serving_fixtures import KEY, Running, served_by, tiny_pair
from transformers import PreTrainedTokenizerFast

from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.guard import Limits
from selfaug.serving.keys import ApiKeys

HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def description(tiny_tokenizer: PreTrainedTokenizerFast) -> Any:
    engine = EmbeddedEngine(tiny_pair(tiny_tokenizer), None, tiny_tokenizer, max_batch=4)
    served = served_by(engine, tiny_tokenizer, request_seconds=5.0)
    served.max_tokens = 4
    app = create_app(served, keys=ApiKeys.of(KEY), limits=Limits(requests_per_minute=0), log=lambda _: None)
    running = Running(app, served.readiness)
    yield schemathesis.openapi.from_url(f"{running.url}/openapi.json", headers=HEADERS)
    running.stop()
    engine.close()


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_what_is_sent_is_answered_as_described(case: Any) -> None:
    case.call_and_validate(headers=HEADERS)
