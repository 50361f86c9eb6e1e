"""New rows that are set apart, so that a re-alignment's new task is measured."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from selfaug.config import TrainConfig, load_config
from selfaug.data import load_rows
from selfaug.errors import StorageError
from selfaug.phases.held_out import HeldOut, hold_out


@pytest.fixture
def config(finished_run: Path) -> TrainConfig:
    return load_config(finished_run / "config.yaml")


def written(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def plain(count: int, name: str = "a") -> list[dict[str, Any]]:
    return [{"prompt": f"{name} {number}?", "completion": f"{number}"} for number in range(count)]


def split(config: TrainConfig, data: list[str], folder: Path, share: float = 0.1) -> HeldOut:
    return hold_out(config, data, folder, share=share, offline=True)


def prompts(sources: list[str]) -> list[str]:
    return [json.dumps(row.prompt) for row in load_rows(sources).rows]


def test_a_share_of_each_source_is_set_apart_and_the_same_again(config: TrainConfig, tmp_path: Path) -> None:
    data = [written(tmp_path / "one.jsonl", plain(200)), written(tmp_path / "two.jsonl", plain(200, "b"))]
    found = split(config, data, tmp_path / "rows")
    assert (found.rows, found.of) == (40, 400)
    assert [Path(file).name for file in found.data] == ["1-one-train.jsonl", "2-two-train.jsonl"]
    assert len(found.eval_data) == 2
    assert len(prompts(found.eval_data)) == 40
    assert sorted(prompts(found.data) + prompts(found.eval_data)) == sorted(prompts(data))
    before = [Path(file).read_bytes() for file in found.eval_data]
    assert split(config, data, tmp_path / "rows") == found
    assert [Path(file).read_bytes() for file in found.eval_data] == before
    # Other rows behind them change no side of a row, but for those at the border.
    written(tmp_path / "two.jsonl", plain(210, "b"))
    again = split(config, data, tmp_path / "more")
    assert len(set(prompts(again.eval_data)) & set(prompts(found.eval_data))) >= 36


def test_rows_that_a_run_was_begun_with_are_known_by_what_is_in_them(
    config: TrainConfig, tmp_path: Path
) -> None:
    """Rows without ids are called after their file, as its path was typed."""
    data = [written(tmp_path / "one.jsonl", plain(200))]
    found = split(config, data, tmp_path / "rows")
    (tmp_path / "moved").mkdir()
    moved = [written(tmp_path / "moved" / "one.jsonl", plain(200))]
    begun = partial(hold_out, config, folder=tmp_path / "rows", offline=True, begun=True)
    assert begun(moved, share=0.1) == found
    with pytest.raises(StorageError, match="has other rows") as caught:
        begun(data, share=0.2)
    assert "--hold-out" in str(caught.value.hint)


def test_equal_prompts_are_on_one_side(config: TrainConfig, tmp_path: Path) -> None:
    data = [written(tmp_path / f"{number}.jsonl", plain(300)) for number in range(3)]
    found = split(config, data, tmp_path / "rows")
    assert not set(prompts(found.data)) & set(prompts(found.eval_data))


@pytest.mark.parametrize("rows", [plain(190), plain(1) * 400, plain(400)[:1] * 390 + plain(10)])
def test_too_few_rows_are_left_as_they_are(
    config: TrainConfig, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    data = [written(tmp_path / "one.jsonl", [{**row, "id": f"{at}"} for at, row in enumerate(rows)])]
    assert split(config, data, tmp_path / "rows") == HeldOut(data, [], 0, len(rows))
    assert not (tmp_path / "rows").exists()


def test_no_more_than_five_hundred(config: TrainConfig, tmp_path: Path) -> None:
    data = [written(tmp_path / "one.jsonl", plain(6000))]
    assert split(config, data, tmp_path / "rows").rows == 500


def test_rows_of_every_form_are_read_as_before(config: TrainConfig, tmp_path: Path) -> None:
    turn = {"role": "user", "content": "and then?"}
    said = {"role": "assistant", "content": "this."}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    forms: list[dict[str, Any]] = []
    for number in range(30):
        own = {"role": "user", "content": f"what of {number}?"}
        forms += [
            {"id": f"a{number}", "prompt": f"p{number}", "completion": "c"},
            {"id": f"b{number}", "prompt": [own], "completion": [said]},
            {"id": f"c{number}", "messages": [own, said, turn, said, turn], "tools": tools},
            {"id": f"d{number}", "question": f"q{number}?", "context": ["x", "y"], "answer": "z"},
        ]
    data = [written(tmp_path / "all.jsonl", forms)]
    for every_turn in (False, True):
        how = config.model_copy(
            update={"data": config.data.model_copy(update={"every_assistant_turn": every_turn})}
        )
        found = split(how, data, tmp_path / f"rows-{every_turn}", share=0.3)

        def as_read(sources: list[str], every: bool = every_turn) -> dict[str, tuple[Any, ...]]:
            rows = load_rows(sources, every_assistant_turn=every).rows
            return {
                row.id: (row.prompt, row.completion, row.retrieval, row.tools, row.every_assistant_turn)
                for row in rows
            }

        assert as_read([*found.data, *found.eval_data]) == as_read(data)


def test_a_folder_that_cannot_be_written_is_an_error(config: TrainConfig, tmp_path: Path) -> None:
    data = [written(tmp_path / "one.jsonl", plain(200))]
    (tmp_path / "rows").write_text("a file")
    with pytest.raises(StorageError, match="can't write into"):
        split(config, data, tmp_path / "rows")
