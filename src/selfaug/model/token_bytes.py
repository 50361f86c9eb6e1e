"""Text and bytes of single tokens: one may be a part of a character, which text can't show."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

__all__ = ["token_bytes", "token_text"]

# How vocabularies of SentencePiece write a byte, and a space.
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def _byte_characters() -> dict[str, int]:
    """The bytes by the characters that byte-level vocabularies, as GPT-2's, write them with."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    characters = {chr(byte): byte for byte in visible}
    return characters | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_characters()


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What a token reads as within a text.

    Alone, its text would begin with it: there, decoders of SentencePiece's vocabularies, such as Llama 2's, drop a
    space, so that two tokens would read alike.

    Args:
        tokenizer: that has it.
        token: its id.
    """
    text = str(tokenizer.decode([token]))
    piece = str(tokenizer.convert_ids_to_tokens(token))
    spaces = len(piece) - len(piece.lstrip(_SPACE))
    # Of a tokeniser without such a decoder the piece is the text.
    return text if not spaces or text.startswith(_SPACE) else " " * spaces + text.lstrip(" ")


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int, text: str) -> bytes | None:
    """The bytes of a token, which together with those before and after it are text.

    Args:
        tokenizer: that has it.
        token: its id.
        text: its `token_text`.

    Returns:
        None if it is a part of a character, and the vocabulary is of a kind that doesn't tell which.
    """
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text.encode()
    piece = str(tokenizer.convert_ids_to_tokens(token))
    byte = _BYTE.fullmatch(piece)
    if byte is not None:
        return bytes([int(byte[1], 16)])
    if all(character in _BYTES for character in piece):
        return bytes(_BYTES[character] for character in piece)
    return None
