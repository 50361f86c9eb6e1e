"""The page of an evaluation, from its record and the answers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from selfaug.core.printable import printable
from selfaug.records import read_lines
from selfaug.report.demo_charts import COLORS
from selfaug.report.page import render
from selfaug.wording.evaluation_words import bound_in_words, forecast_in_words
from selfaug.wording.numbers import duration, percent, points, span

__all__ = ["MOST_BYTES_OF_ONE", "evaluation_page", "evaluation_values", "evaluation_verdict"]

# Of each suite, so many items are shown: those that changed first.
_SHOWN_ITEMS = 20

MOST_BYTES_OF_ONE = 4_000
"""Of a text of a model, as HTML."""

# A token's heat shows the square root of its nats: 1 nat and more is full, 0.01 a tenth.
_FULL_NATS = 1.0

# Of each heated text, so many tokens are given with their numbers: for who can't see the heat.
_NAMED_TOKENS = 5

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
    heat: dict[str, list[tuple[str, Markup, str]]] = {}
    for text in drifted:
        tokens, nats = text["tokens"], text["nats"]
        heat.setdefault(text["kind"], []).append((text["id"], _heat(tokens, nats), _farthest(tokens, nats)))
    gate, forecast = record["gate"], record.get("forecast")
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
        "benchmarks": [
            row for tables in record.get("benchmarks", {}).values() for row in _benchmark_rows(tables)
        ],
        "gate": None if gate is None else gate["outcome"],
        "bounds": []
        if gate is None
        else [(bound["outcome"], bound_in_words(bound)) for bound in gate["bounds"]],
        "forecast": None if forecast is None else forecast_in_words(forecast),
        "drifts": record["drift"],
        "bars": {kind: _bars(drift["by_tenth"]) for kind, drift in record["drift"].items()},
        "heat": heat,
        "samples": {name: _changed_first(found)[:_SHOWN_ITEMS] for name, found in samples.items()},
        "counts": {name: len(found) for name, found in samples.items()},
        "percent": percent,
        "points": points,
        "duration": duration(record["seconds"]),
        "colors": COLORS,
    }


def evaluation_verdict(record: Mapping[str, Any]) -> str:
    """One sentence: what the model learned, and what it forgot, as far as the items can tell."""
    general = record["suites"]["general"]["difference"]["difference"]
    lost = points(abs(general["value"]), sign=False)
    if general["high"] < 0:
        forgotten = {"low": -general["high"], "high": -general["low"]}
        kept = f"it forgot {lost} of its general score ({span(forgotten)})".replace("+", "")
    elif general["low"] > 0:
        kept = f"it gained {lost} in general ({span(general)})"
    else:
        kept = f"no change of its general score was shown ({points(general['value'])}, {span(general)})"
    if "task" not in record["suites"]:
        return f"Without held-out rows, only general requests were asked: {kept}."
    task = record["suites"]["task"]["difference"]["difference"]
    if task["low"] > 0:
        learned = f"The model learned its job ({points(task['value'])}, {span(task)})"
    elif task["high"] < 0:
        learned = f"The model became worse at its job ({points(task['value'])}, {span(task)})"
    else:
        learned = f"It was not shown that the model learned its job ({points(task['value'])}, {span(task)})"
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
        "models": [_share(suite[model]) for model in ("base", "tuned")],
        # Records had a number without its interval before, or none.
        "retention": _share(kept) if isinstance(kept := suite.get("retention"), Mapping) else ("–", ""),
        "difference": points(suite["difference"]["difference"]["value"]),
        "span": span(suite["difference"]["difference"]),
        "detectable": suite["detectable_difference"],
    }


def _share(interval: Mapping[str, float]) -> tuple[str, str]:
    return percent(interval["value"]), f"{100 * interval['low']:.0f} to {100 * interval['high']:.0f}"


def _benchmark_rows(tables: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Rows of lm-eval's table, with the values of both models; none where one has no table."""
    base, tuned = tables["base"], tables["tuned"]
    if base is None or tuned is None:
        return []
    of_tuned = {(row["task"], row["filter"], row["metric"]): row for row in tuned["rows"]}
    return [
        {
            **row,
            "models": [_metric(one) for one in (row, of_tuned[row["task"], row["filter"], row["metric"]])],
        }
        for row in base["rows"]
    ]


def _metric(row: Mapping[str, Any]) -> tuple[str, str]:
    """A metric's value, and its standard error if lm-eval has one."""
    value = row["value"]
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return shown, "" if row["stderr"] is None else f"\N{PLUS-MINUS SIGN} {row['stderr']:.4f}"


def _changed_first(samples: Sequence[Sample]) -> list[Sample]:
    """What the tuned model lost, then what it gained, then the others."""

    def key(sample: Sample) -> tuple[int, float]:
        change = sample["scores"]["tuned"] - sample["scores"]["base"]
        return (0 if change < 0 else 1 if change > 0 else 2, sample["scores"]["tuned"])

    return sorted(samples, key=key)


def _bars(by_tenth: Sequence[float | None]) -> list[str]:
    """Heights of a small chart, in percent of the highest tenth."""
    highest = max((value for value in by_tenth if value is not None), default=0.0)
    return [f"{100 * (value or 0.0) / highest if highest > 0 else 0.0:.0f}" for value in by_tenth]


def _farthest(tokens: Sequence[str], nats: Sequence[float | None]) -> str:
    """The tokens that moved most, with their nats."""
    measured = [(value, token) for token, value in zip(tokens, nats, strict=True) if value is not None]
    most = sorted(measured, key=lambda one: -one[0])[:_NAMED_TOKENS]
    return ", ".join(f"{_quoted(token)} {value:.2f}" for value, token in most)


def _quoted(token: str) -> str:
    if token.strip():
        return f"“{token.strip()}”"
    return "line break" if "\n" in token else "space"


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
