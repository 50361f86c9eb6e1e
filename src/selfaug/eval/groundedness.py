"""How much of an answer stands in its context."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from selfaug.eval.abstention import abstains
from selfaug.eval.amounts import SCALES, UNITS, Quantity, parse_quantities, read_triangles, units_agree
from selfaug.eval.numeric_scorers import same_amount, tells_a_fall
from selfaug.eval.text_scorers import ALPHABETS, HANGUL, IDEOGRAPHS, KATAKANA, PARTICLES, normalize_answer

__all__ = ["groundedness"]

_SHORTEST_WORD = 4
# What stands for words where no spaces divide them. Hiragana are left out, as short words are: particles and endings
# are written in it.
_PIECE = re.compile(rf"(?=([{IDEOGRAPHS}{KATAKANA}]{{2}}|[{HANGUL}]{{2}}|[{ALPHABETS}]{{{_SHORTEST_WORD}}}))")

# What Korean writes behind a noun or a verb.
_ENDING_OF_KOREAN = re.compile(
    rf"(?<=[{HANGUL}])(?:{PARTICLES}|도|만|(?:었|았|였|했|됐)?(?:습니다|니다|어요|아요|해요|요|다))(?![{HANGUL}])"
)


def groundedness(answer: str, context: str) -> float:
    """How much of an answer stands in its context, in [0, 1]: by overlap, so a paraphrase counts as little.

    The lower of two shares: of its words of four letters and more, and of its amounts, each of which has to stand in
    the context with the same unit, in any scale; an answer may round it, but not add digits. An amount that the answer
    computed is not grounded. An answer without words or amounts is, and so is one that says that there is none: it
    claims nothing.

    Where no spaces divide words, two ideographs or katakana in a row stand for one, or four letters of Thai and the
    like. So do two syllables of Korean, whose words are short: particles and endings behind them don't count.
    """
    if abstains(answer):
        return 1.0
    answer, context = read_triangles(answer, context)
    # An invented day is one more amount that isn't there.
    amounts = parse_quantities(answer, dates=True)
    known = {*normalize_answer(context).split(), *_pieces(context)}
    words = [
        word
        for word in normalize_answer(answer).split()
        # Words of amounts count with these.
        if len(word) >= _SHORTEST_WORD
        and _is_of_letters(word)
        and re.search(f"[{HANGUL}]", word) is None
        and word not in SCALES
        and word.upper() not in UNITS
    ]
    words += _pieces(
        _ENDING_OF_KOREAN.sub("", unicodedata.normalize("NFKC", _without_amounts(answer, amounts)))
    )
    shares = [1.0]
    if words:
        shares.append(sum(word in known for word in words) / len(words))
    if amounts:
        stated = parse_quantities(context, dates=True)
        shares.append(sum(_stands_in(amount, answer, stated, context) for amount in amounts) / len(amounts))
    return min(shares)


def _is_of_letters(word: str) -> bool:
    """Whether a word has letters alone; vowels of Hindi and the like are marks at these."""
    return "".join(sign for sign in word if unicodedata.category(sign)[0] != "M").isalpha()


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(unicodedata.normalize("NFKC", text))


def _without_amounts(text: str, amounts: Sequence[Quantity]) -> str:
    ends = [0, *(amount.end for amount in amounts)]
    starts = [*(amount.start for amount in amounts), len(text)]
    return " ".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _stands_in(amount: Quantity, answer: str, stated: Sequence[Quantity], context: str) -> bool:
    """Whether a text states an amount of an answer, which may have rounded it."""
    claimed = [amount]
    if amount.value > 0 and tells_a_fall(answer, amount.start, amount.end):
        claimed.append(replace(amount, value=-amount.value))
    # A share may stand there as a fraction.
    fractions = [
        replace(one, value=100 * one.value, resolution=100 * one.resolution)
        for one in stated
        if amount.unit == "%" and one.unit is None and abs(one.value) < 1
    ]
    return any(
        units_agree(amount.unit, one.unit) and same_amount(context, one, claim, 0.0)
        for one in (*stated, *fractions)
        for claim in claimed
    )
