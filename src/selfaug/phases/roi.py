"""The business case: measured accuracies where there are any, the value model, and what is not credible about it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from selfaug.core.roi import (
    ARMS,
    MOST_HOURS_A_WEEK,
    Accuracy,
    ArmName,
    RoiInputs,
    credit,
    roi,
    routed,
    simulate,
    tornado,
)
from selfaug.errors import DataError
from selfaug.monitoring.served_requests import ServedRequests, served_requests
from selfaug.records import read_record
from selfaug.roi_config import InputSettings, RoiConfig, quantity_of
from selfaug.rundir import RunDir

__all__ = ["MOST_FORGOTTEN", "business_case"]

MOST_FORGOTTEN = 0.05
"""With more than this possibly forgotten, no credit is claimed for doing without a router."""

_Tuned = Literal["base", "lora", "selfaug"]
_MODELS: tuple[_Tuned, ...] = ("base", "lora", "selfaug")
_ILLUSTRATION: dict[_Tuned, tuple[float, float]] = {
    "base": (0.62, 0.72),
    "lora": (0.80, 0.50),
    "selfaug": (0.80, 0.70),
}
_ITEMS = 200
_ROUTER = 0.95
_LEAST_WEEKS = 1.0
"""With less, working days and the others would not be there in their proportion."""
_MOST_MISSED = 0.01
"""Share of the requests that a monitor may have missed without a word here."""


def business_case(
    config: RoiConfig,
    comparison: str | os.PathLike[str] | None = None,
    *,
    run: str | os.PathLike[str] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """What each way to answer the requests is worth, and how sure that is.

    Args:
        config: what is assumed; what the user gave wins over what was measured.
        comparison: folder of a comparison with SelfAug and plain LoRA in it, whose scores are the accuracies.
        run: folder of a run that is served and watched: its requests a week, divided by the active users (workers
            times adoption, at their likeliest), are `requests_per_week`, once it was watched for a week.
        draws: of the Monte Carlo simulation.
        seed: of these.

    Returns:
        `inputs` with unit and meaning, `accuracies` and `router` with the source of each (`"user"`, `"measured"` or
        `"default"`), `served` with what was counted (None without a run), `arms` with the result of each, `credit`,
        `simulation`, `tornado`, and `warnings`.

    Raises:
        DataError: if the folder holds no comparison, or not these methods.
        StorageError: if there is no such run, or it was never watched.
    """
    measured = {} if comparison is None else _measured(Path(comparison))
    given = config.inputs.model_fields_set
    ranges: dict[str, tuple[float, float, float]] = {
        name: value for name, value in config.inputs if name != "years"
    }
    sources = {name: "user" if name in given else "default" for name in ranges}
    if "gpu_hours" in measured and "gpu_hours" not in given:
        ranges["gpu_hours"] = (measured["gpu_hours"],) * 3
        sources["gpu_hours"] = "measured"
    served = None if run is None else served_requests(RunDir.open(run).monitor)
    doubts: list[str] = []
    if served is not None and "requests_per_week" not in given:
        users = ranges["workers"][1] * ranges["adoption"][1]
        drawn = [
            name for name in ("workers", "adoption") if name in given and ranges[name][0] < ranges[name][2]
        ]
        rate, doubts = _per_user(served, users, {"workers", "adoption"} <= given, drawn)
        if rate is not None:
            ranges["requests_per_week"] = (rate,) * 3
            sources["requests_per_week"] = "measured"
    likeliest: dict[str, Any] = {name: mode for name, (_, mode, _) in ranges.items()}
    inputs = RoiInputs(**likeliest, years=config.inputs.years)

    accuracies, counts, known = _accuracies(config, measured)
    right, router_source = (
        (_ROUTER, "default") if measured.get("router") is None else (measured["router"], "measured")
    )
    accuracies["lora_router"] = routed(accuracies["lora"], accuracies["base"], right)
    arms = {arm: roi(inputs, arm, accuracies[arm]) for arm in ARMS}
    best = max(ARMS[:-1], key=lambda arm: arms[arm].npv)
    _, more = credit(inputs, accuracies)
    uncertain = {name: ends for name, ends in ranges.items() if ends[0] < ends[2]}
    simulated = simulate(inputs, counts, uncertain, router_right=right, draws=draws, seed=seed)
    lost = measured.get("difference") if known["selfaug"] == known["base"] == "measured" else None
    return {
        "inputs": {
            **{
                name: {"low": low, "value": mode, "high": high, "source": sources[name], **_explained(name)}
                for name, (low, mode, high) in ranges.items()
            },
            "years": {
                "low": inputs.years, "value": inputs.years, "high": inputs.years,
                "source": "user" if "years" in given else "default", **_explained("years"),
            },
        },
        "accuracies": {
            model: {
                "task": counts[model][0][0] / counts[model][0][1],
                "general": counts[model][1][0] / counts[model][1][1],
                "task_items": counts[model][0][1],
                "general_items": counts[model][1][1],
                "source": known[model],
            }
            for model in _MODELS
        },
        "router": {"right": right, "source": router_source},
        "comparison": None if comparison is None else os.fspath(comparison),
        "served": None if run is None or served is None else {"run": os.fspath(run), **asdict(served)},
        "arms": {arm: asdict(result) for arm, result in arms.items()},
        "credit": {
            "value": float(more.item()),
            "against": best,
            "claimed": None if lost is None else bool(lost["low"] >= -MOST_FORGOTTEN),
            "difference": lost,
        },
        "simulation": {**asdict(simulated), "draws": draws, "seed": seed},
        "tornado": [swing._asdict() for swing in tornado(inputs, "selfaug", accuracies["selfaug"], uncertain)],
        "warnings": [*doubts, *_warnings(arms, known, lost, simulated.credit)],
    }  # fmt: skip


def _explained(name: str) -> dict[str, str | None]:
    """Unit and meaning of an input."""
    return {"unit": quantity_of(name).unit, "meaning": InputSettings.model_fields[name].description}


def _per_user(
    served: ServedRequests, users: float, counted: bool, drawn: Sequence[str]
) -> tuple[float | None, list[str]]:
    """Requests of an active user and week, None where that can't be said; and what to doubt about it.

    Args:
        served: what the monitor has counted.
        users: who are active.
        counted: whether somebody has said how many these are.
        drawn: inputs that say so, and were given as a range.
    """
    if served.weeks < _LEAST_WEEKS:
        return None, [
            f"Requests were counted for {7 * served.weeks:.1f} days, and working days differ from others: "
            f"requests_per_week is not measured with less than {7 * _LEAST_WEEKS:.0f}. Come back then, or set "
            "inputs.requests_per_week."
        ]
    a_week = served.requests / served.weeks
    most = quantity_of("requests_per_week").high
    if a_week > most * users:
        return None, [
            f"{a_week:,.0f} requests a week of {users:,g} active users are more than {most:g} of each: "
            "requests_per_week is not taken from them. Set inputs.workers and inputs.adoption to those who were "
            "served, or inputs.requests_per_week."
        ]
    doubts = []
    if not counted:
        doubts.append(
            f"The log has no users: its {a_week:,.0f} requests a week are divided by {users:,g}, which nobody has "
            "counted. Set inputs.workers and inputs.adoption to those who were served."
        )
    if drawn:
        names = " and ".join(f"inputs.{name}" for name in drawn)
        doubts.append(
            f"{names} {'is a range' if len(drawn) == 1 else 'are ranges'}: with the users that the simulation draws, "
            "it multiplies the requests that were counted. Give one number, that of those who were served."
        )
    if served.missed > _MOST_MISSED * served.requests:
        doubts.append(
            f"The monitor has missed up to {served.missed:,} requests beside the {served.requests:,} that it counted: "
            "requests_per_week is too low by as much."
        )
    return a_week / users, doubts


def _accuracies(
    config: RoiConfig, measured: Mapping[str, Any]
) -> tuple[
    dict[ArmName, Accuracy], dict[_Tuned, tuple[tuple[float, float], tuple[float, float]]], dict[_Tuned, str]
]:
    """Accuracies, what they were counted on, and where each is from."""
    accuracies: dict[ArmName, Accuracy] = {}
    counts: dict[_Tuned, tuple[tuple[float, float], tuple[float, float]]] = {}
    sources: dict[_Tuned, str] = {}
    for model in _MODELS:
        arm = getattr(config, model)
        if arm.task is not None:
            (task, general), items, sources[model] = (arm.task, arm.general), (arm.items, arm.items), "user"
        elif model in measured:
            (task, general), items, sources[model] = measured[model], measured["items"], "measured"
        else:
            (task, general), items, sources[model] = _ILLUSTRATION[model], (_ITEMS, _ITEMS), "default"
        accuracies[model] = Accuracy(task, general)
        counts[model] = (task * items[0], float(items[0])), (general * items[1], float(items[1]))
    return accuracies, counts, sources


def _measured(folder: Path) -> dict[str, Any]:
    """What a comparison measured that the value model needs."""
    record = read_record(folder / "record.json", "comparison")
    methods, subject = record["methods"], record["subject"]
    missing = [
        label for label, name in (("plain LoRA", "plain"), ("SelfAug", subject)) if name not in methods
    ]
    if missing:
        raise DataError(
            f"{folder} is a comparison without {' and '.join(missing)}.",
            hint="selfaug compare --method plain --method selfaug-anchors measures what is needed.",
        )

    def scores(suites: Mapping[str, Any]) -> tuple[float, float]:
        return suites["task"]["score"]["value"], suites["general"]["score"]["value"]

    ours = methods[subject]
    found: dict[str, Any] = {
        "base": scores(record["base"]["suites"]),
        "lora": scores(methods["plain"]["suites"]),
        "selfaug": scores(ours["suites"]),
        "items": (record["items"]["task"], record["items"]["general"]),
        "difference": ours["suites"]["general"]["difference"]["difference"],
    }
    right = methods.get("router", {}).get("routed_right")
    if right is not None:
        # The value model has one probability for both kinds of requests.
        found["router"] = (right["task"] + right["general"]) / 2
    if str(record["device"]).startswith("cuda"):  # a CPU's hours aren't a GPU's
        # What it writes before it trains takes the GPU too.
        found["gpu_hours"] = (ours["train_seconds"] + ours["write_seconds"]) / 3600
    return found


def _warnings(
    arms: Mapping[ArmName, Any],
    sources: Mapping[_Tuned, str],
    lost: Mapping[str, float] | None,
    credit_range: tuple[float, float, float],
) -> list[str]:
    """What a careful reader would object to."""
    warnings = []
    if assumed := [model for model in _MODELS if sources[model] == "default"]:
        warnings.append(
            f"The accuracies of {', '.join(assumed)} are illustrations, not measurements: give the folder of a "
            "comparison."
        )
    hours = arms["selfaug"].hours_per_user_week
    if hours > MOST_HOURS_A_WEEK:
        warnings.append(
            f"{hours:.1f} hours saved per active user and week is more than the {MOST_HOURS_A_WEEK} that users report "
            "in surveys: look at requests_per_week and minutes_saved."
        )
    if hours < 0:
        warnings.append("An answer costs more time than it saves: nothing here pays.")
    if lost is not None and lost["low"] < -MOST_FORGOTTEN:
        warnings.append(
            f"SelfAug may have forgotten up to {-100 * lost['low']:.1f} points of the general score (95 % interval), "
            f"more than {100 * MOST_FORGOTTEN:.0f}: no credit is claimed for doing without a router. More items would "
            "decide."
        )
    if credit_range[0] < 0 < credit_range[2]:
        warnings.append(
            "The credit's interval holds 0: with these inputs it is not certain that there is one."
        )
    return warnings
