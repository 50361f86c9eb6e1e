"""The loss: nll over completion tokens plus alpha times the alignment over prompt tokens.

Both terms come from one pass over the hidden states before the head. Logits exist for one chunk of positions
at a time, for both models; the gradient with respect to the hidden states (and to the head, if it trains) is
computed in the same pass, so that every position is projected exactly once.

Source: Huang et al., SelfAug (arXiv 2509.03934), equation for the alignment term; normalisation, boundary and
sampling as in docs/architecture.md, "Numerical contract".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Divergence", "FusedLoss", "OutputHead", "default_chunk_rows", "fused_loss", "token_divergence"]

Divergence = Literal["forward", "reverse"]

# On gradients that go through float16 on a GPU, whose smallest number is 6e-8; they are not much larger than 1.
_FLOAT16_LIFT = 2.0**10

# Of the part of a trained head's gradient that is made at once.
_PRODUCT_BYTES = 2**28


@dataclass(frozen=True)
class OutputHead:
    """What turns hidden states into logits: `softcap · tanh(scale · (hidden @ weightᵀ + bias) / softcap)`.

    Attributes:
        weight: [vocabulary, width].
        bias: [vocabulary], or None.
        scale: factor on the logits (Cohere's `logit_scale`, one over Granite's `logits_scaling`).
        softcap: Gemma's `final_logit_softcapping`, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """float32 logits [N, vocabulary] from hidden states in the dtype of the weight; or [B, T, vocabulary].

        Half-precision products are summed and kept in float32 where the device can: rounded to bf16, the logits of
        two models that differ by a KL of 1e-4 nats would differ mostly by their rounding.
        """
        if _keeps_float32(hidden_NH):
            # Unlike `linear`, a product takes matrices only.
            logits_NV = _product(hidden_NH.flatten(0, -2), self.weight.t())
            logits_NV = logits_NV.view(*hidden_NH.shape[:-1], len(self.weight))
            if self.bias is not None:
                logits_NV.add_(self.bias)
        else:
            logits_NV = torch.nn.functional.linear(hidden_NH, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits_NV.mul_(self.scale)
        if self.softcap is not None:
            logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_NV

    def to_dtype(self, dtype: torch.dtype) -> OutputHead:
        """The same head with weight and bias detached and in another dtype."""
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return OutputHead(self.weight.detach().to(dtype), bias, self.scale, self.softcap)


class FusedLoss(NamedTuple):
    """What one micro-batch contributes; all but `loss` without gradient.

    Attributes:
        loss: `nll_weight · nll_sum + alignment_weight · alignment_sum`, float32 scalar.
        nll_sum: nats, summed over completion tokens.
        alignment_sum: nats, summed over aligned positions; an unbiased estimate of that if they are sampled.
        entropy_sum: nats; entropy of the tuned model's distributions, summed over completion tokens.
        correct: number of completion tokens that are the tuned model's first choice.
    """

    loss: Tensor
    nll_sum: Tensor
    alignment_sum: Tensor
    entropy_sum: Tensor
    correct: Tensor


def fused_loss(
    hidden_NH: Tensor,
    head: OutputHead,
    targets_C: Tensor,
    *,
    nll_weight: float,
    reference_hidden_AH: Tensor | None = None,
    reference_head: OutputHead | None = None,
    alignment_weight: float = 0.0,
    prompt_fraction: float = 1.0,
    divergence: Divergence = "forward",
    temperature: float = 1.0,
    chunk_rows: int | None = None,
) -> FusedLoss:
    """Weighted nll and alignment of the positions of one micro-batch, without a [positions, vocabulary] tensor.

    Args:
        hidden_NH: the tuned model's hidden states before the head, at the positions that carry a loss. The first
            C of them predict completion tokens, the last A are aligned; where N < C + A, the overlap (boundary
            positions) carries both.
        head: the tuned model's head; gradients flow to its weight and bias if they require them.
        targets_C: token ids that the first C positions must predict.
        nll_weight: one over the number of completion tokens of the optimizer step.
        reference_hidden_AH: the reference model's hidden states at the last A positions; None for A = 0.
        reference_head: the reference model's head; the tuned one's if None. Never gets a gradient.
        alignment_weight: alpha over the number of aligned positions of the optimizer step, before any sampling.
        prompt_fraction: share of the prompt positions that was drawn, if they are sampled: their divergences are
            divided by it, those of the boundary positions are not.
        divergence: "forward" is KL(reference ‖ tuned), "reverse" is KL(tuned ‖ reference).
        temperature: both distributions are softmax(logits / temperature); the divergence is not rescaled.
        chunk_rows: positions projected at once; by default as many as keep a chunk of logits small.

    Raises:
        ValueError: if the numbers of positions don't fit together.
    """
    rows, completions = hidden_NH.shape[0], targets_C.shape[0]
    aligned = 0 if reference_hidden_AH is None else reference_hidden_AH.shape[0]
    if not max(completions, aligned) <= rows <= completions + aligned:
        raise ValueError(
            f"{rows} positions can't be {completions} completion positions followed by {aligned} aligned ones: "
            "every position must carry nll, alignment or both."
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    if not 0 < prompt_fraction <= 1:
        raise ValueError(f"prompt_fraction must be in (0, 1], got {prompt_fraction}.")
    loss, sums = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_NH,
        head.weight,
        head.bias,
        _Plan(
            scale=head.scale,
            softcap=head.softcap,
            targets=targets_C,
            reference_hidden=reference_hidden_AH,
            reference_head=reference_head or head,
            completion_rows=rows - aligned,
            boundary_rows=completions + aligned - rows,
            nll_weight=float(nll_weight),
            alignment_weight=float(alignment_weight),
            prompt_fraction=float(prompt_fraction),
            divergence=divergence,
            temperature=temperature,
            precision=_precision(head.weight),
            chunk_rows=chunk_rows or default_chunk_rows(head.weight.device, len(head.weight)),
            with_gradient=torch.is_grad_enabled(),
        ),
    )
    return FusedLoss(loss, *sums.unbind())


def token_divergence(
    hidden_NH: Tensor,
    head: OutputHead,
    reference_hidden_NH: Tensor,
    reference_head: OutputHead | None = None,
    *,
    divergence: Divergence = "forward",
    temperature: float = 1.0,
    chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Divergence of each position in nats, and whether both models have the same first choice.

    For measuring: without gradient. Shapes and arguments as in `fused_loss`.

    Returns:
        float32 [N] and bool [N].
    """
    precision = _precision(head.weight)
    head = precision.head(head)
    reference_head = head if reference_head is None else precision.head(reference_head)
    rows = chunk_rows or default_chunk_rows(head.weight.device, len(head.weight))
    divergences, agreements = [], []
    with torch.no_grad(), torch.autocast(hidden_NH.device.type, enabled=False):
        for start in range(0, hidden_NH.shape[0], rows):
            tuned_NV = head.logits(precision.hidden(hidden_NH[start : start + rows]))
            reference_NV = reference_head.logits(precision.hidden(reference_hidden_NH[start : start + rows]))
            agreements.append(tuned_NV.argmax(-1) == reference_NV.argmax(-1))
            divergences.append(
                _divergence_and_gradient(tuned_NV, reference_NV, divergence, temperature, False)[0]
            )
    if not divergences:
        return hidden_NH.new_zeros(0, dtype=torch.float32), hidden_NH.new_zeros(0, dtype=torch.bool)
    return torch.cat(divergences), torch.cat(agreements)


class _Precision(NamedTuple):
    """How hidden states are multiplied with a head.

    Attributes:
        operands: both are rounded to this dtype, as the model itself does under the autocast that it stands under.
        product: then they are multiplied in this one: the same, but float32 on a CPU without instructions for it,
            where it is more exact and eight times faster, and on Apple's GPUs, which round a product to its operands'.
    """

    operands: torch.dtype
    product: torch.dtype

    def head(self, head: OutputHead) -> OutputHead:
        return head.to_dtype(self.operands).to_dtype(self.product)

    def hidden(self, hidden_NH: Tensor) -> Tensor:
        return hidden_NH.to(self.operands).to(self.product)


@dataclass(frozen=True)
class _Plan:
    """Everything about one call that is not a differentiable tensor."""

    scale: float
    softcap: float | None
    targets: Tensor
    reference_hidden: Tensor | None
    reference_head: OutputHead
    completion_rows: int
    boundary_rows: int
    nll_weight: float
    alignment_weight: float
    prompt_fraction: float
    divergence: Divergence
    temperature: float
    precision: _Precision
    chunk_rows: int
    with_gradient: bool

    def chunks(self, rows: int) -> list[tuple[int, int]]:
        """Row ranges; none crosses from one kind of position (completion, boundary, prompt) into the next."""
        edges = [0, self.completion_rows, self.completion_rows + self.boundary_rows, rows]
        return [
            (start, min(start + self.chunk_rows, last))
            for first, last in pairwise(edges)
            for start in range(first, last, self.chunk_rows)
        ]


class _FusedLoss(torch.autograd.Function):
    """Loss and its gradients in one pass; backward only scales what forward has stored."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        # A parameter needs one under `no_grad`, too, by what autograd says here.
        needs = (plan.with_gradient and needed for needed in ctx.needs_input_grad[:3])
        need_hidden, need_weight, need_bias = needs
        need_any = need_hidden or need_weight or need_bias
        precision = plan.precision
        sums = torch.zeros(4, dtype=torch.float32, device=hidden_NH.device)
        # Gradients are kept in the dtype of what they belong to, but in float32 instead of float16, where they would
        # underflow before the loss scale comes in; the head's are summed over chunks in float32.
        hidden_dtype = torch.float32 if hidden_NH.dtype == torch.float16 else hidden_NH.dtype
        hidden_grad = torch.zeros_like(hidden_NH, dtype=hidden_dtype) if need_hidden else None
        weight_grad = torch.zeros_like(weight_VH, dtype=torch.float32) if need_weight else None
        bias_grad = (
            torch.zeros_like(bias_V, dtype=torch.float32) if need_bias and bias_V is not None else None
        )
        with torch.no_grad(), torch.autocast(hidden_NH.device.type, enabled=False):
            head = precision.head(OutputHead(weight_VH, bias_V, plan.scale, plan.softcap))
            reference_head = head  # a cast made twice would only cost memory
            if plan.reference_head.weight is not weight_VH:
                reference_head = precision.head(plan.reference_head)
            for start, end in plan.chunks(hidden_NH.shape[0]):
                chunk_NH = precision.hidden(hidden_NH[start:end])
                gradient_NV, row_weight = _chunk(
                    plan, head, reference_head, chunk_NH, start, end, sums, need_any
                )
                if gradient_NV is None:
                    continue
                if bias_grad is not None:
                    bias_grad.add_(gradient_NV.sum(0), alpha=row_weight)
                # Weights of the order of 1e-4 are applied after the product: in float16 they would underflow. So would
                # the probabilities of most of a large vocabulary.
                if precision.product == torch.float16 and hidden_NH.device.type == "cuda":
                    lift = (
                        _FLOAT16_LIFT * min(1.0, plan.temperature) ** 2
                    )  # at low temperatures it is large itself
                    gradient_NV.mul_(lift)
                    row_weight /= lift
                gradient_NV = gradient_NV.to(precision.product)
                if hidden_grad is not None:
                    hidden_grad[start:end] = _product(gradient_NV, head.weight).mul_(row_weight)
                if weight_grad is not None:
                    _add_product(weight_grad, gradient_NV.T, chunk_NH, row_weight)
        # Saved, and not kept as they are: autograd frees what is saved when it has been used.
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtypes = (hidden_NH.dtype, weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        loss = plan.nll_weight * sums[0] + plan.alignment_weight * sums[1]
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_grad: Tensor, _sums_grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        hidden_dtype, weight_dtype, bias_dtype = ctx.dtypes
        return (
            _scaled(hidden_grad, loss_grad, hidden_dtype),
            _scaled(weight_grad, loss_grad, weight_dtype),
            _scaled(bias_grad, loss_grad, bias_dtype),
            None,
        )


def _scaled(gradient: Tensor | None, scale: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A gradient times the loss's own, rounded once, without a float32 tensor of its size between on a GPU."""
    if gradient is None:
        return None
    return torch.mul(gradient, scale, out=torch.empty_like(gradient, dtype=dtype))


def _chunk(
    plan: _Plan,
    head: OutputHead,
    reference_head: OutputHead,
    chunk_NH: Tensor,
    start: int,
    end: int,
    sums: Tensor,
    need_gradient: bool,
) -> tuple[Tensor | None, float]:
    """Add a chunk's statistics to `sums`; return the gradient of its loss to its products hidden @ weightᵀ + bias.

    The gradient comes without its weight, which is returned beside it.
    """
    has_nll = start < plan.completion_rows + plan.boundary_rows
    has_alignment = start >= plan.completion_rows
    logits_NV = head.logits(chunk_NH)
    # d logits / d product, before the probabilities overwrite the logits
    slope_NV = None
    if need_gradient and plan.softcap is not None:
        slope_NV = (logits_NV / plan.softcap).square_().neg_().add_(1.0)

    nll_gradient = alignment_gradient = None
    alignment_weight = 0.0
    if has_nll:
        keep = logits_NV.clone() if has_alignment else logits_NV
        nll_gradient = _nll(keep, plan.targets[start:end], sums, need_gradient)
    if has_alignment:
        assert plan.reference_hidden is not None
        first = start - plan.completion_rows
        reference_NH = plan.precision.hidden(plan.reference_hidden[first : first + end - start])
        divergence_N, alignment_gradient = _divergence_and_gradient(
            logits_NV, reference_head.logits(reference_NH), plan.divergence, plan.temperature, need_gradient
        )
        alignment_weight = plan.alignment_weight
        if has_nll:
            sums[1] += divergence_N.sum()
        else:
            sums[1] += divergence_N.sum() / plan.prompt_fraction
            alignment_weight /= plan.prompt_fraction

    if not need_gradient:
        return None, 0.0
    if nll_gradient is None:
        gradient_NV, weight = alignment_gradient, alignment_weight
    elif alignment_gradient is None:
        gradient_NV, weight = nll_gradient, plan.nll_weight
    else:
        weight = max(plan.nll_weight, alignment_weight) or 1.0
        gradient_NV = nll_gradient.mul_(plan.nll_weight / weight).add_(
            alignment_gradient, alpha=alignment_weight / weight
        )
    assert gradient_NV is not None
    if slope_NV is not None:
        gradient_NV.mul_(slope_NV)
    return gradient_NV, weight * plan.scale


def _nll(logits_NV: Tensor, targets_N: Tensor, sums: Tensor, need_gradient: bool) -> Tensor | None:
    """Add nll, entropy and correct first choices to `sums`; return softmax − onehot."""
    log_p_NV = torch.log_softmax(logits_NV, -1)
    sums[0] -= log_p_NV.gather(1, targets_N[:, None]).sum()
    sums[3] += (logits_NV.argmax(-1) == targets_N).sum()
    p_NV = torch.exp(log_p_NV, out=logits_NV)
    sums[2] -= torch.linalg.vecdot(p_NV, log_p_NV).sum()
    if not need_gradient:
        return None
    return p_NV.scatter_add_(1, targets_N[:, None], torch.full_like(p_NV[:, :1], -1.0))


def _divergence_and_gradient(
    tuned_NV: Tensor, reference_NV: Tensor, divergence: Divergence, temperature: float, need_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Divergence of each row, and its gradient to the tuned logits. Overwrites both arguments.

    KL(a ‖ b) is summed as Σ a (log a − log b) + Σ b − Σ a. The last two cancel in exact arithmetic; in float32
    they take the rounding of the two normalisers out of the sum to first order: without them flat distributions
    over 150 k tokens come out at down to −2e-6 nats, with them no lower than −2e-7.
    """
    if temperature != 1.0:
        tuned_NV.div_(temperature)
        reference_NV.div_(temperature)
    log_p_NV = torch.log_softmax(tuned_NV, -1)
    log_q_NV = torch.log_softmax(reference_NV, -1)
    p_NV = torch.exp(log_p_NV, out=tuned_NV)
    q_NV = torch.exp(log_q_NV, out=reference_NV)
    excess_N = p_NV.sum(-1) - q_NV.sum(-1)
    if divergence == "forward":
        log_ratio_NV = log_q_NV.sub_(log_p_NV)
        divergence_N = torch.linalg.vecdot(q_NV, log_ratio_NV) + excess_N
        gradient_NV = p_NV.sub_(q_NV)
    else:
        log_ratio_NV = log_p_NV.sub_(log_q_NV)
        divergence_N = torch.linalg.vecdot(p_NV, log_ratio_NV) - excess_N
        gradient_NV = p_NV.mul_(log_ratio_NV.sub_(divergence_N[:, None])) if need_gradient else p_NV
    if not need_gradient:
        return divergence_N, None
    return divergence_N, gradient_NV if temperature == 1.0 else gradient_NV.div_(temperature)


def _keeps_float32(operand: Tensor) -> bool:
    """Whether the device gives products of such matrices in float32, in which it sums them."""
    return operand.device.type == "cuda" and operand.dtype in (torch.bfloat16, torch.float16)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """float32 product of two matrices, not rounded to their dtype where the device can."""
    if _keeps_float32(left):
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


def _add_product(total_VH: Tensor, left_VN: Tensor, right_NH: Tensor, weight: float) -> None:
    """total += weight · left @ right in float32, some rows at a time: a second tensor of a head's size is gigabytes."""
    if right_NH.dtype == torch.float32:
        total_VH.addmm_(left_VN, right_NH, alpha=weight)
        return
    rows = max(
        64, _PRODUCT_BYTES // (4 * right_NH.shape[1]) // 64 * 64
    )  # so that parts begin where kernels like it
    for start in range(0, len(total_VH), rows):
        total_VH[start : start + rows].add_(_product(left_VN[start : start + rows], right_NH), alpha=weight)


def _precision(weight: Tensor) -> _Precision:
    device = weight.device.type
    operands = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    half = operands in (torch.bfloat16, torch.float16)
    if half and (
        device == "mps" or (device == "cpu" and not (operands == torch.bfloat16 and _cpu_has_bf16()))
    ):
        return _Precision(operands, torch.float32)
    return _Precision(operands, operands)


@cache
def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported()


def default_chunk_rows(device: torch.device, vocabulary: int) -> int:
    """As many rows as keep one chunk of float32 logits at 32 MiB on a CPU (near its cache), 256 MiB elsewhere."""
    budget = 2**25 if device.type == "cpu" else 2**28
    return max(16, budget // (4 * vocabulary))
