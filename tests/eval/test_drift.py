"""Drift against a float64 loop over tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from selfaug.core.positions import Positions
from selfaug.errors import DataError, ModelError
from selfaug.eval.drift import measure_drift
from selfaug.model.reference import AdapterOff, FrozenCopy
from tiny_models import build, linear_names, make_docs

SEQUENCES = [doc.ids for doc in make_docs((9, 0), (4, 0), (17, 0), (2, 0), (1, 0), (11, 0))]


def adapted(name: str, scale: float = 0.1) -> nn.Module:
    config = LoraConfig(target_modules=linear_names(name), r=4, lora_dropout=0.3, task_type="CAUSAL_LM")
    model = get_peft_model(build(name), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model


def naive(tuned: nn.Module, base: nn.Module, starts: list[int]) -> tuple[list[list[float]], list[bool]]:
    tuned, base = copy.deepcopy(tuned).double().eval(), copy.deepcopy(base).double().eval()
    values, agreements = [], []
    for ids, start in zip(SEQUENCES, starts, strict=True):
        with torch.no_grad():
            p = torch.log_softmax(tuned(input_ids=torch.tensor([ids])).logits[0], -1)
            q = torch.log_softmax(base(input_ids=torch.tensor([ids])).logits[0], -1)
        values.append([])
        for token in range(max(1, start), len(ids)):
            values[-1].append((q[token - 1].exp() * (q[token - 1] - p[token - 1])).sum().item())
            agreements.append(bool(p[token - 1].argmax() == q[token - 1].argmax()))
    return values, agreements


@pytest.mark.parametrize("name", ["llama-tied", "gemma2-softcap", "phi-bias", "qwen2"])
@pytest.mark.parametrize("starts", [None, [4, 0, 10, 1, 1, 11]])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_drift_equals_the_float64_loop(name, starts, batch_size):
    model = adapted(name).train()
    got = measure_drift(model, SEQUENCES, starts=starts, batch_size=batch_size)
    values, agreements = naive(model, build(name), starts or [1] * len(SEQUENCES))
    flat = [value for row in values for value in row]
    assert got.tokens == len(flat)
    assert got.mean == pytest.approx(sum(flat) / len(flat), rel=1e-5)
    assert got.top1_agreement == pytest.approx(sum(agreements) / len(agreements))
    assert 0 < got.top1_agreement < 1
    for mine, theirs in zip(got.per_token, values, strict=True):  # each at its own sequence, order kept
        assert mine == pytest.approx(theirs, rel=1e-5, abs=2e-6)
    assert model.training


def test_what_was_measured_before_a_kill_is_not_measured_again(tmp_path):
    model, kept = adapted("qwen2"), tmp_path / "so-far.jsonl"
    whole = measure_drift(model, SEQUENCES, batch_size=2)

    def cut(done: int, every: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_drift(model, SEQUENCES, batch_size=2, keep_in=kept, on_progress=cut)
    with kept.open("a") as file:
        file.write('{"batch": "cut of')  # by a kill
    changed = [*SEQUENCES[:-1], SEQUENCES[-1][::-1]]
    asked = []

    class Counted:
        def head(self, model):
            return AdapterOff(model).head(model)

        def hidden(self, model, inputs, positions):
            asked.append(len(inputs["input_ids"]))
            return AdapterOff(model).hidden(model, inputs, positions)

    assert measure_drift(model, SEQUENCES, batch_size=2, keep_in=kept, reference=Counted()) == whole
    assert asked == [2]  # of three batches
    assert measure_drift(model, SEQUENCES, batch_size=2, keep_in=kept, reference=Counted()) == whole
    assert asked == [2]
    # Other tokens, or measured from another one on, are another batch.
    assert measure_drift(model, changed, batch_size=2, keep_in=kept) != whole
    starts = [2] * len(SEQUENCES)
    assert measure_drift(model, SEQUENCES, starts=starts, batch_size=2, keep_in=kept) == measure_drift(
        model, SEQUENCES, starts=starts, batch_size=2
    )


def test_batches_are_smaller_of_long_sequences_and_where_memory_is_too_small(tmp_path, monkeypatch):
    model, shapes = adapted("qwen2"), []
    whole = measure_drift(model, SEQUENCES)
    monkeypatch.setattr("selfaug.eval.drift._MOST_TOKENS", 30)
    room = 18

    def ask(_module, _args, given) -> None:
        assert given.get("attention_mask") is None  # [B, 1, T, T] it would be
        shapes.append(tuple(given["input_ids"].shape))
        if given["input_ids"].numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.get_base_model().register_forward_pre_hook(ask, with_kwargs=True)
    small = measure_drift(model, SEQUENCES, keep_in=tmp_path / "kept.jsonl")
    # Each for the reference and the tuned model. Of nine and eleven tokens, two fit by the number, not by the memory.
    assert shapes == [(3, 4), (3, 4), (2, 11), (1, 9), (1, 9), (1, 11), (1, 11), (1, 17), (1, 17)]
    for mine, theirs in zip(small.per_token, whole.per_token, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=2e-6)
    shapes.clear()
    assert measure_drift(model, SEQUENCES, keep_in=tmp_path / "kept.jsonl") == small
    assert shapes == [(2, 11)]
    room = 16
    with pytest.raises(torch.OutOfMemoryError):
        measure_drift(model, SEQUENCES)


def test_no_drift_before_training():
    model = get_peft_model(build("qwen3"), LoraConfig(target_modules=["q_proj"], lora_dropout=0.5)).train()
    state = torch.get_rng_state()
    drift = measure_drift(model, SEQUENCES)
    assert drift.mean == 0.0
    assert drift.top1_agreement == 1.0
    assert torch.equal(torch.get_rng_state(), state)


def test_drift_of_full_fine_tuning_is_against_the_copy():
    model = build("llama-untied")
    reference = FrozenCopy(model)
    assert measure_drift(model, SEQUENCES, reference=reference).mean == 0.0
    with torch.no_grad():
        model.lm_head.weight.mul_(1.3)
    got = measure_drift(model, SEQUENCES, reference=reference)
    values, _ = naive(model, build("llama-untied"), [1] * len(SEQUENCES))
    assert got.mean == pytest.approx(sum(map(sum, values)) / got.tokens, rel=1e-5)


def test_a_model_without_adapter_or_reference_is_refused():
    with pytest.raises(ModelError, match="no adapter"):
        measure_drift(build("llama-tied"), SEQUENCES)


@pytest.mark.parametrize(
    ("sequences", "starts"), [([], None), ([[5]], None), ([[5, 6, 7]], [3]), ([[]], None), ([[5, 6]], [1, 1])]
)
def test_nothing_to_measure_is_an_error(sequences, starts):
    with pytest.raises(DataError):
        measure_drift(adapted("llama-tied"), sequences, starts=starts)


def test_sequences_with_nothing_to_measure_are_passed_over():
    """Also a whole batch of them."""
    seen: list[tuple[int, int]] = []
    got = measure_drift(
        adapted("llama-tied"),
        [[7], [], [5, 6, 7]],
        batch_size=1,
        on_progress=lambda done, todo: seen.append((done, todo)),
    )
    assert [len(row) for row in got.per_token] == [0, 0, 2]
    assert got.tokens == 2
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_reference_is_asked_for_the_measured_positions_only():
    asked: list[int] = []

    class Counting(FrozenCopy):
        def hidden(self, model, inputs, positions: Positions):
            asked.append(positions.aligned)
            return super().hidden(model, inputs, positions)

    model = build("llama-tied")
    measure_drift(model, [[1, 2, 3, 4, 5]], starts=[3], reference=Counting(model))
    assert asked == [2]
