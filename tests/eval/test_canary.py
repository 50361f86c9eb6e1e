from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM

from selfaug.eval.canary import record_canary, replay_canary
from selfaug.model.reference import AdapterOff


def tuned(dtype: torch.dtype = torch.float32, seed: int = 0) -> PeftModel:
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
            eos_token_id=2,
        )
    ).to(dtype)
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.05)
    return model.eval()


def prompts() -> dict[str, list[int]]:
    rng = random.Random(0)
    return {f"prompt {number}": [rng.randrange(3, 64) for _ in range(3 + number)] for number in range(6)}


def naive_nats(model: PeftModel, prompt: list[int]) -> float:
    ids = torch.tensor([prompt])
    with torch.no_grad():
        p = model.double()(input_ids=ids).logits[0, :-1].log_softmax(-1)
        with model.disable_adapter():
            q = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float((q.exp() * (q - p)).sum(-1).mean())


def test_the_record_has_each_prompts_drift_and_answer_and_they_come_back() -> None:
    model = tuned()
    record = record_canary(model, AdapterOff(model), prompts())
    assert replay_canary(record, model, AdapterOff(model)) == []
    assert record["dtype"] == "float32"
    assert record["tolerance_nats"] == pytest.approx(1e-4)
    for one in record["prompts"]:
        assert one["nats"] == pytest.approx(naive_nats(copy.deepcopy(model), one["ids"]), rel=1e-4, abs=1e-6)
        assert 0 <= one["sure_16_bits"] <= one["sure"] <= len(one["answer"]) <= 16
        assert one["sure"] > 0


@pytest.mark.parametrize("changed", ["adapter", "scale", "base", "weight"])
def test_another_model_is_found(changed: str) -> None:
    model = tuned()
    record = record_canary(model, AdapterOff(model), prompts())
    other = tuned(seed=1) if changed == "adapter" else tuned()
    with torch.no_grad():
        if changed == "scale":  # merged twice, say
            for name, weight in other.named_parameters():
                if "lora_B" in name:
                    weight.mul_(1.5)
        elif changed == "base":
            other.get_base_model().model.norm.weight.mul_(1.05)
        elif changed == "weight":
            other.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight[0, 0] += 3.0
    problems = replay_canary(record, other, AdapterOff(other))
    assert problems
    assert "canary prompts" in problems[0]


def test_a_smaller_vocabulary_is_another_model() -> None:
    model = tuned()
    record = record_canary(model, AdapterOff(model), {"a": [3, 63, 5]})
    other: Any = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "vocab_size": 32})).eval()
    (problem,) = replay_canary(record, other, None)
    assert "of another model" in problem


def test_without_a_reference_answers_alone_are_compared() -> None:
    model = tuned()
    record = record_canary(model, None, prompts())
    assert {one["nats"] for one in record["prompts"]} == {None}
    assert replay_canary(record, model, None) == []
    assert "the answers to" in replay_canary(record, tuned(seed=5), None)[0]


def test_bfloat16_has_a_tolerance_of_its_own_and_float32_weights_pass_it() -> None:
    exact = tuned()
    model = tuned(torch.bfloat16)
    record = record_canary(model, AdapterOff(model), prompts())
    assert record["tolerance_nats"] >= 5e-3
    # Served in float32 with the same weights: other rounding, the same model.
    exact.load_state_dict(model.state_dict())
    assert replay_canary(record, exact, AdapterOff(exact)) == []


def test_a_large_drift_may_differ_by_what_another_number_format_rounds() -> None:
    model = tuned()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(20)
    record = record_canary(model, AdapterOff(model), prompts())
    assert min(one["nats"] for one in record["prompts"]) > 0.02
    for share, same, other in ((1.01, False, True), (1.03, False, False)):
        rounded = {**record, "prompts": [{**one, "nats": share * one["nats"]} for one in record["prompts"]]}
        assert (replay_canary(rounded, model, AdapterOff(model)) == []) is same
        rounded["dtype"] = "bfloat16"
        assert (replay_canary(rounded, model, AdapterOff(model)) == []) is other


def test_what_is_recorded_right_after_training_is_without_dropout() -> None:
    model = tuned()
    expected = record_canary(model, AdapterOff(model), prompts())
    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        layer.lora_dropout["default"] = torch.nn.Dropout(0.9)
    model.train()
    state = torch.get_rng_state()
    assert record_canary(model, AdapterOff(model), prompts()) == expected
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_after_a_near_tie_are_not_compared() -> None:
    model = tuned()
    head = model.get_output_embeddings()
    with torch.no_grad():  # every token has a twin, whose logit is the same
        head.weight[32:] = head.weight[:32]
    record = record_canary(model, None, prompts())
    assert {one["sure"] for one in record["prompts"]} == {0}


def test_what_was_recorded_in_32_bits_and_is_served_in_16_is_judged_by_these() -> None:
    model, served = tuned(), tuned(torch.bfloat16)
    record = record_canary(model, AdapterOff(model), prompts())
    for one in record["prompts"]:  # from here on rounding in 16 bits could have chosen others
        one["sure_16_bits"] = 1
        one["answer"][1:] = [token ^ 1 for token in one["answer"][1:]]
    assert replay_canary(record, served, AdapterOff(served)) == []
    assert "the answers to" in replay_canary(record, model, AdapterOff(model))[0]


def test_what_is_computed_in_16_bits_is_judged_by_them() -> None:
    """Weights in 32 bits under autocast: a record of answers that 16 bits can change says so."""
    model = tuned()
    with torch.autocast("cpu", torch.bfloat16):
        record = record_canary(model, AdapterOff(model), prompts(), torch.bfloat16)
    assert record["dtype"] == "bfloat16"
    assert record["tolerance_nats"] >= 5e-3
    assert [one["sure"] for one in record["prompts"]] == [one["sure_16_bits"] for one in record["prompts"]]
    assert replay_canary(record, tuned(torch.bfloat16), AdapterOff(model)) == []
