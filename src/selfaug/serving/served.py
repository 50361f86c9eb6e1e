"""What a server serves, whether it is ready, and the errors that are answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from selfaug.serving.gate import Gate
from selfaug.serving.generation import Engine, Model
from selfaug.serving.openai_responses import error_body
from selfaug.serving.watcher import Watcher

__all__ = ["SHUTTING_DOWN", "ApiError", "FoundPrompt", "Readiness", "Served"]


@dataclass(frozen=True)
class FoundPrompt:
    """A question with what was found for it.

    Attributes:
        prompt: token ids.
        sources: of the passages in the prompt, in their order: what is told of each.
        cited: the numbers of the passages that an answer cites.
    """

    prompt: list[int]
    sources: list[dict[str, Any]]
    cited: Callable[[str], list[int]]


SHUTTING_DOWN = "shutting down"


@dataclass
class Readiness:
    """Whether the server answers as the record says it should.

    Attributes:
        ready: whether it may get requests.
        reason: why not, or what was checked.
        plain: the same for who has no key: without folders, addresses and texts of errors.
        not_followed: why the registry's champion is not what is served; empty if it is, or no registry is followed.
    """

    ready: bool = False
    reason: str = "starting"
    plain: str = field(default="starting", compare=False)
    not_followed: str = ""

    def become(self, ready: bool, reason: str, plain: str | None = None) -> None:
        """Change it; once it is shutting down it stays so.

        Args:
            ready: whether the server may get requests.
            reason: why not, or what was checked.
            plain: the same for who has no key; None: there is nothing in it that others may not know.
        """
        if self.reason != SHUTTING_DOWN:
            self.ready, self.reason, self.plain = ready, reason, reason if plain is None else plain

    def told(self, *, trusted: bool) -> dict[str, Any]:
        """What `/ready` answers.

        Args:
            trusted: whether to who has the key; others learn no folder, no address and no text of an error.
        """
        body = {"ready": self.ready, "reason": self.reason if trusted else self.plain}
        if self.not_followed:
            body["not_followed"] = self.not_followed if trusted else _NOT_FOLLOWED
        return body


_NOT_FOLLOWED = "the registry's champion is not what is served"


@dataclass
class Served:
    """What a server serves.

    Attributes:
        engine: makes the answers.
        names: of the models, aliases included.
        base: name of the base model.
        tuned: name of the tuned model.
        chat_ids: token ids of a chat that waits for the answer. Raises ModelError or DataError.
        text_ids: token ids of a text.
        vocabulary: tokens that there are.
        window: tokens of prompt and answer together.
        max_tokens: longest answer where the request doesn't say.
        request_seconds: after which an answer is given up.
        most_at_once: answers that the engine takes, running and waiting together; and requests whose prompts are being
            made, or wait for that. More are refused.
        find: prompt for a question about the run's documents, for so many tokens of an answer by that model; None
            without documents. Called by one thread at a time, beside the one that calls `chat_ids` and `text_ids`.
        created: of the tuned model, seconds since 1970.
        watcher: told of what the tuned model answered; None if nobody watches.
        readiness: kept up to date by whoever starts the server.
        has_base: whether the engine has the base model, too.
        gate: closed while names, template, documents and watcher become those of another run.
    """

    engine: Engine
    text_ids: Callable[[str], list[int]]
    vocabulary: int
    window: int
    names: dict[str, Model] = field(default_factory=dict)
    base: str = ""
    tuned: str = ""
    chat_ids: Callable[[list[dict[str, str]]], list[int]] = lambda _: []
    max_tokens: int = 1024
    request_seconds: float = 300.0
    most_at_once: int = 80
    find: Callable[[str, int, Model], FoundPrompt] | None = None
    created: int = 0
    watcher: Watcher | None = None
    readiness: Readiness = field(default_factory=Readiness)
    has_base: bool = True
    gate: Gate = field(default_factory=Gate)

    def model(self, name: str) -> Model:
        """The model of a name.

        Raises:
            ApiError: if there is none.
        """
        if name not in self.names:
            raise ApiError(
                404,
                f"there is no model {name[:100]!r} here; there are {', '.join(self.names)}.",
                code="model_not_found",
                param="model",
            )
        return self.names[name]

    def require_ready(self) -> None:
        """Refuse to answer while the server isn't ready.

        Raises:
            ApiError: with the reason.
        """
        if not self.readiness.ready:
            raise ApiError(503, f"not ready: {self.readiness.reason}", code="not_ready", wait=5)


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, wait: float = 0
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.wait = status, code, param, wait

    def response(self) -> JSONResponse:
        """As OpenAI's clients read it."""
        headers = {"retry-after": str(math.ceil(self.wait))} if self.wait else None
        body = error_body(self.status, str(self), code=self.code, param=self.param)
        return JSONResponse(body, self.status, headers=headers)
