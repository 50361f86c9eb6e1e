"""Put a finished run of three tasks in a row into docs/sequential-tasks.md and docs/results.

    python docs/update_sequential_tasks.py runs/sequential-tasks

No number there is written by hand: they come from the record, which is kept as docs/results/sequential-tasks.json.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from selfaug.errors import SelfAugError
from selfaug.records import read_record

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples" / "sequential_tasks"))  # a folder of scripts, not a package

from task_matrix import RECORD_KIND, result_page  # noqa: E402

BEGIN, END = "<!-- sequential-tasks:begin -->", "<!-- sequential-tasks:end -->"
PAGE = ROOT / "docs" / "sequential-tasks.md"
RECORD = ROOT / "docs" / "results" / "sequential-tasks.json"

# Not a fraction, a date or an address: nothing stands before its first slash that could be a part of these.
_MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:[\w.@~-]+/)+([\w.@~-]+)/?")


def block(record: dict[str, Any] | None) -> str:
    """What the page says of the result, between its marks; without a record, how it gets there."""
    if record is None:
        return f"{BEGIN}\nThere is none yet: `python docs/update_sequential_tasks.py FOLDER` puts it here.\n{END}"
    return f"{BEGIN}\n{result_page(record)}{END}"


def without_machine_paths(value: Any) -> Any:
    """A JSON value in which paths of this machine are their last part: where it was run is nobody's business."""
    if isinstance(value, dict):
        return {key: without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(item) for item in value]
    return _MACHINE_PATH.sub(r"\1", value) if isinstance(value, str) else value


def main() -> None:
    """Copy the record to the results, and write its part of the page."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file = Path(sys.argv[1]) / "record.json"
    try:
        settings = read_record(file, RECORD_KIND)["settings"]
    except SelfAugError as error:
        sys.exit(f"error: {error}")
    if settings["quick"] or settings["half"] != "test":
        sys.exit("only a full run, on test items, goes into the documentation")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{PAGE} has no block between {BEGIN} and {END}")
    record = without_machine_paths(json.loads(file.read_text(encoding="utf-8")))
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(f"{before}{block(record['data'])}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
