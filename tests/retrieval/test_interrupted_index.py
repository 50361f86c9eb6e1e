"""An index whose making was cut off: what was read is kept, and nothing half-made is taken for an index."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_index import SETTINGS, chunk, write, write_documents

from selfaug.errors import DataError, StorageError
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index, IndexWriter
from selfaug.retrieval.read_folder import KnownUnreadable

TEXTS = {
    f"{name}.md": [f"Text of {name}.", f"More \u2028 ünïcode of {name}."] for name in ("one", "two", "three")
}

Documents = Iterator[tuple[dict[str, Any], list[Chunk] | None]]


def documents(known: dict[str, str], read: list[str]) -> Documents:
    """The documents, of which those that are not known are read, and named."""
    for path, texts in TEXTS.items():
        named = {"path": path, "digest": f"digest of {path}", "title": path}
        if known.get(path) == named["digest"]:
            yield named, None
        else:
            read.append(path)
            yield named, [chunk(path, text, number) for number, text in enumerate(texts)]


def cut_off(folder: Path, after: int, settings: dict[str, Any] = SETTINGS) -> None:
    writer = IndexWriter(folder, settings)

    def some() -> Documents:
        for number, document in enumerate(documents(writer.known, [])):
            if number == after:
                raise KeyboardInterrupt
            yield document

    with pytest.raises(KeyboardInterrupt), writer:
        writer.write(some())


def go_on(folder: Path, settings: dict[str, Any] = SETTINGS) -> list[str]:
    """Paths of the documents that were read for the whole index, which is checked."""
    read: list[str] = []
    with IndexWriter(folder, settings) as writer:
        writer.write(documents(writer.known, read))
        writer.take_its_place()
    index = Index(folder)
    assert {path: [one.text for one in index.chunks_of(path)] for path in TEXTS} == TEXTS
    assert index.search("text of three", 1)[0].document == "three.md"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    return read


def test_what_was_read_before_an_interrupt_is_not_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    cut_off(folder, after=1)
    with pytest.raises(DataError):
        Index(folder)
    assert IndexWriter(folder, SETTINGS).before["one.md"]["title"] == "one.md"
    cut_off(folder, after=2)
    assert go_on(folder) == ["three.md"]


def test_other_settings_read_everything_again(tmp_path: Path) -> None:
    cut_off(tmp_path / "index", after=2)
    assert go_on(tmp_path / "index", {**SETTINGS, "chunk_tokens": 65}) == list(TEXTS)


def test_what_could_not_be_read_is_kept_with_its_limits(tmp_path: Path) -> None:
    folder, limits = tmp_path / "index", {"seconds": 5}
    first, second = (
        KnownUnreadable("digest 1", "scanned"),
        KnownUnreadable("digest 2", "takes more than 5 s to read"),
    )

    def some(writer: IndexWriter, cut: bool = False) -> Documents:
        writer.add_unreadable("one.pdf", first)
        yield from documents(writer.known, [])
        if cut:
            raise KeyboardInterrupt
        writer.add_unreadable("two.pdf", second)

    writer = IndexWriter(folder, SETTINGS, limits)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.write(some(writer, cut=True))
    assert IndexWriter(folder, SETTINGS, limits).unreadable == {"one.pdf": first}
    with IndexWriter(folder, SETTINGS, limits) as writer:
        assert list(writer.known) == list(TEXTS)
        writer.write(some(writer))
        writer.take_its_place()
    known = {"one.pdf": first, "two.pdf": second}
    assert IndexWriter(folder, {**SETTINGS, "chunk_tokens": 65}, limits).unreadable == known
    assert IndexWriter(folder, SETTINGS, {"seconds": 6}).unreadable == {}
    (folder / "unreadable.jsonl").write_text("{\n{\n")
    assert IndexWriter(folder, SETTINGS, limits).unreadable == {}


def test_words_are_found_anew_for_what_was_read(tmp_path: Path) -> None:
    cut_off(tmp_path / "index", after=2)
    assert go_on(tmp_path / "index", {**SETTINGS, "language": None}) == ["three.md"]


def test_a_changed_document_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    write_documents(folder, [({"path": "one.md", "digest": "older", "title": "one.md"}, [])])
    cut_off(folder, after=2)
    assert go_on(folder) == ["three.md"]  # what was read counts, not what the older index has


def test_a_line_cut_anywhere_loses_only_its_document(tmp_path: Path) -> None:
    cut_off(tmp_path / "index", after=2)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for length in range(len(whole) + 1):
        folder = tmp_path / f"{length}" / "index"
        folder.parent.mkdir()
        (folder.parent / kept.name).write_bytes(whole[:length])
        lines = sum(end <= length for end in ends)
        assert list(IndexWriter(folder, SETTINGS).known) == list(TEXTS)[: max(lines - 1, 0)]
        if length % 40 == 0:
            assert go_on(folder) == list(TEXTS)[max(lines - 1, 0) :]
        shutil.rmtree(folder.parent)


def test_what_a_loss_of_power_leaves_is_cut_off(tmp_path: Path) -> None:
    cut_off(tmp_path / "index", after=1)
    (kept,) = tmp_path.iterdir()
    with kept.open("ab") as file:
        file.write(bytes(100) + b"\n")
    assert go_on(tmp_path / "index") == ["two.md", "three.md"]


def test_a_file_that_can_not_be_read_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / ".index.read.jsonl").mkdir()
    with pytest.raises(StorageError, match="can't write the index"):
        IndexWriter(tmp_path / "index", SETTINGS)


def test_what_can_not_be_deleted_of_a_replaced_index_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a server has it mapped over NFS: each file that is deleted stays under another name until it ends."""
    folder = tmp_path / "index"
    rmtree = shutil.rmtree

    def leaves_some(place: Path, **_: Any) -> None:
        for file in place.glob("*.jsonl"):
            file.rename(place / f".nfs{file.name}")

    with monkeypatch.context() as mapped:
        mapped.setattr(shutil, "rmtree", leaves_some)
        for name in ("one.md", "two.md", "three.md"):
            rmtree(folder.with_name(".index.partial"), ignore_errors=True)
            write(folder, {name: ["A text."]})
    left = list(tmp_path.glob(".index.before.*"))
    assert len(left) == 2
    folder.rename(tmp_path / "away")
    assert IndexWriter(folder, SETTINGS).known == {}  # none of them is taken for an index
    write(folder, {"four.md": ["A text."]})
    assert [one["path"] for one in Index(folder).documents] == ["four.md"]
    assert not list(tmp_path.glob(".index.before*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from test_interrupted_index import SETTINGS, IndexWriter, documents

folder, moment = Path(sys.argv[1]), sys.argv[2]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
writer = IndexWriter(folder, SETTINGS)

def some():
    for number, document in enumerate(documents(writer.known, [])):
        if moment == str(number):
            kill()
        yield document

calls = iter(moment == f"rename {number}" for number in range(9))
rename = Path.rename
Path.rename = lambda path, target: kill() if next(calls) else rename(path, target)
writer.write(some())
if moment == "whole":
    kill()
writer.take_its_place()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
@pytest.mark.parametrize(
    ("moment", "read"),
    [("1", ["two.md", "three.md"]), ("whole", []), ("rename 0", []), ("rename 1", [])],
)
def test_a_kill_at_any_moment_leaves_no_half_made_index(tmp_path: Path, moment: str, read: list[str]) -> None:
    folder = tmp_path / "index"
    write(folder, {"old.md": ["An older text."]})
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), moment],
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    if folder.exists():
        assert [one["path"] for one in Index(folder).documents] == ["old.md"]
    else:
        with pytest.raises(DataError):
            Index(folder)
    assert "old.md" in IndexWriter(folder, SETTINGS).known
    assert go_on(folder) == read
