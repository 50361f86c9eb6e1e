"""The index: chunks of all documents on disk, and BM25 over them, memory-mapped (but on Windows).

    index/index.json      what it was made with; written last
    index/documents.jsonl a line a document: path, digest, title, number of chunks
    index/unreadable.jsonl a line a file that could not be read: path, digest, reason, and with which limits
    index/chunks.jsonl    a line a chunk, those of a document together, in the order of documents.jsonl
    index/offsets.npy     where each line of chunks.jsonl begins, in bytes, and where the last one ends
    index/owners.npy      the document of each chunk, by its number
    index/bm25/           the scores of every word in every chunk; words of its document's title count three times,
                          since they say whose and of when all the others are
    index/titles/         the scores of every word in every document's title: they are added to those of its chunks

It is made beside its place and renamed, so a search never meets a half-made one. Until then the chunks of documents
that were read are kept beside it as well (`ReadSoFar`): a run that was cut off doesn't read them again.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import bm25s
import numpy as np
from bm25s.tokenization import Tokenized

from selfaug.errors import DataError, StorageError
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.read_folder import KnownUnreadable
from selfaug.retrieval.read_so_far import ReadSoFar
from selfaug.retrieval.retriever import Passage
from selfaug.retrieval.tokens import Words

__all__ = ["RECORD_KIND", "Index", "IndexWriter"]

RECORD_KIND = "index"

_UNREADABLE = "unreadable.jsonl"

# Windows renames no folder that has a mapped file, as an index has that takes its place: there it is in memory.
_MAPPED = os.name != "nt"

# How much a title's own score counts beside a chunk's. Chosen, as the two below, on questions about business reports.
_TITLE_WEIGHT = 2.0
# Of BM25: how much less a word counts in a longer text, from 0 to 1. Low, because a chunk of a title and a line, which
# is short, seldom answers anything; and titles are all short.
_CHUNK_B, _TITLE_B = 0.4, 0.3


class Index:
    """An index that is searched.

    Args:
        folder: that an `IndexWriter` wrote.

    Attributes:
        settings: what it was made with.
        documents: path, digest, title and number of chunks of each.

    Raises:
        DataError: if there is none, or it is not whole.
    """

    def __init__(self, folder: Path) -> None:
        record = read_record(folder / "index.json", RECORD_KIND)
        self.folder = folder
        self.settings: dict[str, Any] = record["settings"]
        self._words = _words_of(self.settings)
        try:
            self.documents = read_lines(folder / "documents.jsonl")
            self._offsets = _load_numbers(folder / "offsets.npy")
            self._owners = _load_numbers(folder / "owners.npy")
            self._lines = _load_lines(folder / "chunks.jsonl") if len(self) else b""
            self._chunks = _load_scores(folder / "bm25") if len(self) else None
            self._titles = _load_scores(folder / "titles") if len(self) else None
        except (OSError, EOFError, ValueError) as error:  # EOFError: of numpy, for an empty file
            raise _damaged(folder) from error
        found = (len(self.documents), len(self._owners), len(self._lines))
        if found != (record["documents"], record["chunks"], self._offsets[-1]):
            raise _damaged(folder)
        self._numbers = {document["path"]: number for number, document in enumerate(self.documents)}
        self._copies: dict[str, list[str]] = {}
        for document in self.documents:
            self._copies.setdefault(document["digest"], []).append(document["path"])

    def __len__(self) -> int:
        """Chunks."""
        return len(self._offsets) - 1

    def chunk(self, number: int) -> Chunk:
        """A chunk by its number, from 0."""
        return Chunk(**json.loads(self._lines[self._offsets[number] : self._offsets[number + 1]]))

    def chunks_of(self, document: str) -> list[Chunk]:
        """The chunks of a document, in reading order; none if it is not in the index."""
        number = self._numbers.get(document)
        if number is None:
            return []
        first, end = np.searchsorted(self._owners, (number, number + 1))
        return [self.chunk(index) for index in range(int(first), int(end))]

    @property
    def copies(self) -> list[list[str]]:
        """Paths of documents that are the same file more than once, each set in its order."""
        return [paths for paths in self._copies.values() if len(paths) > 1]

    def copies_of(self, document: str) -> list[str]:
        """A document and those that are the same file, in their order; itself alone if it is not in the index."""
        number = self._numbers.get(document)
        return [document] if number is None else self._copies[self.documents[number]["digest"]]

    def search(self, question: str, count: int, *, within: Collection[str] | None = None) -> list[Passage]:
        """The passages that share most with the question, the best first; only those that share a word.

        The same passage, of another document too, comes once, the first one's: it would take others' room in a prompt,
        where a model could not tell which is whose.

        Args:
            question: in words.
            count: at most so many.
            within: documents to search; None for all.
        """
        scores = self._scores(question, within)
        if scores is None or count < 1:
            return []
        found: dict[tuple[str, str], Passage] = {}
        asked, looked_at = count, 0
        while True:
            best = self._best(scores, asked)
            for number in best[looked_at:]:
                chunk = self.chunk(number)
                passage = Passage(chunk.passage, chunk.document, chunk.id, chunk.page, float(scores[number]))
                found.setdefault(self._what_it_says(number, chunk), passage)
            if len(found) >= count or len(best) < asked:
                return list(found.values())[:count]
            asked, looked_at = 2 * asked, asked

    def ranked(self, question: str, count: int) -> list[tuple[Chunk, float]]:
        """As `search`, chunks with their scores, and each of several that say the same."""
        scores = self._scores(question)
        if scores is None or count < 1:
            return []
        return [(self.chunk(number), float(scores[number])) for number in self._best(scores, count)]

    def _what_it_says(self, number: int, chunk: Chunk) -> tuple[str, str]:
        """Heading and text, where a title that is only the file's name is that of its first copy."""
        document = self.documents[self._owners[number]]
        first = self.documents[self._numbers[self._copies[document["digest"]][0]]]
        return first["title"] + chunk.heading.removeprefix(document["title"]), chunk.text

    def _scores(self, question: str, within: Collection[str] | None = None) -> Any:
        """Of each chunk, float32; None where nothing can be found."""
        words = self._words.of_question(question)
        if self._chunks is None or self._titles is None or not words:
            return None
        scores = self._chunks.get_scores(words)
        scores += _TITLE_WEIGHT * self._titles.get_scores(words)[self._owners]
        if within is not None:
            wanted = np.zeros(len(self.documents), dtype=bool)
            wanted[[self._numbers[path] for path in within if path in self._numbers]] = True
            scores = np.where(wanted[self._owners], scores, 0.0)
        return scores

    @staticmethod
    def _best(scores: Any, count: int) -> list[int]:
        """Numbers of the chunks with the highest scores, the best first, without those that share no word."""
        found = np.flatnonzero(scores > 0)
        count = min(count, len(found))
        if count == 0:
            return []
        # The lowest of what is negated: numpy takes many times as long for the highest, and among many zeros.
        lowest = np.partition(-scores[found], count - 1)[count - 1]
        # Where scores are equal: all that are not among them by chance alone, in the documents' order.
        best = found[-scores[found] <= lowest]
        best = best[np.lexsort((best, -scores[best]))][:count]
        return [int(number) for number in best]


class IndexWriter:
    """Writes an index, document by document, as a context manager: when it ends, what has not taken its place goes.

    What an older one has of an unchanged document is taken from there, and so is what a writer that was cut off, by an
    exception or a kill, had been given.

    Args:
        folder: where the index will be; an older one there stays until the new one is whole.
        settings: what it is made with; has `language`, may have `glossary`, the groups of one, and `reader`, a number
            that goes up when documents are read otherwise. An older index with other settings gives nothing, unless
            only the first two are others.
        limits: that files are read with, and whatever else decides which can't be read. What is known of such files
            holds for the same limits alone.

    Attributes:
        known: digests by path of documents whose chunks can be kept.
        before: what is known of the same documents.
        unreadable: by path, of files that could not be read with the same limits, what `add_unreadable` was given.
        listed: digests by path of all documents that were in the older index, or had been read; of one with other
            settings, too.
        reads_otherwise: whether the older index was made when documents were read otherwise.

    Raises:
        StorageError: if what was read can't be looked up.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], limits: Mapping[str, Any] | None = None
    ) -> None:
        self._folder, self._settings, self._limits = folder, dict(settings), dict(limits or {})
        self._partial = folder.with_name(f".{folder.name}.partial")
        if not folder.exists():  # perhaps a kill came between the two renamings
            for before in self._replaced():
                if (before / "index.json").exists():
                    before.rename(folder)
                    break
        old: Index | None = None
        if (folder / "index.json").exists():
            with suppress(DataError):  # damaged: made anew
                old = Index(folder)
        self.reads_otherwise = old is not None and old.settings.get("reader") != self._settings.get("reader")
        can_be_kept = old is not None and _of_chunks(old.settings) == _of_chunks(self._settings)
        self._old = old if can_be_kept else None
        try:
            self._read = ReadSoFar(folder.with_name(f".{folder.name}.read.jsonl"), _of_chunks(self._settings))
        except OSError as error:
            raise self._storage_error(error) from error
        self.before = {one["path"]: one for one in self._old.documents} if self._old else {}
        self.before |= self._read.documents
        self.known = {path: one["digest"] for path, one in self.before.items()}
        unreadable: list[dict[str, Any]] = []
        if (folder / _UNREADABLE).exists():
            with suppress(DataError):  # damaged: they are read again
                unreadable += read_lines(folder / _UNREADABLE)
        unreadable += self._read.unreadable.values()
        self.unreadable = {
            one["path"]: KnownUnreadable(one["digest"], one["reason"])
            for one in unreadable
            if one["limits"] == self._limits
        }
        self._unreadable_now: list[dict[str, Any]] = []
        in_old = {} if old is None else {one["path"]: one["digest"] for one in old.documents}
        self.listed = {**in_old, **self.known}

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def write(self, documents: Iterable[tuple[dict[str, Any], list[Chunk] | None]]) -> Index:
        """Write the index, beside its place.

        Args:
            documents: `path`, `digest`, `title` and more of each, and its chunks; None keeps those that are known.

        Raises:
            StorageError: if it can't be written.
        """
        shutil.rmtree(self._partial, ignore_errors=True)
        try:
            self._partial.mkdir(parents=True)
            with self._read:
                self._write(documents)
        except OSError as error:
            raise self._storage_error(error) from error
        return Index(self._partial)

    def add_unreadable(self, path: str, why: KnownUnreadable) -> None:
        """Keep, while documents are written, why a file can't be read; the next writer knows it."""
        line = {"path": path, **why._asdict(), "limits": self._limits}
        self._unreadable_now.append(line)
        if self.unreadable.get(path) != why:
            self._read.add_unreadable(line)

    def take_its_place(self) -> None:
        """The new index under the old one's name; after a kill in between there is none, until one is written again.

        Raises:
            StorageError: if it can't be moved there; the older one stays.
        """
        try:
            self._delete_replaced()
            if self._folder.exists():
                # A name that nothing has: what a server has mapped can't be deleted everywhere (NFS, Windows).
                self._folder.rename(f"{self._kept_as()}.{time.time_ns()}")
            self._partial.rename(self._folder)
            self._delete_replaced()
            self._read.remove()
        except OSError as error:
            raise self._storage_error(error) from error

    def _write(self, documents: Iterable[tuple[dict[str, Any], list[Chunk] | None]]) -> None:
        words = _words_of(self._settings)
        chunk_words, title_words = _WordCounts(), _WordCounts()
        offsets, owners, count = [0], list[int](), 0
        with (
            (self._partial / "chunks.jsonl").open("wb") as lines,
            (self._partial / "documents.jsonl").open("w", encoding="utf-8", newline="\n") as listed,
        ):
            for document, chunks in documents:
                if chunks is None:
                    kept = self._kept(document["path"])
                else:
                    kept = chunks
                    self._read.add(document, chunks)
                title = words(document["title"])
                title_words.add(title)
                for chunk in kept:
                    line = json.dumps(asdict(chunk), ensure_ascii=False).encode() + b"\n"
                    lines.write(line)
                    offsets.append(offsets[-1] + len(line))
                    owners.append(count)
                    chunk_words.add([*2 * title, *words(chunk.passage)])
                _append(listed, {**document, "chunks": len(kept)})
                count += 1
        np.save(self._partial / "offsets.npy", np.asarray(offsets, dtype=np.int64), allow_pickle=False)
        np.save(self._partial / "owners.npy", np.asarray(owners, dtype=np.int32), allow_pickle=False)
        if owners:
            chunk_words.save(self._partial / "bm25", _CHUNK_B)
            title_words.save(self._partial / "titles", _TITLE_B)
        write_lines(self._partial / _UNREADABLE, self._unreadable_now)
        record = {
            "settings": self._settings,
            "documents": count,
            "chunks": len(owners),
            "words": len(chunk_words.vocabulary),
        }
        write_record(self._partial / "index.json", RECORD_KIND, record)

    def _kept(self, path: str) -> list[Chunk]:
        if path in self._read.documents:
            return self._read.chunks_of(path)
        assert self._old is not None, "only known documents have no chunks of their own"
        return self._old.chunks_of(path)

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"can't write the index {self._folder}: {error.strerror or error}",
            hint="free space, or choose another --output.",
        )

    def _delete_replaced(self) -> None:
        """As far as that goes now; the next index tries again."""
        for before in self._replaced():
            with suppress(OSError):
                (before / "index.json").unlink()  # first: what is left of it is not taken for an index
            shutil.rmtree(before, ignore_errors=True)

    def _replaced(self) -> list[Path]:
        """What is there of indices that newer ones have replaced, or were about to; the latest first."""
        name = self._kept_as().name
        return sorted(
            (
                one
                for one in self._folder.parent.glob(".*")
                if one.name == name or one.name.startswith(f"{name}.")
            ),
            reverse=True,
        )

    def _kept_as(self) -> Path:
        return self._folder.with_name(f".{self._folder.name}.before")


class _WordCounts:
    """The words of many texts, as numbers, until their scores are saved."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self._texts: list[list[int]] = []

    def add(self, words: Iterable[str]) -> None:
        """The words of a further text."""
        self._texts.append([self.vocabulary.setdefault(word, len(self.vocabulary)) for word in words])

    def save(self, folder: Path, b: float) -> None:
        """The scores of every word in every text."""
        if not self.vocabulary:  # bm25s needs a word; no question has the empty one
            self.vocabulary[""], self._texts[0] = 0, [0]
        scores = bm25s.BM25(b=b)
        scores.index(Tokenized(self._texts, self.vocabulary), show_progress=False)
        scores.save(folder, show_progress=False)


def _load_numbers(file: Path) -> Any:
    return np.load(file, mmap_mode="r" if _MAPPED else None, allow_pickle=False)


def _load_lines(file: Path) -> mmap.mmap | bytes:
    if not _MAPPED:
        return file.read_bytes()
    with file.open("rb") as lines:
        return mmap.mmap(lines.fileno(), 0, access=mmap.ACCESS_READ)


def _load_scores(folder: Path) -> bm25s.BM25:
    return bm25s.BM25.load(folder, mmap=_MAPPED, show_progress=False)


def _words_of(settings: Mapping[str, Any]) -> Words:
    return Words(settings["language"], settings.get("glossary", ()))


def _of_chunks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that chunks depend on: their words are found anew for every index."""
    return {name: value for name, value in settings.items() if name not in ("language", "glossary")}


def _append(file: TextIO, line: Mapping[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _damaged(folder: Path) -> DataError:
    return DataError(f"the index {folder} is not whole.", hint="make it anew: selfaug prepare --overwrite.")
