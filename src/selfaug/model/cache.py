"""The reference cache: hidden states of the reference model at the prompt positions, computed once, kept on disk.

A cache is a folder that belongs to one reference model (`cache.json` holds its fingerprint) and grows by segments,
one for each set of documents that was missing:

    cache.json                      what the cache belongs to
    segment-<id>.bin                hidden states, one document after the other (memory-mapped)
    segment-<id>.index.npz          key, first row and number of rows of each document
    segment-<id>.done.bin           a checksum a document, 0 while it is missing: what a cut-off build goes on from
    segment-<id>.json               written last: its existence means that the segment is complete

A build that was cut off leaves a segment without its description. The same build goes on with it; a build of other
documents keeps what is finished in it as a segment of its own, and frees what it had reserved.

Hidden states and not logits: for a vocabulary of 150 k and a width of 3.6 k they are some 40 times smaller, and the
head recovers the logits. A document is known by its token ids and by which of them are prompt.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import xxhash
from filelock import Timeout
from numpy.typing import NDArray
from torch import Tensor, nn

from selfaug.core.positions import Positions, document_spans, find_positions
from selfaug.errors import CacheError, StorageError
from selfaug.file_lock import FileLock
from selfaug.model.adapters import require_adapters_of_peft
from selfaug.model.disk_room import TRIED, bytes_on_disk, free_bytes, require_free, reserve, users_caches
from selfaug.model.fingerprint import fingerprint
from selfaug.model.hidden import causal_model, hidden_states, reference_mode
from selfaug.records import is_failed_write

__all__ = ["PASSES_THAT_PAY", "Document", "ReferenceCache"]

logger = logging.getLogger(__name__)

_VERSION = 1

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile)

# Processes that wait in a collective operation give up after a while, half an hour as transformers has it: what only
# the first does is done in turns of so many seconds, after each of which the others hear that it goes on.
_TURN = 30.0

# What is copied goes to the disk in pieces of so many bytes: all of a large copy would take longer than a turn.
_PIECE = 2**30

PASSES_THAT_PAY = 3
"""So many passes over the data make up for computing the cache; reference="auto" goes by it, beside the disk's room."""


@dataclass(frozen=True)
class Document:
    """Token ids and labels (-100 on the prompt) of one document."""

    input_ids: Sequence[int]
    labels: Sequence[int]

    @property
    def key(self) -> bytes:
        """16 bytes that stand for the token ids and for which of them are prompt."""
        return _key(np.asarray(self.input_ids, np.int64), np.asarray(self.labels, np.int64))

    @property
    def rows(self) -> int:
        """Hidden states that are kept: every position that could be aligned, the boundary included."""
        prompt = _is_prompt(np.asarray(self.labels))
        return int((prompt[1:] | prompt[:-1]).sum())


def _is_prompt(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens of a document are prompt; the first always is, as in `core/positions.py`."""
    prompt: NDArray[np.bool_] = labels == -100
    prompt[:1] = True
    return prompt


def _segment_name(keys: Iterable[bytes]) -> str:
    """Of the segment that holds the documents with these keys, in this order."""
    return "segment-" + hashlib.blake2b(b"".join(keys), digest_size=8).hexdigest()


def _key(input_ids: NDArray[np.int64], labels: NDArray[np.int64]) -> bytes:
    digest = hashlib.blake2b(input_ids.tobytes(), digest_size=16)
    digest.update(np.packbits(_is_prompt(labels)).tobytes())
    return digest.digest()


@dataclass
class _Segment:
    """A complete segment, memory-mapped."""

    hidden: NDArray[np.uint8]  # [rows, bytes of a hidden state]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    checksums: NDArray[np.uint32]


class ReferenceCache:
    """Hidden states of one reference model on disk.

    Use `ReferenceCache.open`, then `build` for the documents that a run needs; `verify` reads everything back.

    Raises:
        CacheError: when the folder belongs to another model, or is damaged.
        StorageError: when it does not fit on the disk or can't be written.
    """

    def __init__(self, folder: Path, identity: dict[str, str], width: int, dtype: torch.dtype) -> None:
        self.folder = folder
        self.identity = identity
        self.width = width
        self.dtype = dtype
        self._segments: list[_Segment] = []
        self._where: dict[bytes, tuple[int, int]] = {}
        self._checked: set[bytes] = set()
        self._loaded: set[str] = set()

    @property
    def row_bytes(self) -> int:
        """Size of one hidden state."""
        return self.width * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, document: object) -> bool:
        return isinstance(document, Document) and document.key in self._where

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str] | None,
        model: nn.Module,
        *,
        compute_dtype: torch.dtype | None = None,
        identity: dict[str, str] | None = None,
    ) -> ReferenceCache:
        """Open the cache of a reference model, or begin one.

        Args:
            folder: the cache's own folder; None for one in the user's cache, named by the fingerprint.
            model: the reference model, or the tuned model before training.
            compute_dtype: dtype of autocast, if the model runs under it.
            identity: what `fingerprint` said of the model earlier, when it has been wrapped or trained since.
        """
        identity = identity or fingerprint(model, compute_dtype=compute_dtype)
        inner = causal_model(model)
        dtype = compute_dtype or inner.dtype
        width = int(inner.get_output_embeddings().weight.shape[-1])
        if folder is None:
            name = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()
            folder = users_caches() / name
        path = Path(folder)
        described = {"version": _VERSION, "identity": identity, "width": width, "dtype": str(dtype)}
        try:
            path.mkdir(parents=True, exist_ok=True)
            with FileLock(path / ".lock"):
                if (path / "cache.json").exists():
                    cls._require_same(path, described)
                # A write that was cut off leaves its partial file, and other processes may look for room.
                elif any(
                    entry.name != ".lock" and not entry.name.startswith((".cache.json.", TRIED))
                    for entry in path.iterdir()
                ):
                    raise CacheError(
                        f"{path} is not empty and not a reference cache.",
                        hint="give a folder of its own as reference_cache_dir.",
                    )
                else:
                    _write_json(path / "cache.json", described)
        except OSError as error:
            raise _not_writable(path, error) from error
        cache = cls(path, identity, width, dtype)
        cache._load_segments()
        return cache

    @classmethod
    def existing(
        cls, folder: str | os.PathLike[str] | None, identity: Mapping[str, str]
    ) -> list[ReferenceCache]:
        """Caches that are there already, to be read; nothing is written, and damaged ones are left out.

        Args:
            folder: as for `open`; None for all in the user's cache.
            identity: what `fingerprint` says of the model, or some of it.
        """
        found = []
        paths: list[Path] = [Path(folder)] if folder else []
        if not folder:
            with contextlib.suppress(OSError, StorageError):  # a folder that can't be looked into, or none
                paths = sorted(users_caches().iterdir())
        for path in paths:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, CacheError):
                described = json.loads((path / "cache.json").read_text(encoding="utf-8"))
                dtype = getattr(torch, described["dtype"].removeprefix("torch."))
                cache = cls(path, described["identity"], described["width"], dtype)
                if described["version"] == _VERSION and identity.items() <= cache.identity.items():
                    cache._load_segments()
                    found.append(cache)
        return found

    @staticmethod
    def _require_same(path: Path, described: dict[str, Any]) -> None:
        try:
            found = json.loads((path / "cache.json").read_text(encoding="utf-8"))
            differing = [
                f"{name}: cache has {found['identity'].get(name)}, this model has {value}"
                for name, value in described["identity"].items()
                if found["identity"].get(name) != value
            ]
            differing += [
                f"{name}: cache has {found[name]}, this model has {described[name]}"
                for name in ("version", "width", "dtype")
                if found[name] != described[name]
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(
                f"{path / 'cache.json'} is damaged.", hint="delete the folder; the cache is computed anew."
            ) from error
        if differing:
            raise CacheError(
                f"the reference cache in {path} belongs to another reference model.",
                problems=differing,
                hint="give another reference_cache_dir, or delete that folder.",
            )

    def missing(self, documents: Iterable[Document]) -> list[Document]:
        """Documents that are not in the cache, each once, in the order given."""
        seen: dict[bytes, Document] = {}
        for document in documents:
            key = document.key
            if key not in self._where and key not in seen and document.rows:
                seen[key] = document
        return list(seen.values())

    def size_of(self, documents: Sequence[Document]) -> int:
        """Bytes that these documents take on disk."""
        return sum(document.rows for document in documents) * self.row_bytes

    def unfinished_bytes(self, documents: Iterable[Document]) -> int:
        """Bytes that a cut-off build of these documents has taken of the disk, where it goes on.

        It may have been of more: anchors are not known before training goes on.
        """
        keys = [document.key for document in self.missing(documents)]
        size = 0
        for part in self._unfinished():
            with contextlib.suppress(FileNotFoundError):  # another process may give it up in between
                if part.stem == _segment_name(keys) or self._keys_of(part.stem).issuperset(keys):
                    size += bytes_on_disk(part)
        return size

    def _unfinished(self) -> list[Path]:
        """Data of segments that are being built, or whose build was cut off."""
        return [
            part
            for part in sorted(self.folder.glob("segment-*.bin"))
            if not part.name.endswith(".done.bin") and not part.with_suffix(".json").exists()
        ]

    def _keys_of(self, name: str) -> set[bytes]:
        """Of a segment's documents; none if that can't be read."""
        path = self.folder / f"{name}.index.npz"
        with contextlib.suppress(*_UNREADABLE), np.load(path, allow_pickle=False) as index:
            return {bytes(key) for key in index["keys"]}
        return set()

    def bytes_to_write(self, documents: Iterable[Document]) -> int:
        """Bytes that the disk must still have for these documents: neither in the cache nor reserved."""
        missing = self.missing(documents)
        return max(0, self.size_of(missing) - self.unfinished_bytes(missing))

    def require_room(self, documents: Iterable[Document], tokens: int) -> None:
        """Refuse early what `build` would refuse, so before anything long.

        Args:
            documents: all documents of a data set; only looked at if there may be too little room.
            tokens: in all of them.

        Raises:
            StorageError: if what is missing does not fit on the disk.
        """
        if tokens * self.row_bytes <= free_bytes(self.folder):
            return
        missing = self.missing(documents)
        if self.bytes_to_write(missing) > free_bytes(self.folder):
            for _ in self._close_cut_off_builds(missing):
                pass
        require_free(self.bytes_to_write(missing), self.folder)

    def build(
        self,
        model: nn.Module,
        documents: Iterable[Document],
        *,
        batch_tokens: int = 8192,
        rank: int = 0,
        processes: int = 1,
        barrier: Callable[[], None] = lambda: None,
        from_first: Callable[[Any], Any] = lambda value: value,
        on_size: Callable[[int], None] = lambda _: None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Compute what is missing; goes on where a cut-off build of the same documents has stopped.

        Args:
            model: the reference model, or the tuned model before training (its adapter is switched off).
            documents: all documents of a data set; those that are there already cost nothing.
            batch_tokens: tokens run through the model at once, padding included.
            rank: this process's number; every process computes its share of the documents.
            processes: how many there are. They must share the folder.
            barrier: waits for all processes.
            from_first: gives every process what the first one calls it with; called often enough that no process waits
                long in it.
            on_size: called once with the bytes that will be added, if any, before anything is computed.
            on_progress: called with documents done and documents to do.

        Returns:
            Bytes that were added.

        Raises:
            StorageError: before anything is computed, if it does not fit on the disk or can't be written.
            ModelError: if transformers itself has put an adapter into the model.
        """
        require_adapters_of_peft(model)
        todo = self.missing(documents)
        # Closing takes the lock that opening waits for: by now all have opened the folder.
        barrier()
        _in_turns(self._close_cut_off_builds(todo) if rank == 0 and todo else _nothing(), from_first)
        # Also with nothing to do: another process may have opened the folder when less was in it, and would wait here.
        barrier()
        self._load_segments()
        # Without what was finished there, as the first process sees it: between two looks another run may finish more,
        # and processes that don't do the same would wait for each other. What lacks later, lacked before.
        lacking = {document.key: document for document in todo}
        keys = from_first([key for key in lacking if key not in self._where])
        todo = [lacking[key] for key in keys]
        if not todo:
            return 0
        on_size(self.size_of(todo))
        name = _segment_name(keys)
        lock = FileLock(self.folder / f"{name}.lock")
        try:
            _in_turns(self._take_or_wait(lock) if rank == 0 else _nothing(), from_first)
            barrier()
            if not (self.folder / f"{name}.json").exists():
                self._build_segment(model, name, todo, batch_tokens, rank, processes, barrier, on_progress)
            barrier()
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        finally:
            if rank == 0:
                lock.release()
        self._load_segments()
        return self.size_of(todo)

    def _take_or_wait(self, lock: FileLock) -> Generator[None]:
        """Another run that builds the same documents is waited for."""
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning(
                "another run computes these rows for the reference cache in %s: waiting for it", self.folder
            )
            yield from _wait_for(lock)

    def _build_segment(
        self,
        model: nn.Module,
        name: str,
        todo: list[Document],
        batch_tokens: int,
        rank: int,
        processes: int,
        barrier: Callable[[], None],
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        rows = np.array([document.rows for document in todo], np.int64)
        first = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)
        data, done = self.folder / f"{name}.bin", self.folder / f"{name}.done.bin"
        if rank == 0:
            reserve(data, int(rows.sum()) * self.row_bytes)
            reserve(done, 4 * len(todo))
            # Before anything is computed: it tells a build of other documents what is in here.
            self._write_index(name, [document.key for document in todo], first, rows)
        barrier()
        hidden = np.memmap(data, np.uint8, "r+", shape=(int(rows.sum()), self.row_bytes))
        checksums = np.memmap(done, np.uint32, "r+", shape=(len(todo),))
        # A document that was written but not synced before a power cut has a checksum that does not fit: redo it. Each
        # process looks at its share, and tells the others by the file.
        for i in range(rank, len(todo), processes):
            if checksums[i] and _checksum(hidden[first[i] : first[i] + rows[i]]) != checksums[i]:
                checksums[i] = 0
        barrier()
        finished = np.asarray(checksums) != 0
        # All have seen the same before anyone adds to it: who shares the work otherwise leaves some of it out.
        barrier()
        # Long documents first: memory runs out at once or not at all. Documents are grouped in the same way whatever
        # is finished: in a batch of another shape they would round differently.
        order = sorted(range(len(todo)), key=lambda i: -len(todo[i].input_ids))
        batches = _batches([len(todo[i].input_ids) for i in order], batch_tokens)
        batches = [batch for batch in batches if not all(finished[order[i]] for i in batch)]
        mine = batches[rank::processes]
        # Under FSDP a forward needs all processes, so each runs as many batches as the others.
        while batches and len(mine) < -(-len(batches) // processes):
            mine.append(mine[-1] if mine else batches[0])
        device = next(model.parameters()).device
        pad = getattr(causal_model(model).config, "pad_token_id", None) or 0
        completed = int(finished.sum())
        with reference_mode(model):
            for batch in mine:
                indices = [order[i] for i in batch]
                states = self._hidden_of(model, [todo[i] for i in indices], pad, device)
                for index, state in zip(indices, states, strict=True):
                    hidden[first[index] : first[index] + rows[index]] = state
                hidden.flush()  # data reach the disk before the checksums that vouch for them
                for index, state in zip(indices, states, strict=True):
                    checksums[index] = _checksum(state)
                checksums.flush()
                completed = min(len(todo), completed + len(indices) * processes)
                if on_progress:
                    on_progress(completed, len(todo))
        barrier()
        if rank == 0:
            if not np.all(np.asarray(checksums)):
                raise CacheError(
                    f"{int((np.asarray(checksums) == 0).sum())} of {len(todo)} documents were not computed.",
                    hint="do all processes write to the same folder? Run again to go on.",
                )
            self._complete(name, len(todo), int(rows.sum()))

    def _write_index(
        self, name: str, keys: Sequence[bytes], first: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        with open(self.folder / f"{name}.index.npz", "wb") as file:
            np.savez(
                file, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16), first=first, rows=rows
            )
            _sync(file)

    def _complete(self, name: str, documents: int, rows: int) -> None:
        """Write a segment's description; all else of it is on the disk."""
        index_digest = xxhash.xxh3_128((self.folder / f"{name}.index.npz").read_bytes()).hexdigest()
        _write_json(
            self.folder / f"{name}.json", {"documents": documents, "rows": rows, "index": index_digest}
        )

    def _close_cut_off_builds(self, todo: Sequence[Document]) -> Generator[None]:
        """Keep what builds of other documents have finished, and free the rest, where no process is at work on it.

        Yields after each document, and while it waits for another run that does the same.

        Args:
            todo: what this build is of: it goes on with its own segment.
        """
        own, lock = _segment_name(document.key for document in todo), FileLock(self.folder / ".lock")
        try:
            # Who looks for room waits here, too, for what another process of this run frees.
            yield from _wait_for(lock)
            for name in (part.stem for part in self._unfinished() if part.stem != own):
                with contextlib.suppress(Timeout), FileLock(self.folder / f"{name}.lock", timeout=0):
                    if not (self.folder / f"{name}.json").exists():
                        yield from self._close_cut_off_build(name)
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        finally:
            lock.release()
        self._load_segments()
        if len(left := self.missing(todo)) < len(todo):
            # A build of less has a segment of another name, and the one that it had is cut off for good.
            yield from self._close_cut_off_builds(left)

    def _close_cut_off_build(self, name: str) -> Generator[None]:
        """Copy a segment's finished documents to one of their own and delete it; under its lock.

        They are copied, not moved within it: another process of a build whose first has ended may still write into it.
        """
        finished: dict[bytes, NDArray[np.uint8]] = {}
        # One without an index, from before the first document, has nothing to keep.
        with contextlib.suppress(*_UNREADABLE):
            with np.load(self.folder / f"{name}.index.npz", allow_pickle=False) as index:
                keys, first, rows = index["keys"], index["first"], index["rows"]
            hidden = np.memmap(
                self.folder / f"{name}.bin", np.uint8, "r", shape=(int(rows.sum()), self.row_bytes)
            )
            checksums = np.memmap(self.folder / f"{name}.done.bin", np.uint32, "r", shape=(len(keys),))
            for key, f, n, c in zip(map(bytes, keys), first, rows, checksums, strict=True):
                if c and key not in self._where and _checksum(hidden[f : f + n]) == c:
                    finished[key] = hidden[f : f + n]
                yield
        if finished and _segment_name(finished) == name:  # it lacks its description alone
            self._complete(name, len(finished), sum(map(len, finished.values())))
        elif not finished or (yield from self._keep(finished)):
            self._delete(name)

    def _delete(self, name: str) -> None:
        """Delete what there is of a segment that is not complete; under its lock."""
        for suffix in (".bin", ".done.bin", ".index.npz"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def _keep(self, finished: Mapping[bytes, NDArray[np.uint8]]) -> Generator[None, None, bool]:
        """Write documents, by their keys, as a complete segment; False where the disk has no room for it."""
        name = _segment_name(finished)
        try:
            with FileLock(self.folder / f"{name}.lock", timeout=0):
                if (self.folder / f"{name}.json").exists():
                    return True
                try:
                    yield from self._write_segment(name, finished)
                except OSError as error:  # what could not be reserved was not there
                    if not is_failed_write(error):
                        raise
                    self._delete(name)
                    return False
        except (Timeout, StorageError):  # a process is computing the same ones, or there is no room
            return False
        return True

    def _write_segment(self, name: str, finished: Mapping[bytes, NDArray[np.uint8]]) -> Generator[None]:
        rows = np.array([len(states) for states in finished.values()], np.int64)
        first = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)
        reserve(self.folder / f"{name}.done.bin", 4 * len(finished))
        reserve(self.folder / f"{name}.bin", int(rows.sum()) * self.row_bytes)
        checksums, written = [], 0
        with open(self.folder / f"{name}.bin", "r+b") as file:
            for states in finished.values():
                file.write(states.data)
                checksums.append(_checksum(states))
                written += states.nbytes
                if written >= _PIECE:
                    _sync(file)
                    written = 0
                yield
            _sync(file)
        with open(self.folder / f"{name}.done.bin", "r+b") as file:
            file.write(np.array(checksums, np.uint32).data)
            _sync(file)
        self._write_index(name, list(finished), first, rows)
        self._complete(name, len(finished), int(rows.sum()))

    def _hidden_of(
        self, model: nn.Module, documents: list[Document], pad: int, device: torch.device
    ) -> list[NDArray[np.uint8]]:
        """Hidden states to keep of each document, as bytes [rows, row_bytes]."""
        width = max(len(document.input_ids) for document in documents)
        ids = torch.full((len(documents), width), pad)
        labels = torch.full((len(documents), width), -100)
        mask = torch.zeros((len(documents), width), dtype=torch.long)
        for row, document in enumerate(documents):
            length = len(document.input_ids)
            ids[row, :length] = torch.as_tensor(document.input_ids)
            labels[row, :length] = torch.as_tensor(document.labels)
            mask[row, :length] = 1
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        hidden_BTH, _ = hidden_states(model, inputs)
        # In the order of the tokens, as `batch` reads it back.
        flat = find_positions(ids, labels, mask).aligned_order.sort().values
        states = hidden_BTH.flatten(0, 1)[flat.to(device)].to(self.dtype).contiguous().cpu()
        raw = states.view(torch.uint8).numpy().reshape(-1, self.row_bytes)
        return np.split(raw, np.cumsum([document.rows for document in documents])[:-1])

    def _load_segments(self) -> None:
        for described in sorted(self.folder.glob("segment-*.json")):
            if described.name in self._loaded:
                continue
            stem = described.with_suffix("")
            damaged = CacheError(
                f"the reference cache in {self.folder} is damaged ({stem.name}).",
                hint="delete the folder; the cache is computed anew.",
            )
            try:
                meta = json.loads(described.read_text(encoding="utf-8"))
                raw_index = Path(f"{stem}.index.npz").read_bytes()
                if xxhash.xxh3_128(raw_index).hexdigest() != meta["index"]:
                    raise damaged
                with np.load(Path(f"{stem}.index.npz"), allow_pickle=False) as index:
                    keys, first, rows = index["keys"], index["first"], index["rows"]
                hidden = np.memmap(f"{stem}.bin", np.uint8, "r", shape=(meta["rows"], self.row_bytes))
                checksums = np.memmap(f"{stem}.done.bin", np.uint32, "r", shape=(meta["documents"],))
                sizes = (Path(f"{stem}.bin").stat().st_size, Path(f"{stem}.done.bin").stat().st_size)
                if sizes != (meta["rows"] * self.row_bytes, 4 * meta["documents"]):
                    raise damaged
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise damaged from error
            for row, key in enumerate(keys):
                self._where[key.tobytes()] = (len(self._segments), row)
            self._segments.append(_Segment(hidden, first, rows, checksums))
            self._loaded.add(described.name)

    def _read(self, key: bytes) -> NDArray[np.uint8]:
        number, row = self._where[key]
        segment = self._segments[number]
        first = int(segment.first[row])
        states = segment.hidden[first : first + int(segment.rows[row])]
        if key not in self._checked:
            if _checksum(states) != int(segment.checksums[row]):
                raise CacheError(
                    f"the reference cache in {self.folder} is damaged: a checksum does not fit.",
                    hint="delete the folder; the cache is computed anew.",
                )
            self._checked.add(key)
        return states

    def verify(self) -> int:
        """Read everything back and compare checksums.

        Returns:
            Number of documents that were read.

        Raises:
            CacheError: at the first that does not fit.
        """
        self._checked.clear()
        for key in self._where:
            self._read(key)
        return len(self._where)

    def batch(self, inputs: dict[str, Any], positions: Positions) -> Tensor:
        """Hidden states [A, width] at the aligned positions of a batch, on the batch's device.

        Args:
            inputs: `input_ids` and `labels` [B, T], and `attention_mask` or `position_ids`.
            positions: of this batch, sampled or not.

        Raises:
            CacheError: if a document of the batch is not in the cache.
        """
        input_ids, labels = inputs["input_ids"].cpu(), inputs["labels"].cpu()
        mask, position_ids = inputs.get("attention_mask"), inputs.get("position_ids")
        mask = None if mask is None else mask.cpu()
        position_ids = None if position_ids is None else position_ids.cpu()
        flat_ids, flat_labels = input_ids.reshape(-1).numpy(), labels.reshape(-1).numpy()
        wanted = positions.aligned_order.cpu()
        slot = torch.full((input_ids.numel(),), -1)
        slot[wanted] = torch.arange(wanted.numel())
        # The row of a position among its document's rows: how many kept positions come before it.
        kept = torch.zeros(input_ids.numel(), dtype=torch.long)
        kept[find_positions(input_ids, labels, mask, position_ids).aligned_order] = 1
        before = kept.cumsum(0) - kept
        out = torch.empty((wanted.numel(), self.row_bytes), dtype=torch.uint8)
        for begin, end in document_spans(mask, position_ids, tuple(input_ids.shape)):
            here = slot[begin:end]
            selected = (here >= 0).nonzero().flatten()
            if selected.numel() == 0:
                continue
            key = _key(flat_ids[begin:end], flat_labels[begin:end])
            if key not in self._where:
                raise CacheError(
                    f"a document of {end - begin} tokens is not in the reference cache in {self.folder}.",
                    hint="the cache holds whole documents of the data that it was built for: build it for this data "
                    "too, don't truncate, mask or split rows afterwards (packing_strategy='wrapped' does, and a "
                    "data_collator of your own may), or use reference='adapter_off' (without an adapter: "
                    "'frozen_copy').",
                )
            rows = (before[begin:end][selected] - before[begin]).numpy()
            out[here[selected]] = torch.from_numpy(self._read(key)[rows])
        return out.view(self.dtype).view(wanted.numel(), self.width).to(inputs["input_ids"].device)


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of documents, sorted from long to short, in batches whose padded size stays within the limit."""
    batches: list[list[int]] = []
    for index in range(len(lengths)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _checksum(states: NDArray[np.uint8]) -> int:
    """crc32, never 0, which marks what is missing."""
    return zlib.crc32(np.ascontiguousarray(states).data) or 1


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"can't write the reference cache in {folder}: {error.strerror}.",
        hint="give a folder that can be written as reference_cache_dir, or use reference='adapter_off'.",
    )


def _nothing() -> Generator[None]:
    yield from ()


def _in_turns(work: Generator[None], from_first: Callable[[Any], Any]) -> None:
    """Do what all processes wait for; those that only wait have nothing to do."""

    def is_left() -> bool:
        until = time.monotonic() + _TURN
        return any(time.monotonic() >= until for _ in work)

    with contextlib.closing(work):
        while from_first(is_left()):
            pass


def _wait_for(lock: FileLock) -> Generator[None]:
    while True:
        try:
            lock.acquire(timeout=_TURN)
            return
        except Timeout:
            yield


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """Write beside and rename, so that the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            _sync(file)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
