"""Text as it should be kept: decoded, without characters that nobody sees, white space made single."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable

from selfaug.retrieval.document import UnreadableDocument

__all__ = [
    "CURRENCY_SIGNS",
    "EAST_ASIAN",
    "MONTHS",
    "SIGNS_OF_LETTERS",
    "UNSPACED",
    "caret",
    "decode",
    "joined",
    "known_encoding",
    "said_title",
    "tidy",
    "wider_encoding",
]

CURRENCY_SIGNS = "$€£¥₩₹₽₺₪₫₴"
"""For a character class of a pattern."""

MONTHS = "jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez"
"""What the names of months begin with in English and German, for a group of a pattern."""

EAST_ASIAN = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Letters of Japanese and Chinese, between any two of which a line may end; for a character class of a pattern."""

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff" + EAST_ASIAN  # Thai, Lao, Burmese, Khmer
"""Letters of scripts that put no spaces between words, for a character class of a pattern."""

SIGNS_OF_LETTERS = "".join(
    chr(code)
    for code in range(0x300, 0x1D00)
    if unicodedata.category(chr(code)).startswith("M") and not re.match(f"[{UNSPACED}]", chr(code))
)
"""Vowels and accents that belong to the letter before them, as in Hindi, Arabic and Hebrew, for a character class: to
`\\w` they are no letters."""

# With the signs that stand among them as wide as they are: 、。「」（）
_BOTH_UNSPACED = re.compile(
    rf"[{UNSPACED}\u3001-\u301b\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f]{{2}}"
)

_GUESSED = "read as Windows-1252, since it is not UTF-8; say documents.encoding if that is wrong"

# Files that say the first are mostly in the second, which has more characters; browsers read them so, too.
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
}
_NOT_OF_PYTHON = {"x-sjis": "cp932", "windows-31j": "cp932", "x-gbk": "gb18030"}

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1b")
_LOOKED_AT = 1 << 16

_BEFORE_CARET = re.compile(r"(?:[\d%)]|[^\W\d_]{3})\Z")  # of a unit (km2) the letters are fewer
_AFTER_CARET = re.compile(
    r"[-+\u2212\u2013]?\d|[a-df-np-z](?![^\W\d_])", re.IGNORECASE
)  # 2e and 1o are ordinals

# What programs put into a file's properties, and the file that it was made from.
_NO_TITLE = re.compile(
    r"\(?(anonymous|unspecified|untitled( (document|workbook|spreadsheet))?|title|template|(word )?document ?\d*"
    r"|dokument ?\d*|documento ?\d*|(work)?book ?\d*|spreadsheet ?\d*|mappe ?\d*|classeur ?\d*|libro ?\d*)\)?"
    r"|.*\.(docx?|docm|dotx?|dotm|rtf|odt|wpd|wps|pages|xlsx?|xlsm|xlsb|xltx?|ods|csv|pptx?|pptm|pps[xm]?|potx?|odp|pdf"
    r"|indd|qxd|qxp|pub|cdr|pmd|e?ps|tmp|tex|dvi|html?|txt|md)"
    r"|\S*\.(ai|fm)|",  # "Agreement with C3.ai" names a company
    re.IGNORECASE,
)

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


def decode(data: bytes, known: str | None, otherwise: str | None) -> tuple[str, str]:
    """Text of a file, and what there is to tell the user where its encoding is only guessed: empty where it isn't.

    Args:
        data: of the file.
        known: its encoding; None where neither the file says it nor that shows.
        otherwise: the encoding that it has then; None guesses Windows-1252.
    """
    text = data.decode(known or wider_encoding(otherwise or "cp1252"), errors="replace")
    return text, "" if known or otherwise else _GUESSED


def wider_encoding(name: str) -> str:
    """The encoding that is meant by a name, in one of Python's names.

    Raises:
        LookupError: if it is not known.
    """
    name = name.lower()
    name = codecs.lookup(_NOT_OF_PYTHON.get(name, name)).name
    return _WIDER.get(name, name)


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


def caret(before: str, raised: str) -> str:
    """`^` if superscript letters or digits would else read as a part of what stands before them; else nothing.

    $1,234 with a note is not $1,2341, nor ten to the sixth 106. Ordinals (1st), units (m2) and ions (Ca2+) stay as
    people type them, and (1) or * needs none.

    Args:
        before: text before it, three characters of it at least.
        raised: the superscript.
    """
    return "^" if _BEFORE_CARET.search(before[-3:]) and _AFTER_CARET.match(raised) else ""


def tidy(text: str) -> str:
    """The text in one line: single spaces, ligatures as letters, no control or invisible characters."""
    if not text.isascii():
        text = _LIGATURE.sub(lambda found: _LIGATURES[found.group()], text)
    return " ".join(_UNSEEN.sub("", text).split())


def joined(lines: Iterable[str]) -> str:
    """Lines as one: with a space between two of them, but none where scripts go on that have none between words."""
    text = ""
    for number, line in enumerate(lines):
        if _BOTH_UNSPACED.fullmatch(text.rstrip()[-1:] + line.lstrip()[:1]):
            text = text.rstrip() + line.lstrip()
        else:
            text = f"{text} {line}" if number else line
    return text


def said_title(title: str) -> str:
    """The title in a file's properties; empty where it is only what a program or the file's template put there.

    Args:
        title: in one line.
    """
    return "" if _NO_TITLE.fullmatch(title) else title
