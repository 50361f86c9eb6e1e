"""Pictures as SVG: lines over steps, scores with intervals, scores against each other.

Colours and shapes go by a key: base, plain, selfaug, and other for all else.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfaug.core.printable import printable

if TYPE_CHECKING:
    import altair

__all__ = [
    "COLORS",
    "colors_of",
    "inline_svg",
    "intervals_svg",
    "layered",
    "lines",
    "lines_svg",
    "of_rows",
    "ranges_svg",
    "scatter_svg",
    "shapes_of",
    "short_name",
    "states_svg",
    "svg_of",
]

COLORS = {"base": "#57606a", "plain": "#a8480a", "selfaug": "#1a56c4", "other": "#6b4f9e"}
"""On white; the page's style sheet replaces them in the dark."""

WIDTH, HEIGHT = 290, 200
_SHAPES = {"base": "square", "plain": "triangle-up", "selfaug": "circle", "other": "diamond"}
_DASHES = ([1, 0], [6, 3], [2, 2])
_STATES = ("realign", "drift", "watch", "learning", "ok", "no data")
_MOST_POINTS = 200
_LONGEST_NAME = 48
_NEVER_TOO_WIDE = 12

_Rows = list[dict[str, Any]]


def lines_svg(
    rows: Sequence[Mapping[str, Any]],
    unit: str,
    *,
    marks: bool = False,
    limit: float | None = None,
    x: str = "step",
) -> str:
    """A value over steps, to stand in a page.

    Args:
        rows: `step` and `value`; with `key` and `name` where there are several lines, which differ by dashes, too.
        unit: title of the axis.
        marks: a mark at each value, for few of them.
        limit: drawn as a dashed line.
        x: title of the axis across, if it is not steps.
    """
    return inline_svg(svg_of(lines(rows, unit, marks=marks, limit=limit, x=x)))


def lines(
    rows: Sequence[Mapping[str, Any]],
    unit: str,
    *,
    marks: bool = False,
    limit: float | None = None,
    x: str = "step",
) -> altair.LayerChart:
    """The picture of `lines_svg`, to stand in another one; arguments as there."""
    import altair

    shown = _thinned([{"key": "selfaug", "name": "", **row} for row in rows])
    whole = altair.Axis(tickMinStep=1, format="d") if x == "step" else altair.Axis()
    base = of_rows(shown).encode(
        x=altair.X("step:Q", title=x, axis=whole, scale=altair.Scale(zero=x == "step")),
        y=altair.Y("value:Q", title=unit, scale=altair.Scale(zero=False)),
        detail="name:N",
        color=colors_of(shown, dashed=not marks),
    )
    names = list(_names_and_keys(shown))
    dashes = [_DASHES[number % len(_DASHES)] for number in range(len(names))]
    dash = altair.StrokeDash(
        "name:N",
        scale=altair.Scale(domain=names, range=dashes),
        legend=None if marks else _legend(names, dashed=True),
    )
    layers = [base.mark_line(strokeWidth=2).encode(strokeDash=dash)]
    if marks:
        layers.append(base.mark_point(filled=True, size=60, opacity=1).encode(shape=shapes_of(shown)))
    if limit is not None:
        rule = of_rows([{"value": limit}]).mark_rule(strokeDash=[4, 3], strokeWidth=1.5, color=COLORS["base"])
        layers.append(rule.encode(y="value:Q"))
    return layered(*layers)


def intervals_svg(rows: Sequence[Mapping[str, Any]], unit: str, *, zero: bool = False) -> str:
    """A value with its interval for each of several names, one under the other.

    Args:
        rows: `name`, `key`, `value`, `low` and `high`.
        unit: title of the axis.
        zero: draw a line at 0.
    """
    import altair

    shown = [{**row, "name": short_name(row["name"])} for row in rows]
    order = [row["name"] for row in shown]
    y = altair.Y("name:N", title=None, sort=order, axis=altair.Axis(labelLimit=260, labelPadding=6))
    base = of_rows(shown)
    x = altair.X("value:Q", title=unit, scale=altair.Scale(zero=False))
    color = colors_of(shown, legend=False)
    layers = [
        base.mark_rule(strokeWidth=1.5).encode(
            x=altair.X("low:Q", title=unit), x2="high:Q", y=y, color=color
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, y=y, color=color, shape=shapes_of(shown, legend=False)
        ),
    ]
    if zero:
        line = of_rows([{"value": 0}]).mark_rule(strokeDash=[2, 2], color=COLORS["base"])
        layers.insert(0, line.encode(x=x))
    # Room on the left: browsers' letters are wider than those that the picture was measured with.
    return inline_svg(svg_of(layered(*layers, width=260, height=max(60, 26 * len(shown))), left=40))


def scatter_svg(
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    *,
    line: Sequence[Mapping[str, float]] = (),
    limit: float | None = None,
    chosen: Mapping[str, float] | None = None,
) -> str:
    """Points by two measures.

    Args:
        rows: `x`, `y`, `key` and `name`; points of one name look alike.
        x: title of the axis.
        y: title of the axis.
        line: `x` and `y` of points to be joined.
        limit: an upright dashed line.
        chosen: `x` and `y` of a point with a ring around it.
    """
    import altair

    shown = [{**row, "name": short_name(row["name"])} for row in rows]
    across = altair.X("x:Q", title=x, scale=altair.Scale(zero=False))
    up = altair.Y("y:Q", title=y, scale=altair.Scale(zero=False))
    layers = []
    if line:
        joined = of_rows([dict(one) for one in line]).mark_line(color=COLORS["base"], strokeWidth=1.5)
        layers.append(joined.encode(x=across, y=up, order="x:Q"))
    if limit is not None:
        rule = of_rows([{"x": limit}]).mark_rule(strokeDash=[4, 3], strokeWidth=1.5, color=COLORS["base"])
        layers.append(rule.encode(x=across))
    layers.append(
        of_rows(shown)
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(x=across, y=up, color=colors_of(shown), shape=shapes_of(shown))
    )
    if chosen is not None:
        ring = of_rows([dict(chosen)]).mark_point(
            filled=False, size=320, strokeWidth=2, color=COLORS["selfaug"]
        )
        layers.append(ring.encode(x=across, y=up))
    return inline_svg(svg_of(layered(*layers)))


def states_svg(rows: Sequence[Mapping[str, Any]], x: str) -> str:
    """States over time: one level a state, the worst on top.

    Args:
        rows: `x` and `state`.
        x: title of the axis.
    """
    import altair

    order = [state for state in _STATES if any(row["state"] == state for row in rows)]
    line = (
        of_rows([dict(row) for row in rows])
        .mark_line(interpolate="step-after", strokeWidth=2, color=COLORS["selfaug"])
        .encode(
            x=altair.X("x:Q", title=x, scale=altair.Scale(zero=False)),
            y=altair.Y("state:N", title=None, sort=order),
            order="x:Q",
        )
    )
    return inline_svg(svg_of(layered(line, height=max(50, 28 * len(order)))))


def ranges_svg(rows: Sequence[Mapping[str, Any]], unit: str, *, at: float | None = None) -> str:
    """A bar from a low to a high value for each name, with a mark at the middle where there is one.

    Args:
        rows: `name`, `key`, `low`, `high`, and perhaps `value`.
        unit: title of the axis.
        at: an upright line.
    """
    import altair

    shown = [{**row, "name": short_name(row["name"])} for row in rows]
    y = altair.Y("name:N", title=None, sort=[row["name"] for row in shown], axis=altair.Axis(labelLimit=260))
    bars = of_rows(shown).mark_bar(height=10, color=COLORS["selfaug"])
    layers = [bars.encode(x=altair.X("low:Q", title=unit), x2="high:Q", y=y)]
    middles = [row for row in shown if row.get("value") is not None]
    if middles:
        ticks = of_rows(middles).mark_tick(color=COLORS["plain"], thickness=3, height=20)
        layers.append(ticks.encode(x=altair.X("value:Q", title=unit), y=y))
    if at is not None:
        rule = of_rows([{"value": at}]).mark_rule(strokeDash=[2, 2], color=COLORS["base"])
        layers.append(rule.encode(x=altair.X("value:Q", title=unit)))
    return inline_svg(svg_of(layered(*layers, width=260, height=max(60, 26 * len(shown))), left=40))


def _thinned(rows: _Rows) -> _Rows:
    """So few that lines stay light; the last of each line is kept."""
    lines: dict[str, _Rows] = {}
    for row in rows:
        lines.setdefault(row["name"], []).append({**row, "name": short_name(row["name"])})
    kept: _Rows = []
    for line in lines.values():
        every = -(-len(line) // _MOST_POINTS)
        kept += line[::every] if (len(line) - 1) % every == 0 else [*line[::every], line[-1]]
    return kept


def short_name(name: str) -> str:
    """A name as pictures have it.

    What draws them is ended, with its process, by a name of a megabyte, and fails where it has to cut a character off
    in the middle: one of two UTF-16 units, in a label that is too wide.
    """
    text = printable(name[: _LONGEST_NAME + 1])
    text = text if len(name) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
    if len(text) > _NEVER_TOO_WIDE:
        text = "".join(one if ord(one) <= 0xFFFF else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text


def _names_and_keys(rows: _Rows) -> dict[str, str]:
    return {row["name"]: row["key"] for row in rows}


def colors_of(rows: _Rows, *, legend: bool = True, dashed: bool = False) -> altair.Color:
    """The colour of each name, by its key; with a legend that shows dashes, too, where lines have some."""
    import altair

    keys = _names_and_keys(rows)
    scale = altair.Scale(domain=list(keys), range=[COLORS[key] for key in keys.values()])
    return altair.Color("name:N", scale=scale, legend=_legend(keys, dashed=dashed) if legend else None)


def shapes_of(rows: _Rows, *, legend: bool = True) -> altair.Shape:
    """The shape of each name's marks, by its key."""
    import altair

    keys = _names_and_keys(rows)
    scale = altair.Scale(domain=list(keys), range=[_SHAPES[key] for key in keys.values()])
    return altair.Shape("name:N", scale=scale, legend=_legend(keys) if legend else None)


def _legend(names: Collection[str], *, dashed: bool = False) -> altair.Legend | None:
    import altair

    if len(names) < 2:
        return None
    if dashed:  # a dash is seen to be one where the symbol is long enough
        return altair.Legend(title=None, columns=1, labelLimit=260, symbolSize=500, symbolStrokeWidth=2)
    columns = 3 if max(map(len, names)) <= _NEVER_TOO_WIDE else 2
    return altair.Legend(title=None, columns=columns, labelLimit=260)


def of_rows(rows: _Rows) -> altair.Chart:
    """A chart of rows, without marks yet."""
    import altair

    return altair.Chart(altair.Data(values=rows))  # type: ignore[no-untyped-call]


def layered(*layers: altair.Chart, width: int = WIDTH, height: int = HEIGHT) -> altair.LayerChart:
    """Layers in one picture."""
    import altair

    chart: altair.LayerChart = altair.LayerChart(layer=layers, width=width, height=height)
    return chart


def svg_of(
    chart: altair.LayerChart | altair.HConcatChart, background: str = "transparent", left: int = 4
) -> str:
    """An altair chart as SVG, in the style of all our pictures."""
    # vl-convert draws in this process: no browser, no network.
    styled = (
        chart.configure(
            background=background,
            font="system-ui, sans-serif",
            aria=False,
            padding={"left": left, "top": 4, "right": 4, "bottom": 4},
        )
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
            # Letters of browsers are wider than those that it was measured with.
            labelOverlap="greedy",
            labelSeparation=8,
        )
        .configure_legend(orient="top", labelFontSize=12, labelColor="#1f2328", symbolSize=90)
        .configure_title(fontSize=14, color="#1f2328", anchor="start")
        .configure_view(stroke=None)
    )
    written = io.StringIO()
    styled.save(written, format="svg")
    return written.getvalue()


def inline_svg(svg: str) -> str:
    """An SVG file as an element of a page.

    HTML knows what an svg element is: namespaces aren't needed, and the page then holds no address at all. What stands
    around it says what it shows, so its parts are not told one by one.
    """
    return re.sub(r'\s(xmlns(:xlink)?|role|aria-[a-z]+)="[^"]*"', "", svg).replace(
        "<svg", '<svg aria-hidden="true"', 1
    )
