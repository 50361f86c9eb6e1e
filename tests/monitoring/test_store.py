"""What is kept survives a kill, a full disk and a purge as it should."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from simulated import DAY, Clock, Prompts, run, simulated, window

from selfaug.errors import StorageError
from selfaug.monitoring.monitor import MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.offer_count import OfferCount
from selfaug.monitoring.prompt_hashes import PromptHashes
from selfaug.monitoring.store import FILE, Batch, Row, Store, add_vote, has_request, purge, read_kept

HERE = Path(__file__).parent


def row(number: int, time: float = 0.0, text: str | None = None) -> Row:
    return Row(time, f"r{number}", "a", 1, bytes(16), 10, 5, 0.5, True, None, False, 0.01 * number, text)


def rows_of(folder: Path, query: str = "SELECT request_id FROM rows") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / FILE)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def said_until_killed(folder: Path, attempt: int) -> list[bytes]:
    """What a process said of its commits, the last of them cut off."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "watch_until_killed.py"), str(folder), f"{attempt}"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(0.05 + 0.07 * attempt)
        child.send_signal(signal.SIGKILL)
        return [first, *child.stdout.read().splitlines()]


def test_killed_at_any_moment_no_committed_row_is_lost_or_doubled(tmp_path: Path) -> None:
    """A real process, killed five times; what it had in its queue is counted as lost by the next one."""
    for attempt in range(5):
        said = said_until_killed(tmp_path, attempt)
        found = rows_of(tmp_path)
        assert len(set(found)) == len(found)
        _, counts = read_kept(tmp_path, [])
        # It may have died between its commit and saying so.
        assert counts["processed"] >= int(said[-1])
        assert counts["processed"] == len(found)
        clock = Clock(time.time())
        monitor = simulated(tmp_path, clock, window=window(50))
        lost = monitor.counts()["lost"]
        monitor.close()
        _, counts = read_kept(tmp_path, [])
        offers = OfferCount(tmp_path / "offered.bin")
        assert counts.get("lost", 0) == lost
        assert offers.offered == offers.dropped + counts["processed"] + lost
        offers.close()
    assert lost > 0
    kept, _ = read_kept(tmp_path, ["state"])
    assert kept["state"]["signals"]["novelty"]["values"] == len(rows_of(tmp_path))
    measured = rows_of(tmp_path, "SELECT count(*) FROM rows WHERE drift IS NOT NULL")[0][0]
    assert kept["state"]["signals"]["drift"]["values"] == measured


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(Batch([row(1)], counts={"processed": 1}, kept={"status": {"a": 1}}))
    broken = Batch([row(2)], votes=[("r1", 0.0, "a", None)], counts={"processed": 1})  # type: ignore[list-item]
    with pytest.raises(sqlite3.Error):
        store.commit(broken)
    assert rows_of(tmp_path) == [("r1",)]
    assert store.counts() == {"processed": 1}
    store.commit(Batch([row(1), row(3)], counts={"processed": 2}))
    assert rows_of(tmp_path) == [("r1",), ("r3",)]
    assert store.counts() == {"processed": 3}


def test_a_vote_without_a_monitor_is_its_requests_and_the_first_one_counts(tmp_path: Path) -> None:
    assert not has_request(tmp_path, "r1")
    assert not add_vote(tmp_path, "r1", False, time=1.0)  # and no file is made
    assert list(tmp_path.iterdir()) == []
    store = Store(tmp_path)
    store.commit(Batch([row(1)]))
    assert has_request(tmp_path, "r1")
    assert add_vote(tmp_path, "r1", False, time=2.0)
    assert add_vote(tmp_path, "r1", True, time=3.0)
    assert not add_vote(tmp_path, "r2", True, time=4.0)
    assert [part.tolist() for part in store.history("thumbs_down", "a", None)[:2]] == [[2], [1]]
    store.close()


def test_history_is_in_order_and_by_signal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(Batch([row(number, time=float(number)) for number in range(1, 6)]))
    store.commit(Batch(votes=[("r1", 9.0, "a", False), ("r2", 8.0, "a", True)]))
    times, values, lengths = store.history("drift", "a", 3)
    assert times.tolist() == [3, 4, 5]
    assert values == pytest.approx([0.03, 0.04, 0.05])
    assert lengths.tolist() == [10, 10, 10]
    assert store.history("refusals", "a", None)[1].tolist() == [1] * 5
    assert store.history("format_violations", "a", None)[1].size == 0
    assert [part.tolist() for part in store.history("thumbs_down", "a", None)[:2]] == [[8, 9], [0, 1]]
    assert store.history("drift", "other", None)[0].size == 0


def test_a_store_that_may_not_grow_keeps_what_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path, most_bytes=200_000)

    def grow() -> None:
        for number in range(10_000):
            store.commit(Batch([row(number)], counts={"processed": 1}))

    with pytest.raises(sqlite3.OperationalError, match="full"):
        grow()
    kept = len(rows_of(tmp_path))
    assert kept > 500
    assert store.counts()["processed"] == kept
    store.close()
    assert len(rows_of(tmp_path)) == kept


def test_without_opting_in_no_text_reaches_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    monitor = simulated(tmp_path, clock)
    monitor.offer(Observation("a", [1, 2, 3], 5, text="the secret plan"))
    monitor.work()
    for file in tmp_path.iterdir():
        assert b"secret" not in file.read_bytes()
    monitor.close()


def test_texts_are_redacted_and_a_purge_leaves_nothing_of_them_in_the_file(tmp_path: Path) -> None:
    clock = Clock()
    monitor = simulated(tmp_path, clock, settings=MonitorSettings(keep_texts=True, sample=0.0))
    for number in range(50):
        clock.now += 60
        text = f"the secret plan {number} of anna@example.org"
        monitor.offer(Observation(f"{number}", [1, 2, 3], 5, text=text))
    monitor.work()
    files = [tmp_path / FILE, tmp_path / f"{FILE}-wal"]
    everything = b"".join(file.read_bytes() for file in files)
    assert b"the secret plan" in everything
    assert b"anna@" not in everything
    assert purge(tmp_path, clock.now - 10 * 60) == 39  # while the monitor is there
    assert rows_of(tmp_path, "SELECT count(*) FROM texts") == [(11,)]
    assert purge(tmp_path, clock.now + 1) == 11
    for file in files:
        assert not file.exists() or b"secret plan" not in file.read_bytes()
    run(monitor, clock, iter([[1, 2, 3]] * 5))  # it goes on
    assert len(rows_of(tmp_path)) == 5
    monitor.close()


def test_who_writes_has_its_turn_while_another_process_purges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting takes long where there is much: a monitor would wait in vain, and lose votes that were promised."""
    store, left = Store(tmp_path), []
    store.commit(Batch(rows=[row(number) for number in range(50)]))

    def write(_: float) -> None:
        store.commit(Batch(counts={"processed": 1}))
        left.append(len(rows_of(tmp_path)))

    monkeypatch.setattr("selfaug.monitoring.store._PURGED_AT_ONCE", 20)
    monkeypatch.setattr("selfaug.monitoring.store.sleep", write)
    assert purge(tmp_path, 1e12) == 50
    assert left == [30, 10]
    store.close()


def test_rows_are_deleted_after_their_time(tmp_path: Path) -> None:
    clock = Clock()
    monitor = simulated(tmp_path, clock, settings=MonitorSettings(keep_days=2, learning_days=1))
    run(monitor, clock, (Prompts(number).draw() for number in range(50)))
    clock.now += 3 * DAY
    run(monitor, clock, (Prompts(number).draw() for number in range(5)), name="later")
    assert len(rows_of(tmp_path)) == 5
    assert monitor.counts()["processed"] == 55  # counts stay
    monitor.close()


def test_hashes_are_keyed_and_the_key_is_replaced(tmp_path: Path) -> None:
    hashes = PromptHashes(tmp_path / "key.json")
    first = hashes.hash([1, 2, 3], 1000.0)
    assert hashes.hash([1, 2, 3], 2000.0) == first
    assert hashes.hash([1, 2, 4], 2000.0)[1] != first[1]
    assert PromptHashes(tmp_path / "key.json").hash([1, 2, 3], 3000.0) == first  # after a restart
    assert (tmp_path / "key.json").stat().st_mode & 0o077 == 0
    later = hashes.hash([1, 2, 3], 1000.0 + 7 * DAY)
    assert later[0] > first[0]
    assert later[1] != first[1]
    assert PromptHashes(tmp_path / "other.json").hash([1, 2, 3], 1000.0)[1] != first[1]
    (tmp_path / "key.json").write_text("{", encoding="utf-8")
    PromptHashes(tmp_path / "key.json").hash([1], 0.0)


def test_files_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    usual = os.umask(0o022)
    try:
        monitor = simulated(tmp_path, Clock())
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob(f"{FILE}*")}
    finally:
        os.umask(usual)
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}
    monitor.close()


def test_a_newer_store_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no request has been watched"):
        read_kept(tmp_path, ["status"])
    with pytest.raises(StorageError, match="no request has been watched"):
        purge(tmp_path, 0.0)
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StorageError, match="version 9"):
        Store(tmp_path)


def test_offers_are_counted_in_the_file(tmp_path: Path) -> None:
    count = OfferCount(tmp_path / "offered.bin")
    for dropped in (False, True, False):
        count.add(dropped=dropped)
    assert np.frombuffer((tmp_path / "offered.bin").read_bytes(), "<u8").tolist() == [3, 1]
    count.close()
    again = OfferCount(tmp_path / "offered.bin")
    assert (again.offered, again.dropped) == (3, 1)
    again.close()


COUNTING = """
import sys
from selfaug.monitoring.offer_count import OfferCount
count = OfferCount(sys.argv[1])
count.add(dropped=True)
print(flush=True)
while True:
    count.add(dropped=False)
"""


def test_a_count_never_goes_back_for_who_reads_beside_it(tmp_path: Path) -> None:
    """What another process reads now is what is there if this one is killed now."""
    path = tmp_path / "offered.bin"
    with subprocess.Popen([sys.executable, "-c", COUNTING, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        reading = OfferCount(path)
        seen = [reading._numbers[0] for _ in range(300_000)]
        reading.close()
        child.kill()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] > 0
    again = OfferCount(path)
    assert again.offered >= seen[-1]
    assert again.dropped == 1
    again.close()
