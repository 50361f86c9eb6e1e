"""What a business case's arms, swings and late paybacks are called where people read of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from selfaug.core.printable import counted
from selfaug.core.roi import ArmName

__all__ = ["ARM_NAMES", "CURRENCY", "not_within", "swing_name"]

ARM_NAMES: Mapping[ArmName, str] = {
    "base": "no tuning",
    "lora": "plain LoRA",
    "lora_router": "plain LoRA and a router",
    "selfaug": "SelfAug",
}

CURRENCY = "in the currency of the inputs (the defaults are in dollars)"
"""Said of money: nobody has asked what it is in."""

_KINDS = {"task": "the job", "general": "other requests"}


def not_within(years: int) -> str:
    """What stands for the month of a payback that these years don't reach: nobody has looked beyond them."""
    return f"not within {counted(years, 'year')}"


def swing_name(name: str) -> str:
    """What an input that the tornado moves is called: an accuracy in words, any other by its name as a setting."""
    arm, _, kind = name.partition(".")
    return f"{ARM_NAMES[cast('ArmName', arm)]}'s useful answers, {_KINDS[kind]}" if kind else name
