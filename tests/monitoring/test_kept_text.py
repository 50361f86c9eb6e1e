"""What is kept of a request's text: all of its prompt, redacted, or what is only to be read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from simulated import Clock, simulated

from selfaug.monitoring.kept_text import kept_text
from selfaug.monitoring.monitor import MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.redaction import MOST_CHARACTERS
from selfaug.monitoring.store import FILE, read_texts

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


def test_what_an_earlier_version_kept_is_read(tmp_path: Path) -> None:
    """It kept the user's last turn as text, whatever that was."""
    monitor = simulated(tmp_path, Clock(), settings=MonitorSettings(keep_texts=True, sample=0.0))
    for name in ("old", "new"):
        monitor.offer(Observation(name, [1, 2], 5, text="the year", row={"prompt": "the year"}))
    monitor.work()
    monitor.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE texts SET text = ? WHERE row_id = 1", ('{"messages": 5}',))
    connection.close()
    old, new = read_texts(tmp_path)
    assert (old["request_id"], old["text"]) == ("old", '{"messages": 5}')
    assert (new["prompt"], new["drift"], new["vote"]) == ("the year", None, None)
