"""The page of an evaluation: hostile texts, its verdict, its order, its heat."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_demo_page import HOSTILE, MOST_BYTES, Page

from selfaug.records import read_lines, write_lines
from selfaug.report.evaluation_page import _farthest, evaluation_page, evaluation_verdict


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def suite(scores: dict[str, tuple[float, float]], difference: dict[str, float]) -> dict[str, Any]:
    return {
        "items": len(scores),
        "base": interval(0.6, 0.5, 0.7),
        "tuned": interval(0.5, 0.4, 0.6),
        "difference": {
            "difference": difference,
            "p_value": 0.2,
            "better": 1,
            "worse": 2,
            "items": len(scores),
        },
        "detectable_difference": 0.3,
        "scores": {name: {"base": base, "tuned": tuned} for name, (base, tuned) in scores.items()},
    }


DRIFT = {
    "nats": interval(0.02, 0.01, 0.03),
    "top1_agreement": 0.95,
    "tokens": 1234,
    "by_tenth": [None, *[0.01] * 8, 0.09],
}
RECORD: dict[str, Any] = {
    "run": "runs/first",
    "settings": {"scorer": "exact", "half": "test", "step": 6, "weights": "ab" * 32},
    "level": {"level": 1, "scores": {"1": 0.6}},
    "suites": {
        "task": suite({"t1": (0, 1)}, interval(0.5, 0.2, 0.8)),
        "general": suite({"same": (1, 1), "gained": (0, 1), "lost": (1, 0)}, interval(-0.05, -0.1, 0.02)),
    },
    "drift": {"general prompts": DRIFT},
    "gate": {
        "outcome": "inconclusive",
        "bounds": [
            {
                "name": "forgetting", "outcome": "inconclusive", "value": interval(0.05, -0.02, 0.1), "bound": 0.05,
                "sense": "at most", "items": 3, "items_needed": 4000,
            }
        ],
    },
    "device": "cpu",
    "threads": 2,
    "seconds": 61.0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, found in RECORD["suites"].items():
        for model in ("base", "tuned"):
            write_lines(
                tmp_path / f"{name}-{model}.jsonl",
                [
                    {"id": one, "prompt": f"ask {one}", "answer": f"{model} says {one}"}
                    for one in found["scores"]
                ],
            )
    write_lines(
        tmp_path / "drift.jsonl",
        [
            {
                "kind": "general prompts",
                "id": "same",
                "tokens": ["Hi", " there", "!\n"],
                "nats": [None, 0.25, 4.0],
            }
        ],
    )
    return tmp_path


def test_the_page_has_what_the_record_says(folder: Path) -> None:
    html = evaluation_page(RECORD, folder)
    assert "of the checkpoint at step 6" in html
    finished = {**RECORD, "settings": {**RECORD["settings"], "step": None}}
    assert "of the finished run" in evaluation_page(finished, folder)
    page = Page(html)
    assert page.open == []
    for text in (
        "runs/first",
        "50 to 70",
        "1,234",
        "0.0200",
        "some 4,000 items would decide",
        "base says lost",
    ):
        assert text in page.text
    # Lost, gained, the same.
    assert page.text.index("lost: base") < page.text.index("gained: base") < page.text.index("same: base")
    heats = [
        attributes for tag, attributes in page.tags if tag == "span" and attributes.get("class") == "heat"
    ]
    assert [one["style"] for one in heats] == ["--heat: 0.50", "--heat: 1.00"]
    assert [one["title"] for one in heats] == ["0.2500 nats", "4.0000 nats"]
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in page.tags)
    assert "Gate: inconclusive" in page.text
    assert "the hardest of which the base model passes 40 %" in page.text
    assert _farthest(["\n", " ", " a"], [3.0, 2.0, None]) == "line break 3.00, space 2.00"
    # What heat and bars show is there as text too.
    assert "Farthest, in nats: “!” 4.00, “there” 0.25" in page.text
    bars = [attributes["style"] for tag, attributes in page.tags if tag == "i"]
    assert bars == ["--height: 0%", *["--height: 11%"] * 8, "--height: 100%"]
    # Narrow pages show each row as a card, so every cell has the name of its column.
    assert all("data-short" in attributes for tag, attributes in page.tags if tag == "td")


def test_retention_and_forecast_are_shown_where_they_are_known(folder: Path) -> None:
    record = copy.deepcopy(RECORD)
    assert "lets expect" not in evaluation_page(record, folder)
    record["suites"]["general"]["retention"] = interval(0.83, 0.7, 0.96)
    record["forecast"] = {
        **interval(0.01, -0.02, 0.04), "drift": 0.02, "runs": 9, "coverage": 0.8, "below": False, "beyond": False
    }  # fmt: skip
    text = Page(evaluation_page(record, folder)).text
    assert "83\N{NO-BREAK SPACE}%70 to 96" in text
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
    html = evaluation_page({**RECORD, "benchmarks": {"gsm8k": tables}}, folder)
    page = Page(html)
    assert page.open == []
    for text in ("0.2500± 0.0123", "0.1250± 0.0123", "strict-match", "↑ higher", "↓ lower", "exact_match"):
        assert text in page.text
    assert all("data-short" in attributes for tag, attributes in page.tags if tag == "td")
    assert "Standard benchmarks" not in evaluation_page(RECORD, folder)
    kept_by_an_earlier_version = {"gsm8k": {"base": None, "tuned": tables["tuned"]}}
    assert "Standard" not in evaluation_page({**RECORD, "benchmarks": kept_by_an_earlier_version}, folder)


def test_texts_of_models_stay_texts(folder: Path) -> None:
    record = copy.deepcopy(RECORD)
    for model in ("base", "tuned"):
        rows = read_lines(folder / f"general-{model}.jsonl")
        for row, text in zip(rows, HOSTILE, strict=False):
            row["answer"] = row["prompt"] = text.replace("\ud800", "")
        write_lines(folder / f"general-{model}.jsonl", rows)
    write_lines(
        folder / "drift.jsonl",
        [
            {
                "kind": "general prompts",
                "id": HOSTILE[0],
                "tokens": [HOSTILE[1], HOSTILE[2]],
                "nats": [0.1, 0.2],
            }
        ],
    )
    calm = Page(evaluation_page(RECORD, folder))
    assert calm.open == []
    assert [tag for tag, _ in calm.tags].count("style") == 1
    assert not any(tag in ("script", "img", "a") for tag, _ in calm.tags)
    record["run"] = HOSTILE[0]
    assert "<script" not in evaluation_page(record, folder)
    rows = read_lines(folder / "general-base.jsonl")
    rows[0]["answer"] = "<" * 10**6
    (folder / "general-base.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    html = evaluation_page(RECORD, folder)
    assert len(html) < MOST_BYTES
    assert "cut off here" in html


@pytest.mark.parametrize(
    ("task", "general", "words"),
    [
        (
            (0.5, 0.2, 0.8),
            (-0.1, -0.2, -0.05),
            ("it forgot 10.0 points of its general score (5.0 to 20.0)",),
        ),
        (
            (0.5, 0.2, 0.8),
            (-0.01, -0.05, 0.02),
            ("learned its job", "no change of its general score was shown"),
        ),
        ((-0.5, -0.8, -0.2), (0.1, 0.05, 0.2), ("became worse", "it gained")),
        ((0.1, -0.1, 0.3), (0.0, -0.1, 0.1), ("not shown that the model learned",)),
        (None, (0.0, -0.1, 0.1), ("Without held-out rows",)),
    ],
)
def test_the_verdict_says_what_was_shown(
    task: tuple[float, ...] | None, general: tuple[float, ...], words: tuple[str, ...]
) -> None:
    suites = {"general": suite({"a": (1, 1)}, interval(*general))}
    if task is not None:
        suites["task"] = suite({"a": (1, 1)}, interval(*task))
    verdict = evaluation_verdict({"suites": suites})
    assert all(word in verdict for word in words), verdict
