"""Scorers of answers that are amounts, as a careful reader would compare them.

"$1.2 billion" is "1,200 million", a sign or a unit that differs is wrong, and an answer that states many amounts has
not answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from itertools import product

from selfaug.errors import DataError
from selfaug.eval.abstention import abstains
from selfaug.eval.amounts import (
    LENGTHS,
    NAMED_PART,
    Quantity,
    names_thousands,
    parse_quantities,
    read_triangles,
    units_agree,
)
from selfaug.eval.plain_latex import plain_latex
from selfaug.eval.results import boxed_amount, result_among
from selfaug.eval.text_scorers import token_f1
from selfaug.retrieval.plain_text import EAST_ASIAN, UNSPACED

__all__ = ["numeric_match", "numeric_or_f1", "same_amount", "tells_a_fall"]

_COMMITTED = re.compile(
    r"(?:\b(?:final\s+)?answer[*_]*\s*(?:is\b\s*:?|[:：])|"
    r"(?:\b(?:antwort|réponse|respuesta|risposta|resposta|antwoord|svar)(?:\s+(?:lautet|ist|est|es))?|回答|答え|答案|답변)"
    r"[*_]*\s*[:：])[*_\s]*(?P<rest>[^\n|｜]*)",
    re.IGNORECASE,
)
_FALL = re.compile(
    r"\b(?:loss(?:es)?|lost|decreas\w*|declin\w*|fell|fall\w*|drop\w*|down|lower|negative|minus|reduc\w*|shrank)\b|"
    # German, of which many words end so (Jahresverlust), French, Spanish
    r"verlust|rückgang|fehlbetrag|rückläufig|\b(?:sank|sanken|sinkt|gesunken|gefallen|fiel|fielen|verminder\w*|"
    r"verringer\w*|reduzier\w*|negativ\w*)\b|minderung|"
    r"\b(?:pertes?|déficit|baiss\w+|recul\w*|diminu\w+|pérdidas?|caída|cayó|cayeron|disminuy\w+|bajó|"
    r"descen(?:so|sos|dió|dieron|der))\b|"
    # "-5" in words; not "al menos 5", "más o menos 5", "au moins 5"
    r"(?<!\bal\s)(?<!\bo\s)(?<!\bau\s)(?<!\bou\s)(?<!\bdu\s)\b(?:menos|moins)(?=\s*\Z)|"
    r"赤字|損失|欠損|減[少収益額り]|下落|低下|マイナス|亏损|虧損|净亏|下降|下跌|减少",
    re.IGNORECASE,
)
_FALL_REACH = 40
# "Revenue fell, but net income was $5 million": what fell is another thing. A comma begins a clause where a subject and
# a verb follow, not in "fell sharply, by 5%", nor in "the loss, which was $5 million"; a full stop where a capital
# letter does, not in "fell vs. 2022 by 5%".
_OTHER_CLAUSE = re.compile(
    r";\s|(?<!\bapprox)(?<!\bca)\.\s+(?=[*_]*[A-Z])|\b(?:but|while|whereas|though|although|yet|"
    r"aber|jedoch|während|sondern|mais|tandis|pero|mientras|sino)\b|"
    r"[。；]|、(?=[^、]*は)|，(?=[^，]*[为為是])|(?:が|ものの)、|(?:で|じゃ|では)な[いく]|から|但|而|不是|"
    r",(?=\s+(?!(?:which|that|this|was|were|is|are)\b)(?=[^\W\d])"
    r"[^,;]*\b(?:was|were|is|are|rose|grew|increased|reached|stood|total+ed|"
    r"betrug|betrugen|beträgt|lag(?=\s+(?:bei|um|auf)\b)|lagen|stieg|stiegen|wuchs|"
    r"erreichte|est(?=\s+(?:de|à)\b)|était|atteint|fue|alcanzó|subió)\b)"
)
# "3.4% decrease", "$5 million net loss", "5% lower"; not "$5 million after losses".
_FALL_AFTER = re.compile(
    r"\s*(?:(?!(?:after|and|as|because|before|despite|due|for|from|in|of|on|or|than|to|up|with|without)\b)[\w-]+\s+)?"
    r"(?:loss(?:es)?|decreases?|declines?|drops?|falls?|reductions?|contractions?|lower|down(?!\s+from))\b|"
    # "5 Mio. € Verlust", "5 % de baisse"; "3億円の赤字", "5%減", not 減税, which are other things
    r"\s*(?:(?:d[e'’]|an|en)\s*)?(?:(?:Netto|Jahres|Betriebs)?-?(?:Verlust|Fehlbetrag)s?|Rückgang|weniger|niedriger|"
    r"pertes?|baisse|moins|pérdidas?|menos)\b|"
    r"\s*の?(?:[純净]|営業|経常|最終|当期純)?(?:赤字|損失|減(?![税価資])|下落|低下|亏损|虧損|下降|下跌|减少)",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\W*((?:19|20)\d\d)\W*")
_NAMED = re.compile(r"([^\W\d_]+)[^\w:]*\Z")  # "Revenue: 12" names nothing
# What names nothing, and may stand before an amount with a capital letter.
_BEFORE_AMOUNTS = frozenset((
    "about", "above", "almost", "answer", "approx", "approximately", "around", "at", "below", "ca", "circa", "declined",
    "decrease", "decreased", "down", "dropped", "exactly", "fell", "gained", "grew", "increase", "increased", "just",
    "loss", "lost", "nearly", "of", "only", "over", "revenue", "rose", "roughly", "some", "than", "total", "under",
    "up",
))  # fmt: skip
# "Passages: 12" alone is their number. "Source: 2" and "[4]" are sources, without an amount.
_HOW_MANY = re.compile(r"[*_\s]*(?:sources|passages)[*_\s]*+(?::[*_\s]*+)?(\d{1,3})[.*_\s]*", re.IGNORECASE)
_MOST_AMOUNT_WORDS = 3
"""Longer right answers are sentences in which numbers occur."""
_MOST_LETTERS_BESIDE = 4
"""The same in Japanese and Chinese, where no spaces divide words: letters beside the amount, such as 約 and 以内."""
_LETTERS_LIKE_ONE = 3  # of Thai, Lao, Burmese and Khmer, which write sounds
_EAST_ASIAN_LETTER, _UNSPACED_LETTER = re.compile(f"[{EAST_ASIAN}]"), re.compile(f"[{UNSPACED}]")


def numeric_match(answer: str, gold: str, tolerance: float = 0.0) -> bool:
    r"""Whether an answer states the gold's amount.

    The values may differ by half of one in the last place that gold shows (gold "1.2 billion" is met by "1,204
    million"), or by `tolerance` if that is more; an answer coarser than gold needs a tolerance.

    A unit stands next to the number. Two that are known and differ are wrong: "three years" is neither "three months"
    nor "36 months", as nothing is converted but scales and basis points. Known are common currencies (a bare "$" is the
    US dollar), percentages, measures of time, length and weight, times, shares, and employees or people. A unit that is
    missing, or any other word, agrees with all: "9 plants" may be "9 sites".

    "a loss of $5 million" and "$5 million loss" agree with a negative gold: a word of a fall stands right behind the
    amount, or before it in the same clause. What follows "answer:" or "the answer is" counts alone, if it has an amount
    or says that there is none, and so does one amount in `\boxed{}`, with a fall that is said beside it, whichever is
    last; else an answer that states more
    than two amounts of the unit has not committed itself, unless one of them is the result (see `result_among`).

    A percentage is met by no fraction: "0.5" may be half a percent. A gold below 1 without a unit is met by "36%" for
    "0.36".

    Where gold has a unit and names no clause, version or the like, numbers that an answer names so ("Clause 12.1",
    "Article 12") are left out. Else they are amounts as any other, but for those of whole sections: "12" is met by
    "Step 12 sets it to 5", as it may be the step that is asked for.

    Args:
        answer: any text.
        gold: a text with one amount, or with a range's two.
        tolerance: largest relative deviation.

    Raises:
        DataError: if gold states no amount.
    """
    answer, gold = (
        _HOW_MANY.sub(r"\1", text) if _HOW_MANY.fullmatch(text) else plain_latex(text)
        for text in (answer, gold)
    )
    if year := _YEAR.fullmatch(gold):
        return set(re.findall(r"(?<!\d)(?:19|20)\d\d\b", answer)) == {year[1]}
    answer, gold = read_triangles(answer, gold)
    wanted = parse_quantities(gold, years=True) or parse_quantities(gold, years=True, dates=True)
    if not wanted:
        raise DataError(
            f"the right answer {gold[:80]!r} states no amount.",
            hint="score it as text, or by `numeric-or-f1` where some right answers are amounts and others aren't.",
        )
    if all(quantity.unit for quantity in wanted) and NAMED_PART.search(gold) is None:
        answer = NAMED_PART.sub(" ", answer)
    return _meets(_committed_part(answer), gold, tolerance)


def _meets(text: str, gold: str, tolerance: float) -> bool:
    metres = (False, True) if _tells_a_length(text) or _tells_a_length(gold) else (False,)
    points = (False, True) if names_thousands(text) or names_thousands(gold) else (False,)
    dates = not parse_quantities(gold, years=True)  # gold is such a date itself
    parsers = (
        partial(parse_quantities, dates=dates, metres=metre, points=point)
        for metre, point in product(metres, points)
    )
    return any(_agrees(text, gold, tolerance, parse) for parse in parsers)


def _tells_a_length(text: str) -> bool:
    return any(quantity.unit in LENGTHS for quantity in parse_quantities(text))


def _agrees(text: str, gold: str, tolerance: float, parse: Callable[..., list[Quantity]]) -> bool:
    """Whether a text states the amount of gold, where "m" and points stand for the same in both."""
    wanted = parse(gold) or parse(gold, years=True)
    # An amount may be written like a year ("1950" for "1,950"); most numbers that are, are years.
    return any(_states(text, parse(text, years=years), wanted, tolerance) for years in (False, True))


def _committed_part(answer: str) -> str:
    """What an answer calls its answer; all of it where it does so of nothing that could be one."""
    box = boxed_amount(answer)
    fall = "down " if box and tells_a_fall(answer, *box.span()) else ""
    committed = list(_COMMITTED.finditer(answer))
    if box and (not committed or committed[-1].start() < box.start()):
        return fall + box["rest"]
    if committed and (
        parse_quantities(committed[-1]["rest"], years=True, dates=True) or abstains(committed[-1][0])
    ):
        return committed[-1]["rest"]
    return fall + box["rest"] if box else answer


def numeric_or_f1(answer: str, gold: str) -> float:
    """Whether the amount is right where gold is one, of three words at most; else the overlap of words (token F1).

    Where no spaces divide words, gold is an amount with four letters beside it at most (twelve in Thai): "約30日以内".

    A number word is an amount where it leads and no name follows: "three months", not "Four Seasons" or "Formula One".
    Digits are one unless they stand alone behind a word with a capital letter: "Up 12%", not "Boeing 737".
    """
    if len(gold.split()) <= _MOST_AMOUNT_WORDS and _is_amount(gold) and not _is_unspaced_sentence(gold):
        return float(numeric_match(answer, gold))
    return token_f1(answer, [gold])


def _is_unspaced_sentence(gold: str) -> bool:
    """Whether so much stands beside its amounts that it is a sentence, though it is one word by its spaces."""
    beside = list(gold)
    for amount in parse_quantities(gold):
        beside[amount.start : amount.end] = " " * (amount.end - amount.start)
    rest = "".join(beside)
    east_asian = len(_EAST_ASIAN_LETTER.findall(rest))
    others = len(_UNSPACED_LETTER.findall(rest)) - east_asian
    return east_asian + others / _LETTERS_LIKE_ONE > _MOST_LETTERS_BESIDE


def _is_amount(gold: str) -> bool:
    if _YEAR.fullmatch(gold):
        return True
    amounts = parse_quantities(gold)
    if not amounts:
        return False
    if any(sign.isdigit() for sign in gold):
        named = _NAMED.search(gold[: amounts[0].start])
        bare = re.fullmatch(r"[\d.]+", gold[amounts[0].start : amounts[0].end]) is not None
        return not (bare and named and not named[1].islower() and named[1].lower() not in _BEFORE_AMOUNTS)
    leads = amounts[0].start == len(gold) - len(gold.lstrip())
    return leads and all(word.islower() for word in gold.split()[1:])


def _states(text: str, found: Sequence[Quantity], wanted: Sequence[Quantity], tolerance: float) -> bool:
    """Whether amounts of a text are those that are wanted."""
    stated = [quantity for quantity in found if any(units_agree(quantity.unit, one.unit) for one in wanted)]
    if len({quantity.value for quantity in stated}) > max(2, len(wanted)):
        result = result_among(text, found) if len(wanted) == 1 else None
        return result in stated and same_amount(text, result, wanted[0], tolerance)
    if len(wanted) > 1:
        return len(stated) == len(wanted) and all(
            units_agree(a.unit, b.unit) and same_amount(text, a, b, tolerance)
            for a, b in zip(stated, wanted, strict=True)
        )
    return any(same_amount(text, quantity, wanted[0], tolerance) for quantity in stated)


def same_amount(text: str, stated: Quantity, wanted: Quantity, tolerance: float) -> bool:
    """Whether an amount of a text is the one that is wanted, as `numeric_match` compares them."""
    value, resolution = stated.value, stated.resolution
    if stated.unsure and wanted.value > 0:
        value = abs(value)
    if wanted.unit is None and stated.unit == "%" and abs(wanted.value) < 1:
        value, resolution = value / 100, resolution / 100  # gold as a fraction
    if wanted.value < 0 < value and tells_a_fall(text, stated.start, stated.end):
        value = -value
    slack = Decimal(str(tolerance)) * abs(wanted.value)
    deviation = abs(value - wanted.value)
    if deviation <= slack:
        return True
    return resolution <= wanted.resolution and deviation <= wanted.resolution / 2


def tells_a_fall(text: str, start: int, end: int) -> bool:
    """Whether words of a fall stand in the same clause before an amount, or right behind it."""
    before = text[max(0, start - _FALL_REACH) : start]
    return (
        _FALL.search(_OTHER_CLAUSE.split(before)[-1]) is not None or _FALL_AFTER.match(text, end) is not None
    )
