"""What results were made of: hashes of base model, files and settings, for the records of several commands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["made_of"]

_OF_BASE = ("weights_hash", "stored_weights_hash", "stored_tokenizer_hash")


def made_of(
    trained: Mapping[str, Any], sources: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a record says of these, so that others can tell whether they have the same.

    Args:
        trained: record of a run on the base model.
        sources: what identifies the content of each source, as `contents_of` has it. The base model may be among
            them: it is told by what the run has found.
        settings: those that results depend on, as JSON values.
    """
    return {
        "base": {name: trained["model"].get(name) for name in _OF_BASE},
        "sources": {name: found for name, found in sources.items() if isinstance(found, list)},
        "settings_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    }
