"""Rows of cells to tables in Markdown."""

from __future__ import annotations

import pytest

from selfaug.retrieval.html import read_html
from selfaug.retrieval.markup_text import read_csv
from selfaug.retrieval.table_text import Repeated, is_figure, names_unit, table_blocks


def texts(*rows: list[str]) -> list[str]:
    return [block.text for block in table_blocks(rows)]


def test_equal_figures_are_kept() -> None:
    assert texts(["Revenue", "100", "100"]) == ["Revenue | 100 | 100"]
    assert [block.text for block in read_csv(b"Revenue,100,100\n")[1]] == ["Revenue | 100 | 100"]
    page = b"<table><tr><td>Revenue</td><td>100</td><td>100</td></tr></table>"
    assert [block.text for block in read_html(page)[1]] == ["Revenue | 100 | 100"]


def test_equal_cells_are_no_caption() -> None:
    (block,) = table_blocks([["0", "0"], ["1", "2"], ["3", "4"]])
    assert block.text.splitlines()[0] == "| 0 | 0 |"


def test_dollars_of_a_country_are_figures() -> None:
    assert all(map(is_figure, ("US$5", "A$(1,200)", "$7")))
    assert not any(map(is_figure, ("US$", "Q1", "EUR 5")))


def test_figures_of_switzerland_and_of_other_scripts() -> None:
    figures = (
        "1'234.56",
        "1\u2019234",
        "(1'234)",
        "△1,234",
        "\uff11\uff0c\uff12\uff13\uff14",
        "\u0663\u066c\u0664\u0665\u0666",
    )
    assert all(map(is_figure, figures))
    assert not any(map(is_figure, ("1990's", "1'23")))


def test_equal_names_of_columns_take_nothing_from_the_row_beneath() -> None:
    (block,) = table_blocks([["Name", "Phone", "Phone"], ["Ann", "home", "work"], ["Bob", "none", "none"]])
    assert block.text.splitlines()[2] == "| Ann | home | work |"


def test_a_merged_cell_stands_once_where_there_is_no_table() -> None:
    again = Repeated("Note")
    assert texts(["Note", again, "5"]) == ["Note | 5"]
    assert texts(["Note"], [again], ["end"]) == ["Note\nend"]
    assert texts(["Note", again], [again, again], ["a", "b"], ["c", "d"])[0] == "Note"
    assert len(texts(["Note", again], [again, again], ["a", "b"], ["c", "d"])) == 2
    page = b"<table><tr><td colspan=2>Revenue</td><td>100</td><td>100</td></tr></table>"
    assert [block.text for block in read_html(page)[1]] == ["Revenue | 100 | 100"]


def test_captions_stand_one_above_the_other() -> None:
    """The first of two was the names of the columns, and the years were figures of the first row."""
    rows = "".join(f"Line {n},{1000 + n},{2000 + n}\n" for n in range(3))
    for captions in (
        ["Norvik plc"],
        ["Norvik plc", "EUR thousand"],
        ["Norvik plc", "Results", "EUR thousand"],
    ):
        *above, table = read_csv(
            ("".join(f"{one},,\n" for one in captions) + "Item,2022,2023\n" + rows).encode()
        )[1]
        assert [block.text for block in above] == captions
        assert table.text.splitlines()[0] == "| Item | 2022 | 2023 |"
    # Whole pages of text above a table, and a list with a remark beside it, are none.
    for csv in (
        "".join(f"Note {n},\n" for n in range(9)) + "Item,2022\nA,1\n",
        "Name,\nAnn,\nBob,5\nCy,\nDee,\n",
    ):
        (block,) = read_csv(csv.encode())[1]
        assert block.text.splitlines()[0] == f"| {csv.partition(',')[0]} |  |"


@pytest.mark.parametrize(
    ("text", "names_it"),
    [
        ("(in EUR thousand)", True),
        ("All figures in US$ million unless otherwise stated.", True),
        ("€'000", True),
        ("in 1,000 EUR", True),
        ("In % of revenue, as of 31 December 2023 and 2022", True),
        ("Table 3: Sales by region, Q1 2024 (dollars in millions)", True),
        ("in Mio. Fr., 31. Dezember 2023", True),
        ("Revenue was $5 million.", False),
        ("(EUR 5.20)", False),
        ("Fees of 12 %", False),
        ("Item | EUR", False),
        ("in EUR\nmillion", False),
        ("Sales by region", False),
        (
            "The sales of the group are shown by region and by kind of customer, each in millions of EUR.",
            False,
        ),
    ],
)
def test_a_short_line_names_a_unit(text: str, names_it: bool) -> None:
    assert names_unit(text) is names_it


@pytest.mark.parametrize(
    ("csv", "header"),
    [
        (
            ",North,,South,\n,2022,2023,2022,2023\nRevenue,5,6,7,8\n",
            "|  | North 2022 | North 2023 | South 2022 | South 2023 |",
        ),
        (",,Share,\n,2022,2023,2024\nRevenue,5,6,7\n", "|  | 2022 | Share 2023 | Share 2024 |"),
        ("In EUR,Note,,\n,,2022,2023\nRevenue,4,5,6\n", "| In EUR | Note | 2022 | 2023 |"),
        (
            ",North,,South,\n,low,high,low,high\nP1,5,6,7,8\n",
            "|  | North low | North high | South low | South high |",
        ),
    ],
)
def test_names_above_groups_of_columns_need_not_be_merged(csv: str, header: str) -> None:
    (block,) = read_csv(csv.encode())[1]
    assert block.text.splitlines()[0] == header


@pytest.mark.parametrize(
    "csv",
    [
        "Name,State,\nAcme,good,good\nBeta,bad,5\n",  # two rows
        ",State,\n,good,bad\nBeta,bad,5\n",  # neither years nor names that return
        ",State,\n,2022,2023\nBeta,bad,good\n",  # no figures
        ",State,\n,5,2023\nBeta,7,8\n",
        ",State,,\n,2022,2023,\nBeta,7,8,9\n",
    ],
)
def test_what_is_no_row_of_names_stays_a_row(csv: str) -> None:
    (block,) = read_csv(csv.encode())[1]
    assert len(block.text.splitlines()) == 4
