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

Range = tuple[float, float, float]


def _in_order(value: Range) -> Range:
    if not value[0] <= value[1] <= value[2]:
        raise PydanticCustomError("range_order", "should be lowest, likeliest and highest, in this order")
    return value


def _as_range(value: Any) -> Any:
    """A single number is a range without width; a text or a truth is neither."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("range_expected", "should be a number, or [lowest, likeliest, highest]")
    return [value, value, value] if isinstance(value, int | float) else value


def _between(low: float, high: float) -> Any:
    inside = Annotated[float, Field(ge=low, le=high, allow_inf_nan=False)]
    return Annotated[tuple[inside, inside, inside], BeforeValidator(_as_range), AfterValidator(_in_order)]


Share = _between(0, 1)
Minutes = _between(0, 120)
Wage = _between(1, 1000)
Cost = _between(0, 1e12)


class InputSettings(Section):
    """A number, or lowest, likeliest and highest; the defaults are illustrative."""

    workers: _between(1, 1e6) = (200.0, 200.0, 200.0)  # type: ignore[valid-type]
    adoption: Share = (0.2, 0.4, 0.6)  # type: ignore[valid-type]
    ramp_months: _between(1, 24) = (6.0, 6.0, 6.0)  # type: ignore[valid-type]
    requests_per_week: _between(0, 500) = (8.0, 15.0, 25.0)  # type: ignore[valid-type]
    weeks_per_year: _between(1, 52) = (46.0, 46.0, 46.0)  # type: ignore[valid-type]
    task_share: Share = (0.7, 0.7, 0.7)  # type: ignore[valid-type]
    minutes_saved: Minutes = (4.0, 8.0, 12.0)  # type: ignore[valid-type]
    minutes_failed: Minutes = (1.0, 3.0, 8.0)  # type: ignore[valid-type]
    minutes_checking: Minutes = (0.5, 1.0, 2.0)  # type: ignore[valid-type]
    hourly_cost: Wage = (45.0, 60.0, 80.0)  # type: ignore[valid-type]
    engineer_hourly_cost: Wage = (90.0, 90.0, 90.0)  # type: ignore[valid-type]
    realised_share: Share = (0.25, 0.5, 0.75)  # type: ignore[valid-type]
    haircut: _between(0, 0.9) = (0.15, 0.15, 0.15)  # type: ignore[valid-type]
    gpu_hours: Cost = (8.0, 8.0, 8.0)  # type: ignore[valid-type]
    trainings: Cost = (6.0, 6.0, 6.0)  # type: ignore[valid-type]
    gpu_price: Cost = (3.5, 3.5, 3.5)  # type: ignore[valid-type]
    setup_hours: Cost = (200.0, 200.0, 200.0)  # type: ignore[valid-type]
    base_setup_hours: Cost = (80.0, 80.0, 80.0)  # type: ignore[valid-type]
    onboarding_hours: Cost = (1.0, 1.0, 1.0)  # type: ignore[valid-type]
    serving_per_month: Cost = (1000.0, 1800.0, 4000.0)  # type: ignore[valid-type]
    monitoring_per_month: Cost = (100.0, 100.0, 100.0)  # type: ignore[valid-type]
    second_endpoint_per_month: Cost = (0.0, 0.0, 0.0)  # type: ignore[valid-type]
    support_per_user_month: Cost = (2.0, 2.0, 2.0)  # type: ignore[valid-type]
    discount_rate: _between(0, 0.5) = (0.1, 0.1, 0.1)  # type: ignore[valid-type]
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
