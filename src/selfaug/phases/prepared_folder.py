"""The folder that `selfaug prepare` made, as the phases after it find it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from selfaug.data.template import RetrievalTemplate
from selfaug.errors import ConfigError, DataError
from selfaug.records import read_lines, read_record
from selfaug.retrieval.document import UnreadableDocument
from selfaug.retrieval.folder_files import CLOSED, OWN_FILE, PREPARED_SETTINGS, folder_files
from selfaug.retrieval.index import Index
from selfaug.retrieval.read_document import ENDINGS
from selfaug.retrieval.read_folder import digest_of
from selfaug.retrieval.retriever import Retriever, own_retriever

__all__ = [
    "is_prepared",
    "no_answer_of",
    "outdated_documents",
    "prepare_again_command",
    "prepared_record",
    "prepared_retriever",
    "require_folder_name",
    "require_template",
    "working_folder_elsewhere",
]

_OF_PREPARE = ("record.json", "index/index.json")
"""What there is of a folder that was prepared to the end."""


def require_folder_name(folder: str | os.PathLike[str]) -> None:
    """Refuse an empty name, which would be another folder: the current one, or that of the run's training.

    Raises:
        ConfigError: if it is empty.
    """
    if folder == "":
        raise ConfigError(
            "an empty name was given for the folder of prepared documents.",
            hint="perhaps a variable is not set; name the --output of `selfaug prepare`.",
        )


def is_prepared(folder: Path) -> bool:
    """Whether `selfaug prepare` has prepared a folder to the end."""
    return all((folder / name).exists() for name in _OF_PREPARE)


def prepared_record(folder: Path) -> dict[str, Any]:
    """What `selfaug prepare` says of a folder.

    Raises:
        DataError: if it has not prepared it to the end, or the index is gone.
    """
    for name in _OF_PREPARE:
        if not (folder / name).exists():
            raise DataError(
                f"{folder} has not been prepared, or not to its end: there is no {name}.",
                hint=f"selfaug prepare DOCUMENTS --output {shlex.quote(str(folder))}; or name another folder.",
            )
    return read_record(folder / "record.json", "prepare")


def prepared_retriever(folder: Path, record: dict[str, Any]) -> Retriever:
    """The retriever of prepared data, which the record names.

    Raises:
        DataError, ConfigError: if it can't be opened.
    """
    name = record["retrieval"]["retriever"]
    return Index(folder / "index") if name == "bm25" else own_retriever(name)


def no_answer_of(folder: Path) -> str | None:
    """What prepared rows say where there is no answer; None where the folder is not there any more.

    Raises:
        DataError: if its record is damaged.
    """
    if not (folder / "record.json").exists():
        return None
    no_answer: str = read_record(folder / "record.json", "prepare")["settings"]["rows"]["no_answer"]
    return no_answer


def require_template(folder: Path, template: RetrievalTemplate) -> None:
    """Refuse a prepared folder's template that was edited since: a run trained with it could not be asked.

    Raises:
        ConfigError: if it says something else than the record, where there is one.
        DataError: if the record is damaged.
    """
    record = folder / "record.json"
    if record.exists() and template.to_dict() != read_record(record, "prepare")["template"]:
        file = folder / "template.yaml"
        raise ConfigError(
            f"{file} was changed since {folder} was prepared: `selfaug ask` would refuse the run, since its prompts "
            "had another form than those of the folder.",
            hint=f"prepare anew with it: the same command with --set rows.template={shlex.quote(str(file))} "
            "--overwrite; or make it what it was.",
        )


def outdated_documents(folder: Path, record: dict[str, Any]) -> list[str]:
    """Documents that are new, changed or gone since they were prepared, as far as names, sizes and times tell.

    None where there are no documents any more: prepared data may have been moved to another machine. Nor is anything
    known of what this user may not look at, such as a service that has a user of its own.
    """
    documents = _folder_of_documents(record)
    if documents is None:
        return []
    own = [documents / path for path, reason in record["documents"]["left_out"].items() if reason == OWN_FILE]
    left_out: dict[str, str] = {}
    files = {
        name: file
        for name, file in folder_files(documents, left_out.__setitem__, own).items()
        if PurePosixPath(name).suffix.lower() in ENDINGS
    }
    closed = {PurePosixPath(name) for name, reason in left_out.items() if reason.startswith(CLOSED)}
    read = {one["path"]: one for one in read_lines(folder / "index" / "documents.jsonl")}
    known = {
        name
        for name in read.keys() | record["documents"]["unreadable"].keys()
        if closed.isdisjoint(PurePosixPath(name).parents)
    }
    prepared_at = (folder / "index" / "index.json").stat().st_mtime
    changed = {
        name for name in files.keys() & known if _is_changed(files[name], read.get(name, {}), prepared_at)
    }
    return sorted(changed | (files.keys() ^ known))


def working_folder_elsewhere(record: dict[str, Any]) -> Path | None:
    """The folder that documents were prepared in, if it is not this one: names in their settings count from there.

    None too where the documents are not found from there: what was prepared may have been moved.
    """
    place, named = record["documents"]["prepared_in"], record["documents"]["folder"]
    there = all(map(os.path.isdir, (place, os.path.join(place, named))))
    return Path(place) if there and place != os.getcwd() else None


def prepare_again_command(
    folder: Path, *, working_folder: Path | None = None, sets: Sequence[str] = ()
) -> str:
    """The command that prepares a folder anew with the settings in it, which can be pasted.

    Args:
        folder: that was prepared.
        working_folder: that names in its settings count from, if it is not this one.
        sets: settings that are to be others, as `section.key=value`.
    """
    place = folder if working_folder is None else folder.absolute()
    words = ["selfaug", "prepare", "--config", str(place / PREPARED_SETTINGS), "--output", str(place)]
    command = shlex.join([*words, "--overwrite", *(word for one in sets for word in ("--set", one))])
    return command if working_folder is None else f"(cd {shlex.quote(str(working_folder))} && {command})"


def _folder_of_documents(record: dict[str, Any]) -> Path | None:
    """The documents' folder: from where they were prepared, or from here; None if it is in neither place.

    Here may be a folder of the same name with other documents.
    """
    named = record["documents"]["folder"]
    places = [Path(record["documents"]["prepared_in"], named), Path(named)]
    # Not Path's, which fails below a folder that can't be entered.
    return next((place for place in places if os.path.isdir(place)), None)


def _is_changed(file: Path, read: dict[str, Any], prepared_at: float) -> bool:
    """Whether a file is another than the one that was read.

    Args:
        file: as it is now.
        read: what the index says of it; empty of what could not be read: of that only what was changed after the index
            had been written is found.
        prepared_at: when that was, in seconds.
    """
    try:
        now = file.stat()
        if not read:
            return now.st_mtime > prepared_at
        if now.st_size != read["size"]:
            return True
        # A copy may have another time, and what it was copied over the same.
        return bool(now.st_mtime_ns != read["modified"] and digest_of(file, now.st_size) != read["digest"])
    except (OSError, UnreadableDocument) as error:  # gone in this moment, unless it may not be looked at
        return PermissionError not in (type(error), type(error.__cause__))
