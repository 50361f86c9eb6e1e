from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from selfaug.core.forecast import Run, forgetting_forecast
from selfaug.core.statistics import mean_interval
from selfaug.wording.comparison_results import (
    against_table,
    comparison_notes,
    costs_table,
    forecast_table,
    scores_table,
)

SEEN = {"difference": 0.12, "better": 0.1, "worse": 0.25, "method": "plain"}


def notes_of(record: dict[str, Any]) -> str:
    """All in one text."""
    return " ".join(comparison_notes(record))


def test_the_forecast_is_told_up_to_the_largest_drift() -> None:
    rng = np.random.default_rng(0)
    runs = [
        Run(drift, [1.0] * 50, (rng.random(50) > drift).astype(float).tolist())
        for drift in (0.002, 0.004, 0.01, 0.02, 0.03, 0.05, 0.2, 0.3)
    ]
    forecast = forgetting_forecast(runs, seed=0, resamples=20)
    record = {
        "forecast": {
            **asdict(forecast),
            "at": {f"{drift:g}": asdict(forecast.at(drift)) for drift in (0.01, 0.1, 0.5)},
        }
    }
    table = forecast_table(record)
    assert table is not None
    assert table.columns == ["drift, nats", "0.01", "0.1"]
    assert "from 8 runs: rank correlation" in table.title
    assert f"{100 * forecast.coverage:.0f} %" in table.caption
    assert (
        "Settings that were not chosen are on development items, all others on test items." in table.caption
    )
    assert "smallest drift" not in table.caption
    record["forecast"]["at"] = {"0.001": asdict(forecast.at(0.001)), **record["forecast"]["at"]}
    table = forecast_table(record)
    assert table is not None
    assert "Below 0.002, the smallest drift that was measured, it is drawn to none" in table.caption
    assert forecast_table({"forecast": None}) is None


def test_a_zero_has_no_minus_and_a_drift_of_few_prompts_no_interval() -> None:
    at = {"0.01": {"value": 0.0, "low": -0.0003, "high": 0.0002}}
    forecast = {
        "correlation": {"value": 0.8, "low": 0.5, "high": 0.9}, "drifts": [0.01], "coverage": 0.8, "at": at,
    }  # fmt: skip
    table = forecast_table({"forecast": forecast})
    assert table is not None
    assert table.rows == [["forgetting", "0.0 (0.0 to 0.0)"]]
    few = {"nats": asdict(mean_interval([3.0, 3.1, 2.9], [10, 10, 10], seed=0))}
    costs = costs_table({"methods": {"plain": row_of("plain LoRA", drift=few)}})
    assert costs.rows[0][2] == "0.300"


def test_a_p_value_says_what_it_is_of_and_is_left_out_where_there_is_none() -> None:
    cell = {"difference": {"value": 0.1, "low": -0.02, "high": 0.2}, "p_value": 0.0312}
    record = {
        "items": {"task": 5, "general": 7},
        "settings": {"seeds": [0, 1]},
        "subject": "selfaug",
        "methods": {
            "plain": {
                "label": "plain LoRA",
                "against_subject": {"task": {**cell, "p_value": None}, "general": cell},
                "against_seeds": [0, 1],
            },
            "selfaug": {"label": "SelfAug", "against_subject": None, "against_seeds": [0, 1]},
        },
    }
    table = against_table(record)
    assert table is not None
    assert table.rows == [["plain LoRA", "+10.0 (−2.0 to +20.0)", "+10.0 (−2.0 to +20.0) p 0.031"]]
    # Neither a zero with a sign, nor a p that seems to be 0.05 and is less.
    cell |= {"difference": {"value": 0.02, "low": -0.0004, "high": 0.042}, "p_value": 0.0496}
    beside = against_table(record)
    assert beside is not None
    assert beside.rows[0][2] == "+2.0 (0.0 to +4.2) p 0.0496"
    assert "items and seeds" in table.caption
    assert "Holm" not in table.caption  # of one row there is nothing to adjust
    methods = {name: {**row, "against_seeds": [0]} for name, row in record["methods"].items()}
    one = against_table({**record, "settings": {"seeds": [0]}, "methods": methods})
    assert one is not None
    assert "exact where items are right or wrong" in one.caption
    assert against_table({**record, "subject": None}) is None


def row_of(label: str, **changed: object) -> dict[str, object]:
    interval = {"value": 0.41, "low": 0.3, "high": 0.5}
    general = {"difference": {"difference": interval}, "retention": {"value": 0.96, "low": 0.9, "high": 1.02}}
    return {
        "label": label, "knob": "scale", "value": 0.5, "leaks": None, "general_rows": 0, "written_rows": 3,
        "suites": {"task": {"score": interval}, "general": general}, "peak_memory_bytes": 2e9, "models": 1,
        "drift": {"nats": {"value": 0.25, "low": 0.2, "high": 0.3}},
        "task_drift": {"nats": {"value": 0.5, "low": 0.4, "high": 0.6}}, "routed_right": None,
        "train_seconds": 90.0, "write_seconds": 30.0, "seeds": [0, 1], **changed,
    }  # fmt: skip


def test_the_tables_have_what_was_measured() -> None:
    router = row_of(
        "router", drift=None, task_drift=None, models=2, routed_right={"task": 0.98, "general": 0.75}
    )
    nothing_to_keep = row_of("odd")
    nothing_to_keep["suites"]["general"]["retention"] = None  # type: ignore[index]
    score = {"score": {"value": 0.5, "low": 0.4, "high": 0.6}}
    record = {
        "items": {"task": 5, "general": 7},
        "base": {"suites": {"task": score, "general": score}, "leaks": None},
        "methods": {"plain": row_of("plain LoRA"), "odd": nothing_to_keep, "router": router},
        "not_run": ["osf"],
        "settings": {"seeds": [0, 1]},
    }
    scores, costs = scores_table(record), costs_table(record)
    assert "general − base, points" in scores.columns
    kept = [row[scores.columns.index("retention")] for row in scores.rows]
    assert kept == ["100 %", "96 % (90–102)", "–", "96 % (90–102)", ""]
    drifts = ["0.500 (0.400–0.600)", "0.250 (0.200–0.300)"]
    assert costs.rows[0] == ["plain LoRA", *drifts, "3 written", "2.0", "2.0", "1"]
    assert costs.rows[2][1:3] == ["–", "–"]
    assert "anchors" not in costs.caption
    assert "General rows" not in costs.caption
    assert "cache" not in costs.caption
    cached = {"plain": row_of("replay", general_rows=5), "selfaug": row_of("SelfAug", reference_cache=True)}
    caption = costs_table({**record, "methods": cached}).caption
    assert "General rows are different ones" in caption
    assert "share a cache of the reference: the first one writes that of the rows" in caption
    counted = {"written_rows_cut_off": 1, "anchors": 96, "anchor_seconds": 30.0}
    newer = costs_table({**record, "methods": {"selfaug": row_of("SelfAug", **counted)}})
    assert newer.rows[0][3] == "3 written (1 cut off), 96 anchors"
    assert "Minutes include what the base model writes" in newer.caption
    said = costs.caption.replace("\N{NO-BREAK SPACE}", " ")
    assert "sent 98 % of the job's prompts to the tuned model, and 75 % of the general ones" in said
    assert "router" not in costs_table({"methods": {"plain": row_of("plain LoRA")}}).caption
    assert all(len(row) == len(table.columns) for table in (scores, costs) for row in table.rows)
    # Records from before it was measured.
    old = costs_table({"methods": {"plain": row_of("plain LoRA", task_drift=None)}})
    assert old.columns == ["method", "drift, general", "data", "min", "GB", "models"]
    assert old.rows == [["plain LoRA", drifts[1], "3 written", "2.0", "2.0", "1"]]


def test_rows_of_fewer_seeds_say_so() -> None:
    score = {"score": {"value": 0.5, "low": 0.4, "high": 0.6}}
    cell = {"difference": {"value": 0.1, "low": 0.02, "high": 0.2}, "p_value": 0.5}
    record = {
        "items": {"task": 5, "general": 7},
        "base": {"suites": {"task": score, "general": score}, "leaks": None},
        "methods": {
            "selfaug": row_of("SelfAug", seeds=[0, 1, 2], against_subject=None, against_seeds=[0, 1, 2]),
            "l2": row_of("L2", against_subject={"task": cell, "general": cell}, against_seeds=[0, 1]),
        },
        "not_run": [], "subject": "selfaug", "settings": {"seeds": [0, 1, 2]},
        "detectable_difference": {**SEEN, "difference": None},
        "fast_subset": None,
    }  # fmt: skip
    against = against_table(record)
    assert against is not None
    assert [row[0] for row in against.rows] == ["L2 (2 seeds)"]
    assert [row[0] for row in scores_table(record).rows[1:]] == [
        "SelfAug, scale 0.5",
        "L2, scale 0.5 (2 seeds)",
    ]
    assert "3 seeds, fewer where a row says so." in notes_of(record)
    assert "items and seeds, if seeds scatter no more than items do, which so few can't tell; of" in notes_of(
        record
    )
    for method in record["methods"].values():
        method["seeds"] = list(range(5))
    record["settings"]["seeds"] = list(range(5))
    assert "intervals over items and seeds; of drift" in notes_of(record)


def test_the_notes_say_what_can_not_be_seen() -> None:
    record = {
        "items": {"task": 5, "general": 7}, "settings": {"seeds": [0]}, "detectable_difference": SEEN,
        "fast_subset": None, "methods": {"plain": {"label": "plain LoRA", "seeds": [0]}},
    }  # fmt: skip
    assert "task 5, general 7; 1 seed." in notes_of(record)
    assert "95 % intervals over items, for this seed alone; of drift" in notes_of(record)
    assert "task 5 in 2 clusters, general 7;" in notes_of({**record, "clusters": {"task": 2}})
    said = notes_of(record).replace("\N{NO-BREAK SPACE}", " ")
    shown = "between plain LoRA and the base model that these items show with a probability of 80 %: "
    assert (
        f"{shown}general 12 points (measured: 10 % of them got better, 25 % worse). Smaller ones may" in said
    )
    few = {**record, "detectable_difference": {**SEEN, "difference": None}}
    assert "go unseen" not in notes_of(few)
    by_suite = {
        "task": {"difference": 0.13, "better": 0.98, "worse": 0.0}, "general": {**SEEN, "difference": None},
        "company": {"difference": 0.3, "discordance": 0.04},  # of graded scores, in an earlier record
    }  # fmt: skip
    of_all = {**record, "detectable_difference": {**SEEN, "difference": None, "suites": by_suite}}
    said = notes_of(of_all).replace("\N{NO-BREAK SPACE}", " ")
    # Who takes 98 % that differ for what it rests on would get 35 points.
    assert (
        f"{shown}task 13 points (measured: 98 % of them got better, 0 % worse); company 30 points. Sm" in said
    )
    assert "chosen on development items" not in said
    two = {name: {"label": name, "seeds": [0]} for name in ("plain", "selfaug", "selfaug-anchors")}
    said = notes_of({**record, "methods": two})
    assert (
        "Which SelfAug is tested against the others, without or with self-anchors, was chosen on dev" in said
    )
    assert "--fast" not in notes_of(record)


def test_the_notes_say_how_the_fast_subset_did() -> None:
    subset = {"models": 9, "items": 96, "of_items": 200, "kendall_tau": 0.875, "covered": 8}
    record = {
        "items": {"general": 200}, "settings": {"seeds": [0]}, "detectable_difference": SEEN, "fast_subset": subset,
        "methods": {"plain": {"label": "plain LoRA", "seeds": [0]}},
    }  # fmt: skip
    assert "The 96 requests of `evaluate --fast` put these 9 models" in notes_of(record)
    assert "of all 200 (Kendall's tau 0.88)" in notes_of(record)
    assert notes_of(record).endswith("for 8 of 9.")
    equal = {**record, "fast_subset": {**subset, "kendall_tau": None}}
    assert "(no order)" in notes_of(equal)


def test_p_values_of_rows_with_one_seed_are_told_apart() -> None:
    cell = {"difference": {"value": 0.1, "low": 0.02, "high": 0.2}, "p_value": 0.5}
    record = {
        "items": {"task": 5}, "settings": {"seeds": [0, 1]}, "subject": "selfaug",
        "methods": {
            "selfaug": row_of("SelfAug", against_subject=None, against_seeds=[0, 1]),
            "plain": row_of("plain LoRA", against_subject={"task": cell}, against_seeds=[0, 1]),
            "l2": row_of("L2", against_subject={"task": cell}, against_seeds=[0]),
        },
    }  # fmt: skip
    table = against_table(record)
    assert table is not None
    assert "items and seeds as the interval; in rows of one seed exact where items are right" in table.caption


def test_p_values_are_adjusted_for_the_rows_of_their_column() -> None:
    def row(label: str, task: float, general: float | None) -> dict[str, object]:
        interval = {"value": 0.1, "low": 0.02, "high": 0.2}
        found = {"task": task, "general": general}
        cells = {suite: {"difference": interval, "p_value": p} for suite, p in found.items()}
        return row_of(label, against_subject=cells, against_seeds=[0, 1])

    record = {
        "items": {"task": 5, "general": 7}, "settings": {"seeds": [0, 1]}, "subject": "selfaug",
        "methods": {
            "plain": row("plain LoRA", 0.03, None),
            "selfaug": row_of("SelfAug", against_subject=None, against_seeds=[0, 1]),
            "l2": row("L2", 0.01, 0.04), "full": row("full", 0.5, 0.012),
        },
    }  # fmt: skip
    table = against_table(record)
    assert table is not None
    shown = [[cell.partition(" p ")[2] for cell in row[1:]] for row in table.rows]
    # Three rows for the task; of general requests the record has two p-values.
    assert shown == [["0.06", ""], ["0.03", "0.04"], ["0.5", "0.024"]]
    assert "Adjusted by Holm's method for the 3 rows of a column" in table.caption
    assert (
        "comparisons at most, if seeds scatter no more than items do, which so few can't tell. E"
        in table.caption
    )
    for seeds, promised in ([0], "at most, for this seed alone. Each"), (list(range(5)), "at most. Each"):
        for method in record["methods"].values():
            method["against_seeds"] = seeds
        table = against_table(record)
        assert table is not None
        assert promised in table.caption


def test_the_notes_count_answers_that_were_cut_off() -> None:
    def row(**cut: float | None) -> dict[str, object]:
        return {"seeds": [0, 1], "suites": {name: {"cut_off": share} for name, share in cut.items()}}

    record = {
        "items": {"task": 5, "mine": 3, "general": 7}, "settings": {"seeds": [0, 1]}, "fast_subset": None,
        "detectable_difference": {**SEEN, "difference": None}, "base": row(task=0.1, mine=None, general=0.5),
        "methods": {
            "plain": {"label": "plain LoRA", **row(task=0.25, mine=None, general=0.4)},
            "router": {"label": "router", **row(task=None, mine=None, general=None)},
        },
    }  # fmt: skip
    said = notes_of(record).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "intervals over items and seeds, if seeds scatter no more than items do, which so few can't" in said
    )
    assert "cut off at their limit, task: base model 10 %, plain LoRA 25 %, the most. Beware: 25 % of" in said
    assert "raise --max-new-tokens" in said
    assert said.endswith("cut off at their limit, general: base model 50 %, the most.")
