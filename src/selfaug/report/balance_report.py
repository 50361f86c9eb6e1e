"""The report of a balance: the front between the job and everything else, the budget, and the chosen point's test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfaug.core.trained_on import chosen_on_in_words, rows_trained_on, trained_on_in_words
from selfaug.report.charts import scatter_svg
from selfaug.report.document import Block, Cell, Chart, Outcome, Report, Section, Summary, Table, Text, Tile
from selfaug.report.evaluation_report import bound_block, cut_off_blocks, suites_block
from selfaug.report.provenance import machine_in_words, made_of_provenance
from selfaug.wording.balance_words import bend_in_words, choice_in_words, forgetting_span, task_span
from selfaug.wording.evaluation_words import nothing_at_stake
from selfaug.wording.numbers import bound_points, decimal, digits_beside, duration, percent, points, span

__all__ = ["balance_report", "balance_summary", "balance_verdict"]


def balance_report(record: Mapping[str, Any]) -> Report:
    """Which setting to ship, and why.

    Args:
        record: data of the balance's record.
    """
    told = [Text(f"Chosen: {choice_in_words(record)}")]
    if (bend := bend_in_words(record)) is not None:
        told.append(Text(bend))
    told.append(
        Text(
            f"The chosen point is a run like any other, in the folder {record['best']} beside this page: selfaug "
            "evaluate, chat, serve and export open it."
        )
    )
    told += [
        Text(f"Not trained: {_settings(one['settings'])}: {one['error']}") for one in record["failed_trials"]
    ]
    on_test: list[Block] = [
        suites_block(record["test"], record["settings"]["scorer"], tuned="chosen point"),
        *cut_off_blocks(record["test"], tuned="chosen point"),
        bound_block(record["test_gate"]),
    ]
    if remembered := _remembered(record):
        on_test.append(Text(remembered, "! trained on"))
    chosen_on = chosen_on_in_words(record, _test_rows(record))
    on_these = [] if record["test_prompts_seen"]["dev"] else ["Nothing was chosen on these."]
    on_these += [] if chosen_on is None else [f"{chosen_on}."]
    level = record["level"]
    return Report(
        **vars(balance_summary(record)),
        sections=[
            Section(
                "The choice",
                "Points are on development items, on which they were chosen: the best of so many is so by luck, too.",
                [*told, _front(record)],
            ),
            Section(
                "The chosen point on test items",
                " ".join(on_these),
                on_test,
            ),
            Section(
                "Settings that were tried", "Scores on some of the development items.", [_trials(record)]
            ),
        ],
        provenance=[
            ("model", record["settings"]["config"]["model"]["name"]),
            ("rows", ", ".join(map(str, record["settings"]["config"]["data"]["train"]))),
            ("score of the job", record["settings"]["scorer"]),
            ("budget", f"{bound_points(record['settings']['max_forgetting'])} of forgetting"),
            ("general requests", f"level {level['level']}" if level.get("level") else "all levels"),
            (
                "what is chosen on what",
                "Chosen on development items, reported on test items."
                + ("" if chosen_on is None else f" But {chosen_on}."),
            ),
            ("seed of the trainings", str(record["settings"]["config"]["train"]["seed"])),
            ("seed of the search", str(record["settings"]["seed"])),
            *made_of_provenance(record),
            # Earlier records have the device alone.
            (
                "machine",
                machine_in_words(record["environment"]) if "environment" in record else record["device"],
            ),
            ("time", duration(record["seconds"])),
        ],
        made_by="selfaug balance",
    )


def balance_summary(record: Mapping[str, Any]) -> Summary:
    """What is said first of a balance."""
    outcome, verdict = balance_verdict(record)
    task = record["test"].get("task")
    general = record["test"]["general"]
    lost = general["difference"]["difference"]
    tiles = []
    if task is not None:
        gain = task["difference"]["difference"]
        models = f"base {percent(task['base']['value'])}, chosen {percent(task['tuned']['value'])}"
        tiles.append(Tile("Task gain", points(gain["value"]), [f"95 %: {span(gain)}", models]))
    tiles += [
        Tile("General score", points(lost["value"]), [f"95 %: {span(lost)}"]),
        *(
            []  # not measured where nothing was asked that has an answer of the base model
            if record["test_drift"] is None
            else [Tile("Drift", f"{record['test_drift']:.3f}", ["nats per token, test items"])]
        ),
        Tile("Cost of the search", duration(record["seconds"]), [f"{len(record['trials'])} settings tried"]),
    ]
    return Summary(
        kind="balance",
        name=f"Balance of {record['settings']['config']['model']['name']}",
        outcome=outcome,
        verdict=verdict,
        tiles=tiles,
    )


def balance_verdict(record: Mapping[str, Any]) -> tuple[Outcome, str]:
    """One sentence: what the chosen setting does on test items, and whether the budget holds.

    One that was not shown to have learned the job is not as hoped: whatever learns nothing stays within every budget.
    Where test rows were trained on, another sentence says so, and what is good on these is open.
    """
    gate, budget = record["test_gate"], bound_points(record["settings"]["max_forgetting"])
    outcomes: dict[str, tuple[Outcome, str]] = {
        "pass": ("good", f"within the budget of {budget}"),
        "fail": ("bad", f"more than the budget of {budget}"),
        "inconclusive": ("open", f"too few items to say whether that is within the budget of {budget}"),
    }
    outcome, held = outcomes[gate["outcome"]]
    if gate.get("at_stake") is not None:
        held = nothing_at_stake(gate)
    value = gate["value"]
    task = record["test"].get("task")
    job = "" if task is None else f"does {percent(task['tuned']['value'])} of the job and "
    digits = digits_beside(value, record["settings"]["max_forgetting"])
    lost = f"{points(value['value'], sign=False, digits=digits)} of the general score ({span(value, digits=digits)})"
    forgets = f"forgets {lost}"
    gain = None if task is None else task["difference"]["difference"]
    if gain is not None and gain["low"] <= 0:
        outcome = "mixed" if outcome == "good" else outcome
        held += f"; it was not shown to have learned the job ({points(gain['value'])}, {span(gain)})"
    remembered = _remembered(record)
    if outcome == "good" and remembered:
        outcome = "open"
    return outcome, f"The chosen setting {job}{forgets}: {held}. {remembered}".rstrip()


def _test_rows(record: Mapping[str, Any]) -> int:
    task = record["test"].get("task")
    return 0 if task is None else task["items"]


def _remembered(record: Mapping[str, Any]) -> str:
    """That test rows were trained on, as a sentence; empty where none were, or nobody has counted."""
    worth = trained_on_in_words(rows_trained_on(record, _test_rows(record)))
    return "" if worth is None else f"{worth[0].upper()}{worth[1:]}."


def _settings(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())


def _front(record: Mapping[str, Any]) -> Chart:
    rows, table = [], []
    for number, point in enumerate(record["points"]):
        on_front = number in record["front"]
        name = "on the front" if on_front else "beaten by another"
        rows.append(
            {
                "x": 100 * point["general"], "y": 100 * point["task"],
                "key": "selfaug" if on_front else "base", "name": name,
            }
        )  # fmt: skip
        words = [word for word, found in (
            ("chosen", number == record["chosen"]), ("knee", number == record["knee"]), ("front", on_front)
        ) if found]  # fmt: skip
        table.append(
            [
                f"{point['run']}, adapter {point['scale']:g}",
                f"{100 * point['task']:.1f} {task_span(point, 1)}", f"{100 * point['general']:.1f}",
                f"{decimal(100 * point['forgetting'])} {forgetting_span(point)}", f"{point['drift']:.3f}",
                ", ".join(words),
            ]
        )  # fmt: skip
    chosen = record["points"][record["chosen"]]
    base = record["base"]["dev"].get("general")
    limit = None if base is None else 100 * (base - record["settings"]["max_forgetting"])
    return Chart(
        "The job against everything else",
        "Up: better at the job. Right: more of the general score kept. The line joins the points that nothing beats; "
        "the ring is the chosen one; right of the dashed line the budget holds. In brackets in the table: 95 % "
        "intervals, of forgetting item by item against the base model.",
        scatter_svg(
            rows,
            "general score (%)",
            "job score (%)",
            line=[rows[number] for number in record["front"]],
            limit=limit,
            chosen={"x": 100 * chosen["general"], "y": 100 * chosen["task"]},
        ),
        ["point", "job (%)", "general (%)", "forgetting (points)", "drift (nats)", ""],
        table,
    )


def _trials(record: Mapping[str, Any]) -> Table:
    names = list(record["trials"][0]["settings"]) if record["trials"] else []
    return Table(
        "Trials",
        ["run", *(name.replace("_", " ") for name in names), "job", "general", "forgetting"],
        [
            [
                Cell(trial["run"]),
                *(Cell(f"{trial['settings'][name]:g}") for name in names),
                Cell(f"{percent(trial['task'])} {task_span(trial)}"),
                Cell(percent(trial["general"])),
                Cell(f"{points(trial['forgetting'])} {forgetting_span(trial)}"),
            ]
            for trial in record["trials"]
        ],
    )
