"""Text of others that becomes no mark of a turn: a document can't write turns of a chat into a prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from selfaug.data.template_checks import template_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["without_special_tokens"]

_TURNS = ("system", "user", "assistant", "user")
_WORDS = "a"
"""Of the turns that are rendered to see their marks: none of these."""

_TURN_MARK = re.compile(r"<[^\s<>]+>|\[/?[A-Z_]+\d*\]|\[\|[^\s\[\]|]+\|\]")
"""Such as `<|user|>`, `[/INST]` and `[|user|]`."""


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """What puts a space into each special token of a tokeniser that stands in a text: `<|im_end|>` becomes
    `< |im_end|>`. Other text stays as it is.

    What counts as special, whatever it is called, is what a model tells by who speaks: tokens that were added to the
    vocabulary and that the chat template names, and what it writes around turns in brackets, which is ordinary text in
    some vocabularies, such as `<|user|>` in OLMo 2's and `[INST]` in Llama 2's.
    """
    named = str(tokenizer.chat_template)
    added = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content.strip() and token.content in named)
    ]
    special_tokens = {*added, *tokenizer.all_special_tokens, *_turn_marks(tokenizer)}
    # The longest first: one may begin with another.
    tokens = sorted(filter(str.strip, special_tokens), key=len, reverse=True)
    if not tokens:
        return str
    special = re.compile("|".join(map(re.escape, tokens)))

    def plain(text: str) -> str:
        # Anew until none is left: the rest of one may be the beginning of another.
        while special.search(text):
            text = special.sub(_broken, text)
        return text

    return plain


def _turn_marks(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """What the chat template writes around turns in angle or square brackets."""
    if tokenizer.chat_template is None:
        return set()
    return {
        mark
        # Some templates take no system message, and some write it into the last turn only.
        for roles in (_TURNS, _TURNS[:2], _TURNS[1:])
        for mark in _TURN_MARK.findall(_rendered(tokenizer, roles))
    }


def _rendered(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> str:
    """Turns of these roles and the beginning of an answer; empty where the chat template doesn't take them."""
    with suppress(*template_errors()):
        messages = [{"role": role, "content": _WORDS} for role in roles]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return ""


def _broken(found: re.Match[str]) -> str:
    """A token with a space behind its first letter; one of a single letter is left out."""
    begin = len(found[0]) - len(found[0].lstrip()) + 1
    rest = found[0][begin:]
    return f"{found[0][:begin]} {rest}" if rest.strip() else " "
