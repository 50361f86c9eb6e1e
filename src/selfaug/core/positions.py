"""Which positions of a batch carry nll and alignment.

A position predicts the token after it. A prompt token is aligned at the position that predicts it; padding, the
first token of each document and document boundaries in packed rows never are. The boundary position predicts the
first completion token: it carries nll, and alignment too if `align_boundary`. Nothing predicts a document's first
token, so it counts as prompt whatever its label: some layouts lose that label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["IGNORED", "Positions", "count_tokens", "document_spans", "find_positions"]

IGNORED = -100
"""Label of a token that carries no nll."""


@dataclass(frozen=True)
class Positions:
    """Positions of a batch as indices into its flattened tokens, in the order that `fused_loss` wants.

    Attributes:
        order: [N]; completion positions first (those that are aligned too at their end), aligned ones last.
        targets: [C]; token ids that the first C positions predict.
        aligned: A, the number of positions at the end of `order` that are aligned.
        rows_drawn: whether rows may be without any because they were not drawn.
    """

    order: Tensor
    targets: Tensor
    aligned: int
    rows_drawn: bool = False

    @property
    def aligned_order(self) -> Tensor:
        """[A]; the aligned positions."""
        return self.order[self.order.shape[0] - self.aligned :]


def _masks(
    labels_BT: Tensor,
    attention_mask_BT: Tensor | None,
    position_ids_BT: Tensor | None,
    align_boundary: bool,
) -> tuple[Tensor, Tensor]:
    """Booleans [B, T − 1]: position carries nll; position is aligned."""
    predicted = _continues(labels_BT, attention_mask_BT, position_ids_BT)
    is_completion = labels_BT[:, 1:] != IGNORED
    nll = predicted & is_completion
    aligned = predicted & ~is_completion
    if align_boundary:
        first = torch.ones_like(predicted)
        first[:, 1:] = ~predicted[:, :-1]
        aligned |= nll & (first | (labels_BT[:, :-1] == IGNORED))
    return nll, aligned


def _continues(labels_BT: Tensor, attention_mask_BT: Tensor | None, position_ids_BT: Tensor | None) -> Tensor:
    """Booleans [B, T − 1]: the next token is a real token of the same document."""
    continues = torch.ones_like(labels_BT[:, 1:], dtype=torch.bool)
    if attention_mask_BT is not None:
        real = attention_mask_BT.bool()
        continues &= real[:, 1:] & real[:, :-1]
    if position_ids_BT is not None:
        continues &= position_ids_BT[:, 1:] == position_ids_BT[:, :-1] + 1
    return continues


def count_tokens(
    labels_BT: Tensor,
    attention_mask_BT: Tensor | None = None,
    position_ids_BT: Tensor | None = None,
    *,
    align_boundary: bool = True,
) -> Tensor:
    """Completion tokens and aligned positions of a batch, before any sampling: int64 [2]."""
    nll, aligned = _masks(labels_BT, attention_mask_BT, position_ids_BT, align_boundary)
    return torch.stack([nll.sum(), aligned.sum()])


def find_positions(
    input_ids_BT: Tensor,
    labels_BT: Tensor,
    attention_mask_BT: Tensor | None = None,
    position_ids_BT: Tensor | None = None,
    *,
    align: bool = True,
    align_boundary: bool = True,
    fraction: float = 1.0,
    document_fraction: float = 1.0,
    seed: int = 0,
    step: int = 0,
) -> Positions:
    """Positions of a batch that carry nll or alignment.

    Args:
        input_ids_BT: token ids.
        labels_BT: token ids of completion tokens, -100 elsewhere, not shifted.
        attention_mask_BT: 1 on real tokens; None if there is no padding.
        position_ids_BT: position of each token in its document, for packed and padding-free rows.
        align: False leaves alignment out altogether.
        align_boundary: align the position that predicts the first completion token too.
        fraction: share of the aligned prompt positions that is kept. The choice hashes seed, step, the document's
            token ids and the position in it, so that it does not depend on how documents are batched. Boundary
            positions are always kept: they are few, their divergence is by far the largest, and leaving most of
            them out would make the estimate noisy. Divide the others' divergences by `fraction` for an unbiased
            estimate.
        document_fraction: share of the documents that are aligned at all, boundary included, drawn by the same hash.
            Divide all divergences by it for an unbiased estimate.
        seed: of the sampling.
        step: optimizer step, so that each step draws other positions.
    """
    nll, aligned = _masks(labels_BT, attention_mask_BT, position_ids_BT, align_boundary)
    if not align:
        aligned = torch.zeros_like(aligned)
    elif fraction < 1.0 or document_fraction < 1.0:
        drawn, in_drawn = _draw(
            input_ids_BT, attention_mask_BT, position_ids_BT, fraction, document_fraction, seed, step
        )
        aligned = aligned & (drawn | nll) & in_drawn
    # Positions are numbered in the full [B, T]; the last column predicts nothing.
    width = labels_BT.shape[1]
    both = nll & aligned
    groups = []
    for group in (nll & ~both, both, aligned & ~both):
        row, column = group.nonzero(as_tuple=True)
        groups.append(row * width + column)
    order = torch.cat(groups)
    completions = order[: groups[0].shape[0] + groups[1].shape[0]]
    return Positions(
        order=order,
        targets=labels_BT.reshape(-1)[completions + 1],
        aligned=groups[1].shape[0] + groups[2].shape[0],
        rows_drawn=align and document_fraction < 1.0,
    )


def document_spans(
    attention_mask_BT: Tensor | None, position_ids_BT: Tensor | None, shape: tuple[int, int]
) -> list[tuple[int, int]]:
    """Start and end of each document in the flattened batch, padding left out."""
    real = (
        torch.ones(shape, dtype=torch.bool) if attention_mask_BT is None else attention_mask_BT.bool().cpu()
    )
    starts = real.clone()
    starts[:, 1:] &= ~real[:, :-1]
    if position_ids_BT is not None:
        position_ids = position_ids_BT.cpu().expand(shape)
        starts[:, 1:] |= real[:, 1:] & (position_ids[:, 1:] != position_ids[:, :-1] + 1)
    begins = starts.reshape(-1).nonzero().flatten().tolist()
    # A document ends where the next one begins, or where padding or the row's end cuts it off.
    ends_here = real.clone()
    ends_here[:, :-1] &= ~real[:, 1:] | starts[:, 1:]
    ends = (ends_here.reshape(-1).nonzero().flatten() + 1).tolist()
    return list(zip(begins, ends, strict=True))


def _draw(
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None,
    position_ids_BT: Tensor | None,
    fraction: float,
    document_fraction: float,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Booleans [B, T − 1]: position is drawn; its document is."""
    batch, width = input_ids_BT.shape
    real = torch.ones_like(input_ids_BT) if attention_mask_BT is None else attention_mask_BT.long()
    if position_ids_BT is None:
        position_BT = real.cumsum(1) - 1
        document_BT = torch.arange(batch, device=input_ids_BT.device)[:, None].expand(batch, width)
    else:
        position_BT = position_ids_BT.expand(batch, width).long()
        starts = torch.ones_like(input_ids_BT, dtype=torch.bool)
        starts[:, 1:] = position_BT[:, 1:] != position_BT[:, :-1] + 1
        document_BT = starts.reshape(-1).cumsum(0).reshape(batch, width) - 1
    # A document is known by the sum of the hashes of its (token, position) pairs.
    pair_BT = _mix(_mix(input_ids_BT.long()) + position_BT) * real
    document_hash = torch.zeros(batch * width, dtype=torch.int64, device=input_ids_BT.device)
    document_hash.index_add_(0, document_BT.reshape(-1), pair_BT.reshape(-1))
    of_step_BT = (_mix(document_hash[document_BT] + _mix_int(seed)) + _mix_int(step))[:, :-1]
    # No position of a document is -1: its own draw is another one than those of its positions.
    drawn, in_drawn = _mix(of_step_BT + _mix(position_BT[:, :-1])), _mix(of_step_BT + _mix_int(-1))
    return _is_in(drawn, fraction), _is_in(in_drawn, document_fraction)


def _is_in(hashes: Tensor, share: float) -> Tensor:
    return (hashes & (2**53 - 1)) < int(share * 2**53)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (arithmetic wraps; shifts are made logical by masking)."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & (2**33 - 1))


def _mix_int(x: int) -> int:
    return int(_mix(torch.tensor(_signed(x & (2**64 - 1)))).item())


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
