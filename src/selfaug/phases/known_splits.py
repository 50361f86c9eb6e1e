"""Which split documents and questions are in, kept beside prepared rows so that preparing anew doesn't mix them.

The file outlives the rows: a model that was trained on them may still be there to be tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfaug.errors import DataError
from selfaug.prepare_config import SplitSettings
from selfaug.records import read_record, write_record

__all__ = ["SPLITS", "KnownSplits", "read_known_splits", "write_known_splits"]

SPLITS = ("train", "validation", "test")

_FILE, _KIND = "splits.json", "splits"


@dataclass(frozen=True, slots=True)
class KnownSplits:
    """What is in which split.

    Attributes:
        documents: split by path.
        questions: split by the question's words.
        digests: split by the file's SHA-256, which says of a file that was moved or renamed where it was.
        sketches: from `sketch_of`, by the same: they say it of one in another format, or edited.
    """

    documents: Mapping[str, str] = field(default_factory=dict)
    questions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    sketches: Mapping[str, str] = field(default_factory=dict)

    def of(self, documents: Mapping[str, str], near: Sequence[Sequence[str]] = ()) -> dict[str, str]:
        """Splits of documents by path: of a known file its own, whatever it is called now; of others the path's.

        Where a file is nearly the same as known ones, which may be gone, theirs comes before the path's.

        Args:
            documents: digest by path.
            near: sets of digests, of files that are nearly the same.
        """
        found = {path: self.digests[digest] for path, digest in documents.items() if digest in self.digests}
        of_near = {digest: split for same in near if (split := self._first_of(same)) for digest in same}
        alike = {path: of_near[digest] for path, digest in documents.items() if digest in of_near}
        # The file first: where names go round, as "latest.pdf" does, a path may have been another split's.
        return {**self.documents, **alike, **found}

    def _first_of(self, digests: Sequence[str]) -> str | None:
        """Of the splits of some files the one nearest to training, so that none that was trained on leaves it."""
        splits = {self.digests.get(digest) for digest in digests}
        return next((split for split in SPLITS if split in splits), None)


def read_known_splits(folder: Path, settings: SplitSettings) -> tuple[KnownSplits, str]:
    """What was in which split when a folder was prepared before, and a warning where that doesn't hold any more.

    Raises:
        DataError: if the file is damaged.
    """
    if not (folder / _FILE).exists():
        return KnownSplits(), ""
    before = read_record(folder / _FILE, _KIND)
    if before.pop("drawn", None) != _drawn(settings):
        return KnownSplits(), (
            "the split's seed or shares are others than before, so documents are dealt out anew: the test rows can "
            "be about some that a model was trained on before."
        )
    try:
        return KnownSplits(**before), ""
    except TypeError as error:
        raise DataError(
            f"{folder / _FILE} has not the fields that this selfaug knows",
            hint="prepare into another --output.",
        ) from error


def write_known_splits(folder: Path, settings: SplitSettings, before: KnownSplits, now: KnownSplits) -> None:
    """Keep what is in which split; what is gone stays known, since it can come back.

    Raises:
        StorageError: if it can't be written.
    """
    data = {
        "drawn": _drawn(settings),
        "documents": {**before.documents, **now.documents},
        "questions": {**before.questions, **now.questions},
        "digests": {**before.digests, **now.digests},
        "sketches": {**before.sketches, **now.sketches},
    }
    write_record(folder / _FILE, _KIND, data)


def _drawn(settings: SplitSettings) -> dict[str, Any]:
    """What decides how documents are dealt out."""
    return {"seed": settings.seed, "validation": settings.validation, "test": settings.test}
