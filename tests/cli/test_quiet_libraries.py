"""How the command line sets libraries up before they are imported."""

from __future__ import annotations

import os

import pytest

from quiet_libraries import libraries_as_before
from selfaug.cli.app import quiet_libraries


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
