"""Runs that are not finished: how far they are, and what is seen of them while they train."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from looking import looking_at
from lxml import html as parser
from starlette.testclient import TestClient
from transformers import TrainerControl, TrainerState

from other_user import as_nobody
from report_records import TRAINING, write_run
from selfaug.dashboard import app
from selfaug.dashboard.library import Entry, Library, Progress, progress_of
from selfaug.records import append_line, read_record, write_record
from selfaug.rundir import RunDir
from selfaug.train.run_callbacks import PlanFile

BEGAN = 1_700_000_000.0


def run_of(folder: Path, last: float = BEGAN + 100, **plan: Any) -> Entry:
    """A run of ten steps, the last of which was so many seconds after 1970, with its plan."""
    run = write_run(folder / "run", training=None, steps=10)
    if plan:
        write_record(run.plan, "plan", {"steps": 40, "from_step": 0, "began": BEGAN, **plan})
    for file in run.path.iterdir():
        os.utime(file, (last, last))
    entry = Library(folder).entry("run")
    assert entry is not None
    return entry


def test_a_run_is_running_while_its_process_holds_it_or_it_was_heard_of_a_moment_ago(tmp_path: Path) -> None:
    entry = run_of(tmp_path, began=BEGAN)
    # Ten steps in 100 seconds: 30 more take 300, and 4 of these have gone by.
    assert progress_of(entry, BEGAN + 104) == Progress(10, 40, True, 296.0)
    assert progress_of(entry, BEGAN + 350) == Progress(10, 40, False, None)
    with RunDir(entry.folder).training():
        # A step, or a checkpoint, that takes long.
        assert progress_of(entry, BEGAN + 350) == Progress(10, 40, True, 50.0)


def test_a_resumed_run_is_as_quick_as_it_has_been_since(tmp_path: Path) -> None:
    entry = run_of(tmp_path, from_step=8)
    assert progress_of(entry, BEGAN + 100) == Progress(10, 40, True, 30 * 50.0)
    entry = run_of(tmp_path, from_step=10)
    assert progress_of(entry, BEGAN + 100) == Progress(10, 40, True, None), "no step has been made since"
    # Lines that a crash left, after the checkpoint's step.
    entry = run_of(tmp_path, from_step=20)
    assert progress_of(entry, BEGAN + 100) == Progress(10, 40, True, None)


def test_clocks_that_differ_give_no_time(tmp_path: Path) -> None:
    entry = run_of(tmp_path, began=BEGAN + 5000)
    assert progress_of(entry, BEGAN + 104) == Progress(10, 40, True, None)


def test_a_run_without_a_plan(tmp_path: Path) -> None:
    entry = run_of(tmp_path)
    assert progress_of(entry, BEGAN + 101) == Progress(10, None, True, None)
    assert progress_of(entry, BEGAN + 500) == Progress(10, None, False, None)


@pytest.mark.parametrize(
    "plan",
    [
        {"steps": "many"}, {"steps": None}, {"from_step": []}, {"began": {}}, {"steps": float("1e400")},
    ],
)  # fmt: skip
def test_a_plan_of_another_shape_is_none(tmp_path: Path, plan: dict[str, Any]) -> None:
    entry = run_of(tmp_path, **plan)
    found = progress_of(entry, BEGAN + 101)
    assert found is not None
    assert (found.step, found.running) == (10, True)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": "plan", "version": 1, "data": {}}', "\x00", "[" * 99_999]
)
def test_a_plan_that_can_not_be_read_is_none(tmp_path: Path, text: str) -> None:
    run_of(tmp_path, began=BEGAN)
    (tmp_path / "run" / "plan.json").write_text(text)
    (entry,) = Library(tmp_path).entries()
    assert progress_of(entry, entry.time + 1) == Progress(10, None, True, None)


def test_a_training_that_gets_ready_is_running(tmp_path: Path) -> None:
    """Rows, texts and anchors take long before its first step, and so does loading where it is gone on with."""
    entry = run_of(tmp_path)
    run = RunDir(entry.folder)
    (run.path / "metrics.jsonl").unlink()
    later = BEGAN + 9999
    assert progress_of(entry, later) == Progress(0, None, False, None)
    with run.training():
        assert progress_of(entry, later) == Progress(0, None, True, None)
    assert progress_of(entry, later) == Progress(0, None, False, None)
    # A step takes much longer than those before.
    entry = run_of(tmp_path, began=BEGAN)
    with RunDir(entry.folder).training():
        assert progress_of(entry, later) == Progress(10, 40, True, None)
    assert progress_of(entry, later) == Progress(10, 40, False, None)


def test_a_training_whose_lock_can_not_be_tried_is_running_for_longer() -> None:
    """Another user's: its page offers no command that would go on with it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        entry = run_of(Path(folder))
        for place in (Path(folder), entry.folder):
            place.chmod(0o755)
        with RunDir(entry.folder).training():
            (entry.folder / ".lock").chmod(0)
            with as_nobody():
                assert progress_of(entry, BEGAN + 100 + 1800) == Progress(10, None, True, None)
                assert progress_of(entry, BEGAN + 100 + 7200) == Progress(10, None, False, None)


def test_what_is_finished_or_no_run_has_no_progress(tmp_path: Path, runs_root: Path) -> None:
    run_of(tmp_path, began=BEGAN)
    write_record(tmp_path / "run" / "record.json", "train", TRAINING)
    (entry,) = Library(tmp_path).entries()
    assert progress_of(entry) is None
    for entry in Library(runs_root).entries():
        assert (progress_of(entry) is None) == (entry.path not in ("training", "gone")), entry.path


# ---- pages


def test_the_page_of_a_training_asks_again_by_itself(client: TestClient) -> None:
    text = client.get("/run/training").text
    page = parser.fromstring(text)
    (live,) = page.xpath("//*[@id='live']")
    assert (live.get("hx-get"), live.get("hx-trigger")) == ("/live/training", "every 4s")
    assert re.search(r"Step 12 of 40; some .+ left\.", " ".join(live.text_content().split()))
    (bar,) = live.xpath(".//progress")
    assert (bar.get("value"), bar.get("max")) == ("12", "40")
    assert len(live.xpath(".//figure")) >= 2
    part = client.get("/live/training").text
    assert part.lstrip().startswith('<div id="live"')
    assert "<html" not in part
    overview = parser.fromstring(client.get("/").text)
    assert overview.xpath("//*[@id='entries']/@hx-get") == ["/entries?page=1"]
    assert "running step 12 of 40" in " ".join(overview.text_content().split())


def test_a_training_that_ended_early_says_how_to_go_on(client: TestClient) -> None:
    text = client.get("/run/gone").text
    assert "Not finished" in text
    assert "selfaug train --resume" in text
    assert "hx-trigger" not in text, "nothing will change"
    assert "not finished step 9 of 40" in " ".join(
        parser.fromstring(client.get("/").text).text_content().split()
    )


def test_the_page_of_a_training_that_gets_ready_asks_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", training=None, steps=0)
    for file in run.path.iterdir():
        os.utime(file, (BEGAN, BEGAN))
    client = looking_at(tmp_path)
    with run.training():
        page = parser.fromstring(client.get("/run/run").text)
        (live,) = page.xpath("//*[@id='live']")
        assert live.get("hx-get") == "/live/run"
        assert "Getting ready. Step 0." in live.text_content()
        assert not live.xpath(".//*[@role='status']"), "what comes every few seconds is not read out"
        overview = " ".join(parser.fromstring(client.get("/").text).text_content().split())
        assert "running getting ready, step 0" in overview
    (live,) = parser.fromstring(client.get("/run/run").text).xpath("//*[@id='live']")
    assert live.get("hx-get") is None
    assert "selfaug train --resume" in live.xpath(".//*[@role='status']")[0].text_content()


def test_a_part_that_ended_early_names_the_command_that_goes_on_with_it(tmp_path: Path) -> None:
    for what, place in (("comparison", "a/runs/plain"), ("balance", "b"), ("assessment", "c"), ("demo", "d")):
        outer = tmp_path / "deep" / what
        write_run(outer / place, training=None, steps=3)
        write_record(outer / f"{what}.json", f"{what}-started", {"settings": {}})
    # Only called so.
    write_run(tmp_path / "own" / "run", training=None, steps=3)
    (tmp_path / "own" / "demo.json").write_text("[]")
    for file in tmp_path.rglob("*.*"):
        os.utime(file, (BEGAN, BEGAN))
    client = looking_at(tmp_path)

    def said(path: str) -> str:
        return " ".join(parser.fromstring(client.get(f"/run/{path}").text).text_content().split())

    assert "the same selfaug compare again goes on with it" in said("deep/comparison/a/runs/plain")
    assert "the same selfaug balance again goes on with it" in said("deep/balance/b")
    assert "the same selfaug assess again goes on with it" in said("deep/assessment/c")
    assert "the same selfaug demo again goes on with it" in said("deep/demo/d")
    resume = RunDir(tmp_path / "own" / "run").resume_command
    assert f"to this run at the moment; {resume} goes on with it" in said("own/run")


def test_what_goes_wrong_takes_the_place_of_the_part_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser puts it there, whatever the status: a whole page would stand inside of the page."""
    run = write_run(tmp_path / "run", training=None, steps=3)
    library = Library(tmp_path)
    client = looking_at(library)
    by_itself = {"HX-Request": "true"}

    def part(address: str, status: int) -> str:
        answer = client.get(address, headers=by_itself)
        assert answer.status_code == status
        assert "<html" not in answer.text
        (problem,) = parser.fragments_fromstring(answer.text.strip().split("#}")[-1])
        return f"{problem.get('id')}: {problem.text_content()}"

    assert part("/live/gone", 404).startswith("live: There is no run gone in")
    assert "<html" in client.get("/live/gone").text
    run.metrics.write_text("[1]\n[2]\n")
    library._next_scan = float("-inf")
    assert "lack what a report needs" in part("/live/run", 422)
    assert "lack what a report needs" in client.get("/run/run").text
    monkeypatch.setattr(app, "roi_view", lambda *_: 1 / 0)
    assert part("/roi/result", 500).startswith("result: This page could not be made")


def test_the_list_asks_again_only_while_something_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert "hx-trigger" not in looking_at(tmp_path).get("/").text


def test_the_course_of_a_training(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    library = Library(tmp_path)
    client = looking_at(library)

    def live() -> str:
        library._next_scan = float("-inf")
        answer = client.get("/live/run")
        return " ".join(parser.fromstring(answer.text).text_content().split()) + str(answer.status_code)

    assert "There is no run run" in live()
    write_run(run.path, training=None, steps=0)
    assert "Step 0." in live()
    assert "No step has been logged yet." in live()
    plan = PlanFile(run.plan)
    state = TrainerState(max_steps=3, is_world_process_zero=True)
    plan.on_train_begin(None, state, TrainerControl())  # type: ignore[arg-type]
    assert "Step 0 of 3." in live()
    for step in (1, 2):
        append_line(run.metrics, {"step": step, "nll": 3.0 / step, "alignment_loss": 0.01 * step})
        assert f"Step {step} of 3" in live()
    assert "Step 2: 1.5000 nats per completion token." in live()
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "nll": 0.')
    assert "Step 2 of 3" in live(), "a line that is being written"
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write("5}\n")
    assert "Step 3 of 3" in live()
    write_record(run.record, "train", TRAINING)
    assert "Finished. Show the report" in live()
    assert 'href="/run/run"' in client.get("/live/run").text
    assert "hx-get" not in client.get("/live/run").text
    assert "Trained for 60 steps" in client.get("/run/run").text


def test_curves_are_drawn_once_as_long_as_no_step_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    run_curves = app.run_curves
    monkeypatch.setattr(app, "run_curves", lambda run: drawn.append(run) or run_curves(run))
    run = write_run(tmp_path / "run", training=None, steps=3)
    library = Library(tmp_path)
    client = looking_at(library)
    for expected in (1, 1, 2):
        if expected == 2:
            append_line(run.metrics, {"step": 4, "nll": 0.1})
            library._next_scan = float("-inf")
        assert client.get("/live/run").status_code == 200
        assert len(drawn) == expected


# ---- the plan's file


def test_a_plan_says_where_a_resumed_training_goes_on(tmp_path: Path) -> None:
    plan = PlanFile(tmp_path / "plan.json")
    state = SimpleNamespace(is_world_process_zero=False, max_steps=40, global_step=20)
    plan.on_train_begin(None, state, None)  # type: ignore[arg-type]
    assert not (tmp_path / "plan.json").exists(), "one process writes it"
    state.is_world_process_zero = True
    before = time.time()
    plan.on_train_begin(None, state, None)  # type: ignore[arg-type]
    found = read_record(tmp_path / "plan.json", "plan")
    assert before <= found.pop("began") <= time.time()
    assert found == {"steps": 40, "from_step": 20}


def test_a_real_training_writes_its_plan(finished_run: Path, tmp_path: Path) -> None:
    found = read_record(finished_run / "plan.json", "plan")
    assert (found["steps"], found["from_step"]) == (6, 0)
    last = json.loads((finished_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6
    assert found["began"] <= (finished_run / "metrics.jsonl").stat().st_mtime
    # Before its record is written, it is seen to be at its end.
    copied = shutil.copytree(finished_run, tmp_path / "run")
    (copied / "metrics.jsonl").touch()
    entry = Library(copied).entry("")
    assert entry is not None
    unfinished = Entry(entry.path, entry.folder, "train", None, entry.time, False, entry.summary, "")
    progress = progress_of(unfinished)
    assert progress is not None
    assert (progress.step, progress.steps, progress.running, progress.seconds_left) == (6, 6, True, 0.0)
