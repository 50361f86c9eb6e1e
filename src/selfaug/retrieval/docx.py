"""Word documents: headings, paragraphs, lists and tables in the order of the body."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import docx
from docx.oxml import parse_xml
from lxml import etree

from selfaug.retrieval.document import Block, Contents
from selfaug.retrieval.docx_numbers import BULLET, ParagraphNumbers
from selfaug.retrieval.docx_styles import W as _W
from selfaug.retrieval.docx_styles import bases_of, is_on, value, with_bases
from selfaug.retrieval.docx_symbols import symbol
from selfaug.retrieval.office_zip import check_office_zip
from selfaug.retrieval.plain_text import caret, said_title, tidy
from selfaug.retrieval.table_text import Repeated, Rows, table_blocks

__all__ = ["read_docx"]

_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_BOX = _W + "txbxContent"  # what a text box holds
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_RAISED = f"{_W}rPr/{_W}vertAlign[@{_W}val='superscript']"
_WIDEST_SPAN = 100

_WRAPPERS = {_W + name for name in ("sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo")}
_LEFT_OUT = {_W + name for name in ("del", "moveFrom", "pPr", "rPr", "sectPr")} | {_FALLBACK}
_LEFT_OUT_RUNS = tuple(f"{_W}rPr/{_W}{name}" for name in ("vanish", "strike", "dstrike"))


class _NoteTags(NamedTuple):
    """Tags of a note, and of what refers to it."""

    note: str
    reference: str


_NOTES = {
    "footnotes": _NoteTags(_W + "footnote", _W + "footnoteReference"),
    "endnotes": _NoteTags(_W + "endnote", _W + "endnoteReference"),
}
_Note = tuple[str, str]
"""The tag of what refers to a note, and the note's id."""

_CHARACTERS = {
    _W + "tab": "\t",
    _W + "ptab": "\t",
    _W + "br": "\n",
    _W + "cr": "\n",
    _W + "noBreakHyphen": "-",
    # Of equations, in a line as one types them: 4.2 over 5 is not 4.25.
    _M + "den": "/",
    _M + "sup": "^",
    _M + "d": "(",
}


def read_docx(data: bytes, _encoding: str | None = None) -> Contents:
    """Title and blocks of a Word document.

    Inserted text of tracked changes is read, deleted text is not; what is hidden or struck through is left out, and so
    are headers, footers and comments. Footnotes and endnotes follow the paragraph, list or table that refers to them,
    and what is in a text box follows the paragraph that it is anchored in. Lists, clauses and headings have the numbers
    that Word shows.
    Cells that span several rows or columns have their text in each. What a table holds that only arranges the page (of
    one cell, or with tables in its cells) is read like other parts of the body.

    Raises:
        UnreadableDocument: if it is encrypted, not a Word document, or would unpack to absurd size.
    """
    check_office_zip(data, ".docx", "word/")
    document = docx.Document(io.BytesIO(data))
    body = document.element.body
    styles = document.styles.element
    numbers = ParagraphNumbers(_numbering(document.part), styles)
    title = said_title(tidy(document.core_properties.title or ""))
    return Contents(title, list(_blocks(body, _heading_levels(styles), numbers, _notes(document.part))))


def _heading_levels(styles: Any) -> dict[str, int]:
    """Levels of the paragraph styles that make headings, by the styles' ids."""
    own: dict[str, int] = {}
    identities: list[str] = []
    for style in styles.iter(_W + "style"):
        identity = style.get(_W + "styleId", "")
        identities.append(identity)
        name = value(style.find(_W + "name")).lower()  # in English, whatever the language of the document
        level = _outline_level(style.find(_W + "pPr"))
        if name == "title":
            own[identity] = 1
        elif name.startswith("heading ") and name[8:].isdecimal():
            own[identity] = int(name[8:])
        elif level is not None:
            own[identity] = level
    bases = bases_of(styles)
    nearest = {
        identity: next((own[style] for style in with_bases(identity, bases) if style in own), 0)
        for identity in identities
    }
    return {identity: level for identity, level in nearest.items() if level > 0}


def _outline_level(properties: Any) -> int | None:
    """From 1; 0 for body text; None where nothing is said."""
    if properties is None:
        return None
    level = value(properties.find(_W + "outlineLvl"))
    return (int(level) + 1) % 10 if level.isdecimal() else None


def _numbering(part: Any) -> Any:
    """What says how the document's lists are numbered; None if there is nothing."""
    for relation in part.rels.values():
        if relation.reltype.endswith("/numbering") and not relation.is_external:
            return parse_xml(relation.target_part.blob)
    return None


def _notes(part: Any) -> dict[_Note, str]:
    """Texts of the document's footnotes and endnotes."""
    found: dict[_Note, str] = {}
    for relation in part.rels.values():
        tags = _NOTES.get(relation.reltype.rsplit("/", 1)[-1])
        if tags is None or relation.is_external:
            continue
        for note in parse_xml(relation.target_part.blob).iter(tags.note):
            paragraphs = (_paragraph_text(paragraph) for paragraph in note.iter(_W + "p"))
            if text := "\n".join(filter(None, paragraphs)):
                found[tags.reference, note.get(_W + "id", "")] = text
    return found


def _blocks(
    body: Any, levels: Mapping[str, int], numbers: ParagraphNumbers, notes: dict[_Note, str]
) -> Iterator[Block]:
    items: list[str] = []  # of the list that is being read
    item_notes: list[Block] = []
    for element in _body_elements(body):
        own_notes = list(_notes_of(element, notes))
        if element.tag == _W + "tbl":
            paragraphs: Iterator[Block] = table_blocks(_table_rows(element, numbers))
        else:
            text = _paragraph_text(element)
            mark = numbers.next(element, has_text=bool(text))
            if not text and not own_notes:
                continue
            level = _level(element.find(_W + "pPr"), levels)
            if text and not level and mark is not None:
                items.append("  " * mark.depth + mark.text + text)
                item_notes += own_notes
                continue
            if text and mark is not None and mark.text != BULLET:
                text = mark.text + text
            paragraphs = iter([Block("heading" if level else "text", text, level=level)] if text else [])
        if items:
            yield Block("text", "\n".join(items))
            yield from item_notes
            items, item_notes = [], []
        yield from paragraphs
        yield from own_notes
    if items:
        yield Block("text", "\n".join(items))
        yield from item_notes


def _notes_of(element: Any, notes: dict[_Note, str]) -> Iterator[Block]:
    """The notes that a part of the body refers to, each where it is first referred to; they are taken out."""
    if not notes:
        return
    walk = etree.iterwalk(element, events=("start",))
    for _, inner in walk:
        if _is_left_out(inner):
            walk.skip_subtree()
        elif text := notes.pop((inner.tag, inner.get(_W + "id", "")), ""):
            yield Block("text", text)


def _body_elements(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables, also those in content controls (a table of contents is one) and tracked changes.

    After a paragraph: those in its text boxes. Instead of a table that only arranges the page: those in its cells.
    """
    waiting = list(reversed(parent))
    while waiting:
        element = waiting.pop()
        if element.tag == _W + "tbl" and _is_layout(element):
            waiting.extend(inner for cell in reversed(list(_cells(element))) for inner in reversed(cell))
        elif element.tag in (_W + "p", _W + "tbl"):
            yield element
            if element.tag == _W + "p":
                waiting.extend(inner for box in reversed(_boxes(element)) for inner in reversed(box))
        elif element.tag in _WRAPPERS:
            waiting.extend(reversed(element))


def _boxes(paragraph: Any) -> list[Any]:
    """What its text boxes hold; those within another one are found in that one's paragraphs."""
    found: list[Any] = []
    if next(paragraph.iter(_BOX), None) is None:  # as in most
        return found
    walk = etree.iterwalk(paragraph, events=("start",))
    for _, element in walk:
        if element.tag == _BOX:
            found.append(element)
        if element.tag == _BOX or _is_left_out(element):
            walk.skip_subtree()
    return found


def _is_layout(table: Any) -> bool:
    cells = list(_cells(table))
    return len(cells) == 1 or any(True for cell in cells for _ in _children(cell, _W + "tbl"))


def _cells(table: Any) -> Iterator[Any]:
    for row in _children(table, _W + "tr"):
        if not _is_deleted(row):
            yield from _children(row, _W + "tc")


def _is_deleted(row: Any) -> bool:
    """Whether tracked changes delete a row."""
    return row.find(f"{_W}trPr/{_W}del") is not None


def _level(properties: Any, levels: Mapping[str, int]) -> int:
    if properties is None:
        return 0
    level = _outline_level(properties)
    return levels.get(value(properties.find(_W + "pStyle")), 0) if level is None else level


def _paragraph_text(paragraph: Any) -> str:
    lines = "".join(_text_parts(paragraph)).split("\n")
    return "\n".join(line for line in map(tidy, lines) if line)


def _text_parts(root: Any, numbers: ParagraphNumbers | None = None) -> Iterator[str]:
    """Of a cell with its text boxes, and the numbers of its paragraphs if these are counted; the boxes of a paragraph
    are parts of the body themselves."""
    walk = etree.iterwalk(root, events=("start", "end"))
    before, is_raised = "", False  # the text before, and whether it is superscript
    for event, element in walk:
        if event == "end":
            if element.tag == _W + "p" and element is not root:
                before = ""
                yield "\n"  # a paragraph in a cell
            elif element.tag == _M + "d":
                yield ")"
        elif _is_left_out(element) or (element.tag == _BOX and root.tag == _W + "p"):
            walk.skip_subtree()
        elif element.tag == _W + "p" and element is not root and numbers is not None:
            mark = numbers.next(element, has_text=bool(_paragraph_text(element)))
            yield mark.text if mark is not None and mark.text != BULLET else ""
        elif element.tag == _BOX:
            before = ""
            yield "\n"
        elif element.tag in (_W + "t", _M + "t"):
            text = element.text or ""
            goes_on, is_raised = is_raised, _is_raised(element)
            yield (caret(before, text) if is_raised and not goes_on else "") + text
            before = (before + text)[-3:]
        elif element.tag == _W + "sym":
            before = ""
            yield symbol(element.get(_W + "font", ""), element.get(_W + "char", ""))
        elif element.tag in _CHARACTERS:
            before = ""
            yield _CHARACTERS[element.tag]


def _is_left_out(element: Any) -> bool:
    """Whether a part of a paragraph is not for reading: as Word hides it, or struck through."""
    if element.tag != _W + "r":
        return element.tag in _LEFT_OUT
    return any(is_on(element.find(path)) for path in _LEFT_OUT_RUNS)


def _is_raised(text: Any) -> bool:
    return text.getparent().find(_RAISED) is not None


def _table_rows(table: Any, numbers: ParagraphNumbers) -> Rows:
    rows: Rows = []
    above: list[str] = []  # what a cell that is merged with the one above it continues
    for row in _children(table, _W + "tr"):
        # Also of a row that is left out: a cell that begins in it may go on below. Its paragraphs have no numbers.
        is_deleted = _is_deleted(row)
        cells: list[str] = []
        cells += [""] * _number(row.find(f"{_W}trPr/{_W}gridBefore"))
        for cell in _children(row, _W + "tc"):
            properties = cell.find(_W + "tcPr")
            span, merge = 1, None
            if properties is not None:
                span = max(_number(properties.find(_W + "gridSpan")), 1)
                merge = properties.find(_W + "vMerge")
            if merge is not None and value(merge) != "restart" and len(cells) < len(above):
                text: str = Repeated(above[len(cells)])
            else:
                text = "".join(_text_parts(cell, None if is_deleted else numbers))
            cells += [text, *[Repeated(text)] * (span - 1)]
        if not is_deleted:
            rows.append(cells)
        above = cells
    return rows


def _children(parent: Any, tag: str) -> Iterator[Any]:
    """Rows of a table, cells of a row or tables of a cell, also those in content controls and tracked insertions."""
    waiting = list(reversed(parent))
    while waiting:
        element = waiting.pop()
        if element.tag == tag:
            yield element
        elif element.tag in _WRAPPERS:
            waiting.extend(reversed(element))


def _number(element: Any) -> int:
    number = value(element)
    return min(int(number), _WIDEST_SPAN) if number.isdecimal() else 0
