"""Prompts without the date that some chat templates write into them: it is another one each day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfaug.errors import SelfAugError
from selfaug.model.generate import chat_prompt_ids
from selfaug.phases.inputs import on_day, writes_date

__all__ = ["Undated"]

_OTHER_DAYS = (date(1987, 11, 26), date(2001, 2, 3))
"""Two that have nothing in common: what a day shares with one of them, such as its month, it doesn't with the other."""


class Undated:
    """Takes the tokens of a day's date out of prompts.

    Args:
        tokenizer: with the chat template.
        template_arguments: of the template; one that fixes the date leaves nothing to be taken out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **template_arguments: Any) -> None:
        self._tokenizer, self._arguments = tokenizer, template_arguments
        self._day: date | None = None
        self._tokens: list[int] = []

    def __call__(self, prompt: Sequence[int], day: date) -> Sequence[int]:
        """A prompt that was rendered on a day, without its date; the prompt itself where there is none in it."""
        if day != self._day:
            self._day, self._tokens = day, self._tokens_of(day)
        tokens, ids = self._tokens, list(prompt)
        for place in range(len(ids) - len(tokens) + 1) if tokens else ():
            if ids[place] == tokens[0] and ids[place : place + len(tokens)] == tokens:
                return ids[:place] + ids[place + len(tokens) :]
        return prompt

    def _tokens_of(self, day: date) -> list[int]:
        """From the first token that is another one on another day to the last."""
        if not writes_date(self._tokenizer):
            return []
        try:
            own, *others = (self._rendered(one) for one in (day, *_OTHER_DAYS))
        except SelfAugError:  # a template that wants other messages: requests are watched all the same
            return []
        begin = min(_alike(own, other) for other in others)
        end = min(_alike(own[::-1], other[::-1]) for other in others)
        return own[begin : len(own) - end]

    def _rendered(self, day: date) -> list[int]:
        return chat_prompt_ids(on_day(self._tokenizer, day), "?", **self._arguments)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
