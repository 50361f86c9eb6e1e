"""`--config` of the commands whose settings are flags."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.main import app

small = typer.Typer()


@small.command()
def show(
    run: Annotated[str, typer.Argument()],
    max_batch: Annotated[int, typer.Option("--max-batch")] = 16,
    name: Annotated[list[str] | None, typer.Option("--name")] = None,
    check: Annotated[bool, typer.Option("--check")] = False,
    config: FlagsFile = None,
) -> None:
    typer.echo((run, max_batch, name, check))


def shown(file: Path, text: str, *arguments: str) -> str:
    file.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(small, ["--config", str(file), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_flags_come_from_the_file_and_those_that_are_given_win(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    text = "run: runs/first\nmax_batch: 8\nname: [a, b]\ncheck: true\n"
    assert shown(file, text) == "('runs/first', 8, ['a', 'b'], True)"
    assert shown(file, text, "other", "--max-batch", "2", "--name", "c") == "('other', 2, ['c'], True)"
    assert shown(file, "--max-batch: 3\nname: a\n", "x") == "('x', 3, ['a'], False)"
    assert shown(file, "max-batch:\n", "x") == "('x', 16, None, False)"
    assert shown(file, "", "x") == "('x', 16, None, False)"


def test_all_that_is_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("max-bach: 8\nport: 1\nport: [2]\nsample: {a: 1}\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["serve", "--config", str(file)])
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "line 1: max-bach is no flag of this command (did you mean max-batch?)" in said
    assert "line 3: port is given a second time" in said
    assert "line 3: port should be one value" in said
    assert "line 4: sample should be one value" in said
    assert "`selfaug serve --help`" in said or "serve --help" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [("port: nine", "--port"), ("[1]", "not a file of settings"), ("a: [", "not valid YAML")],
)
def test_what_is_no_value_or_no_file_is_a_usage_error(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["serve", "--config", str(file)])
    assert result.exit_code == 2
    assert words in result.stderr
    missing = CliRunner().invoke(app, ["serve", "--config", str(tmp_path / "none.yaml")])
    assert missing.exit_code == 2
    assert "does not exist" in missing.stderr


def test_an_argument_of_several_words_is_a_list(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    for text in ("runs: [none, neither]", "runs: none"):
        file.write_text(text, encoding="utf-8")
        result = CliRunner().invoke(app, ["report", "--config", str(file)])
        assert "should be one value" not in result.stderr
        assert "none" in result.stderr


def test_every_command_with_settings_takes_a_file() -> None:
    commands = get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    without = {
        name
        for name, command in commands.commands.items()
        if not any("--config" in parameter.opts for parameter in command.params)
    }
    assert without == {"doctor", "registry"}


def test_serve_hands_on_what_is_rarely_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(
        "run: runs/first\nscored-per-hour: 7\ncompute-share: 0.2\nkeep-days: 3\ncanary-hours: 2\ndrain: 4\n"
        "max-body: 5000\n",
        encoding="utf-8",
    )
    taken: list[SimpleNamespace] = []

    def open_server(run: str, settings: object) -> None:
        taken.append(SimpleNamespace(run=run, settings=settings))
        raise KeyboardInterrupt

    monkeypatch.setattr("selfaug.phases.serve.open_server", open_server)
    monkeypatch.setattr("selfaug.phases.whose_code.code_of_run", lambda *_, **__: [])  # there is no such run
    assert CliRunner().invoke(app, ["serve", "--config", str(file)]).exit_code == 130
    (found,) = taken
    monitor = found.settings.watch.monitor
    assert (found.run, monitor.scored_per_hour, monitor.compute_share, monitor.keep_days) == (
        "runs/first", 7, 0.2, 3,
    )  # fmt: skip
    assert (found.settings.watch.canary_seconds, found.settings.drain_seconds) == (7200, 4)
    assert found.settings.limits.body_bytes == 5000
