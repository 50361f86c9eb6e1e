"""The demo's report, its pictures and its verdict, from records made by hand."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from page_checks import flat, require_sound

from demo_records import EXECUTIVE, entry, interval, record
from selfaug.report.demo_charts import demo_chart_svg
from selfaug.report.demo_report import demo_report
from selfaug.report.document import Answers, Chart, Report
from selfaug.report.page import document_page
from selfaug.wording.demo_results import demo_rows, demo_verdict
from selfaug.wording.numbers import duration, points


@pytest.fixture(scope="module")
def report() -> Report:
    return demo_report(record([EXECUTIVE, entry("another", *["שלום <b>"] * 4)]))


def blocks_of(report: Report, kind: type) -> list[Any]:
    return [block for section in report.sections for block in section.blocks if isinstance(block, kind)]


def test_the_page_says_what_was_done_and_shows_answers_side_by_side(report: Report) -> None:
    page = require_sound(document_page(report))
    text = flat(page.text)
    for part in (
        flat(demo_verdict(record()).text),
        "was trained twice for one job",
        "House style leaks",
        "95 to 99",
        "chosen on development items",
        "a true difference of 9.9 points in general checks",
        "12 min 21 s",
        "torch 2.11.0",
    ):
        assert part in text
    executive, other, task = blocks_of(report, Answers)
    assert [one.text for one in executive.answers] == list(EXECUTIVE["answers"].values())
    assert [list(one.badges) for one in executive.answers][1] == [
        "score 0\N{NO-BREAK SPACE}%",
        "⚑ in the job's style",
    ]
    assert (executive.opened, other.opened) == (True, False)
    assert task.answers[2].text == "ANSWER: $1,536 million | SOURCE: [2]"
    assert text.count("שלום <b>") == 4
    boxes = [attributes for _, attributes in page.tags if attributes.get("class") == "text"]
    assert all(box.get("dir") == "auto" for box in boxes)


def test_every_picture_has_both_methods_and_a_table_of_its_numbers(report: Report) -> None:
    charts = blocks_of(report, Chart)
    assert ["plain LoRA" in chart.svg and "SelfAug" in chart.svg for chart in charts] == [True] * 3 + [False]
    assert [len(chart.rows) for chart in charts] == [3, 5, 60, 60]
    assert charts[1].columns == ["step", "plain LoRA", "SelfAug"]
    assert "0.7340" in charts[1].rows[-1]
    assert "stroke-dasharray" in charts[2].svg, "colours alone don't tell the lines apart"


def test_the_picture_for_the_readme_is_an_svg_file() -> None:
    tree = ElementTree.fromstring(demo_chart_svg(record()))
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(tree.itertext())
    assert "exact answers on the job (%)" in text
    assert "drift (nats per token)" in text


def test_a_long_run_is_drawn_with_at_most_a_hundred_steps() -> None:
    long = record()
    for curves in long["curves"].values():
        curves["steps"] = [{"step": step, "nll": 1.0, "alignment_loss": 0.1} for step in range(20_000)]
    assert max(len(chart.rows) for chart in blocks_of(demo_report(long), Chart)) == 100


def test_pictures_without_data_are_left_out_and_a_cut_off_demo_says_so() -> None:
    report = demo_report({**record([], steps=0), "cut_off": True})
    assert len(blocks_of(report, Chart)) == 1
    assert "and times count on, but for that of a process that was killed" in dict(report.provenance)["time"]
    assert "count on" not in dict(demo_report(record([], steps=0)).provenance)["time"]


@pytest.mark.parametrize(
    ("changed", "outcome", "said"),
    [
        ({}, "kept", "97 % of its general answers are in the job's style, after SelfAug only 3 %."),
        ({"leaks": interval(0.0, 0.0)}, "kept", "in the job's style, after SelfAug none."),
        ({"leaks": interval(0.15)}, "partly", "protects other work only in part"),
        ({"leaks": interval(0.80, 0.18)}, "not shown", "too close to tell apart"),
        ({"leaks": interval(1.2)}, "not shown", "harmed other work more than plain LoRA"),
        (
            {"difference": {"difference": interval(-0.08)}},
            "partly",
            "on the general checks SelfAug still lost 8.0 points.",
        ),
        (
            {"exact": interval(0.8), "exact_against_plain": {"difference": interval(-0.15)}},
            "partly",
            "SelfAug taught the model its job less well than plain LoRA (SelfAug 80 %, plain LoRA 95 %",
        ),
        (
            {"exact": interval(0.99), "exact_against_plain": {"difference": interval(0.04)}},
            "kept",
            "SelfAug taught the model its job better than plain LoRA",
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_say(changed: dict[str, Any], outcome: str, said: str) -> None:
    verdict = demo_verdict(record(selfaug=changed))
    assert verdict.outcome == outcome
    assert said in verdict.text.replace("\N{NO-BREAK SPACE}", " ")
    assert verdict.text.count(". ") == 0  # one sentence


def test_a_run_that_taught_nothing_shows_nothing() -> None:
    few = {"exact": interval(0.1)}
    verdict = demo_verdict(record(plain=few, selfaug=few))
    assert verdict.outcome == "not learned"
    assert verdict.text.startswith("Neither method taught the model its job")


def test_the_table_has_intervals_and_says_what_was_not_measured() -> None:
    rows = {row.name: row.cells for row in demo_rows(record())}
    plain_text = [cell.value.replace("\N{NO-BREAK SPACE}", " ") for cell in rows["Checks against base"]]
    assert plain_text == ["0", "\N{MINUS SIGN}23.0 points", "\N{MINUS SIGN}1.0 points"]
    assert rows["Checks against base"][2].interval == "\N{MINUS SIGN}4.0 to +2.0"
    assert rows["House style leaks"][1].interval == "95 to 99"
    assert rows["Training time"][0].value == "–"


def test_numbers_are_rounded_as_people_read_them() -> None:
    assert points(-0.0004).startswith("0.0")
    assert duration(59.4) == "59\N{NO-BREAK SPACE}s"
    assert duration(59.6).startswith("1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}00")
    assert duration(3 * 3600 - 1) == "179\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}59\N{NO-BREAK SPACE}s"
    assert duration(25 * 3600 - 1) == "25\N{NO-BREAK SPACE}h\N{NO-BREAK SPACE}00\N{NO-BREAK SPACE}min"
