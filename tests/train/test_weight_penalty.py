"""The penalty on the adapter's change: against ΔW written out in float64, and the same for every layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tiny_training import curve, make_trainer, relative, trained

from selfaug.errors import ConfigError
from selfaug.train.weight_penalty import lora_change
from tiny_models import build, linear_names

NAME = "llama-untied"


@pytest.mark.parametrize("rslora", [False, True])
def test_value_and_gradients_are_those_of_the_whole_change(rslora: bool) -> None:
    config = LoraConfig(
        r=3,
        lora_alpha=7,
        use_rslora=rslora,
        target_modules=linear_names(NAME),
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(build(NAME), config)
    found = lora_change(model)
    found.backward()
    scale = 7 / 3**0.5 if rslora else 7 / 3
    twins = {
        name: parameter.detach().double().requires_grad_()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    expected = torch.zeros((), dtype=torch.float64)
    for name, a_RI in twins.items():
        if "lora_A" in name:
            change_OI = scale * twins[name.replace("lora_A", "lora_B")] @ a_RI
            expected = expected + change_OI.square().sum()
    expected.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found_gradients = {name: dict(model.named_parameters())[name].grad.double() for name in twins}
    assert relative(found_gradients, {name: twin.grad for name, twin in twins.items()}) < 1e-5


def test_layout_and_alignment_change_nothing_about_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    runs = {}
    for rows, accumulation in ((8, 1), (2, 4), (3, 3)):
        trainer = make_trainer(
            tiny_model_dir,
            tmp_path / f"{rows}",
            different=True,
            alpha=1.0,
            weight_penalty=0.3,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
            max_steps=2,
        )
        before = float(lora_change(trainer.model).detach()) ** 0.5
        trainer.train()
        assert curve(trainer, "weight_change")[0][0] == pytest.approx(before, rel=1e-5)
        runs[rows] = trained(trainer)
    assert relative(runs[2], runs[8]) < 1e-4
    assert relative(runs[3], runs[8]) < 1e-4


def test_it_holds_the_weights_back(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes = []
    for penalty in (0.0, 10.0):
        trainer = make_trainer(tiny_model_dir, tmp_path / f"{penalty}", alpha=0.0, weight_penalty=penalty)
        trainer.train()
        changes.append(float(lora_change(trainer.model).detach()))
    assert changes[1] < 0.5 * changes[0]


def test_without_an_adapter_it_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none"):
        make_trainer(tiny_model_dir, tmp_path, lora=None, alpha=0.0, weight_penalty=0.1)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("qwen3-moe", {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
        ("llama-untied", {"target_modules": ["q_proj", "embed_tokens"]}),
    ],
)
def test_experts_and_embeddings_count_by_their_own_changes(name: str, targets: dict[str, list[str]]) -> None:
    """Against all weights of the merged model less those of the base model; gradients against PEFT's own ΔW."""
    config = LoraConfig(
        r=3, lora_alpha=7, init_lora_weights=False, task_type="CAUSAL_LM", **{"target_modules": [], **targets}
    )
    model = get_peft_model(build(name), config)
    found = lora_change(model)
    found.backward()
    adapter = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    gradients = {key: weight.grad.double() for key, weight in adapter.items()}
    model.double().zero_grad()
    changes = [layer.get_delta_weight("default") for layer in model.modules() if isinstance(layer, LoraLayer)]
    assert len(changes) == (4 if name == "qwen3-moe" else 3)
    torch.stack([change.square().sum() for change in changes]).sum().backward()
    assert relative(gradients, {key: weight.grad for key, weight in adapter.items()}) < 1e-5
    merged = dict(model.merge_and_unload().named_parameters())
    expected = sum(
        float((merged[key] - weight.double()).detach().square().sum())
        for key, weight in build(name).named_parameters()
    )
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd:UserWarning")
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("lfm2", LoraConfig(r=32, target_modules=["conv.conv"], task_type="CAUSAL_LM")),
        (NAME, AdaLoraConfig(target_modules=["q_proj"], total_step=9, task_type="CAUSAL_LM")),
    ],
)
def test_other_layers_than_linear_ones_are_refused(name: str, config: PeftConfig) -> None:
    with pytest.raises(ConfigError, match="of linear layers"):
        lora_change(get_peft_model(build(name), config))


def test_an_adapter_that_a_layer_lacks_adds_nothing_there() -> None:
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(build(NAME), config)
    before = lora_change(model)
    model.add_adapter("other", LoraConfig(target_modules=["v_proj"], task_type="CAUSAL_LM"))
    assert torch.equal(lora_change(model), before)


def test_dora_whose_change_is_another_is_refused() -> None:
    config = LoraConfig(target_modules=linear_names(NAME), use_dora=True, task_type="CAUSAL_LM")
    with pytest.raises(ConfigError, match="DoRA"):
        lora_change(get_peft_model(build(NAME), config))
