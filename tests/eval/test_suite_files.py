"""Suites of the user's own: what a line may be, how it is scored, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfaug.errors import DataError
from selfaug.eval.scorers import SCORERS
from selfaug.eval.suite_files import read_suite


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_lines_and_their_scores(tmp_path: Path) -> None:
    rows = read_suite(
        write(
            tmp_path / "s.jsonl",
            {"question": "2 + 2?", "answer": "4"},
            {"prompt": "Capital of Peru?", "answer": "Lima"},
            "",
            {"id": "x", "question": "A bird?", "choices": ["a hen", "a cat"], "answer_index": 1},
            {"question": "Revenue?", "answer": "$1.2 billion", "scorer": "numeric"},
            {"question": "How many?", "answer": 12.5},
        )
    )
    assert [row.id for row in rows] == ["line 1", "line 2", "x", "line 5", "line 6"]
    names = {scorer: name for name, scorer in SCORERS.items()}
    assert [names[row.scorer] for row in rows if not row.choices] == [
        "number",
        "contains",
        "numeric",
        "number",
    ]
    number, contains, choice, numeric, decimal = rows
    assert number.score("2 and 2 make 4.") == 1
    assert number.score("4 is not 5") == number.score("") == 0
    assert contains.score("It is LIMA, of course") == 1
    assert contains.score("Limassol") == 0
    assert choice.answer == "a cat"
    assert choice.score("a cat") == 1
    assert choice.score("a hen") == 0
    assert numeric.score("1,200 million dollars") == 1
    assert decimal.score("about 12.50") == 1


def test_a_row_knows_the_schema_that_judges_it(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}', encoding="utf-8")
    rows = read_suite(
        write(
            tmp_path / "s.jsonl",
            {"question": "JSON?", "answer": "{}", "scorer": f"schema:{schema}"},
            {"question": "Lima?", "answer": "yes"},
        )
    )
    assert [row.judged_by for row in rows] == [(str(schema),), ()]


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_suite(
            write(
                tmp_path / "bad.jsonl",
                "{",
                ["a"],
                {"answer": "4"},
                {"question": "q"},
                {"question": "q", "choices": ["a"], "answer_index": 0},
                {"question": "q", "choices": ["a", "a"], "answer_index": 0},
                {"question": "q", "choices": ["a", "b"], "answer_index": 2},
                {"question": "q", "answer": "a", "scorer": "magic"},
                {"question": "q", "answer": "Lima", "scorer": "numeric"},
                {"id": "same", "question": "q", "answer": "a"},
                {"id": "same", "question": "q", "answer": "a"},
            )
        )
    text = str(caught.value)
    for number in range(1, 10):
        assert f"line {number}:" in text
    assert "'same' is there twice" in text
    with pytest.raises(DataError, match="no lines"):
        read_suite(write(tmp_path / "empty.jsonl", ""))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(DataError, match="UTF-8"):
        read_suite(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match="an empty name"):
        read_suite("")
