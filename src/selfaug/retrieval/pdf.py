"""PDF: paragraphs, headings and tables, each with the number of its page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

from selfaug.retrieval.document import Block, Contents, UnreadableDocument
from selfaug.retrieval.pdf_aligned_tables import AlignedTable, with_tables
from selfaug.retrieval.pdf_continued_tables import PdfTable, continued, returns
from selfaug.retrieval.pdf_fields import field_lines, form_of
from selfaug.retrieval.pdf_lines import Line, PageText, has_unknown_letters, lines_of
from selfaug.retrieval.pdf_paragraphs import Style, document_style, page_blocks, running_lines
from selfaug.retrieval.pdf_rules import ruled_grids
from selfaug.retrieval.pdf_tables import RuledTable, divided
from selfaug.retrieval.plain_text import said_title, tidy
from selfaug.retrieval.table_text import table_blocks

__all__ = ["read_pdf"]

_PAGES_OF_A_SCAN = 20  # that are looked at, whether it is one
_UNKNOWN_LETTERS = "text whose letters can't be told, since its fonts don't say them"
# Why pages are not in the blocks.
_PICTURES = "pictures without text, which need OCR first if they are scans"
_UNKNOWN = f"{_UNKNOWN_LETTERS}, and need OCR first"
_DAMAGED = "damaged"
_NAMED_PAGES = 10
_MADE_BY = re.compile(r"^Microsoft (Word|PowerPoint|Excel) - ")

_Item = Line | PdfTable


class _Page(NamedTuple):
    """What is on a page.

    Attributes:
        items: lines and tables in reading order.
        fields: a line for each field of a form that is filled in.
        unread: why it was not read; empty where it was.
    """

    items: list[_Item]
    fields: list[str]
    unread: str = ""


class _Above(NamedTuple):
    """What of a page says whether its last table goes on on the next one.

    Attributes:
        table: the last one.
        after: lines that follow it.
        lines: all of the page: one that returns on the next page is a header, and no other table's title.
    """

    table: PdfTable
    after: list[Line]
    lines: list[Line]


def read_pdf(data: bytes, _encoding: str | None = None) -> Contents:
    """Title and blocks of a PDF; what is filled into the fields of its form follows the text of the page.

    Pages that can't be loaded, pages without text among others that have some, and pages whose letters can't be told
    are passed over: `missing` names them.

    Raises:
        UnreadableDocument: if it is encrypted, damaged, or has no text because it was scanned or its letters can't be
            told.
    """
    document = _opened(data)
    try:
        with form_of(document) as form:
            pages = [_page(document, number, form) for number in range(len(document))]
        # The only text of a scan is often a stamp on each page; that of drawings is a title on each page.
        blocks = list(_blocks(pages, without_running_lines=True))
        first_pages = pages[:_PAGES_OF_A_SCAN] if not blocks else []
        if any(page.unread == _UNKNOWN for page in first_pages):
            raise UnreadableDocument(f"{_UNKNOWN_LETTERS}; needs OCR first")
        if any(_has_picture(document, number) for number in range(len(first_pages))):
            raise UnreadableDocument("scanned; needs OCR first")
        blocks = blocks or list(_blocks(pages, without_running_lines=False))
        if not blocks:
            raise UnreadableDocument("no text on its pages")
        title = tidy(document.get_metadata_dict().get("Title", ""))
        title = _MADE_BY.sub("", title)
        return Contents(said_title(title), blocks, _missing(document, pages, blocks))
    finally:
        document.close()


def _missing(document: Any, pages: Sequence[_Page], blocks: Sequence[Block]) -> str:
    """Which pages are not in the blocks, and why; empty if none is missing. Empty pages are not."""
    read = {block.page for block in blocks}
    reasons: dict[str, list[int]] = {_PICTURES: [], _UNKNOWN: [], _DAMAGED: []}
    for number, page in enumerate(pages, start=1):
        if number not in read and (page.unread or _has_picture(document, number - 1)):
            reasons[page.unread or _PICTURES].append(number)
    return "; ".join(
        f"{len(numbers):,} of {len(pages):,} pages are {reason}: {_ranges(numbers)}"
        for reason, numbers in reasons.items()
        if numbers
    )


def _ranges(pages: Sequence[int]) -> str:
    """`3, 7-9`; the first of them, if there are many."""
    ranges: list[list[int]] = []
    for page in pages:
        if ranges and page == ranges[-1][-1] + 1:
            ranges[-1][1:] = [page]
        else:
            ranges.append([page])
    more = f" and {len(ranges) - _NAMED_PAGES:,} more places" if len(ranges) > _NAMED_PAGES else ""
    return ", ".join("-".join(map(str, ends)) for ends in ranges[:_NAMED_PAGES]) + more


def _opened(data: bytes) -> Any:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        code = getattr(error, "err_code", None)
        if code == pdfium.FPDF_ERR_PASSWORD:
            raise UnreadableDocument("password-protected; save it without a password") from error
        if code == pdfium.FPDF_ERR_SECURITY:
            raise UnreadableDocument(
                "encrypted in a way that can't be read; save it without encryption"
            ) from error
        raise UnreadableDocument("damaged: it can't be opened as PDF") from error


def _page(document: Any, number: int, form: Any) -> _Page:
    try:
        with closing(document[number]) as page, closing(page.get_textpage()) as textpage:
            if has_unknown_letters(textpage):
                return _Page([], [], _UNKNOWN)
            items = _items(page, PageText(textpage, page.get_rotation()))
            return _Page(items, field_lines(page, textpage, form))
    except pypdfium2.PdfiumError:
        return _Page([], [], _DAMAGED)


def _items(page: Any, text: PageText) -> list[_Item]:
    if not text.text.strip():
        return []
    grids = ruled_grids(page, text.upright)
    found: list[_Item] = []
    for part in divided(text, grids):
        if isinstance(part, RuledTable):
            found.append(part)
        else:
            found += with_tables(text, list(lines_of(text, *part)))
    return found


def _blocks(pages: Sequence[_Page], *, without_running_lines: bool) -> Iterator[Block]:
    lines = [[line for item in page.items for line in _lines_in(item)] for page in pages]
    running = running_lines(lines) if without_running_lines else set()
    style = document_style([line for page in lines for line in page if id(line) not in running])
    above: _Above | None = None  # of the page before
    for number, page in enumerate(pages, start=1):
        kept = list(_kept(page.items, running, style, above))
        for item in _grouped(kept):
            if isinstance(item, list):
                yield from page_blocks(item, number, style)
            else:
                yield from table_blocks(item.rows, page=number)
        if kept:
            above = _last_table(kept)
        if page.fields:
            yield Block("text", "\n".join(page.fields), page=number)


def _lines_in(item: _Item) -> Sequence[Line]:
    if isinstance(item, Line):
        return [item]
    return item.lines if isinstance(item, AlignedTable) else []


def _last_table(items: Sequence[_Item]) -> _Above | None:
    after: list[Line] = []
    for item in reversed(items):
        if not isinstance(item, Line):
            return _Above(item, after[::-1], [line for line in items if isinstance(line, Line)])
        after.append(item)
    return None


def _kept(items: Sequence[_Item], running: set[int], style: Style, above: _Above | None) -> Iterator[_Item]:
    """Lines and tables without running lines. A table that needs the names of the page before takes them.

    Aligned tables without names, and those with a running line among their rows, are lines again.
    """
    last, after, lines = (above.table, above.after, above.lines) if above else (None, [], [])
    before: list[Line] = []
    for item in items:
        if isinstance(item, Line):
            parts: Sequence[_Item] = [item]
        else:
            table = item if last is None else continued(last, after, before, item, style)
            certain = isinstance(table, RuledTable) or (
                table.is_named and not any(id(line) in running for line in table.body)
            )
            parts = [table] if certain else _lines_in(item)
        for part in parts:
            if id(part) in running:
                continue
            if not isinstance(part, Line):
                last = None  # only the first table of a page may go on with one
            elif last is not None and not returns(part, lines):
                before.append(part)
            yield part


def _grouped(items: Sequence[_Item]) -> Iterator[list[Line] | PdfTable]:
    """Tables, and the lines between them together."""
    between: list[Line] = []
    for item in items:
        if isinstance(item, Line):
            between.append(item)
            continue
        if between:
            yield between
            between = []
        yield item
    if between:
        yield between


def _has_picture(document: Any, number: int) -> bool:
    try:
        objects = document[number].get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3)
        return next(objects, None) is not None
    except pypdfium2.PdfiumError:
        return False
