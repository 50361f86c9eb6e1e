"""Which positions carry what, against loops over tokens; and the sampling of positions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfaug.core.positions import Positions, count_tokens, document_spans, find_positions
from tiny_models import Doc, make_docs, packed, padded

Batch = dict[str, Tensor]


def find(batch: Batch, **options) -> Positions:
    return find_positions(
        batch["input_ids"], batch["labels"], batch.get("attention_mask"), batch.get("position_ids"), **options
    )


def padding_free(docs: list[Doc]) -> Batch:
    """As trl's collator makes it: it takes the label of each document's first token away."""
    batch = packed(docs)
    batch["labels"][batch["position_ids"] == 0] = -100
    return batch


def layouts(docs: list[Doc]) -> dict[str, tuple[Batch, list[int]]]:
    """The same documents in every layout, with where each document starts in the flattened batch."""
    right, left, wide = padded(docs), padded(docs, "left"), padded(docs, extra=3)
    width = right["input_ids"].shape[1]
    starts = [sum(len(doc.ids) for doc in docs[:i]) for i in range(len(docs))]
    both = packed(docs)
    both["attention_mask"] = torch.ones_like(both["input_ids"])
    return {
        "right": (right, [row * width for row in range(len(docs))]),
        "left": (left, [(row + 1) * width - len(doc.ids) for row, doc in enumerate(docs)]),
        "wide": (wide, [row * (width + 3) for row in range(len(docs))]),
        "packed": (packed(docs), starts),
        "packed with a mask": (both, starts),
        "padding-free": (padding_free(docs), starts),
    }


def by_document(positions: Tensor, docs: list[Doc], starts: list[int]) -> set[tuple[int, int]]:
    """(document, position in it) of flattened positions."""
    found = set()
    for position in positions.tolist():
        (document,) = [i for i, doc in enumerate(docs) if starts[i] <= position < starts[i] + len(doc.ids)]
        found.add((document, position - starts[document]))
    return found


def expected(docs: list[Doc], align_boundary: bool) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """(document, position) that carry nll, and that are aligned, by looping over predicted tokens."""
    nll, aligned = set(), set()
    for i, doc in enumerate(docs):
        for token in range(1, len(doc.ids)):
            if token >= doc.prompt:
                nll.add((i, token - 1))
                if token == max(doc.prompt, 1) and align_boundary:
                    aligned.add((i, token - 1))
            else:
                aligned.add((i, token - 1))
    return nll, aligned


shapes = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)).filter(any), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(shapes=shapes, align_boundary=st.booleans())
def test_positions_of_every_layout(shapes, align_boundary):
    docs = make_docs(*shapes)
    nll, aligned = expected(docs, align_boundary)
    for name, (batch, starts) in layouts(docs).items():
        found = find(batch, align_boundary=align_boundary)
        completions = found.order[: found.targets.shape[0]]
        assert by_document(completions, docs, starts) == nll, name
        assert by_document(found.aligned_order, docs, starts) == aligned, name
        assert len(completions) == len(nll)
        assert found.aligned == len(aligned)
        # as fused_loss wants it: the overlap, and nothing else, carries both
        assert len(found.order) == len(nll | aligned) == len(set(found.order.tolist()))
        assert found.targets.tolist() == batch["labels"].reshape(-1)[completions + 1].tolist()
        counts = count_tokens(
            batch["labels"],
            batch.get("attention_mask"),
            batch.get("position_ids"),
            align_boundary=align_boundary,
        )
        assert counts.tolist() == [len(nll), len(aligned)]


def test_without_alignment_only_nll_positions_remain():
    docs = make_docs((4, 3), (2, 5))
    found = find(padded(docs), align=False)
    assert found.aligned == 0
    assert found.order.shape == found.targets.shape == (8,)


def test_every_turn_has_its_own_boundary():
    """Two turns: both boundaries are aligned, and so is the prompt after a completion."""
    labels = torch.tensor([[-100, -100, 3, 4, -100, -100, 7, 8]])
    ids = torch.arange(1, 9)[None]
    found = find_positions(ids, labels)
    assert found.order[: found.targets.shape[0]].tolist() == [2, 6, 1, 5]
    assert found.aligned_order.tolist() == [1, 5, 0, 3, 4]
    inside = find_positions(ids, labels, align_boundary=False)
    assert inside.aligned_order.tolist() == [0, 3, 4]


def test_the_tail_that_pads_a_padding_free_row_carries_nothing():
    """trl's pad_to_multiple_of: label -100 and position 0 on every token of the tail."""
    docs = make_docs((4, 3), (3, 2))
    batch = packed(docs)
    tail = {"input_ids": 0, "labels": -100, "position_ids": 0}
    longer = {k: torch.cat([v, torch.full((1, 4), tail[k])], 1) for k, v in batch.items()}
    assert find(longer).order.tolist() == find(batch).order.tolist()
    found = find(longer, fraction=0.5)
    assert found.order.tolist() == find(batch, fraction=0.5).order.tolist()


@settings(max_examples=40, deadline=None)
@given(shapes=shapes)
def test_document_spans(shapes):
    docs = make_docs(*shapes)
    for name, (batch, starts) in layouts(docs).items():
        spans = document_spans(
            batch.get("attention_mask"), batch.get("position_ids"), tuple(batch["input_ids"].shape)
        )
        assert spans == [(s, s + len(doc.ids)) for s, doc in zip(starts, docs, strict=True)], name


def test_document_spans_of_several_packed_rows():
    """Documents end with their row, even where the next row's first position would go on counting."""
    positions = torch.tensor([[0, 1, 0, 1, 2], [3, 4, 0, 1, 2]])
    assert document_spans(None, positions, (2, 5)) == [(0, 2), (2, 5), (5, 7), (7, 10)]


@pytest.mark.parametrize("of_documents", [{}, {"document_fraction": 0.5}])
@pytest.mark.parametrize("align_boundary", [True, False])
def test_the_sample_does_not_depend_on_the_batch(align_boundary, of_documents):
    docs = make_docs((30, 3), (17, 9), (25, 1), (40, 0), seed=3)
    options = {"fraction": 0.4, "seed": 5, "step": 7, "align_boundary": align_boundary, **of_documents}
    alone = set()
    for i, doc in enumerate(docs):
        alone |= {(i, p) for _, p in by_document(find(padded([doc]), **options).aligned_order, [doc], [0])}
    assert 5 < len(alone) < 80
    assert len({i for i, _ in alone}) == (1 if of_documents else 4)
    for name, (batch, starts) in layouts(docs).items():
        assert by_document(find(batch, **options).aligned_order, docs, starts) == alone, name
    turned = docs[::-1]
    batch, starts = layouts(turned)["packed"]
    found = by_document(find(batch, **options).aligned_order, turned, starts)
    assert {(len(docs) - 1 - i, p) for i, p in found} == alone


def test_sampled_positions_are_aligned_ones_and_completions_all_stay():
    docs = make_docs((30, 6), (11, 3))
    batch = padded(docs)
    whole, some = find(batch), find(batch, fraction=0.3)
    assert set(some.aligned_order.tolist()) < set(whole.aligned_order.tolist())
    assert sorted(some.targets.tolist()) == sorted(whole.targets.tolist())
    # the boundary positions, each the last before a document's completion, are always kept
    boundary = {29, 36 + 10}
    assert boundary <= set(some.aligned_order.tolist())
    assert len(set(some.order.tolist())) == len(some.order)


def test_steps_seeds_and_documents_draw_other_positions():
    docs = make_docs((200, 1), (200, 1), seed=1)

    def drawn(doc: Doc, **options) -> set[int]:
        return set(find(padded([doc]), fraction=0.5, **options).aligned_order.tolist())

    base = drawn(docs[0], seed=1, step=1)
    assert base == drawn(docs[0], seed=1, step=1)
    for other in (
        drawn(docs[0], seed=1, step=2),
        drawn(docs[0], seed=2, step=1),
        drawn(docs[1], seed=1, step=1),
        drawn(docs[0], seed=2**63 + 1, step=1),
    ):
        # Independent draws agree on half of the 200 positions, within five standard deviations.
        assert abs(200 - len(base ^ other) - 100) < 5 * math.sqrt(50)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.7])
def test_each_position_is_drawn_with_the_same_probability(fraction):
    docs = make_docs((40, 4), (24, 2), seed=2)
    batch, steps = padded(docs), 2000
    counts = torch.zeros(batch["input_ids"].numel())
    per_step = []
    for step in range(steps):
        order = find(batch, fraction=fraction, seed=3, step=step, align_boundary=False).aligned_order
        counts[order] += 1
        per_step.append(len(order))
    aligned = find(batch, align_boundary=False).aligned_order
    assert counts.sum() == counts[aligned].sum()
    n = len(aligned)
    deviation = math.sqrt(steps * fraction * (1 - fraction))
    # Five standard deviations for each of 62 positions, and for the mean over all of them.
    assert (counts[aligned] - steps * fraction).abs().max() < 5 * deviation
    assert abs(counts.sum().item() - steps * n * fraction) < 5 * deviation * math.sqrt(n)
    # Draws of different positions are independent: the number drawn per step has a binomial variance.
    variance = torch.tensor(per_step, dtype=torch.float64).var().item()
    assert variance == pytest.approx(n * fraction * (1 - fraction), rel=5 * math.sqrt(2 / steps))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.7])
def test_each_document_is_drawn_whole_and_with_the_same_probability(share):
    docs = make_docs((9, 2), (1, 3), (6, 0), (12, 5), seed=4)
    batch, starts = layouts(docs)["packed"]
    every = by_document(find(batch).aligned_order, docs, starts)
    steps, counts, together = 2000, torch.zeros(len(docs)), 0
    for step in range(steps):
        positions = find(batch, document_fraction=share, seed=3, step=step)
        found = by_document(positions.aligned_order, docs, starts)
        drawn = {document for document, _ in found}
        assert found == {(document, place) for document, place in every if document in drawn}
        assert positions.rows_drawn
        counts[list(drawn)] += 1
        together += {0, 3} <= drawn
    # Five standard deviations.
    assert (counts - steps * share).abs().max() < 5 * math.sqrt(steps * share * (1 - share))
    assert abs(together - steps * share**2) < 5 * math.sqrt(steps * share**2 * (1 - share**2))
    assert not find(batch, fraction=share).rows_drawn
    assert not find(batch, document_fraction=share, align=False).rows_drawn


def test_documents_and_their_positions_are_drawn_apart():
    """Of a document that is drawn, as many positions are as without that draw."""
    docs = make_docs((200, 1), seed=1)
    batch, sizes = padded(docs), []
    for step in range(100):
        found = find(batch, fraction=0.5, document_fraction=0.5, step=step).aligned_order
        if len(found):
            sizes.append(len(found) - 1)  # the boundary is always there
            assert found.tolist() == find(batch, fraction=0.5, step=step).aligned_order.tolist()
    assert abs(len(sizes) - 50) < 25
    assert abs(sum(sizes) / len(sizes) - 199 / 2) < 5 * math.sqrt(199 / 4 / len(sizes))
