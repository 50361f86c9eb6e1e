"""The reference cache: hidden states of the reference model at the prompt positions, computed once, kept on disk.

A cache is a folder that belongs to one reference model (`cache.json` holds its fingerprint) and grows by pieces:

    cache.json                      what the cache belongs to
    piece-<id>.safetensors          some documents: their keys, how many hidden states each has, a checksum of each, and
                                    the hidden states, one document after the other (memory-mapped)

Each process that computes writes pieces of its own, every half a minute or so, each beside its place and renamed: a
build that was cut off loses the piece that it was at, and whoever needs the other documents finds them.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from filelock import Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from selfaug.core.positions import Positions, document_spans, find_positions
from selfaug.errors import CacheError, StorageError
from selfaug.file_lock import FileLock
from selfaug.model.adapters import require_adapters_of_peft
from selfaug.model.disk_room import TRIED, free_bytes, require_free, users_caches
from selfaug.model.fingerprint import fingerprint
from selfaug.model.hidden import causal_model, hidden_states, reference_mode
from selfaug.records import is_failed_write

__all__ = ["PASSES_THAT_PAY", "SECONDS_UNTIL_SEEN", "Document", "ReferenceCache"]

logger = logging.getLogger(__name__)

_VERSION = 2

# Processes that wait in a collective operation give up after a while, half an hour as transformers has it: where the
# first waits for another run, the others hear every so many seconds that it goes on.
_TURN = 30.0

# A piece is written when it has so many bytes, or so many seconds of work are in it.
_PIECE, _PIECE_SECONDS = 2**26, 30.0

# What is left of a piece that was being written when its process was killed; no write takes so many seconds.
_ABANDONED = 3600.0

SECONDS_UNTIL_SEEN = 120.0
"""Within so many, another machine sees what was written to a folder that it shares: NFS looks once a minute or so."""

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


def _name(keys: Iterable[bytes]) -> str:
    """Of the documents with these keys, in this order."""
    return hashlib.blake2b(b"".join(keys), digest_size=8).hexdigest()


def _key(input_ids: NDArray[np.int64], labels: NDArray[np.int64]) -> bytes:
    digest = hashlib.blake2b(input_ids.tobytes(), digest_size=16)
    digest.update(np.packbits(_is_prompt(labels)).tobytes())
    return digest.digest()


@dataclass
class _Piece:
    """Some documents, memory-mapped."""

    hidden: NDArray[np.uint8]  # [rows, bytes of a hidden state]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    checksums: NDArray[np.int64]


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
        self._pieces: list[_Piece] = []
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
            named_by = json.dumps([_VERSION, identity], sort_keys=True)
            folder = users_caches() / hashlib.blake2b(named_by.encode(), digest_size=8).hexdigest()
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
                    _write_whole(path / "cache.json", json.dumps(described, indent=1).encode())
        except OSError as error:
            raise _not_writable(path, error) from error
        cache = cls(path, identity, width, dtype)
        cache._load_pieces()
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
                    cache._load_pieces()
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

    def bytes_to_write(self, documents: Iterable[Document]) -> int:
        """Bytes that the disk must still have for these documents."""
        return self.size_of(self.missing(documents))

    def require_room(self, documents: Iterable[Document], tokens: int) -> None:
        """Refuse early what `build` would refuse, so before anything long.

        Args:
            documents: all documents of a data set; only looked at if there may be too little room.
            tokens: in all of them.

        Raises:
            StorageError: if what is missing does not fit on the disk.
        """
        if tokens * self.row_bytes > free_bytes(self.folder):
            require_free(self.bytes_to_write(documents), self.folder)

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
        """Compute what is missing; of a build that was cut off, all but the last pieces is there.

        Args:
            model: the reference model, or the tuned model before training (its adapter is switched off).
            documents: all documents of a data set; those that are there already cost nothing.
            batch_tokens: tokens run through the model at once, padding included.
            rank: this process's number; every process computes its share of the documents.
            processes: how many there are. They must share the folder, on several machines too.
            barrier: waits for all processes.
            from_first: gives every process what the first one calls it with, and so waits for all; called often enough
                that no process waits long in it.
            on_size: called once with the bytes that will be added, if any, before anything is computed.
            on_progress: called with documents done and documents to do.

        Returns:
            Bytes that were added.

        Raises:
            StorageError: if it does not fit on the disk or can't be written; what has been computed by then is kept.
            ModelError: if transformers itself has put an adapter into the model.
        """
        require_adapters_of_peft(model)
        wanted = {document.key: document for document in documents if document.rows}
        # As the first process sees it: between two looks another run may finish more, and processes that don't do the
        # same would wait for each other.
        if not (keys := from_first(self._lacking(wanted))):
            self._load_pieces()
            return 0
        lock = FileLock(self.folder / f"{_name(wanted)}.lock")
        try:
            self._take(lock, rank, from_first)
            self._load_pieces()
            if keys := from_first(self._lacking(wanted)):
                size = self.size_of([wanted[key] for key in keys])
                on_size(size)
                if rank == 0:
                    self._delete_abandoned()
                    require_free(size, self.folder)
                self._compute(model, wanted, keys, batch_tokens, rank, processes, on_progress)
            barrier()
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        finally:
            if rank == 0:
                lock.release()
        self._load_pieces()
        until = time.monotonic() + SECONDS_UNTIL_SEEN
        while (left := self._lacking(wanted)) and time.monotonic() < until:
            time.sleep(1.0)
            self._load_pieces()
        if left:
            raise CacheError(
                f"{len(left):,} of {len(wanted):,} documents were not computed.",
                hint="do all processes write to the same folder? Run again to go on.",
            )
        return size if keys else 0

    def _lacking(self, keys: Iterable[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self._where]

    def _take(self, lock: FileLock, rank: int, from_first: Callable[[Any], Any]) -> None:
        """The first process takes the lock for all; another run that computes the same documents is waited for."""
        seconds, taken = 0.0, rank > 0
        while not from_first(taken):
            if rank == 0:
                try:
                    lock.acquire(timeout=seconds)
                    taken = True
                except Timeout:
                    if not seconds:
                        logger.warning(
                            "another run computes these rows for the reference cache in %s: waiting for it",
                            self.folder,
                        )
            seconds = _TURN

    def _compute(
        self,
        model: nn.Module,
        wanted: Mapping[bytes, Document],
        keys: Sequence[bytes],
        batch_tokens: int,
        rank: int,
        processes: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """This process's share of the documents with these keys, in pieces.

        Args:
            model, batch_tokens, rank, processes, on_progress: as of `build`.
            wanted: all documents of the data set, each once.
            keys: of those that are missing.
        """
        # Long documents first: memory runs out at once or not at all. All are grouped, and not what is missing: a build
        # that goes on would make batches of other shapes, which round differently.
        order = sorted(wanted, key=lambda key: -len(wanted[key].input_ids))
        groups = _batches([len(wanted[key].input_ids) for key in order], batch_tokens)
        missing = set(keys)
        batches = [left for group in groups if (left := [order[i] for i in group if order[i] in missing])]
        mine = batches[rank::processes]
        # Under FSDP a forward needs all processes, so each runs as many batches as the others.
        idle = -(-len(batches) // processes) - len(mine)
        device = next(model.parameters()).device
        pad = getattr(causal_model(model).config, "pad_token_id", None) or 0
        piece: dict[bytes, NDArray[np.uint8]] = {}
        unwritten = self.size_of([wanted[key] for batch in mine for key in batch])
        most = max(_PIECE, unwritten // 1000)  # files of a process: there may be so many maps, and no more
        completed, begun = 0, time.monotonic()
        with reference_mode(model):
            for number, batch in enumerate([*mine, *batches[:1] * idle], 1):
                states = self._hidden_of(model, [wanted[key] for key in batch], pad, device)
                if number <= len(mine):
                    piece.update(zip(batch, states, strict=True))
                size = sum(states.nbytes for states in piece.values())
                if size >= most or number == len(mine) or time.monotonic() - begun >= _PIECE_SECONDS:
                    self._write_piece(piece)
                    piece, unwritten, begun = {}, unwritten - size, time.monotonic()
                    require_free(unwritten, self.folder)  # before others have filled the disk
                completed = min(len(keys), completed + len(batch) * processes)
                if on_progress:
                    on_progress(completed, len(keys))

    def _write_piece(self, piece: Mapping[bytes, NDArray[np.uint8]]) -> None:
        """Write documents, by their keys.

        Raises:
            StorageError: if the disk has no room for them, or a quota doesn't allow it.
        """
        if not piece:
            return
        index: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(piece), np.uint8).reshape(-1, 16),
            "rows": np.array([len(states) for states in piece.values()], np.int64),
            "checksums": np.array([_checksum(states) for states in piece.values()], np.int64),
        }
        tensors = {"hidden": np.concatenate(list(piece.values())), **index}
        try:
            _write_whole(
                self.folder / f"piece-{_name(piece)}.safetensors", save(tensors, {"index": _digest(index)})
            )
        except OSError as error:
            if not is_failed_write(error):
                raise
            raise StorageError(
                f"the reference cache in {self.folder} can't grow: the disk is full or a quota is reached.",
                hint="make room, and run again: what has been computed is kept. Or give a folder on a larger disk as "
                "reference_cache_dir.",
            ) from error

    def _delete_abandoned(self) -> None:
        for partial in self.folder.glob(".piece-*"):
            with contextlib.suppress(FileNotFoundError):  # another run has deleted it, or renamed it
                if time.time() - partial.stat().st_mtime > _ABANDONED:
                    partial.unlink()

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

    def _load_pieces(self) -> None:
        for path in sorted(self.folder.glob("piece-*.safetensors")):
            if path.name in self._loaded:
                continue
            damaged = CacheError(
                f"the reference cache in {self.folder} is damaged ({path.name}).",
                hint="delete that file; what it held is computed anew.",
            )
            try:
                with safe_open(path, "np") as file:
                    index = {name: file.get_tensor(name) for name in ("keys", "rows", "checksums")}
                    if file.metadata()["index"] != _digest(index):
                        raise damaged
                hidden = _mapped(path, "hidden")
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                raise damaged from error
            rows = index["rows"]
            if hidden.shape != (rows.sum(), self.row_bytes):
                raise damaged
            for place, key in enumerate(index["keys"]):
                self._where[key.tobytes()] = (len(self._pieces), place)
            self._pieces.append(_Piece(hidden, np.cumsum(rows) - rows, rows, index["checksums"]))
            self._loaded.add(path.name)

    def _read(self, key: bytes) -> NDArray[np.uint8]:
        number, place = self._where[key]
        piece = self._pieces[number]
        first = int(piece.first[place])
        states = piece.hidden[first : first + int(piece.rows[place])]
        if key not in self._checked:
            if _checksum(states) != int(piece.checksums[place]):
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
    return zlib.crc32(np.ascontiguousarray(states).data)


def _digest(index: Mapping[str, NDArray[Any]]) -> str:
    return xxhash.xxh3_128(
        b"".join(np.ascontiguousarray(part).tobytes() for part in index.values())
    ).hexdigest()


def _mapped(path: Path, name: str) -> NDArray[np.uint8]:
    """A tensor of bytes of a safetensors file, mapped to read: safetensors reads it whole, or maps it to be written."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        described = json.loads(file.read(length))[name]
    return np.memmap(
        path, np.uint8, "r", offset=8 + length + described["data_offsets"][0], shape=tuple(described["shape"])
    )


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"can't write the reference cache in {folder}: {error.strerror}.",
        hint="give a folder that can be written as reference_cache_dir, or use reference='adapter_off'.",
    )


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside and rename, so that the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
