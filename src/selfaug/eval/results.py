r"""The result among the amounts of a text: in `\boxed{}`, of an equation, of a change, or on a last line alone.

A text that states many amounts has not answered with one of them. Where none of these forms is met for certain, there
is no result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfaug.core.digits import plain_digits
from selfaug.eval.amounts import CITATION, MINUS, Quantity, parse_quantities, units_agree

__all__ = ["boxed_amount", "result_among"]

_BOX = re.compile(r"\\(?:boxed|fbox)\{(?P<rest>(?:[^{}]|\{[^{}]*\})*+)\}")
# What makes another number of the amount beside it: "\sqrt{6}", "6^2", "x > 6".
_COMPUTED = re.compile(rf"[{MINUS}\\^+*/×·÷<>≤≥≠≈!√\d]")


def boxed_amount(text: str) -> re.Match[str] | None:
    r"""The last `\boxed{}` of a text, with its content as `rest`; None unless all have the same, and one amount.

    What may be a year is an amount only where the text has no other: "\boxed{2021} was best, with $5 million".
    """
    boxes = list(_BOX.finditer(text))
    if len({"".join(box["rest"].split()) for box in boxes}) != 1:
        return None
    content = boxes[-1]["rest"]
    amounts = parse_quantities(content)
    if not amounts and not parse_quantities(_BOX.sub(" ", text)):
        amounts = parse_quantities(content, years=True)
    if len(amounts) != 1 or _COMPUTED.search(content[: amounts[0].start] + content[amounts[0].end :]):
        return None
    return boxes[-1]


# Stands for an amount, without its sign; no text has it for anything else that matters.
_A = "\N{OBJECT REPLACEMENT CHARACTER}"
_WORDS = r"(?:[ ][^\W\d_]++){0,2}+"
_SIGN = re.compile(rf"[{MINUS}+]\s?")
_TAKEN_AWAY = rf"{_WORDS}[ \t(){{}}$]*+[{MINUS}]"
_OPERATOR = rf"{_WORDS}[ \t(){{}}$]*+[{MINUS}+*/=≈×·÷]"
_UP_TO = rf"[{MINUS} \t(){{}}$*_]*+"
_EQUATION = re.compile(rf"{_A}(?:{_OPERATOR}{_UP_TO}{_A})+")
_CALCULATION = re.compile(rf"{_A}{_WORDS}[ \t(){{}}$]*+[{MINUS}+*/×·÷].*[=≈]{_UP_TO}{_A}")
# Also "10-20 = 50", which says how many are between 10 and 20.
_DIFFERENCE = re.compile(rf"{_A}{_TAKEN_AWAY}{_UP_TO}{_A}{_WORDS}[ \t(){{}}$]*+[=≈]{_UP_TO}{_A}")
_GOES_ON = re.compile(rf"\w|[ \t]*[\^/×·÷=]|[ \t]*[{MINUS}+*][ \t]*[\w({{{_A}]")

_ABOUT = r"(?:(?:about|almost|approximately|around|exactly|just|nearly|only|over|roughly)\s)?"
_CHANGE = r"(?:change|decrease|decline|difference|drop|fall|gain|growth|increase|jump|loss|reduction|rise)"
_FROM_TO = rf"\bfrom\s{_ABOUT}{_A}[^{_A}.;\n]{{0,40}}\bto\s{_ABOUT}{_A}"
_CHANGES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:by|of)\s{_ABOUT}(?P<result>{_A})(?:\s?{_A})?,?\s\(?{_FROM_TO}",
        rf"{_FROM_TO}[^{_A}.;\n]{{0,40}}\b(?:by|{_CHANGE}\sof)\s{_ABOUT}(?P<result>{_A})(?:\s?{_A})?",
    )
]

_ALONE = re.compile(rf"[\s*_`$\\(){{}}.]*+[{MINUS}+]?{_A}[\s*_`$\\(){{}}.]*+")
_BARE = re.compile(rf"[^\w{_A}]*+{_A}[^\w{_A}]*+")


def result_among(text: str, amounts: Sequence[Quantity]) -> Quantity | None:
    """The amount that a text gives as its result; None where it doesn't say so for certain.

    It is the result of the last equation ("56 - 50 = 6"), unless another amount follows; how much something changed,
    where the two ends of the change are all else that is stated ("by 6, from 50 to 56"); or what stands alone on the
    last line, and on no line before.

    Args:
        text: any text.
        amounts: of it, all of them in their order; one or more.
    """
    outline = _outline(text, amounts)
    place = _of_equation(outline, amounts)
    for found in (change.search(outline) for change in _CHANGES):
        if place is None and found is not None and found[0].count(_A) == len(amounts):
            place = outline.count(_A, 0, found.start("result"))
    if place is None and _ends_alone(outline):
        place = len(amounts) - 1
    return None if place is None else amounts[place]


def _outline(text: str, amounts: Sequence[Quantity]) -> str:
    """The text with a mark for each amount, and without sources."""
    text = CITATION.sub(lambda match: " " * len(match[0]), plain_digits(text)).replace(_A, " ")
    parts, end = [], 0
    for amount in amounts:
        sign = _SIGN.match(text, amount.start)
        begin = sign.end() if sign else amount.start
        parts += [text[end:begin], _A]
        end = amount.end
    return "".join([*parts, text[end:]])


def _of_equation(outline: str, amounts: Sequence[Quantity]) -> int | None:
    """Place of the last equation's result."""
    *_, last = [None, *_EQUATION.finditer(outline)]
    if last is None or not _CALCULATION.fullmatch(last[0]) or _GOES_ON.match(outline, last.end()):
        return None
    place = outline.count(_A, 0, last.end()) - 1
    result = amounts[place]
    later = [one.value for one in amounts[place + 1 :] if units_agree(one.unit, result.unit)]
    if any(value != result.value for value in later):
        return None
    if _DIFFERENCE.fullmatch(last[0]):
        minuend, subtrahend = (abs(one.value) for one in amounts[place - 2 : place])
        if abs(abs(minuend - subtrahend) - abs(result.value)) > result.resolution / 2:
            return None
    return place


def _ends_alone(outline: str) -> bool:
    lines = [line for line in outline.split("\n") if re.search(rf"[\w{_A}]", line)]
    *before, last = lines
    return _ALONE.fullmatch(last) is not None and not any(map(_BARE.fullmatch, before))
