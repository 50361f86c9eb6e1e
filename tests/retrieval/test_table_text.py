"""Rows of cells to tables in Markdown."""

from __future__ import annotations

import pytest

from selfaug.retrieval.html import read_html
from selfaug.retrieval.markup_text import read_csv
from selfaug.retrieval.table_text import Repeated, table_blocks


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
