"""A tuned tiny model that answers differently from its base, and a server in front of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfaug.model.generate import chat_prompt_ids
from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.http_server import HttpServer
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import Readiness, Served

KEY = "sk-of-the-tests-0123456789"


def tiny_pair(tokenizer: PreTrainedTokenizerFast, **lora: Any) -> PeftModel:
    """A random Llama that writes varied text, with a random adapter."""
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    tuned = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, **lora)
    )
    return tuned.eval()


@pytest.fixture(scope="session")
def tuned(tiny_tokenizer: PreTrainedTokenizerFast) -> PeftModel:
    """Don't change it: it is shared."""
    return tiny_pair(tiny_tokenizer)


@pytest.fixture
def engine(tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=4, max_waiting=12)
    yield engine
    engine.close()


def served_by(engine: Any, tokenizer: PreTrainedTokenizerFast, **more: Any) -> Served:
    served = Served(
        engine=engine,
        names={"first": "tuned", "tiny": "base", "champion": "tuned"},
        base="tiny",
        tuned="first",
        chat_ids=lambda messages: chat_prompt_ids(tokenizer, messages),
        text_ids=lambda text: tokenizer(text)["input_ids"],
        vocabulary=len(tokenizer),
        window=256,
        max_tokens=24,
        **more,
    )
    served.readiness.become(True, "tests")
    return served


def soon(holds: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something comes to hold."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not holds():
        time.sleep(0.01)
    return holds()


class Running:
    """A server in a thread."""

    def __init__(self, app: Any, readiness: Readiness, **options: Any) -> None:
        self.server = HttpServer(app, readiness, host="127.0.0.1", port=0, **options)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        ends = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < ends
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def metrics(self) -> str:
        """What it tells of itself, asked with `KEY`."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.get(f"{self.url}/metrics", headers=headers, trust_env=False).text

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def served(engine: EmbeddedEngine, tiny_tokenizer: PreTrainedTokenizerFast) -> Served:
    return served_by(engine, tiny_tokenizer)


@pytest.fixture
def server(served: Served, log: list[str]) -> Iterator[Running]:
    running = Running(create_app(served, keys=ApiKeys.of(KEY), log=log.append), served.readiness)
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
    ) as client:
        yield client


@pytest.fixture
def start(log: list[str]) -> Iterator[Callable[..., Running]]:
    """Starts further servers, with settings of their own."""
    running: list[Running] = []

    def make(served: Served, **options: Any) -> Running:
        options.setdefault("keys", ApiKeys.of(KEY))
        running.append(Running(create_app(served, log=log.append, **options), served.readiness))
        return running[-1]

    yield make
    for one in running:
        one.stop()


__all__ = ["KEY", "Path", "Running", "served_by", "soon", "tiny_pair"]
