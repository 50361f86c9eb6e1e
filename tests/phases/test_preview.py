"""Preview: every token is shown once, marked by kind, and nothing in the data reaches the terminal."""

from __future__ import annotations

import io
import json
from array import array

from rich.console import Console
from transformers import PreTrainedTokenizerFast

from selfaug.data import EncodedRow
from selfaug.phases.preview import Preview, preview_rows, visible

Tokenizer = PreTrainedTokenizerFast


def row_of(prompt: str, completion: str, tokenizer: Tokenizer, **fields: object) -> EncodedRow:
    first, second = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
    ids = array("i", first + second)
    return EncodedRow("r\x1b1", ids, [(len(first), len(ids))], **fields)  # type: ignore[arg-type]


def printed(preview: Preview, *, colour: bool) -> str:
    file = io.StringIO()
    Console(
        file=file,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        width=500,
    ).print(preview.text)
    return file.getvalue()


def test_kinds_are_marked_without_colour(tiny_tokenizer: Tokenizer) -> None:
    row = row_of("the year", " million", tiny_tokenizer, dropped_passages=[2], dropped_text="[3] late [bold]")
    body = printed(preview_rows([row], tiny_tokenizer), colour=False).split("Row r\\x1b1: ")[1]
    boundary = tiny_tokenizer.decode(row.input_ids[len(tiny_tokenizer("the year")["input_ids"]) - 1])
    before = "the year".removesuffix(boundary)
    assert f"{before}>>{boundary}<<{{+ million+}}" in body
    assert "[-[3] late [bold]-]" in body
    assert "1 passage dropped" in body


def test_record_has_every_token_once_with_its_kind(tiny_tokenizer: Tokenizer) -> None:
    row = row_of("the year", " million", tiny_tokenizer)
    record = json.loads(json.dumps(preview_rows([row], tiny_tokenizer).record))
    tokens = record["rows"][0]["tokens"]
    assert [token for piece in tokens for token in piece["ids"]] == row.input_ids
    assert "".join(piece["text"] for piece in tokens) == "the year million"
    kinds = [piece["kind"] for piece in tokens]
    prompt = len(tiny_tokenizer("the year")["input_ids"])
    assert kinds == ["prompt"] * (prompt - 1) + ["boundary"] + ["completion"] * (len(kinds) - prompt)
    assert set(record["legend"]) == {"prompt", "boundary", "completion", "dropped"}


def test_each_trained_turn_has_a_boundary(tiny_tokenizer: Tokenizer) -> None:
    row = EncodedRow("r", array("i", tiny_tokenizer("abcdef")["input_ids"]), [(1, 2), (4, 6)])
    record = preview_rows([row], tiny_tokenizer).record
    kinds = [piece["kind"] for piece in record["rows"][0]["tokens"]]
    assert kinds == ["boundary", "completion", "prompt", "boundary", "completion", "completion"]


def test_character_of_several_tokens_is_one_piece(tiny_tokenizer: Tokenizer) -> None:
    record = preview_rows([row_of("a€b", "x", tiny_tokenizer)], tiny_tokenizer).record
    assert [piece["text"] for piece in record["rows"][0]["tokens"]] == ["a", "€", "b", "x"]


def test_terminal_escapes_of_the_data_are_shown_not_obeyed(tiny_tokenizer: Tokenizer) -> None:
    attack = "\x1b[2J\x07\x9b\u202e\r"
    row = row_of(attack + "a", "b", tiny_tokenizer, dropped_passages=[0], dropped_text=attack)
    output = printed(preview_rows([row], tiny_tokenizer), colour=False)
    assert all(character == "\n" or character.isprintable() for character in output)
    assert output.count("\\x1b[2J\\x07\\x9b\\u202e\\r") == 2


def test_colour_tells_kinds_and_edges_of_tokens_apart(tiny_tokenizer: Tokenizer) -> None:
    preview = preview_rows([row_of("abc", "de", tiny_tokenizer)], tiny_tokenizer)
    assert "\x1b[" in printed(preview, colour=True)
    body_start = preview.text.plain.index("Row ")
    styles = [str(span.style) for span in preview.text.spans if span.start > body_start]
    assert {"cyan", "bright_cyan", "bold black on yellow", "bold green underline"} <= set(styles)


def test_line_ends_are_shown_and_kept() -> None:
    assert visible("a\nb\tc") == "a\\n\nb\\tc"
