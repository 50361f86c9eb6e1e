"""Folders for what is kept between runs, in the user's own cache."""

from __future__ import annotations

import os
from pathlib import Path

from selfaug.errors import StorageError

__all__ = ["cache_dir", "user_cache"]


def cache_dir() -> Path:
    """Folder for what selfaug keeps between runs: `$SELFAUG_CACHE`, or `~/.cache/selfaug`.

    Raises:
        StorageError: if the user has no home folder, and the variable is not set.
    """
    return user_cache("selfaug", "SELFAUG_CACHE")


def user_cache(name: str, variable: str) -> Path:
    """A program's folder: the one that a variable of the environment names, or `~/.cache` with its name.

    Raises:
        StorageError: if the user has no home folder, and the variable is not set.
    """
    if given := os.environ.get(variable):
        return Path(given)
    try:
        return Path.home() / ".cache" / name
    except RuntimeError as error:  # neither HOME nor an entry of this user, as in a container
        raise StorageError(
            f"there is no folder to keep {name}'s files in: this user has no home folder.",
            hint=f"set {variable} to a folder that can be written, or HOME.",
        ) from error
