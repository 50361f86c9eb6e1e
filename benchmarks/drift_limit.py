"""Does the alignment loss settle at the drift limit? Trains SmolLM2-135M once for each limit and says.

    python -m benchmarks.drift_limit --limits 0.01 0.03 0.1 --output benchmarks/results/drift_limit.md

For each run one line: mean alignment loss over the last quarter of the steps, over the limit; where alpha
began and ended; the nll of the last quarter. `--alphas` does the same at constant alpha, to see which limits
make sense.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback

from benchmarks.processes import prepare
from benchmarks.report import machine, publish, table
from selfaug import SelfAugConfig, SelfAugTrainer
from selfaug.data.market_reports import market_report_rows
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer


def rows(count: int) -> Dataset:
    """Questions with the one report that answers them: prompts short enough for one core."""
    return Dataset.from_list(
        [
            {
                "prompt": [
                    {
                        "role": "user",
                        "content": f"Report:\n{row['context'][row['gold'] - 1]}\n\n{row['question']}",
                    }
                ],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in market_report_rows("train", count)
        ]
    )


def train(arguments: argparse.Namespace, alpha: float, limit: float | None) -> list[dict[str, float]]:
    """Metrics of each step."""
    torch.manual_seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SelfAugTrainer(
            model=load_model(DEMO_MODEL, dtype=arguments.dtype, device=arguments.device),
            args=SelfAugConfig(
                output_dir=folder,
                alpha=alpha,
                drift_limit=limit,
                reference="adapter_off",
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.batch,
                learning_rate=arguments.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=max(1, arguments.steps // 20),
                seed=arguments.seed,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                bf16=False,
                activation_checkpointing=False,
                use_cpu=arguments.device == "cpu",
            ),
            train_dataset=rows(arguments.steps * arguments.batch),
            processing_class=load_tokenizer(DEMO_MODEL),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [entry for entry in trainer.state.log_history if "alignment_loss" in entry]


def row(name: str, history: list[dict[str, float]], limit: float | None) -> dict[str, str]:
    """One line of the table: means over the last quarter of the steps."""
    last = history[-(len(history) // 4) :]
    alignment, nll = (sum(entry[key] for entry in last) / len(last) for key in ("alignment_loss", "nll"))
    return {
        "run": name,
        "alignment loss, nats": f"{alignment:.5f}",
        "of the limit": "–" if limit is None else f"{alignment / limit:.3f}",
        "nll": f"{nll:.4f}",
        "alpha, from and to": f"{history[0]['alpha']:.3g} → {history[-1]['alpha']:.3g}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limits", type=float, nargs="*", default=[0.01, 0.03, 0.1])
    parser.add_argument("--alphas", type=float, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of torch; its own default if left out")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    where = machine(arguments.device, arguments.threads)
    runs = [(f"alpha {alpha:g}", alpha, None) for alpha in arguments.alphas]
    runs += [(f"limit {limit:g}", 0.5, limit) for limit in arguments.limits]
    rows_of_table, histories = [], {}
    for name, alpha, limit in runs:
        histories[name] = train(arguments, alpha, limit)
        rows_of_table.append(row(name, histories[name], limit))
        print(
            ", ".join(f"{key} {value}" for key, value in rows_of_table[-1].items()),
            file=sys.stderr,
            flush=True,
        )
    text = (
        f"Mean over the last quarter of {arguments.steps} steps of {arguments.batch} rows, one run a limit, "
        f"seed {arguments.seed}, {arguments.dtype}. A limit above what the training takes by itself isn't reached: "
        "alpha goes towards its minimum, and the drift stays below.\n\n" + table(rows_of_table)
    )
    data = {
        "arguments": {key: str(value) for key, value in vars(arguments).items() if key != "output"},
        "steps": histories,
    }
    publish("drift_limit", f"Drift limit on {DEMO_MODEL}", text, data, arguments.output, where)


if __name__ == "__main__":
    main()
