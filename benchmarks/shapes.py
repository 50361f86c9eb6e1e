"""Shapes of models and batches: random weights cost what trained ones cost."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

__all__ = ["RANK", "SHAPES", "Shape", "build_model", "build_rows", "build_tokenizer", "weights"]

RANK = 8
"""Of LoRA, on all linear layers."""


@dataclass(frozen=True)
class Shape:
    """A model and the batch of one optimizer step.

    Attributes:
        config: makes the model's config.
        batch: rows of a step, in one micro-batch.
        prompt: tokens of a prompt.
        completion: tokens of a completion.
        checkpointing: gradient checkpointing, for every variant.
    """

    config: Callable[[], PreTrainedConfig]
    batch: int
    prompt: int
    completion: int
    checkpointing: bool = False


_NO_IDS: dict[str, Any] = {"bos_token_id": None, "pad_token_id": 0, "eos_token_id": 1}

SHAPES = {
    "tiny": Shape(
        lambda: LlamaConfig(
            vocab_size=1024,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            **_NO_IDS,
        ),
        batch=4,
        prompt=56,
        completion=8,
    ),
    "smollm2": Shape(
        lambda: LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            **_NO_IDS,
        ),
        batch=4,
        prompt=472,
        completion=40,
    ),
    "qwen2.5-7b": Shape(
        lambda: Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32768,
            tie_word_embeddings=False,
            **_NO_IDS,
        ),
        batch=1,
        prompt=1888,
        completion=160,
        checkpointing=True,
    ),
    "llama3-8b": Shape(
        lambda: LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            **_NO_IDS,
        ),
        batch=1,
        prompt=1888,
        completion=160,
        checkpointing=True,
    ),
}


def build_model(shape: Shape, dtype: str, device: str) -> PreTrainedModel:
    """The model with random weights, the same for every variant; made on its device, in its dtype."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(shape.config(), dtype=getattr(torch, dtype))


def build_rows(shape: Shape, count: int) -> Dataset:
    """Rows of random tokens, all different, ready for the collator."""
    draw = random.Random(0)
    vocabulary = shape.config().vocab_size

    def row() -> dict[str, list[int]]:
        token_ids = [draw.randrange(2, vocabulary) for _ in range(shape.prompt + shape.completion)]
        return {"input_ids": token_ids, "labels": [-100] * shape.prompt + token_ids[shape.prompt :]}

    return Dataset.from_list([row() for _ in range(count)])


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Only what the trainers ask for: rows are token ids already."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def weights(shape: Shape) -> tuple[int, int, int]:
    """Numbers of weights: of the linear layers before the head, of their LoRA matrices, and of the head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return (
        sum(layer.weight.numel() for layer in layers),
        RANK * sum(layer.in_features + layer.out_features for layer in layers),
        head.weight.numel(),
    )
