"""A batch loses its mask only where real tokens come out the same without it."""

from __future__ import annotations

import pytest
import torch

from selfaug.model import right_padding
from selfaug.model.hidden import MASK_IS_NEEDLESS, hidden_states
from selfaug.model.right_padding import mark_needless_mask
from tiny_models import ARCHITECTURES, RECURRENT, build, make_docs, packed, padded

DOCS = make_docs((7, 3), (30, 8), (2, 6), (1, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *RECURRENT])
def test_real_tokens_have_the_same_hidden_states_without_the_mask(name: str, dtype: torch.dtype) -> None:
    model, batch = build(name, dtype=dtype), padded(DOCS)
    marked = mark_needless_mask(model, batch)
    has_sdpa = model.config._attn_implementation == "sdpa"
    assert marked.get(MASK_IS_NEEDLESS, False) is has_sdpa
    with torch.no_grad():
        (bare, _), (masked, _) = hidden_states(model, marked), hidden_states(model, batch)
    real = batch["attention_mask"].bool()
    if dtype == torch.float32:
        torch.testing.assert_close(bare[real], masked[real], rtol=1e-4, atol=1e-4)
    else:  # rounding may send single tokens to another expert
        apart = (bare[real] - masked[real]).float().norm(dim=-1) / masked[real].float().norm(dim=-1)
        assert apart.median() < 0.03


def test_the_mask_is_kept_where_it_says_more_than_padding_on_the_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("llama-tied")
    assert MASK_IS_NEEDLESS in mark_needless_mask(model, padded(DOCS))
    monkeypatch.setattr(right_padding, "_ignores_right_padding", lambda _: pytest.fail("asked before"))
    holes = padded(DOCS)
    holes["attention_mask"][1, 3] = 0
    for batch in (
        padded(DOCS, side="left"),
        holes,
        packed(DOCS),
        {**padded(DOCS), "attention_mask": torch.ones(4, 1, 38, 38)},
        {**padded(DOCS), "output_router_logits": True},
    ):
        assert mark_needless_mask(model, batch) is batch


def test_groups_of_keys_keep_their_mask_on_a_gpu_that_has_no_kernel_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeps = right_padding._has_no_kernel_for_groups
    config, gpu = build("llama-tied").config, torch.device("cuda")
    assert config.num_key_value_heads < config.num_attention_heads
    assert not keeps(config, torch.float32, torch.device("cpu"))
    for capability, dtype, kept in (
        ((7, 5), torch.float16, True),
        ((8, 0), torch.float32, True),
        ((9, 0), torch.bfloat16, False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, is_now=capability: is_now)
        assert keeps(config, dtype, gpu) is kept
    config.num_key_value_heads = config.num_attention_heads
    assert not keeps(config, torch.float32, gpu)


def test_a_model_that_looks_both_ways_keeps_its_mask() -> None:
    model = build("gemma3", use_bidirectional_attention=True)
    batch = padded(DOCS)
    assert mark_needless_mask(model, batch) is batch


def test_only_the_shorter_row_is_run_without_what_stands_behind_it() -> None:
    """Against each document alone: neither with the mask nor without does padding get in."""
    model, batch = build("qwen2"), padded(DOCS, extra=5)
    with torch.no_grad():
        together, _ = hidden_states(model, mark_needless_mask(model, batch))
        for row, doc in enumerate(DOCS):
            alone, _ = hidden_states(model, {"input_ids": torch.tensor([doc.ids])})
            torch.testing.assert_close(together[row, : len(doc.ids)], alone[0], rtol=1e-4, atol=1e-4)
