"""A small set of general requests with good answers, for data replay: written for selfaug, by hand."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["embedded_general_rows"]


def embedded_general_rows() -> Path:
    """JSONL file with rows of one request and one answer each, as messages."""
    return Path(str(files("selfaug.data").joinpath("general_rows.jsonl")))
