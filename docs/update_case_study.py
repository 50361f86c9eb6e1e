"""Put a finished case study into docs/case-study.md and docs/results.

    python docs/update_case_study.py runs/case-study

No number there is written by hand: they come from the record, which is kept as docs/results/case-study.json.
"""

from __future__ import annotations

import sys

from published import RESULTS, ROOT, finished, keep_record, put_block, without_machine_paths

sys.path.append(str(ROOT / "examples" / "case_study"))  # a folder of scripts, not a package

from case_results import RECORD_KIND, result_page

NAME = "case-study"
PAGE = ROOT / "docs" / "case-study.md"
RECORD = RESULTS / "case-study.json"


def main() -> None:
    """Copy the record to the results, and write its part of the page."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file, record = finished(sys.argv[1], RECORD_KIND)
    if record["settings"]["quick"] or record["settings"]["half"] != "test":
        sys.exit("only a full case study, on test rows and requests, goes into the documentation")
    put_block(PAGE, NAME, result_page(without_machine_paths(record)))
    keep_record(file, RECORD)


if __name__ == "__main__":
    main()
