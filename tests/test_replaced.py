"""What --overwrite replaces: cut off anywhere, either the old is there or the new that takes its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfaug.errors import StorageError
from selfaug.replaced import HIDDEN, Replaced


class Thing:
    """A folder with `a`, `b` and `deep/c`; usable with a `done`, begun with a `begun`."""

    NAMES = ("a", "b", "done", "begun", "deep/c")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replaced = Replaced(
            folder,
            "thing",
            entries=lambda: [folder / name for name in self.NAMES if (folder / name).exists()],
            is_usable=(folder / "done").exists,
            has_begun=(folder / "begun").exists,
            homes={"c": folder / "deep" / "c"},
        )

    def write(self, text: str, *names: str) -> None:
        (self.folder / "deep").mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.folder / name).write_text(text)

    def content(self) -> dict[str, str]:
        files = (
            file for file in self.folder.rglob("*") if file.is_file() and not file.name.endswith(".lock")
        )
        return {str(file.relative_to(self.folder)): file.read_text() for file in files}


OLD = {"a": "old", "b": "old", "done": "old", "deep/c": "old"}


@pytest.fixture
def thing(tmp_path: Path) -> Thing:
    made = Thing(tmp_path / "thing")
    made.write("old", "a", "b", "done", "deep/c")
    (made.folder / "mine").write_text("mine")
    return made


def test_it_comes_back_if_nothing_came_of_the_new(thing: Thing) -> None:
    thing.replaced.move()
    assert thing.content() == {"mine": "mine"} | {
        f"{HIDDEN}/{name}": "old" for name in ("a", "b", "done", "c")
    }
    thing.write("new", "a", "deep/c")
    with pytest.raises(KeyboardInterrupt), thing.replaced.settled():
        raise KeyboardInterrupt
    assert thing.content() == {**OLD, "mine": "mine"}
    assert not thing.replaced.exists()
    assert sorted(entry.name for entry in thing.folder.iterdir()) == ["a", "b", "deep", "done", "mine"]


def test_it_goes_when_the_new_is_usable(thing: Thing) -> None:
    thing.replaced.move()
    thing.write("new", "a", "done")
    assert thing.replaced.size() == 4 * len("old")
    assert not thing.replaced.settle()
    assert thing.content() == {"a": "new", "done": "new", "mine": "mine"}


def test_both_are_kept_while_the_new_goes_on(thing: Thing, caplog: pytest.LogCaptureFixture) -> None:
    thing.replaced.move()
    thing.write("new", "a", "begun")
    assert not thing.replaced.settle()
    assert f"is kept in {thing.folder / HIDDEN} until the new one is finished" in caplog.text
    kept = {f"{HIDDEN}/{name}": "old" for name in ("a", "b", "done", "c")}
    assert thing.content() == {"a": "new", "begun": "new", "mine": "mine"} | kept
    # Another process goes on, and is interrupted; then one begins anew; then one finishes it.
    thing = Thing(thing.folder)
    thing.replaced.recover()
    assert thing.content() == {"a": "new", "begun": "new", "mine": "mine"} | kept
    thing.replaced.move()
    assert thing.content() == {"mine": "mine"} | kept
    thing.write("newer", "done")
    Thing(thing.folder).replaced.recover()  # another process may look
    with thing.replaced.settled():
        pass
    assert thing.content() == {"done": "newer", "mine": "mine"}


DIES = """
import os, pathlib, sys
from test_replaced import Thing
thing, moved, back = Thing(pathlib.Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "back"
if back:
    thing.replaced.move()
    thing.write("new", "a")
rename, done = pathlib.Path.rename, 0
def dying(path, target):
    global done
    if done == moved:
        os.kill(os.getpid(), 9)
    done += 1
    return rename(path, target)
pathlib.Path.rename = dying
thing.replaced.settle() if back else thing.replaced.move()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moved", [0, 2, 4, 5])
@pytest.mark.parametrize("which", ["there", "back"])
def test_a_kill_at_any_rename_loses_nothing(
    thing: Thing, moved: int, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = [sys.executable, "-c", DIES, str(thing.folder), str(moved), which]
    killed = subprocess.run(process, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    found = Thing(thing.folder)
    found.replaced.recover()
    assert found.content() == {**OLD, "mine": "mine"}
    assert not found.replaced.exists()
    # After five renames, all had come back already.
    assert ("is back in" in caplog.text) == (which == "there" or moved < 5)


def test_a_process_that_lives_is_left_alone(thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfaug.replaced._SECONDS_TO_WAIT", 0.05)
    thing.replaced.move()
    thing.write("new", "a")
    other = Thing(thing.folder)
    other.replaced.recover()
    assert other.content()["a"] == "new"
    with pytest.raises(StorageError, match="another process is replacing the thing") as refused:
        other.replaced.move()
    assert "choose another --output" in str(refused.value.hint)
    assert thing.replaced.settle()


def test_what_can_not_be_moved_stays_where_it_is(thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path.name == "done":
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(StorageError, match=r"can't move the thing in .* aside: Device or resource busy"):
        thing.replaced.move()
    assert thing.content() == {**OLD, "mine": "mine"}
    assert not thing.replaced.exists()


def test_the_new_one_is_what_counts_also_if_the_old_could_not_be_deleted(thing: Thing) -> None:
    thing.replaced.move()
    thing.write("new", "a", "done")
    thing.replaced._give()  # killed, before it was deleted
    thing.replaced.move()
    thing.write("newest", "a")
    thing.replaced.settle()
    assert thing.content() == {"a": "new", "done": "new", "mine": "mine"}


def test_what_can_not_be_brought_back_is_said_with_its_place(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing.replaced.move()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StorageError, match="can't bring back the thing") as error:
        thing.replaced.settle()
    assert str(thing.folder / HIDDEN) in str(error.value.hint)
