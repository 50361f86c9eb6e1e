"""In words: versions of the libraries that something was made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["versions_in_words"]


def versions_in_words(record: Mapping[str, Any], what: str) -> str:
    """Its versions, and those before, where they changed until it was finished.

    Args:
        record: with `versions`; and with `versions_before`, of which an empty one is not known.
        what: that was stopped and gone on with, as "training".
    """
    told = _one_in_words(record["versions"])
    if before := record.get("versions_before"):
        told += f"; before, when {what} was stopped: {'; '.join(map(_one_in_words, before))}"
    return told


def _one_in_words(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items()) or "not known"
