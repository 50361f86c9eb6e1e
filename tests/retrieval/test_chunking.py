from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfaug.retrieval.chunking import Chunker, count_words
from selfaug.retrieval.document import Block, Document


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def exactly(texts: list[str]) -> list[int]:
    """One token a word or sign: what a chunk has can be counted by hand."""
    return [len(words(text)) for text in texts]


def document(*blocks: Block, title: str = "Report") -> Document:
    return Document("a/report.md", title, "digest", blocks)


def heading(text: str, level: int = 1) -> Block:
    return Block("heading", text, level=level)


def text(content: str, page: int | None = None) -> Block:
    return Block("text", content, page=page)


TABLE = "| Year | Revenue |\n|---|---:|\n" + "\n".join(f"| {2000 + n} | ${n} million |" for n in range(12))


def test_a_chunk_has_title_and_headings_and_does_not_cross_one() -> None:
    chunks = Chunker(64, 8, exactly).chunks(
        document(
            heading("Report"),
            text("Opening words."),
            heading("Results", 2),
            text("Revenue rose."),
            heading("Europe", 3),
            text("It fell there."),
            heading("Outlook", 2),
            text("All is well."),
        )
    )
    assert [(chunk.heading, chunk.text) for chunk in chunks] == [
        ("Report", "Opening words."),
        ("Report > Results", "Revenue rose."),
        ("Report > Results > Europe", "It fell there."),
        ("Report > Outlook", "All is well."),
    ]
    assert chunks[1].passage == "Report > Results\nRevenue rose."


def test_a_long_section_is_cut_between_sentences_and_some_are_repeated() -> None:
    sentences = [f"Sentence number {n} says so." for n in range(30)]
    chunks = Chunker(40, 12, exactly).chunks(document(text(" ".join(sentences))))
    assert len(chunks) > 3
    for chunk in chunks:
        assert exactly([chunk.passage])[0] <= 40
        assert chunk.text.startswith("Sentence")
        assert chunk.text.endswith(".")
    for before, after in pairwise(chunks):
        shared = [sentence for sentence in sentences if sentence in before.text and sentence in after.text]
        assert len(shared) == 2  # two of six tokens fit into an overlap of 12
    for sentence in sentences:
        assert any(sentence in chunk.text for chunk in chunks)


def test_no_overlap_repeats_nothing() -> None:
    chunks = Chunker(40, 0, exactly).chunks(
        document(text(" ".join(f"Sentence {n} is here." for n in range(30))))
    )
    assert sum(len(words(chunk.text)) for chunk in chunks) == 30 * 5


def test_a_long_table_is_cut_between_rows_with_its_header_repeated() -> None:
    chunks = Chunker(60, 20, exactly).chunks(document(Block("table", TABLE, page=3)))
    assert len(chunks) > 1
    rows = []
    for chunk in chunks:
        first, second, *found = chunk.text.splitlines()
        assert (first, second) == ("| Year | Revenue |", "|---|---:|")
        assert exactly([chunk.passage])[0] <= 60
        assert chunk.page == 3
        rows += found
    assert rows == TABLE.splitlines()[2:]  # each once, in order


def test_a_table_after_text_has_its_header_once() -> None:
    (chunk,) = Chunker(400, 20, exactly).chunks(
        document(text("Before."), Block("table", TABLE), text("After."))
    )
    assert chunk.text == f"Before.\n{TABLE}\nAfter."


def test_where_header_and_row_do_not_fit_each_row_names_its_columns() -> None:
    """A row beneath no header is figures of no year: nobody can answer from it."""
    table = (
        "| Item | Unit | Q1 2022 | Q2 2022 | Q3 2022 | FY2022 |\n| --- | --- | --- | --- | --- | --- |\n"
        "| Net income | $ million | 22 | 26 | | 99 |\n| Cost \\| fees | $ million | 1 | 2 | 3 | 6 |"
    )
    (whole,) = Chunker(120, 0, exactly).chunks(document(Block("table", table)))
    assert whole.text == table
    first, second = Chunker(40, 0, exactly).chunks(document(Block("table", table, page=2)))
    assert first.text == "Item: Net income; Unit: $ million; Q1 2022: 22; Q2 2022: 26; FY2022: 99"
    assert second.text == "Item: Cost | fees; Unit: $ million; Q1 2022: 1; Q2 2022: 2; Q3 2022: 3; FY2022: 6"
    assert first.page == 2


def test_a_row_longer_than_a_chunk_is_cut_between_cells_and_each_part_says_whose_it_is() -> None:
    header = "| Item | " + " | ".join(f"column {n}" for n in range(1, 40)) + " |"
    table = f"{header}\n|{'---|' * 40}\n| Sales | " + " | ".join(str(1000 + n) for n in range(1, 40)) + " |"
    chunks = Chunker(64, 0, exactly).chunks(document(Block("table", table)))
    assert all(exactly([chunk.passage])[0] <= 64 for chunk in chunks)
    lines = [line for chunk in chunks for line in chunk.text.splitlines()]
    assert all(line.startswith("Item: Sales; column ") for line in lines)
    cells = [cell for line in lines for cell in line.split("; ")[1:]]
    assert cells == [f"column {n}: {1000 + n}" for n in range(1, 40)]


def test_a_row_that_begins_with_a_long_text_has_it_once() -> None:
    """A text in front of thirty columns stood in the index sixteen times."""
    story = " ".join(f"word{n}" for n in range(60))
    header = "| Remark | " + " | ".join(f"column {n}" for n in range(1, 31)) + " |"
    table = f"{header}\n|{'---|' * 31}\n| {story} | " + " | ".join(str(1000 + n) for n in range(1, 31)) + " |"
    chunks = Chunker(64, 0, exactly).chunks(document(Block("table", table)))
    assert all(exactly([chunk.passage])[0] <= 64 for chunk in chunks)
    texts = "\n".join(chunk.text for chunk in chunks)
    assert words(texts).count("word0") == words(texts).count("word59") == 1
    assert all(texts.count(f"column {n}: {1000 + n}") == 1 for n in range(1, 31))


def test_a_long_row_beneath_a_short_header_is_not_cut_within_a_cell_that_fits() -> None:
    notes = " ".join(f"word{n}" for n in range(30))
    table = f"| Item | Note |\n|---|---|\n| Sales | {notes} |\n| Costs | None |"
    first, second = Chunker(40, 0, exactly).chunks(document(Block("table", table)))
    assert first.text == f"Item: Sales; Note: {notes}"
    assert second.text == "Item: Costs; Note: None"


UNIT = "(in EUR thousand)"


@pytest.mark.parametrize("count", [exactly, count_words])
def test_each_passage_of_a_table_has_the_unit_above_it(count: Callable[[Sequence[str]], list[int]]) -> None:
    """Seven of eight passages said 1,007 of nothing."""
    rows = [f"| Line {n} | {1000 + n} | {2000 + n} |" for n in range(60)]
    header = "| Item | 2022 | 2023 |\n| --- | --- | --- |"
    # Two blocks: so is a long table.
    tables = [
        Block("table", "\n".join([header, *rows[start : start + 30]]), page=page)
        for page, start in ((1, 0), (2, 30))
    ]
    for words_before in range(40):
        chunks = Chunker(100, 20, count).chunks(
            document(text(f"{'word ' * words_before}.", 1), text(UNIT, 1), *tables)
        )
        assert len(chunks) > 5
        assert all(count([chunk.passage])[0] <= 100 for chunk in chunks)
        of_table = [chunk for chunk in chunks if "| Line" in chunk.text]
        assert all(chunk.text.count(f"{UNIT}\n{header}\n| Line") == 1 for chunk in of_table)
        assert all(chunk.text.count(UNIT) == 1 for chunk in chunks)
        assert [
            row for chunk in chunks for row in chunk.text.splitlines() if row.startswith("| Line")
        ] == rows
        assert [chunk.page for chunk in of_table] == [
            1 if int(re.findall(r"Line (\d+)", chunk.text)[0]) < 30 else 2 for chunk in of_table
        ]


def test_rows_that_name_their_columns_have_the_unit_above_them_too() -> None:
    header = "| Item | " + " | ".join(f"column {n}" for n in range(1, 40)) + " |"
    table = f"{header}\n|{'---|' * 40}\n| Sales | " + " | ".join(str(1000 + n) for n in range(1, 40)) + " |"
    chunks = Chunker(64, 16, exactly).chunks(document(text(UNIT), Block("table", table)))
    assert len(chunks) > 3
    assert all(exactly([chunk.passage])[0] <= 64 for chunk in chunks)
    assert all(chunk.text.startswith(f"{UNIT}\nItem: Sales; column ") for chunk in chunks)
    # Rows without names, too.
    chunks = Chunker(64, 0, exactly).chunks(
        document(text(UNIT), Block("table", "\n".join(["| Sales | 5 |"] * 40)))
    )
    assert all(chunk.text.startswith(f"{UNIT}\n| Sales | 5 |") for chunk in chunks)


def test_a_unit_that_takes_too_much_room_stands_once() -> None:
    long = "in EUR thousand a b c d e f g h i j k l m n o p q r s t u v w x y"
    for table in (TABLE, TABLE.replace("| Revenue |", f"| Revenue {'of it ' * 9} |")):
        chunks = Chunker(40, 0, exactly).chunks(document(text(long), Block("table", table)))
        assert len(chunks) > 2
        assert all(exactly([chunk.passage])[0] <= 40 for chunk in chunks)
        assert sum("thousand" in chunk.text for chunk in chunks) == 1


@pytest.mark.parametrize("line", ["Revenue was $5 million.", f"Sales\n{UNIT}", "Sales by region"])
def test_other_lines_above_a_table_stand_once(line: str) -> None:
    chunks = Chunker(60, 0, exactly).chunks(document(text(line), Block("table", TABLE)))
    assert len(chunks) > 1
    assert sum(line in chunk.text for chunk in chunks) == 1


def test_a_unit_is_not_that_of_the_next_table() -> None:
    other = Block("table", TABLE.replace("Revenue", "Staff"))
    for between in ([], [text("And so on."), Block("table", TABLE)]):
        blocks = [text(UNIT), Block("table", TABLE), *between, other]
        chunks = Chunker(60, 0, exactly).chunks(document(*blocks))
        assert UNIT not in chunks[-1].text
        assert sum(UNIT in chunk.text for chunk in chunks) in (2, 3)


def test_a_caption_that_says_the_heading_again_is_no_passage_of_its_own() -> None:
    sheet = [
        Block("text", "Report", sheet="Revenue by segment"),
        Block("text", "Revenue by segment", sheet="Revenue by segment"),
        Block("table", "| Item | FY2022 |\n|---|---|\n| Sensors | 625 |", sheet="Revenue by segment"),
    ]
    (chunk,) = Chunker(64, 8, exactly).chunks(document(*sheet))
    assert chunk.passage == "Report > Revenue by segment\n| Item | FY2022 |\n|---|---|\n| Sensors | 625 |"
    # What says nothing else stays to be found.
    (alone,) = Chunker(64, 8, exactly).chunks(document(*sheet[:1]))
    assert alone.text == "Report"


def test_first_lines_of_a_sheet_that_say_its_heading_again_are_left_out() -> None:
    both = Block("text", "Report\nStaff\nIt grew.\nStaff", sheet="Staff")
    (chunk,) = Chunker(64, 8, exactly).chunks(document(both))
    assert chunk.passage == "Report > Staff\nIt grew.\nStaff"
    # Elsewhere a line may be the beginning of a sentence.
    (chunk,) = Chunker(64, 8, exactly).chunks(document(heading("Staff"), text("Staff\ncosts rose.")))
    assert chunk.passage == "Report > Staff\nStaff\ncosts rose."


def test_a_heading_at_the_titles_end_is_not_said_again() -> None:
    """Counted twice, it drew the search to its documents."""
    blocks = [heading("Summary"), text("Summary"), text("It grew."), heading("Risks", 2), text("Few.")]
    chunks = Chunker(64, 8, exactly).chunks(document(*blocks, title="norvik_2023: Summary"))
    assert [chunk.passage for chunk in chunks] == [
        "norvik_2023: Summary\nIt grew.",
        "norvik_2023: Summary > Risks\nFew.",
    ]


def test_a_sentence_that_goes_on_in_the_next_line_is_not_cut_between_them() -> None:
    lines = [f"The free cash flow of year {n} was $385\nmillion in all, {n} more." for n in range(8)]
    chunks = Chunker(40, 0, exactly).chunks(document(text("\n".join(lines))))
    assert len(chunks) > 2
    for chunk in chunks:
        assert chunk.text.startswith("The free")
        assert chunk.text.endswith("more.")


@pytest.mark.parametrize(
    "lines",
    [
        [f"and then there came another night {n}" for n in range(9)],  # one sentence, longer than a chunk
        [f"and then there came another night {n}" for n in range(40)],  # longer than sentences are
        [f"short item {n}" for n in range(20)],
        [f"Every item of the list has {n} words:\nnone" for n in range(10)],
        [f"{n} High Street, in the town of\nLondon" for n in range(10)],
    ],
)
def test_verse_lists_and_addresses_are_cut_between_lines(lines: list[str]) -> None:
    chunks = Chunker(24, 0, exactly).chunks(document(text("\n".join(lines))))
    whole = [line for part in lines for line in part.split("\n")]
    assert len(chunks) > 2
    assert [line for chunk in chunks for line in chunk.text.split("\n")] == whole


def test_lines_that_end_no_sentence_are_repeated_at_a_cut_and_take_linear_time() -> None:
    """A transcript was one sentence, joined and halved: its time was quadratic, and nothing of it was repeated."""
    lines = [f"so then we said of number {n} that it goes on" for n in range(40_000)]
    began = time.process_time()
    chunks = Chunker(200, 30, exactly).chunks(document(text("\n".join(lines))))
    assert time.process_time() - began < 5  # 1.7 MB; it took 15 s and more
    assert [chunk.text.split("\n")[-2:] for chunk in chunks[:-1]] == [
        chunk.text.split("\n")[:2] for chunk in chunks[1:]
    ]


def test_a_sentence_longer_than_a_chunk_is_cut_between_words() -> None:
    long = " ".join(f"word{n}" for n in range(200))
    chunks = Chunker(50, 10, exactly).chunks(document(text(long)))
    assert all(exactly([chunk.passage])[0] <= 50 for chunk in chunks)
    found = [word for chunk in chunks for word in words(chunk.text)]
    assert set(found) == set(words(long))


def test_a_word_longer_than_a_chunk_is_cut_too() -> None:
    def by_letters(texts: list[str]) -> list[int]:
        return [len(one) for one in texts]

    chunks = Chunker(64, 0, by_letters).chunks(document(text("x" * 1000), title=""))
    assert "".join(chunk.text for chunk in chunks).replace("\n", "").replace(" ", "") == "x" * 1000
    assert all(len(chunk.text) <= 64 for chunk in chunks)


def test_ids_stay_when_something_else_changes_and_differ_for_the_same_words_twice() -> None:
    chunker = Chunker(64, 8, exactly)
    same = [heading("B", 2), text("The same words.")]
    before = chunker.chunks(document(heading("A", 2), text("Old words."), *same))
    after = chunker.chunks(document(heading("A", 2), text("New words, and more of them."), *same, *same))
    assert before[1].id == after[1].id
    assert before[0].id != after[0].id
    assert len({chunk.id for chunk in after}) == len(after) == 3
    # Fixed: ids are written into training rows, and must not change from version to version.
    assert before[1].id == "e295cf647ee0b86a"


@pytest.mark.parametrize("overlap", [0, 16])
def test_the_page_is_that_of_the_first_sentence_that_is_not_repeated(overlap: int) -> None:
    """An auditor looked for the figure on the page before."""
    blocks = [text(" ".join(f"Page {page} says {n}." for n in range(9)), page) for page in (1, 2, 3)]
    chunks = Chunker(40, overlap, exactly).chunks(document(*blocks))
    said = [re.findall(r"Page (\d) says (\d)", chunk.text) for chunk in chunks]
    new = [next(one for one in now if one not in before) for before, now in pairwise([[], *said])]
    assert [str(chunk.page) for chunk in chunks] == [page for page, _ in new]
    assert any(page != now[0][0] for (page, _), now in zip(new, said, strict=True)) == bool(overlap)


def test_a_long_heading_is_shortened_in_its_middle() -> None:
    """A heading of 300 words once made passages of more than 300 tokens, whatever the limit."""
    long = " ".join(f"word{n}" for n in range(300))
    whole = document(heading("First", 1), heading(long, 2), text("Revenue rose. " * 40))
    chunks = Chunker(96, 8, exactly).chunks(whole)
    assert all(exactly([chunk.passage])[0] <= 96 for chunk in chunks)
    assert chunks[0].heading.startswith("Report > First > word0 word1 ")
    assert chunks[0].heading.endswith(" word298 word299")
    assert " … " in chunks[0].heading
    assert 60 <= exactly([chunks[0].heading])[0] <= 71
    assert set(words(chunks[0].heading)) - {"…"} <= set(
        words(f"Report > First > {long}")
    )  # no parts of words
    # What its middle says is text of its section, once.
    assert " ".join(chunk.text for chunk in chunks).count("word150") == 1
    below = [
        chunk.text
        for chunk in Chunker(96, 0, exactly).chunks(document(heading(long), heading("Sub", 2), text("x")))
    ]
    assert " ".join(below) == f"{long}\nx"


def test_a_heading_without_spaces_is_shortened_too() -> None:
    def by_letters(texts: list[str]) -> list[int]:
        return [len(one) for one in texts]

    chunks = Chunker(64, 0, by_letters).chunks(document(heading("x" * 500), text("Words."), title="y" * 500))
    assert max(len(chunk.passage) for chunk in chunks) <= 64
    assert chunks[0].heading.startswith("yyyy")
    assert chunks[0].heading.endswith("xxxx")
    assert "".join(chunk.text for chunk in chunks).replace("\n", "") == "y" * 500 + "x" * 500 + "Words."


def test_a_heading_that_fits_stays_as_it_is() -> None:
    (chunk,) = Chunker(64, 8, exactly).chunks(document(text("Words."), title="word " * 47))
    assert chunk.heading == "word " * 47


def test_a_sheet_is_a_section() -> None:
    chunks = Chunker(64, 8, exactly).chunks(
        document(
            Block("table", "| a |\n|---|\n| 1 |", sheet="North"),
            Block("table", "| a |\n|---|\n| 2 |", sheet="South"),
        )
    )
    assert [chunk.heading for chunk in chunks] == ["Report > North", "Report > South"]


def found_in(*blocks: Block) -> list[tuple[str, str]]:
    return [(chunk.heading, chunk.text) for chunk in Chunker(64, 8, exactly).chunks(document(*blocks))]


def test_headings_with_nothing_beneath_them_are_text_of_the_section_above() -> None:
    """Figures of a brochure stand in large type with nothing beneath them: they were in no passage."""
    assert found_in(
        heading("Report"), heading("$4.2 billion"), heading("Revenue", 2), heading("36 million"),
        heading("Customers", 2), text("In May."), heading("Call 555", 3),
    ) == [
        ("Report > $4.2 billion", "Revenue"),
        ("Report > 36 million > Customers", "In May.\nCall 555"),
    ]  # fmt: skip
    # What follows a heading's text is not beneath it.
    assert found_in(heading("A"), text("a"), heading("B"), heading("C"), text("c")) == [
        ("Report > A", "a"),
        ("Report", "B"),
        ("Report > C", "c"),
    ]
    assert found_in(heading("Report"), heading(" ")) == found_in() == []


def test_sentences_keep_the_quotation_marks_and_brackets_at_their_ends() -> None:
    line = 'He said "Yes." Then he left (see note 3.) Revenue rose.'
    (chunk,) = Chunker(64, 8, exactly).chunks(document(text(line)))
    assert chunk.text == line


@pytest.mark.parametrize(
    "sentences",
    [
        ["Выручка выросла за год.", " Прибыль упала за год.", " Долг не изменился."],
        ["収益は増加した。", "利益は減った。", "負債は同じだ。"],
        ["आय बढ़ी।", " लाभ घटा।", " ऋण वही है।"],
    ],
)
def test_sentences_end_in_any_script(sentences: list[str]) -> None:
    def by_letters(texts: Sequence[str]) -> list[int]:
        return [len(one) for one in texts]

    chunks = Chunker(32, 0, by_letters).chunks(document(text("".join(sentences)), title=""))
    assert "".join(chunk.text.replace("\n", "") for chunk in chunks).replace(" ", "") == "".join(
        sentences
    ).replace(" ", "")
    assert all(chunk.text.endswith((".", "。", "।")) for chunk in chunks)
    (whole,) = Chunker(96, 0, by_letters).chunks(document(text("".join(sentences)), title=""))
    assert whole.text == "".join(sentences)


def test_lines_keep_their_indentation() -> None:
    code = "def revenue():\n    if known:\n        return 4\n- a list\n  - in it"
    (chunk,) = Chunker(64, 8, exactly).chunks(document(text(code)))
    assert chunk.text == code


def test_what_has_no_spaces_is_many_tokens() -> None:
    """A passage without a space was one word, and as long as its document."""
    assert count_words(["Revenue rose.", "収益は増加した"]) == [5, 10]
    chunks = Chunker(64, 0).chunks(document(text("x1" * 5000)))
    assert max(len(chunk.text) for chunk in chunks) < 300
    assert "".join(chunk.text for chunk in chunks) == "x1" * 5000


def test_an_overlap_of_more_than_half_is_refused() -> None:
    with pytest.raises(ValueError, match="at most half"):
        Chunker(64, 33)


@pytest.mark.parametrize("mark", ["1. ", "  12.3. ", "iv. ", "A. "])
def test_a_clause_is_not_cut_behind_its_number(mark: str) -> None:
    chunks = Chunker(32, 0, exactly).chunks(
        document(text(f"{'word ' * 28}ends.\n{mark}The term is two years."))
    )
    assert [chunk.text for chunk in chunks][1:] == [f"{mark}The term is two years."]


def test_abbreviated_numbers_and_names_are_not_the_ends_of_sentences() -> None:
    (chunk,) = Chunker(64, 8, exactly).chunks(document(text("It was $1.5 million, i.e. less. Then it rose.")))
    assert chunk.text == "It was $1.5 million, i.e. less. Then it rose."


HEADER = set("|hk-:;")
OF_HEADINGS = set("xyz")
BLOCKS = st.lists(
    st.one_of(
        st.builds(heading, st.text("xy z", min_size=1, max_size=300), st.integers(1, 4)),
        # "!": no text is a heading again, which would be left out.
        st.builds(text, st.text("ab. C\n!", max_size=400).map(lambda written: f"{written}!")),
        st.integers(1, 30).map(
            lambda n: Block(
                "table", "| h | k |\n|---|---|\n" + "\n".join(f"| r{i} | {i} |" for i in range(n))
            )
        ),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.integers(32, 90), st.sampled_from([exactly, count_words]))
def test_chunks_are_short_enough_and_lose_nothing(blocks: list[Block], limit: int, count) -> None:  # type: ignore[no-untyped-def]
    whole = document(*blocks, title="T")
    chunks = Chunker(limit, limit // 4, count).chunks(whole)
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    for chunk in chunks:
        assert count([chunk.passage])[0] <= limit
    # Without overlap every letter is there once, in order; the headers of tables are repeated.
    beneath = [
        part for block in blocks for part in ([block, text("!")] if block.kind == "heading" else [block])
    ]
    found = Chunker(limit, 0, count).chunks(document(*beneath, title="T"))
    said = [word for chunk in found for word in words(chunk.text) if word not in HEADER]
    assert "".join(word for word in said if not OF_HEADINGS.issuperset(word)) == "".join(
        word
        for block in beneath
        if block.kind != "heading"
        for word in words(block.text)
        if word not in HEADER
    )
    # Headings that are too long to be whole above a passage are text.
    text_of_headings = "".join(word for word in said if OF_HEADINGS.issuperset(word))
    for block in beneath:
        if block.kind == "heading":
            whole_above = any(" ".join(block.text.split()) in chunk.heading for chunk in found)
            assert whole_above or "".join(block.text.split()) in text_of_headings
