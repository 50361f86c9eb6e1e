"""QLoRA with bitsandbytes, whose 4-bit weights a CPU can multiply with, too.

`make unit` runs these in a process of their own, with the bitsandbytes that it has put into a folder for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from selfaug.config import TrainConfig
from selfaug.core.positions import find_positions
from selfaug.errors import ModelError
from selfaug.model.loading import load_model
from selfaug.model.reference import AdapterOff, FrozenModel
from selfaug.phases.canary import canary_problems
from selfaug.phases.export import export
from selfaug.phases.inputs import load_base_model
from selfaug.phases.run_models import load_run_models
from selfaug.phases.train import Interrupted, train
from selfaug.records import read_lines
from selfaug.rundir import RunDir
from selfaug.train import SelfAugConfig, SelfAugTrainer
from selfaug.train.loss import alignment_loss
from tiny_models import make_docs, padded

functional = pytest.importorskip("bitsandbytes").functional

FOUR_BIT = ("model.quantization=4bit", "selfaug.monitor_prompts=0", "train.warmup=0")


@pytest.fixture(scope="module")
def model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, twice as wide: a row of a weight must fill a block of 64."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("models") / "of-64"))
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder, hidden_size=64, intermediate_size=128, head_dim=16)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, settings: Callable[..., TrainConfig], model_dir: Path
) -> TrainConfig:
    config = settings(tmp_path_factory.mktemp("runs") / "qlora", f"model.name={model_dir}", *FOUR_BIT)
    train(config)
    return config


def test_gradients_are_those_of_the_rounded_weights(trained: TrainConfig) -> None:
    """Against a model in float32 that has them; after a reference pass, which has layers pack their weights."""
    four = load_base_model(trained, dtype=torch.float32, device=torch.device("cpu"))
    plain = load_model(trained.model.name, dtype="float32")
    for name, module in four.named_modules():
        if type(module).__name__ == "Linear4bit":
            rounded = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data.copy_(rounded)
    inputs = padded(make_docs((12, 5), (30, 6)))
    found = []
    for model in (four, plain):
        torch.manual_seed(0)
        tuned = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
        for _ in range(2):  # after the first step both models differ
            tuned.zero_grad()
            got = alignment_loss(tuned.train(), inputs, alpha=0.7)
            got.loss.backward()
            with torch.no_grad():
                for name, weight in tuned.named_parameters():
                    if "lora_B" in name:
                        weight.copy_(torch.sin(torch.arange(weight.numel()) * 1.0).view_as(weight) * 0.05)
        assert got.alignment_sum.item() > 0.05
        found.append(torch.cat([w.grad.flatten() for w in tuned.parameters() if w.requires_grad]).double())
    assert (found[0] - found[1]).norm() / found[1].norm() < 1e-4


def _loaded_by_a_script(folder: Path) -> PeftModel:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))


def _is_packed(model: torch.nn.Module) -> bool:
    states = [getattr(getattr(one, "weight", None), "quant_state", None) for one in model.modules()]
    return any(getattr(state, "packing_format_for_cpu", False) for state in states)


def test_a_reference_pass_leaves_layers_as_they_are(model_dir: Path) -> None:
    inputs = padded(make_docs((12, 5)))
    model = _loaded_by_a_script(model_dir)
    alignment_loss(model.train(), inputs)
    FrozenModel(model).hidden(model, inputs, find_positions(inputs["input_ids"], inputs["labels"]))
    assert not _is_packed(model)


@pytest.mark.skipif(not functional.has_avx512bf16(), reason="layers are packed for bf16 instructions")
def test_packed_layers_are_not_trained_over(model_dir: Path, tmp_path: Path) -> None:
    model = _loaded_by_a_script(model_dir).eval()
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert _is_packed(model)
    rows = Dataset.from_list([{"prompt": "the revenue", "completion": " was 3 million"}])
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    config = SelfAugConfig(str(tmp_path), activation_checkpointing=False, use_cpu=True, bf16=False)
    with pytest.raises(ModelError, match="has been packed by a pass without gradient"):
        SelfAugTrainer(model, config, train_dataset=rows, processing_class=tokenizer)


def test_the_reference_is_the_base_model_in_four_bits(trained: TrainConfig) -> None:
    run = RunDir(trained.run.output)
    steps = [line for line in read_lines(run.metrics) if "alignment_loss" in line]
    assert steps[0]["alignment_loss"] == steps[0]["noise_floor"] == 0.0
    assert steps[-1]["alignment_loss"] > 0
    assert steps[-1]["nll"] < steps[0]["nll"]


def test_what_was_trained_is_what_is_loaded(trained: TrainConfig) -> None:
    run = RunDir(trained.run.output)
    _, tuned = load_run_models(run, trained, run.adapter, device=torch.device("cpu"))
    assert isinstance(tuned, PeftModel)
    kinds = {type(module).__name__ for module in tuned.get_base_model().modules()}
    assert "Linear4bit" in kinds
    assert canary_problems(run, tuned, AdapterOff(tuned)) == []


def test_resuming_gives_the_same_adapter(
    trained: TrainConfig, settings: Callable[..., TrainConfig], model_dir: Path, tmp_path: Path
) -> None:
    config = settings(tmp_path / "run", f"model.name={model_dir}", *FOUR_BIT)

    def stop_after_the_second_step(progress) -> None:
        if progress.stage == "training" and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(config, on_progress=stop_after_the_second_step)
    train(config, resume=True)
    mine, whole = (
        load_file(RunDir(one.run.output).adapter / "adapter_model.safetensors") for one in (config, trained)
    )
    assert mine.keys() == whole.keys()
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


def test_an_export_has_the_adapter_in_the_full_weights(trained: TrainConfig, tmp_path: Path) -> None:
    written = export(trained.run.output, tmp_path / "merged")
    assert any("4-bit weights" in warning for warning in written.warnings)
    merged, base = (
        load_model(str(tmp_path / "merged"), dtype="float32"),
        load_model(trained.model.name, dtype="float32"),
    )
    adapter = load_file(RunDir(trained.run.output).adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    down, up = (adapter[f"base_model.model.{name}.lora_{one}.weight"] for one in "AB")
    change = trained.lora.alpha / trained.lora.rank * (up.double() @ down.double())
    assert change.abs().max() > 1e-4
    got = merged.get_submodule(name).weight.double() - base.get_submodule(name).weight.double()
    torch.testing.assert_close(got, change, rtol=1e-3, atol=1e-6)
