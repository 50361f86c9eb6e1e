"""A folder of files: all good ones are read, every bad one is a line, only what changed is read again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from hostile_readers import broken, noting, obeying

from scanned_pdf import partly_scanned
from selfaug.errors import DataError, SelfAugError
from selfaug.retrieval.folder_files import OWN_FILE, folder_files
from selfaug.retrieval.read_folder import FolderReport, KnownUnreadable, Read, digest_of, read_folder
from selfaug.retrieval.reading_processes import ReadingProcesses

MEMORY = 200_000_000


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    left = [
        child for child in psutil.Process().children(recursive=True) if "forkserver" not in _command(child)
    ]
    assert not [child for child in left if "resource_tracker" not in _command(child)]


def _command(process: psutil.Process) -> str:
    """Of a process; those that the fork server made look like it, but have it as parent."""
    parent = process.parent()
    of_server = parent is not None and "forkserver" in " ".join(parent.cmdline())
    return "reader" if of_server else " ".join(process.cmdline())


def put(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        file = folder / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def read_all(
    folder: Path, known: dict[str, str] | None = None, **how: object
) -> tuple[list[Read], FolderReport]:
    report = FolderReport()
    found = list(read_folder(folder, known or {}, report, **how))  # type: ignore[arg-type]
    return found, report


def names(found: list[Read]) -> list[str]:
    return [read.path for read in found]


def test_documents_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    put(tmp_path, b="slow", c="text", a="text")
    put(tmp_path / "a b", z="text")
    progress: list[tuple[int, int]] = []
    found, report = read_all(
        tmp_path, reader=obeying, on_progress=lambda done, total: progress.append((done, total))
    )
    assert names(found) == ["a b/z.txt", "a.txt", "b.txt", "c.txt"]
    assert [read.document.path for read in found if read.document] == names(found)
    assert all(read.document and read.digest == read.document.digest for read in found)
    assert report == FolderReport(read=4)
    assert progress == [(done, 4) for done in range(5)]


def test_what_is_missing_of_a_document_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(partly_scanned("tx"))
    put(tmp_path, b="text")
    found, report = read_all(tmp_path)
    assert names(found) == ["a.pdf", "b.txt"]
    assert report.incomplete.keys() == {"a.pdf"}
    assert report.incomplete["a.pdf"].startswith("1 of 2 pages are pictures")
    assert report.to_dict()["incomplete"] == report.incomplete


def test_only_what_changed_is_read_again_and_what_is_gone_is_named(tmp_path: Path) -> None:
    folder, log = tmp_path / "documents", tmp_path / "log"
    put(folder, a="first", b="second", c="third")
    reader = partial(noting, log)
    first, _ = read_all(folder, reader=reader)
    known = {read.path: read.digest for read in first}
    log.unlink()

    put(folder, b="changed", d="new")
    (folder / "c.txt").unlink()
    os.utime(folder / "a.txt")  # touched, but the same
    found, report = read_all(folder, known, reader=reader)
    assert [(read.path, read.document is None) for read in found] == [
        ("a.txt", True),
        ("b.txt", False),
        ("d.txt", False),
    ]
    assert found[0].digest == known["a.txt"]
    assert sorted(line.split()[0] for line in log.read_text().splitlines()) == ["b.txt", "d.txt"]
    assert (report.read, report.unchanged, report.gone) == (2, 1, ["c.txt"])


def test_what_can_not_be_read_is_not_tried_again_till_it_changes(tmp_path: Path) -> None:
    folder, log = tmp_path / "documents", tmp_path / "log"
    put(folder, a="", b="")
    (folder / "c.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    told: dict[str, KnownUnreadable] = {}
    _, report = read_all(folder, reader=partial(noting, log), on_unreadable=told.__setitem__)
    assert told == {
        name: KnownUnreadable(digest_of(folder / name), reason) for name, reason in report.unreadable.items()
    }
    assert sorted(told) == ["a.txt", "b.txt", "c.pdf"]
    log.unlink()

    put(folder, b=" ")
    again: dict[str, KnownUnreadable] = {}
    _, report_again = read_all(
        folder, reader=partial(noting, log), unreadable=told, on_unreadable=again.__setitem__
    )
    assert report_again == report
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["b.txt"]
    assert again == {**told, "b.txt": KnownUnreadable(digest_of(folder / "b.txt"), "empty")}


def test_nothing_to_read_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path, a="text")
    (read,), _ = read_all(folder)

    def fail(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("selfaug.retrieval.reading_processes._Process", fail)
    assert read_all(folder, {"a.txt": read.digest}) == (
        [replace(read, document=None)],
        FolderReport(unchanged=1),
    )
    (folder / "a.txt").unlink()
    assert read_all(folder, {"a.txt": read.digest}) == ([], FolderReport(gone=["a.txt"], lost=["a.txt"]))


def test_processes_are_used_again(tmp_path: Path) -> None:
    folder, log = tmp_path / "documents", tmp_path / "log"
    put(folder, **{f"file{number}": "text" for number in range(60)})
    found, _ = read_all(folder, reader=partial(noting, log))
    assert len(found) == 60
    assert len({line.split()[1] for line in log.read_text().splitlines()}) <= 2


def test_a_slow_file_before_many_quick_ones_loses_none_of_them(tmp_path: Path) -> None:
    """More files than may be finished ahead of the slow one: once nothing was being read, the rest was left out."""
    put(tmp_path, a="slow", **{f"file{number}": "text" for number in range(60)})
    found, report = read_all(tmp_path, reader=obeying)
    assert len(found) == 61
    assert report == FolderReport(read=61)


def test_hanging_crashing_and_greedy_readers_are_a_line_each_and_the_rest_goes_on(tmp_path: Path) -> None:
    put(
        tmp_path, a="text", b="hang", c="hang in C", d="eat", e="crash", f="exit", g="killed", h="large", i="text"
    )  # fmt: skip
    began = time.monotonic()
    lasting: dict[str, KnownUnreadable] = {}
    found, report = read_all(
        tmp_path,
        reader=obeying,
        seconds_per_file=4,
        memory_bytes=MEMORY,
        on_unreadable=lasting.__setitem__,
    )
    assert time.monotonic() - began < 60
    assert names(found) == ["a.txt", "h.txt", "i.txt"]
    assert found[1].document is not None
    assert len(found[1].document.blocks) == 3000
    assert report.unreadable == {
        "b.txt": "takes more than 4 s to read; raise documents.seconds to try it again",
        "c.txt": "takes more than 4 s to read; raise documents.seconds to try it again",
        "d.txt": "needs more than 0.2 GB of memory to read",
        "e.txt": "crashed the process that read it (SIGSEGV); it is damaged, or needs too much memory",
        "f.txt": "ended the process that read it (exit code 3); it may be damaged",
        "g.txt": "the system killed the process that read it; memory may be short",
    }
    assert lasting.keys() == {"b.txt", "c.txt", "d.txt"}  # with the same limits; the others may pass


def test_a_file_that_needs_more_memory_than_there_is_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "large.txt").write_text("many words\n\n" * 2_000_000)
    found, report = read_all(tmp_path, memory_bytes=50_000_000)
    assert names(found) == ["a.md"]
    assert report.unreadable == {"large.txt": "needs more than 0.05 GB of memory to read"}


def test_a_fault_of_the_reader_is_not_taken_for_a_bad_file(tmp_path: Path) -> None:
    put(tmp_path, a="text", b="text")
    _, report = read_all(tmp_path, reader=broken)
    assert report.unreadable == {
        "a.txt": "makes its reader fail (KeyError: 'a.txt')",
        "b.txt": "makes its reader fail (KeyError: 'b.txt')",
    }


def test_bad_files_of_all_kinds(tmp_path: Path) -> None:
    put(tmp_path, good="text", empty="")
    (tmp_path / "wrong.docx").write_bytes(b"%PDF-1.7")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    with (tmp_path / "large.txt").open("wb") as opened:
        opened.truncate(300_000_000)
    found, report = read_all(tmp_path)
    assert names(found) == ["good.txt"]
    assert {name: reason.split(":")[0] for name, reason in report.unreadable.items()} == {
        "broken.pdf": "damaged",
        "empty.txt": "empty",
        "large.txt": "300 MB, more than the limit of 200 MB; split it, or raise documents.max_megabytes",
        "wrong.docx": "a PDF, though named .docx; rename it",
    }
    _, again = read_all(tmp_path, dict.fromkeys(report.unreadable, "digest"), max_bytes=1_000)
    assert "limit of 0 MB" in again.unreadable["large.txt"]
    assert again.gone == []


def test_hidden_files_links_and_other_endings(tmp_path: Path) -> None:
    folder, outside = tmp_path / "documents", tmp_path / "outside"
    put(outside, secret="text")
    put(folder / "sub" / "deep", a="text")
    put(folder / ".git", config="text")
    put(folder / ".store", content="linked")
    put(folder, **{".hidden": "text", "~$open": "text"})
    for name in ("picture.PNG", "other.png", "no_ending", "strange.zip"):
        (folder / name).write_bytes(b"x")
    (folder / "out.txt").symlink_to(outside / "secret.txt")
    (folder / "out").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to(folder / "sub")
    (folder / "round.txt").symlink_to(folder / "trip.txt")
    (folder / "trip.txt").symlink_to(folder / "round.txt")
    (folder / "again.txt").symlink_to(folder / "sub" / "deep" / "a.txt")
    (folder / "stored.txt").symlink_to(folder / ".store" / "content.txt")
    os.mkfifo(folder / "pipe.txt")
    link = tmp_path / "link"
    link.symlink_to(folder)

    for given in (folder, link):
        found, report = read_all(given)
        assert names(found) == ["stored.txt", "sub/deep/a.txt"]
        assert report.unsupported == {
            ".png": ["other.png", "picture.PNG"], ".zip": ["strange.zip"], "no ending": ["no_ending"]
        }  # fmt: skip
        assert report.left_out == {
            "loop": "a link to a folder, which is not followed",
            "out": "a link that leaves the folder",
            "out.txt": "a link that leaves the folder",
            "pipe.txt": "neither a file nor a folder",
            "round.txt": "a link that leads nowhere",
            "sub/up": "a link to a folder, which is not followed",
            "trip.txt": "a link that leads nowhere",
        }
    assert report.to_dict()["unsupported"][".png"] == {"files": 2, "first": ["other.png", "picture.PNG"]}


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_own_files_are_passed_over_however_they_are_written(tmp_path: Path) -> None:
    """As where capitals don't count (macOS): the questions were read, and gave their answers away."""
    folder, told = tmp_path / "documents", dict[str, str]()
    put(folder, report="text", Pairs="text")
    (tmp_path / "pairs.txt").hardlink_to(folder / "Pairs.txt")
    (folder / "sub").mkdir()
    (folder / "sub" / "PAIRS.txt").symlink_to(folder / "lost.txt")
    found = folder_files(folder, told.__setitem__, [tmp_path / "pairs.txt", tmp_path / "not-there"])
    assert list(found) == ["report.txt"]
    assert told == {"sub/PAIRS.txt": "a link that leads nowhere", "Pairs.txt": OWN_FILE}


def test_names_of_any_bytes_are_text_of_one_line(tmp_path: Path) -> None:
    for name in (b"gr\xfc\xdfe.txt", b"red\x1b[31m.txt", b"two\nlines\t.txt"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as opened:
            opened.write(b"text")
    assert names(read_all(tmp_path)[0]) == ["gr\\xfc\\xdfe.txt", "red\\x1b[31m.txt", "two\\nlines\\t.txt"]


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        read_all(tmp_path / "nothing")
    assert read_all(tmp_path) == ([], FolderReport())


def test_ending_early_ends_the_processes(tmp_path: Path) -> None:
    put(tmp_path, a="text", b="hang in C", c="hang")
    reading = read_folder(tmp_path, {}, FolderReport(), reader=obeying)
    assert next(reading).path == "a.txt"
    began = time.monotonic()
    reading.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from hostile_readers import obeying
from selfaug.retrieval.read_folder import FolderReport, read_folder

{guard}
    for read in read_folder(Path({folder!r}), {{}}, FolderReport(), reader=obeying):
        print(read.path, flush=True)
"""


def started(folder: Path, script: Path, guard: str) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    script.write_text(SCRIPT.format(here=here, folder=str(folder), guard=guard), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_interrupt_ends_promptly_and_leaves_nothing(tmp_path: Path) -> None:
    put(tmp_path / "documents", a="text", b="hang in C", c="hang")
    process = started(tmp_path / "documents", tmp_path / "run.py", 'if __name__ == "__main__":')
    assert process.stdout is not None
    assert process.stdout.readline() == "a.txt\n"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    _, told = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert told.count("Traceback") == 1
    assert "KeyboardInterrupt" in told
    assert_group_ends(process.pid)


def test_a_parent_that_is_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    put(tmp_path / "documents", a="text", b="slow")
    process = started(tmp_path / "documents", tmp_path / "run.py", 'if __name__ == "__main__":')
    assert process.stdout is not None
    assert process.stdout.readline() == "a.txt\n"
    process.kill()
    process.communicate(timeout=30)
    assert_group_ends(process.pid)


def assert_group_ends(group: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes are left")


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
@pytest.mark.parametrize("spare", [0, 2], ids=["for the pipe", "for the process"])
def test_processes_that_the_system_refuses_are_no_fault_of_the_reader_or_the_index(spare: int) -> None:
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(spare + 1)]
    for one in free:
        os.close(one)
    with ReadingProcesses(obeying, 1, 10.0, MEMORY) as processes:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], most))
        try:
            with pytest.raises(SelfAugError, match="can't be started: Too many open files") as caught:
                processes.read(Path("any"), "any")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    assert "TMPDIR" in str(caught.value.hint)


def test_a_script_without_guard_is_told_what_to_do(tmp_path: Path) -> None:
    put(tmp_path / "documents", a="text")
    process = started(tmp_path / "documents", tmp_path / "run.py", "if True:")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "if __name__ == '__main__':" in told
    assert SelfAugError.__name__ in told
