from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from selfaug.model.token_bytes import token_bytes, token_text

TEXT = "the \N{GRINNING FACE} \N{SNOWMAN}"


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


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Metaspace(prepend_scheme="always"),
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),  # Llama 2's
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),  # Gemma's
    ],
)
def test_a_space_belongs_to_its_token(decoder: decoders.Decoder) -> None:
    texts = {"Paris": "Paris", "▁Paris": " Paris", "▁": " ", "▁▁": "  "}
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(texts)}, []))
    tokenizer.decoder = decoder
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert [token_text(fast, token) for token in range(len(texts))] == list(texts.values())
