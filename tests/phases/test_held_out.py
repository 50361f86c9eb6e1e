"""New rows that are set apart, so that a re-alignment's new task is measured."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from selfaug.config import TrainConfig, dump_config, load_config
from selfaug.data import load_rows
from selfaug.data.same_prompt import learnt_digests
from selfaug.errors import StorageError
from selfaug.phases.held_out import HeldOut, held_out_before, hold_out, kept_if_begun
from selfaug.phases.inputs import load_training_data
from selfaug.phases.learnt import write_learnt
from selfaug.phases.realign_checks import what_is_measured
from selfaug.phases.realign_settings import RealignSettings
from selfaug.records import write_lines
from selfaug.rundir import RunDir


@pytest.fixture
def config(finished_run: Path) -> TrainConfig:
    return load_config(finished_run / "config.yaml")


def written(file: Path, rows: list[dict[str, Any]]) -> str:
    write_lines(file, rows)
    return str(file)


def plain(count: int, name: str = "a") -> list[dict[str, Any]]:
    return [{"prompt": f"{name} {number}?", "completion": f"{number}"} for number in range(count)]


def split(
    config: TrainConfig, data: list[str], folder: Path, share: float = 0.1, run: RunDir | None = None
) -> HeldOut:
    # The run of the settings has learnt none of these rows.
    return hold_out(run or RunDir(config.run.output), config, data, folder, share=share)


def that_learnt(folder: Path, *sources: str) -> RunDir:
    """A run that has learnt the rows of these files."""
    run = RunDir(folder)
    run.path.mkdir()
    write_learnt(run, b"".join(learnt_digests(load_rows(sources).rows)))
    return run


def standard_questions(file: Path, contracts: str, answer: str | None = None) -> str:
    """Twenty-five questions about each contract; without an answer for all, each contract has its own."""
    rows = [
        {"question": f"{n}?", "context": [f"{one}{n}"], "answer": answer or one}
        for n in range(25)
        for one in contracts
    ]
    return written(file, rows)


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
    # Nor do they replace the others, which a run may be judged by, or rehearse.
    kept = {file: file.read_bytes() for file in (tmp_path / "rows").iterdir()}
    with pytest.raises(
        StorageError, match="holds other rows, which may be of an earlier re-alignment"
    ) as refused:
        split(config, data, tmp_path / "rows")
    assert "choose another --output" in str(refused.value.hint)
    assert {file: file.read_bytes() for file in (tmp_path / "rows").iterdir()} == kept
    assert len(set(prompts(again.eval_data)) & set(prompts(found.eval_data))) >= 36


def test_rows_that_a_run_was_begun_with_are_known_by_what_is_in_them(
    config: TrainConfig, tmp_path: Path
) -> None:
    """Rows without ids are called after their file, as its path was typed."""
    data = [written(tmp_path / "one.jsonl", plain(200))]
    found = split(config, data, tmp_path / "rows")
    assert not found.unknown
    (tmp_path / "moved").mkdir()
    moved = [written(tmp_path / "moved" / "one.jsonl", plain(200))]
    begun = with_old_rows(config, found.data, [*config.data.eval, *found.eval_data])

    def before(data: list[str]) -> HeldOut | None:
        return held_out_before(config, begun, data, tmp_path / "rows")

    assert before(moved) == found
    for rows in (plain(199), plain(199) + plain(1)):
        with pytest.raises(StorageError, match="has other rows") as caught:
            before([written(tmp_path / "one.jsonl", rows)])
        assert "--output" in str(caught.value.hint)
    # Those that an earlier attempt has left say nothing of a run that was begun without them.
    assert held_out_before(config, config, data, tmp_path / "rows") is None
    Path(found.data[0]).unlink()
    assert before(moved) is None


def test_a_run_that_was_begun_keeps_its_division(config: TrainConfig, tmp_path: Path) -> None:
    """Whether another version has divided its rows, or nobody knows any more what was learnt then."""
    old, month = (
        written(tmp_path / f"{name}.jsonl", plain(count)) for name, count in (("o", 100), ("m", 400))
    )
    deployed = with_old_rows(config, [old], [])
    found = split(deployed, [month], tmp_path / "rows", run=that_learnt(tmp_path / "run", old))
    assert (found.rows, found.known) == (30, 100)
    begun = with_old_rows(config, found.data, found.eval_data)
    again = held_out_before(deployed, begun, [month], tmp_path / "rows")
    assert again == HeldOut(found.data, found.eval_data, 30, 400)
    # Sides are told by the run, not by what would be the same question now.
    one, other = (
        written(tmp_path / "rows" / f"1-{name}.jsonl", plain(40) * 2) for name in ("x-train", "x-held-out")
    )
    begun = with_old_rows(config, [one], [other])
    every = [written(tmp_path / "x.jsonl", plain(40) * 4)]
    again = held_out_before(deployed, begun, every, tmp_path / "rows")
    assert again == HeldOut([one], [other], 80, 160)


@pytest.mark.parametrize("share", [0.5, 0])
def test_no_row_is_lost_to_held_out_ones_of_the_same_division(
    settings: Callable[..., TrainConfig], tmp_path: Path, share: float
) -> None:
    """Old and new rows together ask each question in eight settings: none of them alone in more than five."""
    old = standard_questions(tmp_path / "old.jsonl", "ABCD")
    new = standard_questions(tmp_path / "new.jsonl", "EFGH")
    found = split(settings(Path("run"), f'data.train=["{old}"]'), [new], tmp_path / "rows", share=0.3)
    assert found.rows == 30
    sets = {
        "train": found.data,
        "eval": found.eval_data,
        "replay": [old, "gone.jsonl"][: 1 if share else 2],
        "replay_share": share,
        "skip_held_out": True,
    }
    config = settings(Path("run"), *(f"data.{name}={json.dumps(value)}" for name, value in sets.items()))
    report = load_training_data(config).report
    assert report["train"]["rows"] == 70
    assert report["asked_by_held_out"] == ({"train": 0, "replay": 0} if share else {"train": 0})


@pytest.mark.parametrize(
    ("trained", "judged_by", "given", "answer", "new"),
    [("ABCDEF", "GH", "IJK", None, 75), ("ABCDEF", "", "FGHI", None, 75), ("ABCDE", "", "FGHIJ", "Yes", 125)],
)
def test_standard_questions_about_few_new_documents_are_new(
    config: TrainConfig,
    tmp_path: Path,
    trained: str,
    judged_by: str,
    given: str,
    answer: str | None,
    new: int,
) -> None:
    """They are asked everywhere only if old documents count: what is known of these tells nothing of the new ones."""
    old, held_out, month = (
        standard_questions(tmp_path / f"{name}.jsonl", contracts, answer)
        for name, contracts in (("old", trained), ("held-out", judged_by), ("month", given))
    )
    deployed = with_old_rows(config, [old], [held_out])
    found = split(deployed, [month], tmp_path / "rows", run=that_learnt(tmp_path / "run", old))
    assert (found.of, found.known) == (new, 25 * len(given) - new)


def with_old_rows(config: TrainConfig, train: list[str], held_out: list[str]) -> TrainConfig:
    data = config.data.model_copy(
        update={"train": train, "eval": held_out, "replay": ["embedded", "gone.jsonl"]}
    )
    return config.model_copy(update={"data": data})


def test_what_was_held_out_or_learnt_before_is_not_held_out_again(
    config: TrainConfig, tmp_path: Path
) -> None:
    """Exports of a month overlap with those of the next."""
    month = written(tmp_path / "month.jsonl", plain(400))
    first = split(config, [month], tmp_path / "first")
    deployed = with_old_rows(config, first.data, first.eval_data)
    run = that_learnt(tmp_path / "run", *first.data)
    both = written(tmp_path / "both.jsonl", plain(700))
    second = split(deployed, [both], tmp_path / "second", run=run)
    assert (second.rows, second.of, second.known) == (30, 300, 400)
    assert not set(prompts(second.eval_data)) & set(prompts([month]))
    # The old ones are left out when the rows are read for training: here they only stay on their side.
    assert set(prompts(second.data)) >= set(prompts([month]))
    few = written(tmp_path / "few.jsonl", plain(410))
    assert split(deployed, [few], tmp_path / "third", run=run) == HeldOut([few], [], 0, 10, 400)
    # With another answer it is another thing to learn.
    answered = [{**row, "completion": "none"} for row in plain(400)]
    again = split(deployed, [written(tmp_path / "again.jsonl", answered)], tmp_path / "fourth", run=run)
    assert (again.rows, again.of, again.known) == (36, 360, 40)


def test_rows_that_came_after_the_training_are_new_wherever_they_stand(
    config: TrainConfig, tmp_path: Path
) -> None:
    """In a new file of the folder that the run was trained with, behind its rows, or in a file that is another now."""
    first = written(tmp_path / "first.jsonl", plain(300))
    run = that_learnt(tmp_path / "run", first)
    second = written(tmp_path / "second.jsonl", [*plain(300, "b"), *plain(100)])
    written(tmp_path / "first.jsonl", [*plain(300), *plain(200, "c")])
    found = split(config, [second, first], tmp_path / "rows", run=run)
    assert (found.rows, found.of, found.known) == (50, 500, 400)
    Path(first).unlink()
    every = written(tmp_path / "all.jsonl", plain(300)[::-1])
    found = split(config, [second, every], tmp_path / "more", run=run)
    assert (found.rows, found.of, found.known) == (30, 300, 400)


def test_what_the_run_before_has_learnt_is_known_as_long_as_that_is_there(
    config: TrainConfig, tmp_path: Path
) -> None:
    january, new = (written(tmp_path / f"{name}.jsonl", plain(100, name)) for name in ("january", "new"))
    first, second = that_learnt(tmp_path / "first", january), that_learnt(tmp_path / "second", new)
    first.config.write_text(first.config_text(dump_config(config)), encoding="utf-8")
    lora = config.lora.model_copy(update={"start_from": str(first.path)})
    deployed = config.model_copy(update={"lora": lora})
    found = split(deployed, [january, new], tmp_path / "rows", run=second)
    assert (found.known, found.unknown) == (200, False)
    shutil.rmtree(first.path)
    found = split(deployed, [january, new], tmp_path / "more", run=second)
    assert (found.known, found.unknown) == (100, True)
    assert "is gone" in " ".join(what_is_measured(found, RealignSettings([new]), []))


def test_a_question_with_other_passages_and_a_chat_that_went_on_are_on_one_side(
    config: TrainConfig, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(150):
        asked, said = ({"role": role, "content": f"{role} {number}"} for role in ("user", "assistant"))
        more = [{"role": "user", "content": "and then?"}, {"role": "assistant", "content": "that."}]
        fields = {"question": f"what of {number}?", "answer": "z"}
        rows += [{**fields, "context": ["x", "y"]}, {**fields, "context": ["v", "w"]}]
        rows += [{"messages": [asked, said]}, {"messages": [asked, said, *more]}]
    data = [written(tmp_path / "all.jsonl", rows)]
    found = split(config, data, tmp_path / "rows")
    assert (found.rows, found.of) == (60, 600)

    def asked_in(sources: list[str]) -> set[str]:
        read = load_rows(sources).rows
        return {row.retrieval.question if row.retrieval else str(row.prompt[0]) for row in read}

    assert not asked_in(found.data) & asked_in(found.eval_data)


def test_the_files_are_their_owners_alone(config: TrainConfig, tmp_path: Path) -> None:
    found = split(config, [written(tmp_path / "one.jsonl", plain(300))], tmp_path / "rows")
    for file in (*found.data, *found.eval_data):
        assert Path(file).stat().st_mode & 0o777 == 0o600


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
    # Nor does it leave one side: the file of the other has too long a name.
    long = [written(tmp_path / f"{'x' * 230}.jsonl", plain(200))]
    with pytest.raises(StorageError, match=r"can't write .*held-out"):
        split(config, long, tmp_path / "long")
    assert not (tmp_path / "long").exists()


def test_one_file_that_cannot_be_deleted_keeps_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    (folder / "in the file's place").mkdir(parents=True)
    (folder / "held-out.jsonl").touch()
    written = [folder / "in the file's place", folder / "held-out.jsonl"]
    held_out = HeldOut([], [], 0, 0, written=written)
    with pytest.raises(KeyboardInterrupt), kept_if_begun(held_out, RunDir(tmp_path / "run")):
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == written[:1]


def test_rows_with_dates_are_known_again(config: TrainConfig, tmp_path: Path) -> None:
    """Messages of Parquet files may have such, or numbers that are none: JSON has neither."""
    rows = [
        [
            {"role": "user", "content": f"{number}?", "sent": datetime(2026, 1, 1), "rated": math.nan},
            {"role": "assistant", "content": f"{number}"},
        ]
        for number in range(200)
    ]
    file = tmp_path / "one.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": row} for row in rows]), file)
    found = split(config, [str(file)], tmp_path / "rows")
    begun = with_old_rows(config, found.data, [*config.data.eval, *found.eval_data])
    assert held_out_before(config, begun, [str(file)], tmp_path / "rows") == found
