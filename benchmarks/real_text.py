"""The comparison of methods on financial reports that people wrote, with three public benchmarks beside the suite.

    python -m benchmarks.real_text --data DIR --output runs/real-text

DIR holds tatqa_short.jsonl, convfinqa_short_train.jsonl and convfinqa_short_eval.jsonl (rows with `id`, `context`,
`question` and `answer`), gsm8k_test.jsonl, hellaswag.jsonl and mmlu_dev.jsonl (suites as `selfaug compare --suite`
takes them). Rows are those whose answer stands in their passages and whose prompt is short: what a small model can
learn in some tens of steps. They are split by page: no page is in two of training, development and test. Rows, split
and questions depend on the files alone; training and evaluation are `selfaug compare`'s, with its seeds, and go on
where they were cut off.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from benchmarks.processes import prepare
from selfaug.config import TrainConfig, load_config
from selfaug.data.template import RetrievalTemplate
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import DEMO_MODEL, load_tokenizer
from selfaug.phases.bench import BenchSettings
from selfaug.phases.compare import CompareSettings, compare
from selfaug.phases.methods import METHODS
from selfaug.phases.progress import Progress
from selfaug.records import read_lines, write_lines

__all__ = ["split_rows"]

_SUITES = {"gsm8k": "gsm8k_test.jsonl", "hellaswag": "hellaswag.jsonl", "mmlu": "mmlu_dev.jsonl"}

Row = dict[str, Any]


def split_rows(data: Path, fits: Callable[[Row], bool], counts: dict[str, int]) -> dict[str, list[Row]]:
    """Rows of both data sets for training, development and test, half of each, in an order of their own.

    Args:
        data: folder of the files.
        fits: whether a row is short enough.
        counts: rows of each part, "train", "dev" and "test".

    Raises:
        SystemExit: if there are not enough.
    """
    pages = {
        "tatqa": _by_page(read_lines(data / "tatqa_short.jsonl")),
        "convfinqa": _by_page(
            [row for name in ("train", "eval") for row in read_lines(data / f"convfinqa_short_{name}.jsonl")]
        ),
    }
    parts: dict[str, list[Row]] = {part: [] for part in counts}
    for name, found in pages.items():
        ordered = iter(sorted(found, key=_hash))
        for part, count in counts.items():
            rows: list[Row] = []
            while len(rows) < count // 2:
                page = next(ordered, None)
                if page is None:
                    sys.exit(f"{name} has too few rows that are short and answered by their passages")
                rows += [row for row in found[page] if _answered(row) and fits(row)]
            parts[part] += rows[: count // 2]
    return {part: sorted(rows, key=lambda row: _hash(row["id"])) for part, rows in parts.items()}


def _by_page(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that share a passage are of one page, and so are those that share one with these."""
    page_of: dict[str, str] = {}

    def page(passage: str) -> str:
        while page_of.setdefault(passage, passage) != passage:
            passage = page_of[passage]
        return passage

    for row in rows:
        for passage in row["context"][1:]:
            page_of[page(passage)] = page(row["context"][0])
    pages: dict[str, list[Row]] = {}
    for row in rows:
        pages.setdefault(page(row["context"][0]), []).append(row)
    return pages


def _answered(row: Row) -> bool:
    """Whether the answer stands in the passages as it is: it has to be found, not computed."""
    stands = re.search(rf"(?<![\w.,]){re.escape(row['answer'])}(?![\w]|[.,]\d)", " ".join(row["context"]))
    return bool(row["answer"].strip()) and stands is not None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_questions(
    data: Path,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    counts: dict[str, int],
    suite_items: int,
) -> list[str]:
    """Rows and suites as files of the folder; returns the suites'."""
    template = RetrievalTemplate()

    def fits(row: Row) -> bool:
        prompt = chat_prompt_ids(tokenizer, template.messages(row["question"], row["context"]))
        return len(prompt) <= tokens

    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in split_rows(data, fits, counts).items():
        write_lines(
            folder / f"{part}.jsonl",
            [{key: row[key] for key in ("id", "question", "context", "answer")} for row in rows],
        )
    for name, file in _SUITES.items():
        rows = sorted(read_lines(data / file), key=lambda row: _hash(row["id"]))
        write_lines(folder / f"{name}.jsonl", rows[:suite_items])
    return [str(folder / f"{name}.jsonl") for name in _SUITES]


def training(model: str, folder: Path, output: Path, steps: int) -> TrainConfig:
    """The demo's training, on these rows."""
    return load_config(
        None,
        {
            "--model": model,
            "--train": [str(folder / "train.jsonl")],
            "--rank": 16,
            "--alpha": 2.0,
            "--position-fraction": 0.25,
            "--steps": steps,
            "--batch-size": 4,
            "--gradient-accumulation": 1,
            "--learning-rate": 1e-3,
            "--output": str(output),
            "--offline": True,
        },
        ["lora.alpha=32", "train.warmup=0.1", "selfaug.anchor_count=48", "selfaug.anchor_share=0.25"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the files")
    parser.add_argument("--output", type=Path, default=Path("runs/real-text"))
    parser.add_argument("--model", default=DEMO_MODEL, help="folder or hub id")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--tokens", type=int, default=288, help="of the longest prompt")
    parser.add_argument("--dev-items", type=int, default=64)
    parser.add_argument("--test-items", type=int, default=96)
    parser.add_argument("--suite-items", type=int, default=100, help="of each public benchmark")
    parser.add_argument("--general-items", type=int, help="requests of the general suite; all if left out")
    parser.add_argument("--threads", type=int, help="of torch; its own default if left out")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    folder = arguments.output.with_name(f"{arguments.output.name}-data")
    counts = {"train": 4 * arguments.steps, "dev": arguments.dev_items, "test": arguments.test_items}
    suites = write_questions(
        arguments.data,
        folder,
        load_tokenizer(arguments.model),
        arguments.tokens,
        counts,
        arguments.suite_items,
    )
    told = ""

    def tell(progress: Progress) -> None:
        nonlocal told
        if progress.stage != told:
            told = progress.stage
            print(told, file=sys.stderr, flush=True)

    compare(
        training(arguments.model, folder, arguments.output, arguments.steps),
        BenchSettings(
            dev=[str(folder / "dev.jsonl")],
            test=[str(folder / "test.jsonl")],
            scorer="numeric-or-f1",
            level="1",
            suites=suites,
            general_items=arguments.general_items,
            max_new_tokens=48,
        ),
        CompareSettings(methods=arguments.methods, seeds=arguments.seeds),
        on_progress=tell,
    )
    print(f"To put it into the documentation: python docs/update_comparison.py {arguments.output} real-text")


if __name__ == "__main__":
    main()
