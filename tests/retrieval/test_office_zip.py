"""Hostile zip archives are refused before anything is unpacked."""

from __future__ import annotations

import io
import struct
import time
import zipfile

import pytest

from selfaug.retrieval import office_zip
from selfaug.retrieval.document import UnreadableDocument
from selfaug.retrieval.office_zip import check_office_zip


def archive(parts: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as made:
        for name, data in parts.items():
            made.writestr(name, data)
    return file.getvalue()


def check(data: bytes) -> None:
    check_office_zip(data, ".docx", "word/")


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    """The archive with a field of its only directory entry changed."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, changed.index(b"PK\x01\x02") + offset, value)
    return bytes(changed)


def test_an_ordinary_archive_passes() -> None:
    check(archive({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<document/>"}))


def test_a_zip_bomb_is_refused_at_once() -> None:
    bomb = archive({"word/document.xml": bytes(60 << 20)})
    assert len(bomb) < 100_000
    began = time.monotonic()
    with pytest.raises(UnreadableDocument, match=r"unpack to 63 MB from 0\.06 MB"):
        check(bomb)
    assert time.monotonic() - began < 1


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive({"word/document.xml": bytes(range(256)) * 40}, zipfile.ZIP_STORED)
    monkeypatch.setattr(office_zip, "MAX_UNPACKED_XML", 10_000)
    with pytest.raises(UnreadableDocument, match="split it"):
        check(data)
    monkeypatch.setattr(office_zip, "MAX_UNPACKED_XML", 20_000)
    check(data)
    monkeypatch.setattr(office_zip, "MAX_MEMBERS", 0)
    with pytest.raises(UnreadableDocument, match="1 parts"):
        check(data)


def test_encrypted_members_other_packings_and_other_archives() -> None:
    data = archive({"word/document.xml": b"<document/>"})
    with pytest.raises(UnreadableDocument, match="password-protected"):
        check(patched(data, 8, "<H", 1))
    with pytest.raises(UnreadableDocument, match="packed in a way"):
        check(archive({"word/document.xml": bytes(100)}, zipfile.ZIP_BZIP2))
    with pytest.raises(UnreadableDocument, match=r"not \.docx"):
        check(archive({"xl/workbook.xml": b"<workbook/>"}))
    with pytest.raises(UnreadableDocument, match="damaged"):
        check(data[:-30])


def test_a_member_that_lies_about_its_size_is_not_read_beyond_it() -> None:
    data = patched(archive({"word/document.xml": bytes(30 << 20)}), 24, "<L", 1000)
    check(data)  # the directory alone can't tell
    with zipfile.ZipFile(io.BytesIO(data)) as opened, pytest.raises(zipfile.BadZipFile, match="CRC"):
        opened.read("word/document.xml")
