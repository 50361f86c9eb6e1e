"""How the command line sets libraries up before they are imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from selfaug.cli.app import quiet_libraries
from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.records import write_record


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_leave_their_processor_to_others_unless_the_user_has_said_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with libraries_as_before():
        quiet_libraries(debug=True)
        assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(
    ("sets", "offline"),
    [
        ([], True),
        (["data.eval=[owner/rows]"], False),
        (["model.trust_remote_code=true"], False),
        (["train.report_to=[trackio]"], False),
        (["evaluation.suites=[own:questions]"], False),
        (["evaluation.scorer=own:score"], False),
        (["train.report_to=[trackio]", "run.offline=true"], True),
    ],
)
def test_the_network_is_refused_unasked_only_where_nothing_needs_it(
    sets: list[str], offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    settings = load_config(None, {"--model": str(tmp_path), "--train": [str(rows)]}, sets)
    with libraries_as_before():
        quiet_libraries(settings, debug=True)
        assert [os.environ.get(name) for name in names] == ["1" if offline else None] * 2


@pytest.mark.parametrize(
    ("given", "prepared", "offline"),
    [("own:search", "bm25", False), (None, "own:search", False), (None, "bm25", True)],
)
def test_a_retriever_of_ones_own_may_use_the_network(
    given: str | None, prepared: str, offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may load a model by its name. Both commands end soon here, as there are no documents, after that choice."""
    folder, questions = tmp_path / "prepared", tmp_path / "questions.jsonl"
    (folder / "index").mkdir(parents=True)
    write_record(folder / "record.json", "prepare", {"retrieval": {"retriever": prepared}})
    (folder / "index" / "index.json").touch()
    retriever = [] if given is None else ["--retriever", given]
    commands = [["recall", str(folder), "--questions", str(questions), *retriever]]
    if given is not None or prepared == "bm25":
        commands.append(["prepare", str(tmp_path / "none"), "--questions", str(questions), *retriever])
    for command in commands:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        with libraries_as_before():
            assert CliRunner().invoke(app, command).exit_code
            assert os.environ.get("HF_HUB_OFFLINE") == ("1" if offline else None), command
