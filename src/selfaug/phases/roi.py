"""The business case: measured accuracies where there are any, the value model, and what is not credible about it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from selfaug.core.printable import decimals_beside, printable_number
from selfaug.core.roi import (
    ARMS,
    MOST_HOURS_A_WEEK,
    Accuracy,
    ArmName,
    RoiInputs,
    RoiResult,
    Simulation,
    credit,
    roi,
    routed,
    simulate,
    tornado,
)
from selfaug.core.trained_on import seen_in_words
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
_PLAIN_HOURS = "Hours of a GPU in a training of plain LoRA."
_LEAST_WEEKS = 1.0
"""With less, working days and the others would not be there in their proportion."""
_MOST_APART = 10.0
"""Times that a worker's hour and an engineer's differ before they are taken for amounts in two currencies."""
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
        `"default"`), `plain_gpu_hours` where plain LoRA's are others than `gpu_hours` (else None), `served` with what
        was counted (None without a run), `arms` with the result of each, `credit`, `simulation`, `tornado`, and
        `warnings`.

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
    doubts: list[str] = []
    plain_hours: float | None = None
    if "gpu_hours" in measured and "gpu_hours" not in given:
        ours, plain_hours = measured["gpu_hours"]
        ranges["gpu_hours"] = (ours,) * 3
        sources["gpu_hours"] = "measured"
        doubts.append(
            f"GPU hours are of the comparison's budget: {ours:.2g} a training of SelfAug, {plain_hours:.2g} of plain "
            "LoRA, with or without a router. If you will train for longer, set inputs.gpu_hours, which counts for all "
            "of them."
        )
    served = None if run is None else served_requests(RunDir.open(run).monitor)
    if served is not None and "requests_per_week" not in given:
        users = ranges["workers"][1] * ranges["adoption"][1]
        drawn = [
            name for name in ("workers", "adoption") if name in given and ranges[name][0] < ranges[name][2]
        ]
        rate, told = _per_user(served, users, {"workers", "adoption"} <= given, drawn)
        doubts += told
        if rate is not None:
            ranges["requests_per_week"] = (rate,) * 3
            sources["requests_per_week"] = "measured"
    doubts += _currencies(ranges, sources)
    likeliest: dict[str, Any] = {name: mode for name, (_, mode, _) in ranges.items()}
    inputs = RoiInputs(**likeliest, years=config.inputs.years, plain_gpu_hours=plain_hours)

    accuracies, counts, known = _accuracies(config, measured)
    router = _router(measured)
    right = router["task"], router["general"]
    accuracies["lora_router"] = routed(accuracies["lora"], accuracies["base"], *right)
    arms = {arm: roi(inputs, arm, accuracies[arm]) for arm in ARMS}
    best = max(ARMS[:-1], key=lambda arm: arms[arm].npv)
    _, more = credit(inputs, accuracies)
    uncertain = {name: ends for name, ends in ranges.items() if ends[0] < ends[2]}
    items = measured["items"] if router["source"] == "measured" else None
    simulated = simulate(
        inputs, counts, uncertain, router_right=right, router_items=items, draws=draws, seed=seed
    )
    claimed, refused = _claim(measured, known)
    if "measured" in known.values():
        doubts += [f"Of the comparison whose scores these are: {one}" for one in measured["seen"]]
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
        "router": router,
        "plain_gpu_hours": None if plain_hours is None else {
            "value": plain_hours, "unit": quantity_of("gpu_hours").unit, "source": "measured", "meaning": _PLAIN_HOURS,
        },
        "comparison": None if comparison is None else os.fspath(comparison),
        "served": None if run is None or served is None else {"run": os.fspath(run), **asdict(served)},
        "arms": {arm: asdict(result) for arm, result in arms.items()},
        "credit": {
            "value": float(more.item()),
            "against": best,
            "claimed": claimed,
            "difference": measured.get("difference"),
        },
        "simulation": {**asdict(simulated), "draws": draws, "seed": seed},
        "tornado": [
            swing._asdict()
            for swing in tornado(inputs, "selfaug", accuracies["selfaug"], uncertain, counts["selfaug"])
        ],
        "warnings": [*doubts, *_warnings(arms, known, simulated), *refused],
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
        days, least = 7 * served.weeks, 7 * _LEAST_WEEKS
        return None, [
            f"Requests were counted for {days:.{decimals_beside([days], least)}f} days, and working days differ from "
            f"others: requests_per_week is not measured with less than {least:.0f}. Come back then, or set "
            "inputs.requests_per_week."
        ]
    a_week = served.requests / served.weeks
    most = quantity_of("requests_per_week").high
    if not users or a_week > most * users:
        why = f"are more than {most:g} of each" if users else "say nothing of one"
        return None, [
            f"{a_week:,.0f} requests a week of {printable_number(users)} active users {why}: requests_per_week is "
            "not taken from them. Set inputs.workers and inputs.adoption to those who were served, or "
            "inputs.requests_per_week."
        ]
    doubts = []
    if not counted:
        doubts.append(
            f"The log has no users: its {a_week:,.0f} requests a week are divided by {printable_number(users)}, which "
            "nobody has counted. Set inputs.workers and inputs.adoption to those who were served."
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


def _currencies(ranges: Mapping[str, tuple[float, float, float]], sources: Mapping[str, str]) -> list[str]:
    """That some amounts seem to be in the user's currency, and others still in that of the defaults."""
    money = [name for name in ranges if quantity_of(name).unit.startswith("currency")]
    given = any(sources[name] == "user" for name in money)
    # Nothing is as much in any currency.
    left = [name for name in money if sources[name] == "default" and ranges[name][1]]
    hours = {name: ranges[name][1] for name in ("hourly_cost", "engineer_hourly_cost")}
    apart = 0 < _MOST_APART * min(hours.values()) < max(hours.values())
    if not (apart and given and left):
        return []
    told = " and ".join(f"{name} is {printable_number(value)}" for name, value in hours.items())
    return [
        f"{told}: are these in one currency? All money must be, and these are still the defaults, in dollars: "
        f"{', '.join(left)}."
    ]


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
        "seen": seen_in_words(record, record["items"]["task"]),
    }
    right = methods.get("router", {}).get("routed_right")
    if right is not None:
        found["router"] = right
    if str(record["device"]).startswith("cuda"):  # a CPU's hours aren't a GPU's
        # What a method writes before it trains takes the GPU too. The router's tuned model is plain LoRA's.
        found["gpu_hours"] = tuple(
            (method["train_seconds"] + method["write_seconds"]) / 3600 for method in (ours, methods["plain"])
        )
    return found


def _router(measured: Mapping[str, Any]) -> dict[str, Any]:
    """How often the router sends a request to the right model: the job's, all others, and the mean of the two."""
    right = measured.get("router")
    task, general = (_ROUTER, _ROUTER) if right is None else (right["task"], right["general"])
    task_items, general_items = (None, None) if right is None else measured["items"]
    return {
        "right": (task + general) / 2,
        "task": task,
        "general": general,
        "task_items": task_items,
        "general_items": general_items,
        "source": "default" if right is None else "measured",
    }


def _claim(measured: Mapping[str, Any], sources: Mapping[_Tuned, str]) -> tuple[bool | None, list[str]]:
    """Whether a credit is claimed for doing without a router, None where nobody knows; and why not.

    The loss was measured item by item against the base model, whatever the user says of how useful answers are. Of
    scores that the user gives, it may be another model's: then it can refuse the claim, and not grant it.
    """
    lost = measured.get("difference")
    if lost is None:
        return None, []
    own = sources["selfaug"] == "measured"
    who = "SelfAug" if own else "The SelfAug model of the comparison"
    most = f"{100 * MOST_FORGOTTEN:.0f}"
    forgotten = {name: -100 * value for name, value in lost.items()}
    decimals = decimals_beside([forgotten["low"], forgotten["high"]], 100 * MOST_FORGOTTEN)
    value, least, up_to = (f"{forgotten[name]:.{decimals}f}" for name in ("value", "high", "low"))
    if lost["high"] < -MOST_FORGOTTEN:
        return False, [
            f"{who} has forgotten {value} points of the general score (95 % interval {least} to {up_to}), more than "
            f"{most}: no credit is claimed for doing without a router."
        ]
    if lost["low"] < -MOST_FORGOTTEN:
        return False, [
            f"{who} may have forgotten up to {up_to} points of the general score (95 % interval), more than {most}: "
            "no credit is claimed for doing without a router. More items would decide."
        ]
    at_stake = measured["base"][1]
    if at_stake <= MOST_FORGOTTEN:
        return False, [
            f"The base model passes only {100 * at_stake:.1f} % of the comparison's general items: SelfAug could "
            f"forget all of it and lose no more than {most} points. So nothing is decided, and no credit is claimed "
            "for doing without a router. Easier items would decide."
        ]
    return True if own else None, []


def _warnings(
    arms: Mapping[ArmName, RoiResult], sources: Mapping[_Tuned, str], simulated: Simulation
) -> list[str]:
    """What a careful reader would object to."""
    warnings = []
    if assumed := [model for model in _MODELS if sources[model] == "default"]:
        warnings.append(
            f"The accuracies of {', '.join(assumed)} are illustrations, not measurements: give the folder of a "
            "comparison."
        )
    by_source = {
        source: [model for model in _MODELS if sources[model] == source] for source in ("measured", "user")
    }
    if all(by_source.values()):
        warnings.append(
            f"The accuracies of {', '.join(by_source['measured'])} are measured, those of "
            f"{', '.join(by_source['user'])} given by you: the arms are not from the same items, and what differs "
            "between items is in the credit too."
        )
    hours = arms["selfaug"].hours_per_user_week
    if hours > MOST_HOURS_A_WEEK:
        warnings.append(
            f"{hours:.{decimals_beside([hours], MOST_HOURS_A_WEEK)}f} hours saved per active user and week is more "
            f"than the {MOST_HOURS_A_WEEK} that users report in surveys: look at requests_per_week and minutes_saved."
        )
    if hours < 0:
        warnings.append("With SelfAug an answer costs more time than it saves.")
    if max(arm.npv for arm in arms.values()) < 0:
        warnings.append("Every arm's NPV is below 0: nothing here pays, whatever the credit.")
    elif arms["selfaug"].npv < 0:
        warnings.append("SelfAug's NPV is below 0: not doing it costs less, whatever the credit.")
    if simulated.npv[0] < 0 < simulated.npv[2]:
        warnings.append("The NPV's interval holds 0: with these inputs it is not certain that SelfAug pays.")
    if simulated.credit[0] < 0 < simulated.credit[2]:
        warnings.append(
            "The credit's interval holds 0: with these inputs it is not certain that there is one."
        )
    return warnings
