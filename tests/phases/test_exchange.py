"""Another run takes the place of the one that is served, and no request notices more than another answer."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from selfaug.cli.main import app
from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError, ModelError, StorageError
from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.phases.monitor import record_reference_window
from selfaug.phases.prepare import prepare
from selfaug.phases.registry import champion_move, followed_run
from selfaug.phases.run_models import hash_of_weights
from selfaug.phases.serve import Server, ServeSettings, open_server
from selfaug.phases.train import train
from selfaug.phases.watching import WatchSettings
from selfaug.prepare_config import load_prepare_config
from selfaug.records import read_record, write_record
from selfaug.registry import CANDIDATE, Registry
from selfaug.rundir import RunDir
from selfaug.serving.embedded import EmbeddedEngine, _Job
from selfaug.serving.guard import Limits

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPT = "the revenue of the year in the north"


@pytest.fixture(scope="module")
def other_run(
    tiny_model_dir: Path, tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory, finished_run: Path
) -> Path:
    """Another rank and other steps on the same base model and rows as the run that is served first."""
    config = load_config(finished_run / "config.yaml")
    folder = tmp_path_factory.mktemp("runs") / "second"
    changed = config.model_copy(
        update={
            "lora": config.lora.model_copy(update={"rank": 2}),
            "train": config.train.model_copy(update={"seed": 7, "learning_rate": 0.05}),
            "run": config.run.model_copy(update={"output": str(folder), "overwrite": False}),
        }
    )
    train(changed)
    return folder


@contextmanager
def running(run: Path, **settings: Any) -> Iterator[tuple[Server, httpx.Client, list[str]]]:
    # Who asks as fast as it is answered would come to the limit.
    settings = {
        "port": 0,
        "device": "cpu",
        "watch": WatchSettings(),
        "limits": Limits(requests_per_minute=0),
        **settings,
    }
    server = open_server(run, ServeSettings(**settings), log=lambda _: None)
    told, said = threading.Event(), []
    thread = threading.Thread(target=server.run, args=[None, lambda _: told.set(), said.append], daemon=True)
    thread.start()
    assert told.wait(60)
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield server, client, said
    server.stop()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def server(copied_run: Path) -> Iterator[tuple[Server, httpx.Client, list[str]]]:
    with running(copied_run) as found:
        yield found


def soon(holds: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


class Said(list[float]):
    """Log-probabilities of an answer's tokens; equal but for the rounding of another batch."""

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Said)
        return len(self) == len(other) and bool(np.allclose(self, other, atol=1e-4))

    __hash__ = None  # type: ignore[assignment]


def ask(client: httpx.Client, model: str) -> Said:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "logprobs": 0}
    found = client.post("/v1/completions", json=body)
    assert found.status_code == 200, found.text
    return Said(found.json()["choices"][0]["logprobs"]["token_logprobs"])


def test_a_run_takes_the_place_of_another_under_load(
    server: tuple[Server, httpx.Client, list[str]], other_run: Path
) -> None:
    serving, client, _said = server
    before, base = ask(client, "champion"), ask(client, serving.served.base)
    stop = threading.Event()

    def asks() -> list[Said]:
        found = []
        while not stop.is_set():
            found.append(ask(client, "champion"))
        return found

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(asks) for _ in range(6)]
        serving.exchange(other_run)
        after = ask(client, "champion")
        stop.set()
        answers = [one for future in asking for one in future.result()]
    assert before != after
    assert all(one in (before, after) for one in answers)
    assert len(answers) > 6  # each of the six has asked, and one again
    assert ask(client, "second") == after
    assert ask(client, serving.served.base) == base
    gone = client.post("/v1/completions", json={"model": "copied", "prompt": PROMPT})
    assert gone.status_code == 404
    assert client.get("/v1/models").json()["data"][0]["id"] == "second"
    assert len(serving._models.tuned.peft_config) == 1  # type: ignore[union-attr]
    # What it answers is what the run answers alone.
    alone = open_server(other_run, ServeSettings(port=0, device="cpu", watch=None), log=lambda _: None)
    told = threading.Event()
    thread = threading.Thread(target=alone.run, args=[None, lambda _: told.set()], daemon=True)
    thread.start()
    assert told.wait(60)
    with httpx.Client(base_url=alone.url, timeout=60, trust_env=False) as other:
        assert ask(other, "champion") == after
    alone.stop()
    thread.join(60)
    # And it is the new run that is watched now.
    watching = serving._watching
    assert watching is not None
    assert str(watching._run) == str(other_run)


def test_and_back_again(
    server: tuple[Server, httpx.Client, list[str]], other_run: Path, copied_run: Path
) -> None:
    serving, client, _ = server
    before = ask(client, "champion")
    # With the folder of the run that is served away: it was moved, or deleted.
    away = copied_run.rename(copied_run.with_name("away"))
    serving.exchange(other_run)
    assert ask(client, "champion") != before
    shutil.copytree(away, copied_run, dirs_exist_ok=True)
    serving.exchange(copied_run)
    assert ask(client, "champion") == before
    assert client.get("/ready").json()["ready"]


def test_documents_that_have_changed_are_told_of_at_the_start_and_with_each_run(
    copied_run: Path, other_run: Path, tmp_path: Path
) -> None:
    documents, prepared = tmp_path / "documents", tmp_path / "prepared"
    documents.mkdir()
    for name in ("pumps", "valves"):
        (documents / f"{name}.md").write_text(f"# {name}\n\nThe revenue of {name} was 4 million.")
    flags = {"FOLDER": str(documents), "--output": str(prepared)}
    prepare(load_prepare_config(None, flags, ["documents.processes=1", "rows.passages=2"]))
    (documents / "new.md").write_text("new")
    told = "note: 1 document is new, changed or gone since the folder was prepared (new.md)"
    with running(copied_run, prepared=str(prepared), watch=None, check=False) as (serving, _, said):
        assert [line.startswith(told) for line in said] == [True]
        assert "started anew" in said[0]
        # Of the next one, whose code it runs is told as well, before that runs: of one that is refused, too, but once.
        newer = Path(shutil.copytree(other_run, tmp_path / "newer"))
        settings = (newer / "config.yaml").read_text(encoding="utf-8")
        changed = settings.replace("trust_remote_code: false", "trust_remote_code: true")
        (newer / "config.yaml").write_text(changed, encoding="utf-8")
        record = read_record(prepared / "record.json", "prepare")
        own = {**record, "retrieval": {**record["retrieval"], "retriever": "gone:function"}}
        write_record(prepared / "record.json", "prepare", own)
        for _ in range(2):
            with pytest.raises(ConfigError, match="gone:function"):
                serving.exchange(newer)
        assert "newer/config.yaml has model.trust_remote_code, so code that comes with" in said[1]
        assert "record.json names the retriever gone:function, so that function is run" in said[2]
        write_record(prepared / "record.json", "prepare", record)
        serving.exchange(newer)
        assert [line.startswith(told) for line in said] == [True, False, False, True]


def test_what_is_not_as_trained_does_not_take_its_place(
    server: tuple[Server, httpx.Client, list[str]], other_run: Path, tmp_path: Path
) -> None:
    serving, client, _ = server
    before = ask(client, "champion")
    damaged = Path(shutil.copytree(other_run, tmp_path / "damaged"))
    file = damaged / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="is not what was trained"):
        serving.exchange(damaged)
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="can't load the adapter"):
        serving.exchange(damaged)
    assert ask(client, "champion") == before
    assert len(serving._models.tuned.peft_config) == 1  # type: ignore[union-attr]
    serving.exchange(other_run)
    assert ask(client, "champion") != before


def test_another_base_model_needs_another_server(
    server: tuple[Server, httpx.Client, list[str]], tmp_path: Path, settings: Callable[..., TrainConfig]
) -> None:
    serving, client, _ = server
    full = tmp_path / "full"
    train(settings(full, "lora.method=full", "train.steps=1", "selfaug.monitor_prompts=0"))
    with pytest.raises(ConfigError, match="can't take the place") as error:
        serving.exchange(full)
    assert any("all weights" in problem for problem in error.value.problems)
    assert ask(client, "champion")


def test_a_run_with_another_chat_template_or_number_format_needs_another_server(
    server: tuple[Server, httpx.Client, list[str]], copied_run: Path, tmp_path: Path
) -> None:
    serving, _, _ = server
    other = RunDir(shutil.copytree(copied_run, tmp_path / "other"))
    whole = read_record(other.record, "train")
    base = whole["model"]

    def record_base(**changed: str | None) -> None:
        write_record(other.record, "train", whole | {"model": base | {"weights_hash": "another"} | changed})

    record_base(stored_tokenizer_hash="another")
    with pytest.raises(ConfigError, match="can't take the place") as error:
        serving.exchange(other.path)
    assert error.value.problems == [
        "it was trained with another tokeniser or chat template of its base model"
    ]
    del base["stored_tokenizer_hash"]  # as of a model whose files can't be read
    # Of the base model, the weights as they are stored count: loaded, they are others with another version or device.

    def refused() -> bool:
        with pytest.raises(ConfigError, match="can't take the place") as error:
            serving.exchange(other.path)
        return error.value.problems == ["it was trained on another base model, or in another number format"]

    for changed in ({"stored_weights_hash": "another"}, {"stored_weights_hash": None}, {"dtype": "another"}):
        record_base(**changed)
        assert refused()
    record_base()
    right = other.config.read_text(encoding="utf-8")
    other.config.write_text(right.replace("quantization: none", "quantization: 4bit"), encoding="utf-8")
    assert refused()
    other.config.write_text(right, encoding="utf-8")
    serving.exchange(other.path)
    for stored in (None, "another"):  # as in earlier records; stored in another number format
        record_base(stored_weights_hash=stored, weights_hash=base["weights_hash"])
        for run in (copied_run, other.path):
            serving.exchange(run)


def test_an_adapter_that_is_not_plain_lora_needs_another_server(
    server: tuple[Server, httpx.Client, list[str]], tmp_path: Path, settings: Callable[..., TrainConfig]
) -> None:
    serving, client, _ = server
    dora = tmp_path / "dora"
    train(settings(dora, "lora.dora=true", "train.steps=1", "selfaug.monitor_prompts=0"))
    before = ask(client, "champion")
    with pytest.raises(ConfigError, match="can't take the place"):
        serving.exchange(dora)
    assert ask(client, "champion") == before


class Arriving(queue.SimpleQueue[Any]):
    """What comes to an engine; says when there is something to be done in turn."""

    def __init__(self) -> None:
        self.in_turn = threading.Event()

    def put(self, item: Any, *_: Any) -> None:
        super().put(item)
        if isinstance(item, _Job):
            self.in_turn.set()


class Held:
    """The engine's thread is held, so that what is asked of it comes in an order of the test's."""

    def __init__(self, server: Server) -> None:
        engine, begun, self._go = server.served.engine, threading.Event(), threading.Event()
        assert isinstance(engine, EmbeddedEngine)
        self._engine = engine

        def hold() -> None:
            begun.set()
            self._go.wait(60)

        threading.Thread(target=engine.when_idle, args=[hold], daemon=True).start()
        assert begun.wait(60)
        engine._arriving = self._arriving = Arriving()

    def waits(self) -> bool:
        """Whether something waits for a moment without requests."""
        return len(self._engine._jobs) > 0

    def exchange(self, server: Server, run: Path) -> None:
        """Exchange the runs: the engine hears of it before it goes on, and after what waits."""
        exchanging = threading.Thread(target=server.exchange, args=[run], daemon=True)
        exchanging.start()
        assert self._arriving.in_turn.wait(60)
        self._go.set()
        exchanging.join(60)
        assert not exchanging.is_alive()


def test_a_replay_that_waits_is_not_done_with_the_other_run(copied_run: Path, other_run: Path) -> None:
    with running(copied_run, watch=WatchSettings(canary_seconds=0.05)) as (serving, client, said):
        soon(lambda: any(line.startswith("watching: ") for line in said))
        before = serving._watching
        assert before is not None
        replayed: list[bool] = []

        def replay() -> list[str] | None:
            replayed.append(serving._live.folder.path == copied_run)
            return []

        before._check = replay
        soon(lambda: len(replayed) > 0)
        held = Held(serving)
        soon(held.waits)
        done = len(replayed)
        held.exchange(serving, other_run)
        assert client.get("/ready").json()["ready"]
        before.join(60)
        assert len(replayed) == done
        # What it may find now is not told any more.
        before._tell_canary(["another answer"])
        assert client.get("/ready").json()["ready"]


def test_a_prompt_that_waits_is_not_measured_with_the_other_run_and_the_monitor_ends(
    copied_run: Path, other_run: Path
) -> None:
    watch = WatchSettings(MonitorSettings(sample=1.0, compute_share=1.0))
    with running(copied_run, watch=watch) as (serving, _, said):
        soon(lambda: any(line.startswith("watching: ") for line in said))
        before = serving._watching
        assert before is not None
        monitor = before._monitor
        assert monitor is not None
        held = Held(serving)
        monitor.offer(Observation("waits", [5, 6, 7], 3, refused=False))
        soon(held.waits)
        held.exchange(serving, other_run)
        # At once, and back: each is watched, as the one before has let go of its folder.
        serving.exchange(copied_run)
        soon(lambda: sum(line.startswith("watching: ") for line in said) >= 2)
        assert not any(line.startswith("NOT watched") for line in said)
        with closing(sqlite3.connect(copied_run / "monitor" / "monitor.sqlite")) as connection:
            assert connection.execute("SELECT request_id, drift FROM rows").fetchall() == [("waits", None)]
        assert monitor.counts()["scored"] == 0
        assert monitor.counts()["processed"] == 2  # with the canary set


def test_answers_of_the_run_before_can_be_voted_on(copied_run: Path, other_run: Path) -> None:
    def kept(run: Path, what: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(run / "monitor" / "monitor.sqlite")) as connection:
            return connection.execute(what).fetchall()

    with running(copied_run, watch=WatchSettings(MonitorSettings(sample=0.0))) as (serving, client, said):
        soon(lambda: any(line.startswith("watching: ") for line in said))
        body = {"model": "champion", "prompt": PROMPT, "max_tokens": 2}
        identifier = client.post("/v1/completions", json=body).json()["id"]
        soon(lambda: kept(copied_run, "SELECT request_id FROM rows") == [(identifier,)])
        serving.exchange(other_run)
        soon(lambda: sum(line.startswith("watching: ") for line in said) >= 2)
        for thumb in ("down", "up"):  # the first one counts
            vote = {"id": identifier, "vote": thumb}
            assert client.post("/v1/feedback", json=vote).status_code == 202
        assert client.post("/v1/feedback", json={"id": "cmpl-never", "vote": "up"}).status_code == 404
        assert kept(copied_run, "SELECT request_id, up FROM votes") == [(identifier, 0)]
        # A file that can't be read fails no request.
        (copied_run / "monitor" / "monitor.sqlite").write_bytes(b"no database at all")
        assert client.post("/v1/feedback", json={"id": identifier, "vote": "up"}).status_code == 404
        assert kept(other_run, "SELECT * FROM votes") == []


def test_requests_during_an_exchange_are_the_new_runs_alone(
    server: tuple[Server, httpx.Client, list[str]], other_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, client, _ = server
    serving.served.chat_ids = lambda _: [5, 5, 5]  # the old run's template, so to say
    begun, go = threading.Event(), threading.Event()
    check = serving._models.check

    def slow(run: RunDir) -> list[str] | None:
        begun.set()
        go.wait(60)
        return check(run)

    monkeypatch.setattr(serving._models, "check", slow)

    def chat(model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
        return client.post("/v1/chat/completions", json=body)

    exchanging = threading.Thread(target=serving.exchange, args=[other_run])
    with ThreadPoolExecutor(3) as pool:
        try:
            exchanging.start()
            assert begun.wait(60)
            asked = [pool.submit(chat, model) for model in ("champion", "copied", "second")]
            soon(lambda: serving.served.gate.waiting == 3)
        finally:
            go.set()
        by_alias, by_old_name, by_new_name = (one.result() for one in asked)
    exchanging.join(60)
    assert by_old_name.status_code == 404
    assert "there is no model 'copied' here; there are second" in by_old_name.json()["error"]["message"]
    for one in (by_alias, by_new_name):
        assert one.json()["usage"]["prompt_tokens"] > 3
        assert one.json()["choices"] == chat("second").json()["choices"]


def test_who_wants_no_check_has_none_when_runs_are_exchanged(
    copied_run: Path, other_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Path(shutil.copytree(other_run, tmp_path / "changed"))
    file = changed / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(file).items()}, file)
    told: list[bool] = []
    monkeypatch.setattr(Monitor, "canary", lambda _, passed, why="": told.append(passed))
    with running(copied_run, check=False) as (serving, client, said):
        soon(lambda: any(line.startswith("watching: ") for line in said))
        before = ask(client, "champion")
        serving.exchange(changed)
        assert ask(client, "changed") != before
        assert client.get("/ready").json() == {
            "ready": True,
            "reason": "not checked against the record of training",
        }
        soon(lambda: sum(line.startswith("watching: ") for line in said) >= 2)
    assert told == []


def registry_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["registry", *arguments])


def test_a_server_follows_its_registry_there_and_back(
    copied_run: Path, other_run: Path, tmp_path: Path
) -> None:
    file = ("--registry", str(tmp_path / "registry.sqlite"))
    assert "there is no registry" in registry_command("list", *file).stderr
    assert "version 1 is the champion" in registry_command("promote", str(copied_run), *file).stdout
    added = registry_command("add", str(other_run), "--parent", "1", "--note", "colder rows", *file)
    assert "version 2" in added.stdout
    run = followed_run(file[1])
    assert (run, champion_move(file[1])) == (str(copied_run.resolve()), 1)
    server = open_server(
        run,
        ServeSettings(
            port=0, device="cpu", watch=None, registry=file[1], follow_seconds=0.05, retry_seconds=0.5
        ),
        log=lambda _: None,
    )
    told, said = threading.Event(), []
    thread = threading.Thread(target=server.run, args=[None, lambda _: told.set(), said.append], daemon=True)
    thread.start()
    assert told.wait(60)
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        before = ask(client, "champion")
        assert registry_command("promote", "2", *file).exit_code == 0
        soon(lambda: any(line.startswith(f"serving {other_run.resolve()}") for line in said))
        after = ask(client, "champion")
        assert after != before
        assert "rolled back to version 1" in registry_command("rollback", *file).stdout
        soon(lambda: any(line.startswith(f"serving {copied_run.resolve()}") for line in said))
        assert ask(client, "champion") == before
        listed = json.loads(registry_command("list", "--json", *file).stdout)
        assert listed["aliases"] == {"champion": 1}
        assert [move["version"] for move in listed["champions"]] == [1, 2, 1]
        shown = registry_command("list", *file).stdout.splitlines()
        assert "champion" in shown[0]
        assert "from 1" in shown[1]
        assert "colder rows" in shown[1]
        # A champion that can't be served changes nothing but what is said.
        damaged = Path(shutil.copytree(other_run, tmp_path / "damaged"))
        described = damaged / "adapter" / "adapter_config.json"
        right = described.read_bytes()
        described.write_text("{}")
        assert registry_command("promote", str(damaged), *file).exit_code == 0
        soon(lambda: any(line.startswith("NOT following the registry") for line in said))
        ready = client.get("/ready").json()
        assert ready["ready"]
        assert f"NOT following the registry: {ready['not_followed']}" in said
        assert "selfaug_follows_champion 0.0" in client.get("/metrics").text
        assert ask(client, "champion") == before
        # It is tried again: its folder may have been on its way here.
        described.write_bytes(right)
        soon(lambda: any(line.startswith(f"serving {damaged.resolve()}") for line in said))
        assert ask(client, "champion") == after
        assert sum(line.startswith("NOT following the registry") for line in said) == 1
        soon(lambda: "not_followed" not in client.get("/ready").json())
        assert "selfaug_follows_champion 1.0" in client.get("/metrics").text
        # The same reason later is said again: it had been mended in between.
        assert registry_command("rollback", *file).exit_code == 0
        soon(lambda: "champion" in server.served.names and ask(client, "champion") == before)
        described.write_text("{}")
        assert registry_command("promote", str(damaged), *file).exit_code == 0
        soon(lambda: sum(line.startswith("NOT following the registry") for line in said) == 2)
    server.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_champion_that_requests_wait_for_in_vain_is_tried_less_and_less_often(
    copied_run: Path, other_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ("--registry", str(tmp_path / "registry.sqlite"))
    assert registry_command("promote", str(copied_run), *file).exit_code == 0
    damaged = [Path(shutil.copytree(other_run, tmp_path / name)) for name in ("damaged", "worse")]
    for one in damaged:
        (one / "adapter" / "adapter_config.json").write_text("{}")
    tries: list[float] = []
    exchange = Server.exchange

    def noted(self: Server, run: Any) -> None:
        tries.append(time.monotonic())
        exchange(self, run)

    monkeypatch.setattr(Server, "exchange", noted)
    follow = {"registry": file[1], "follow_seconds": 0.02, "retry_seconds": 0.2}
    with running(copied_run, watch=None, **follow) as (serving, client, _):
        assert registry_command("promote", str(damaged[0]), *file).exit_code == 0
        soon(lambda: len(tries) >= 4)
        for number, (earlier, later) in enumerate(itertools.pairwise(tries[:4])):
            assert later - earlier >= 0.2 * 2**number
        # Another move is tried at once, and soon again: the next try of the one before was 1.6 seconds away.
        assert registry_command("promote", str(damaged[1]), *file).exit_code == 0
        soon(lambda: len(tries) >= 6)
        assert tries[5] - tries[4] < 3.2
        # Who reads no registry keeps nobody waiting, and goes on trying.
        Path(file[1]).unlink()
        soon(lambda: "there is no registry" in serving.served.readiness.not_followed)
        stranger = client.get("/ready", headers={"host": "evil.example"}).json()
        assert stranger["not_followed"] == "the registry's champion is not what is served"
        assert ask(client, "champion")


def test_a_candidate_that_was_promoted_is_none_any_more(copied_run: Path, tmp_path: Path) -> None:
    file = ("--registry", str(tmp_path / "registry.sqlite"))
    second = Path(shutil.copytree(copied_run, tmp_path / "second"))
    assert registry_command("promote", str(copied_run), *file).exit_code == 0
    assert registry_command("add", str(second), *file).exit_code == 0
    Registry(file[1]).point(CANDIDATE, 2)

    def aliases() -> Any:
        return json.loads(registry_command("list", "--json", *file).stdout)["aliases"]

    assert aliases() == {"champion": 1, "candidate": 2}
    assert registry_command("promote", "2", *file).exit_code == 0
    assert aliases() == {"champion": 2}
    assert registry_command("rollback", *file).exit_code == 0
    assert aliases() == {"champion": 1}


def test_what_is_promoted_without_a_reference_window_is_told_of(copied_run: Path, tmp_path: Path) -> None:
    file = ("--registry", str(tmp_path / "registry.sqlite"))
    told = registry_command("promote", str(copied_run), *file).stderr
    assert "its reference window is not measured" in told
    assert re.search(r"`selfaug monitor \S*copied --reference`", told)
    record_reference_window(copied_run, score=lambda prompts: [0.5] * len(prompts))
    assert registry_command("promote", "1", *file).stderr == ""


def test_a_run_that_did_not_pass_its_gate_is_promoted_and_that_is_said(
    copied_run: Path, tmp_path: Path
) -> None:
    file = ("--registry", str(tmp_path / "registry.sqlite"))
    realigned = copied_run / "realignment.json"
    settings = copied_run / "config.yaml"
    compared = "goes on from runs/first, and was not compared"
    assert "goes on from" not in registry_command("promote", str(copied_run), *file).stderr
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("start_from: null", "start_from: runs/first"),
        encoding="utf-8",
    )
    assert compared in registry_command("promote", str(copied_run), *file).stderr
    for outcome, note in (("pass", ""), ("fail", "(fail)"), ("inconclusive", "(inconclusive)")):
        write_record(realigned, "realignment", {"gate": {"outcome": outcome}})
        result = registry_command("promote", str(copied_run), *file)
        assert "version 1 is the champion" in result.stdout
        assert ("did not pass the gate" in result.stderr) == bool(note)
        assert note in result.stderr
    realigned.write_text("damaged", encoding="utf-8")
    assert registry_command("promote", "1", *file).exit_code == 0
    assert re.search(r" \d\d:\d\d UTC ", registry_command("list", *file).stdout)


def going_on(run: Path, folder: Path, factor: int, before: Path, weights: str | None) -> Path:
    """A run with weights of its own, whose training went on from another one; None for those of earlier versions."""
    shutil.copytree(run, folder)
    adapter = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: factor * weight for name, weight in load_file(adapter).items()}, adapter)
    goes_on_from(folder, before)
    if weights is not None:
        record = read_record(folder / "record.json", "train")
        known = {"run": str(before), "weights": weights}
        write_record(folder / "record.json", "train", {**record, "went_on_from": known})
    return folder


def goes_on_from(run: Path, before: Path) -> None:
    settings = run / "config.yaml"
    text = settings.read_text(encoding="utf-8").replace("start_from: null", f"start_from: {before}")
    settings.write_text(text, encoding="utf-8")


def test_what_a_run_went_on_from_is_its_parent_and_what_it_was_not_compared_with_is_said(
    copied_run: Path, tmp_path: Path
) -> None:
    """Entered by hand too, in whatever order; two re-alignments of one champion don't know of each other."""
    registry = Registry(tmp_path / "registry.sqlite")
    file = ("--registry", str(registry.path))
    weights = hash_of_weights(copied_run / "adapter")
    later = [
        # The last is of other weights than the folder has by now.
        going_on(copied_run, tmp_path / name, factor, copied_run, "others" if name == "fourth" else weights)
        for factor, name in enumerate(("second", "third", "fourth"), 2)
    ]
    for number, run in enumerate(later):
        asked = {"deployed_weights": weights} if number else {}  # the first is of an earlier version
        content = {"deployed": "runs/first", "settings": asked, "gate": {"outcome": "pass"}}
        write_record(run / "realignment.json", "realignment", content)
    assert registry_command("add", str(later[0]), *file).exit_code == 0
    for run in (copied_run, later[1], later[2]):
        assert "not with version" not in registry_command("add", str(run), *file).stderr
    assert [version.parent for version in registry.versions()] == [None, None, 2, None]
    # What was entered without can be completed; what it says already stays.
    for number in range(2):
        again = registry_command("add", str(later[0]), "--parent", "2", "--note", "colder rows", *file)
        assert again.exit_code == 0, number
        assert again.stderr == ""
    another = registry_command("add", str(later[0]), "--note", "warmer rows", *file)
    assert another.exit_code == 0
    assert "version 1 has a note already, which stays: colder rows" in another.stderr
    for run in (later[0], later[2]):
        refused = registry_command("add", str(run), "--parent", "3", *file)
        assert refused.exit_code == 2
        assert "was not made from version 3" in " ".join(refused.stderr.split())
    assert (registry.version(1).parent, registry.version(1).note) == (2, "colder rows")
    for number, told in (("2", False), ("1", False), ("3", True), ("1", False)):
        result = registry_command("promote", number, *file)
        said = " ".join(result.stderr.split())
        assert ("compared with runs/first, and not with version 1, the champion" in said) == told, number
        assert ("it does not know" in said) == told
    # One that goes on from the champion by way of another has learnt what that has; its folder has another name by now.
    third = hash_of_weights(later[1] / "adapter")
    fifth = going_on(copied_run, tmp_path / "fifth", 6, tmp_path / "gone", third)
    content = {"deployed": "gone", "settings": {"deployed_weights": third}, "gate": {"outcome": "pass"}}
    write_record(fifth / "realignment.json", "realignment", content)
    assert registry_command("promote", "2", *file).exit_code == 0
    said = " ".join(registry_command("promote", str(fifth), *file).stderr.split())
    assert registry.versions()[-1].parent == 3
    assert "not with version 2, the champion that it replaces, from which it goes on by way of others" in said
    renamed = shutil.copytree(fifth, tmp_path / "renamed")
    assert "not with version" not in registry_command("promote", str(renamed), *file).stderr


def test_no_parent_is_made_up_for_runs_that_do_not_tell_theirs(copied_run: Path, tmp_path: Path) -> None:
    """As of earlier versions of selfaug: which weights the folder had then, nobody knows."""
    registry = Registry(tmp_path / "registry.sqlite")
    second, third = (
        going_on(copied_run, tmp_path / name, factor, copied_run, None)
        for factor, name in enumerate(("second", "third"), 2)
    )
    own = going_on(copied_run, tmp_path / "own", 4, tmp_path / "own", None)  # it stands where it went on from

    def entered(run: Path) -> int | None:
        assert registry_command("add", str(run), "--registry", str(registry.path)).exit_code == 0
        return next(version.parent for version in registry.versions() if version.run == str(run.resolve()))

    assert [entered(run) for run in (copied_run, second, own)] == [None, 1, None]
    # One that was made from the run itself is none, nor is one that was trained anew since.
    goes_on_from(copied_run, second)
    assert entered(copied_run) is None
    os.utime(copied_run / "record.json")
    assert entered(third) is None


def test_a_number_that_is_the_name_of_a_folder_too(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = ("--registry", "registry.sqlite")
    assert registry_command("add", str(copied_run), *file).exit_code == 0
    Path("1").mkdir()
    assert registry_command("promote", "1", *file).exit_code == 0, "no run is meant by it"
    shutil.copytree(copied_run, "1", dirs_exist_ok=True)
    refused = registry_command("promote", "1", *file)
    assert refused.exit_code == 2
    assert "the name of another run's folder" in refused.stderr
    assert "give ./1 for the folder, or" in " ".join(refused.stderr.split())
    assert "version 2 is the champion" in registry_command("promote", "./1", *file).stdout
    assert "version 1 is the champion" in registry_command("promote", str(copied_run), *file).stdout
    # The folder of the version itself.
    shutil.copytree(copied_run, "3")
    assert "version 3" in registry_command("add", "3", *file).stdout
    assert "version 3 is the champion" in registry_command("promote", "3", *file).stdout
    for odd in ("²", "9" * 30):
        assert "is not a selfaug run" in registry_command("promote", odd, *file).stderr


def test_what_can_not_be_entered_or_promoted(copied_run: Path, tmp_path: Path) -> None:
    file = ("--registry", str(tmp_path / "registry.sqlite"))
    assert registry_command("promote", *file).exit_code == 2
    assert "needs a run folder or a number" in registry_command("add", *file).stderr
    assert "takes no further word" in registry_command("rollback", "x", *file).stderr
    assert "is not a selfaug run" in registry_command("add", str(tmp_path), *file).stderr
    assert registry_command("add", str(copied_run), *file).exit_code == 0
    with pytest.raises(ConfigError, match="no version in"):
        followed_run(file[1])
    weights = copied_run / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(weights).items()}, weights)
    assert "other weights than when it became version 1" in registry_command("promote", "1", *file).stderr
    record = copied_run / "record.json"
    record.unlink()
    assert "did not finish" in registry_command("add", str(copied_run), *file).stderr
    for arguments in ([], [str(copied_run), *file]):
        refused = CliRunner().invoke(app, ["serve", *arguments])
        assert refused.exit_code == 2
        assert "selfaug serve --registry FILE" in refused.stderr


def test_a_version_that_was_trained_anew_in_its_folder_is_neither_served_nor_rolled_back_to(
    copied_run: Path, tmp_path: Path
) -> None:
    registry = str(tmp_path / "registry.sqlite")
    file = ("--registry", registry)
    second = Path(shutil.copytree(copied_run, tmp_path / "second"))
    for run in (copied_run, second):
        assert registry_command("promote", str(run), *file).exit_code == 0
    weights = copied_run / "adapter" / "adapter_model.safetensors"
    right = weights.read_bytes()
    save_file({name: 1.3 * weight for name, weight in load_file(weights).items()}, weights)
    refused = registry_command("rollback", *file)
    assert refused.exit_code == 1
    assert "other weights than when it became version 1" in refused.stderr
    assert (followed_run(registry), champion_move(registry)) == (
        str(second.resolve()),
        2,
    )  # nothing has moved
    weights.write_bytes(right)
    assert registry_command("rollback", *file).exit_code == 0
    save_file({name: 1.3 * weight for name, weight in load_file(weights).items()}, weights)
    with pytest.raises(StorageError, match="other weights than when it became version 1"):
        followed_run(registry)
    served = CliRunner().invoke(app, ["serve", *file, "--port", "0"])
    assert served.exit_code == 1
    assert "other weights than when it became version 1" in served.stderr
    # A server that has looked at this move already goes on with what it has in memory.
    assert champion_move(registry) == 3  # which is all that is looked at again
    # Nor is one whose folder is gone; and where the registry was moved with its runs, they are found beside it.
    assert registry_command("promote", "2", *file).exit_code == 0
    shutil.rmtree(copied_run)
    gone = " ".join(registry_command("rollback", *file).stderr.split())
    assert f"version 1's folder {copied_run.resolve()} is gone" in gone
    assert "promote another version by its number" in gone
    moved = tmp_path / "moved"
    moved.mkdir()
    for one in (second, Path(registry)):
        one.rename(moved / one.name)
    file = ("--registry", str(moved / "registry.sqlite"))
    assert followed_run(file[1]) == str((moved / "second").resolve())
    listed = registry_command("list", *file)
    assert listed.exit_code == 0
    assert str(second.resolve()) not in listed.stdout
