"""The comparison on real text: pages stay in one part, amounts are scored as amounts, and it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.real_text import split_rows

from selfaug.phases.compare import RECORD_KIND
from selfaug.records import read_record, write_lines

ROOT = Path(__file__).parents[1]


def written_pages(folder: Path) -> Path:
    """The files that it reads, with some pages that have several questions."""
    folder.mkdir()
    files = {
        "tatqa_short": [
            {"id": f"t{page}.{row}", "context": [f"Table: {row + 3} seats", f"Page {page}"][:: 1 - 2 * (row % 2)],
             "question": f"Seats on page {page}?", "answer": f"{row + 3} seats"}
            for page in range(9) for row in range(3)
        ],
        "convfinqa_short_train": [
            {"id": f"c{page}", "context": [f"cost of {page} was {page + 20}"], "question": f"cost of {page}?",
             "answer": str(page + 20)} for page in range(20)
        ],
        "convfinqa_short_eval": [
            {"id": "computed", "context": ["costs were 20 and 30"], "question": "their sum?", "answer": "50"}
        ],
        "gsm8k_test": [{"id": f"g{n}", "question": f"{n} and {n}?", "answer": str(2 * n)} for n in range(3)],
        **{
            name: [{"id": f"{name}{n}", "question": f"{n}?", "choices": ["yes", "no"], "answer_index": 0}
                   for n in range(3)]
            for name in ("hellaswag", "mmlu_dev")
        },
    }  # fmt: skip
    for row in files["tatqa_short"]:  # a table is its page's own
        row["context"] = [f"{text} on {row['id'].partition('.')[0]}" for text in row["context"]]
    for name, rows in files.items():
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def test_pages_are_kept_apart(tmp_path: Path) -> None:
    parts = split_rows(written_pages(tmp_path / "data"), lambda row: True, {"train": 12, "dev": 6, "test": 6})
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 12, "dev": 6, "test": 6}
    pages = [{row["id"].partition(".")[0] for row in rows} for rows in parts.values()]
    assert len(set.union(*pages)) == sum(map(len, pages))
    assert "computed" not in {row["id"] for rows in parts.values() for row in rows}
    assert all(sum(row["id"].startswith("t") for row in rows) == len(rows) / 2 for rows in parts.values())


@pytest.mark.benchmark
def test_methods_are_compared_with_public_benchmarks_beside(tiny_model_dir: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks.real_text", "--data", str(written_pages(tmp_path / "data"))),
        *("--output", str(tmp_path / "run"), "--model", str(tiny_model_dir), "--steps", "1", "--seeds", "0"),
        *("--methods", "plain", "--tokens", "500", "--dev-items", "2", "--test-items", "4"),
        *("--suite-items", "2", "--general-items", "2", "--threads", "1"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "run" / "record.json", RECORD_KIND)
    assert record["items"] == {"task": 4, "gsm8k": 2, "hellaswag": 2, "mmlu": 2, "general": 2}
