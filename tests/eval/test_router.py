from __future__ import annotations

import random

import pytest
import torch

from selfaug.eval.router import PromptRouter
from tiny_models import build


def prompts(seed: int, low: int, high: int, count: int = 40) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(low, high) for _ in range(rng.randint(4, 30))] for _ in range(count)]


def test_prompts_of_other_words_are_told_apart() -> None:
    router = PromptRouter(build("llama-untied"), prompts(0, 3, 35), prompts(1, 25, 60))
    assert sum(score > 0.5 for score in router.scores(prompts(2, 3, 35))) >= 38
    assert sum(score > 0.5 for score in router.scores(prompts(3, 25, 60))) <= 2


def test_the_means_score_one_and_zero() -> None:
    model = build("llama-untied")
    job, other = prompts(0, 3, 35), prompts(1, 25, 60)
    router = PromptRouter(model, job, other)
    assert sum(router.scores(job)) / len(job) == pytest.approx(1, abs=1e-6)
    assert sum(router.scores(other)) / len(other) == pytest.approx(0, abs=1e-6)


def test_it_is_fishers_discriminant_with_half_of_the_covariance_shrunk() -> None:
    model = build("llama-untied")
    job, other = prompts(0, 3, 45, count=80), prompts(1, 15, 60, count=80)
    weight = model.get_input_embeddings().weight.detach().double()
    x_NH, y_NH = (torch.stack([weight[torch.tensor(p)].mean(0) for p in group]) for group in (job, other))
    within = (torch.cov(x_NH.T, correction=0) + torch.cov(y_NH.T, correction=0)) / 2
    shrunk = (within + within.trace() / len(within) * torch.eye(len(within), dtype=torch.float64)) / 2
    direction = torch.linalg.solve(shrunk, x_NH.mean(0) - y_NH.mean(0))
    expected = (x_NH - y_NH.mean(0)) @ direction / ((x_NH.mean(0) - y_NH.mean(0)) @ direction)
    found = PromptRouter(model, job, other).scores(job)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-6, atol=1e-6)


def test_one_prompt_of_each_is_enough_and_none_is_not() -> None:
    model = build("llama-untied")
    assert PromptRouter(model, [[3, 4]], [[50]]).scores([[3, 4], [50]]) == pytest.approx([1, 0])
    with pytest.raises(ValueError, match="prompts of the job and others"):
        PromptRouter(model, [], [[3]])
