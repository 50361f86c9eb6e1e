"""Settings of `selfaug roi`: what is assumed about people, requests and prices, and how often models are right.

Precedence: `--set` over flags over the file over the defaults.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from selfaug.settings_file import (
    Integer,
    Number,
    Section,
    SettingsForm,
    read_settings,
    refuse_combinations,
)

__all__ = [
    "MOST_YEARS",
    "ArmSettings",
    "InputSettings",
    "Quantity",
    "RoiConfig",
    "load_roi_config",
    "quantity_of",
]

MOST_YEARS = 10
"""That are looked ahead."""


def _as_range(value: Any) -> Any:
    """A single number is a range without width; a word, a truth or a list of two is none."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # 1e5, which YAML takes for a text
    if isinstance(value, bool | str) or (isinstance(value, list) and len(value) != 3):
        raise PydanticCustomError("range_expected", "should be a number, or [lowest, likeliest, highest]")
    return [value, value, value] if isinstance(value, int | float) else value


def _in_order(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if not value[0] <= value[1] <= value[2]:
        raise PydanticCustomError("range_order", "should be lowest, likeliest and highest, in this order")
    return value


Range = Annotated[tuple[Number, Number, Number], BeforeValidator(_as_range), AfterValidator(_in_order)]


@dataclass(frozen=True)
class Quantity:
    """Unit and limits of an input, beside its type: what is beyond them is refused."""

    unit: str
    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._within, handler(source))

    def _within(self, value: tuple[float, float, float] | int) -> tuple[float, float, float] | int:
        lowest, highest = (value, value) if isinstance(value, int) else (value[0], value[2])
        if lowest < self.low or highest > self.high:
            raise PydanticCustomError("range_limits", f"should be from {self.low:,g} to {self.high:,g}")
        return value


Share = Annotated[Range, Quantity("share", 0, 1)]
Minutes = Annotated[Range, Quantity("minutes", 0, 120)]
Hours = Annotated[Range, Quantity("hours", 0, 1e12)]
# In any currency: an hour of work is tens of thousands of forints, and hundreds of thousands of rupiahs.
Wage = Annotated[Range, Quantity("currency/hour", 0, 1e12)]
Monthly = Annotated[Range, Quantity("currency/month", 0, 1e12)]


def _input(low: float, likeliest: float, high: float, description: str) -> Any:
    """A setting that is lowest, likeliest and highest value."""
    return Field(default=(low, likeliest, high), description=description)


def _certain(value: float, description: str) -> Any:
    """A setting whose default is one value."""
    return _input(value, value, value, description)


class InputSettings(Section):
    """A number, or lowest, likeliest and highest; the likeliest defaults are those of `RoiInputs`, illustrative."""

    workers: Annotated[Range, Quantity("people", 1, 1e6)] = _certain(200.0, "People who could use it.")
    adoption: Share = _input(0.2, 0.4, 0.6, "Share of them who do.")
    ramp_months: Annotated[Range, Quantity("months", 1, 24)] = _certain(6.0, "Until all of these do, evenly.")
    requests_per_week: Annotated[Range, Quantity("requests/user/week", 0, 500)] = _input(
        8.0, 15.0, 25.0, "Requests of an active user in a week of work."
    )
    weeks_per_year: Annotated[Range, Quantity("weeks/year", 1, 52)] = _certain(46.0, "Weeks of work.")
    task_share: Share = _certain(0.7, "Share of the requests that are the job the model was tuned for.")
    minutes_saved: Minutes = _input(4.0, 8.0, 12.0, "Saved by a useful answer.")
    minutes_failed: Minutes = _input(1.0, 3.0, 8.0, "Lost by an answer that is not useful.")
    minutes_checking: Minutes = _input(0.5, 1.0, 2.0, "Spent on any answer.")
    hourly_cost: Wage = _input(45.0, 60.0, 80.0, "Loaded cost of a worker.")
    engineer_hourly_cost: Wage = _certain(90.0, "Loaded cost of an engineer.")
    realised_share: Share = _input(0.25, 0.5, 0.75, "Share of the hours reclaimed that becomes value.")
    haircut: Annotated[Range, Quantity("share", 0, 0.9)] = _certain(
        0.15, "Taken off the value, for what was overlooked."
    )
    gpu_hours: Hours = _certain(8.0, "Hours of a GPU in a training.")
    trainings: Annotated[Range, Quantity("trainings", 0, 1e12)] = _certain(
        6.0, "Before the model is deployed."
    )
    gpu_price: Annotated[Range, Quantity("currency/hour", 0, 1e12)] = _certain(3.5, "Price of a GPU.")
    setup_hours: Hours = _certain(200.0, "An engineer's, until a tuned model is in use.")
    base_setup_hours: Hours = _certain(80.0, "The same without tuning.")
    onboarding_hours: Annotated[Range, Quantity("hours/user", 0, 1e12)] = _certain(
        1.0, "Of each active user, once."
    )
    serving_per_month: Monthly = _input(1000.0, 1800.0, 4000.0, "Servers that answer.")
    monitoring_per_month: Monthly = _certain(100.0, "Watching a tuned model.")
    second_endpoint_per_month: Monthly = _certain(
        0.0, "Where the two models behind the router need two servers."
    )
    support_per_user_month: Annotated[Range, Quantity("currency/user/month", 0, 1e12)] = _certain(
        2.0, "Support of an active user."
    )
    discount_rate: Annotated[Range, Quantity("share/year", 0, 0.5)] = _certain(
        0.1, "By which money is worth less a year later."
    )
    years: Annotated[Integer, Quantity("years", 1, MOST_YEARS)] = Field(
        default=3, description="Years looked ahead; a whole number."
    )


def quantity_of(name: str) -> Quantity:
    """Unit and limits of an input.

    Raises:
        KeyError: if there is no such input.
    """
    parts = InputSettings.model_fields[name].metadata
    return next(part for part in parts if isinstance(part, Quantity))


class ArmSettings(Section):
    """How often a model's answers are useful, to requests of the job and to others, and by how many items."""

    task: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="Share of useful answers to requests of the job."
    )
    general: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="The same for all other requests; needed where `task` is given."
    )
    items: Annotated[Integer, Field(ge=1)] = Field(
        default=200, description="How many items each of them was counted on: the fewer, the less certain."
    )


class RoiConfig(Section):
    """Everything that `selfaug roi` is told."""

    inputs: InputSettings = InputSettings()
    base: ArmSettings = ArmSettings()
    lora: ArmSettings = ArmSettings()
    selfaug: ArmSettings = ArmSettings()

    @model_validator(mode="after")
    def _both(self) -> RoiConfig:
        checks = {}
        for name in ("base", "lora", "selfaug"):
            arm: ArmSettings = getattr(self, name)
            missing, given = ("general", "task") if arm.general is None else ("task", "general")
            text = f"{name}.{given}: needs {name}.{missing} as well: they are of one model"
            checks[text] = (arm.task is None) != (arm.general is None)
        refuse_combinations(checks)
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
