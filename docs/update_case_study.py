"""Put a finished case study into docs/case-study.md and docs/results.

    python docs/update_case_study.py runs/case-study

No number there is written by hand: they come from the record, which is kept as docs/results/case-study.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from selfaug.records import read_record

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples" / "case_study"))  # a folder of scripts, not a package

from case_results import RECORD_KIND, result_page  # noqa: E402

BEGIN, END = "<!-- case-study:begin -->", "<!-- case-study:end -->"
PAGE = ROOT / "docs" / "case-study.md"
RECORD = ROOT / "docs" / "results" / "case-study.json"


def block(record: dict[str, Any]) -> str:
    """What the page says of the result, between its marks."""
    return f"{BEGIN}\n{result_page(record)}{END}"


def main() -> None:
    """Copy the record to the results, and write its part of the page."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file = Path(sys.argv[1]) / "record.json"
    record = read_record(file, RECORD_KIND)
    if record["settings"]["quick"] or record["settings"]["half"] != "test":
        sys.exit("only a full case study, on test rows and requests, goes into the documentation")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{PAGE} has no block between {BEGIN} and {END}")
    RECORD.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    PAGE.write_text(f"{before}{block(record)}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
