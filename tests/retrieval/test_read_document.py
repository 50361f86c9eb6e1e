"""One file, whatever its ending: a document, or one line that says why not."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import docx
import pytest

from selfaug.retrieval import read_document as module
from selfaug.retrieval.document import UnreadableDocument
from selfaug.retrieval.read_document import ENDINGS, read_document


def reason(file: Path, **how: int) -> str:
    with pytest.raises(UnreadableDocument) as caught:
        read_document(file, file.name, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, name: str, data: bytes) -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def test_title_digest_and_name(tmp_path: Path) -> None:
    data = b"# Pumps\n\nThey pump."
    document = read_document(written(tmp_path, "a.MD", data), "sub/a.MD")
    assert document.path == "sub/a.MD"
    assert document.title == "Pumps"
    assert document.digest == hashlib.sha256(data).hexdigest()
    assert read_document(written(tmp_path, "b.txt", b"text"), "sub/b.c.txt").title == "b.c"
    assert read_document(written(tmp_path, "c.html", b"<title>T</title><h1>H</h1>"), "c.html").title == "T"


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        # Neither whose nor when: the passages of two such files could not be told apart.
        ("norvik_2023", "# Summary\n\nRevenue rose.", "norvik_2023: Summary"),
        ("norvik_2023", "# Summary\n\nRevenue rose.\n\n# Results\n\nIt rose.", "norvik_2023: Summary"),
        ("q3", "# Norvik\n\nIt pumps.", "q3: Norvik"),
        # The heading of all that follows.
        ("report", "# Norvik 2023\n\nIt pumps.\n\n## Results\n\nIt rose.", "Norvik 2023"),
        # A cover.
        ("report", "# Norvik 2023\n\n# Results\n\nIt rose.", "Norvik 2023"),
        # A name that says nothing more.
        ("2023-annual", "# Annual report 2023\n\nIt pumps.", "Annual report 2023"),
        ("d437610d10k", "# Norvik\n\nIt pumps.", "Norvik"),
        ("3f2a-9cfe-44b1-aaef-00", "# Norvik\n\nIt pumps.", "Norvik"),
        ("index", "# Norvik\n\nIt pumps.", "Norvik"),
        ("Untitled document (2)", "# Norvik\n\nIt pumps.", "Norvik"),
        ("scan_0001-final", "# Norvik\n\nIt pumps.", "Norvik"),
        ("dQw4w9WgXcQ", "# Norvik\n\nIt pumps.", "Norvik"),
        # Names whose parts are words.
        ("Q3FY23Report", "# Norvik\n\nIt pumps.", "Q3FY23Report: Norvik"),
        ("McDonalds10k", "# Summary\n\nIt pumps.", "McDonalds10k: Summary"),
    ],
)
def test_a_heading_of_a_section_is_no_title_alone(tmp_path: Path, name: str, text: str, title: str) -> None:
    file = written(tmp_path, f"{name}.md", text.encode())
    assert read_document(file, f"reports/{name}.md").title == title


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_every_ending_refuses_what_is_empty_or_random_in_one_line(tmp_path: Path, ending: str) -> None:
    assert reason(written(tmp_path, f"a{ending}", b"")) == "empty"
    assert reason(written(tmp_path, f"a{ending}", b" \n\t")) == "empty"
    assert reason(written(tmp_path, f"a{ending}", bytes(range(256)) * 8))
    assert reason(written(tmp_path, f"a{ending}", b"PK\x03\x04" + bytes(range(256)) * 8))


def test_wrong_endings_are_named(tmp_path: Path) -> None:
    docx.Document().save(str(tmp_path / "a.docx"))
    word = (tmp_path / "a.docx").read_bytes()
    assert (
        reason(written(tmp_path, "b.docx", b"%PDF-1.7 and so on")) == "a PDF, though named .docx; rename it"
    )
    assert "zip archive" in reason(written(tmp_path, "b.txt", word))
    assert "not .xlsx" in reason(written(tmp_path, "b.xlsx", word))
    assert "not a PDF" in reason(written(tmp_path, "b.pdf", b"<html></html>"))
    assert "not a Word document" in reason(written(tmp_path, "b.docx", b"plain text"))
    assert "old Office file" in reason(written(tmp_path, "b.csv", bytes.fromhex("d0cf11e0a1b11ae1") + b"x"))
    assert "ends in .zip" in reason(written(tmp_path, "b.zip", word))
    assert "ends in nothing" in reason(written(tmp_path, "b", word))


def test_empty_documents_have_no_text(tmp_path: Path) -> None:
    docx.Document().save(str(tmp_path / "a.docx"))
    assert reason(tmp_path / "a.docx") == "no text"


def test_damaged_documents(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("text")
    document.save(str(tmp_path / "a.docx"))
    data = bytearray((tmp_path / "a.docx").read_bytes())
    assert "damaged" in reason(written(tmp_path, "b.docx", bytes(data[: len(data) // 2])))
    place = data.index(b"word/document.xml") + 60
    data[place : place + 40] = bytes(40)
    assert "damaged" in reason(written(tmp_path, "c.docx", bytes(data)))


def test_large_files_are_refused_without_being_read(tmp_path: Path) -> None:
    for ending in (".txt", ".pdf", ".docx"):
        file = tmp_path / f"large{ending}"
        with file.open("wb") as opened:
            opened.truncate(300_000_000)  # takes no place on the disk
        began = time.monotonic()
        assert "300 MB, more than the limit of 200 MB" in reason(file)
        assert time.monotonic() - began < 0.5
    assert "limit of 0 MB" in reason(written(tmp_path, "a.txt", b"some text"), max_bytes=5)


def test_too_much_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 10)
    assert "more than 10 characters" in reason(written(tmp_path, "a.txt", b"twelve chars"))


def test_pipes_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "not a regular file" in reason(tmp_path / "a.txt")
    (tmp_path / "b.txt").mkdir()
    assert "is a directory" in reason(tmp_path / "b.txt")
    assert "no such file" in reason(tmp_path / "c.txt")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    file = written(tmp_path, "a.txt", b"text")
    file.chmod(0)
    assert "permission denied" in reason(file)


def test_refused_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "open", refuse)
    assert reason(written(tmp_path, "a.txt", b"text")) == "can't be opened: permission denied"


def test_recursion_of_a_parser_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dive(*arguments: object) -> object:
        return dive(*arguments)

    monkeypatch.setattr("selfaug.retrieval.markup_text.read_plain_text", dive)
    assert reason(written(tmp_path, "a.txt", b"text")) == "nested too deeply"
