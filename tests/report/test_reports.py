"""Reports of every kind as page, as Markdown and as JSON: what they say."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from page_checks import flat, require_sound
from record_folders import KINDS

from demo_records import record as demo_record
from report_records import (
    EVALUATION,
    MADE_OF,
    REALIGNMENT,
    TRAINING,
    balance_record,
    comparison_in_doubt,
    comparison_record,
    interval,
    write_assessment,
    write_balance,
    write_comparison,
    write_run,
)
from selfaug.records import read_record, write_record
from selfaug.report.balance_report import balance_verdict
from selfaug.report.comparison_report import comparison_verdict
from selfaug.report.demo_report import demo_report
from selfaug.report.document import (
    Answers,
    Chart,
    Report,
    Table,
)
from selfaug.report.document_text import document_json, document_markdown
from selfaug.report.open_report import kind_of, page_of, report_on, summary_of
from selfaug.report.page import document_page
from selfaug.report.run_report import logged, run_verdict
from selfaug.rundir import RunDir
from selfaug.wording.comparison_results import comparison_notes


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Report]]:
    """A folder and its report of each kind: pictures take seconds, so they are drawn once."""
    top = tmp_path_factory.mktemp("records")
    folders = {name: write(top / name) for name, write in KINDS.items()}
    return {name: (folder, report_on(folder)) for name, folder in folders.items()}


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
    assert names["content of rows"] == f"SHA-256 {'9a' * 8}…"
    assert names["seed"] == "42"
    assert names["weights"].startswith("adapter/adapter_model.safetensors: SHA-256 12121212")
    assert "torch 2.11.0" in names["trained on"]


@pytest.mark.parametrize("kind", ["comparison", "balance", "assessment", "demo"])
def test_hashes_seeds_and_versions_are_told_where_the_record_has_them(
    kind: str, reports: dict[str, tuple[Path, Report]], tmp_path: Path
) -> None:
    if kind == "comparison":
        report = report_on(write_comparison(tmp_path, {**comparison_record(), "made_of": MADE_OF}))
    elif kind == "demo":
        report = demo_report({**demo_record([]), "made_of": MADE_OF})
    else:
        report = reports[kind][1]
    names = dict(report.provenance)
    assert names["base weights"] == f"hash {'34' * 8}…"
    assert names["tokeniser and chat template"] == f"hash {'78' * 8}…"
    assert names["settings"] == f"SHA-256 {'de' * 8}… of those that results depend on; all are in record.json"
    assert names["data.train rows.jsonl"] == f"SHA-256 {'9a' * 8}…"
    assert names["--dev folder"].endswith("; and 2 more, which record.json has")
    assert names["--test owner/rows"] == "owner/rows, by name alone"
    machine = names["probe trained on" if kind == "assessment" else "machine"]
    assert re.search(r"Python 3\.\d+\.\d+; .*torch 2", machine)
    assert any(name.startswith("seed") for name in names)
    if kind in ("comparison", "demo"):  # earlier records have none
        assert "base weights" not in dict(reports[kind][1].provenance)


def test_versions_that_changed_before_the_end_are_told(tmp_path: Path) -> None:
    versions = {"versions": {"torch": "2.13"}, "versions_before": [{}, {"torch": "1.0"}]}
    environment = {**TRAINING["environment"], **versions}
    run = write_run(
        tmp_path / "run",
        training={**TRAINING, "environment": environment},
        evaluation={**EVALUATION, **versions},
    )
    names = dict(report_on(run.path).provenance)
    told = "; torch 2.13; before, when {} was stopped: not known; torch 1.0"
    assert names["trained on"].endswith(told.format("training"))
    assert names["evaluated on"].endswith(told.format("the evaluation"))


def test_a_limit_of_drift_a_best_checkpoint_and_memory_are_told(tmp_path: Path) -> None:
    training = {
        **TRAINING,
        "best": {
            "rows": 20,
            "scorer": "exact",
            "step": 40,
            "within": True,
            "scores": {"20": 0.5, "40": 0.75},
        },
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


def test_what_is_rare_in_a_long_run_is_all_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", training=None, steps=0)
    every, drifts = 500, []
    with run.metrics.open("w", encoding="utf-8") as file:
        for step in range(1, 20_001):
            file.write(
                json.dumps({"step": step, "nll": 3 / step, "alignment_loss": 0.1, "note": "x" * 80}) + "\n"
            )
            if step % every == 0:
                drifts.append({"step": step, "general_drift": step / 1e6})
                file.write(json.dumps(drifts[-1]) + "\n" + json.dumps({"step": step, "eval_nll": 1.0}) + "\n")
        file.write('{"step": 20001, "general_drift": 0.')  # it is being written
    assert run.metrics.stat().st_size > 2_000_000
    rows = logged(run)
    assert [row for row in rows if "general_drift" in row] == drifts
    assert [row["step"] for row in rows if "eval_nll" in row] == [row["step"] for row in drifts]
    assert 900 < len(rows) - 2 * len(drifts) < 1100
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert charts_of(report_on(run.path))["Drift on general prompts"].rows[-1] == ["20000", "0.0200"]
    # A last line of no rare sort is read, too, and once.
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('01}\n{"step": 20002, "nll": 0.5}\n')
    assert [row["step"] for row in logged(run)][-2:] == [20_001, 20_002]


def test_a_re_alignment_is_compared_with_the_deployed_run(reports: dict[str, tuple[Path, Report]]) -> None:
    _, report = reports["realigned"]
    assert report.outcome == "open"
    assert report.verdict.startswith("Against the deployed run runs/old, what was asked doesn't say")
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
    assert report.outcome == "open"  # the demo's SelfAug keeps more; it may learn the job a little less well
    assert reports["comparison-real"][1].verdict.startswith("SelfAug")
    drift = next(section for section in report.sections if section.title == "Forgetting and drift")
    assert drift.about.endswith("each point is a trained run, or the adapter of one scaled down.")
    correlation = comparison_record()["forecast"]
    about = charts["Forgetting against drift"].about
    assert f"of the {len(correlation['drifts'])} trained runs." in about
    assert "Settings that were not chosen are on development items, all others on test items." in about
    assert len(correlation["drifts"]) < len(charts["Forgetting against drift"].rows)


def test_without_its_answers_a_comparison_has_all_the_rest(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", "comparison", comparison_record())
    report = report_on(tmp_path)
    assert [section.title for section in report.sections] == [
        "Scores",
        "What it costs",
        "Forgetting and drift",
    ]


def test_a_comparison_without_drift_has_no_picture_of_it(tmp_path: Path) -> None:
    old = comparison_record()
    old["forecast"] = None
    for run in old["runs"]:
        run["drift"] = None
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
        (
            (-0.1, -0.2, -0.05),
            (0.3, 0.2, 0.4),
            "mixed",
            "SelfAug with self-anchors learned the job less well",
        ),
        ((-0.1, -0.2, -0.05), (0.0, -0.1, 0.1), "bad", "was not shown to keep more of everything else"),
        ((0.1, 0.05, 0.2), (0.3, 0.2, 0.4), "good", "learned the job better than plain LoRA"),
        ((0.0, -0.1, 0.1), (0.3, 0.2, 0.4), "good", "with no difference shown"),
        ((0.0, -0.1, 0.1), (0.3, 0.2, 0.4), "good", "; it kept more of everything else"),
        ((0.0, -0.1, 0.1), (-0.3, -0.4, -0.2), "mixed", "it kept less of everything else"),
        # Nothing is shown, and so is not that it is nearly as good.
        (
            (-0.08, -0.19, 0.03),
            (0.3, 0.2, 0.4),
            "open",
            "+3.0 points), though SelfAug with self-anchors may do far less of it; it kept",
        ),
    ],
)
def test_the_verdict_of_a_comparison(
    task: tuple[float, ...], general: tuple[float, ...], outcome: str, said: str
) -> None:
    changed = comparison_record()
    against = changed["methods"]["plain"]["against_subject"]
    against["task"]["difference"], against["general"]["difference"] = interval(*task), interval(*general)
    own = changed["methods"][changed["subject"]]["suites"]["general"]["difference"]
    own["difference"] = interval(-0.02, -0.08, 0.05)
    found, verdict = comparison_verdict(changed)
    assert found == outcome
    assert said in verdict
    assert verdict.count(". ") == 0


@pytest.mark.parametrize(
    ("own", "seen", "outcome", "said"),
    [
        ((-0.25, -0.32, -0.18), {"dev": 0, "train": 0}, "mixed", "of everything else, though it forgot, too: gen"),
        ((-0.04, -0.14, 0.06), {"dev": 0, "train": 0}, "open", "else, though it is not shown that it lost little: "),
        ((-0.02, -0.08, 0.05), {"dev": 0, "train": 0}, "good", "it kept more of everything else: general"),
        ((-0.02, -0.08, 0.05), {"dev": 9, "train": 0}, "good", "it kept more of everything else: general"),
        ((-0.02, -0.08, 0.05), {"dev": 0, "train": 9}, "open", ". 9 of 64 held-out rows are training rows, too: "),
    ],
)  # fmt: skip
def test_a_comparison_is_as_hoped_only_if_little_was_forgotten_and_nothing_remembered(
    own: tuple[float, ...], seen: dict[str, int], outcome: str, said: str
) -> None:
    changed = comparison_record()
    changed["test_prompts_seen"] = seen
    against = changed["methods"]["plain"]["against_subject"]
    against["task"]["difference"], against["general"]["difference"] = (
        interval(0.0, -0.1, 0.1),
        interval(0.3, 0.2, 0.4),
    )
    changed["methods"][changed["subject"]]["suites"]["general"]["difference"]["difference"] = interval(*own)
    found, verdict = comparison_verdict(changed)
    assert found == outcome
    assert said in verdict
    notes = " ".join(comparison_notes(changed))
    assert ("training rows, too" in notes) == bool(seen["train"])
    assert ("9 of 64 test rows are development rows, too" in notes) == bool(seen["dev"])


def test_rows_that_were_chosen_on_are_told_where_it_is_said_what_is_chosen_on_what(tmp_path: Path) -> None:
    seen = {"dev": 1, "train": 1}
    write_record(tmp_path / "record.json", "comparison", {**comparison_record(), "test_prompts_seen": seen})
    balance = write_balance(tmp_path / "balance", {**balance_record(), "test_prompts_seen": seen})
    for folder, items in ((tmp_path, 64), (balance, 1)):
        chosen = dict(report_on(folder).provenance)["what is chosen on what"]
        rows = "1 test row" if items == 1 else f"{items} test rows"
        assert f". But 1 of {rows} is a development row, too, by which settings were chosen" in chosen
    told = document_markdown(report_on(balance))
    assert "! trained on" in told
    assert "Nothing was chosen on these" not in told
    seen = {"dev": 0, "train": 0, "dev_trained_on": 2}
    write_balance(tmp_path / "balance", {**balance_record(), "test_prompts_seen": seen})
    told = document_markdown(report_on(balance))
    assert "Nothing was chosen on these. 2 development rows are training rows, too" in told


@pytest.mark.parametrize(
    ("gains", "outcome", "said"),
    [
        # Too large an alpha keeps everything and learns nothing, and plain LoRA is no better at the job.
        ((-0.02, -0.02), "mixed", "Neither SelfAug with self-anchors nor plain LoRA was shown to"),
        ((0.0, 0.4), "mixed", "SelfAug with self-anchors was not shown to learn the job, as plain LoRA"),
        ((0.01, -0.02), "open", "with no difference shown"),  # it may have lost 10.2 points
    ],
)
def test_a_comparison_in_which_selfaug_learned_nothing_is_not_as_hoped(
    gains: tuple[float, float], outcome: str, said: str
) -> None:
    changed = comparison_in_doubt()
    for name, low in zip((changed["subject"], "plain"), gains, strict=True):
        changed["methods"][name]["suites"]["task"]["difference"]["difference"] = interval(low + 0.1, low, 0.9)
    against = changed["methods"]["plain"]["against_subject"]
    against["task"]["difference"], against["general"]["difference"] = (
        interval(0.0, -0.1, 0.1),
        interval(0.3, 0.2, 0.4),
    )
    found, verdict = comparison_verdict(changed)
    assert found == outcome
    assert said in verdict
    assert ("; SelfAug with self-anchors kept more" in verdict) == ("Neither" in verdict)


def test_the_verdict_says_which_seeds_its_numbers_are_of() -> None:
    changed = comparison_record()
    assert "seeds" not in comparison_verdict(changed)[1]
    changed["methods"][changed["subject"]]["seeds"] = [0, 1, 2]
    verdict = comparison_verdict(changed)[1]
    assert (
        "scores are over each method's own seeds, what is said to differ over the 2 seeds that both have"
        in verdict
    )


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
    # Whatever learns nothing stays within every budget.
    idle = balance_record(outcome)
    idle["test"]["task"]["difference"]["difference"] = interval(0.02, -0.04, 0.08)
    made = balance_verdict(idle)
    assert made[0] == {"good": "mixed"}.get(found, found)
    assert made[1].endswith("; it was not shown to have learned the job (+2.0 points, −4.0 to +8.0).")
    weak = balance_record(outcome)
    weak["test_gate"] |= {"outcome": "inconclusive", "at_stake": 0.03}
    made = balance_verdict(weak)
    assert made[0] == "open"
    assert made[1].endswith(
        "the base model passes only 3\N{NO-BREAK SPACE}% of these: it could forget all of it and stay within the bound."
    )
    known = {**balance_record(outcome), "test_prompts_seen": {"dev": 0, "train": 1}}
    made = balance_verdict(known)
    assert made[0] == {"good": "open"}.get(found, found)
    assert f"{said} 1 of 1 held-out row is a training row, too: the task's score says" in made[1]
    without = balance_record(outcome)
    del without["test"]["task"]
    assert balance_verdict(without)[1].startswith("The chosen setting forgets 5.0 points")


def test_a_balance_shows_the_front_the_choice_and_what_failed(
    tmp_path: Path, reports: dict[str, tuple[Path, Report]]
) -> None:
    _, report = reports["balance"]
    chart = charts_of(report)["The job against everything else"]
    assert [row[-1] for row in chart.rows] == ["knee, front", "", "chosen, front"]
    assert [row[1] for row in chart.rows][-1] == "80.0 (70.0 to 85.0)"
    assert [row[3] for row in chart.rows][-1] == "2.0 (−1.0 to +12.0)"
    labels = [attributes.get("aria-label") for _, attributes in require_sound(document_page(report)).tags]
    assert (
        f"{chart.name}. The numbers are in the table below." in labels
    )  # what it shows is in the caption, whole
    told = flat(document_markdown(report))
    assert "Not trained: alpha 8, rank 32: the loss is not finite" in told
    assert "The front bends at alpha-0.5-lr" in told
    assert "in the folder best beside this page" in told
    assert "✓ pass: forgetting: +5.0 points (−2.0 to +10.0), at most 5.0 points wanted: pass" in told
    trials = report.sections[-1].blocks[0]
    assert isinstance(trials, Table)
    assert list(trials.columns) == [
        "run",
        "alpha",
        "learning rate",
        "rank",
        "length",
        "job",
        "general",
        "forgetting",
    ]
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
    assert charts_of(small)["The job against everything else"].rows[0][2] == "58.0"
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
    assert [tile.notes[-1] for tile in report.tiles[1:3]] == ["of the probe"] * 2
    assert "probe 50\N{NO-BREAK SPACE}%" in report.tiles[0].notes[1]
    none = report_on(write_assessment(tmp_path / "none", budget=None))
    assert "No budget of forgetting is proposed" in document_markdown(none)
    assert none.tiles[-1].value == "none"


def test_a_demo_has_its_settings_and_answers_as_text(reports: dict[str, tuple[Path, Report]]) -> None:
    _, report = reports["demo"]
    assert report.outcome == "good"
    told = flat(document_markdown(report))
    assert "⚑ in the job's style" in told
    assert "- optimizer steps: 12" in told
    assert next(tile.name for tile in report.tiles) == "Job: exact answers"


def realigned(outcome: str) -> dict[str, Any]:
    return {**REALIGNMENT, "gate": {"outcome": outcome, "of_bounds": outcome, "unmeasured": []}}


@pytest.mark.parametrize(
    ("evaluation", "realignment", "outcome", "said"),
    [
        (EVALUATION, None, "open", "The model learned its job"),
        (EVALUATION, REALIGNMENT, "open", "The model learned its job"),
        ({**EVALUATION, "gate": None}, None, "good", "The model learned its job"),
        ({**EVALUATION, "gate": None}, REALIGNMENT, "open", "what was asked doesn't say"),
        (
            {**EVALUATION, "gate": None},
            realigned("fail"),
            "bad",
            "Against the deployed run runs/old, this one is outside of a bound: old task 0.0 points",
        ),
        (
            {**EVALUATION, "gate": None},
            realigned("pass"),
            "good",
            "The model learned",
        ),
        (
            {**EVALUATION, "gate": {"outcome": "fail", "bounds": []}},
            realigned("pass"),
            "bad",
            "The model learned its job",
        ),
        (None, realigned("pass"), "good", "this one stays within all bounds"),
        (None, realigned("fail"), "bad", "this one is outside of a bound"),
        (None, REALIGNMENT, "open", "what was asked doesn't say"),
        (
            None,
            {
                **REALIGNMENT,
                "old_sources": dict.fromkeys(("a.jsonl", "b.jsonl"), REALIGNMENT["suites"]["general"]),
                "gate": {**realigned("fail")["gate"], "bounds": [{"name": "loss, old task: b.jsonl"}]},
            },
            "bad",
            "(−5.0 to +3.0), old task: b.jsonl −1.0 points",
        ),
        (
            None,
            {
                **REALIGNMENT,
                "gate": {"outcome": "inconclusive", "of_bounds": "pass", "unmeasured": ["new task"]},
            },
            "open",
            "within all bounds (not measured, for want of held-out rows: new task)",
        ),
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
