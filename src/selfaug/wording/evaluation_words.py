"""An evaluation's bounds and forecast in words: what terminal and page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfaug.core.cut_off import many_cut_off, why_cut_off
from selfaug.core.detectable import ASSUMED_DISCORDANCE
from selfaug.core.printable import counted
from selfaug.wording.numbers import bound_points, digits_beside, percent, points, span

__all__ = [
    "bound_in_words",
    "budget_items_in_words",
    "changed_in_words",
    "changed_shares",
    "cut_off_in_words",
    "cut_off_warnings",
    "forecast_in_words",
    "found_in_words",
    "gates_before_in_words",
    "half_in_words",
    "level_in_words",
    "nothing_at_stake",
    "step_in_words",
    "unknown_no_answers_in_words",
    "unseen_in_words",
]


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


def step_in_words(settings: Mapping[str, Any]) -> str | None:
    """When the model was evaluated, if its training went on from there; None where it was at its end.

    Args:
        settings: of an evaluation's record; of one like it, without a `step`, they are taken to be of the end.
    """
    step = settings.get("step")
    return None if step is None else f"at step {step:,}, before the training ended"


def half_in_words(settings: Mapping[str, Any]) -> str | None:
    """What scores on general requests by which settings may have been chosen are worth; None where these are others.

    Args:
        settings: as above, with a `half` or without.
    """
    if settings.get("half") != "dev":
        return None
    return "general requests of the development half, by which settings may have been chosen: expect less on others"


def unknown_no_answers_in_words(record: Mapping[str, Any]) -> str | None:
    """What the sides of answers from documents are worth where the rows' words for no answer are none that are known;
    None where they are, or no sides were looked at.

    Args:
        record: of an evaluation; an older one doesn't have it.
    """
    unknown = record.get("unknown_no_answers")
    if not unknown or not record["sides"]:
        return None
    return (
        f"no answer is {unknown[0]!r:.80} in the rows; beside these words, saying so is known in English, German, "
        "French, Spanish, Japanese and Chinese. What the base model says in words of its own is not recognised in "
        "another language: then the sides of abstention and of answers where there is one can't be compared"
    )


def unseen_in_words(suite: Mapping[str, Any]) -> str:
    """How small a change the items of a suite show."""
    seen, difference = suite["detectable_difference"], suite["difference"]
    items = f"{suite['items']} {'item' if suite['items'] == 1 else 'items'}"
    if difference["clusters"] is not None:
        items += f" in {counted(difference['clusters'], 'cluster')}"
    if seen is None:
        return f"with {items}, most changes would likely go unseen"
    return (
        f"with {items}, a change of {points(seen, sign=False)} {found_in_words(changed_shares(difference))}"
    )


def cut_off_in_words(suites: Mapping[str, Any], *, base: str, tuned: str) -> str | None:
    """How many answers reached their limit, by suite; of general requests of several levels, those levels where it was
    more than a fifth. None where it isn't known of any.

    Args:
        suites: of a record, with `cut_off` of both models.
        base, tuned: what the models are called.
    """
    told = []
    for name, shares in _shares_cut_off(suites).items():
        ours = [
            f"{who} {percent(shares[key])}{_at_levels(suites[name].get('cut_off_by_level', {}).get(key, {}))}"
            for key, who in (("base", base), ("tuned", tuned))
            if key in shares
        ]
        told.append(f"{name}: {', '.join(ours)}")
    return f"answers that were cut off at their limit: {'; '.join(told)}" if told else None


def _at_levels(shares: Mapping[str, float]) -> str:
    many = many_cut_off(shares) if len(shares) > 1 else {}
    told = ", ".join(f"level {level} {percent(share)}" for level, share in many.items())
    return f" ({told})" if told else ""


def cut_off_warnings(suites: Mapping[str, Any]) -> list[str]:
    """Of suites where so many answers were cut off that scores say little: what to do; arguments as above."""
    found = _shares_cut_off(suites)
    return [
        f"{name}: {why}"
        for name, shares in found.items()
        if (why := why_cut_off(max(shares.values()), own_limits=suites[name]["own_limits"])) is not None
    ]


def _shares_cut_off(suites: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By suite and model, where it is known: not of standard benchmarks."""
    known = {
        name: {key: share for key, share in suite.get("cut_off", {}).items() if share is not None}
        for name, suite in suites.items()
    }
    return {name: shares for name, shares in known.items() if shares}


def level_in_words(level: Mapping[str, Any]) -> str:
    """What the base model scores on development items of each level, by which one was chosen, and where many of these
    answers were cut off.
    """
    many = many_cut_off(level.get("cut_off_by_level", {}))
    text = ", ".join(
        f"level {name} {percent(score)}" + (f" ({percent(many[name])} cut off)" if name in many else "")
        for name, score in level["scores"].items()
    )
    cut_off = level.get("cut_off")
    return text if cut_off is None else f"{text}; {percent(cut_off)} of its answers cut off at their limit"


def found_in_words(changed: Mapping[str, float] | None) -> str:
    """What is said of the smallest difference that items show, which stands before it.

    Args:
        changed: on what share of the items a model was measured to be `better` and `worse`; None where it is assumed on
            how many two models differ.
    """
    return f"is found with a probability of 80 % ({changed_in_words(changed)}); smaller ones may go unseen"


def changed_in_words(changed: Mapping[str, float] | None) -> str:
    """How many items two models are taken to change, and where that is from; argument as of `found_in_words`."""
    if changed is None:
        return f"if the models differ on {percent(ASSUMED_DISCORDANCE)} of them"
    # Both: what goes one way hides nothing, however many items it is.
    return f"measured: {percent(changed['better'])} of them got better, {percent(changed['worse'])} worse"


def changed_shares(difference: Mapping[str, Any]) -> dict[str, float]:
    """On what share of its items a model is `better`, and `worse`, than another, by however much.

    Args:
        difference: fields of a `PairedDifference` of one seed, as a record has them.
    """
    return {way: difference[way] / difference["items"] for way in ("better", "worse")}


def budget_items_in_words(record: Mapping[str, Any]) -> str:
    """Which general requests an assessment's budget is of."""
    return f"the {record['budget_items']:,} requests that `selfaug evaluate` asks"


def nothing_at_stake(bound: Mapping[str, Any], *, before: str = "base model") -> str:
    """Why a bound on what is lost decides nothing, where all that there is to lose is within it.

    Args:
        bound: of a gate.
        before: what the model is called that has it to lose.
    """
    return (
        f"the {before} passes only {percent(bound['at_stake'])} of these: it could forget all of it and stay within "
        "the bound"
    )


def gates_before_in_words(gates: Sequence[Mapping[str, Any]]) -> str | None:
    """What was decided on the same answers before, by which bounds; None where nothing was.

    Args:
        gates: of an evaluation's record, the earliest first.
    """
    told = []
    for gate in gates:
        bounds = [f"{one['name']} {one['sense']} {_limit(one)}" for one in gate["bounds"]]
        told.append(f"{gate['outcome']} ({', '.join(bounds)})")
    return f"decided anew on the same answers; before: {'; '.join(told)}" if told else None


def _limit(bound: Mapping[str, Any]) -> str:
    return bound_points(
        bound["bound"], unit=bound.get("unit", "points")
    )  # earlier records have differences only


def bound_in_words(bound: Mapping[str, Any], *, before: str = "base model") -> str:
    """One bound of a gate, what was measured, and the decision; arguments as of `nothing_at_stake`."""
    text = f"{bound['name']}: {_measured(bound)}, {bound['sense']} {_limit(bound)} wanted: {bound['outcome']}"
    if bound.get("at_stake") is not None:
        return f"{text}; {nothing_at_stake(bound, before=before)}"
    if bound["value"]["value"] is None:
        return (
            f"{text}; the {before} passes none of these, of which no share is kept: ask easier ones (--level)"
        )
    if bound["outcome"] == "inconclusive":
        needed = bound["items_needed"]
        measured, more = f"{bound['items']:,}", f"{needed:,} items" if needed else ""
        if (clusters := bound.get("clusters")) is not None:
            measured += f" in {counted(clusters, 'cluster')}"
            more += f" in {bound['clusters_needed']:,} clusters" if needed else ""
        text += f"; some {more} would decide, {measured} were measured" if needed else ""
        if clusters is not None and not needed:
            text += "; items of one cluster say nothing of others" if clusters == 1 else ""
            text += "; so few clusters say little of others: ask items of more" if clusters in (2, 3) else ""
    return text


def _measured(bound: Mapping[str, Any]) -> str:
    value, unit = bound["value"], bound.get("unit", "points")
    if value["value"] is None:
        return "not known"
    digits, sign = digits_beside(value, bound["bound"]), unit == "points"
    return (
        f"{points(value['value'], digits=digits, sign=sign, unit=unit)} "
        f"({span(value, digits=digits, sign=sign)})"
    )
