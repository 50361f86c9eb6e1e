"""Drift and novelty of single prompts of two domains, under the demo's tuned model, for `benchmarks.monitoring`.

    python -m benchmarks.prompt_drift --run runs/demo/selfaug --output benchmarks/results/prompt_drift.json

Market reports are rows of the training split that the demo has not trained on; general prompts are the development half
of the general suite. Novelty is against the rows that it was trained on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch

from benchmarks.report import machine, versions
from selfaug.config import load_config
from selfaug.data import RetrievalTemplate, load_rows
from selfaug.data.market_reports import market_report_rows, market_report_template
from selfaug.eval.general_suite import general_suite
from selfaug.model.generate import chat_prompt_ids
from selfaug.monitoring.novelty import NoveltySketch
from selfaug.phases.chat import open_chat
from selfaug.phases.monitor import drift_score

_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="a run on market reports, such as the demo's")
    parser.add_argument("--market", type=int, default=600)
    parser.add_argument("--general", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    where = machine(arguments.device, arguments.threads)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = load_config(Path(arguments.run) / "config.yaml")
    chat = open_chat(arguments.run, device=arguments.device, offline=True)
    template = market_report_template()
    own = RetrievalTemplate.from_file(config.data.template) if config.data.template else RetrievalTemplate()
    trained = [
        chat_prompt_ids(chat.tokenizer, row.prompt) for row in load_rows(config.data.train, template=own).rows
    ]
    rows = market_report_rows("train", len(trained) + arguments.market)[len(trained) :]
    items = [item for item in general_suite("dev") if not item.choices]
    domains = {
        "market reports": [
            chat_prompt_ids(chat.tokenizer, template.messages(row["question"], row["context"]))
            for row in rows
        ],
        "general": [
            chat_prompt_ids(chat.tokenizer, item.prompt)
            for item in random.Random(0).sample(items, min(arguments.general, len(items)))
        ],
    }
    sketch, score = NoveltySketch.of(trained), drift_score(chat.tuned, None)
    began, found = time.monotonic(), {}
    for name, prompts in domains.items():
        # Alike lengths together; the order of the domain is kept.
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        drift = [0.0] * len(prompts)
        for begin in range(0, len(order), _BATCH):
            chosen = order[begin : begin + _BATCH]
            for at, value in zip(chosen, score([prompts[at] for at in chosen]), strict=True):
                drift[at] = value
            print(f"{name}: {begin + len(chosen)} of {len(prompts)}", file=sys.stderr, flush=True)
        found[name] = [
            [len(prompt), float(f"{value:.6g}"), round(sketch.novelty(prompt), 6)]
            for prompt, value in zip(prompts, drift, strict=True)
        ]
    data = {
        "columns": ["tokens", "nats per prompt token", "novelty"],
        "trained on": len(trained),
        "seconds": round(time.monotonic() - began, 1),
        "machine": where,
        "versions": versions(),
        "domains": found,
    }
    text = json.dumps(data, indent=1)
    # A prompt a line.
    for row in (row for rows_ in found.values() for row in rows_):
        text = text.replace(json.dumps(row, indent=1).replace("\n", "\n   "), json.dumps(row), 1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
