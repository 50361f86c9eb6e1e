"""Texts of others stay texts in every report, whatever they are."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from page_checks import MOST_BYTES, Page, require_no_markup, require_sound

from demo_records import EXECUTIVE, record
from report_records import (
    EVALUATION,
    HOSTILE,
    LONE,
    TRAINING,
    balance_record,
    changed_everywhere,
    comparison_record,
    raw_record,
    write_assessment,
    write_balance,
    write_comparison,
    write_run,
)
from selfaug.records import read_record, write_record
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
from selfaug.report.open_report import report_on
from selfaug.report.page import document_page


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
