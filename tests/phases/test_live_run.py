"""Questions about the documents of a run that is served."""

from __future__ import annotations

from typing import Any, cast

import pytest

from selfaug.phases.ask import DocumentPrompts, NothingFoundError
from selfaug.phases.live_run import _find
from selfaug.serving.generation import BASE, TUNED
from selfaug.serving.served import Served
from selfaug.serving.watcher import Answered


class Watcher:
    def __init__(self) -> None:
        self.told: list[Answered] = []

    def answered(self, request: Answered) -> None:
        self.told.append(request)


class Nothing:
    """Documents that nothing is found in."""

    def prompt(self, question: str, _: int, **__: Any) -> Any:
        raise NothingFoundError(f"no passage shares a word with {question!r}.")


def test_that_nothing_was_found_is_told_of_the_tuned_model_alone_and_without_a_prompt() -> None:
    watcher = Watcher()
    served = Served(
        engine=cast(Any, None),
        text_ids=lambda text: [1, 2, 3],
        vocabulary=9,
        window=99,
        watcher=cast(Any, watcher),
    )
    find = _find(cast(DocumentPrompts, Nothing()), served)
    for model in (BASE, TUNED):
        with pytest.raises(NothingFoundError):
            find("What about this?", 5, model)
    (told,) = watcher.told
    assert (list(told.prompt_ids), told.completion_tokens, told.passages) == ([], 0, 0)
    assert told.prompt == "What about this?"
    served.watcher = None
    with pytest.raises(NothingFoundError):
        find("What about this?", 5, TUNED)
