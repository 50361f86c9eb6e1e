"""Requests of OpenAI's API, as far as they are served; what would change an answer and isn't served is refused."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from selfaug.serving.generation import Sampling

__all__ = ["ChatMessage", "ChatRequest", "CompletionRequest", "KnownFields", "RagRequest", "StreamOptions"]

MOST_CHOICES = 16
_MOST_STOPS = 4
_MOST_CHANCES = 20
_MOST_FIELDS = 100

# Values that say "not asked for", of settings that are not served.
_NOT_ASKED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
}


_T = TypeVar("_T")
UpToFirstWrong = Annotated[list[_T], Field(fail_fast=True)]
"""A list of which the first wrong item is told, and no other: a body may have some hundred thousand of them, and to
tell of each takes seconds and a gigabyte."""


def _stops(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[
    Annotated[list[Stop], Field(max_length=_MOST_STOPS)],
    BeforeValidator(
        _stops, json_schema_input_type=Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None
    ),
]


class StreamOptions(BaseModel):
    """What a stream has beyond its pieces."""

    include_usage: bool = False


class _Generation(BaseModel):
    """What both kinds of request have. Other fields of the API are taken and mean nothing here."""

    model_config = ConfigDict(extra="allow")
    continues: ClassVar[bool] = False

    model: str = Field(min_length=1, max_length=512, description="A name of /v1/models.")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0, the default, takes the likeliest token."
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = Field(default=[], description="At most four texts that end the answer.")
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES, description="Answers to each prompt.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="Not used, not stored.")

    @model_validator(mode="after")
    def _asks_for_what_is_served(self) -> _Generation:
        for name, value in (self.model_extra or {}).items():
            if name in _NOT_ASKED and value not in _NOT_ASKED[name]:
                raise PydanticCustomError("not_served", f"{name} is not served here; leave it out")
        return self

    def sampling(self, choice: int, max_tokens: int, chances: int | None) -> Sampling:
        """Sampling of one of `n` answers: each has draws of its own, the same each time if there is a seed."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed + choice,
            stop=tuple(self.stop),
            chances=chances,
            whole=not self.stream,
            continues=self.continues,
        )


def _whole_characters(text: str) -> str:
    """A text as it can be sent: JSON can have half of a character that JavaScript has cut in two."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "half_character", "the text has half of a surrogate pair, as of an emoji that was cut in two"
        ) from error
    return text


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: Annotated[str, AfterValidator(_whole_characters)]


def _parts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return content
    raise PydanticCustomError(
        "not_served", "it is a text, or a list of parts with a text each; calls of tools are not served here"
    )


def _role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise PydanticCustomError("not_served", "turns of tools are not served here")
    return role


class ChatMessage(BaseModel):
    """A turn of a chat."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_role)]
    content: Annotated[
        UpToFirstWrong[TextPart], BeforeValidator(_parts, json_schema_input_type=str | list[TextPart])
    ]

    @property
    def text(self) -> str:
        """Its parts together."""
        return "".join(part.text for part in self.content)


class ChatRequest(_Generation):
    """Body of /v1/chat/completions."""

    messages: UpToFirstWrong[ChatMessage] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(default=None, ge=1, description="The older name of max_completion_tokens.")
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=_MOST_CHANCES, description="Needs logprobs.")

    @property
    def chances(self) -> int | None:
        """Alternatives to tell with each token, or None."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def asked_tokens(self) -> int | None:
        """Longest answer, if the request says."""
        return self.max_completion_tokens or self.max_tokens


Token = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[UpToFirstWrong[Token], Field(min_length=1)]


class CompletionRequest(_Generation):
    """Body of /v1/completions."""

    continues: ClassVar[bool] = True

    prompt: Text | UpToFirstWrong[Text] | UpToFirstWrong[Token] | UpToFirstWrong[Tokens] = Field(
        min_length=1, description="Texts, or token ids; several make several choices."
    )
    max_tokens: int | None = Field(default=None, ge=1, description="16 by default, as in the API.")
    logprobs: int | None = Field(default=None, ge=0, le=_MOST_CHANCES)

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]

    @property
    def chances(self) -> int | None:
        """Alternatives to tell with each token, or None."""
        return self.logprobs

    @property
    def asked_tokens(self) -> int | None:
        """Longest answer."""
        return self.max_tokens or 16


class KnownFields(BaseModel):
    """A request of which each field has to be known."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few(cls, body: Any) -> Any:
        # Each that isn't known is told of: as with lists, not hundred thousands of them.
        if isinstance(body, dict) and len(body) > _MOST_FIELDS:
            raise PydanticCustomError(
                "too_many_fields",
                "the body has {count} fields; known here are {known}",
                {"count": len(body), "known": ", ".join(cls.model_fields)},
            )
        return body


class RagRequest(KnownFields):
    """Body of /v1/rag/answer."""

    model_config = ConfigDict(strict=True)

    question: str = Field(min_length=1, max_length=10_000)
    model: str | None = Field(
        default=None, min_length=1, max_length=512, description="By default the tuned one."
    )
    max_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
