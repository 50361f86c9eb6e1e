"""The three references give the same hidden states and head, and stay what they were while the model trains."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import (
    BOFTConfig,
    C3AConfig,
    FourierFTConfig,
    KasaConfig,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    VBLoRAConfig,
    get_peft_model,
)
from torch import Tensor, nn
from trl.trainer.utils import add_fused_lm_head

from selfaug.core.positions import find_positions
from selfaug.errors import CacheError, ModelError
from selfaug.model.cache import Document, ReferenceCache
from selfaug.model.head import find_head
from selfaug.model.reference import AdapterOff, CachedReference, FrozenCopy, FrozenModel, Remembered
from selfaug.train.loss import alignment_loss
from tiny_models import ARCHITECTURES, Doc, build, linear_names, make_docs, packed, padded

DOCS = make_docs((7, 3), (12, 5), (2, 6), (1, 4), (5, 0))


def adapted(name: str, **options) -> nn.Module:
    config = LoraConfig(target_modules=linear_names(name), r=4, task_type="CAUSAL_LM", **options)
    return get_peft_model(build(name), config).train()


def perturb(model: nn.Module, scale: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=scale)


def documents(docs: list[Doc]) -> list[Document]:
    return [Document(doc.ids, doc.labels) for doc in docs]


def positions_of(batch: dict[str, Tensor], **options):
    return find_positions(
        batch["input_ids"], batch["labels"], batch.get("attention_mask"), batch.get("position_ids"), **options
    )


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


BATCHES = {
    "right": padded(DOCS),
    "left": padded(DOCS, "left"),
    "wide": padded(DOCS[::-1], extra=5),
    "packed": packed(DOCS),
    "alone": padded(DOCS[1:2]),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_cache_equals_the_adapter_off(name, tmp_path):
    """Within the noise floor of another batch shape: 1e-6 relative, in float32."""
    model = adapted(name)
    perturb(model)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(DOCS), batch_tokens=40)
    cached, off = CachedReference(cache, model), AdapterOff(model)
    for layout, batch in BATCHES.items():
        for options in ({}, {"align_boundary": False}, {"fraction": 0.5, "seed": 1, "step": 3}):
            positions = positions_of(batch, **options)
            assert positions.aligned > 0
            got, want = cached.hidden(model, batch, positions), off.hidden(model, batch, positions)
            assert got.shape == want.shape == (positions.aligned, 32)
            assert got.dtype == want.dtype
            assert relative(got, want) < 1e-6, (layout, options)


@pytest.mark.parametrize("name", ["llama-tied", "phi-bias"])
def test_all_references_give_the_same_loss(name, tmp_path):
    base = build(name)
    model = adapted(name)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(DOCS))
    references = [AdapterOff(model), FrozenCopy(base), CachedReference(cache, model)]
    perturb(model)
    for batch in BATCHES.values():
        sums = [alignment_loss(model, batch, reference=r).alignment_sum.item() for r in references]
        assert sums[0] > 0.01
        assert sums == pytest.approx([sums[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["llama-tied", "gemma2-softcap", "qwen3-moe"])
def test_a_frozen_copy_stays_at_the_old_weights(name, fused):
    """Also where trl has replaced the instance's `forward`, which stays bound to the model it was made for."""
    model = build(name).train()
    if fused:
        add_fused_lm_head(model)
        assert "forward" in model.__dict__
    model.activation_checkpointing_enable()
    reference = FrozenCopy(model)
    positions = positions_of(BATCHES["right"])
    before = reference.hidden(model, BATCHES["right"], positions)
    weight = reference.head(model).weight.clone()
    with torch.no_grad():
        want = build(name)(input_ids=BATCHES["right"]["input_ids"][:1, :10], use_cache=False).logits
        mine = reference.model(input_ids=BATCHES["right"]["input_ids"][:1, :10], use_cache=False).logits
    torch.testing.assert_close(mine, want)
    perturb(model)
    after = reference.hidden(model, BATCHES["right"], positions)
    assert torch.equal(before, after)
    assert torch.equal(reference.head(model).weight, weight)
    assert not torch.allclose(find_head(model).weight, weight)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert not after.requires_grad


def test_a_frozen_copy_of_an_adapter_is_the_adapted_model():
    """Where an adapter changes base weights when it is made, the copy is of the model at that time."""
    model = adapted("llama-untied", init_lora_weights="olora")
    reference = FrozenCopy(model)
    assert alignment_loss(model.eval(), BATCHES["right"], reference=reference).alignment_sum.item() == 0.0
    perturb(model)
    assert alignment_loss(model, BATCHES["right"], reference=reference).alignment_sum.item() > 0.01


TARGETS = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    "config",
    [
        FourierFTConfig(**TARGETS, n_frequency=20),
        C3AConfig(**TARGETS, block_size=8),
        VBLoRAConfig(**TARGETS, r=2, num_vectors=8, vector_length=8, topk=2),
        LoraConfig(**TARGETS, init_lora_weights=False, bias="lora_only"),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_a_frozen_copy_of_an_adapter_that_does_not_begin_as_the_base_model_is_refused(config: PeftConfig):
    """It would be a randomly disturbed base model."""
    with pytest.raises(ModelError, match="doesn't begin as the base model") as error:
        FrozenCopy(get_peft_model(build("llama-untied"), config))
    assert "FrozenModel(base)" in error.value.hint


def test_an_adapter_that_transformers_has_put_in_is_refused(tmp_path):
    """The model stays a plain one, as which nobody would switch it off."""
    model = build("llama-untied")
    cache = ReferenceCache.open(tmp_path, model)
    model.add_adapter(LoraConfig(**TARGETS))
    for make in (FrozenCopy, lambda model: cache.build(model, documents(DOCS))):
        with pytest.raises(ModelError, match="transformers itself has put an adapter"):
            make(model)


def test_a_frozen_copy_of_an_adapter_that_lost_a_part_of_the_base_model_is_refused():
    """With its adapter, too, the model is another one."""
    model = get_peft_model(build("llama-untied"), LoraConfig(**TARGETS, kasa_config=KasaConfig()))
    inputs = {"input_ids": BATCHES["right"]["input_ids"]}
    assert not torch.allclose(model(**inputs).logits, build("llama-untied")(**inputs).logits, atol=0.01)
    with pytest.raises(ModelError, match="kasa_config takes the smallest singular values") as error:
        FrozenCopy(model)
    assert "use plain LoRA" in error.value.hint
    model = adapted("llama-untied")
    model.peft_config["default"].init_lora_weights = "loftq"  # PEFT makes it by bitsandbytes' kernels
    with pytest.raises(ModelError, match="'loftq' rounds"):
        FrozenCopy(model)


def test_a_frozen_copy_of_virtual_tokens_is_refused():
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ModelError, match="virtual tokens are random") as error:
        FrozenCopy(get_peft_model(build("llama-untied"), config))
    assert "use LoRA" in error.value.hint


@pytest.mark.filterwarnings("ignore")  # PEFT's own: BOFT lacks its kernel, norms are no linear layers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        BOFTConfig(**TARGETS, boft_block_size=4),
        LNTuningConfig(task_type="CAUSAL_LM"),
        LoraConfig(**TARGETS, bias="all"),
        LoraConfig(**TARGETS, init_lora_weights="pissa"),
        LoraConfig(**TARGETS, init_lora_weights="olora"),
    ],
    ids=["boft", "layer norms", "bias", "pissa", "olora"],
)
def test_a_frozen_copy_of_an_adapter_that_begins_as_the_base_model_is_it(config: PeftConfig, dtype):
    """The rounding of the two SVDs apart."""
    model = get_peft_model(build("llama-untied", dtype=dtype), config).train()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    reference = FrozenCopy(model)
    perturb(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    positions = positions_of(BATCHES["right"])
    got = reference.hidden(model, BATCHES["right"], positions)
    base = FrozenModel(build("llama-untied", dtype=dtype)).hidden(model, BATCHES["right"], positions)
    assert relative(got.float(), base.float()) < (1e-5 if dtype is torch.float32 else 0.03)


def test_a_frozen_copy_of_a_trained_adapter_is_the_base_model():
    model = adapted("llama-untied", modules_to_save=["lm_head"])
    perturb(model)
    off, copied = (
        alignment_loss(model, BATCHES["right"], reference=reference).alignment_sum.item()
        for reference in (AdapterOff(model), FrozenCopy(model))
    )
    assert copied == pytest.approx(off, rel=1e-5)
    assert off > 0.01


@pytest.mark.parametrize("name", ["llama-tied", "phi-bias", "cohere-scale"])
def test_a_cached_reference_keeps_the_head_that_trains(name, tmp_path):
    """Full fine-tuning: the head of the reference is that of the model before training."""
    model = build(name).train()
    original = copy.deepcopy(model)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(DOCS))
    reference, frozen = CachedReference(cache, model), FrozenCopy(model)
    perturb(model, 0.05)
    head = reference.head(model)
    assert torch.equal(head.weight, original.get_output_embeddings().weight)
    assert not head.weight.requires_grad
    for batch in BATCHES.values():
        got = alignment_loss(model, batch, reference=reference).alignment_sum.item()
        assert got == pytest.approx(
            alignment_loss(model, batch, reference=frozen).alignment_sum.item(), rel=1e-5
        )


def test_a_cached_reference_shares_a_head_that_does_not_train(tmp_path):
    model = adapted("llama-untied")
    reference = CachedReference(ReferenceCache.open(tmp_path, model), model)
    assert reference.head(model).weight is model.get_base_model().lm_head.weight


def test_a_cached_reference_under_autocast(tmp_path):
    """Hidden states are kept in the dtype that the head's product runs in: nothing is lost."""
    model = adapted("llama-untied")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = ReferenceCache.open(tmp_path, model, compute_dtype=torch.bfloat16)
        cache.build(model, documents(DOCS[:1]))
        got = alignment_loss(model, padded(DOCS[:1]), reference=CachedReference(cache, model))
    assert cache.row_bytes == 64
    assert got.alignment_sum.item() == 0.0


def test_a_document_that_is_not_in_the_cache_is_an_error(tmp_path: Path):
    model = adapted("llama-tied")
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(DOCS))
    cut = [Doc(DOCS[1].ids[:-1], DOCS[1].prompt)]
    moved = [Doc(DOCS[1].ids, DOCS[1].prompt - 1)]
    for docs in (cut, moved, make_docs((4, 2), seed=9)):
        with pytest.raises(CacheError, match="is not in the reference cache") as error:
            alignment_loss(model, padded(docs), reference=CachedReference(cache, model))
        assert "adapter_off" in error.value.hint


def test_remembered_hidden_states_are_of_the_same_rows_and_positions_and_asked_for_once():
    base, calls = build("llama-untied"), []
    base.model.register_forward_hook(lambda *_: calls.append(1))
    remembered, model = Remembered(FrozenModel(base)), adapted("llama-untied")
    perturb(model)
    for batch in (BATCHES["right"], BATCHES["packed"]):
        for options in ({}, {"align_boundary": False}):
            positions = positions_of(batch, **options)
            first = remembered.hidden(model, batch, positions)
            before = len(calls)
            assert torch.equal(remembered.hidden(model, batch, positions), first)
            assert len(calls) == before
            assert torch.equal(FrozenModel(base).hidden(model, batch, positions), first)
    assert len(calls) == 8  # 4 different questions, each asked of the model here once too
    for name in ("left", "wide", "alone"):  # the same rows in other batches
        positions = positions_of(BATCHES[name])
        found = remembered.hidden(model, BATCHES[name], positions)
        torch.testing.assert_close(found, FrozenModel(base).hidden(model, BATCHES[name], positions))
    assert len(calls) == 11
    assert remembered.head(model).weight is find_head(base).weight
