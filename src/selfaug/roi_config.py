"""Settings of `selfaug roi`: what is assumed about people, requests and prices, and how often models are right.

Precedence: `--set` over flags over the file over the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from selfaug.settings_file import Integer, Number, Section, SettingsForm, read_settings

__all__ = ["ArmSettings", "InputSettings", "RoiConfig", "load_roi_config"]


def _as_range(value: Any) -> Any:
    """A single number is a range without width; a text, a truth or a list of two is none."""
    if isinstance(value, bool | str) or (isinstance(value, list) and len(value) != 3):
        raise PydanticCustomError("range_expected", "should be a number, or [lowest, likeliest, highest]")
    return [value, value, value] if isinstance(value, int | float) else value


def _in_order(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if not value[0] <= value[1] <= value[2]:
        raise PydanticCustomError("range_order", "should be lowest, likeliest and highest, in this order")
    return value


Range = Annotated[tuple[Number, Number, Number], BeforeValidator(_as_range), AfterValidator(_in_order)]


def _between(low: float, high: float) -> AfterValidator:
    def check(value: tuple[float, float, float]) -> tuple[float, float, float]:
        if value[0] < low or value[2] > high:
            raise PydanticCustomError("range_limits", f"should be from {low:,g} to {high:,g}")
        return value

    return AfterValidator(check)


Share = Annotated[Range, _between(0, 1)]
Minutes = Annotated[Range, _between(0, 120)]
Wage = Annotated[Range, _between(1, 1000)]
Cost = Annotated[Range, _between(0, 1e12)]


class InputSettings(Section):
    """A number, or lowest, likeliest and highest; the likeliest defaults are those of `RoiInputs`, illustrative."""

    workers: Annotated[Range, _between(1, 1e6)] = (200.0, 200.0, 200.0)
    adoption: Share = (0.2, 0.4, 0.6)
    ramp_months: Annotated[Range, _between(1, 24)] = (6.0, 6.0, 6.0)
    requests_per_week: Annotated[Range, _between(0, 500)] = (8.0, 15.0, 25.0)
    weeks_per_year: Annotated[Range, _between(1, 52)] = (46.0, 46.0, 46.0)
    task_share: Share = (0.7, 0.7, 0.7)
    minutes_saved: Minutes = (4.0, 8.0, 12.0)
    minutes_failed: Minutes = (1.0, 3.0, 8.0)
    minutes_checking: Minutes = (0.5, 1.0, 2.0)
    hourly_cost: Wage = (45.0, 60.0, 80.0)
    engineer_hourly_cost: Wage = (90.0, 90.0, 90.0)
    realised_share: Share = (0.25, 0.5, 0.75)
    haircut: Annotated[Range, _between(0, 0.9)] = (0.15, 0.15, 0.15)
    gpu_hours: Cost = (8.0, 8.0, 8.0)
    trainings: Cost = (6.0, 6.0, 6.0)
    gpu_price: Cost = (3.5, 3.5, 3.5)
    setup_hours: Cost = (200.0, 200.0, 200.0)
    base_setup_hours: Cost = (80.0, 80.0, 80.0)
    onboarding_hours: Cost = (1.0, 1.0, 1.0)
    serving_per_month: Cost = (1000.0, 1800.0, 4000.0)
    monitoring_per_month: Cost = (100.0, 100.0, 100.0)
    second_endpoint_per_month: Cost = (0.0, 0.0, 0.0)
    support_per_user_month: Cost = (2.0, 2.0, 2.0)
    discount_rate: Annotated[Range, _between(0, 0.5)] = (0.1, 0.1, 0.1)
    years: Annotated[Integer, Field(ge=1, le=10)] = 3


class ArmSettings(Section):
    """How often a model's answers are useful, to requests of the job and to others, and by how many items."""

    task: Annotated[Number, Field(ge=0, le=1)] | None = None
    general: Annotated[Number, Field(ge=0, le=1)] | None = None
    items: Annotated[Integer, Field(ge=1)] = 200


class RoiConfig(Section):
    """Everything that `selfaug roi` is told."""

    inputs: InputSettings = InputSettings()
    base: ArmSettings = ArmSettings()
    lora: ArmSettings = ArmSettings()
    selfaug: ArmSettings = ArmSettings()

    @model_validator(mode="after")
    def _both(self) -> RoiConfig:
        for name in ("base", "lora", "selfaug"):
            arm: ArmSettings = getattr(self, name)
            if (arm.task is None) != (arm.general is None):
                missing, given = ("general", "task") if arm.general is None else ("task", "general")
                raise PydanticCustomError(
                    "combination", f"{name}.{given}: needs {name}.{missing} as well: they are of one model"
                )
        return self


_FORM = SettingsForm(RoiConfig, {}, command="selfaug roi")


def load_roi_config(
    file: Path | None = None, flags: Mapping[str, object] | None = None, sets: Sequence[str] = ()
) -> RoiConfig:
    """The settings, checked all at once.

    Raises:
        ConfigError: with every problem.
    """
    return read_settings(_FORM, file, flags, sets)
