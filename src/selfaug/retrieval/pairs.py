"""Question-answer pairs, and which chunks of the documents hold their answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import attrgetter

from selfaug.core.digits import plain_digits
from selfaug.retrieval.chunking import Chunk, is_mark, sentences_of, without_marks, without_title
from selfaug.retrieval.index import Index
from selfaug.retrieval.plain_text import CURRENCY_SIGNS, UNSPACED

__all__ = [
    "Pair",
    "Place",
    "Sign",
    "find_gold",
    "forget_passages",
    "holds",
    "may_be_chance",
    "signed",
    "signs_of",
]

_SEARCHED = 20
_SPACE = re.compile(r"\s+")
_BETWEEN_CELLS = re.compile(r" ?\|[ |]*")
# What stands before a cell of a row that names its columns: "Item: Revenue; FY2022: 784".
_COLUMN_NAME = re.compile(r"(?:; |(?<=\n))(?:[^;\n]*?: )?")
# "$1,234^1 million": a superscript, and no power of ten.
_NOTE_MARK = re.compile(r"(?<!\b10)\^(?:[1-9]\d?|[a-z])(?:,(?:[1-9]\d?|[a-z]))*(?!\w)", re.IGNORECASE)
_SPACED = rf"[^\W{UNSPACED}]"  # a letter or digit that is beside others only in the same word
_IS_SPACED = re.compile(_SPACED)
_UNSPACED = re.compile(f"[{UNSPACED}]")
# What says nothing in scripts without spaces: where a line ends, or before digits. Not behind a digit: another figure's
# name may begin there ("12 人件費" is no "12人").
_BEFORE_GAP = rf"(?<=[{UNSPACED}、。「」])"
_BEHIND_GAP = rf"(?=[{UNSPACED}、。「」\d])"
_GAP_BEHIND_MARK = rf"(?<=[{UNSPACED}][!?:;,)])\s+(?=[{UNSPACED}])"
_GAP = re.compile(rf"{_BEFORE_GAP}\s+{_BEHIND_GAP}|{_GAP_BEHIND_MARK}")
# Of plain words; the passage may have it, a bar between cells, or nothing.
_GAP_OF_WORDS = re.compile(rf"{_BEFORE_GAP}[ |]{_BEHIND_GAP}|{_GAP_BEHIND_MARK}")
_ANY_GAP = "\0"
_BESIDE_SIGN = re.compile(rf"[ |](?=[%)])|(?<=[{CURRENCY_SIGNS}])[ |](?=\(?\d)")
# A minus that belongs to what follows: in "12-36" and "(a)-36" it doesn't.
_MINUS = r"(?<![\w)])-"
_NOT_NEGATIVE = rf"(?<!{_MINUS})(?<!{_MINUS}[{CURRENCY_SIGNS}])"
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n")
# A dot between thousands only where it can't be a decimal one: "1.234.567", "1.234,5".
_THOUSANDS = re.compile(
    r"(?<!\d)(?<!\d[.,'])([1-9]\d{0,2}(?:(?:,\d{3}){1,9}|(?: \d{3}){1,9}|(?:'\d{3}){1,9}|(?:\.\d{3}){2,9}"
    r"|\.\d{3}(?=,\d))|[1-9]\d{3,29})(?!\d)([.,]\d+(?!\d|[.,]\d))?"
)
# Not of "5.0%", which is 5% below. With a note's mark before it, "1,2" is two marks.
_SMALL_DECIMAL = re.compile(r"(?<![\d.,'^])(\d{1,3})(?![.,]00?%)([.,])(\d{1,2})(?!\d|[.,]\d)")
_MOST_DECIMALS = 2  # with one divider alone: "1.234" may be a thousand
_BEFORE_THREE_DIGITS = re.compile(r"(?<=\d)[, '.]?(?=(?:\d{3}[, '.]?)+$)")
# Not after up to three digits and a space: "536 400" is a part of "1 536 400".
_IN_NO_LONGER = "".join(rf"(?<!(?<!{_SPACED})(?<![.,]){digits} )" for digits in (r"\d", r"\d\d", r"\d\d\d"))
_SPACES_OF_A_LINE = 2
_DIGITS_OF_TWO_DOTS = 7
# Of escaped words: "5%" and "5.0%" are the same, "1%" and "1,000%" are not.
_NOUGHTS = re.compile(r"(\d)(?:\\\.0+|,00?)?%")
_SCALES = "m|mn|mln|mm|bn|tn|million|billion|trillion|mio|mrd"
# "3M" without a currency is the company, and no three.
_BEFORE_SCALE = re.compile(rf"(?<=\d)(?!(?<=(?<![\w.,{CURRENCY_SIGNS}])3)m\b)(?=(?:{_SCALES})\b)")
# In plain text, a comma that divides decimals, and no list, as what stands beside the number says.
_CODES = "usd|eur|gbp|jpy|chf|cny|inr|cad|aud|nzd|hkd|sgd|sek|nok|dkk|pln|brl|mxn|zar|krw"
_UNITS = (
    rf"{_SCALES}|thousand|tsd|teur|millionen|milliarden?|millions|milliards?|md|mld|{_CODES}|euros?|dollars?|pounds?|yen|"
    r"francs?|franken|percent|per cent|percentage points?|prozent|prozentpunkte|basis points?|bps|pp|times|x|years?|"
    r"months?|days?|hours?|jahre|monate|tage|stunden|kg|g|t|tons?|tonnes?|tonnen|km|cm|miles?|[kmgt]?wh?|shares|aktien|"
    # Of computers.
    r"[kmgtp]i?b|[kmgt]i?bit|[kmgt]?bps|bytes?|bits?|[kmgt]?hz|ms|[\u03bcn]s|seconds?|sekunden?|minutes?|minuten?|"
    r"fps|rpm|px"
)
_DECIMAL_COMMA = re.compile(
    rf"(?<![\d.,'^])(?:(?<=[{CURRENCY_SIGNS}])|(?<=[{CURRENCY_SIGNS}][(-])|(?<=\b(?:{_CODES}))|(?<=\b(?:{_CODES})[ |])"
    rf"|(?=\d{{1,3}},\d\)?[ |]?(?:[%‰{CURRENCY_SIGNS}円元千万萬億亿兆]|(?:{_UNITS})\b)))"
    r"(\d{1,3}),(\d)(?!\d|[.,]\d)"
)
# People type what their keyboard has, and documents have what their program made of it.
_SIGNS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands.

    Attributes:
        document: that holds it.
        evidence: words of the passage that holds it; None where that isn't said.
        page: that it is on, from 1; None where that isn't said.
        section: heading above it; None where that isn't said.
    """

    document: str
    evidence: str | None = None
    page: int | None = None
    section: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its right answer.

    Attributes:
        id: unique among the pairs.
        question: in the user's words.
        answer: None where the documents don't have it, and to say so is right.
        documents: that hold the answer; empty where that isn't said.
        evidence: words of the passage that holds it; None where that isn't said.
        page: that it is on, from 1; None where that isn't said.
        places: all of them, where each has evidence, page or section of its own; evidence and page are not used then.
    """

    id: str
    question: str
    answer: str | None
    documents: tuple[str, ...] = ()
    evidence: str | None = None
    page: int | None = None
    places: tuple[Place, ...] = ()

    def evidence_in(self, document: str) -> list[str | None]:
        """The evidence of each of its places in a document; None for a place without any.

        Of a document that it doesn't name, which is a copy of one that it does: that of all places.
        """
        if not self.places:
            return [self.evidence]
        named = [place.evidence for place in self.places if place.document == document]
        return named or [place.evidence for place in self.places]


@dataclass(frozen=True, slots=True)
class Sign:
    """By which a passage that we have not cut ourselves is known to hold an answer.

    Attributes:
        document: that it is from.
        words: that all stand in it: the evidence where there is some, and the answer unless it is in words of its own.
        with_title: whether the chunk that holds them has some of them only in its document's title.
    """

    document: str
    words: tuple[str, ...]
    with_title: bool = False

    def stands_in(self, passage: str) -> bool:
        """Whether a passage has all its words, wherever it is from."""
        return all(holds(passage, words) for words in self.words)


def signs_of(pair: Pair, gold: Sequence[Chunk]) -> list[Sign]:
    """The signs of a pair's answer, by what the chunks that hold it have of evidence and answer."""
    found = [
        _sign(chunk, [words for words in (evidence, pair.answer) if words])
        for chunk in gold
        for evidence in pair.evidence_in(chunk.document)
        if evidence is None or holds(chunk.passage, evidence)
    ]
    # Without words (a place without evidence, beside one that says it otherwise) any passage would have them.
    return [sign for sign in dict.fromkeys(found) if sign.words]


def _sign(chunk: Chunk, wanted: Sequence[str]) -> Sign:
    words = tuple(found for one in wanted for found in _as_in(chunk.passage, one))
    untitled = without_title(chunk.passage)
    return Sign(chunk.document, words, not all(holds(untitled, one) for one in words))


def signed(words: str) -> tuple[str, str]:
    """Some words, and with a minus before them: who asks for a loss calls it 31, and its row has -31."""
    return words, f"-{words}"


def _as_in(passage: str, words: str) -> list[str]:
    """Some words as a passage has them, with a minus only if it hasn't any without; none if it has neither."""
    return [wanted for wanted in signed(words) if holds(passage, wanted)][:1]


def holds(passage: str, words: str) -> bool:
    """Whether some words stand in a passage, however they are spaced or quoted, and whatever table they are in.

    As words of their own: "36 million" doesn't stand in "1,536 million", nor "1.5" in "1.53", nor "12" in "-12".
    Thousands may be divided by a comma, a space, an apostrophe or nothing in either: "1536" stands in "1,536 million";
    by a dot, too, where it can't be a decimal one. Where a number can't be read in two ways, its decimal point may be a
    comma in either: "1,234.5" is "1.234,5", and "12.5%" is "12,5 %". "1.2" is "1,2" only beside a currency, scale or
    unit: elsewhere that may be a list ("ranked 1,2 and 3"). "5%" is "5.0 %", and "€1.2bn" is "€1.2 bn". Digits of
    all scripts are the same. Spaces and ends of lines don't count in scripts that put none between words, nor
    between these and a number behind them, but behind a number they do: "500 万円" is not "500万円". In rows that name
    their columns the words may leave the names out, as who copies them from the document does.
    """
    forms = _plain_forms(passage)
    finder = _finder(words, any(map(_has_unspaced, forms)))
    return finder is not None and any(finder.search(text) for text in forms)


def _has_unspaced(text: str) -> bool:
    return not text.isascii() and _UNSPACED.search(text) is not None


# The same words are looked for in many passages, and many words in the same ones.
@lru_cache(maxsize=1 << 14)
def _finder(words: str, beside_unspaced: bool) -> re.Pattern[str] | None:
    """What finds some words in plain text, which has letters of scripts without spaces or not; None without any.

    Where it has none, the same is found by a pattern that is made five times as fast.
    """
    wanted = _plain(words)
    if not wanted:
        return None
    if _has_unspaced(wanted):
        wanted = _GAP_OF_WORDS.sub(_ANY_GAP, wanted)
    letter = _SPACED if beside_unspaced else r"\w"
    before = f"(?<!{letter})" if _IS_SPACED.match(wanted[0]) else ""
    after = f"(?!{letter})" if _IS_SPACED.match(wanted[-1]) else ""
    if wanted[0].isdigit():
        before += r"(?<!\d[.,'])"
    if wanted[0].isdigit() or wanted[0] in CURRENCY_SIGNS:
        before += _NOT_NEGATIVE
    if wanted[-1].isdigit():
        after += r"(?![.,']\d)"
    return re.compile(f"{before}{_pattern(wanted)}{after}")


@lru_cache(maxsize=1 << 16)  # all of a document of 30,000 passages, each with its heading and without
def _plain_forms(passage: str) -> tuple[str, ...]:
    """A passage in plain text, and without what stands between words that a person copies: names of columns that its
    rows have, marks of notes, gaps of scripts without spaces; and each with a decimal point for a comma that is a
    decimal one by what is beside it."""
    without_names = _COLUMN_NAME.sub(" | ", passage)
    texts = list(dict.fromkeys([passage, without_names, _NOTE_MARK.sub("", without_names)]))
    plain = [_plain(text) for text in texts]
    if _has_unspaced(passage):
        plain += [_plain(_GAP.sub("", _typed(text))) for text in texts]
    return tuple(dict.fromkeys(plain + [_DECIMAL_COMMA.sub(r"\1.\2", text) for text in plain]))


def forget_passages() -> None:
    """Free the memory of what `holds` keeps of passages: hundreds of megabytes after long documents."""
    _plain_forms.cache_clear()


def _pattern(wanted: str) -> str:
    """What finds plain words, whatever divides cells and thousands.

    The words are made to match more rather than the passage plainer: "120 135" may be two figures of a line there.
    """
    parts = _THOUSANDS.split(wanted)
    found = [_text_pattern(parts[0])]
    for place in range(1, len(parts), 3):
        number, decimals, text = parts[place : place + 3]
        begins = place == 1 and not parts[0]
        found += [_number_pattern(number, decimals or "", begins), _text_pattern(text)]
    return "".join(found)


def _text_pattern(text: str) -> str:
    """What finds plain words without numbers of four digits or more."""
    parts = _SMALL_DECIMAL.split(text)
    found = [_literal(parts[0])]
    for place in range(1, len(parts), 4):
        whole, divider, decimals, after = parts[place : place + 4]
        # "Ranked 1,2 and 3" has no 1.2; a comma that is a decimal one is a point in a form of the passage.
        of_list = divider == "." and len(decimals) == 1
        with_comma = "" if of_list else rf"|(?<!\^){whole},{decimals}"
        found += [rf"(?:{whole}\.{decimals}{with_comma})", _literal(after)]
    return "".join(found)


def _literal(text: str) -> str:
    escaped = re.sub(r"\\[ |]", "[ |]", re.escape(text)).replace(_ANY_GAP, "[ |]?")
    return _NOUGHTS.sub(r"\1(?:[.]0+|,00?)?%", escaped)


def _number_pattern(number: str, decimals: str, begins: bool) -> str:
    """What finds a number of four digits or more, with its decimals, which the words begin with or not."""
    plain = _BEFORE_THREE_DIGITS.sub("", number)
    # "120 135 150" is rather three figures of a line, and one more may stand before them.
    begins = begins and number.count(" ") < _SPACES_OF_A_LINE
    before_spaced = _IN_NO_LONGER if begins and len(plain) % 3 == 0 else ""
    as_they_are = re.escape(decimals)
    of_point, of_comma, of_either = (
        [divider + decimals[1:] for divider in (r"\.", ",", "[.,]")]
        if _is_decimal(number, decimals)
        else [as_they_are] * 3
    )
    if " " in number:
        # The words may be of two cells, or two figures of a line, themselves.
        return before_spaced + _BEFORE_THREE_DIGITS.sub("[, |]?", number) + of_either
    # One divider throughout: "1,536 200" are two figures, and so are two cells "1" and "536".
    comma, space, apostrophe, dot = (_BEFORE_THREE_DIGITS.sub(one, number) for one in (",", " ", "'", r"\."))
    after_dot = r"(?=,\d)" if len(plain) < _DIGITS_OF_TWO_DOTS else ""
    return (
        f"(?:{plain}{of_either}|{comma}{of_point}|{before_spaced}{space}{of_either}|{apostrophe}{of_either}"
        f"|{dot}{after_dot}{of_comma})"
    )


def _is_decimal(number: str, decimals: str) -> bool:
    """Whether what stands behind a number of four digits or more can be nothing but its decimals."""
    divider = next((one for one in ",.'" if one in number), None)
    if divider is None:
        return 0 < len(decimals) <= 1 + _MOST_DECIMALS
    return bool(decimals) and decimals[0] != divider


def _plain(text: str) -> str:
    """Text without case and doubled spaces, its quotation marks and dashes as a keyboard has them, a bar between cells.

    Without spaces before percent signs and closing brackets, and after signs of currencies: filings give each a cell.
    With one between a figure and the word or letters for its millions.
    """
    cells = _BETWEEN_CELLS.sub("|", _SPACE.sub(" ", _typed(text)))
    return _BEFORE_SCALE.sub(" ", _BESIDE_SIGN.sub("", cells).strip(" |").casefold())


def _typed(text: str) -> str:
    """Text with the quotation marks, dashes and digits of a keyboard, none of full width."""
    return text if text.isascii() else plain_digits(unicodedata.normalize("NFC", text).translate(_SIGNS))


def find_gold(pair: Pair, index: Index) -> list[Chunk]:
    """The chunks that hold a pair's answer, in their order; none if no chunk does.

    Copies of a document hold what it holds.

    Where the pair says in which document, page or words: those of it. Where it doesn't: those of the first passages
    that are found for the question which have the answer's words.
    """
    if pair.answer is None:
        return []
    if not pair.documents:
        found = [chunk for chunk, _ in index.ranked(pair.question, _SEARCHED)]
        return _with_words(found, pair.evidence or pair.answer)
    if pair.places:
        found = [
            chunk
            for place in pair.places
            for document in index.copies_of(place.document)
            for chunk in _of_place(index.chunks_of(document), pair.answer, place)
        ]
        return list({chunk.id: chunk for chunk in found}.values())
    documents = dict.fromkeys(copy for document in pair.documents for copy in index.copies_of(document))
    chunks = [chunk for document in documents for chunk in index.chunks_of(document)]
    return _of_place(chunks, pair.answer, Place("", pair.evidence, pair.page))


def may_be_chance(pair: Pair, gold: Sequence[Chunk]) -> bool:
    """Whether an answer stands in several sentences or rows that say different things, and nothing says in which.

    All of them count as right: "12" may be a number of plants, a share, and a part of "12-month".

    Args:
        pair: the question.
        gold: what `find_gold` found for it.
    """
    on_a_page = pair.page is not None and any(chunk.page is not None for chunk in gold)
    if pair.answer is None or pair.evidence is not None or on_a_page or pair.places:
        return False
    return len({_saying(chunk.text, pair.answer) for chunk in gold}) > 1


def _saying(text: str, words: str) -> str:
    """The first sentence or row of a text that has some words; all of it if none has: two chunks may share it."""
    sentences = _SENTENCE.split(text)
    if is_mark(words):
        sentences = _SENTENCE.split(without_marks(text)) + sentences
    return next((one.strip() for wanted in signed(words) for one in sentences if holds(one, wanted)), text)


def _of_place(chunks: Sequence[Chunk], answer: str, place: Place) -> list[Chunk]:
    """The chunks that hold an answer where a place says; a heading that no chunk has says nothing."""
    if place.page is not None:
        chunks = _of_page(chunks, place.page)
    if place.section is not None:
        chunks = [chunk for chunk in chunks if place.section in chunk.heading] or chunks
    if place.evidence is not None:
        both = [chunk for chunk in chunks if holds(chunk.passage, place.evidence)]
        # Evidence that says more than the answer may stand several times: the answer beside it counts.
        return _with_words(both, answer) or both
    return _with_words(chunks, answer)


def _with_words(chunks: Sequence[Chunk], words: str) -> list[Chunk]:
    """The chunks that have some words; with a minus before them only if none has them without.

    In the numbers of items and clauses ("3. Fees") only if no text has them elsewhere, and in headings only if no text
    has them at all: a title's year is in every chunk.
    """
    texts = [chunk.text for chunk in chunks]
    places = [texts, [chunk.passage for chunk in chunks]]
    if is_mark(words):
        places.insert(0, [without_marks(text) for text in texts])
    for looked_in in places:
        for wanted in signed(words):
            found = [chunk for chunk, text in zip(chunks, looked_in, strict=True) if holds(text, wanted)]
            if found:
                return found
    return []


def _of_page(chunks: Sequence[Chunk], page: int) -> list[Chunk]:
    """Chunks that may have words of a page, of each document.

    Those that begin on it, the last before it, and the one after these if it repeats their last sentences: its own
    page is that of what is new in it. Of a document without pages, all of its own: the page is that of a print.
    """
    found: list[Chunk] = []
    for _, of_document in groupby(chunks, key=attrgetter("document")):
        own = list(of_document)
        if all(chunk.page is None for chunk in own):
            found += own
            continue
        before = [place for place, chunk in enumerate(own) if chunk.page is not None and chunk.page < page]
        taken = {*before[-1:], *(place for place, chunk in enumerate(own) if chunk.page == page)}
        after = max(taken, default=len(own)) + 1
        if after < len(own) and _repeats(own[after].text, own[after - 1].text):
            taken.add(after)
        found += [own[place] for place in sorted(taken)]
    return found


def _repeats(text: str, before: str) -> bool:
    """Whether a text begins with whole sentences or lines, and words in them, that the one before it ends with."""
    sentences, earlier = sentences_of(text), sentences_of(before)
    most = min(len(sentences), len(earlier))
    shared = next((count for count in range(most, 0, -1) if sentences[:count] == earlier[-count:]), 0)
    return any(map(str.isalnum, "".join(sentences[:shared])))
