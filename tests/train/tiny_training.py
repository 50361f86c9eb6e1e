"""Trains a tiny model: used by the tests in their own process, and as a script in processes of its own."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from transformers.trainer_utils import EvalPrediction
from trl import SFTConfig, SFTTrainer

from selfaug import SelfAugConfig, SelfAugTrainer
from selfaug.model import cache

LORA: dict[str, Any] = {"r": 4, "target_modules": "all-linear"}


def text_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Prompt-completion rows of very different lengths."""
    rng = random.Random(seed)
    words = ["the", "revenue", "of", "company", "in", "year", "was", "million", "and", "grew", "by", "region"]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))

    return [{"prompt": text(2, 14), "completion": " " + text(1, 4)} for _ in range(count)]


def tokenised_rows(
    tokenizer: PreTrainedTokenizerBase, count: int, seed: int = 0
) -> list[dict[str, list[int]]]:
    rows = []
    for row in text_rows(count, seed):
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        rows.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    return rows


def settings(output_dir: str | os.PathLike[str], **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "max_grad_norm": 1e9,  # clipping would hide a wrong scale
        **changes,
    }


def make_trainer(
    model: str | os.PathLike[str] | nn.Module,
    output_dir: str | os.PathLike[str],
    rows: Any = None,
    *,
    lora: dict[str, Any] | None = LORA,
    tokenizer: PreTrainedTokenizerBase | None = None,
    plain: bool = False,
    different: bool = False,
    eval_rows: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    data_collator: Any = None,
    formatting_func: Any = None,
    **changes: Any,
) -> SFTTrainer:
    """`SelfAugTrainer`, or trl's own trainer if `plain`, of a tiny model; silent.

    `different`: the tuned model differs from the reference from the first step on, so that its gradients have
    an alignment part.
    """
    if not isinstance(model, nn.Module):
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
        model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    trainer = (SFTTrainer if plain else SelfAugTrainer)(
        model=model,
        args=(SFTConfig if plain else SelfAugConfig)(**settings(output_dir, **changes)),
        data_collator=data_collator,
        train_dataset=Dataset.from_list(text_rows(8)) if rows is None else rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=None if lora is None else LoraConfig(**lora),
        callbacks=callbacks,
        formatting_func=formatting_func,
    )
    if different:
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if not self.kept:
            self.kept = {
                name.removeprefix("module."): _whole(parameter.grad)
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }


def run(model: Any, folder: Path, rows: Any = None, **changes: Any) -> tuple[dict[str, Tensor], Any]:
    """First gradients, and the trainer after training."""
    gradients = Gradients()
    trainer = make_trainer(model, folder, rows, callbacks=[gradients], **changes)
    trainer.train()
    return gradients.kept, trainer


def trained(trainer: SFTTrainer) -> dict[str, Tensor]:
    """Parameters that train, by name."""
    return {n: _whole(p.detach()) for n, p in trainer.model.named_parameters() if p.requires_grad}


def _whole(value: Tensor) -> Tensor:
    """A copy on the CPU, of all shards."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True)


def curve(trainer: SFTTrainer, *names: str) -> list[tuple[float, ...]]:
    """Logged metrics, one tuple a step."""
    return [tuple(e[n] for n in names) for e in trainer.state.log_history if all(n in e for n in names)]


def largest_difference(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> float:
    """Between two of `curve`."""
    assert len(a) == len(b) > 0
    return max(
        abs(x - y) for row_a, row_b in zip(a, b, strict=True) for x, y in zip(row_a, row_b, strict=True)
    )


def relative(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative L2 difference over all tensors together."""
    assert a.keys() == b.keys()
    assert a
    difference = sum((a[name].double() - b[name].double()).square().sum() for name in a)
    return float((difference / sum(tensor.double().square().sum() for tensor in b.values())).sqrt())


class KillAt(TrainerCallback):
    """Ends the process as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), 9)


def run_options(options: dict[str, Any]) -> dict[str, Any]:
    """Train as the options say; what the tests compare."""
    options = dict(options)
    resume, kill_step, kill_document, evaluates_first = (
        options.pop(n, None) for n in ("resume", "kill_step", "kill_document", "evaluates_first")
    )
    rows, eval_rows = text_rows(options.pop("rows")), text_rows(options.pop("eval_rows", 0), seed=1)
    gradients = Gradients()
    trainer = make_trainer(
        options.pop("model"),
        options.pop("output_dir"),
        rows,
        eval_rows=eval_rows or None,
        callbacks=[gradients] + ([KillAt(kill_step)] if kill_step else []),
        **options,
    )
    cache_batches = 0

    def progress(done: int, total: int) -> None:
        nonlocal cache_batches
        cache_batches += 1
        if kill_document and done >= kill_document:
            assert done < total
            os.kill(os.getpid(), 9)

    trainer.on_cache_progress = progress
    if kill_document:
        cache._PIECE_SECONDS = 0.0  # what it has computed is written at once
    if evaluates_first:
        trainer.evaluate()
    trainer.train(resume_from_checkpoint=resume)
    evaluation, predictions = {}, 0
    if eval_rows:
        tokenised = Dataset.from_list(tokenised_rows(trainer.processing_class, len(eval_rows), seed=2))
        trainer.args.train_sampling_strategy = "group_by_length"  # transformers evaluates in that order, too

        def metrics(found: EvalPrediction) -> dict[str, Any]:
            apart = isinstance(found.label_ids, list)  # a batch each, or all as one
            labels = [row for batch in found.label_ids for row in batch] if apart else found.label_ids
            count = sum(map(len, found.predictions)) if apart else len(found.predictions)
            return {"rows": [count, *sorted([int(label) for label in row if label >= 0] for row in labels)]}

        trainer.compute_metrics = metrics
        predicted = trainer.predict(tokenised)
        evaluation, predictions = trainer.evaluate() | predicted.metrics, len(predicted.predictions)
        trainer.args.eval_do_concat_batches = False
        evaluation |= trainer.evaluate(metric_key_prefix="apart")
    return {
        "gradients": gradients.kept,
        "final": trained(trainer),
        "history": trainer.state.log_history,
        "evaluation": evaluation,
        "predictions": predictions,
        "reference_bytes": trainer.reference_bytes,
        "cache_batches": cache_batches,
        "processes": trainer.accelerator.num_processes,
        "rank": trainer.accelerator.process_index,
    }


def main() -> None:
    """`tiny_training.py FOLDER…`: train as each folder's options.json says, and write each process's result there."""
    torch.set_num_threads(1)
    for folder in map(Path, sys.argv[1:]):
        result = run_options(json.loads((folder / "options.json").read_text()))
        torch.save(result, folder / f"result-{result['rank']}.pt")
    if torch.distributed.is_initialized():
        # As in fsdp_gradients.py: not through a teardown that a gloo thread may abort after all the work is done.
        torch.distributed.barrier()
        os._exit(0)


if __name__ == "__main__":
    main()
