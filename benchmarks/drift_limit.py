"""Does the alignment loss settle at the drift limit? Trains SmolLM2-135M once for each limit and says.

    python benchmarks/drift_limit.py --limits 0.01 0.03 0.1

For each run one line: mean alignment loss over the last quarter of the steps, over the limit; where alpha
began and ended; the nll of the last quarter. `--alphas` does the same at constant alpha, to see which limits
make sense.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback

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


def report(name: str, history: list[dict[str, float]], limit: float | None) -> None:
    """One line of the table."""
    last = history[-(len(history) // 4) :]
    alignment = sum(entry["alignment_loss"] for entry in last) / len(last)
    nll = sum(entry["nll"] for entry in last) / len(last)
    ratio = "" if limit is None else f"{alignment / limit:8.3f} of the limit"
    alphas = f"alpha {history[0]['alpha']:.3g} → {history[-1]['alpha']:.3g}"
    print(f"{name:16s} alignment loss {alignment:.5f}{ratio}   nll {nll:.4f}   {alphas}", flush=True)


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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=Path, help="write each step of each run to this file (JSON lines)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    runs = [(f"alpha {alpha:g}", alpha, None) for alpha in arguments.alphas]
    runs += [(f"limit {limit:g}", 0.5, limit) for limit in arguments.limits]
    for name, alpha, limit in runs:
        history = train(arguments, alpha, limit)
        report(name, history, limit)
        if arguments.log:
            with arguments.log.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"run": name, **entry}) + "\n" for entry in history)


if __name__ == "__main__":
    main()
