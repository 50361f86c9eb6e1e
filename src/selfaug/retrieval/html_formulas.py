"""Formulas of a page, in a line as one types them."""

from __future__ import annotations

from typing import Any

from lxml import etree

from selfaug.retrieval.plain_text import tidy

__all__ = ["formula"]

_ANNOTATIONS = ("annotation", "annotation-xml")
# What stands before the second part of these, and the third: 4.2 over 5 is not 4.25.
_BETWEEN = {
    "mfrac": ("/",),
    "msup": ("^",),
    "msub": ("_",),
    "msubsup": ("_", "^"),
    "munder": ("_",),
    "mover": ("^",),
    "munderover": ("_", "^"),
}


def formula(math: Any) -> str:
    """As its author wrote it in TeX, where the page says that; else the text of its parts.

    Args:
        math: the element.
    """
    for annotation in math.iterdescendants("annotation"):
        if annotation.get("encoding", "").lower() == "application/x-tex":
            return tidy("".join(annotation.itertext()))
    parts: list[str] = []
    walk = etree.iterwalk(math, events=("start", "end"))
    for event, element in walk:
        if event == "start" and element.tag in _ANNOTATIONS:
            walk.skip_subtree()
        elif event == "start":
            root = "√" if element.tag == "msqrt" else ""
            parts += [_before(element), "(" if _is_group(element) else "", root, tidy(element.text or "")]
        else:
            parts.append(")" if _is_group(element) else "")
            parts.append(tidy(element.tail or "") if element is not math else "")
    return "".join(parts)


def _is_group(element: Any) -> bool:
    """Whether it has to be held together in a line: several parts of a power, or beneath a fraction's bar."""
    parent = element.getparent()
    of_part = parent is not None and (parent.tag in _BETWEEN or parent.tag == "msqrt")
    return of_part and element.tag == "mrow" and len(element) > 1


def _before(element: Any) -> str:
    parent = element.getparent()
    signs = _BETWEEN.get(parent.tag, ()) if parent is not None else ()
    place = sum(1 for _ in element.itersiblings(preceding=True)) if signs else 0
    return signs[place - 1] if 0 < place <= len(signs) else ""
