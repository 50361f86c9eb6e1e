"""HTML pages: headings, paragraphs, lists and tables; no scripts, styles or navigation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lxml import etree

from selfaug.retrieval.document import Block, Contents, UnreadableDocument
from selfaug.retrieval.html_formulas import formula
from selfaug.retrieval.html_numbers import ListNumbers
from selfaug.retrieval.html_surroundings import hide_surroundings
from selfaug.retrieval.plain_text import caret, decode, known_encoding, tidy, wider_encoding
from selfaug.retrieval.table_columns import Cell, joined_columns
from selfaug.retrieval.table_text import MAX_CELLS, table_blocks

__all__ = ["html_blocks", "read_html"]

_WIDEST_SPAN = 100
_LONGEST_SPAN = 1000

_LEFT_OUT = frozenset(
    {
        *("script", "style", "noscript", "template", "head", "svg", "iframe", "object", "canvas"),
        *("audio", "video", "map", "nav", "select", "option", "textarea", "button", "datalist", "dialog"),
        *("del", "s", "strike"),  # what is struck through is not valid any more
        *("ix:header", "ix:hidden"),  # of a filing in inline XBRL: facts that its pages don't show
    }
)
_LEFT_OUT_ROLES = frozenset({"navigation", "search", "menu", "menubar", "dialog"})
_WHOLE = frozenset({"html", "body"})  # what hides them is taken back by a script when the page is loaded
_FORMULA_OF_WIKI = "mwe-math-mathml"  # class of what MediaWiki hides, since it shows the formula as a picture
_LEFT_OUT_STYLES = re.compile(
    r"(?<![\w-])(?:display:none|visibility:(?:hidden|collapse)|text-decoration(?:-line)?:[^;]*line-through)"
)
_FACTS = (
    ("dei:EntityRegistrantName", "ifrs-full:NameOfReportingEntityOrOtherMeansOfIdentification"),
    ("dei:DocumentType",),
    ("dei:DocumentPeriodEndDate",),
)
"""Names in inline XBRL of what a filing's title should say: whose it is, what, and of when."""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_ROW_GROUPS = frozenset({"thead", "tbody", "tfoot"})
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_INLINE = frozenset(
    {
        *(
            "a",
            "abbr",
            "acronym",
            "b",
            "bdi",
            "bdo",
            "big",
            "cite",
            "code",
            "data",
            "del",
            "dfn",
            "em",
            "font",
        ),
        *(
            "i",
            "img",
            "input",
            "ins",
            "kbd",
            "label",
            "mark",
            "math",
            "meter",
            "nobr",
            "output",
            "picture",
            "progress",
        ),
        *("q", "rb", "rp", "rt", "ruby", "s", "samp", "slot", "small", "source", "span", "strike", "strong"),
        *("sub", "sup", "time", "tt", "u", "var", "wbr"),
    }
)
"""Elements that don't begin a new paragraph, as `_is_inline` says of others."""

_BREAK = "\x1f"
_LOOKED_BACK = 12  # parts before a superscript, of which some are empty
_CHARSET = re.compile(rb"<meta[^>]{1,300}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]{1,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})", re.IGNORECASE)
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def read_html(data: bytes, encoding: str | None = None) -> Contents:
    """Title and blocks of a page.

    What it hides or strikes through is left out, and so is what stands around its text: header and footer of the site,
    navigation, and what is beside its articles. The title of a filing in inline XBRL says whose it is, and of when.

    Args:
        data: of the file.
        encoding: where the page doesn't say its own, and is not in UTF-8; default: Windows-1252.

    Raises:
        UnreadableDocument: if it is not text, or nested too deeply.
    """
    text, missing = decode(data, _encoding_of(data), encoding)
    root = _parsed(text)
    if root is None:
        return Contents("", [], missing)
    title = _title(root)
    hide_surroundings(root)
    return Contents(title, list(_Walk().blocks(root)), missing)


def html_blocks(text: str) -> list[Block]:
    """Blocks of a piece of HTML, as Markdown may hold.

    Raises:
        UnreadableDocument: if it is nested too deeply.
    """
    root = _parsed(text)
    return [] if root is None else list(_Walk().blocks(root))


def _encoding_of(data: bytes) -> str | None:
    """The one that a page says, or that shows; None where neither does.

    Raises:
        UnreadableDocument: if it is not text.
    """
    named = _XML_ENCODING.search(data[:4096]) or _CHARSET.search(data[:4096])
    if named is None or data.startswith(_MARKS):
        return known_encoding(data)
    name = named[1].decode("ascii").lower()
    if name in ("iso-8859-1", "latin1"):  # mostly Windows-1252, and some of it UTF-8
        return known_encoding(data) or "cp1252"
    if name in ("utf-8", "utf8", "utf-16", "ascii", "us-ascii"):
        return known_encoding(data)
    try:
        name = wider_encoding(name)
        b"a".decode(name, errors="replace")  # some of Python's names are not of text
    except LookupError:
        return known_encoding(data)
    return name


def _title(root: Any) -> str:
    """That of the page; of a filing with the facts that it lacks: many are called `aapl-20230930`, or just 10-K."""
    titles = root.xpath("//title[not(ancestor::svg)]")  # a picture has a title of its own
    title = tidy("".join(titles[0].itertext())) if titles else ""
    facts = (_fact(root, names) for names in _FACTS)
    missing = ", ".join(fact for fact in facts if fact.casefold() not in title.casefold())
    return f"{missing}: {title}" if missing and title else missing or title


def _fact(root: Any, names: Sequence[str]) -> str:
    """The first one of these names in inline XBRL; nothing if there is none."""
    found = (element for name in names for element in root.xpath("//*[@name=$name]", name=name))
    return next(filter(None, (tidy(_inner_text(element)) for element in found)), "")


def _parsed(text: str) -> Any:
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(text.encode("utf-8", errors="replace"), parser)
    except etree.XMLSyntaxError:  # nothing in it but space or comments
        root = None
    if any("depth" in entry.message.lower() for entry in parser.error_log):
        raise UnreadableDocument("nested too deeply to be a page for people")
    return root


class _Walk:
    """One pass over a page, start to end; what is being read is in `_parts` until its paragraph ends."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._items: list[str] = []
        self._numbers: list[ListNumbers] = []  # of the lists that are open

    def blocks(self, root: Any) -> Iterator[Block]:
        """Blocks beneath an element."""
        walk = etree.iterwalk(root, events=("start", "end"))
        left_out: Any = None  # it ended no list and is no heading: it never began
        for event, element in walk:
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "end" and element is left_out:
                yield from self._end(element, "div" if tag in _HEADINGS or tag in _LISTS else tag)
            elif event == "end":
                yield from self._end(element, tag)
            elif _is_left_out(element, tag):
                left_out = element
                walk.skip_subtree()
            elif tag == "table" and not _is_layout(element):
                yield from self._paragraph()
                self._number_alone()
                yield from self._list()
                yield from _table(element)
                walk.skip_subtree()
            elif tag == "pre":
                yield from self._paragraph()
                if text := _verbatim(element):
                    self._number_alone()
                    yield from self._list()
                    yield Block("text", text)
                walk.skip_subtree()
            elif tag == "math":
                self._parts.append(formula(element))
                walk.skip_subtree()
            else:
                yield from self._start(element, tag)
        yield from self._paragraph()
        yield from self._list()

    def _start(self, element: Any, tag: str) -> Iterator[Block]:
        if tag == "br":
            self._parts.append(_BREAK)
        elif not _is_inline(tag):
            yield from self._paragraph()
            if tag in _HEADINGS:
                yield from self._list()
            if tag in _LISTS:
                self._numbers.append(ListNumbers(element))
            elif tag == "li" and self._numbers:
                self._numbers[-1].begin(element)
        elif _is_raised(element, tag):
            self._parts.append(_caret(self._parts, element))
        if element.text:
            self._parts.append(element.text)

    def _end(self, element: Any, tag: str) -> Iterator[Block]:
        if tag in _HEADINGS:
            text = tidy("".join(self._parts).replace(_BREAK, " "))
            self._parts.clear()
            if text:
                number = self._numbers[-1].number() if self._numbers else ""
                yield Block("heading", number + text, level=_HEADINGS[tag])
        elif not _is_inline(tag) and tag not in _LEFT_OUT and tag != "br":
            yield from self._paragraph()
            if tag in _LISTS:
                del self._numbers[-1:]
                if not self._numbers:
                    yield from self._list()
        if element.tail:
            self._parts.append(element.tail)

    def _paragraph(self) -> Iterator[Block]:
        """What was read since the last paragraph: an item in a list, else a block."""
        text = _lines("".join(self._parts))
        self._parts.clear()
        if text and self._numbers:
            self._items.append(self._indent() + self._numbers[-1].mark() + text.replace("\n", " "))
        elif text:
            yield Block("text", text)

    def _number_alone(self) -> None:
        """That of an item which begins with a table or with code, in a line of its own."""
        if self._numbers and (number := self._numbers[-1].number()):
            self._items.append(self._indent() + number.rstrip())

    def _indent(self) -> str:
        return "  " * (min(len(self._numbers), 9) - 1)

    def _list(self) -> Iterator[Block]:
        if self._items:
            yield Block("text", "\n".join(self._items))
            self._items.clear()


def _is_inline(tag: str) -> bool:
    """Whether an element doesn't begin a new paragraph.

    Those with a colon or hyphen in their names are not of HTML: inline XBRL tags the figures of a filing, Word its
    places, and pages have elements of their own.
    """
    return tag in _INLINE or ":" in tag or "-" in tag


def _is_raised(element: Any, tag: str) -> bool:
    if tag == "sup":
        return True
    return _is_inline(tag) and "vertical-align:super" in element.get("style", "").replace(" ", "")


def _caret(parts: Sequence[str], element: Any) -> str:
    """What stands between the parts before a raised element and its text, which a link may hold."""
    return caret("".join(parts[-_LOOKED_BACK:]), "".join(element.itertext()))


def _is_left_out(element: Any, tag: str) -> bool:
    if tag in _LEFT_OUT:
        return True
    attributes = element.attrib
    return bool(attributes) and (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or attributes.get("role") in _LEFT_OUT_ROLES
        or (
            tag not in _WHOLE
            and _FORMULA_OF_WIKI not in attributes.get("class", "")
            and _is_hidden_by(attributes.get("style", ""))
        )
    )


def _is_hidden_by(style: str) -> bool:
    return _LEFT_OUT_STYLES.search("".join(style.lower().split())) is not None


def _is_layout(table: Any) -> bool:
    """Whether a table only arranges the page: then its cells are read like other parts of the page."""
    return table.get("role") in ("presentation", "none") or next(_below(table, "table"), None) is not None


def _below(element: Any, *tags: str) -> Iterator[Any]:
    found: Iterator[Any] = element.iterdescendants(*tags)
    return found


def _table(table: Any) -> Iterator[Block]:
    for caption in _below(table, "caption"):
        if text := tidy(_inner_text(caption)):
            yield Block("text", text)
    yield from table_blocks(joined_columns(_grid(table)))


def _grid(table: Any) -> list[list[Cell]]:
    """Cells by row and column; one that spans several is in each."""
    rows: list[list[Cell]] = []
    reaching: dict[int, tuple[Cell, int]] = {}  # column: a cell from above, and rows that it still covers
    cells_so_far = 0
    for row in _below(table, "tr"):
        if _is_hidden_row(row):
            continue
        cells: list[Cell] = []

        def take_from_above(cells: list[Cell] = cells) -> None:
            while (left := reaching.get(len(cells))) is not None:
                above, rows_left = left
                if rows_left > 1:
                    reaching[len(cells)] = (above, rows_left - 1)
                else:
                    del reaching[len(cells)]
                cells.append(above)

        for cell in row.iterchildren("td", "th"):
            if _is_left_out(cell, cell.tag):
                continue
            take_from_above()
            across, down = _span(cell, "colspan", _WIDEST_SPAN), _span(cell, "rowspan", _LONGEST_SPAN)
            one = Cell(tidy(_inner_text(cell)), len(rows), len(cells), across)
            for _ in range(across):
                if down > 1:
                    reaching[len(cells)] = (one, down - 1)
                cells.append(one)
        take_from_above()
        rows.append(cells)
        cells_so_far += len(cells)
        if cells_so_far > MAX_CELLS:
            break  # table_blocks refuses it
    return rows


def _is_hidden_row(row: Any) -> bool:
    """Whether a table's row, or the group of rows that it is in, is not shown."""
    return _is_left_out(row, row.tag) or (
        row.getparent().tag in _ROW_GROUPS and _is_left_out(row.getparent(), "")
    )


def _span(cell: Any, name: str, most: int) -> int:
    value = cell.get(name, "1").strip()
    return min(max(int(value), 1), most) if value.isdecimal() and len(value) < 9 else 1


def _inner_text(element: Any) -> str:
    """Of a cell or caption, with the numbers of its ordered lists."""
    parts: list[str] = []
    lists: list[tuple[Any, ListNumbers]] = []  # that are open
    walk = etree.iterwalk(element, events=("start", "end"))
    for event, inner in walk:
        tag = inner.tag if isinstance(inner.tag, str) else ""
        if event == "start" and _is_left_out(inner, tag):
            walk.skip_subtree()
        elif event == "start" and tag == "math":
            parts.append(formula(inner))
            walk.skip_subtree()
        elif event == "start":
            parts.append(_caret(parts, inner) if _is_raised(inner, tag) else "" if _is_inline(tag) else " ")
            if tag in _LISTS:
                lists.append((inner, ListNumbers(inner)))
            elif tag == "li" and lists:
                lists[-1][1].begin(inner)
                parts.append(lists[-1][1].number())
            parts.append(inner.text or "")
        elif inner is not element:
            if lists and inner is lists[-1][0]:
                lists.pop()
            parts.append(("" if _is_inline(tag) else " ") + (inner.tail or ""))
    return "".join(parts)


def _verbatim(element: Any) -> str:
    """Lines as they stand in the source, and those that elements in it make."""
    parts: list[str] = []
    for event, inner in etree.iterwalk(element, events=("start", "end")):
        tag = inner.tag if isinstance(inner.tag, str) else ""
        is_line = not _is_inline(tag) and inner is not element
        if is_line and tag != "br" and parts and not parts[-1].endswith("\n"):
            parts.append("\n")
        if event == "start":
            parts += filter(None, ["\n" if tag == "br" else "", inner.text])
        elif inner is not element and inner.tail and not (is_line and tag != "br" and inner.tail.isspace()):
            parts.append(inner.tail)
    lines = (line.rstrip() for line in "".join(parts).splitlines())
    return "\n".join(lines).strip("\n")


def _lines(text: str) -> str:
    lines = (tidy(line) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)
