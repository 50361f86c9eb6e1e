"""`evaluate` with all of its settings in one list, as the command has them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from selfaug.phases import evaluate as evaluation
from selfaug.phases.suites import AskSettings

__all__ = ["evaluate"]


def evaluate(run: str | Path, **given: Any) -> evaluation.Evaluation:
    """As `selfaug.phases.evaluate.evaluate`, with the fields of `AskSettings` beside its own arguments."""
    ask = {one.name: given.pop(one.name) for one in fields(AskSettings) if one.name in given}
    return evaluation.evaluate(run, AskSettings(**ask), **given)
