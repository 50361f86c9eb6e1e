"""Re-alignments of a few steps, and rows for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from selfaug.cli.main import app
from selfaug.phases.realign import RealignSettings
from selfaug.records import read_lines, write_lines

__all__ = ["LENIENT", "asking", "chat", "quick", "run_command"]

LENIENT = ("--max-task-loss", "1", "--max-general-loss", "1", "--min-new-gain", "-1")


def asking(file: Path, what: str, rows: Path) -> Path:
    """Sixteen of the rows, that ask for something else and are answered so."""
    asked = [
        {**row, "question": row["question"].replace("revenue", what), "answer": "none"}
        for row in read_lines(rows)[:16]
    ]
    write_lines(file, asked)
    return file


def chat(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def run_command(*arguments: str) -> Result:
    few = [
        "--steps",
        "2",
        "--general-items",
        "2",
        "--task-items",
        "3",
        "--max-new-tokens",
        "3",
        "--level",
        "1",
    ]
    return CliRunner().invoke(app, ["realign", *arguments, *few])


def quick(data: Path, **more: Any) -> RealignSettings:
    few: dict[str, Any] = {"general_items": 2, "task_items": 3, "max_new_tokens": 3, "level": "1"}
    return RealignSettings([str(data)], **{**few, **more})
