"""`selfaug compare` and `selfaug balance` as commands: where pages go, what is refused, signals, the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from selfaug.cli.app import quiet_libraries
from selfaug.cli.main import app
from selfaug.config import dump_config, load_config
from selfaug.records import write_record

COMMANDS = ["compare", "balance"]
NEEDED = ["--model", "m", "--train", "rows.jsonl"]


@pytest.fixture(autouse=True)
def libraries() -> Iterator[None]:
    with libraries_as_before():
        yield


@pytest.mark.parametrize("command", COMMANDS)
def test_the_demo_takes_no_settings_file(command: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    result = CliRunner().invoke(app, [command, "--demo", "--config", "my.yaml", "--output", str(output)])
    assert result.exit_code == 2
    assert "--config my.yaml would be left out" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_is_where_the_settings_say(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    monkeypatch.setattr("selfaug.cli.pages.write_page", pages.append)
    monkeypatch.setattr(f"selfaug.phases.{command}.{command}", lambda *_, **__: {})
    given = ["--model", "m", "--train", "rows.jsonl", "--set", f"run.output={tmp_path / 'X'}", "--json"]
    result = CliRunner().invoke(app, [command, *given])
    assert result.exit_code == 0, result.stderr
    assert pages == [str(tmp_path / "X")]


@pytest.mark.parametrize("command", [*COMMANDS, "assess"])
def test_processes_of_a_launcher_are_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = [command, "--model", "m", "--train", "rows.jsonl", "--output", str(tmp_path / "output")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert f"2 processes of `selfaug {command}`" in result.stderr
    assert ("CUDA_VISIBLE_DEVICES" in result.stderr) == (command == "balance")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_balanced_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("selfaug.cli.pages.write_page", lambda _: None)
    monkeypatch.setattr("selfaug.phases.balance.balance", lambda *of, **_: given.append(of) or {})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = CliRunner().invoke(app, ["balance", "--demo", "--output", ".", "--json"])
    assert result.exit_code == 0, result.stderr
    assert given[0][1].dev == [str(tmp_path / "here-data" / "data" / "dev.jsonl")]


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_stops_as_ctrl_c_does(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def stopped(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            # A launcher may send it once more, while the training saves its checkpoint.
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append("saved")
            raise

    monkeypatch.setattr(f"selfaug.phases.{command}.{command}", stopped)
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append("not taken"))
    try:
        result = CliRunner().invoke(app, [command, "--model", "m", "--train", "rows.jsonl"])
        assert callable(signal.getsignal(signal.SIGTERM))  # as it was
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == ["saved"]
    assert result.exit_code == 130
    assert "give the same command again" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_to_go_on_does_not_begin_anew(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"selfaug.phases.{command}.{command}", stopped)
    given = [command, "--model", "m", "--train", "rows.jsonl", "--output", str(tmp_path)]
    assert "the same command again.\n" in CliRunner().invoke(app, given).stderr
    # Given again, it would delete what is done.
    anew = CliRunner().invoke(app, [*given, "--overwrite"])
    assert "the same command again, without --overwrite.\n" in anew.stderr
    assert anew.exit_code == 130
    by_settings = CliRunner().invoke(app, [*given, "--set", "run.overwrite=true"])
    assert "the same command again, with --set run.overwrite=false.\n" in by_settings.stderr
    # Nothing was made anew: what was there is back.
    (tmp_path / "record.json").touch()
    assert "the same command again.\n" in CliRunner().invoke(app, [*given, "--overwrite"]).stderr


@pytest.mark.parametrize(
    ("replay", "rows", "offline"),
    [("[]", [], True), ("[embedded]", ["{file}"], True), ("[owner/name]", [], False), ("[]", ["owner/name"], False)],
)  # fmt: skip
def test_the_network_is_refused_only_where_all_is_on_this_machine(
    replay: str, rows: list[str], offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    settings = load_config(
        None, {"--model": str(tmp_path), "--train": [str(file)]}, [f"data.replay={replay}"]
    )
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    quiet_libraries(settings, debug=True, rows=[str(file) if row == "{file}" else row for row in rows])
    assert ("HF_HUB_OFFLINE" in os.environ) == offline


@pytest.mark.parametrize(
    ("flags", "scales"),
    [([], (0.8, 0.6, 0.4)), (["--scale", "0.9", "--scale", "0.2"], (0.9, 0.2))],
)
def test_the_steps_of_the_dial_are_flags(
    flags: list[str], scales: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Any] = []
    monkeypatch.setattr("selfaug.cli.pages.write_page", lambda _: None)
    monkeypatch.setattr("selfaug.phases.balance.balance", lambda *given, **_: searched.append(given[2]) or {})
    given = ["--model", "m", "--train", "rows.jsonl", "--output", str(tmp_path / "b"), "--json"]
    result = CliRunner().invoke(app, ["balance", *given, *flags])
    assert result.exit_code == 0, result.stderr
    assert tuple(searched[0].scales) == scales


def given_to(
    command: str, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[list[Any], dict[str, Any]]:
    """What the command's phase is called with."""
    calls: list[tuple[list[Any], dict[str, Any]]] = []
    monkeypatch.setattr("selfaug.cli.pages.write_page", lambda _: None)
    monkeypatch.setattr(
        f"selfaug.phases.{command}.{command}", lambda *of, **more: calls.append(([*of], more)) or {}
    )
    result = CliRunner().invoke(app, [command, *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return calls[0]


@pytest.mark.parametrize("command", [*COMMANDS, "assess"])
def test_settings_say_what_is_asked_where_no_flag_does(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*given: str) -> tuple[str, str, int]:
        ask = given_to(command, monkeypatch, *NEEDED, "--config", str(file), *given)[0][1]
        return ask.scorer, ask.level, ask.max_new_tokens

    file = tmp_path / "train.yaml"
    file.write_text("evaluation: {scorer: numeric, level: 2, max_new_tokens: 96}\n", encoding="utf-8")
    assert asked() == ("numeric", "2", 96)
    flags = ["--scorer", "exact", "--level", "1", "--max-new-tokens", "9"]
    assert asked(*flags) == ("exact", "1", 9)
    assert asked(*flags, "--set", "evaluation.scorer=f1") == ("f1", "1", 9)
    # A run's config.yaml has all settings, and says nothing by a default.
    for text in ("{}\n", dump_config(load_config(None, {"--model": "m", "--train": ["rows.jsonl"]}))):
        file.write_text(text, encoding="utf-8")
        assert asked() == ("exact", "auto", 128 if command == "assess" else 64)
    assert asked("--max-new-tokens", "128")[2] == 128


@pytest.mark.parametrize("command", COMMANDS)
def test_the_demos_scorer_and_steps_give_way_to_settings(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = ["--demo", "--output", str(tmp_path / "out")]
    settings, asked, *_ = given_to(command, monkeypatch, *demo)[0]
    assert (settings.train.steps, asked.scorer) == (56, "selfaug.eval.house_style:exact_value")
    others = ["--set", "train.epochs=2", "--set", "evaluation.scorer=f1"]
    settings, asked, *_ = given_to(command, monkeypatch, *demo, *others)[0]
    assert (settings.train.steps, settings.train.epochs, asked.scorer) == (None, 2, "f1")


@pytest.mark.parametrize("command", COMMANDS)
def test_to_replace_what_is_there_is_a_setting_too(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_to(command, monkeypatch, *NEEDED)[1]["overwrite"] is False
    for one in (["--overwrite"], ["--set", "run.overwrite=true"]):
        assert given_to(command, monkeypatch, *NEEDED, *one)[1]["overwrite"] is True


@pytest.mark.parametrize("command", COMMANDS)
def test_prepared_documents_bring_their_splits(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").touch()
    given = ["--model", "m", "--prepared", str(tmp_path)]
    settings, asked, *_ = given_to(command, monkeypatch, *given)[0]
    assert settings.data.train == [str(tmp_path / "train.jsonl")]
    assert (asked.dev, asked.test) == ([str(tmp_path / "validation.jsonl")], [])
    (tmp_path / "test.jsonl").touch()
    own = given_to(command, monkeypatch, *given, "--dev", "dev.jsonl")[0][1]
    assert (own.dev, own.test) == (["dev.jsonl"], [str(tmp_path / "test.jsonl")])
    result = CliRunner().invoke(app, [command, "--demo", "--prepared", str(tmp_path)])
    assert result.exit_code == 2
    assert "--demo brings its own rows" in result.stderr


@pytest.mark.parametrize("demo", [False, True])
def test_a_seed_that_no_method_is_trained_with_is_refused(
    demo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--demo", "--output", str(tmp_path / "out")] if demo else NEEDED

    def seeds(*more: str) -> tuple[int, ...]:
        return given_to("compare", monkeypatch, *given, *more)[0][2].seeds  # type: ignore[no-any-return]

    assert seeds() == (0, 1)
    assert seeds("--seed", "3") == (3,)
    assert seeds("--set", "train.seed=7", "--seed", "7", "--seed", "8") == (7, 8)
    # Of a comparison that is there, other seeds are trained already.
    there = ["--set", "train.seed=7", "--seed", "8", "--set", f"run.output={tmp_path / 'there'}"]
    (tmp_path / "there").mkdir()
    write_record(
        tmp_path / "there" / "comparison.json", "comparison-started", {"settings": {"first_seed": 7}}
    )
    assert seeds(*there) == (8,)
    for refused in (["--set", "train.seed=7"], [*there, "--overwrite"]):
        result = CliRunner().invoke(app, ["compare", *given, *refused])
        assert result.exit_code == 2
        assert "--seed 7" in result.stderr
