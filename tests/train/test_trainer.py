"""The trainer: the same examples give the same training, however they are laid out and wherever the reference
is."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from datasets import Dataset, IterableDataset
from peft import IA3Config, LoraConfig, OSFConfig, get_peft_model
from peft.tuners.osf import OSFLayer
from tiny_training import (
    LORA,
    Gradients,
    curve,
    make_trainer,
    relative,
    settings,
    text_rows,
    tokenised_rows,
    trained,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    JambaConfig,
    Llama4TextConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)
from transformers.trainer_utils import EvalPrediction
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from selfaug import SelfAugConfig, SelfAugTrainer
from selfaug.errors import CacheError, ConfigError, DataError, ModelError
from selfaug.model.hidden import own_forward
from selfaug.model.reference import CachedReference
from selfaug.train.model_checks import has_no_experts, uses_all_parameters
from selfaug.train.selfaug_trainer import _of_given_rows, _without_added
from tiny_models import CONFIGS, build


def run(model: Any, folder: Path, rows: Any = None, **changes: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """First gradients, and the trainer after training."""
    gradients = Gradients()
    trainer = make_trainer(model, folder, rows, callbacks=[gradients], **changes)
    trainer.train()
    return gradients.kept, trainer


def largest_difference(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> float:
    assert len(a) == len(b) > 0
    return max(
        abs(x - y) for row_a, row_b in zip(a, b, strict=True) for x, y in zip(row_a, row_b, strict=True)
    )


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

    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tuned = trainer.model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in trainer.train_dataset:
            prompt = sum(label == -100 for label in row["labels"])
            ids = torch.tensor([row["input_ids"]])
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
    loss = trainer.model(**trainer.data_collator([trainer.train_dataset[0]])).loss
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


# ---- rows


def _chat(row: dict[str, str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    prompt, completion = row["prompt"], row["completion"].strip()
    return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]


def test_forms_of_rows_that_mean_the_same_train_the_same(
    tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    text = text_rows(8)
    labelled = tokenised_rows(tiny_tokenizer, 8)
    masked = [
        {"input_ids": row["input_ids"], "completion_mask": [int(label != -100) for label in row["labels"]]}
        for row in labelled
    ]
    chats = [_chat(row) for row in text]
    groups = [
        {
            "text": text,
            "labels": labelled,
            "completion_mask": masked,
            "a Dataset": Dataset.from_list(text),
            "tensors": Dataset.from_list(labelled).with_format("torch"),
        },
        {
            "prompt and completion messages": [{"prompt": p, "completion": c} for p, c in chats],
            "messages": [{"messages": p + c} for p, c in chats],
        },
    ]
    for group in groups:
        results = {
            name: run(tiny_model_dir, tmp_path / name, rows, different=True, max_steps=1)[0]
            for name, rows in group.items()
        }
        first, *others = results.values()
        for other in others:
            assert relative(other, first) < 1e-5


ALIGN_NOTHING = {
    "no rows": ([], DataError, "no rows"),
    "text": ([{"text": "the revenue of the company"}], DataError, "no prompt"),
    "only completions": ([{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}], DataError, "no prompt tokens"),
    "messages without an answer": (
        [{"messages": [{"role": "user", "content": "the revenue"}]}],
        DataError,
        "does not end with an assistant's turn",
    ),
    "completions not masked": (
        text_rows(2),
        ConfigError,
        "completion_only_loss=False",
        {"completion_only_loss": False},
    ),
    "no rows at all": (None, DataError, "missing"),
    "a completion by another name": (
        [{"prompt": "the revenue", "response": "grew"}],
        DataError,
        "no completion",
    ),
}


@pytest.mark.parametrize("case", ALIGN_NOTHING)
def test_rows_that_leave_nothing_to_align_are_an_error(
    case: str, tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    rows, error, words, *changes = ALIGN_NOTHING[case]
    args = SelfAugConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to=[],
        **(changes[0] if changes else {}),
    )
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with pytest.raises(error, match=words):
        SelfAugTrainer(model=model, args=args, train_dataset=rows, processing_class=tiny_tokenizer)


def test_settings_that_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No tracker; on the CPU, where there is nothing else, in the faster type; and less nll is better."""
    has_gpu = torch.accelerator.is_available()
    monkeypatch.setattr("selfaug.train.selfaug_config.best_dtype", lambda _: torch.float32)
    args = SelfAugConfig(str(tmp_path), activation_checkpointing=False, metric_for_best_model="eval_nll")
    assert args.report_to == []
    assert (args.use_cpu, args.bf16) == (not has_gpu, has_gpu)
    assert ("no GPU found: training on the CPU" in caplog.text) is not has_gpu
    assert args.greater_is_better is False
    given = SelfAugConfig(**settings(tmp_path, metric_for_best_model="nll", greater_is_better=True))
    assert given.greater_is_better


def test_a_stream_without_prompts_is_an_error_when_it_is_seen(tiny_model_dir: Path, tmp_path: Path) -> None:
    def completions() -> Any:
        yield from [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 200

    with pytest.raises(DataError, match="first 10 steps have no prompt tokens"):
        run(tiny_model_dir, tmp_path, IterableDataset.from_generator(completions), max_steps=20)


def test_a_stream_may_end_before_the_steps_do(tiny_model_dir: Path, tmp_path: Path) -> None:
    """It begins again; in between, the Trainer asks for the steps that are left."""
    rows = IterableDataset.from_generator(lambda: iter(text_rows(8)))
    _, trainer = run(tiny_model_dir, tmp_path, rows, max_steps=12)
    assert len(curve(trainer, "alignment_loss")) == 12


def test_a_collator_that_makes_completions_of_all_tokens_is_an_error(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    collator = DataCollatorForLanguageModeling(pad_token_id=0)

    def learn_all(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = collator(rows)
        return {**batch, "labels": batch["input_ids"]}

    with pytest.raises(DataError, match="first 10 steps have no prompt tokens") as error:
        run(tiny_model_dir, tmp_path, data_collator=learn_all, max_steps=20)
    assert "leave data_collator out" in str(error.value.hint)
    # Few rows with a prompt are enough.
    trainer = make_trainer(tiny_model_dir, tmp_path, data_collator=collator)
    for within_prompts in (0, 3, *[0] * 12):
        trainer._check_unseen_rows(within_prompts)


def test_a_mask_of_completions_counts_beside_labels_too(
    tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    labelled = tokenised_rows(tiny_tokenizer, 8)
    both = [
        {
            "input_ids": row["input_ids"],
            "labels": row["input_ids"],
            "completion_mask": [int(label != -100) for label in row["labels"]],
        }
        for row in labelled
    ]
    # A column of that name beside tokens is what somebody has left there.
    named = [{**row, "prompt": "left over"} for row in both]
    first, *others = (
        run(tiny_model_dir, tmp_path / name, rows, different=True, max_steps=1)[0]
        for name, rows in (("labels", labelled), ("both", both), ("named", named))
    )
    assert all(relative(other, first) < 1e-6 for other in others)


def test_a_prompt_that_is_another_one_in_serving_is_an_error(
    tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """A template that opens its thinking where an answer is to be written, and shows none in training."""
    thinks = copy.deepcopy(tiny_tokenizer)
    thinks.chat_template = (
        "{% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant : region{% endif %}"
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": "the revenue"}],
            "completion": [{"role": "assistant", "content": "grew by million"}],
        }
    ]
    with pytest.raises(DataError, match="rows can't be used") as caught:
        make_trainer(tiny_model_dir, tmp_path, Dataset.from_list(rows * 4), tokenizer=thinks)
    assert "serving" in str(caught.value.problems[0])
    assert "enable_thinking" in str(caught.value.hint)


def test_text_rows_train_with_alpha_0(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, trainer = run(
        tiny_model_dir, tmp_path, [{"text": "the revenue of the company was"}] * 8, alpha=0.0, max_steps=3
    )
    nll = [value for (value,) in curve(trainer, "nll")]
    assert nll[2] < nll[0]


def test_settings_that_can_not_be_used_are_all_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        SelfAugConfig(
            output_dir=str(tmp_path),
            alpha=-1,
            drift_limit=0.0,
            divergence="sideways",
            divergence_temperature=0.0,
            position_fraction=0.0,
            reference="none",
            loss_type="dft",
            label_smoothing_factor=0.1,
            use_liger_kernel=True,
        )
    problems = " ".join(str(problem) for problem in caught.value.problems)
    for name in (
        "alpha",
        "drift_limit",
        "divergence ",
        "divergence_temperature",
        "position_fraction",
        "reference",
        "loss_type",
        "label_smoothing_factor",
        "use_liger_kernel",
    ):
        assert name in problems
    with pytest.raises(ConfigError) as caught:
        SelfAugConfig(output_dir=str(tmp_path), packing=True, packing_strategy="wrapped")
    for words in ("wrapped", "packing needs max_length"):
        assert words in str(caught.value.problems)
    with pytest.raises(ConfigError, match="can't be used"):
        SelfAugConfig(output_dir=str(tmp_path), packing=True, packing_strategy="bfd_split", max_length=64)
    with pytest.raises(ConfigError) as caught:
        SelfAugConfig(output_dir=str(tmp_path), eval_packing=True, max_length=64)
    assert "eval_packing needs packing or padding_free" in str(caught.value.problems)


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


def test_a_model_that_is_spread_over_devices_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    """As trl loads one by its name where a process sees two GPUs, or one that is too small."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for devices, words, hint in (
        ((0, 1), r"spread over 2 devices \(0, 1\)", "CUDA_VISIBLE_DEVICES=0"),
        (("cuda:0", "cpu"), r"doesn't fit on the GPU.* \(cpu, cuda:0\)", '{"dtype": "bfloat16"}'),
    ):
        model.hf_device_map = dict(zip(("model", "lm_head"), devices, strict=True))
        with pytest.raises(ConfigError, match=words) as error:
            make_trainer(model, tmp_path, lora=None, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir))
        assert hint in str(error.value.hint)


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


@pytest.mark.parametrize("layout", [{"padding_free": True}, {"packing": True, "max_length": 64}])
def test_a_model_that_does_not_keep_packed_rows_apart_is_refused(
    layout: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Before training, and for a stream of rows too; with padded rows it trains."""
    config = GptOssConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
    )

    def trainer(rows: Any = None, **changes: Any) -> Any:
        lora = {**LORA, "target_modules": ["q_proj", "v_proj"]}
        model = GptOssForCausalLM(config)
        return make_trainer(
            model, tmp_path, rows, lora=lora, tokenizer=tiny_tokenizer, max_steps=1, **changes
        )

    for rows in (None, IterableDataset.from_generator(lambda: iter(text_rows(8)))):
        with pytest.raises(ModelError, match="GptOssForCausalLM does not keep packed documents apart"):
            trainer(rows, **layout)
    trainer().train()


@pytest.mark.parametrize("form", [Dataset.from_list, IterableDataset.from_generator])
def test_rows_that_the_cache_does_not_hold_are_evaluated_with_the_adapter_off(
    form: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    known = Dataset.from_list(text_rows(4, seed=9)[:2])
    trainers = [
        run(
            tiny_model_dir,
            tmp_path / reference,
            reference=reference,
            reference_cache_dir=str(tmp_path / "c"),
            eval_rows=known,
            max_steps=2,
        )[1]
        for reference in ("cache", "adapter_off")
    ]
    rows = tokenised_rows(trainers[0].processing_class, 4, seed=9)
    # Two rows are known, two aren't.
    results = [
        trainer.evaluate(form(rows) if form == Dataset.from_list else form(lambda: iter(rows)))
        for trainer in trainers
    ]
    assert results[0]["eval_alignment_loss"] > 0
    for name in ("eval_nll", "eval_alignment_loss", "eval_loss"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-4)
    assert trainers[0].evaluate()["eval_alignment_loss"] > 0
    assert isinstance(trainers[0]._eval_reference, CachedReference)


def test_rows_that_the_cache_of_a_whole_model_does_not_hold_are_refused(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, trainer = run(
        tiny_model_dir,
        tmp_path / "a",
        lora=None,
        reference="cache",
        reference_cache_dir=str(tmp_path / "c"),
        max_steps=1,
    )
    known = Dataset.from_list(tokenised_rows(trainer.processing_class, 8))
    unknown = Dataset.from_list(tokenised_rows(trainer.processing_class, 3, seed=9))
    assert trainer.evaluate(known)["eval_alignment_loss"] >= 0
    with pytest.raises(CacheError, match="not in the reference cache, and the whole model trains") as error:
        trainer.evaluate(unknown)
    assert "eval_dataset" in str(error.value.hint)
    assert "frozen_copy" in str(error.value.hint)
    trainer.is_fsdp_enabled = True  # which refuses a frozen copy; sharding itself needs a GPU
    with pytest.raises(CacheError) as error:
        trainer.evaluate(unknown)
    assert str(error.value.hint) == "give them as eval_dataset when the trainer is made."
    trainer.is_fsdp_enabled = False
    assert trainer.evaluate(known)["eval_alignment_loss"] >= 0


# ---- logs and evaluation


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_logs_of_a_step(dropout: float, tiny_model_dir: Path, tmp_path: Path) -> None:
    lora = {**LORA, "lora_dropout": dropout}
    _, trainer = run(tiny_model_dir, tmp_path, lora=lora, alpha=0.7, max_steps=3, reference="adapter_off")
    first, second, third = [entry for entry in trainer.state.log_history if "nll" in entry]
    assert first["noise_floor"] == first["alignment_loss"] == trainer.noise_floor == 0.0
    assert "noise_floor" not in second
    assert third["alignment_loss"] > 0
    for entry in (first, second, third):
        assert entry["alpha"] == 0.7
        assert entry["tokens_per_second"] > 0
        assert entry["loss"] == pytest.approx(entry["nll"] + 0.7 * entry["alignment_loss"], abs=2e-4)
    lengths = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    assert [entry["num_tokens"] for entry in (first, second, third)] == [lengths, 2 * lengths, 3 * lengths]


def test_evaluating_and_saving_are_no_time_of_training(tiny_model_dir: Path, tmp_path: Path) -> None:
    seconds = 0.4

    class Slow(TrainerCallback):
        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(seconds)

        def on_save(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(seconds)

    trainer = make_trainer(
        tiny_model_dir,
        tmp_path,
        eval_rows=Dataset.from_list(text_rows(2, seed=3)),
        callbacks=[Slow()],
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=1,
        logging_steps=2,
    )
    trainer.train()
    lengths = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    rates = [rate for (rate,) in curve(trainer, "tokens_per_second")]
    assert len(rates) == 2
    assert min(rates) > lengths / seconds  # a step of milliseconds


def test_every_step_is_logged_once_whatever_a_callback_logs(tiny_model_dir: Path, tmp_path: Path) -> None:
    """On the main process alone, perhaps: then it must not add up over all processes."""

    class Notes(TrainerCallback):
        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            trainer.log({"note": 1.0})

    trainer = make_trainer(tiny_model_dir, tmp_path, callbacks=[Notes()], max_steps=3)
    trainer.train()
    assert len(curve(trainer, "note")) == 3
    assert curve(trainer, "note", "nll") == []
    assert len(curve(trainer, "grad_norm", "nll", "tokens_per_second")) == 3
    # What comes after the last log is in that of the whole training.
    _, other = run(tiny_model_dir, tmp_path, max_steps=3, logging_steps=2)
    assert "train_runtime" in other.state.log_history[-1]
    assert curve(other, "nll")[1][0] == pytest.approx(curve(trainer, "nll")[2][0], abs=1e-6)


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


def test_experts_may_leave_parameters_unused() -> None:
    """And so may what looks at images, of which there are none."""
    for name in CONFIGS:
        assert uses_all_parameters(build(name)) == (
            name not in ("qwen3-moe", "gemma3-multimodal", "mistral3")
        )


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


def test_nothing_is_printed(tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(
        tiny_model_dir, tmp_path, max_steps=2, reference="cache", reference_cache_dir=str(tmp_path / "cache")
    )
    capfd.readouterr()  # loading the model shows a bar
    trainer.train()
    assert capfd.readouterr() == ("", "")


def test_metrics_of_steps_between_logs_are_averaged(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = text_rows(16)
    changes = {"different": True, "per_device_train_batch_size": 4, "max_steps": 6}
    _, every = run(tiny_model_dir, tmp_path / "a", rows, **changes)
    _, third = run(tiny_model_dir, tmp_path / "b", rows, logging_steps=3, **changes)
    for name in ("nll", "alignment_loss"):
        values = [value for (value,) in curve(every, name)]
        expected = [(sum(values[:3]) / 3,), (sum(values[3:]) / 3,)]
        assert largest_difference(curve(third, name), expected) < 1e-6


def test_evaluation_weighs_tokens_not_batches(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = text_rows(7, seed=3)
    results = []
    for batch in (7, 3, 2):
        trainer = make_trainer(
            tiny_model_dir,
            tmp_path,
            different=True,
            eval_rows=Dataset.from_list(rows),
            per_device_eval_batch_size=batch,
            alpha=2.0,
            position_fraction=0.5,  # evaluation uses all positions all the same
        )
        results.append(trainer.evaluate())  # before any training
    whole = results[0]
    assert whole["eval_alignment_loss"] > 1e-3
    assert whole["eval_loss"] == pytest.approx(whole["eval_nll"] + 2 * whole["eval_alignment_loss"], rel=1e-6)
    for result in results[1:]:
        for name in (
            "eval_nll",
            "eval_alignment_loss",
            "eval_loss",
            "eval_entropy",
            "eval_mean_token_accuracy",
        ):
            assert result[name] == pytest.approx(whole[name], rel=1e-5)


def test_predictions_of_another_shape_than_rows_stay_whole(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Of completion tokens, one after the other."""
    rows = Dataset.from_list(tokenised_rows(tiny_tokenizer, 6))
    completion_tokens = sum(label != -100 for row in rows for label in row["labels"])
    # Whole batches: of one that is not, accelerate keeps as many entries as it has rows.
    trainer = make_trainer(tiny_model_dir, tmp_path, per_device_eval_batch_size=3)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)[labels != -100]
    assert trainer.predict(rows).predictions.shape == (completion_tokens,)


def test_only_what_has_an_entry_for_each_row_loses_those_that_were_added() -> None:
    """As several processes add them to a data set of 5 rows."""
    by_row, by_token = np.arange(16).reshape(8, 2), np.arange(20)
    found = _without_added((by_row, {"rows": by_row, "tokens": by_token}, [None]), 8, 5)
    assert [len(found[0]), len(found[1]["rows"]), len(found[1]["tokens"]), found[2]] == [5, 5, 20, [None]]
    # With `batch_eval_metrics`, they are in the last batch.
    compute = _of_given_rows(lambda found, **_: {"rows": len(found.predictions)}, 8, 5, apart=False)
    results = (compute(EvalPrediction(by_row, by_row), compute_result=last) for last in (False, True))
    assert [result["rows"] for result in results] == [8, 5]


def test_evaluation_changes_nothing_about_training(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, without = run(tiny_model_dir, tmp_path / "a")
    _, evaluated = run(
        tiny_model_dir,
        tmp_path / "b",
        eval_rows=Dataset.from_list(text_rows(5, seed=3)),
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
    )
    assert [entry["step"] for entry in evaluated.state.log_history if "eval_nll" in entry] == [0, 2, 4, 6]
    assert relative(trained(evaluated), trained(without)) == 0.0
    names = ("nll", "alignment_loss", "num_tokens")
    assert curve(evaluated, *names) == curve(without, *names)


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


def test_several_evaluation_sets(tiny_model_dir: Path, tmp_path: Path) -> None:
    sets = {"a": Dataset.from_list(text_rows(3, seed=4)), "b": text_rows(4, seed=5)}
    trainer = make_trainer(tiny_model_dir, tmp_path, eval_rows=sets, different=True)
    together = trainer.evaluate()
    for name, rows in sets.items():
        alone = make_trainer(tiny_model_dir, tmp_path, eval_rows=rows, different=True).evaluate()
        assert together[f"eval_{name}_nll"] == pytest.approx(alone["eval_nll"], rel=1e-5)
        assert together[f"eval_{name}_alignment_loss"] == pytest.approx(
            alone["eval_alignment_loss"], rel=1e-5
        )


# ---- precision, experts, sampling


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


def test_evaluation_in_16_bits_leaves_the_model_where_it_is_asked(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, transformers would move it when training begins."""
    has_gpu = torch.cuda.is_available()
    moved = []
    move = SelfAugTrainer._move_model_to_device

    def recorded(trainer: Any, model: Any, device: Any) -> None:
        moved.append((model, device))
        move(trainer, model, device)

    monkeypatch.setattr(SelfAugTrainer, "_move_model_to_device", recorded)
    trainer = make_trainer(
        tiny_model_dir,
        tmp_path,
        reference="frozen_copy",
        bf16_full_eval=True,
        use_cpu=not has_gpu,
        eval_rows=text_rows(2, seed=3),
    )
    assert moved == [(trainer.model, trainer.args.device)]
    assert trainer.model.device.type == ("cuda" if has_gpu else "cpu")
    assert trainer._reference.model.device == trainer.model.device
    assert trainer.evaluate()["eval_nll"] > 0


def test_after_training_under_autocast_the_model_can_be_asked_as_it_will_be_loaded(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, trainer = run(tiny_model_dir, tmp_path, different=True, bf16=True, max_steps=1)
    model, ids = trainer.model.eval(), torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        with own_forward(model):
            own = model(input_ids=ids).logits
        loaded = model.base_model(input_ids=ids).logits  # below what accelerate has wrapped
        assert torch.equal(model(input_ids=ids).logits, trained)
    assert torch.equal(own, loaded)
    assert not torch.equal(own, trained)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_router_loss_is_added_once_and_logged_apart(
    accumulation: int, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def model(coefficient: float) -> Qwen3MoeForCausalLM:
        torch.manual_seed(0)
        return Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=16,
                mlp_only_layers=[],
                max_position_embeddings=256,
                router_aux_loss_coef=coefficient,
                eos_token_id=tiny_tokenizer.eos_token_id,
                pad_token_id=tiny_tokenizer.pad_token_id,
                bos_token_id=None,
            )
        )

    changes = {
        "tokenizer": tiny_tokenizer,
        "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        "different": True,
        "max_steps": 1,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    _, with_router = run(model(0.5), tmp_path / "a", **changes)
    _, without = run(model(0.0), tmp_path / "b", **changes)
    entry, plain = with_router.state.log_history[0], without.state.log_history[0]
    assert "aux_loss" not in plain
    assert entry["aux_loss"] > 0.5
    assert entry["nll"] == pytest.approx(plain["nll"], rel=1e-5)
    assert entry["alignment_loss"] == pytest.approx(plain["alignment_loss"], rel=1e-4)
    assert entry["loss"] == pytest.approx(plain["loss"] + 0.5 * entry["aux_loss"], rel=1e-4)


def test_a_model_of_a_family_with_experts_that_has_none_trains_without_a_router_loss(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Its config has the router's fields all the same."""
    assert [has_no_experts(JambaConfig(num_experts=experts)) for experts in (1, 2)] == [True, False]
    model = GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=48,
            shared_intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["full_attention"] * 2,
            mamba_n_heads=4,
            num_local_experts=0,
            max_position_embeddings=256,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    _, trainer = run(model, tmp_path, tokenizer=tiny_tokenizer, lora=lora, max_steps=1)
    assert not model.config.output_router_logits
    assert trainer.state.log_history[0]["nll"] > 0
    assert "aux_loss" not in trainer.state.log_history[0]


def test_a_model_whose_output_has_no_router_loss_trains_without_one(
    tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its config has a coefficient of one all the same."""
    config = Llama4TextConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        interleave_moe_layer_step=1,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=None,
    )
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    model = AutoModelForCausalLM.from_config(config)
    _, trainer = run(model, tmp_path, tokenizer=tiny_tokenizer, lora=lora, max_steps=1)
    assert "Llama4ForCausalLM has no loss of its router" in caplog.text
    assert not model.config.output_router_logits
    assert trainer.state.log_history[0]["nll"] > 0
    assert "aux_loss" not in trainer.state.log_history[0]


def test_sampled_positions_do_not_depend_on_the_layout(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes = {"different": True, "alpha": 2.0, "position_fraction": 0.4}
    whole_gradients, whole = run(tiny_model_dir, tmp_path / "a", **changes)
    full_gradients, full = run(tiny_model_dir, tmp_path / "b", **{**changes, "position_fraction": 1.0})
    assert relative(whole_gradients, full_gradients) > 1e-3  # it does sample
    sampled = [value for (value,) in curve(whole, "alignment_loss")]
    everything = [value for (value,) in curve(full, "alignment_loss")]
    assert sum(sampled) == pytest.approx(sum(everything), rel=0.3)
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
