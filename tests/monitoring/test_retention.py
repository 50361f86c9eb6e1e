"""What was kept of requests goes when its time is over, also where no server runs any more."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated import DAY, Clock, Prompts, run, simulated

from selfaug.errors import DataError, StorageError
from selfaug.monitoring.monitor import MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.prompt_hashes import PromptHashes, forget_key
from selfaug.monitoring.retention import delete_before, delete_expired
from selfaug.monitoring.store import has_older, read_kept, read_texts
from selfaug.phases.monitor import export_texts, monitor_status, purge_expired_runs, purge_monitor
from selfaug.phases.serve import Server, ServeSettings
from selfaug.records import read_lines
from selfaug.registry import Registry
from selfaug.rundir import RunDir
from selfaug.serving.gate import Gate

KEPT_A_DAY = MonitorSettings(sample=1.0, compute_share=1.0, keep_texts=True, keep_days=1)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run whose server has ended three days ago, after an alert; it kept everything for a day."""
    folder = RunDir(tmp_path / "old")
    folder.path.mkdir()
    folder.config.write_text(folder.config_text("model: {name: tiny}\n"), encoding="utf-8")
    clock = Clock(time.time() - 3 * DAY)
    monitor = simulated(folder.monitor, clock, settings=KEPT_A_DAY)
    for number in range(20):
        clock.now += 60
        monitor.offer(Observation(f"{number}", Prompts(number).draw(), 5, text="what about Kelvandra?"))
        monitor.vote(f"{number}", True)
        monitor.work()
    monitor.canary(False, "another template")
    monitor.work()
    monitor.close()
    assert len(read_texts(folder.monitor)) == 20
    return folder.path


def files(run_folder: Path, name: str) -> list[Path]:
    return list((run_folder / "monitor").rglob(name))


def is_empty(run_folder: Path) -> bool:
    """Whether nothing of a request is there any more."""
    content = b"".join(file.read_bytes() for file in files(run_folder, "monitor.sqlite*"))
    return (
        not has_older(run_folder / "monitor", float("inf"))
        and b"Kelvandra" not in content
        and not files(run_folder, "evidence.jsonl")
        and not files(run_folder, "prompt-key.json")
    )


def test_looking_at_a_run_deletes_what_is_over(stopped: Path) -> None:
    assert len(files(stopped, "evidence.jsonl")) == 1
    assert monitor_status(stopped, now=time.time() - 2.5 * DAY)["state"] == "drift"
    assert not is_empty(stopped)
    status = monitor_status(stopped)
    assert (status["state"], status["counts"]["votes"]) == ("drift", 20)  # states and counts stay
    assert is_empty(stopped)
    assert len(files(stopped, "report.md")) == len(files(stopped, "record.json")) == 1


def test_the_alert_of_a_run_that_another_has_replaced_is_over_a_day_later(
    stopped: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry.sqlite")

    def state(days: float) -> str:
        # The last sign of life was three days ago.
        now = time.time() + (days - 3) * DAY
        return str(monitor_status(stopped, registry=registry.path, now=now)["state"])

    assert state(90) == "drift"  # without a registry nobody knows that it is not served any more
    version = registry.add(stopped, weights="a", base="tiny")
    registry.point("champion", version.number)
    assert state(90) == "drift"
    registry.point("champion", registry.add(tmp_path / "next", weights="b", base="tiny").number)
    assert state(0.5) == "drift"
    assert state(1.5) == "no_data"


def test_so_does_asking_for_its_texts(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has kept no text"):
        export_texts(stopped, tmp_path / "texts.jsonl")


def test_texts_are_written_for_their_owner_alone(stopped: Path, tmp_path: Path) -> None:
    clock = Clock(time.time())
    monitor = simulated(RunDir(stopped).monitor, clock, settings=KEPT_A_DAY)
    monitor.offer(Observation("new", Prompts(0).draw(), 5, text="what about Kelvandra?"))
    monitor.work()
    monitor.close()
    file = tmp_path / "texts.jsonl"
    assert export_texts(stopped, file) == 1
    assert "Kelvandra" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o077 == 0


def test_a_reader_that_may_not_write_sees_it_all_the_same(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr("selfaug.phases.monitor.delete_expired", refused)
    assert monitor_status(stopped)["state"] == "drift"


def test_runs_of_a_registry_are_looked_at_though_they_are_not_served(stopped: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    registry.add(tmp_path / "gone", weights="a", base="tiny")
    registry.add(tmp_path, weights="b", base="tiny")  # never watched
    registry.add(stopped, weights="c", base="tiny")
    purge_expired_runs(registry.path)
    assert is_empty(stopped)


def is_emptied_by(server: Server, run: Path) -> bool:
    """Whether a server that follows its registry, or none, deletes what a run keeps."""
    following = threading.Thread(target=server._follow)
    following.start()
    ends = time.monotonic() + 20
    while not is_empty(run) and time.monotonic() < ends:
        time.sleep(0.02)
    server._ended.set()
    following.join()
    return is_empty(run)


def test_a_server_that_follows_the_registry_looks_at_them(stopped: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    registry.add(stopped, weights="c", base="tiny")
    nothing: Any = None  # no champion: nothing is served
    served: Any = SimpleNamespace(gate=Gate())
    settings = ServeSettings(registry=str(registry.path), follow_seconds=0.01)
    server = Server(served, nothing, nothing, nothing, settings, lambda _: None)
    assert is_emptied_by(server, stopped)


def test_a_server_without_a_registry_looks_at_the_run_that_it_serves(stopped: Path) -> None:
    """Also where it has no monitor that would."""
    nothing: Any = None
    live: Any = SimpleNamespace(folder=RunDir(stopped))
    server = Server(nothing, nothing, live, nothing, ServeSettings(watch=None), lambda _: None)
    assert is_emptied_by(server, stopped)


def test_a_purge_on_demand_takes_evidence_and_key_too(stopped: Path) -> None:
    assert purge_monitor(stopped, older_than_days=10) == 0
    assert not is_empty(stopped)
    assert purge_monitor(stopped) == 20
    assert is_empty(stopped)
    assert read_kept(stopped / "monitor", ["status"])[1]["votes"] == 20


def test_damaged_evidence_keeps_no_other(stopped: Path) -> None:
    (evidence,) = files(stopped, "evidence.jsonl")
    damaged = evidence.parents[1] / "0000" / "evidence.jsonl"
    damaged.parent.mkdir()
    damaged.write_text("{\n{}\n", encoding="utf-8")
    with pytest.raises(DataError):
        delete_before(stopped / "monitor", time.time() + 1, now=time.time())
    assert damaged.exists()
    assert not evidence.exists()


def test_younger_evidence_stays(stopped: Path) -> None:
    (evidence,) = files(stopped, "evidence.jsonl")
    rows = read_lines(evidence)
    middle = rows[len(rows) // 2]["time"]
    delete_before(stopped / "monitor", middle, now=time.time())
    assert read_lines(evidence) == rows[len(rows) // 2 :]
    assert evidence.stat().st_mode & 0o077 == 0
    evidence.write_text("{\n{}\n", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        delete_before(stopped / "monitor", middle, now=time.time())


def test_a_monitor_that_runs_deletes_evidence_as_well(tmp_path: Path) -> None:
    clock = Clock()
    monitor = simulated(tmp_path, clock, settings=KEPT_A_DAY)
    run(monitor, clock, (Prompts(number).draw() for number in range(5)))
    monitor.canary(False, "another template")
    monitor.work()
    (evidence,) = tmp_path.rglob("evidence.jsonl")
    clock.now += 2 * DAY
    monitor.work()
    assert not evidence.exists()
    monitor.close()
    delete_expired(tmp_path, now=clock.now)


def test_a_key_is_deleted_when_its_week_is_over_or_it_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    first = PromptHashes(file).hash([1], 1000.0)
    forget_key(file, 1000.0)
    assert file.exists()
    forget_key(file, 1001.0)
    assert not file.exists()
    forget_key(file, 1001.0)
    assert PromptHashes(file).hash([1], 1002.0)[0] > first[0]  # no two keys have one number
    file.write_text(json.dumps({"id": 3}), encoding="utf-8")
    forget_key(file, 0.0)
    assert not file.exists()
