"""Fixtures for all tests: a tiny random Llama and a small tokeniser with a chat template."""

from __future__ import annotations

import gc
import json
import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial

# Before transformers is imported anywhere: no test may ask a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfaug.config import TrainConfig, load_config
from selfaug.records import write_lines

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_collection_finish() -> None:
    """Take what the libraries define, a million objects, out of garbage collection.

    Each training asks for two collections, and each asking of a model for one: half a second of them, every time.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else some libraries complain at the end that they leak


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with 300 tokens and a ChatML template. Don't change it: it is shared."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the revenue of the company in the year was million"] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>", model_max_length=256
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture
def spacing_tokenizer() -> PreTrainedTokenizerFast:
    """Puts a space before every text, as Llama 2 does; " b" is one token."""
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "▁", "a", "b", "▁b"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def with_byte_tokens() -> PreTrainedTokenizerFast:
    """As SentencePiece's vocabularies: a byte of what they don't have is a token."""
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "t", "h", "e", " ", "\ufffd"]
    ids = {token: place for place, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ids, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder with a random Llama (2 layers, width 32, 256 positions, tied head) and `tiny_tokenizer`."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 2,048 positions. It is shared."""
    from tiny_models import with_window  # here: most tests don't need it, and it takes seconds

    return with_window(tiny_model_dir, tmp_path_factory.mktemp("models") / "wide", 2048)


@pytest.fixture(scope="session")
def quantized_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as one that is stored quantised: its linear layers round their weights to three values."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("models") / "quantized"))
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    method = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    (folder / "config.json").write_text(json.dumps({**described, "quantization_config": method}))
    return folder


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL file with 24 retrieval rows, all shorter than the tiny model's 256 positions."""
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {
            "id": f"row-{number}",
            "question": f"revenue of company {number}?",
            "context": [f"the revenue of company {number} was {number * 7} million", "the other company"],
            "answer": f"{number * 7} million",
        }
        for number in range(24)
    ]
    write_lines(file, rows)
    return file


@pytest.fixture(scope="session")
def settings(tiny_model_dir: Path, tiny_rows: Path) -> Callable[..., TrainConfig]:
    """Settings of a short run of the tiny model; more of them as `a.b=value`."""

    def make(output: Path, *sets: str) -> TrainConfig:
        flags = {"--model": str(tiny_model_dir), "--train": str(tiny_rows), "--output": str(output)}
        short = ["train.batch_size=2", "train.gradient_accumulation=2", "train.steps=6", "train.save_steps=2"]
        few = ["train.learning_rate=1e-2", "selfaug.monitor_prompts=2", "model.dtype=float32"]
        return load_config(None, flags, [*short, *few, *sets])

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, settings: Callable[..., TrainConfig]) -> Path:
    """A complete run of six steps with three checkpoints and an evaluation. Don't change it: it is shared."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    from selfaug.phases.train import train  # here: most tests don't need it, and it takes seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers about itself
        config = settings(run, "train.keep_checkpoints=3", f"data.eval={settings(run).data.train[0]}")
        train(config)
    return run


@pytest.fixture
def short_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-anchors are written in one round, with short answers: a random model never ends a text by itself."""
    from selfaug.train import anchors, selfaug_trainer  # here: most tests don't need it, and it takes seconds

    monkeypatch.setattr(anchors, "_ROUNDS", 1)
    monkeypatch.setattr(selfaug_trainer, "self_anchors", partial(anchors.self_anchors, completion_tokens=8))


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "copied"))
