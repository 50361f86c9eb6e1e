"""A comparison's results in words: the tables that terminal and documentation share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from selfaug.core.cut_off import why_cut_off
from selfaug.core.printable import counted
from selfaug.core.statistics import holm
from selfaug.core.trained_on import seen_in_words
from selfaug.wording.evaluation_words import changed_in_words
from selfaug.wording.numbers import decimal, percent, signed

__all__ = [
    "ITEMS_OF_RUNS",
    "NOT_RUN",
    "TextTable",
    "against_table",
    "comparison_notes",
    "costs_table",
    "forecast_table",
    "scores_table",
]

NOT_RUN = "not run"
"""In place of the first score of a method that was left out."""

ITEMS_OF_RUNS = "Settings that were not chosen are on development items, all others on test items."
"""Said of all runs together: of each method, some have been asked development items alone."""

# From so many on, resampling shows how far seeds scatter: see `pooled_difference`.
_MANY_SEEDS = 5


class TextTable(NamedTuple):
    """A table whose cells are texts; the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str = ""


def scores_table(record: Mapping[str, Any]) -> TextTable:
    """What every method with its chosen setting scores, on test items.

    Args:
        record: data of a comparison's record.
    """
    suites = [name for name in record["items"] if name not in ("task", "general")]
    base = record["base"]
    rows = [
        [
            "base model", _share(base["suites"]["task"]["score"]),
            f"(scores {_share(base['suites']['general']['score'])})", "100 %",
            *(_share(base["suites"][name]["score"]) for name in suites),
            _leaks(base),
        ]
    ]  # fmt: skip
    for method in record["methods"].values():
        found = method["suites"]
        kept = found["general"]["retention"]
        rows.append(
            [
                f"{method['label']}, {method['knob']} {method['value']:g}{_own_seeds(record, method['seeds'])}",
                _share(found["task"]["score"]),
                _points(found["general"]["difference"]["difference"]),
                "–" if kept is None else _share(kept),
                *(_share(found[name]["score"]) for name in suites),
                _leaks(method),
            ]
        )
    columns = ["method", "task", "general − base, points", "retention", *suites, "leaks"]
    rows += [[name, NOT_RUN, *[""] * (len(columns) - 2)] for name in record["not_run"]]
    return TextTable("", columns, rows, "Retention: the general score as a share of the base model's.")


def costs_table(record: Mapping[str, Any]) -> TextTable:
    """How far each method moved the model, and what it cost."""
    rows = [
        [
            method["label"],
            _nats(method["task_drift"]),
            _nats(method["drift"]),
            _data(method),
            f"{(method['train_seconds'] + method['write_seconds']) / 60:.1f}",
            "–" if method["peak_memory_bytes"] is None else f"{method['peak_memory_bytes'] / 1e9:.1f}",
            f"{method['models']}",
        ]
        for method in record["methods"].values()
    ]
    columns = ["method", "drift, job", "drift, general", "data", "min", "GB", "models"]
    if all(method["task_drift"] is None for method in record["methods"].values()):
        rows = [[row[0], *row[2:]] for row in rows]
        del columns[1]
    caption = (
        "Drift in nats per token: on the job's prompts, and on the base model's own answers to general ones. Minutes "
        "and memory are a run's; models are those to be served."
    )
    if any(method["general_rows"] for method in record["methods"].values()):
        caption += " General rows are different ones, of which a run of few steps may reach a part."
    # Earlier records don't say which reference was taken.
    if any(method.get("reference_cache") for method in record["methods"].values()):
        caption += (
            " Runs of SelfAug share a cache of the reference: the first one writes that of the rows, a trial perhaps "
            "or an earlier training, and the minutes of all others are without it."
        )
    # Earlier records did not count the time of anchors.
    if any(method.get("anchor_seconds") for method in record["methods"].values()):
        caption += (
            " Minutes include what the base model writes for a method: dialogues, completions, anchors."
        )
    return TextTable("", columns, rows, caption + _routing(record))


def against_table(record: Mapping[str, Any]) -> TextTable | None:
    """SelfAug minus each other method, item by item and seed by seed; None if SelfAug was not compared."""
    if record["subject"] is None:
        return None
    others = [method for method in record["methods"].values() if method["against_subject"] is not None]
    cells = {suite: [method["against_subject"][suite] for method in others] for suite in record["items"]}
    p_values = {suite: _adjusted(of_suite) for suite, of_suite in cells.items()}
    rows = [
        [
            method["label"] + _own_seeds(record, method["against_seeds"]),
            *(_points(cells[suite][place]["difference"]) + p_values[suite][place] for suite in cells),
        ]
        for place, method in enumerate(others)
    ]
    label = record["methods"][record["subject"]]["label"]
    seeds = {len(method["against_seeds"]) for method in others}
    resampled = "from the same resampling of items and seeds as the interval"
    exact = "exact where items are right or wrong; of graded scores, from the same resampling as the interval"
    return TextTable(
        f"{label} minus each method, in points",
        ["method", *cells],
        rows,
        "p: two-sided, "
        + (
            f"{exact}."
            if max(seeds, default=1) == 1
            else f"{resampled}; in rows of one seed {exact}."
            if 1 in seeds
            else f"{resampled}."
        )
        + (
            f" Adjusted by Holm's method for the {len(rows)} rows of a column: by chance, one of them is under 0.05 in "
            f"5 % of comparisons at most{_rests_on(seeds)}. Each interval is for itself, and can leave 0 out where p "
            "is larger."
            if len(rows) > 1
            else ""
        ),
    )


def forecast_table(record: Mapping[str, Any]) -> TextTable | None:
    """What drift lets expect; None with too few runs."""
    forecast = record["forecast"]
    if forecast is None:
        return None
    found = forecast["correlation"]
    smallest, largest = min(forecast["drifts"]), max(forecast["drifts"])
    drifts = [drift for drift in forecast["at"] if float(drift) <= largest]
    cells = [
        f"{decimal(100 * at['value'])} ({decimal(100 * at['low'])} to {decimal(100 * at['high'])})"
        for at in (forecast["at"][drift] for drift in drifts)
    ]
    return TextTable(
        f"Forgetting by drift, from {len(forecast['drifts'])} runs: rank correlation {found['value']:.2f} "
        f"({found['low']:.2f} to {found['high']:.2f})",
        ["drift, nats", *drifts],
        [["forgetting", *cells]],
        "Expected forgetting in points, with the interval for four runs in five; made from the other runs, it held "
        f"{100 * forecast['coverage']:.0f} % of these. {ITEMS_OF_RUNS}"
        + (
            f" Below {smallest:.3g}, the smallest drift that was measured, it is drawn to none at no drift."
            if any(float(drift) < smallest for drift in drifts)
            else ""
        ),
    )


def comparison_notes(record: Mapping[str, Any]) -> list[str]:
    """How many items and seeds, and what they can't show: a note each."""
    seeds = record["settings"]["seeds"]
    counts = {len(method["seeds"]) for method in record["methods"].values()}
    notes = [
        f"Test items: {', '.join(_items(record, name) for name in record['items'])}; {_seeds(seeds)}"
        f"{', fewer where a row says so' if min(counts) < len(seeds) else ''}. "
        f"In brackets: 95 % intervals over items{' and seeds' if len(seeds) > 1 else ''}{_rests_on(counts)}; of drift, "
        "over prompts.",
        *seen_in_words(record, record["items"].get("task", 0)),
        _chosen_subject(record),
        _unseen(record),
        _fast(record["fast_subset"]),
        *_cut_off(record),
    ]
    return [note for note in notes if note]


def _items(record: Mapping[str, Any], suite: str) -> str:
    """How many there are of a suite, and in how many clusters, by which its intervals go, where some share one."""
    clusters = record.get("clusters", {}).get(suite)
    within = "" if clusters is None else f" in {counted(clusters, 'cluster')}"
    return f"{suite} {record['items'][suite]}{within}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"


def _rests_on(counts: Set[int]) -> str:
    """What intervals and p-values of few seeds rest on, after a comma; empty where there are enough.

    Args:
        counts: how many seeds the rows have.
    """
    if min(counts) >= _MANY_SEEDS:
        return ""
    if max(counts) == 1:
        return ", for this seed alone"
    return ", if seeds scatter no more than items do, which so few can't tell"


def _own_seeds(record: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """How many seeds a row is of, where it has not all of the comparison."""
    return "" if len(seeds) == len(record["settings"]["seeds"]) else f" ({_seeds(seeds)})"


def _chosen_subject(record: Mapping[str, Any]) -> str:
    """That the tested SelfAug is the better one of two, where both ran."""
    if not {"selfaug", "selfaug-anchors"} <= record["methods"].keys():
        return ""
    return (
        "Which SelfAug is tested against the others, without or with self-anchors, was chosen on development items, "
        "too."
    )


def _unseen(record: Mapping[str, Any]) -> str:
    general = record["detectable_difference"]
    # Earlier records say it of general requests alone.
    found = {"general": general, **general.get("suites", {})}
    smallest = {name: seen for name, seen in found.items() if seen["difference"] is not None}
    if not smallest:
        return ""
    label = record["methods"][general["method"]]["label"]
    shown = (
        # Nor how many items changed, and which way.
        f"{name} {100 * seen['difference']:.0f} points"
        + (f" ({changed_in_words(seen)})" if "better" in seen else "")
        for name, seen in smallest.items()
    )
    return (
        f"Differences between {label} and the base model that these items show with a probability of 80 %: "
        f"{'; '.join(shown)}. Smaller ones may go unseen."
    )


def _fast(subset: Mapping[str, Any] | None) -> str:
    if subset is None:
        return ""
    tau = "no order" if subset["kendall_tau"] is None else f"Kendall's tau {subset['kendall_tau']:.2f}"
    return (
        f"The {subset['items']} requests of `evaluate --fast` put these {subset['models']} models into the order of "
        f"all {subset['of_items']} ({tau}); their interval held the difference on all of them for "
        f"{subset['covered']} of {subset['models']}."
    )


def _cut_off(record: Mapping[str, Any]) -> Iterator[str]:
    """How many answers were cut off at their limit, and what to do where they are many; a note for each suite."""
    rows = {"base model": record.get("base", {}), **{row["label"]: row for row in record["methods"].values()}}
    for suite in record["items"]:
        shares = {label: row.get("suites", {}).get(suite, {}).get("cut_off") for label, row in rows.items()}
        known = {label: share for label, share in shares.items() if share is not None}
        if not known:
            continue
        most = max(known, key=lambda label: known[label])
        shown = ", ".join(
            f"{label} {percent(known[label])}" for label in dict.fromkeys([next(iter(known)), most])
        )
        why = why_cut_off(known[most], own_limits=suite == "general")
        yield (
            f"Answers that were cut off at their limit, {suite}: {shown}{', the most' if len(known) > 1 else ''}."
            f"{'' if why is None else f' Beware: {why}.'}"
        )


def _routing(record: Mapping[str, Any]) -> str:
    """How often the router chose the right model."""
    right = record["methods"].get("router", {}).get("routed_right")
    if right is None:
        return ""
    return (
        f" The router sent {percent(right['task'])} of the job's prompts to the tuned model, and "
        f"{percent(right['general'])} of the general ones to the base model."
    )


def _nats(drift: Mapping[str, Any] | None) -> str:
    if drift is None:
        return "–"
    nats = drift["nats"]
    # Of few prompts, or of equal ones, there is no interval.
    between = "" if nats["low"] == nats["high"] else f" ({nats['low']:.3f}–{nats['high']:.3f})"
    return f"{nats['value']:.3f}{between}"


def _data(method: Mapping[str, Any]) -> str:
    parts = []
    if method["general_rows"]:
        parts.append(f"{method['general_rows']} general")
    if method["written_rows"]:
        # Only newer records count what follows.
        cut_off = method.get("written_rows_cut_off", 0)
        parts.append(f"{method['written_rows']} written" + (f" ({cut_off} cut off)" if cut_off else ""))
    if method.get("anchors", 0):
        parts.append(f"{method['anchors']} anchors")
    return ", ".join(parts) or "none"


def _adjusted(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """P-values of all methods on a suite, adjusted for their number, as they stand after the differences."""
    # Records from before p-values were pooled over seeds don't hold what they are made of.
    adjusted = iter(holm([cell["p_value"] for cell in cells if cell["p_value"] is not None]))
    return ["" if cell["p_value"] is None else f" p {_p_value(next(adjusted))}" for cell in cells]


def _p_value(p_value: float) -> str:
    """With two digits; with three where it would seem to be 0.05, by which readers go."""
    shown = f"{p_value:.2g}"
    return f"{p_value:.3g}" if shown == "0.05" else shown


def _leaks(row: Mapping[str, Any]) -> str:
    return "–" if row["leaks"] is None else _share(row["leaks"])


def _share(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['value']:.0f} % ({100 * interval['low']:.0f}–{100 * interval['high']:.0f})"


def _points(interval: Mapping[str, float]) -> str:
    value, low, high = (signed(100 * interval[end]) for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
