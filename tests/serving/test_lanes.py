"""The adapter is switched when the kind of a batch changes, not for every token, and is on for whoever comes next."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from selfaug.serving.generation import Model
from selfaug.serving.lanes import Lane, lanes_of


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


def test_lanes_of_one_model_share_its_switch(tuned) -> None:
    tuned.peft_config["default"].use_dora = True  # as for adapters whose rows can't mix
    base_lane, tuned_lane = lanes_of(tuned, None)
    tuned.peft_config["default"].use_dora = False
    want = steps(tuned_lane, "tuned")
    steps(base_lane, "base")
    torch.testing.assert_close(steps(tuned_lane, "tuned"), want)


def test_the_adapter_is_switched_once_for_an_answer(tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    switched = []
    whole = tuned.disable_adapter
    monkeypatch.setattr(tuned, "disable_adapter", lambda: switched.append(1) or whole())
    (lane,) = lanes_of(tuned, None)
    steps(lane, "base")
    assert len(switched) == 1
