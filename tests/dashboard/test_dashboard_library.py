"""What is found in a directory, what is kept of it, and what becomes of folders that change or vanish."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from looking import looking_at
from lxml import html as parser

from other_user import as_nobody
from report_records import (
    EVALUATION,
    TRAINING,
    comparison_record,
    write_assessment,
    write_balance,
    write_comparison,
    write_run,
)
from selfaug.dashboard import library as module
from selfaug.dashboard.library import DAMAGED, Entry, Library
from selfaug.errors import StorageError
from selfaug.records import append_line, write_record


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose summary was made, in order."""
    made: list[Path] = []
    summary_of = module.summary_of

    def noted(folder: Path) -> object:
        made.append(Path(folder))
        return summary_of(folder)

    monkeypatch.setattr(module, "summary_of", noted)
    return made


def again(library: Library) -> dict[str, Entry]:
    """Entries of a new scan, by path."""
    library._next_scan = float("-inf")
    return {entry.path: entry for entry in library.entries()}


def test_there_must_be_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="is not a folder"):
            Library(path)


def test_the_directory_itself_can_be_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=EVALUATION)
    (entry,) = Library(run.path).entries()
    assert (entry.path, entry.kind, entry.inside, entry.complete) == ("", "train", None, True)
    client = looking_at(run.path)
    for address in ("/", "/run/", "/samples/", "/live/", "/compare?run=&run="):
        assert client.get(address).status_code == 200, address


def test_folders_in_folders_and_what_they_are_parts_of(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "b" / "c" / "run")
    write_assessment(tmp_path / "team" / "assessment")
    write_run(tmp_path / "team" / "assessment" / "checkpoints" / "not-looked-at")
    write_comparison(tmp_path / "comparison", comparison_record("comparison-demo"))
    write_run(tmp_path / "comparison" / "runs" / "plain")
    write_run(tmp_path / "comparison" / "runs" / "plain" / "checkpoints" / "in-a-run")
    # A name of a part is nothing special outside of what a command wrote.
    write_run(tmp_path / "model" / "samples")
    found = again(Library(tmp_path))
    assert {path: entry.inside for path, entry in found.items()} == {
        "a/b/c/run": None,
        "team/assessment": None,
        "team/assessment/probe": "team/assessment",
        "comparison": None,
        "comparison/runs/plain": "comparison",
        "model/samples": None,
    }
    assert Library(tmp_path).entry("comparison/runs") is None
    assert Library(tmp_path).entry("../" + tmp_path.name) is None


def test_no_deeper_than_six_folders(tmp_path: Path) -> None:
    for depth in (6, 7):
        write_run(tmp_path.joinpath(*[f"in-{depth}"] * (depth - 1)) / "run")
    assert [entry.path for entry in Library(tmp_path).entries()] == ["in-6/" * 5 + "run"]


def test_hidden_folders_and_links_are_not_followed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / ".replaced" / "old")
    write_run(tmp_path / "runs" / ".hidden")
    write_run(tmp_path / "elsewhere" / "run")
    write_run(tmp_path / "runs" / "run")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs")
    assert list(again(Library(tmp_path / "runs"))) == ["run"]
    os.symlink(tmp_path / "runs", tmp_path / "way")
    assert list(again(Library(tmp_path / "way"))) == ["run"], "but the directory that was named is"


def test_the_newest_first(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "newest", "middle")):
        run = write_run(tmp_path / name)
        for file in run.path.iterdir():
            os.utime(file, (1.7e9 + (0, 20, 10)[number],) * 2)
    assert [(entry.path, entry.time) for entry in Library(tmp_path).entries()] == [
        ("newest", 1.7e9 + 20), ("middle", 1.7e9 + 10), ("old", 1.7e9),
    ]  # fmt: skip


def test_what_was_read_is_kept_until_its_files_change(tmp_path: Path, looks: list[Path]) -> None:
    write_run(tmp_path / "first")
    run = write_run(tmp_path / "second")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "record.json").write_text('{"kind": "prepare"}')
    library = Library(tmp_path)
    before = again(library)
    assert again(library) == before
    assert looks == [tmp_path / "first", run.path]
    for change in (
        lambda: os.utime(run.record, (1.7e9, 1.7e9)),
        lambda: write_run(run.path, evaluation=EVALUATION),
        lambda: run.metrics.write_text("", encoding="utf-8"),
        lambda: run.record.unlink(),
    ):
        looks.clear()
        change()
        after = again(library)
        assert looks == [run.path]
        assert after["first"] is before["first"]
        assert after["second"] is not before["second"]
    assert not after["second"].complete
    shutil.rmtree(run.path)
    assert list(again(library)) == ["first"]
    assert set(library._known) == {"first", "foreign"}, "nothing is kept of what is gone"


def test_it_looks_again_after_a_second_at_the_earliest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    scans = []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    library = Library(tmp_path)
    scan = library._scan

    def slow(*arguments: object) -> None:
        nonlocal now
        scans.append(now)
        now += takes
        scan(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "_scan", slow)
    takes = 0.0
    for after, count in ((0.0, 1), (0.9, 1), (0.2, 2)):
        now += after
        library.entries()
        assert len(scans) == count
    takes = 3.0  # a directory that holds much else
    for after, count in ((2.0, 3), (14.0, 3), (2.0, 4)):
        now += after
        library.entries()
        assert len(scans) == count


def test_runs_become_parts_when_the_record_of_the_whole_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "balance" / "runs" / "one")
    library = Library(tmp_path)
    assert {path: one.inside for path, one in again(library).items()} == {"balance/runs/one": None}
    write_balance(tmp_path / "balance")
    assert {path: one.inside for path, one in again(library).items()} == {
        "balance": None, "balance/runs/one": "balance",
    }  # fmt: skip


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"kind": "train", "vers', "can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"", "can't be read"),
        (b"[]", "is not a selfaug record"),
        (DEEP.encode(), "can't be read: RecursionError"),
        (b'{"kind": "demo", "version": 1, "data": null}', "lack what a report needs"),
        (b'{"kind": "demo", "version": 99, "data": {}}', "reads up to version"),
        (b'{"kind": "balance", "version": "x", "data": {}}', "lack what a report needs"),
        (b'{"kind": "comparison", "version": 1, "data": {"methods": 7, "subject": []}}', "lack what a report needs"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_shown_with_its_problem_and_the_others_as_before(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    write_run(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_bytes(content)
    found = again(Library(tmp_path))
    assert found["good"].summary is not None
    assert found["bad"].summary is None
    assert problem in found["bad"].problem
    assert found["bad"].kind in (DAMAGED, "demo", "balance", "comparison")
    client = looking_at(tmp_path)
    assert client.get("/").status_code == 200
    assert client.get("/run/bad").status_code == 404
    assert client.get("/samples/bad").status_code in (404, 422)


@pytest.mark.parametrize("name", ["evaluation.json", "realignment.json", "config.yaml"])
def test_a_run_with_a_damaged_part_is_shown_with_its_problem(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", evaluation=EVALUATION)
    (run.path / name).write_text("# A selfaug run.\n{" if name == "config.yaml" else DEEP)
    entry = again(Library(tmp_path))["run"]
    assert entry.kind == "train"
    client = looking_at(tmp_path)
    assert client.get("/").status_code == 200
    assert client.get("/run/run").status_code in (404, 422)


def test_metrics_of_any_kind_do_not_end_the_list(tmp_path: Path) -> None:
    for number, line in enumerate(
        ('{"step": null}', "[1]", '{"step": "x"}', "\x00", '{"step": 1e999}', DEEP)
    ):
        run = write_run(tmp_path / f"run-{number}", training=None)
        run.metrics.write_text(line)
    client = looking_at(tmp_path)
    assert client.get("/").text.count("step 0") >= 1
    assert client.get("/").status_code == 200


def test_a_folder_that_may_not_be_entered_does_not_end_the_list() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        run = write_run(Path(folder, "run"), evaluation=EVALUATION)
        run.monitor.mkdir(mode=0)
        for place in (Path(folder), run.path):
            place.chmod(0o755)
        (entry,) = Library(folder).entries()
        with as_nobody():
            assert (entry.is_watched, entry.is_evaluated) == (False, True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "name", ["record.json", "metrics.jsonl", "config.yaml", "plan.json", "evaluation.json"]
)
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "good")
    run = write_run(tmp_path / "bad", training=None if name != "evaluation.json" else {})
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    assert set(again(Library(tmp_path))) == {"good"}


def test_names_that_no_address_can_hold(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline\ttab", b"\x1b[2J", "\u202eabc".encode(), "ü%?#&'".encode(), b"a b"]
    for name in names:
        write_run(tmp_path / "benign")
        (tmp_path / "benign").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    library = Library(tmp_path)
    assert set(again(library)) == {
        "\\udcff\\udcfe", "new\\nline\\ttab", "\\x1b[2J", "\\u202eabc", "ü%?#&'", "a b",
    }  # fmt: skip
    client = looking_at(library)
    links = parser.fromstring(client.get("/").text).xpath("//main//th/a/@href")
    assert len(links) == 6
    for link in links:  # to a page for which nothing is drawn
        assert "Finished." in client.get(link.replace("/run/", "/live/")).text, link


VANISHING: list[Callable[[Path], object]] = [
    shutil.rmtree,
    lambda run: (run / "record.json").unlink(),
    lambda run: (run / "config.yaml").unlink(),
    lambda run: (run / "record.json").write_text('{"kind": "tr'),
    lambda run: (run / "evaluation.json").write_text("{}"),
    lambda run: shutil.rmtree(run / "samples"),
    lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n{"step"'),
]


@pytest.mark.parametrize("change", VANISHING)
@pytest.mark.parametrize("page", ["run", "samples"])
def test_a_run_that_changes_between_the_list_and_its_page(
    tmp_path: Path, change: Callable[[Path], object], page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", evaluation=EVALUATION)
    library = Library(tmp_path)
    library.entries()
    library._next_scan = float("inf")
    client = looking_at(library)
    change(run.path)
    answer = client.get(f"/{page}/run")
    assert answer.status_code in (200, 404, 422)
    assert "Traceback" not in capsys.readouterr().err
    assert client.get("/").status_code == 200


def test_a_directory_that_vanishes_is_empty(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "run")
    library = Library(tmp_path / "runs")
    assert len(again(library)) == 1
    shutil.rmtree(tmp_path / "runs")
    assert again(library) == {}


def test_files_of_any_time(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    client = looking_at(tmp_path)
    for moment in (0, 2**33, 2**40):
        try:
            os.utime(run.record, (moment, moment))
        except OverflowError:
            continue
        assert client.get("/").status_code == 200


def test_many_read_while_a_run_is_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", training=None, steps=1)
    library = Library(tmp_path)
    stop = threading.Event()
    problems: list[object] = []

    def look() -> None:
        while not stop.is_set():
            library._next_scan = float("-inf")
            try:
                (entry,) = library.entries()
                if entry.summary is None:
                    problems.append(entry.problem)
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(2, 60):
        append_line(run.metrics, {"step": step, "nll": 1.0, "text": "ü" * 500})
        write_record(run.evaluation, "evaluation", EVALUATION)
        write_record(run.record, "train", json.loads(json.dumps(TRAINING)))
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
