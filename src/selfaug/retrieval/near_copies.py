"""Documents that are nearly the same: one report in two formats, or a draft beside the final version.

Each document is sketched as it is read, by MinHash: the share of places at which two sketches have the same value
estimates the Jaccard similarity of the sets they are made of (what both have, of what either has). There are two sets:
runs of words, and figures. Reports of one template share most of their words; another year, or another company, has
other figures, while copies have the same ones.

The sketches are kept in the index. When they are made otherwise, all documents have to be read anew: count up the
`_READER` of `selfaug.phases.prepare`.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from selfaug.core.digits import plain_digits
from selfaug.retrieval.document import Document
from selfaug.retrieval.plain_text import SIGNS_OF_LETTERS, UNSPACED

__all__ = ["near_copies", "sketch_of"]

_Numbers = npt.NDArray[np.uint64]

# Letters and digits alone: bullets, bars between cells and signs that divide thousands are each format's own.
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:[{SIGNS_OF_LETTERS}]+[^\W_{UNSPACED}]*)*")
_RUN = 3  # words; of longer runs a workbook, which repeats titles and cuts tables, has fewer in common with its PDF
# With a comma before decimals, where that can be nothing else, or hardly; or with points between thousands. A comma is
# none of decimals in "[1,2]" and "1,2,3", and after a year. Five groups of three at most: in a long row of them
# each would be read to the row's end.
_FIGURE = re.compile(
    r"(?<!\d)(?P<with_comma>\d{1,3}(?:(?:\.\d{3}){1,5}|(?: \d{3}){1,5}),\d{1,2}(?![.,]?\d)"
    r"|\d{1,3}(?:\.\d{3}){2,5}(?![.,]?\d)"
    r"|(?<![\[^])(?<!\d,)(?!(?:19|20)\d\d,)\d+,\d{1,2}(?![.,]?\d))"
    r"|\d+(?:,\d{3})*(?:\.\d+)?"
)
_APOSTROPHE = re.compile(r"(?<=\d)['’](?=\d{3}(?!\d))")
# Numbers of clauses, the same in all contracts of one template: before a text, and behind a word that refers to one.
_CLAUSE = r"\d{1,2}(?:\.\d{1,2})+(?!\d)"
_CLAUSE_NUMBER = re.compile(
    rf"^[ \t]*(?:[#*-]+[ \t]+)?{_CLAUSE}(?=[.):]?[ \t]+(?:[\"“„«']?[^\W\da-z_]|\([a-z]{{1,4}}\)))"
    rf"|(?i:\b(?:sub-?)?(?:clause|section|article|schedule|paragraph|annex|appendix|artikel|abschnitt|ziffer|absatz)s?"
    rf"|§)[ \t\xa0]*{_CLAUSE}(?:(?:,|[ ]?[-–]|[ ](?:and|or|to|und|oder|bis))[ ]?{_CLAUSE})*",
    re.MULTILINE,
)
_FEWEST_DIGITS = 3  # smaller whole numbers are in every document

_SIZE = 128  # values of a set's sketch: a similarity of 0.7 is estimated within 0.04, one standard deviation
# A least value of 64 bits has zeros in front; these bits of it are as good as random for up to 2^24 runs.
_KEPT_BITS = np.uint64(24)
_MOST = np.uint64(2**64 - 1)
_AT_ONCE = (
    1 << 14
)  # numbers that stay in a processor's cache; of a book's words all at once would fill memory


def _drawn(name: bytes, count: int) -> _Numbers:
    """Numbers that look random, and are the same everywhere."""
    return np.frombuffer(hashlib.shake_256(name).digest(8 * count), dtype="<u8").astype(np.uint64)


# Odd, so that to multiply by one, modulo 2^64, gives each number a place of its own.
_FACTORS = _drawn(b"factors", _SIZE) | np.uint64(1)
_ADDENDS = _drawn(b"addends", _SIZE)
_OF_RUN = _drawn(b"run", 1) | np.uint64(1)
_MIXING = _drawn(b"mixing", 2) | np.uint64(1)


def sketch_of(document: Document) -> str:
    """What says how much of its words and figures a document shares with another one.

    Returns:
        684 characters; empty for a document without a word.
    """
    words = _hashes(_words(document))
    if not len(words):
        return ""
    figures = _hashes(_figures(document))
    both = np.concatenate(
        [_sketch(map(_runs, _parts(words, _RUN - 1))), _sketch(map(_mixed, _parts(figures, 0)))]
    )
    return base64.b64encode(both.astype("<u2").tobytes()).decode("ascii")


def near_copies(sketches: Mapping[str, str], similar: float) -> list[list[str]]:
    """Sets of documents that are nearly the same, over any number of steps.

    Args:
        sketches: from `sketch_of`, by the documents' names; one whose sketch is empty is in no set.
        similar: in (0, 1]: of the runs of words that one or both of two documents have, both have at least so much,
            and so they have of the figures.

    Returns:
        names, each set in their order.
    """
    known = {name: sketch for name, sketch in sketches.items() if sketch}
    sets: dict[int, list[str]] = {}
    for name, label in zip(known, _labels(list(known.values()), math.ceil(similar * _SIZE)), strict=True):
        sets.setdefault(label, []).append(name)
    return [same for same in sets.values() if len(same) > 1]


def _words(document: Document) -> Iterator[str]:
    for block in document.blocks:
        lower = block.text.lower()
        if not lower.isascii():
            lower = unicodedata.normalize("NFC", lower)  # é may be one character or two
        yield from _matches(_WORD, lower)


def _figures(document: Document) -> Iterator[str]:
    """Figures with several digits or with decimals, without what divides thousands and zeros at their end; no clauses'
    numbers."""
    for block in document.blocks:
        text = _APOSTROPHE.sub("", plain_digits(_CLAUSE_NUMBER.sub("", block.text)))
        for found in _FIGURE.finditer(text):
            divider, decimal = (". ", ",") if found["with_comma"] else (",", ".")
            whole, _, decimals = found[0].translate(dict.fromkeys(map(ord, divider))).partition(decimal)
            if decimals or len(whole) >= _FEWEST_DIGITS:
                yield f"{whole}.{decimals.rstrip('0')}"


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """One at a time: a list of millions of words would take hundreds of megabytes."""
    return map(_whole, pattern.finditer(text))


def _whole(match: re.Match[str]) -> str:
    return match[0]


@lru_cache(maxsize=1 << 17)
def _hash(word: str) -> int:
    # Python's own `hash` of a text is another one in every process.
    return int.from_bytes(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _hashes(texts: Iterable[str]) -> _Numbers:
    return np.fromiter(map(_hash, texts), dtype=np.uint64)


def _parts(values: _Numbers, repeated: int) -> Iterator[_Numbers]:
    """The numbers in parts, each but the first beginning with so many of the part before."""
    for start in range(0, max(len(values) - repeated, min(len(values), 1)), _AT_ONCE):
        yield values[start : start + _AT_ONCE + repeated]


def _runs(words: _Numbers) -> _Numbers:
    """A number for each run of words; where there are fewer words than a run has, for all of them."""
    length = min(_RUN, len(words))
    runs = np.zeros(len(words) - length + 1, dtype=np.uint64)
    for place in range(length):
        runs = runs * _OF_RUN + words[place : place + len(runs)]
    return _mixed(runs)


def _mixed(values: _Numbers) -> _Numbers:
    """Every bit of a number depends on all of it."""
    for factor, shift in zip(_MIXING, (np.uint64(30), np.uint64(27)), strict=True):
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> np.uint64(31))


def _sketch(parts: Iterable[_Numbers]) -> npt.NDArray[np.uint16]:
    """MinHash: 16 bits of the least value in each of `_SIZE` orders; of nothing, ones."""
    least = np.full(_SIZE, _MOST)
    for values in parts:
        for place, (factor, addend) in enumerate(zip(_FACTORS, _ADDENDS, strict=True)):
            least[place] = min(least[place], (values * factor + addend).min())
    return (least >> _KEPT_BITS).astype(np.uint16)


def _labels(sketches: Sequence[str], least: int) -> list[int]:
    """A number for each sketch, the same for those that agree at `least` places of both sets, over any number of steps.

    Every two are compared, which takes about a second for 10,000 documents: to look them up by parts of their sketches
    would be slower where there are many of one template.
    """
    data = b"".join(map(base64.b64decode, sketches))
    # One document a column: what is compared at a time lies side by side.
    columns = np.frombuffer(data, dtype="<u2").reshape(len(sketches), 2, _SIZE).transpose(1, 2, 0)
    text, figures = np.ascontiguousarray(columns, dtype=np.uint16)
    labels = np.arange(len(sketches))
    for place in range(1, len(sketches)):
        near = np.flatnonzero(_agreeing(text[:, :place], text[:, place]) >= least)
        if len(near) > place // 8:
            # Many of one template: to copy their columns takes longer than to compare all.
            near = near[_agreeing(figures[:, :place], figures[:, place])[near] >= least]
        else:
            near = near[_agreeing(figures[:, near], figures[:, place]) >= least]
        if len(near):
            joined = np.unique(labels[near])
            labels[np.isin(labels, joined)] = labels[place] = joined[0]
    return [int(label) for label in labels]


def _agreeing(columns: npt.NDArray[np.uint16], column: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """At how many places each of the columns has the same value as another one."""
    count: npt.NDArray[np.uint8] = (columns == column[:, None]).sum(axis=0, dtype=np.uint8)
    return count
