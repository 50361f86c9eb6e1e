"""Scorers of answers to retrieval questions: text, amounts with units, sources cited, and saying that there is none.

Amounts are compared as a careful reader would: "$1.2 billion" is "1,200 million", a sign or a unit that differs is
wrong, and an answer that states many amounts has not answered.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from selfaug.errors import DataError
from selfaug.eval.amounts import (
    CITATION,
    LENGTHS,
    MINUS,
    SCALES,
    SIGNS,
    UNITS,
    Quantity,
    parse_quantities,
    units_agree,
)

__all__ = [
    "CitationScores",
    "abstains",
    "citation_scores",
    "cited_sources",
    "contains",
    "exact_match",
    "groundedness",
    "normalize_answer",
    "numeric_match",
    "numeric_or_f1",
    "same_value",
    "token_f1",
]

_ARTICLES = frozenset(("a", "an", "the"))
# What of a number is punctuation and yet says which number it is: its point, its sign, and that it is a percentage.
# A comma between thousands says nothing.
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_OF_A_NUMBER = re.compile(rf"(?<![^\W\d_])\.(?=\d)|(?<![\w.,)\]%])(?<!\d\s)[-−–](?=[.\d{SIGNS}])|%")
_PERCENT = re.compile(r"(?<=\d)\s*(?:percent|per\s+cent|pct)\b")
_IN_WORDS_MINUS = re.compile(rf"\bminus\s+(?=[.\d{SIGNS}])")


def normalize_answer(text: str) -> str:
    """Lower case, without articles and punctuation, one space between words (as in SQuAD; unicode-aware).

    Beyond SQuAD, numbers stay what they are: their decimal point, sign and "%" are kept, so that "12.5%" is neither
    "5" nor "-12.5%". A text of articles or of punctuation alone is kept too: the answer "A" is no empty one.
    """
    words = _plain(text).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _plain(text: str) -> str:
    """Lower case, without punctuation; articles are kept, and punctuation where there is nothing else."""
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower())
    text = _IN_WORDS_MINUS.sub("-", _PERCENT.sub("%", text))
    kept, end = [], 0
    for match in _OF_A_NUMBER.finditer(text):
        kept += [_without_punctuation(text[end : match.start()]), _KEPT_SIGNS.get(match[0], match[0])]
        end = match.end()
    plain = " ".join("".join([*kept, _without_punctuation(text[end:])]).split())
    return plain or " ".join(text.split())


_KEPT_SIGNS = {"−": "-", "–": "-", "%": " % "}


def _without_punctuation(text: str) -> str:
    return "".join(" " if unicodedata.category(sign)[0] == "P" or sign == "−" else sign for sign in text)


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the normalised answer is one of the golds."""
    return normalize_answer(answer) in {normalize_answer(gold) for gold in golds}


def contains(answer: str, gold: str) -> bool:
    """Whether the gold's words are in the answer, in their order and next to each other; both normalised."""
    wanted = normalize_answer(gold)
    # Articles are what is asked for: "The answer is A."
    only_articles = set(wanted.split()) <= _ARTICLES
    return f" {wanted} " in f" {_plain(answer) if only_articles else normalize_answer(answer)} "


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """Best F1 of the answer's words against a gold's, in [0, 1]; 1 if both are empty."""
    return max(
        (_f1(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in golds), default=0.0
    )


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = sum((Counter(answer) & Counter(gold)).values())
    return 2 * shared / (len(answer) + len(gold))


# ---- amounts


_COMMITTED = re.compile(
    r"\b(?:final\s+)?answer[*_]*\s*(?:is\b\s*:?|:)[*_\s]*(?P<rest>[^\n|]*)", re.IGNORECASE
)
_FALL = re.compile(
    r"\b(?:loss(?:es)?|lost|decreas\w*|declin\w*|fell|fall\w*|drop\w*|down|lower|negative|minus|reduc\w*|shrank)\b",
    re.IGNORECASE,
)
_FALL_REACH = 40
_YEAR = re.compile(r"\W*((?:19|20)\d\d)\W*")
_MOST_AMOUNT_WORDS = 3
"""Longer right answers are sentences in which numbers occur."""


def numeric_match(answer: str, gold: str, tolerance: float = 0.0) -> bool:
    """Whether an answer states the gold's amount.

    The values may differ by half of one in the last place that gold shows (gold "1.2 billion" is met by "1,204
    million"), or by `tolerance` if that is more; an answer coarser than gold needs a tolerance.

    A unit stands next to the number. Two that are known and differ are wrong: "three years" is neither "three months"
    nor "36 months", as nothing is converted but scales and basis points. Known are common currencies (a bare "$" is the
    US dollar), percentages, measures of time, length and weight, times, shares, and employees or people. A unit that is
    missing, or any other word, agrees with all: "9 plants" may be "9 sites".

    "a loss of $5 million" agrees with a negative gold. What follows "answer:" or "the answer is" counts alone, if it
    has an amount or says that there is none; else an answer that states more than two amounts of the unit has not
    committed itself.

    Args:
        answer: any text.
        gold: a text with one amount, or with a range's two.
        tolerance: largest relative deviation.

    Raises:
        DataError: if gold states no amount.
    """
    if year := _YEAR.fullmatch(gold):
        return set(re.findall(r"\b(?:19|20)\d\d\b", answer)) == {year[1]}
    if not parse_quantities(gold, years=True):
        raise DataError(
            f"the right answer {gold[:80]!r} states no amount.",
            hint="score it as text, or by `numeric-or-f1` where some right answers are amounts and others aren't.",
        )
    text = _committed_part(answer)
    readings = (False, True) if _tells_a_length(text) or _tells_a_length(gold) else (False,)
    return any(_agrees(text, gold, tolerance, metres) for metres in readings)


def _tells_a_length(text: str) -> bool:
    return any(quantity.unit in LENGTHS for quantity in parse_quantities(text))


def _agrees(text: str, gold: str, tolerance: float, metres: bool) -> bool:
    """Whether a text states the amount of gold, where "m" stands for metres or for millions in both."""
    wanted = parse_quantities(gold, metres=metres) or parse_quantities(gold, years=True, metres=metres)
    # An amount may be written like a year ("1950" for "1,950"); most numbers that are, are years.
    return any(
        _states(text, parse_quantities(text, years=years, metres=metres), wanted, tolerance)
        for years in (False, True)
    )


def _committed_part(answer: str) -> str:
    """What an answer calls its answer; all of it where it does so of nothing that could be one."""
    committed = list(_COMMITTED.finditer(answer))
    if committed and (parse_quantities(committed[-1]["rest"], years=True) or abstains(committed[-1][0])):
        return committed[-1]["rest"]
    return answer


def numeric_or_f1(answer: str, gold: str) -> float:
    """Whether the amount is right where gold is one, of three words at most; else the overlap of words (token F1).

    A number word is an amount where it leads and no name follows: "three months", not "Four Seasons" or "Formula One".
    """
    if len(gold.split()) <= _MOST_AMOUNT_WORDS and _is_amount(gold):
        return float(numeric_match(answer, gold))
    return token_f1(answer, [gold])


def _is_amount(gold: str) -> bool:
    if _YEAR.fullmatch(gold):
        return True
    amounts = parse_quantities(gold)
    if not amounts or any(sign.isdigit() for sign in gold):
        return bool(amounts)
    leads = amounts[0].start == len(gold) - len(gold.lstrip())
    return leads and all(word.islower() for word in gold.split()[1:])


def _states(text: str, found: Sequence[Quantity], wanted: Sequence[Quantity], tolerance: float) -> bool:
    """Whether amounts of a text are those that are wanted."""
    stated = [quantity for quantity in found if any(units_agree(quantity.unit, one.unit) for one in wanted)]
    if len({quantity.value for quantity in stated}) > max(2, len(wanted)):
        return False
    if len(wanted) > 1:
        return len(stated) == len(wanted) and all(
            units_agree(a.unit, b.unit) and _same(text, a, b, tolerance)
            for a, b in zip(stated, wanted, strict=True)
        )
    return any(_same(text, quantity, wanted[0], tolerance) for quantity in stated)


def _same(text: str, stated: Quantity, wanted: Quantity, tolerance: float) -> bool:
    value, resolution = stated.value, stated.resolution
    if stated.unsure and wanted.value > 0:
        value = abs(value)
    if wanted.unit is None and stated.unit == "%" and abs(wanted.value) < 1:
        value, resolution = value / 100, resolution / 100  # gold as a fraction
    if wanted.value < 0 < value and _tells_a_fall(text, stated):
        value = -value
    slack = Decimal(str(tolerance)) * abs(wanted.value)
    deviation = abs(value - wanted.value)
    if deviation <= slack:
        return True
    return resolution <= wanted.resolution and deviation <= wanted.resolution / 2


def _tells_a_fall(text: str, quantity: Quantity) -> bool:
    return _FALL.search(text[max(0, quantity.start - _FALL_REACH) : quantity.start]) is not None


# ---- sources


class CitationScores(NamedTuple):
    """How well an answer's sources are those of the gold, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


_SOURCES = re.compile(rf"(\d+)(?:\s*[{MINUS}]\s*(\d+))?")
_LONGEST_SPAN = 9


def citation_scores(answer: str, gold: str | Iterable[int]) -> CitationScores:
    """Precision, recall and F1 of the numbered sources that an answer cites.

    They are cited like `[2]`, `[1, 3]`, `[1-3]`, `(Source 2)` or `Sources: 1 and 3`.

    An answer that cites nothing has precision 0, unless gold cites nothing either: then all are 1.

    Args:
        answer: any text.
        gold: numbers of the right sources, or a text that cites them.
    """
    cited = cited_sources(answer)
    right = cited_sources(gold) if isinstance(gold, str) else set(gold)
    if not cited and not right:
        return CitationScores(1.0, 1.0, 1.0)
    hits = len(cited & right)
    precision = hits / len(cited) if cited else 0.0
    recall = hits / len(right) if right else 0.0
    return CitationScores(precision, recall, 2 * hits / (len(cited) + len(right)))


def same_value(answer: str, gold: str) -> bool:
    """Whether an answer is the gold but for case, spaces, and which sources it cites: the value, in its form."""

    def bare(text: str) -> str:
        return "".join(CITATION.sub("", text).split()).casefold()

    return bare(answer) == bare(gold)


def cited_sources(text: str) -> set[int]:
    """Numbers of the sources that a text cites, as in `citation_scores`."""
    found: set[int] = set()
    for match in CITATION.finditer(text):
        for first, last in _SOURCES.findall(match["marks"] or match["several"] or match["one"]):
            # A span of so many is none of sources.
            through = int(last) if last and int(last) - int(first) <= _LONGEST_SPAN else int(first)
            found |= {*range(int(first), through + 1), int(last or first)}
    return found


# ---- what stands in the context

_SHORTEST_WORD = 4


def groundedness(answer: str, context: str) -> float:
    """How much of an answer stands in its context, in [0, 1]: by overlap, so a paraphrase counts as little.

    The lower of two shares: of its words of four letters and more, and of its amounts, each of which has to stand in
    the context with the same unit, in any scale; an answer may round it, but not add digits. An amount that the answer
    computed is not grounded. An answer without words or amounts is: it claims nothing.
    """
    known = set(normalize_answer(context).split())
    words = [
        word
        for word in normalize_answer(answer).split()
        # Words of amounts count with these.
        if len(word) >= _SHORTEST_WORD and word.isalpha() and word not in SCALES and word.upper() not in UNITS
    ]
    amounts, stated = parse_quantities(answer), parse_quantities(context)
    shares = [1.0]
    if words:
        shares.append(sum(word in known for word in words) / len(words))
    if amounts:
        shares.append(sum(_stands_in(amount, answer, stated, context) for amount in amounts) / len(amounts))
    return min(shares)


def _stands_in(amount: Quantity, answer: str, stated: Sequence[Quantity], context: str) -> bool:
    """Whether a text states an amount of an answer, which may have rounded it."""
    claimed = [amount]
    if amount.value > 0 and _tells_a_fall(answer, amount):
        claimed.append(replace(amount, value=-amount.value))
    # A share may stand there as a fraction.
    fractions = [
        replace(one, value=100 * one.value, resolution=100 * one.resolution)
        for one in stated
        if amount.unit == "%" and one.unit is None and abs(one.value) < 1
    ]
    return any(
        units_agree(amount.unit, one.unit) and _same(context, one, claim, 0.0)
        for one in (*stated, *fractions)
        for claim in claimed
    )


# ---- no answer in the context

_DOCUMENTS = r"(?:documents?|passages?|sources?|reports?|texts?|excerpts?|context)\b"
_ABSTENTION = re.compile(
    r"""
    (?:
        (?:\bnot|n't|\bnever)\s+(?:\w+\s+){0,2}?(?:stated|mentioned|specified|provided|given|disclosed|reported|found|
            available|included|contained|answered|say|says|state|mention|specify|provide|contain|include|disclose|
            give|know|enough\s+information|sufficient\s+information)
      | (?:\bnot|n't)\s+(?:\w+\s+)?(?:addressed|discussed|listed|covered)\s+(?:in|by)\s+(?:\w+\s+){0,3}?{documents}
      | \b{documents}\s+(?:do|does|did)(?:\s+not|n't)\s+(?:\w+\s+)?(?:address|discuss|cover|list)\b
      | \b(?:none|neither)\s+of\s+(?:(?:the(?:se)?|those)\s+(?:\w+\s+){0,2}?{documents}|them|these|those)\s+
            (?:\w+ly\s+)?(?:mentions?|states?|says?|gives?|provides?|contains?|includes?|discloses?|specif(?:y|ies)|answers?|
            address(?:es)?|discuss(?:es)?|covers?)\b
      | \bno\s+(?:such\s+)?(?:information|answer|mention|data|details?|figures?)\b
      | \b(?:cannot|can't|can\s+not|could\s+not|couldn't|unable\s+to|not\s+able\s+to)\s+(?:be\s+)?
            (?:answer|answered|determine|determined|find|found|tell|say|infer|inferred)
      | \binsufficient\s+(?:information|context|data)
      | \b(?:is|are|remains?)\s+(?:unknown|unclear|missing\s+from)
      | \bunanswerable
    )
    """.replace("{documents}", _DOCUMENTS),
    re.VERBOSE | re.IGNORECASE,
)
_BUT = re.compile(r"\b(?:but|however|although|though|nevertheless)\b|[.;,]", re.IGNORECASE)


def abstains(answer: str) -> bool:
    """Whether an answer says that the context holds none.

    A text that goes on to state an amount after "but", or in another clause, has answered.
    """
    answer = answer.replace("’", "'")
    match = _ABSTENTION.search(answer)
    if match is None:
        return False
    start = max((one.end() for one in _BUT.finditer(answer[: match.start()])), default=0)
    after = _BUT.search(answer, match.end())
    others = [answer[:start], answer[after.end() :] if after else ""]
    return not any(
        _OF_DOCUMENTS.match(part, quantity.end) is None
        for part in others
        for quantity in parse_quantities(part)
    )


# "I checked all three documents": no amount that was asked for.
_OF_DOCUMENTS = re.compile(rf"\s+(?:\w+\s+)?{_DOCUMENTS}", re.IGNORECASE)
