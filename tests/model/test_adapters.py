"""Adapters whose base weights stay exact, each trained for real; and those that are refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    EvaConfig,
    HRAConfig,
    IA3Config,
    KasaConfig,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    OSFConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.lora.config import BdLoraConfig, MontecloraConfig, VeloraConfig
from torch import nn
from transformers import JambaConfig, JambaForCausalLM

from selfaug.errors import ModelError
from selfaug.model.adapters import (
    _EXACT_LORA_INITS,
    _EXACT_LORA_VARIANTS,
    _EXACT_TYPES,
    _lora_variants,
    changes_nothing_yet,
    fused_layers,
    require_exact,
    scale_adapter,
    why_not_exact,
    write_scaled_adapter,
)
from selfaug.model.fingerprint import fingerprint
from selfaug.model.hidden import reference_mode
from selfaug.model.reference import AdapterOff, FrozenCopy, FrozenModel
from selfaug.train.loss import alignment_loss
from selfaug.train.model_checks import uses_all_parameters
from tiny_models import RECURRENT, build, linear_names, make_docs, padded

NAME = "llama-untied"
INPUTS = padded(make_docs((5, 3), (9, 4)))
TARGETS = linear_names(NAME)
LM = {"task_type": "CAUSAL_LM", "target_modules": TARGETS}

EXACT: dict[str, PeftConfig] = {
    "lora": LoraConfig(**LM, lora_dropout=0.2),
    "rslora": LoraConfig(**LM, use_rslora=True),
    "dora": LoraConfig(**LM, use_dora=True),
    "lora-bias": LoraConfig(**LM, lora_bias=True),
    "lora-random": LoraConfig(**LM, init_lora_weights=False),
    "lora-eva": LoraConfig(**LM, init_lora_weights="eva", eva_config=EvaConfig()),
    "lora-gaussian": LoraConfig(**LM, init_lora_weights="gaussian"),
    "lora-mica": LoraConfig(**LM, init_lora_weights="mica"),
    "lora-orthogonal": LoraConfig(**LM, init_lora_weights="orthogonal"),
    "lora-head": LoraConfig(**LM, modules_to_save=["lm_head"]),
    "lora-embeddings-and-head": LoraConfig(**LM, modules_to_save=["lm_head", "embed_tokens"]),
    "lora-tokens": LoraConfig(**LM, trainable_token_indices=[3, 4]),
    "alora": LoraConfig(**LM, alora_invocation_tokens=INPUTS["input_ids"][0, :1].tolist()),
    "bdlora": LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "o_proj"],
        use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["o_proj"], nblocks=2),
    ),
    "monteclora": LoraConfig(**LM, monteclora_config=MontecloraConfig()),
    "velora": LoraConfig(**LM, velora_config=VeloraConfig()),
    "adalora": AdaLoraConfig(**LM, total_step=10, init_r=6, target_r=3),
    "loha": LoHaConfig(**LM),
    "lokr": LoKrConfig(**LM),
    "ia3": IA3Config(**LM, feedforward_modules=["down_proj"]),
    "oft": OFTConfig(**LM, oft_block_size=4, use_cayley_neumann=False),
    "vera": VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj"], r=4),
    "hra": HRAConfig(**LM),
    "osf": OSFConfig(**LM, effective_rank=4),
}

REFUSED: dict[str, PeftConfig] = {
    "pissa": LoraConfig(**LM, init_lora_weights="pissa"),
    "pissa, fast": LoraConfig(**LM, init_lora_weights="pissa_niter_4"),
    "olora": LoraConfig(**LM, init_lora_weights="olora"),
    "kasa": LoraConfig(**LM, kasa_config=KasaConfig()),
    "bias of all": LoraConfig(**LM, bias="all"),
    "repeated layers": LoraConfig(**LM, layer_replication=[(0, 2), (0, 2)]),
    "bias of lora's layers": LoraConfig(**LM, bias="lora_only"),
    "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "layer norms": LNTuningConfig(task_type="CAUSAL_LM"),
    "a type that was not shown": BOFTConfig(**LM, boft_block_size=4),
}


def logits(model) -> torch.Tensor:
    return model(
        input_ids=INPUTS["input_ids"], attention_mask=INPUTS["attention_mask"], use_cache=False
    ).logits


def train(model, steps: int = 3) -> None:
    """Real steps of the optimizer on the whole loss, from a start that is not the identity."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        alignment_loss(model, INPUTS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore:.lora_bias=True")  # it can't be merged, which is not wanted here
@pytest.mark.filterwarnings("ignore:lora with eva")  # of PEFT: memory, where it looks for its weights
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", EXACT)
def test_base_weights_stay_exact(kind, dtype):
    """Switched off after training, the adapter leaves the base model's logits, bit by bit."""
    with torch.no_grad():
        want = logits(build(NAME, dtype=dtype))
    model = get_peft_model(build(NAME, dtype=dtype), EXACT[kind]).train()
    assert why_not_exact(model) is None
    train(model)
    with reference_mode(model):
        off = logits(model)
    model.eval()
    with torch.no_grad():
        on = logits(model)
    assert torch.equal(off, want)
    assert (on - want).abs().max() > 0.01  # it did train
    assert fingerprint(model) == fingerprint(build(NAME, dtype=dtype))


def test_lora_on_expert_tensors():
    """A mixture-of-experts keeps its experts in one tensor, which PEFT wraps in another way."""
    name = "qwen3-moe"
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    with torch.no_grad():
        want = logits(build(name))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], target_parameters=parameters, r=4)
    model = get_peft_model(build(name), config).train()
    assert alignment_loss(model, INPUTS).alignment_sum.item() == 0.0
    train(model)
    with reference_mode(model):
        assert torch.equal(logits(model), want)
    with torch.no_grad():
        assert (logits(model) - want).abs().max() > 0.01
    assert fingerprint(model) == fingerprint(build(name))


def test_every_type_that_is_called_exact_is_shown():
    shown = {config.peft_type.value for config in EXACT.values()}
    assert shown == _EXACT_TYPES
    loras = [config for config in EXACT.values() if isinstance(config, LoraConfig)]
    assert {config.init_lora_weights for config in loras} == _EXACT_LORA_INITS - {None}
    assert set().union(*map(_lora_variants, loras)) == _EXACT_LORA_VARIANTS


@pytest.mark.filterwarnings("ignore")  # PEFT's own, about what we refuse
@pytest.mark.parametrize("kind", REFUSED)
def test_the_others_are_refused_with_a_hint(kind):
    model = get_peft_model(build(NAME), REFUSED[kind])
    with pytest.raises(ModelError, match="switching the adapter off") as error:
        AdapterOff(model)
    assert "frozen_copy" in error.value.hint
    with pytest.raises(ModelError):
        alignment_loss(model, INPUTS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama-untied", REFUSED["pissa"]),
        ("llama-untied", REFUSED["olora"]),
        ("llama-untied", REFUSED["kasa"]),
        ("llama-untied", REFUSED["repeated layers"]),
        ("phi-bias", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], bias="all")),
    ],
)
def test_the_refused_ones_do_change_the_base_model(name, config):
    """Otherwise the refusal would be for nothing."""
    model = get_peft_model(build(name), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
        want = logits(build(name))
    with reference_mode(model):
        assert not torch.equal(logits(model), want)


@pytest.mark.parametrize("trained", ["input_layernorm", "embed_tokens", "base_layer"])
def test_base_weights_that_train_beside_the_adapter_are_refused(trained):
    """With the adapter off, they are what they have become."""
    model = get_peft_model(build(NAME), LoraConfig(**LM, modules_to_save=["lm_head"]))
    require_exact(model)
    for name, parameter in model.named_parameters():
        if trained in name:
            parameter.requires_grad_(True)
    with pytest.raises(ModelError, match=f"weights of the base model train too.*{trained}"):
        require_exact(model)
    reference = FrozenCopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    of_copy, of_base = (
        alignment_loss(model, INPUTS, reference=one).alignment_sum.item()
        for one in (reference, FrozenModel(build(NAME)))
    )
    assert of_copy == pytest.approx(of_base, rel=1e-5)
    assert of_copy > 0.01


def test_one_bad_adapter_among_good_ones_is_refused():
    model = get_peft_model(build(NAME), EXACT["lora"])
    require_exact(model)
    model.add_adapter("second", LoraConfig(**LM, init_lora_weights="olora"))
    with pytest.raises(ModelError, match="olora"):
        require_exact(model)


def test_a_merged_adapter_is_refused():
    """Taking a merged adapter out again leaves the base weights rounded."""
    model = get_peft_model(build(NAME), EXACT["rslora"])
    train(model)
    model.merge_adapter()
    with pytest.raises(ModelError, match="merged"):
        require_exact(model)


def test_a_model_without_an_adapter_is_refused():
    """It would be compared with itself: alignment and drift of 0, whatever it has become."""
    with pytest.raises(ModelError, match="no adapter"):
        AdapterOff(build(NAME))


def test_a_scaled_adapter_lies_between_both_models():
    model = get_peft_model(build(NAME), LoraConfig(**LM, init_lora_weights=False))
    with model.disable_adapter():
        base = logits(model)
    changes = {
        name: module.get_delta_weight("default").detach().clone()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    tuned = logits(model)
    scale_adapter(model, 0.5)
    for name, module in model.named_modules():
        if name in changes:
            torch.testing.assert_close(module.get_delta_weight("default"), 0.5 * changes[name])
    scale_adapter(model, 2.0)
    torch.testing.assert_close(logits(model), tuned)
    scale_adapter(model, 0.0)
    torch.testing.assert_close(logits(model), base)


def test_a_scaled_adapter_is_written_as_it_was_measured(tmp_path: Path):
    """Of an embedding too, whose B has a name of its own."""
    settings = {**LM, "target_modules": [*TARGETS, "embed_tokens"], "init_lora_weights": False}
    model = get_peft_model(build(NAME), LoraConfig(**settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT: the embedding's own weights are written too
        model.save_pretrained(tmp_path / "trained")
    write_scaled_adapter(tmp_path / "trained", 0.5, tmp_path / "scaled")
    tuned = logits(model)
    scale_adapter(model, 0.5)
    assert not torch.allclose(logits(model), tuned)
    written = PeftModel.from_pretrained(build(NAME), str(tmp_path / "scaled"))
    torch.testing.assert_close(logits(written), logits(model))


def test_only_lora_can_be_scaled():
    with pytest.raises(ModelError, match="LoRA"):
        scale_adapter(get_peft_model(build(NAME), EXACT["ia3"]), 0.5)


@pytest.mark.parametrize("name", ["lora", "dora", "lora-embeddings-and-head", "lora-random", "ia3"])
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_of_lora_it_is_known_whether_it_changes_anything_yet(name: str):
    model = get_peft_model(build(NAME), EXACT[name])
    assert changes_nothing_yet(model) is (name not in ("lora-random", "ia3"))
    if weights := [weight for part, weight in model.named_parameters() if "lora_B" in part]:
        torch.nn.init.normal_(weights[-1])
        assert not changes_nothing_yet(model)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama-tied", []),
        ("lfm2", []),  # its out_proj is called
        ("qwen3_5_text", []),
        ("mamba", ["mixer.dt_proj", "mixer.out_proj", "mixer.x_proj"]),
        ("mamba2", ["mixer.out_proj"]),
        ("falcon_mamba", ["mixer.dt_proj", "mixer.out_proj", "mixer.x_proj"]),
        ("falcon_h1", ["mamba.out_proj"]),
    ],
)
def test_layers_that_state_space_kernels_do_not_call(name: str, found: list[str]) -> None:
    """PEFT refuses an adapter on these; with all other layers the model is made, and switched off it is exact."""
    model = build(name)
    assert fused_layers(model) == found
    config = LoraConfig(target_modules="all-linear", exclude_modules=found or None, task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config)
    assert why_not_exact(peft_model) is None
    targets = [key for key, module in peft_model.named_modules() if hasattr(module, "lora_A")]
    assert targets
    assert not any(key.endswith(end) for key in targets for end in found)


def test_jamba_calls_what_is_behind_norms_of_its_own() -> None:
    config = JambaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_experts=1, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
    )  # fmt: skip
    assert fused_layers(JambaForCausalLM(config)) == ["mamba.dt_proj", "mamba.out_proj"]


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern")  # PEFT's own, of MiniMax
@pytest.mark.parametrize("name", RECURRENT)
def test_all_that_trains_of_a_recurrent_model_has_a_gradient(name: str) -> None:
    """DDP waits for those that have none, unless it is told to look for them."""

    def without_gradient(exclude: list[str]) -> tuple[nn.Module, list[str]]:
        config = LoraConfig(
            target_modules="all-linear", exclude_modules=exclude or None, task_type="CAUSAL_LM"
        )
        model = get_peft_model(build(name), config).train()
        alignment_loss(model, INPUTS, reference=FrozenModel(build(name, seed=1))).loss.backward()
        return model, [
            one for one, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
        ]

    fused = fused_layers(build(name))
    model, without = without_gradient(fused)
    assert without == []
    assert uses_all_parameters(model) == (name != "minimax")  # which has experts
    if "mixer.dt_proj" in fused:
        model, without = without_gradient(["mixer.out_proj"])
        assert without
        assert all("dt_proj" in one for one in without)
        assert not uses_all_parameters(model)
