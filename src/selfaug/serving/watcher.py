"""What the server tells whoever watches its traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfaug.core.metric_names import Sample

__all__ = ["Answered", "Watcher"]


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered request of the tuned model, or a question that nothing was found for.

    Attributes:
        request_id: the response's `id`, by which a client votes.
        prompt_ids: token ids of the whole prompt; none where nothing was found: there was no prompt, and no answer.
        completion_tokens: of the answer.
        answer: its text.
        prompt: what the user wrote; None if that were token ids.
        passages: how many were found for the question; None without retrieval.
        row: the whole prompt as the fields of a training row: `messages`, or `question` and `context`, or `prompt`;
            None if it came as token ids, or nothing was found.
    """

    request_id: str
    prompt_ids: Sequence[int]
    completion_tokens: int
    answer: str
    prompt: str | None = None
    passages: int | None = None
    row: Mapping[str, Any] | None = None


class Watcher(Protocol):
    """Watches the tuned model's traffic. Nothing here raises, and nothing but `vote` waits for anything."""

    def answered(self, request: Answered) -> None:
        """A request was answered to its end."""
        ...

    def vote(self, request_id: str, up: bool) -> bool:
        """A user's thumb, up or down; False if no such request was answered lately. May look into files for it."""
        ...

    def samples(self) -> Sequence[Sample]:
        """Its metrics."""
        ...
