"""Markdown, plain text and CSV to blocks."""

from __future__ import annotations

import re

import pytest

from selfaug.retrieval import markup_text
from selfaug.retrieval.document import Block, Contents, UnreadableDocument
from selfaug.retrieval.markup_text import read_csv, read_markdown, read_plain_text
from selfaug.retrieval.table_text import ROWS_PER_BLOCK

MARKDOWN = """---
title: "Handbook"
---
# Pumps and *valves*

Pumps are
checked  every [week](http://example.com).\\
Really.

1. Close the `valve`.
2. Read it.
   - Slowly.

   And again.

| Pump | 2023 |
|------|-----:|
| P\\|1 | 12.5 |

> A word of warning.

```python
x = 1
```

<div><p>Some <b>HTML</b></p></div>

Last ![picture](x.png) line<br>ends.
"""


def test_markdown() -> None:
    title, blocks, _ = read_markdown(MARKDOWN.replace("\n", "\r\n").encode())
    assert title == "Handbook"
    assert blocks == [
        Block("heading", "Pumps and valves", level=1),
        Block("text", "Pumps are checked every week.\nReally."),
        Block("text", "1. Close the valve.\n2. Read it.\n  - Slowly.\n   And again."),
        Block("table", "| Pump | 2023 |\n| --- | --- |\n| P\\|1 | 12.5 |"),
        Block("text", "A word of warning."),
        Block("text", "x = 1"),
        Block("text", "Some HTML"),
        Block("text", "Last picture line\nends."),
    ]


def test_markdown_lists_with_code_and_quotes() -> None:
    text = "- one\n\n  ```\n  code\n  ```\n- > quoted\n-\n"
    assert read_markdown(text.encode())[1] == [Block("text", "- one\n  code\n- quoted")]


def test_markdown_lists_with_tables_headings_and_html() -> None:
    text = """1. Staff
2. Customers

   | Name | Share |
   |---|---|
   | Acme | 12 |

   No other is as large.
3. ### Pricing
4. <div>Churn is 4 %.</div>
"""
    assert read_markdown(text.encode())[1] == [
        Block("text", "1. Staff\n2. Customers"),
        Block("table", "| Name | Share |\n| --- | --- |\n| Acme | 12 |"),
        Block("text", "   No other is as large.\n3. Pricing\n4. Churn is 4 %."),
    ]
    assert read_markdown(b"#\n\n![](a.png)\n\n- ![](b.png)\n\n- one\n")[1] == [Block("text", "- one")]
    assert [block.kind for block in read_markdown(b"- | a | b |\n  |---|---|\n  | 1 | 2 |\n")[1]] == ["table"]


def test_notes_of_one_word_are_text_and_definitions_of_links_are_not() -> None:
    text = b"Revenue[^1] of [Acme][a].\n\n[^1]: Restated.\n\n[^2]: https://acme.example\n\n[a]: https://acme.example\n"
    assert [block.text for block in read_markdown(text)[1]] == [
        "Revenue[^1] of Acme.",
        "[^1]: Restated.",
        "[^2]: https://acme.example",
    ]


def test_superscripts_in_markdown() -> None:
    text = b"$1,234<sup>1</sup> million, the 1<sup>st</sup> of 10<SUP>6</SUP>"
    assert read_markdown(text)[1] == [Block("text", "$1,234^1 million, the 1st of 10^6")]


def test_an_encoding_is_read_as_the_wider_one_that_is_meant() -> None:
    assert read_plain_text("㈱ノ①".encode("cp932"), "shift_jis")[1] == [Block("text", "㈱ノ①")]


@pytest.mark.parametrize("end", ["---", "..."])
def test_front_matter_is_not_what_stands_between_two_rules(end: str) -> None:
    front = f'---\ntitle: "A title"\n\n# a comment\ntags:\n  - one\n- two\nlast-seen: 2024\n{end}\nText'
    assert read_markdown(front.encode()) == Contents("A title", [Block("text", "Text")])
    of_programs = f'---\ndate created: 2024\ntags: [\n  a\n]\n"quoted": 1\n{end}\nText'
    assert read_markdown(of_programs.encode()) == Contents("", [Block("text", "Text")])
    rules = f"---\nWhat matters: a lot of it.\n\n- An item\n\n{end}\nText"
    title, blocks, _ = read_markdown(rules.encode())
    assert title == ""
    assert blocks[0] == Block("text", "What matters: a lot of it.")


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("title: >-\n  Annual report\n\n  of 2023\ndate: 2024", "Annual report of 2023"),
        ("date: 2024\nTitle: 'It''s a report' # a draft", "It's a report"),
        ("title: Norvik: a report", "Norvik: a report"),
        ("title: Norvik\u2028report: 2023", "Norvik report: 2023"),
        ("title: 2023", "2023"),
        ("title:\ntags: [a]", ""),
    ],
)
def test_titles_in_yaml(front: str, title: str) -> None:
    assert read_markdown(f"---\n{front}\n---\nText".encode()) == Contents(title, [Block("text", "Text")])


def test_front_matter_in_toml() -> None:
    front = '+++\ntitle = "A title"\ntags = [\n  "one",\n]\ndate = 2024-01-01\n\n[params]\nx = 1\n+++\n\nText'
    assert read_markdown(front.encode()) == Contents("A title", [Block("text", "Text")])
    for without_title in ("+++\n+++\nText", "+++\ntitle = 5\n+++\nText"):
        assert read_markdown(without_title.encode()) == Contents("", [Block("text", "Text")])
    assert read_markdown(b"+++\nWhat matters: a lot.\n+++\n") == Contents(
        "",
        [Block("text", "+++ What matters: a lot. +++")],
    )


def test_what_is_struck_through_in_markdown_is_left_out() -> None:
    text = b"""~~Old target: *10*~~ Target is <del>**11**</del> <S>or</S> **12**, ~5 % more.

- ~~gone~~
- the <s> token

| Item | 2023 |
|---|---|
| Revenue | ~~6~~ 7 |
"""
    assert [block.text for block in read_markdown(text)[1]] == [
        "Target is 12, ~5 % more.",
        "- the token",
        "| Item | 2023 |\n| --- | --- |\n| Revenue | 7 |",
    ]


def test_lists_in_lists_are_read_however_deep() -> None:
    lines = [f"{'  ' * depth}- item {depth}" for depth in range(15)]
    assert read_markdown("\n".join(lines).encode())[1] == [Block("text", "\n".join(lines))]


def test_deep_markdown_ends() -> None:
    read_markdown(b"> " * 5000 + b"text")
    read_markdown(b"[" * 5000)


def test_plain_text_has_paragraphs() -> None:
    _, blocks, _ = read_plain_text(
        "One line\nand another.  \r\n\r\n \t\r\n  Indented\f\nLast".encode("utf-16")
    )
    assert [block.text for block in blocks] == ["One line\nand another.", "  Indented", "Last"]


@pytest.mark.parametrize(
    "text",
    [
        'Name,Price\n"Pump, large",12.5\nValve,7\n',
        'Name;Price\r\n"Pump, large";12.5\r\nValve;7\r\n',
        "Name\tPrice\nPump, large\t12.5\nValve\t7",
        "sep=;\nName;Price\nPump, large;12.5\nValve;7",
        "\ufeffName|Price\nPump, large|12.5\nValve|7\n\n",
    ],
)
def test_csv_with_any_delimiter(text: str) -> None:
    assert read_csv(text.encode()) == Contents(
        "",
        [Block("table", "| Name | Price |\n| --- | --- |\n| Pump, large | 12.5 |\n| Valve | 7 |")],
    )


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Name;Price;Weight", "Pump;12,5;3,2"),
        ("Name;Price, EUR;Weight, kg", "Pump;1.234,5;12,3"),  # as many commas as semicolons in every line
        ("Revenue, net;Costs, net", "1.234,50;12,3"),
        ("Name\tPrice, EUR", "Pump\t1,5"),
    ],
)
def test_decimal_commas_are_not_delimiters(header: str, row: str) -> None:
    (block,) = read_csv(f"{header}\n{row}\n{row}".encode())[1]
    lines = [re.sub(r"[;\t]", " | ", line) for line in (header, row)]
    assert block.text.splitlines()[::2] == [f"| {line} |" for line in lines]


def test_what_is_quoted_divides_no_cells() -> None:
    """A ticket's stack trace has a tab in each of its lines, and is longer than what is looked at."""
    trace = "Steps:\njava.lang.Error, x\n" + "\tat com.norvik.Search\n" * 60
    tickets = f'id,title,description,owner\n4711,"Crash, on login","{trace}",Ann\n4712,Slow search,None,Bob\n'
    lines = read_csv(tickets.encode())[1][0].text.splitlines()
    assert lines[0] == "| id | title | description | owner |"
    assert lines[2].startswith("| 4711 | Crash, on login | Steps: java.lang.Error")
    assert lines[3] == "| 4712 | Slow search | None | Bob |"


def test_long_csv_repeats_its_header() -> None:
    rows = "\n".join(f"item {number},{number}" for number in range(ROWS_PER_BLOCK + 5))
    first, second = read_csv(f"Name,Price\n{rows}".encode())[1]
    assert (
        first.text.splitlines()[:2] == second.text.splitlines()[:2] == ["| Name | Price |", "| --- | --- |"]
    )
    assert len(second.text.splitlines()) == 2 + 5


def test_ragged_csv_and_line_breaks_in_cells() -> None:
    (block,) = read_csv(b'a,b\n1\n"2\n3",4,5\n')[1]
    assert block.text.splitlines() == [
        "| a | b |  |",
        "| --- | --- | --- |",
        "| 1 |  |  |",
        "| 2 3 | 4 | 5 |",
    ]


def test_giant_lines_cells_and_tables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableDocument, match="field larger than field limit"):
        read_csv(b"a,b\n1," + b"x" * 1_100_000)
    with pytest.raises(UnreadableDocument, match="11,000,000 characters in line 1"):
        read_csv(b"x" * 11_000_000)
    monkeypatch.setattr("selfaug.retrieval.table_text.MAX_CELLS", 10)
    with pytest.raises(UnreadableDocument, match="more than 10 cells"):
        read_csv(b"a,b\n" * 6)


def test_the_limit_of_csv_cells_is_put_back() -> None:
    before = markup_text.csv.field_size_limit()
    read_csv(b"a,b\n1,2")
    assert markup_text.csv.field_size_limit() == before


@pytest.mark.parametrize("read", [read_plain_text, read_csv, read_markdown])
def test_binary_data_are_not_text(read: object) -> None:
    with pytest.raises(UnreadableDocument, match="binary data"):
        read(bytes(range(256)) * 10)  # type: ignore[operator]


def test_a_few_broken_bytes_leave_utf8_as_it_is() -> None:
    text = "für und wider, größer, schöner".encode()
    assert "größer" in read_plain_text(text + b"\xff")[1][0].text
    assert read_plain_text("größer".encode("cp1252"))[1][0].text == "größer"


def test_code_of_nothing_but_space_is_no_block() -> None:
    assert read_markdown(b"```\n   \n```\n\ntext")[1] == [Block("text", "text")]
