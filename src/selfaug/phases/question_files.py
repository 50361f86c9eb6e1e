"""Question-answer pairs from files, validated: every bad one is reported, all at once."""

from __future__ import annotations

import contextlib
import difflib
import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from selfaug.data.sources import NOT_UTF8, Problem, RawRow, problems_error, read_rows, value_kind
from selfaug.errors import PROBLEMS_SHOWN
from selfaug.retrieval.folder_files import shown_name
from selfaug.retrieval.pairs import Pair, Place

__all__ = ["load_pairs"]

_HINT = (
    "a pair has `question`, `answer` (null where the documents don't have it), and where it stands: `document`, "
    "`evidence` or `page` if you know them; or a list of `places`"
)

_IN_UTF8 = "save the file as UTF-8 first (in Excel: CSV UTF-8); "


def load_pairs(
    files: Sequence[str], documents: Collection[str], *, skip_bad_rows: bool = False
) -> tuple[list[Pair], list[Problem]]:
    """The pairs of all files, and what is wrong with those that are left out.

    Args:
        files: JSONL, JSON, CSV or Parquet.
        documents: paths of the documents that pairs can name; the file's name alone will do where it is unique.
        skip_bad_rows: leave bad pairs out.

    Raises:
        DataError: if a pair is bad (with `skip_bad_rows`: if every pair is), with all problems.
    """
    pairs: list[Pair] = []
    problems: list[Problem] = []
    unknown: dict[int, str] = {}  # documents that aren't there, by the problem's number
    places: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for path in documents:
        for name in {_composed(path), _composed(PurePosixPath(path).name)}:
            by_name.setdefault(name, []).append(path)
    total = 0
    for file in files:
        rows, unreadable = read_rows(file, offline=True)
        problems += unreadable
        total += len(rows) + len(unreadable)
        for row in rows:
            try:
                pair = _pair(row, documents, by_name)
                if pair.id in places:
                    raise ValueError(f"the id {pair.id!r} is taken by {places[pair.id]}")
            except ValueError as error:
                if isinstance(error, _NoDocumentError):
                    unknown[len(problems)] = error.name
                problems.append(Problem(row.file, row.line, str(error)))
                continue
            places[pair.id] = f"{row.file}:{row.line}"
            pairs.append(pair)
    if problems and (not skip_bad_rows or not pairs):
        skip = (
            "; or leave the bad ones out with --skip-bad-rows"
            if pairs and not any(one.whole for one in problems)
            else ""
        )
        # To look through ten thousands of names takes seconds: only for what is shown.
        for number in (number for number in unknown if number < PROBLEMS_SHOWN):
            reason = problems[number].reason + _did_you_mean(unknown[number], documents)
            problems[number] = replace(problems[number], reason=reason)
        undecoded = any(one.reason.startswith(NOT_UTF8) for one in problems)
        raise problems_error(
            f"{len(problems):,} of {total:,} question-answer pairs can't be used.",
            problems,
            hint=f"{_IN_UTF8 * undecoded}{_HINT}{skip}.",
        )
    return pairs, problems


def _pair(row: RawRow, documents: Collection[str], by_name: dict[str, list[str]]) -> Pair:
    fields = {name: value for name, value in row.fields.items() if value not in (None, "")}
    if "answer" not in row.fields:
        raise ValueError(f"'answer' is missing; found {', '.join(map(repr, row.fields))}")
    answer = None if "answer" not in fields else _text(fields, "answer")
    if fields.get("places"):  # they say all that the other fields could
        places = _places(fields["places"], documents, by_name)
        fields = {name: fields[name] for name in fields.keys() & {"id", "question", "answer"}}
        fields["documents"] = list(dict.fromkeys(place.document for place in places))
    else:
        places = ()
    named = _named(fields)
    if answer is None and named:
        raise ValueError("names a document, and has no answer that could stand in it")
    return Pair(
        id=str(fields.get("id", f"{row.file}:{row.line}")),
        question=_text(fields, "question"),
        answer=answer,
        documents=tuple(_document(name, documents, by_name) for name in named),
        evidence=_text(fields, "evidence") if "evidence" in fields else None,
        page=_page(fields["page"]) if "page" in fields else None,
        places=places,
    )


def _places(value: Any, documents: Collection[str], by_name: dict[str, list[str]]) -> tuple[Place, ...]:
    """The places that a pair lists; in CSV files the list is JSON."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ValueError(f"'places' must be a list of objects, it is {value_kind(value)}")
    return tuple(
        Place(
            document=_document(_text(dict(one), "document"), documents, by_name),
            evidence=_text(dict(one), "evidence") if one.get("evidence") else None,
            page=_page(one["page"]) if one.get("page") else None,
            section=_text(dict(one), "section") if one.get("section") else None,
        )
        for one in value
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise ValueError(f"{name!r} is missing or empty")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # an answer that is a number
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be text, it is {value_kind(value)}")
    if not value.strip():
        raise ValueError(f"{name!r} is empty")
    return value.strip()


def _named(fields: dict[str, Any]) -> list[str]:
    """The documents that a pair names, as one name or a list; in CSV files a list is JSON."""
    if "document" in fields and "documents" in fields:
        raise ValueError("has both 'document' and 'documents'")
    value = fields.get("documents", fields.get("document", []))
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):  # a file's name that begins with a bracket
            value = json.loads(value)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"'document' must be a path or a list of paths, it is {value_kind(value)}")
    return names


def _document(name: str, documents: Collection[str], by_name: dict[str, list[str]]) -> str:
    # As it is; as the index has names with line breaks and bytes that aren't UTF-8; and as Windows writes paths.
    ways = [way.removeprefix("./") for way in (name, shown_name(name), name.replace("\\", "/"))]
    for path in ways:
        if path in documents:
            return path
    for path in ways:
        found = by_name.get(_composed(path), [])
        # As a file's name alone it can be that of others too.
        found = [one for one in found if _composed(one) == _composed(path)] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"document {name!r} could be {' or '.join(found[:3])}; give its path")
    raise _NoDocumentError(name)


class _NoDocumentError(ValueError):
    """A pair names a document that isn't there."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no document {name!r} that can be read")
        self.name = name


def _did_you_mean(name: str, documents: Collection[str]) -> str:
    """The name of a document that is nearest; empty where none is near."""
    near = difflib.get_close_matches(name.replace("\\", "/"), sorted(documents), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _composed(name: str) -> str:
    """A name with é as one character: files that come from a Mac have two."""
    return unicodedata.normalize("NFC", name)


def _page(value: object) -> int:
    try:
        # pandas writes whole numbers as "12.0" where one of the column is missing.
        page = int(str(value).removesuffix(".0"))
    except ValueError:
        page = 0
    if page < 1:
        raise ValueError(f"'page' must be a whole number from 1, it is {value!r}")
    return page
