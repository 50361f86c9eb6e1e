"""Hidden states through the root's forward; evaluation and reference mode leave everything as it was."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

from selfaug.errors import ModelError
from selfaug.model.head import find_head, verify_head
from selfaug.model.hidden import (
    adapter_off,
    causal_model,
    evaluation_mode,
    hidden_states,
    reference_mode,
    unwrap,
)
from tiny_models import ARCHITECTURES, build, linear_names, make_docs, packed, padded

DOCS = make_docs((5, 3), (9, 4))


class Wrapper(nn.Module):
    """As DDP wraps: `module` inside, no config of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


class Engine(Wrapper):
    """As DeepSpeed and FSDP wrap: what the model inside has, `config` included, the wrapper has too."""

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def adapted(name: str = "llama-tied", **options):
    config = LoraConfig(target_modules=linear_names(name), lora_dropout=0.5, task_type="CAUSAL_LM", **options)
    model = get_peft_model(build(name), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_states_are_what_enters_the_head(name):
    """Those that transformers itself reports as the last ones, after the final norm."""
    model, inputs = build(name), padded(DOCS)
    with torch.no_grad():
        hidden, output = hidden_states(model, inputs)
        backbone = model.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert torch.equal(hidden, backbone.last_hidden_state)
    assert output.logits.shape == (2, 1, 131)


def test_labels_are_not_handed_to_the_model():
    model, inputs = build("llama-tied"), packed(DOCS)
    _, output = hidden_states(model, inputs)
    assert output.loss is None
    assert output.past_key_values is None


def test_the_hook_is_gone_afterwards_even_after_an_error():
    model = build("llama-tied")
    hidden_states(model, padded(DOCS))
    with pytest.raises(IndexError):
        hidden_states(model, {"input_ids": torch.tensor([[10**6, 1]])})
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 131)


def test_wrappers_are_seen_through():
    model = adapted()
    compiled = torch.compile(Wrapper(model), backend="eager")
    assert unwrap(Wrapper(Wrapper(model))) is model
    assert unwrap(compiled) is model
    assert causal_model(compiled) is model.get_base_model()
    assert unwrap(build_plain := build("llama-tied")) is build_plain
    model.eval()
    direct, _ = hidden_states(model, padded(DOCS))
    wrapped, _ = hidden_states(Wrapper(model), padded(DOCS))
    assert torch.equal(direct, wrapped)


def test_the_adapter_is_switched_off_inside_a_wrapper_that_passes_attributes_on():
    """Otherwise the reference would be the tuned model, and the alignment 0."""
    model = adapted()
    engine = Engine(model).train()
    assert engine.config is model.config
    assert unwrap(engine) is model
    with torch.no_grad():
        want, _ = hidden_states(build("llama-tied"), padded(DOCS))
    with reference_mode(engine):
        assert torch.equal(hidden_states(engine, padded(DOCS))[0], want)


def test_the_head_of_a_wrapped_model_may_differ_by_its_rounding():
    model = build("cohere-scale", dtype=torch.bfloat16)
    verify_head(Wrapper(model), find_head(model), padded(DOCS))


def test_prompt_tuning_is_refused():
    model = get_peft_model(
        build("llama-tied"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(ModelError, match="does not hand") as error:
        hidden_states(model, padded(DOCS))
    assert "LoRA" in error.value.hint


def test_a_model_that_calls_its_head_twice_is_refused():
    model = build("llama-untied")

    class Twice(type(model)):  # type: ignore[misc]
        def forward(self, *args, **kwargs):
            self.lm_head(torch.zeros(1, 1, 32))
            return super().forward(*args, **kwargs)

    model.__class__ = Twice
    with pytest.raises(ModelError, match="in one call"):
        hidden_states(model, padded(DOCS))


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "active": list(unwrap(model).active_adapters),
        "disabled": [m.disable_adapters for m in model.modules() if hasattr(m, "disable_adapters")],
        "grad_enabled": torch.is_grad_enabled(),
        "random": torch.get_rng_state().tolist(),
    }


@pytest.fixture(params=["plain", "frozen half", "two adapters", "modules_to_save"])
def uneven(request):
    """A model whose flags are not all alike."""
    model = adapted(
        "llama-untied", modules_to_save=["lm_head"] if request.param == "modules_to_save" else None
    )
    if request.param == "two adapters":
        model.add_adapter("second", LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
        model.set_adapter("second")
    model.train()
    model.get_base_model().model.layers[0].eval()
    if request.param == "frozen half":
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained[::2]:
            parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize("mode", [evaluation_mode, reference_mode])
@pytest.mark.parametrize("fails", [False, True])
def test_modes_leave_everything_as_it_was(uneven, mode, fails):
    before = snapshot(uneven)

    def use() -> None:
        with mode(uneven):
            assert not torch.is_grad_enabled()
            assert not any(module.training for module in uneven.modules())
            hidden_states(uneven, padded(DOCS))
            torch.rand(3)
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            use()
    else:
        use()
    assert snapshot(uneven) == before


def test_reference_mode_keeps_gradients_that_are_accumulating(uneven):
    hidden_states(uneven, padded(DOCS))[0].sum().backward()
    before = {n: p.grad.clone() for n, p in uneven.named_parameters() if p.grad is not None}
    with reference_mode(uneven):
        hidden_states(uneven, padded(DOCS))
    assert before
    for name, parameter in uneven.named_parameters():
        assert (parameter.grad is None) == (name not in before)
        assert parameter.grad is None or torch.equal(parameter.grad, before[name])


def test_reference_mode_is_the_base_model_and_evaluation_mode_is_not():
    base = build("llama-tied")
    model = adapted("llama-tied").train()
    with torch.no_grad():
        want, _ = hidden_states(base, padded(DOCS))
    with reference_mode(model):
        assert torch.equal(hidden_states(model, padded(DOCS))[0], want)
    with evaluation_mode(model):
        one, two = (hidden_states(model, padded(DOCS))[0] for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, want, atol=1e-3)


def test_reference_mode_without_an_adapter_is_evaluation_mode():
    model = build("phi-bias").train()
    with reference_mode(model):
        assert not model.training
    assert model.training


def test_an_adapter_that_is_off_stays_off_when_it_is_switched_off_again():
    model = adapted("llama-tied").eval()
    with torch.no_grad():
        tuned = hidden_states(model, padded(DOCS))[0]
        with adapter_off(model):
            base = hidden_states(model, padded(DOCS))[0]
            with adapter_off(model):
                assert torch.equal(hidden_states(model, padded(DOCS))[0], base)
            assert torch.equal(hidden_states(model, padded(DOCS))[0], base)
            with model.disable_adapter():
                assert torch.equal(hidden_states(model, padded(DOCS))[0], base)
            assert torch.equal(hidden_states(model, padded(DOCS))[0], base)
        assert torch.equal(hidden_states(model, padded(DOCS))[0], tuned)
    assert not torch.equal(tuned, base)
