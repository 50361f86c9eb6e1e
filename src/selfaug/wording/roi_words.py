"""What the arms of a business case are called where people read of them."""

from __future__ import annotations

from collections.abc import Mapping

from selfaug.core.roi import ArmName

__all__ = ["ARM_NAMES"]

ARM_NAMES: Mapping[ArmName, str] = {
    "base": "no tuning",
    "lora": "plain LoRA",
    "lora_router": "plain LoRA and a router",
    "selfaug": "SelfAug",
}
