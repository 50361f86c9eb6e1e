"""Questions whose answer stands in several places, each with words of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from small_index import write_documents

from selfaug.errors import DataError
from selfaug.phases.prepared_rows import pairs_with_gold
from selfaug.phases.question_files import load_pairs
from selfaug.records import write_lines
from selfaug.retrieval import pairs
from selfaug.retrieval.chunking import Chunk, Chunker, count_words
from selfaug.retrieval.document import Block, Document
from selfaug.retrieval.folder_files import folder_files
from selfaug.retrieval.index import Index
from selfaug.retrieval.pairs import Pair, Place, find_gold

Make = Callable[[dict[str, list[str]]], Index]

FIRM = {
    "2023.md": ["Revenue (in million): 61.", "Profit (in million): 61.", "Staff: 7."],
    "2024.md": ["Revenue was $70 million, after $61 million.", "The margin was 61 %."],
}


def test_each_place_has_words_of_its_own(make_index: Make) -> None:
    index = make_index(FIRM)

    def gold(*places: Place) -> list[str]:
        documents = tuple(dict.fromkeys(place.document for place in places))
        return [
            chunk.id
            for chunk in find_gold(Pair("q", "Revenue?", "$61 million", documents, places=places), index)
        ]

    cell, sentence = (
        Place("2023.md", evidence="Revenue (in million): 61"),
        Place("2024.md", evidence="after $61"),
    )
    assert gold(cell) == ["2023.md#0"]
    assert gold(cell, sentence) == ["2023.md#0", "2024.md#0"]
    assert gold(cell, cell) == ["2023.md#0"]
    assert gold(Place("2024.md")) == ["2024.md#0"]
    assert gold(Place("2023.md")) == []
    # The heading narrows it; one that no chunk has says nothing.
    assert gold(Place("2024.md", section="2024")) == ["2024.md#0"]
    assert gold(Place("2024.md", section="Outlook")) == ["2024.md#0"]


def test_a_passage_that_goes_over_the_end_of_a_page_is_of_both(tmp_path: Path) -> None:
    """What it repeats of the page before is of that one; its own page is that of what is new in it."""
    texts = {
        page: " ".join(f"On page {page} sentence {number} says a thing." for number in range(7))
        for page in (1, 2, 3)
    }
    blocks = tuple(Block("text", text, page=page) for page, text in texts.items())
    chunks = Chunker(64, 16, count_words).chunks(Document("a.pdf", "A", "digest", blocks))
    index = write_documents(
        tmp_path / "index", [({"path": "a.pdf", "digest": "digest", "title": "A"}, chunks)]
    )
    ends = ["On page 1 sentence 6 says a thing.", "On page 2 sentence 0 says a thing."]

    def gold(answer: str, evidence: str | None, page: int) -> list[tuple[int | None, bool]]:
        pair = Pair("q", "What?", answer, ("a.pdf",), evidence, page)
        return [(chunk.page, ends[0] in chunk.text) for chunk in find_gold(pair, index)]

    assert gold("a thing", " ".join(ends), 1) == [(2, True)]
    assert gold("page 1 sentence 6", None, 1) == [(1, True), (2, True)]
    # Further passages of the next page are not of this one.
    assert gold("page 2 sentence 3", None, 1) == []


@pytest.mark.parametrize(
    ("before", "repeats"),
    [
        ("Revenue by year: 2019, 2020, 2021", False),
        ("2019\n2020\n1", False),
        ("Staff: 7. 1 Outlook: 12 plants.", True),
        ("# Plan\n  1 Outlook: 12 plants.", True),
    ],
)
def test_a_passage_repeats_whole_sentences(tmp_path: Path, before: str, repeats: bool) -> None:
    texts = [(1, before), (2, "1 Outlook: 12 plants. They stand still."), (2, "Of 12 plants no more.")]
    chunks = [Chunk(str(number), "a.pdf", "A", text, page) for number, (page, text) in enumerate(texts)]
    index = write_documents(
        tmp_path / "index", [({"path": "a.pdf", "digest": "digest", "title": "A"}, chunks)]
    )
    found = find_gold(Pair("q", "How many plants?", "12 plants", ("a.pdf",), page=1), index)
    assert ("1" in [chunk.id for chunk in found]) is repeats


def test_passages_are_made_plain_once_for_all_questions_about_a_document(
    make_index: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {name: [f"{name} {number}." for number in range(6)] for name in ("one.md", "two.md")}
    index, file = make_index(texts), tmp_path / "pairs.jsonl"
    write_lines(
        file,
        [
            {"id": f"{name} {number}", "question": "Which?", "answer": f"{name} {number}", "document": name}
            for number in (5, 0, 3)
            for name in ("two.md", "one.md")
        ],
    )
    made, plain_forms = [], pairs._plain_forms

    @lru_cache(maxsize=8)  # no more than the passages of one
    def kept(passage: str) -> tuple[str, ...]:
        made.append(passage)
        return plain_forms(passage)

    monkeypatch.setattr(pairs, "_plain_forms", kept)
    _, gold, _ = pairs_with_gold(index, [str(file)])
    assert [(name, *(chunk.id for chunk in found)) for name, found in gold.items()] == [
        (f"{name} {number}", f"{name}#{number}") for number in (5, 0, 3) for name in ("two.md", "one.md")
    ]
    assert len(made) == 12
    assert kept.cache_info().currsize == 0


def test_places_in_a_file(tmp_path: Path) -> None:
    places = [
        # As pandas writes whole numbers where another row has none.
        {"document": "2023.md", "evidence": "61", "page": 2.0, "section": "Profit"},
        {"document": "2024.md"},
    ]
    file = tmp_path / "pairs.jsonl"
    # What else the line has of documents is not looked at: the places say all of it.
    line = {
        "id": "a",
        "question": "Profit?",
        "answer": "61",
        "document": "2023.md",
        "documents": ["x"],
        "places": places,
    }
    file.write_text(json.dumps(line) + "\n")
    ((pair,), problems) = load_pairs([str(file)], set(FIRM))
    assert problems == []
    assert pair == Pair(
        "a", "Profit?", "61", ("2023.md", "2024.md"),
        places=(Place("2023.md", "61", 2, "Profit"), Place("2024.md")),
    )  # fmt: skip


def test_a_document_is_known_however_its_accents_are_written(tmp_path: Path) -> None:
    """Names of files that come from a Mac have an accent as a character of its own."""
    composed, decomposed = "M\u00e4rz/\u00c9t\u00e9.md", "Ma\u0308rz/E\u0301te\u0301.md"
    file = tmp_path / "pairs.jsonl"
    for on_disk, named in ((decomposed, composed), (composed, decomposed), (decomposed, composed[5:])):
        file.write_text(json.dumps({"question": "Profit?", "answer": "61", "document": named}))
        ((pair,), _) = load_pairs([str(file)], {on_disk})
        assert pair.documents == (on_disk,)
    # The whole path comes before the same name in another folder.
    file.write_text(json.dumps({"question": "Profit?", "answer": "61", "document": composed[5:]}))
    ((pair,), _) = load_pairs([str(file)], {decomposed, decomposed.partition("/")[2]})
    assert pair.documents == (decomposed.partition("/")[2],)


@pytest.mark.parametrize("of_a_file", ["a\nb\t.md", "K\udcfchler.md", "a\\b.md"])
def test_a_document_is_known_by_any_name(tmp_path: Path, of_a_file: str) -> None:
    """The index shows line breaks and bytes that aren't UTF-8 as codes, with backslashes that are no path's."""
    folder, file = tmp_path / "folder", tmp_path / "pairs.jsonl"
    folder.mkdir()
    (folder / of_a_file).write_text("61")
    (shown,) = folder_files(folder, lambda *_: None)
    for named in (of_a_file, shown, f"./{shown}"):
        file.write_text(json.dumps({"question": "Profit?", "answer": "61", "document": named}))
        ((pair,), _) = load_pairs([str(file)], {shown, "a/b.md"})
        assert pair.documents == (shown,)
    file.write_text(json.dumps({"question": "Profit?", "answer": "61", "document": "x\\b.md"}))
    ((pair,), _) = load_pairs([str(file)], {"x/b.md", "a/b.md"})
    assert pair.documents == ("x/b.md",)


def test_questions_that_are_not_utf8_are_to_be_saved_as_such(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(
        "question,answer,document\nUms\u00e4tze?,61,2023.md\nProfit?,61,2023.md\n".encode("cp1252")
    )
    with pytest.raises(DataError, match="1 of 2 question-answer pairs") as caught:
        load_pairs([str(file)], set(FIRM))
    hint = caught.value.hint or ""
    assert 0 <= hint.find("save the file as UTF-8 first (in Excel: CSV UTF-8)") < hint.find("--skip-bad-rows")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ("2023.md", "'places' must be a list of objects"),
        (["2023.md"], "'places' must be a list of objects"),
        ([{"evidence": "61"}], "'document' is missing"),
        ([{"document": "2022.md"}], "there is no document '2022.md'"),
        ([{"document": "2023.md", "page": "x"}], "'page' must be a whole number"),
    ],
)
def test_bad_places_are_told(tmp_path: Path, places: object, message: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"question": "Profit?", "answer": "61", "places": places}) + "\n")
    with pytest.raises(DataError) as caught:
        load_pairs([str(file)], set(FIRM))
    assert message in caught.value.problems[0]
