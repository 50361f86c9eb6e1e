"""Functions of the user's own, named as `module:function`: suites, scorers and retrievers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from selfaug.errors import ConfigError

__all__ = ["own_function", "said"]


def own_function(name: str, what: str, hint: str) -> Callable[..., Any]:
    """The function that `module:function` names; the module is found by PYTHONPATH.

    Args:
        name: as the user gave it.
        what: it is for, as errors call it: "scorer".
        hint: of errors.

    Raises:
        ConfigError: if it can't be imported or called.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # any: the module is the user's, and does what it likes
        raise ConfigError(f"{what} {name!r} can't be imported: {said(error)}.", hint=hint) from error
    if not callable(found):
        raise ConfigError(f"{what} {name!r} can't be called.", hint=hint)
    return found  # type: ignore[no-any-return]


def said(error: Exception) -> str:
    """The kind of an error, since many say little without it, and what it says."""
    return f"{type(error).__name__}: {error}".rstrip(": .")
