"""The trainer: the same examples give the same training, however they are laid out and wherever the reference is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from tiny_training import LORA, curve, largest_difference, make_trainer, relative, run, text_rows, trained

from selfaug.model.hidden import own_forward
from tiny_models import build


@pytest.fixture(scope="module")
def whole_batch(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], Any]:
    """Eight rows in one batch: every other layout must train the same."""
    torch.set_num_threads(1)
    return run(tiny_model_dir, tmp_path_factory.mktemp("whole"), different=True, alpha=2.0)


LAYOUTS = {
    "4x2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "2x4": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "1x8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "3 and a ragged window": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4},
    "padding-free": {"padding_free": True},
    "padding-free 4x2": {
        "padding_free": True,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    },
    "packing": {"packing": True, "max_length": 64},
    "packing 1x8": {
        "packing": True,
        "max_length": 64,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
    },
    "padded to 32": {"pad_to_multiple_of": 32},
    "checkpointing": {"activation_checkpointing": True},
    "frozen copy": {"reference": "frozen_copy"},
    "cache": {"reference": "cache"},
    "cache 2x4": {"reference": "cache", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "cache and packing": {"reference": "cache", "packing": True, "max_length": 64},
    "cache and padding-free": {"reference": "cache", "padding_free": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_rows_changes_nothing(
    layout: str, whole_batch: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    changes = {"reference_cache_dir": str(tmp_path / "cache"), **LAYOUTS[layout]}
    gradients, trainer = run(tiny_model_dir, tmp_path / "out", different=True, alpha=2.0, **changes)
    expected_gradients, expected = whole_batch
    names = ("nll", "alignment_loss", "num_tokens")
    assert len(curve(expected, *names)) == 6
    assert (
        curve(expected, "alignment_loss")[0][0] > 1e-3
    )  # there is something to align from the first step on
    assert relative(gradients, expected_gradients) < 1e-5
    if layout.startswith("packing") or layout.endswith("packing"):
        names = ("nll", "alignment_loss", "epoch")[:2]
    # Adam divides by the gradient's own size, so rounding grows from step to step.
    assert largest_difference(curve(trainer, *names), curve(expected, *names)) < 1e-4
    assert relative(trained(trainer), trained(expected)) < 1e-3


def test_ragged_last_window_of_an_epoch_is_a_step_of_its_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = text_rows(10)
    common = {"different": True, "alpha": 2.0, "max_steps": 6}
    _, whole = run(tiny_model_dir, tmp_path / "a", rows, per_device_train_batch_size=4, **common)
    _, split = run(
        tiny_model_dir,
        tmp_path / "b",
        rows,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        **common,
    )
    assert [epoch for (epoch,) in curve(whole, "epoch")][2] == 1.0  # three steps of 4, 4 and 2 rows
    names = ("nll", "alignment_loss", "num_tokens", "loss")
    assert largest_difference(curve(split, *names), curve(whole, *names)) < 1e-4
    assert relative(trained(split), trained(whole)) < 1e-3


def test_alpha_0_is_trls_own_trainer(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes = {"different": True, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    ours, ours_trainer = run(tiny_model_dir, tmp_path / "ours", alpha=0.0, **changes)
    trls, trls_trainer = run(tiny_model_dir, tmp_path / "trl", plain=True, **changes)
    assert relative(ours, trls) < 1e-5
    names = ("loss", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm")
    ours_curve, trls_curve = curve(ours_trainer, *names), curve(trls_trainer, *names)
    # trl's entropy and accuracy are means over micro-batches, ours over tokens; the loss is over tokens in
    # both.
    for column in (0, 3, 4):
        assert [row[column] for row in ours_curve] == pytest.approx(
            [row[column] for row in trls_curve], rel=1e-4
        )
    assert curve(ours_trainer, "alignment_loss") == []
    assert ours_trainer.noise_floor is None


def test_alpha_0_on_one_batch_logs_trls_metrics(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, ours = run(tiny_model_dir, tmp_path / "ours", alpha=0.0, max_steps=2)
    _, trls = run(tiny_model_dir, tmp_path / "trl", plain=True, max_steps=2)
    names = ("loss", "entropy", "mean_token_accuracy", "num_tokens")
    assert largest_difference(curve(ours, *names), curve(trls, *names)) < 1e-5


def test_checkpoints_have_no_forms_to_fill_in(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_dir, tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").exists()
    assert not list(tmp_path.rglob("README.md"))
    trainer.create_model_card()  # as trl's, for who wants it
    assert (tmp_path / "README.md").exists()


@pytest.mark.parametrize("given", [None, True])
def test_unused_parameters_are_looked_for_only_where_there_can_be_some(
    tiny_model_dir: Path, tmp_path: Path, given: bool | None
) -> None:
    trainer = make_trainer(tiny_model_dir, tmp_path, ddp_find_unused_parameters=given)
    assert trainer.accelerator.ddp_handler.find_unused_parameters is bool(given)


def test_a_model_with_a_part_of_a_vision_tower_can_be_sharded(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Gemma 3 names layers of a whole SigLIP, and accelerate refuses those that it doesn't find."""
    trainer = make_trainer(
        build("gemma3-multimodal"),
        tmp_path,
        [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}] * 2,
        tokenizer=tiny_tokenizer,
        lora={"r": 4, "target_modules": ["o_proj"]},
    )
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(trainer.model)
    sharded = {
        type(module).__name__
        for module in trainer.model.modules()
        if plugin.auto_wrap_policy(module=module, recurse=False, nonwrapped_numel=0)
    }
    assert sharded > {"Gemma3DecoderLayer", "SiglipEncoderLayer"}


def test_reference_pass_leaves_the_random_state(tiny_model_dir: Path, tmp_path: Path) -> None:
    """With a vanishing weight the alignment runs and changes nothing: the dropout of every step is the
    same."""
    lora = {**LORA, "lora_dropout": 0.3}
    _, without = run(tiny_model_dir, tmp_path / "a", lora=lora, alpha=0.0)
    _, other = run(tiny_model_dir, tmp_path / "b", lora=lora, alpha=0.0, seed=1)
    assert largest_difference(curve(other, "nll"), curve(without, "nll")) > 1e-3
    for reference in ("adapter_off", "cache"):
        _, aligned = run(
            tiny_model_dir,
            tmp_path / reference,
            lora=lora,
            alpha=1e-12,
            reference=reference,
            reference_cache_dir=str(tmp_path / "cache"),
        )
        assert largest_difference(curve(aligned, "nll"), curve(without, "nll")) < 1e-5


def test_mixed_precision_on_the_cpu(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, exact = run(tiny_model_dir, tmp_path / "a", different=True, alpha=2.0)
    _, mixed = run(tiny_model_dir, tmp_path / "b", different=True, alpha=2.0, bf16=True)
    _, cached = run(
        tiny_model_dir,
        tmp_path / "c",
        different=True,
        alpha=2.0,
        bf16=True,
        reference="cache",
        reference_cache_dir=str(tmp_path / "cache"),
    )
    names = ("nll", "alignment_loss")
    for trainer in (mixed, cached):
        difference = largest_difference(curve(trainer, *names), curve(exact, *names))
        assert 1e-6 < difference < 0.03  # bf16 was used, and is near
    _, equal = run(tiny_model_dir, tmp_path / "d", bf16=True, max_steps=1)
    assert equal.noise_floor == 0.0


def test_after_training_under_autocast_the_model_can_be_asked_as_it_will_be_loaded(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, trainer = run(tiny_model_dir, tmp_path, different=True, bf16=True, max_steps=1)
    model = trainer.model.eval()
    ids = torch.tensor([[5, 6, 7, 8, 9]], device=model.device)
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        with own_forward(model):
            own = model(input_ids=ids).logits
        loaded = model.base_model(input_ids=ids).logits  # below what accelerate has wrapped
        assert torch.equal(model(input_ids=ids).logits, trained)
    assert torch.equal(own, loaded)
    assert not torch.equal(own, trained)


@pytest.mark.parametrize("share", ["position_fraction", "row_fraction"])
def test_what_is_sampled_does_not_depend_on_the_layout(
    share: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    changes = {"different": True, "alpha": 2.0, share: 0.4}
    whole_gradients, whole = run(tiny_model_dir, tmp_path / "a", **changes)
    full_gradients, full = run(tiny_model_dir, tmp_path / "b", **{**changes, share: 1.0})
    assert relative(whole_gradients, full_gradients) > 1e-3  # it does sample
    sampled = [value for (value,) in curve(whole, "alignment_loss")]
    everything = [value for (value,) in curve(full, "alignment_loss")]
    assert sum(sampled) == pytest.approx(sum(everything), rel=0.3 if share == "position_fraction" else 0.8)
    for name, layout in {
        "2x4": LAYOUTS["2x4"],
        "packing": LAYOUTS["packing"],
        "padding-free": LAYOUTS["padding-free 4x2"],
        "cache": {**LAYOUTS["cache 2x4"], "reference_cache_dir": str(tmp_path / "cache")},
    }.items():
        gradients, trainer = run(tiny_model_dir, tmp_path / name, **{**changes, **layout})
        assert relative(gradients, whole_gradients) < 1e-5
        assert largest_difference(curve(trainer, "alignment_loss"), curve(whole, "alignment_loss")) < 1e-4


def test_model_is_left_as_it_was_by_the_reference_pass(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_dir, tmp_path, lora={**LORA, "lora_dropout": 0.1}, alpha=2.0)
    before = {name: parameter.requires_grad for name, parameter in trainer.model.named_parameters()}
    weights = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    after = {name: parameter.requires_grad for name, parameter in trainer.model.named_parameters()}
    assert after == before
    assert all(
        torch.equal(value, weights[name])
        for name, value in trainer.model.state_dict().items()
        if "lora_" not in name
    )
