"""The adapter is switched when the kind of a batch changes, not for every token, and is on for whoever comes next."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from selfaug.serving import lanes
from selfaug.serving.generation import Model
from selfaug.serving.lanes import Lane, lanes_of, rows_can_mix


@pytest.fixture
def tuned(tiny_model_dir):
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return peft_model.eval()


def steps(lane: Lane, model: Model) -> torch.Tensor:
    """Logits of three tokens of one request."""
    with torch.inference_mode():
        found = [lane.join([[5, 6, 7]], [model])]
        for _ in range(3):
            found.append(lane.step(found[-1].argmax(-1)))
    lane.clear()
    return torch.cat(found)


def test_rows_of_either_model_are_that_models_whatever_came_before(tuned) -> None:
    (lane,) = lanes_of(tuned, None)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        want_tuned = tuned(ids).logits[:, -1]
        with tuned.disable_adapter():
            want_base = tuned(ids).logits[:, -1]
    assert not torch.allclose(want_tuned, want_base)
    for _ in range(2):
        torch.testing.assert_close(steps(lane, "base")[:1], want_base)
        torch.testing.assert_close(steps(lane, "tuned")[:1], want_tuned)
    with torch.inference_mode():
        mixed = lane.join([[5, 6, 7], [5, 6, 7]], ["base", "tuned"])
    torch.testing.assert_close(mixed, torch.cat([want_base, want_tuned]))
    lane.clear()
    steps(lane, "base")
    lane.settle()
    with torch.inference_mode():
        torch.testing.assert_close(tuned(ids).logits[:, -1], want_tuned)


@pytest.mark.filterwarnings("ignore:.lora_bias=True")  # it can't be merged, which nobody does here
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "lora_bias": True}], ids=["lora", "rslora-bias"]
)
def test_rows_beside_those_of_the_other_model_are_as_if_alone(tiny_model_dir, options) -> None:
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)
    ).eval()
    (lane,) = lanes_of(tuned, None)
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    models: list[Model] = ["base", "tuned", "base"]
    alone: list[list[torch.Tensor]] = []
    with torch.inference_mode():
        for prompt, model in zip(prompts, models, strict=True):
            alone.append([lane.join([prompt], [model])])
            for _ in range(3):
                alone[-1].append(lane.step(alone[-1][-1].argmax(-1)))
            lane.clear()
        # The first two begin together, the third joins them; the tuned one leaves first.
        found = [[logits[None]] for logits in lane.join(prompts[:2], models[:2])]
        for logits, rows in zip(
            lane.step(torch.cat([one[-1].argmax(-1) for one in found])), found, strict=True
        ):
            rows.append(logits[None])
        found.append([lane.join(prompts[2:], models[2:])])
        for logits, rows in zip(
            lane.step(torch.cat([one[-1].argmax(-1) for one in found])), found, strict=True
        ):
            rows.append(logits[None])
        lane.keep([0, 2])
        left = [found[0], found[2]]
        for logits, rows in zip(
            lane.step(torch.cat([one[-1].argmax(-1) for one in left])), left, strict=True
        ):
            rows.append(logits[None])
    assert [len(rows) for rows in found] == [4, 3, 3]
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(torch.cat(one), torch.cat(other[: len(one)]))


def test_another_adapter_is_apart_by_rows_as_the_first_was(tuned) -> None:
    (lane,) = lanes_of(tuned, None)
    with torch.inference_mode():
        base, first = lane.join([[5, 6, 7], [5, 6, 7]], ["base", "tuned"])
    lane.clear()
    tuned.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    lane.use_adapter("second")
    tuned.delete_adapter("default")
    assert rows_can_mix(tuned)
    with torch.inference_mode():
        mixed = lane.join([[5, 6, 7], [5, 6, 7]], ["base", "tuned"])
        lane.settle()
        torch.testing.assert_close(mixed[0], base)
        torch.testing.assert_close(mixed[1], tuned(torch.tensor([[5, 6, 7]])).logits[0, -1])
    assert not torch.allclose(mixed[1], first)


def test_layers_of_another_adapter_do_not_matter(tuned) -> None:
    """The one that is exchanged stays until the new one has proven itself, and its layers stay wrapped."""
    tuned.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    lanes_of(tuned, None)[0].use_adapter("second")
    assert rows_can_mix(tuned)
    tuned.delete_adapter("default")
    assert rows_can_mix(tuned)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")
@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate_proj.weight"]},
    ],
    ids=["dora", "trained-head", "embeddings", "parameters"],
)
def test_adapters_that_cannot_be_off_for_some_rows(tiny_model_dir, options) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    settings = {"r": 4, "target_modules": "all-linear", **options}
    assert not rows_can_mix(get_peft_model(model, LoraConfig(**settings)).eval())


def test_experts_see_tokens_of_all_rows_in_one_list(tiny_model_dir) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)

    class Expert(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.inner(states.flatten(0, 1)).view(states.shape)

    model.model.layers[0].mlp = Expert(model.model.layers[0].mlp)
    assert not rows_can_mix(get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")).eval())


def test_lanes_of_one_model_share_its_switch(tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "rows_can_mix", lambda _: False)
    base_lane, tuned_lane = lanes_of(tuned, None)
    want = steps(tuned_lane, "tuned")
    steps(base_lane, "base")
    torch.testing.assert_close(steps(tuned_lane, "tuned"), want)


def test_the_adapter_is_switched_once_for_an_answer(tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    switched = []
    whole = tuned.base_model.disable_adapter_layers
    monkeypatch.setattr(tuned.base_model, "disable_adapter_layers", lambda: switched.append(1) or whole())
    (lane,) = lanes_of(tuned, None)
    steps(lane, "base")
    assert len(switched) == 1


def test_rows_of_the_base_model_that_join_tuned_ones_switch_nothing(
    tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched = []
    whole = tuned.base_model.disable_adapter_layers
    monkeypatch.setattr(tuned.base_model, "disable_adapter_layers", lambda: switched.append(1) or whole())
    (lane,) = lanes_of(tuned, None)
    with torch.inference_mode():
        lane.join([[5, 6, 7]], ["tuned"])
        lane.join([[5, 6, 7]], ["base"])
        lane.step(torch.tensor([3, 4]))
    assert not switched
