"""A record that is missing, damaged or incomplete is one clear error of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from record_folders import KINDS

from report_records import (
    EVALUATION,
    write_run,
)
from selfaug.errors import DataError
from selfaug.records import append_line, read_record, write_record
from selfaug.report.open_report import page_of, report_on, summary_of


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
