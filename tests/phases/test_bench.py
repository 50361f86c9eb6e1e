"""What a bench keeps and loads: answers to changed prompts are made again, models with code of their own are loaded."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from selfaug.config import load_config
from selfaug.errors import DivergedError, SelfAugError, StorageError
from selfaug.eval.drift import measure_drift
from selfaug.phases import bench as bench_module
from selfaug.phases.bench import (
    Bench,
    BenchSettings,
    contents_of_sources,
    day_of,
    open_bench,
    said_of_evaluation,
    said_of_left_out,
    to_the_last_step,
)
from selfaug.phases.inputs import load_base_model
from selfaug.phases.progress import Progress
from selfaug.phases.suites import Suite
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import write_lines, write_record
from selfaug.rundir import RunDir
from tiny_models import build


def bench_of(folder: Path, config: Any, texts: list[str]) -> Bench:
    suite = Suite(
        ids=["0", "1"], texts=texts, prompts=[[1], [2]], limits=[4, 4], choices=[(), ()], score=lambda *_: 0.0
    )
    asked = BenchSettings(dev=["dev"], test=["test"])
    cpu = torch.device("cpu")
    return Bench(
        folder, config, asked, None, None, cpu, {"dev": {"task": suite}}, {}, {}, lambda _: None, date.today()  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_model_is_asked_again_where_a_prompt_has_changed(settings, tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    lines = [{"id": name, "prompt": f"prompt {name}", "answer": "a"} for name in ("0", "1")]
    write_lines(tmp_path / "answers" / "dev-plain-task.jsonl", lines)
    config = settings(tmp_path / "run")
    assert bench_of(tmp_path, config, ["prompt 0", "prompt 1"])._is_answered("dev", "plain")
    assert not bench_of(tmp_path, config, ["prompt 0", "another"])._is_answered("dev", "plain")
    assert not bench_of(tmp_path, config, ["prompt 0", "prompt 1"])._is_answered("dev", "other")
    for limit, is_answered in ((4, True), (3, False)):
        lines[1] |= {"cut_off": True, "limit": limit}
        write_lines(tmp_path / "answers" / "dev-plain-task.jsonl", lines)
        answered = bench_of(tmp_path, config, ["prompt 0", "prompt 1"])._is_answered("dev", "plain")
        assert answered is is_answered


def test_drift_is_measured_anew_on_answers_that_are_longer_since(settings, tmp_path: Path) -> None:
    for folder in ("drift", "answers"):
        (tmp_path / folder).mkdir()
    bench = bench_of(tmp_path, settings(tmp_path / "run"), ["a", "b"])
    bench.tokenizer = lambda text, **_: {"input_ids": [len(word) for word in text.split()]}  # type: ignore[assignment]
    suite = bench.suites["dev"]["task"]
    bench.suites["dev"] = {"general": suite}
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(build("llama-untied"), lora)
    tokens = []
    for answer in ("one", "one", "one and more"):
        answers = [{"id": name, "prompt": text, "answer": answer} for name, text in (("0", "a"), ("1", "b"))]
        for name in ("base", "plain"):
            write_lines(tmp_path / "answers" / f"dev-{name}-general.jsonl", answers)
        tokens.append(bench._is_drift_measured("dev", "plain"))
        bench._measure_drift("dev", "plain", model, "own")
        kept = bench.drift("plain", "dev")
        assert kept is not None
        assert kept["tokens"] == [len(answer.split())] * 2
    assert tokens == [False, True, False]


def test_all_weights_trained_are_loaded_with_the_code_that_the_user_trusts(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(bench_module, "load_model", lambda name, **options: given.update(options))
    config = settings(tmp_path / "run", "lora.method=full", "model.trust_remote_code=true")
    bench_of(tmp_path, config, ["", ""]).model(RunDir(tmp_path / "run"), config)
    assert given["trust_remote_code"] is True


@pytest.mark.parametrize("quantised", [False, True])
def test_an_adapter_is_merged_where_that_rounds_nothing_away(
    quantised: bool, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: Any, **options: Any) -> Any:
        base = load_base_model(*given, **options)
        base.is_quantized = quantised  # as transformers marks weights that are stored so
        return base

    monkeypatch.setattr(bench_module, "load_base_model", load)
    config = load_config(finished_run / "config.yaml")
    model = bench_of(tmp_path, config, ["", ""]).model(RunDir(finished_run), config)
    assert isinstance(model, PeftModel) is quantised
    assert not model.training


def test_drift_of_a_model_with_an_adapter_needs_no_second_model(settings, tmp_path: Path) -> None:
    (tmp_path / "drift").mkdir()
    bench = bench_of(tmp_path, settings(tmp_path / "run"), ["", ""])  # whose base model isn't there
    bench.suites["test"] = {"task": replace(bench.suites["dev"]["task"], prompts=[[3, 4, 5, 6], [7, 8]])}
    for seed in (0, 1):
        torch.manual_seed(seed)
        lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(build("llama-untied"), lora)
        bench._measure_drift("test", f"model-{seed}", model, "task")
        expected = measure_drift(model, [[3, 4, 5, 6], [7, 8]]).per_token
        kept = bench.drift(f"model-{seed}", "test", "task")
        assert kept is not None
        assert kept["nats"] == pytest.approx([sum(nats) for nats in expected])
        assert sum(kept["nats"]) > 0
    assert len(bench._references) == 1  # and the base model under them was asked once


def test_drift_is_measured_on_requests_of_every_kind(settings, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, settings(tmp_path / "run"), ["", ""])
    bench.tokenizer = lambda text, **_: {"input_ids": [7]}  # type: ignore[assignment]
    # Kinds take turns, and a step of two over their order meets the same ones each time.
    count = 2 * 48
    names, turns = [str(number) for number in range(count)], ["fact", "story", "poem", "json"]
    bench.suites["dev"]["general"] = Suite(
        ids=names, texts=names, prompts=[[number] for number in range(count)], limits=[4] * count,
        choices=[()] * count, score=lambda *_: 0.0, kinds=turns * (count // 4),
    )  # fmt: skip
    (tmp_path / "answers").mkdir()
    for suite, ids in (("general", names), ("task", ["0", "1"])):
        answers = [{"id": name, "prompt": name, "answer": "a"} for name in ids]
        write_lines(tmp_path / "answers" / f"dev-base-{suite}.jsonl", answers)

    def asked() -> Counter[str]:
        sequences, starts = bench._own_answers("dev")
        assert set(starts) == {1}
        return Counter(turns[prompt % 4] for prompt, _ in sequences)

    assert asked() == dict.fromkeys(turns, 12)
    bench.add_subset("search", "dev", task=None, general=48)
    assert Counter(bench.suites["search"]["general"].kinds) == dict.fromkeys(turns, 12)


def test_what_was_begun_goes_on_with_the_day_of_its_prompts() -> None:
    assert day_of(None) == date.today().isoformat()
    assert day_of({"day": "2001-02-03"}) == "2001-02-03"


def test_prompts_have_the_day_that_the_folder_was_begun_on_and_those_that_were_trained_on_are_counted(
    settings, tiny_model_dir: Path, tiny_rows: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    model, folder = tmp_path / "model", tmp_path / "bench"
    shutil.copytree(tiny_model_dir, model)
    template = model / "chat_template.jinja"
    dated = "{{ strftime_now('%d %b %Y') }}\n" + template.read_text(encoding="utf-8")
    template.write_text(dated, encoding="utf-8")
    rows = [str(tiny_rows)]
    asked = BenchSettings(dev=rows, test=rows, level="1", general_items=2, task_items=2, max_new_tokens=2)
    told: list[Progress] = []

    config = settings(tmp_path / "run", f"model.name={model}")
    bench = open_bench(folder, config, asked, folder.mkdir, lambda _: None, told.append, date(2001, 2, 3))
    for suites in bench.suites.values():
        assert all("03 Feb 2001" in bench.tokenizer.decode(suite.prompts[0]) for suite in suites.values())
    assert bench.seen == {"dev": 2, "train": 2, "dev_trained_on": 2}
    warnings = [progress.message for progress in told if progress.stage == "warning"]
    assert warnings[1].startswith("of 2 prompts of --dev, 2 are among the training rows")


def test_evaluations_are_switched_off_only_where_held_out_rows_stay(settings, tmp_path: Path) -> None:
    for held_out, expected in (([], None), (["held.jsonl"], 0)):
        values = settings(tmp_path / "run", "data.skip_held_out=true").model_dump()
        values["data"]["eval"] = held_out
        to_the_last_step(values)
        assert values["train"]["eval_steps"] == expected
        assert values["data"]["eval"] == held_out


def test_what_ends_a_run_elsewhere_is_said_to_be_left_out(settings, tmp_path: Path) -> None:
    assert said_of_left_out(settings(tmp_path / "run", "data.eval=held.jsonl")) is None
    stopping = settings(tmp_path / "run", "selfaug.stop_at_drift=0.1")
    assert said_of_left_out(stopping) == (
        "selfaug.stop_at_drift is left out: every run goes to its last step."
    )
    both = settings(
        tmp_path / "run", "selfaug.stop_at_drift=0.1", "data.eval=held.jsonl", "train.best_of_rows=4"
    )
    assert "selfaug.stop_at_drift and train.best_of_rows are left out" in str(said_of_left_out(both))
    assert said_of_evaluation(settings(tmp_path / "run", "evaluation.scorer=f1"), "why") is None
    evaluated = settings(tmp_path / "run", "evaluation.at_end=fast", "evaluation.data=held.jsonl")
    assert said_of_evaluation(evaluated, "why") == "evaluation.at_end and evaluation.data are left out: why."
    own = settings(tmp_path / "run", "evaluation.suites=company.jsonl")
    assert said_of_evaluation(own, "why") == "evaluation.suites is left out: why."
    assert said_of_evaluation(own, "why", with_suites=True) is None


def test_the_base_model_leaves_a_gpu_before_another_model_comes(settings, tmp_path: Path) -> None:
    bench, moved = bench_of(tmp_path, settings(tmp_path / "run"), ["", ""]), []
    bench.device, bench.base = torch.device("cuda"), SimpleNamespace(to=moved.append)

    def load() -> Any:
        assert moved == ["cpu"]
        raise StorageError("what comes now is another test's")

    with pytest.raises(StorageError, match="another test's"):
        bench.answers("plain", "dev", load)


def test_rows_that_a_checkpoint_is_chosen_on_are_known_however_they_are_spelled(
    settings, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_rows.parent)
    link = tmp_path / "link.jsonl"
    link.symlink_to(tiny_rows)
    sources = json.dumps([str(tiny_rows)])
    config = settings(tmp_path / "run", f"data.eval={sources}", "train.best_of_rows=4")
    for source in (str(tiny_rows), tiny_rows.name, f"./{tiny_rows.name}", str(link)):
        assert config.is_chosen_on([source])
    assert config.is_chosen_on([])
    assert not config.is_chosen_on([str(tmp_path / "others.jsonl")])
    assert not settings(tmp_path / "run", f"data.eval={sources}").is_chosen_on([str(tiny_rows)])


def test_what_nobody_reads_in_a_folder_of_rows_changes_nothing(
    settings, tiny_rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    shutil.copy(tiny_rows, folder / "a.jsonl")
    config = settings(tmp_path / "run", f"data.train={folder}")
    asked = BenchSettings(dev=[str(folder)], test=[str(tiny_rows)])
    before = contents_of_sources(config, asked)
    for name in (".DS_Store", ".a.jsonl.swp", "README.md"):
        (folder / name).write_text("x", encoding="utf-8")
    assert contents_of_sources(config, asked) == before
    shutil.copy(tiny_rows, folder / "b.jsonl")
    after = contents_of_sources(config, asked)
    assert {name for name in after if after[name] != before[name]} == {
        f"data.train {folder}",
        f"--dev {folder}",
    }


def test_schemas_that_judge_answers_are_sources_too(settings, tiny_rows: Path, tmp_path: Path) -> None:
    own, inner, suite = tmp_path / "own.json", tmp_path / "inner.json", tmp_path / "mine.jsonl"
    for schema in (own, inner):
        schema.write_text('{"type": "object"}', encoding="utf-8")
    write_lines(suite, [{"question": "An object?", "answer": "{}", "scorer": f"schema:{inner}"}])
    asked = BenchSettings(
        dev=[str(tiny_rows)], test=[str(tiny_rows)], scorer=f"schema:{own}", suites=[str(suite)]
    )
    before = contents_of_sources(settings(tmp_path / "run"), asked)
    for schema in (own, inner):
        schema.write_text('{"type": "array"}', encoding="utf-8")
    after = contents_of_sources(settings(tmp_path / "run"), asked)
    assert {name for name in after if after[name] != before[name]} == {
        f"--scorer {own}",
        f"scorers of --suite {inner}",
    }


def test_a_base_model_that_was_fetched_first_is_known_from_then_on(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work", "comparison", {"record.json"}, last=["record.json"])
    work.open({}, overwrite=False, sources={"model.name hub/id": None, "--dev a": ["1"]})
    work.complete_sources({"model.name hub/id": "first", "--dev a": ["2"], "--dev b": ["3"]})
    work.complete_sources({"model.name hub/id": "later"})
    again = WorkFolder(tmp_path / "work", "comparison", {"record.json"}, last=["record.json"])
    again.open({}, overwrite=False, sources={"model.name hub/id": "first", "--dev a": ["1"]})
    with pytest.raises(StorageError, match="other content") as caught:
        again.open({}, overwrite=False, sources={"model.name hub/id": "another", "--dev a": ["1"]})
    assert caught.value.problems == ["model.name hub/id"]


def test_a_drift_that_is_not_a_number_is_told_with_its_run(settings, tmp_path: Path) -> None:
    (tmp_path / "drift").mkdir()
    bench = bench_of(tmp_path, settings(tmp_path / "run"), ["", ""])
    bench.suites["test"] = {"task": replace(bench.suites["dev"]["task"], prompts=[[3, 4, 5, 6], [7, 8]])}
    model = get_peft_model(build("llama-untied"), LoraConfig(target_modules="all-linear"))
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).fill_(torch.nan)
    for _ in range(2):  # the batches that are kept of it are null
        with pytest.raises(DivergedError, match=r"the drift of full-2-seed0 in .* is not a number") as caught:
            bench._measure_drift("test", "full-2-seed0", model, "task")
        assert "learning_rate" in str(caught.value.hint)
    assert not list((tmp_path / "drift").glob("*.json"))
    # Nor is what is kept of one.
    nothing = {"nats": [None, 0.1], "tokens": [3, 1], "top1_agreement": 0.0}
    write_record(tmp_path / "drift" / "test-full-2-seed0-task.json", "drift", nothing)
    with pytest.raises(SelfAugError, match="is not a number"):
        bench.drift("full-2-seed0", "test", "task")
