"""Amounts written in LaTeX, as models write them where they calculate, as in plain text."""

from __future__ import annotations

import re

__all__ = ["plain_latex"]

# "1{,}234", "1,\!234" and "1\,234" are 1,234.
_WITHIN_NUMBERS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,(?=\d{3}(?!\d)))(?=\d)")
_SPACES = re.compile(r"[^\S\n]?\\[,;:! ][^\S\n]?")
_TEXT = re.compile(r"[^\S\n]?\\(?:text|textbf|textit|mathrm|mathbf|mathit)\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
# "\left(5\right)" is "(5 )": in "(5)" the brackets would be a minus.
_SIGNS = {
    r"\%": "%", r"\$": "$", r"\times": "×", r"\cdot": "·", r"\div": "÷", r"\approx": "≈", r"\left": "", r"\right": " ",
}  # fmt: skip
_SIGN = re.compile(r"\\(?:[%$]|(?:times|cdot|div|approx|left|right)(?![A-Za-z]))")


def plain_latex(text: str) -> str:
    r"""A text with LaTeX's numbers, units, fractions and signs of calculation as in plain text; all else stays.

    `1{,}234` is "1,234", `12.5\%` is "12.5%", `6 \text{ million}` is "6 million", `\frac{6}{50}` is "6 / 50".
    """
    text = _WITHIN_NUMBERS.sub(",", text)
    if "\\" not in text:
        return text
    text = _TEXT.sub(lambda match: f" {match[1].strip()}", _SPACES.sub(" ", text))
    return _SIGN.sub(lambda match: _SIGNS[match[0]], _FRACTION.sub(r"\1 / \2", text))
