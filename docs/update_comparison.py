"""Put a finished comparison into docs/results: `python docs/update_comparison.py runs/comparison NAME [REMARK]`.

A remark is what must be known to read it, such as that other work ran beside. No number there is written by hand: they
come from the comparison's record, which is kept beside the table.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from published import RESULTS, ROOT, finished, keep_record, put_block

from selfaug.core.statistics import pooled_difference
from selfaug.phases.compare import RECORD_KIND
from selfaug.phases.demo import FULL
from selfaug.records import read_record, write_text
from selfaug.wording.comparison_results import (
    TextTable,
    against_table,
    comparison_notes,
    costs_table,
    forecast_table,
    scores_table,
)

NAME = "comparison"
LONGER = ("demo-56-steps", "demo-112-steps", "demo-112-steps-alpha-2", "demo-112-steps-alpha-8")
REAL_TEXT = "real-text"  # also what further comparisons on these rows begin with
IN_README = "real-text-two-seeds"

# The README's rows in their order, and what each method needs besides the rows to train on.
NEEDS = {
    "plain": "nothing",
    "selfaug": "nothing",
    "selfaug-anchors": "requests that the base model writes",
    "replay": "general rows",
    "sa-sft": "dialogues that the base model writes",
    "wise-ft": "nothing",
    "full": "nothing",
    "osf": "nothing",
    "l2": "nothing",
    "distilled": "completions that the base model writes anew",
    "router": "a router, and two names to serve (with LoRA, of the same weights)",
}

_OWN_SPLIT = (
    "The task's rows are short ones of TAT-QA's test file and of ConvFinQA, split by page into training, development "
    "and test rows of this comparison's own: the scores are none of these benchmarks', and a model that was trained "
    "so can't be scored on TAT-QA's test set any more."
)


def page(record: dict[str, Any], name: str) -> str:
    """The comparison as Markdown."""
    environment, settings = record["environment"], record["settings"]
    train = settings["config"]["train"]
    parts = [
        f"# Comparison of methods: {name}",
        f"Made by {_commands(record, name)}, written by `docs/update_comparison.py` from "
        f"the record beside it, which has {_scores_in(record)}. "
        f"{train['steps']} steps of {train['batch_size'] * train['gradient_accumulation']} rows, {_seeds(settings)}; "
        "every method's knob has the same number of values, chosen on "
        "development items; what is shown are test items.",
        *(
            markdown(table)
            for table in (
                scores_table(record),
                costs_table(record),
                against_table(record),
                forecast_table(record),
            )
            if table is not None
        ),
        "\n".join(f"- {note}" for note in comparison_notes(record)),
        *([_OWN_SPLIT] if name.startswith(REAL_TEXT) else []),
        *(
            ["Minutes of SelfAug with self-anchors are without the writing of its anchors."]
            if "anchor_seconds" not in record["methods"].get("selfaug-anchors", {"anchor_seconds": 0})
            else []
        ),
        *([record["remark"]] if "remark" in record else []),
        *(
            ["Memory is not shown: it was measured in a way that counted the comparing process too."]
            if any(method["peak_memory_bytes"] is None for method in record["methods"].values())
            else []
        ),
        *(
            ["Drift on the job's prompts is not shown: it was not measured yet."]
            if all(method["task_drift"] is None for method in record["methods"].values())
            else []
        ),
        *(
            ["Where a difference has no p-value, the record has no scores by item and seed to make it from."]
            if any(_lacks_p_value(method) for method in record["methods"].values())
            else []
        ),
        f"{environment['device']}, {record['threads']} threads, Python {environment['python']}; "
        + ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _commands(record: dict[str, Any], name: str) -> str:
    """What makes the record: one command for the seeds that all methods have, and one for each group with more."""
    methods = record["methods"]
    common = [
        seed for seed in record["settings"]["seeds"] if all(seed in row["seeds"] for row in methods.values())
    ]
    groups: dict[tuple[int, ...], list[str]] = {}
    for method, row in methods.items():
        if further := tuple(seed for seed in row["seeds"] if seed not in common):
            groups.setdefault(further, []).append(method)
    everything = list(methods) if record["not_run"] else []
    parts = [(everything, common), *((named, list(seeds)) for seeds, named in groups.items())]
    return ", then ".join(f"`{_command(name, record, named, seeds)}`" for named, seeds in parts)


def _command(name: str, record: dict[str, Any], methods: list[str], seeds: list[int]) -> str:
    steps, items = record["settings"]["config"]["train"]["steps"], record["items"]
    if name.startswith(REAL_TEXT):
        words = ["python -m benchmarks.real_text --data DIR", f"--steps {steps}"]
        words += [f"--test-items {items['task']}", f"--suite-items {items['gsm8k']}"]
        return " ".join([*words, *(["--methods", *methods] if methods else []), "--seeds", *map(str, seeds)])
    words = [f"selfaug compare{' --demo' if name.startswith('demo') else ''}", f"--steps {steps}"]
    alpha = record["settings"]["config"]["selfaug"]["alpha"]
    if name.startswith("demo") and alpha != FULL.alpha:  # the demo's settings of now
        words.append(f"--set selfaug.alpha={alpha:g}")
    return " ".join([*words, *(f"--method {one}" for one in methods), *(f"--seed {one}" for one in seeds)])


def _seeds(settings: dict[str, Any]) -> str:
    numbers = ", ".join(map(str, settings["seeds"]))
    return f"{'seed' if len(settings['seeds']) == 1 else 'seeds'} {numbers}"


def _counts(methods: dict[str, Any]) -> str:
    counts = sorted({len(row["seeds"]) for row in methods.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _scores_in(record: dict[str, Any]) -> str:
    # Before records had the scores of all suites, they had those that the forecast is made of.
    every = all("scores" in suite for suite in record["base"]["suites"].values())
    return "every item's score" if every else "the score of every general item"


def _lacks_p_value(method: dict[str, Any]) -> bool:
    return any(cell["p_value"] is None for cell in (method["against_subject"] or {}).values())


def markdown(table: TextTable) -> str:
    """A table as Markdown."""
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|---" + "|---:" * (len(table.columns) - 1) + "|",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows),
    ]
    return "\n\n".join(
        part for part in (table.title and f"## {table.title}", "\n".join(lines), table.caption) if part
    )


def readme_block(record: dict[str, Any], longer: dict[str, dict[str, Any]]) -> str:
    """What the README says of a comparison with all methods, and of longer ones; every number is the records'."""
    methods, settings = record["methods"], record["settings"]
    correlation = record["forecast"]["correlation"]
    rows = TextTable(
        "",
        [
            "",
            "exact answers",
            "general checks − base, in points",
            "style leaks",
            "minutes",
            "GB",
            "needs besides the rows",
        ],
        [_readme_row(methods[name], needs) for name, needs in NEEDS.items()],
    )
    steps = settings["config"]["train"]["steps"]
    parts = [
        f"On the demo's model and rows, with {steps} steps and {_counts(methods)} seeds a method; 95 % intervals in "
        "brackets:",
        markdown(rows),
        "Minutes and memory are a training's, with what the base model writes for it; the scaled adapter's and the "
        "router's are plain LoRA's, the router's with the requests that it learns from. Other work ran beside some.",
        "The router does best on these well separated requests. Over "
        f"{len(record['forecast']['drifts'])} runs, forgetting goes with drift: rank correlation "
        f"{correlation['value']:.2f} ({correlation['low']:.2f} to {correlation['high']:.2f}). "
        "[The whole table, and what is to be known of its rows](docs/results/comparison-demo.md).",
    ]
    if longer:
        parts += [
            f"After {steps} steps SelfAug has learnt less of the job. With more of them, beside plain LoRA:",
            markdown(
                TextTable(
                    "",
                    [
                        "steps, seeds, requests",
                        "",
                        "exact",
                        "plain LoRA's",
                        "difference",
                        "general − base, points",
                        "leaks",
                    ],
                    [row for name, one in longer.items() for row in _longer(name, one)],
                )
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _readme_row(method: dict[str, Any], needs: str) -> list[str]:
    lost, leaks = method["suites"]["general"]["difference"]["difference"], method["leaks"]
    return [
        method["label"],
        _percent(method["suites"]["task"]["score"]["value"]),
        _with_interval(lost),
        _percent(leaks["value"]),
        f"{(method['train_seconds'] + method['write_seconds']) / 60:.1f}",
        f"{method['peak_memory_bytes'] / 1e9:.1f}",
        needs,
    ]


def _longer(name: str, record: dict[str, Any]) -> list[list[str]]:
    """SelfAug, without and with self-anchors, beside plain LoRA, where both have had more steps."""
    methods, plain = record["methods"], record["methods"]["plain"]
    settings, requests = record["settings"]["config"], record["items"]["general"]
    steps, alpha = settings["train"]["steps"], settings["selfaug"]["alpha"]
    rows = []
    for ours in (methods[one] for one in ("selfaug", "selfaug-anchors") if one in methods):
        scores = (method["suites"]["task"]["scores"] for method in (ours, plain))
        rows.append(
            [
                f"[{steps}, {len(ours['seeds'])}, {requests}](docs/results/comparison-{name}.md)",
                f"{ours['label']}, alpha {alpha * ours['value']:g}",
                _percent(ours["suites"]["task"]["score"]["value"]),
                _percent(plain["suites"]["task"]["score"]["value"]),
                _with_interval(asdict(pooled_difference(*scores, seed=0).difference)),
                _with_interval(ours["suites"]["general"]["difference"]["difference"]),
                _percent(ours["leaks"]["value"]),
            ]
        )
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def real_text_block(record: dict[str, Any]) -> str:
    """What the README says of a comparison on rows that people wrote."""
    items, settings, methods = record["items"], record["settings"], record["methods"]
    suites = [name for name in items if name not in ("task", "general")]
    table = TextTable(
        "",
        ["", "task", "general checks − base, in points", *suites],
        [
            ["base model", *_scores(record["base"], ["task"]), "", *_scores(record["base"], suites)],
            *(
                [
                    method["label"],
                    *_scores(method, ["task"]),
                    _with_interval(method["suites"]["general"]["difference"]["difference"]),
                    *_scores(method, suites),
                ]
                for method in methods.values()
            ),
        ],
    )
    steps = settings["config"]["train"]["steps"]
    return (
        "On financial reports that people wrote (rows of TAT-QA and ConvFinQA in a split of our own, so no scores of "
        f"these benchmarks): {steps} steps, {_seeds(settings)}, {items['task']} test questions, {items['general']} "
        f"general requests:\n\n{markdown(table)}\n"
    )


def _scores(row: dict[str, Any], suites: list[str]) -> list[str]:
    return [_percent(row["suites"][name]["score"]["value"]) for name in suites]


def _with_interval(found: dict[str, float]) -> str:
    return f"{_points(found['value'])} ({_points(found['low'])} to {_points(found['high'])})"


def longer_records() -> dict[str, dict[str, Any]]:
    """The comparisons with more steps that are kept, by name."""
    files = {name: RESULTS / f"comparison-{name}.json" for name in LONGER}
    return {name: read_record(file, RECORD_KIND) for name, file in files.items() if file.exists()}


def main() -> None:
    """Copy the record of a comparison to the results, and write its page."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    file, _ = finished(sys.argv[1], RECORD_KIND)
    name = sys.argv[2]
    kept = RESULTS / f"comparison-{name}.json"
    keep_record(file, kept, *sys.argv[3:])
    write_text(RESULTS / f"comparison-{name}.md", page(read_record(kept, RECORD_KIND), name))
    if name in ("demo", *LONGER):
        record = read_record(RESULTS / "comparison-demo.json", RECORD_KIND)
        put_block(ROOT / "README.md", NAME, readme_block(record, longer_records()))
    if name == IN_README:
        put_block(ROOT / "README.md", name, real_text_block(read_record(kept, RECORD_KIND)))


if __name__ == "__main__":
    main()
