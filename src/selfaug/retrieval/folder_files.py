"""The files of a folder and its subfolders, in the order of their names, without loops and without what is hidden."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path

from selfaug.core.printable import printable
from selfaug.rundir import RunDir

__all__ = ["CLOSED", "OWN_FILE", "PREPARED_MARKER", "PREPARED_SETTINGS", "folder_files", "shown_name"]

OWN_FILE = "no document, but questions, glossary, template or output of `selfaug prepare`"
"""Why selfaug's own files are passed over: to search the questions would give their answers away."""

CLOSED = "a folder that can't be opened"
"""How the reason begins for which a folder was passed over that this user may not enter."""

PREPARED_SETTINGS = "prepare.yaml"
"""The settings in a folder that `selfaug prepare` wrote."""

PREPARED_MARKER = "# Made by selfaug prepare."
"""What these begin with."""

_WRITTEN = "no document, but a folder that `selfaug prepare` or `selfaug train` wrote"
_PAIRS = (
    "no document, but questions with answers: it has the columns `question` and `answer`; give one of them another "
    "name if it is a document all the same"
)
_TABLES = frozenset({".csv", ".tsv"})
_HEADER_BYTES = 10_000
_SAYS_DELIMITER = re.compile(r'"?sep=.*\s+', re.IGNORECASE)

_OFFICE_LOCK = "~$"  # Word and Excel put such a file beside each document that is open


def folder_files(
    folder: Path, on_left_out: Callable[[str, str], None], own: Collection[Path] = ()
) -> dict[str, Path]:
    """Files by their path relative to the folder, with forward slashes.

    Hidden files and folders, and lock files of Office, are passed over without a word. A link to a file is followed
    if that file lies within the folder and has no entry of its own; links to folders never are. Questions with answers
    in CSV, and folders of prepared data and of runs, are no documents: they would give the answers away.

    Args:
        folder: the folder; a link to it is followed.
        on_left_out: called with the path and the reason for everything else that is passed over.
        own: files and folders that are no documents, wherever they are.
    """
    root = folder.resolve()
    left_out = {path.resolve() for path in own if root in path.resolve().parents}
    # Where capitals and accents don't count (macOS), a path may be given otherwise than the folder has it.
    names = {_folded(path.name) for path in own}
    files: dict[str, Path] = {}
    links: dict[str, Path] = {}
    waiting = [root]
    while waiting:
        inner = waiting.pop()
        try:
            entries = list(os.scandir(inner))
        except OSError as error:
            on_left_out(_name(inner, root), f"{CLOSED}: {(error.strerror or '').lower()}")
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith((".", _OFFICE_LOCK)):
                continue
            if path in left_out or (_folded(entry.name) in names and _is_one_of(path, own)):
                left_out.add(path)
                on_left_out(_name(path, root), OWN_FILE)
            elif entry.is_symlink():
                links[_name(path, root)] = path
            elif entry.is_dir(follow_symlinks=False):
                if RunDir(path).is_run() or _is_prepared(path):
                    left_out.add(path)
                    on_left_out(_name(path, root), _WRITTEN)
                else:
                    waiting.append(path)
            elif entry.is_file(follow_symlinks=False):
                files[_name(path, root)] = path
            else:
                on_left_out(_name(path, root), "neither a file nor a folder")
    _follow(links, files, root, left_out, on_left_out)
    for name in [name for name, file in files.items() if _has_pairs(file)]:
        del files[name]
        on_left_out(name, _PAIRS)
    return dict(sorted(files.items()))


def _follow(
    links: dict[str, Path],
    files: dict[str, Path],
    root: Path,
    left_out: set[Path],
    on_left_out: Callable[[str, str], None],
) -> None:
    """Add the targets of links to the files."""
    taken = set(files.values())
    for name, link in sorted(links.items()):
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links that lead to one another, up to Python 3.12
            on_left_out(name, "a link that leads nowhere")
            continue
        if not left_out.isdisjoint((target, *target.parents)):
            on_left_out(name, OWN_FILE)
        elif not target.is_relative_to(root):
            on_left_out(name, "a link that leaves the folder")
        elif target.is_dir():
            on_left_out(name, "a link to a folder, which is not followed")
        elif not target.is_file():
            on_left_out(name, "a link to what is no file")
        elif target not in taken:
            taken.add(target)
            files[name] = target


def _is_prepared(folder: Path) -> bool:
    return _beginning(folder / PREPARED_SETTINGS, len(PREPARED_MARKER)) == PREPARED_MARKER


def _has_pairs(file: Path) -> bool:
    """Whether the columns of a table in CSV are named as those of questions with answers are."""
    if file.suffix.lower() not in _TABLES:
        return False
    header = _SAYS_DELIMITER.sub("", _beginning(file, _HEADER_BYTES).lstrip(), 1).partition("\n")[0]
    names = {cell.strip(' "').lower() for cell in re.split(r"[,;\t|]", header.strip())}
    return {"question", "answer"} <= names


def _beginning(file: Path, size: int) -> str:
    """The first bytes of a file as text; nothing if it can't be opened."""
    with contextlib.suppress(OSError):
        if file.is_file():  # a named pipe would block for ever
            with file.open("rb") as opened:
                return opened.read(size).decode("utf-8-sig", errors="replace")
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_one_of(path: Path, others: Collection[Path]) -> bool:
    """Whether a path is the same file or folder as one of some others, however they are written."""
    with contextlib.suppress(OSError):  # gone, or a link that leads nowhere
        return any(path.samefile(other) for other in others if other.exists())
    return False


def _name(path: Path, root: Path) -> str:
    return shown_name(path.relative_to(root).as_posix())


def shown_name(name: str) -> str:
    """A path as text of one line: bytes that aren't UTF-8 and control characters are shown, as codes."""
    name = name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")
