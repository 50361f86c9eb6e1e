"""Documents to chunks: passages of a bounded length that don't cross a heading.

A chunk carries its document's title and the headings above it, since "Revenue rose to $4 million" alone says neither
whose nor when. A section longer than a chunk is cut between sentences, with some of them repeated; a table between
its rows, with its header repeated.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from selfaug.retrieval.document import Block, Document

__all__ = ["Chunk", "Chunker", "count_words"]

CountTokens = Callable[[Sequence[str]], list[int]]
"""How many tokens each of the texts has."""

_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-ÖØ-Þ])")
_TOKENS_PER_WORD = 1.35
_ABOVE = " > "
_SHORTENED = " … "


def count_words(texts: Sequence[str]) -> list[int]:
    """An estimate of tokens where there is no tokeniser: words and signs, a third more."""
    return [round(len(_WORD.findall(text)) * _TOKENS_PER_WORD + 0.5) for text in texts]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document.

    Attributes:
        id: the same for the same text in the same place, whatever else changes in the document.
        document: path of the document, relative to the folder.
        heading: title of the document and the headings above, joined by " > "; a long one without its middle.
        text: without the heading.
        page: where it begins, from 1; None where the format has no pages.
    """

    id: str
    document: str
    heading: str
    text: str
    page: int | None

    @property
    def passage(self) -> str:
        """As it stands in a prompt, and as it is searched."""
        return f"{self.heading}\n{self.text}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is never cut: a sentence, or a row of a table.

    Attributes:
        text: of the piece.
        joint: what stands between it and the piece before.
        page: that it is on.
        header: of a table's row: the lines that a chunk which begins with it needs before it.
    """

    text: str
    joint: str
    page: int | None
    header: str = ""


class Chunker:
    """Cuts documents.

    Args:
        limit: most tokens of a chunk's passage, heading included, of which a heading has at most three quarters. A
            single word longer than this is cut as well.
        overlap: tokens of the sentences that are repeated where a section is cut.
        count_tokens: how tokens are counted.
    """

    def __init__(self, limit: int, overlap: int, count_tokens: CountTokens = count_words) -> None:
        if overlap > limit // 2:
            raise ValueError("the overlap should be at most half of the limit")
        self._limit, self._overlap, self._count = limit, overlap, count_tokens

    def chunks(self, document: Document) -> list[Chunk]:
        """The document's chunks, in reading order; none without text under its headings."""
        found: list[Chunk] = []
        seen: dict[str, int] = {}
        for path, blocks in _sections(document):
            heading = self._short_enough(path)
            for text, page in self._cut(heading, blocks):
                content = "\x1f".join((document.path, heading, text))
                again = seen[content] = seen.get(content, -1) + 1  # the same words twice in one place
                name = hashlib.sha256(f"{content}\x1f{again}".encode()).hexdigest()[:16]
                found.append(Chunk(name, document.path, heading, text, page))
        return found

    def _short_enough(self, heading: str) -> str:
        """The heading, or as much of its beginning and end as leaves a quarter of the limit to the text."""
        most = self._limit - self._limit // 4 - 1
        if self._count([heading])[0] <= most:
            return heading
        longest = bisect.bisect_right(
            range(1, len(heading)), most, key=lambda length: self._count([_shortened(heading, length)])[0]
        )
        # More letters needn't be more tokens.
        while longest and self._count([_shortened(heading, longest)])[0] > most:
            longest -= 1
        return _shortened(heading, longest)

    def _cut(self, heading: str, blocks: Sequence[Block]) -> Iterator[tuple[str, int | None]]:
        """Texts of a section, with the page of each."""
        room = self._limit - self._count([heading])[0] - 1
        pieces = [piece for block in blocks for piece in self._pieces(block, room)]
        if not pieces:
            return
        sizes = self._count([piece.joint + piece.text for piece in pieces])
        headers = {piece.header: 0 for piece in pieces if piece.header}
        headers = dict(zip(headers, self._count(list(headers)), strict=True)) if headers else {}
        start = 0
        while start < len(pieces):
            used, end, header = 0, start, ""
            while end < len(pieces):
                more = sizes[end]
                if pieces[end].header not in ("", header):
                    more += headers[pieces[end].header]
                if end > start and used + more > room:
                    break
                used, header, end = used + more, pieces[end].header, end + 1
            # Tokens of the parts needn't add up to those of the whole.
            while end > start + 1 and self._count([_joined(pieces[start:end])])[0] > room:
                end -= 1
            yield _joined(pieces[start:end]), pieces[start].page
            start = end if end == len(pieces) else self._go_on(pieces, sizes, start, end, room)

    def _go_on(self, pieces: Sequence[_Piece], sizes: Sequence[int], start: int, end: int, room: int) -> int:
        """Where the next chunk begins: at some sentences before the cut. Rows of a table are not repeated."""
        if pieces[end].header:
            return end
        begin, repeated = end, 0
        while begin > start + 1 and not pieces[begin - 1].header:
            repeated += sizes[begin - 1]
            if repeated > self._overlap or repeated + sizes[end] > room:
                break
            begin -= 1
        return begin

    def _pieces(self, block: Block, room: int) -> list[_Piece]:
        if block.kind == "table":
            header, rows = _table(block.text)
            if rows and self._count([header])[0] <= room // 2:
                pieces = [_Piece(row, "\n", block.page, header) for row in rows]
            else:
                pieces = [_Piece(line, "\n", block.page) for line in block.text.splitlines()]
        else:
            pieces = [
                _Piece(sentence, " " if number else "\n", block.page)
                for line in block.text.splitlines()
                for number, sentence in enumerate(_sentences(line))
            ]
        return [part for piece in pieces for part in self._small_enough(piece, room)]

    def _small_enough(self, piece: _Piece, room: int) -> Iterator[_Piece]:
        """The piece, or its halves' halves: a sentence can be longer than a chunk."""
        space = room - (self._count([piece.header])[0] if piece.header else 0)
        if len(piece.text) < 2 or self._count([piece.joint + piece.text])[0] <= space:
            yield piece
            return
        middle = len(piece.text) // 2
        at = piece.text.rfind(" ", 1, middle)
        at = at if at > 0 else middle
        first, second = piece.text[:at].rstrip(), piece.text[at:].lstrip()
        between = " " if piece.text[at].isspace() else ""
        if first:
            yield from self._small_enough(_Piece(first, piece.joint, piece.page, piece.header), room)
        if second:
            yield from self._small_enough(_Piece(second, between, piece.page, piece.header), room)


def _sections(document: Document) -> Iterator[tuple[str, list[Block]]]:
    """The blocks under each heading, with the path of headings to it."""
    above: list[tuple[int, str]] = []
    blocks: list[Block] = []
    sheet: str | None = None
    for block in document.blocks:
        if block.kind == "heading" or block.sheet != sheet:
            if blocks:
                yield _path(document.title, above, sheet), blocks
            blocks, sheet = [], block.sheet
        if block.kind == "heading":
            above = [(level, text) for level, text in above if level < block.level]
            above.append((block.level, " ".join(block.text.split())))
        else:
            blocks.append(block)
    if blocks:
        yield _path(document.title, above, sheet), blocks


def _path(title: str, above: Iterable[tuple[int, str]], sheet: str | None) -> str:
    names = [title, *([sheet] if sheet else []), *(text for _, text in above)]
    # A first heading is often the title again.
    return _ABOVE.join(name for index, name in enumerate(names) if name and name not in names[:index])


def _shortened(heading: str, length: int) -> str:
    """So many letters of a heading's beginning and end together, and no part of a word that has a neighbour."""
    beginning, end = heading[: (length + 1) // 2], heading[len(heading) - length // 2 :]
    return beginning.rsplit(" ", 1)[0] + _SHORTENED + end.split(" ", 1)[-1]


def _sentences(line: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(line.strip()) if sentence]


def _table(text: str) -> tuple[str, list[str]]:
    """Header and rows of a Markdown table."""
    lines = text.splitlines()
    if len(lines) > 2 and set(lines[1]) <= set("|-: "):
        return "\n".join(lines[:2]), lines[2:]
    return "", lines


def _joined(pieces: Sequence[_Piece]) -> str:
    """The text of some pieces. A table's header stands before its first row."""
    text, header = "", ""
    for index, piece in enumerate(pieces):
        joint = piece.joint if index else ""
        if piece.header and piece.header != header:
            text += ("\n" if index else "") + piece.header
            joint = "\n"
        text += joint + piece.text
        header = piece.header
    return text
