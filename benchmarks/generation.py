"""Answers of the general suite: our batched generation against `model.generate`, one prompt at a time.

    python -m benchmarks.generation --output benchmarks/results/generation.md

Both decode greedily; how many answers are the same, token by token, is in the table. Each measurement is a process of
its own, and the variants take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import in_own_process, interleaved, prepare
from benchmarks.report import machine, median_and_range, publish, ratio_of_rounds, table
from selfaug.eval.general_suite import general_suite, spread_over_kinds
from selfaug.model.generate import chat_prompt_ids, generate_greedy_ids
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer

_ONE_BY_ONE = "one by one"


def measure(batch_size: int | None, model_name: str, prompts: int, threads: int | None) -> dict[str, Any]:
    """Seconds and answers of one variant in this process; None is `model.generate`, one prompt at a time."""
    prepare(threads)
    model, tokenizer = load_model(model_name), load_tokenizer(model_name)
    items = spread_over_kinds([item for item in general_suite("dev", 1) if not item.choices], prompts)
    asked = [chat_prompt_ids(tokenizer, item.prompt) for item in items]
    limits = [item.max_new_tokens for item in items]
    generate_greedy_ids(model, asked[:1], max_new_tokens=2)  # the first call of a process is slower
    began = time.perf_counter()
    if batch_size is None:
        answers = []
        for prompt, limit in zip(asked, limits, strict=True):
            output = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=limit,
                do_sample=False,
                temperature=None,
                top_p=None,
                pad_token_id=tokenizer.pad_token_id,
            )
            answers.append(
                [token for token in output[0, len(prompt) :].tolist() if token != tokenizer.eos_token_id]
            )
    else:
        answers = generate_greedy_ids(model, asked, max_new_tokens=limits, batch_size=batch_size)
    return {"seconds": time.perf_counter() - began, "answers": answers}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of torch; by default its own choice")
    parser.add_argument("--output", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    variants = {_ONE_BY_ONE: None, **{f"batches of {size}": size for size in arguments.batch_sizes}}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for number, name in interleaved(list(variants), arguments.rounds):
        print(f"round {number + 1}: {name}", file=sys.stderr)
        found[name].append(
            in_own_process(measure, variants[name], arguments.model, arguments.prompts, arguments.threads)
        )
    expected = found[_ONE_BY_ONE][0]["answers"]
    rows, results = [], {}
    for name, runs in found.items():
        tokens = sum(len(answer) for answer in runs[0]["answers"])
        rates = [tokens / run["seconds"] for run in runs]
        same = sum(a == b for a, b in zip(runs[0]["answers"], expected, strict=True))
        base = [sum(len(answer) for answer in run["answers"]) / run["seconds"] for run in found[_ONE_BY_ONE]]
        rows.append(
            {
                "variant": name,
                "tokens a second": median_and_range(rates, 0),
                f"× {_ONE_BY_ONE}": ratio_of_rounds(rates, base),
                "seconds": f"{statistics.median(run['seconds'] for run in runs):.1f}",
                "tokens": tokens,
                "same answers": f"{same} of {len(expected)}",
            }
        )
        results[name] = {"rates": rates, "tokens": tokens, "same": same, "prompts": len(expected)}
    publish(
        "generation",
        "Generation",
        table(rows),
        {"results": results},
        arguments.output,
        where,
    )


if __name__ == "__main__":
    main()
