"""The report of a comparison: what SelfAug keeps that other methods lose, with intervals, costs and the forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfaug.core.trained_on import chosen_on_in_words, rows_trained_on, trained_on_in_words
from selfaug.report.charts import intervals_svg, scatter_svg
from selfaug.report.document import (
    Answer,
    Answers,
    Block,
    Chart,
    Outcome,
    Report,
    Section,
    Summary,
    Text,
    Tile,
    of_texts,
)
from selfaug.report.evaluation_report import LARGE_LOSS, evaluation_outcome
from selfaug.report.kept_answers import comparison_answer_files, read_answers
from selfaug.report.provenance import machine_in_words, made_of_provenance
from selfaug.wording.comparison_results import (
    ITEMS_OF_RUNS,
    against_table,
    comparison_notes,
    costs_table,
    forecast_table,
    scores_table,
)
from selfaug.wording.numbers import decimal, duration, percent, points, span

__all__ = ["comparison_report", "comparison_summary", "comparison_telling_request", "comparison_verdict"]

# Requests whose answers are shown: of the job, and of others.
_SHOWN = {"general": 8, "task": 2}

# Findings to be turned into an executive's bullet points.
_TELLING = "executive-bullets"


def comparison_report(record: Mapping[str, Any], folder: Path) -> Report:
    """All methods beside each other.

    Args:
        record: data of the comparison's record.
        folder: of the comparison, with the answers; what is not there is left out.
    """
    tables = [scores_table(record), against_table(record), costs_table(record), forecast_table(record)]
    scores, against, costs, forecast = (None if table is None else of_texts(table) for table in tables)
    assert scores is not None
    assert costs is not None
    sections = []
    if samples := _samples(record, folder):
        about = (
            "An executive's requests and the first others of the test half; none was picked by its answers."
        )
        sections.append(Section("The same request, answered by each", about, samples))
    evidence: list[Block] = [replace(scores, title="Scores by method"), *_score_charts(record)]
    if against is not None:
        evidence.append(against)
    sections.append(Section("Scores", " ".join(comparison_notes(record)), evidence))
    sections.append(Section("What it costs", "", [replace(costs, title="Drift and costs by method")]))
    moved: list[Block] = [*_drift_chart(record)]
    if forecast is not None:
        moved.append(forecast)
    if moved:
        scaled = any(run["method"] == "wise-ft" for run in record["runs"])
        about = (
            "How much a model forgets goes with how far its output distribution moved: each point is a trained run"
            + (", or the adapter of one scaled down." if scaled else ".")
        )
        sections.append(Section("Forgetting and drift", about, moved))
    return Report(
        **vars(comparison_summary(record)),
        sections=sections,
        provenance=_provenance(record),
        made_by="selfaug compare",
    )


def comparison_summary(record: Mapping[str, Any]) -> Summary:
    """What is said first of a comparison."""
    outcome, verdict = comparison_verdict(record)
    return Summary(
        kind="comparison",
        name=f"Comparison of methods, {record['settings']['config']['model']['name']}",
        outcome=outcome,
        verdict=verdict,
        tiles=_tiles(record),
    )


def comparison_verdict(record: Mapping[str, Any]) -> tuple[Outcome, str]:
    """One sentence on SelfAug against plain LoRA, the disappointing included, and its outcome.

    What is good against plain LoRA is no better than SelfAug's own evaluation: it may have forgotten much, too. And it
    is open where SelfAug may do far less of the job than plain LoRA. Where test rows were trained on, another sentence
    says so, and what is good on these is open.
    """
    methods, subject = record["methods"], record["subject"]
    plain = methods["plain"]
    trained_on = rows_trained_on(record, record["items"]["task"])
    worth = trained_on_in_words(trained_on)
    remembered = "" if worth is None else f" {worth[0].upper()}{worth[1:]}."
    if subject is None:
        lost = plain["suites"]["general"]["difference"]["difference"]
        return "open", (
            f"SelfAug was not compared; plain LoRA does {percent(plain['suites']['task']['score']['value'])} of the "
            f"job and changes the general score by {points(lost['value'])} ({span(lost)}).{remembered}"
        )
    ours = methods[subject]
    learned = _has_learned(ours) and plain["against_subject"]["task"]["difference"]["high"] >= 0
    retained = plain["against_subject"]["general"]["difference"]["low"] > 0
    outcome: Outcome = "good" if learned and retained else "mixed" if learned or retained else "bad"
    if outcome == "good":
        outcome = evaluation_outcome({**_alone(record, ours), "trained_on": trained_on})
    if outcome == "good" and _may_be_far_worse(plain["against_subject"]["task"]["difference"]):
        outcome = "open"
    who = "it" if _has_learned(ours) or _has_learned(plain) else ours["label"]
    kept = _of_all_else(ours, plain, record["base"]["suites"]["general"]["score"]["value"])
    return outcome, f"{_of_the_job(ours, plain)}; {who} {kept}{_of_seeds(ours, plain)}.{remembered}"


def _alone(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A tested SelfAug against the base model alone, as an evaluation's record has it."""
    general = {
        **row["suites"]["general"],
        "base": record["base"]["suites"]["general"]["score"],
        "detectable_difference": record["detectable_difference"]["difference"],
    }
    return {"gate": None, "suites": {"task": row["suites"]["task"], "general": general}}


def _has_learned(row: Mapping[str, Any]) -> bool:
    """Whether a method was shown to do more of the job than the base model."""
    learned: bool = row["suites"]["task"]["difference"]["difference"]["low"] > 0
    return learned


def _may_be_far_worse(task: Mapping[str, float]) -> bool:
    """Whether no large loss at the job against plain LoRA is ruled out."""
    return task["low"] < -LARGE_LOSS


def _of_the_job(ours: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    mine, theirs = (percent(row["suites"]["task"]["score"]["value"]) for row in (ours, plain))
    task, label = plain["against_subject"]["task"]["difference"], ours["label"]
    # Two methods that learned nothing, as with too large an alpha, are not shown to differ either.
    if not _has_learned(ours) and not _has_learned(plain):
        return f"Neither {label} nor plain LoRA was shown to learn the job ({mine} and {theirs} of it)"
    if not _has_learned(ours):
        return f"{label} was not shown to learn the job, as plain LoRA did ({mine} against {theirs})"
    if task["high"] < 0:
        return f"{label} learned the job less well than plain LoRA ({mine} against {theirs})"
    if task["low"] > 0:
        return f"{label} learned the job better than plain LoRA ({mine} against {theirs})"
    said = f"{label} did {mine} of the job and plain LoRA {theirs}, with no difference shown ({span(task)} points)"
    return f"{said}, though {label} may do far less of it" if _may_be_far_worse(task) else said


def _of_all_else(ours: Mapping[str, Any], plain: Mapping[str, Any], base: float) -> str:
    mine, theirs = (row["suites"]["general"]["difference"]["difference"] for row in (ours, plain))
    general = plain["against_subject"]["general"]["difference"]
    changes = f"general score {points(mine['value'])} ({span(mine)}) against {points(theirs['value'])} ({span(theirs)})"
    if general["low"] > 0:
        though = ""
        if mine["high"] < 0:
            though = ", though it forgot, too"
        elif base <= LARGE_LOSS:
            though = f", though the base model passes but {percent(base)} of it, so that little could be lost"
        elif mine["low"] < -LARGE_LOSS:
            though = ", though it is not shown that it lost little"
        return f"kept more of everything else{though}: {changes}"
    if general["high"] < 0:
        return f"kept less of everything else: {changes}"
    return f"was not shown to keep more of everything else: {changes}"


def _of_seeds(ours: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """What of the sentence is of which seeds, where the methods have not the same."""
    shared = plain["against_seeds"]
    if not shared or all(len(row["seeds"]) == len(shared) for row in (ours, plain)):
        return ""
    seeds = f"{len(shared)} {'seed' if len(shared) == 1 else 'seeds'}"
    return (
        f"; scores are over each method's own seeds, what is said to differ over the {seeds} that both have"
    )


def _key(name: str) -> str:
    return "plain" if name == "plain" else "selfaug" if name.startswith("selfaug") else "other"


def _tiles(record: Mapping[str, Any]) -> list[Tile]:
    methods = record["methods"]
    name = record["subject"] or "plain"
    ours, plain, base = methods[name], methods["plain"], record["base"]["suites"]

    def beside(text: str) -> list[str]:
        return [] if name == "plain" else [f"plain LoRA: {text}"]

    gain, plain_gain = (
        row["suites"]["task"]["score"]["value"] - base["task"]["score"]["value"] for row in (ours, plain)
    )
    score = ours["suites"]["task"]["score"]
    tiles = [
        Tile(
            "Task gain",
            points(gain),
            [
                f"score {percent(score['value'])} ({100 * score['low']:.0f} to {100 * score['high']:.0f})",
                *beside(points(plain_gain)),
            ],
        )
    ]
    kept, plain_kept = (row["suites"]["general"]["retention"] for row in (ours, plain))
    if kept is not None:
        tiles.append(
            Tile(
                "Retention",
                percent(kept["value"]),
                [
                    f"95 %: {100 * kept['low']:.0f} to {100 * kept['high']:.0f} %",
                    *beside("not known" if plain_kept is None else percent(plain_kept["value"])),
                ],
            )
        )
    if ours["drift"] is not None:
        plain_drift = "–" if plain["drift"] is None else f"{plain['drift']['nats']['value']:.3f}"
        tiles.append(
            Tile("Drift", f"{ours['drift']['nats']['value']:.3f}", ["nats per token", *beside(plain_drift)])
        )
    seconds, plain_seconds = (row["train_seconds"] + row["write_seconds"] for row in (ours, plain))
    tiles.append(Tile("Cost of a training", duration(seconds), beside(duration(plain_seconds))))
    return tiles


def _score_charts(record: Mapping[str, Any]) -> list[Block]:
    methods, base = record["methods"], record["base"]["suites"]
    job = [{"name": "base model", "key": "base", **base["task"]["score"]}]
    job += [
        {"name": row["label"], "key": _key(name), **row["suites"]["task"]["score"]}
        for name, row in methods.items()
    ]
    general = [
        {"name": row["label"], "key": _key(name), **row["suites"]["general"]["difference"]["difference"]}
        for name, row in methods.items()
    ]
    charts: list[Block] = []
    for title, unit, rows, about, zero in (
        ("The job, by method", "score (%)", job, "Right is better. Lines are 95 % intervals.", False),
        (
            "Everything else, by method",
            "general score against base (points)",
            general,
            "Right is better; the dashed line is the base model. Lines are 95 % intervals.",
            True,
        ),
    ):
        scaled = [{**row, **{end: 100 * row[end] for end in ("value", "low", "high")}} for row in rows]
        charts.append(
            Chart(
                title,
                about,
                intervals_svg(scaled, unit, zero=zero),
                ["method", unit, "from", "to"],
                [
                    [str(row["name"]), *(decimal(row[end]) for end in ("value", "low", "high"))]
                    for row in scaled
                ],
            )
        )
    return charts


def _drift_chart(record: Mapping[str, Any]) -> list[Chart]:
    found = [
        (run["method"], run["drift"], _mean(run["base"]) - _mean(run["general"]), run["half"])
        for run in record["runs"]
        if run["drift"] is not None
    ]
    if not found:
        return []
    groups = {"plain": "plain LoRA", "selfaug": "SelfAug", "other": "other methods"}
    rows = [
        {"x": drift, "y": 100 * forgotten, "key": _key(method), "name": groups[_key(method)]}
        for method, drift, forgotten, _ in found
    ]
    labels = {name: row["label"] for name, row in record["methods"].items()}
    correlation = ""
    if record["forecast"] is not None:
        of = record["forecast"]["correlation"]
        correlation = (
            f" Rank correlation {of['value']:.2f} ({of['low']:.2f} to {of['high']:.2f}), of the "
            f"{len(record['forecast']['drifts'])} trained runs."
        )
    return [
        Chart(
            "Forgetting against drift",
            "Right: moved farther from the base model. Up: more of the general score lost. "
            f"{ITEMS_OF_RUNS}{correlation}",
            scatter_svg(rows, "drift (nats per token)", "forgetting (points)"),
            ["method", "drift (nats per token)", "forgetting (points)", "items"],
            [
                [labels.get(method, method), f"{drift:.3f}", decimal(100 * forgotten), half]
                for method, drift, forgotten, half in found
            ],
        )
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def comparison_telling_request(record: Mapping[str, Any], folder: Path) -> Answers | None:
    """The general request whose answers tell most: an executive's, if there is one; None where none is kept."""
    found = _answers(record, folder, "general", 1)
    return found[0] if found else None


def _samples(record: Mapping[str, Any], folder: Path) -> list[Block]:
    """Answers of base model, plain LoRA and SelfAug to some test items, where they are kept."""
    found = [one for suite, most in _SHOWN.items() for one in _answers(record, folder, suite, most)]
    if not found:
        return []
    found[0] = replace(found[0], opened=True)
    return [*found, Text("All answers are in answers/ beside this report.")]


def _answers(record: Mapping[str, Any], folder: Path, suite: str, most: int) -> list[Answers]:
    """Requests to an executive's assistant first: they are what everybody understands. Then as they were asked."""
    found = next((one for one in comparison_answer_files(record, folder) if one.suite == suite), None)
    if found is None:
        return []
    kept = read_answers(found.files)
    return [
        Answers(
            f"{'the job' if suite == 'task' else suite}: {one}",
            kept[one].prompt,
            [
                Answer(key, label, answer)
                for (key, label), answer in zip(found.labels.items(), kept[one].answers, strict=True)
            ],
        )
        for one in sorted(kept, key=lambda one: _TELLING not in one)[:most]
    ]


def _provenance(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings, environment = record["settings"], record["environment"]
    level = record["level"]
    chosen_on = chosen_on_in_words(record, record["items"]["task"])
    return [
        ("model", settings["config"]["model"]["name"]),
        ("rows", ", ".join(map(str, settings["config"]["data"]["train"]))),
        ("score of the job", settings["scorer"]),
        ("items", ", ".join(f"{name} {count}" for name, count in record["items"].items()) + ", test half"),
        ("general requests", f"level {level['level']}" if level.get("level") else "all levels"),
        (
            "what is chosen on what",
            "Each method's setting was chosen on development items and is reported on test items."
            + ("" if chosen_on is None else f" But {chosen_on}."),
        ),
        ("seeds", ", ".join(map(str, settings["seeds"]))),
        ("steps", str(settings["config"]["train"]["steps"] or "by epochs")),
        *made_of_provenance(record),
        ("machine", machine_in_words(environment, f"{record['threads']} threads")),
        ("time", duration(record["seconds"])),
    ]
