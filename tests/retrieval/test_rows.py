from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_index import chunk, write_documents

from selfaug.errors import ConfigError
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.follow_ups import Asked, add_follow_ups
from selfaug.retrieval.index import Index
from selfaug.retrieval.pairs import Pair, Place, find_gold, holds, may_be_chance, signs_of
from selfaug.retrieval.recall import first_right
from selfaug.retrieval.retriever import Passage, Retriever
from selfaug.retrieval.row_passages import row_passages
from selfaug.retrieval.rows import RowForm, has_answer, make_row

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
        (
            "Norvik\u2019s \u201cgood\u201d year \u2013 a loss of \u22125 %",
            'Norvik\'s "good" year - a loss of -5%',
            True,
        ),
        ("Re\u0301sume\u0301", "r\u00e9sum\u00e9", True),
        ("収入は500万円です", "500万円", True),
        ("収入は1,500万円です", "500万円", False),
        # An answer as a number, and as documents write it.
        ("revenue was $1,536 million", "1536", True),
        ("revenue was $1,536 million", "$1536", True),
        ("revenue was 1536 million", "1,536 million", True),
        ("revenue was 1 536 million", "1,536", True),
        ("revenue was 1\u202f536\u00a0million", "1,536 million", True),
        ("revenue was 1,536,200", "1536200", True),
        # Two figures of a line.
        ("Revenue 1,536 200", "1,536,200", False),
        ("Revenue 1536 200", "1536200", False),
        ("revenue was 1 536 200", "1,536,200", True),
        ("revenue was 1,536,200", "1536", False),
        ("revenue was 21,536", "1536", False),
        ("revenue was 1536", "536", False),
        ("0.1536", "1,536", False),
        ("CHF 1\u2019536 million", "1536", True),
        ("CHF 1'536", "536", False),
        ("CHF 1,536", "1'536", True),
        # A dot between thousands, where it can't be a decimal one.
        ("EUR 1.536.200", "1536200", True),
        ("EUR 1,536,200", "1.536.200", True),
        ("EUR 1.536,5", "1536,5", True),
        ("EUR 1536,5", "1.536,5", True),
        ("a rate of 1.536", "1536", False),
        ("a rate of 1.536", "1.536", True),
        # A decimal comma or point, where the number can't be read in two ways.
        ("| Umsatz | 1,234.5 |", "1.234,5", True),
        ("| Umsatz | 1234.5 |", "1.234,5 ", True),
        ("EUR 1 234,5", "1,234.5", True),
        ("CHF 1\u2019234.5", "1.234,5", True),
        ("EUR 1.234.567,8", "1,234,567.8", True),
        ("| Marge | 12.5% |", "12,5 %", True),
        ("eine Marge von 12,5 %", "12.5%", True),
        ("braucht 2,5 GB und 1,5 ms bei 3,2 GHz", "2.5 GB", True),
        ("braucht 2,5 GB und 1,5 ms bei 3,2 GHz", "1.5 ms", True),
        ("braucht 2,5 GB und 1,5 ms bei 3,2 GHz", "3.2 GHz", True),
        ("EUR 1234,56", "1234.56", True),
        ("a rate of 1,234", "1.234", False),
        ("EUR 1.234", "1,234", False),
        ("EUR 1234,567", "1234.567", False),
        ("EUR 1,234.56", "1.234,5", False),
        ("ranked 1,2 and 3", "1.2", False),
        ("a gain of \u20ac1,2 or EUR 1,3", "1.2", True),
        ("Gewinn von EUR 1,2", "1.2", True),
        ("Gewinn von 1,2 Mrd. Euro", "1.2", True),
        ("| Gewinn | 1,2 | % |", "1.2", True),
        ("Quote 1,25", "1.25", True),
        ("Anteil 112,5", "12.5", False),
        ("Anteil 12,55", "12.5", False),
        ("Stand 12,5,6", "12.5", False),
        ("am 31,12.2023", "31.12", False),
        ("Revenue^1,2 rose", "1.2", False),
        ("Revenue^1,2 rose", "Revenue^1,2", True),
        # Digits of other scripts and of full width.
        (
            "\uff12\uff10\uff12\uff13\u5e74\uff13\u6708\u671f \uff11\uff0c\uff15\uff13\uff16\uff0e\uff15",
            "1,536.5",
            True,
        ),
        ("revenue of 1,536", "\u0661\u066c\u0665\u0663\u0666", True),
        ("5\uff0c6", "6", True),  # a list
        # In scripts without spaces between words a line may end anywhere.
        ("当社は四月に東京証\n券取引所に上場した。", "東京証券取引所", True),
        ("当社は東京証券取引所に上場した。", "東京証 券取引所に", True),
        ("です！ 次は 2023年度", "です！ 次は2023年度", True),
        ("です！次は2023年度", "です！\n次は\n2023年度", True),
        ("| 売上高 | 1,234 | 1,100 |", "売上高 1,234 1,100", True),
        ("売上高 234", "売上高 1", False),
        ("従業員 12\n人件費 500", "12人", False),
        ("表 3\n年間売上", "3年間", False),
        ("売上高 12 人件費 30", "12人", False),
        ("従業員 1 234 人", "234人", False),
        ("単価 500 円", "500円", False),
        # A space beside a sign of full width makes no number, and takes none away.
        ("１．　2023年度の売上高は増えた。", "2023年度", True),
        ("２．　12月31日現在", "12月31日", True),
        ("２．　12月31日現在", "2.12", False),
        ("５， ６ 円", "6", True),
        ("売上高: 1,234 円", "売上高： 1,234 円", True),
        ("売上高： 1,234 円", "売上高: 1,234 円", True),
        ("（株） 東京", "(株) 東京", True),
        ("１．　売上", "1. 売上", True),
        ("指標は ROE： 12.5% です。", "ROE： 12.5%", True),
        ("営業利益（ 1,234 ）百万円", "( 1,234 )", True),
        # Not the end of a longer number.
        ("revenue was 1 536 400", "536 400", False),
        ("revenue was 1 536 400", "536,400", False),
        ("revenue was 1 536 400", "$536 400", False),
        ("売上高 1 536 400 円", "536,400 円", False),
        ("売上高 1 536 400 円", "1,536,400 円", True),
        ("Revenue in 2023 536 400", "536,400", True),
        ("Revenue 1 402 1 536", "1,536", True),
        ("Revenue 1.5 536 400", "536400", True),
        ("| Revenue | 1 | 536 400 |", "536 400", True),
        ("Plants 12 1 536 400", "12 1 536 400", True),
        ("Revenue 100 120 135 150", "120 135 150", True),
        ("margin of 5.0 %", "5%", True),
        ("margin of 5 %", "5.0%", True),
        ("margin of 5,00 %", "5 %", True),
        ("margin of 5.05 %", "5%", False),
        ("margin of 15.0 %", "5%", False),
        ("margin of 1.50 %", "1.5%", False),
        ("Growth 1,000 %", "1%", False),
        ("grew 10,000%", "10%", False),
        ("grew 1,000%", "1000 %", True),
        ("revenue of \u20ac1.2bn", "\u20ac1.2 bn", True),
        ("| Revenue | \u20ac1.2 | bn |", "\u20ac1.2bn", True),
        ("revenue of \u20ac3M", "3", True),
        ("revenue of \u20ac3m", "\u20ac3 m", True),
        ("revenue of 1.3m", "1.3 m", True),
        ("revenue of 13m", "13", True),
        ("3M Company has 12 plants", "3", False),
        ("3M Company has 12 plants", "3M", True),
        ("revenue of \u20ac11.2bn", "1.2 bn", False),
        ("revenue was \u20ac 5 million", "\u20ac5 million", True),
        ("| $ | 5 |", "$5", True),
        ("Revenue 120 135 150", "135", True),
        ("| Revenue | 120 | 135 |", "Revenue 120 135", True),
        ("| Pumps | 1 | 536 |", "1,536", False),
        ("| Pumps | 1 | 536 |", "| 1 | 536 |", True),
        # A row that names its columns, and its words as they stand in the document.
        ("Item: Revenue; FY2023: 4; FY2022: 5", "Revenue | 4 | 5", True),
        ("Report\nItem: Revenue; 2023: 4\nItem: Costs; 2023: 5", "| Revenue | 4 |\n| Costs | 5 |", True),
        ("Item: Pumps; Unit: $; 2023: 5", "$5", True),
        ("Item: Revenue; FY2023: 4; FY2022: 5", "FY2022: 5", True),
        ("Item: Revenue; FY2023: 4; FY2022: 5", "Revenue 5", False),
        # A minus belongs to the figure, between two it doesn't.
        ("EBIT was -12 in 2022", "12", False),
        ("EBIT was -12 in 2022", "-12", True),
        ("EBIT was \u2212$12 million", "$12 million", False),
        ("EBIT was -$12 million", "12 million", False),
        ("from 2 to 10-12 plants", "12", True),
        ("see (a)-12", "12", True),
        # Filings give signs and brackets cells of their own.
        ("| Tax | $ | (56 | ) |", "$(56)", True),
        ("| Tax | (56 | ) |", "(56)", True),
        # Marks of notes may be left out, powers of ten may not.
        ("It was $1,234^1 million", "$1,234 million", True),
        ("| Revenue^2 | 1,234^a,b |", "| Revenue | 1,234 |", True),
        ("margin 4.5%^3 in 2023^2.", "4.5% in 2023", True),
        ("It was 10^6 units", "10 units", False),
        ("It was $110^1 million", "$110 million", True),
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


def test_a_minus_counts_only_where_it_decides(make_index: Make) -> None:
    """Who asks for a loss calls it 31: the answer was in no passage, and nothing was prepared."""
    rows = ["| EBIT | -31 |", "It has 12 plants.", "Growth: -12 %. It fell.", "-7 plants\n7 of 31."]
    index = make_index({"a.md": rows[:3], "b.md": [rows[0], rows[3]], "c.md": [rows[0], f"Also {rows[0]}"]})

    def found(answer: str, document: str) -> tuple[list[str], list[tuple[str, ...]], bool]:
        pair = Pair("q", "What was it?", answer, (document,))
        gold = find_gold(pair, index)
        signs = [sign.words for sign in signs_of(pair, gold)]
        return [chunk.text for chunk in gold], signs, may_be_chance(pair, gold)

    assert found("31", "a.md") == ([rows[0]], [("-31",)], False)
    assert found("12", "a.md") == ([rows[1]], [("12",)], False)
    assert found("12 %", "a.md") == ([rows[2]], [("-12 %",)], False)
    assert found("31", "b.md") == ([rows[3]], [("31",)], False)
    assert found("7", "b.md") == ([rows[3]], [("7",)], False)
    assert found("31", "c.md") == ([rows[0], f"Also {rows[0]}"], [("-31",)], True)
    assert found("5", "a.md") == ([], [], False)


def test_a_titles_year_is_no_answer_where_a_text_has_it(tmp_path: Path) -> None:
    """It is in every passage of "Annual report 2023"."""
    chunks = [
        Chunk(str(number), "a.md", "Annual report 2023", words, None)
        for number, words in enumerate(("It has 36 people.", "It was founded in 2023.", "It has plants."))
    ]
    document = {"path": "a.md", "digest": "d", "title": "a"}
    index = write_documents(tmp_path / "index", [(document, chunks)])
    for documents in (("a.md",), ()):
        gold = find_gold(Pair("q", "When was it founded?", "2023", documents), index)
        assert [found.id for found in gold] == ["1"]
    assert len(find_gold(Pair("q", "Which report is it?", "Annual report", ("a.md",)), index)) == 3


def test_a_clauses_number_is_no_answer_where_a_text_has_it(make_index: Make) -> None:
    """Each contract of three clauses answered "3", and a question about its years was said to be ambiguous."""
    texts = ["2. Term of\n3. Fees are due.", "1) It lasts 3 years.\n(3) It ends.", "iv. Notice\n 7. Law"]
    dates = ["3. March it is.", "It ends on 3. March."]
    index = make_index({"a.md": texts, "b.md": dates})

    def found(answer: str, document: str = "a.md") -> tuple[list[str], bool]:
        pair = Pair("q", "How long?", answer, (document,))
        gold = find_gold(pair, index)
        return [chunk.text for chunk in gold], may_be_chance(pair, gold)

    assert found("3") == ([texts[1]], False)
    assert found("7") == ([texts[2]], False)
    assert found("3. March", "b.md")[0] == dates


def test_copies_of_a_document_hold_its_answers(tmp_path: Path) -> None:
    """The passages of a copy were distractors: [1] was right, and [2], which said the same, wrong."""
    documents = (
        ({"path": path, "digest": digest, "title": path}, [chunk(path, words)])
        for path, digest, words in (
            ("a.md", "1", "Alder's revenue was $5 million."),
            ("b.md", "2", "Birch's revenue was $6 million."),
            ("old.md", "1", "Alder's revenue was $5 million."),
        )
    )
    index = write_documents(tmp_path / "index", documents)
    pair = Pair("q", PAIR.question, "$5 million", ("a.md",))
    assert [found.id for found in find_gold(pair, index)] == ["a.md#0", "old.md#0"]
    found = row(index, pair, RowForm(passages=3, no_answer_share=0.0))
    assert sorted(str(name)[0] for name in found["passages"]) in (["a", "b"], ["b", "o"])


def test_copies_hold_what_a_place_or_a_page_says(tmp_path: Path) -> None:
    documents = (
        (
            {"path": path, "digest": "same", "title": path},
            [chunk(path, f"Revenue was $5 million, on {page}.", page, page) for page in (1, 2, 3)],
        )
        for path in ("a.pdf", "old.pdf")
    )
    index = write_documents(tmp_path / "index", documents)
    # The chunk before the page may go on over its end, in each of them.
    paged = Pair("q", PAIR.question, "$5 million", ("a.pdf",), page=2)
    both = {(path, page) for path in ("a.pdf", "old.pdf") for page in (1, 2)}
    assert {(found.document, found.page) for found in find_gold(paged, index)} == both
    # A passage of the copy that somebody's own retriever finds is right as well.
    placed = Pair("q", PAIR.question, "$5 million", ("a.pdf",), places=(Place("a.pdf", "Revenue was"),))
    assert {sign.document for sign in signs_of(placed, find_gold(placed, index))} == {"a.pdf", "old.pdf"}


def test_a_page_narrows_the_gold(make_index: Make, tmp_path: Path) -> None:
    chunks = [chunk("a.pdf", f"The figure is 5, on {page}.", page, page) for page in (1, 2, 3, 5)]
    document = {"path": "a.pdf", "digest": "d", "title": "a"}
    index = write_documents(tmp_path / "paged", [(document, chunks)])

    def pages(page: int) -> list[int | None]:
        pair = Pair("q", "What is the figure?", "5", ("a.pdf",), page=page)
        return [found.page for found in find_gold(pair, index)]

    assert pages(2) == [1, 2]  # the chunk before may go on over the page's end
    assert pages(4) == [3]
    assert pages(1) == [1]
    # A DOCX file has none: the page is that of a print, and says nothing.
    printed = Pair("q", "Revenue?", "36 people", ("alder.md",), page=3)
    assert [found.id for found in find_gold(printed, make_index(FIRM))] == ["alder.md#1"]


def test_whether_the_right_passage_is_one_by_chance(make_index: Make) -> None:
    index = make_index(
        {
            "a.md": [
                "The 12-month P/E is 9x.",
                "Norvik runs 12 plants. It has 5 ships.",
                "It was so. Norvik runs 12 plants.",
            ],
            "b.md": ["Its 5 ships are old."],
        }
    )

    def by_chance(answer: str | None, **fields: Any) -> bool:
        pair = Pair("q", "How many plants has Norvik?", answer, ("a.md",), **fields)
        return may_be_chance(pair, find_gold(pair, index))

    assert by_chance("12")
    assert not by_chance("12 plants")  # the same sentence in two passages
    assert by_chance("12", page=3)  # the file has no pages
    assert not by_chance("12", evidence="runs 12")
    assert not by_chance("12", places=(Place("a.md", "runs 12"),))
    assert not by_chance("5 ships")
    assert not by_chance("so. Norvik")  # over the end of a sentence
    assert not by_chance(None)
    assert may_be_chance(Pair("q", "?", "5"), [*index.chunks_of("a.md")[1:2], *index.chunks_of("b.md")])


PAIR = Pair("q7", "What was Alder's revenue in 2023?", "$1,536 million", ("alder.md",))


def row(
    index: Index,
    pair: Pair,
    form: RowForm,
    within: set[str] | None = None,
    retriever: Retriever | None = None,
) -> dict[str, Any]:
    gold = find_gold(pair, index)
    signs = signs_of(pair, gold)
    within = within or {document["path"] for document in index.documents}
    right, found = row_passages(pair.question, gold, signs, retriever or index, form.passages, within)
    return make_row(pair, right, found, form, signs)


def test_a_row_has_the_gold_passage_among_wrong_ones(make_index: Make) -> None:
    index = make_index(FIRM)
    found = row(index, PAIR, RowForm(passages=4, no_answer_share=0.0))
    assert len(found["context"]) == 4
    number = found["gold"]
    assert isinstance(number, int)
    assert found["answer"] == f"$1,536 million [{number}]"
    assert found["value"] == "$1,536 million"
    right = [holds(passage, "$1,536 million") for passage in found["context"]]
    assert right.count(True) == 1
    assert right[number - 1]
    assert len(set(found["passages"])) == 4
    assert found == row(index, PAIR, RowForm(passages=4, no_answer_share=0.0))


def test_gold_stands_at_every_place_alike(make_index: Make) -> None:
    index = make_index(FIRM)
    form = RowForm(passages=4, no_answer_share=0.0)
    places = Counter(
        row(index, Pair(f"q{n}", PAIR.question, PAIR.answer, PAIR.documents), form)["gold"]
        for n in range(400)
    )
    assert sorted(places) == [1, 2, 3, 4]
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
        assert not any(holds(passage, "$1,536 million") for passage in found["context"])


FIRMS_PAIRS = [
    PAIR,
    Pair("q8", "How many people work for Alder?", "36 people", ("alder.md",)),
    Pair("q9", "What was Birch's revenue in 2023?", "$36 million", ("birch.md",)),
    Pair("q10", "What was Birch's margin?", "18.4 %", ("birch.md",)),
]


def followed(index: Index, form: RowForm) -> list[dict[str, Any]]:
    """A row of each pair, with further questions."""
    golds = {pair.id: find_gold(pair, index) for pair in FIRMS_PAIRS}
    rows = [row(index, pair, form) for pair in FIRMS_PAIRS]
    asked = [
        Asked(
            pair,
            [Passage(one.passage, one.document, one.id, one.page) for one in golds[pair.id]],
            signs_of(pair, golds[pair.id]),
        )
        for pair in FIRMS_PAIRS
    ]
    documents = {passage.text: passage.document for passage in index.search("Alder Birch other revenue", 99)}
    documents |= {passage.text: passage.document for one in asked for passage in one.gold}
    add_follow_ups(rows, asked, form, documents)
    return rows


def test_further_questions_are_those_that_one_passage_of_the_row_answers(make_index: Make) -> None:
    form = RowForm(passages=5, no_answer_share=0.0, follow_ups=2)
    rows = followed(make_index(FIRM), form)
    assert rows == followed(make_index(FIRM), form)
    by_question = {pair.question: pair for pair in FIRMS_PAIRS}
    further = [(one, each) for one in rows for each in one.get("follow_ups", [])]
    assert len(further) >= 3
    for one, each in further:
        pair = by_question[each["question"]]
        assert pair.id != one["id"]
        context: list[str] = one["context"]
        assert pair.answer is not None
        assert [number for number, text in enumerate(context, 1) if holds(text, pair.answer)] == [
            each["gold"]
        ]
        assert each["answer"] == f"{pair.answer} [{each['gold']}]"
    assert max(len(one.get("follow_ups", [])) for one in rows) == 2


def test_a_share_of_the_further_questions_is_answered_by_no_passage(make_index: Make) -> None:
    form = RowForm(passages=2, no_answer_share=0.9, follow_ups=3)
    by_question = {pair.question: pair for pair in FIRMS_PAIRS}
    found = []
    for seed in range(20):
        for one in followed(make_index(FIRM), replace(form, seed=seed)):
            found += [(one, each) for each in one.get("follow_ups", [])]
    silent = [(one, each) for one, each in found if each["gold"] is None]
    assert 0 < len(silent) < len(found)
    for one, each in silent:
        answer = by_question[each["question"]].answer
        assert each["answer"] == form.no_answer
        assert answer is not None
        assert not any(holds(text, answer) for text in one["context"])


TABLES = {
    name: [
        f"{name} had revenue of ${figure} million, and {staff} % more staff.",
        f"| {name} | {figure} |",
        f"| Staff | {staff} |",
    ]
    for name, figure, staff in (("Alder", "3,689", "7"), ("Birch", "2,111", "8"))
}


def test_a_figure_in_a_table_is_the_answer_too(make_index: Make) -> None:
    """ "$3,689 million" doesn't stand in "| Revenue | 3,689 |", which answers the question all the same."""
    index = make_index({f"{name}.md": texts for name, texts in TABLES.items()})
    question = "What was Alder's revenue, and its staff? Birch's?"
    asked = [
        (Pair("r", question, "$3,689 million", ("Alder.md",)), "Alder.md#1"),
        # A small figure is in many tables: it counts in the document that the question is about.
        (Pair("s", question, "7 % in 2023", ("Alder.md",), evidence="7 % more"), "Alder.md#2"),
    ]
    for pair, table in asked:
        for share in (0.0, 0.999999):
            found = row(index, pair, RowForm(passages=9, no_answer_share=share))
            assert table not in found["passages"]
            assert (found["gold"] is None) == (share > 0)
            assert {"Birch.md#0", "Birch.md#1", "Birch.md#2"} <= {*found["passages"]}
    other = Pair("q", question, "between 7 and 8", ("Birch.md",), evidence="$2,111")
    assert "Alder.md#2" in row(index, other, RowForm(passages=9, no_answer_share=0.0))["passages"]
    # A year, and several figures, stand everywhere.
    year = Pair("n", question, "In 2023", ("Alder.md",), evidence="revenue of $3,689")
    assert {"Alder.md#1", "Alder.md#2"} <= {*row(index, year, RowForm(9, 0.0))["passages"]}


@pytest.mark.parametrize(
    ("text", "answer", "of_gold", "expected"),
    [
        ("| Growth | 12 | 15 |", "12-15 %", True, True),
        ("Growth of 12 % to 15 %.", "12-15 %", True, True),
        ("| Growth | 12 | 14 |", "12-15 %", True, False),
        ("| Growth | 12 | 15 |", "12-15 %", False, False),  # small figures stand everywhere
        ("| Revenue | 3,689 | 12 |", "$3,689 million, 12 % more", False, True),
        ("| Revenue | -3\u2019689 | 12 |", "3\u2019689 million, or 12 % more", False, True),
        ("| Revenue | 3,689 | 11 |", "$3,689 million, 12 % more", True, False),
        ("| Staff | 7 |", "in 2022 and 2023", True, False),
        ("| Umsatz | 1,234.5 |", "1.234,5 Mio. \u20ac", False, True),
        ("| Marge | 12.5% |", "12,5 % in \uff12\uff10\uff12\uff13", False, True),
    ],
)
def test_all_figures_in_a_table_are_the_answer_too(
    text: str, answer: str, of_gold: bool, expected: bool
) -> None:
    pair = Pair("q", "What is expected?", answer, ("a.md",), evidence="It is said.")
    assert has_answer(pair, [], text, of_gold=of_gold) is expected


DEALS = (
    ("2023-05 Norvik: report for 2023", "Deal", "The purchase by Norvik was closed in 2023."),
    ("2023-05 Norvik: report for 2023", "Risks", "The purchase of fuel is a risk"),
    ("2023-05 Norvik: report for 2023", "Costs in 2023", "The purchase of fuel was cheaper"),
    ("2023-05 Norvik: report for 2023", "", "Purchase 12\nFuel 15"),
    ("Talon Inc.", "Risks", "The purchase of steel by Talon is one."),
)


def test_a_title_answers_nothing(tmp_path: Path) -> None:
    """The passage with the company's name was the right one each time, and to abstain was taught in no row."""
    chunks = [
        Chunk(str(number), title[-4:], f"{title} > {section}" if section else title, text, None)
        for number, (title, section, text) in enumerate(DEALS)
    ]
    documents = (
        ({"path": name, "digest": name, "title": name}, [one for one in chunks if one.document == name])
        for name in dict.fromkeys(one.document for one in chunks)
    )
    index = write_documents(tmp_path / "index", documents)

    def passages(pair: Pair, share: float) -> tuple[set[str], int | None]:
        found = row(index, pair, RowForm(passages=9, no_answer_share=share, titled=True))
        return {*found["passages"]}, found["gold"]

    year = Pair("q", "When did Norvik close the purchase?", "2023", ("2023",))
    company = replace(year, answer="Norvik", evidence="closed in 2023")
    # What a heading of a section says counts, and the first line of a text is none.
    for pair, silent in ((year, {"1", "3", "4"}), (company, {"1", "2", "3", "4"})):
        found, number = passages(pair, 0.0)
        assert found == {"0", *silent}
        assert number is not None
        assert passages(pair, 0.999999) == (silent, None)
    small = replace(year, answer="12 %", evidence="closed in 2023")
    assert passages(small, 0.999999) == ({"1", "2", "4"}, None)
    # An answer that the right passage has only in its title.
    report = replace(year, answer="report for 2023")
    assert passages(report, 0.999999) == ({"4"}, None)
    assert [sign.with_title for sign in signs_of(report, find_gold(report, index))] == [True]
    asked = Asked(report, [], signs_of(report, find_gold(report, index)))
    assert asked.is_answered_by(chunks[1].passage, "2023", titled=True)
    assert not Asked(year, [], []).is_answered_by(chunks[1].passage, "2023", titled=True)
    assert Asked(year, [], []).is_answered_by(chunks[1].passage, "2023")


@pytest.mark.parametrize(
    ("passage", "answer", "expected"),
    [
        # The title is above every passage of its document, and says nothing of plants.
        ("2023-05-12-norvik: Risks\nThere are some.", "12 plants", False),
        ("2023-05-12-norvik: Risks\nThere are some.", "12", False),
        ("report-7: Risks\nThere are some.", "7 %", False),
        ("2023-05-12-norvik: Risks\nIt runs 12.", "12 plants", True),
        ("2023-05-12-norvik: Risks\nIt runs 12.", "12", True),
        ("Norvik > The 12 plants\nThey pump.", "12 plants", True),
        ("Annual report 2023\nIt rose.", "2023", True),
        # Passages of a user's own have none.
        ("It runs 12.\nThey pump.", "12 plants", True),
        ("| Plants | 12 |\n| Ships | 7 |", "12 plants", True),
        ("It runs 12", "12 plants", True),
    ],
)
def test_a_figure_in_the_heading_is_no_answer(passage: str, answer: str, expected: bool) -> None:
    assert has_answer(Pair("q", "How many?", answer, ("a.md",)), [], passage, of_gold=True) is expected


def test_no_further_question_is_answered_by_a_table(make_index: Make) -> None:
    texts = [text for texts in TABLES.values() for text in texts]
    documents = {text: f"{name}.md" for name, texts in TABLES.items() for text in texts}
    revenue = Pair("r", "What was Alder's revenue?", "$3,689 million", ("Alder.md",))
    staff = Pair("s", "By how much did staff grow?", "7 %", ("Alder.md",))
    asked = [Asked(pair, [Passage(texts[0], "Alder.md")], []) for pair in (revenue, staff)]

    def further(*context: int, share: float = 0.0) -> list[str]:
        made: dict[str, Any] = {"id": "other", "context": [texts[place] for place in context]}
        add_follow_ups([made], asked, RowForm(no_answer_share=share, follow_ups=2), documents)
        return sorted(one["question"] for one in made.get("follow_ups", []))

    assert further(0, 4) == [staff.question, revenue.question]
    assert further(0, 1) == [staff.question]
    assert further(0, 2) == [revenue.question]
    assert asked[1].is_answered_by(texts[2], "Alder.md")
    assert not asked[1].is_answered_by(texts[2], "Birch.md")
    assert replace(asked[1], near=["Birch.md"]).is_answered_by(texts[2], "Birch.md")


def test_of_a_file_that_is_there_twice_a_question_is_asked_once(make_index: Make) -> None:
    """Each copy's passage has the same text, and with it the same question."""
    both = [Passage(f"Alder: {n}.", path) for n in range(1, 5) for path in ("a.md", "old.md")]
    asked = [
        Asked(Pair(f"q{n}", f"Which is number {n}?", f"{n}", ("a.md", "old.md")), both[2 * n - 2 : 2 * n], [])
        for n in range(1, 5)
    ]
    documents = {passage.text: passage.document for passage in both} | {"Birch.": "birch.md"}
    asked.append(
        Asked(Pair("b", "Which is Birch's?", "Birch", ("birch.md",)), [Passage("Birch.", "birch.md")], [])
    )
    asked += [
        Asked(
            Pair(f"u{n}", f"What of {n}?", f"$9{n}0", ("a.md", "birch.md")),
            [Passage(f"$9{n}0", name) for name in ("a.md", "birch.md")],
            [],
        )
        for n in range(3)
    ]
    for seed in range(20):
        rows: list[dict[str, Any]] = [
            {"id": f"row {seed}", "context": [*dict.fromkeys(passage.text for passage in both), "Birch."]}
        ]
        add_follow_ups(rows, asked, RowForm(seed=seed, no_answer_share=0.6, follow_ups=5), documents)
        questions = [one["question"] for one in rows[0]["follow_ups"]]
        assert len(questions) == len(set(questions)) == 5


def test_rows_ask_once_unless_told(make_index: Make) -> None:
    assert not any("follow_ups" in one for one in followed(make_index(FIRM), RowForm()))


def test_a_question_without_an_answer_gets_what_is_found(make_index: Make) -> None:
    found = row(make_index(FIRM), Pair("q", "What was Zebra's revenue?", None), RowForm(passages=3))
    assert found["answer"] == "The documents don't say."
    assert len(found["context"]) == 3
    assert (found["gold"], found["value"], found["documents"]) == (None, None, [])


def test_passages_come_from_the_documents_of_the_split_alone(make_index: Make) -> None:
    index = make_index(FIRM)
    found = row(index, PAIR, RowForm(passages=5, no_answer_share=0.0), within={"alder.md", "other1.md"})
    assert {str(name).partition("#")[0] for name in found["passages"]} == {"alder.md", "other1.md"}


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
    signs = signs_of(PAIR, gold)
    found = index.search(PAIR.question, 10)
    assert first_right(found, gold, signs) == 1
    assert first_right(found[1:], gold, signs) in range(1, 10)
    wrong = [passage for passage in found if passage.document != "alder.md"]
    assert first_right(wrong, gold, signs) is None
    assert first_right([Passage("$1,536 million!", "alder.md", "another")], gold, signs) == 1
    assert first_right([Passage("$1,536 million!", "alder.md", "another")], gold, []) is None
    # A retriever of the user's own knows no ids: its passage is right if it has the answer's words.
    own = [
        Passage("nothing", "alder.md"),
        Passage("made $1,536 million", "birch.md"),
        Passage("$1,536 million!", ""),
    ]
    assert first_right(own, gold, signs) == 3


@pytest.mark.parametrize(
    ("pair", "right"),
    [
        # Evidence says where, and the answer is in it.
        (Pair("q", "?", "$1,536 million", ("alder.md",), evidence="Again:"), [False, True, False, False]),
        # The answer is in words of its own: evidence alone says where it is.
        (Pair("q", "?", "36 of them", ("alder.md",), evidence="employs 36"), [False, False, True, False]),
        (Pair("q", "?", "$1,536 million", ("alder.md",)), [True, True, False, False]),
        (
            Pair("q", "?", "36 of them", ("alder.md",), places=(Place("alder.md", "employs 36"),)),
            [False, False, True, False],
        ),
    ],
)
def test_a_retriever_of_ones_own_is_measured_by_evidence_first(
    make_index: Make, pair: Pair, right: list[bool]
) -> None:
    gold = find_gold(pair, make_index(FIRM))
    texts = ["made $1,536 million", "Again: $1,536 million.", "It employs 36 people.", "Nothing."]
    found = [first_right([Passage(text, "alder.md")], gold, signs_of(pair, gold)) for text in texts]
    assert [place is not None for place in found] == right


def test_a_row_without_the_answer_has_it_from_no_document(make_index: Make) -> None:
    later = {"2024.md": ["Alder's revenue rose, after $1,536 million in 2023."]}
    index = make_index({**FIRM, **later})
    form = RowForm(passages=12, no_answer_share=0.999999)
    found = row(index, PAIR, form)
    assert found["gold"] is None
    assert not any(holds(passage, "$1,536 million") for passage in found["context"])
    own_words = Pair("q7", PAIR.question, "over a billion", ("alder.md",), evidence="$1,536 million in 2023")
    found = row(index, own_words, form)
    assert found["gold"] is None
    assert not any("$1,536 million in 2023" in passage for passage in found["context"])
    # Beside the gold passage it is a distractor: another document may say it of something else.
    found = row(index, PAIR, RowForm(passages=12, no_answer_share=0.0))
    assert "2024.md#0" in found["passages"]


def test_where_every_passage_has_the_answer_the_row_has_one(make_index: Make) -> None:
    index = make_index(
        {"a.md": ["Alder's revenue was $5 million."], "b.md": ["Alder's revenue: $5 million."]}
    )
    pair = Pair("q", "What was Alder's revenue?", "$5 million", ("a.md",))
    found = row(index, pair, RowForm(passages=1, no_answer_share=0.999999))
    assert (found["gold"], found["passages"]) == (1, ["a.md#0"])


class Firm:
    """A retriever that cuts documents otherwise than the index, and searches all of them."""

    def __init__(self, passages: list[Passage]) -> None:
        self.passages, self.asked = passages, list[int]()

    def search(self, question: str, count: int) -> list[Passage]:
        self.asked.append(count)
        return self.passages[:count]


def test_rows_have_the_passages_of_the_retriever_that_is_asked_later(make_index: Make) -> None:
    index = make_index(FIRM)
    elsewhere = [Passage(f"line {n}", "birch.md", "birch.md") for n in range(30)]
    near = [Passage(f"Other {n} made ${n} million", "other1.md", "other1.md") for n in range(4)]
    firm = Firm([*elsewhere, *near, Passage("FIRM: made $1,536 million", "alder.md", "alder.md")])
    within = {"alder.md", "other1.md"}
    found = row(index, PAIR, RowForm(passages=4, no_answer_share=0.0), within, firm)
    number = found["gold"]
    assert isinstance(number, int)
    assert found["context"][number - 1] == "FIRM: made $1,536 million"
    assert len(found["context"]) == 4
    assert set(found["context"]) <= {passage.text for passage in [*near, firm.passages[-1]]}
    # Those of other splits come first here: it is asked for more.
    assert len(firm.asked) > 1
    right, _ = row_passages(PAIR.question, find_gold(PAIR, index), [], Firm(near), 4, within)
    assert right == []


def test_passages_without_a_document_make_no_rows(make_index: Make) -> None:
    with pytest.raises(ConfigError, match="a passage without its document") as caught:
        row(make_index(FIRM), PAIR, RowForm(), None, Firm([Passage("made $1,536 million", "")]))
    assert "`document`" in str(caught.value.hint)
