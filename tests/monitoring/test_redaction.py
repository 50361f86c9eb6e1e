from __future__ import annotations

import time

import pytest

from selfaug.monitoring import redaction
from selfaug.monitoring.redaction import redacted


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Write to anna.maier+x@mail.example.org please", "Write to [email] please"),
        ("call +49 (0)89 1234-5678 now", "call [number] now"),
        ("card 4111 1111 1111 1111.", "card [number]."),
        ("IBAN DE89 3704 0044 0532 0130 00 ok", "IBAN [iban] ok"),
        ("host 192.168.10.4 and 2001:db8:0:0:0:ff00:42:8329", "host [address] and [address]"),
        ("https://user:hunter22@example.org/x", "https://[credentials]@example.org/x"),
        ("use sk-abcdefghijklmnopqrstuvwx today", "use [key] today"),
        ("password: correct-horse, thanks", "[key], thanks"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def", "[key]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY----- end",
            "[key] end",
        ),
    ],
)
def test_what_identifies_is_replaced(text: str, kept: str) -> None:
    assert redacted(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Revenue was 1,250.5 million in 2024, up 12.5 % from 2023.",
        "What is the capital of Peru?",
        "Version 3.11.7 of section 4.2.1",
        "The token count is 512.",
    ],
)
def test_what_is_asked_about_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "%",
        "a.",
        "password ",
        " ",
        "eyJ-",
        "sk-",
        "://",
        "a@",
        "1",
        "1 ",
        "-----BEGIN ",
        "A",
        "a:",
        "AB12",
    ],
)
def test_no_text_takes_long(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to its length: some seconds where each character was looked at from each other one were hours."""
    monkeypatch.setattr(redaction, "MOST_CHARACTERS", 10**9)
    for before, after in (("", ""), ("password", "x"), ("password is", "x"), ("a@", "!"), ("eyJ", "!")):
        text = f"{before}{part * (200_000 // len(part))}{after}"
        began = time.thread_time()
        redacted(text)
        assert time.thread_time() - began < 10


def test_of_a_long_text_the_beginning_is_kept_and_nothing_that_was_cut_in_two() -> None:
    text = f"a@b.example {'word ' * 3996}anna.maier@mail.example.org and more"
    assert text[:20_000].endswith(" anna.mai")
    kept = redacted(text)
    assert kept.startswith("[email] word word")
    assert kept.endswith("…")
    assert "anna" not in kept
    assert len(kept) < 20_000
    exactly = "word " * 4000
    assert redacted(exactly) == exactly
