"""What `selfaug roi` prints: the credit in a sentence, the four arms, what moves the value, and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from selfaug.core.printable import counted, decimals_beside
from selfaug.wording.numbers import chance
from selfaug.wording.roi_words import ARM_NAMES, CURRENCY, not_within, swing_name

__all__ = ["show_roi"]

_MOST_SWINGS = 5


def show_roi(case: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a business case on stdout.

    Args:
        case: as `business_case` gives it.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    more, years = case["credit"], counted(case["inputs"]["years"]["value"], "year")
    simulated = case["simulation"]
    console.print(
        f"SelfAug's credit against the best alternative ({ARM_NAMES[more['against']]}): {more['value']:,.0f} in "
        f"{years} at the likeliest inputs, {CURRENCY}. Simulated: "
        f"{_interval(simulated['credit'])}, above 0 in {chance(simulated['chance_of_credit'])}.",
        soft_wrap=True,
    )
    console.print(f"SelfAug's NPV over {years}, simulated: {_interval(simulated['npv'])}.", soft_wrap=True)
    if more["claimed"] is False and more["value"] > 0:
        console.print("It is not claimed: see below.", soft_wrap=True)
    console.print(_arms(case, years))
    console.print(_swings(case, years))
    if (served := case["served"]) is not None:
        used = case["inputs"]["requests_per_week"]["source"] == "measured"
        digits = decimals_beside([served["weeks"]], 1)  # with less than one they are not taken
        console.print(
            f"Served: {served['requests']:,} requests in {served['weeks']:.{digits}f} weeks, "
            f"{'taken' if used else 'not taken'} for requests_per_week.",
            soft_wrap=True,
        )
    router = case["router"]
    console.print(
        f"The router sends {router['task']:.1%} of the job's requests to the tuned model and {router['general']:.1%} "
        f"of the others to the base model ({'measured' if router['source'] == 'measured' else 'assumed'}).",
        soft_wrap=True,
    )
    console.print(_sources(case), soft_wrap=True)
    for warning in case["warnings"]:
        console.print(f"note: {warning}", soft_wrap=True)


def _interval(percentiles: Sequence[float]) -> str:
    """The 5th, 50th and 95th percentile of draws."""
    low, middle, high = percentiles
    return f"{middle:,.0f} in the middle, {low:,.0f} to {high:,.0f} in nine of ten cases"


def _arms(case: Mapping[str, Any], years: str) -> Table:
    table = Table(title=f"At the likeliest inputs; NPV and ROI over {years}", title_justify="left")
    for column in ("", "useful", "hours a year", "NPV", "ROI", "pays from (undiscounted)"):
        # Folded, not cut off, on a narrow terminal: of a number nothing may be missing.
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for arm, result in case["arms"].items():
        month = result["payback_month"]
        table.add_row(
            ARM_NAMES[arm],
            f"{result['usefulness']:.0%}",
            f"{result['hours_per_year']:,.0f}",
            f"{result['npv']:,.0f}",
            f"{result['roi']:.0%}",
            not_within(case["inputs"]["years"]["value"]) if month is None else f"month {month}",
        )
    return table


def _swings(case: Mapping[str, Any], years: str) -> Table:
    title = f"SelfAug's NPV over {years}, one input at its 10th and 90th percentile"
    table = Table(title=title, title_justify="left")
    table.add_column("input", overflow="fold")
    table.add_column("10th", justify="right", overflow="fold")
    table.add_column("90th", justify="right", overflow="fold")
    for swing in case["tornado"][:_MOST_SWINGS]:
        table.add_row(swing_name(swing["name"]), f"{swing['low']:,.0f}", f"{swing['high']:,.0f}")
    return table


def _sources(case: Mapping[str, Any]) -> str:
    """Break-even, and how many of the inputs somebody knows."""
    reached = case["arms"]["selfaug"]["break_even"]
    shown = reached if isinstance(reached, str) else f"from {reached:.1%} of the workers on"
    known = (*case["inputs"].values(), *case["accuracies"].values(), case["router"], case["plain_gpu_hours"])
    found = [one["source"] for one in known if one is not None]
    counts = {name: found.count(name) for name in ("measured", "user", "default")}
    return (
        f"Adoption that pays: {shown}. Of {len(found)} inputs, {counts['measured']} are measured, "
        f"{counts['user']} given by you, and {counts['default']} illustrative defaults."
    )
