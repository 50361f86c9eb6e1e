"""The demo's results in words: the verdict, and the table that terminal and page share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from selfaug.wording.markdown import Cell, difference, drift, share
from selfaug.wording.numbers import duration, percent, points, span

__all__ = [
    "MODELS",
    "Row",
    "Verdict",
    "demo_rows",
    "demo_verdict",
]

MODELS = ("base", "plain", "selfaug")
"""Keys of the models in a demo's record, in the order in which they are shown."""

MOST_LEAKS = 0.10
"""SelfAug is said to protect other work if the job's style is in no more of the general answers than this."""

_LEARNED = 0.5

Outcome = Literal["kept", "partly", "not shown", "not learned"]


class Verdict(NamedTuple):
    """One sentence on a demo for readers who train no models, and its outcome as a word."""

    outcome: Outcome
    text: str


class Row(NamedTuple):
    """One measure of the three models; `cells` in the order of `MODELS`."""

    name: str
    meaning: str
    cells: tuple[Cell, ...]


def demo_verdict(record: Mapping[str, Any]) -> Verdict:
    """What the demo showed, made from its numbers, the disappointing ones included.

    Args:
        record: data of a demo's record.
    """
    plain, ours = record["results"]["plain"], record["results"]["selfaug"]
    exact = f"SelfAug {percent(ours['exact']['value'])}, plain LoRA {percent(plain['exact']['value'])}"
    if max(ours["exact"]["value"], plain["exact"]["value"]) < _LEARNED:
        return Verdict(
            "not learned",
            f"Neither method taught the model its job in this run ({exact} of answers exact), "
            "so the run can't show what learning the job makes a model forget.",
        )
    job, less_well = _job_clause(ours, exact)
    leaks, outcome = _leak_clause(ours["leaks"], plain["leaks"])
    text = f"{job}{leaks}"
    lost = ours["difference"]["difference"]
    if lost["high"] < 0:
        text += f"; on the general checks SelfAug still lost {points(-lost['value'], sign=False)}"
    if outcome == "kept" and (less_well or lost["high"] < 0):
        outcome = "partly"
    return Verdict(outcome, f"{text}.")


def _job_clause(ours: Mapping[str, Any], exact: str) -> tuple[str, bool]:
    """What was learned, and whether SelfAug learned it less well than plain LoRA."""
    against_plain = ours["exact_against_plain"]["difference"]
    if against_plain["high"] < 0:
        return f"SelfAug taught the model its job less well than plain LoRA ({exact} of answers exact)", True
    if against_plain["low"] > 0:
        return f"SelfAug taught the model its job better than plain LoRA ({exact} of answers exact)", False
    told = (
        f"{exact} of answers exact, a difference of {points(against_plain['value'])}, {span(against_plain)}"
    )
    return f"Both methods taught the model its job ({told})", False


def _leak_clause(ours: Mapping[str, float], plain: Mapping[str, float]) -> tuple[str, Outcome]:
    """What it did to other work; intervals that overlap tell nothing apart."""
    with_ours, with_plain = percent(ours["value"]), percent(plain["value"])
    if ours["low"] > plain["high"]:
        return (
            ", and SelfAug harmed other work more than plain LoRA: the job's answer style got into "
            f"{with_ours} of general answers, against {with_plain}"
        ), "not shown"
    if ours["high"] >= plain["low"]:
        return (
            ", and this run doesn't show that SelfAug protects other work: the job's answer style got into "
            f"{with_ours} of general answers with SelfAug and {with_plain} with plain LoRA, "
            "too close to tell apart"
        ), "not shown"
    if ours["value"] > MOST_LEAKS:
        return (
            ", and SelfAug protects other work only in part: the job's answer style still got into "
            f"{with_ours} of general answers, against {with_plain} with plain LoRA"
        ), "partly"
    left = f"only {with_ours}" if ours["value"] else "none"
    return (
        f", but after plain LoRA {with_plain} of its general answers are in the job's style, after SelfAug {left}"
    ), "kept"


def demo_rows(record: Mapping[str, Any]) -> list[Row]:
    """The table of results.

    Args:
        record: data of a demo's record.
    """
    results = record["results"]
    task, general = results["base"]["task_items"], results["base"]["general_items"]

    def row(name: str, meaning: str, cell: Callable[[Mapping[str, Any]], Cell]) -> Row:
        return Row(name, meaning, tuple(cell(results[model]) for model in MODELS))

    return [
        row(
            "Exact answers",
            f"of {task} questions about companies that no training row mentions",
            lambda of: share(of["exact"]),
        ),
        row(
            "Right source",
            "the report cited is the one that holds the answer",
            lambda of: share(of["source"]),
        ),
        row(
            "General checks passed",
            f"on {general} general requests that nothing was trained or chosen on",
            lambda of: share(of["general"]),
        ),
        row(
            "Checks against base",
            "the same requests compared one by one; an interval wholly below 0 is forgetting",
            lambda of: Cell("0") if of["difference"] is None else difference(of["difference"]["difference"]),
        ),
        row(
            "House style leaks",
            "general answers that carry the job's answer style",
            lambda of: share(of["leaks"]),
        ),
        row(
            "Drift",
            "nats per token from the base model, on the base model's own answers to one of sixteen general requests",
            lambda of: Cell("0") if of["drift"] is None else drift(of["drift"]),
        ),
        row("Words per answer", "to the general requests, on average", lambda of: Cell(f"{of['words']:.0f}")),
        row(
            "Training time",
            "the same rows, order and steps for both",
            lambda of: Cell("–" if of["train_seconds"] is None else duration(of["train_seconds"])),
        ),
    ]
