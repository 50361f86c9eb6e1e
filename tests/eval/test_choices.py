from __future__ import annotations

import random

import pytest
import torch

from selfaug.eval.choices import ChoiceItem, choice_log_likelihoods
from tiny_models import build

NAMES = ["llama-tied", "qwen2", "gemma3", "gpt-neox", "phi-bias", "mamba", "lfm2", "qwen3_5_text"]


def items_of(seed: int = 0) -> list[ChoiceItem]:
    """Prompts of very different lengths, with two to five choices of one to seven tokens."""
    rng = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [rng.randrange(3, 60) for _ in range(length)]

    return [
        ChoiceItem(ids(length), [ids(rng.randint(1, 7)) for _ in range(rng.randint(2, 5))])
        for length in (1, 14, 3, 9, 2, 20)
    ]


def naive(model: torch.nn.Module, item: ChoiceItem) -> list[float]:
    """One choice at a time, in float64, without a cache."""
    scores = []
    for choice in item.choices:
        ids = torch.tensor([[*item.prompt, *choice]])
        with torch.no_grad():
            log_p = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
        start = len(item.prompt)
        scores.append(sum(log_p[start + k - 1, token].item() for k, token in enumerate(choice)))
    return scores


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_equals_one_choice_at_a_time(name: str, batch_size: int) -> None:
    model, items = build(name).eval(), items_of()
    got = choice_log_likelihoods(model, items, batch_size=batch_size)
    for scores, item in zip(got, items, strict=True):
        assert scores == pytest.approx(naive(model, item), abs=2e-5)


def test_single_tokens_need_no_second_pass() -> None:
    model, calls = build("llama-tied").train(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    items = [ChoiceItem([5, 6, 7], [[3], [4]]), ChoiceItem([8], [[9], [3], [4]])]
    got = choice_log_likelihoods(model, items)
    assert len(calls) == 1
    assert [len(scores) for scores in got] == [2, 3]
    assert model.training


def test_fewer_prompts_run_together_where_memory_is_too_small() -> None:
    model, items = build("llama-tied").eval(), items_of()
    expected = choice_log_likelihoods(model, items)
    most = max(len(item.choices) for item in items)

    def ask(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        if len(given["input_ids"]) > most:  # its choices run together too
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(ask, with_kwargs=True)
    got = choice_log_likelihoods(model, items)
    for scores, one in zip(got, expected, strict=True):
        assert scores == pytest.approx(one, abs=2e-5)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        choice_log_likelihoods(model, items)


@pytest.mark.parametrize("item", [ChoiceItem([], [[1]]), ChoiceItem([1], []), ChoiceItem([1], [[2], []])])
def test_empty_parts_are_refused(item: ChoiceItem) -> None:
    with pytest.raises(ValueError, match="item 1: "):
        choice_log_likelihoods(build("llama-tied"), [ChoiceItem([3], [[4]]), item])


def test_no_items_no_scores() -> None:
    assert choice_log_likelihoods(build("llama-tied"), []) == []
