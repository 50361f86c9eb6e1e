"""The trainer with mixtures of experts, and their router's loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import run
from transformers import (
    AutoModelForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    JambaConfig,
    Llama4TextConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from selfaug.train.model_checks import has_no_experts, uses_all_parameters
from tiny_models import CONFIGS, build


def test_experts_may_leave_parameters_unused() -> None:
    """And so may what looks at images, of which there are none."""
    for name in CONFIGS:
        assert uses_all_parameters(build(name)) == (
            name not in ("qwen3-moe", "gemma3-multimodal", "mistral3")
        )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_router_loss_is_added_once_and_logged_apart(
    accumulation: int, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def model(coefficient: float) -> Qwen3MoeForCausalLM:
        torch.manual_seed(0)
        return Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=16,
                mlp_only_layers=[],
                max_position_embeddings=256,
                router_aux_loss_coef=coefficient,
                eos_token_id=tiny_tokenizer.eos_token_id,
                pad_token_id=tiny_tokenizer.pad_token_id,
                bos_token_id=None,
            )
        )

    changes = {
        "tokenizer": tiny_tokenizer,
        "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        "different": True,
        "max_steps": 1,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    _, with_router = run(model(0.5), tmp_path / "a", **changes)
    _, without = run(model(0.0), tmp_path / "b", **changes)
    entry, plain = with_router.state.log_history[0], without.state.log_history[0]
    assert "aux_loss" not in plain
    assert entry["aux_loss"] > 0.5
    assert entry["nll"] == pytest.approx(plain["nll"], rel=1e-5)
    assert entry["alignment_loss"] == pytest.approx(plain["alignment_loss"], rel=1e-4)
    assert entry["loss"] == pytest.approx(plain["loss"] + 0.5 * entry["aux_loss"], rel=1e-4)


def test_a_model_of_a_family_with_experts_that_has_none_trains_without_a_router_loss(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Its config has the router's fields all the same."""
    assert [has_no_experts(JambaConfig(num_experts=experts)) for experts in (1, 2)] == [True, False]
    model = GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=48,
            shared_intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["full_attention"] * 2,
            mamba_n_heads=4,
            num_local_experts=0,
            max_position_embeddings=256,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    _, trainer = run(model, tmp_path, tokenizer=tiny_tokenizer, lora=lora, max_steps=1)
    assert not model.config.output_router_logits
    assert trainer.state.log_history[0]["nll"] > 0
    assert "aux_loss" not in trainer.state.log_history[0]


def test_a_model_whose_output_has_no_router_loss_trains_without_one(
    tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its config has a coefficient of one all the same."""
    config = Llama4TextConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        interleave_moe_layer_step=1,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=None,
    )
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    model = AutoModelForCausalLM.from_config(config)
    _, trainer = run(model, tmp_path, tokenizer=tiny_tokenizer, lora=lora, max_steps=1)
    assert "Llama4ForCausalLM has no loss of its router" in caplog.text
    assert not model.config.output_router_logits
    assert trainer.state.log_history[0]["nll"] > 0
    assert "aux_loss" not in trainer.state.log_history[0]
