"""Fixtures for the data tests: files with rows, tokenisers with other templates."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

THINKING_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'].split('</think>')[-1] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
"""Opens the thinking in the generation prompt, and strips it from finished turns."""


@pytest.fixture
def thinking_tokenizer(
    with_template: Callable[[str | None], PreTrainedTokenizerFast],
) -> PreTrainedTokenizerFast:
    """A reasoning model's: its training prefix differs from its serving prefix."""
    return with_template(THINKING_TEMPLATE)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def with_template(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[str | None], PreTrainedTokenizerFast]:
    """A copy of the shared tokeniser with another chat template."""

    def copy_with(template: str | None) -> PreTrainedTokenizerFast:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return copy_with


@pytest.fixture
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Characters, of which "a" and "b" merge, and line breaks; a beginning token before every text."""
    tokens = ["<s>", "</s>", "a", "b", "c", "ab", "\n", "\n\n"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("\n", "\n")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
