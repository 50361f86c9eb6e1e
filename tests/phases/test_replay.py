"""Rows of `data.replay` are drawn evenly over their sources; those of one source as they always were."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from selfaug.config import TrainConfig, dump_config, load_config
from selfaug.data import EncodedRow, load_rows
from selfaug.data.same_prompt import asked_among, learnt_digests
from selfaug.errors import DataError
from selfaug.phases.inputs import load_training_data
from selfaug.phases.learnt import learnt_so_far, write_learnt
from selfaug.phases.run_files import FOLDER
from selfaug.records import write_lines, write_record
from selfaug.rundir import RunDir

Settings = Callable[..., TrainConfig]

TRAINED = 24


def write_source(path: Path, count: int) -> str:
    path.parent.mkdir(exist_ok=True)
    rows = [{"id": f"{path.stem}-{n}", "prompt": f"Say {n}.", "completion": f"{n}"} for n in range(count)]
    write_lines(path, rows)
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Of 3, 100 and 100 rows; the second is a folder of two files."""
    small = write_source(tmp_path / "small.jsonl", 3)
    write_source(tmp_path / "folder" / "one.jsonl", 40)
    write_source(tmp_path / "folder" / "two.jsonl", 60)
    return [small, str(tmp_path / "folder"), write_source(tmp_path / "large.jsonl", 100)]


def replayed(settings: Settings, sources: list[str], share: float, seed: int = 0) -> list[EncodedRow]:
    """The replayed rows, after a check that the report counts them."""
    sets = (f"data.replay={json.dumps(sources)}", f"data.replay_share={share}", f"train.seed={seed}")
    data = load_training_data(settings(Path("run"), *sets))
    rows = data.train.rows[TRAINED:]
    report = data.report["replay"]
    assert report["rows_replayed"] == len(rows) == sum(report["rows_by_source"].values())
    assert report["rows_by_source"] == {one: [row.source for row in rows].count(one) for one in sources}
    return rows


def test_each_source_gives_as_many_rows_or_all_it_has(settings: Settings, sources: list[str]) -> None:
    more_of = set()
    for seed in range(8):
        rows = replayed(settings, sources, 0.5, seed)
        assert len({row.id for row in rows}) == len(rows) == TRAINED
        of = Counter(row.source for row in rows)
        assert of[sources[0]] == 3
        assert {of[sources[1]], of[sources[2]]} == {10, 11}
        more_of.add(of.most_common(1)[0][0])
        assert rows == replayed(settings, sources, 0.5, seed)
    assert more_of == set(sources[1:])  # who gives one more is the seed's
    # They are mixed: neither a source nor a file after another.
    assert [row.source for row in rows] != sorted((row.source for row in rows), key=sources.index)
    assert {row.id.partition("-")[0] for row in rows} == {"small", "one", "two", "large"}


def test_each_row_is_taken_once_before_one_is_taken_twice(settings: Settings, sources: list[str]) -> None:
    rows = replayed(settings, sources, 0.9)  # 216 of 203
    assert len({row.id for row in rows[:203]}) == 203
    assert [Counter(row.source for row in rows)[one] for one in sources] == [3 + 3, 100 + 5, 100 + 5]


def test_fewer_rows_than_sources_are_of_different_ones(settings: Settings, sources: list[str]) -> None:
    found = [{row.source for row in replayed(settings, sources, 0.08, seed)} for seed in range(8)]
    assert {len(of) for of in found} == {2}
    assert set.union(*found) == set(sources)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])  # 3, 24 and 96 rows
@pytest.mark.parametrize("size", [8, 100])
def test_rows_of_one_source_are_drawn_as_they_always_were(
    settings: Settings, tmp_path: Path, share: float, size: int
) -> None:
    source = write_source(tmp_path / "rows.jsonl", size)
    for seed in (0, 42):
        rng, expected = random.Random(f"replay/{seed}"), list[str]()
        count = round(TRAINED * share / (1 - share))
        while len(expected) < count:
            numbers = rng.sample(range(size), size)
            expected += [f"rows-{number}" for number in numbers]
        assert [row.id for row in replayed(settings, [source], share, seed)] == expected[:count]


def test_rows_that_are_left_out_are_named_those_of_replay_too(settings: Settings, tmp_path: Path) -> None:
    train, general = (
        Path(write_source(tmp_path / name, count)) for name, count in (("t.jsonl", 4), ("g.jsonl", 5))
    )
    with train.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "no completion"}\n' * 5)
    with general.open("a", encoding="utf-8") as file:
        file.write('{"completion": "no prompt"}\n')
        file.write(json.dumps({"prompt": "too long " * 5000, "completion": "x"}) + "\n")  # nobody misses it
    config = settings(
        Path("run"), f'data.train=["{train}"]', f'data.replay=["{general}"]', "data.skip_bad_rows=true"
    )
    data = load_training_data(config)
    of_training, of_replay = data.warnings[-2:]
    assert of_training.splitlines() == [
        "5 training rows can't be used and are left out:",
        *(f"  - {train}:{line}: 'completion' is missing; found 'prompt'" for line in (5, 6, 7)),
        "  - and 2 more",
    ]
    assert of_replay.splitlines() == [
        "1 replay row can't be used and is left out:",
        f"  - {general}:6: 'prompt' is missing; found 'completion'",
    ]
    assert (data.report["train"]["rows_skipped"], data.report["replay"]["rows_skipped"]) == (5, 2)


def test_what_a_held_out_row_asks_is_neither_trained_on_nor_replayed(
    settings: Settings, tmp_path: Path
) -> None:
    train, old, held_out = (
        Path(write_source(tmp_path / f"{name}.jsonl", count))
        for name, count in (("t", 30), ("o", 40), ("h", 4))
    )
    names = [f'data.train=["{train}"]', f'data.replay=["{old}"]', "data.replay_share=0.5"]
    as_before = load_training_data(settings(Path("run"), *names, f'data.eval=["{held_out}"]'))
    assert (as_before.report["train"]["rows"], as_before.report["replay"]["rows_available"]) == (30, 40)
    assert "asked_by_held_out" not in as_before.report
    names.append("data.skip_held_out=true")
    data = load_training_data(settings(Path("run"), *names, f'data.eval=["{held_out}"]'))
    assert data.report["asked_by_held_out"] == {"train": 4, "replay": 4}
    assert (data.report["train"]["rows"], data.report["replay"]["rows_available"]) == (26, 36)
    assert "4 training rows are left out: held-out rows ask the same." in data.warnings
    assert not {row.id.partition("-")[2] for row in data.train.rows} & set("0123")
    # Without held-out rows there is nothing to leave out.
    alone = load_training_data(settings(Path("run"), *names))
    assert (alone.report["train"]["rows"], alone.report["replay"]["rows_available"]) == (30, 40)
    # All old rows can be held out now; not all new ones.
    data = load_training_data(
        settings(Path("run"), *names, f'data.eval=["{held_out}"]', f'data.replay=["{held_out}"]')
    )
    assert [warning for warning in data.warnings if "repla" in warning] == [
        "no row is replayed: all of data.replay ask what held-out rows ask."
    ]
    assert ("replay" in data.report, len(data.train.rows)) == (False, 26)
    with pytest.raises(
        DataError, match=r"all 30 rows of data\.train ask what rows of data\.eval ask"
    ) as refused:
        load_training_data(settings(Path("run"), *names, f'data.eval=["{train}"]'))
    assert "data.skip_held_out=false" in str(refused.value.hint)


def test_a_share_of_nothing_reads_no_source(settings: Settings) -> None:
    data = load_training_data(settings(Path("run"), 'data.replay=["gone.jsonl"]', "data.replay_share=0"))
    assert len(data.train.rows) == TRAINED
    assert "replay" not in data.report


def test_a_file_that_another_source_has_too_is_replayed_once(
    settings: Settings, sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Re-alignments gather sources that can be named in several ways."""
    small, folder, large = map(Path, sources)
    monkeypatch.chdir(small.parent)
    named = [str(folder / "two.jsonl"), "small.jsonl", *sources, str(large), f"{folder}/"]
    sets = (f"data.replay={json.dumps(named)}", "data.replay_share=0.9")
    report = load_training_data(settings(Path("run"), *sets)).report["replay"]
    assert [*report["rows_by_source"]] == ["small.jsonl", str(folder), str(large)]
    assert report["rows_available"] == 3 + 100 + 100


def test_new_rows_are_no_old_ones(settings: Settings, tmp_path: Path) -> None:
    """The file of a month lies in the folder that is rehearsed, or has taken the place of what was learnt before."""
    write_source(tmp_path / "exports" / "january.jsonl", 10)
    february = tmp_path / "exports" / "february.jsonl"
    write_lines(february, ({"prompt": f"Say {n}!", "completion": "no"} for n in range(40)))
    sets = (f'data.train=["{february}"]', "data.replay_share=0.2")
    folder = f'data.replay=["{february.parent}"]'
    on = "lora.start_from=runs/first"
    data = load_training_data(settings(Path("run"), *sets, folder, on))
    assert {row.id.partition("-")[0] for row in data.train.rows[40:]} == {"january"}
    assert data.report["replay"]["rows_available"] == 10
    assert any(warning.startswith("40 replay rows are no old ones") for warning in data.warnings)
    # Nothing is new where training goes on from no run.
    assert load_training_data(settings(Path("run"), *sets, folder)).report["replay"]["rows_available"] == 50
    data = load_training_data(settings(Path("run"), *sets, f'data.replay=["{february}"]', on))
    assert ("replay" in data.report, len(data.train.rows)) == (False, 40)
    assert any(warning.startswith("no old row is rehearsed") for warning in data.warnings)


def test_what_the_run_before_has_not_learnt_is_no_old_row(settings: Settings, tmp_path: Path) -> None:
    """Of the files that it was trained with: a later month's, rows behind the old ones, and what is held out by now."""
    exports = tmp_path / "exports"
    january = write_source(exports / "january.jsonl", 10)
    general = write_source(tmp_path / "general.jsonl", 5)
    first = RunDir(tmp_path / "first")
    first.path.mkdir()
    kept = settings(
        first.path, f'data.train=["{exports}"]', f'data.replay=["{general}"]', "data.replay_share=0"
    )
    first.config.write_text(first.config_text(dump_config(kept)), encoding="utf-8")
    write_record(first.started, "train-started", {"data": {"train": {}}, FOLDER: str(tmp_path)})
    write_learnt(first, b"".join(learnt_digests(load_rows([january]).rows)))
    with Path(january).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "appended", "prompt": "Say it.", "completion": "it"}) + "\n")
    for name in ("february", "march"):
        rows = [{"id": f"{name}-{n}", "prompt": f"{name} {n}", "completion": "no"} for n in range(20)]
        write_lines(exports / f"{name}.jsonl", rows)
        write_lines(tmp_path / f"{name}.jsonl", rows[:15])
        write_lines(tmp_path / f"{name}-held-out.jsonl", rows[15:])
    sets = (
        f'data.train=["{tmp_path / "february.jsonl"}"]', f'data.eval=["{tmp_path / "february-held-out.jsonl"}"]',
        f'data.replay=["{exports}", "{general}"]', "data.replay_share=0.5", f"lora.start_from={first.path}",
        "data.skip_held_out=false",
    )  # fmt: skip
    data = load_training_data(settings(tmp_path / "second", *sets), learnt=True)
    # General rows are replayed whether they were learnt or not.
    assert data.report["replay"]["rows_available"] == 10 + 5
    assert {row.id.partition("-")[0] for row in data.train.rows[15:]} == {"january", "general"}
    assert any(warning.startswith("41 replay rows are no old ones") for warning in data.warnings)
    # What it has learnt then are the new rows and these, whatever stands in the files.
    second = RunDir(tmp_path / "second")
    second.path.mkdir()
    second.config.write_text(second.config_text(dump_config(settings(second.path, *sets))), encoding="utf-8")
    write_record(second.started, "train-started", {"data": data.report, FOLDER: str(tmp_path)})
    write_learnt(second, data.learnt)
    found = learnt_so_far(second, load_config(second.config))
    assert found.whole
    every = load_rows([*map(str, (january, exports / "february.jsonl", exports / "march.jsonl"))]).rows
    assert [row.id for row, known in zip(every, asked_among(every, found.digests), strict=True) if known] == [
        *(f"january-{n}" for n in range(10)),
        *(f"february-{n}" for n in range(15)),
    ]
    # Where a run does not say what it has learnt, all that is none of the new rows is old.
    first.learnt.unlink()
    data = load_training_data(settings(tmp_path / "second", *sets))
    assert data.report["replay"]["rows_available"] == 10 + 5 + 1 + 5 + 20
