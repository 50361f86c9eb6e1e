"""Answers of models that think before they answer."""

from __future__ import annotations

__all__ = ["without_thoughts"]

_BEGINNING, _END = "<think>", "</think>"


def without_thoughts(text: str) -> str:
    """What a completion or an answer says after its thoughts; as it is where it has none.

    One that was cut off within its thoughts says nothing. A model that reasons words its thoughts anew each time, and
    whoever asks it isn't shown them: neither scores, nor sources, nor the form of an answer are of them.
    """
    _, end, said = text.rpartition(_END)
    if end:
        return said.strip()
    return "" if text.lstrip().startswith(_BEGINNING) else text
