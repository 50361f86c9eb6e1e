"""Cells of a spreadsheet as a person reads them: 12.5 %, $1,536.00, 2024-03-31."""

from __future__ import annotations

import datetime
import math
import operator
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

__all__ = ["cell_text"]

_IN_BRACKETS = re.compile(r"\[[^\]]*\]")  # colours, conditions, and locales, such as "[$-de-DE]"
_COLOUR = re.compile(r"\[(?![$<>=])[^\]]*\]")
_CONDITION = re.compile(r"\[(<=|>=|<>|<|>|=)\s*(-?\d+(?:\.\d+)?)\]")
_COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "<>": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CURRENCY = re.compile(r"\[\$([^\]-]*)[^\]]*\]")
_SPACING = re.compile(r"[_*].")  # the width of a character, and a character that fills the cell
_QUOTED = re.compile(r'"([^"]*)"|\\(.)')
_LITERAL = "\0"  # stands for a quoted text while the places of digits are looked for
_PLACES = re.compile(r"(?P<whole>[#0?][#0?,]*)(?:\.(?P<decimals>[#0?]*)(?P<thousands>,*))?")
_MINUS = re.compile(r"[-(]")
_TOO_SPECIAL = re.compile(r"[eE@/]")  # scientific notation, text and fractions
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # how Excel writes a character that XML has no place for
_EXACT = Context(prec=1000)  # more digits than any number has with as many decimals as a format can ask for
_ABBREVIATED_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def cell_text(value: object, number_format: str) -> str:
    """Text of a cell's value.

    Args:
        value: as openpyxl gives it; None is an empty cell.
        number_format: its format in Excel's notation ("0.0%").
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _number_text(value, number_format)
    if isinstance(value, datetime.datetime | datetime.date):
        return _date_text(value, number_format)
    if isinstance(value, datetime.time):
        return _time_text(value)
    if isinstance(value, datetime.timedelta):
        return _duration_text(value)
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), str(value))


def _number_text(value: float, number_format: str) -> str:
    shown = _CURRENCY.sub(r'"\1"', _COLOUR.sub("", number_format))
    literals: list[str] = []

    def put_aside(found: re.Match[str]) -> str:
        literals.append(found[1] or found[2] or "")
        return _LITERAL

    # Split when quotes are put aside: they may hold a semicolon.
    sections = _SPACING.sub("", _QUOTED.sub(put_aside, shown)).split(";")
    left = iter(literals)
    quoted = [[next(left) for _ in range(section.count(_LITERAL))] for section in sections]
    number = _section(sections, quoted, value)
    if number is None:
        return _plain_number(value)
    shown = _CONDITION.sub("", sections[number])
    places = _PLACES.search(shown)
    if places is None or _TOO_SPECIAL.search(shown) or _PLACES.search(shown, places.end()):
        return _plain_number(value)
    whole = places["whole"].rstrip(",")
    thousands = len(places["whole"]) - len(whole) if places["decimals"] is None else len(places["thousands"])
    amount = abs(value) * (100 if "%" in shown else 1) / 1000**thousands
    digits = _digits(amount, whole, places["decimals"] or "")
    in_words = number == 1 and not _CONDITION.search(number_format) and not _MINUS.search(shown)
    sign = "-" if value < 0 and digits.strip("0.,") and not in_words else ""  # not "-0.0"
    texts = iter(quoted[number])
    before, after = (
        re.sub(_LITERAL, lambda _: next(texts), part)
        for part in (shown[: places.start()], shown[places.end() :])
    )
    return f"{sign}{_before_digits(before)}{digits}{after.rstrip(' )').removeprefix(')')}".strip()


def _section(sections: Sequence[str], quoted: Sequence[Sequence[str]], value: float) -> int | None:
    """Index of a format's section that a value is shown by; None if its conditions hold for none.

    The second one, of negative values, only where it says so in words of its own ("down "0): elsewhere a minus does.

    Args:
        sections: with `_LITERAL` in place of quoted texts.
        quoted: texts of each section.
        value: of the cell.
    """
    conditions = [_CONDITION.search(section) for section in sections]
    if any(conditions):
        holding = (
            index
            for index, found in enumerate(conditions)
            if found is None or _COMPARISONS[found[1]](value, float(found[2]))
        )
        return next(holding, None)
    words = ["".join(texts).strip() for texts in quoted[:2]]
    return int(value < 0 and words[-1] != words[0] and any(map(str.isalpha, words[-1])))


def _before_digits(text: str) -> str:
    """What stands before the digits, without signs; words keep their space ("EUR 5"), symbols don't ("$5")."""
    kept = text.strip(" ()+-")
    return f"{kept} " if kept[-1:].isalpha() and text.rstrip("()+-").endswith(" ") else kept


def _digits(amount: float, whole: str, decimals: str) -> str:
    """An amount with as many decimals as there are 0s, and as many more, if not zero, as there are other places.

    Before the decimal point there are as many digits as there are 0s, too: codes begin with some. As in Excel, an
    amount has 15 digits, and a half is rounded up: 0.285 is 0.29, though its double is a little less.
    """
    if not math.isfinite(amount):
        return str(amount)
    width = whole.count("0") + (len(decimals) + 1 if decimals else 0)
    rounded = Decimal(f"{amount:.15g}").quantize(Decimal((0, (1,), -len(decimals))), ROUND_HALF_UP, _EXACT)
    padding = f"0{width}" if width else ""  # a Decimal takes no width of zero
    text = f"{rounded:{padding}{',' if ',' in whole else ''}f}"
    for place in reversed(decimals):
        if place == "0" or not text.endswith("0"):
            break
        text = text[:-1]
    return text.removesuffix(".")


def _plain_number(value: float) -> str:
    """In full; an exponent only where nobody could count the zeros.

    With twelve digits: a difference of two amounts has noise behind them. With more, up to Excel's 15, where the whole
    part and two decimals take them.
    """
    if isinstance(value, int):
        return str(value)
    digits = min(15, max(12, len(f"{abs(value):.0f}") + 2))
    text = f"{value + 0:.{digits}g}"  # no "-0"
    return f"{Decimal(text):f}" if 1e-10 <= abs(value) < 1e20 else text


def _date_text(value: datetime.datetime | datetime.date, number_format: str) -> str:
    parts = _QUOTED.sub("", _IN_BRACKETS.sub("", number_format)).lower()
    if "d" not in parts and "y" in parts and "h" not in parts:
        return f"{_ABBREVIATED_MONTHS[value.month - 1]} {value.year}" if "m" in parts else str(value.year)
    text = f"{value.year:04d}-{value.month:02d}-{value.day:02d}"
    if isinstance(value, datetime.datetime) and (value.hour or value.minute or value.second):
        text += " " + _time_text(value.time())
    return text


def _time_text(value: datetime.time) -> str:
    return f"{value:%H:%M:%S}" if value.second else f"{value:%H:%M}"


def _duration_text(value: datetime.timedelta) -> str:
    seconds = round(value.total_seconds())
    minutes, seconds = divmod(abs(seconds), 60)
    sign = "-" if value.total_seconds() < 0 else ""
    return f"{sign}{minutes // 60}:{minutes % 60:02d}" + (f":{seconds:02d}" if seconds else "")
