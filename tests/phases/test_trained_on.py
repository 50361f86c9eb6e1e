"""Which held-out rows were trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfaug.config import TrainConfig
from selfaug.core.trained_on import trained_on_in_words
from selfaug.phases.trained_on import trained_on
from selfaug.records import write_lines

Rows = list[dict[str, Any]]
Found = Callable[..., int | None]


def texts(*prompts: str) -> Rows:
    return [{"prompt": prompt, "completion": "none"} for prompt in prompts]


@pytest.fixture
def found(settings: Callable[..., TrainConfig], tmp_path: Path) -> Found:
    """How many held-out rows were trained on, of settings whose files have these rows."""

    def find(held_out: Rows, *sets: str, asked: tuple[int, ...] | None = None, **rows: Rows) -> int | None:
        files = {name: tmp_path / f"{name}.jsonl" for name in (*rows, "held_out")}
        for name, own in {**rows, "held_out": held_out}.items():
            write_lines(files[name], [{**row, "id": str(number)} for number, row in enumerate(own)])
        config = settings(tmp_path / "run", *(f"data.{name}=[{files[name]}]" for name in rows), *sets)
        ids = [str(number) for number in (range(len(held_out)) if asked is None else asked)]
        return trained_on(config, [str(files["held_out"])], ids, offline=True)

    return find


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
    assert found(texts("new", "old"), "data.replay_share=0", "lora.start_from=before", **parts) == 2
    assert found(texts("new", "old"), "data.replay=[embedded]", train=texts("new")) == 1


def test_rows_that_were_left_out_of_training_do_not_count(found: Found) -> None:
    parts = {"train": texts("new", "held out"), "eval": texts("held out")}
    assert found(texts("held out"), **parts) == 1
    assert found(texts("held out", "new"), "data.skip_held_out=true", **parts) == 1


def test_nobody_knows_where_training_rows_are_gone(found: Found, tmp_path: Path) -> None:
    assert found(texts("new"), f"data.train=[{tmp_path / 'gone.jsonl'}]") is None


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, None),  # of earlier versions, and without rows
        ({"rows": 0, "of": 3}, None),
        ({"rows": None, "of": 3}, "could not be told"),
        ({"rows": 1, "of": 1}, "1 of 1 held-out row is a training row, too"),
        ({"rows": 2, "of": 3000}, "2 of 3,000 held-out rows are training rows, too"),
    ],
)
def test_it_is_said_in_words(record: dict[str, int | None] | None, words: str | None) -> None:
    told = trained_on_in_words(record)
    assert told is None if words is None else told is not None and words in told
