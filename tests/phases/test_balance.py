"""The balance on the tiny model: searched, cut off, shared by processes, chosen by its rule, confirmed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, current_thread, main_thread
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from filelock import FileLock, Timeout
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig
from typer.testing import CliRunner

from asking import evaluate
from cutting import CutError, cut_at
from report_records import balance_record
from selfaug.cli.balance_view import show_balance
from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.core.pareto import pareto_front
from selfaug.core.statistics import Interval
from selfaug.data import EncodedRow
from selfaug.errors import ConfigError, DivergedError, SelfAugError, StorageError
from selfaug.model.reference import AdapterOff
from selfaug.phases import balance as balance_module
from selfaug.phases import balance_search
from selfaug.phases.balance import BalanceSettings, Point, _finalists, balance, chosen_point
from selfaug.phases.balance_search import Search, beyond
from selfaug.phases.bench import BenchSettings
from selfaug.phases.canary import canary_problems, write_canary, write_canary_anew
from selfaug.phases.chat import open_chat
from selfaug.phases.export import export
from selfaug.phases.inputs import load_training_data
from selfaug.phases.made_of import made_of
from selfaug.phases.progress import Progress
from selfaug.phases.serve import ServeSettings, open_server
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.report.document_text import document_markdown
from selfaug.report.run_report import run_report
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

SETS = ("train.steps=2", "train.save_steps=2", "selfaug.alpha=1", "lora.rank=2")
FEW = BalanceSettings(
    max_forgetting=0.5, trials=3, finalists=2, search_task_items=2, search_general_items=3, scales=(0.5,)
)


def test_it_searches_turns_the_dial_chooses_and_confirms(
    settings, writing_model: Path, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    config = settings(tmp_path / "balance", *SETS, f"model.name={writing_model}")
    told: list[Progress] = []
    record = balance(config, asked, FEW, on_progress=told.append)
    assert len(in_this_process) == len(record["trials"]) == 3
    own = record["trials"][0]["settings"]
    assert own == {"alpha": 1.0, "learning_rate": config.train.learning_rate, "rank": 2, "length": 1.0}
    for trial in record["trials"]:
        assert 1 / 8 <= trial["settings"]["alpha"] <= 8
        assert trial["settings"]["rank"] in (1, 2, 4)
    assert [progress.message for progress in told if progress.stage == "trial"]

    points = [Point(**point) for point in record["points"]]
    assert [point.scale for point in points] == [1.0, 0.5, 1.0, 0.5]
    assert points[1].drift < points[0].drift
    assert record["front"] == pareto_front([(point.general, point.task) for point in points])
    assert points[record["chosen"]] == chosen_point(points, 0.5)[0]
    assert record["test"]["task"]["items"] == 4
    assert record["test"]["general"]["items"] == 6
    assert record["test_gate"]["bound"] == 0.5
    assert set(balance_record()) <= set(record), "records made by hand are as real ones"
    assert set(record["made_of"]["sources"]) == {
        f"{name} {asked.dev[0]}" for name in ("data.train", "--dev", "--test")
    }
    # Not on where it is written, nor on what `selfaug train` would have asked.
    of_config = {
        key: value for key, value in record["settings"]["config"].items() if key not in ("run", "evaluation")
    }
    of_settings = made_of({"model": {}}, {}, {**record["settings"], "config": of_config})
    assert record["made_of"]["settings_sha256"] == of_settings["settings_sha256"]

    # Answers for the search count among those of the development items.
    run = points[0].run
    for suite, count in (("task", 4), ("general", 6)):
        answers = {
            part: read_lines(tmp_path / "balance" / "answers" / f"{part}-{run}-{suite}.jsonl")
            for part in ("search", "dev")
        }
        assert len(answers["search"]) == count // 2
        assert all(row in answers["dev"] for row in answers["search"])
        assert len({row["id"] for row in answers["dev"]}) == len(answers["dev"]) == count

    # The intervals are those of the scores, item by item.
    for point in record["points"]:
        for value, interval in (("task", "task_interval"), ("forgetting", "forgetting_interval")):
            assert point[interval]["value"] == pytest.approx(point[value])
            assert point[interval]["low"] < point[interval]["high"]
    assert record["trials"][0]["task_interval"]["value"] == pytest.approx(record["trials"][0]["task"])

    # The chosen adapter is one for plain PEFT, at its scale.
    chosen = points[record["chosen"]]
    best = tmp_path / "balance" / "best"
    kept = load_file(best / "adapter" / "adapter_model.safetensors")
    trained = load_file(tmp_path / "balance" / "runs" / chosen.run / "adapter" / "adapter_model.safetensors")
    for name, tensor in trained.items():
        torch.testing.assert_close(kept[name], tensor * chosen.scale if "lora_B" in name else tensor)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(writing_model), best / "adapter")

    screen = io.StringIO()
    show_balance(record, tmp_path / "balance", Console(width=160, file=screen))
    assert "chosen" in screen.getvalue()
    assert "forgetting: " in screen.getvalue()

    with pytest.raises(StorageError, match="finished balance"):
        balance(config, asked, FEW)
    with pytest.raises(StorageError, match="finished balance"):
        balance(config, asked, replace(FEW, trials=2, scales=()))


def test_the_chosen_point_is_a_run_like_any_other(
    settings,
    writing_model: Path,
    tiny_rows: Path,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("selfaug.phases.train.write_canary", write_canary)  # which the fixture leaves out
    monkeypatch.setattr(balance_module, "chosen_point", lambda points, _: (points[1], "of the test"))
    monkeypatch.setattr(balance_module, "_cache_pays", lambda *_: True)
    # A file that the point is chosen on, copied into a folder, and another one.
    chosen_on, others = tmp_path / "held-out", tmp_path / "others.jsonl"
    chosen_on.mkdir()
    shutil.copy(tiny_rows, chosen_on)
    write_lines(others, read_lines(tiny_rows)[1:])
    users = ("selfaug.monitor_prompts=3", "selfaug.stop_at_drift=9", "train.keep_checkpoints=4")
    sets = (
        *SETS, *users, f"model.name={writing_model}", f"data.eval={json.dumps([str(chosen_on), str(others)])}",
        "train.report_to=[tracker]", "train.eval_steps=5",
    )  # fmt: skip
    few = replace(FEW, trials=1, finalists=1)
    told: list[Progress] = []
    written: list[str] = []

    def write(run: RunDir, *others: Any) -> None:
        written.append(run.path.name)
        write_canary_anew(run, *others)

    monkeypatch.setattr("selfaug.phases.turned_run.write_canary_anew", write)
    record = balance(settings(tmp_path / "balance", *sets), asked, few, on_progress=told.append)
    warnings = [progress.message for progress in told if progress.stage == "warning"]
    assert warnings[0] == "selfaug.stop_at_drift is left out: every run goes to its last step."
    assert warnings[-1] == "best/ was chosen on rows of data.eval; give others with --data."
    best, trained = (
        RunDir.open(tmp_path / "balance" / name) for name in ("best", f"runs/{record['points'][0]['run']}")
    )
    of_best, of_trained = (read_record(run.record, "train") for run in (best, trained))
    assert of_best["dial"] == {"run": trained.path.name, "scale": 0.5}
    assert of_best["weights"][0]["sha256"] != of_trained["weights"][0]["sha256"]
    # What the user asks and would take over, which no trial has; but not the rows that it was chosen on.
    of_users = load_config(best.config)
    assert of_users.data.eval == [str(others)]
    assert (of_users.selfaug.monitor_prompts, of_users.selfaug.stop_at_drift) == (3, 9)
    assert (of_users.train.keep_checkpoints, of_users.train.eval_steps) == (4, 5)
    assert of_users.train.report_to == ["tracker"]
    of_trials = load_config(trained.config)
    assert of_trials.selfaug.stop_at_drift is None
    # The cache is that of all trials.
    assert (of_trials.selfaug.reference, of_users.selfaug.reference) == ("cache", "auto")
    card = (best.adapter / "README.md").read_text(encoding="utf-8")
    assert "# Model Card for best" in card
    assert "scale 0.5" in card
    manifest = read_record(best.adapter / "selfaug_manifest.json", "manifest")
    assert manifest["weights"] == [{**of_best["weights"][0], "file": "adapter_model.safetensors"}]
    assert "adapter at 0.5 of its change" in document_markdown(run_report(best))

    chat = open_chat(best.path, device="cpu", max_new_tokens=2)
    assert chat.ask("hello").base
    assert canary_problems(best, chat.tuned, AdapterOff(chat.tuned)) == []
    before = open_chat(trained.path, device="cpu")
    assert canary_problems(best, before.tuned, AdapterOff(before.tuned)) != []
    server = open_server(best.path, ServeSettings(port=0, device="cpu", watch=None), log=lambda _: None)
    assert any(name.startswith("best") for name in server.served.names)
    server.served.engine.close()
    assert export(best.path, tmp_path / "exported").step is None
    evaluated = evaluate(
        best.path, level="1", general_items=2, task_items=2, max_new_tokens=2, device="cpu", offline=True
    ).record
    assert evaluated["suites"]["task"]["items"] == 2

    # It is kept as it is where it is chosen again; and another one does not take its place, but comes beside it.
    record = balance(settings(tmp_path / "balance", *sets), asked, replace(few, scales=(0.5, 0.25)))
    assert [point["scale"] for point in record["points"]] == [1.0, 0.5, 0.25]
    assert best.evaluation.exists()
    monkeypatch.setattr(balance_module, "chosen_point", lambda points, _: (points[0], "of the test"))
    more = replace(few, trials=2, scales=(0.5, 0.25))
    before = {file: file.read_bytes() for file in best.path.rglob("*") if file.is_file()}
    told.clear()
    record = balance(settings(tmp_path / "balance", *sets), asked, more, on_progress=told.append)
    assert len(record["trials"]) == 2
    assert {file: file.read_bytes() for file in best.path.rglob("*") if file.is_file()} == before
    assert record["best"] == "best-2"
    assert "best/ stays as it is, for who uses it: the point that is chosen now is best-2/." in [
        progress.message for progress in told
    ]
    warnings = [progress.message for progress in told if progress.stage == "warning"]
    assert warnings[-1] == "best-2/ was chosen on rows of data.eval; give others with --data."
    # Which a later --overwrite knows, if the process is killed before its end.
    assert written == [".best.new", ".best.new"]
    later = RunDir.open(tmp_path / "balance" / "best-2")
    assert load_config(later.config).run.output == str(later.path)
    assert read_record(later.record, "train")["dial"] == {"run": record["points"][0]["run"], "scale": 1.0}
    assert "scale 1" in (later.adapter / "README.md").read_text(encoding="utf-8")


def test_a_finished_search_goes_on_with_more_trials_and_keeps_its_points(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    config, few = settings(tmp_path / "balance", *SETS), replace(FEW, trials=1, finalists=1)
    first = balance(config, asked, few)
    record = balance(config, asked, replace(few, trials=3, scales=(0.25, 0.5, 0.25)))
    assert record["trials"][0] == first["trials"][0]
    assert len(record["trials"]) == len(in_this_process) == 3
    points = [(point["run"], point["scale"]) for point in record["points"]]
    assert {(point["run"], point["scale"]) for point in first["points"]} < set(points)
    assert len(points) == len(set(points))
    assert {scale for _, scale in points} == {1.0, 0.5, 0.25}
    # Another step of the dial, and fewer trials: all that was there can still be chosen.
    wider = balance(config, asked, replace(few, scales=(0.75,)))
    assert wider["trials"] == record["trials"]
    assert {(point["run"], point["scale"]) for point in wider["points"]} > set(points)
    assert {point["scale"] for point in wider["points"]} == {1.0, 0.75, 0.5, 0.25}
    assert wider["settings"]["trials"] == len(in_this_process) == 3
    with pytest.raises(StorageError, match="finished balance"):
        balance(config, asked, replace(few, trials=3, scales=(0.25, 0.5)))
    with pytest.raises(StorageError, match="other settings: seed"):
        balance(config, asked, replace(few, trials=4, seed=1))


@pytest.mark.parametrize("where", ["training", "answers", "dial"])
def test_cut_off_anywhere_it_goes_on(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    config = settings(tmp_path / "balance", *SETS)
    few = replace(FEW, trials=2, finalists=1)

    unlink = Path.unlink

    def unlink_if_unlocked(path: Path, missing_ok: bool = False) -> None:
        """As on Windows."""
        if path.name.startswith("worker-"):
            try:
                FileLock(path).acquire(timeout=0).lock.release()
            except Timeout as error:
                raise PermissionError(path) from error
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_if_unlocked)
    trained = 0

    def cut(progress: Progress) -> None:
        nonlocal trained
        trained += progress.stage == "trial"
        if (
            (where == "answers" and trained == 1 and ": search general" in progress.stage)
            or (where == "dial" and progress.stage == "dial" and progress.done == 1)
        ) and (where != "answers" or "length" in progress.stage):
            raise CutError

    if where == "training":
        kept = balance_search.train_in_own_process

        def fail(config, stage, on_progress):
            if "trial 2" in stage:
                raise CutError
            return kept(config, stage, on_progress)

        balance_search.train_in_own_process = fail  # the fixture takes it back
    with pytest.raises(CutError):
        balance(config, asked, few, on_progress=cut)
    if where == "training":
        balance_search.train_in_own_process = kept
    before = list(in_this_process)
    with pytest.raises(
        StorageError, match=r"other settings: max_forgetting is 0\.5 there, not 0\.4"
    ) as bound:
        balance(config, asked, replace(few, max_forgetting=0.4))
    assert "all trials are trained anew" in str(bound.value.hint)
    with pytest.raises(StorageError, match="other settings: max_forgetting, seed"):
        balance(config, asked, replace(few, max_forgetting=0.4, seed=1))
    more = replace(few, trials=3)
    record = balance(config, asked, more)
    assert len(record["trials"]) == 3
    assert record["failed_trials"] == []
    assert len(in_this_process) == len(set(in_this_process)) == 3  # nothing was trained twice
    assert in_this_process[: len(before)] == before


TRAINS_HERE = """
from selfaug.cli.main import main
from selfaug.phases import balance_search
from selfaug.phases.train import train
from selfaug.records import read_record
from selfaug.rundir import RunDir

def run(config, stage, on_progress):
    run = RunDir(config.run.output)
    return read_record(run.record, "train") if run.is_complete() else train(config).record

balance_search.train_in_own_process = run
main()
"""
"""`selfaug` without a further process for each training, which would import its libraries for seconds."""


def test_two_processes_share_the_search(tiny_model_dir: Path, tiny_rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "balance"
    command = [
        sys.executable, "-c", TRAINS_HERE, "balance", "--model", str(tiny_model_dir), "--train", str(tiny_rows),
        "--dev", str(tiny_rows), "--test", str(tiny_rows), "--output", str(output), "--steps", "2", "--trials", "3",
        "--finalists", "1", "--level", "1", "--general-items", "3", "--task-items", "2", "--max-new-tokens", "2",
        "--set", "train.batch_size=2", "--set", "model.device=cpu", "--max-forgetting", "0.9", "--json",
    ]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    first, second = (json.loads(out) for out, _ in told)
    assert first == second
    assert len(first["trials"]) == 3
    assert len(list((output / "runs").glob("alpha-*"))) == 3


def test_trials_that_fail_are_told_tried_again_and_end_it_when_three_in_a_row_have_not_diverged(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = balance_search.train_in_own_process
    calls = 0

    def run(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            return kept(*arguments)
        raise DivergedError("the loss is not finite") if calls == 2 else SelfAugError("the disk is full")

    monkeypatch.setattr(balance_search, "train_in_own_process", run)
    config, few = settings(tmp_path / "balance", *SETS), replace(FEW, trials=5, finalists=1, scales=())
    told: list[Progress] = []
    with pytest.raises(SelfAugError, match="the disk is full"):
        balance(config, asked, few, on_progress=told.append)
    said = "; the search goes on with other settings."
    assert [said in progress.message for progress in told].count(True) == 3
    assert calls == 5
    # All are tried again. That they fail once more is due to their settings.
    record = balance(config, asked, few, on_progress=told.append)
    assert calls == 9
    assert len(record["trials"]) == 1
    assert [trial["error"] for trial in record["failed_trials"]] == ["the disk is full"] * 4
    assert record["test_prompts_seen"] == {"dev": 4, "train": 4, "dev_trained_on": 4}  # all are of one file
    failed = "4 settings failed: the same command with more --trials than 5 tries again"
    assert told[-1].message == f"{failed}."
    with pytest.raises(StorageError, match="finished balance") as finished:
        balance(config, asked, few)
    assert f"{failed}; or look at" in str(finished.value.hint)


def test_another_processs_failed_trial_does_not_end_it_while_the_own_settings_are_trained(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, few = settings(tmp_path / "balance", *SETS), replace(FEW, trials=2, finalists=1, scales=())
    kept, failed, others = balance_search.train_in_own_process, Event(), []

    with ThreadPoolExecutor() as pool:

        def run(*arguments: Any) -> Any:
            if current_thread() is not main_thread():
                failed.set()
                raise SelfAugError("the loss is not finite")
            if not others:
                others.append(pool.submit(balance, config, asked, few))
                assert failed.wait(200)
            return kept(*arguments)

        monkeypatch.setattr(balance_search, "train_in_own_process", run)
        record = balance(config, asked, few)
        assert others[0].result() == record
    assert [trial["settings"]["alpha"] for trial in record["trials"]] == [1.0]
    assert [trial["error"] for trial in record["failed_trials"]] == ["the loss is not finite"]


def test_own_settings_that_fail_beside_another_processs_trial_are_told(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, few = settings(tmp_path / "balance", *SETS), replace(FEW, trials=2, finalists=1, scales=())
    kept, own, other = balance_search.train_in_own_process, Event(), Event()

    def run(*arguments: Any) -> Any:
        if current_thread() is not main_thread():
            own.set()
            assert other.wait(200)
            raise SelfAugError("the disk is full")
        return kept(*arguments)

    def show(progress: Progress) -> None:
        if progress.message == "other processes are still trying settings; waiting for them.":
            other.set()

    monkeypatch.setattr(balance_search, "train_in_own_process", run)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(balance, config, asked, few)
        assert own.wait(200)
        record = balance(config, asked, few, on_progress=show)
        assert first.result() == record
    assert [trial["settings"]["alpha"] == 1.0 for trial in record["trials"]] == [False]
    assert [trial["settings"]["alpha"] for trial in record["failed_trials"]] == [1.0]
    assert [trial["error"] for trial in record["failed_trials"]] == ["the disk is full"]


def test_held_out_rows_are_left_out_of_every_trial(
    settings, asked: BenchSettings, tiny_rows: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(
        "".join(tiny_rows.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8"
    )
    config = settings(tmp_path / "balance", *SETS, f"data.eval={held_out}", "data.skip_held_out=true")
    balance(config, asked, replace(FEW, trials=1, finalists=1, scales=()))
    run = read_record(tmp_path / "balance" / "runs" / in_this_process[0] / "record.json", "train")
    assert run["data"]["asked_by_held_out"] == {"train": 4}
    assert run["evaluation"] == {}
    best = load_config(tmp_path / "balance" / "best" / "config.yaml")
    assert (best.data.eval, best.data.skip_held_out, best.train.eval_steps) == ([str(held_out)], True, None)


@pytest.mark.parametrize("trials", [1, 2])
def test_own_settings_that_failed_for_a_passing_reason_are_tried_again(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
    trials: int,
) -> None:
    few = replace(FEW, trials=trials, finalists=1, scales=())
    config = settings(tmp_path / "balance", *SETS)

    def fail(*_: Any) -> None:
        raise SelfAugError("the disk is full")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(balance_search, "train_in_own_process", fail)
            with pytest.raises(SelfAugError, match="the disk is full"):
                balance(config, asked, few)
    record = balance(config, asked, few)
    assert len(record["trials"]) == trials
    assert record["trials"][0]["settings"]["alpha"] == 1.0
    assert record["failed_trials"] == []


def test_a_search_without_a_result_is_an_error_that_says_what_failed(
    settings,
    asked: BenchSettings,
    tmp_path: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Search, "run", lambda _: None)
    with pytest.raises(SelfAugError, match="no trial could be trained"):
        balance(settings(tmp_path / "balance", *SETS), asked, FEW)


def test_a_reference_cache_is_shared_where_it_pays_and_has_room(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = SimpleNamespace(config=LlamaConfig(hidden_size=32))
    bench: Any = SimpleNamespace(folder=tmp_path, device=torch.device("cpu"), base=base)
    config = settings(tmp_path, *SETS)  # 2 steps of 4 rows, of 24
    monkeypatch.setattr(EncodedRow, "input_ids", None)  # a list of all rows would have ten times their memory
    asked: list[int] = []

    def reference(trials: int, room: bool) -> str:
        def has_room(size: int, folder: str | None) -> bool:
            asked.append(size)
            return room

        monkeypatch.setattr(balance_module, "has_room", has_room)
        used = balance_module._with_cache(bench, config, replace(FEW, trials=trials))
        assert used.model_copy(update={"selfaug": config.selfaug}) == config
        return used.selfaug.reference

    assert reference(8, room=True) == "auto"
    assert reference(9, room=True) == "cache"
    assert reference(9, room=False) == "auto"
    tokens = sum(len(row.ids) for row in load_training_data(config).train.rows)
    assert 0.8 * tokens < asked[-1] / (32 * 4) < tokens
    # Once a trial has begun, the others are as it is, whatever the cache has left of the disk.
    (tmp_path / "trials").mkdir()
    cached = config.model_copy(update={"selfaug": config.selfaug.model_copy(update={"reference": "cache"})})
    (tmp_path / "trials" / "one.json").write_text(cached.model_dump_json(), encoding="utf-8")
    assert reference(9, room=False) == "cache"


def test_rows_that_have_changed_are_refused_and_overwrite_begins_anew(
    settings, asked: BenchSettings, tiny_rows: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    dev = tmp_path / "dev.jsonl"
    shutil.copy(tiny_rows, dev)
    asked = replace(asked, dev=[str(dev)])
    few = replace(FEW, trials=1, finalists=1, scales=())

    with pytest.raises(CutError):
        balance(settings(tmp_path / "balance", *SETS), asked, few, on_progress=cut_at("dial"))
    dev.write_text(dev.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(StorageError, match="begun with other content") as caught:
        balance(settings(tmp_path / "balance", *SETS), asked, few)
    assert caught.value.problems == [f"--dev {dev}"]
    in_this_process.clear()
    later, users = tmp_path / "balance" / "best-2", tmp_path / "balance" / "best-1"
    for folder in (later, users):
        folder.mkdir()
        write_record(folder / "record.json", "train", {"dial": {"run": "one", "scale": 0.5}})
    for name in ("best-1", "best-2024-05-01", "best-3"):  # no choice is called so, or has no record
        users = users.rename(users.with_name(name))
        if name == "best-3":
            (users / "record.json").unlink()
        with pytest.raises(StorageError, match=f"selfaug did not write: {name}\\."):
            balance(settings(tmp_path / "balance", *SETS), asked, few, overwrite=True)
    users.rmdir()
    balance(settings(tmp_path / "balance", *SETS), asked, few, overwrite=True)
    assert len(in_this_process) == 1
    assert not later.exists()


@pytest.mark.parametrize("output", ["../balance", "."])
def test_a_balance_that_another_process_works_on_is_not_replaced(
    settings, asked: BenchSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    locks = tmp_path / "balance" / "locks"
    locks.mkdir(parents=True)
    (locks / "worker-12-34.lock").touch()  # of one that was killed
    monkeypatch.chdir(locks.parent)
    with (
        FileLock(locks / "worker-77-1.lock"),
        pytest.raises(StorageError, match=r"another process \(PID 77\) works on the balance") as caught,
    ):
        balance(settings(Path(output), *SETS), asked, FEW, overwrite=True)
    assert "leave out --overwrite (or, where the settings say so, give --set" in str(caught.value.hint)
    assert locks.is_dir()
    assert (tmp_path / ".balance.lock").exists()


def test_who_waits_for_another_process_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    with FileLock(tmp_path / "lock") as held:

        def show(progress: Progress) -> None:
            told.append(progress.message)
            held.release()

        for _ in range(2):  # the second time, nobody has it
            with balance_module._waited_for(tmp_path / "lock", "waiting", show):
                pass
    assert told == ["waiting"]


def test_a_shorter_trial_warms_up_in_the_same_share(settings, tmp_path: Path) -> None:
    bench: Any = SimpleNamespace(folder=tmp_path)
    for warmup, steps, expected in (("100", 400, 50), ("1", 400, 1), ("0.1", 400, 0.1)):
        config = settings(tmp_path, f"train.steps={steps}", f"train.warmup={warmup}")
        search = Search(bench, FEW, config, "worker")
        half = optuna.trial.FixedTrial({**search._own(), "steps": 0.5})
        made = search._suggested(half)  # type: ignore[arg-type]
        assert (made.train.steps, made.train.warmup) == (200, expected)


def test_a_drift_limit_is_searched_where_it_is_set(
    settings, asked: BenchSettings, tmp_path: Path, in_this_process: list[str]
) -> None:
    config = settings(tmp_path / "balance", "train.epochs=1", *SETS, "selfaug.drift_limit=0.01")
    record = balance(config, asked, replace(FEW, trials=2, finalists=1, scales=()))
    assert record["trials"][0]["settings"]["drift_limit"] == 0.01
    assert record["trials"][1]["settings"]["drift_limit"] != 0.01
    assert len(record["points"]) == 1
    assert record["knee"] is None


def test_rule_of_choice() -> None:
    def point(task: float, forgetting: float, scale: float = 1.0) -> Point:
        some = Interval(task, task, task)
        return Point("run", scale, task, 0.6 - forgetting, forgetting, 0.01, some, some)

    points = [point(0.9, 0.05), point(0.8, 0.02), point(0.8, 0.01), point(0.5, 0.0)]
    assert chosen_point(points, 0.02)[0] is points[2]
    assert chosen_point(points, 0.5)[0] is points[0]
    assert chosen_point(points[:2], 0.01)[0] is points[1]
    # 25/50 - 24/50 is on a bound of 0.02, and a little beyond it as a float: to all that go by it.
    on = 25 / 50 - 24 / 50
    assert chosen_point([point(0.9, on), point(0.8, 0.0)], 0.02)[0].forgetting == on > 0.02
    assert beyond(on, 0.02) == 0.0
    assert beyond(0.021, 0.02) == pytest.approx(0.001)
    trials = [
        {"run": name, "task": task, "general": 0.5 - lost, "forgetting": lost}
        for name, task, lost in (("on", 0.9, on), ("within", 0.8, 0.0), ("beyond", 0.95, 0.1))
    ]
    best = _finalists(trials, replace(FEW, max_forgetting=0.02))
    assert [trial["run"] for trial in best] == ["on", "within"]
    reason = chosen_point(points[:2], 0.01)[1]
    assert "none of 2 points" in reason
    assert "goes on from here with more --trials" in reason


def test_all_that_is_wrong_is_said_at_once(settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "c", "selfaug.alpha=0", "lora.start_from=runs/before", "lora.dora=true")
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"method": "full"})})
    bad = BalanceSettings(max_forgetting=2, trials=0, finalists=0, scales=(1.5,))
    with pytest.raises(ConfigError) as caught:
        balance(config, BenchSettings(dev=[], test=[]), bad)
    text = str(caught.value)
    for part in (
        "--dev",
        "lora.method full",
        "lora.dora",
        "lora.start_from",
        "alpha",
        "--max-forgetting 2",
        "--trials",
        "--finalists",
        "--scale 1.5: scales",
    ):
        assert part in text
    assert not (tmp_path / "c").exists()
    result = CliRunner().invoke(app, ["balance", "--model", "x", "--train", "y", "--trials", "0"])
    assert result.exit_code == 2
    assert "--trials must be" in result.stderr
