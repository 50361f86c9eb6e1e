from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_index import SETTINGS, chunk, write, write_documents

from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.retrieval import index as index_module
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.index import Index, IndexWriter
from selfaug.retrieval.recall import first_right
from selfaug.retrieval.retriever import Passage, own_retriever
from selfaug.retrieval.tokens import Words

Make = Callable[[dict[str, list[str]]], Index]

FIRM = {
    "north.md": ["Revenue of North rose to $4 million in 2023.", "North has 120 employees."],
    "south.md": ["Revenue of South fell to $3 million in 2023."],
    "empty.md": [],
    "east.md": ["The outlook of East for Q3 FY24 is good."],
}


def test_a_search_finds_the_passage_that_shares_most_words(make_index: Make) -> None:
    index = make_index(FIRM)
    assert len(index) == 4
    first, *others = index.search("What was North's revenue in 2023?", 3)
    assert first == Passage(
        "north\nRevenue of North rose to $4 million in 2023.", "north.md", "north.md#0", None, first.score
    )
    assert first.score > others[0].score > 0
    assert [found.document for found in index.search("employees", 3)] == ["north.md"]
    assert index.search("nothing here knows this", 3) == []
    assert index.search("the of in", 3) == index.search("", 3) == index.search("revenue", 0) == []


def test_without_maps_nothing_of_an_index_stays_open(
    make_index: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which could not rename it."""
    mapped = make_index(FIRM)
    monkeypatch.setattr(index_module, "_MAPPED", False)
    index = Index(mapped.folder)
    question = "What was North's revenue in 2023?"
    assert index.search(question, 3) == mapped.search(question, 3)
    assert index.chunks_of("north.md") == mapped.chunks_of("north.md")
    parts: list[Any] = [index._offsets, index._owners, *index._chunks.scores.values()]
    assert not [part for part in parts if isinstance(part, np.memmap)]
    assert isinstance(index._lines, bytes)


def test_a_search_can_be_kept_to_some_documents(make_index: Make) -> None:
    index = make_index(FIRM)
    found = index.search("revenue of North", 3, within={"south.md", "unheard-of.md"})
    assert [passage.document for passage in found] == ["south.md"]
    assert index.search("revenue of North", 3, within=set()) == []


def test_short_years_quarters_and_endings_are_found(make_index: Make) -> None:
    index = make_index(FIRM)
    for question in ("2024", "FY24", "FY2024", "q3", "3Q24", "third quarter", "outlooks"):
        assert [found.document for found in index.search(question, 1)] == ["east.md"], question


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Q2 2023", "q2 2023"),
        ("2Q23", "q2 2023"),
        ("2Q 2023", "q2 2023"),
        ("the second quarter of 2023", "q2 2023"),
        ("2nd-quarter FY23", "q2 fy 2023"),
        ("FY2023", "fy 2023"),
        ("FY98", "fy 1998"),
        ("fiscal 1998", "fy 1998"),
        ("3Q70 and FY69", "q3 1970 fy 2069"),
        ("summer '99", "summer 1999"),
        ("CY 22", "cy 2022"),
        ("fiscal year 2023", "fy 2023"),
        ("the 2023 financial year", "fy 2023"),
        ("fiscal policy", "fiscal polici"),
        ("summer '23", "summer 2023"),
        ("the plants' 24 doors", "plant 24 door"),
        ("a quarter of 2023", "quarter 2023"),
        ("12Q23", "12 q23 q 23"),
        ("X300", "x300 x 300"),
        ("north_annual_report_2023", "north annual report 2023"),
        ("Re\u0301sume\u0301", "resum"),
        ("r\u00e9sum\u00e9 resume", "resum resum"),
        ("1H23", "h1 2023"),
        ("1H 2023 and 2h'23", "h1 2023 h2 2023"),
        ("the first half of 2023", "h1 2023"),
        ("1h 30 min", "1 h 30 min"),
        ("U.S. revenue, US revenue", "usa revenu usa revenu"),
        ("u.s. and USA: tell us it", "usa usa"),
        ("US$5 of IT costs", "5 itech cost"),
        ("WHAT IT MEANS FOR US\nUS | EBIT", "mean usa ebit"),
        ("| US | REVENUE | EBIT | CAPEX |", "usa revenu ebit capex"),
        ("\u304c\u304e", "\u304c\u304e"),
        ("2023年IBM社の収益", "2023 年 ibm 社の の収 収益"),
    ],
)
def test_periods_are_written_alike(text: str, expected: str) -> None:
    assert Words()(text) == expected.split()


def test_passages_without_spaces_between_words_are_found(make_index: Make) -> None:
    index = make_index({"a.md": ["当社の収益は増加した。"], "b.md": ["従業員は百人いる。"]})
    assert [found.document for found in index.search("収益はいくらか", 1)] == ["a.md"]


def test_accents_do_not_count_in_any_language() -> None:
    for language, one, other in (
        (None, "Nestl\u00e9", "Nestle"),
        ("english", "Nestl\u00e9's", "Nestle's"),
        ("french", "soci\u00e9t\u00e9s", "societes"),
        ("german", "Ums\u00e4tzen", "Umsatzen"),
        ("german", "Nestl\u00e9", "Nestle"),  # an ending without the accent
        ("german", "A\u0303o", "Ao"),
        ("swedish", "Nestl\u00e9", "Nestle"),
        ("greek", "\u03ad\u03c3\u03bf\u03b4\u03b1", "\u03b5\u03c3\u03bf\u03b4\u03b1"),
    ):
        assert Words(language)(one) == Words(language)(other)
    # Endings are those of the language, accents and all.
    assert Words("german")("H\u00e4user") == Words("german")("Haus")
    assert Words("french")("d\u00e9veloppement") == Words("french")("d\u00e9velopper")


def test_digits_of_all_scripts_are_the_same() -> None:
    japanese = "\uff12\uff10\uff12\uff13\u5e74\uff13\u6708\u671f"
    assert Words()(japanese) == Words()("2023\u5e743\u6708\u671f")
    assert Words("arabic")("\u0661\u066c\u0665\u0663\u0666\u066b\u0665") == ["1,536.5"]
    assert Words()("\uff35\uff33 \uff26\uff39\uff12\uff13") == Words()("US FY2023")


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        (
            "turkish",
            "\u0130stanbul ofisi \u0130ZM\u0130R INTEL FISCAL 2023 FIRST QUARTER",
            "istanbul ofisi izmir intel fy 2023 q1",
        ),
        ("german", "\u0130zmir", "Izmir"),
        ("arabic", "\u0643\u0650\u062a\u064e\u0627\u0628\u064c", "\u0643\u062a\u0627\u0628"),
        (None, "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
        (None, "東京証\n券取引所", "東京証券取引所"),
    ],
)
def test_words_are_the_same_however_they_are_written(language: str | None, one: str, other: str) -> None:
    assert Words(language)(one) == Words(language)(other)


def test_vowels_above_and_below_letters_do_not_divide_words() -> None:
    assert Words("hindi")("भाषा में") == ["भाष", "म"]
    assert Words("tamil")("தமிழ் ஆவணங்கள்") == ["தமிழ்", "ஆவணம்"]
    assert Words(None)("বাংলা") == ["বাংলা"]


def test_korean_words_are_found_whatever_follows_them(make_index: Make) -> None:
    index = make_index({"a.md": ["매출은 늘었다."], "b.md": ["직원이 많다."]})
    assert [found.document for found in index.search("매출이 얼마인가", 1)] == ["a.md"]


def test_copies_are_the_same_file(tmp_path: Path) -> None:
    documents = (
        ({"path": path, "digest": digest, "title": "t"}, [chunk(path, "words")])
        for path, digest in (("a.md", "1"), ("b.md", "2"), ("old/a.md", "1"))
    )
    index = write_documents(tmp_path / "index", documents)
    assert index.copies == [["a.md", "old/a.md"]]
    assert index.copies_of("old/a.md") == ["a.md", "old/a.md"]
    assert index.copies_of("b.md") == ["b.md"]
    assert index.copies_of("unheard-of.md") == ["unheard-of.md"]


def test_copies_do_not_fill_a_search(tmp_path: Path) -> None:
    texts = {f"copy{number}": "North's revenue was $4 million." for number in range(6)}
    texts |= {f"other{number}": f"Revenue of firm {number} was $3 million, and more." for number in range(3)}
    documents = (
        (
            # Their title is the file's name: the passages differ in it.
            {"path": path, "digest": path if "other" in path else "same", "title": path},
            [chunk(path, text), chunk(path, text, 1)],
        )
        for path, text in texts.items()
    )
    index = write_documents(tmp_path / "index", documents)
    found = index.search("What was North's revenue?", 4)
    assert [one.document for one in found] == ["copy0", "other0", "other1", "other2"]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len(index.search("What was North's revenue?", 9)) == 4
    assert len(index.ranked("What was North's revenue?", 9)) == 9
    # Whichever of them says it, it is right.
    gold = index.chunks_of("other1")[1:]
    assert first_right(found, gold, []) == 3


def test_what_documents_of_one_title_say_alike_comes_once(tmp_path: Path) -> None:
    """No model could tell which passage of a prompt is whose."""
    documents = (
        ({"path": path, "digest": path, "title": "Deploy"}, [Chunk(path, path, "Deploy", text, None)])
        for path, text in {"v1": "Set the token.", "v2": "The token expires.", "v3": "Set the token."}.items()
    )
    found = write_documents(tmp_path / "index", documents).search("Which token is set?", 4)
    assert sorted(one.document for one in found) == ["v1", "v2"]


def test_titles_say_whose_passages_they_are(tmp_path: Path) -> None:
    texts = {"a.md": "North and again North: the margin was 5 %.", "b.md": "The margin was 7 %."}
    documents = (
        ({"path": path, "digest": "d", "title": title}, [chunk(path, texts[path])])
        for path, title in (("a.md", "About South"), ("b.md", "About North"))
    )
    index = write_documents(tmp_path / "index", documents)
    assert index.search("the margin of North", 1)[0].document == "b.md"


def test_texts_without_a_word_can_be_indexed(tmp_path: Path) -> None:
    document = {"path": "a.md", "digest": "d", "title": "…"}
    index = write_documents(tmp_path / "index", [(document, [Chunk("1", "a.md", "…", "–", None)])])
    assert index.search("anything", 3) == []


def test_scores_are_those_of_bm25(make_index: Make) -> None:
    rng = random.Random(3)
    vocabulary = [f"w{chr(97 + n)}" for n in range(20)]
    texts = {f"{n}.md": [" ".join(rng.choices(vocabulary, k=rng.randint(3, 30)))] for n in range(30)}
    index = make_index(texts)
    words = Words("english")
    titles = {path: Counter(words(path)) for path in texts}
    # A title's words count three times in its chunks: it is their heading as well.
    chunks = {path: Counter(words(f"{path} {path} {path[:-3]} {found[0]}")) for path, found in texts.items()}

    def bm25(bags: dict[str, Counter[str]], path: str, question: str, b: float, k1: float = 1.5) -> float:
        mean = sum(bag.total() for bag in bags.values()) / len(bags)
        total, bag = 0.0, bags[path]
        for word in words(question):
            holding = sum(word in other for other in bags.values())
            idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
            length = 1 - b + b * bag.total() / mean
            total += idf * bag[word] / (bag[word] + k1 * length)
        return total

    def score(path: str, question: str) -> float:
        return bm25(chunks, path, question, 0.4) + 2 * bm25(titles, path, question, 0.3)

    question = "wa wb wb wc 7"
    expected = sorted(((score(path, question), path) for path in texts), key=lambda one: -one[0])[:8]
    found = index.search(question, 8)
    assert [passage.score for passage in found] == pytest.approx([one for one, _ in expected], rel=1e-5)
    assert [passage.document for passage in found] == [path for _, path in expected]


def test_equal_scores_come_in_the_documents_order(make_index: Make) -> None:
    index = make_index({f"{letter}.md": ["the very same words"] for letter in "dfce"})
    assert [found.document for found in index.search("same words", 3)] == ["d.md", "f.md", "c.md"]


def test_chunks_of_a_document_come_in_reading_order(make_index: Make) -> None:
    index = make_index(FIRM)
    assert [one.text for one in index.chunks_of("north.md")] == FIRM["north.md"]
    assert index.chunks_of("empty.md") == index.chunks_of("unheard-of.md") == []


def test_an_index_without_any_chunk_finds_nothing(make_index: Make) -> None:
    index = make_index({"empty.md": []})
    assert len(index) == 0
    assert index.search("anything", 3) == []


def test_text_of_every_kind_comes_back_as_it_was(make_index: Make) -> None:
    text = 'line one\u2028two\x85three\n"quoted" \\ Ünïcode 数字 😀'
    assert make_index({"a.md": [text]}).chunks_of("a.md")[0].text == text


def test_unchanged_documents_are_kept_and_others_go(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write(folder, FIRM)
    writer = IndexWriter(folder, SETTINGS)
    assert writer.known == {path: f"digest of {path}" for path in FIRM}
    assert writer.before["north.md"]["title"] == "north.md"

    def documents() -> Any:
        yield {"path": "north.md", "digest": "digest of north.md", "title": "north.md"}, None
        yield {"path": "west.md", "digest": "new", "title": "West"}, [chunk("west.md", "West is new.")]

    with writer:
        made = writer.write(documents())
        assert Index(folder).chunks_of("south.md")  # the older one stays until the new one takes its place
        writer.take_its_place()
    index = Index(folder)
    assert (len(made), len(index), len(index.documents)) == (3, 3, 2)
    assert [one.text for one in index.chunks_of("north.md")] == FIRM["north.md"]
    assert index.chunks_of("south.md") == []
    assert index.search("South revenue", 5)[0].document == "north.md"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_other_settings_keep_nothing(tmp_path: Path) -> None:
    write(tmp_path / "index", FIRM)
    assert IndexWriter(tmp_path / "index", {**SETTINGS, "chunk_tokens": 65}).known == {}


def test_chunks_do_not_depend_on_how_words_are_compared(tmp_path: Path) -> None:
    write(tmp_path / "index", FIRM)
    for other in ({"language": None}, {"glossary": [["outlook", "forecast"]]}):
        assert IndexWriter(tmp_path / "index", {**SETTINGS, **other}).known.keys() == FIRM.keys()


@pytest.mark.parametrize(
    "file", ["chunks.jsonl", "owners.npy", "offsets.npy", "documents.jsonl", "index.json"]
)
def test_a_damaged_index_is_refused_and_made_anew(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "index"
    write(folder, FIRM)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        Index(folder)
    assert IndexWriter(folder, SETTINGS).known == {}
    write(folder, FIRM)
    assert len(Index(folder)) == 4


def test_a_failure_leaves_the_older_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    write(folder, FIRM)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_module.np, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        write(folder, {"a.md": ["other"]})
    monkeypatch.undo()

    def broken() -> Any:
        yield {"path": "a.md", "digest": "d", "title": "a"}, [chunk("a.md", "words")]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_documents(folder, broken())
    assert {path.name for path in tmp_path.iterdir()} == {"index", ".index.read.jsonl"}
    assert Index(folder).search("North", 1)[0].document == "north.md"


def test_no_pickle_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write(folder, FIRM)
    index_module.np.save(folder / "owners.npy", index_module.np.array([{"a": 1}] * 4, dtype=object))
    with pytest.raises(DataError):
        Index(folder)


def test_a_language_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ConfigError, match="klingon"):
        Words("klingon")
    assert Words(None)("The Running dogs") == ["the", "running", "dogs"]
    assert Words("german")("der Häuser") == ["der", "haus"]


# ---- retrievers of the user's own


def own(question: str, count: int) -> list[Any]:
    return [
        "plain text",
        {"text": "with more", "document": "a.pdf", "page": 3, "score": 2},
        Passage("a passage", "b"),
    ][:count]


def wrong(question: str, count: int) -> Any:
    return {"a list": "no"} if question == "mapping" else [{"words": question}]


def test_a_function_of_the_users_own_is_a_retriever() -> None:
    found = own_retriever(f"{__name__}:own").search("q", 3)
    assert found == [
        Passage("plain text", ""),
        Passage("with more", "a.pdf", page=3, score=2.0),
        Passage("a passage", "b"),
    ]


def gaps(question: str, count: int) -> list[Any]:
    return [{"text": "words", "document": None, "id": None, "page": None, "score": None}]


def words_for_a_score(question: str, count: int) -> list[Any]:
    return [{"text": "words", "score": question}]


def test_what_an_own_retriever_does_not_know_may_be_none() -> None:
    assert own_retriever(f"{__name__}:gaps").search("q", 1) == [Passage("words", "")]
    with pytest.raises(ConfigError, match="whose score is no number: 'high'"):
        own_retriever(f"{__name__}:words_for_a_score").search("high", 1)


def test_a_module_that_is_not_found_is_told_of_pythonpath() -> None:
    with pytest.raises(ConfigError) as caught:
        own_retriever("no.such.module:f")
    assert "PYTHONPATH" in str(caught.value.hint)


def test_a_retriever_that_can_not_be_used_is_an_error_that_says_why() -> None:
    for name, why in (
        ("bm52", "there is no retriever"),
        ("no.such.module:f", "can't be imported"),
        (f"{__name__}:no_such", "can't be imported"),
        (f"{__name__}:FIRM", "can't be called"),
    ):
        with pytest.raises(ConfigError, match=why):
            own_retriever(name)
    retriever = own_retriever(f"{__name__}:wrong")
    with pytest.raises(ConfigError, match="not a list"):
        retriever.search("mapping", 3)
    with pytest.raises(ConfigError, match="without text"):
        retriever.search("other", 3)


def failing(question: str, count: int) -> list[Any]:
    if question == "ours":
        raise DataError("the index is not whole.")
    return [{}[question]]


def test_what_a_function_of_the_users_raises_is_told_with_its_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = own_retriever(f"{__name__}:failing")
    with pytest.raises(ConfigError, match=r"failing' failed for 'What was it\?': KeyError: ") as caught:
        retriever.search("What was it?", 3)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(DataError, match="not whole"):
        retriever.search("ours", 3)
    (tmp_path / "own_search_that_has_no_key.py").write_text("raise ValueError('SEARCH_KEY is not set')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="can't be imported: ValueError: SEARCH_KEY is not set"):
        own_retriever("own_search_that_has_no_key:search")


def test_the_files_are_what_the_module_says(tmp_path: Path) -> None:
    write(tmp_path / "index", FIRM)
    lines = (tmp_path / "index" / "documents.jsonl").read_text().splitlines()
    assert [json.loads(line)["chunks"] for line in lines] == [2, 1, 0, 1]
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "index.json", "documents.jsonl", "unreadable.jsonl", "chunks.jsonl", "offsets.npy",
        "owners.npy", "bm25", "titles",
    }  # fmt: skip
