"""What is kept of a request's text, where texts are kept: enough to train on the prompt that was served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selfaug.monitoring.observation import Observation
from selfaug.monitoring.redaction import MOST_CHARACTERS, redacted

__all__ = ["kept_text"]


def kept_text(observation: Observation) -> dict[str, Any] | None:
    """The fields that are kept of a request, redacted; None if it came without text.

    They are those of its row, or `text` where there is none, or its texts have more than 20,000 characters together: a
    prompt that is cut off is no longer the one that was served, and nothing to train on. The answer is `model_answer`.
    """
    row, text = observation.row, observation.text
    fields: dict[str, Any]
    if row is not None and sum(map(len, _texts(row))) <= MOST_CHARACTERS:
        fields = _redacted(row)
    elif text is not None:
        fields = {"text": redacted(text)}
    else:
        return None
    return {**fields, "model_answer": redacted(observation.answer)} if observation.answer else fields


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    else:
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _redacted(value: Any) -> Any:
    """A value with each of its texts redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: _redacted(one) for name, one in value.items()}
    return [_redacted(one) for one in value]
