"""Rows as the model will see them: which tokens are prompt, boundary, completion, and what was dropped."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.text import Text

from selfaug.core.printable import counted
from selfaug.data import IGNORED_LABEL, EncodedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Preview", "preview_rows"]

# Marks as well as colours: what is piped, printed or seen by the colour-blind keeps the difference.
_MARKS = {
    "prompt": ("", ""),
    "boundary": (">>", "<<"),
    "completion": ("{+", "+}"),
    "dropped": ("[-", "-]"),
}
# Two shades of each, taken in turn, so that the edges of tokens are seen.
_STYLES = {
    "prompt": ("cyan", "bright_cyan"),
    "boundary": ("bold black on yellow", "bold black on bright_yellow"),
    "completion": ("bold green underline", "bold bright_green underline"),
    "dropped": ("red strike", "red strike"),
}
_MEANINGS = {
    "prompt": "aligned to the reference model, no nll",
    "boundary": "last prompt token, whose position predicts the first completion token",
    "completion": "learned, carries nll",
    "dropped": "passages that did not fit, the model does not see them",
}
_CONTEXT = 8
"""Tokens decoded before a token to get its text: enough for spaces and characters of several tokens."""


@dataclass(frozen=True, slots=True)
class Preview:
    """Rows to be looked at.

    Attributes:
        text: for the terminal, with a legend.
        record: the same as plain values, for `--json`; texts are there as they are in the data.
    """

    text: Text
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Piece:
    ids: list[int]
    text: str
    kind: str


def preview_rows(rows: Sequence[EncodedRow], tokenizer: PreTrainedTokenizerBase) -> Preview:
    """Show encoded rows, token by token.

    Characters that a terminal would obey (escapes, other control characters, marks that reverse or hide text)
    are shown as escapes such as `\\x1b`; line ends are shown and kept.

    Args:
        rows: from `encode_rows`; the caller chooses which.
        tokenizer: the one that encoded them.
    """
    text = _legend()
    records = []
    for row in rows:
        pieces = list(_pieces(row, tokenizer))
        text.append("\n\n").append_text(_heading(row)).append("\n").append_text(_body(row, pieces))
        records.append(_record(row, pieces))
    return Preview(text, {"legend": dict(_MEANINGS), "rows": records})


def visible(text: str) -> str:
    """Text without anything that a terminal would obey; line ends are shown and kept."""
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character == "\n":
        return "\\n\n"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def _kinds(labels: list[int]) -> list[str]:
    """Kind of each token. Between two trained turns there is a boundary too."""
    kinds = ["prompt" if label == IGNORED_LABEL else "completion" for label in labels]
    for at in range(len(kinds) - 1):
        if kinds[at] == "prompt" and kinds[at + 1] == "completion":
            kinds[at] = "boundary"
    return kinds


def _pieces(row: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Piece]:
    """Tokens with their texts; tokens that only together make a character are one piece."""
    ids, kinds = row.input_ids, _kinds(row.labels)
    start = 0
    for end in range(1, len(ids) + 1):
        last_of_kind = end == len(kinds) or kinds[end] != kinds[start]
        text = _text_of(ids, start, end, tokenizer)
        # A character of several tokens decodes to the replacement character until its last token.
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end - start < 4 and not last_of_kind:
            continue
        yield _Piece(ids[start:end], text, kinds[start])
        start = end


def _text_of(ids: list[int], start: int, end: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of ids[start:end] where it stands: alone, some tokenisers would drop its leading space."""
    context = max(0, start - _CONTEXT)
    before, whole = _decode(ids[context:start], tokenizer), _decode(ids[context:end], tokenizer)
    return whole[len(before) :] if whole.startswith(before) else _decode(ids[start:end], tokenizer)


def _decode(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _legend() -> Text:
    text = Text("Legend:")
    for kind, meaning in _MEANINGS.items():
        opening, closing = _MARKS[kind]
        text.append("\n  ").append(f"{opening}{kind}{closing}", style=_STYLES[kind][0]).append(f"  {meaning}")
    return text


def _heading(row: EncodedRow) -> Text:
    completion = len(row.labels) - row.labels.count(IGNORED_LABEL)
    counts = f"{len(row.labels) - completion:,} prompt tokens, {completion:,} completion tokens"
    if row.dropped_passages:
        counts += f", {counted(len(row.dropped_passages), 'passage')} dropped"
    return Text(f"Row {visible(row.id)}: {counts}", style="bold")


def _body(row: EncodedRow, pieces: Sequence[_Piece]) -> Text:
    text = Text()
    count = 0
    for kind, group in groupby(pieces, key=lambda piece: piece.kind):
        opening, closing = _MARKS[kind]
        text.append(opening, style=_STYLES[kind][0])
        for piece in group:
            text.append(visible(piece.text), style=_STYLES[kind][count % 2])
            count += 1
        text.append(closing, style=_STYLES[kind][0])
    if row.dropped_passages:
        opening, closing = _MARKS["dropped"]
        text.append("\n").append(
            f"{opening}{visible(row.dropped_text)}{closing}", style=_STYLES["dropped"][0]
        )
    return text


def _record(row: EncodedRow, pieces: Sequence[_Piece]) -> dict[str, Any]:
    completion = len(row.labels) - row.labels.count(IGNORED_LABEL)
    return {
        "id": row.id,
        "prompt_tokens": len(row.labels) - completion,
        "completion_tokens": completion,
        "dropped_passages": list(row.dropped_passages),
        "dropped_text": row.dropped_text,
        "tokens": [{"ids": piece.ids, "text": piece.text, "kind": piece.kind} for piece in pieces],
    }
