"""Put a finished comparison into docs/results: `python docs/update_comparison.py runs/comparison NAME [REMARK]`.

A remark is what must be known to read it, such as that other work ran beside. No number there is written by hand: they
come from the comparison's record, which is kept beside the table.
"""

from __future__ import annotations

import sys
from typing import Any

from published import RESULTS, ROOT, finished, keep_record, put_block

from selfaug.phases.compare import RECORD_KIND
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
LONGER = ("demo-56-steps", "demo-112-steps")
REAL_TEXT = "real-text"  # also what further comparisons on these rows begin with

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
        comparison_notes(record),
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

    def general(name: str) -> str:
        lost = methods[name]["suites"]["general"]["difference"]["difference"]
        return f"{100 * lost['value']:+.1f}".replace("-", "−")

    def task(name: str) -> str:
        return f"{100 * methods[name]['suites']['task']['score']['value']:.0f} %"

    found = methods["selfaug"]["suites"]["general"]["difference"]["difference"]
    low, high = (f"{100 * found[end]:+.1f}".replace("-", "−") for end in ("low", "high"))
    others = ("full", "osf", "l2", "distilled", "wise-ft", "sa-sft", "replay")
    listed = ", ".join(f"{methods[name]['label']} {general(name)}" for name in others)
    correlation = record["forecast"]["correlation"]
    more = "".join(_longer(name, one) for name, one in longer.items())
    return (
        f"On the demo's model and rows, with {settings['config']['train']['steps']} steps and {_counts(methods)} "
        f"seeds a method, general checks against the base model, in points: SelfAug {general('selfaug')} ({low} to "
        f"{high}), plain LoRA {general('plain')}, {listed}. After so few steps SelfAug has learnt less of the job "
        f"({task('selfaug')} exact, plain LoRA {task('plain')}){more}. A router "
        f"in front of plain LoRA and the base model does best on these well separated requests ({task('router')}, "
        f"{general('router')}), for a second model to serve. Over {len(record['forecast']['drifts'])} runs, forgetting "
        f"goes with drift: rank correlation {correlation['value']:.2f} ({correlation['low']:.2f} to "
        f"{correlation['high']:.2f}). "
        "[All eleven methods, with intervals](docs/results/comparison-demo.md).\n"
    )


def _longer(name: str, record: dict[str, Any]) -> str:
    """SelfAug beside plain LoRA where both have had the steps to learn the job."""
    ours, plain = record["methods"][record["subject"]], record["methods"]["plain"]
    against = plain["against_subject"]["task"]["difference"]
    lost = ours["suites"]["general"]["difference"]["difference"]

    def percent(row: dict[str, Any]) -> str:
        return f"{100 * row['suites']['task']['score']['value']:.0f} %"

    def signed(value: float) -> str:
        return f"{100 * value:+.1f}".replace("-", "−")

    def chosen(row: dict[str, Any]) -> str:
        return f"{row['knob']} {row['value']:g}"

    seeds = len(ours["seeds"])
    return (
        f"; with {record['settings']['config']['train']['steps']} steps and {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{ours['label']} ({chosen(ours)}) has {percent(ours)} against plain LoRA's {percent(plain)} ({chosen(plain)}; "
        f"{signed(against['value'])} points, {signed(against['low'])} to {signed(against['high'])}), "
        f"general checks {signed(lost['value'])} ({signed(lost['low'])} to {signed(lost['high'])}) and leaks in "
        f"{100 * ours['leaks']['value']:.0f} % ([table](docs/results/comparison-{name}.md))"
    )


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


if __name__ == "__main__":
    main()
