"""Quick hashes of a model's weights and tokeniser as they are stored, to tell another one under the same name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import xxhash
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from selfaug.errors import ModelError
from selfaug.model.loading import resolve_name

__all__ = ["stored_file", "stored_tokenizer_hash", "stored_weights_hash"]

_CHUNKS = 8
_CHUNK_BYTES = 4096

# What tokenisers are made of where they have no tokenizer.json.
_VOCABULARIES = (
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
)

# Of a tokenizer.json: what was set for the last text, and is set anew for the next one.
_NOT_ITS_OWN = ("padding", "truncation")


def stored_weights_hash(model: str | os.PathLike[str]) -> str | None:
    """Hash of names, types, shapes and a sample of each tensor in a model's safetensors.

    Whatever the weights are loaded as, and however they are split over files, it is the same. It reads some 10 MB of
    a large model instead of all: fine-tuning, merging and quantising change every sample; a change of a few values
    need not show, for which `fingerprint` reads everything.

    Args:
        model: folder, hub id, or `DEMO_MODEL`; one that has been loaded, so that a hub's files are in its cache.

    Returns:
        None if there are no safetensors.

    Raises:
        ModelError: if they are damaged.
    """
    tensors: dict[str, tuple[Path, dict[str, Any], int]] = {}
    for file in _weight_files(resolve_name(model)):
        for name, described, begin in _tensors(file):
            tensors[name] = (file, described, begin)
    if not tensors:
        return None
    digest = xxhash.xxh3_128()
    for name, (file, described, begin) in sorted(tensors.items()):
        digest.update(f"{name} {described['dtype']} {described['shape']}".encode())
        first, end = described["data_offsets"]
        with file.open("rb") as stream:
            for chunk in _sample(stream, begin + first, end - first):
                digest.update(chunk)
    return digest.hexdigest()


def stored_tokenizer_hash(model: str | os.PathLike[str]) -> str | None:
    """Hash of a model's tokeniser and chat template: of what a text, and a chat, becomes as token ids.

    Args:
        model: as for `stored_weights_hash`.

    Returns:
        None if it has neither, as files that are known.
    """
    name = resolve_name(model)
    parts = {"chat template": _chat_template(name), "tokenizer.json": _tokenizer_json(name)}
    if parts["tokenizer.json"] is None:
        files = ((file, stored_file(name, file)) for file in _VOCABULARIES)
        parts |= {file: found.read_bytes() for file, found in files if found is not None}
    digest = xxhash.xxh3_128()
    found = {part: content for part, content in parts.items() if content is not None}
    for part, content in found.items():
        digest.update(f"{part} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest() if found else None


def _chat_template(name: str) -> bytes | None:
    """A file of its own goes before what the tokeniser's settings say, as in transformers."""
    own = stored_file(name, "chat_template.jinja")
    if own is not None:
        return own.read_bytes()
    settings = stored_file(name, "tokenizer_config.json")
    template = None if settings is None else _json(settings).get("chat_template")
    return None if template is None else json.dumps(template, sort_keys=True).encode()


def _tokenizer_json(name: str) -> bytes | None:
    file = stored_file(name, "tokenizer.json")
    if file is None:
        return None
    content = {key: value for key, value in _json(file).items() if key not in _NOT_ITS_OWN}
    return json.dumps(content, sort_keys=True).encode()


def _json(file: Path) -> dict[str, Any]:
    """
    Raises:
        ModelError: if it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{file} can't be read: {error}", hint="the file is damaged: copy or download the model again."
        ) from error
    return content


def _weight_files(name: str) -> Iterable[Path]:
    """The safetensors that transformers loads: one, or those of an index."""
    whole = stored_file(name, "model.safetensors")
    if whole is not None:
        return [whole]
    index = stored_file(name, "model.safetensors.index.json")
    if index is None:
        return []
    parts = sorted(set(_json(index)["weight_map"].values()))
    return [index.parent / part for part in parts]


def stored_file(name: str, file: str) -> Path | None:
    """A file of a model's folder, or of the hub's cache; None if it isn't there.

    Args:
        name: folder or hub id.
        file: its name.
    """
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:  # a folder that isn't there, by a name that none of the hub can have
        return None
    return Path(found) if isinstance(found, str) else None


def _tensors(file: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Name and description of each tensor in a safetensors file, and where its data begin."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError, OverflowError) as error:
        raise ModelError(
            f"the weights in {file} can't be read: {error}",
            hint="the file is damaged: copy or download the model again.",
        ) from error
    for name, described in header.items():
        if name != "__metadata__":
            yield name, described, 8 + length


def _sample(stream: BinaryIO, begin: int, size: int) -> Iterator[bytes]:
    """The bytes of a small tensor; of a large one, chunks from its first to its last."""
    if size <= _CHUNKS * _CHUNK_BYTES:
        stream.seek(begin)
        yield stream.read(size)
        return
    for number in range(_CHUNKS):
        stream.seek(begin + (size - _CHUNK_BYTES) * number // (_CHUNKS - 1))
        yield stream.read(_CHUNK_BYTES)
