"""Suites of the user's own in Python: a function that gives requests with checks of form and of substance."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from selfaug.errors import ConfigError
from selfaug.eval.general_item import GeneralItem

__all__ = ["names_function", "own_suite"]

_FUNCTION = re.compile(r"[\w.]+:\w+")


def names_function(suite: str) -> bool:
    """Whether a suite is named as `module:function`, and not as a file."""
    return _FUNCTION.fullmatch(suite) is not None and not Path(suite).exists()


def own_suite(name: str) -> list[GeneralItem]:
    """Items that a function of the user's gives; it takes no arguments.

    Raises:
        ConfigError: if it can't be imported, or gives something else.
    """
    module, _, function = name.partition(":")
    hint = (
        "name a function without arguments that gives a list of `selfaug.eval.general_item.GeneralItem`, as "
        "module:function; the module is found by PYTHONPATH."
    )
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"suite {name!r} can't be imported: {error}.", hint=hint) from error
    try:
        items = list(make())
    except TypeError as error:
        raise ConfigError(f"suite {name!r} gives no list: {error}.", hint=hint) from error
    if not items or not all(isinstance(item, GeneralItem) for item in items):
        raise ConfigError(f"suite {name!r} gives no requests, or something else.", hint=hint)
    if len({item.id for item in items}) < len(items):
        raise ConfigError(f"suite {name!r} has two requests with the same id.", hint=hint)
    return items
