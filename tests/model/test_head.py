"""The head: found in every architecture, checked against the model's own logits, refused where it is another."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    MiniCPM3Config,
    PreTrainedConfig,
    RecurrentGemmaConfig,
    xLSTMConfig,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from selfaug import alignment_loss
from selfaug.errors import ModelError
from selfaug.model.head import find_head, verify_head
from selfaug.model.hidden import hidden_states
from tiny_models import ARCHITECTURES, build, linear_names, make_docs, packed, padded

DOCS = make_docs((5, 3), (9, 4))


class ScaledLlama(LlamaForCausalLM):
    """Multiplies its logits by a factor that no field of its config names."""

    factor = 1.1

    def forward(self, *args, **kwargs) -> CausalLMOutputWithPast:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * self.factor
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_of_every_architecture_is_verified(name, dtype):
    model = build(name, dtype=dtype)
    for inputs in (padded(DOCS), packed(DOCS)):
        verify_head(model, find_head(model), inputs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_is_verified_under_autocast_and_in_training_mode(name):
    model = build(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        verify_head(model, find_head(model), padded(DOCS))
    assert model.training


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_is_verified_inside_an_adapter(name):
    config = LoraConfig(target_modules=linear_names(name), lora_dropout=0.5, task_type="CAUSAL_LM")
    model = get_peft_model(build(name), config).train()
    verify_head(model, find_head(model), padded(DOCS))


@pytest.mark.parametrize(
    ("name", "scale", "softcap", "bias"),
    [
        ("llama-tied", 1.0, None, False),
        ("gemma2-softcap", 1.0, 3.0, False),
        ("cohere-scale", 0.3, None, False),
        ("granite-scale", 0.25, None, False),
        ("phi-bias", 1.0, None, True),
    ],
)
def test_scale_softcap_and_bias_are_found(name, scale, softcap, bias):
    model = build(name)
    head = find_head(model)
    assert (head.scale, head.softcap, head.bias is not None) == (scale, softcap, bias)
    assert head.weight is model.get_output_embeddings().weight  # its gradient reaches the parameter itself


def test_the_bound_of_logits_is_found_under_recurrent_gemmas_name_too():
    config = RecurrentGemmaConfig(
        vocab_size=131,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        logits_soft_cap=2.0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_()  # so that the bound is felt
        model.model.embed_tokens.weight.normal_()
    assert find_head(model).softcap == 2.0
    batch = padded(DOCS)
    verify_head(model, find_head(model), batch)
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj", "linear_x"], task_type="CAUSAL_LM"))
    result = alignment_loss(tuned, batch)
    own = model(**batch, use_cache=False)
    torch.testing.assert_close(result.nll_sum / result.completion_tokens, own.loss, rtol=1e-5, atol=1e-5)
    assert float(result.alignment_sum.detach()) == pytest.approx(0.0, abs=1e-6)


_SIZES = {"vocab_size": 131, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
_LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


@pytest.mark.parametrize(
    ("config", "softcap"),
    [
        # Divides by what its config calls logits_scaling before the head.
        (
            MiniCPM3Config(
                **_SIZES, **_LATENT, num_attention_heads=4, intermediate_size=48, dim_model_base=16
            ),
            None,
        ),
        (xLSTMConfig(**_SIZES, num_heads=2, chunk_size=16, output_logit_soft_cap=2.0), 2.0),
    ],
)
def test_a_head_that_another_name_or_place_of_a_factor_would_change(
    config: PreTrainedConfig, softcap: float | None
):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_()
    head = find_head(model)
    assert (head.scale, head.softcap) == (1.0, softcap)
    verify_head(model, head, padded(DOCS))


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float32, 1.1), (torch.float32, 1.001), (torch.bfloat16, 1.1), (torch.bfloat16, 0.95)],
)
def test_a_model_that_makes_its_logits_differently_is_refused(dtype, factor):
    model = build("llama-untied", dtype=dtype)
    model.__class__ = ScaledLlama
    model.factor = 1.0
    verify_head(model, find_head(model), padded(DOCS))
    model.factor = factor
    with pytest.raises(ModelError, match="does not reproduce") as error:
        verify_head(model, find_head(model), padded(DOCS))
    assert "alpha=0" in error.value.hint


@pytest.mark.parametrize("adapter", [False, True])
def test_a_model_prepared_for_mixed_precision_wants_autocast_around_the_loss(adapter):
    model = build("llama-untied")
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    AcceleratorState._reset_state(reset_partial_state=True)  # of trainers in earlier tests
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    try:
        model = accelerator.prepare(model)
        with pytest.raises(ModelError, match="does not reproduce") as error:
            verify_head(model, find_head(model), padded(DOCS))
        assert "with accelerator.autocast():" in error.value.hint
        with accelerator.autocast():
            verify_head(model, find_head(model), padded(DOCS))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", ["gemma2-softcap", "cohere-scale", "granite-scale", "phi-bias"])
def test_a_head_that_lacks_what_the_architecture_does_is_refused(name):
    """What would happen if a library renamed the config field that we read."""
    model = build(name)
    plain = type(find_head(model))(find_head(model).weight)
    with pytest.raises(ModelError, match="does not reproduce"):
        verify_head(model, plain, padded(DOCS))


def test_nan_logits_are_refused():
    model = build("llama-untied")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ModelError, match="no numbers"):
        verify_head(model, find_head(model), padded(DOCS))


def test_lora_on_the_head_is_refused():
    model = get_peft_model(build("llama-untied"), LoraConfig(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ModelError, match="head") as error:
        find_head(model)
    assert "modules_to_save" in error.value.hint


def test_tokens_that_train_in_a_tied_head_have_a_hint_of_their_own():
    """Nobody has named the head there: PEFT wraps it along with the embedding."""
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 4])
    with pytest.raises(ModelError, match="head") as error:
        find_head(get_peft_model(build("llama-tied"), config))
    assert "trainable_token_indices" in error.value.hint
    assert "target_modules" not in error.value.hint
    advised = LoraConfig(
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
        ensure_weight_tying=True,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(build("llama-tied"), advised)
    verify_head(model, find_head(model), padded(DOCS))
    find_head(get_peft_model(build("llama-untied"), config))  # whose head is another weight


@pytest.mark.parametrize("numbers", [0, 40])
def test_a_head_that_is_sharded_out_of_sight_is_refused(numbers):
    """As FSDP's first version and DeepSpeed's ZeRO-3 leave a weight outside of the forward pass."""
    model = build("llama-untied")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flatten()[:numbers])
    with pytest.raises(ModelError, match="not whole") as error:
        find_head(model)
    assert "FSDP2" in error.value.hint


def test_modules_to_save_has_a_trained_and_a_reference_head():
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(build("llama-untied"), config)
    tuned, reference = find_head(model), find_head(model, reference=True)
    assert tuned.weight.requires_grad
    assert tuned.weight is not reference.weight
    assert torch.equal(tuned.weight, reference.weight)
    with torch.no_grad():
        tuned.weight.mul_(2.0)
    verify_head(model, find_head(model), padded(DOCS))
    with pytest.raises(ModelError):
        verify_head(model, reference, padded(DOCS))


def test_another_adapter_is_active_than_the_one_that_trains_the_head():
    trains_head = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(build("llama-untied"), trains_head, adapter_name="mine")
    with torch.no_grad():
        find_head(model).weight.mul_(2.0)
    model.add_adapter("other", LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("other")
    assert find_head(model).weight is find_head(model, reference=True).weight
    verify_head(model, find_head(model), padded(DOCS))


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ModelError, match="no output embeddings") as error:
        find_head(build("llama-untied").model)
    assert "AutoModelForCausalLM" in error.value.hint


def test_the_check_draws_no_random_number():
    model = build("llama-untied").train()
    state = torch.get_rng_state()
    verify_head(model, find_head(model), padded(DOCS))
    assert torch.equal(torch.get_rng_state(), state)


def test_head_times_hidden_states_are_the_logits_of_every_position():
    """Against the model's own forward without any hook of ours."""
    for name in ARCHITECTURES:
        model, inputs = build(name), padded(DOCS)
        with torch.no_grad():
            want = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            hidden, output = hidden_states(model, inputs)
        assert output.logits.shape[1] == 1
        torch.testing.assert_close(find_head(model).logits(hidden), want, rtol=1e-5, atol=1e-5)
