"""Suites of the user's own in Python: a function that gives requests with checks of form and of substance."""

from __future__ import annotations

import re
from pathlib import Path

from selfaug.errors import ConfigError, SelfAugError
from selfaug.eval.general_item import GeneralItem
from selfaug.own_function import own_function, said

__all__ = ["names_function", "own_suite"]

_FUNCTION = re.compile(r"[\w.]+:\w+")


def names_function(suite: str) -> bool:
    """Whether a suite is named as `module:function`, and not as a file."""
    return _FUNCTION.fullmatch(suite) is not None and not Path(suite).exists()


def own_suite(name: str) -> list[GeneralItem]:
    """Items that a function of the user's gives; it takes no arguments.

    Raises:
        ConfigError: if it can't be imported or fails, whatever the reason, or gives something else.
    """
    hint = (
        "name a function without arguments that gives a list of `selfaug.eval.general_item.GeneralItem`, as "
        "module:function; the module is found by PYTHONPATH."
    )
    make = own_function(name, "suite", hint)
    try:
        items = list(make())
    except SelfAugError:  # it says itself what is wrong
        raise
    except Exception as error:
        raise ConfigError(f"suite {name!r} failed: {said(error)}.", hint=hint) from error
    if not items or not all(isinstance(item, GeneralItem) for item in items):
        raise ConfigError(f"suite {name!r} gives no requests, or something else.", hint=hint)
    if len({item.id for item in items}) < len(items):
        raise ConfigError(f"suite {name!r} has two requests with the same id.", hint=hint)
    return items
