"""The registry: versions, aliases that move, and a way back; whole after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from other_user import as_nobody
from selfaug.errors import ConfigError, PathError, StorageError
from selfaug.phases.registry import promote, roll_back
from selfaug.registry import CANDIDATE, CHAMPION, RE_ALIGNED, Registry, champion_instead_of


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "deep" / "registry.sqlite")


def entered(registry: Registry, *names: str) -> list[int]:
    return [registry.add(f"/runs/{name}", weights=name, base="base").number for name in names]


def test_versions_are_entered_once(registry: Registry) -> None:
    first = registry.add("/runs/a", weights="x", base="base", data="rows.jsonl", note="the first")
    second = registry.add("/runs/b", weights="y", base="base", parent=first.number)
    assert registry.add("/runs/a", weights="x", base="base") == first
    assert registry.versions() == [first, second]
    assert registry.version(second.number).parent == first.number
    with pytest.raises(ConfigError, match="version 1 already, with other weights"):
        registry.add("/runs/a", weights="z", base="base")
    with pytest.raises(ConfigError, match="no version 9"):
        registry.add("/runs/c", weights="z", base="base", parent=9)
    assert len(registry.versions()) == 2
    # What was not known of one can be added, once.
    again = registry.add("/runs/a", weights="x", base="base", parent=None, note="the first")
    assert again == first
    third = registry.add("/runs/c", weights="z", base="base")
    third = registry.add("/runs/c", weights="z", base="base", parent=second.number, note="the third")
    assert (third.parent, third.note) == (second.number, "the third")
    assert registry.versions()[2] == third
    with pytest.raises(ConfigError, match=r"another parent already: 2\."):
        registry.add("/runs/c", weights="z", base="base", parent=first.number)
    # Another note is no error, and replaces only one that nobody has thought of.
    for note in ("4", RE_ALIGNED):
        assert registry.add("/runs/c", weights="z", base="base", note=note) == third
    with pytest.raises(ConfigError, match="version 1 can't be made from version 3, which was made from it"):
        registry.add("/runs/a", weights="x", base="base", parent=third.number)
    assert registry.versions() == [first, second, third]
    assert registry.made_from(third.number) == [second, first]
    for note in (RE_ALIGNED, "May rows"):
        assert registry.add("/runs/b", weights="y", base="base", note=note).note == note


def test_an_alias_goes_back_step_by_step(registry: Registry) -> None:
    a, b, c = entered(registry, "a", "b", "c")
    assert registry.current() is None
    for number in (a, b, b, c):
        registry.point(CHAMPION, number)
    registry.point(CANDIDATE, a)

    def champion() -> int:
        current = registry.current()
        assert current is not None
        return current[0].number

    assert champion() == c
    assert registry.roll_back().number == b
    assert champion() == b
    assert registry.roll_back().number == a
    with pytest.raises(ConfigError, match="nothing else before"):
        registry.roll_back()
    assert champion() == a
    registry.point(CHAMPION, c)
    assert registry.roll_back().number == a
    assert [move.version for move in registry.moves(CHAMPION)] == [a, b, c, b, a, c, a]
    assert len({move.number for move in registry.moves(CHAMPION)}) == 7
    current = registry.current(CANDIDATE)
    assert current is not None
    assert current[0].number == a
    # What was withdrawn brings back nothing that it took the place of, and is not forgotten.
    registry.point(CANDIDATE, b)
    registry.withdraw(CANDIDATE, a)
    assert registry.current(CANDIDATE) is not None
    registry.withdraw(CANDIDATE, b)
    assert registry.current(CANDIDATE) is None
    registry.point(CANDIDATE, b)
    assert [move.version for move in registry.moves(CANDIDATE)] == [a, b, b]
    assert registry.current(CANDIDATE) is not None
    with pytest.raises(ConfigError, match="nothing is other yet"):
        registry.roll_back("other")
    with pytest.raises(ConfigError, match="no version 7"):
        registry.point(CHAMPION, 7)


def test_a_rollback_goes_where_it_has_looked_or_nowhere(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people go back at once: neither ends at a version that nobody has looked at."""
    a, b, c = entered(registry, "a", "b", "c")
    for number in (a, b, c):
        registry.point(CHAMPION, number)
    monkeypatch.setattr("selfaug.phases.registry._require_unchanged", lambda version: registry.roll_back())
    with pytest.raises(StorageError, match=f"champion has changed meanwhile: it is version {b}"):
        roll_back(registry.path)
    assert [move.version for move in registry.moves(CHAMPION)] == [a, b, c, b]
    monkeypatch.setattr("selfaug.phases.registry._require_unchanged", lambda version: None)
    assert roll_back(registry.path).number == a


def test_runs_are_found_where_the_registry_was_moved_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, which has both in another place."""
    before, after = tmp_path / "before", tmp_path / "after"
    registry, moved = (Registry(place / "runs" / "registry.sqlite") for place in (before, after))
    for run in (before / "runs" / "a", before / "elsewhere" / "b"):
        run.mkdir(parents=True)
        registry.add(run, weights=run.name, base="base")
    registry.point(CHAMPION, 1)
    before.rename(after)
    runs = [str(after / "runs" / "a"), str(after / "elsewhere" / "b")]
    assert [one.run for one in moved.versions()] == runs
    assert moved.add(runs[0], weights="a", base="base").number == 1
    assert champion_instead_of(runs[1], moved.path) == runs[0]
    # A file that was moved alone says so.
    alone = Registry(tmp_path / "registry.sqlite")
    moved.path.rename(alone.path)
    with pytest.raises(StorageError, match="is gone") as gone:
        promote(alone.path, "1")
    assert "moved without its runs" in str(gone.value.hint)

    def on_another_drive(*_: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", on_another_drive)
    assert alone.add(after, weights="c", base="base").run == str(after)


def test_a_run_that_was_moved_with_a_link_in_its_place_is_the_same(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    registry = Registry(tmp_path / "registry.sqlite")
    for name in ("a", "b"):
        (before / name).mkdir(parents=True)
        registry.add(before / name, weights=name, base="base")
    registry.point(CHAMPION, 2)
    before.rename(after)
    before.symlink_to(after)
    assert registry.add(before / "a", weights="a", base="base").number == 1
    for refuses in (registry.add, registry.require_addable):
        with pytest.raises(ConfigError, match="is version 1 already, with other weights"):
            refuses(after / "a", weights="c", **({"base": "base"} if refuses == registry.add else {}))
    assert champion_instead_of(before / "a", registry.path) == str(after / "b")
    assert champion_instead_of(before / "b", registry.path) is None


def test_files_that_are_none_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no registry"):
        Registry(tmp_path / "missing.sqlite").versions()
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be looked at as one " * 20)
    with pytest.raises(PathError, match="is no registry"):
        Registry(tmp_path / "text.sqlite").versions()
    with pytest.raises(PathError, match="is no registry"):
        entered(Registry(tmp_path / "text.sqlite"), "a")
    sqlite3.connect(tmp_path / "empty.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(StorageError, match="is no registry"):
        Registry(tmp_path / "empty.sqlite").versions()
    newer = Registry(tmp_path / "newer.sqlite")
    entered(newer, "a")
    with sqlite3.connect(newer.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for use in (newer.versions, lambda: entered(newer, "b")):
        with pytest.raises(StorageError, match="version 99"):
            use()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write into"):
        entered(Registry(tmp_path / "file" / "registry.sqlite"), "a")


def test_it_can_be_read_where_its_folder_can_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "registry.sqlite")
        entered(registry, "a")
        registry.path.chmod(0o644)
        Path(folder).chmod(0o755)
        with as_nobody():
            assert [version.run for version in registry.versions()] == ["/runs/a"]
            with pytest.raises(StorageError, match="can't be used"):
                entered(registry, "b")


def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    for version in (0, 1, 78):
        file = tmp_path / f"{version}.sqlite"
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE theirs (x)")
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        before = file.read_bytes()
        other = Registry(file)
        for use in (other.versions, other.current, lambda one=other: entered(one, "a")):
            with pytest.raises(PathError, match="is no registry"):
                use()
        with pytest.raises(PathError, match="is no registry"):
            other.require_addable("/runs/a", "a")
        assert file.read_bytes() == before


def test_a_registry_that_was_begun_is_none_yet(tmp_path: Path) -> None:
    """What a kill in the first `add` leaves: a file with nothing in it."""
    registry = Registry(tmp_path / "registry.sqlite")
    registry.path.touch()
    registry.require_addable("/runs/a", "a")
    for read in (registry.versions, registry.current, registry.before):
        with pytest.raises(PathError, match="there is no registry") as caught:
            read()
        assert "registry add RUN" in str(caught.value)
    assert entered(registry, "a") == [1]


def test_many_at_once_lose_nothing(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: entered(Registry(registry.path), f"r{n}")[0], range(24)))
    assert sorted(numbers) == list(range(1, 25))
    with ThreadPoolExecutor(8) as pool:
        reads = pool.map(lambda _: len(Registry(registry.path).versions()), range(100))
        list(pool.map(lambda n: Registry(registry.path).point(CHAMPION, n), numbers))
        assert set(reads) == {24}
    assert len(registry.moves(CHAMPION)) == 24


WRITES_FOR_EVER = """
import sys
from selfaug.registry import CHAMPION, Registry
registry = Registry(sys.argv[1])
number = 0
while True:
    version = registry.add(f"/runs/{number}", weights=str(number), base="b", parent=number or None)
    registry.point(CHAMPION, version.number)
    number = version.number
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_it_whole(tmp_path: Path) -> None:
    for round_ in range(4):
        file = tmp_path / f"{round_}.sqlite"
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES_FOR_EVER, str(file)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = int(process.stdout.readline())
        time.sleep(0.05 + 0.037 * round_)
        os.kill(process.pid, signal.SIGKILL)
        told = max([told, *(int(line) for line in process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        registry = Registry(file)
        numbers = [version.number for version in registry.versions()]
        moves = [move.version for move in registry.moves(CHAMPION)]
        # What was told of is there; what was begun is there or not, and nothing is there twice.
        assert numbers == list(range(1, len(numbers) + 1))
        assert moves == numbers[: len(moves)]
        assert told <= len(moves) <= len(numbers) <= len(moves) + 1
        with sqlite3.connect(file) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()
        entered(registry, "after")


def test_who_reads_it_first_after_a_kill_undoes_what_was_begun(registry: Registry) -> None:
    entered(registry, "a")
    # More than is held in memory: a part of it is in the file already.
    dies = (
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('UPDATE versions SET note = ?', ['x' * 100_000])\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", dies, str(registry.path)], check=True)
    assert Path(f"{registry.path}-journal").stat().st_size > 0
    assert [version.note for version in registry.versions()] == [""]


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_a_full_disk_changes_nothing(registry: Registry) -> None:
    entered(registry, "a")
    before = registry.versions()
    script = WRITES_FOR_EVER.replace("while True", "for _ in range(10_000)")
    limit = sum(file.stat().st_size for file in registry.path.parent.iterdir()) + 12_000
    done = subprocess.run(
        ["prlimit", f"--fsize={limit}", sys.executable, "-c", script, str(registry.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "StorageError" in done.stderr
    assert "can't be used" in done.stderr
    told = [int(line) for line in done.stdout.split()]
    assert registry.versions()[:1] == before
    assert len(registry.moves(CHAMPION)) == len(told)
