"""What a record says of base model, files, settings and versions that its results come from, as names and values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfaug.core.library_versions import versions_in_words

__all__ = ["files_provenance", "machine_in_words", "made_of_provenance"]

# Of a folder, hashes of so many files; the record has them all.
_MOST_FILES = 4

_SHA256 = re.compile("[0-9a-f]{64}")


def made_of_provenance(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Hashes of base model, settings and files, as `phases.made_of` has written them; earlier records have none."""
    found = record.get("made_of")
    if found is None:
        return []
    base, tokenizer = found["base"]["weights_hash"], found["base"]["stored_tokenizer_hash"]
    return [
        ("base weights", f"hash {base[:16]}…"),
        *([] if tokenizer is None else [("tokeniser and chat template", f"hash {tokenizer[:16]}…")]),
        (
            "settings",
            f"SHA-256 {found['settings_sha256'][:16]}… of those that results depend on; all are in record.json",
        ),
        *((name, _of_files(content)) for name, content in found["sources"].items()),
    ]


def files_provenance(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Hashes of the files of rows that a run read.

    Args:
        data: what the run's record says of its rows.
    """
    parts = {"rows": "train", "replayed rows": "replay", "held-out rows": "eval"}
    return [
        (f"content of {name}", _of_files([one.get("sha256", one["source"]) for one in found]))
        for name, part in parts.items()
        if (found := data.get(part, {}).get("sources"))
    ]


def _of_files(content: Sequence[str]) -> str:
    """Files by their hashes; what is on the hub has a name alone."""
    told = [f"SHA-256 {one[:16]}…" if _SHA256.fullmatch(one) else f"{one}, by name alone" for one in content]
    left = len(told) - _MOST_FILES
    more = [] if left <= 0 else [f"and {left:,} more, which record.json has"]
    return "; ".join([*told[:_MOST_FILES], *more]) or "no files"


def machine_in_words(environment: Mapping[str, Any], *further: str) -> str:
    """Device, Python and libraries.

    Args:
        environment: of a run's record.
        further: what else is said of the machine.
    """
    versions = versions_in_words(environment, "training")
    return f"{', '.join([environment['device'], *further])}, Python {environment['python']}; {versions}"
