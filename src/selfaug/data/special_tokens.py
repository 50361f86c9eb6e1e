"""Text of others that becomes no special token: a document can't write turns of a chat into a prompt."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["without_special_tokens"]


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """What puts a space into each special token of a tokeniser that stands in a text: `<|im_end|>` becomes
    `< |im_end|>`. Other text stays as it is.

    Tokens that were added to the vocabulary and that the chat template names count as special, whatever they are
    called: by these it tells who speaks.
    """
    named = str(tokenizer.chat_template)
    added = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content.strip() and token.content in named)
    ]
    # The longest first: one may begin with another.
    tokens = sorted(filter(str.strip, {*added, *tokenizer.all_special_tokens}), key=len, reverse=True)
    if not tokens:
        return str
    special = re.compile("|".join(map(re.escape, tokens)))

    def plain(text: str) -> str:
        # Anew until none is left: the rest of one may be the beginning of another.
        while special.search(text):
            text = special.sub(_broken, text)
        return text

    return plain


def _broken(found: re.Match[str]) -> str:
    """A token with a space behind its first letter; one of a single letter is left out."""
    begin = len(found[0]) - len(found[0].lstrip()) + 1
    rest = found[0][begin:]
    return f"{found[0][:begin]} {rest}" if rest.strip() else " "
