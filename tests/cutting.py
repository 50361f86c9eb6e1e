"""Work that is cut off at a stage, as a kill would."""

from __future__ import annotations

from collections.abc import Callable

from selfaug.phases.progress import Progress


class CutError(Exception):
    """Raised from within; nothing catches it."""


def cut_at(stage: str, done: int = 0) -> Callable[[Progress], None]:
    """Told of progress, it raises `CutError` at the stage, once so much of it is done."""

    def cut(progress: Progress) -> None:
        if progress.stage == stage and progress.done >= done:
            raise CutError

    return cut
