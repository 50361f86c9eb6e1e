"""`selfaug realign`: what it says at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from selfaug.cli.main import app
from selfaug.cli.realign_commands import _show
from selfaug.phases.realign import Realignment


def shown(
    capsys: pytest.CaptureFixture[str], version: int | None, registry: str | None, **more: str
) -> tuple[str, list[str]]:
    """What it says, and the command after that, as a shell takes it."""
    record = {"settings": {"scorer": "exact"}, "suites": {}, "gate": {"bounds": []}, **more}
    _show(Realignment(Path("runs/my second"), record, "pass", version), registry)
    said, _, command = capsys.readouterr().err.rpartition("serve it: ")
    return said, shlex.split(command)


def test_the_command_that_it_says_names_the_registry_that_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    promote = ["selfaug", "registry", "promote"]
    assert shown(capsys, 2, "my runs/all.sqlite")[1] == [*promote, "2", "--registry", "my runs/all.sqlite"]
    said, command = shown(capsys, None, None)
    assert command == [*promote, "runs/my second"]
    # With a registry and no candidate, it was told already what that is.
    assert shown(capsys, None, "r.sqlite")[0] == ""
    # Whoever gave no --output has to be told.
    assert f"the new run is runs/my second, the decision {Path('runs/my second/realignment.json')}\n" in said


def test_that_another_run_is_the_champion_is_said_beside_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, _ = shown(capsys, 3, "r.sqlite", deployed="runs/first", champion_instead="/runs/second")
    assert "goes on from runs/first, and not from the champion: that is /runs/second." in said
    assert "champion" not in shown(capsys, None, None)[0]


def test_what_is_set_wins_over_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def stopped(*_: Any, sets: list[str], **__: Any) -> None:
        taken.extend(sets)
        raise KeyboardInterrupt

    monkeypatch.setattr("selfaug.phases.realign.realign", stopped)
    monkeypatch.setattr("selfaug.phases.whose_code.code_of_run", lambda *_, **__: [])  # there is no such run
    flags = ["--steps", "50", "--offline", "--set", "train.steps=100", "--set", "run.offline=false"]
    with libraries_as_before():
        result = CliRunner().invoke(app, ["realign", "runs/first", "--data", "new.jsonl", *flags])
    assert result.exit_code == 130, result.stderr
    assert taken == ["train.steps=50", "run.offline=true", "train.steps=100", "run.offline=false"]
