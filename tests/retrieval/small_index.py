"""An index of a few texts, without files of documents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index, IndexWriter

Documents = Iterable[tuple[dict[str, Any], list[Chunk] | None]]

SETTINGS = {"language": "english", "chunk_tokens": 64}


def chunk(document: str, text: str, number: int = 0, page: int | None = None) -> Chunk:
    return Chunk(f"{document}#{number}", document, document.removesuffix(".md"), text, page)


def write(folder: Path, texts: dict[str, list[str]]) -> Index:
    """An index of documents by path, a chunk for each of their texts."""
    documents = (
        (
            {"path": path, "digest": f"digest of {path}", "title": path},
            [chunk(path, text, number) for number, text in enumerate(found)],
        )
        for path, found in texts.items()
    )
    return write_documents(folder, documents)


def write_documents(folder: Path, documents: Documents, settings: dict[str, Any] = SETTINGS) -> Index:
    """An index of documents, each with its chunks."""
    with IndexWriter(folder, settings) as writer:
        writer.write(documents)
        writer.take_its_place()
    return Index(folder)
