"""How the command line sets libraries up before they are imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quiet_libraries import libraries_as_before
from selfaug.cli.app import quiet_libraries
from selfaug.config import load_config


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
    ("sets", "scorers", "offline"),
    [
        ([], ["exact"], True),
        (["data.eval=[owner/rows]"], [], False),
        (["model.trust_remote_code=true"], [], False),
        (["train.report_to=[trackio]"], [], False),
        (["evaluation.suites=[own:questions]"], [], False),
        (["evaluation.scorer=own:score"], [], False),
        ([], ["own:score"], False),
        (["train.report_to=[trackio]", "run.offline=true"], [], True),
    ],
)
def test_the_network_is_refused_unasked_only_where_nothing_needs_it(
    sets: list[str], scorers: list[str], offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    settings = load_config(None, {"--model": str(tmp_path), "--train": [str(rows)]}, sets)
    with libraries_as_before():
        quiet_libraries(settings, debug=True, scorers=scorers)
        assert [os.environ.get(name) for name in names] == ["1" if offline else None] * 2
