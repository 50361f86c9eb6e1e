"""The demo's pictures, as SVG: task against retention, and drift, nll and alignment over the steps."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from selfaug.wording.demo_results import MODELS

if TYPE_CHECKING:
    import altair

__all__ = ["COLORS", "Chart", "demo_chart_svg", "demo_charts"]

COLORS = {"base": "#57606a", "plain": "#a8480a", "selfaug": "#1a56c4"}
"""On white; the page's style sheet replaces them in the dark."""

_SHAPES = {"base": "square", "plain": "triangle-up", "selfaug": "circle"}
_DASHES = {"base": [1, 0], "plain": [6, 3], "selfaug": [1, 0]}
_MOST_POINTS = 100
_WIDTH, _HEIGHT = 290, 200

_Rows = list[dict[str, Any]]


class Chart(NamedTuple):
    """A picture with what it takes to read it without seeing it.

    Attributes:
        name: heading.
        about: what it shows and how to read it, in a sentence.
        svg: without namespace, to stand in an HTML page.
        columns: names of the data table's columns.
        rows: the numbers of the picture, as texts.
    """

    name: str
    about: str
    svg: str
    columns: list[str]
    rows: list[list[str]]


def demo_chart_svg(record: Mapping[str, Any]) -> str:
    """Task against retention beside drift over steps, as an SVG file on white.

    Args:
        record: data of a demo's record.
    """
    import altair

    # Two views side by side, each with the legend of its own marks.
    both = altair.hconcat(
        _task_against_retention(_points(record)).properties(title="The job against everything else"),
        _over_steps(_curve(record, "drift"), "drift (nats per token)", marks=True).properties(
            title="Drift from the base model"
        ),
        spacing=40,
    ).resolve_scale(color="independent", shape="independent", strokeDash="independent")
    return _svg(both, background="white")


def demo_charts(record: Mapping[str, Any]) -> list[Chart]:
    """The pictures of the demo's page; one that has no data is left out.

    Args:
        record: data of a demo's record.
    """
    names = {model: record["results"][model]["label"] for model in MODELS}
    placed = _points(record)
    charts = [
        Chart(
            "The job against everything else",
            "Up: better at the job. Right: more of the general ability kept; the line is the base model. "
            "Bars are 95 % intervals.",
            _inline(_svg(_task_against_retention(placed))),
            ["model", "exact answers (%)", "general checks against base (points)"],
            [
                [
                    row["model"],
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
            "on an eighth of the general requests.",
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
            chart = _inline(_svg(_over_steps(rows, unit, marks=marks)))
            columns = ["step", *(names[model] for model in MODELS if any(r["key"] == model for r in rows))]
            charts.append(Chart(name, about, chart, columns, _by_step(rows, columns[1:])))
    return charts


def _points(record: Mapping[str, Any]) -> _Rows:
    """Where each model stands; the base model differs from itself by nothing."""
    rows = []
    for model in MODELS:
        result = record["results"][model]
        kept = result["difference"]["difference"] if result["difference"] else dict.fromkeys(_INTERVAL, 0.0)
        row: dict[str, Any] = {"key": model, "model": result["label"]}
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
        measured = curves["drift" if key == "drift" else "steps"] if curves else []
        values = [
            {"key": model, "model": record["results"][model]["label"], "step": row["step"], "value": row[key]}
            for row in measured
            if row.get(key) is not None
        ]
        every = -(-len(values) // _MOST_POINTS) or 1
        rows += values[::every]
    return rows


def _by_step(rows: _Rows, names: Sequence[str]) -> list[list[str]]:
    values = {(row["step"], row["model"]): f"{row['value']:.4f}" for row in rows}
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
    base = _chart(rows)
    line = _chart([{"kept": 0}]).mark_rule(color=COLORS["base"], strokeDash=[2, 2]).encode(x=x)
    sideways = base.mark_rule(strokeWidth=1.5).encode(
        x=altair.X("kept_low:Q"), x2="kept_high:Q", y=y, color=_color(rows)
    )
    upright = base.mark_rule(strokeWidth=1.5).encode(
        x=x, y=altair.Y("exact_low:Q"), y2="exact_high:Q", color=_color(rows)
    )
    marks = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x, y=y, color=_color(rows), shape=_shape(rows)
    )
    return _layered(line, sideways, upright, marks)


def _over_steps(rows: _Rows, unit: str, *, marks: bool) -> altair.LayerChart:
    """Lines over the steps; with a mark at each value where there are few."""
    import altair

    base = _chart(rows).encode(
        x=altair.X("step:Q", title="step", axis=altair.Axis(tickMinStep=1, format="d")),
        y=altair.Y("value:Q", title=unit, scale=altair.Scale(domainMin=0)),
        color=_color(rows, large=not marks),
    )
    names, dashes = _scale(rows, _DASHES)
    dash = altair.StrokeDash(
        "model:N",
        scale=altair.Scale(domain=names, range=dashes),
        # Long enough that a dash is seen to be one.
        legend=None if marks else altair.Legend(title=None, symbolSize=700, symbolStrokeWidth=2),
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    layers = [lines]
    if marks:
        layers.append(base.mark_point(filled=True, size=60, opacity=1).encode(shape=_shape(rows)))
    return _layered(*layers)


def _chart(rows: _Rows) -> altair.Chart:
    import altair

    return altair.Chart(altair.Data(values=rows))  # type: ignore[no-untyped-call]


def _layered(*layers: altair.Chart) -> altair.LayerChart:
    import altair

    chart: altair.LayerChart = altair.LayerChart(layer=layers, width=_WIDTH, height=_HEIGHT)
    return chart


def _scale(rows: _Rows, of: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Names of the models that are in the rows, and what stands for each."""
    models = {row["key"]: row["model"] for row in rows}
    return list(models.values()), [of[key] for key in models]


def _color(rows: _Rows, *, large: bool = False) -> altair.Color:
    import altair

    names, colors = _scale(rows, COLORS)
    legend = altair.Legend(title=None, symbolSize=700 if large else 90)
    return altair.Color("model:N", scale=altair.Scale(domain=names, range=colors), legend=legend)


def _shape(rows: _Rows) -> altair.Shape:
    import altair

    names, shapes = _scale(rows, _SHAPES)
    return altair.Shape(
        "model:N", scale=altair.Scale(domain=names, range=shapes), legend=altair.Legend(title=None)
    )


def _svg(chart: altair.LayerChart | altair.HConcatChart, background: str = "transparent") -> str:
    # vl-convert draws in this process: no browser, no network.
    styled = (
        chart.configure(background=background, font="system-ui, sans-serif", aria=False, padding=4)
        .configure_axis(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelColor="#1f2328",
            titleColor="#1f2328",
            gridColor="#d9dde1",
            domainColor="#8a929a",
            tickColor="#8a929a",
            tickCount=5,
        )
        .configure_legend(orient="top", labelFontSize=12, labelColor="#1f2328", symbolSize=90)
        .configure_title(fontSize=14, color="#1f2328", anchor="start")
        .configure_view(stroke=None)
    )
    written = io.StringIO()
    styled.save(written, format="svg")
    return written.getvalue()


def _inline(svg: str) -> str:
    """HTML knows what an svg element is: namespaces aren't needed, and the page then holds no address at all."""
    return re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
