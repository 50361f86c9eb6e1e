"""A browser without pictures and without a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from selfaug.dashboard.app import dashboard_app
from selfaug.dashboard.library import Library


def looking_at(runs: Path | Library, **how: Any) -> TestClient:
    """Looks at a directory of runs."""
    library = runs if isinstance(runs, Library) else Library(runs)
    app = dashboard_app(library, token=None, port=8321)
    return TestClient(app, base_url="http://127.0.0.1:8321", **how)
