"""Reports of made-up companies, questions about them, and what `selfaug prepare` makes of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfaug.prepare_config import PrepareConfig, load_prepare_config
from selfaug.records import read_lines, write_lines

COMPANIES = 12


def revenue(company: int, year: int) -> str:
    return f"${company * 37 + (year - 2000) * 11} million"


def write_reports(folder: Path) -> Path:
    """Two reports a company, in Markdown, and a file that can't be read."""
    for company in range(COMPANIES):
        (folder / f"c{company}").mkdir()
        for year in (2023, 2024):
            (folder / f"c{company}" / f"{year}.md").write_text(
                f"# Company{company} annual report {year}\n\n## Results\n\nRevenue was {revenue(company, year)}.\n\n"
                f"## People\n\nAt its end {100 + company} people worked there.\n"
            )
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing")
    (folder / "picture.png").write_bytes(b"png")
    return folder


def write_questions(file: Path) -> Path:
    """Of each report's revenue, and four that no report answers."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"q{company}-{year}",
            "question": f"What was the revenue of Company{company} in {year}?",
            "answer": revenue(company, year),
            "document": f"c{company}/{year}.md",
        }
        for company in range(COMPANIES)
        for year in (2023, 2024)
    ]
    rows += [
        {"id": f"n{n}", "question": f"What is the revenue of Nobody{n}?", "answer": None} for n in range(4)
    ]
    write_lines(file, rows)
    return file


def configured(reports: Path, questions: Path | None, output: Path, *sets: str) -> PrepareConfig:
    flags = {"FOLDER": str(reports), "--output": str(output)}
    if questions is not None:
        flags["--questions"] = str(questions)
    return load_prepare_config(None, flags, ["rows.passages=3", "documents.processes=1", *sets])


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: read_lines(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
