"""An evaluation's bounds and forecast in words: what terminal and page share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfaug.core.statistics import ASSUMED_DISCORDANCE
from selfaug.wording.numbers import percent, points, span

__all__ = ["bound_in_words", "discordance_in_words", "forecast_in_words", "unseen_in_words"]


def forecast_in_words(forecast: Mapping[str, Any]) -> str:
    """What other runs forgot at this drift."""
    text = (
        f"forecast: a drift of {forecast['drift']:.3f} nats per token lets expect forgetting of "
        f"{points(forecast['value'], sign=False)} ({span(forecast)} for four runs in five), from "
        f"{forecast['runs']} runs; made from the other runs, it held {percent(forecast['coverage'])} of these"
    )
    if forecast["beyond"]:
        return f"{text}; this drift is beyond theirs, so expect more"
    if forecast["below"]:
        return f"{text}; this drift is below what was measured: the value is drawn from there to none at no drift"
    return text


def unseen_in_words(suite: Mapping[str, Any]) -> str:
    """How small a change the items of a suite can't show."""
    seen, discordance = suite["detectable_difference"], suite["difference"].get("discordance")
    unseen = "most changes" if seen is None else f"a change under {points(seen, sign=False)}"
    items = f"{suite['items']} {'item' if suite['items'] == 1 else 'items'}"
    return f"with {items}, {unseen} would likely go unseen" + (
        # Records had an assumed discordance before.
        "" if seen is None else f" ({discordance_in_words(discordance)})"
    )


def discordance_in_words(measured: float | None) -> str:
    """On how many items two models are taken to differ, and where that is from."""
    if measured is None:
        return f"if the models differ on {percent(ASSUMED_DISCORDANCE)} of them"
    return f"measured: the models differ on {percent(measured)} of them"


def bound_in_words(bound: Mapping[str, Any]) -> str:
    """One bound of a gate, what was measured, and the decision."""
    value = bound["value"]
    text = (
        f"{bound['name']}: {points(value['value'])} ({span(value)}), "
        f"{bound['sense']} {points(bound['bound'], sign=False)} wanted: {bound['outcome']}"
    )
    if bound["outcome"] == "inconclusive":
        needed = bound["items_needed"]
        text += f"; some {needed:,} items would decide, {bound['items']:,} were measured" if needed else ""
    return text
