"""The report of a run that was evaluated, as a page: hostile texts, its verdict, its order, its heat."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from page_checks import Page

from report_records import EVALUATION, HOSTILE, interval, suite, write_run
from selfaug.records import read_lines, write_lines, write_record
from selfaug.report.evaluation_report import (
    _changed_first,
    _farthest,
    evaluation_outcome,
    evaluation_tiles,
    evaluation_verdict,
)
from selfaug.report.open_report import page_of
from selfaug.rundir import RunDir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that was evaluated; without curves, which take most of a page's time."""
    return write_run(tmp_path / "first", evaluation=EVALUATION, steps=0).path


def page_with(folder: Path, record: dict[str, Any]) -> str:
    write_record(RunDir(folder).evaluation, "evaluation", record)
    return page_of(folder)


def classes(page: Page, tag: str, name: str) -> list[dict[str, str | None]]:
    return [found for one, found in page.tags if one == tag and name in (found.get("class") or "").split()]


def test_the_page_has_what_the_record_says(folder: Path) -> None:
    html = page_of(folder)
    assert "of the finished run" in html
    page = Page(html)
    assert page.open == []
    for text in (
        "Run first",
        "50 to 70",
        "1,234",
        "0.0200",
        "some 4,000 items would decide",
        "base says lost",
    ):
        assert text in page.text
    # Lost, gained, the same.
    assert page.text.index("lost: base") < page.text.index("gained: base") < page.text.index("same: base")
    # Strict pages allow no style of an element's own: heat and bars have classes of 21 steps.
    heats = classes(page, "span", "heat")
    assert [one["class"] for one in heats] == ["heat h10", "heat h20", "heat h0"]
    assert [one["title"] for one in heats] == ["0.2500 nats", "4.0000 nats", "0.0000 nats"]
    assert len(classes(page, "span", "unmeasured")) == 2
    assert not any("style" in attributes for _, attributes in page.tags)
    assert all(f".h{step} {{" in html and f".b{step} {{" in html for step in range(21))
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in page.tags)
    assert "Gate: inconclusive" in page.text
    assert "Decided anew" not in page.text
    before = {**EVALUATION, "gates_before": [{"outcome": "fail", "bounds": EVALUATION["gate"]["bounds"]}]}
    assert "before: fail (forgetting at most 5.0 points)." in Page(page_with(folder, before)).text
    assert classes(page, "span", "inconclusive")
    assert "the hardest of which the base model passes 40\N{NO-BREAK SPACE}%" in page.text
    assert _farthest(["\n", " ", " a"], [3.0, 2.0, None]) == "line break 3.00, space 2.00"
    # What heat and bars show is there as text too.
    assert "Farthest, in nats: “!” 4.00, “there” 0.25" in page.text
    assert "– · 0.010 · 0.010" in page.text
    bars = [attributes["class"] for tag, attributes in page.tags if tag == "i"]
    assert bars == ["b0", *["b2"] * 8, "b20"]
    # Narrow pages show each row as a card, so every cell has the name of its column.
    assert all("data-short" in attributes for tag, attributes in page.tags if tag == "td")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"step": 6},
            [
                "At step 6, before the training ended: the model learned its job",
                "! checkpoint The tuned model is as it was at step 6, before the training ended.",
                "of the checkpoint at step 6",
            ],
        ),
        (
            {"half": "dev"},
            [
                "! development half General requests of the development half, by which",
                "General score−5.0 points95 %: −10.0 to +2.0! development half: expect less on others",
            ],
        ),
    ],
)
def test_a_checkpoint_and_the_development_half_are_not_taken_for_the_result(
    folder: Path, settings: dict[str, Any], said: list[str]
) -> None:
    record = {**EVALUATION, "settings": {**EVALUATION["settings"], **settings}}
    text = " ".join(Page(page_with(folder, record)).text.split())
    assert all(one in text for one in said), text
    for gate in (None, {"outcome": "pass", "bounds": []}):
        assert evaluation_outcome({**EVALUATION, "gate": gate}) == "good"
        assert evaluation_outcome({**record, "gate": gate}) == "open"
    assert any(limit in evaluation_verdict(record) for limit in ("At step", "of the development half"))


def test_retention_and_forecast_are_shown_where_they_are_known(folder: Path) -> None:
    record = copy.deepcopy(EVALUATION)
    assert "lets expect" not in page_with(folder, record)
    record["suites"]["general"]["retention"] = interval(0.83, 0.7, 0.96)
    record["forecast"] = {
        **interval(0.01, -0.02, 0.04), "drift": 0.02, "runs": 9, "coverage": 0.8, "below": False, "beyond": False
    }  # fmt: skip
    page = Page(page_with(folder, record))
    text = " ".join(page.text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "83 %70 to 96" in text  # in the table
    assert "Retention83 %95 %: 70 to 96 %" in text  # the tile
    assert (
        "Forecast: a drift of 0.020 nats per token lets expect forgetting of 1.0 points (−2.0 to +4.0" in text
    )


def test_benchmarks_have_the_table_of_lm_eval(folder: Path) -> None:
    row = {
        "task": "gsm8k", "version": 3.0, "filter": "strict-match", "n_shot": 5, "metric": "exact_match",
        "higher_is_better": True, "value": 0.25, "stderr": 0.0123,
    }  # fmt: skip
    lower = {**row, "metric": "bits_per_byte", "higher_is_better": False, "value": 0.9, "stderr": None}
    tables = {
        "base": {"lm_eval": "0.4", "rows": [row, lower]},
        "tuned": {"lm_eval": "0.4", "rows": [{**row, "value": 0.125}, lower]},
    }
    page = Page(page_with(folder, {**EVALUATION, "benchmarks": {"gsm8k": tables}}))
    assert page.open == []
    for text in ("0.2500± 0.0123", "0.1250± 0.0123", "strict-match", "↑ higher", "↓ lower", "exact_match"):
        assert text in page.text
    assert all("data-short" in attributes for tag, attributes in page.tags if tag == "td")
    assert "Standard benchmarks" not in page_with(folder, EVALUATION)


def test_sides_of_answers_from_documents_have_a_table_of_their_own(folder: Path) -> None:
    side = suite({"a": (1, 1)}, interval(0.1, 0.0, 0.2))
    assert "side by side: value" not in page_of(folder)
    sides = {"value": side, "abstains where it must": side}
    page = page_with(folder, {**EVALUATION, "sides": sides})
    assert "the job: value" in page
    assert "is not recognised in another language" not in page
    page = page_with(folder, {**EVALUATION, "sides": sides, "unknown_no_answers": ["Ei ilmoitettu."]})
    assert "is not recognised in another language" in page
    assert "unicode-bidi: plaintext" in page  # a prompt's special tokens don't turn Arabic around
    assert "the job: abstains where it must" in page


def test_texts_of_models_stay_texts(folder: Path) -> None:
    samples = folder / "samples" / "evaluation"
    harmless = Page(page_of(folder))
    for model in ("base", "tuned"):
        rows = read_lines(samples / f"general-{model}.jsonl")
        for row, text in zip(rows, HOSTILE, strict=False):
            row["answer"] = row["prompt"] = text
        write_lines(samples / f"general-{model}.jsonl", rows)
    drifted = read_lines(samples / "drift.jsonl")
    drifted[0] |= {"id": HOSTILE[0], "tokens": [HOSTILE[1], HOSTILE[2], HOSTILE[4]]}
    write_lines(samples / "drift.jsonl", drifted)
    calm = Page(page_of(folder))
    assert calm.open == []
    assert calm.tags == harmless.tags
    assert [tag for tag, _ in calm.tags].count("style") == 1
    assert "<script>alert(1)</script>" in calm.text
    # What only JSON can say: half of a pair of code units.
    rows = read_lines(samples / "general-base.jsonl")
    rows[0]["answer"], rows[1]["answer"] = "<" * 10**6, "lone \ud800"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (samples / "general-base.jsonl").write_text(text, encoding="utf-8")
    html = page_of(folder)
    assert len(html.encode()) < 500_000
    assert "cut off here" in html
    assert r"lone \ud800" in html


def test_more_items_than_are_shown_are_counted(folder: Path) -> None:
    record = copy.deepcopy(EVALUATION)
    many = {f"item {number}": (1.0, 0.0 if number == 99 else 1.0) for number in range(100)}
    record["suites"]["general"] = suite(many, interval(-0.01, -0.03, 0.01))
    html = page_of(write_run(folder, evaluation=record, steps=0).path)
    assert html.count("general, item ") == 20
    assert "general, item 99: base" in html  # what was lost comes first
    assert "80 more of general are in samples/evaluation/." in html


def test_what_changed_most_comes_first() -> None:
    scores = {
        "less": (0.25, 0.0),
        "most": (1.0, 0.33),
        "up": (0.0, 0.25),
        "far up": (0.2, 1.0),
        "same": (0.5, 0.5),
    }
    record = suite(scores, interval(0, 0, 0))["scores"]
    assert _changed_first(record) == ["most", "less", "far up", "up", "same"]


@pytest.mark.parametrize(
    ("task", "general", "outcome", "words"),
    [
        (
            (0.5, 0.2, 0.8),
            (-0.1, -0.2, -0.05),
            "mixed",
            ("it forgot 10.0 points of its general score (5.0 to 20.0)",),
        ),
        (
            (0.5, 0.2, 0.8),
            (-0.01, -0.05, 0.02),
            "good",
            ("learned its job", "no change of its general score was shown"),
        ),
        (
            (0.5, 0.2, 0.8),
            (-0.2, -0.4, 0.01),
            "open",
            (
                "learned its job",
                "no change of its general score was shown, nor that it was kept (−20.0 points",
            ),
        ),
        ((-0.5, -0.8, -0.2), (0.1, 0.05, 0.2), "mixed", ("became worse", "it gained")),
        ((-0.5, -0.8, -0.2), (-0.1, -0.2, -0.05), "bad", ("became worse", "it forgot")),
        ((0.1, -0.1, 0.3), (0.0, -0.1, 0.1), "mixed", ("not shown that the model learned",)),
        (None, (0.0, -0.1, 0.1), "open", ("Without held-out rows",)),
        (None, (-0.2, -0.3, -0.1), "bad", ("Without held-out rows", "it forgot")),
    ],
)
def test_the_verdict_says_what_was_shown(
    task: tuple[float, ...] | None, general: tuple[float, ...], outcome: str, words: tuple[str, ...]
) -> None:
    suites = {"general": suite({"a": (1, 1)}, interval(*general))}
    if task is not None:
        suites["task"] = suite({"a": (1, 1)}, interval(*task))
    verdict = evaluation_verdict({"suites": suites})
    assert all(word in verdict for word in words), verdict
    assert evaluation_outcome({"suites": suites, "gate": None}) == outcome
    for decided, overruled in (("pass", "good"), ("fail", "bad"), ("inconclusive", "open")):
        for bound in ("forgetting", "task gain", "task score"):
            # What learns nothing forgets nothing.
            nothing = decided == "pass" and bound == "forgetting" and task is not None and task[1] <= 0
            gate = {"outcome": decided, "bounds": [{"name": bound}]}
            expected = "mixed" if nothing else overruled
            assert evaluation_outcome({"suites": suites, "gate": gate}) == expected


@pytest.mark.parametrize(
    ("found", "said", "tile"),
    [
        (
            {"rows": 24, "of": 24},
            "24 of 24 held-out rows are training rows, too",
            "24 of 24 rows were trained on",
        ),
        ({"rows": None}, "could not be told: the run,", "not known whether on rows of the training"),
    ],
)
def test_what_was_learned_of_rows_that_were_trained_on_is_open(
    found: dict[str, Any], said: str, tile: str
) -> None:
    suites = {"task": suite({"a": (0, 1)}, interval(0.95, 0.85, 1.0))}
    suites["general"] = suite({"a": (1, 1)}, interval(0.0, -0.01, 0.01))
    record = {"suites": suites, "gate": None, "drift": {}, "trained_on": {"rows": 0, "of": 24}}
    assert evaluation_outcome(record) == "good"
    assert evaluation_verdict(record).count(". ") == 0
    assert not any("!" in note for note in evaluation_tiles(record)[0].notes)
    record["trained_on"] = found
    assert evaluation_outcome(record) == "open"
    assert evaluation_outcome({**record, "gate": {"outcome": "pass", "bounds": []}}) == "open"
    assert evaluation_outcome({**record, "gate": {"outcome": "fail", "bounds": []}}) == "bad"
    assert said in evaluation_verdict(record)
    assert any(tile in note for note in evaluation_tiles(record)[0].notes)


@pytest.mark.parametrize(
    ("changed", "general", "outcome"),
    [
        ({"detectable_difference": None}, (0.0, 0.0, 0.0), "open"),
        ({"base": interval(0.02, 0.01, 0.05)}, (-0.02, -0.05, 0.0), "open"),
        ({"base": interval(0.02, 0.01, 0.05)}, (0.2, 0.1, 0.3), "good"),
    ],
)
def test_nothing_is_kept_where_no_loss_could_have_been_seen(
    changed: dict[str, Any], general: tuple[float, float, float], outcome: str
) -> None:
    suites = {"task": suite({"a": (1, 1)}, interval(0.5, 0.2, 0.8))}
    suites["general"] = suite({"a": (1, 1)}, interval(*general)) | changed
    assert evaluation_outcome({"suites": suites, "gate": None}) == outcome


def test_a_level_that_no_score_reached_is_called_the_easiest(folder: Path) -> None:
    level = {"level": 1, "scores": {"1": 0.21, "2": 0.1, "3": 0.0}, "cut_off": 0.9}
    text = Page(page_with(folder, {**EVALUATION, "level": level})).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "level 1: the easiest; the base model passes 40 % of none (development items: level 1 21 %" in text
    assert "90 % of its answers cut off at their limit)" in text
    assert "the hardest" not in text


def test_cut_off_answers_and_a_drift_that_is_no_number_are_told(folder: Path) -> None:
    record = copy.deepcopy(EVALUATION)
    record["suites"]["task"] |= {"cut_off": {"base": 0.9, "tuned": 0.1}, "own_limits": False}
    nothing = {"value": None, "low": None, "high": None}
    record["drift"] = {"general prompts": {**record["drift"]["general prompts"], "nats": nothing}}
    text = Page(page_with(folder, record)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Answers that were cut off at their limit: task: base model 90 %, tuned model 10 %." in text
    assert "! cut off task: 90 % of a model's answers" in text
    assert "–– to –" in "".join(text.split("  "))
