"""Models that keep the documents of a packed row apart pass, and those that don't are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GptOssConfig,
    Lfm2Config,
    MambaConfig,
    OPTConfig,
    PreTrainedConfig,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from selfaug.errors import ModelError
from selfaug.model.packed_documents import require_documents_apart
from tiny_models import ARCHITECTURES, VOCABULARY, build, linear_names

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
NOT_APART: dict[str, PreTrainedConfig] = {
    "gpt_oss": GptOssConfig(**SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
    ),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "mamba": MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8),
    # Says so itself where the kernel for it is lacking.
    "lfm2": Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
}


def pack(documents: list[list[int]]) -> dict[str, Any]:
    """As trl packs them in training."""
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    return dict(collator([{"input_ids": ids} for ids in documents]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_that_goes_by_position_ids_keeps_documents_apart(name: str, dtype: torch.dtype) -> None:
    model = build(name, dtype=dtype)
    require_documents_apart(model, pack)
    require_documents_apart(model, lambda _: pytest.fail("it was looked at before"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NOT_APART)
def test_a_model_whose_documents_see_those_before_them_is_refused(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(NOT_APART[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.4)
    for _ in range(2):
        with pytest.raises(ModelError, match="does not keep packed documents apart") as error:
            require_documents_apart(model.to(dtype), pack)
    assert "padding_free" in str(error.value.hint)


def test_a_forward_that_knows_no_documents_is_refused() -> None:
    class Plain(nn.Module):
        """Takes token ids and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = build("llama-untied")
            self.config = self.inner.config

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.lm_head

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    with pytest.raises(ModelError, match=r"Plain does not keep .* apart .*position_ids"):
        require_documents_apart(Plain(), pack)


def test_the_look_leaves_no_trace() -> None:
    config = LoraConfig(
        target_modules=linear_names("qwen3"), lora_dropout=0.5, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = get_peft_model(build("qwen3"), config).train()
    state = torch.get_rng_state()
    require_documents_apart(model, pack)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
