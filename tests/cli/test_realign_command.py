"""`selfaug realign`: what it says at its end."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from selfaug.cli.realign_commands import _show
from selfaug.phases.realign import Realignment


def told(capsys: pytest.CaptureFixture[str], version: int | None, registry: str | None) -> list[str]:
    """The command that it says, as a shell takes it."""
    record = {"settings": {"scorer": "exact"}, "suites": {}, "gate": {"bounds": []}}
    _show(Realignment(Path("runs/my second"), record, "pass", version), registry)
    return shlex.split(capsys.readouterr().err.rpartition("serve it: ")[2])


def test_the_command_that_it_says_names_the_registry_that_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    promote = ["selfaug", "registry", "promote"]
    assert told(capsys, 2, "my runs/all.sqlite") == [*promote, "2", "--registry", "my runs/all.sqlite"]
    assert told(capsys, None, None) == [*promote, "runs/my second"]
