from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerFast

from selfaug.model.answer_text import AnswerText

TEXTS = ["the revenue of the year", "Zürich – 漢字 🙂 naïve", "  two  spaces\n\nand lines ", "🙂🙂🙂", "a"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_together_are_the_text_and_none_is_a_broken_character(
    text: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    answer = AnswerText(tiny_tokenizer)
    pieces = [answer.add(token) for token in tiny_tokenizer(text)["input_ids"]]
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert "".join(pieces) + answer.end() == text


def test_bytes_that_are_no_character_come_at_the_end_or_with_the_next_one(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole, broken = tiny_tokenizer("ab")["input_ids"], tiny_tokenizer("🙂")["input_ids"][:2]
    for ids in ([*whole, *broken], [*broken, *whole]):
        answer = AnswerText(tiny_tokenizer)
        pieces = [answer.add(token) for token in ids]
        assert "".join(pieces) + answer.end() == tiny_tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_of_a_stop_text_is_told(seed: int, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices("ab\n", k=40))
    stops = ["".join(rng.choices("ab\n", k=rng.randint(1, 4))) for _ in range(2)]
    answer = AnswerText(tiny_tokenizer, stops)
    told = ""
    for token in tiny_tokenizer(text)["input_ids"]:
        told += answer.add(token)
        if answer.stopped:
            break
    told += answer.end()
    # Byte by byte, as the naive reader sees it: the stop text that is complete first, the one that began first.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    cut = min(begin for end, begin in ends if end == min(ends)[0]) if ends else len(text)
    assert answer.stopped == bool(ends)
    if ends and len({end for end, _ in ends}) > 1:
        # A token has several characters: two stop texts may be whole at once, and then the earlier one counts.
        assert told in {text[:begin] for _, begin in ends}
    else:
        assert told == text[:cut]


def test_special_tokens_are_no_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    answer = AnswerText(tiny_tokenizer)
    ids = tiny_tokenizer("the<|im_start|>year")["input_ids"]
    assert "".join(map(answer.add, ids)) + answer.end() == "theyear"


def test_what_goes_on_with_a_text_keeps_its_first_space(
    spacing_tokenizer: PreTrainedTokenizerFast, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before, ids = (spacing_tokenizer(text)["input_ids"] for text in ("ab" * 9, "b a"))
    for prompt, text in ((), "b a"), (before, " b a"):
        answer = AnswerText(spacing_tokenizer, [], prompt)
        assert "".join(map(answer.add, ids)) + answer.end() == text
    # The rest of a character that the text before begins is no text, what comes then is.
    face, rest = tiny_tokenizer("🙂")["input_ids"], tiny_tokenizer("ab")["input_ids"]
    answer = AnswerText(tiny_tokenizer, [], face[:2])
    told = "".join(map(answer.add, [*face[2:], *rest])) + answer.end()
    assert told == tiny_tokenizer.decode([*face[2:], *rest])


def test_characters_of_byte_tokens_are_whole(with_byte_tokens: PreTrainedTokenizerFast) -> None:
    """A run of byte tokens that begins within a character would be told as none of it."""
    prompt, answer = "the \u09ac\u09be", "\N{PARTY POPPER}\N{PARTY POPPER}\n\u09ac\u09be\u0982 the"
    before, ids = (with_byte_tokens(text)["input_ids"] for text in (prompt, answer))
    for start in ([], before):
        text = AnswerText(with_byte_tokens, before=start)
        assert text.goes_on == bool(start)
        assert "".join([*map(text.add, ids), text.end()]) == answer
