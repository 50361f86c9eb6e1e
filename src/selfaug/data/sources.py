"""Files, folders and hub data sets to raw rows; what can't be read becomes a `Problem`, not a traceback."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.errors import DataError

__all__ = [
    "NOT_UTF8",
    "SKIP_FLAGS",
    "Problem",
    "RawRow",
    "content_keys",
    "data_files",
    "describe_sources",
    "is_hub_id",
    "problems_error",
    "read_rows",
    "require_names",
    "short_text",
    "value_kind",
]

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?(@[\w.:%+\[\]-]+)?")
_LOOKS_LIKE_A_FILE = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|txt|md|pdf|docx?|xlsx?|xml|ya?ml|gz|zip)$", re.IGNORECASE
)
_SEPARATOR = re.compile(r'"?sep=([^\r\n"])(?="?\r?(?:\n|$))', re.IGNORECASE)
"""The first line of a CSV file that says what separates its cells, for spreadsheets."""
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What `errors="surrogateescape"` makes of bytes that aren't UTF-8."""
SKIP_FLAGS = "--skip-bad-rows or --set data.skip_bad_rows=true, where the command has one of them"
"""How commands that train leave bad rows out; those that measure a run have neither."""
NOT_UTF8 = "not valid UTF-8"
"""What the reason of such a `Problem` begins with."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read, before validation.

    Attributes:
        file: the file as the user named it, or `data set/split` for a hub data set.
        line: from 1; the line in JSONL and CSV files, the number of the row elsewhere.
        fields: names and values.
    """

    file: str
    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row can't be used.

    Attributes:
        file: as in `RawRow`.
        line: as in `RawRow`; 0 where it is in no line.
        reason: in words.
        whole: whether all of the file is lost with it, or what comes after it.
    """

    file: str
    line: int
    reason: str
    whole: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason}"


def problems_error(message: str, problems: Sequence[Problem], *, hint: str | None = None) -> DataError:
    """A `DataError` with all problems."""
    return DataError(message, problems=[str(problem) for problem in problems], hint=hint)


def read_rows(
    source: str | Path, *, split: str = "train", offline: bool = False
) -> tuple[list[RawRow], list[Problem]]:
    """Rows of a file, a folder or a hub data set, and what couldn't be read.

    Args:
        source: a `.jsonl`, `.json`, `.csv` or `.parquet` file; a folder, of which all such files directly
            in it are read in the order of their names; or a hub data set, `owner/name` or
            `owner/name:configuration`, each with `@split` where it is another split than the argument says.
        split: the split of a hub data set that names none; files don't have one.
        offline: refuse hub data sets.

    Raises:
        DataError: if there is no such file or data set, the name is empty, the kind of file is unknown, it has no rows,
            or a folder was written by something else than rows are read from.
    """
    require_names([source])
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path)
    name = str(source)
    if is_hub_id(name):
        return _read_hub(name, split=split, offline=offline)
    raise _missing_file(path)


def require_names(sources: Sequence[str | Path]) -> None:
    """Refuse sources without a name: a path without one is the current folder.

    Raises:
        DataError: if one has none.
    """
    if not all(map(str, sources)):
        raise DataError(
            "an empty name was given for a source of rows.",
            hint="perhaps a variable is not set; name a file, a folder or a hub data set.",
        )


def data_files(folder: Path) -> list[Path]:
    """The files of a folder that are read where it is given as a source."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in _READERS and not file.name.startswith(".")
    )


def describe_sources(sources: Sequence[str]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file; the name alone of a hub data set."""
    described: list[dict[str, Any]] = []
    for source in sources:
        path = Path(source)
        files = data_files(path) if path.is_dir() else [path]
        if not path.exists():
            described.append({"source": source})
            continue
        for file in files:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            described.append({"source": str(file), "bytes": file.stat().st_size, "sha256": digest})
    return described


def content_keys(sources: Sequence[str]) -> set[str]:
    """What sources with the same rows have in common, however they are spelled: the SHA-256 of each file, given alone,
    in a folder or as a copy; of a hub data set, or a file that is not there or can't be read, its name.
    """
    keys: set[str] = set()
    for source in sources:
        path = Path(source).expanduser()
        try:
            described = describe_sources([str(path)])
        except OSError:
            described = [{}]
        keys |= {one.get("sha256", str(path.resolve())) for one in described}
    return keys


def _read_folder(folder: Path) -> tuple[list[RawRow], list[Problem]]:
    _require_folder_of_rows(folder)
    files = data_files(folder)
    if not files:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"folder {folder} has no data file (found: {found}).",
            hint=f"data files end in {_extensions()}; folders within it are not read.",
        )
    rows: list[RawRow] = []
    problems: list[Problem] = []
    for file in files:
        more_rows, more_problems = _read_file(file)
        rows += more_rows
        problems += more_problems
    return rows, problems


def _require_folder_of_rows(folder: Path) -> None:
    """Refuse a folder whose files are not all rows of one kind.

    Raises:
        DataError: if `selfaug prepare` wrote it, whose test rows are not for training, or `save_to_disk` of datasets.
    """
    if (folder / "index" / "index.json").exists() and (folder / "template.yaml").exists():
        raise DataError(
            f"{folder} was written by `selfaug prepare`: it has rows to test on beside those to train on.",
            hint=f"give it as --prepared (data.prepared), or name one of its files, such as {folder / 'train.jsonl'}.",
        )
    saved_rows = (folder / "state.json").exists() and any(folder.glob("*.arrow"))
    if saved_rows or (folder / "dataset_dict.json").exists():
        raise DataError(
            f"{folder} was saved by datasets' save_to_disk, which rows can't be read from.",
            hint="write each split with to_json('rows.jsonl') or to_parquet('rows.parquet'), and give that file.",
        )


def _read_file(path: Path) -> tuple[list[RawRow], list[Problem]]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: files that end in {path.suffix or 'nothing'!r} can't be read.",
            hint=f"give a file that ends in {_extensions()}.",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"can't read {path}: {error.strerror}.", hint="check the permissions of the file."
        ) from error
    if not data.strip():
        raise DataError(f"{path} is empty.", hint="check how it was written.")
    if data.startswith(_UTF16_MARKS):
        return [], [Problem(str(path), 0, "the file is UTF-16; save it as UTF-8", whole=True)]
    rows, problems = reader(str(path), data)
    if not rows and not problems:
        raise DataError(f"{path} has no rows.", hint="check how it was written.")
    return rows, problems


def _read_jsonl(file: str, data: bytes) -> tuple[list[RawRow], list[Problem]]:
    rows: list[RawRow] = []
    problems: list[Problem] = []
    is_rows = False
    # Iterating bytes splits at \n only; str.splitlines would also split at U+2028, which JSON allows in text.
    for line, raw in enumerate(io.BytesIO(data.removeprefix(codecs.BOM_UTF8)), start=1):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            problems.append(Problem(file, line, f"{NOT_UTF8} at byte {error.start + 1} of the line"))
        except (ValueError, RecursionError) as error:
            if line == 1 and raw.lstrip().startswith(b"["):
                return [], [_json_list(file, line)]
            problems.append(Problem(file, line, f"not valid JSON: {short_text(error)}"))
        else:
            _add_object(file, line, value, rows, problems)
            is_rows = isinstance(value, list) and all(isinstance(one, dict) for one in value)
    if is_rows and not rows and len(problems) == 1:  # all of the file in one line
        return [], [_json_list(file, problems[0].line)]
    return rows, problems


def _json_list(file: str, line: int) -> Problem:
    return Problem(file, line, "holds a JSON list, not one object a line; name the file .json", whole=True)


def _read_json(file: str, data: bytes) -> tuple[list[RawRow], list[Problem]]:
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        return [], [Problem(file, body.count(b"\n", 0, error.start) + 1, NOT_UTF8, whole=True)]
    except json.JSONDecodeError as error:
        # Many data sets name JSON lines .json.
        if error.msg == "Extra data" and body.lstrip().startswith(b"{"):
            return _read_jsonl(file, data)
        return [], [Problem(file, error.lineno, f"not valid JSON: {short_text(error)}", whole=True)]
    except (ValueError, RecursionError) as error:
        return [], [Problem(file, 0, f"not valid JSON: {short_text(error)}", whole=True)]
    if isinstance(value, dict):
        lists = [name for name in ("data", "rows") if isinstance(value.get(name), list)]
        if len(lists) != 1:
            reason = "an object must hold its rows as one list under 'data' or 'rows'"
            found = ", ".join(map(repr, list(value)[:8])) or "nothing"
            return [], [Problem(file, 0, f"{reason}; it has {found}", whole=True)]
        value = value[lists[0]]
    if not isinstance(value, list):
        return [], [Problem(file, 0, f"holds {value_kind(value)}, not a list of rows", whole=True)]
    rows: list[RawRow] = []
    problems: list[Problem] = []
    for number, item in enumerate(value, start=1):
        _add_object(file, number, item, rows, problems)
    return rows, problems


def _add_object(file: str, line: int, value: object, rows: list[RawRow], problems: list[Problem]) -> None:
    if isinstance(value, dict):
        rows.append(RawRow(file, line, value))
    else:
        problems.append(Problem(file, line, f"holds {value_kind(value)}, not an object with fields"))


def _read_csv(file: str, data: bytes) -> tuple[list[RawRow], list[Problem]]:
    # Bytes that aren't UTF-8 become surrogates, so that the record that holds them can be named afterwards.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    delimiter, text = _csv_delimiter(text)
    limit = csv.field_size_limit(len(text) + 1)  # the default, 128 KiB a field, is less than some contexts
    try:
        return _csv_records(file, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    finally:
        csv.field_size_limit(limit)


def _csv_delimiter(text: str) -> tuple[str, str]:
    """What separates the cells, and the text without the line that says it.

    Where commas are written in numbers, spreadsheets write semicolons between cells, or tabs.
    """
    if said := _SEPARATOR.match(text):
        # The end of its line stays: the lines after it keep their numbers.
        return said[1], text[said.end(1) :].removeprefix('"')
    header = next((line for line in text.split("\n") if line.strip()), "")
    header = re.sub(r'"[^"]*"', "", header)  # what is quoted separates nothing
    if "," in header:
        return ",", text
    return max(";\t", key=header.count) if re.search(r"[;\t]", header) else ",", text


def _csv_records(file: str, reader: Any) -> tuple[list[RawRow], list[Problem]]:
    rows: list[RawRow] = []
    problems: list[Problem] = []
    header: list[str] | None = None
    line = named = 0
    try:
        for cells in reader:
            # line_num is where the record ends; a quoted field may span lines.
            start, line = line + 1, reader.line_num
            if not any(cell.strip() for cell in cells):  # spreadsheets write empty rows and columns, too
                continue
            if header is None:
                header = _csv_header(cells)
                named = len(_without_empty_end(header))
                if reason := _header_fault(header):
                    return [], [Problem(file, start, reason, whole=True)]
            elif any(_UNDECODED.search(cell) for cell in cells):
                problems.append(Problem(file, start, NOT_UTF8))
            elif not named <= len(cells := _without_empty_end(cells, named)) <= len(header):
                problems.append(Problem(file, start, f"has {len(cells)} cells, the header has {len(header)}"))
            else:
                columns = zip(header, cells, strict=False)
                fields = {name: cell for name, cell in columns if name or cell.strip()}
                rows.append(RawRow(file, start, fields))
    except csv.Error as error:
        problems.append(Problem(file, line + 1, f"not valid CSV: {error}", whole=True))
    return rows, problems


def _csv_header(cells: list[str]) -> list[str]:
    """Names of the columns, in small letters, as all that mean something are, unless two differ in nothing else."""
    names = [cell.strip() for cell in cells]
    small = [name.lower() for name in names]
    return [low if small.count(low) == 1 else name for name, low in zip(names, small, strict=True)]


def _without_empty_end(cells: list[str], least: int = 0) -> list[str]:
    """Cells without the empty ones at their end; the first `least` stay, whatever is in them."""
    end = len(cells)
    while end > least and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _header_fault(header: list[str]) -> str | None:
    if any(_UNDECODED.search(name) for name in header):
        return NOT_UTF8
    if len(header) == 1 and "|" in header[0]:
        return "the cells must be separated by commas, semicolons or tabs"
    twice = sorted({name for name in header if name and header.count(name) > 1})
    return f"the header has {', '.join(map(repr, twice))} more than once" if twice else None


def _read_parquet(file: str, data: bytes) -> tuple[list[RawRow], list[Problem]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        records = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except UnicodeDecodeError:
        return [], [Problem(file, 0, f"a text column is {NOT_UTF8}", whole=True)]
    except (pyarrow.ArrowException, OSError) as error:
        return [], [Problem(file, 0, f"not a valid Parquet file: {short_text(error)}", whole=True)]
    return _records(file, records), []


def _records(file: str, records: Iterable[dict[str, Any]]) -> list[RawRow]:
    """Rows of columns, where one struct has the fields of all rows: what a row doesn't have is null in it."""
    return [
        RawRow(file, number, {name: _without_nulls(value) for name, value in record.items()})
        for number, record in enumerate(records, start=1)
    ]


def _without_nulls(value: object) -> Any:
    """A value without the null fields of its objects. A null in a list stays: it is an item of its own."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


_READERS: dict[str, Callable[[str, bytes], tuple[list[RawRow], list[Problem]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _extensions() -> str:
    *most, last = _READERS
    return f"{', '.join(most)} or {last}"


def is_hub_id(name: str) -> bool:
    """Whether a source that is neither a file nor a folder is taken for a hub data set."""
    return (
        _HUB_ID.fullmatch(name) is not None
        and not name.startswith((".", "~"))
        and _LOOKS_LIKE_A_FILE.search(name) is None
    )


def _read_hub(name: str, *, split: str, offline: bool) -> tuple[list[RawRow], list[Problem]]:
    if offline:
        raise DataError(
            f"{name} is neither a file nor a folder, and hub data sets are refused offline.",
            hint="check the path; or download the data set first and give its files.",
        )
    import datasets

    whole, _, own_split = name.partition("@")
    split = own_split or split
    repository, _, configuration = whole.partition(":")
    try:
        dataset = datasets.load_dataset(repository, configuration or None, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"can't load {whole!r}, split {split!r}: {short_text(error)}",
            hint="there is no such file here, so it was taken for a hub data set; its name is owner/name or "
            "owner/name:configuration, with @split for another split. For a file, check the path.",
        ) from error
    rows = _records(f"{whole}/{split}", dataset)
    if not rows:
        raise DataError(f"{whole}, split {split!r}, has no rows.", hint="choose another split.")
    return rows, []


def _missing_file(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(f"{path} does not exist.", hint=f"there is no folder {folder}.")
    # Names without their ending, which most files share. Of several that have it, one with the same ending.
    names = sorted(
        (entry.name for entry in folder.iterdir()), key=lambda name: Path(name).suffix != path.suffix
    )
    near = difflib.get_close_matches(path.stem, [Path(name).stem for name in names], n=1, cutoff=0.75)
    meant = next((name for name in names if [Path(name).stem] == near), None)
    return DataError(
        f"{path} does not exist.",
        hint=f"did you mean {folder / meant}?" if meant else "check the path.",
    )


def value_kind(value: object) -> str:
    """Name the kind of a JSON value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def short_text(error: BaseException) -> str:
    """First line of an error's text, cut to what fits in a list of problems."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
