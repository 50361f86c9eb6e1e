"""Words and phrases that mean the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_index import SETTINGS, chunk, write_documents

from selfaug.errors import ConfigError
from selfaug.retrieval.glossary import Glossary, read_glossary
from selfaug.retrieval.tokens import Words

GROUPS = [["revenue", "top line", "sales"], ["gross margin", "margin before overheads"], ["margin", "spread"]]


def meanings(text: str) -> list[str]:
    words = Words()
    return Glossary(GROUPS, words.stems).meanings(words.stems(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Top Line of North", ["=revenue"]),
        ("a sale, and revenues", ["=revenue", "=revenue"]),  # without their endings
        ("the gross margin", ["=gross margin"]),  # and not "margin"
        ("a gross error of margins", ["=margin"]),
        ("margin before tax", ["=margin"]),
        ("margin before overheads", ["=gross margin"]),
        ("the line on top", []),
        ("top", []),
        ("", []),
    ],
)
def test_the_longest_phrase_says_what_is_meant(text: str, expected: list[str]) -> None:
    assert meanings(text) == expected


def test_a_meaning_counts_twice_in_a_question() -> None:
    words = Words("english", GROUPS)
    assert words("Sales of North") == ["sale", "north", "=revenue"]
    assert words.of_question("Sales of North") == ["sale", "north", "=revenue", "=revenue"]
    assert Words().of_question("Sales of North") == Words()("Sales of North") == ["sale", "north"]


def test_a_passage_is_found_by_another_word(tmp_path: Path) -> None:
    texts = ["Revenue was $4 million.", "The new line is good.", "Staff: 7."]

    def find(question: str, glossary: list[list[str]]) -> list[str]:
        chunks = [chunk("a.md", text, number) for number, text in enumerate(texts)]
        documents = [({"path": "a.md", "digest": "d", "title": "A"}, chunks)]
        settings = {**SETTINGS, "glossary": glossary}
        index = write_documents(tmp_path / str(len(glossary)), documents, settings)
        return [found.id for found in index.search(question, 3)]

    assert find("How large was the top line?", []) == ["a.md#1"]
    assert find("How large was the top line?", GROUPS)[0] == "a.md#0"
    assert find("How large were sales?", []) == []
    assert find("How large were sales?", GROUPS) == ["a.md#0"]


def test_a_file_has_a_group_a_line(tmp_path: Path) -> None:
    file = tmp_path / "glossary.txt"
    file.write_text(
        "\ufeff# of the firm\n\n revenue, Top line ,sales # and no more\n\nNorth Inc., NRTH\r\n",
        encoding="utf-8",
    )
    assert read_glossary(file, Words().stems) == [["revenue", "Top line", "sales"], ["North Inc.", "NRTH"]]


def test_what_is_wrong_is_told_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "glossary.txt"
    file.write_text("revenue, sales\nalone\nprofit,, income\nturnover, Sale\ncost, &\n")
    with pytest.raises(ConfigError, match="can't be used") as caught:
        read_glossary(file, Words().stems)
    assert caught.value.problems == [
        f"{file}:2: 'alone' has nothing that means the same",
        f"{file}:3: there is nothing between two commas",
        f"{file}:4: 'Sale' is in line 1 too; join the lines, or say it in more words",
        f"{file}:5: '&' is no word",
    ]
    assert "revenue, sales, top line" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8"), (b"# empty\n", "it has no group")],
)
def test_a_file_that_is_no_glossary(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "glossary.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_glossary(file, Words().stems)
    assert why in str(caught.value)
    assert str(file) in str(caught.value)
