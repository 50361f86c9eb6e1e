"""Documents to chunks: passages of a bounded length that don't cross a heading.

A chunk carries its document's title and the headings above it, since "Revenue rose to $4 million" alone says neither
whose nor when. A section longer than a chunk is cut between sentences, with some of them repeated; a table between
its rows, with its header and the unit above it repeated, or, where the header doesn't fit, with the names of the
columns in each row.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from selfaug.retrieval.document import Block, Document
from selfaug.retrieval.plain_text import UNSPACED
from selfaug.retrieval.table_text import header_and_rows, labelled_cells, names_unit

__all__ = ["Chunk", "Chunker", "count_words", "is_mark", "sentences_of", "without_marks", "without_title"]

CountTokens = Callable[[Sequence[str]], list[int]]
"""How many tokens each of the texts has."""

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_LONGEST_WORD = 16  # letters; longer ones are compounds, addresses and codes
_LETTERS_PER_PART = 4
_TOKENS_PER_WORD = 1.35
# Chinese and Japanese put no space after it.
_SENTENCE_END = re.compile(r"[.!?…؟।۔][\"'”’»)\]]*\s+|[。！？]+[」』”’）]*\s*")
_LINE_END = re.compile(r"[.!?…؟।۔。！？:;][\"'”’»)\]」』]*\s*\Z")
_LEAST_WORDS = 4  # of a line that may go on in the next one; lines of fewer are often items of a list
_LONGEST_SENTENCE = (
    600  # letters over several lines; longer ones are verse and transcripts, whose lines stay as they are
)
# What stands before an item or a clause: "1. ", "12.3. ", "b. ", "iv. ".
_NUMBER = r"(?:\d{1,3}(?:\.\d{1,3})*|[^\W\d_]|[ivxl]{2,6}|[IVXL]{2,6})"
_MARK = re.compile(rf"\s*{_NUMBER}\.\s+")
# Of lines, also "(a) " and "1) ".
_MARKS = re.compile(rf"^[ \t]*\(?{_NUMBER}[.)][ \t]+", re.MULTILINE)
_MARK_ALONE = re.compile(rf"\(?{_NUMBER}[.)]?")
_OPENING = "\"'“‘„«([¿¡"
_ABOVE = " > "
_CELL_END = "; "
_SHORTENED = " … "


def count_words(texts: Sequence[str]) -> list[int]:
    """An estimate of tokens where there is no tokeniser: words and signs, a third more.

    What has no spaces (a code of a thousand letters, a Chinese sentence) is more than one word.
    """
    return [round(sum(map(_parts_of_word, _WORD.findall(text))) * _TOKENS_PER_WORD + 0.5) for text in texts]


def _parts_of_word(word: str) -> int:
    return 1 if len(word) <= _LONGEST_WORD else len(word) // _LETTERS_PER_PART


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document.

    Attributes:
        id: the same for the same text in the same place, whatever else changes in the document.
        document: path of the document, relative to the folder.
        heading: title of the document and the headings above, joined by " > "; a long one without its middle.
        text: without the heading.
        page: of its first sentence that the chunk before doesn't have, from 1; None where the format has no pages.
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


def without_title(passage: str) -> str:
    """A chunk's passage without its document's title, which stands above all of them: sections, and the text."""
    heading, _, text = passage.partition("\n")
    return f"{heading.partition(_ABOVE)[2]}\n{text}"


def is_mark(words: str) -> bool:
    """Whether some words may be the number or letter of an item or clause: "3" and "(a)" may, "3. March" may not."""
    return _MARK_ALONE.fullmatch(words.strip()) is not None


def sentences_of(text: str) -> list[str]:
    """The sentences and lines of a text, between which it is cut."""
    return [sentence.strip() for line in text.splitlines() for _, sentence in _sentences(line)]


def without_marks(text: str) -> str:
    """A text without the numbers and letters of its items and clauses, which stand at the beginnings of lines."""
    return _MARKS.sub("", text)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is never cut: a sentence, or a row of a table.

    Attributes:
        text: of the piece.
        joint: what stands between it and the piece before.
        page: that it is on.
        header: of a table's row: the lines that it needs before it, or before the rows above it.
        unit: of a table's row: the line above the table, which a chunk that begins with the row needs before all else.
    """

    text: str
    joint: str
    page: int | None
    header: str = ""
    unit: str = ""

    @property
    def is_led(self) -> bool:
        """Whether something has to stand before it."""
        return bool(self.header or self.unit)

    def lead(self, *, begins: bool) -> str:
        """What stands before it, whether it begins a chunk or a table within one: there its unit is above it."""
        return "\n".join(filter(None, (self.unit if begins else "", self.header)))


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
        """The document's chunks, in reading order.

        A heading with nothing beneath it is text of the section above: a brochure's figures often stand in large type.
        One that is too long to be whole above the passages is text of its own section, once.
        """
        found: list[Chunk] = []
        seen: dict[str, int] = {}
        told: set[tuple[str, ...]] = set()
        for names, blocks in _sections(document):
            heading, tokens = self._short_enough(_ABOVE.join(names))
            own = _without_captions(blocks, heading.split(_ABOVE))
            # A heading that can't be whole here is text of its section, too: some people's are whole clauses.
            paths = [tuple(names[: place + 1]) for place, name in enumerate(names) if name not in heading]
            cut = [path[-1] for path in paths if path not in told]
            told.update(paths)
            own = [*(Block("text", name, page=blocks[0].page) for name in cut), *own]
            for text, page in self._cut(self._limit - tokens - 1, own):
                content = "\x1f".join((document.path, heading, text))
                again = seen[content] = seen.get(content, -1) + 1  # the same words twice in one place
                name = hashlib.sha256(f"{content}\x1f{again}".encode()).hexdigest()[:16]
                found.append(Chunk(name, document.path, heading, text, page))
        return found

    def _short_enough(self, heading: str) -> tuple[str, int]:
        """The heading, or as much of its beginning and end as leaves a quarter of the limit to the text; its tokens."""
        most = self._limit - self._limit // 4 - 1
        if (tokens := self._count([heading])[0]) <= most:
            return heading, tokens
        longest = bisect.bisect_right(
            range(1, len(heading)), most, key=lambda length: self._count([_shortened(heading, length)])[0]
        )
        # More letters needn't be more tokens.
        while longest and self._count([_shortened(heading, longest)])[0] > most:
            longest -= 1
        shortened = _shortened(heading, longest)
        return shortened, self._count([shortened])[0]

    def _cut(self, room: int, blocks: Sequence[Block]) -> Iterator[tuple[str, int | None]]:
        """Texts of a section, each within so many tokens, with the page of each."""
        with_units = zip(blocks, _units(blocks), strict=True)
        whole = [piece for block, unit in with_units for piece in self._pieces(block, unit, room)]
        if not whole:
            return
        leads = self._leads(whole)
        sizes = self._sizes(whole)
        pieces = [
            part
            for piece, size in zip(whole, sizes, strict=True)
            for part in self._small_enough(piece, size, room - leads.get(piece.lead(begins=True), 0))
        ]
        if pieces != whole:
            sizes = self._sizes(pieces)
        start = fresh = 0
        while start < len(pieces):
            used, end, header = 0, start, ""
            while end < len(pieces):
                more = sizes[end]
                if end == start or pieces[end].header != header:
                    more += leads.get(pieces[end].lead(begins=end == start), 0)
                if end > start and used + more > room:
                    break
                used, header, end = used + more, pieces[end].header, end + 1
            # Tokens of the parts needn't add up to those of the whole.
            while end > start + 1 and self._count([_joined(pieces[start:end])])[0] > room:
                end -= 1
            # Of what is new here: repeated sentences are often on the page before, which a citation would name.
            yield _joined(pieces[start:end]), pieces[min(fresh, end - 1)].page
            fresh = end
            start = end if end == len(pieces) else self._go_on(pieces, sizes, start, end, room)

    def _leads(self, pieces: Sequence[_Piece]) -> dict[str, int]:
        """Tokens of all that may stand before the pieces."""
        led = (piece for piece in pieces if piece.is_led)
        leads = dict.fromkeys(
            lead for piece in led for lead in (piece.lead(begins=True), piece.header) if lead
        )
        return dict(zip(leads, self._count(list(leads)), strict=True)) if leads else {}

    def _sizes(self, pieces: Sequence[_Piece]) -> list[int]:
        return self._count([piece.joint + piece.text for piece in pieces])

    def _go_on(self, pieces: Sequence[_Piece], sizes: Sequence[int], start: int, end: int, room: int) -> int:
        """Where the next chunk begins: at some sentences before the cut. Rows of a table are not repeated."""
        if pieces[end].is_led:
            return end
        begin, repeated = end, 0
        while begin > start + 1 and not pieces[begin - 1].is_led:
            repeated += sizes[begin - 1]
            if repeated > self._overlap or repeated + sizes[end] > room:
                break
            begin -= 1
        return begin

    def _pieces(self, block: Block, unit: str, room: int) -> list[_Piece]:
        if block.kind == "table":
            return self._rows(block, unit, room)
        whole: list[list[_Piece]] = []  # sentences, each in its lines
        above = ""
        for line in block.text.splitlines():
            goes_on = _goes_on(above, line)
            above = line
            for joint, sentence in _sentences(line):
                piece = _Piece(sentence, joint, block.page)
                if goes_on:
                    whole[-1].append(piece)
                    goes_on = False
                else:
                    whole.append([piece])
        return [piece for lines in whole for piece in _one_sentence(lines)]

    def _rows(self, block: Block, unit: str, room: int) -> list[_Piece]:
        """A table's rows beneath its header; where a chunk is too small for both, each names its columns itself.

        A unit that leaves too little room is left out.
        """
        header, rows = header_and_rows(block.text)
        above, of_unit, *beneath = self._count([header, f"{unit}\n", *(f"\n{row}" for row in rows)])

        def fits(lead: int) -> bool:
            return lead <= room // 2 and lead + max(beneath) <= room

        if header and fits(above):
            return [
                _Piece(row, "\n", block.page, header, unit if fits(above + of_unit) else "") for row in rows
            ]
        unit, space = (unit, room - of_unit) if unit and of_unit <= room // 4 else ("", room)
        if not header:
            return [_Piece(row, "\n", block.page, unit=unit) for row in rows]
        return [
            _Piece(part, "\n", block.page, unit=unit)
            for row in rows
            if (cells := labelled_cells(header, row))
            for part in self._parts(cells, space)
        ]

    def _parts(self, cells: Sequence[str], room: int) -> Iterator[str]:
        """A row in as few parts as it takes, each with the first cell, which says what the row is about.

        A first cell that takes more than half of a chunk is a text rather than a name, and stands once.
        """
        text = _CELL_END.join(cells)
        if self._count([text])[0] <= room:
            yield text
        else:
            named = 1 if self._count([cells[0]])[0] <= room // 2 else 0
            yield from self._halves(cells[:named], cells[named:], room)

    def _halves(self, name: Sequence[str], cells: Sequence[str], room: int) -> Iterator[str]:
        text = _CELL_END.join([*name, *cells])
        if len(cells) < 2 or self._count([text])[0] <= room:
            yield text
            return
        middle = (len(cells) + 1) // 2
        yield from self._halves(name, cells[:middle], room)
        yield from self._halves(name, cells[middle:], room)

    def _small_enough(self, piece: _Piece, size: int, space: int) -> Iterator[_Piece]:
        """The piece, or its halves' halves: a sentence can be longer than a chunk. Lines are parted first."""
        if len(piece.text) < 2 or size <= space:
            yield piece
            return
        middle = len(piece.text) // 2
        breaks = (piece.text.rfind("\n", 1, middle), piece.text.find("\n", middle, -1))
        at = min((at for at in breaks if at > 0), key=lambda at: abs(at - middle), default=-1)
        at = at if at > 0 else piece.text.rfind(" ", 1, middle)
        at = at if at > 0 else middle
        first, second = piece.text[:at].rstrip(), piece.text[at:].lstrip()
        between = piece.text[at] if piece.text[at].isspace() else ""
        for text, joint in ((first, piece.joint), (second, between)):
            if text:
                part = replace(piece, text=text, joint=joint)
                yield from self._small_enough(part, self._sizes([part])[0], space)


def _sections(document: Document) -> Iterator[tuple[list[str], list[Block]]]:
    """The blocks under each heading, with the title and the headings above them."""
    above: list[tuple[int, str]] = []
    blocks: list[Block] = []
    sheet: str | None = None
    for block, following in zip_longest(document.blocks, document.blocks[1:]):
        under = above
        if block.kind == "heading":
            under = [(level, text) for level, text in above if level < block.level]
        is_bare = _is_bare(block, following)
        if block.sheet != sheet or under != above or (block.kind == "heading" and not is_bare):
            if blocks:
                yield _path(document.title, above, sheet), blocks
            blocks, sheet, above = [], block.sheet, under
        if block.kind != "heading":
            blocks.append(block)
            continue
        text = " ".join(block.text.split())
        if not is_bare:
            above = [*above, (block.level, text)]
        elif text and text not in (document.title, sheet, *(name for _, name in above)):
            blocks.append(replace(block, kind="text", text=text, level=0))
    if blocks:
        yield _path(document.title, above, sheet), blocks


def _units(blocks: Sequence[Block]) -> Iterator[str]:
    """Of each block the unit in the line right above it, if it is a table; a long table is several blocks in turn."""
    unit = header = ""
    for block in blocks:
        if block.kind != "table":
            unit, header = block.text if names_unit(block.text) else "", ""
            yield ""
            continue
        names = block.text.partition("\n")[0]
        unit, header = unit if header in ("", names) else "", names
        yield unit


def _without_captions(blocks: Sequence[Block], names: Sequence[str]) -> Sequence[Block]:
    """A section's blocks without what only says its heading again, as the first lines of a sheet often do."""
    kept = [block if block.kind != "text" else _without_caption(block, names) for block in blocks]
    return [block for block in kept if block.text] or blocks


def _without_caption(block: Block, names: Sequence[str]) -> Block:
    if block.sheet is None:  # a line of other texts may be the beginning of a sentence
        says_it_again = block.text in names or names[0].endswith(f": {block.text}")
        return replace(block, text="") if says_it_again else block
    lines = block.text.split("\n")
    own = next((index for index, line in enumerate(lines) if line not in names), len(lines))
    return replace(block, text="\n".join(lines[own:])) if own else block


def _is_bare(block: Block, following: Block | None) -> bool:
    """Whether a block is a heading with nothing beneath it."""
    return block.kind == "heading" and (
        following is None
        or following.sheet != block.sheet
        or (following.kind == "heading" and following.level <= block.level)
    )


def _path(title: str, above: Iterable[tuple[int, str]], sheet: str | None) -> list[str]:
    names = [title, *([sheet] if sheet else []), *(text for _, text in above)]
    # A first heading is often the title again, or its end: "norvik_2023: Summary".
    return [
        name
        for index, name in enumerate(names)
        if name and name not in names[:index] and not title.endswith(f": {name}")
    ]


def _shortened(heading: str, length: int) -> str:
    """So many letters of a heading's beginning and end together, and no part of a word that has a neighbour."""
    beginning, end = heading[: (length + 1) // 2], heading[len(heading) - length // 2 :]
    return beginning.rsplit(" ", 1)[0] + _SHORTENED + end.split(" ", 1)[-1]


def _sentences(line: str) -> Iterator[tuple[str, str]]:
    """Sentences of a line, each with what joins it to what is before; the line's indentation stays with the first."""
    joint, start = "\n", 0
    line = line.rstrip()
    mark = _MARK.match(line)
    for end in _SENTENCE_END.finditer(line, mark.end() if mark else 0):
        if _may_begin(line[end.end() : end.end() + 2]):
            yield joint, line[start : end.end()].rstrip()
            joint, start = " " if line[end.end() - 1].isspace() else "", end.end()
    if line:
        yield joint, line[start:]


def _goes_on(above: str, line: str) -> bool:
    """Whether a sentence goes on in the next line: one that begins small, after some words that end none."""
    return line.lstrip()[:1].islower() and len(above.split()) >= _LEAST_WORDS and not _LINE_END.search(above)


def _one_sentence(lines: list[_Piece]) -> list[_Piece]:
    """The lines of a sentence as one piece, if it is no longer than sentences are."""
    if len(lines) == 1 or sum(len(line.text) for line in lines) > _LONGEST_SENTENCE:
        return lines
    return [replace(lines[0], text=_joined(lines))]


def _may_begin(text: str) -> bool:
    """Whether a sentence may begin so: with a capital, a digit, or a letter of a script that has no capitals."""
    first = text.lstrip(_OPENING)[:1]
    return first.isdigit() or (first.isalpha() and not first.islower())


def _joined(pieces: Sequence[_Piece]) -> str:
    """The text of some pieces. A table's header stands before its first row, and its unit where they begin."""
    text, header = "", ""
    for index, piece in enumerate(pieces):
        joint = piece.joint if index else ""
        lead = piece.lead(begins=not index) if not index or piece.header != header else ""
        if lead:
            text += ("\n" if index else "") + lead
            joint = "\n"
        text += joint + piece.text
        header = piece.header
    return text
