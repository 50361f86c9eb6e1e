"""The demo: its folder with no model at all, and the whole of it, very small, with the real one."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from typer.testing import CliRunner

from demo_records import record
from quiet_libraries import libraries_as_before
from selfaug.cli.main import app
from selfaug.errors import StorageError
from selfaug.eval.general_suite import EXECUTIVE_ITEM, GeneralItem
from selfaug.phases import demo_evaluation
from selfaug.phases.demo import METHODS, QUICK, RECORD_KIND, DemoSettings, comparison_of_demo, run_demo
from selfaug.phases.progress import Progress
from selfaug.phases.suites import select_items
from selfaug.records import read_lines, read_record, write_record
from selfaug.report.demo_report import demo_report
from selfaug.report.open_report import page_of
from selfaug.train import selfaug_trainer
from selfaug.train.anchors import self_anchors
from tiny_models import build

TINY = DemoSettings(steps=2, batch_size=1, task_items=2, general_items=3, rank=2, anchors=1)


def finished(folder: Path, settings: DemoSettings = QUICK) -> Path:
    """A folder as a finished demo leaves it before its page is written."""
    folder.mkdir()
    write_record(folder / "demo.json", "demo-started", {"settings": asdict(settings)})
    write_record(folder / "record.json", RECORD_KIND, record())
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_only_into_weights_that_hold_its_change(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(build("llama-untied", dtype=dtype), lora).save_pretrained(tmp_path)
    monkeypatch.setattr(demo_evaluation, "load_model", lambda name: build("llama-untied", dtype=dtype))
    model = demo_evaluation.tuned_model(tmp_path)
    assert isinstance(model, PeftModel) == (dtype is torch.bfloat16)
    assert not model.training


def test_rows_that_can_not_be_written_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't write into"):
        comparison_of_demo(tmp_path / "file" / "comparison-data")


def test_a_foreign_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="is not empty and not a demo") as refused:
            run_demo(tmp_path, overwrite=overwrite)
        assert refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(StorageError, match="is a file"):
        run_demo(tmp_path / "mine")


def test_overwriting_never_deletes_what_is_not_of_the_demo(tmp_path: Path) -> None:
    folder = finished(tmp_path / "demo")
    (folder / "notes.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(StorageError, match=r"did not write: notes\.txt"):
        run_demo(folder, quick=True, overwrite=True)
    assert (folder / "record.json").exists()


def test_a_demo_with_other_settings_and_a_finished_one_are_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "demo")
    with pytest.raises(StorageError, match="other settings"):
        run_demo(folder)
    (folder / "report.html").touch()
    with pytest.raises(StorageError, match="finished demo") as refused:
        run_demo(folder, quick=True)
    assert "--overwrite" in str(refused.value.hint)


def test_a_finished_demo_that_lost_its_page_is_shown_again(tmp_path: Path) -> None:
    folder = finished(tmp_path / "demo")
    with libraries_as_before():
        result = CliRunner().invoke(app, ["demo", "--quick", "--output", str(folder), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == record()
    assert (folder / "report.html").read_text(encoding="utf-8") == page_of(folder)


def ctrl_c_at(stage: str) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and progress.done:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


def cut_off_at(stage: str) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and progress.done:
            raise KeyboardInterrupt

    return interrupt


def short_items(*which: Any) -> list[GeneralItem]:
    """General requests as the demo selects them, with shorter answers."""
    return [replace(item, max_new_tokens=8) for item in select_items(*which)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A tiny demo, cut off in its second training and again at the first answer of plain LoRA; and its progress."""
    folder = tmp_path_factory.mktemp("demos") / "tiny"
    told: list[Progress] = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")  # of transformers about itself
        # On the real model these would take minutes, and nothing here looks at them: the ends of answers and anchors,
        # and the canary sets of the runs.
        patched.setattr(demo_evaluation, "select_items", short_items)
        patched.setattr(demo_evaluation, "_TASK_TOKENS", 4)
        short = partial(self_anchors, request_tokens=6, completion_tokens=4)
        patched.setattr(selfaug_trainer, "self_anchors", short)
        patched.setattr("selfaug.phases.train.write_canary", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            run_demo(folder, settings=TINY, on_progress=ctrl_c_at("SelfAug: training"))
        assert any((folder / "selfaug" / "checkpoints").glob("checkpoint-*"))
        with pytest.raises(KeyboardInterrupt):
            run_demo(folder, settings=TINY, on_progress=cut_off_at("plain LoRA: task questions"))
        kept = {path.stem: len(read_lines(path)) for path in (folder / "samples").iterdir()}
        assert kept == {"base-task": 2, "base-general": 3, "plain-task": 1}
        run_demo(folder, settings=TINY, on_progress=told.append)
    return folder, told


@pytest.mark.real_model
def test_a_cut_off_demo_goes_on_where_it_was(demo: tuple[Path, list[Progress]]) -> None:
    folder, told = demo
    stages = [progress.stage for progress in told]
    assert not [stage for stage in stages if "training" in stage]
    assert all(progress.done == progress.total for progress in told if progress.stage.startswith("base"))
    models = ["base model", *METHODS.values()]
    assert [stage for stage in dict.fromkeys(stages) if ":" in stage] == [
        *(f"{name}: {part}" for name in models for part in ("task questions", "general requests")),
        *(f"{name}: {part}" for name in METHODS.values() for part in ("drift", "drift over steps")),
    ]
    assert read_record(folder / "record.json", RECORD_KIND)["cut_off"]


@pytest.mark.real_model
def test_the_record_has_all_that_the_page_shows(demo: tuple[Path, list[Progress]]) -> None:
    folder, _ = demo
    written = read_record(folder / "record.json", RECORD_KIND)
    assert written["side_by_side"][0]["id"] == EXECUTIVE_ITEM
    for name in METHODS:
        result = written["results"][name]
        assert result["drift"]["value"] > 0
        assert result["general_items"] == len(read_lines(folder / "samples" / f"{name}-general.jsonl")) == 3
        assert result["task_items"] == len(read_lines(folder / "samples" / f"{name}-task.jsonl")) == 2
        assert [row["step"] for row in written["curves"][name]["steps"]] == [1, 2]
        assert [row["step"] for row in written["curves"][name]["drift"]] == [0, 1, 2]
        assert written["curves"][name]["drift"][0]["drift"] == 0
    assert written["results"]["base"]["leaks"]["value"] == 0
    sources = written["made_of"]["sources"]
    assert {Path(name).name for name in sources} == {"train.jsonl", "template.yaml"}
    assert {len(sha256) for (sha256,) in sources.values()} == {64}
    pictures = next(one for one in demo_report(written).sections if one.title == "Pictures")
    assert len(pictures.blocks) == 4


@pytest.mark.real_model
def test_both_methods_differ_in_alpha_only(demo: tuple[Path, list[Progress]]) -> None:
    folder, _ = demo
    plain, ours = (read_record(folder / name / "record.json", "train") for name in METHODS)
    assert plain["data"]["train"] == ours["data"]["train"]
    differing = {
        (section, key)
        for section, values in ours["settings"].items()
        for key, value in values.items()
        if value != plain["settings"][section][key]
    }
    assert differing == {("selfaug", "alpha"), ("selfaug", "anchors"), ("run", "output")}
    assert (plain["settings"]["selfaug"]["alpha"], ours["settings"]["selfaug"]["alpha"]) == (0, TINY.alpha)


def test_plain_values_of_the_quick_demo_are_smaller() -> None:
    full: dict[str, Any] = asdict(DemoSettings())
    quick = asdict(QUICK)
    different = {key for key in full if full[key] != quick[key]}
    assert different == {"steps", "anchors", "task_items", "general_items"}
    assert all(quick[key] < (full[key] or 688) for key in different)
