"""Values and styles in the parts of a Word document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["W", "bases_of", "is_on", "value", "with_bases"]

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"

_DEEPEST_STYLE = 20
_OFF = frozenset({"0", "false", "off"})


def value(element: Any) -> str:
    """Of an element that has nothing but a value; empty where there is no element."""
    return "" if element is None else element.get(W + "val") or ""


def is_on(mark: Any) -> bool:
    """Whether an element that switches something on is there, and doesn't say that it is off."""
    return mark is not None and value(mark).lower() not in _OFF


def bases_of(styles: Any) -> dict[str, str]:
    """The style that each one is based on, by their ids.

    Args:
        styles: root of the part that has them.
    """
    found = (
        (style.get(W + "styleId", ""), value(style.find(W + "basedOn"))) for style in styles.iter(W + "style")
    )
    return {identity: base for identity, base in found if base}


def with_bases(style: str, bases: Mapping[str, str]) -> Iterator[str]:
    """A style, the one that it is based on, and so on."""
    step: str | None = style
    for _ in range(_DEEPEST_STYLE):  # damaged files have styles that are based on themselves
        if step is None:
            return
        yield step
        step = bases.get(step)
