"""An index of a few texts, without files of documents."""

from __future__ import annotations

from pathlib import Path

from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index, IndexWriter

SETTINGS = {"language": "english", "chunk_tokens": 64}


def chunk(document: str, text: str, number: int = 0, page: int | None = None) -> Chunk:
    return Chunk(f"{document}#{number}", document, document.removesuffix(".md"), text, page)


def write(folder: Path, texts: dict[str, list[str]]) -> Index:
    """An index of documents by path, a chunk for each of their texts."""
    IndexWriter(folder, SETTINGS).write(
        (
            {"path": path, "digest": f"digest of {path}", "title": path},
            [chunk(path, text, number) for number, text in enumerate(found)],
        )
        for path, found in texts.items()
    )
    return Index(folder)
