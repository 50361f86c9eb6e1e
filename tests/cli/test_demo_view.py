"""What `selfaug demo` prints, from records made by hand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from demo_records import entry, record
from selfaug.cli.demo_view import show_demo


def shown(width: int, *, answer: str = "an answer") -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, color_system=None)
    given = record([entry("executive bullets", "Summarize.", answer, answer, answer)])
    show_demo(given, Path("runs/demo"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def test_a_wide_terminal_shows_answers_side_by_side_and_a_narrow_one_stacked() -> None:
    assert [line.count("an answer") for line in shown(120).splitlines() if "an answer" in line] == [3]
    assert [line.count("an answer") for line in shown(60).splitlines() if "an answer" in line] == [1, 1, 1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_terminal_but_what_is_for_copying(width: int) -> None:
    lines = shown(width).splitlines()
    assert "selfaug chat runs/demo/selfaug" in lines[-2]
    assert max(len(line) for line in lines[:-4]) <= width


def test_table_verdict_and_what_to_do_next_are_there() -> None:
    text = " ".join(shown(120).split())
    for part in (
        "−23.0 points (−26.0 to −20.0)",
        "0.053 (0.033 to 0.073)",
        "after SelfAug only 3 %.",
        "page runs/demo/report.html",
        "time 12 min 21 s, 2 threads",
        "selfaug train --model NAME",
    ):
        assert part in text


def test_a_models_text_cannot_command_the_terminal() -> None:
    text = shown(120, answer="[bold red]x[/] \x1b[2J \u202e")
    assert "\x1b" not in text
    assert r"[bold red]x[/] \x1b[2J \u202e" in text


def test_a_very_long_answer_is_cut_off() -> None:
    assert len(shown(120, answer="x" * 1_000_000)) < 30_000
