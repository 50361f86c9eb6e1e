"""What an engine is asked for, and what it gives back piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

__all__ = [
    "BASE",
    "SHUTDOWN_WAIT",
    "TUNED",
    "Engine",
    "EngineError",
    "Model",
    "OverloadedError",
    "Piece",
    "Sampling",
    "TokenChance",
]

Model = Literal["base", "tuned"]
BASE: Model = "base"
TUNED: Model = "tuned"

SHUTDOWN_WAIT = 5.0
"""Seconds after which clients of a server that ends are told to try again: another one may be there by then."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        max_tokens: most tokens of the answer.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_p: draws from the likeliest tokens that together have this probability.
        seed: of the draws; None draws one.
        stop: texts that end the answer and are not part of it.
        chances: alternatives whose log-probabilities are told with each token; None tells none, not even its own.
        whole: nobody looks at pieces: the answer may be one.
        continues: the answer goes on with the prompt's text, as a space before its first word shows.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    chances: int | None = None
    whole: bool = False
    continues: bool = False


class TokenChance(NamedTuple):
    """A token with its log-probability (natural logarithm, at temperature 1).

    Attributes:
        token: its text, where it is no part of a character.
        logprob: as above.
        data: its bytes; None where nobody knows them.
        alternatives: the likeliest tokens in its place.
    """

    token: str
    logprob: float
    data: bytes | None
    alternatives: Sequence[TokenChance] = ()


class Piece(NamedTuple):
    """What has been made since the piece before.

    Attributes:
        text: may be empty: a token may be a part of a character, or the beginning of a stop text.
        tokens: of the answer that this piece accounts for.
        chances: of those tokens, if asked for.
        finish: why the answer has ended ("stop", "length"; of another server "content_filter"), or None.
    """

    text: str
    tokens: int
    chances: list[TokenChance]
    finish: str | None


class OverloadedError(Exception):
    """More is waiting than may wait.

    Attributes:
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after = retry_after


class EngineError(Exception):
    """The engine could not answer: out of memory, or the engine has stopped.

    Attributes:
        status: of the answer that says so.
        logged: for the log, which has no text of prompts: it must have none, whatever the message has.
        retry_after: seconds after which it is worth trying again; 0 if nobody knows.

    Args:
        message: for the client.
        status: as above.
        logged: None if the message has no text from elsewhere.
        retry_after: as above.
    """

    def __init__(
        self, message: str, status: int = 500, *, logged: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.logged = message if logged is None else logged


class Engine(Protocol):
    """What makes answers."""

    def generate(self, model: Model, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece]:
        """Answer a prompt of token ids. Closing the generator ends the work on it.

        It has its place, for the model as it is now, when the generator first waits for something.

        Raises:
            OverloadedError: at once, if too many requests are waiting.
            EngineError: if it could not go on.
        """
        ...

    @property
    def whole_in_pieces(self) -> bool:
        """Whether an answer comes piece by piece even where nobody looks at the pieces; see `Sampling.whole`."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        ...

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        ...

    def begin_no_more(self) -> None:
        """Fail what waits with 503, and what comes from now on, where the engine knows of it; what runs goes on.

        Called from any thread, and by handlers of signals: it waits for nothing.
        """
        ...

    def close(self) -> None:
        """End all work; what runs fails."""
        ...
