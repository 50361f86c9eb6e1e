"""The text of an answer as its tokens come: characters when they are whole, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["AnswerText"]

# Tokens decoded again with each new one: enough for any character and for the space before a word.
_CONTEXT = 8


class AnswerText:
    """Turns token ids into text.

    Args:
        tokenizer: of the model.
        stop: texts that end the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._ids: list[int] = []
        self._decoded = 0  # tokens whose text is in `_pending` or was given out
        self._pending = ""  # not given out: it may be the beginning of a stop text
        self.stopped = False

    def add(self, token: int) -> str:
        """Text that is certain now, with this token; after a stop text, the text before it, and `stopped` is set."""
        self._ids.append(token)
        return self._released(self._fresh(), final=False)

    def end(self) -> str:
        """What is left when the answer ends."""
        return "" if self.stopped else self._released(self._fresh(final=True), final=True)

    def _fresh(self, *, final: bool = False) -> str:
        """Text of the tokens that are not decoded yet; none while they are a part of a character."""
        start = max(0, self._decoded - _CONTEXT)
        before = self._decode(self._ids[start : self._decoded])
        after = self._decode(self._ids[start:])
        if len(after) <= len(before) or (after.endswith("\N{REPLACEMENT CHARACTER}") and not final):
            return ""
        self._decoded = len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""

    def _released(self, fresh: str, *, final: bool) -> str:
        text = self._pending + fresh
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.stopped = True
            self._pending = ""
            return text[: min(places)]
        held = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._pending = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop text."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
