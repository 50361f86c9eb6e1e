"""Merging: the same logits as with the adapter beside the weights, or an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, OSFConfig, get_peft_model
from torch import nn

from selfaug.errors import ModelError
from selfaug.model.merging import merge
from tiny_models import build, linear_names

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def moved(name: str, config: Any) -> Any:
    """A model with an adapter, all of whose numbers are as if trained."""
    model = get_peft_model(build(name), config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


def lora(*targets: str, **options: Any) -> LoraConfig:
    return LoraConfig(target_modules=list(targets), r=3, task_type="CAUSAL_LM", **options)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama-tied", lora(*linear_names("llama-tied"))),
        ("llama-tied", lora("q_proj", use_dora=True)),
        ("llama-tied", OSFConfig(target_modules=["q_proj"], effective_rank=0.5, task_type="CAUSAL_LM")),
        ("llama-untied", lora("q_proj", "embed_tokens")),
        ("qwen3-moe", lora(target_parameters=["mlp.experts.gate_up_proj"])),
        ("gemma3-multimodal", lora("q_proj")),
    ],
)
@torch.no_grad()
def test_the_merged_model_is_the_one_with_its_adapter(name: str, config: Any) -> None:
    model = moved(name, config)
    base, tuned = build(name)(input_ids=IDS).logits, model(input_ids=IDS).logits
    merged = merge(model)
    torch.testing.assert_close(merged(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
    assert float((tuned - base).abs().max()) > 0.01
    assert not merged.training


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")  # of peft, too
@pytest.mark.parametrize("targets", [("q_proj", "embed_tokens"), ("embed_tokens",)])
def test_an_embedding_that_is_the_head_too_is_refused(targets: tuple[str, ...]) -> None:
    """In training the head had the base model's weight."""
    with pytest.raises(ModelError, match="another model") as error:
        merge(moved("llama-tied", lora(*targets)))
    assert "unmerged" in error.value.hint


def test_a_model_that_has_diverged_is_merged_as_it_is() -> None:
    """Whoever asks it says so."""
    model = moved("llama-untied", lora("q_proj"))
    nn.init.constant_(model.base_model.model.model.norm.weight, float("nan"))
    assert merge(model)(input_ids=IDS).logits.isnan().all()


def test_a_model_that_this_device_can_not_run_is_merged_unseen() -> None:
    """As those are whose layers have kernels for a GPU alone."""
    model = moved("llama-untied", lora("q_proj"))
    tuned = model(input_ids=IDS).logits

    def refuse(*_: Any) -> None:
        raise RuntimeError("Expected x.is_cuda() to be true, but got false.")

    refusing = model.get_base_model().model.layers[0].register_forward_pre_hook(refuse)
    merged = merge(model)
    refusing.remove()
    torch.testing.assert_close(merged(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
