"""The text of an answer as its tokens come: characters when they are whole, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["AnswerText"]

# Tokens decoded again with each new one: enough for any character and for the space before a word. A character has up
# to four bytes, each a token in some vocabularies: with up to three tokens more, the context begins with a whole one.
_CONTEXT = 8
_REST_OF_CHARACTER = 3

_PART = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Turns token ids into text.

    Args:
        tokenizer: of the model.
        stop: texts that end the answer.
        before: token ids of a text that the answer goes on with: some tokenisers drop a space where a text begins.

    Attributes:
        stopped: whether a stop text has come.
        goes_on: whether there is a text that the answer goes on with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), before: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._ids = list(before[-_CONTEXT - _REST_OF_CHARACTER :])
        self._decoded = len(self._ids)  # tokens whose text is in `_pending` or was given out
        if self._context()[1].endswith(_PART):
            # It ends within a character: the rest of that is told as what it is alone.
            self._ids, self._decoded = [], 0
        self.goes_on = bool(self._context()[1])
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
        start, before = self._context()
        after = self._decode(self._ids[start:])
        if len(after) <= len(before) or (after.endswith(_PART) and not final):
            return ""
        self._decoded = len(self._ids)
        return after[len(before) :]

    def _context(self) -> tuple[int, str]:
        """Where the tokens begin that are decoded again, and their text: of whole characters, if it can be."""
        first = max(0, self._decoded - _CONTEXT)
        for start in range(first, max(-1, first - _REST_OF_CHARACTER - 1), -1):
            text = self._decode(self._ids[start : self._decoded])
            if _PART not in text:
                return start, text
        return first, self._decode(self._ids[first : self._decoded])

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
