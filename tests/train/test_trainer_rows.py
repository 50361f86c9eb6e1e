"""Rows of every form that the trainer takes, and rows and settings that it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny_training import LORA, curve, make_trainer, relative, run, settings, text_rows, tokenised_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, GptOssConfig, GptOssForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from selfaug import SelfAugConfig, SelfAugTrainer
from selfaug.errors import ConfigError, DataError, ModelError
from selfaug.train.step_counts import PromptWatch


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
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    def learn_padding(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = collator(rows)
        return {**batch, "labels": batch["input_ids"]}

    with pytest.raises(DataError, match="tokens of a step are to be learnt, and have an attention_mask of 0"):
        run(tiny_model_dir, tmp_path, data_collator=learn_padding, max_steps=20)
    with pytest.raises(DataError, match="first 10 steps have no prompt tokens") as error:
        run(tiny_model_dir, tmp_path, data_collator=learn_all, max_steps=20)
    assert "leave data_collator out" in str(error.value.hint)
    # Few rows with a prompt are enough.
    watch = PromptWatch(own_collator=True)
    for within_prompts in (0, 3, *[0] * 12):
        watch.look_at(within_prompts)


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
            row_fraction=1.5,
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
        "row_fraction",
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
