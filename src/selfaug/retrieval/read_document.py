"""One file to one `Document`, by its ending; every reason why it can't be read is one line."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath

from selfaug.retrieval.document import Block, Contents, Document, UnreadableDocument
from selfaug.retrieval.office_zip import OLE_MAGIC, ZIP_MAGIC
from selfaug.retrieval.plain_text import tidy

__all__ = ["ENDINGS", "MAX_BYTES", "read_document", "too_large"]

MAX_BYTES = 200 * 10**6
"""Of a file, unless the caller says otherwise."""

MAX_TEXT = 50_000_000
"""Characters of a document: some 15,000 pages."""

_Reader = Callable[[bytes, str | None], Contents]

_PDF = b"%PDF-"
_PDF_BEGINS_BEFORE = 1024
_ZIPPED = frozenset({".docx", ".xlsx", ".xlsm"})


# What a file's name says: words, years, quarters and halves; not dates, numbers and what a program counts by.
_OF_NAME = re.compile(
    r"[^\W\d_]{2,}|(?<!\d)(?:19|20)\d\d(?!\d)|(?<![^\W_])[qh][1-4](?![^\W_])", re.IGNORECASE
)
_SAYS_NOTHING = frozenset({"doc", "document", "file", "final", "index", "page", "scan", "untitled"})
_HASH = re.compile(r"[0-9a-f-]{16,}", re.IGNORECASE)
_PART = re.compile(r"[^\W_]+")
_ALONE = re.compile(r"(?<![a-z\d])[a-z](?![a-z])")

# Parsers are imported when a file needs them: the process that only walks a folder has none of them in memory.
_READERS = {
    ".pdf": "pdf.read_pdf",
    ".docx": "docx.read_docx",
    ".xlsx": "xlsx.read_xlsx",
    ".xlsm": "xlsx.read_xlsx",
    ".html": "html.read_html",
    ".htm": "html.read_html",
    ".xhtml": "html.read_html",
    ".md": "markup_text.read_markdown",
    ".markdown": "markup_text.read_markdown",
    ".txt": "markup_text.read_plain_text",
    ".text": "markup_text.read_plain_text",
    ".csv": "markup_text.read_csv",
    ".tsv": "markup_text.read_csv",
}

ENDINGS = frozenset(_READERS)
"""What `read_document` reads, in lower case, with the dot."""


def read_document(
    file: Path, name: str, *, max_bytes: int = MAX_BYTES, encoding: str | None = None
) -> Document:
    """Read a file.

    Args:
        file: the file.
        name: what it is called in the document: its path relative to its folder, with forward slashes.
        max_bytes: a larger file is refused without being read.
        encoding: of HTML, Markdown, text and CSV that don't say theirs and are not in UTF-8; default: Windows-1252,
            and `missing` says so.

    Raises:
        UnreadableDocument: with the reason, in one line.
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending not in _READERS:
        raise UnreadableDocument(
            f"ends in {ending or 'nothing'}; what can be read ends in {', '.join(sorted(ENDINGS))}"
        )
    data = _read_bytes(file, max_bytes)
    if not data.strip():
        raise UnreadableDocument("empty")
    _check_kind(data, ending)
    title, blocks, missing = _read(data, ending, encoding)
    if not blocks:
        raise UnreadableDocument(f"no text; {missing}" if missing else "no text")
    if sum(len(block.text) for block in blocks) > MAX_TEXT:
        raise UnreadableDocument(f"more than {MAX_TEXT:,} characters of text; split it into smaller files")
    title = title or _title(PurePosixPath(name).stem, blocks)
    return Document(name, title, hashlib.sha256(data).hexdigest(), tuple(blocks), missing)


def _title(stem: str, blocks: Sequence[Block]) -> str:
    """The first heading; after the file's name where it is only that of a section, and the name says more.

    "Executive summary" says neither whose nor when, and norvik_2023.docx does.
    """
    headings = [block for block in blocks if block.kind == "heading" and block.sheet is None]
    if not headings:
        return stem
    first, *others = headings
    following = blocks[blocks.index(first) + 1 :][:1]
    on_a_cover = bool(others) and following == others[:1] and others[0].level <= first.level
    above_all = bool(others) and all(other.level > first.level for other in others)
    says_more = any(word not in first.text.casefold() for word in _words_of_name(stem))
    return f"{stem}: {first.text}" if says_more and not on_a_cover and not above_all else first.text


def _words_of_name(stem: str) -> set[str]:
    """What a file's name says, in lower case."""
    if _HASH.fullmatch(stem):
        return set()
    parts = [part for part in _PART.findall(stem) if not _is_code(part)]
    return {word.casefold() for part in parts for word in _OF_NAME.findall(part)} - _SAYS_NOTHING


def _is_code(part: str) -> bool:
    """Whether cases and digits are mixed as in dQw4w9WgXcQ, and not as in AnnualReport2023."""
    return any(map(str.isdigit, part)) and len(_ALONE.findall(part)) > 1


def _read_bytes(file: Path, max_bytes: int) -> bytes:
    """All of a regular file.

    Raises:
        UnreadableDocument: if it can't be opened, is not a regular file, or is larger than `max_bytes`.
    """
    try:
        # A named pipe without a writer would block for ever.
        with open(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableDocument("not a regular file", may_pass=True)
            if status.st_size > max_bytes:
                raise UnreadableDocument(too_large(status.st_size, max_bytes))
            return opened.read(status.st_size)
    except OSError as error:
        raise UnreadableDocument(
            f"can't be opened: {(error.strerror or str(error)).lower()}", may_pass=True
        ) from error


def too_large(size: int, max_bytes: int) -> str:
    """The reason why a file of `size` bytes is refused."""
    over = f"{size / 1e6:,.0f} MB, more than the limit of {max_bytes / 1e6:,.0f} MB"
    return f"{over}; split it, or raise documents.max_megabytes"


def _read(data: bytes, ending: str, encoding: str | None) -> Contents:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parsers, about features that don't matter here
        try:
            return _reader(ending)(data, encoding)
        except (UnreadableDocument, MemoryError):
            raise
        except RecursionError as error:
            raise UnreadableDocument("nested too deeply") from error
        except Exception as error:
            # Parsers raise whatever a damaged file makes them stumble over: KeyError, struct.error, zlib.error, ...
            cause = error.__cause__ or error  # openpyxl wraps what says more
            lines = [tidy(line) for line in str(cause).strip().splitlines()] or [""]
            # It may be the parser's fault, which another version of it hasn't, or that of how it is installed.
            raise UnreadableDocument(
                f"damaged, or not what its ending says ({type(cause).__name__}: {lines[0][:200]})",
                may_pass=True,
            ) from error


def _reader(ending: str) -> _Reader:
    module, name = _READERS[ending].split(".")
    reader: _Reader = getattr(import_module(f"selfaug.retrieval.{module}"), name)
    return reader


def _check_kind(data: bytes, ending: str) -> None:
    """Name what a file really is, if its first bytes say that its ending is wrong."""
    kind, endings = "", ENDINGS - {".pdf", *_ZIPPED}
    if _PDF in data[:_PDF_BEGINS_BEFORE]:
        kind, endings = "a PDF", frozenset({".pdf"})
    elif data.startswith(ZIP_MAGIC):
        kind, endings = "a zip archive, as .docx and .xlsx are", _ZIPPED
    elif data.startswith(OLE_MAGIC):
        kind, endings = "an old Office file, or one with a password", _ZIPPED
    if ending in endings:
        return
    if kind:
        raise UnreadableDocument(f"{kind}, though named {ending}; rename it")
    what = {".pdf": "a PDF", ".docx": "a Word document"}.get(ending, "an Excel workbook")
    raise UnreadableDocument(f"not {what}, though named {ending}: damaged, or the ending is wrong")
