"""What several tasks in a row have left: every task's score after every step, as a record and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from office_tasks import TASKS, styles_in

from selfaug.core.statistics import paired_difference, score_interval, wilson_interval
from selfaug.phases.bench import Answers, scores_of
from selfaug.phases.suites import Suite
from selfaug.wording.markdown import Cell, code, difference, drift, fenced, in_cell, share
from selfaug.wording.numbers import duration, percent, points

__all__ = [
    "GENERAL",
    "RECORD_KIND",
    "Arm",
    "alone_result",
    "arm_result",
    "differences",
    "examples",
    "model_result",
    "result_page",
]

RECORD_KIND = "sequential-tasks"

GENERAL = "general"
"""Name of the suite of general requests, beside the tasks'."""

Record = dict[str, Any]
Suites = Mapping[str, Suite]


@dataclass(frozen=True)
class Arm:
    """One way to learn the tasks.

    Attributes:
        name: for files.
        label: for people.
        aligned: whether the alignment is in the loss; else plain LoRA.
        rehearsed: whether rows of earlier tasks are learnt again with the new ones.
    """

    name: str
    label: str
    aligned: bool
    rehearsed: bool


# ---- the record


def model_result(suites: Suites, answers: Answers, base: Answers | None) -> Record:
    """One row of a matrix, every share with its interval.

    Args:
        suites: what was asked.
        answers: of the model.
        base: of the base model; None if this is the base model.
    """
    written = [answers[GENERAL][index] for index in suites[GENERAL].written]
    styles = [styles_in(answer) for answer in written]
    general = scores_of(suites[GENERAL], answers[GENERAL])
    return {
        "tasks": {task.name: _share(scores_of(suites[task.name], answers[task.name])) for task in TASKS},
        "general": asdict(score_interval(general, seed=0)),
        "general_difference": None if base is None else _difference(general, scores_of(suites[GENERAL], base[GENERAL])),
        "leaks": _share([float(bool(found)) for found in styles]),
        "leaks_of": {task.name: _share([float(task.name in found) for found in styles]) for task in TASKS},
    }  # fmt: skip


def arm_result(
    suites: Suites, steps: Sequence[Answers], base: Answers, drifts: Sequence[Record | None]
) -> Record:
    """An arm's matrix, a row a step, and the numbers that the field makes of it.

    `average` is the mean of all tasks' scores after the last step. `backward_transfer` is the mean over all tasks but
    the last of what their score has changed by since they were learnt (Lopez-Paz and Ranzato, 2017); `since_learnt`
    of a step is the same of each task that an earlier step has taught.

    Args:
        suites: what was asked.
        steps: answers after each step; one task is learnt in each.
        base: answers of the base model.
        drifts: after each step, nats per token on the base model's own answers.
    """
    earlier = TASKS[:-1]
    learnt = chain.from_iterable(
        scores_of(suites[task.name], answers[task.name])
        for task, answers in zip(earlier, steps, strict=False)
    )
    return {
        "steps": [
            {
                **model_result(suites, answers, base),
                "since_learnt": {
                    task.name: _difference(
                        *(_task_scores(suites, one, [task]) for one in (answers, steps[learnt]))
                    )
                    for learnt, task in enumerate(TASKS[:step])
                },
                "drift": drifts[step],
            }
            for step, answers in enumerate(steps)
        ],
        # Each task has as many items: the mean over items is the mean over tasks.
        "average": asdict(score_interval(_task_scores(suites, steps[-1], TASKS), seed=0)),
        "backward_transfer": _difference(_task_scores(suites, steps[-1], earlier), list(learnt)),
    }


def alone_result(suites: Suites, task: Any, after_others: Answers, alone: Answers) -> Record:
    """A later task as it was learnt after others, beside a model that has learnt nothing else, item by item."""
    ours, theirs = (scores_of(suites[task.name], answers[task.name]) for answers in (after_others, alone))
    return {"alone": _share(theirs), "after_others": _share(ours), "difference": _difference(ours, theirs)}


def differences(suites: Suites, ours: Answers, theirs: Answers) -> Record:
    """What one model scores above another, on all tasks, on all but the last, and in general, item by item."""
    general = [scores_of(suites[GENERAL], answers[GENERAL]) for answers in (ours, theirs)]
    return {
        "average": _difference(*(_task_scores(suites, answers, TASKS) for answers in (ours, theirs))),
        "earlier": _difference(*(_task_scores(suites, answers, TASKS[:-1]) for answers in (ours, theirs))),
        "general": _difference(*general),
    }


def examples(suites: Suites, answers: Mapping[str, Answers]) -> list[Record]:
    """The first item of each task, with the answers of the models by their labels."""
    return [
        {
            "task": task.name,
            "prompt": suites[task.name].texts[0],
            "expected": suites[task.name].golds[0],
            "answers": {label: given[task.name][0] for label, given in answers.items()},
        }
        for task in TASKS
    ]


def _task_scores(suites: Suites, answers: Answers, tasks: Sequence[Any]) -> list[float]:
    return [score for task in tasks for score in scores_of(suites[task.name], answers[task.name])]


def _share(passed: Sequence[float]) -> Record:
    """A share of items that are right or wrong, and how many there are."""
    return {**asdict(wilson_interval(round(sum(passed)), len(passed))), "items": len(passed)}


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> Record:
    return asdict(paired_difference(ours, theirs, seed=0).difference)


# ---- in words


def result_page(record: Mapping[str, Any]) -> str:
    """The result as Markdown: the verdict, a table of the arms, each one's matrix, and answers side by side."""
    return "\n\n".join(
        (
            _verdict(record),
            _introduction(record),
            _table_of_arms(record),
            _notes(record),
            "### After each step, side by side",
            _table_of_steps(record),
            _notes_on_steps(record),
            *_table_of_alone(record),
            *chain.from_iterable((f"### {arm['label']}", _matrix(record, arm)) for arm in record["arms"].values()),
            _notes_on_matrices(),
            "### One held-out item of each task, after the last step",
            *map(_example, record["examples"]),
            *_realign_outcomes(record),
        )
    ) + "\n"  # fmt: skip


def _verdict(record: Mapping[str, Any]) -> str:
    told = [
        f"- {arm['label']}: {percent(arm['average']['value'])} of all tasks' items right after the last step, "
        f"{points(arm['backward_transfer']['value'])} on the earlier tasks since they were learnt, "
        f"{points(arm['steps'][-1]['general_difference']['value'])} on general requests against the base model, and "
        f"{percent(arm['steps'][-1]['leaks']['value'])} of these answered in a task's style"
        for arm in record["arms"].values()
    ]
    return "\n".join([f"{len(record['tasks'])} tasks, learnt one after another:", "", *told])


def _introduction(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    order = ", ".join(f"{number}. {task['label']}" for number, task in enumerate(record["tasks"].values(), 1))
    trained = "; ".join(
        f"{arm['label']} {' + '.join(str(run['steps']) for run in arm['training'])} steps "
        f"({duration(sum(run['seconds'] for run in arm['training']))})"
        for arm in record["arms"].values()
    )
    ours = list(record["arms"].values())[-1]["training"][0]
    seen = "once" if record["epochs"] == 1 else f"{record['epochs']:g} times"
    sentences = [
        f"In this order: {order}.",
        f"{record['model']}, {settings['rows']} rows a task, each seen {seen}; every step goes on from the adapter of "
        "the step before, and the reference stays the base model.",
        f"SelfAug with alpha {ours['alpha']:g} and {ours['anchors']} self-anchors, plain LoRA with alpha 0 on the same "
        "new rows.",
        *(
            [
                f"Where old rows are rehearsed, they are {percent(settings['rehearsal'])} of the rows of a step, drawn "
                "evenly from all earlier tasks."
            ]
            if settings["rehearsal"]
            else []
        ),
        f"Training: {trained}.",
        f"Asked: {settings['task_items']} held-out items a task, {settings['general_items']} general requests.",
        f"Seed {settings['seed']}, {record['threads']} CPU cores, {record['dtype'].removeprefix('torch.')}; "
        f"{duration(record['seconds'])} in all. In brackets: 95 % intervals.",
        *(
            [
                "It was cut off and went on: the time of a part that was killed is not counted, and that of a training "
                "is from its last checkpoint on."
            ]
            if record["cut_off"]
            else []
        ),
    ]
    text = " ".join(sentences)
    if settings["quick"]:
        return f"**A quick taste: these numbers say nothing about the methods.** {text}"
    return text if settings["half"] == "test" else f"**Asked: development items and requests.** {text}"


def _table_of_arms(record: Mapping[str, Any]) -> str:
    arms = record["arms"].values()
    last = [arm["steps"][-1] for arm in arms]
    rows = [
        ("Average score after the last step", [share(arm["average"]) for arm in arms]),
        ("Backward transfer", [difference(arm["backward_transfer"]) for arm in arms]),
        ("General checks against the base model", [difference(row["general_difference"]) for row in last]),
        ("A task's style leaks into general answers", [share(row["leaks"]) for row in last]),
    ]
    return _table(["", *(arm["label"] for arm in arms)], [[name, *cells] for name, cells in rows])


def _table_of_steps(record: Mapping[str, Any]) -> str:
    """What each step has taught, and what it has cost; a column an arm."""
    arms, tasks = list(record["arms"].values()), record["tasks"]
    rows: list[list[str | Cell]] = []
    for step, learnt in enumerate(tasks):
        found = [arm["steps"][step] for arm in arms]
        rows += [
            [f"**After {step + 1}. {tasks[learnt]['label']}**", *[""] * len(arms)],
            [f"{tasks[learnt]['label']}, just learnt", *(share(row["tasks"][learnt]) for row in found)],
            *(
                [f"{tasks[name]['label']}, since learnt", *(difference(row["since_learnt"][name]) for row in found)]
                for name in found[0]["since_learnt"]
            ),
            ["general checks against the base model", *(difference(row["general_difference"]) for row in found)],
            ["drift, nats per token", *(drift(row["drift"]) for row in found)],
            ["training", *(duration(arm["training"][step]["seconds"]) for arm in arms)],
        ]  # fmt: skip
    return _table(["", *(arm["label"] for arm in arms)], rows)


def _table_of_alone(record: Mapping[str, Any]) -> list[str]:
    """What realignment loses of a new task by coming after others."""
    label = list(record["arms"].values())[-1]["label"]
    rows = [
        [
            record["tasks"][name]["label"],
            *(share(found[key]) for key in ("alone", "after_others")),
            difference(found["difference"]),
        ]
        for name, found in record["alone"].items()
    ]
    return [
        "### A new task after others, and alone",
        f"{label}, just learnt from the adapter so far, beside a training on this task's rows alone, from the base "
        "model, with as many of its rows.",
        _table(["", "alone", "after the others", "difference"], rows),
    ]


def _matrix(record: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    tasks = record["tasks"]
    rows = [["base model", *_matrix_cells(record["base"], None)]]
    for number, (learnt, row) in enumerate(zip(tasks, arm["steps"], strict=True), 1):
        rows.append([f"{number}. {tasks[learnt]['label']}", *_matrix_cells(row, learnt)])
    header = ["After", *(task["label"] for task in tasks.values()), "general checks", "leaks"]
    return _table(header, rows)


def _matrix_cells(row: Mapping[str, Any], learnt: str | None) -> list[str | Cell]:
    """The score of the task that this step has taught is bold."""
    tasks = [f"**{share(cell)}**" if name == learnt else share(cell) for name, cell in row["tasks"].items()]
    return [*tasks, share(row["general"]), share(row["leaks"])]


def _notes(record: Mapping[str, Any]) -> str:
    """What the numbers of the arms are, and what each arm scores above each other one."""
    sentence = (
        "*Leaks*: general answers with any part of any task's style. *Backward transfer*: what the scores of all tasks "
        "but the last have changed by from the step that taught them to the last step, on average. After the last "
        "step, item by item:"
    )
    told = [
        f"- {found['label']}: all tasks {difference(found['average'])}, the earlier tasks "
        f"{difference(found['earlier'])}, general checks {difference(found['general'])}."
        for found in record["differences"].values()
    ]
    return "\n".join([sentence, "", *told])


def _notes_on_steps(record: Mapping[str, Any]) -> str:
    sentences = [
        "*Since learnt*: the same items, beside what the model scored after the step that taught the task. "
        "*Drift*: KL divergence from the base model, on its own answers to the general requests. *Training*: without "
        "what is asked after it.",
        # The two arms of plain LoRA begin with one training.
        *(
            ["The first step of plain LoRA is one training in both columns: there are no old rows yet."]
            if record["settings"]["rehearsal"]
            else []
        ),
    ]
    return " ".join(sentences)


def _notes_on_matrices() -> str:
    return (
        "Bold: the task that the step has taught. Scores are shares of exact answers in the task's own style, which "
        "no prompt asks for; a right answer in another style counts as wrong."
    )


def _example(shown: Mapping[str, Any]) -> str:
    answers = [[label, in_cell(text)] for label, text in shown["answers"].items()]
    parts = [
        fenced(shown["prompt"]),
        f"Right: {code(shown['expected'])}",
        _table(["", ""], answers, numbers=False),
    ]
    return "\n\n".join(parts)


def _realign_outcomes(record: Mapping[str, Any]) -> list[str]:
    """What `selfaug realign` said of each of its steps. Its general requests are test requests: not for choosing."""
    if record["settings"]["half"] != "test":
        return []
    rows = [
        [
            f"{arm['label']}, step {number}",
            "; ".join(f"{name} {difference(found)}" for name, found in run["realign"]["differences"].items()),
            ", ".join(run["realign"]["old_rows"]),
            run["realign"]["outcome"],
        ]
        for arm in record["arms"].values()
        for number, run in enumerate(arm["training"], 1)
        if run["realign"] is not None
    ]
    return [
        "### What `selfaug realign` said",
        f"Each step beside the one before, on {record['settings']['checked_items']} development rows a task and as "
        "many general requests, with its default bounds: a step passes if it is shown to lose no more than three "
        "points, and to gain on the new task. So few items show little. *Old rows*: the files that the old task is "
        "judged by.",
        _table(["Step", "Difference", "Old rows", "Outcome"], rows, numbers=False),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, numbers: bool = True) -> str:
    rule = "|---" + ("|---:" if numbers else "|---") * (len(header) - 1) + "|"
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (header, *rows))
    return "\n".join([first, rule, *others])
