"""Removes what identifies people and what opens doors from a text, before it is kept.

Patterns find what has a form: addresses, numbers, keys. They don't find names; whoever keeps texts keeps some of those.
"""

from __future__ import annotations

import re

__all__ = ["MOST_CHARACTERS", "redacted"]

MOST_CHARACTERS = 20_000
"""Of a text that is kept."""
_MOST_CUT = 256
"""Characters of what is replaced, at most: what the end of a text has cut in two matches no pattern."""

# Each takes time in proportion to the text: the interpreter does nothing else meanwhile, requests included. So a run of
# characters is tried from its beginning only, or no further than so many characters, and nothing that may be empty
# stands between two repetitions of the same.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
    ("key", r"\b(?:sk|pk|ghp|gho|xox[abprs]|glpat|hf|AKIA|ASIA)[-_]?[A-Za-z0-9_-]{16,}"),
    ("key", r"\beyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
    (
        "key",
        r"(?i)\b(?:bearer|api[-_ ]?key|token|password|passwd|secret)\b\s*(?:(?:[:=]|is)\s*)?[\"']?[^\s\"',;]{6,}",
    ),
    ("credentials", r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
    ("email", r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"),
    ("iban", r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b"),
    ("address", r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    ("address", r"(?i)\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b"),
    ("number", r"(?<![\w.,])\+?\(?\d(?:[ ().\-/]{0,2}\d){6,}(?![\w])"),
)
_COMPILED = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _PATTERNS)


def redacted(text: str) -> str:
    """The text with e-mail and network addresses, account, card and telephone numbers, keys and passwords replaced.

    Each is replaced by its kind in brackets, such as [email]. A number is taken for one that identifies from seven
    digits on. Of a text of more than 20,000 characters there is the beginning, with an ellipsis.
    """
    beginning = text[:MOST_CHARACTERS]
    for kind, pattern in _COMPILED:
        beginning = pattern.sub(f"[{kind}]", beginning)
    return beginning if len(text) <= MOST_CHARACTERS else f"{beginning[:-_MOST_CUT]}…"
