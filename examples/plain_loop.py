"""SelfAug in a plain training loop: peft and torch, no trainer.

python examples/plain_loop.py [MODEL]
"""

from __future__ import annotations

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug import alignment_loss
from selfaug.core.positions import count_tokens
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer

ROWS = [
    (
        "Report: revenue of Norvik rose to $12 million.\nQuestion: What was the revenue?\n",
        "ANSWER: $12 million",
    ),
    ("Report: Talon lost 3 % of its customers.\nQuestion: How many customers did it lose?\n", "ANSWER: 3 %"),
    ("Report: Orison opened 7 shops in Ghent.\nQuestion: Where are the shops?\n", "ANSWER: Ghent"),
    ("Report: margins at Belmar fell to 9 %.\nQuestion: What was the margin?\n", "ANSWER: 9 %"),
]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> dict[str, torch.Tensor]:
    """Token ids, and labels that are -100 on the prompt."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    completion_ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids, labels = prompt_ids + completion_ids, [-100] * len(prompt_ids) + completion_ids
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.ones(len(ids)),
    }


def collate(rows: list[dict[str, torch.Tensor]], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Rows of one length, padded on the right, where the model is."""
    fill = {"input_ids": pad, "labels": -100, "attention_mask": 0}
    return {
        name: pad_sequence([row[name] for row in rows], True, value).to(device)
        for name, value in fill.items()
    }


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[tuple[str, str]],
    *,
    steps: int,
    micro_batch: int = 2,
    alpha: float = 0.5,
    learning_rate: float = 5e-4,
) -> list[tuple[float, float]]:
    """nll and alignment loss of each step; each step takes all rows, `micro_batch` at a time."""
    encoded = [encode(tokenizer, *row) for row in rows]
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    history = []
    for step in range(steps):
        groups = [encoded[i : i + micro_batch] for i in range(0, len(encoded), micro_batch)]
        batches = [collate(group, tokenizer.pad_token_id, model.device) for group in groups]
        # Counted over the whole step: the split into micro-batches then changes nothing.
        counts = sum(count_tokens(batch["labels"], batch["attention_mask"]) for batch in batches)
        completion_tokens, aligned_positions = counts.tolist()
        nll = alignment = 0.0
        for batch in batches:
            result = alignment_loss(
                model,
                batch,
                alpha=alpha,
                completion_tokens=completion_tokens,
                aligned_positions=aligned_positions,
                step=step,
            )
            result.loss.backward()
            nll += result.nll_sum.item() / completion_tokens
            alignment += result.alignment_sum.item() / aligned_positions
        optimizer.step()
        optimizer.zero_grad()
        history.append((nll, alignment))
    return history


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else DEMO_MODEL
    results = train(load_model(name, dtype="float32"), load_tokenizer(name), ROWS, steps=10)
    for number, (nll, alignment) in enumerate(results, 1):
        print(f"step {number:2d}   nll {nll:.4f}   alignment loss {alignment:.5f}")
