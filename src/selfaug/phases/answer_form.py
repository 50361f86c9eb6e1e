"""The form that answers from documents were trained to have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

__all__ = ["answer_form"]


def answer_form(prepared: Mapping[str, Any]) -> re.Pattern[str]:
    """What an answer, stripped, matches as a whole if it has the form of the completions that `selfaug prepare` wrote.

    Args:
        prepared: data of the prepared folder's record.
    """
    rows = prepared["settings"]["rows"]
    parts = [
        re.escape(literal) + ("" if name is None else ".+?")
        for literal, name, _, _ in Formatter().parse(rows["completion"].strip())
    ]
    return re.compile(f"{''.join(parts)}|{re.escape(rows['no_answer'].strip())}", re.DOTALL)
