"""Which versions of the libraries something was made with, also where they have changed before it was finished."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["NOT_KNOWN", "for_record", "installed_versions", "versions_so_far"]

NOT_KNOWN: dict[str, str] = {}
"""In the place of versions that something was begun with before they were written down."""

_PACKAGES = ("selfaug", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def installed_versions() -> dict[str, str]:
    """Those that are installed here, by package."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def versions_so_far(
    before: Sequence[Mapping[str, str]], what: str, tell: Callable[[str], None]
) -> list[dict[str, str]]:
    """Versions that something was made with, and those of now where they are others.

    Args:
        before: as they were when it was begun, and each time that they had changed; empty where it is begun now.
        what: that is gone on with, such as a run's folder.
        tell: called with what has changed since the last time.
    """
    now, so_far = installed_versions(), [dict(one) for one in before]
    if so_far[-1:] == [NOT_KNOWN]:
        tell(f"{what} goes on; which versions it was begun with isn't known, so numbers may differ a little.")
    elif so_far and (changed := _changed(so_far[-1], now)):
        tell(f"{what} goes on with other versions, so numbers may differ a little: {', '.join(changed)}.")
    return so_far if so_far[-1:] == [now] else [*so_far, now]


def for_record(so_far: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What a record says of these: the last versions, and those before, which are empty as a rule."""
    return {"versions": so_far[-1], "versions_before": list(so_far[:-1])}


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {version} (before: {before.get(name, 'not known')})"
        for name, version in now.items()
        if before.get(name) != version
    ]
