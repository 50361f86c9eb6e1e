"""Reports of every kind as page, as Markdown and as JSON: what they say, and that texts of others stay texts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_demo_page import Page

from demo_records import EXECUTIVE, record
from report_records import (
    EVALUATION,
    HOSTILE,
    LONE,
    REALIGNMENT,
    TRAINING,
    balance_record,
    changed_everywhere,
    comparison_record,
    interval,
    raw_record,
    write_assessment,
    write_balance,
    write_comparison,
    write_run,
)
from selfaug.errors import DataError
from selfaug.records import append_line, read_record, write_record
from selfaug.report.balance_report import balance_verdict
from selfaug.report.comparison_report import comparison_verdict
from selfaug.report.document import (
    Answer,
    Answers,
    Cell,
    Chart,
    HeatedText,
    Report,
    Section,
    Table,
    Text,
    Tile,
)
from selfaug.report.document_text import document_json, document_markdown
from selfaug.report.open_report import kind_of, page_of, report_on, summary_of
from selfaug.report.page import document_page
from selfaug.report.run_report import run_verdict
from selfaug.rundir import RunDir

MOST_BYTES = 2_000_000


def demo(folder: Path) -> Path:
    folder.mkdir()
    write_record(folder / "record.json", "demo", record([EXECUTIVE], steps=12))
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "evaluated": lambda folder: write_run(folder, evaluation=EVALUATION).path,
    "trained": lambda folder: write_run(folder).path,
    "unfinished": lambda folder: write_run(folder, training=None, steps=7).path,
    "realigned": lambda folder: write_run(folder, realignment=REALIGNMENT, steps=0).path,
    "comparison": lambda folder: write_comparison(folder, comparison_record()),
    "comparison-real": lambda folder: write_comparison(folder, comparison_record("comparison-real-text")),
    "balance": write_balance,
    "assessment": write_assessment,
    "demo": demo,
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Report]]:
    """A folder and its report of each kind: pictures take seconds, so they are drawn once."""
    top = tmp_path_factory.mktemp("records")
    folders = {name: write(top / name) for name, write in KINDS.items()}
    return {name: (folder, report_on(folder)) for name, folder in folders.items()}


class Blocks(HTMLParser):
    """What follows what: `svg` and `table`, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("figure", "svg") or (tag == "table" and ("class", "data") in attrs):
            self.found.append(tag)


def require_sound(html: str, *, calm: bool = True) -> Page:
    """One file that asks for nothing, runs nothing and is well-formed."""
    page = Page(html)
    assert html.lstrip().startswith("<!doctype html>")
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form", "embed", "video", "audio"}
    ids = [attributes["id"] for tag, attributes in page.tags if "id" in attributes and tag != "svg"]
    named = [one for one in ids if one]
    assert len(named) == len(set(named))
    for _, attributes in page.tags:
        assert not attributes.keys() & {"src", "srcset", "action", "xlink:href", "style"}
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("href") or "#")[1:] in ["", *named]
        assert attributes.get("aria-labelledby") in [None, *named]
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert "default-src 'none'" in html
    assert '<meta name="generator" content="selfaug">' in html[:4_000]
    if calm:
        assert not re.search(r"https?://|@import|url\(|javascript:", html)
    assert len(html.encode()) < MOST_BYTES
    # Of characters that no one sees there are none.
    assert not [one for one in html if ord(one) < 32 and one not in "\n\t"]
    assert not set(html) & set("\u202e\u2066\u2028\ufeff\ud800\x9b")
    # Behind every picture there are its numbers.
    assert [one for one in Blocks(html).found if one != "figure"].count("svg") == html.count("<figure")
    assert re.sub(r"figure svg table ?", "", " ".join(Blocks(html).found)) == ""
    for picture in re.findall(r"<svg.*?</svg>", html, re.S):
        ElementTree.fromstring(picture)
    return page


def flat(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.mark.parametrize("name", KINDS)
def test_a_page_has_verdict_tiles_sections_and_provenance(
    name: str, reports: dict[str, tuple[Path, Report]]
) -> None:
    folder, report = reports[name]
    html = document_page(report)
    text = flat(require_sound(html).text)
    parts = [report.name, report.verdict, *(tile.name + tile.value for tile in report.tiles)]
    # After the contents, which name the sections too.
    beginning = text.index(flat(report.verdict))
    parts += ["Where these numbers come from", "Made by selfaug"]
    assert all(flat(part) in text for part in parts)
    assert [text.index(flat(part), beginning) for part in parts[1:]] == sorted(
        text.index(flat(part), beginning) for part in parts[1:]
    )
    for section in report.sections:
        assert "<h2 id=" in html
        assert flat(section.title) in text
    assert len(report.tiles) <= 4
    assert report.verdict.count(". ") <= 1  # an assessment's has two sentences
    # What is said first is said without drawing anything.
    summary = summary_of(folder)
    first = (report.kind, report.name, report.outcome, report.verdict, report.tiles)
    assert (summary.kind, summary.name, summary.outcome, summary.verdict, summary.tiles) == first
    assert kind_of(folder) == report.kind


@pytest.mark.parametrize("name", KINDS)
def test_markdown_and_json_have_the_same(name: str, reports: dict[str, tuple[Path, Report]]) -> None:
    _, report = reports[name]
    text = document_markdown(report)
    assert "<svg" not in text
    plain = flat(re.sub(r"\\(.)", r"\1", text))
    assert plain.startswith(f"# {report.name} **")
    assert flat(report.verdict) in plain
    for tile in report.tiles:
        assert flat(f"| {tile.name} | {tile.value} |") in plain
    for section in report.sections:
        assert f"## {section.title}" in plain
    for label, value in report.provenance:
        assert flat(f"- {label}: {value}") in plain
    # Rows of a table have as many cells as its head.
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    values = json.loads(json.dumps(document_json(report)))
    assert values["verdict"] == report.verdict
    assert values["outcome"] == report.outcome
    assert [one["name"] for one in values["provenance"]] == [label for label, _ in report.provenance]
    assert [one["title"] for one in values["sections"]] == [section.title for section in report.sections]
    blocks = [block for section in values["sections"] for block in section["blocks"]]
    assert [block["kind"] for block in blocks] == [
        block.kind for section in report.sections for block in section.blocks
    ]
    charts = [block for block in blocks if block["kind"] == "chart"]
    assert all(chart["rows"] and "svg" not in chart for chart in charts)
    for chart in charts:
        heading = text.replace("\\", "").partition(f"### {chart['name']}")[2]
        assert f"| {' | '.join(chart['columns'])} |" in heading.replace("\\", "")[:2_000]


def charts_of(report: Report) -> dict[str, Chart]:
    blocks = [block for section in report.sections for block in section.blocks]
    return {block.name: block for block in blocks if isinstance(block, Chart)}


def test_a_run_shows_its_curves_thinned_and_its_cost(reports: dict[str, tuple[Path, Report]]) -> None:
    _, report = reports["trained"]
    assert report.outcome == "open"
    assert report.verdict.startswith("Trained for 60 steps, and not evaluated yet")
    assert [tile.name for tile in report.tiles] == ["Cost"]
    charts = charts_of(report)
    # Alpha was constant, and of one value there is no curve.
    assert list(charts) == [
        "Learning the job (nll)", "Alignment loss", "Drift on general prompts", "nll on held-out rows",
    ]  # fmt: skip
    rows = charts["Learning the job (nll)"].rows
    assert len(rows) <= 26
    assert [rows[0], rows[-1]] == [["1", "3.0000"], ["60", "0.0500"]]
    assert charts["Drift on general prompts"].rows[-1] == ["60", "0.0600"]
    told = flat(document_markdown(report))
    assert "Over the last quarter of the steps: nll 0.5123, alignment loss 0.0123, alpha 0.5000" in told
    assert "an alignment loss of 1.5e-09 at step 0" in told
    names = dict(report.provenance)
    assert names["model"] == "a/model"
    assert names["rows"] == "rows.jsonl"
    assert names["weights"].startswith("adapter/adapter_model.safetensors: SHA-256 12121212")
    assert "torch 2.11.0" in names["trained on"]


def test_a_limit_of_drift_a_best_checkpoint_and_memory_are_told(tmp_path: Path) -> None:
    training = {
        **TRAINING,
        "best": {"rows": 20, "scorer": "exact", "step": 40, "scores": {"20": 0.5, "40": 0.75}},
        "peak_memory_bytes": 3_000_000_000,
        "reference_cache_bytes": 5_000_000,
        "final": {"nll": None, "alignment_loss": None, "alpha": None},
        "noise_floor": None,
    }
    run = write_run(tmp_path / "run", training=training, sets=["selfaug.drift_limit=0.01"])
    report = report_on(run.path)
    assert "The dashed line is the drift limit." in charts_of(report)["Alignment loss"].about
    told = flat(document_markdown(report))
    assert "The weights are those of step 40." in told
    assert "| 40 | 75.0 |" in told
    assert "memory at its peak: 3.0 GB; reference cache: 5.0 MB" in told
    assert "last quarter" not in told


def test_a_run_that_is_not_finished_says_how_far_it_is(
    tmp_path: Path, reports: dict[str, tuple[Path, Report]]
) -> None:
    folder, report = reports["unfinished"]
    assert report.verdict == "This run is not finished: 7 steps are done."
    assert report.tiles == []
    assert dict(report.provenance)["folder"] == str(folder)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 8, "nl')  # killed while it wrote
    assert report_on(folder).verdict == report.verdict
    nothing = write_run(tmp_path / "new", training=None, steps=0).path
    assert report_on(nothing).verdict == "This run is not finished: 0 steps are done."
    require_sound(page_of(nothing))


def test_a_long_run_is_read_in_part_and_drawn_with_few_points(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=0)
    with run.metrics.open("w", encoding="utf-8") as file:
        for step in range(1, 60_001):
            file.write(
                json.dumps({"step": step, "nll": 3 / step, "alignment_loss": 0.1, "alpha": 0.5}) + "\n"
            )
    began = time.process_time()
    html = page_of(run.path)
    assert time.process_time() - began < 10
    assert len(require_sound(html).text) < 50_000
    assert charts_of(report_on(run.path))["Learning the job (nll)"].rows[-1][0] == "60000"


def test_a_re_alignment_is_compared_with_the_deployed_run(reports: dict[str, tuple[Path, Report]]) -> None:
    _, report = reports["realigned"]
    assert report.outcome == "open"
    assert report.verdict.startswith("Against the deployed run runs/old, too few items were asked to say")
    assert "old task 0.0 points (−1.0 to +1.0), general −1.0 points (−5.0 to +3.0)." in report.verdict
    (section,) = (one for one in report.sections if one.title == "Re-alignment: inconclusive")
    table = section.blocks[0]
    assert isinstance(table, Table)
    assert list(table.columns)[2:4] == ["deployed run", "this run"]
    assert [row[0].value for row in table.rows] == ["old task", "general"]


def test_a_comparison_shows_every_method_with_intervals_costs_and_answers(
    reports: dict[str, tuple[Path, Report]],
) -> None:
    _, report = reports["comparison"]
    methods = comparison_record()["methods"]
    charts = charts_of(report)
    assert list(charts) == ["The job, by method", "Everything else, by method", "Forgetting against drift"]
    assert [row[0] for row in charts["Everything else, by method"].rows] == [
        row["label"] for row in methods.values()
    ]
    assert len(charts["Forgetting against drift"].rows) == len(
        [run for run in comparison_record()["runs"] if run["drift"] is not None]
    )
    titles = [section.title for section in report.sections]
    assert titles == [
        "The same request, answered by each", "Scores", "What it costs", "Forgetting and drift",
    ]  # fmt: skip
    answers = [block for block in report.sections[0].blocks if isinstance(block, Answers)]
    assert [len(block.answers) for block in answers] == [3, 3]
    assert [block.opened for block in answers] == [True, False]
    assert [tile.name for tile in report.tiles] == ["Task gain", "Retention", "Drift", "Cost of a training"]
    assert report.outcome == "mixed"  # the demo's SelfAug keeps more, and learns the job a little less well
    assert reports["comparison-real"][1].verdict.startswith("SelfAug")


def test_without_its_answers_a_comparison_has_all_the_rest(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", "comparison", comparison_record())
    report = report_on(tmp_path)
    assert [section.title for section in report.sections] == [
        "Scores",
        "What it costs",
        "Forgetting and drift",
    ]


def test_a_comparison_of_before_has_no_picture_of_drift(tmp_path: Path) -> None:
    old = comparison_record()
    old["forecast"] = None
    for run in old["runs"]:
        run.pop("drift")
    for method in old["methods"].values():
        method["suites"]["general"]["retention"] = None
    old["methods"][old["subject"]]["drift"] = None
    write_record(tmp_path / "record.json", "comparison", old)
    report = report_on(tmp_path)
    assert [section.title for section in report.sections] == ["Scores", "What it costs"]
    assert [tile.name for tile in report.tiles] == ["Task gain", "Cost of a training"]


@pytest.mark.parametrize(
    ("task", "general", "outcome", "said"),
    [
        ((-0.1, -0.2, -0.05), (0.3, 0.2, 0.4), "mixed", "learned the job less well than plain LoRA"),
        ((-0.1, -0.2, -0.05), (0.0, -0.1, 0.1), "bad", "was not shown to keep more of everything else"),
        ((0.1, 0.05, 0.2), (0.3, 0.2, 0.4), "good", "learned the job better than plain LoRA"),
        ((0.0, -0.1, 0.1), (0.3, 0.2, 0.4), "good", "with no difference shown"),
        ((0.0, -0.1, 0.1), (0.3, 0.2, 0.4), "good", "it kept more of everything else"),
        ((0.0, -0.1, 0.1), (-0.3, -0.4, -0.2), "mixed", "it kept less of everything else"),
    ],
)
def test_the_verdict_of_a_comparison(
    task: tuple[float, ...], general: tuple[float, ...], outcome: str, said: str
) -> None:
    changed = comparison_record()
    against = changed["methods"]["plain"]["against_subject"]
    against["task"]["difference"], against["general"]["difference"] = interval(*task), interval(*general)
    found, verdict = comparison_verdict(changed)
    assert found == outcome
    assert said in verdict
    assert verdict.count(". ") == 0


def test_a_comparison_without_selfaug_says_so(tmp_path: Path) -> None:
    changed = comparison_record()
    changed["subject"], changed["methods"] = None, {"plain": changed["methods"]["plain"]}
    changed["methods"]["plain"]["against_subject"] = None
    changed["detectable_difference"]["method"] = "plain"
    outcome, verdict = comparison_verdict(changed)
    assert outcome == "open"
    assert verdict.startswith("SelfAug was not compared; plain LoRA does")
    write_record(tmp_path / "record.json", "comparison", changed)
    report = report_on(tmp_path)
    assert not any("plain LoRA:" in note for tile in report.tiles for note in tile.notes)


@pytest.mark.parametrize(
    ("outcome", "found", "said"),
    [
        ("pass", "good", "(−2.0 to +10.0): within the budget of 5.0 points."),
        ("fail", "bad", "more than the budget of 5.0 points."),
        ("inconclusive", "open", "too few items to say whether that is within the budget of 5.0 points."),
    ],
)
def test_the_verdict_of_a_balance(outcome: str, found: str, said: str) -> None:
    made = balance_verdict(balance_record(outcome))
    assert made[0] == found
    assert made[1].startswith(
        "The chosen setting does 50\N{NO-BREAK SPACE}% of the job and forgets 5.0 points"
    )
    assert made[1].endswith(said)
    without = balance_record(outcome)
    del without["test"]["task"]
    assert balance_verdict(without)[1].startswith("The chosen setting forgets 5.0 points")


def test_a_balance_shows_the_front_the_choice_and_what_failed(
    tmp_path: Path, reports: dict[str, tuple[Path, Report]]
) -> None:
    _, report = reports["balance"]
    chart = charts_of(report)["The job against everything else"]
    assert [row[-1] for row in chart.rows] == ["knee, front", "", "chosen, front"]
    told = flat(document_markdown(report))
    assert "Not trained: alpha 8, rank 32: the loss is not finite" in told
    assert "The front bends at alpha-0.5-lr" in told
    assert "✓ pass: forgetting: +5.0 points (−2.0 to +10.0), at most 5.0 points wanted: pass" in told
    trials = report.sections[-1].blocks[0]
    assert isinstance(trials, Table)
    assert list(trials.columns) == ["run", "alpha", "learning rate", "rank", "length", "job", "general"]
    # Without a drift that was measured, without rows, without a knee, with one point.
    few = balance_record()
    few |= {
        "test_drift": None,
        "knee": None,
        "points": few["points"][2:],
        "front": [0],
        "chosen": 0,
        "trials": [],
    }
    del few["test"]["task"]
    small = report_on(write_balance(tmp_path / "small", few))
    assert [tile.name for tile in small.tiles] == ["General score", "Cost of the search"]
    require_sound(document_page(small))


def test_an_assessment_shows_its_checks_and_what_the_probe_forgot(
    tmp_path: Path, reports: dict[str, tuple[Path, Report]]
) -> None:
    _, report = reports["assessment"]
    told = flat(document_markdown(report))
    assert "| leakage | ! warning | 24 of 24 held-out prompts are trained on |" in told
    assert "| duplicates | ✓ ok |" in told
    assert "Proposed budget of forgetting: 9.9 points" in told
    assert "A probe, plain LoRA without alignment, was trained for 40 steps" in told
    assert "- model: a/model - rows: rows.jsonl" in told
    assert "probe/samples/evaluation" not in told  # only where there are more items
    assert [section.title for section in report.sections][:2] == ["The data", "What plain fine-tuning does"]
    none = report_on(write_assessment(tmp_path / "none", budget=None))
    assert "No budget of forgetting is proposed" in document_markdown(none)
    assert none.tiles[-1].value == "none"


def test_a_demo_has_a_page_of_its_own_and_the_same_numbers_as_text(
    reports: dict[str, tuple[Path, Report]],
) -> None:
    folder, report = reports["demo"]
    assert "SelfAug demo: what training for one job makes a model forget" in page_of(folder)
    assert report.outcome == "good"
    told = flat(document_markdown(report))
    assert "⚑ in the job's style" in told
    assert "- general items: all" in told
    assert next(tile.name for tile in report.tiles) == "Job: exact answers"


@pytest.mark.parametrize(
    ("evaluation", "realignment", "outcome", "said"),
    [
        (EVALUATION, None, "open", "The model learned its job"),
        (EVALUATION, REALIGNMENT, "open", "The model learned its job"),
        ({**EVALUATION, "gate": None}, None, "good", "The model learned its job"),
        (None, {**REALIGNMENT, "gate": {"outcome": "pass"}}, "good", "this one stays within all bounds"),
        (None, {**REALIGNMENT, "gate": {"outcome": "fail"}}, "bad", "this one is outside of a bound"),
        (None, REALIGNMENT, "open", "too few items were asked to say"),
        (None, None, "open", "not evaluated yet: what it learned and what it forgot isn't known."),
    ],
)
def test_the_verdict_of_a_run(
    evaluation: dict[str, Any] | None, realignment: dict[str, Any] | None, outcome: str, said: str
) -> None:
    found, verdict = run_verdict(TRAINING, evaluation, 60, realignment)
    assert found == outcome
    assert said in verdict
    assert run_verdict(None, None, 1_234)[1] == "This run is not finished: 1,234 steps are done."


def test_a_run_that_was_really_trained(finished_run: Path, copied_run: Path) -> None:
    report = report_on(finished_run)
    assert report.verdict.startswith("Trained for 6 steps")
    page = require_sound(document_page(report))
    assert "nll on held-out rows" in page.text
    started = read_record(finished_run / "record.json", "train")
    assert TRAINING.keys() <= started.keys(), "records made by hand are as real ones"
    assert TRAINING["environment"].keys() == started["environment"].keys()
    RunDir(copied_run).record.unlink()
    assert report_on(copied_run).verdict == "This run is not finished: 6 steps are done."


# ---- texts of others


@pytest.mark.parametrize("text", [*HOSTILE, "<" * 1_000_000, "\U0001f600" * 250_000])
@pytest.mark.parametrize("name", ["evaluated", "comparison", "balance", "assessment", "demo"])
def test_whatever_the_texts_of_a_record_are_the_page_is_sound(name: str, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if name == "evaluated":
        training = changed_everywhere(TRAINING, text)
        evaluation = changed_everywhere(EVALUATION, text)
        evaluation["suites"][text[:50]] = evaluation["suites"]["task"]
        evaluation["drift"][text] = evaluation["drift"]["general prompts"]
        run = write_run(folder, training=training, steps=0)
        write_record(run.evaluation, "evaluation", evaluation)
    elif name == "comparison":
        write_comparison(folder, changed_everywhere(comparison_record(), text), [text] * 2)
    elif name == "balance":
        changed = changed_everywhere(balance_record(), text)
        changed["failed_trials"] *= 30
        write_balance(folder, changed)
    elif name == "assessment":
        write_assessment(folder)
        changed = changed_everywhere(read_record(folder / "record.json", "assessment"), text)
        write_record(folder / "record.json", "assessment", changed)
    else:
        folder.mkdir()
        changed = changed_everywhere(record([EXECUTIVE] * 5, steps=0), text)
        write_record(folder / "record.json", "demo", changed)
    began = time.process_time()
    report = report_on(folder)
    html = document_page(report)
    require_sound(html, calm=False)
    told = document_markdown(report)
    assert time.process_time() - began < 30
    told.encode()
    assert len(told) < MOST_BYTES
    require_no_markup(told)
    json.dumps(document_json(report))


def require_no_markup(markdown: str) -> None:
    """Outside of fences nothing is HTML, a link, a fence or a sequence that a terminal obeys."""
    outside, fence = [], ""
    for line in markdown.split("\n"):
        marked = re.match(r"(`{3,})(text)?$", line)
        if fence:
            fence = "" if line == fence else fence
        elif marked and marked[2]:
            fence = marked[1]
        else:
            outside.append(line)
    assert fence == "", "every fence is closed"
    text = re.sub(r"`selfaug [a-z ]+`", "", "\n".join(outside))
    assert not re.search(r"(?<!\\)[<>`~]|(?<!\\)\]\(|https?://", text.replace("\\\\", ""))
    assert not [one for one in markdown if ord(one) < 32 and one not in "\n\t"]
    assert not set(markdown) & set("\u202e\u2066\u2028\ufeff\ud800\x9b")
    headings = [line for line in outside if line.startswith("# ")]
    assert len(headings) == 1


def hostile_document(text: str) -> Report:
    """Hostile in every place that a report has."""
    return Report(
        kind="train", name=text, outcome="mixed", verdict=text, tiles=[Tile(text, text, [text])],
        sections=[
            Section(f"one {text}", text, [
                Text(text, "✗ fail"), Table(text, [text, text], [[Cell(text, text), Cell(text, text, [5, 100])]], text),
                Chart(text, text, "<svg></svg>", [text, ""], [[text, text]]),
            ]),
            Section(f"two {text}", text, [Answers(text, text, [Answer("other", text, text, [text])], True)]),
            Section("three", text, [HeatedText(text, [text, text], [None, 0.5], text, True)]),
        ],
        provenance=[(text, text)], made_by="selfaug train",
    )  # fmt: skip


@pytest.mark.parametrize("text", [*HOSTILE, LONE, "&" * 1_000_000, "- item", "1. item", "===", ""])
def test_a_text_is_a_text_in_every_place(text: str) -> None:
    report = hostile_document(text)
    page = require_sound(document_page(report), calm=False)
    harmless = Page(document_page(hostile_document("x")))
    if text:
        assert [tag for tag, _ in page.tags if tag != "span"] == [
            tag for tag, _ in harmless.tags if tag != "span"
        ]
    require_no_markup(document_markdown(report))
    assert document_json(report)["verdict"] == text


def test_markdown_keeps_tables_lists_and_fences_whole() -> None:
    told = document_markdown(hostile_document("a | b `c`\n```\n````\n- d"))
    assert r"a \| b \`c\`" in told
    assert "`````text\na | b `c`\n```\n````\n- d\n`````" in told
    for line in ("- item", "+ item", "1. item", "12) item", "=== x"):
        paragraphs = document_markdown(hostile_document(line)).split("\n\n")
        assert line not in paragraphs
        assert re.sub(r"([-+=.)])", r"\\\1", line, count=1) in paragraphs
    # A number is not the beginning of a list.
    assert "1.5 points" in document_markdown(hostile_document("1.5 points")).split("\n\n")
    assert r"http\://example.com www\.example.com" in document_markdown(
        hostile_document("http://example.com www.example.com")
    )
    long = document_markdown(hostile_document("x" * 5_000))
    assert "… cut off here: 5,000 characters" in long


def test_many_long_texts_stay_in_a_page_of_two_megabytes() -> None:
    tokens = ["<token>"] * 8_000
    heated = [HeatedText(f"text {number}", tokens, [0.5] * 8_000, "") for number in range(24)]
    answers = [
        Answers(f"item {number}", "<" * 9_000, [Answer("base", "base model", "é" * 9_000)] * 3)
        for number in range(60)
    ]
    cells = [[Cell("<" * 9_000, "<" * 9_000)] * 8 for _ in range(20)]
    blocks = [*heated, *answers, Table("t", ["c"] * 8, cells), *[Text("<" * 9_000)] * 30]
    html = document_page(
        Report("train", "n", "open", "v", [], [Section("s", "", blocks)], [("a", "b" * 9_000)], "selfaug")
    )
    require_sound(html)
    assert "of 8,000 tokens" in html
    assert "of 9,000 characters" in html


def test_a_lone_half_of_a_character_is_shown(tmp_path: Path) -> None:
    changed = balance_record()
    changed["reason"] = changed["points"][2]["run"] = LONE
    raw_record(tmp_path, "balance", changed)
    report = report_on(tmp_path)
    assert r"\ud800" in require_sound(document_page(report)).text
    assert r"\ud800" in document_markdown(report)


def test_a_folder_named_by_someone_who_means_ill(tmp_path: Path) -> None:
    name = "\x1b[2J<b>\u202e & `x` | [y](z)"
    report = report_on(write_run(tmp_path / "calm", steps=0).path.rename(tmp_path / name))
    page = require_sound(document_page(report))
    assert r"Run \x1b[2J<b>\u202e & `x` | [y](z)" in page.text
    require_no_markup(document_markdown(report))


# ---- what can't be read


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("train", ["final", "environment", "seconds", "settings_sha256"]),
        ("comparison", ["methods", "base", "items", "runs", "level"]),
        ("balance", ["points", "chosen", "test_gate", "front", "trials", "base"]),
        ("assessment", ["findings", "surprise", "verdict", "suites"]),
        ("demo", ["results", "settings", "curves", "side_by_side"]),
    ],
)
def test_a_record_that_lacks_something_is_one_clear_error(kind: str, keys: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    if kind == "train":
        write_run(folder, steps=0)
    else:
        KINDS[kind](folder)
    whole = read_record(folder / "record.json", kind)
    for key in keys:
        lacking = {name: value for name, value in whole.items() if name != key}
        for changed in (lacking, {**whole, key: None}, {**whole, key: "x"}, {**whole, key: []}):
            write_record(folder / "record.json", kind, changed)
            said = error_of(folder)
            # An empty list, or a text, can be something that one can report on.
            assert said is None or "lack what a report needs" in said
            assert said or changed is not lacking


def error_of(folder: Path) -> str | None:
    try:
        page_of(folder)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"kind": "train"}', b"\xff\xfe", b'"x"'])
def test_a_damaged_record_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    for read in (report_on, page_of, summary_of):
        with pytest.raises(DataError, match=r"record\.json (can't be read|is not a selfaug record)"):
            read(tmp_path)


def test_damaged_files_beside_the_record_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=EVALUATION)
    whole = run.metrics.read_text(encoding="utf-8")
    append_line(run.metrics, {"step": 61, "nll": 0.1})
    run.metrics.write_text("{\n" + whole, encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1: not JSON"):
        page_of(run.path)
    run.metrics.write_text(whole, encoding="utf-8")
    config = run.config.read_text(encoding="utf-8")
    run.config.write_text(config + "\n[: {", encoding="utf-8")
    with pytest.raises(DataError, match="lack what a report needs"):
        page_of(run.path)
    run.config.write_text(config, encoding="utf-8")
    drifted = run.samples / "evaluation" / "drift.jsonl"
    drifted.write_text('{"kind": "k", "id": "i", "tokens": ["a", "b"], "nats": [1.0]}\n', encoding="utf-8")
    with pytest.raises(DataError, match="lack what a report needs"):
        page_of(run.path)
    drifted.unlink()
    (run.samples / "evaluation" / "general-base.jsonl").unlink()
    assert "base says t1" in page_of(run.path)  # what is not there is left out
    run.evaluation.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"evaluation\.json can't be read"):
        page_of(run.path)


def test_where_there_is_nothing_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        report_on(tmp_path / "nowhere")
    with pytest.raises(DataError, match="it has no record"):
        report_on(tmp_path)
    write_record(tmp_path / "record.json", "canary", {})
    with pytest.raises(DataError, match="its record is of kind 'canary'"):
        page_of(tmp_path)
    newer = json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) | {
        "kind": "train",
        "version": 9,
    }
    (tmp_path / "record.json").write_text(json.dumps(newer), encoding="utf-8")
    with pytest.raises(DataError, match="has version 9"):
        report_on(tmp_path)
