"""Tiny random causal models of many architectures, and batches for them, in every layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    Mistral3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from selfaug.model.loading import auto_class

VOCABULARY = 131
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2}
# The part of a model that looks at images.
_SEES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama-tied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**_GROUPED, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=8, tie_word_embeddings=False),
    "gemma2-softcap": lambda: Gemma2Config(
        **_GROUPED, head_dim=8, final_logit_softcapping=3.0, sliding_window=16, attn_implementation="eager"
    ),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED, head_dim=8, sliding_window=16),
    "gemma3-multimodal": lambda: Gemma3Config(
        text_config={**_GROUPED, "head_dim": 8, "sliding_window": 16},
        vision_config=_SEES,
        mm_tokens_per_image=4,
    ),
    "mistral3": lambda: Mistral3Config(
        text_config={**_GROUPED, "model_type": "mistral", "head_dim": 8},
        vision_config={**_SEES, "model_type": "pixtral", "head_dim": 8},
        image_token_index=130,
        spatial_merge_size=1,
    ),
    "cohere-scale": lambda: CohereConfig(**_GROUPED, logit_scale=0.3),
    "granite-scale": lambda: GraniteConfig(**_GROUPED, logits_scaling=4.0, tie_word_embeddings=True),
    "gpt-neox": lambda: GPTNeoXConfig(**_SIZES, tie_word_embeddings=False),
    "phi-bias": lambda: PhiConfig(**_SIZES, tie_word_embeddings=False),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        **_GROUPED,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        mlp_only_layers=[],
    ),
}
ARCHITECTURES = sorted(CONFIGS)

_STATES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "pad_token_id": 0}
_DELTA_NET: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_FALCON: dict[str, Any] = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": _STATES,
    "falcon_mamba": _STATES,
    "mamba2": {**_STATES, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "lfm2": {**_GROUPED, "layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {**_GROUPED, **_DELTA_NET, "head_dim": 8},
    "falcon_h1": {**_GROUPED, **_FALCON},  # both in each layer
    "minimax": {**_GROUPED, "num_local_experts": 2, "block_size": 8},  # has a cache of its own
}
"""Models whose layers, all or some, keep a state instead of keys and values, by their types."""


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A random model whose distributions are neither flat nor certain, biases and norms included."""
    own = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
    config = (
        AutoConfig.for_model(name, **{**own, **RECURRENT[name]}) if name in RECURRENT else CONFIGS[name]()
    )
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    model = auto_class(config).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.to(dtype).eval()


def with_window(model: Path, folder: Path, tokens: int) -> Path:
    """A copy of a model's folder, with a window that whole prompts fit into: a token is a letter or two."""
    shutil.copytree(model, folder)
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, key: tokens}), encoding="utf-8")
    return folder


def linear_names(name: str) -> list[str]:
    """Names of the linear layers but the head, for an adapter's `target_modules`."""
    model = build(name)
    head = model.get_output_embeddings()
    linear = [
        key for key, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    ]
    return sorted({key.rpartition(".")[2] for key in linear})


class Doc(NamedTuple):
    """Token ids, the first `prompt` of which are prompt."""

    ids: list[int]
    prompt: int

    @property
    def labels(self) -> list[int]:
        return [-100] * self.prompt + self.ids[self.prompt :]


def make_docs(*shapes: tuple[int, int], seed: int = 0) -> list[Doc]:
    """Documents with the given numbers of prompt and completion tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Doc(torch.randint(1, VOCABULARY, (prompt + completion,), generator=generator).tolist(), prompt)
        for prompt, completion in shapes
    ]


def padded(docs: Sequence[Doc], side: str = "right", extra: int = 0) -> dict[str, Tensor]:
    """One document a row, padded to the longest plus `extra`."""
    width = max(len(doc.ids) for doc in docs) + extra
    batch = {
        "input_ids": torch.zeros(len(docs), width, dtype=torch.long),
        "labels": torch.full((len(docs), width), -100),
        "attention_mask": torch.zeros(len(docs), width, dtype=torch.long),
    }
    for row, doc in enumerate(docs):
        here = slice(width - len(doc.ids), width) if side == "left" else slice(0, len(doc.ids))
        batch["input_ids"][row, here] = torch.tensor(doc.ids)
        batch["labels"][row, here] = torch.tensor(doc.labels)
        batch["attention_mask"][row, here] = 1
    return batch


def packed(docs: Sequence[Doc]) -> dict[str, Tensor]:
    """All documents in one row, told apart by position ids (padding-free)."""
    return {
        "input_ids": torch.tensor([[token for doc in docs for token in doc.ids]]),
        "labels": torch.tensor([[label for doc in docs for label in doc.labels]]),
        "position_ids": torch.tensor([[position for doc in docs for position in range(len(doc.ids))]]),
    }
