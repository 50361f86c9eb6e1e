"""A valid training row, and the form that it is read from again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from selfaug.data.template import RetrievalTemplate

__all__ = ["OWN_TEMPLATE_ARGUMENTS", "FollowUp", "RetrievalParts", "Row", "as_read", "is_trained"]

OWN_TEMPLATE_ARGUMENTS = frozenset(
    {"conversation", "messages", "add_generation_prompt", "tokenize", "tools", "return_dict"}
)
"""Arguments of the chat template that are set here, and that no `chat_template_kwargs` may set."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A further question about the passages of a retrieval row, asked in a turn of its own.

    Attributes:
        question: in words.
        answer: the completion.
        gold: as in `RetrievalParts`.
    """

    question: str
    answer: str
    gold: int | None = None


@dataclass(frozen=True, slots=True)
class RetrievalParts:
    """What the prompt of a retrieval row was made from, so that it can be made anew with fewer passages.

    Attributes:
        question: in words; the first one.
        passages: in the order of the prompt.
        template: of the prompt.
        gold: number of the passage that the answer is from, from 1; None where the row doesn't say.
        answer: to the first question.
        follow_ups: further questions, with their answers; the row's completion is the last one's.
    """

    question: str
    passages: tuple[str, ...]
    template: RetrievalTemplate
    gold: int | None = None
    answer: str = ""
    follow_ups: tuple[FollowUp, ...] = ()

    @property
    def fewest(self) -> int:
        """Passages that the prompt can't lose: the answers need their own, and cite them by their numbers."""
        golds = [self.gold, *(one.gold for one in self.follow_ups)]
        return max(gold or 1 for gold in golds)

    def messages(self, keep: int, plain: Callable[[str], str] = str) -> list[dict[str, Any]]:
        """Messages of the prompt with the first `keep` passages: all but the last answer.

        Args:
            keep: passages.
            plain: how questions and passages are written. For messages that become tokens: what
                `without_special_tokens` gives for the tokeniser.
        """
        turns = [(self.question, self.answer), *((one.question, one.answer) for one in self.follow_ups)]
        written = [(plain(question), answer) for question, answer in turns]
        return self.template.dialogue([plain(text) for text in self.passages[:keep]], written)[:-1]

    def format_passage(self, index: int, plain: Callable[[str], str]) -> str:
        """The passage at an index, from 0, as it stands in the prompt."""
        return self.template.format_passage(index + 1, plain(self.passages[index]))


@dataclass(frozen=True, slots=True)
class Row:
    """A valid training row: both prompt and completion are text, or both are messages.

    Attributes:
        id: the row's own id, or `file:line`; unique among the rows that were loaded together: a row whose id another
            file has taken is called `file:id`.
        prompt: text or messages. Those of a retrieval row are to be shown and compared: `prompt_for` gives what
            becomes tokens.
        completion: text, or a list with one assistant message.
        file: where the row is from.
        line: as in `RawRow`.
        retrieval: the parts of the prompt of a retrieval row.
        tools: descriptions of tools for the chat template.
        every_assistant_turn: the assistant turns in `prompt` are trained too.
        source: that it was loaded from, as `load_rows` was given it.
        chat_template_kwargs: arguments of the chat template for this row alone; None where it has none of its own.
        cluster: what the row hangs together with, such as the document that it is about; empty if nobody knows.
    """

    id: str
    prompt: str | list[dict[str, Any]]
    completion: str | list[dict[str, Any]]
    file: str
    line: int
    retrieval: RetrievalParts | None = None
    tools: list[dict[str, Any]] | None = None
    every_assistant_turn: bool = False
    source: str = ""
    chat_template_kwargs: dict[str, Any] | None = None
    cluster: str = ""

    def template_arguments(self, of_all: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the chat template: the row's own go before those of all rows."""
        return {**of_all, **(self.chat_template_kwargs or {})}

    def trained_turns(self) -> list[int]:
        """Places of the trained turns among the messages of prompt and completion; the completion is the last one.

        Only of a row of messages. A turn of weight 0 is not trained, nor is one without a prompt before it.
        """
        assert isinstance(self.prompt, list)
        last = len(self.prompt)
        if not self.every_assistant_turn:
            return [last]
        return [*(at for at, message in enumerate(self.prompt) if at and is_trained(message)), last]

    def prompt_for(self, plain: Callable[[str], str], keep: int | None = None) -> str | list[dict[str, Any]]:
        """The prompt that becomes tokens.

        Args:
            plain: what `without_special_tokens` gives for the tokeniser: questions and passages of a retrieval row
                are written by it.
            keep: passages of a retrieval row; None for all.
        """
        if self.retrieval is None:
            return self.prompt
        return self.retrieval.messages(len(self.retrieval.passages) if keep is None else keep, plain)


def as_read(row: Row) -> dict[str, Any]:
    """A row in a form that `load_rows` reads it from again: passages can still be dropped, and none that is gold."""
    fields: dict[str, Any] = {"id": row.id}
    if row.retrieval is not None:
        (answer,) = (turn["content"] for turn in row.completion if isinstance(turn, dict))
        parts = row.retrieval
        first = parts.answer if parts.follow_ups else answer
        fields |= {"question": parts.question, "context": list(parts.passages), "answer": first}
        if parts.gold is not None:
            fields["gold"] = parts.gold
        if parts.follow_ups:
            # The completion may have been written anew.
            last = replace(parts.follow_ups[-1], answer=answer)
            fields["follow_ups"] = [asdict(one) for one in (*parts.follow_ups[:-1], last)]
    elif row.every_assistant_turn:
        fields["messages"] = [*row.prompt, *row.completion]
    else:
        fields |= {"prompt": row.prompt, "completion": row.completion}
    if row.tools is not None:
        fields["tools"] = row.tools
    if row.chat_template_kwargs is not None:
        fields["chat_template_kwargs"] = row.chat_template_kwargs
    if row.cluster:
        fields["cluster"] = row.cluster
    return fields


def is_trained(message: dict[str, Any]) -> bool:
    """Whether it is an assistant turn that may be trained: none that OpenAI's `weight` takes out."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)
