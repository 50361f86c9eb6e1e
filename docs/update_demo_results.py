"""Put a finished demo's results into README.md, docs/images and docs/results.

    python docs/update_demo_results.py runs/demo

No number there is written by hand: they come from the demo's record, which is kept as docs/results/demo.json.
"""

from __future__ import annotations

import sys
from typing import Any

from published import RESULTS, ROOT, finished, keep_record, put_block

from selfaug.phases.demo import RECORD_KIND
from selfaug.records import write_text
from selfaug.report.demo_charts import demo_chart_svg
from selfaug.wording.demo_results import MODELS, demo_rows, demo_verdict
from selfaug.wording.evaluation_words import changed_shares, found_in_words
from selfaug.wording.numbers import duration, points

NAME = "demo"
RECORD = RESULTS / "demo.json"


def readme_block(record: dict[str, Any]) -> str:
    """What README says about the demo, as Markdown."""
    settings, results = record["settings"], record["results"]
    anchors = ""
    if settings.get("anchors"):
        anchors = f" and {settings['anchors']} self-anchors, written by the base model"
    lines = [
        "| | " + " | ".join(results[model]["label"] for model in MODELS) + " |",
        "|---" * (1 + len(MODELS)) + "|",
        *(f"| {row.name} | " + " | ".join(map(str, row.cells)) + " |" for row in demo_rows(record)),
    ]
    base = results["base"]
    # Records from before trainings counted the writing of their anchors don't have its time.
    if anchors and "anchor_seconds" not in results["selfaug"]:
        lines = [
            line.removesuffix(" |") + " (without writing the anchors) |"
            if line.startswith("| Training time |")
            else line
            for line in lines
        ]
    paragraphs = [
        f"`make demo` trains {record['model']} twice on the same rows in the same order, with plain LoRA and with "
        f"SelfAug (alpha {settings['alpha']:g}{anchors}), to answer questions over market-analysis reports in a house "
        "style (`ANSWER: $1,536 million | SOURCE: [2]`). Then it asks both, and the base model, "
        f"{base['task_items']} questions about companies that no training row mentions, and {base['general_items']} "
        f"general requests. One run, seed {settings['seed']}, {record['threads']} CPU cores, "
        f"{record['dtype'].removeprefix('torch.')}; 95 % intervals in brackets:",
        "\n".join(lines),
        "![Task against retention, and drift over the steps of training, for plain LoRA and SelfAug]"
        "(docs/images/demo.svg)",
        f"{demo_verdict(record).text} The base model has no exact answers because nothing in the prompt asks for the "
        "house style. Settings were chosen on development requests, [alpha](benchmarks/results/demo_alpha.md) and the "
        "[boundary](benchmarks/results/demo_boundary.md) with three seeds; "
        f"with {base['general_items']} requests, a loss of {points(record['detectable_difference'], sign=False)} "
        f"{found_in_words(changed_shares(results['selfaug']['difference']))}. "
        f"The run took {duration(record['seconds'])}; `make "
        "demo DEMO=--quick` gives a smaller taste.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def main() -> None:
    """Write all three."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file, record = finished(sys.argv[1], RECORD_KIND)
    if record["quick"] or record["cut_off"] or record["settings"]["half"] != "test":
        sys.exit("only a full demo in one piece, on test items, goes into the README")
    put_block(ROOT / "README.md", NAME, readme_block(record))
    write_text(ROOT / "docs" / "images" / "demo.svg", demo_chart_svg(record))
    keep_record(file, RECORD)


if __name__ == "__main__":
    main()
