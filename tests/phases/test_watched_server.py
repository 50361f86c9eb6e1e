"""A server whose traffic is watched: what reaches the monitor, and what a failing one changes for requests."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.data import IGNORED_LABEL, encode_rows, load_rows
from selfaug.errors import ConfigError, DataError
from selfaug.model.loading import load_tokenizer
from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.redaction import redacted
from selfaug.phases.answer_form import answer_form
from selfaug.phases.inputs import load_training_data
from selfaug.phases.prepare import prepare
from selfaug.phases.realign import realign_config
from selfaug.phases.realign_checks import require_trained_form
from selfaug.phases.serve import Server, ServeSettings, open_server
from selfaug.phases.trained_template import trained_template
from selfaug.phases.watching import WatchSettings
from selfaug.prepare_config import load_prepare_config
from selfaug.records import read_lines, write_lines
from selfaug.rundir import RunDir
from selfaug.serving.keys import ApiKeys
from selfaug.serving.watcher import Answered

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

KEY = "sk-of-the-tests-0123456789"
ASKED: list[Any] = [{"role": "user", "content": "the revenue of a@b.example?"}]


def soon(holds: Callable[[], Any], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


class Watched:
    """A server in a thread."""

    def __init__(self, run: Path, **settings: Any) -> None:
        settings = {"port": 0, "device": "cpu", **settings}
        self.server: Server = open_server(run, ServeSettings(**settings), log=lambda _: None)
        self.said: list[str] = []
        told = threading.Event()
        self.thread = threading.Thread(
            target=self.server.run,
            args=[ApiKeys.of(KEY), lambda _: told.set(), self.said.append],
            daemon=True,
        )
        self.thread.start()
        assert told.wait(60)
        self.ai = openai.OpenAI(base_url=f"{self.server.url}/v1", api_key=KEY, max_retries=0)
        self.http = httpx.Client(
            base_url=self.server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
        )

    def said_that(self, begin: str) -> bool:
        return any(line.startswith(begin) for line in self.said)

    def stop(self) -> None:
        self.http.close()
        self.ai.close()
        self.server.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Watched]]:
    running: list[Watched] = []

    def make(run: Path, **settings: Any) -> Watched:
        running.append(Watched(run, **settings))
        return running[-1]

    yield make
    for one in running:
        if one.thread.is_alive():
            one.stop()


ALL = WatchSettings(MonitorSettings(sample=1.0, compute_share=1.0, keep_texts=True), patience=0.1)


def rows(run: Path, what: str) -> list[Any]:
    with sqlite3.connect(run / "monitor" / "monitor.sqlite") as connection:
        found = connection.execute(what).fetchall()
    connection.close()
    return found


def test_what_is_answered_is_watched_voted_on_and_shown(
    copied_run: Path, serve: Callable[..., Watched]
) -> None:
    watched = serve(copied_run, watch=ALL)
    soon(lambda: watched.said_that("watching: "))
    assert watched.said_that("measuring the reference window of 48 prompts in the background")
    ai = watched.ai
    answers = [ai.chat.completions.create(model="champion", messages=ASKED, max_tokens=4, n=2)]
    chunks = list(ai.chat.completions.create(model="copied", messages=ASKED, max_tokens=5, stream=True))
    base = ai.chat.completions.create(
        model=list(watched.server.served.names)[1], messages=ASKED, max_tokens=4
    )
    texts = ai.completions.create(
        model="copied", prompt=["the year", "the revenue of the year"], max_tokens=3
    )
    tokens = ai.completions.create(model="copied", prompt=[5, 6, 7, 8], max_tokens=3)
    expected = {answers[0].id, chunks[0].id, texts.id, f"{texts.id}-1", tokens.id}

    def vote(identifier: str, thumb: str) -> int:
        return watched.http.post("/v1/feedback", json={"id": identifier, "vote": thumb}).status_code

    assert vote(answers[0].id, "down") == 202
    assert vote(chunks[0].id, "up") == 202
    assert vote(base.id, "down") == 404  # the base model has no adapter to be watched
    assert vote("chatcmpl-never", "down") == 404
    assert vote(answers[0].id, "sideways") == 400

    def metric(name: str) -> float:
        text = watched.http.get("/metrics").text
        line = next((line for line in text.splitlines() if line.startswith(name + " ")), f"{name} -1")
        return float(line.rpartition(" ")[2])

    watching = watched.server._watching
    assert watching is not None
    assert watching._monitor is not None
    adapter = watching._monitor.status()["adapter"][:12]
    scored = f'selfaug_monitor_observations_total{{adapter="{adapter}",outcome="scored"}}'
    soon(lambda: metric(scored) == 5)
    assert metric("selfaug_prompt_drift_nats_count") == 5
    assert metric('selfaug_alert_state{state="learning"}') == 1
    assert metric("selfaug_monitor_scoring_seconds_total") > 0
    watched.stop()
    kept = rows(copied_run, "SELECT request_id, completion_tokens, drift, refused FROM rows")
    assert {row[0] for row in kept} == expected
    assert {row[0]: row[1] for row in kept}[answers[0].id] == 4
    assert all(row[2] > 0 and row[3] == 0 for row in kept)
    stored = [text for (text,) in rows(copied_run, "SELECT text FROM texts")]
    assert len(stored) == 4  # token ids are no text
    assert not any("a@b.example" in text for text in stored)
    exported = copied_run / "texts.jsonl"
    result = CliRunner().invoke(app, ["monitor", str(copied_run), "--texts", str(exported)])
    assert "4 texts" in result.stdout
    lines = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines()]
    chat = [{"role": "user", "content": "the revenue of [email]?"}, {"role": "assistant", "content": ""}]
    assert [line.get("messages") or line["prompt"] for line in lines] == [
        chat,
        chat,
        "the year",
        "the revenue of the year",
    ]
    assert [line["id"] for line in lines[:2]] == [answers[0].id, chunks[0].id]
    assert [line["vote"] for line in lines] == ["down", "up", None, None]
    assert all(line["drift"] > 0 for line in lines)
    assert lines[0]["model_answer"] == redacted(answers[0].choices[0].message.content)
    again = CliRunner().invoke(app, ["monitor", str(copied_run), "--texts", str(exported)])
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert {(name, up) for name, up in rows(copied_run, "SELECT request_id, up FROM votes")} == {
        (answers[0].id, 0),
        (chunks[0].id, 1),
    }
    shown = CliRunner().invoke(app, ["monitor", str(copied_run), "--json"])
    status = json.loads(shown.stdout)
    assert status["state"] == "learning"
    # Five prompts, two votes, and the canary set at the start.
    assert {name: status["counts"][name] for name in ("offered", "votes", "canaries", "lost")} == {
        "offered": 8,
        "votes": 2,
        "canaries": 1,
        "lost": 0,
    }


def test_kept_requests_become_rows_that_train_on_the_prompt_that_was_served(
    copied_run: Path, serve: Callable[..., Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat with all its turns, and a question with its passages; what can't be learnt is refused."""
    documents, prepared = tmp_path / "documents", tmp_path / "prepared"
    documents.mkdir()
    for number in (3, 4):
        text = f"the revenue of company{number} was {number * 7} million"
        (documents / f"{number}.md").write_text(text, encoding="utf-8")
    prepare(load_prepare_config(None, {"FOLDER": str(documents), "--output": str(prepared)}, []))
    watched = serve(copied_run, watch=ALL, prepared=str(prepared))
    soon(lambda: watched.said_that("watching: "))
    watching = watched.server._watching
    assert watching is not None
    take, served = watching.answered, {}

    def answered(request: Answered) -> None:
        served[request.request_id] = list(request.prompt_ids)
        take(request)

    monkeypatch.setattr(watching, "answered", answered)
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "the revenue?"}]},
        {"role": "assistant", "content": "of whom?"},
        {"role": "user", "content": "of the company"},
    ]

    def asked(path: str, **body: Any) -> str:
        return str(watched.http.post(f"/v1/{path}", json={"max_tokens": 3, **body}).json()["id"])

    chat = asked("chat/completions", model="champion", messages=turns)
    found = asked("rag/answer", question="revenue of company3?")
    text = asked("completions", model="champion", prompt="the year")
    assert watched.http.post("/v1/rag/answer", json={"question": "zebra?"}).status_code == 400
    watched.stop()

    exported, new = tmp_path / "texts.jsonl", tmp_path / "new.jsonl"
    assert CliRunner().invoke(app, ["monitor", str(copied_run), "--texts", str(exported)]).exit_code == 0
    lines = read_lines(exported)
    assert [(line["id"], line.get("text")) for line in lines[:3]] == [
        (chat, None),
        (found, None),
        (text, None),
    ]
    assert (lines[3]["text"], "completion" in lines[3], "answer" in lines[3]) == ("zebra?", False, False)
    with pytest.raises(DataError, match="4 of 4 rows can't be used"):  # nothing without an answer is learnt
        load_rows([exported])
    lines[0]["messages"][-1]["content"] = lines[1]["answer"] = lines[2]["completion"] = "21 million"
    config = load_config(copied_run / "config.yaml")
    tokenizer = load_tokenizer(config.model.name, trust_remote_code=False, offline=True)
    write_lines(new, lines[:3])
    rows = load_rows([new], template=trained_template(RunDir(copied_run))).rows
    for row in encode_rows(rows, tokenizer, max_length=256).rows:
        prompt = served[row.id]
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels.count(IGNORED_LABEL) == len(prompt)

    refused = CliRunner().invoke(app, ["realign", str(copied_run), "--data", str(new)])
    assert refused.exit_code == 2, refused.output
    assert f"1 of 3 new rows are plain text, the first of them {new}:3" in refused.stderr
    write_lines(new, lines[:2])
    realigned = realign_config(RunDir(copied_run), [str(new)])
    require_trained_form(RunDir(copied_run), realigned, [])
    assert load_training_data(realigned).train.report.rows == 2


def test_answers_are_the_same_while_prompts_are_measured_all_the_time(
    copied_run: Path, serve: Callable[..., Watched]
) -> None:
    settings = WatchSettings(
        MonitorSettings(sample=1.0, scored_per_hour=1e6, compute_share=1.0), patience=0.0
    )
    watched = serve(copied_run, watch=settings)
    alone = serve(copied_run, watch=None)
    soon(lambda: watched.said_that("watching: "))

    def asked(server: Watched, number: int) -> str:
        body = {"model": "copied", "prompt": f"company {number} of the year", "max_tokens": 12}
        return str(server.http.post("/v1/completions", json=body).json()["choices"][0]["text"])

    expected = [asked(alone, number) for number in range(24)]
    assert [asked(watched, number) for number in range(24)] == expected
    monitor = watched.server._watching._monitor  # type: ignore[union-attr]
    assert monitor is not None
    assert monitor.counts()["scored"] > 0


def test_a_server_with_other_weights_than_the_record_is_an_alert_at_once(
    copied_run: Path, serve: Callable[..., Watched]
) -> None:
    first = serve(copied_run, watch=ALL)
    soon(lambda: first.said_that("watching: "))
    first.stop()
    window = (copied_run / "monitor" / "reference.json").read_bytes()
    file = copied_run / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(file).items()}, file)
    second = serve(copied_run, watch=ALL)
    assert second.http.get("/ready").status_code == 503
    soon(lambda: list((copied_run / "monitor" / "alerts").glob("*/record.json")))
    # The window of the right weights is still there.
    assert (copied_run / "monitor" / "reference.json").read_bytes() == window
    second.stop()
    shown = CliRunner().invoke(app, ["monitor", str(copied_run)])
    assert shown.exit_code == 4
    assert "canary" in shown.stdout


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and what it was told."""
    found: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", found
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_other_weights_are_told_of_at_the_first_start_too_when_there_is_no_window_yet(
    copied_run: Path, serve: Callable[..., Watched], told: tuple[str, list[dict[str, Any]]]
) -> None:
    url, changes = told
    file = copied_run / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(file).items()}, file)
    watched = serve(copied_run, watch=replace(ALL, webhook=url, canary_seconds=0.05))
    assert watched.http.get("/ready").status_code == 503
    soon(lambda: changes)
    assert (changes[0]["before"], changes[0]["after"]) == ("no_data", "drift")
    assert (changes[0]["run"], changes[0]["report"]) == (str(copied_run), None)
    assert watched.said_that("NOT watched: there is no reference window, and none is measured while")
    assert "selfaug_monitor_watching 0.0" in watched.http.get("/metrics").text
    # The same again is no news, and a window of these weights would be of no use.
    watching = watched.server._watching
    assert watching is not None
    assert watching._check is not None
    replayed: list[list[str] | None] = []
    check = watching._check

    def counting() -> list[str] | None:
        replayed.append(check())
        return replayed[-1]

    watching._check = counting
    soon(lambda: len(replayed) >= 2)
    assert len(changes) == 1
    assert not (copied_run / "monitor" / "reference.json").exists()
    # Later replays go on: when it comes back the run is watched.
    watching._check = list  # of problems: there are none
    soon(lambda: watched.said_that("watching: "))
    assert watched.http.get("/ready").status_code == 200
    watched.stop()
    assert CliRunner().invoke(app, ["monitor", str(copied_run)]).exit_code == 0


def test_a_run_that_has_no_window_has_its_canary_set_replayed(
    copied_run: Path, serve: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise DataError("a reference window of 3 prompts says too little")

    monkeypatch.setattr("selfaug.phases.monitor.record_reference_window", none)
    watched = serve(copied_run, watch=replace(ALL, canary_seconds=0.05))
    soon(lambda: watched.said_that("NOT watched: a reference window of 3 prompts"))
    watching = watched.server._watching
    assert watching is not None
    watching._check = lambda: ["another answer"]
    soon(lambda: watched.http.get("/ready").json().get("reason") == "another answer")
    watched.stop()
    assert sum(line.startswith("NOT watched: a reference") for line in watched.said) == 1


def test_the_canary_set_is_replayed_on_a_schedule(copied_run: Path, serve: Callable[..., Watched]) -> None:
    watched = serve(copied_run, watch=WatchSettings(canary_seconds=0.05))
    soon(lambda: watched.said_that("watching: "))
    found: list[list[str] | None] = [["another answer"], []]
    watching = watched.server._watching
    assert watching is not None
    assert watching._check is not None
    held = threading.Event()

    def check() -> list[str] | None:
        if held.is_set():
            return []
        return found[0]

    watching._check = check
    soon(lambda: watched.http.get("/ready").json()["reason"] == "another answer")
    assert watched.http.post("/v1/completions", json={"model": "copied", "prompt": "x"}).status_code == 503
    held.set()
    soon(lambda: watched.http.get("/ready").status_code == 200)

    def broken() -> list[str] | None:
        raise OSError("gone")

    watching._check = broken
    soon(lambda: "can't be replayed: OSError" in watched.http.get("/ready").json()["reason"])


def test_a_run_that_cannot_be_watched_is_served_all_the_same(
    copied_run: Path, serve: Callable[..., Watched]
) -> None:
    first = serve(copied_run, watch=ALL)
    soon(lambda: first.said_that("watching: "))
    second = serve(copied_run, watch=ALL)
    soon(lambda: second.said_that("NOT watched: another monitor is using"))
    body = {"model": "copied", "prompt": "x", "max_tokens": 2}
    assert second.http.post("/v1/completions", json=body).status_code == 200
    told = second.http.get("/metrics").text
    assert "selfaug_alert_state" not in told
    assert "selfaug_monitor_watching 0.0" in told
    assert second.http.post("/v1/feedback", json={"id": "cmpl-1", "vote": "up"}).status_code == 404
    unwatched = serve(copied_run, watch=None)
    refused = unwatched.http.post("/v1/feedback", json={"id": "cmpl-1", "vote": "up"})
    assert refused.json()["error"]["code"] == "not_watched"
    assert "selfaug_monitor_watching" not in unwatched.http.get("/metrics").text


def test_a_server_is_watched_once_the_one_before_has_ended(
    copied_run: Path, serve: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a rolling update: not only when the canary set is replayed, a day later."""
    monkeypatch.setattr("selfaug.phases.watching._AGAIN_SECONDS", 0.1)
    first = serve(copied_run, watch=ALL)
    soon(lambda: first.said_that("watching: "))
    body = {"model": "copied", "prompt": "x", "max_tokens": 2}
    answer = first.http.post("/v1/completions", json=body).json()["id"]
    soon(lambda: rows(copied_run, "SELECT request_id FROM rows") == [(answer,)])
    second = serve(copied_run, watch=ALL)
    soon(lambda: second.said_that("NOT watched: another monitor is using"))

    def vote(identifier: str, thumb: str) -> int:
        return second.http.post("/v1/feedback", json={"id": identifier, "vote": thumb}).status_code

    # What the one before has answered is kept, whoever is asked, and whether or not this one has a monitor.
    assert vote(answer, "down") == 202
    assert rows(copied_run, "SELECT request_id, up FROM votes") == [(answer, 0)]
    other = first.http.post("/v1/completions", json=body).json()["id"]
    soon(lambda: (other,) in rows(copied_run, "SELECT request_id FROM rows"))
    first.stop()
    soon(lambda: second.said_that("watching: "))
    assert "selfaug_monitor_watching 1.0" in second.http.get("/metrics").text
    assert sum(line.startswith("NOT watched") for line in second.said) == 1
    assert vote(other, "up") == 202
    assert vote("cmpl-never", "up") == 404
    soon(lambda: (other, 1) in rows(copied_run, "SELECT request_id, up FROM votes"))
    watching = second.server._watching
    assert watching is not None
    assert watching._monitor is not None
    assert watching._monitor.counts()["votes"] == 1  # the signal has it


def test_a_monitor_that_fails_fails_no_request(
    copied_run: Path, serve: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = serve(copied_run, watch=ALL)
    soon(lambda: watched.said_that("watching: "))
    watching = watched.server._watching
    assert watching is not None
    assert isinstance(watching._monitor, Monitor)
    # As on a full disk.
    monkeypatch.setattr(watching._monitor._store, "commit", lambda batch: 1 / 0)
    body = {"model": "copied", "prompt": "x y z", "max_tokens": 2}
    for _ in range(3):
        assert watched.http.post("/v1/completions", json=body).status_code == 200
    soon(lambda: watching._monitor and watching._monitor.counts()["lost"] >= 3)


def test_whom_nothing_can_be_told_keeps_nobody_from_watching(copied_run: Path) -> None:
    """As where the log's disk is full, or the pipe that the server writes into has no reader."""
    lines: list[str] = []

    def broken(told: Any) -> None:
        lines.append(str(told))
        raise BrokenPipeError(32, "Broken pipe")

    settings = ServeSettings(port=0, device="cpu", watch=ALL)
    server = open_server(copied_run, settings, log=broken)
    thread = threading.Thread(target=server.run, args=[ApiKeys.of(KEY), broken, broken], daemon=True)
    thread.start()
    soon(lambda: any(line.startswith("watching: ") for line in lines))
    body = {"model": "copied", "prompt": "x y z", "max_tokens": 2}
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
    ) as client:
        assert [client.post("/v1/completions", json=body).status_code for _ in range(3)] == [200] * 3
        soon(lambda: rows(copied_run, "SELECT count(*) FROM rows") == [(3,)])
    server.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert "Readiness(ready=True" in "".join(lines)


def test_a_server_ends_while_its_reference_window_is_measured(
    copied_run: Path, serve: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ending = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        begun.set()
        assert ending.wait(60)
        raise OSError("anything")

    monkeypatch.setattr("selfaug.phases.monitor.measure_drift", slow)
    watched = serve(copied_run, watch=ALL)
    assert begun.wait(60)
    watching = watched.server._watching
    assert watching is not None
    cancel = watching.cancel
    monkeypatch.setattr(watching, "cancel", lambda: (cancel(), ending.set()))
    watched.stop()
    assert not watched.said_that("watching: ")
    assert not watched.said_that("NOT watched")


@pytest.mark.parametrize(
    ("answer", "has_it"),
    [
        ("ANSWER: $3 million | SOURCE: [1]", True),
        ("ANSWER: two\nlines | SOURCE: [1][2]", True),
        ("not reported", True),
        ("ANSWER: $3 million", False),
        ("Here you are. ANSWER: $3 million | SOURCE: [1]", False),
        ("not reported (yet)", False),
    ],
)
def test_the_form_of_an_answer(answer: str, has_it: bool) -> None:
    rows = {"completion": "ANSWER: {answer} | SOURCE: {sources}", "no_answer": "not reported"}
    form = answer_form({"settings": {"rows": rows}})
    assert (form.fullmatch(answer) is not None) == has_it
    # As YAML's `|` gives them; completions of rows are stripped, and so are answers.
    form = answer_form({"settings": {"rows": {name: f"{text}\n" for name, text in rows.items()}}})
    assert (form.fullmatch(answer) is not None) == has_it


def test_a_webhook_that_is_no_address_is_an_error_before_models_are_loaded(copied_run: Path) -> None:
    with pytest.raises(ConfigError, match="no address"):
        open_server(copied_run, ServeSettings(watch=WatchSettings(webhook="ftp://x"), device="cpu"))
