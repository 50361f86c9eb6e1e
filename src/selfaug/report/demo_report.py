"""The report of a demo: base model, plain LoRA and SelfAug beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from selfaug.report.demo_charts import demo_charts
from selfaug.report.document import (
    Answer,
    Answers,
    Cell,
    Outcome,
    Report,
    Section,
    Summary,
    Table,
    Tile,
)
from selfaug.report.evaluation_report import answer_badges
from selfaug.report.provenance import machine_in_words, made_of_provenance
from selfaug.wording.demo_results import MODELS, demo_rows, demo_verdict
from selfaug.wording.evaluation_words import changed_shares, found_in_words
from selfaug.wording.numbers import duration, points

__all__ = ["demo_report", "demo_summary", "demo_telling_request"]

_OUTCOMES: dict[str, Outcome] = {"kept": "good", "partly": "mixed", "not shown": "bad", "not learned": "bad"}

_TILES = {
    "Exact answers": "Job: exact answers",
    "Checks against base": "General checks against base",
    "House style leaks": "Job's style in general answers",
    "Training time": "Cost of a training",
}

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


def demo_report(record: Mapping[str, Any]) -> Report:
    """What the demo showed, for whoever decides.

    Args:
        record: data of a demo's record.
    """
    labels = {model: record["results"][model]["label"] for model in MODELS}
    rows = {row.name: row for row in demo_rows(record)}
    asked = [replace(one, opened=number == 0) for number, one in enumerate(_asked(record))]
    results = Table(
        "Results",
        ["measure", *labels.values()],
        [
            [Cell(row.name, row.meaning), *(Cell(cell.value, cell.interval) for cell in row.cells)]
            for row in rows.values()
        ],
    )
    example = record["task_example"]
    task = Answers(
        "The first of the held-out questions",
        example["question"],
        [Answer(model, labels[model], example["answers"][model]) for model in MODELS],
        opened=True,
    )
    return Report(
        **vars(demo_summary(record)),
        sections=[
            Section("Results", f"{_what_was_done(record)} In small print: 95 % intervals.", [results]),
            Section(
                "The same request, answered by each",
                "The first general request of each kind; none was picked by its answers, and neither training had "
                "requests like these. Scores are of a program's checks: they see form and key facts, not quality.",
                asked,
            ),
            Section("Pictures", "", demo_charts(record)),
            Section(
                "The job itself",
                f"The reports that came with the question are not shown. Expected: {example['expected']}",
                [task],
            ),
        ],
        provenance=_provenance(record),
        made_by="selfaug demo",
    )


def _what_was_done(record: Mapping[str, Any]) -> str:
    quick = (
        " This was the quick version: short training and few questions, so intervals are wide."
        if record["quick"]
        else ""
    )
    return (
        f"A small language model ({record['model']}) was trained twice for one job: to answer questions about market "
        "reports in a company's own short style, “ANSWER: … | SOURCE: [n]”. Once with plain LoRA, the usual way, and "
        "once with SelfAug, which also holds what the model expects while it reads a prompt close to what it expected "
        f"before training. Both saw the same rows in the same order.{quick}"
    )


def _provenance(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings, base, environment = record["settings"], record["results"]["base"], record["environment"]
    on_test = settings["half"] == "test"
    return [
        ("model", record["model"]),
        *((meaning, str(settings[name])) for name, meaning in _SETTINGS.items()),
        ("prompts of the job", f"{record['task_prompt_tokens']} tokens (median)"),
        (
            "items",
            f"{base['task_items']} questions of the job, {base['general_items']} general requests, from the "
            f"{'test' if on_test else 'development'} half",
        ),
        (
            "what is chosen on what",
            "Alpha and all other settings were chosen on development items. Test items were only reported, and the "
            "job's questions are about companies that no training row mentions."
            if on_test
            else "These are development items, on which settings may have been chosen: expect less on others.",
        ),
        ("what it can show", f"{_detectable(record)} One seed: another gives somewhat other numbers."),
        *made_of_provenance(record),
        ("machine", machine_in_words(environment, f"{record['threads']} threads")),
        (
            "time",
            duration(record["seconds"])
            + (
                "; the demo was cut off and gone on with, and times count on, but for that of a process that was "
                "killed"
                if record["cut_off"]
                else ""
            ),
        ),
    ]


def _detectable(record: Mapping[str, Any]) -> str:
    items, smallest = record["results"]["base"]["general_items"], record["detectable_difference"]
    if smallest is None:
        return f"{items} general requests are too few to show a difference in general checks at all."
    return (
        f"With {items} general requests, a true difference of {points(smallest, sign=False)} in general checks "
        f"{found_in_words(changed_shares(record['results']['selfaug']['difference']))}."
    )


def demo_summary(record: Mapping[str, Any]) -> Summary:
    """What is said first of a demo."""
    verdict = demo_verdict(record)
    rows = {row.name: row for row in demo_rows(record)}
    tiles = []
    for name, title in _TILES.items():
        _, plain, ours = rows[name].cells
        interval = [f"95 %: {ours.interval}"] if ours.interval else []
        tiles.append(Tile(title, ours.value, [*interval, f"plain LoRA: {plain.value}"]))
    return Summary(
        kind="demo",
        name=f"SelfAug demo on {record['model']}",
        outcome=_OUTCOMES[verdict.outcome],
        verdict=verdict.text,
        tiles=tiles,
    )


def demo_telling_request(record: Mapping[str, Any]) -> Answers | None:
    """The first request, an executive's; None where none was asked."""
    found = _asked(record)
    return found[0] if found else None


def _asked(record: Mapping[str, Any]) -> list[Answers]:
    labels = {model: record["results"][model]["label"] for model in MODELS}
    return [
        Answers(
            f"{entry['kind']}: {entry['id']}",
            entry["prompt"],
            [
                Answer(
                    model,
                    labels[model],
                    entry["answers"][model],
                    answer_badges(entry["passed"][model], leaks=entry["leaks"][model]),
                )
                for model in MODELS
            ],
        )
        for entry in record["side_by_side"]
    ]
