from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM as AutoModel
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
    xLSTMConfig,
)

from selfaug.errors import ModelError
from selfaug.model.running_batch import _ROOM, NoRoomError, RunningBatch, require_generation, rows_can_join
from tiny_models import RECURRENT, build

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.5,
}


def tiny(config: type, **more: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(config(**SHAPE, **more)).eval()


def alone(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[torch.Tensor]:
    """Logits after the prompt and after each greedy token, without a cache."""
    ids, found = list(prompt), []
    for _ in range(tokens):
        found.append(model(input_ids=torch.tensor([ids])).logits[0, -1])
        ids.append(int(found[-1].argmax()))
    return found


@pytest.mark.parametrize("room", [1, 64])
@pytest.mark.parametrize("config", [LlamaConfig, GPTNeoXConfig])
@torch.no_grad()
def test_rows_that_join_and_leave_at_any_time_are_as_if_alone(
    config: type, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfaug.model.running_batch._ROOM", room)
    model = tiny(config)
    rng = random.Random(room)
    assert rows_can_join(model)
    batch = RunningBatch(model)
    waiting = [
        ([rng.randrange(3, 64) for _ in range(rng.choice((1, 2, 7, 30)))], rng.randint(1, 12))
        for _ in range(12)
    ]
    wanted = [alone(model, prompt, tokens) for prompt, tokens in waiting]
    found: list[list[torch.Tensor]] = [[] for _ in waiting]
    rows: list[int] = []
    asked = 0
    widths = []
    while asked < len(waiting) or rows:
        if asked < len(waiting) and (not rows or rng.random() < 0.4):
            joining = list(range(asked, min(asked + rng.randint(1, 2), len(waiting))))
            asked += len(joining)
            for row, logits in zip(joining, batch.join([waiting[row][0] for row in joining]), strict=True):
                found[row].append(logits)
            rows += joining
        kept = [place for place, row in enumerate(rows) if len(found[row]) < waiting[row][1]]
        rng.shuffle(kept)
        rows = [rows[place] for place in kept]
        batch.keep(kept)
        assert len(batch) == len(rows)
        if rows:
            widths.append(batch.width)
            longest = max(len(waiting[row][0]) + len(found[row]) - 1 for row in rows)
            assert batch.width == longest, "no column is padding in all rows"
            chosen = torch.stack([found[row][-1] for row in rows]).argmax(-1)
            for row, logits in zip(rows, batch.step(chosen), strict=True):
                found[row].append(logits)
    assert min(widths) < 10 < 30 < max(widths)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.stack(one), torch.stack(other), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("failing", [0, 1])
@torch.no_grad()
def test_a_prompt_that_there_is_no_room_for_leaves_the_rows_as_they_were(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows become as long as it is, which takes many times what its own forward does."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model = tiny(LlamaConfig)
    prompts = [[5, 6, 7, 8], [9, 10]]
    wanted = [torch.stack(alone(model, prompt, 5)) for prompt in [*prompts, [11] * 60]]
    batch = RunningBatch(model)
    found = [batch.join(prompts)]
    found.append(batch.step(found[-1].argmax(-1)))
    with monkeypatch.context() as patched:
        patched.setattr(batch._cache.layers[failing], "take_in", full)
        with pytest.raises(NoRoomError, match="CUDA out of memory"):
            batch.join([[11] * 60])
    assert (len(batch), batch.width) == (2, 5)
    assert all(layer._buffers[0].shape[2] <= 5 + _ROOM for layer in batch._cache.layers)
    found.append(batch.step(found[-1].argmax(-1)))
    joined = batch.join([[11] * 60])
    # Nor does a next token that there is no room for.
    chosen = torch.cat([found[-1], joined]).argmax(-1)
    with monkeypatch.context() as patched:
        patched.setattr(batch._cache.layers[failing], "update", full)
        with pytest.raises(NoRoomError, match="CUDA out of memory"):
            batch.step(chosen)
        patched.setattr(torch, "ones_like", full)  # the positions
        with pytest.raises(NoRoomError, match="CUDA out of memory"):
            batch.step(chosen)
    found.append(batch.step(chosen))
    # Rows are let go of without room for a copy of the others.
    with monkeypatch.context() as patched:
        patched.setattr(batch._cache.layers[failing], "_take", full)
        batch.keep([0, 2])
    last = batch.step(found[-1][[0, 2]].argmax(-1))
    for row in (0, 1):
        steps = [logits[row] for logits in found] + [last[0]] * (row == 0)
        torch.testing.assert_close(torch.stack(steps), wanted[row][: len(steps)], atol=2e-5, rtol=1e-4)
    of_third = torch.stack([joined[0], found[-1][2], last[1]])
    torch.testing.assert_close(of_third, wanted[2][:3], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_layers_that_are_not_known_are_not_spoken_of() -> None:
    model = tiny(LlamaConfig)
    model.config.layer_types = ["of_its_own", "of_its_own"]
    assert rows_can_join(model)


def test_a_batch_with_sliding_windows_is_closed_until_it_is_empty() -> None:
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=4, layer_types=None)
    ).eval()
    assert not rows_can_join(model)  # as is known before
    batch = RunningBatch(model)
    first = batch.join([[5, 6, 7, 8, 9, 10], [11, 12]])
    assert not batch.open
    with pytest.raises(ValueError, match="can't join"):
        batch.join([[3]])
    batch.keep([1])
    second = batch.step(first[1:].argmax(-1))
    wanted = alone(model, [11, 12], 2)
    torch.testing.assert_close(torch.stack([first[1], second[0]]), torch.stack(wanted), atol=2e-5, rtol=1e-4)
    batch.keep([])
    assert batch.open
    assert len(batch.join([[3]])) == 1


@torch.no_grad()
def test_a_mixture_that_trains_its_router_writes_as_before() -> None:
    model, prompts = build("qwen3-moe"), [[5, 6, 7], [8, 9]]

    def logits() -> torch.Tensor:
        batch = RunningBatch(model)
        batch.join(prompts)
        return batch.step(torch.tensor([4, 5]))

    before = logits()
    model.config.output_router_logits = True  # as trl sets it
    torch.testing.assert_close(logits(), before)


@pytest.mark.parametrize("name", RECURRENT)
@torch.no_grad()
def test_rows_of_states_are_as_if_alone_padded_and_with_others_gone(name: str) -> None:
    model = build(name)
    assert not rows_can_join(model)
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19, 20]]
    wanted = [torch.stack(alone(model, prompt, 4)) for prompt in prompts]
    batch = RunningBatch(model)
    found = [batch.join(prompts)]
    found.append(batch.step(found[-1].argmax(-1)))
    assert not batch.open
    batch.keep([2, 0])
    found.append(batch.step(found[-1][[2, 0]].argmax(-1)))
    batch.keep([1])
    last = batch.step(found[-1][[1]].argmax(-1))
    first = torch.stack([found[0][0], found[1][0], found[2][1], last[0]])
    third = torch.stack([found[0][2], found[1][2], found[2][0]])
    close = {"atol": 5e-5, "rtol": 1e-4}
    torch.testing.assert_close(first, wanted[0], **close)
    torch.testing.assert_close(torch.stack([found[0][1], found[1][1]]), wanted[1][:2], **close)
    torch.testing.assert_close(third, wanted[2][:3], **close)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        # Its states are in its layers, and prompts of other lengths would be in them.
        (RecurrentGemmaConfig(**{**SHAPE, "num_hidden_layers": 3}, num_key_value_heads=1), "no cache"),
        (xLSTMConfig(vocab_size=64, hidden_size=32, num_blocks=1, num_heads=2), "no mask"),
        (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, use_bias=True), "bias"),
    ],
)
def test_a_model_that_padding_would_change_is_refused(config: PreTrainedConfig, why: str) -> None:
    with pytest.raises(ModelError, match=why) as error:
        require_generation(AutoModel.from_config(config).eval())
    assert "alignment_loss" in error.value.hint
