"""Finding passages: what every retriever does, and how a user's own is taken in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from selfaug.errors import ConfigError, SelfAugError
from selfaug.own_function import own_function, said

__all__ = ["Passage", "Retriever", "own_retriever"]


@dataclass(frozen=True, slots=True)
class Passage:
    """What was found.

    Attributes:
        text: as it stands in a prompt.
        document: that it is from.
        id: of its chunk; empty where a retriever has none.
        page: that it begins on, from 1, but for sentences repeated from the passage before; None where that isn't
            known.
        score: the retriever's own; only the order means something.
    """

    text: str
    document: str
    id: str = ""
    page: int | None = None
    score: float = 0.0


class Retriever(Protocol):
    """Anything that finds passages for a question."""

    def search(self, question: str, count: int) -> list[Passage]:
        """At most `count` passages, the best first."""
        ...


class _Own:
    """A retriever around a function of the user's."""

    def __init__(self, name: str, function: Callable[[str, int], Any]) -> None:
        self._name, self._function = name, function

    def search(self, question: str, count: int) -> list[Passage]:
        """What the function found, checked.

        Raises:
            ConfigError: if it fails, whatever the reason, or gives something else than passages.
        """
        try:
            found = self._function(question, count)
        except SelfAugError:  # it says itself what is wrong
            raise
        except Exception as error:
            raise ConfigError(
                f"retriever {self._name!r} failed for {question!r:.80}: {said(error)}.",
                hint="call the function with this question to see where; a service that it asks may be down.",
            ) from error
        if not isinstance(found, list | tuple):
            raise ConfigError(
                f"retriever {self._name!r} gave {type(found).__name__}, not a list of passages.", hint=_HINT
            )
        return [self._passage(one) for one in found[:count]]

    def _passage(self, one: object) -> Passage:
        if isinstance(one, Passage):
            return one
        if isinstance(one, str):
            return Passage(one, "")
        if isinstance(one, Mapping) and isinstance(one.get("text"), str):
            page = one.get("page")
            return Passage(
                one["text"],
                _text(one.get("document")),
                _text(one.get("id")),
                page if isinstance(page, int) else None,
                self._score(one.get("score")),
            )
        raise ConfigError(f"retriever {self._name!r} gave a passage without text: {one!r:.80}.", hint=_HINT)

    def _score(self, score: Any) -> float:
        try:
            return 0.0 if score is None else float(score)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"retriever {self._name!r} gave a passage whose score is no number: {score!r:.80}.",
                hint=_HINT,
            ) from error


def _text(value: object) -> str:
    return "" if value is None else str(value)


_HINT = (
    "it should be module:function, called with a question and a number, and give a list of passages: text, or "
    "mappings with `text` and, where there are any, `document`, `id`, `page` and `score`; the module "
    "is found by PYTHONPATH."
)


def own_retriever(name: str) -> Retriever:
    """A user's retriever, `module:function`.

    Raises:
        ConfigError: if it can't be imported or called.
    """
    if ":" not in name:
        raise ConfigError(f"there is no retriever {name!r}.", hint=f"bm25, or your own: {_HINT}")
    return _Own(name, own_function(name, "retriever", _HINT))
