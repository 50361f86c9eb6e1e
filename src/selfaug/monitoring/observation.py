"""What the server tells the monitor about one answered request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Observation"]


@dataclass(frozen=True, slots=True)
class Observation:
    """One answered request of the tuned model.

    Attributes:
        request_id: unique; a vote names it.
        prompt_ids: token ids of the whole prompt, as the model saw it; none for a question that retrieval found nothing
            for and that was not answered: only `empty_retrieval` is looked at then.
        completion_tokens: how many tokens were answered.
        refused: whether the answer is a refusal; None if nobody looked.
        format_violation: whether the answer breaks the form that was asked for; None if none was.
        empty_retrieval: whether retrieval found no passage; None without retrieval.
        text: what the user wrote, to be read; looked at only where texts are kept, as what follows, and redacted then.
        row: the whole prompt as the fields of a training row: `messages`, or `question` and `context` (a list of
            passages), or `prompt`; None where it can't be told so.
        answer: what the model wrote.
    """

    request_id: str
    prompt_ids: Sequence[int]
    completion_tokens: int
    refused: bool | None = None
    format_violation: bool | None = None
    empty_retrieval: bool | None = None
    text: str | None = None
    row: Mapping[str, Any] | None = None
    answer: str | None = None
