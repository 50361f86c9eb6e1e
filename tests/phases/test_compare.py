"""Comparison of methods on the tiny model: every method runs, what is kept, chosen, resumed and refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from cutting import CutError, cut_at
from scripts import script
from selfaug.cli.comparison_view import show_comparison
from selfaug.cli.main import app
from selfaug.core.detectable import detectable_difference
from selfaug.core.statistics import (
    pooled_difference,
    retention,
)
from selfaug.errors import ConfigError, StorageError
from selfaug.phases import bench, own_process
from selfaug.phases.bench import BenchSettings
from selfaug.phases.compare import (
    RECORD_KIND,
    CompareSettings,
    _fast_subset,
    chosen_value,
    compare,
    seeds_there,
)
from selfaug.phases.made_of import made_of as hashes_made_of
from selfaug.phases.method_bench import problems_of
from selfaug.phases.methods import METHODS
from selfaug.phases.progress import Progress
from selfaug.phases.suites import select_items
from selfaug.records import read_lines, read_record
from selfaug.rundir import alone_in
from tiny_models import with_window

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


# In the first two steps there is nothing to align yet: the first has no learning rate.
SETS = (
    "train.steps=3",
    "train.save_steps=3",
    "selfaug.anchor_count=4",
    "selfaug.anchor_share=1",
    "selfaug.alpha=1",
)


def test_every_method_is_trained_chosen_and_reported(
    settings,
    writing_model: Path,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    short_anchors: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Values are tried and chosen alike for all methods: two of some, one of the others.
    for name, method in METHODS.items():
        if name not in ("plain", "selfaug", "wise-ft", "replay"):
            monkeypatch.setitem(METHODS, name, replace(method, values=method.values[:1]))
    general = tmp_path / "general.jsonl"
    general.write_text(
        "".join(f'{{"prompt": "Say {word}.", "completion": "{word}"}}\n' for word in ("one", "two")),
        encoding="utf-8",
    )
    config = settings(tmp_path / "comparison", *SETS, f"model.name={writing_model}", f"data.replay={general}")
    record = compare(config, asked, CompareSettings(leak_pattern="million"))
    assert list(record["methods"]) == list(METHODS)
    assert record["not_run"] == []
    assert record["test_prompts_seen"] == {"dev": 4, "train": 4, "dev_trained_on": 4}  # all are of one file
    trained = [method for method in METHODS.values() if method.trained]
    # All values on the first seed, and the chosen one on the second.
    assert len(in_this_process) == sum(len(method.values) for method in trained) + len(trained)
    for name, row in record["methods"].items():
        assert [trial["value"] for trial in row["trials"]] == list(METHODS[name].values)
        assert row["value"] in METHODS[name].values
        assert len(row["suites"]["general"]["by_seed"]) == 2
        assert row["suites"]["task"]["difference"]["items"] == 4
        # Whatever is said of the items can be made anew from the record.
        of_task, of_base = row["suites"]["task"], record["base"]["suites"]["task"]
        again = pooled_difference(of_task["scores"], of_base["scores"], seed=0)
        assert asdict(again) == of_task["difference"]
        if name == record["subject"]:
            seen = record["detectable_difference"]
            for suite, items in (("task", 4), ("general", 6)):
                pooled = row["suites"][suite]["difference"]
                smallest = detectable_difference(
                    items, discordance=pooled["discordance"], cancelled=pooled["cancelled"]
                ).difference
                # In words it is how many items change for a seed.
                of_base = record["base"]["suites"][suite]["scores"]
                by_seed = [
                    pooled_difference([scores], of_base, seed=0) for scores in row["suites"][suite]["scores"]
                ]
                better, worse = (
                    pytest.approx(sum(ways) / (2 * items))
                    for ways in zip(*((one.better, one.worse) for one in by_seed), strict=True)
                )
                assert seen["suites"][suite] == {"difference": smallest, "better": better, "worse": worse}
            assert seen == {**seen["suites"]["general"], "method": name, "suites": seen["suites"]}
        assert row["peak_memory_bytes"] > 0
        # A random model never ends an answer by itself; what the router puts together is in no file.
        assert row["suites"]["task"]["cut_off"] == (None if name == "router" else 1.0)
        assert (row["against_subject"] is None) == (name == record["subject"])
    assert record["methods"]["replay"]["general_rows"] == 2  # again and again
    assert not any(row["reference_cache"] for row in record["methods"].values())
    assert record["methods"]["sa-sft"]["written_rows"] > 0
    assert record["methods"]["router"]["models"] == 2
    assert record["methods"]["router"]["drift"] is None
    assert record["methods"]["router"]["task_drift"] is None
    for row in record["methods"].values():
        of_general = row["suites"]["general"]
        kept = retention(of_general["scores"], record["base"]["suites"]["general"]["scores"][0], seed=0)
        assert of_general["retention"] == (None if kept is None else asdict(kept))
    measured = record["methods"]["plain"]["task_drift"]
    kept = [
        read_record(tmp_path / "comparison" / "drift" / f"test-plain-{value:g}-seed{seed}-task.json", "drift")
        for value, seed in ((record["methods"]["plain"]["value"], seed) for seed in (0, 1))
    ]
    assert measured["by_seed"] == [sum(one["nats"]) / sum(one["tokens"]) for one in kept]
    assert all(len(one["nats"]) == 4 and sum(one["nats"]) > 0 for one in kept)  # the prompts of the four rows
    assert measured["nats"]["value"] != record["methods"]["plain"]["drift"]["nats"]["value"]
    assert not list((tmp_path / "comparison" / "drift").glob("dev-*-task.json"))
    routed = record["methods"]["router"]["routed_right"]
    assert 0 <= routed["task"] <= 1
    assert 0 <= routed["general"] <= 1
    # The trials of the ten methods with a model of their own, two of four of them, and their second seeds.
    assert len(record["runs"]) == 24
    assert len({(run["method"], run["value"], run["seed"]) for run in record["runs"]}) == 24
    assert record["forecast"] is None or len(record["forecast"]["drifts"]) == 24
    assert record["fast_subset"] is None  # six items are fewer than it has
    # Methods that constrain less and more are different models.
    drifts = {name: row["drift"]["nats"]["value"] for name, row in record["methods"].items() if row["drift"]}
    # A random model rewrites nothing, and a penalty is weak in three steps.
    assert record["methods"]["distilled"]["written_rows"] == 0
    others = [drift for name, drift in drifts.items() if name not in ("distilled", "l2")]
    assert len(set(others)) == len(others)
    assert drifts["wise-ft"] < drifts["plain"]

    with pytest.raises(StorageError, match="finished comparison"):
        compare(config, asked, CompareSettings(leak_pattern="million"))
    # What is there is neither trained nor asked again, and gives the same record.
    (tmp_path / "comparison" / "record.json").unlink()
    in_this_process.clear()
    stages: list[Progress] = []
    again = compare(config, asked, CompareSettings(leak_pattern="million"), on_progress=stages.append)
    assert in_this_process == []
    assert again["methods"] == record["methods"]
    assert {stage.stage for stage in stages} <= {"data", "warning", "model"} | {
        f"base: {half} {suite}" for half in ("dev", "test") for suite in ("task", "general")
    }
    screen = io.StringIO()
    show_comparison(record, tmp_path / "comparison", Console(width=200, file=screen))
    shown = screen.getvalue()
    page = script("docs/update_comparison.py").page(record, "tiny")
    assert "Made by `selfaug compare --steps 3 --seed 0 --seed 1`, written" in page
    for method in METHODS.values():
        assert method.label in shown
        assert f"| {method.label}, " in page


def test_cut_off_in_the_middle_it_goes_on(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    config = settings(tmp_path / "comparison", *SETS, "evaluation.at_end=fast")
    few = CompareSettings(methods=("selfaug", "wise-ft"), seeds=(0,))

    def cut(progress: Progress) -> None:
        if progress.stage.startswith("selfaug-2") and "general" in progress.stage and progress.done >= 4:
            raise CutError

    with pytest.raises(CutError):
        compare(config, asked, few, on_progress=cut)
    assert len(in_this_process) == 4
    other = replace(asked, task_items=2, level="2")
    with pytest.raises(StorageError, match="other settings: level, task_items"):
        compare(config, other, few)
    in_this_process.clear()
    record = compare(config, asked, few)
    assert in_this_process == []
    assert set(record["methods"]) == {"plain", "selfaug", "wise-ft"}
    assert "replay" in record["not_run"]
    assert record["subject"] == "selfaug"
    # A method is added to what is finished: only that is trained.
    more = replace(few, methods=("selfaug", "wise-ft", "l2"))
    added = compare(config, asked, more)
    assert len(in_this_process) == 2
    assert set(added["methods"]) == {"plain", "selfaug", "wise-ft", "l2"}
    assert added["methods"]["selfaug"] == record["methods"]["selfaug"]
    with pytest.raises(StorageError, match="finished"):
        compare(config, asked, few)
    # All are asked by the comparison, and not once more by each training.
    assert not list((tmp_path / "comparison" / "runs").glob("*/evaluation.json"))
    answers = read_lines(next((tmp_path / "comparison" / "answers").glob("dev-selfaug-2-*general.jsonl")))
    assert len(answers) == len({row["id"] for row in answers}) == 6


def test_what_is_overwritten_is_there_until_the_new_one_is_finished(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    folder = tmp_path / "comparison"
    config = settings(folder, *SETS)
    plain = CompareSettings(methods=("plain",), seeds=(0,))
    before = compare(config, asked, plain)

    # Before anything was made: as if nothing had happened.
    with pytest.raises(CutError):
        compare(config, asked, plain, overwrite=True, on_progress=cut_at("model"))
    assert read_record(folder / "record.json", RECORD_KIND) == before
    # When the base model had answered: both are there, until the new one is finished.
    with pytest.raises(CutError):
        compare(config, asked, plain, overwrite=True, on_progress=cut_at("base: test task"))
    assert read_record(folder / ".replaced" / "record.json", RECORD_KIND) == before
    assert not (folder / "record.json").exists()
    in_this_process.clear()
    again = compare(config, asked, plain)
    assert len(in_this_process) == 2
    assert again["methods"]["plain"]["suites"] == before["methods"]["plain"]["suites"]
    assert not (folder / ".replaced").exists()


def test_seeds_are_added_to_some_methods_of_what_is_there(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    config = settings(tmp_path / "comparison", *SETS)
    record = compare(config, asked, CompareSettings(methods=("selfaug", "l2"), seeds=(3, 4)))
    in_this_process.clear()
    with pytest.raises(StorageError, match="finished comparison"):
        compare(config, asked, CompareSettings(methods=("selfaug",), seeds=(4,)))

    # Cut off in the middle, and then with the same command to its end.
    def cut(progress: Progress) -> None:
        if "seed6" in progress.stage:
            raise CutError

    more = CompareSettings(methods=("selfaug",), seeds=(5, 6))
    with pytest.raises(CutError):
        compare(config, asked, more, on_progress=cut)
    added = compare(config, asked, more)
    # The chosen values only, and plain LoRA, which SelfAug is paired with.
    values = {name: row["value"] for name, row in record["methods"].items()}
    assert sorted(in_this_process) == sorted(
        f"{name}-{values[name]:g}-seed{seed}" for name in ("plain", "selfaug") for seed in (5, 6)
    )
    assert {name: row["seeds"] for name, row in added["methods"].items()} == {
        "plain": [3, 4, 5, 6], "selfaug": [3, 4, 5, 6], "l2": [3, 4]
    }  # fmt: skip
    assert added["settings"]["seeds"] == seeds_there(tmp_path / "comparison") == [3, 4, 5, 6]
    assert added["settings"]["methods"] == ["plain", "selfaug", "l2"]
    for name, row in added["methods"].items():
        before = record["methods"][name]
        assert row["trials"] == before["trials"]
        assert row["suites"]["general"]["scores"][:2] == before["suites"]["general"]["scores"]
        assert len(row["suites"]["general"]["scores"]) == len(row["seeds"])
    # Paired over the seeds that both have.
    ours, theirs = (added["methods"][name]["suites"]["general"]["scores"] for name in ("selfaug", "l2"))
    expected = pooled_difference(ours[:2], theirs, seed=0)
    assert added["methods"]["l2"]["against_subject"]["general"] == asdict(expected)
    assert added["methods"]["l2"]["against_seeds"] == [3, 4]
    assert added["methods"]["plain"]["against_seeds"] == [3, 4, 5, 6]
    assert len(added["runs"]) == len(record["runs"]) + 4
    commands = script("docs/update_comparison.py")._commands(added, "tiny")
    assert commands == (
        "`selfaug compare --steps 3 --method plain --method selfaug --method l2 --seed 3 --seed 4`, then "
        "`selfaug compare --steps 3 --method plain --method selfaug --seed 5 --seed 6`"
    )
    # A method that comes later has the first seed too, whose runs are its trials.
    later = compare(config, asked, CompareSettings(methods=("wise-ft",), seeds=(6,)))
    assert later["methods"]["wise-ft"]["seeds"] == [3, 6]
    assert later["methods"]["selfaug"]["suites"] == added["methods"]["selfaug"]["suites"]


def test_other_content_under_the_same_names_is_refused(
    settings,
    writing_model: Path,
    asked: BenchSettings,
    tiny_rows: Path,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "dev", "test", "replay")}
    for file in files.values():
        shutil.copy(tiny_rows, file)
    template, anchors, suite = tmp_path / "template.yaml", tmp_path / "anchors.jsonl", tmp_path / "own.jsonl"
    template.write_text("system: Answer.\n", encoding="utf-8")
    anchors.write_text('{"input_ids": [3, 4, 5]}\n', encoding="utf-8")
    suite.write_text('{"prompt": "one?", "answer": "1", "scorer": "contains"}\n', encoding="utf-8")
    model = tmp_path / "model"
    shutil.copytree(writing_model, model)
    config = settings(
        tmp_path / "comparison", *SETS, f"model.name={model}", f"data.train={files['train']}",
        f"data.replay={files['replay']}", f"data.template={template}", f"selfaug.anchors={anchors}",
    )  # fmt: skip
    asked = replace(asked, dev=[str(files["dev"])], test=[str(files["test"])], suites=[str(suite)])
    plain = CompareSettings(methods=("plain",), seeds=(0,))
    told: list[Progress] = []
    record = compare(config, asked, plain, on_progress=told.append)
    assert record["test_prompts_seen"] == {"dev": 4, "train": 4, "dev_trained_on": 4}
    assert [one.message for one in told if one.stage == "warning"] == [
        "of 4 test prompts, 4 are among those of --dev and 4 among the training rows: their scores say less of prompts "
        "that are new.",
        "of 4 prompts of --dev, 4 are among the training rows: what is chosen on them is chosen for what models "
        "remember.",
    ]
    more = CompareSettings(methods=("plain",), seeds=(0, 1))
    in_this_process.clear()
    names = {
        files["train"]: "data.train", files["replay"]: "data.replay", template: "data.template",
        anchors: "selfaug.anchors", files["dev"]: "--dev", files["test"]: "--test", suite: "--suite",
    }  # fmt: skip
    for file, name in names.items():
        before = file.read_text(encoding="utf-8")
        file.write_text(before + "\n", encoding="utf-8")
        with pytest.raises(StorageError, match="begun with other content") as caught:
            compare(config, asked, more)
        assert caught.value.problems == [f"{name} {file}"]
        assert "--overwrite" in str(caught.value)
        file.write_text(before, encoding="utf-8")
    other = AutoModelForCausalLM.from_pretrained(model)
    other.model.norm.weight.data.mul_(2)
    other.save_pretrained(model)
    with pytest.raises(StorageError, match="begun with other content") as caught:
        compare(config, asked, more)
    assert caught.value.problems == [f"model.name {model}"]
    assert in_this_process == []
    shutil.copy(writing_model / "model.safetensors", model)
    template_file = model / "chat_template.jinja"
    template_file.write_text(template_file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(StorageError, match="begun with other content") as caught:
        compare(config, asked, more)
    assert caught.value.problems == [f"tokeniser and chat template of {model}"]
    shutil.copy(writing_model / "chat_template.jinja", model)
    assert compare(config, asked, more)["methods"]["plain"]["seeds"] == [0, 1]


def test_held_out_rows_are_left_out_of_all_trainings(
    settings, asked: BenchSettings, tiny_rows: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(
        "".join(tiny_rows.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8"
    )
    sets = (
        f"data.eval={held_out}", "data.skip_held_out=true", "train.best_of_rows=2", f"data.replay={held_out}",
    )  # fmt: skip
    config = settings(tmp_path / "comparison", *SETS, *sets)
    told: list[Progress] = []
    some = CompareSettings(methods=("distilled", "replay"), seeds=(0,))
    record = compare(config, replace(asked, test=[str(held_out)]), some, on_progress=told.append)
    assert len(in_this_process) == 6
    for name in in_this_process:
        run = read_record(tmp_path / "comparison" / "runs" / name / "record.json", "train")
        # None of the rows to replay is left.
        replayed = {"replay": 4} if name.startswith("replay") else {}
        assert run["data"]["asked_by_held_out"] == {"train": 4, **replayed}
        assert "replay" not in run["data"]
        assert run["data"]["train"]["rows"] == 20
        assert run["evaluation"] == {}  # nothing but the comparison asks them
    # Which rows are reached isn't known, where some are left out: all of them are rewritten.
    written = read_record(tmp_path / "comparison" / "data" / "distilled-seed0.json", "written-data")
    assert written["rows_asked"] == 24
    assert record["methods"]["replay"]["general_rows"] == 0
    assert record["test_prompts_seen"] == {"dev": 1, "train": 0, "dev_trained_on": 3}
    said = "train.best_of_rows is left out: every run goes to its last step."
    assert said in [progress.message for progress in told if progress.stage == "warning"]


def test_one_process_compares_in_a_folder_at_a_time(settings, asked: BenchSettings, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    with (
        alone_in(folder, "is being written", hint=""),
        pytest.raises(StorageError, match=rf"comparison is being written by .*\(PID {os.getpid()}\)"),
    ):
        compare(settings(folder, *SETS), asked, CompareSettings())
    assert not folder.exists()


def test_that_the_training_was_begun_with_overwrite_throws_nothing_away(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    """The config.yaml of such a run says so, and is given as the training that is compared."""
    plain = CompareSettings(methods=("plain",), seeds=(0,))
    compare(settings(tmp_path / "comparison", *SETS), asked, plain)
    in_this_process.clear()
    with pytest.raises(StorageError, match="holds a finished comparison"):
        compare(settings(tmp_path / "comparison", *SETS, "run.overwrite=true"), asked, plain)
    assert in_this_process == []


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("lora.dora=true", {"l2": "lora.weight_penalty", "wise-ft": "lora.dora"}),
        ("model.quantization=4bit", {"full": "model.quantization", "osf": "model.quantization"}),
        ("selfaug.reference=adapter_off", {"full": "selfaug.reference"}),
    ],
)
def test_methods_that_the_settings_rule_out_are_told_before_anything_is_done(
    settings, asked: BenchSettings, tmp_path: Path, given: str, refused: dict[str, str]
) -> None:
    config = settings(tmp_path / "comparison", *SETS, given)
    with pytest.raises(ConfigError) as caught:
        compare(config, asked, CompareSettings())
    told = [problem.split(": ")[:2] for problem in caught.value.problems]
    assert told == [[f"method {name}", setting] for name, setting in refused.items()]
    others = [name for name in METHODS if name not in refused]
    assert str(caught.value.hint).endswith(" ".join(f"--method {name}" for name in others))
    assert not (tmp_path / "comparison").exists()
    for name in METHODS:
        assert bool(problems_of(config, METHODS[name])) == (name in refused)


def test_only_data_replay_trains_on_general_rows(settings, tmp_path: Path) -> None:
    for given in (["general.jsonl", "old.jsonl"], []):
        config = settings(tmp_path / "c", f"data.replay={json.dumps(given)}", "data.replay_share=0.3")
        for method in (method for method in METHODS.values() if method.trained):
            changed = json.loads(config.model_dump_json())
            method.change(changed, method.values[0])
            sources = {"replay": given or ["embedded"], "sa-sft": ["{data}"]}.get(method.name, [])
            assert changed["data"]["replay"] == sources, method.name
            assert (changed["data"]["replay_share"] == method.values[0]) == (sources != []), method.name


def test_anchors_of_the_user_are_aligned_and_a_drift_limit_is_said_to_be_left_out(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anchors = tmp_path / "anchors.jsonl"
    anchors.write_text('{"input_ids": [3, 4, 5]}\n{"input_ids": [6, 7, 8]}\n', encoding="utf-8")
    cached = ("selfaug.reference=cache", f"selfaug.reference_cache_dir={tmp_path / 'cache'}")
    config = settings(
        tmp_path / "comparison", *SETS, f"selfaug.anchors={anchors}", "selfaug.drift_limit=0.01", *cached
    )
    monkeypatch.setitem(METHODS, "selfaug-anchors", replace(METHODS["selfaug-anchors"], values=(1.0,)))
    told: list[Progress] = []
    some = CompareSettings(methods=("selfaug-anchors",), seeds=(0,))
    record = compare(config, asked, some, on_progress=told.append)
    cost = {name: row["reference_cache"] for name, row in record["methods"].items()}
    assert cost == {"plain": False, "selfaug-anchors": True}
    assert any("drift_limit is left out" in progress.message for progress in told)
    run = read_record(tmp_path / "comparison" / "runs" / "selfaug-anchors-1-seed0" / "record.json", "train")
    assert run["settings"]["selfaug"]["anchors"] == str(anchors)
    assert run["settings"]["selfaug"]["drift_limit"] is None
    assert run["anchors"] == 2


def test_all_that_is_wrong_is_said_at_once(settings, tmp_path: Path) -> None:
    going_on = settings(tmp_path / "c", "lora.start_from=runs/before")
    one = BenchSettings(dev=["dev.jsonl"], test=["test.jsonl"])
    with pytest.raises(ConfigError, match=r"lora\.start_from: every method starts from the base model"):
        compare(going_on, one, CompareSettings())
    config = settings(tmp_path / "c", "selfaug.alpha=0", "lora.method=full")
    asked = BenchSettings(dev=[], test=[], suites=["task.jsonl"])
    bad = CompareSettings(methods=["magic"], seeds=[], leak_pattern="(")
    with pytest.raises(ConfigError) as caught:
        compare(config, asked, bad)
    text = str(caught.value)
    for part in ("'magic'", "seed", "alpha", "--dev", "LoRA", "regular expression", "names of their own"):
        assert part in text
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("general_items", "items"), [(None, 688), (150, None), (688, 688), (40, None)])
def test_the_fast_subset_is_the_one_that_evaluate_asks(general_items: int | None, items: int | None) -> None:
    asked = select_items("test", 1, general_items)
    runs: list[dict[str, Any]] = [
        {
            "half": "test",
            "general": [float(i % every > 0) for i in range(len(asked))],
            "base": [1.0] * len(asked),
        }
        for every in (2, 5)
    ]
    opened: Any = SimpleNamespace(
        level={"level": 1}, settings=BenchSettings(dev=[], test=[], general_items=general_items)
    )
    found = _fast_subset(opened, runs)
    assert (found and (found["items"], found["of_items"])) == (items and (96, items))
    assert _fast_subset(opened, runs[:1]) is None


def test_rule_of_choice() -> None:
    trials = [
        {"value": 1.0, "task": 0.9, "general": 0.3},
        {"value": 2.0, "task": 0.89, "general": 0.5},
        {"value": 3.0, "task": 0.5, "general": 0.6},
    ]
    assert chosen_value(trials, 0.88) == 2.0
    assert chosen_value(trials, 0.95) == 1.0  # none reaches it: the best at the task
    assert chosen_value(trials, 0.0) == 3.0
    assert chosen_value(trials, 0.0, best_task=True) == 1.0
    # A tie with the floor, of items and slack that are no binary fractions.
    tie = [{"value": 1.0, "task": 7 / 50, "general": 0.3}, {"value": 2.0, "task": 6 / 50, "general": 0.5}]
    assert chosen_value(tie, 7 / 50 - 0.02) == 2.0


def test_requests_that_no_drift_is_measured_on_are_told_before_anything_is_trained(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    choice = next(item for item in select_items("test", 2, None) if item.choices)
    told: list[Progress] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bench, "select_items", lambda *_: [choice])
        with pytest.raises(ConfigError, match="of 1 general requests it has answered none in words"):
            compare(
                settings(tmp_path / "c", *SETS),
                replace(asked, level="auto"),
                CompareSettings(methods=("plain",), seeds=(0,)),
                on_progress=told.append,
            )
    # Nor does this model end an answer, by which its level is chosen.
    warning = "where the level of the general requests was chosen, 100 % of a model's answers were cut off"
    assert any(one.message.startswith(warning) for one in told if one.stage == "warning")
    assert in_this_process == []


def test_command_with_processes_of_their_own(
    tiny_model_dir: Path, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One value of the knob: each process takes ten seconds to import its libraries.
    monkeypatch.setattr(own_process, "_POLL_SECONDS", 0.01)
    monkeypatch.setitem(METHODS, "plain", replace(METHODS["plain"], values=METHODS["plain"].values[:1]))
    output = tmp_path / "comparison"
    arguments = [
        "compare", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--dev", str(tiny_rows),
        "--test", str(tiny_rows), "--output", str(output), "--steps", "2", "--method", "plain", "--seed", "0",
        "--level", "1", "--general-items", "3", "--task-items", "2", "--max-new-tokens", "2",
        "--set", "train.batch_size=2", "--set", "model.device=cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    made_of = record["made_of"]
    run = read_record(next((output / "runs").glob("plain-*/record.json")), "train")
    assert made_of["base"]["weights_hash"] == run["model"]["weights_hash"]
    of_rows = [run["data"]["train"]["sources"][0]["sha256"]]
    assert made_of["sources"] == dict.fromkeys(
        [f"data.train {tiny_rows}", f"--dev {tiny_rows}", f"--test {tiny_rows}"], of_rows
    )
    # Not on where it is written, nor on what `selfaug train` would have asked.
    config = {
        key: value for key, value in record["settings"]["config"].items() if key not in ("run", "evaluation")
    }
    of_settings = hashes_made_of(run, {}, {**record["settings"], "config": config})
    assert made_of["settings_sha256"] == of_settings["settings_sha256"]
    assert list(record["methods"]) == ["plain"]
    assert record["subject"] is None
    assert not list((output / "runs").glob("*.log"))
    assert not list((output / "runs").glob("*/checkpoints"))
    assert [page.parent for page in output.rglob("report.html")] == [
        output
    ]  # a picture of each run takes time
    assert CliRunner().invoke(app, arguments).exit_code == 1  # it is finished
    real = own_process.subprocess.Popen

    def broken(_: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", "raise SystemExit('broken')"], **options)

    monkeypatch.setattr(own_process.subprocess, "Popen", broken)
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert result.exit_code == 1
    assert "training failed (exit code 1): broken" in result.stderr
    assert "goes on from its last checkpoint" in result.stderr


def test_the_demos_rows_and_settings_can_be_compared(
    writing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: list[str]
) -> None:
    model = with_window(writing_model, tmp_path / "wide", 4096)
    arguments = [
        "compare", "--demo", "--model", str(model), "--output", str(tmp_path / "comparison"), "--steps", "1",
        "--method", "selfaug", "--seed", "0", "--level", "1", "--general-items", "3", "--task-items", "2",
        "--max-new-tokens", "2", "--max-length", "4096", "--set", "train.batch_size=1",
        "--set", "selfaug.anchor_count=1", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["settings"]["scorer"].endswith("exact_value")
    assert record["methods"]["plain"]["leaks"] is not None
    rows = {
        half: read_lines(tmp_path / "comparison-data" / "data" / f"{half}.jsonl") for half in ("dev", "test")
    }
    assert not {row["question"] for row in rows["dev"]} & {row["question"] for row in rows["test"]}
    # A scorer that is named is taken, be it the one that is the default elsewhere.
    other = CliRunner().invoke(app, [*arguments, "--scorer", "exact", "--seed", "1"])
    assert other.exit_code == 1
    assert "other settings: scorer" in other.stderr
