"""Forgetting to expect of a run, from the drift and forgetting of the runs of a comparison."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfaug.core.forecast import Forecast, forecast_from
from selfaug.core.statistics import Interval
from selfaug.errors import ConfigError, PathError
from selfaug.eval.general_suite import Level
from selfaug.records import read_record

__all__ = ["expected_forgetting", "other_level", "read_forecast"]


def read_forecast(comparison: str, model: str) -> Forecast:
    """The forecast of a finished comparison.

    Args:
        comparison: its folder.
        model: that the forecast is for: drift and forgetting go together differently in each.

    Raises:
        PathError: if there is no finished comparison.
        ConfigError: if it is of another model, or has too few runs to forecast from.
    """
    file = Path(comparison) / "record.json"
    if not file.exists():
        raise PathError(
            f"there is no finished comparison in {comparison}.",
            hint="give the folder that `selfaug compare` wrote.",
        )
    record = read_record(file, "comparison")
    compared = record["settings"]["config"]["model"]["name"]
    if compared != model:
        raise ConfigError(
            f"{comparison} compares {compared}, and the run is of {model}: its forecast doesn't hold there.",
            hint="compare a few methods with this model: selfaug compare.",
        )
    known = record["forecast"]
    if known is None:
        raise ConfigError(
            f"{comparison} has too few runs to forecast from, or none that forgot anything.",
            hint="add methods or seeds to it: selfaug compare goes on with what is missing.",
        )
    return forecast_from(known["drifts"], known["forgettings"], Interval(**known["correlation"]))


def other_level(comparison: str, level: Level | None) -> str:
    """Says that a comparison asked general requests of another level; empty where it asked the same.

    What is forgotten of easy requests says nothing of hard ones, and drift is measured on these requests.

    Args:
        comparison: its folder.
        level: that the forecast is for; None for all levels together.
    """
    asked = read_record(Path(comparison) / "record.json", "comparison")["level"]["level"]
    if asked == level:
        return ""
    theirs, ours = (f"level {one}" if one else "all levels" for one in (asked, level))
    return (
        f"{comparison} asked general requests of {theirs}, and this evaluation asks those of {ours}: its forecast "
        "doesn't hold there."
    )


def expected_forgetting(forecast: Forecast, drift: float) -> dict[str, Any]:
    """What a drift lets expect, for the record: a share, with the interval meant to hold 80 % of new runs."""
    return {
        "drift": drift,
        **asdict(forecast.at(drift)),
        "below": drift < min(forecast.drifts),
        "beyond": drift > max(forecast.drifts),
        "runs": len(forecast.drifts),
        "coverage": forecast.coverage,
    }
