"""How measured results get into the documentation: the part of a page between two marks, and the record beside it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from selfaug.errors import SelfAugError
from selfaug.records import read_record, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"

# Not a fraction, a date or an address: nothing stands before its first slash that could be a part of these.
_MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:[\w.@~-]+/)+([\w.@~-]+)/?")


def finished(folder: str, kind: str) -> tuple[Path, dict[str, Any]]:
    """The record file of a folder, and what is in it.

    Raises:
        SystemExit: if there is none of this kind: what writes it did not finish.
    """
    file = Path(folder) / "record.json"
    try:
        return file, read_record(file, kind)
    except SelfAugError as error:
        sys.exit(f"error: {error}")


def block(name: str, text: str) -> str:
    """A text that ends with a line break, between the marks of its name."""
    begin, end = _marks(name)
    return f"{begin}\n{text}{end}"


def outside(page: str, name: str) -> tuple[str, str]:
    """What a page has before and after a block.

    Raises:
        SystemExit: if it doesn't have the block once.
    """
    begin, end = _marks(name)
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found or page.count(begin) != 1 or page.count(end) != 1:
        sys.exit(f"the page has no block between {begin} and {end}, or more than one")
    return before, after


def put_block(page: Path, name: str, text: str) -> None:
    """Replace the block of a page; what is outside stays as it is. Raises as `outside` does."""
    before, after = outside(page.read_text(encoding="utf-8"), name)
    write_text(page, f"{before}{block(name, text)}{after}")


def keep_record(file: Path, kept: Path, remark: str | None = None) -> None:
    """Copy a record to where the documentation keeps it, without paths of this machine.

    Args:
        file: the record.
        kept: where it goes.
        remark: becomes its `remark`: what must be known to read it.
    """
    record = without_machine_paths(json.loads(file.read_text(encoding="utf-8")))
    if remark is not None:
        record["data"]["remark"] = remark
    write_text(kept, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def without_machine_paths(value: Any) -> Any:
    """A JSON value in which paths of this machine are their last part: where it was run is nobody's business."""
    if isinstance(value, dict):
        return {key: without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(item) for item in value]
    return _MACHINE_PATH.sub(r"\1", value) if isinstance(value, str) else value


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
