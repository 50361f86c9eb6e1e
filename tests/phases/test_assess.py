"""Assessment with the tiny model: the data's checks, the probe, what is kept, and the verdict's words."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from selfaug.cli.main import app
from selfaug.config import TrainConfig
from selfaug.core.detectable import detectable_difference
from selfaug.core.statistics import expected_design_effect
from selfaug.data import EncodedRow
from selfaug.errors import ConfigError, DataError, ModelError, StorageError
from selfaug.eval.general_suite import general_suite, spread_over_kinds
from selfaug.phases.assess import (
    RECORD_KIND,
    _design_effect,
    _probe_config,
    _surprise,
    assess,
    proposed_budget,
    verdict,
)
from selfaug.phases.data_checks import AskedRow, asked_rows, check_data, similar_questions
from selfaug.phases.inputs import load_training_data
from selfaug.phases.progress import Progress
from selfaug.phases.suites import AskSettings
from selfaug.records import read_record
from selfaug.retrieval.tokens import Words
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]

ASK = AskSettings(general_items=3, task_items=4, max_new_tokens=2)
FEW: dict[str, Any] = {"ask": ASK, "probe_steps": 2}


def test_probe_is_plain_and_what_was_cut_off_goes_on(
    settings: Settings, tiny_rows: Path, tmp_path: Path
) -> None:
    planned = ("lora.method=full", "train.learning_rate=1e-5", "train.warmup=100", "train.steps=100")
    config = settings(
        tmp_path / "a", f"data.eval={tiny_rows}", "selfaug.alpha=2", "selfaug.anchors=self", *planned
    )
    told: list[str] = []

    def cut(progress: Progress) -> None:
        told.append(progress.message)
        if progress.stage == "base: general":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess(config, **FEW, on_progress=cut)
    assert not (tmp_path / "a" / "record.json").exists()
    stages: list[str] = []
    record = assess(config, **FEW, on_progress=lambda progress: stages.append(progress.stage))
    assert "probe: plain LoRA" not in stages  # it was complete
    assert "base model on the rows" not in stages
    assert record == read_record(tmp_path / "a" / "record.json", RECORD_KIND)
    probe = read_record(tmp_path / "a" / "probe" / "record.json", "train")
    assert probe["settings"]["selfaug"]["alpha"] == 0
    # Full fine-tuning is planned: its learning rate is none for an adapter.
    assert (probe["settings"]["lora"]["method"], probe["settings"]["train"]["learning_rate"]) == (
        "lora",
        2e-4,
    )
    assert probe["settings"]["train"]["warmup"] == 2
    said = (
        "the probe is plain LoRA all the same, at LoRA's default learning rate (0.0002), and full fine-tuning"
    )
    assert any(f"lora.method is full: {said}" in message for message in told)
    assert said[1:] in record["verdict"]
    assert probe["steps"] == record["probe"]["steps"] == 2
    assert set(record["suites"]) == {"task", "general"}
    # The budget is of what `selfaug evaluate` will ask, not of the three that were asked here.
    asked_later = len(general_suite("test", record["level"]["level"]))
    assert record["suites"]["general"]["items"] == 3 < record["budget_items"] == asked_later
    assert record["budget"] == proposed_budget(
        detectable_difference(asked_later).difference, record["suites"]["general"]["base"]["value"]
    )
    assert record["made_of"]["base"]["weights_hash"] == probe["model"]["weights_hash"]
    assert set(record["made_of"]["sources"]) == {f"data.{part} {tiny_rows}" for part in ("train", "eval")}
    assert record["environment"] == probe["environment"]
    assert record["surprise"]["rows"] == 24
    assert 0 < record["surprise"]["completion_nll"] < 20
    leaked = next(finding for finding in record["findings"] if finding["name"] == "leakage")
    assert leaked == {
        "name": "leakage", "status": "warning", "found": "24 of 24 held-out prompts are trained on"
    }  # fmt: skip
    with pytest.raises(StorageError, match="finished assessment"):
        assess(config, **FEW)
    with pytest.raises(StorageError, match="finished assessment"):
        assess(config, **{**FEW, "probe_steps": 3})


def test_the_budget_goes_by_forms_of_one_request_that_were_not_asked_here() -> None:
    """The first 96 of level 3 are 96 different ones; all 336 are forms of 208."""
    clusters = [item.cluster for item in general_suite("test", 3)]
    few = [item.cluster for item in spread_over_kinds(general_suite("test", 3), 96)]
    assert len(set(few)) == 96
    general = {"items": 96, "difference": {"design_effect": 1.0}}
    assumed = expected_design_effect(clusters, 0.1)
    assert _design_effect(general, clusters) == assumed > 1.05
    # As measured where all were asked, and as far as some of the few went together.
    whole = {"items": len(clusters), "difference": {"design_effect": 1.03}, "clusters": clusters}
    assert _design_effect(whole, clusters) == 1.03
    pairs = [*few[:48], *few[:48]]
    told = expected_design_effect(pairs, 0.6)
    paired = {"items": 96, "difference": {"design_effect": told}, "clusters": pairs}
    assert _design_effect(paired, clusters) == pytest.approx(expected_design_effect(clusters, 0.6))


def test_it_does_not_go_on_with_rows_that_have_changed(
    settings: Settings, tiny_rows: Path, tmp_path: Path
) -> None:
    rows = Path(shutil.copy(tiny_rows, tmp_path / "rows.jsonl"))
    config = settings(tmp_path / "a", f"data.train={rows}", f"data.eval={tiny_rows}")

    def cut(progress: Progress) -> None:
        if progress.stage == "base model on the rows":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess(config, **FEW, on_progress=cut)
    # Something that took time: else what was begun is nothing to go on with.
    (tmp_path / "a" / "probe").mkdir(exist_ok=True)
    rows.write_text("".join(rows.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(StorageError, match="other content") as caught:
        assess(config, **FEW)
    assert caught.value.problems == [f"data.train {rows}"]


def test_it_does_not_go_on_with_another_base_model(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """What the first one expected of the rows would stand beside the probe of the other."""
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    config = settings(tmp_path / "a", f"model.name={model}")

    def cut(progress: Progress) -> None:
        if progress.stage.startswith("probe"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess(config, **FEW, on_progress=cut)
    other = AutoModelForCausalLM.from_pretrained(model)
    other.model.norm.weight.data.mul_(2)
    other.save_pretrained(model)
    with pytest.raises(StorageError, match="other content") as caught:
        assess(config, **FEW)
    assert caught.value.problems == [f"model.name {model}"]


def test_the_probe_has_nothing_that_is_against_forgetting(settings: Settings, tmp_path: Path) -> None:
    config = settings(
        tmp_path / "a", "data.replay=embedded", "lora.weight_penalty=0.1", "lora.start_from=runs/before",
        "selfaug.anchors=self", "selfaug.stop_at_drift=0.1", "selfaug.drift_limit=0.01",
    )  # fmt: skip
    plain = _probe_config(config, RunDir(tmp_path / "a" / "probe"), 4, rows=24)
    assert plain.data.replay == []
    assert (plain.lora.method, plain.lora.weight_penalty, plain.lora.start_from) == ("lora", 0.0, None)
    assert (plain.selfaug.alpha, plain.selfaug.anchors) == (0.0, "none")
    assert (plain.selfaug.drift_limit, plain.selfaug.stop_at_drift) == (None, None)


@pytest.mark.parametrize(
    ("planned", "warmup"),
    [
        (["train.warmup=0.1"], 0.1),  # a share of any number of steps
        (["train.warmup=100", "train.steps=1000"], 4),
        (["train.warmup=100", "train.steps=100000"], 1),
        (["train.warmup=2", "train.steps=4"], 2),
        # 1000 rows in steps of eight, twice.
        (["train.warmup=50", "train.epochs=2", "train.batch_size=4", "train.gradient_accumulation=2"], 8),
    ],
)
def test_the_probe_warms_up_in_the_same_share_of_its_steps(
    settings: Settings, tmp_path: Path, planned: list[str], warmup: float
) -> None:
    config = settings(tmp_path / "a", "train.learning_rate=1e-3", "lora.method=osf", *planned)
    if not any("train.steps" in one for one in planned):
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": None})})
    probe = _probe_config(config, RunDir(tmp_path / "a" / "probe"), 40, rows=1000).train
    assert (probe.warmup, probe.learning_rate) == (warmup, 2e-4)
    plain = settings(tmp_path / "a", "train.learning_rate=1e-3")
    assert _probe_config(plain, RunDir(tmp_path / "a" / "probe"), 40, rows=1000).train.learning_rate == 1e-3


def test_data_checks(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncodedRow, "input_ids", None)  # a list of all rows would have ten times their memory

    def row(question: str, answer: str) -> str:
        return json.dumps({"question": question, "context": ["the revenue"], "answer": answer}) + "\n"

    train, held_out = tmp_path / "train.jsonl", tmp_path / "held-out.jsonl"
    train.write_text(row("a?", "1") * 3 + row("b?", "1") + row("b?", "2") + row("c?", "3"), encoding="utf-8")
    held_out.write_text(row("d?", "1"), encoding="utf-8")
    config = settings(tmp_path / "run", f"data.train={train}", f"data.eval={held_out}")
    found = {finding.name: finding for finding in check_data(load_training_data(config))}
    assert {name: finding.status for name, finding in found.items()} == {
        "duplicates": "warning", "contradictions": "warning", "leakage": "ok", "lengths": "ok"
    }  # fmt: skip
    assert found["duplicates"].found.startswith("2 of 6")
    assert found["contradictions"].found.startswith("1 prompt has")
    without = check_data(load_training_data(settings(tmp_path / "run")))
    assert next(one for one in without if one.name == "held-out rows").status == "warning"


def test_the_same_question_with_other_passages_is_found(settings: Settings, tmp_path: Path) -> None:
    def row(question: str, passage: str) -> str:
        return json.dumps({"question": question, "context": [passage], "answer": "1"}) + "\n"

    train, held_out = tmp_path / "train.jsonl", tmp_path / "held-out.jsonl"
    train.write_text(row("What was revenue?", "the revenue") + row("b?", "the year"), encoding="utf-8")
    messages = [{"role": "user", "content": "B"}, {"role": "assistant", "content": "2"}]
    held_out.write_text(
        row("what was  revenue", "another") + row("c?", "the") + json.dumps({"messages": messages}) + "\n",
        encoding="utf-8",
    )
    config = settings(tmp_path / "run", f"data.train={train}", f"data.eval={held_out}")
    near, similar = similar_questions(
        asked_rows(config, config.data.train), asked_rows(config, config.data.eval)
    )
    assert (near.name, near.status) == ("near-duplicates", "ok")
    assert (similar.name, similar.status) == ("similar questions", "warning")
    assert similar.found.startswith("2 of 3 held-out questions are asked in training too")
    assert "; 1 of them have the same completion there" in similar.found


def asked(question: str, completion: str, passage: str = "") -> AskedRow:
    return AskedRow(question, completion, question + passage + completion)


OTHERS = [
    asked(f"What was the {metric} of {company}?", f"{number}")
    for number, (metric, company) in enumerate(
        (metric, company)
        for metric in ("revenue", "margin")
        for company in ("Alder", "Birch", "Cedar", "Dogwood")
    )
]


def test_nearly_the_same_question_is_found() -> None:
    train = [
        *OTHERS,
        asked("What was the revenue of Alder?", "0"),  # a copy: of the duplicates
        asked("Tell me the revenues of Alder, please.", "0."),
        asked("the revenue of Birch?", "another"),  # another completion
        asked("What was the revenue of Cedar?", "2", "of another report"),
    ]
    held_out = [
        asked("Which revenue did Dogwood have?", "3"),
        asked("And the margin of Alder was?", "5"),
        asked("the margin of Elder", "1"),
    ]
    near, similar = similar_questions(train, held_out)
    assert near.found == (
        "2 of 12 training rows ask in nearly the words of another, and have its completion, such as “Tell me the "
        "revenues of Alder, please.” and “What was the revenue of Alder?”"
    )
    assert similar.found.startswith("2 of 3 held-out questions")
    assert "; 1 of them have" in similar.found
    assert "“Which revenue did Dogwood have?” and “What was the revenue of Dogwood?”" in similar.found
    assert [finding.status for finding in (near, similar)] == ["warning", "warning"]
    assert [finding.status for finding in similar_questions(OTHERS, [asked("x", "y")])] == ["ok", "ok"]
    assert [finding.name for finding in similar_questions(OTHERS, None)] == ["near-duplicates"]


def test_the_pairs_are_those_of_comparing_all_questions() -> None:
    """Questions of the same words are compared once; as many are found as by comparing every two rows."""
    questions = [row.question for row in OTHERS] * 2 + [
        "the revenue of Alder",
        "margins of Birch?",
        "What is it?",
    ]
    train = [asked(question, "1", f"{place}") for place, question in enumerate(questions)]
    bags = [frozenset(Words()(row.question)) for row in train]
    counted = sum(any(bags[i] == bags[j] for j in range(i)) for i in range(len(bags)))
    assert similar_questions(train, None)[0].found.startswith(f"{counted} of {len(train)} training rows")


def test_questions_without_a_word_of_their_own_are_not_alike() -> None:
    near, _ = similar_questions([asked("What is it?", "1"), asked("Who are you?", "1"), *OTHERS], [])
    assert near.status == "ok"


def test_a_question_that_thousands_of_rows_ask_takes_no_time() -> None:
    train = [asked("What does the table show?", f"{place}", f"{place}") for place in range(20_000)]
    began = time.process_time()
    near, similar = similar_questions(train, train[:1])
    assert time.process_time() - began < 20
    assert near.status == "ok"
    assert similar.found.startswith("1 of 1")


def suites(low: float, value: float, high: float, gain: float | None = None) -> dict[str, Any]:
    def suite(difference: tuple[float, float, float]) -> dict[str, Any]:
        names = dict(zip(("value", "low", "high"), difference, strict=True))
        return {"difference": {"difference": names}, "base": {"value": 0.25}}

    made = {"general": suite((value, low, high))}
    return made if gain is None else {**made, "task": suite((gain, gain - 0.1, gain + 0.1))}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            suites(-0.6, -0.5, -0.4),
            "makes this model forget: after 40 steps it lost 50.0 points (40.0 to 60.0) of its general score",
        ),
        (suites(0.01, 0.1, 0.2), "gained 10.0 points in general: nothing was forgotten"),
        (suites(-0.1, -0.02, 0.05), "shows no forgetting that these requests can tell from none"),
        (suites(-0.1, -0.02, 0.05), "from none: 2.0 points (−5.0 to 10.0); a longer"),
        (suites(-0.6, -0.5, -0.4, gain=0.5), "scores 25 % at the job; the probe learned it (+50 points)"),
        (suites(-0.6, -0.5, -0.4, gain=0.05), "did not measurably learn it (+5 points)"),
        (suites(-0.6, -0.5, -0.4, gain=-0.003), "did not measurably learn it (+0 points)"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(given: dict[str, Any], said: str) -> None:
    assert said in verdict(given, 40)


def test_a_budget_is_no_smaller_than_what_can_be_seen() -> None:
    assert proposed_budget(0.0991, 0.5) == 0.099
    assert proposed_budget(0.001, 0.5) == 0.02
    assert proposed_budget(None, 0.5) is None


def test_a_model_that_scores_next_to_nothing_gets_no_budget() -> None:
    assert proposed_budget(0.19, 0.05) is None


def test_command(settings: Settings, tiny_rows: Path, tmp_path: Path) -> None:
    config = settings(tmp_path / "unused")
    arguments = [
        "assess", "--model", config.model.name, "--train", str(tiny_rows), "--eval", str(tiny_rows), "--output",
        str(tmp_path / "out"), "--probe-steps", "1", "--general-items", "2", "--task-items", "2",
        "--max-new-tokens", "2", "--level", "1", "--device", "cpu", "--set", "train.batch_size=2",
        "--suite", str(tmp_path / "company.jsonl"),
    ]  # fmt: skip
    refused = CliRunner().invoke(app, arguments)
    assert (refused.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "company.jsonl does not exist" in refused.stderr
    long = {"question": "the revenue " * 5000, "answer": "4"}
    (tmp_path / "company.jsonl").write_text(json.dumps(long), encoding="utf-8")
    refused = CliRunner().invoke(app, arguments)
    assert (refused.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "questions of a suite don't fit" in refused.stderr
    (tmp_path / "company.jsonl").write_text(
        '{"question": "What is 2 + 2?", "answer": "4"}\n', encoding="utf-8"
    )
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.stderr
    assert "company" in shown.stdout
    record = read_record(tmp_path / "out" / "record.json", RECORD_KIND)
    assert record["suites"]["company"]["items"] == 1
    assert record["settings"]["suites"] == [str(tmp_path / "company.jsonl")]
    assert f"--suite {tmp_path / 'company.jsonl'}" in record["made_of"]["sources"]
    for piece in ("leakage", "task (exact)", "probe", "budget: none proposed", "next:   selfaug train"):
        assert piece in shown.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for piece in (
        "Baseline assessment of",
        "24 of 24 held-out prompts",
        "Where the model changed",
        "probe</th>",
        "What is 2 + 2?",
    ):
        assert piece in page
    # Without --suite, those of the settings are asked.
    of_settings = ["--set", f"evaluation.suites={tmp_path / 'company.jsonl'}", "--overwrite", "--json"]
    again = CliRunner().invoke(app, [*arguments[:-2], *of_settings])
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["probe"]["steps"] == 1
    assert json.loads(again.stdout)["suites"]["company"]["items"] == 1


def test_rows_that_the_scorer_can_not_score_are_refused_before_anything_long(
    settings: Settings, tmp_path: Path
) -> None:
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"prompt": "the revenue", "completion": " unknown"}\n', encoding="utf-8")
    told: list[str] = []
    with pytest.raises(DataError, match="1 of 1 held-out rows can't be scored so"):
        assess(
            settings(tmp_path / "a", f"data.eval={held_out}"),
            replace(ASK, scorer="numeric"),
            on_progress=lambda progress: told.append(progress.stage),
        )
    assert told == ["data"]
    assert not (tmp_path / "a").exists()


def test_a_model_that_can_not_be_asked_in_general_is_refused_before_anything_long(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "plain"))
    (model / "chat_template.jinja").unlink()
    rows = tmp_path / "plain.jsonl"
    rows.write_text('{"prompt": "the revenue", "completion": " million"}\n', encoding="utf-8")
    with pytest.raises(ModelError, match="has no chat template"):
        assess(settings(tmp_path / "a", f"model.name={model}", f"data.train={rows}"), **FEW)
    assert not (tmp_path / "a").exists()


def test_a_base_model_that_computes_no_numbers_is_refused_before_the_probe(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "damaged"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"no numbers \(NaN\)"):
        assess(settings(tmp_path / "a", f"model.name={folder}"), **FEW)
    assert not (tmp_path / "a" / "probe").exists()


def test_replayed_rows_are_none_of_the_jobs(settings: Settings, tiny_rows: Path, tmp_path: Path) -> None:
    """Copies of two rows, and more of them are wanted than there are: each is drawn several times."""
    replayed = tmp_path / "replayed.jsonl"
    replayed.write_text("".join(tiny_rows.read_text().splitlines(keepends=True)[:2]), encoding="utf-8")
    config = settings(tmp_path / "a", f"data.replay={replayed}", "data.replay_share=0.5")
    record = assess(config, **FEW)
    found = {finding["name"]: finding["found"] for finding in record["findings"]}
    assert found["duplicates"] == "0 of 24 training rows are there already"
    assert record["surprise"]["rows"] == 24
    assert "replay" not in record["data"]


def test_the_rows_that_the_base_model_is_asked_about_are_even(settings: Settings, tmp_path: Path) -> None:
    """Of 96 rows, the first 64 alone said nothing of the rest."""
    rows = [
        json.dumps({"prompt": f"Say {number}.", "completion": " a" * (1 + number)}) for number in range(96)
    ]
    found = []
    for name, chosen in (("all", range(96)), ("even", [place * 96 // 64 for place in range(64)])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(f"{rows[place]}\n" for place in chosen), encoding="utf-8")
        config = settings(tmp_path / name, f"data.train={file}")
        data = load_training_data(config)
        found.append(_surprise(tmp_path / f"{name}.json", config, data, torch.device("cpu"), lambda _: None))
    assert found[0]["rows"] == 64
    assert found[0] == pytest.approx(found[1])


def test_a_wrong_scorer_is_refused_before_anything_is_read(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no scorer 'exakt'"):
        assess(settings(tmp_path / "a"), AskSettings(scorer="exakt"))
    assert not (tmp_path / "a").exists()
