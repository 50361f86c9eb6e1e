"""The demo's HTML page, from its record: one file, without network and without scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from selfaug.report.charts import COLORS
from selfaug.report.demo_charts import demo_chart_svg, demo_charts
from selfaug.report.page import render
from selfaug.wording.demo_results import MODELS, Cell, demo_rows, demo_verdict
from selfaug.wording.evaluation_words import discordance_in_words
from selfaug.wording.numbers import duration, points

__all__ = ["demo_chart_svg", "demo_page"]

# The page stays under 500 kB whatever the models wrote: this is for all their answers together, as HTML.
_BYTES_OF_ANSWERS = 300_000
_MOST_BYTES_OF_ONE = 8_000

_SIGNS = {"kept": "✓", "partly": "◐", "not shown": "✗", "not learned": "✗"}

_SETTINGS = {
    "steps": "optimizer steps",
    "batch_size": "rows a step",
    "rank": "rank of the LoRA adapter, on all linear layers",
    "learning_rate": "highest learning rate",
    "alpha": "alpha of SelfAug (plain LoRA: 0)",
    "position_fraction": "share of the prompt positions aligned each step",
    "anchors": "requests that the base model wrote itself, aligned beside the rows",
    "anchor_share": "of these, so many with a row",
    "seed": "seed",
}


def demo_page(record: dict[str, Any]) -> str:
    """One HTML file on a demo for whoever decides: verdict, numbers, answers, pictures, where they come from.

    Args:
        record: data of a demo's record.
    """
    entries = record["side_by_side"]
    texts = sum(1 + len(entry["answers"]) for entry in [*entries, {"answers": MODELS}])
    limit = min(_MOST_BYTES_OF_ONE, _BYTES_OF_ANSWERS // texts)
    charts = demo_charts(record)
    # Safe: an SVG's text comes from us and from vl-convert, which escapes it.
    inline = [Markup(chart.svg) for chart in charts]
    return render(
        "demo_page.html.j2",
        limit,
        record=record,
        verdict=demo_verdict(record),
        sign=_SIGNS[demo_verdict(record).outcome],
        labels={model: record["results"][model]["label"] for model in MODELS},
        models=MODELS,
        colors=COLORS,
        rows=demo_rows(record),
        tiles=_tiles(record),
        charts=list(zip(charts, inline, strict=True)),
        executive=entries[0] if entries else None,
        others=entries[1:],
        settings=[
            (meaning, record["settings"][name])
            for name, meaning in _SETTINGS.items()
            if name in record["settings"]
        ],
        duration=duration(record["seconds"]),
        detectable=_detectable(record),
    )


@dataclasses.dataclass(frozen=True)
class _Tile:
    """A measure in large: SelfAug's number, and those of the others."""

    name: str
    cells: Mapping[str, Cell]


def _tiles(record: Mapping[str, Any]) -> list[_Tile]:
    wanted = ("Exact answers", "House style leaks", "Checks against base", "Drift")
    names = ("Job: exact answers", "Job's style in general answers", "General checks against base")
    rows = {row.name: row for row in demo_rows(record)}
    return [
        _Tile(name, dict(zip(MODELS, rows[row].cells, strict=True)))
        for name, row in zip((*names, "Drift (nats per token)"), wanted, strict=True)
    ]


def _detectable(record: Mapping[str, Any]) -> str:
    items = record["results"]["base"]["general_items"]
    smallest = record["detectable_difference"]
    if smallest is None:
        return f"{items} general requests are too few to show a difference in general checks at all."
    return (
        f"With {items} general requests, a true difference of {points(smallest, sign=False)} in general checks "
        f"is found with a probability of 80 % ({discordance_in_words(record.get('discordance'))}); "
        "smaller ones may go unseen."
    )
