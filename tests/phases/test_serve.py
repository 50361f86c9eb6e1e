"""Serving a run: what is loaded, what is checked, what is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from asking import evaluate
from selfaug.config import TrainConfig
from selfaug.errors import ConfigError, SelfAugError, StorageError
from selfaug.phases.serve import Server, ServeSettings, _how_to_get_canary, open_server, server_keys
from selfaug.phases.train import train
from selfaug.records import read_record
from selfaug.rundir import RunDir
from selfaug.serving.http_server import listening_socket
from selfaug.serving.keys import ApiKeys

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Serving:
    def __init__(self, server: Server, keys: ApiKeys, key: str) -> None:
        self.server = server
        self.told, self.said = threading.Event(), list[str]()
        self.thread = threading.Thread(
            target=server.run, args=[keys, lambda _: self.told.set(), self.said.append], daemon=True
        )
        self.thread.start()
        assert self.told.wait(60)
        self.client = httpx.Client(
            base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    running: list[Serving] = []

    def make(run: Path, **settings: Any) -> Serving:
        keys, key = server_keys(run, new=True)
        assert key is not None
        settings = {"port": 0, "device": "cpu", "watch": None, **settings}
        server = open_server(run, ServeSettings(**settings), log=lambda _: None)
        running.append(Serving(server, keys, key))
        return running[-1]

    yield make
    for one in running:
        one.client.close()
        one.server.stop()
        one.thread.join(30)
        assert not one.thread.is_alive()


def test_a_run_is_served_as_it_was_trained(copied_run: Path, serve: Callable[..., Serving]) -> None:
    canary = read_record(copied_run / "canary.json", "canary")
    assert len(canary["prompts"]) == 12
    assert all(one["nats"] > 0 for one in canary["prompts"])
    client = serve(copied_run).client
    ready = client.get("/ready").json()
    assert ready == {
        "ready": True,
        "reason": "drift and answers of the canary set are as recorded at training",
    }
    ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert ids[0] == "copied"
    assert ids[2] == "champion"
    for one in canary["prompts"][:3]:
        body = {"model": "copied", "prompt": one["ids"], "max_tokens": 16, "logprobs": 0}
        found = client.post("/v1/completions", json=body).json()
        assert found["usage"]["completion_tokens"] >= min(one["sure"], len(one["answer"]))
    chat = {"model": ids[1], "messages": [{"role": "user", "content": "the year?"}], "max_tokens": 4}
    assert client.post("/v1/chat/completions", json=chat).json()["usage"]["completion_tokens"] > 0
    assert client.post("/v1/rag/answer", json={"question": "x"}).status_code == 404


def test_a_run_with_other_weights_is_not_ready_and_says_why(
    copied_run: Path, serve: Callable[..., Serving]
) -> None:
    file = copied_run / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(file).items()}, file)
    serving = serve(copied_run)
    ready = serving.client.get("/ready")
    assert ready.status_code == 503
    assert "canary prompts is not as recorded" in ready.json()["reason"]
    stranger = httpx.get(f"{serving.server.url}/ready", trust_env=False)
    assert stranger.status_code == 503
    assert stranger.json()["reason"].startswith("the canary set did not come back as recorded")
    refused = serving.client.post("/v1/completions", json={"model": "copied", "prompt": "x"})
    assert refused.status_code == 503
    # Whoever wants to look at it anyway can.
    unchecked = serve(copied_run, check=False).client
    assert unchecked.get("/ready").json() == {
        "ready": True,
        "reason": "not checked against the record of training",
    }


def test_no_thread_but_the_engines_computes(
    copied_run: Path, serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one that has done so would slow the engine's products down, for as long as it lives."""
    computed: set[threading.Thread] = set()
    forward = torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
        computed.add(threading.current_thread())
        return forward(self, given)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    serving = serve(copied_run)
    body = {"model": "champion", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    assert serving.client.post("/v1/chat/completions", json=body).status_code == 200
    assert {thread.name for thread in computed if thread.is_alive()} == {"selfaug-engine"}
    assert len(computed) > 1  # whether rows of both models can share a batch is tried before


def test_a_run_without_a_canary_set_is_served_and_says_how_to_get_one(
    copied_run: Path, serve: Callable[..., Serving]
) -> None:
    (copied_run / "canary.json").unlink()
    unchecked = serve(copied_run)
    reason = "the run has no canary set: nothing to check"
    assert unchecked.client.get("/ready").json() == {
        "ready": True,
        "reason": f"{reason}; `selfaug evaluate {copied_run}` records one",
    }
    # Where its folder is, is nobody's business who has no key.
    stranger = httpx.get(f"{unchecked.server.url}/ready", trust_env=False)
    assert stranger.json() == {"ready": True, "reason": reason}
    evaluate(copied_run, level="1", general_items=2, task_items=1, max_new_tokens=2, device="cpu")
    assert serve(copied_run).client.get("/ready").json()["reason"].endswith("as recorded at training")
    (copied_run / "canary.json").unlink()
    assert "with the settings of its evaluation, but no bounds" in _how_to_get_canary(RunDir(copied_run))
    (copied_run / "canary.json").write_text("{broken")
    (copied_run / "record.json").unlink()
    served = serve(copied_run)
    damaged = served.client.get("/ready")
    assert damaged.status_code == 503
    assert "can't be replayed" in damaged.json()["reason"]
    # Nor is it as it would be at its end: who serves it is told.
    halfway = f"note: {copied_run} is not complete; the tuned model is its checkpoint at step 6."
    assert served.said == [halfway]


def test_a_fully_trained_model_is_served_beside_its_base(
    tmp_path: Path, settings: Callable[..., TrainConfig], serve: Callable[..., Serving]
) -> None:
    run = tmp_path / "full"
    train(settings(run, "lora.method=full", "train.steps=2", "selfaug.monitor_prompts=0"))
    canary = read_record(run / "canary.json", "canary")
    assert {one["nats"] for one in canary["prompts"]} == {None}
    serving = serve(run)
    assert serving.client.get("/ready").json()["ready"]
    assert len(serving.server.served.engine._lanes) == 2  # type: ignore[attr-defined]
    for model in serving.server.served.names:
        body = {"model": model, "prompt": "the year", "max_tokens": 3}
        assert serving.client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="that one is not lost")
def test_a_server_whose_gpu_is_lost_ends_with_an_error(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started it can then start it anew."""
    server = open_server(
        copied_run, ServeSettings(port=0, device="cpu", check=False, watch=None), log=lambda _: None
    )
    engine: Any = server.served.engine

    def lost(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine._lanes[0], "join", lost)
    ready, raised = threading.Event(), []

    def run() -> None:
        try:
            server.run(None, lambda _: ready.set())
        except SelfAugError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    body = {"model": "champion", "prompt": "the year", "max_tokens": 3}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False, timeout=30)
    assert answer.status_code == 500
    thread.join(30)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert raised[0].startswith("the GPU failed: CUDA error: an illegal memory access was encountered.")


def test_a_run_named_like_the_alias_or_the_base_model_has_a_name_of_its_own(
    copied_run: Path, serve: Callable[..., Serving]
) -> None:
    run = copied_run.rename(copied_run.with_name("champion"))
    assert next(iter(serve(run).server.served.names)) == "champion-tuned"


def test_a_port_that_is_taken_is_one_clear_error(copied_run: Path, serve: Callable[..., Serving]) -> None:
    port = int(serve(copied_run).server.url.rpartition(":")[2])
    other = open_server(copied_run, ServeSettings(port=port, device="cpu"), log=lambda _: None)
    with pytest.raises(StorageError, match=f"can't listen on 127.0.0.1:{port}"):
        other.run(None)


def test_answers_are_sent_at_once(copied_run: Path, serve: Callable[..., Serving]) -> None:
    """Not held back until the client has acknowledged the first part: accepted connections are without delay."""
    serving = serve(copied_run)
    seen: list[int] = []
    made = asyncio.selector_events._SelectorSocketTransport.__init__  # type: ignore[attr-defined]

    def watching(self: Any, loop: Any, sock: Any, *more: Any, **named: Any) -> None:
        made(self, loop, sock, *more, **named)
        if sock.getsockname()[1] == int(serving.server.url.rpartition(":")[2]):
            seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.selector_events._SelectorSocketTransport, "__init__", watching)  # type: ignore[attr-defined]
        with httpx.Client(base_url=serving.server.url, trust_env=False) as fresh:
            assert fresh.get("/health").status_code == 200
    assert seen
    assert all(seen)
    with contextlib.closing(listening_socket("::1", 0)) as listening:
        assert listening.family == socket.AF_INET6


def test_a_server_that_is_told_to_end_while_it_checks_ends_when_that_is_done(copied_run: Path) -> None:
    server = open_server(copied_run, ServeSettings(port=0, device="cpu"), log=lambda _: None)
    begun, done, told = threading.Event(), threading.Event(), []

    def slow() -> list[str]:
        begun.set()
        time.sleep(1)
        done.set()
        return []

    server._models.check = lambda _: slow()  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=[None, told.append], daemon=True)
    thread.start()
    assert begun.wait(30)
    server.stop()
    thread.join(30)
    # The check runs the models: the process must not end under it.
    assert done.is_set()
    assert not thread.is_alive()
    assert told == []
    assert not server.served.readiness.ready


def test_keys_are_the_runs_or_the_environments(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, key = server_keys(copied_run)
    assert key is not None
    assert key in keys
    again, shown = server_keys(copied_run)
    assert shown is None
    assert key in again
    renewed, second = server_keys(copied_run, new=True)
    assert key not in renewed
    assert second in renewed
    both, third = server_keys(copied_run, new=True, keep_hours=1)
    assert second in both
    assert third in both
    monkeypatch.setenv("SELFAUG_API_KEY", "a key of my own, long")
    own, shown = server_keys(copied_run)
    assert shown is None
    assert "a key of my own, long" in own
    assert second not in own
    monkeypatch.setenv("SELFAUG_API_KEY", " a key of my own, long\r\n")
    assert "a key of my own, long" in server_keys(copied_run)[0]
    monkeypatch.setenv("SELFAUG_OLD_API_KEY", "the one before, long too")
    two, _ = server_keys(copied_run)
    assert "a key of my own, long" in two
    assert "the one before, long too" in two
    monkeypatch.setenv("SELFAUG_OLD_API_KEY", "short")
    with pytest.raises(ConfigError, match="SELFAUG_OLD_API_KEY has 5 characters"):
        server_keys(copied_run)
    monkeypatch.delenv("SELFAUG_API_KEY")
    with pytest.raises(ConfigError, match="set without SELFAUG_API_KEY"):
        server_keys(copied_run)
    monkeypatch.delenv("SELFAUG_OLD_API_KEY")
    for unsendable in ("a key of my own,\nlong", "a key of my öwn, long"):
        monkeypatch.setenv("SELFAUG_API_KEY", unsendable)
        with pytest.raises(ConfigError, match="no client can send"):
            server_keys(copied_run)
    monkeypatch.setenv("SELFAUG_API_KEY", "short")
    with pytest.raises(ConfigError, match="has 5 characters"):
        server_keys(copied_run)


def test_a_model_whose_batches_nobody_can_join_is_told_of_at_the_start(
    copied_run: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The tiny model's weights as a Mistral with a sliding window: requests wait longer than the limits let expect."""
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "sliding"))
    told = json.loads((base / "config.json").read_text(encoding="utf-8"))
    told |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 16}
    (base / "config.json").write_text(json.dumps(told), encoding="utf-8")

    def said() -> list[str]:
        server = open_server(
            copied_run, ServeSettings(port=0, device="cpu", watch=None, check=False), log=lambda _: None
        )
        lines: list[str] = []
        server.run(None, lambda _: server.stop(), lines.append)
        return lines

    assert said() == []
    config = copied_run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(str(tiny_model_dir), str(base)))
    (line,) = said()
    assert line.startswith("this model has layers with sliding windows")


def test_overwriting_a_run_takes_its_keys_and_canary_with_it(copied_run: Path) -> None:
    server_keys(copied_run)
    RunDir.create(copied_run, overwrite=True)
    assert [entry.name for entry in copied_run.iterdir() if not entry.name.startswith(".")] == []


def test_a_window_beyond_the_models_is_refused(copied_run: Path) -> None:
    with pytest.raises(ConfigError, match="more than the model's 256"):
        open_server(copied_run, ServeSettings(window=300, device="cpu"))
    assert json.loads((copied_run / "canary.json").read_text())["version"] == 1
    assert torch.is_grad_enabled()
