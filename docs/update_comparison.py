"""Put a finished comparison into docs/results: `python docs/update_comparison.py runs/comparison NAME`.

No number there is written by hand: they come from the comparison's record, which is kept beside the table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from selfaug.phases.compare import RECORD_KIND
from selfaug.records import read_record
from selfaug.report.comparison_results import (
    TextTable,
    against_table,
    comparison_notes,
    forecast_table,
    methods_table,
)

RESULTS = Path(__file__).parent / "results"


def page(record: dict[str, Any], name: str) -> str:
    """The comparison as Markdown."""
    environment, settings = record["environment"], record["settings"]
    train = settings["config"]["train"]
    parts = [
        f"# Comparison of methods: {name}",
        "Made by `selfaug compare"
        f"{' --demo' if name == 'demo' else ''} --steps {train['steps']}"
        f"{''.join(f' --seed {seed}' for seed in settings['seeds'])}`, written by `docs/update_comparison.py` from "
        "the record beside it, which has every item's score. "
        f"{train['steps']} steps of {train['batch_size'] * train['gradient_accumulation']} rows, seeds "
        f"{', '.join(map(str, settings['seeds']))}; every method's knob has the same number of values, chosen on "
        "development items; what is shown are test items.",
        *(
            markdown(table)
            for table in (methods_table(record), against_table(record), forecast_table(record))
            if table is not None
        ),
        comparison_notes(record),
        f"{environment['device']}, {record['threads']} threads, Python {environment['python']}; "
        + ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


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


def main() -> None:
    """Copy the record of a comparison to the results, and write its page."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, name = Path(sys.argv[1]), sys.argv[2]
    record = read_record(folder / "record.json", RECORD_KIND)
    # Where it was run on this machine is nobody's business.
    text = (folder / "record.json").read_text(encoding="utf-8")
    text = text.replace(record["settings"]["config"]["run"]["output"], f"runs/comparison-{name}")
    (RESULTS / f"comparison-{name}.json").write_text(text, encoding="utf-8")
    (RESULTS / f"comparison-{name}.md").write_text(page(record, name), encoding="utf-8")


if __name__ == "__main__":
    main()
