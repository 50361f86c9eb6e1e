"""Which held-out rows were trained on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from other_user import as_nobody
from selfaug.config import TrainConfig, dump_config
from selfaug.core.trained_on import trained_on_in_words
from selfaug.data import load_rows
from selfaug.phases.inputs import load_training_data
from selfaug.phases.learnt import write_learnt
from selfaug.phases.realign import realign_config
from selfaug.phases.run_files import FOLDER, load_run_config, tell_of_changes
from selfaug.phases.trained_on import trained_on
from selfaug.records import read_lines, write_lines, write_record
from selfaug.rundir import RunDir

Rows = list[dict[str, Any]]
Found = Callable[..., int | None]
Begin = Callable[..., RunDir]


def texts(*prompts: str) -> Rows:
    return [{"prompt": prompt, "completion": "none"} for prompt in prompts]


@pytest.fixture
def begin(settings: Callable[..., TrainConfig]) -> Begin:
    """The folder of a run with these settings, whose training has begun."""

    def make(folder: Path, config: TrainConfig | None = None, *sets: str) -> RunDir:
        run = RunDir(folder)
        run.path.mkdir()
        config = config or settings(folder, *sets)
        run.config.write_text(run.config_text(dump_config(config)), encoding="utf-8")
        data = load_training_data(config, learnt=True)
        write_learnt(run, data.learnt)
        write_record(run.started, "train-started", {"data": data.report, FOLDER: str(folder)})
        return run

    return make


@pytest.fixture
def found(begin: Begin, tmp_path: Path) -> Found:
    """How many held-out rows were trained on, by a run whose files have these rows."""

    def find(held_out: Rows, *sets: str, asked: tuple[int, ...] | None = None, **rows: Rows) -> int | None:
        files = {name: tmp_path / f"{name}.jsonl" for name in (*rows, "held_out")}
        for name, own in {**rows, "held_out": held_out}.items():
            write_lines(files[name], [{**row, "id": str(number)} for number, row in enumerate(own)])
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        run = begin(folder, None, *(f"data.{name}=[{files[name]}]" for name in rows), *sets)
        ids = [str(number) for number in (range(len(held_out)) if asked is None else asked)]
        record = trained_on(run, load_run_config(run), [str(files["held_out"])], ids)
        assert record["of"] == len(ids)
        number: int | None = record["rows"]
        return number

    return find


def write(file: Path, *prompts: str) -> str:
    rows = [{"id": str(number), **row} for number, row in enumerate(texts(*prompts))]
    write_lines(file, rows)
    return str(file)


def look(run: RunDir, held_out: str, asked: int) -> dict[str, Any]:
    ids = [str(number) for number in range(asked)]
    return trained_on(run, load_run_config(run), [held_out], ids)


def test_rows_with_the_prompt_of_a_training_row_are_counted(found: Found) -> None:
    held_out = texts("The  revenue?", "the profit?", "the costs?")
    assert found(held_out, train=texts("the revenue?", "the costs?")) == 2
    assert found(held_out, asked=(0, 1), train=texts("the revenue?", "the costs?")) == 1
    assert found(held_out, train=texts("the debts?")) == 0
    # The same question about other passages is another row.
    row: dict[str, Any] = {"question": "The revenue?", "context": ["one"], "answer": "1"}
    assert found([row, {**row, "context": ["two"]}], train=[{**row, "question": "the revenue?"}]) == 1


def test_rows_of_runs_before_count_too(found: Found) -> None:
    parts = {"train": texts("new"), "replay": texts("old")}
    assert found(texts("new", "old"), **parts) == 2
    assert found(texts("new", "old"), "data.replay_share=0", **parts) == 1  # only kept for later
    # Where the run before is gone, its rows are those that were rehearsed.
    gone = "lora.start_from=no-run"
    assert found(texts("new", "old"), gone, **parts) == 2
    assert found(texts("new", "old"), "data.replay_share=0", gone, **parts) is None
    assert found(texts("new"), gone, train=texts("new")) is None
    assert found(texts("new"), gone, "data.replay=[embedded]", train=texts("new")) is None
    assert found(texts("new", "old"), "data.replay=[embedded]", train=texts("new")) == 1


def test_rows_that_were_left_out_of_training_do_not_count(found: Found) -> None:
    parts = {"train": texts("new", "held out"), "eval": texts("held out")}
    assert found(texts("held out"), **parts) == 1
    assert found(texts("held out", "new"), "data.skip_held_out=true", **parts) == 1


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("replayed", [0.0, 0.1])
def test_what_the_run_before_learnt_counts_whatever_is_held_out_since(
    begin: Begin, tmp_path: Path, skip: bool, replayed: float
) -> None:
    held_out = write(tmp_path / "held-out.jsonl", "old", "new", "other")
    old = begin(tmp_path / "old", None, f"data.train=[{write(tmp_path / 'old.jsonl', 'old')}]")
    config = realign_config(
        old,
        [write(tmp_path / "new.jsonl", "new", "more")],
        eval_data=[held_out],
        rehearsal=replayed,
        output=str(tmp_path / "new"),
        sets=[f"data.skip_held_out={json.dumps(skip)}"],
    )
    new = begin(tmp_path / "new", config)
    assert look(new, held_out, 3) == {"rows": 1 if skip else 2, "of": 3}


def test_what_a_plain_run_went_on_from_counts_too(begin: Begin, tmp_path: Path) -> None:
    first = begin(tmp_path / "first", None, f"data.train=[{write(tmp_path / 'first.jsonl', 'first')}]")
    new = [f"data.train=[{write(tmp_path / 'new.jsonl', 'new')}]", f"lora.start_from={first.path}"]
    second = begin(tmp_path / "second", None, *new)
    third = begin(tmp_path / "third", None, new[0], f"lora.start_from={second.path}")
    held_out = write(tmp_path / "held-out.jsonl", "first", "new", "other")
    assert look(third, held_out, 3) == {"rows": 2, "of": 3}
    second.learnt.rename(second.path / "aside")
    assert look(third, held_out, 3) == {"rows": None, "of": 3}
    (second.path / "aside").rename(second.learnt)
    # The first was trained anew, from the third, and is not what the second went on from.
    config = load_run_config(first)
    going_on = config.model_copy(
        update={"lora": config.lora.model_copy(update={"start_from": str(third.path)})}
    )
    first.config.write_text(first.config_text(dump_config(going_on)), encoding="utf-8")
    assert look(third, held_out, 3) == {"rows": None, "of": 3}


def test_a_run_keeps_what_it_has_learnt(copied_run: Path, tmp_path: Path) -> None:
    run = RunDir(copied_run)
    config = load_run_config(run)
    rows = list(read_lines(Path(config.data.train[0])))
    write_lines(
        held_out := tmp_path / "held-out.jsonl", [*rows[:3], {"prompt": "another", "completion": "one"}]
    )
    gone = config.data.model_copy(update={"train": [str(tmp_path / "gone.jsonl")]})
    config = config.model_copy(update={"data": gone})
    ids = [row.id for row in load_rows([str(held_out)]).rows]

    def found() -> dict[str, Any]:
        return trained_on(run, config, [str(held_out)], ids)

    assert found() == {"rows": 3, "of": 4}
    run.learnt.write_text("damaged", encoding="utf-8")
    assert found() == {"rows": None, "of": 4}


def test_who_may_not_read_what_was_learnt_may_evaluate(begin: Begin) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        private = folder / "private"
        private.mkdir()
        files = [write(private / "rows.jsonl", "one"), write(folder / "secret.jsonl", "one")]
        changed = write(folder / "changed.jsonl", "one")
        held_out = write(folder / "held-out.jsonl", "one")
        run = begin(folder / "run", None, f"data.train={json.dumps([*files, changed])}")
        write(folder / "changed.jsonl", "two")
        for place in (folder, run.path):
            place.chmod(0o755)
        for place in (run.config, run.started, Path(changed), Path(held_out)):
            place.chmod(0o644)
        private.chmod(0)
        Path(files[1]).chmod(0)
        run.learnt.chmod(0)
        told: list[str] = []
        try:
            with as_nobody():
                tell_of_changes(run, load_run_config(run), "train", tell=told.append)
                record = look(run, held_out, 1)
        finally:
            private.chmod(0o755)
    assert record == {"rows": None, "of": 1}
    assert told == [f"{changed} is not what it was when {run.path} was trained."]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, None),  # without rows
        ({"rows": 0, "of": 3}, None),
        ({"rows": None, "of": 3}, "could not be told: the run, or one that it went on from, does not say"),
        ({"rows": 1, "of": 1}, "1 of 1 held-out row is a training row, too"),
        ({"rows": 2, "of": 3000}, "2 of 3,000 held-out rows are training rows, too"),
    ],
)
def test_it_is_said_in_words(record: dict[str, Any] | None, words: str | None) -> None:
    told = trained_on_in_words(record)
    assert told is None if words is None else told is not None and words in told
