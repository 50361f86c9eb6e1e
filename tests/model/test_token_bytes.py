from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from selfaug.model.token_bytes import token_bytes

TEXT = "the \N{GRINNING FACE} \N{SNOWMAN}"


@pytest.fixture(scope="module")
def with_byte_tokens() -> PreTrainedTokenizerFast:
    """As SentencePiece's vocabularies: a byte of what they don't have is a token."""
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "t", "h", "e", " ", "\ufffd"]
    ids = {token: place for place, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ids, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("kind", ["tiny_tokenizer", "with_byte_tokens"])
def test_the_bytes_of_all_tokens_are_the_text(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: PreTrainedTokenizerFast = request.getfixturevalue(kind)
    ids = tokenizer(TEXT)["input_ids"]
    texts = [str(tokenizer.decode([token])) for token in ids]
    assert "\ufffd" in "".join(texts), "some are parts of characters"
    found = [token_bytes(tokenizer, token, text) for token, text in zip(ids, texts, strict=True)]
    assert b"".join(one or b"" for one in found) == TEXT.encode()


def test_a_vocabulary_that_does_not_tell_the_bytes(with_byte_tokens: PreTrainedTokenizerFast) -> None:
    token = with_byte_tokens.convert_tokens_to_ids("\ufffd")
    assert token_bytes(with_byte_tokens, token, "\ufffd") is None
