"""Markdown, plain text, and tables in CSV."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Iterator

import yaml
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference
from markdown_it.tree import SyntaxTreeNode

from selfaug.retrieval.document import Block, Contents, UnreadableDocument
from selfaug.retrieval.html import html_blocks
from selfaug.retrieval.plain_text import caret, decode, known_encoding, tidy
from selfaug.retrieval.table_text import Rows, table_blocks

__all__ = ["read_csv", "read_markdown", "read_plain_text"]

LONGEST_CELL = 1_000_000
LONGEST_CSV_LINE = 10_000_000

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
# A file may begin with a rule as well, which looks the same. Programs write names of several words in small letters.
_OF_FRONT_MATTER = re.compile(
    r"""(?:[\w.-]+|"[^"]+"|'[^']+'|[a-z][a-z ]+)[ \t]*:(?:[ \t]|$)|[ \t#\]}]|-[ \t]|$"""
)
# With the lines that go on with it: they are further in.
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(.*)(?:\n(?:[ \t].*)?)*", re.MULTILINE | re.IGNORECASE)
_TOML_FRONT_MATTER = re.compile(r"\A\+{3}[ \t]*\n(.*?)^\+{3}[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_STRUCK = re.compile(r"<(/?)(?:del|s|strike)\b", re.IGNORECASE)
_DEEPEST = 100  # what is nested deeper, markdown-it passes over
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]")
_DELIMITERS = (";", "\t", "|", ",")
_SNIFFED_LINES = 30
_SNIFFED_CHARACTERS = 1_000_000
# A cell with a line break or what divides others in it; in a ticket's cell there may be a hundred lines of code.
_QUOTED_CELL = re.compile(r'(?:^|(?<=[;\t|,]))"(?:[^"]|"")*"(?=[;\t|,]|$)', re.MULTILINE)


def read_markdown(data: bytes, encoding: str | None = None) -> Contents:
    """Title of the front matter (in YAML or TOML), or nothing, and blocks.

    Raises:
        UnreadableDocument: if it is not text.
    """
    text, missing = _text_of(data, encoding)
    title, text = _without_front_matter(text)
    parser = MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable(["table", "strikethrough"])
    parser.block.ruler.at("reference", _reference)
    return Contents(title, list(_markdown_blocks(SyntaxTreeNode(parser.parse(text)))), missing)


def _without_front_matter(text: str) -> tuple[str, str]:
    """Title of the front matter, or nothing, and what follows it."""
    front = _FRONT_MATTER.match(text)
    if front and all(map(_OF_FRONT_MATTER.match, front[1].split("\n"))):
        named = _FRONT_TITLE.search(front[1])
        return _yaml_title(named) if named else "", text[front.end() :]
    if front := _TOML_FRONT_MATTER.match(text):
        try:
            title = tomllib.loads(front[1]).get("title", "")
        except tomllib.TOMLDecodeError:
            return "", text
        return tidy(title) if isinstance(title, str) else "", text[front.end() :]
    return "", text


def _yaml_title(named: re.Match[str]) -> str:
    """Title in YAML; what is none ("title: Norvik: a report") as it stands there."""
    try:
        # This loader makes nothing but texts, and lists and dictionaries of them.
        (title,) = yaml.load(named[0], Loader=yaml.BaseLoader).values()
    except (yaml.YAMLError, ValueError, RecursionError):  # a line separator in it begins another key
        title = None
    return tidy(title) if isinstance(title, str) else tidy(named[1]).strip("\"'")


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A link's definition, which is no text. `[^1]: Restated.` looks like one, and is a note."""
    return not state.src.startswith("[^", state.bMarks[start] + state.tShift[start]) and reference(
        state, start, end, silent
    )


def read_plain_text(data: bytes, encoding: str | None = None) -> Contents:
    """No title, and a block for each paragraph; line breaks stay as they are.

    Raises:
        UnreadableDocument: if it is not text.
    """
    text, missing = _text_of(data, encoding)
    text = _INVISIBLE.sub("", text.replace("\f", "\n\n"))
    paragraphs = (
        "\n".join(line.rstrip() for line in part.split("\n")).strip("\n") for part in _BLANK_LINES.split(text)
    )
    return Contents("", [Block("text", paragraph) for paragraph in paragraphs if paragraph.strip()], missing)


def read_csv(data: bytes, encoding: str | None = None) -> Contents:
    """No title, and the table; its first row is the header. The delimiter is a comma, semicolon, tab or bar.

    Raises:
        UnreadableDocument: if it is not text, a line or cell is absurdly long, or there are too many cells.
    """
    text, missing = _text_of(data, encoding)
    named = re.match(r"sep=(.)\n", text)  # Excel's own way of naming it
    if named:
        text = text[named.end() :]
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LONGEST_CSV_LINE:
            raise UnreadableDocument(
                f"{len(line):,} characters in line {number}, more than {LONGEST_CSV_LINE:,}: not a table in CSV"
            )
    return Contents("", list(table_blocks(_records(text, named[1] if named else _delimiter(text)))), missing)


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    before = csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as error:
        raise UnreadableDocument(f"not CSV that can be read: {error} (line {reader.line_num})") from error
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    """The one that divides the first lines into the same number of cells, and into most of them.

    A comma only where no other one is as regular: in numbers it may be the decimal one. What is quoted divides nothing.
    """
    unquoted = _QUOTED_CELL.sub("", text[:_SNIFFED_CHARACTERS])
    sample = "\n".join(unquoted.split("\n", _SNIFFED_LINES)[:_SNIFFED_LINES])

    def regularity(delimiter: str) -> tuple[float, bool, int]:
        widths = [len(row) for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row]
        usual = max(widths, key=widths.count, default=1)
        share = widths.count(usual) / len(widths) if usual > 1 else 0.0
        return share, delimiter != ",", usual

    try:
        return max(_DELIMITERS, key=regularity)
    except csv.Error:  # a giant cell, which reading it all will name
        return ","


def _text_of(data: bytes, encoding: str | None) -> tuple[str, str]:
    """As `decode`, with a line feed at the end of each line."""
    text, missing = decode(data, known_encoding(data), encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n"), missing


def _markdown_blocks(parent: SyntaxTreeNode) -> Iterator[Block]:
    for node in parent.children:  # nested to a depth that the parser limits
        yield from _blocks_of(node)


def _blocks_of(node: SyntaxTreeNode) -> Iterator[Block]:
    match node.type:
        case "heading":
            if text := _inline_text(node).replace("\n", " "):
                yield Block("heading", text, level=int(node.tag[1]))
        case "paragraph":
            if text := _inline_text(node):
                yield Block("text", text)
        case "bullet_list" | "ordered_list":
            yield from _list_blocks(node)
        case "table":
            yield from table_blocks(_markdown_rows(node))
        case "html_block":
            yield from html_blocks(node.content)
        case "fence" | "code_block":
            text = _INVISIBLE.sub("", node.content).strip("\n")
            if text.strip():
                yield Block("text", text)
        case _:
            yield from _markdown_blocks(node)


def _list_blocks(node: SyntaxTreeNode) -> Iterator[Block]:
    """A list as text; a table in one of its items stands between what is before and after it."""
    lines: list[str] = []
    for part in _list_parts(node, ""):
        if isinstance(part, str):
            lines.append(part)
            continue
        if lines:
            yield Block("text", "\n".join(lines))
            lines = []
        yield part
    if lines:
        yield Block("text", "\n".join(lines))


def _list_parts(node: SyntaxTreeNode, indent: str) -> Iterator[str | Block]:
    """Lines of a list, and tables."""
    number = int(node.attrs.get("start", 1))
    for offset, item in enumerate(node.children):
        mark = "- " if node.type == "bullet_list" else f"{number + offset}. "
        for part in item.children:
            if part.type in ("bullet_list", "ordered_list"):
                yield from _list_parts(part, indent + "  ")
                continue
            for block in _blocks_of(part):
                if block.kind == "table":
                    yield block
                    continue
                for line in block.text.split("\n"):
                    yield indent + mark + line
                    mark = " " * len(mark)


def _markdown_rows(table: SyntaxTreeNode) -> Rows:
    rows = (row for section in table.children for row in section.children)
    return [[_inline_text(cell) for cell in row.children] for row in rows]


def _not_struck(node: SyntaxTreeNode) -> Iterator[SyntaxTreeNode]:
    """The nodes beneath one, without what is struck through in Markdown or HTML."""
    nodes = list(_without_strikethrough(node))
    marks = {place: mark for place, inner in enumerate(nodes) if (mark := _struck_mark(inner)) is not None}
    last_end = max((place for place, mark in marks.items() if mark == "/"), default=-1)
    is_struck = False
    for place, inner in enumerate(nodes):
        if place in marks:  # <s> without an end may be a token that the text is about
            is_struck = not marks[place] and place < last_end
        elif not is_struck:
            yield inner


def _without_strikethrough(node: SyntaxTreeNode) -> Iterator[SyntaxTreeNode]:
    for inner in node.children:
        if inner.type != "s":
            yield inner
            yield from _without_strikethrough(inner)


def _struck_mark(node: SyntaxTreeNode) -> str | None:
    """Of what strikes text through in HTML: nothing for its beginning, "/" for its end; None of all else."""
    mark = _STRUCK.match(node.content) if node.type == "html_inline" else None
    return mark and mark[1]


def _inline_text(node: SyntaxTreeNode) -> str:
    """What a reader sees of a heading, paragraph or cell: link texts, alternative texts of images; not what is struck
    through."""
    parts: list[str] = []
    is_raised = False
    for inner in _not_struck(node):
        match inner.type:
            case "text" | "code_inline":
                before = "".join(parts[-3:]) if is_raised else ""
                parts.append(caret(before, inner.content) + inner.content)
                is_raised = False
            case "html_inline" if inner.content.lower().startswith("<sup"):
                is_raised = True
            case "softbreak":
                parts.append(" ")
            case "hardbreak":
                parts.append("\n")
            case "html_inline" if inner.content.lower().startswith("<br"):
                parts.append("\n")
    lines = (tidy(line) for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line)
