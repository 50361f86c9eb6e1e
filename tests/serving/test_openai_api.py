"""The API as its clients see it: the official one of OpenAI, and Hugging Face's."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import openai
import pytest
from huggingface_hub import InferenceClient
from pydantic import BaseModel, ValidationError
from serving_fixtures import KEY, Running, served_by, soon, tiny_pair
from transformers import PreTrainedTokenizerFast

from selfaug.model.generate import chat_prompt_ids, generate_greedy_ids
from selfaug.serving.answering import Choice
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.feedback import FeedbackRequest
from selfaug.serving.generation import Piece, Sampling, TokenChance
from selfaug.serving.openai_requests import ChatRequest, CompletionRequest, RagRequest
from selfaug.serving.openai_responses import chat_response, completion_response
from selfaug.serving.served import Served

ASKED: list[Any] = [{"role": "user", "content": "the revenue of the year?"}]


@pytest.fixture
def ai(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def expected(tuned: Any, tokenizer: PreTrainedTokenizerFast, tokens: int) -> str:
    ids = generate_greedy_ids(tuned, [chat_prompt_ids(tokenizer, ASKED)], max_new_tokens=tokens)[0]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_openais_client_chats(ai: openai.OpenAI, tuned: Any, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    whole = ai.chat.completions.create(model="first", messages=ASKED, max_tokens=12)
    text = expected(tuned, tiny_tokenizer, 12)
    assert whole.choices[0].message.content == text
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "length"
    assert whole.object == "chat.completion"
    assert whole.model == "first"
    assert whole.usage is not None
    prompt_tokens = len(chat_prompt_ids(tiny_tokenizer, ASKED))
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (prompt_tokens, 12)
    alias = ai.chat.completions.create(model="champion", messages=ASKED, max_completion_tokens=12)
    assert alias.choices[0].message.content == text
    base = ai.chat.completions.create(model="tiny", messages=ASKED, max_tokens=12)
    assert base.choices[0].message.content != text


def test_openais_client_streams(
    ai: openai.OpenAI, tuned: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    chunks = list(
        ai.chat.completions.create(
            model="first", messages=ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == expected(tuned, tiny_tokenizer, 12)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1
    without = list(ai.chat.completions.create(model="first", messages=ASKED, max_tokens=2, stream=True))
    assert all(chunk.usage is None for chunk in without)


def test_openais_client_streams_with_its_helper(ai: openai.OpenAI) -> None:
    whole = ai.chat.completions.create(model="first", messages=ASKED, max_tokens=8)
    stop = (whole.choices[0].message.content or "")[
        -2:
    ]  # the helper takes an answer that was cut for an error
    with ai.chat.completions.stream(model="first", messages=ASKED, max_tokens=8, stop=stop) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    whole = ai.chat.completions.create(model="first", messages=ASKED, max_tokens=8, stop=stop)
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_several_choices_have_draws_of_their_own_and_a_seed_repeats_them(ai: openai.OpenAI) -> None:
    def drawn(seed: int) -> list[str | None]:
        found = ai.chat.completions.create(
            model="first", messages=ASKED, max_tokens=6, n=3, temperature=2.0, seed=seed
        )
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        return [choice.message.content for choice in found.choices]

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1)) | set(drawn(50))) > 3
    streamed: dict[int, str] = {}
    for chunk in ai.chat.completions.create(
        model="first", messages=ASKED, max_tokens=6, n=3, temperature=2.0, seed=1, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
    assert [streamed[index] for index in range(3)] == drawn(1)


def test_logprobs_and_stop(ai: openai.OpenAI) -> None:
    found = ai.chat.completions.create(
        model="first", messages=ASKED, max_tokens=4, logprobs=True, top_logprobs=2
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    for token in logprobs.content:
        assert token.logprob <= 0
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert len(token.top_logprobs) == 2
    text = found.choices[0].message.content or ""
    stop = text[1:3]
    stopped = ai.chat.completions.create(model="first", messages=ASKED, max_tokens=4, stop=stop)
    assert stopped.choices[0].message.content == text[: text.find(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_tokens_that_are_parts_of_characters_have_their_bytes(
    ai: openai.OpenAI, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings: dict[str, Any] = {"model": "first", "max_tokens": 24, "temperature": 1.5, "seed": 1}
    found = ai.chat.completions.create(messages=ASKED, **settings, logprobs=True, top_logprobs=1).choices[0]
    assert found.logprobs is not None
    tokens = found.logprobs.content or []
    parts = [token.bytes or [] for token in tokens if token.token == "\ufffd"]
    assert parts
    assert all(len(part) == 1 for part in parts)
    data = [bytes(token.bytes or []) for token in tokens]
    assert b"".join(data).decode(errors="replace") == found.message.content
    prompt = chat_prompt_ids(tiny_tokenizer, ASKED)
    legacy = ai.completions.create(prompt=prompt, **settings, logprobs=0).choices[0]
    assert legacy.text == found.message.content
    assert legacy.logprobs is not None
    before = [b"".join(data[:place]).decode(errors="ignore") for place in range(len(data))]
    whole = [
        place
        for place in range(len(data))
        if before[place] == b"".join(data[:place]).decode(errors="replace")
    ]
    offsets = legacy.logprobs.text_offset or []
    assert [offsets[place] for place in whole] == [len(before[place]) for place in whole]


def test_tokens_have_their_spaces_where_the_tokeniser_drops_that_of_a_text(
    start: Callable[..., Running], spacing_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tiny_pair(spacing_tokenizer), None, spacing_tokenizer)
    server = start(served_by(engine, spacing_tokenizer))
    ai = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    found = ai.completions.create(model="first", prompt="a b", max_tokens=4, logprobs=20).choices[0]
    engine.close()
    assert found.text == " b  ba"
    assert found.logprobs is not None
    assert found.logprobs.tokens == [" b", " ", " b", "a"]
    assert found.logprobs.text_offset == [0, 2, 3, 5]
    assert found.logprobs.top_logprobs is not None
    assert all(top.keys() == {"<s>", "</s>", " ", "a", "b", " b"} for top in found.logprobs.top_logprobs)


def test_parts_of_a_character_begin_where_it_does() -> None:
    face = [TokenChance("\ufffd", -1.0, bytes([byte])) for byte in "\N{GRINNING FACE}".encode()]
    chances = [
        TokenChance("a", -1.0, b"a"),
        *face,
        TokenChance("b", -1.0, b"b"),
        TokenChance("\ufffd", -1.0, None),
    ]
    told = completion_response(0, "", None, [*chances, chances[0]], 5)["logprobs"]
    assert told["text_offset"] == [5, 6, 6, 6, 6, 7, 8, 9]
    several = TokenChance(
        "a", -1.0, b"a", [TokenChance("\ufffd", -1.0, b"\xf0"), TokenChance("\ufffd", -9.0, None)]
    )
    told = completion_response(0, "", None, [several])["logprobs"]
    assert told["top_logprobs"] == [{"\ufffd": -1.0}]  # of the likeliest of those that read alike
    unknown = chat_response(0, "", "stop", chances[-1:])["logprobs"]["content"][0]
    assert unknown["bytes"] is None


def test_openais_client_completes_texts(
    ai: openai.OpenAI, tuned: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = ["the revenue", "of the company in"]
    found = ai.completions.create(model="first", prompt=prompts, max_tokens=6, logprobs=2)
    ids = [tiny_tokenizer(prompt)["input_ids"] for prompt in prompts]
    wanted = [tiny_tokenizer.decode(one) for one in generate_greedy_ids(tuned, ids, max_new_tokens=6)]
    assert [choice.text for choice in found.choices] == wanted
    legacy = found.choices[0].logprobs
    assert legacy is not None
    assert legacy.text_offset is not None
    assert legacy.tokens is not None
    assert "".join(legacy.tokens) == wanted[0]
    assert legacy.text_offset[0] == 0
    by_ids = ai.completions.create(model="first", prompt=ids, max_tokens=6)
    assert [choice.text for choice in by_ids.choices] == wanted
    one = ai.completions.create(model="first", prompt=ids[0], max_tokens=6)
    assert one.choices[0].text == wanted[0]
    streamed = {0: "", 1: ""}
    for chunk in ai.completions.create(model="first", prompt=prompts, max_tokens=6, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert [streamed[0], streamed[1]] == wanted
    assert len(ai.completions.create(model="first", prompt="the").choices[0].text) > 0


def test_openais_client_lists_models(ai: openai.OpenAI) -> None:
    found = {model.id: model for model in ai.models.list()}
    assert found.keys() == {"first", "tiny", "champion"}
    assert found["champion"].root == "first"  # type: ignore[attr-defined]
    assert found["first"].parent == "tiny"  # type: ignore[attr-defined]
    assert ai.models.retrieve("champion").id == "champion"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here; there are first"):
        ai.models.retrieve("other")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "other"}, "there is no model 'other'"),
        ({"max_tokens": 1000}, "together at most 256"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x " * 400}]}, "together at most 256"),
        ({"temperature": 3}, "temperature"),
        ({"n": 99}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not served here"),
        ({"response_format": {"type": "json_object"}}, "response_format is not served"),
        ({"presence_penalty": 1.0}, "presence_penalty is not served"),
        ({"stop": ["a"] * 9}, "stop"),
    ],
)
def test_openais_client_is_told_what_is_wrong(ai: openai.OpenAI, more: dict[str, Any], message: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        ai.chat.completions.create(**{"model": "first", "messages": ASKED, **more})
    assert message in refused.value.message
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {"model": "m", "prompt": [0.5] * 1000}),
        (CompletionRequest, {"model": "m", "prompt": [[1, *[0.5] * 1000], *[[]] * 1000]}),
        (ChatRequest, {"model": "m", "messages": [{"role": "user", "content": [{}] * 1000}] * 1000}),
        (RagRequest, {f"field {number}": number for number in range(1000)}),
        (FeedbackRequest, {f"field {number}": number for number in range(1000)}),
    ],
)
def test_of_a_body_that_is_wrong_in_a_thousand_places_few_are_told(
    kind: type[BaseModel], body: dict[str, Any]
) -> None:
    """To tell of each takes memory and time, in which nothing else is answered."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    assert refused.value.error_count() < 10


def test_log_probabilities_that_would_fill_the_memory_are_the_clients_to_change(
    ai: openai.OpenAI, client: httpx.Client, served: Served
) -> None:
    served.window = 100_000
    settings: dict[str, Any] = {"model": "first", "max_tokens": 2_000, "n": 12}
    with pytest.raises(openai.BadRequestError, match=r"12 answers of up to 2,000 tokens .* 504,000 log-prob"):
        ai.chat.completions.create(messages=ASKED, **settings, logprobs=True, top_logprobs=20)
    with pytest.raises(openai.BadRequestError, match="Lower max_tokens, the number of answers"):
        ai.completions.create(prompt="the", **settings, logprobs=20)
    # Those of a stream wait for whoever reads it slowly.
    body = {"prompt": "the", **settings, "logprobs": 20, "stream": True}
    assert client.post("/v1/completions", json=body).status_code == 400


@pytest.mark.parametrize("whole", [True, False])
def test_log_probabilities_are_kept_for_whole_answers_only(whole: bool) -> None:
    choice = Choice([1], Sampling(5, chances=0, whole=whole))
    choice.take(Piece("a", 1, [TokenChance("a", -1.0, b"a")], None))
    assert len(choice.chances) == (1 if whole else 0)


def test_more_answers_than_there_are_places_are_the_clients_to_change(
    start: Callable[..., Running], tuned: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Not a 429, which would be tried again for ever."""
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=1, max_waiting=2)
    server = start(served_by(engine, tiny_tokenizer, most_at_once=3))
    ai = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    assert len(ai.chat.completions.create(model="first", messages=ASKED, max_tokens=1, n=3).choices) == 3
    with pytest.raises(openai.BadRequestError, match="4 answers are asked for; this server takes at most 3"):
        ai.chat.completions.create(model="first", messages=ASKED, max_tokens=1, n=4)
    with pytest.raises(openai.BadRequestError, match="4 answers are asked for; this server takes at most 3"):
        ai.completions.create(model="first", prompt=["a", "b"], max_tokens=1, n=2)
    engine.close()


def test_messages_that_the_template_refuses_are_the_clients_to_change(
    ai: openai.OpenAI, served: Served, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = copy.deepcopy(tiny_tokenizer)
    other.chat_template = "{{ raise_exception('roles must alternate') }}"
    served.chat_ids = lambda messages: chat_prompt_ids(other, messages)
    with pytest.raises(openai.BadRequestError, match="refuses these messages: roles must alternate"):
        ai.chat.completions.create(model="first", messages=ASKED)


def test_settings_that_ask_for_nothing_are_taken(ai: openai.OpenAI) -> None:
    more: dict[str, Any] = {
        "tools": [],
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "user": "someone",
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
    }
    parts: Any = [
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "year"}]}
    ]
    found = ai.chat.completions.create(model="first", messages=parts, max_tokens=4, extra_body=more)
    plain: Any = [{"role": "user", "content": "the year"}]
    same = ai.chat.completions.create(model="first", messages=plain, max_tokens=4)
    assert found.choices[0].message.content == same.choices[0].message.content


def test_wrong_and_missing_keys_are_authentication_errors(server: Running) -> None:
    for key in ("wrong", f"{KEY}x", "é"):
        with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0).models.list()


def test_openais_client_waits_and_tries_again_when_it_is_told_to(
    start: Callable[..., Running], engine: EmbeddedEngine, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    from selfaug.serving.guard import Limits

    server = start(served_by(engine, tiny_tokenizer), limits=Limits(requests_per_minute=60))
    hurried = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)

    def ask(times: int) -> None:
        for _ in range(times):
            hurried.completions.create(model="first", prompt="the", max_tokens=1)

    ask(60)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(20)  # some may go: time passes
    assert int(refused.value.response.headers["retry-after"]) == 1
    assert refused.value.code == "rate_limit_exceeded"
    patient = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=3)
    assert patient.completions.create(model="first", prompt="the", max_tokens=1).choices


def test_hugging_faces_client_chats_and_streams(
    server: Running,
    tuned: Any,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Tests are offline, and this client takes that for its own machine too.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    client = InferenceClient(base_url=f"{server.url}/v1", api_key=KEY)
    whole = client.chat_completion(ASKED, model="first", max_tokens=8)
    assert whole.choices[0].message.content == expected(tuned, tiny_tokenizer, 8)
    streamed = client.chat_completion(ASKED, model="first", max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == expected(
        tuned, tiny_tokenizer, 8
    )


def test_many_clients_at_once_get_what_one_gets(ai: openai.OpenAI) -> None:
    def ask(number: int) -> str | None:
        asked: Any = [{"role": "user", "content": f"company {number}"}]
        model = ("first", "tiny")[number % 2]
        return (
            ai.chat.completions.create(model=model, messages=asked, max_tokens=6).choices[0].message.content
        )

    one_by_one = [ask(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == one_by_one


def test_a_client_that_goes_away_frees_its_place(
    client: httpx.Client, engine: EmbeddedEngine, server: Running, log: list[str]
) -> None:
    body = {"model": "first", "messages": ASKED, "max_tokens": 150}
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert engine.running == 1
    assert soon(lambda: engine.running == 0)

    # Without a stream too: the client gives up before there is an answer.
    gone = threading.Event()

    def give_up() -> None:
        with (
            httpx.Client(base_url=server.url, headers=client.headers, timeout=0.15, trust_env=False) as hasty,
            pytest.raises(httpx.TimeoutException),
        ):
            hasty.post("/v1/chat/completions", json={**body, "max_tokens": 200})
        gone.set()

    slow = engine._lanes[0].step

    def step(token_ids: Any) -> Any:
        gone.wait(0.02)
        return slow(token_ids)

    engine._lanes[0].step = step  # type: ignore[method-assign]
    give_up()
    assert soon(lambda: engine.running == 0)
    assert soon(lambda: any(json.loads(line)["status"] == 499 for line in log))
