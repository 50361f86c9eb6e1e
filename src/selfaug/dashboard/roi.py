"""The business case with sliders: the browser sends what is assumed, and the one value model computes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from selfaug.core.printable import counted, printable_number
from selfaug.errors import SelfAugError
from selfaug.phases.roi import business_case
from selfaug.report.charts import ranges_svg
from selfaug.report.document import Cell, Chart, Table
from selfaug.report.open_report import explained
from selfaug.roi_config import InputSettings, Quantity, RoiConfig, load_roi_config
from selfaug.wording.numbers import chance
from selfaug.wording.roi_words import ARM_NAMES, CURRENCY, not_within, swing_name

__all__ = ["Slider", "roi_view"]

_DRAWS = 4_000

# What changes the result most stands first, with a slider, or as a number: how much money is likely depends on the
# currency. The others are numbers below.
_SLIDERS: dict[str, tuple[float, float, float] | None] = {
    "workers": (10, 2000, 10),
    "adoption": (0, 1, 0.01),
    "requests_per_week": (0, 60, 1),
    "task_share": (0, 1, 0.01),
    "minutes_saved": (0, 30, 0.5),
    "minutes_failed": (0, 30, 0.5),
    "hourly_cost": None,
    "realised_share": (0, 1, 0.01),
}


class Slider(NamedTuple):
    """One input of the form; `low`, `high` and `step` are of a slider, or of what the number may be."""

    name: str
    label: str
    about: str
    unit: str
    value: str
    low: float
    high: float
    step: str


def roi_view(query: Mapping[str, str], comparisons: Mapping[str, Path]) -> dict[str, Any]:
    """Form and result.

    Args:
        query: what was sent: inputs by name, `comparison`, and `filled`, the comparison that the form's numbers were
            of when it was filled; without that, the same one.
        comparisons: folders by path, of which one's scores can be used.

    Returns:
        What the templates show: of the form, `sliders`, `numbers` and, where another comparison was chosen, which of
        them are `refilled`; of the result, `case` and what is made of it, or a `problem`.
    """
    sent = {name: query[name].strip() for name in InputSettings.model_fields if query.get(name, "").strip()}
    chosen = query.get("comparison", "")
    filled = query.get("filled", chosen)
    chosen, filled = (one if one in comparisons else "" for one in (chosen, filled))
    before, now = _unchanged(comparisons.get(filled)), _unchanged(comparisons.get(chosen))
    # A form sends everything: what stands as it was filled was not given, and keeps its range.
    given = {name: text for name, text in sent.items() if _as_number(text) != _as_number(before[name])}
    fields = {name: _slider(name, given.get(name, now[name])) for name in InputSettings.model_fields}
    form = {
        "sliders": [fields[name] for name in _SLIDERS],
        "numbers": [one for name, one in fields.items() if name not in _SLIDERS],
        "refilled": [one for name, one in fields.items() if name not in given and before[name] != now[name]],
        "comparisons": list(comparisons),
        "comparison": chosen,
        "filled": filled,
    }
    try:
        config = load_roi_config(
            None, sets=[f"inputs.{name}={_as_number(text)}" for name, text in given.items()]
        )
        case = _case(config, comparisons.get(chosen), _DRAWS)
    except SelfAugError as error:
        return {**form, "problem": str(error), "case": None}
    return {**form, "problem": "", "case": case, **_result(case)}


def _case(config: RoiConfig, comparison: Path | None, draws: int) -> dict[str, Any]:
    if comparison is None:
        return business_case(config, draws=draws)
    with explained(comparison):
        return business_case(config, comparison, draws=draws)


def _unchanged(comparison: Path | None) -> dict[str, str]:
    """What each field shows where nothing was changed: what the comparison measured, or else the default."""
    values = {name: _default(name) for name in InputSettings.model_fields}
    if comparison is not None:
        with contextlib.suppress(SelfAugError):  # that it can't be read is said in the place of the result
            inputs = _case(load_roi_config(None), comparison, draws=1)["inputs"]
            measured = {name: one["value"] for name, one in inputs.items() if one["source"] == "measured"}
            values |= {name: f"{value:g}" for name, value in measured.items()}
    return values


def _as_number(text: str) -> str:
    """A number as YAML reads it, which takes 1e5 for a text and 010 for eight; else what the settings refuse."""
    try:
        return f"{Decimal(repr(float(text))).normalize():f}"
    except ValueError:
        return "'not a number'"


def _slider(name: str, value: str) -> Slider:
    field = InputSettings.model_fields[name]
    quantity = next(one for one in field.metadata if isinstance(one, Quantity))
    low, high, step = _SLIDERS.get(name) or (quantity.low, quantity.high, 0.0)
    if step and not _stands_on(value, low, high, step):
        # The browser would move the slider, and show another number than the one that is computed with.
        low, high, step = quantity.low, quantity.high, 0.0
    return Slider(
        name,
        name.replace("_", " ").capitalize(),
        field.description or "",
        quantity.unit,
        value,
        low,
        high,
        f"{step:g}" if step else "any",
    )


def _stands_on(text: str, low: float, high: float, step: float) -> bool:
    """Whether a slider can stand at a number."""
    try:
        steps = (float(text) - low) / step
    except ValueError:
        return False
    return 0 <= steps <= (high - low) / step and abs(steps - round(steps)) < 1e-6


def _default(name: str) -> str:
    default = InputSettings.model_fields[name].default
    return f"{default[1] if isinstance(default, tuple) else default:g}"


def _result(case: Mapping[str, Any]) -> dict[str, Any]:
    over = f"over {counted(case['inputs']['years']['value'], 'year')}"
    arms = Table(
        "Value by arm",
        [
            "arm",
            "net present value",
            "return",
            "pays back in month (undiscounted)",
            "adoption that pays",
            "useful answers",
            "hours a year",
        ],
        [
            [
                Cell(ARM_NAMES[name]),
                Cell(_whole(arm["npv"])),
                Cell(f"{_whole(100 * arm['roi'])} %"),
                Cell(
                    not_within(case["inputs"]["years"]["value"])
                    if arm["payback_month"] is None
                    else str(arm["payback_month"])
                ),
                Cell(
                    arm["break_even"]
                    if isinstance(arm["break_even"], str)
                    else f"{100 * arm['break_even']:.1f} %"
                ),
                Cell(f"{100 * arm['usefulness']:.0f} %"),
                Cell(_whole(arm["hours_per_year"])),
            ]
            for name, arm in case["arms"].items()
        ],
        f"Net present value and return are {over}.",
    )
    npv, credit = case["simulation"]["npv"], case["simulation"]["credit"]
    drawn = [
        {"name": name, "key": "selfaug", "low": low / 1e3, "value": middle / 1e3, "high": high / 1e3}
        for name, (low, middle, high) in (("net present value", npv), ("credit", credit))
    ]
    swings = [
        {
            "name": swing_name(one["name"]).replace("_", " "),
            "key": "selfaug",
            "low": one["low"] / 1e3,
            "high": one["high"] / 1e3,
        }
        for one in case["tornado"]
    ]
    charts = [
        Chart(
            "What is likely",
            f"5th, 50th and 95th percentile of {case['simulation']['draws']:,} draws, {over}, in thousands of "
            "currency.",
            ranges_svg(drawn, "thousands"),
            ["", "5th", "50th", "95th"],
            [[str(row["name"]), *(f"{row[end]:,.1f}" for end in ("low", "value", "high"))] for row in drawn],
        ),
        Chart(
            "What matters most",
            f"Net present value of SelfAug {over} with one input at its 10th and 90th percentile, in thousands of "
            "currency.",
            ranges_svg(swings, "thousands", at=case["arms"]["selfaug"]["npv"] / 1e3),
            ["input", "at its 10th", "at its 90th"],
            [[str(row["name"]), f"{row['low']:,.1f}", f"{row['high']:,.1f}"] for row in swings],
        ),
    ]
    plain = case["plain_gpu_hours"]
    named = dict(case["inputs"])
    if plain is not None:
        named["plain_gpu_hours"] = {**plain, "low": plain["value"], "high": plain["value"]}
    sources = Table(
        "Where each number comes from",
        ["input", "value", "range", "source"],
        [
            [
                Cell(name.replace("_", " ")),
                Cell(printable_number(one["value"])),
                Cell(
                    "–"
                    if one["low"] == one["high"]
                    else f"{printable_number(one['low'])} to {printable_number(one['high'])}"
                ),
                Cell(one["source"]),
            ]
            for name, one in named.items()
        ]
        + [
            [
                Cell(f"useful answers, {ARM_NAMES[name]}"),
                Cell(f"job {100 * one['task']:.0f} %, general {100 * one['general']:.0f} %"),
                Cell(f"{one['task_items']:.0f} and {one['general_items']:.0f} items"),
                Cell(one["source"]),
            ]
            for name, one in case["accuracies"].items()
        ]
        + [_router(case["router"])],
    )
    against = ARM_NAMES[case["credit"]["against"]]
    return {
        "arms": arms,
        "charts": charts,
        "sources": sources,
        "credit": _whole(case["credit"]["value"]),
        "against": against,
        "money": f"{over}, {CURRENCY}",
        "chance": chance(case["simulation"]["chance_of_credit"]),
        "npv": _whole(case["arms"]["selfaug"]["npv"]),
        "refused": case["credit"]["claimed"] is False and case["credit"]["value"] > 0,
    }


def _router(router: Mapping[str, Any]) -> list[Cell]:
    """What the table of sources says of the router."""
    items = (
        "–" if router["task_items"] is None else f"{router['task_items']} and {router['general_items']} items"
    )
    return [
        Cell("requests that the router sends to the right model"),
        Cell(f"job {100 * router['task']:.1f} %, general {100 * router['general']:.1f} %"),
        Cell(items),
        Cell(router["source"]),
    ]


def _whole(value: float) -> str:
    return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
