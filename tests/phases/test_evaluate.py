"""Evaluation of a finished run of the tiny model: what is compared, kept, refused and decided."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from asking import evaluate
from cutting import CutError, cut_at
from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.general_suite import LEVELS, general_suite
from selfaug.phases.drift_suites import measured_drifts
from selfaug.phases.evaluate import RECORD_KIND, _compare_benchmarks
from selfaug.phases.evaluation_settings import hash_of_items
from selfaug.phases.lm_eval_suites import Benchmark
from selfaug.phases.progress import Progress
from selfaug.phases.suites import Suite, spread_over_sources
from selfaug.phases.train import train
from selfaug.records import append_line, read_lines, read_record, write_lines, write_record
from selfaug.rundir import RunDir
from tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

FEW: dict[str, Any] = {
    "level": "1",
    "general_items": 4,
    "task_items": 5,
    "max_new_tokens": 4,
    "device": "cpu",
}


def length_of(answer: str, gold: str) -> float:
    """A scorer of the user's: anything from 0 to 1."""
    return 1 / (1 + len(answer))


def too_much(answer: str, gold: str) -> float:
    return 2.0


def test_both_models_answer_everything_and_the_record_says_so(
    settings, writing_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(settings(run, f"model.name={writing_model}", f"data.eval={settings(run).data.train[0]}"))
    told: list[Progress] = []
    result = evaluate(run, **{**FEW, "level": "auto"}, on_progress=told.append)
    warnings = [progress.message for progress in told if progress.stage == "warning"]
    stages = [progress.stage for progress in told if progress.stage != "warning"]
    record = read_record(run / "evaluation.json", RECORD_KIND)
    assert result.record == record
    assert result.outcome is None
    assert list(dict.fromkeys(stages)) == [
        "data", "model", "base: which level", "base: task", "tuned: task", "base: general", "tuned: general",
        "drift: prompts of the task", "drift: general prompts", "drift: the base model's own answers",
    ]  # fmt: skip
    for name, items in (("task", 5), ("general", 4)):
        suite = record["suites"][name]
        assert suite["items"] == len(suite["scores"]) == items
        for model in ("base", "tuned"):
            lines = read_lines(run / "samples" / "evaluation" / f"{name}-{model}.jsonl")
            assert {line["id"] for line in lines} == set(suite["scores"])
            values = [scores[model] for scores in suite["scores"].values()]
            assert suite[model]["value"] == pytest.approx(sum(values) / items)
        differences = [scores["tuned"] - scores["base"] for scores in suite["scores"].values()]
        assert suite["difference"]["difference"]["value"] == pytest.approx(sum(differences) / items)
    assert list(record["drift"]) == ["prompts of the task", "general prompts", "the base model's own answers"]
    for kind, drift in record["drift"].items():
        assert drift["nats"]["value"] > 0
        assert len(drift["by_tenth"]) == 10
        shown = [
            text
            for text in read_lines(run / "samples" / "evaluation" / "drift.jsonl")
            if text["kind"] == kind
        ]
        assert shown
        for text in shown:
            assert len(text["tokens"]) == len(text["nats"])
            assert text["nats"][0] is None
        means = [
            sum(nats) / len(nats) for nats in ([n for n in text["nats"] if n is not None] for text in shown)
        ]
        assert means == sorted(means, reverse=True)
    # Five prompts of the task: all are shown, and their nats are the mean that is reported.
    task = [t for t in read_lines(run / "samples" / "evaluation" / "drift.jsonl") if "task" in t["kind"]]
    every = [n for text in task for n in text["nats"] if n is not None]
    assert record["drift"]["prompts of the task"]["tokens"] == len(every)
    assert record["drift"]["prompts of the task"]["nats"]["value"] == pytest.approx(sum(every) / len(every))
    # The base model never ends an answer by itself, and the tuned one ends some.
    for name, own_limits in (("task", False), ("general", True)):
        assert record["suites"][name]["cut_off"]["base"] == 1.0
        assert record["suites"][name]["own_limits"] is own_limits
        rows = read_lines(run / "samples" / "evaluation" / f"{name}-tuned.jsonl")
        cut = [row["cut_off"] for row in rows if "cut_off" in row]  # a choice is no answer that could be
        assert record["suites"][name]["cut_off"]["tuned"] == sum(cut) / len(cut)
    assert min(record["suites"][name]["cut_off"]["tuned"] for name in ("task", "general")) < 1
    learnt, cut_off = warnings
    assert learnt.startswith("5 of 5 held-out rows are training rows, too: ")
    assert record["trained_on"] == {"rows": 5, "of": 5}
    assert "were cut off at their limit" in cut_off
    assert record["level"]["cut_off"] == 1.0
    assert record["level"]["cut_off_by_level"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    assert record["suites"]["general"]["cut_off_by_level"]["base"] == {"1": 1.0}
    # A model that knows nothing is asked the easiest.
    assert record["level"]["level"] == 1
    assert set(record["level"]["scores"]) == {"1", "2", "3"}
    # The prompt of a task row is the one that it was trained with, and not a word of its completion.
    first = read_lines(run / "samples" / "evaluation" / "task-base.jsonl")[0]
    assert first["prompt"].endswith("<|im_start|>assistant\n")
    assert RunDir.open(run).is_complete()


def test_an_evaluation_that_was_cut_off_goes_on(copied_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CutError):
        evaluate(copied_run, **FEW, batch_size=2, on_progress=cut_at("tuned: general", 3))
    work = copied_run / "samples" / "evaluation"
    before = read_lines(work / "general-tuned.jsonl")
    assert len(before) == 3
    assert not (copied_run / "evaluation.json").exists()
    with pytest.raises(StorageError, match="cut off, with another max_new_tokens"):
        evaluate(copied_run, **{**FEW, "max_new_tokens": 5})
    done: list[tuple[str, int]] = []
    older = {
        **(begun := read_record(work / "started.json", "evaluation-started"))["versions"][0],
        "torch": "1.0",
    }
    write_record(work / "started.json", "evaluation-started", {**begun, "versions": [older]})
    append_line(work / "worked.jsonl", {"seconds": 1e6})
    worked = [line["seconds"] for line in read_lines(work / "worked.jsonl")]
    assert 0 < worked[0] < 1e6
    assert len(worked) == 2  # what was refused is not among them
    told: list[str] = []

    def look(progress: Progress) -> None:
        done.append((progress.stage, progress.done))
        told.append(progress.message)

    record = evaluate(copied_run, **FEW, batch_size=2, on_progress=look).record
    assert any("goes on with other versions" in one and "(before: 1.0)" in one for one in told)
    assert (record["versions_before"], record["versions"]) == ([older], begun["versions"][0])
    after = read_lines(work / "general-tuned.jsonl")
    assert all(row in after for row in before)
    bases = read_lines(work / "general-base.jsonl")
    assert [row["id"] for row in after] == [row["id"] for row in bases], "in one order, however it was made"
    assert ("base: task", 5) in done
    assert ("base: task", 2) not in done
    whole = read_record(copied_run / "evaluation.json", RECORD_KIND)["suites"]
    assert read_record(copied_run / "evaluation.json", RECORD_KIND)["seconds"] > sum(worked)
    with pytest.raises(StorageError, match="has an evaluation already"):
        evaluate(copied_run, **FEW)
    again = evaluate(copied_run, **FEW, overwrite=True).record["suites"]
    assert again == whole
    assert read_record(copied_run / "evaluation.json", RECORD_KIND)["seconds"] < 1e6


def test_drift_that_was_measured_before_a_kill_is_kept(copied_run: Path) -> None:
    def cut(progress: object) -> None:
        if getattr(progress, "stage", "") == "drift: general prompts":  # the task's are measured then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(copied_run, **FEW, on_progress=cut)
    so_far = copied_run / "samples" / "evaluation" / "drift-so-far.jsonl"
    marked = [{**line, "nats": [[7.0] * len(nats) for nats in line["nats"]]} for line in read_lines(so_far)]
    write_lines(so_far, marked)
    # As if it was begun before the versions of libraries were written down.
    started, told = so_far.with_name("started.json"), list[str]()
    begun = read_record(started, "evaluation-started")
    versions = begun.pop("versions")
    write_record(started, "evaluation-started", begun)
    record = evaluate(copied_run, **FEW, on_progress=lambda progress: told.append(progress.message)).record
    drift = record["drift"]
    assert ([record["versions"]], record["versions_before"]) == (versions, [{}])
    assert sum("which versions it was begun with isn't known" in one for one in told) == 1
    assert not so_far.exists()
    assert drift["prompts of the task"]["nats"]["value"] == drift["general prompts"]["nats"]["value"] == 7.0


def test_answers_to_rows_that_have_changed_since_are_asked_for_again(
    copied_run: Path, tmp_path: Path
) -> None:
    held_out = tmp_path / "dev.jsonl"
    rows = [
        {"prompt": f"the revenue of {name}", "completion": " none"} for name in ("first", "second", "third")
    ]

    def write() -> None:
        write_lines(held_out, rows)

    write()
    given = {**FEW, "data": [str(held_out)]}
    with pytest.raises(CutError):
        evaluate(copied_run, **given, batch_size=1, on_progress=cut_at("tuned: task", 2))
    rows[0]["prompt"] = "the profit of the first"
    write()
    evaluate(copied_run, **given)
    for model in ("base", "tuned"):
        asked = [
            line["prompt"]
            for line in read_lines(copied_run / "samples" / "evaluation" / f"task-{model}.jsonl")
        ]
        assert len(asked) == 3
        assert "the profit of the first" in asked[0]


def test_files_that_have_changed_since_decide_no_gate(copied_run: Path, tmp_path: Path) -> None:
    rows, schema, suite = tmp_path / "dev.jsonl", tmp_path / "schema.json", tmp_path / "mine.jsonl"
    inner = tmp_path / "inner.json"
    inner.write_text('{"type": "object"}', encoding="utf-8")
    line = {"question": "An object?", "answer": "{}", "scorer": f"schema:{inner}"}
    rows.write_text('{"prompt": "the revenue of the first", "completion": " none"}\n', encoding="utf-8")
    schema.write_text('{"type": "object"}', encoding="utf-8")
    suite.write_text(f'{{"question": "2 + 2?", "answer": "4"}}\n{json.dumps(line)}\n', encoding="utf-8")
    asked = {**FEW, "data": [str(rows)], "scorer": f"schema:{schema}", "suites": [str(suite)]}
    evaluate(copied_run, **asked)
    changes = (
        (rows, "none", "some"),
        (schema, "object", "array"),
        (suite, '"4"', '"four"'),
        (inner, "object", "array"),
    )
    for changed, old, new in changes:
        assert evaluate(copied_run, **asked, max_forgetting=1.0).outcome == "pass"
        before = (copied_run / "evaluation.json").read_bytes()
        content = changed.read_text()
        changed.write_text(content.replace(old, new), encoding="utf-8")
        told = "with another suites" if changed == suite else f"was evaluated before {changed} changed"
        with pytest.raises(StorageError, match=re.escape(told)) as refused:
            evaluate(copied_run, **asked, max_forgetting=1.0)
        assert "--overwrite" in str(refused.value.hint)
        assert (copied_run / "evaluation.json").read_bytes() == before
        changed.write_text(content, encoding="utf-8")
    for changed, old, new in changes:
        changed.write_text(changed.read_text().replace(old, new), encoding="utf-8")
    assert evaluate(copied_run, **asked, max_forgetting=1.0, overwrite=True).outcome == "pass"
    # What is gone is not needed for a decision.
    rows.rename(tmp_path / "moved.jsonl")
    assert evaluate(copied_run, **asked, max_forgetting=1.0).outcome == "pass"


def test_a_suite_from_a_function_is_the_same_in_each_process() -> None:
    class Polite:
        description = "says please"

        def passes(self, answer: str) -> bool:
            return "please" in answer

    def made(prompt: str) -> list[GeneralItem]:
        return [GeneralItem("one", "politeness", 1, prompt, (Polite(),), 4)]

    first, second = made("Ask for the salt."), made("Ask for the salt.")
    assert repr(first) != repr(second)  # where the checks lie in memory
    assert hash_of_items(first) == hash_of_items(second) != hash_of_items(made("Ask for sugar."))


def test_items_of_a_benchmark_are_compared_with_themselves_only() -> None:
    def of(*prompts: str) -> Benchmark:
        items = [
            {"id": f"t {n}", "prompt": one, "answer": "a", "score": 1.0} for n, one in enumerate(prompts)
        ]
        return Benchmark(items, {})

    assert _compare_benchmarks("t", of("a", "b"), of("a", "b"))["items"] == 2
    for other in (of("a", "c"), of("a"), of("a", "b", "c")):
        with pytest.raises(StorageError, match="different items of t"):
            _compare_benchmarks("t", of("a", "b"), other)


def test_a_question_that_is_longer_than_the_window_is_refused(copied_run: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine.jsonl"
    suite.write_text(
        json.dumps({"id": "long", "question": "What " * 300, "answer": "4"}) + "\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="1 of 1 questions of a suite don't fit") as caught:
        evaluate(copied_run, **FEW, suites=[str(suite)])
    assert "the model's window 256" in str(caught.value.problems)


def test_an_overwritten_evaluation_is_there_until_the_new_one_has_answers(copied_run: Path) -> None:
    evaluate(copied_run, **FEW)
    files = (copied_run / "evaluation.json", copied_run / "samples" / "evaluation" / "general-base.jsonl")
    before = [file.read_bytes() for file in files]

    with pytest.raises(CutError):
        evaluate(copied_run, **{**FEW, "level": "2"}, overwrite=True, on_progress=cut_at("base: task"))
    assert [file.read_bytes() for file in files] == before
    with pytest.raises(CutError):
        evaluate(copied_run, **FEW, batch_size=2, overwrite=True, on_progress=cut_at("base: task", 4))
    hidden = copied_run / "samples" / ".replaced"
    assert (hidden / "evaluation.json").read_bytes() == before[0]
    assert not files[0].exists()
    evaluate(copied_run, **FEW, batch_size=2)
    assert files[0].exists()
    assert not hidden.exists()


def test_scorers_of_the_user(copied_run: Path) -> None:
    here = "test_evaluate"
    record = evaluate(copied_run, **FEW, scorer=f"{here}:length_of").record
    assert 0 < record["suites"]["task"]["base"]["value"] <= 1
    for scorer, message in (
        ("nonsense", "there is no scorer"),
        ("no.such.module:f", "can't be imported"),
        (f"{here}:missing", "can't be imported"),
        (f"{here}:too_much", "not a score between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(copied_run, **FEW, scorer=scorer, overwrite=True)


def command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        app,
        [
            "evaluate",
            *arguments,
            "--level",
            "1",
            "--general-items",
            "3",
            "--max-new-tokens",
            "2",
            "--device",
            "cpu",
        ],
    )
    return result.exit_code, result.stdout, result.stderr


def test_the_same_answers_by_other_scorers(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(copied_run, **FEW, also_score=["f1", "exact"]).record
    assert list(first["also"]) == ["f1"]  # the scorer itself is there already
    asked: list[str] = []
    monkeypatch.setattr("selfaug.phases.both_models.answers_to", lambda *_, **__: asked.append("asked"))
    own = f"{__name__}:length_of"
    record = evaluate(copied_run, **FEW, also_score=[own]).record
    assert not asked
    assert record["also"]["f1"] == first["also"]["f1"]
    answers = read_lines(copied_run / "samples" / "evaluation" / "task-tuned.jsonl")
    want = {line["id"]: length_of(line["answer"].strip(), "") for line in answers}
    got = {name: scores["tuned"] for name, scores in record["also"][own]["scores"].items()}
    assert got == pytest.approx(want)
    assert record["suites"] == first["suites"]
    flags = ["evaluate", str(copied_run), "--level", "1", "--general-items", "4", "--task-items", "5"]
    flags += ["--max-new-tokens", "4", "--device", "cpu"]
    shown = CliRunner().invoke(app, [*flags, "--also-score", "contains"])
    assert shown.exit_code == 0, shown.output
    for name in ("task (exact)", "task (f1)", "task (contains)"):
        assert name in shown.output
    assert "The job, by other scorers" in (copied_run / "report.html").read_text(encoding="utf-8")


def test_an_empty_name_is_refused_before_the_current_folder_is_read(copied_run: Path) -> None:
    told: list[Progress] = []
    with pytest.raises(DataError, match="an empty name was given for a source of rows"):
        evaluate(copied_run, **{**FEW, "data": [""]}, overwrite=True, on_progress=told.append)
    assert told == []


def test_other_scorers_are_refused_before_anything_is_asked(copied_run: Path) -> None:
    rows = [{"id": "a", "prompt": "the revenue", "completion": " the region"}]
    held_out = copied_run.parent / "words.jsonl"
    write_lines(held_out, rows)
    few = {**FEW, "data": [str(held_out)]}
    work = copied_run / "samples" / "evaluation"
    with pytest.raises(ConfigError, match="there is no scorer 'f2'"):
        evaluate(copied_run, **few, also_score=["f2"])
    with pytest.raises(DataError, match="can't be scored so"):
        evaluate(copied_run, **few, also_score=["numeric"])
    assert not list(work.glob("task-*.jsonl"))
    evaluate(copied_run, **few)
    with pytest.raises(DataError, match="can't be scored so"):
        evaluate(copied_run, **few, also_score=["numeric"])
    answers = work / "task-base.jsonl"
    (line,) = read_lines(answers)
    answers.unlink()
    append_line(answers, {**line, "prompt": "another"})
    # As on the next day, where a chat template writes the date.
    with pytest.raises(StorageError, match="has not the answers to these rows") as caught:
        evaluate(copied_run, **few, also_score=["f1"])
    assert "date_string" in str(caught.value.hint)


def test_gate_and_its_exit_codes(copied_run: Path) -> None:
    run = str(copied_run)
    code, out, told = command(run, "--max-forgetting", "1", "--min-task-gain", "-1", "--task-items", "3")
    assert code == 0, told
    assert "! 3 of 3 held-out rows are training rows, too" in out
    assert "gate: pass" in out
    page = (copied_run / "report.html").read_text(encoding="utf-8")
    assert "3 of 3 held-out rows are training rows, too" in page
    assert "most changes would likely go unseen" in out
    code, out, _ = command(run, "--min-task-gain", "1", "--task-items", "3", "--overwrite", "--json")
    assert code == 3
    assert json.loads(out)["gate"]["outcome"] == "fail"
    # A random model passes next to nothing: there is nothing to forget that a bound could tell.
    code, out, told = command(run, "--max-forgetting", "0.9", "--task-items", "3")
    assert code == 3, told
    assert "of these: it could forget all of it and stay within the bound" in out
    shares = ("--min-task-score", "1", "--min-retention", "0.955")
    code, out, _ = command(run, "--min-task-gain", "1", *shares, "--task-items", "3")
    assert code == 3
    assert "at least 100.0 % wanted" in out
    assert "at least 95.5 % wanted" in out
    # Without bounds nothing is decided; what was is shown.
    code, out, told = command(run, "--also-score", "f1", "--task-items", "3")
    assert code == 0, told
    assert "gate: fail" in out
    code, out, _ = command(run, "--task-items", "2", "--overwrite")
    assert code == 0
    assert "gate:" not in out
    assert command(run, "--half", "both")[0] == 2
    assert CliRunner().invoke(app, ["evaluate", run, "--level", "4"]).exit_code == 2


def test_a_finished_evaluation_is_gated_without_asking_again(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluate(copied_run, **FEW).record
    assert before["gate"] is None
    card = copied_run / "adapter" / "README.md"
    assert "general requests | 4 |" in card.read_text(encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr("selfaug.phases.evaluate.load_run_models", None)
        gated = evaluate(copied_run, **FEW, max_forgetting=1.0, min_task_gain=1.0)
        assert gated.outcome == gated.record["gate"]["outcome"] == "fail"
        assert [bound["name"] for bound in gated.record["gate"]["bounds"]] == ["forgetting", "task gain"]
        assert {**gated.record, "gate": None} == before
        assert read_record(copied_run / "evaluation.json", RECORD_KIND) == gated.record
        for _ in range(2):  # the same bounds again decide nothing anew, nor those of a record without units
            record = read_record(copied_run / "evaluation.json", RECORD_KIND)
            record["gate"]["bounds"] = [
                {name: value for name, value in bound.items() if name != "unit"}
                for bound in record["gate"]["bounds"]
            ]
            write_record(copied_run / "evaluation.json", RECORD_KIND, record)
            anew = evaluate(copied_run, **FEW, max_forgetting=1.0)
            assert anew.outcome == "pass"
            (first,) = anew.record["gates_before"]
            assert [bound["name"] for bound in first["bounds"]] == ["forgetting", "task gain"]
        # Nor is the base model needed, wherever it was.
        file = copied_run / "config.yaml"
        settings = file.read_text()
        for gone in ("/gone/model", "models/my model", "models/gone"):
            moved = re.sub("^  name: .*$", f"  name: {gone}", settings, count=1, flags=re.MULTILINE)
            file.write_text(moved)
            assert load_config(file).model.name == gone
            assert evaluate(copied_run, **FEW, max_forgetting=1.0).outcome == "pass"
        file.write_text(settings)
        decided = (
            "Gate: pass (forgetting at most 100 points: pass). Before, on the same answers: fail (forgetting"
        )
        assert decided in card.read_text(encoding="utf-8")
        for _ in range(2):
            shares = evaluate(copied_run, **FEW, min_retention=0.9, min_task_score=0.85).record
        assert "task score at least 85 %: " in card.read_text(encoding="utf-8")
        kept, score = shares["gate"]["bounds"]
        assert (kept["name"], score["name"]) == ("retention", "task score")
        suites = shares["suites"]
        none = dict.fromkeys(("value", "low", "high"))
        assert kept["value"] == (suites["general"]["retention"] or none)
        assert (kept["items"], score["items"]) == (4, 5)
        assert score["value"] == suites["task"]["tuned"]
        assert len(shares["gates_before"]) == 2
        assert evaluate(copied_run, **FEW, min_task_gain=-0.01).outcome == "inconclusive"
        with pytest.raises(StorageError, match=r"already\.") as refused:
            evaluate(copied_run, **FEW)
        assert "--max-forgetting" in str(refused.value.hint)
        with pytest.raises(StorageError, match="already, with another level, scorer"):
            evaluate(copied_run, **{**FEW, "level": "2"}, scorer="f1", max_forgetting=1.0)
    # As if it had been given at once.
    at_once = evaluate(copied_run, **FEW, max_forgetting=1.0, min_task_gain=1.0, overwrite=True).record
    assert at_once["gate"] == gated.record["gate"]


def test_a_run_without_a_canary_set_gets_that_of_its_training(
    copied_run: Path, tiny_rows: Path, tmp_path: Path
) -> None:
    """As one whose weights were sharded, which can't answer in the process that trains them."""
    run = RunDir(copied_run)
    record = evaluate(copied_run, **FEW).record
    of_training = read_record(run.canary, "canary")

    told: list[str] = []

    def found(**given: Any) -> tuple[dict[str, Any], str]:
        run.canary.unlink(missing_ok=True)
        told.clear()
        found = evaluate(copied_run, **FEW, **given, on_progress=lambda one: told.append(one.message)).record
        return found, [one for one in told if "canary set" in one][-1]

    # To an evaluation that is there it is added, and nothing is asked again.
    added, last = found()
    assert added == record
    assert "had no canary set: it is recorded now, of 12 prompts" in last
    # Both take long where weights and rows are many.
    assert {
        "comparing the weights with those that training has written ...",
        "reading the held-out rows, for prompts of a canary set ...",
    } < set(told)
    assert read_record(run.canary, "canary") == of_training
    # Not by a gate, which loads no model.
    assert "give the same command without bounds" in found(max_forgetting=1.0)[1]
    assert not run.canary.exists()
    # From other rows than those of the training it would not be the same.
    rows = tmp_path / "other.jsonl"
    write_lines(rows, read_lines(tiny_rows)[1:])
    run.config.write_text(run.config.read_text().replace(str(tiny_rows), str(rows)))
    _, last = found(overwrite=True)
    assert "of 8 prompts" in last
    assert "All are general ones: its held-out rows can't be read" in last
    assert read_record(run.canary, "canary")["prompts"] == of_training["prompts"][4:]
    # Nor are other weights what was trained.
    file = run.adapter / "adapter_model.safetensors"
    save_file({name: 1.1 * weight for name, weight in load_file(file).items()}, file)
    assert "no canary set is recorded: the weights in" in found(overwrite=True)[1]
    assert not run.canary.exists()


def test_what_the_checkpoint_was_chosen_on_is_not_reported(settings, tiny_rows: Path, tmp_path: Path) -> None:
    rows, other, folder = f"data.eval={tiny_rows}", tmp_path / "other.jsonl", tmp_path / "held-out"
    write_lines(other, read_lines(tiny_rows)[1:])
    folder.mkdir()
    copy = shutil.copy(tiny_rows, folder / "copy.jsonl")
    train(settings(tmp_path / "run", rows, "train.best_of_rows=2", "train.steps=2"))
    for given in ([], [str(tiny_rows)], [str(other), str(tiny_rows)], [str(copy)], [str(folder)]):
        with pytest.raises(ConfigError, match=r"chosen on rows of data\.eval") as refused:
            evaluate(tmp_path / "run", **FEW, data=given)
        assert "--data" in str(refused.value.hint)
    assert evaluate(tmp_path / "run", **FEW, data=[str(other)]).record["suites"]["task"]["items"] == 5


def test_rows_are_asked_of_every_source_and_all_over_each(copied_run: Path) -> None:
    files = {name: copied_run.parent / f"{name}.jsonl" for name in ("many", "few")}
    for (name, file), rows in zip(files.items(), (8, 2), strict=True):
        write_lines(
            file, [{"id": f"{name}{i}", "prompt": f"row {i}", "completion": f" {i}"} for i in range(rows)]
        )
    asked = {**FEW, "data": [str(file) for file in files.values()]}
    told = evaluate(copied_run, **asked).record
    # Two are all that the second source has; the number is the row's among all.
    chosen = ["0: many0", "2: many2", "5: many5", "8: few0", "9: few1"]
    assert list(told["suites"]["task"]["scores"]) == chosen
    answers = read_lines(copied_run / "samples" / "evaluation" / "task-base.jsonl")
    assert [line["prompt"].partition("row ")[2][0] for line in answers] == ["0", "2", "5", "0", "1"]


def test_rows_are_spread_over_sources() -> None:
    assert spread_over_sources(["a"] * 5, None) == [0, 1, 2, 3, 4]
    assert spread_over_sources(["a"] * 5, 9) == [0, 1, 2, 3, 4]
    assert spread_over_sources(["a"] * 6, 3) == [0, 2, 4]
    assert spread_over_sources(["a", "b", "a", "a", "b", "a"], 4) == [0, 1, 3, 4]
    assert spread_over_sources(["a"] * 10 + ["b"] * 10 + ["c"], 6) == [0, 3, 6, 10, 15, 20]
    assert spread_over_sources(["a", "b", "c"], 2) == [0, 1]
    assert spread_over_sources([], 3) == []


def test_fast_is_a_subset_of_both_suites(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfaug.eval.general_suite.FAST_ITEMS", 5)
    few = ("--task-items", "3", "--level", "1", "--max-new-tokens", "2")
    asked = ["evaluate", str(copied_run), "--fast", *few, "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["suites"]["general"]["items"], record["suites"]["task"]["items"]) == (5, 3)


def test_a_task_gain_needs_rows(copied_run: Path) -> None:
    settings = copied_run / "config.yaml"
    content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    content["data"]["eval"] = []
    settings.write_text(RunDir(copied_run).config_text(yaml.safe_dump(content)), encoding="utf-8")
    with pytest.raises(
        ConfigError, match="--min-task-gain and --min-task-score and --also-score: needs held"
    ):
        evaluate(copied_run, **FEW, min_task_gain=0.1, min_task_score=0.5, also_score=["f1"])
    assert list(evaluate(copied_run, **FEW).record["suites"]) == ["general"]


def test_right_answers_that_state_no_amount_are_told_before_anything_is_asked(copied_run: Path) -> None:
    held_out = copied_run.parent / "words.jsonl"
    rows = [("a", " $12 million"), ("b", " the region")]
    write_lines(held_out, ({"id": name, "prompt": "the revenue", "completion": text} for name, text in rows))
    with pytest.raises(DataError, match="1 of 2 held-out rows can't be scored so") as caught:
        evaluate(copied_run, **FEW, data=[str(held_out)], scorer="numeric")
    assert "b: the right answer" in caught.value.problems[0]
    assert "numeric-or-f1" in str(caught.value.hint)
    assert not list(copied_run.glob("evaluation*"))


def test_drift_is_measured_on_requests_of_every_kind(tiny_model_dir: Path, tmp_path: Path) -> None:
    count = 2 * 64
    kinds = ["fact", "story", "poem", "json"] * (count // 4)  # a step of two meets two of them
    names = [f"{kind}-{number}" for number, kind in enumerate(kinds)]
    general = Suite(
        ids=names, texts=names, prompts=[[1 + number % 9, 3] for number in range(count)], limits=[4] * count,
        choices=[()] * count, score=lambda *_: 0.0, kinds=kinds,
    )  # fmt: skip
    model = get_peft_model(build("llama-untied"), LoraConfig(target_modules="all-linear"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    found, _ = measured_drifts(
        model, None, tokenizer, {"general": general}, [""] * count, tmp_path / "drift.jsonl", lambda _: lambda *_: None
    )  # fmt: skip
    asked = [name.partition("-")[0] for name in found["general prompts"]["by_prompt"]]
    assert {kind: asked.count(kind) for kind in kinds} == dict.fromkeys(kinds, 16)
    for level in (None, *LEVELS):  # of all kinds that are answered in words, 48 requests and more have some
        items = [item for item in general_suite("test", level) if not item.choices]
        for most in (48, 64, 96):
            places = spread_over_sources([item.kind for item in items], most)
            assert {items[place].kind for place in places} == {item.kind for item in items}


def test_suites_of_the_user(copied_run: Path, tmp_path: Path) -> None:
    lines = [
        {"id": "a", "question": "What is 2 + 2?", "answer": "4"},
        {
            "id": "b",
            "prompt": "A bird?",
            "choices": ["a hen", "a cat", "the old grey donkey"],
            "answer_index": 0,
        },
        {"id": "c", "question": "Say yes", "answer": "yes", "scorer": "exact"},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    record = evaluate(copied_run, **FEW, suites=[str(file)]).record
    assert list(record["suites"]) == ["task", "mine", "general"]
    assert set(record["suites"]["mine"]["scores"]) == {"a", "b", "c"}
    drift = record["drift"]["prompts of mine"]
    assert set(drift["by_prompt"]) == {"a", "b", "c"}
    assert min(drift["by_prompt"].values()) <= drift["nats"]["value"] <= max(drift["by_prompt"].values())
    answers = {
        row["id"]: row["answer"]
        for row in read_lines(copied_run / "samples" / "evaluation" / "mine-tuned.jsonl")
    }
    assert answers["b"] in lines[1]["choices"]
    # A change in the file is another evaluation.
    (copied_run / "evaluation.json").unlink()
    file.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(StorageError, match="with another suites"):
        evaluate(copied_run, **FEW, suites=[str(file)])
    with pytest.raises(ConfigError, match="names of their own"):
        evaluate(copied_run, **FEW, suites=[str(tmp_path / "task.jsonl")], overwrite=True)
    with pytest.raises(DataError, match="does not exist"):
        evaluate(copied_run, **FEW, suites=[str(tmp_path / "none.jsonl")], overwrite=True)
