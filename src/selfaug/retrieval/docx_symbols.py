"""Characters of Word's symbol fonts, which have codes of their own for what Unicode has as well."""

from __future__ import annotations

__all__ = ["symbol"]

_PRIVATE = 0xF000  # Word adds it to the codes of such a font


def _codes(first: int, characters: str) -> dict[int, str]:
    return dict(enumerate(characters, start=first))


_FONTS = {
    "symbol": _codes(0x20, " !∀#∃%&∍()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_")
    | _codes(0x61, "αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼")
    | _codes(0xA1, "ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…")
    | {
        0xC5: "⊕",
        0xCE: "∈",
        0xCF: "∉",
        0xD1: "∇",
        0xD5: "∏",
        0xD6: "√",
        0xD7: "⋅",
        0xDE: "⇒",
        0xE5: "∑",
        0xF2: "∫",
    },
    "wingdings": _codes(0xDF, "←→↑↓")
    | {0x6C: "●", 0x6E: "■", 0x6F: "☐", 0xA7: "▪", 0xA8: "☐", 0xD8: "➢"}
    | _codes(0xFB, "✗✓☒☑"),
    "wingdings 2": {0x4F: "✗", 0x50: "✓", 0x52: "☑"},
}


def symbol(font: str, code: str) -> str:
    """The character of a symbol, or nothing if it is not known.

    Args:
        font: that it is of.
        code: in it, in hexadecimal digits.
    """
    try:
        number = int(code, 16)
    except ValueError:
        return ""
    characters = _FONTS.get(font.lower())
    if characters is not None:
        return characters.get(number - _PRIVATE if number >= _PRIVATE else number, "")
    # Other fonts have the codes of Unicode, but for those that are the font's own.
    return chr(number) if 0x20 <= number < 0xD800 else ""
