"""Answers that were kept, request by request: found, filtered, searched and compared word by word."""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from selfaug.errors import DataError
from selfaug.records import read_record

__all__ = [
    "CHANGES",
    "Change",
    "KeptSamples",
    "SampleFiles",
    "Samples",
    "Shown",
    "differing_words",
    "sample_files",
]

Change = Literal["lost", "gained", "same", "unscored"]
CHANGES: tuple[Change, ...] = ("lost", "gained", "same", "unscored")
"""What became of a request's score: failures first."""

# Our own lines begin with the id, so that they needn't be parsed to be found.
_ID = re.compile(rb'\{"id": "([^"\\]*)"')

# Words with the spaces between them, so half as many words.
_MOST_WORDS = 1_200

# The same word at so many pairs of places takes seconds: answers that say the same over and over.
_MOST_PAIRS = 45_000
_KEPT = 4


class SampleFiles(NamedTuple):
    """Answers of several models to one suite.

    Attributes:
        suite: its name.
        labels: of the models, by colour key: base, plain, selfaug.
        files: of their answers, in the same order.
        record: with the scores, and the suite's place in it; None where scores are not kept by request.
    """

    suite: str
    labels: Mapping[str, str]
    files: Sequence[Path]
    record: Path | None


@dataclass(frozen=True)
class Shown:
    """One request with its answers and scores, in the order of the models."""

    id: str
    change: Change
    prompt: str
    answers: Sequence[str]
    scores: Sequence[float | None]


def sample_files(folder: Path, kind: str) -> list[SampleFiles]:
    """Which answers a folder holds.

    Args:
        folder: of a run, an assessment or a comparison.
        kind: of its record.

    Raises:
        DataError: if its record can't be read.
    """
    if kind in ("train", "assessment"):
        run = folder / "probe" if kind == "assessment" else folder
        place, record = run / "samples" / "evaluation", run / "evaluation.json"
        labels = {"base": "base model", "selfaug": "probe" if kind == "assessment" else "tuned model"}
        suites = [file.name.removesuffix("-base.jsonl") for file in sorted(place.glob("*-base.jsonl"))]
        suites.sort(key=lambda name: name != "task")  # the job first
        found = [
            SampleFiles(
                name, labels, [place / f"{name}-{model}.jsonl" for model in ("base", "tuned")], record
            )
            for name in suites
            if record.is_file()
        ]
    elif kind == "comparison":
        found = _of_comparison(folder)
    else:
        found = []
    # Names of suites come from a record: none leads out of its folder.
    home = folder.resolve()
    return [one for one in found if all(_is_inside(file, home) for file in one.files)]


def _is_inside(file: Path, home: Path) -> bool:
    try:
        return file.is_file() and file.resolve().is_relative_to(home)
    except (OSError, ValueError):  # no name of a file
        return False


def _of_comparison(folder: Path) -> list[SampleFiles]:
    record = read_record(folder / "record.json", "comparison")
    models, labels = ["base"], {"base": "base model"}
    try:
        for key, name in (("plain", "plain"), ("selfaug", record["subject"])):
            if name is not None:
                row = record["methods"][name]
                models.append(f"{name}-{row['value']:g}-seed{row['seeds'][0]}")
                labels[key] = str(row["label"])
        suites = [str(suite) for suite in record["items"]]
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"the record in {folder} does not say whose answers it has ({type(error).__name__}: {error}).",
            hint="it was written by another version of selfaug, or changed.",
        ) from error
    place = folder / "answers"
    return [
        SampleFiles(suite, labels, [place / f"test-{model}-{suite}.jsonl" for model in models], None)
        for suite in suites
    ]


class Samples:
    """One suite's requests: where each stands in the files, and how its score changed.

    Args:
        found: the files.
    """

    def __init__(self, found: SampleFiles) -> None:
        self.found = found
        places = [_places(file) for file in found.files]
        scores = _scores(found)
        shared = [name for name in places[0] if all(name in of for of in places[1:])]
        self._places = {name: [of[name] for of in places] for name in shared}
        self._scores = {name: scores.get(name) for name in shared}
        order = {change: rank for rank, change in enumerate(CHANGES)}
        self._changes = {name: _change(self._scores[name]) for name in shared}
        self._ids = sorted(shared, key=lambda name: order[self._changes[name]])

    def counts(self) -> dict[Change, int]:
        """How many of each change."""
        found: dict[Change, int] = dict.fromkeys(CHANGES, 0)
        for change in self._changes.values():
            found[change] += 1
        return found

    def select(self, change: str = "", search: str = "") -> list[str]:
        """Ids with that change, whose prompt or answers hold the text, whatever its case; failures first.

        Args:
            change: one of `CHANGES`; empty for all.
            search: the text, or a part of the id; empty for all.
        """
        ids = [name for name in self._ids if not change or self._changes[name] == change]
        if not search:
            return ids
        wanted, raw = search.lower(), json.dumps(search, ensure_ascii=False)[1:-1].lower()
        keep: set[str] = set()
        # A file is read from its beginning to its end: quicker than to go to every line.
        for number, file in enumerate(self.found.files):
            at, names = 0, {self._places[name][number]: name for name in ids if name not in keep}
            with file.open("rb") as stream:
                for line in stream:
                    if at in names and _holds(line, wanted, raw):
                        keep.add(names[at])
                    at += len(line)
        return [name for name in ids if name in keep]

    def shown(self, ids: Sequence[str]) -> list[Shown]:
        """Requests with all their texts.

        Raises:
            DataError: if a file was changed since it was first read.
        """
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ids}
        for number, file in enumerate(self.found.files):
            for name, line in self._lines(file, number, ids):
                if _parsed_id(line) != name:
                    raise DataError(f"{file} was changed while it was read.", hint="load the page again.")
                rows[name].append(json.loads(line))
        return [
            Shown(
                name,
                self._changes[name],
                str(found[0].get("prompt", "")),
                [str(row.get("answer", "")) for row in found],
                self._score_row(name, len(found)),
            )
            for name, found in rows.items()
        ]

    def _score_row(self, name: str, models: int) -> list[float | None]:
        scores = self._scores[name]
        return [None] * models if scores is None else [scores["base"], scores["tuned"]]

    def _lines(self, file: Path, number: int, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        with file.open("rb") as stream:
            for name in ids:
                stream.seek(self._places[name][number])
                yield name, stream.readline().decode("utf-8", errors="replace")


class KeptSamples:
    """The suites that were looked at last, as long as their files stay as they are."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Samples] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, found: SampleFiles) -> Samples:
        """Read, or kept from before."""
        files = [*found.files, *([] if found.record is None else [found.record])]
        stats = [file.stat() for file in files]
        key = (
            found.suite,
            *((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in zip(files, stats, strict=True)),
        )
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Samples(found)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


def differing_words(one: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces, each with whether the other text lacks it; those that would take long are left whole."""
    words = [re.findall(r"\s+|[^\s]+", text) for text in (one, other)]
    if max(map(len, words)) > _MOST_WORDS or _pairs(*words) > _MOST_PAIRS:
        return [(one, False)], [(other, False)]
    mine: list[tuple[str, bool]] = []
    theirs: list[tuple[str, bool]] = []
    # Spaces are equal beside equal words only: to match each of them with each takes seconds.
    matcher = difflib.SequenceMatcher(str.isspace, words[0], words[1], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        for pieces, part in ((mine, words[0][a:b]), (theirs, words[1][c:d])):
            if part:
                pieces.append(("".join(part), kind != "equal"))
    return mine, theirs


def _pairs(one: Sequence[str], other: Sequence[str]) -> int:
    """How many pairs of places have the same word."""
    counts = Counter(word for word in other if not word.isspace())
    return sum(counts[word] for word in one)


def _places(file: Path) -> dict[str, int]:
    """Where each id's line begins; a last line that was cut off is left out."""
    places: dict[str, int] = {}
    at = 0
    with file.open("rb") as stream:
        for line in stream:
            match = _ID.match(line) if line.endswith(b"}\n") else None
            name = match[1].decode("utf-8", errors="replace") if match else _parsed_id(line)
            if name is not None:
                places[name] = at
            at += len(line)
    return places


def _holds(line: bytes, wanted: str, raw: str) -> bool:
    """Whether a line's texts hold a text in lower case; `raw` is the same as JSON has it."""
    found = raw.encode() in line.lower() if raw.isascii() else raw in line.decode(errors="replace").lower()
    if not found:  # then it needn't be parsed
        return False
    try:
        row = json.loads(line)
        return any(wanted in str(row.get(part, "")).lower() for part in ("id", "prompt", "answer"))
    except (ValueError, AttributeError, RecursionError):
        return False


def _parsed_id(line: bytes | str) -> str | None:
    try:
        return str(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _scores(found: SampleFiles) -> Mapping[str, Mapping[str, float]]:
    if found.record is None:
        return {}
    evaluation = read_record(found.record, "evaluation")
    try:
        scores: Mapping[str, Mapping[str, float]] = evaluation["suites"][found.suite]["scores"]
        return {
            name: of
            for name, of in scores.items()
            if all(isinstance(of.get(model), int | float) for model in ("base", "tuned"))
        }
    except (AttributeError, LookupError, TypeError):  # a suite without scores, or with others
        return {}


def _change(scores: Mapping[str, float] | None) -> Change:
    if scores is None:
        return "unscored"
    change = scores["tuned"] - scores["base"]
    return "lost" if change < 0 else "gained" if change > 0 else "same"
