"""`selfaug serve --upstream`: a run answered for by another server, checked against the run's record."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
import torch
import typer
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from selfaug.cli.main import app
from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError, ModelError
from selfaug.monitoring.monitor import MonitorSettings
from selfaug.monitoring.reference_window import ReferenceWindow
from selfaug.phases import gateway, serve, watching
from selfaug.phases.chat import open_chat
from selfaug.phases.gateway import UpstreamModels, UpstreamSettings, open_gateway
from selfaug.phases.monitor import drift_score, monitor_status, record_reference_window
from selfaug.phases.registry import add_run
from selfaug.phases.run_models import hash_of_weights
from selfaug.phases.serve import Server, ServeSettings, open_server
from selfaug.phases.train import train
from selfaug.phases.watching import Watching, WatchSettings
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.generation import EngineError
from selfaug.serving.http_server import listening_socket
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import Readiness
from selfaug.serving.upstream import AnswerEnds, UpstreamAwayError, UpstreamEngine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

KEY = "the key of the server behind"


class Live:
    def __init__(
        self, server: Server, keys: ApiKeys | None = None, on_watching: Callable[[str], None] = lambda _: None
    ) -> None:
        self.server = server
        self.log: list[str] = []
        told = threading.Event()
        self.readiness: Readiness | None = None

        def on_ready(readiness: Readiness) -> None:
            self.readiness = readiness
            told.set()

        self.thread = threading.Thread(target=server.run, args=[keys, on_ready, on_watching], daemon=True)
        self.thread.start()
        assert told.wait(60)


@pytest.fixture
def lives() -> Iterator[Callable[..., Live]]:
    running: list[Live] = []

    def start(server: Server, keys: ApiKeys | None = None, **more: Any) -> Live:
        running.append(Live(server, keys, **more))
        return running[-1]

    yield start
    for one in reversed(running):
        one.server.stop()
        one.thread.join(60)
        assert not one.thread.is_alive()


def settings(**more: Any) -> ServeSettings:
    return ServeSettings(**{"port": 0, "device": "cpu", "watch": None, **more})


def behind(run: Path, lives: Callable[..., Live]) -> str:
    server = open_server(run, settings(check=False), log=lambda _: None)
    lives(server, ApiKeys.of(KEY))
    return f"{server.url}/v1"


def test_a_run_is_answered_for_by_another_server(copied_run: Path, lives: Callable[..., Live]) -> None:
    url = behind(copied_run, lives)
    log: list[str] = []
    front = lives(open_gateway(copied_run, settings(), UpstreamSettings(url, key=KEY), log=log.append))
    assert front.readiness == Readiness(True, "the answers to the canary set are as recorded at training")
    body = {"model": "champion", "messages": [{"role": "user", "content": "a secret"}], "max_tokens": 6}
    answers = [
        httpx.post(f"{one}/chat/completions", json=body, headers=headers, trust_env=False, timeout=30).json()
        for one, headers in (
            (url, {"authorization": f"Bearer {KEY}"}),
            (f"{front.server.url}/v1", {}),
        )
    ]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"] == answers[1]["usage"]
    ends = time.monotonic() + 30
    while not log:  # it is written when the answer is on its way
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert "secret" not in "".join(log)
    assert json.loads(log[-1])["model"] == "copied"
    # It has no key: a page elsewhere whose name points here gets nothing.
    named = httpx.get(f"{front.server.url}/v1/models", headers={"host": "evil.example"}, trust_env=False)
    assert named.status_code == 421


def test_a_gateway_watches_all_but_drift(copied_run: Path, lives: Callable[..., Live]) -> None:
    url = behind(copied_run, lives)
    watch = WatchSettings(MonitorSettings(sample=1.0, taken_per_hour=1e6))
    without = open_gateway(
        copied_run, settings(watch=watch), UpstreamSettings(url, key=KEY), log=lambda _: None
    )
    assert any(
        "NOT watched" in told and "selfaug monitor RUN --reference" in told
        for told in watched(without, lives)
    )
    record_reference_window(copied_run, score=lambda prompts: [0.5] * len(prompts))
    front = open_gateway(
        copied_run, settings(watch=watch), UpstreamSettings(url, key=KEY), log=lambda _: None
    )
    assert any(told.startswith("watching, all but drift") for told in watched(front, lives))
    for number in range(3):
        body = {
            "model": "champion",
            "messages": [{"role": "user", "content": f"What {number}?"}],
            "max_tokens": 3,
        }
        httpx.post(
            f"{front.url}/v1/chat/completions", json=body, trust_env=False, timeout=30
        ).raise_for_status()
    ends = time.monotonic() + 30
    while len(kept := rows_of(copied_run)) < 3:
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert all(novelty is not None and drift is None for novelty, drift in kept)
    counts = monitor_status(copied_run)["counts"]
    assert counts["scored"] == counts["score_failed"] == 0
    with pytest.raises(ConfigError, match="webhook"):
        open_gateway(
            copied_run, settings(watch=WatchSettings(webhook="no address")), UpstreamSettings(url, key=KEY)
        )


def test_a_gateway_measures_drift_with_models_of_its_own(
    copied_run: Path, lives: Callable[..., Live]
) -> None:
    upstream = UpstreamSettings(behind(copied_run, lives), tuned="champion", key=KEY, score_drift=True)
    watch = WatchSettings(MonitorSettings(sample=1.0, compute_share=1.0))
    front = open_gateway(copied_run, settings(watch=watch), upstream, log=lambda _: None)
    told: list[str] = []
    lives(front, on_watching=told.append)
    until(lambda: told and told[-1].startswith("watching: "))
    # The reference window, too, is measured with them.
    assert [one.partition(" ")[0] for one in told] == ["loading", "measuring", "watching:"]
    prompts = [ask(front, f"What {number}?") for number in range(3)]
    until(lambda: len(rows_of(copied_run)) == 3)
    chat = open_chat(copied_run, device="cpu", offline=True)
    drift = drift_score(chat.tuned, None)(
        [chat._ids(prompt[:-1], prompt[-1]["content"]) for prompt in prompts]
    )
    assert min(drift) > 0
    assert [measured for _, measured in rows_of(copied_run)] == pytest.approx(drift, rel=1e-3)
    metrics = httpx.get(f"{front.url}/metrics", trust_env=False).text
    assert "selfaug_prompt_drift_nats_count 3.0" in metrics
    # Another run that takes its place is measured with its own adapter, and the models of this one go.
    first = front._watching
    assert first is not None
    second = shutil.copytree(copied_run, copied_run.parent / "elsewhere" / "copied")
    file = second / "adapter" / "adapter_model.safetensors"
    save_file({name: 0.1 * weight for name, weight in load_file(file).items()}, file)
    front.exchange(second)
    until(lambda: told[-1] == f"watching: `selfaug monitor {second}` shows the state.")
    with pytest.raises(EngineError, match="no models"):
        first._score([[5, 6, 7]])
    before, after = (ReferenceWindow.load(run / "monitor").drift.mean() for run in (copied_run, second))
    assert after < 0.5 * before


def test_a_gateway_whose_models_cannot_be_loaded_watches_all_but_drift(
    copied_run: Path, lives: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.1)
    upstream = UpstreamSettings(behind(copied_run, lives), key=KEY, score_drift=True)
    damaged = copied_run / "adapter" / "adapter_config.json"
    damaged.write_text("{}", encoding="utf-8")
    watch = WatchSettings(MonitorSettings(sample=1.0))
    front = open_gateway(copied_run, settings(watch=watch), upstream, log=lambda _: None)
    told: list[str] = []
    lives(front, on_watching=told.append)
    until(lambda: any(one.startswith("NOT watched: ") for one in told))  # there is no reference window
    record_reference_window(copied_run, score=lambda prompts: [0.5] * len(prompts))
    until(lambda: told[-1].startswith("watching, all but drift: its models are not loaded"))
    assert [one for one in told if one.startswith(("loading", "drift is NOT measured: "))] == told[:2]
    ask(front, "What?")
    until(lambda: len(rows_of(copied_run)) == 1)
    assert rows_of(copied_run)[0][1] is None
    with pytest.raises(ConfigError, match="not a device"):
        open_gateway(copied_run, settings(device="none"), upstream)


def test_a_gateway_that_ends_loads_no_models(copied_run: Path) -> None:
    told: list[str] = []
    ended = Watching(
        copied_run,
        None,
        lambda: pytest.fail("they are loaded"),
        form=None,
        settings=WatchSettings(),
        check=None,
        on_canary=lambda _: None,
        tell=told.append,
    )
    ended.close()
    ended.start(None)
    ended.join()
    assert len(told) == 1


@pytest.mark.parametrize("flags", [[], ["--upstream", "http://127.0.0.1:9/v1", "--no-monitor"]])
def test_drift_is_scored_beside_a_server_that_is_watched(copied_run: Path, flags: list[str]) -> None:
    refused = CliRunner().invoke(app, ["serve", str(copied_run), "--score-drift", *flags])
    assert refused.exit_code == 2
    assert "it needs --upstream, and no --no-monitor" in " ".join(refused.stderr.split())


def until(condition: Callable[[], Any]) -> None:
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def ask(server: Server, question: str) -> list[dict[str, str]]:
    """The messages that the tuned model has answered."""
    messages = [{"role": "user", "content": question}]
    body = {"model": "champion", "messages": messages, "max_tokens": 3}
    httpx.post(f"{server.url}/v1/chat/completions", json=body, trust_env=False, timeout=30).raise_for_status()
    return messages


def test_a_server_that_goes_away_is_no_drift(
    copied_run: Path, lives: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.1)
    record_reference_window(copied_run, score=lambda prompts: [0.5] * len(prompts))
    first = lives(open_server(copied_run, settings(check=False), log=lambda _: None), ApiKeys.of(KEY)).server
    port = int(first.url.rpartition(":")[2])
    front = open_gateway(
        copied_run,
        settings(watch=WatchSettings(MonitorSettings(sample=1.0), canary_seconds=0.2)),
        UpstreamSettings(f"{first.url}/v1", key=KEY),
        log=lambda _: None,
    )
    assert any(told.startswith("watching") for told in watched(front, lives))
    first.stop()

    def becomes(ready: bool) -> str:
        ends = time.monotonic() + 30
        while front.served.readiness.ready != ready:
            assert time.monotonic() < ends
            time.sleep(0.02)
        return front.served.readiness.reason

    assert "does not answer" in becomes(False)
    time.sleep(0.5)  # for as long as it is asked several times
    assert monitor_status(copied_run)["canary"]["passed"]
    lives(open_server(copied_run, settings(check=False, port=port), log=lambda _: None), ApiKeys.of(KEY))
    assert becomes(True) == "the answers to the canary set are as recorded at training"


def fast_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK_SECONDS", "_AGAIN_SECONDS", "_PATIENCE_SECONDS"):
        monkeypatch.setattr(serve, name, 0.1)


class Looks:
    """The models of a server that says one thing after another of them, the clock, and the end when all is said."""

    checked = "as recorded"

    def __init__(self, said: list[Any], found: list[str]) -> None:
        self.said, self.found, self.now = list(said), found, 1000.0
        self.pauses, self.replays = list[float](), 0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return not self.said

    def missing(self) -> list[str]:
        said: list[str] | Exception = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def check(self, run: object) -> list[str]:
        self.replays += 1
        return self.found


AWAY, GONE = UpstreamAwayError("it is away"), ["it has no adapter"]


@pytest.mark.parametrize(
    ("said", "found", "more", "told", "replays", "pauses"),
    [
        ([AWAY, AWAY, []], [], {}, [], 0, [0, 2, 2, 15]),  # under load
        (
            [AWAY] * 11 + [[]],
            [],
            {},
            ["NOT ready: it is away.", "ready: as recorded."],
            1,
            [0, *[2] * 11, 15],
        ),
        ([GONE, []], [], {}, ["NOT ready: it has no adapter.", "ready: as recorded."], 1, [0, 2, 15]),
        # It may have no list of its models, which nobody asked for.
        ([AWAY] * 20, [], {"check": False}, [], 0, [0, *[15] * 20]),
        ([[]] * 40, ["wrong"], {}, ["NOT ready: wrong."], 1, [0, *[2] * 40]),
        ([[]] * 160, ["wrong"], {}, ["NOT ready: wrong."], 7, [0, *[2] * 150, *[15] * 10]),
        ([[]] * 40, ["wrong"], {"watch": WatchSettings()}, ["NOT ready: wrong."], 0, [0, *[2] * 40]),
    ],
    ids=[
        "slow",
        "away",
        "gone",
        "without a list",
        "otherwise",
        "otherwise for long",
        "otherwise and watched",
    ],
)
def test_looks_after_the_models_of_another_server(
    monkeypatch: pytest.MonkeyPatch,
    said: list[Any],
    found: list[str],
    more: dict[str, Any],
    told: list[str],
    replays: int,
    pauses: list[float],
) -> None:
    looks, heard = Looks(said, found), list[str]()
    some: Any = SimpleNamespace(readiness=Readiness(True), folder=SimpleNamespace(path="run"), documents=None)
    models: Any = looks
    server = Server(some, models, some, some, settings(**more), lambda _: None)
    monkeypatch.setattr(serve, "time", looks)
    monkeypatch.setattr(server, "_ending", looks)
    monkeypatch.setattr(server, "_tell", heard.append)
    server._watching = some if "watch" in more else None
    server._checked.set()
    if found:
        server._judge(found)  # who watches finds it, and it is told all the same
    server._look_after_models(found)
    assert (heard, looks.replays, looks.pauses) == (told, replays, pauses)


@pytest.mark.parametrize("how", [{"check": False}, {"watch": WatchSettings()}], ids=["unchecked", "watched"])
def test_a_gateway_is_ready_only_while_the_server_behind_it_has_the_models(
    copied_run: Path, lives: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    fast_looks(monkeypatch)
    first = lives(open_server(copied_run, settings(check=False), log=lambda _: None), ApiKeys.of(KEY)).server
    first.served.window = 255
    upstream = UpstreamSettings(f"{first.url}/v1", key=KEY)
    front = open_gateway(copied_run, settings(**how), upstream, log=lambda _: None)
    assert front.served.window == 256
    told: list[str] = []
    lives(front, on_watching=told.append)
    until(lambda: front.served.window == 255)  # no more than the other server takes
    ready = front.served.readiness
    before = ready.reason
    names = first.served.names
    first.served.names = {name: model for name, model in names.items() if name != "copied"}
    until(lambda: not ready.ready)
    assert "has no copied" in ready.reason
    assert httpx.get(f"{front.url}/ready", trust_env=False).status_code == 503
    first.served.names = names
    until(lambda: ready.ready)
    assert ready.reason == before
    first.stop()
    until(lambda: not ready.ready)
    assert "does not answer" in ready.reason
    until(lambda: sum("ready: " in one for one in told) == 3)
    assert told[-1] == f"NOT ready: {ready.reason}."


def test_a_server_that_comes_back_with_other_weights_is_found_out(
    copied_run: Path, lives: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_looks(monkeypatch)
    first = lives(open_server(copied_run, settings(check=False), log=lambda _: None), ApiKeys.of(KEY)).server
    port = int(first.url.rpartition(":")[2])
    upstream = UpstreamSettings(f"{first.url}/v1", key=KEY)
    front = open_gateway(copied_run, settings(watch=WatchSettings()), upstream, log=lambda _: None)
    assert watched(front, lives)
    first.stop()
    until(lambda: not front.served.readiness.ready)
    file = copied_run / "adapter" / "adapter_model.safetensors"
    right = file.read_bytes()
    save_file({name: -40 * weight for name, weight in load_file(file).items()}, file)
    other = open_server(copied_run, settings(check=False, port=port), log=lambda _: None)
    file.write_bytes(right)
    lives(other, ApiKeys.of(KEY))
    until(lambda: "canary prompts are not as recorded" in front.served.readiness.reason)


def rows_of(run: Path) -> list[tuple[float | None, float | None]]:
    """Novelty and drift of the requests that the monitor has kept."""
    with contextlib.closing(sqlite3.connect(run / "monitor" / "monitor.sqlite")) as connection:
        return connection.execute("SELECT novelty, drift FROM rows").fetchall()


def watched(server: Server, lives: Callable[..., Live]) -> list[str]:
    """What it says about watching, once it has said something."""
    told: list[str] = []
    live = lives(server, on_watching=told.append)
    ends = time.monotonic() + 60
    while not told:
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert live.readiness is not None
    return told


def test_a_server_that_answers_otherwise_is_not_ready(
    copied_run: Path, lives: Callable[..., Live], tmp_path: Path
) -> None:
    file = copied_run / "adapter" / "adapter_model.safetensors"
    right = file.read_bytes()
    save_file({name: -40 * weight for name, weight in load_file(file).items()}, file)
    url = behind(copied_run, lives)
    file.write_bytes(right)
    other = lives(open_gateway(copied_run, settings(), UpstreamSettings(url, key=KEY), log=lambda _: None))
    assert other.readiness is not None
    assert "canary prompts are not as recorded" in other.readiness.reason
    for upstream, message in (
        (UpstreamSettings(url, tuned="missing", key=KEY), "has no missing; it has "),
        (UpstreamSettings(url, key="wrong"), "can't be read"),
    ):
        live = lives(open_gateway(copied_run, settings(), upstream, log=lambda _: None))
        assert live.readiness is not None
        assert not live.readiness.ready
        assert message in live.readiness.reason
    with pytest.raises(ConfigError, match="is no address"):
        open_gateway(copied_run, settings(), UpstreamSettings("localhost:8000"))


def test_a_server_that_ends_where_a_chat_does_answers_as_recorded(
    copied_run: Path, lives: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record goes on behind a chat's end where the generation config knows that of a text only."""
    run = RunDir(copied_run)
    record = read_record(run.canary, "canary")
    one = min(record["prompts"], key=lambda prompt: len(prompt["ids"]))
    end = AutoTokenizer.from_pretrained(load_config(run.config).model.name).eos_token_id
    one["answer"] = [*one["answer"][:3], end, 5, 6, 7]
    one["sure"] = one["sure_16_bits"] = len(one["answer"])
    write_record(run.canary, "canary", record)
    server = open_server(copied_run, settings(check=False), log=lambda _: None)
    lives(server, ApiKeys.of(KEY))
    upstream = UpstreamSettings(f"{server.url}/v1", key=KEY)
    # One that goes on makes up the user's next turn.
    front = lives(open_gateway(copied_run, settings(), upstream, log=lambda _: None))
    assert front.readiness is not None
    assert (
        f"1 of {len(record['prompts'])} canary prompts don't end where a turn does, as if the server didn't heed "
        f"stop_token_ids: {one['id']}" in front.readiness.reason
    )
    engine = server.served.engine
    assert isinstance(engine, EmbeddedEngine)
    lane = engine._lanes[0]
    step = lane.step

    def ending(token_ids: torch.Tensor) -> torch.Tensor:
        logits_NV = step(token_ids)
        if lane._batch.width == len(one["ids"]) + 3:
            logits_NV[:, end] = 1e4
        return logits_NV

    monkeypatch.setattr(lane, "step", ending)
    front = lives(open_gateway(copied_run, settings(), upstream, log=lambda _: None))
    assert front.readiness == Readiness(True, "the answers to the canary set are as recorded at training")


class Refusing:
    """A server before another one, which refuses fields that OpenAI's API doesn't have."""

    def __init__(self, url: str) -> None:
        outer = self
        self.refused, self.status = 0, 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.status:
                    self._send(outer.status, b"")
                else:
                    self._answer(b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if "stop_token_ids" in json.loads(body):
                    outer.refused += 1
                    self._send(
                        400, b'{"error": {"message": "Unrecognized request argument: stop_token_ids"}}'
                    )
                else:
                    self._answer(body)

            def _answer(self, body: bytes) -> None:
                headers = {"authorization": self.headers["authorization"], "content-type": "application/json"}
                address = url + self.path.removeprefix("/v1")
                found = httpx.request(
                    self.command, address, content=body, headers=headers, trust_env=False, timeout=30
                )
                self._send(found.status_code, found.content)

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_the_canary_set_is_asked_of_a_server_that_takes_no_ids_of_ends(
    copied_run: Path, lives: Callable[..., Live]
) -> None:
    before = Refusing(behind(copied_run, lives))
    try:
        upstream = UpstreamSettings(before.url, key=KEY)
        front = lives(open_gateway(copied_run, settings(), upstream, log=lambda _: None))
        assert front.readiness == Readiness(True, "the answers to the canary set are as recorded at training")
        ask(front.server, "What?")
        assert before.refused == 1
        # It has too much to do now; a list that can't be read says nothing of the models either.
        models = front.server._models
        for before.status, message in ((429, "status 429"), (401, "can't be read")):
            with pytest.raises(UpstreamAwayError, match=message):
                models.missing()
        assert "status 401" in str(models.check(RunDir(copied_run)))  # but is one's own mistake, at the start
    finally:
        before.stop()


def test_the_key_for_the_server_behind_is_told_to_nobody_else(
    copied_run: Path, tiny_tokenizer: PreTrainedTokenizerFast, lives: Callable[..., Live]
) -> None:
    url = behind(copied_run, lives)
    front = lives(
        open_gateway(copied_run, settings(), UpstreamSettings(url, key=f" {KEY}\r\n"), log=lambda _: None)
    )
    assert front.readiness == Readiness(True, "the answers to the canary set are as recorded at training")
    for unsendable in ("two\nlines", "schlüssel"):
        with pytest.raises(ConfigError, match="can't be sent") as refused:
            open_gateway(copied_run, settings(), UpstreamSettings(url, key=unsendable))
        assert unsendable not in str(refused.value)
    with_password = url.replace("http://", "http://someone:a-password@")
    front = lives(
        open_gateway(
            copied_run, settings(), UpstreamSettings(with_password, key="a-wrong-one"), log=lambda _: None
        )
    )
    assert front.readiness is not None
    assert front.readiness.reason == f"{url}/models can't be read: HTTPStatusError: status 401"
    engine = UpstreamEngine(
        url,
        {"tuned": "copied"},
        ends=AnswerEnds(tiny_tokenizer),
        key="a-secret\n",
        max_running=1,
        max_waiting=0,
    )
    with pytest.raises(UpstreamAwayError, match="LocalProtocolError") as away:
        UpstreamModels(engine, tiny_tokenizer, None, {}).check(RunDir(copied_run))
    assert "a-secret" not in str(away.value)


def test_a_server_that_is_still_loading_is_waited_for(
    copied_run: Path, lives: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_AGAIN_SECONDS", 0.1)
    with contextlib.closing(listening_socket("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    front = open_gateway(
        copied_run, settings(), UpstreamSettings(f"http://127.0.0.1:{port}/v1", key=KEY), log=lambda _: None
    )
    told: list[str] = []
    ready: list[Readiness] = []
    thread = threading.Thread(target=front.run, args=[None, ready.append, told.append], daemon=True)
    thread.start()
    ends = time.monotonic() + 30
    while not told:
        assert time.monotonic() < ends
        time.sleep(0.05)
    away = f"http://127.0.0.1:{port}/v1 does not answer: ConnectError: "
    assert len(told) == 1
    assert told[0].startswith(f"waiting: {away}")
    assert not front.served.readiness.ready
    assert front.served.readiness.reason.startswith(away)
    assert front.served.readiness.reason.endswith("; it is asked again")
    assert ready == []
    # An address is nobody's business who has no key, or is a page elsewhere.
    stranger = httpx.get(f"{front.url}/ready", headers={"host": "evil.example"}, trust_env=False, timeout=30)
    assert stranger.json() == {"ready": False, "reason": "waiting for the server behind this one"}
    late = open_server(copied_run, settings(check=False, port=port), log=lambda _: None)
    lives(late, ApiKeys.of(KEY))
    while not ready:
        assert time.monotonic() < ends + 30
        time.sleep(0.05)
    assert ready[0].ready, ready
    assert len(told) == 1  # it isn't repeated
    front.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("watch", [None, WatchSettings()], ids=["unwatched", "watched"])
def test_an_adapter_that_is_loaded_late_is_found(
    copied_run: Path,
    lives: Callable[..., Live],
    monkeypatch: pytest.MonkeyPatch,
    watch: WatchSettings | None,
) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(serve, "_OTHERWISE_SECONDS", 0.1)
    fast_looks(monkeypatch)
    other = open_server(copied_run, settings(check=False), log=lambda _: None)
    lives(other, ApiKeys.of(KEY))
    names = other.served.names
    other.served.names = {name: model for name, model in names.items() if name != "copied"}
    front = lives(
        open_gateway(
            copied_run,
            settings(watch=watch),
            UpstreamSettings(f"{other.url}/v1", key=KEY),
            log=lambda _: None,
        )
    )
    assert front.readiness is not None
    assert not front.readiness.ready
    assert "has no copied" in front.readiness.reason
    other.served.names = names
    ends = time.monotonic() + 30
    while not front.readiness.ready:
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert front.readiness.reason == "the answers to the canary set are as recorded at training"


def test_a_gateway_that_waits_ends_when_it_is_told_to(copied_run: Path) -> None:
    front = open_gateway(
        copied_run, settings(), UpstreamSettings("http://127.0.0.1:9/v1"), log=lambda _: None
    )
    waits = threading.Event()
    thread = threading.Thread(
        target=front.run, args=[None, lambda _: None, lambda _: waits.set()], daemon=True
    )
    thread.start()
    assert waits.wait(30)
    front.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_another_run_takes_its_place_if_the_server_behind_has_it(
    copied_run: Path, lives: Callable[..., Live], tmp_path: Path
) -> None:
    url = behind(copied_run, lives)
    front = lives(open_gateway(copied_run, settings(), UpstreamSettings(url, key=KEY), log=lambda _: None))
    copy = copied_run.with_name("second")
    shutil.copytree(copied_run, copy)
    with pytest.raises(ModelError, match="has no second"):
        front.server.exchange(copy)
    assert next(iter(front.server.served.names)) == "copied"
    tokenizer, base = "another tokeniser or chat template", "another base model"
    before: dict[str, Any] = {"stored_weights_hash": None, "weights_hash": "another"}  # no safetensors
    for number, (record, kind, changed, problem) in enumerate(
        (
            ("record.json", "train", {"stored_tokenizer_hash": "another"}, tokenizer),
            ("record.json", "train", {"stored_weights_hash": "another"}, base),
            ("record.json", "train", before, base),
            # The same weights are others in another number format.
            ("record.json", "train", before | {"dtype": "another"}, None),
        )
    ):
        other = Path(shutil.copytree(copied_run, tmp_path / f"{number}" / "copied"))
        trained = read_record(other / record, kind)
        trained["model"].update(changed)
        write_record(other / record, kind, trained)
        if problem is None:
            front.server.exchange(other)
            continue
        with pytest.raises(ConfigError, match="can't take the place") as refused:
            front.server.exchange(other)
        assert problem in refused.value.problems[0]
    same = tmp_path / "elsewhere" / "copied"
    shutil.copytree(copied_run, same)
    front.server.exchange(same)
    assert front.server._live.folder.path == same


def test_a_rollback_asks_for_the_first_run_by_the_name_that_it_was_given(
    copied_run: Path, lives: Callable[..., Live], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(shutil.copytree(copied_run, copied_run.with_name("first")))
    upstream = UpstreamSettings(behind(copied_run, lives), tuned="champion", key=KEY)
    read: list[bool] = []

    def hashed(weights: Path) -> str:
        read.append(front.served.gate._closed)
        return hash_of_weights(weights)

    monkeypatch.setattr(gateway, "hash_of_weights", hashed)
    monkeypatch.chdir(tmp_path)
    add_run("a registry.sqlite", first)
    with_registry = settings(registry="a registry.sqlite")
    front = open_gateway(first, with_registry, upstream, log=lambda _: None)
    lives(front)
    assert read == []  # gigabytes, which nobody needs at the start
    # What was served is known, whatever lies in its folder by now.
    away = first.rename(tmp_path / "away")
    front.exchange(copied_run)
    away.rename(first)
    assert read == [False]  # of the new one, while requests go on
    assert front.served.engine.names["tuned"] == "copied"  # type: ignore[attr-defined]
    front.exchange(first)
    assert front.served.engine.names["tuned"] == "champion"  # type: ignore[attr-defined]
    ask(front, "What?")
    # By the name of one that was served before, that one's adapter would answer.
    other = Path(shutil.copytree(copied_run, tmp_path / "other" / "copied"))
    file = other / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {"more": torch.ones(1)}, file)
    with pytest.raises(ConfigError, match=r"or was before, .* for both by the name copied") as refused:
        front.exchange(other)
    # Promoted from another folder, it must not have one that is gone before it.
    rollback = f"`selfaug registry rollback --registry '{tmp_path}/a registry.sqlite'` first; then rename"
    assert str(refused.value.hint).startswith(rollback)


def test_who_wants_no_check_has_none_when_another_run_takes_its_place(
    copied_run: Path, lives: Callable[..., Live], tmp_path: Path
) -> None:
    file = copied_run / "adapter" / "adapter_model.safetensors"
    right = file.read_bytes()
    save_file({name: -40 * weight for name, weight in load_file(file).items()}, file)
    url = behind(copied_run, lives)
    file.write_bytes(right)
    same = tmp_path / "elsewhere" / "copied"
    shutil.copytree(copied_run, same)
    upstream = UpstreamSettings(url, key=KEY)
    unchecked = lives(open_gateway(copied_run, settings(check=False), upstream, log=lambda _: None))
    unchecked.server.exchange(same)
    assert unchecked.server._live.folder.path == same
    assert unchecked.server.served.readiness == Readiness(True, "not checked against the record of training")
    # Under that name, it would go on with the adapter of the run that is served: nobody would know.
    other = Path(shutil.copytree(copied_run, tmp_path / "other" / "copied"))
    save_file(load_file(file) | {"more": torch.ones(1)}, other / "adapter" / file.name)
    with pytest.raises(ConfigError, match="for both by the name copied"):
        unchecked.server.exchange(other)
    assert unchecked.server._live.folder.path == same
    # Whether the other server has it at all is asked all the same.
    with pytest.raises(ModelError, match="has no second"):
        unchecked.server.exchange(shutil.copytree(copied_run, copied_run.with_name("second")))
    checked = lives(open_gateway(copied_run, settings(), upstream, log=lambda _: None))
    with pytest.raises(ModelError, match="not as recorded"):
        checked.server.exchange(same)


def started_vllm(target: Path, tmp_path: Path) -> list[str]:
    """What the script starts vLLM with: a command of that name writes down its arguments."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "vllm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (commands / "vllm").chmod(0o755)
    done = subprocess.run(
        [str(target / "vllm.sh"), "--max-model-len", "256"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{commands}:/usr/bin:/bin"},
    )
    return done.stdout.splitlines()


def test_the_launch_of_vllm(copied_run: Path, tmp_path: Path) -> None:
    copied_run = copied_run.rename(copied_run.with_name("my 'first' run"))
    target = tmp_path / "with space"
    result = CliRunner().invoke(app, ["export", str(copied_run), "--to", str(target), "--vllm"])
    assert result.exit_code == 0, result.output
    assert "--upstream http://127.0.0.1:8001/v1 --max-batch 256 --max-waiting 256\n" in result.stdout
    config = load_config(copied_run / "config.yaml")
    arguments = started_vllm(target, tmp_path)
    assert arguments[:2] == ["serve", config.model.name]
    assert f"my 'first' run={target / 'adapter'}" in arguments
    assert arguments[arguments.index("--generation-config") + 1] == "vllm"
    assert "--trust-remote-code" not in arguments
    assert arguments[arguments.index("--max-lora-rank") + 1] == "16"
    assert arguments[arguments.index("--served-model-name") + 1] == config.model.name
    assert arguments[-2:] == ["--max-model-len", "256"]
    assert load_file(target / "adapter" / "adapter_model.safetensors").keys()
    # A gateway has no models to measure what its requests are compared with: else nothing of it would be watched.
    first = f"selfaug monitor {shlex.quote(str(copied_run))} --reference"
    steps = [line.removeprefix("next: ") for line in result.stdout.splitlines()]
    assert steps.index(first) < steps.index(shlex.quote(str(target / "vllm.sh")))
    text = (target / "compose.yaml").read_text(encoding="utf-8")
    assert f"#   {first}\n" in text
    assert "--score-drift" in text
    whole = yaml.safe_load(text)
    compose = whole["services"]
    assert compose["vllm"]["command"][-2:] == ["--lora-modules", "my 'first' run=/adapter"]
    assert compose["vllm"]["command"][0] == "/model"
    assert "ports" not in compose["vllm"]
    assert compose["gateway"]["ports"] == ["127.0.0.1:8000:8000"]
    # What the gateway is told there is a command that there is.
    name, *arguments = compose["gateway"]["command"]
    commands_of_selfaug: Any = typer.main.get_command(app)
    parsed = commands_of_selfaug.commands[name].make_context(name, arguments).params
    assert parsed["upstream"] == "http://vllm:8000/v1"
    assert parsed["run"] == "/run/my 'first' run"
    # Passed on only where it is set: an empty one would be refused.
    assert compose["gateway"]["environment"]["SELFAUG_OLD_API_KEY"] is None
    # It waits for vLLM, finds the base model's tokeniser by the name that the run has for it, and owns what it writes.
    assert compose["gateway"]["depends_on"] == {"vllm": {"condition": "service_healthy"}}
    assert f"{config.model.name}:{config.model.name}:ro" in compose["gateway"]["volumes"]
    assert compose["gateway"]["user"] == f"{os.getuid()}:{os.getgid()}"
    named = {volume.partition(":")[0] for one in compose.values() for volume in one["volumes"]}
    assert {name for name in named if "/" not in name} == whole["volumes"].keys()
    compile(compose["vllm"]["healthcheck"]["test"][-1], "healthcheck", "exec")
    # Both come back after a crash and with the machine, no log fills the disk, and running answers may end.
    for service in compose.values():
        assert service["restart"] == "unless-stopped"
        assert service["logging"]["options"]["max-size"]
    assert compose["gateway"]["stop_grace_period"] == "45s"
    assert parsed["drain"] < 45
    again = CliRunner().invoke(app, ["export", str(copied_run), "--to", str(target), "--vllm"])
    assert "is not empty" in again.stderr
    both = CliRunner().invoke(app, ["export", str(copied_run), "--to", str(target), "--vllm", "--ollama"])
    assert both.exit_code == 2
    settings_file = copied_run / "config.yaml"
    plain = settings_file.read_text(encoding="utf-8")
    settings_file.write_text(plain.replace("quantization: none", "quantization: 4bit"), encoding="utf-8")
    quantised = CliRunner().invoke(app, ["export", str(copied_run), "--to", str(tmp_path / "q"), "--vllm"])
    assert "vLLM serves the full ones" in quantised.stderr
    assert "--max-waiting 256 --no-check\n" in quantised.stdout
    compose = yaml.safe_load((tmp_path / "q" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert "--no-check" in compose["gateway"]["command"]
    # A base model's folder in the hub's cache has links out of it: what they lead to is there, too.
    model = Path(config.model.name)
    assert f"{model}:/model:ro" in compose["vllm"]["volumes"]
    assert len(compose["vllm"]["volumes"]) == 3
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "a1", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(model, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (snapshot / "gone").symlink_to("gone")
    # Some links in the folder lead elsewhere in a container that has it under another name.
    names = [file.name for file in blobs.iterdir()]
    for number, to in enumerate((names[0], f"../a1/{names[0]}", str(snapshot / names[0]))):
        (snapshot / f"again-{number}").symlink_to(to)
    settings_file.write_text(plain.replace(str(model), str(snapshot)), encoding="utf-8")
    linked = CliRunner().invoke(app, ["export", str(copied_run), "--to", str(tmp_path / "l"), "--vllm"])
    assert linked.exit_code == 0, linked.output
    compose = yaml.safe_load((tmp_path / "l" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    # Nothing else is: not the folder around it.
    blob = blobs / names[0]
    assert {one for one in compose["vllm"]["volumes"] if one.startswith(str(tmp_path))} == {
        f"{snapshot}:/model:ro", f"{blob}:/a1/{names[0]}:ro", f"{blob}:{snapshot / names[0]}:ro",
        *(f"{blobs / name}:/blobs/{name}:ro" for name in names),
    }  # fmt: skip
    there = {f"{snapshot}:{snapshot}:ro", *(f"{blobs / name}:{blobs / name}:ro" for name in names)}
    assert {one for one in compose["gateway"]["volumes"] if one.startswith(str(snapshot.parents[1]))} == there
    (copied_run / "record.json").unlink()
    unfinished = CliRunner().invoke(app, ["export", str(copied_run), "--to", str(tmp_path / "u"), "--vllm"])
    assert f"{copied_run} is not complete; this is its checkpoint at step 6." in unfinished.stderr


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("lora.method=full", "lora.method full"),
        ("lora.method=osf", "lora.method osf"),
        ("lora.dora=true", "DoRA"),
    ],
)
def test_what_vllm_loads_no_adapter_of_is_merged_for_it(
    tmp_path: Path, settings: Callable[..., TrainConfig], changed: str, told: str
) -> None:
    run, target = tmp_path / "my run", tmp_path / "for vllm"
    train(settings(run, changed, "train.steps=2", "selfaug.monitor_prompts=0"))
    result = CliRunner().invoke(app, ["export", str(run), "--to", str(target), "--vllm", "--offline"])
    assert result.exit_code == 0, result.output
    assert told in result.stderr
    assert "the base model, where it is wanted, needs another server" in result.stderr
    assert "--max-waiting 256 --upstream-no-base\n" in result.stdout
    # The weights are those that the run answers with.
    chat = open_chat(run, device="cpu", offline=True)
    ids = torch.arange(3, 30)[None]
    merged = AutoModelForCausalLM.from_pretrained(target / "merged")
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, chat.tuned(ids).logits, atol=1e-3)
    assert len(AutoTokenizer.from_pretrained(target / "merged")) == len(chat.tokenizer)
    assert started_vllm(target, tmp_path) == [
        "serve", str(target / "merged"), "--served-model-name", "my run", "--generation-config", "vllm",
        "--max-model-len", "auto", "--host", "127.0.0.1", "--port", "8001", "--max-model-len", "256",
    ]  # fmt: skip
    compose = yaml.safe_load((target / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert compose["vllm"]["command"] == [
        "/model", "--served-model-name", "my run", "--generation-config", "vllm", "--max-model-len", "auto"
    ]  # fmt: skip
    assert "./merged:/model:ro" in compose["vllm"]["volumes"]
    name, *arguments = compose["gateway"]["command"]
    commands_of_selfaug: Any = typer.main.get_command(app)
    assert commands_of_selfaug.commands[name].make_context(name, arguments).params["upstream_no_base"]


def test_a_server_behind_that_has_the_tuned_model_alone(copied_run: Path, lives: Callable[..., Live]) -> None:
    upstream = UpstreamSettings(behind(copied_run, lives), key=KEY, has_base=False)
    front = lives(open_gateway(copied_run, settings(), upstream, log=lambda _: None))
    assert front.readiness == Readiness(True, "the answers to the canary set are as recorded at training")
    url = f"{front.server.url}/v1"
    listed = httpx.get(f"{url}/models", trust_env=False).json()["data"]
    assert [one["id"] for one in listed] == ["copied", "champion"]
    for model, status in (("copied", 200), (load_config(copied_run / "config.yaml").model.name, 404)):
        body = {"model": model, "prompt": "the year", "max_tokens": 3}
        answer = httpx.post(f"{url}/completions", json=body, trust_env=False, timeout=30)
        assert answer.status_code == status
    refused = CliRunner().invoke(app, ["serve", str(copied_run), "--upstream-no-base"])
    assert refused.exit_code == 2
    assert "it needs --upstream" in refused.stderr
