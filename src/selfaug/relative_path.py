"""Paths that are shown, or kept, relative to a folder, on Windows too."""

from __future__ import annotations

import os

__all__ = ["relative_path"]


def relative_path(path: str | os.PathLike[str], start: str | os.PathLike[str] = os.curdir) -> str:
    """`os.path.relpath`; the path itself where there is none, as from one drive of Windows to another.

    Args:
        path: a file or folder, which need not exist.
        start: the folder that it is relative to; the working folder by default.
    """
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return os.fspath(path)
