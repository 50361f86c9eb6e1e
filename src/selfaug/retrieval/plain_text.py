"""Text as it should be kept: decoded, without characters that nobody sees, white space made single."""

from __future__ import annotations

import codecs
import re

from selfaug.retrieval.document import UnreadableDocument

__all__ = ["GUESSED_ENCODING", "UNSPACED", "decode", "known_encoding", "tidy"]

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Japanese, Chinese
)
"""Letters of scripts that put no spaces between words, for a character class of a pattern."""

GUESSED_ENCODING = "cp1252"
"""Of files that don't say theirs, and are not in UTF-8."""

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1b")
_LOOKED_AT = 1 << 16

_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\uffff\ud800-\udfff]"
)
_LIGATURE = re.compile("[\ufb00-\ufb06]")
_LIGATURES = dict(
    zip(
        "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06",
        ["ff", "fi", "fl", "ffi", "ffl", "st", "st"],
        strict=True,
    )
)


def decode(data: bytes, encoding: str | None = None) -> str:
    """Text of a file: by its byte order mark, else as UTF-8, else in `encoding` (default: Windows-1252).

    Raises:
        UnreadableDocument: if it is not text.
    """
    return data.decode(known_encoding(data) or encoding or GUESSED_ENCODING, errors="replace")


def known_encoding(data: bytes) -> str | None:
    """By a file's byte order mark, or UTF-8; None where it is in another one.

    Raises:
        UnreadableDocument: if it is not text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    beginning = data[:_LOOKED_AT]
    if len(beginning) - len(beginning.translate(None, _CONTROL)) > len(beginning) // 100:
        raise UnreadableDocument("binary data, not text; if it is UTF-16, save it as UTF-8")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8"
    # A few broken bytes must not turn every accent of a UTF-8 file into two letters.
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    whole = len(text) - broken - len(data.translate(None, bytes(range(128, 256))))
    return "utf-8" if whole > broken else None


def tidy(text: str) -> str:
    """The text in one line: single spaces, ligatures as letters, no control or invisible characters."""
    if not text.isascii():
        text = _LIGATURE.sub(lambda found: _LIGATURES[found.group()], text)
    return " ".join(_UNSEEN.sub("", text).split())
