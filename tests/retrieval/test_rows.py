from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from small_index import SETTINGS, chunk

from selfaug.retrieval.index import Index, IndexWriter
from selfaug.retrieval.pairs import Pair, find_gold, holds
from selfaug.retrieval.recall import first_right
from selfaug.retrieval.retriever import Passage
from selfaug.retrieval.rows import RowForm, make_row

Make = Callable[[dict[str, list[str]]], Index]

FIRM = {
    "alder.md": [
        "Alder's revenue was $1,536 million in 2023.",
        "Alder employs 36 people.",
        "Again: $1,536 million.",
    ],
    "birch.md": ["Birch's revenue was $36 million in 2023.", "Birch's margin was 18.4 %."],
    **{f"other{n}.md": [f"Other {n}'s revenue was ${n} million in 2023."] for n in range(8)},
}


@pytest.mark.parametrize(
    ("passage", "words", "expected"),
    [
        ("revenue was $1,536 million", "$1,536 million", True),
        ("revenue was $1,536 million", "536 million", False),
        ("revenue was $1,536 million", "1,536 million", True),
        ("a share of 1.53", "1.5", False),
        ("a share of 1.5.", "1.5", True),
        ("a share of 21.5", "1.5", False),
        ("a share of 1.5", "5", False),
        ("| margin | 18.4 % |", "18.4%", True),
        ("rose by\n 18.4%", "by 18.4 %", True),
        ("| A | $4 | B |", "A $4", True),
        ("The Firm", "the firm", True),
        ("confirmed", "firm", False),
        ("anything", "", False),
        ("a (note) here", "(note)", True),
        ("1,000,000", "1,000", False),
        ("costs £5", "£5", True),
    ],
)
def test_words_stand_in_a_passage_as_words(passage: str, words: str, expected: bool) -> None:
    assert holds(passage, words) is expected


def test_gold_is_where_the_answer_stands(make_index: Make) -> None:
    index = make_index(FIRM)

    def gold(**fields: object) -> list[str]:
        pair = Pair("q", "What was Alder's revenue?", **fields)  # type: ignore[arg-type]
        return [chunk.id for chunk in find_gold(pair, index)]

    assert gold(answer="$1,536 million", documents=("alder.md",)) == ["alder.md#0", "alder.md#2"]
    assert gold(answer="$1,536 million", documents=("birch.md",)) == []
    assert gold(answer="$1,536 million", documents=("alder.md",), evidence="revenue was $1,536") == [
        "alder.md#0"
    ]
    # Words of the passage say where it is when the answer is in other words.
    assert gold(answer="a billion and a half", documents=("alder.md",), evidence="Again:") == ["alder.md#2"]
    assert gold(answer="$1,536 million", evidence="not there", documents=("alder.md",)) == []
    # Without a document: among what is found for the question.
    assert gold(answer="$1,536 million") == ["alder.md#0", "alder.md#2"]
    assert gold(answer="$9,999 million") == []
    assert gold(answer=None) == []


def test_a_page_narrows_the_gold(make_index: Make, tmp_path: Path) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "paged"
    chunks = [chunk("a.pdf", f"The figure is 5, on {page}.", page, page) for page in (1, 2, 3, 5)]
    IndexWriter(folder, SETTINGS).write([({"path": "a.pdf", "digest": "d", "title": "a"}, chunks)])
    index = Index(folder)

    def pages(page: int) -> list[int | None]:
        pair = Pair("q", "What is the figure?", "5", ("a.pdf",), page=page)
        return [found.page for found in find_gold(pair, index)]

    assert pages(2) == [1, 2]  # the chunk before may go on over the page's end
    assert pages(4) == [3]
    assert pages(1) == [1]


PAIR = Pair("q7", "What was Alder's revenue in 2023?", "$1,536 million", ("alder.md",))


def row(index: Index, pair: Pair, form: RowForm, within: set[str] | None = None) -> dict[str, object]:
    return make_row(pair, find_gold(pair, index), index, form, within or set(FIRM))


def test_a_row_has_the_gold_passage_among_wrong_ones(make_index: Make) -> None:
    index = make_index(FIRM)
    found = row(index, PAIR, RowForm(passages=4, no_answer_share=0.0))
    assert len(found["context"]) == 4  # type: ignore[arg-type]
    number = found["gold"]
    assert isinstance(number, int)
    assert found["answer"] == f"$1,536 million [{number}]"
    assert found["value"] == "$1,536 million"
    right = [holds(passage, "$1,536 million") for passage in found["context"]]  # type: ignore[attr-defined]
    assert right.count(True) == 1
    assert right[number - 1]
    assert len(set(found["passages"])) == 4  # type: ignore[call-overload]
    assert found == row(index, PAIR, RowForm(passages=4, no_answer_share=0.0))


def test_gold_stands_at_every_place_alike(make_index: Make) -> None:
    index = make_index(FIRM)
    form = RowForm(passages=4, no_answer_share=0.0)
    places = Counter(
        row(index, Pair(f"q{n}", PAIR.question, PAIR.answer, PAIR.documents), form)["gold"]
        for n in range(400)
    )
    assert sorted(places) == [1, 2, 3, 4]  # type: ignore[type-var]
    assert all(70 <= count <= 130 for count in places.values())  # 100 expected, standard deviation 8.7


def test_a_share_of_rows_has_no_gold_and_says_so(make_index: Make) -> None:
    index = make_index(FIRM)
    form = RowForm(passages=4, no_answer_share=0.25, no_answer="It isn't said.")
    rows = [row(index, Pair(f"q{n}", PAIR.question, PAIR.answer, PAIR.documents), form) for n in range(400)]
    without = [found for found in rows if found["gold"] is None]
    assert 70 <= len(without) <= 130
    for found in without:
        assert found["answer"] == "It isn't said."
        assert found["value"] is None
        assert not any(holds(passage, "$1,536 million") for passage in found["context"])  # type: ignore[attr-defined]


def test_a_question_without_an_answer_gets_what_is_found(make_index: Make) -> None:
    found = row(make_index(FIRM), Pair("q", "What was Zebra's revenue?", None), RowForm(passages=3))
    assert found["answer"] == "The documents don't say."
    assert len(found["context"]) == 3  # type: ignore[arg-type]
    assert (found["gold"], found["value"], found["documents"]) == (None, None, [])


def test_passages_come_from_the_documents_of_the_split_alone(make_index: Make) -> None:
    index = make_index(FIRM)
    found = row(index, PAIR, RowForm(passages=5, no_answer_share=0.0), within={"alder.md", "other1.md"})
    assert {str(name).partition("#")[0] for name in found["passages"]} == {"alder.md", "other1.md"}  # type: ignore[attr-defined]


def test_the_completion_has_the_form_that_is_asked_for(make_index: Make) -> None:
    form = RowForm(passages=1, no_answer_share=0.0, completion="ANSWER: {answer} | SOURCE: {sources} {{x}}")
    assert row(make_index(FIRM), PAIR, form)["answer"] == "ANSWER: $1,536 million | SOURCE: [1] {x}"
    assert (
        row(make_index(FIRM), PAIR, RowForm(passages=1, no_answer_share=0.0, completion="{answer}"))["answer"]
        == "$1,536 million"
    )


def test_the_first_right_passage(make_index: Make) -> None:
    index = make_index(FIRM)
    gold = find_gold(PAIR, index)
    found = index.search(PAIR.question, 10)
    assert first_right(found, gold, "$1,536 million") == 1
    assert first_right(found[1:], gold, "$1,536 million") in range(1, 10)
    wrong = [passage for passage in found if passage.document != "alder.md"]
    assert first_right(wrong, gold, "$1,536 million") is None
    assert first_right([Passage("$1,536 million!", "alder.md", "another")], gold, "$1,536 million") == 1
    assert first_right([Passage("$1,536 million!", "alder.md", "another")], gold, None) is None
    # A retriever of the user's own knows no ids: its passage is right if it has the answer's words.
    own = [
        Passage("nothing", "alder.md"),
        Passage("made $1,536 million", "birch.md"),
        Passage("$1,536 million!", ""),
    ]
    assert first_right(own, gold, "$1,536 million") == 3
