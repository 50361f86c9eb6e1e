"""Put a finished run of three tasks in a row into docs/sequential-tasks.md and docs/results.

    python docs/update_sequential_tasks.py runs/sequential-tasks

No number there is written by hand: they come from the record, which is kept as docs/results/sequential-tasks.json.
"""

from __future__ import annotations

import sys
from typing import Any

from published import RESULTS, ROOT, finished, keep_record, put_block, without_machine_paths

sys.path.append(str(ROOT / "examples" / "sequential_tasks"))  # a folder of scripts, not a package

from task_matrix import RECORD_KIND, result_page

NAME = "sequential-tasks"
PAGE = ROOT / "docs" / "sequential-tasks.md"
RECORD = RESULTS / "sequential-tasks.json"


def text(record: dict[str, Any] | None) -> str:
    """What the page says of the result; without a record, how it gets there."""
    if record is None:
        return "There is none yet: `python docs/update_sequential_tasks.py FOLDER` puts it here.\n"
    return str(result_page(record))


def main() -> None:
    """Copy the record to the results, and write its part of the page."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file, record = finished(sys.argv[1], RECORD_KIND)
    if record["settings"]["quick"] or record["settings"]["half"] != "test":
        sys.exit("only a full run, on test items, goes into the documentation")
    put_block(PAGE, NAME, text(without_machine_paths(record)))
    keep_record(file, RECORD)


if __name__ == "__main__":
    main()
