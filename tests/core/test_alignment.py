"""`fused_loss` against a naive float64 twin: full logits, autograd, loops over positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from selfaug.core import alignment
from selfaug.core.alignment import Divergence, FusedLoss, OutputHead, fused_loss, token_divergence

WIDTH, VOCABULARY = 12, 23
# Where there is a GPU, the same tests hold there.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture
def _one_thread():
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """One call: positions are `completions` with nll only, then `boundary` with both, then `prompts`."""

    completions: int = 7
    boundary: int = 3
    prompts: int = 9
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    divergence: Divergence = "forward"
    temperature: float = 1.0
    prompt_fraction: float = 1.0
    trained_head: bool = True
    own_reference_head: bool = True
    spread: float = 1.0
    dtype: torch.dtype = torch.float32
    nll_weight: float = 0.11
    alignment_weight: float = 0.07
    distance: float = 0.3
    seed: int = 0

    def make(self) -> Inputs:
        generator = torch.Generator().manual_seed(self.seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(DEVICE)

        rows, aligned = self.completions + self.boundary + self.prompts, self.boundary + self.prompts
        hidden = randn(rows, WIDTH)
        weight, bias = randn(VOCABULARY, WIDTH) * self.spread, randn(VOCABULARY) if self.bias else None
        reference_hidden = hidden[rows - aligned :] + self.distance * randn(aligned, WIDTH)
        reference_weight = weight + 0.1 * randn(VOCABULARY, WIDTH) if self.own_reference_head else weight
        reference_bias = bias + 0.1 if bias is not None and self.own_reference_head else bias
        targets = torch.randint(VOCABULARY, (self.completions + self.boundary,), generator=generator)
        targets = targets.to(DEVICE)

        def leaf(tensor: Tensor | None, trained: bool = True) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(self.dtype).requires_grad_(trained)

        return Inputs(
            leaf(hidden),
            leaf(weight, self.trained_head),
            leaf(bias, self.trained_head),
            targets,
            leaf(reference_hidden, False),
            leaf(reference_weight, False) if self.own_reference_head else None,
            leaf(reference_bias, False) if self.own_reference_head else None,
        )


class Inputs(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    reference_hidden: Tensor
    reference_weight: Tensor | None
    reference_bias: Tensor | None

    def to(self, dtype: torch.dtype) -> Inputs:
        """New leaves of another dtype."""
        return Inputs(
            *(
                t
                if t is None or not t.is_floating_point()
                else t.detach().to(dtype).requires_grad_(t.requires_grad)
                for t in self
            )
        )


def ours(case: Case, x: Inputs, chunk_rows: int | None = None) -> FusedLoss:
    reference_head = None
    if x.reference_weight is not None:
        reference_head = OutputHead(x.reference_weight, x.reference_bias, case.scale, case.softcap)
    return fused_loss(
        x.hidden,
        OutputHead(x.weight, x.bias, case.scale, case.softcap),
        x.targets,
        nll_weight=case.nll_weight,
        reference_hidden_AH=x.reference_hidden,
        reference_head=reference_head,
        alignment_weight=case.alignment_weight,
        prompt_fraction=case.prompt_fraction,
        divergence=case.divergence,
        temperature=case.temperature,
        chunk_rows=chunk_rows,
    )


def naive(case: Case, x: Inputs) -> tuple[FusedLoss, list[Tensor]]:
    """The definition in the dtype of `x`, statistics in at least float32; and each position's divergence."""

    def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product = hidden @ weight.T
        if bias is not None:
            product = product + bias
        product = (product if product.dtype == torch.float64 else product.float()) * case.scale
        return product if case.softcap is None else case.softcap * torch.tanh(product / case.softcap)

    tuned = logits(x.hidden, x.weight, x.bias)
    with torch.no_grad():
        if x.reference_weight is None:
            reference = logits(x.reference_hidden, x.weight, x.bias)
        else:
            reference = logits(x.reference_hidden, x.reference_weight, x.reference_bias)
    nll = entropy = tuned.sum() * 0
    correct = torch.zeros((), device=tuned.device)
    for row, target in enumerate(x.targets):
        log_p = torch.log_softmax(tuned[row], -1)
        nll = nll - log_p[target]
        entropy = entropy - (log_p.exp() * log_p).sum()
        correct += log_p.argmax() == target
    divergences = []
    for row in range(case.boundary + case.prompts):
        log_p = torch.log_softmax(tuned[case.completions + row] / case.temperature, -1)
        log_q = torch.log_softmax(reference[row] / case.temperature, -1)
        a, b = (log_q, log_p) if case.divergence == "forward" else (log_p, log_q)
        share = case.prompt_fraction if row >= case.boundary else 1.0
        divergences.append((a.exp() * (a - b)).sum() / share)
    alignment = torch.stack(divergences).sum() if divergences else tuned.sum() * 0
    loss = case.nll_weight * nll + case.alignment_weight * alignment
    return FusedLoss(loss, nll, alignment, entropy, correct), divergences


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def check(case: Case, chunk_rows: int | None = None) -> None:
    x = case.make()
    y = x.to(torch.float64)
    got, (want, _) = ours(case, x, chunk_rows), naive(case, y)
    assert got.loss.dtype == torch.float32
    for name in ("loss", "nll_sum", "entropy_sum"):
        torch.testing.assert_close(
            getattr(got, name).double(), getattr(want, name).detach(), rtol=1e-5, atol=1e-6, msg=name
        )
    aligned = case.boundary + case.prompts
    error = abs(got.alignment_sum.item() - want.alignment_sum.item())
    assert error <= max(2e-6 * aligned, 1e-5 * want.alignment_sum.item())
    assert got.correct.item() == want.correct.item()
    # loss_grad other than 1, as accumulation and loss scaling make it
    (2 * got.loss).backward()
    (2 * want.loss).backward()
    assert relative(x.hidden.grad, y.hidden.grad) < 1e-5
    if case.trained_head:
        assert relative(x.weight.grad, y.weight.grad) < 1e-5
        assert case.bias is False or relative(x.bias.grad, y.bias.grad) < 1e-5
    else:
        assert x.weight.grad is None
        assert x.bias is None or x.bias.grad is None
    if x.reference_weight is not None:
        assert x.reference_weight.grad is None


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize(
    ("bias", "scale", "softcap"),
    [(False, 1.0, None), (True, 1.0, None), (True, 0.3, None), (False, 1.0, 5.0), (True, 0.7, 4.0)],
)
def test_equals_the_float64_twin(divergence, temperature, bias, scale, softcap):
    check(Case(bias=bias, scale=scale, softcap=softcap, divergence=divergence, temperature=temperature))


@pytest.mark.parametrize("trained_head", [True, False])
@pytest.mark.parametrize("own_reference_head", [True, False])
def test_heads_trained_or_frozen_shared_or_not(trained_head, own_reference_head):
    check(Case(bias=True, trained_head=trained_head, own_reference_head=own_reference_head))


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 1000, None])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_any_chunk_size(chunk_rows, divergence):
    check(Case(completions=11, boundary=4, prompts=13, softcap=4.0, divergence=divergence), chunk_rows)


@pytest.mark.parametrize(
    ("completions", "boundary", "prompts"), [(5, 0, 0), (0, 0, 6), (0, 4, 0), (5, 3, 0), (0, 3, 5), (5, 0, 6)]
)
@pytest.mark.parametrize("chunk_rows", [2, None])
def test_kinds_of_positions_that_are_missing(completions, boundary, prompts, chunk_rows):
    check(Case(completions, boundary, prompts, bias=True), chunk_rows)


@pytest.mark.parametrize("spread", [0.01, 8.0])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_flat_and_nearly_certain_distributions(spread, divergence):
    check(Case(spread=spread, divergence=divergence))


@pytest.mark.parametrize(
    ("nll_weight", "alignment_weight"), [(0.1, 0.0), (0.0, 0.1), (0.0, 0.0), (1e-7, 1e-3)]
)
def test_weights_that_vanish(nll_weight, alignment_weight):
    check(Case(nll_weight=nll_weight, alignment_weight=alignment_weight))


@pytest.mark.parametrize("prompt_fraction", [0.1, 0.5])
@pytest.mark.parametrize("chunk_rows", [2, None])
def test_sampled_prompt_positions_count_for_those_left_out_and_boundary_positions_once(
    prompt_fraction, chunk_rows
):
    check(Case(prompt_fraction=prompt_fraction), chunk_rows)
    check(Case(0, 0, 9, prompt_fraction=prompt_fraction, divergence="reverse"), chunk_rows)


@pytest.mark.parametrize("prompt_fraction", [0.0, -0.5, 1.5])
def test_prompt_fraction_must_be_a_share(prompt_fraction):
    case = Case(prompt_fraction=prompt_fraction)
    with pytest.raises(ValueError, match="prompt_fraction"):
        ours(case, case.make())


def test_no_position_at_all_gives_zero_and_reaches_every_leaf():
    x = Case(0, 0, 0, bias=True).make()
    result = ours(Case(0, 0, 0), x)
    result.loss.backward()
    assert [value.item() for value in result] == [0.0] * 5
    assert x.hidden.grad.shape == (0, WIDTH)
    assert x.weight.grad.count_nonzero() == 0
    assert x.bias.grad.count_nonzero() == 0


def test_without_a_reference_only_the_nll_counts():
    x = Case(6, 0, 0).make()
    result = fused_loss(x.hidden, OutputHead(x.weight), x.targets, nll_weight=0.5, alignment_weight=9.0)
    assert result.alignment_sum.item() == 0.0
    torch.testing.assert_close(result.loss, 0.5 * result.nll_sum)


@pytest.mark.parametrize("rows", [8, 15])
def test_positions_that_do_not_fit_together_are_refused(rows):
    x = Case().make()
    with pytest.raises(ValueError, match="every position must carry"):
        fused_loss(
            torch.zeros(rows, WIDTH),
            OutputHead(x.weight),
            x.targets[:9],
            nll_weight=1.0,
            reference_hidden_AH=x.reference_hidden[:5],
        )


def test_temperature_must_be_positive():
    case = Case()
    with pytest.raises(ValueError, match="temperature"):
        ours(replace(case, temperature=0.0), case.make())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize("chunk_rows", [1, 4, None])
def test_exactly_zero_for_equal_models(dtype, divergence, chunk_rows):
    case = Case(
        bias=True, softcap=5.0, divergence=divergence, own_reference_head=False, spread=4.0, dtype=dtype
    )
    x = case.make()
    x = x._replace(reference_hidden=x.hidden.detach()[case.completions :].clone())
    assert ours(case, x, chunk_rows).alignment_sum.item() == 0.0
    # the same through a second, equal head
    x = x._replace(reference_weight=x.weight.detach().clone(), reference_bias=x.bias.detach().clone())
    assert ours(case, x, chunk_rows).alignment_sum.item() == 0.0
    # and the gradient of the alignment alone is 0 too
    ours(replace(case, nll_weight=0.0), x, chunk_rows).loss.backward()
    assert x.hidden.grad.count_nonzero() == 0
    assert x.weight.grad.count_nonzero() == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.1, 1.0, 5.0, 20.0]),
    distance=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2, 1.0]),
    divergence=st.sampled_from(["forward", "reverse"]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_divergence_is_never_negative_and_close_to_float64(seed, spread, distance, divergence, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 200, generator=generator) * spread
    moved = logits + distance * torch.randn(8, 200, generator=generator)
    # An identity as head makes the logits the hidden states, so that only the divergence itself is rounded.
    head = OutputHead(torch.eye(200))
    got, agree = token_divergence(
        moved, head, logits, divergence=divergence, temperature=temperature, chunk_rows=3
    )
    log_p = torch.log_softmax(moved.double() / temperature, -1)
    log_q = torch.log_softmax(logits.double() / temperature, -1)
    a, b = (log_q, log_p) if divergence == "forward" else (log_p, log_q)
    want = (a.exp() * (a - b)).sum(-1)
    assert got.min() >= -4 * torch.finfo(torch.float32).eps
    assert ((got - want).abs() <= torch.clamp(1e-5 * want, min=2e-6)).all()
    assert agree.tolist() == (moved.argmax(-1) == logits.argmax(-1)).tolist()


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_large_vocabulary_does_not_make_it_negative(divergence):
    """The rounding of the normalisers, 1e-6 nats here, is taken out of the sum."""
    generator = torch.Generator().manual_seed(0)
    head = OutputHead(torch.randn(50_000, 4, generator=generator) * 0.1)
    hidden = torch.randn(64, 4, generator=generator)
    for distance in (1e-5, 1e-4, 1e-3):
        moved = hidden + distance * torch.randn(64, 4, generator=generator)
        got, _ = token_divergence(moved, head, hidden, divergence=divergence)
        assert got.min() >= -4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_divergence_is_the_loss_of_each_position(divergence, temperature):
    case = Case(0, 0, 11, bias=True, scale=0.8, softcap=6.0, divergence=divergence, temperature=temperature)
    x = case.make()
    got, _ = token_divergence(
        x.hidden,
        OutputHead(x.weight, x.bias, case.scale, case.softcap),
        x.reference_hidden,
        OutputHead(x.reference_weight, x.reference_bias, case.scale, case.softcap),
        divergence=divergence,
        temperature=temperature,
        chunk_rows=4,
    )
    _, want = naive(case, x.to(torch.float64))
    torch.testing.assert_close(got.double(), torch.stack(want).detach(), rtol=1e-5, atol=2e-6)
    assert not got.requires_grad


def test_token_divergence_of_nothing():
    values, agree = token_divergence(
        torch.zeros(0, WIDTH), OutputHead(torch.zeros(VOCABULARY, WIDTH)), torch.zeros(0, WIDTH)
    )
    assert values.shape == agree.shape == (0,)


@pytest.mark.parametrize("shape", [(7,), (2, 5), (0,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_on_a_gpu_are_of_every_position(dtype, shape):
    """Shapes alone, as on a GPU, which need not be there: the head is checked on hidden states [B, T, width]."""
    with FakeTensorMode():
        weight = torch.empty(VOCABULARY, WIDTH, dtype=dtype, device="cuda")
        head = OutputHead(weight, weight.new_empty(VOCABULARY), scale=0.5, softcap=5.0)
        logits = head.logits(torch.empty(*shape, WIDTH, dtype=dtype, device="cuda"))
    assert logits.shape == (*shape, VOCABULARY)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_products_on_apples_gpus_are_in_float32(dtype):
    """They have no product of half precision that is kept in float32."""
    with FakeTensorMode():
        weight = torch.empty(VOCABULARY, WIDTH, dtype=dtype, device="mps")
        assert alignment._precision(weight) == (dtype, torch.float32)


def test_divergence_of_distributions_with_little_overlap_is_finite():
    hidden = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    for divergence in ("forward", "reverse"):
        result = fused_loss(
            hidden,
            OutputHead(torch.eye(3)),
            torch.zeros(0, dtype=torch.long),
            nll_weight=1.0,
            reference_hidden_AH=torch.tensor([[0.0, 200.0, 0.0]]),
            alignment_weight=1.0,
            divergence=divergence,
        )
        assert result.alignment_sum.item() == pytest.approx(200.0, rel=1e-5)
        result.loss.backward()
        assert torch.isfinite(hidden.grad).all()


def _errors(case: Case, seeds: int = 12) -> tuple[dict[str, float], dict[str, float]]:
    """Root mean square errors against float64 of ours and of the naive form, in the dtype of the case."""
    squares: list[dict[str, list[float]]] = [{}, {}]
    for seed in range(seeds):
        x = replace(case, seed=seed).make()
        exact, _ = naive(case, y := x.to(torch.float64))
        exact.loss.backward()
        for index in range(2):
            z = x.to(case.dtype)
            got = ours(case, z, 5) if index == 0 else naive(case, z)[0]
            got.loss.backward()
            errors = {
                "nll": (got.nll_sum - exact.nll_sum).item(),
                "alignment": (got.alignment_sum - exact.alignment_sum).item(),
                "hidden": relative(z.hidden.grad, y.hidden.grad),
                "weight": relative(z.weight.grad, y.weight.grad),
            }
            for name, error in errors.items():
                squares[index].setdefault(name, []).append(error**2)
    mine, theirs = ({name: (sum(v) / len(v)) ** 0.5 for name, v in s.items()} for s in squares)
    return mine, theirs


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 5.0)])
def test_bf16_error_is_at_most_twice_that_of_the_naive_form(divergence, scale, softcap):
    mine, theirs = _errors(
        Case(12, 4, 16, dtype=torch.bfloat16, divergence=divergence, scale=scale, softcap=softcap)
    )
    assert mine.keys() == theirs.keys()
    for name, error in mine.items():
        assert error <= 2 * theirs[name], (name, error, theirs[name])
    assert mine["hidden"] > 1e-5  # it did run in bf16


@pytest.mark.skipif(
    DEVICE == "cpu" and torch.cpu._is_avx512_bf16_supported(),
    reason="there the product is a bf16 one, as the model's own",
)
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize("autocast", [True, False])
def test_models_close_to_each_other_in_bf16(divergence, autocast):
    """At a KL of about 1e-4 nats, logits rounded to bf16 would differ mostly by their rounding."""
    case = Case(
        0, 0, 32, divergence=divergence, distance=0.004, own_reference_head=False, dtype=torch.bfloat16
    )
    x = case.make()
    if autocast:
        x = x.to(torch.float32)
    y = x.to(torch.float64)
    want, _ = naive(case, y)
    assert 2e-5 < want.alignment_sum.item() / 32 < 2e-3
    want.loss.backward()
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
        got = ours(case, x)
    got.loss.backward()
    assert got.alignment_sum.item() == pytest.approx(want.alignment_sum.item(), rel=1e-3)
    assert relative(x.hidden.grad, y.hidden.grad) < 2 * torch.finfo(torch.bfloat16).eps
    # what the naive form makes of it: the test would notice if ours fell back to it
    z = case.make()
    naive(case, z)[0].loss.backward()
    assert relative(z.hidden.grad, y.hidden.grad) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_autocast_is_the_naive_form_under_autocast(divergence, dtype):
    """float32 leaves, products in half precision: error against float64 at most twice the naive form's."""
    case = Case(12, 4, 16, bias=True, divergence=divergence)
    with torch.autocast(DEVICE, dtype=dtype):
        mine, theirs = _errors(case)
        x = case.make()
        result = ours(case, x)
    for name, error in mine.items():
        assert error <= 2 * theirs[name], (name, error, theirs[name])
    assert mine["hidden"] > 1e-4 * (1 if dtype == torch.bfloat16 else 1 / 8)  # the products did run in it
    result.loss.backward()
    assert x.hidden.grad.dtype == x.weight.grad.dtype == x.bias.grad.dtype == torch.float32


def test_fp16_gradients_survive_small_weights_under_loss_scaling():
    """Weights of 1e-7 times a gradient underflow in float16 unless the loss scale is applied first."""
    case = Case(12, 4, 16, dtype=torch.float16, nll_weight=1e-6, alignment_weight=2e-6)
    x = case.make()
    y = x.to(torch.float64)
    (ours(case, x).loss * 2**16).backward()
    (naive(case, y)[0].loss * 2**16).backward()
    assert relative(x.hidden.grad, y.hidden.grad) < 5e-3
    assert relative(x.weight.grad, y.weight.grad) < 5e-3
    assert x.hidden.grad.dtype == torch.float16


def test_fp16_gradients_of_a_large_vocabulary():
    """Of close models, most entries are below float16's smallest numbers: on a GPU they are lifted before rounding."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * size).half().to(DEVICE)

    weight, hidden = draw(20_000, 16, size=0.3), draw(24, 16)
    reference = hidden + draw(24, 16, size=0.01)
    x, y = (
        [one.to(kind, copy=True).requires_grad_() for one in (hidden, weight)]
        for kind in (torch.float16, torch.float64)
    )
    loss = fused_loss(
        x[0],
        OutputHead(x[1]),
        torch.zeros(0, dtype=torch.long, device=DEVICE),
        nll_weight=1.0,
        reference_hidden_AH=reference,
        reference_head=OutputHead(weight),
        alignment_weight=1 / 24,
        chunk_rows=7,
    ).loss
    (2**12 * loss).backward()
    log_p = torch.log_softmax(y[0] @ y[1].T, -1)
    log_q = torch.log_softmax(reference.double() @ weight.double().T, -1)
    (2**12 / 24 * (log_q.exp() * (log_q - log_p)).sum()).backward()
    for got, want in zip(x, y, strict=True):
        assert relative(got.grad, want.grad) < 2e-3


def test_a_heads_gradient_made_in_parts(monkeypatch):
    """Of a vocabulary that no part divides, in half precision, where parts are made."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((150, 9), (9, WIDTH)))
    parts = torch.ones(150, WIDTH)
    monkeypatch.setattr(alignment, "_PRODUCT_BYTES", 4 * WIDTH * 70)
    alignment._add_product(parts, left, right, 0.5)
    torch.testing.assert_close(parts, 1 + 0.5 * (left.float() @ right.float()), rtol=0, atol=0.05)


def test_no_gradient_is_computed_where_none_is_asked_for():
    case = Case(trained_head=False)
    x = case.make()
    with torch.no_grad():
        quiet = ours(case, x)
    assert not quiet.loss.requires_grad
    assert quiet.loss.item() == ours(case, x).loss.item()


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return func(*args, **(kwargs or {}))


def test_a_head_that_trains_costs_nothing_more_where_no_gradient_is_asked_for():
    case = Case(bias=True)
    x = case.make()
    still = x._replace(hidden=x.hidden.detach(), weight=x.weight.detach(), bias=x.bias.detach())
    counts = []
    for inputs, with_gradient in ((still, True), (x, False), (x, True)):
        with torch.set_grad_enabled(with_gradient), Products() as products:
            assert ours(case, inputs).loss.requires_grad == (with_gradient and inputs is x)
        counts.append(products.count)
    assert 0 < counts[0] == counts[1] < counts[2]


def test_gradients_are_freed_with_the_backward_pass():
    """Of a trained head they take as much as the head: results that are kept must not keep them."""
    case = Case()
    loss = ours(case, case.make()).loss
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_inputs_are_left_as_they_were():
    case = Case(bias=True, softcap=3.0, temperature=2.0)
    x = case.make()
    before = [None if t is None else t.detach().clone() for t in x]
    ours(case, x, 4).loss.backward()
    for now, then in zip(x, before, strict=True):
        assert (now is None and then is None) or torch.equal(now.detach(), then)


def test_no_tensor_of_positions_times_vocabulary():
    """Numerical contract 4: the largest tensor made is one chunk of logits."""
    rows, vocabulary, chunk = 96, 512, 8
    hidden = torch.randn(rows, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4)
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(
                t.untyped_storage().nbytes()
                for t in (out if isinstance(out, tuple) else (out,))
                if isinstance(t, Tensor)
            )
            return out

    with Sizes():
        fused_loss(
            hidden,
            OutputHead(weight),
            torch.zeros(40, dtype=torch.long),
            nll_weight=1.0,
            reference_hidden_AH=torch.randn(60, 4),
            alignment_weight=1.0,
            chunk_rows=chunk,
        ).loss.backward()
    assert max(sizes) == chunk * vocabulary * 4
