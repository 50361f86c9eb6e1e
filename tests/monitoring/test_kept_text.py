"""What is kept of a request's text: all of its prompt, redacted, or what is only to be read."""

from __future__ import annotations

from typing import Any

import pytest

from selfaug.monitoring.kept_text import kept_text
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.redaction import MOST_CHARACTERS

MAIL = "write to anna@example.org"


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (
            {"messages": [{"role": "system", "content": MAIL}, {"role": "user", "content": MAIL}]},
            {
                "messages": [
                    {"role": "system", "content": "write to [email]"},
                    {"role": "user", "content": "write to [email]"},
                ]
            },
        ),
        (
            {"question": MAIL, "context": ("of the company", MAIL)},
            {"question": "write to [email]", "context": ["of the company", "write to [email]"]},
        ),
        ({"prompt": MAIL}, {"prompt": "write to [email]"}),
    ],
)
def test_every_text_is_redacted(row: dict[str, Any], kept: dict[str, Any]) -> None:
    assert kept_text(Observation("a", [1], 1, text=MAIL, row=row)) == kept
    answered = kept_text(Observation("a", [1], 1, text=MAIL, row=row, answer=MAIL))
    assert answered == {**kept, "model_answer": "write to [email]"}


def test_a_prompt_that_would_be_cut_off_is_kept_to_be_read() -> None:
    def kept(characters: int) -> dict[str, Any] | None:
        messages = [{"role": "user", "content": "x" * characters}, {"role": "user", "content": "short"}]
        return kept_text(Observation("a", [1], 1, text="short", row={"messages": messages}))

    most = MOST_CHARACTERS - len("user" * 2 + "short")
    assert list(kept(most) or {}) == ["messages"]
    assert kept(most + 1) == {"text": "short"}


def test_nothing_is_kept_of_token_ids() -> None:
    assert kept_text(Observation("a", [1], 1, answer="an answer")) is None
