"""What the server tells the monitor about one answered request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        text: the prompt as text; looked at only where texts are kept, and redacted then.
    """

    request_id: str
    prompt_ids: Sequence[int]
    completion_tokens: int
    refused: bool | None = None
    format_violation: bool | None = None
    empty_retrieval: bool | None = None
    text: str | None = None
