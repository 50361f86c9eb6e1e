"""The demo's pictures, as SVG: task against retention, and drift, nll and alignment over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfaug.report.charts import (
    COLORS,
    colors_of,
    inline_svg,
    layered,
    lines,
    lines_svg,
    of_rows,
    shapes_of,
    short_name,
    svg_of,
)
from selfaug.report.document import Chart
from selfaug.wording.demo_results import MODELS

if TYPE_CHECKING:
    import altair

__all__ = ["demo_chart_svg", "demo_charts"]

_MOST_POINTS = 100

_Rows = list[dict[str, Any]]


def demo_chart_svg(record: Mapping[str, Any]) -> str:
    """Task against retention beside drift over steps, as an SVG file on white.

    Args:
        record: data of a demo's record.
    """
    import altair

    # Two views side by side, each with the legend of its own marks.
    both = altair.hconcat(
        _task_against_retention(_points(record)).properties(title="The job against everything else"),
        lines(_curve(record, "drift"), "drift (nats per token)", marks=True).properties(
            title="Drift from the base model"
        ),
        spacing=40,
    ).resolve_scale(color="independent", shape="independent", strokeDash="independent")
    return svg_of(both, background="white")


def demo_charts(record: Mapping[str, Any]) -> list[Chart]:
    """The pictures of the demo's report; one that has no data is left out.

    Args:
        record: data of a demo's record.
    """
    names = {model: short_name(record["results"][model]["label"]) for model in MODELS}
    placed = _points(record)
    charts = [
        Chart(
            "The job against everything else",
            "Up: better at the job. Right: more of the general ability kept; the line is the base model. "
            "Bars are 95 % intervals.",
            inline_svg(svg_of(_task_against_retention(placed))),
            ["model", "exact answers (%)", "general checks against base (points)"],
            [
                [
                    row["name"],
                    f"{row['exact']:.0f} ({row['exact_low']:.0f} to {row['exact_high']:.0f})",
                    f"{row['kept']:.1f} ({row['kept_low']:.1f} to {row['kept_high']:.1f})",
                ]
                for row in placed
            ],
        )
    ]
    for key, name, unit, about, marks in (
        (
            "drift",
            "Drift while training",
            "drift (nats per token)",
            "How far the model has moved from the base model, at each checkpoint, "
            "on one of 32 general requests.",
            True,
        ),
        (
            "nll",
            "Learning the job (nll)",
            "nats per completion token",
            "Loss on the answers of the training rows; lower is better learned.",
            False,
        ),
        (
            "alignment_loss",
            "Alignment loss while training",
            "nats per prompt token",
            "Distance from the base model on the prompts of the training rows: what SelfAug holds down. "
            "Plain LoRA doesn't measure it.",
            False,
        ),
    ):
        rows = _curve(record, key)
        if rows:
            chart = lines_svg(rows, unit, marks=marks)
            columns = ["step", *(names[model] for model in MODELS if any(r["key"] == model for r in rows))]
            charts.append(Chart(name, about, chart, columns, _by_step(rows, columns[1:])))
    return charts


def _points(record: Mapping[str, Any]) -> _Rows:
    """Where each model stands; the base model differs from itself by nothing."""
    rows = []
    for model in MODELS:
        result = record["results"][model]
        kept = result["difference"]["difference"] if result["difference"] else dict.fromkeys(_INTERVAL, 0.0)
        row: dict[str, Any] = {"key": model, "name": short_name(result["label"])}
        for name, interval in (("exact", result["exact"]), ("kept", kept)):
            row |= {name: 100 * interval["value"], f"{name}_low": 100 * interval["low"]}
            row[f"{name}_high"] = 100 * interval["high"]
        rows.append(row)
    return rows


_INTERVAL = ("value", "low", "high")


def _curve(record: Mapping[str, Any], key: str) -> _Rows:
    """One row a step and method, at most a hundred steps of each."""
    rows = []
    for model in MODELS:
        curves = record["curves"].get(model)
        label = short_name(record["results"][model]["label"])
        measured = curves["drift" if key == "drift" else "steps"] if curves else []
        values = [
            {"key": model, "name": label, "step": row["step"], "value": row[key]}
            for row in measured
            if row.get(key) is not None
        ]
        every = -(-len(values) // _MOST_POINTS) or 1
        rows += values[::every]
    return rows


def _by_step(rows: _Rows, names: Sequence[str]) -> list[list[str]]:
    values = {(row["step"], row["name"]): f"{row['value']:.4f}" for row in rows}
    return [
        [str(step), *(values.get((step, name), "–") for name in names)]
        for step in sorted({row["step"] for row in rows})
    ]


def _task_against_retention(rows: _Rows) -> altair.LayerChart:
    import altair

    reach = max(5.0, *(abs(row[key]) for row in rows for key in ("kept_low", "kept_high"))) * 1.1
    x = altair.X(
        "kept:Q", title="general checks against base (points)", scale=altair.Scale(domain=[-reach, reach])
    )
    y = altair.Y("exact:Q", title="exact answers on the job (%)", scale=altair.Scale(domain=[0, 100]))
    base = of_rows(rows)
    line = of_rows([{"kept": 0}]).mark_rule(color=COLORS["base"], strokeDash=[2, 2]).encode(x=x)
    sideways = base.mark_rule(strokeWidth=1.5).encode(
        x=altair.X("kept_low:Q"), x2="kept_high:Q", y=y, color=colors_of(rows)
    )
    upright = base.mark_rule(strokeWidth=1.5).encode(
        x=x, y=altair.Y("exact_low:Q"), y2="exact_high:Q", color=colors_of(rows)
    )
    marks = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x, y=y, color=colors_of(rows), shape=shapes_of(rows)
    )
    return layered(line, sideways, upright, marks)
