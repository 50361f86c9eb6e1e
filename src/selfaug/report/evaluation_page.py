"""The page of an evaluation, from its record and the answers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from selfaug.core.printable import printable
from selfaug.records import read_lines
from selfaug.report.demo_charts import COLORS
from selfaug.report.demo_results import duration, percent, points
from selfaug.report.page import render

__all__ = ["MOST_BYTES_OF_ONE", "evaluation_page", "evaluation_values", "evaluation_verdict"]

# Of each suite, so many items are shown: those that changed first.
_SHOWN_ITEMS = 20

MOST_BYTES_OF_ONE = 4_000
"""Of a text of a model, as HTML."""

# A tokens' heat shows the square root of its nats: 1 nat and more is full, 0.01 a tenth.
_FULL_NATS = 1.0

Sample = dict[str, Any]
"""`id`, `prompt`, and `answers` and `scores` by model."""


def evaluation_page(record: Mapping[str, Any], folder: Path) -> str:
    """One HTML file on an evaluation: verdict, scores, drift, where it happens, and answers side by side.

    Args:
        record: data of the evaluation's record.
        folder: with the answers, and the texts that drifted most.
    """
    return render(
        "evaluation_page.html.j2",
        MOST_BYTES_OF_ONE,
        verdict=evaluation_verdict(record),
        **evaluation_values(record, folder, tuned="tuned model", samples_folder="samples/evaluation"),
    )


def evaluation_values(
    record: Mapping[str, Any], folder: Path, *, tuned: str, samples_folder: str
) -> dict[str, Any]:
    """What `evaluation_sections.html.j2` shows.

    Args:
        record: data of the evaluation's record.
        folder: with the answers, and the texts that drifted most.
        tuned: what the tuned model is called.
        samples_folder: the folder as readers of the page find it.
    """
    samples = {name: _samples(folder, name, suite) for name, suite in record["suites"].items()}
    drifted = read_lines(folder / "drift.jsonl")
    heat: dict[str, list[tuple[str, Markup]]] = {}
    for text in drifted:
        heat.setdefault(text["kind"], []).append((text["id"], _heat(text["tokens"], text["nats"])))
    return {
        "record": record,
        "tuned": tuned,
        "model_names": {"base": "base model", "tuned": tuned},
        "samples_folder": samples_folder,
        "suites": [
            *(_suite(name, suite, record["settings"]["scorer"]) for name, suite in record["suites"].items()),
            *(
                _suite(f"the job: {name}", side, record["settings"]["scorer"])
                for name, side in record.get("sides", {}).items()
            ),
        ],
        "bounds": [] if record["gate"] is None else record["gate"]["bounds"],
        "drifts": record["drift"],
        "heat": heat,
        "samples": {name: _changed_first(found)[:_SHOWN_ITEMS] for name, found in samples.items()},
        "counts": {name: len(found) for name, found in samples.items()},
        "percent": percent,
        "points": points,
        "span": _span,
        "duration": duration(record["seconds"]),
        "colors": COLORS,
    }


def evaluation_verdict(record: Mapping[str, Any]) -> str:
    """One sentence: what the model learned, and what it forgot, as far as the items can tell."""
    general = record["suites"]["general"]["difference"]["difference"]
    lost = points(abs(general["value"]), sign=False)
    if general["high"] < 0:
        kept = f"it forgot {lost} of its general score ({_span(general)})"
    elif general["low"] > 0:
        kept = f"it gained {lost} in general ({_span(general)})"
    else:
        kept = f"no change of its general score was shown ({points(general['value'])}, {_span(general)})"
    if "task" not in record["suites"]:
        return f"Without held-out rows, only general requests were asked: {kept}."
    task = record["suites"]["task"]["difference"]["difference"]
    if task["low"] > 0:
        learned = f"The model learned its job ({points(task['value'])}, {_span(task)})"
    elif task["high"] < 0:
        learned = f"The model became worse at its job ({points(task['value'])}, {_span(task)})"
    else:
        learned = f"It was not shown that the model learned its job ({points(task['value'])}, {_span(task)})"
    return f"{learned}; {kept}."


def _samples(folder: Path, name: str, suite: Mapping[str, Any]) -> list[Sample]:
    """Both models' answers to a suite."""
    answers = {model: read_lines(folder / f"{name}-{model}.jsonl") for model in ("base", "tuned")}
    tuned = {row["id"]: row["answer"] for row in answers["tuned"]}
    return [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "answers": {"base": row["answer"], "tuned": tuned[row["id"]]},
            "scores": suite["scores"][row["id"]],
        }
        for row in answers["base"]
        if row["id"] in suite["scores"]
    ]


def _suite(name: str, suite: Mapping[str, Any], scorer: str) -> dict[str, Any]:
    return {
        "name": f"the job ({scorer})" if name == "task" else name,
        "items": suite["items"],
        "models": [
            (
                percent(suite[model]["value"]),
                f"{100 * suite[model]['low']:.0f} to {100 * suite[model]['high']:.0f}",
            )
            for model in ("base", "tuned")
        ],
        "difference": points(suite["difference"]["difference"]["value"]),
        "span": _span(suite["difference"]["difference"]),
        "detectable": suite["detectable_difference"],
    }


def _span(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['low'] + 0.0:+.1f} to {100 * interval['high'] + 0.0:+.1f}"


def _changed_first(samples: Sequence[Sample]) -> list[Sample]:
    """What the tuned model lost, then what it gained, then the others."""

    def key(sample: Sample) -> tuple[int, float]:
        change = sample["scores"]["tuned"] - sample["scores"]["base"]
        return (0 if change < 0 else 1 if change > 0 else 2, sample["scores"]["tuned"])

    return sorted(samples, key=key)


def _heat(tokens: Sequence[str], nats: Sequence[float | None]) -> Markup:
    """Tokens as HTML, each on a ground as strong as its drift."""
    html = Markup("")
    for token, value in zip(tokens, nats, strict=True):
        text = Markup(str(escape(printable(token))))
        if value is None:
            html += Markup('<span class="unmeasured">{}</span>').format(text)
        else:
            strength = min(1.0, max(0.0, value) / _FULL_NATS) ** 0.5
            html += Markup('<span class="heat" style="--heat: {}" title="{} nats">{}</span>').format(
                f"{strength:.2f}", f"{value:.4f}", text
            )
    return html
