"""The trainer with adapters of many kinds, with one that is trained already, and with none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig, OSFConfig, get_peft_model
from peft.tuners.osf import OSFLayer
from tiny_training import (
    LORA,
    curve,
    largest_difference,
    make_trainer,
    relative,
    run,
    settings,
    text_rows,
    trained,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfaug import SelfAugConfig, SelfAugTrainer


@pytest.mark.parametrize("reference", ["frozen_copy", "cache"])
def test_full_fine_tuning_aligns_to_the_model_as_it_was(
    reference: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Embeddings and tied head train too: the reference's own head is kept."""
    losses = {}
    for alpha in (5.0, 0.0):
        _, trainer = run(
            tiny_model_dir,
            tmp_path / str(alpha),
            lora=None,
            alpha=alpha,
            reference=reference,
            reference_cache_dir=str(tmp_path / "cache"),
            max_steps=8,
        )
        losses[alpha] = trainer
    aligned = [value for (value,) in curve(losses[5.0], "alignment_loss")]
    assert aligned[0] == pytest.approx(0, abs=1e-6)
    # What training logged is the divergence between the model now and the model before, measured from
    # outside.
    drift = _drift_on_prompts(losses[5.0], tiny_model_dir)
    plain = _drift_on_prompts(losses[0.0], tiny_model_dir)
    assert 0 < drift < 0.5 * plain


def test_frozen_copy_and_cache_give_the_same_full_fine_tuning(tiny_model_dir: Path, tmp_path: Path) -> None:
    runs = [
        run(
            tiny_model_dir,
            tmp_path / reference,
            lora=None,
            reference=reference,
            alpha=2.0,
            reference_cache_dir=str(tmp_path / "cache"),
        )
        for reference in ("frozen_copy", "cache")
    ]
    names = ("nll", "alignment_loss")
    assert largest_difference(curve(runs[0][1], *names), curve(runs[1][1], *names)) < 1e-4
    assert relative(trained(runs[0][1]), trained(runs[1][1])) < 1e-3


def _drift_on_prompts(trainer: Any, base: Path) -> float:
    from transformers import AutoModelForCausalLM

    tuned = trainer.model.eval()
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval().to(tuned.device)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in trainer.train_dataset:
            prompt = sum(label == -100 for label in row["labels"])
            ids = torch.tensor([row["input_ids"]], device=tuned.device)
            p = reference(input_ids=ids).logits[0, :prompt].double().log_softmax(-1)
            q = tuned(input_ids=ids).logits[0, :prompt].double().log_softmax(-1)
            total += float((p.exp() * (p - q)).sum())
            count += prompt
    return total / count


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param({**LORA, "use_dora": True}, id="DoRA"),
        pytest.param({**LORA, "modules_to_save": ["lm_head"]}, id="trained head"),
        pytest.param({**LORA, "lora_dropout": 0.2}, id="dropout"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`:UserWarning")
def test_other_adapters_learn_and_stay_near(
    lora: dict[str, Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, trainer = run(tiny_model_dir, tmp_path / "a", lora=lora, alpha=10.0, max_steps=10)
    _, plain = run(tiny_model_dir, tmp_path / "b", lora=lora, alpha=0.0, max_steps=10)
    nll = [value for (value,) in curve(trainer, "nll")]
    assert nll[-1] < nll[0] - 0.02
    aligned = [value for (value,) in curve(trainer, "alignment_loss")]
    assert all(value > 0 for value in aligned[2:])
    assert _drift_on_prompts(trainer, tiny_model_dir) < 0.8 * _drift_on_prompts(plain, tiny_model_dir)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_osf_preserves_its_directions_in_16_bits_too(
    dtype: torch.dtype, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The gradient has no part in the preserved directions of U (columns) and V (rows)."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    trainer = make_trainer(
        get_peft_model(model, OSFConfig(effective_rank=0.5, target_modules="all-linear")),
        tmp_path,
        lora=None,
        tokenizer=tokenizer,
        alpha=0.0,
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    loss = trainer.model(**trainer._prepare_inputs(batch)).loss
    loss.backward()
    layers = [layer for layer in trainer.model.modules() if isinstance(layer, OSFLayer)]
    for layer in layers:
        weight = layer.get_base_layer().weight.detach().float()
        left_OR, _, right_RI = torch.linalg.svd(weight, full_matrices=False)
        kept = min(weight.shape) // 2
        factors = layer.osf_svd_params["default"]
        assert factors["U_low"].dtype == torch.float32
        for gradient, preserved in (
            (factors["U_low"].grad, left_OR[:, :kept]),
            (factors["V_low"].grad.T, right_RI[:kept].T),
        ):
            assert gradient.norm() > 0
            assert (preserved.T @ gradient).norm() < (
                1e-4 if dtype == torch.float32 else 0.05
            ) * gradient.norm()
    assert layers


def test_a_trained_head_is_trained(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        gradients, trainer = run(
            tiny_model_dir, tmp_path, lora={**LORA, "modules_to_save": ["lm_head"]}, max_steps=3
        )
    (name,) = [name for name in gradients if "lm_head" in name]
    assert gradients[name].abs().max() > 0
    head = trainer.model.base_model.model.lm_head
    assert not torch.equal(head.modules_to_save["default"].weight, head.original_module.weight)


def test_a_trained_adapter_is_aligned_to_the_base_model_by_every_reference(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    losses = []
    for reference in ("adapter_off", "cache", "frozen_copy"):
        torch.manual_seed(1)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(**LORA))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        trainer = make_trainer(
            model,
            tmp_path / reference,
            lora=None,
            tokenizer=tokenizer,
            reference=reference,
            reference_cache_dir=str(tmp_path / "c"),
            max_steps=1,
        )
        trainer.train()
        losses += curve(trainer, "alignment_loss")[0]
    assert losses[0] > 1e-3
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_trained_adapter_has_no_noise_floor(
    is_trained: bool, tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And is told of, unless it is said to be meant so."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(**LORA))
    if is_trained:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    meant = SelfAugTrainer(
        model=model,
        args=SelfAugConfig(**settings(tmp_path)),
        train_dataset=Dataset.from_list(text_rows(2)),
        processing_class=tokenizer,
        adapter_is_trained=is_trained,
    )
    assert meant.starts_at_reference != is_trained
    assert "adapter" not in caplog.text
    _, trainer = run(model, tmp_path, lora=None, tokenizer=tokenizer, max_steps=1)
    assert ("the adapter changes the model already" in caplog.text) == is_trained
    ((first,),) = curve(trainer, "alignment_loss")
    if is_trained:
        assert first > 1e-6
        assert trainer.noise_floor is None
        assert curve(trainer, "noise_floor") == []
    else:
        assert curve(trainer, "noise_floor") == [(first,)] == [(trainer.noise_floor,)]


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")
def test_a_trained_adapter_is_looked_at_in_the_dtypes_that_training_has(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A base model in 16 bits with a head in 32: autocast alone makes them fit."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    model = get_peft_model(base, LoraConfig(**LORA, modules_to_save=["lm_head"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    make_trainer(
        model, tmp_path, lora=None, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), bf16=True
    )
    assert "the adapter changes the model already" in caplog.text
    assert "use plain LoRA on the 4-bit base" in caplog.text


@pytest.mark.parametrize(
    "adapter", [LoraConfig(**LORA, init_lora_weights=False), IA3Config(init_ia3_weights=False)]
)
def test_an_adapter_that_begins_at_random_has_no_noise_floor(
    adapter: Any, tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    trainer = SelfAugTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        args=SelfAugConfig(**settings(tmp_path, max_steps=1)),
        train_dataset=Dataset.from_list(text_rows(8)),
        processing_class=tiny_tokenizer,
        peft_config=adapter,
    )
    assert not trainer.starts_at_reference
    trainer.train()
    assert trainer.noise_floor is None
    assert curve(trainer, "alignment_loss")[0][0] > 1e-6
