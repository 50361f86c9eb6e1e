"""Workbooks to tables: with real files, and hostile ones."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfaug.retrieval import xlsx, xlsx_sheet
from selfaug.retrieval.document import Block, UnreadableDocument
from selfaug.retrieval.read_document import read_document
from selfaug.retrieval.xlsx import read_xlsx
from selfaug.retrieval.xlsx_format import cell_text


def workbook(fill: Callable[[Any], object]) -> bytes:
    book = openpyxl.Workbook()
    fill(book)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def sheet_of(rows: list[list[object]]) -> bytes:
    def fill(book: Any) -> None:
        for row in rows:
            book.active.append(row)

    return workbook(fill)


def test_each_region_of_each_sheet_is_a_table() -> None:
    def fill(book: Any) -> None:
        book.properties.title = "Sales"
        sheet = book.active
        sheet.title = "By region"
        for place, value in {
            "B2": "Sales of the year", "B3": "Region", "C3": "2023", "D3": "2024", "B4": "North", "C4": 12.5,
            "D4": 13, "B5": "South", "C5": 7, "D5": "=C5+1.2", "B8": "Product", "C8": "Price", "B9": "Pump",
            "C9": 99, "F8": "City", "G8": "People", "F9": "Lima", "G9": 10,
        }.items():  # fmt: skip
            sheet[place] = value
        book.create_sheet("Empty")
        book.create_sheet("Secret")["A1"] = "hidden"
        book["Secret"].sheet_state = "hidden"
        book.create_sheet("Notes")["A1"] = "Only a note"

    title, blocks, _ = read_xlsx(workbook(fill))
    assert title == "Sales"
    assert [(block.kind, block.text.splitlines()[0], block.sheet) for block in blocks] == [
        ("heading", "By region", "By region"),
        ("text", "Sales of the year", "By region"),
        ("table", "| Region | 2023 | 2024 |", "By region"),
        ("table", "| Product | Price |", "By region"),
        ("table", "| City | People |", "By region"),
        ("heading", "Notes", "Notes"),
        ("text", "Only a note", "Notes"),
    ]
    # A formula has a value when Excel has calculated it; openpyxl, which wrote this one, doesn't.
    assert blocks[2].text.splitlines()[2:] == ["| North | 12.5 | 13 |", "| South | 7 |  |"]


def test_figures_beyond_an_empty_column_stay_with_their_labels() -> None:
    _, table = read_xlsx(sheet_of([["Item", None, "2023"], ["Revenue", None, 12], ["Costs", None, 7]]))[1]
    assert table.text.splitlines()[2:] == ["| Revenue | 12 |", "| Costs | 7 |"]


def tables(data: bytes) -> list[list[str]]:
    return [block.text.splitlines() for block in read_xlsx(data)[1] if block.kind == "table"]


def test_a_merged_cell_is_the_header_of_each_of_its_columns() -> None:
    def fill(book: Any) -> None:
        sheet = book.active
        for row in (
            ["Sales of the firm"],
            ["Region", "2023", None, "2024"],
            [None, "Q1", "Q2", "Q1", "Q2"],
            ["Europe", 1, 2, 3, 4],
            [None, 5, 6, 7, 8],
        ):
            sheet.append(row)
        for place in ("A1:XFD1", "A2:A3", "B2:C2", "D2:E2", "A4:A5"):
            sheet.merge_cells(place)

    data = workbook(fill)
    assert [block.text for block in read_xlsx(data)[1][:2]] == ["Sheet", "Sales of the firm"]
    assert tables(data) == [
        [
            "| Region | 2023 Q1 | 2023 Q2 | 2024 Q1 | 2024 Q2 |",
            "| --- | --- | --- | --- | --- |",
            "| Europe | 1 | 2 | 3 | 4 |",
            "| Europe | 5 | 6 | 7 | 8 |",
        ]
    ]


def test_a_merged_title_does_not_join_the_tables_beneath_it() -> None:
    def fill(book: Any) -> None:
        sheet = book.active
        sheet.append(["All of it"])
        sheet.append(["Product", "Price", None, "City", "People"])
        sheet.append(["Pump", 99, None, "Lima", 10])
        sheet.merge_cells("A1:E1")

    assert [table[0] for table in tables(workbook(fill))] == ["| Product | Price |", "| City | People |"]


@pytest.mark.parametrize(
    ("header", "further"),
    [
        (["$m", 2022, 2023], [["Costs", 5, 6], ["Profit", 1, 2]]),
        (["$m", "2022-12-31", "2023-12-31"], [["Costs", 5, 6]]),
        (["$m", "1Q23", "2Q23"], [["Costs"], ["Wages", "(5.0)", "6 %"], [None, None, 7]]),
    ],
)
def test_an_empty_row_does_not_end_a_table(header: list[object], further: list[list[object]]) -> None:
    whole = [header, ["Revenue", 6, 8], *further]
    divided = [header, ["Revenue", 6, 8], [], *further]
    apart = [header, [], ["Revenue", 6, 8], [], [], *further]
    assert tables(sheet_of(divided)) == tables(sheet_of(apart)) == tables(sheet_of(whole))
    assert len(tables(sheet_of(whole))) == 1


def test_a_merged_cell_reaches_over_an_empty_row() -> None:
    def fill(book: Any) -> None:
        for row in (
            ["Region", "Quarter", "Revenue"], ["North", "Q1", 1], [], [None, "Q2", 2], [], [None, "Q3", 3],
            ["South", "Q1", 4], [], [None, None, 5],
        ):  # fmt: skip
            book.active.append(row)
        book.active.merge_cells("A2:A6")

    assert tables(workbook(fill))[0] == [
        "| Region | Quarter | Revenue |",
        "| --- | --- | --- |",
        "| North | Q1 | 1 |",
        "| North | Q2 | 2 |",
        "| North | Q3 | 3 |",
        "| South | Q1 | 4 |",
    ]


def test_a_merged_cell_at_the_right_reaches_over_an_empty_row() -> None:
    """No other cell of the rows beneath is as far to the right."""

    def fill(book: Any) -> None:
        for row in (["Region", "Revenue", "Remark"], ["North", 5, "audited"], [], ["South", 6], ["East", 7]):
            book.active.append(row)
        book.active.merge_cells("C2:C4")

    assert tables(workbook(fill)) == [
        [
            "| Region | Revenue | Remark |",
            "| --- | --- | --- |",
            "| North | 5 | audited |",
            "| South | 6 | audited |",
            "| East | 7 |  |",
        ]
    ]


@pytest.mark.parametrize(
    "further",
    [
        [["$m", "2023/24", "2024/25"], ["Costs", 5, 6]],  # a header of its own
        [["Product", "Price", "Weight"], ["Pump", 5, 6]],
        [["Costs", 5, 6, 7], ["Profit", 1, 2, 3]],  # other columns
        [["Source: the bank"], ["Unaudited"]],
    ],
)
def test_another_table_after_an_empty_row_is_one_of_its_own(further: list[list[object]]) -> None:
    above = [["$m", 2022, 2023], ["Revenue", 6, 8]]
    blocks = read_xlsx(sheet_of([*above, [], *further]))[1]
    assert [block.text for block in blocks] == [
        block.text for part in (above, further) for block in read_xlsx(sheet_of(part))[1][part is further :]
    ]


def test_figures_without_a_header_take_none_from_figures_above() -> None:
    assert len(tables(sheet_of([["a", 1], ["b", 2], [], ["c", 3], ["d", 4]]))) == 2


def test_absurd_merges_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(book: Any) -> None:
        for row in range(60):
            book.active.append([row] * 60)
        book.active.merge_cells("A1:C2000")

    monkeypatch.setattr(xlsx, "MAX_CELLS", 3700)
    read_xlsx(workbook(fill))
    data = workbook(fill)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():  # openpyxl writes no merged cells over one another
            part = old.read(name).replace(
                b'<mergeCell ref="A1:C2000"/>', b'<mergeCell ref="A1:XFD1048576"/><mergeCell ref="D1:Z99"/>'
            )
            new.writestr(name, part)
    with pytest.raises(UnreadableDocument, match="merged cells over more than"):
        read_xlsx(file.getvalue())
    monkeypatch.setattr(xlsx_sheet, "MAX_MERGED", 1)
    with pytest.raises(UnreadableDocument, match="more than 1 merged cells"):
        read_xlsx(file.getvalue())


def test_formulas_without_a_value_are_counted_in_visible_sheets(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        book.active.append(["Item", "2023"])
        book.active.append(["Profit", "=1+1"])
        hidden = book.create_sheet("Secret")
        hidden["A1"] = "=2+2"
        hidden.sheet_state = "hidden"

    data = workbook(fill)
    file = tmp_path / "a.xlsx"
    file.write_bytes(data)
    assert read_document(file, "a.xlsx").missing.startswith("1 formula has no value")
    file.write_bytes(workbook(lambda book: book.active.__setitem__("A1", "=1+1")))
    with pytest.raises(UnreadableDocument, match="no text; 1 formula has no value"):
        read_document(file, "a.xlsx")
    assert read_xlsx(sheet_of([["a", 1]])).missing == ""


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ('<c r="A1"><f>1+1</f><v></v></c>', 1),
        ('<c r="A1" s="3"><f>1+1</f></c>', 1),
        ('<x:c r="A1"><x:f t="shared" si="0"/><x:v/></x:c>', 1),
        ('<c r="A1">\n  <f>SUM(B1:B2)</f>\n  <v/>\n</c>', 1),
        ('<c r="A1"><f>1+1</f><v>2</v></c>', 0),
        ('<c r="A1" t="str"><f>IF(B1="","",B1)</f><v></v></c>', 0),  # calculated, and the result is no text
        ('<c r="A1" t="s"><v>0</v></c><c r="A2" s="1"/><cols><col min="1"/></cols>', 0),
    ],
)
def test_what_a_formula_without_a_value_is(cell: str, count: int) -> None:
    assert xlsx_sheet.unparsed(io.BytesIO(cell.encode())).uncalculated == count


@settings(max_examples=30, deadline=None)
@given(st.integers(200, 400))
def test_matches_are_found_across_the_pieces_that_a_file_is_read_in(piece: int) -> None:
    cells = "".join(f'<c r="A{row}"><f>{row}+1</f><v></v></c>' for row in range(1, 100))
    merged = "".join(f'<mergeCell ref="A{row}:B{row}"/>' for row in range(1, 100))
    with (
        patch.object(xlsx_sheet, "_PIECE_BYTES", piece),
        patch.object(xlsx_sheet, "_LONGEST_MATCH", 100),
    ):
        data = f"{cells}{merged}".encode()
        found = xlsx_sheet.unparsed(io.BytesIO(data))
    assert found.uncalculated == 99
    assert found.merged == {row: [(1, row, 2, row)] for row in range(1, 100)}


def test_formats_in_a_file() -> None:
    def fill(book: Any) -> None:
        sheet = book.active
        sheet.append(["Share", "Day", "Amount"])
        sheet.append([0.125, datetime.date(2024, 3, 31), 1536])
        sheet["A2"].number_format = "0.0%"
        sheet["C2"].number_format = '"$"#,##0.00'

    _, table = read_xlsx(workbook(fill))[1]
    assert table.text.splitlines()[2] == "| 12.5% | 2024-03-31 | $1,536.00 |"


@pytest.mark.parametrize(
    ("value", "number_format", "text"),
    [
        (None, "General", ""),
        (True, "General", "TRUE"),
        ("  text ", "General", "  text "),
        (7, "General", "7"),
        (7.0, "General", "7"),
        (0.1 + 0.2, "General", "0.3"),
        (1e20, "General", "1e+20"),
        (-12.5, "General", "-12.5"),
        (0.5, "0%", "50%"),
        (1234.567, "#,##0.00", "1,234.57"),
        (1234.5, "0", "1235"),
        (12.5, "#,##0", "13"),
        (0.125, "0%", "13%"),
        (0.285, "0.00", "0.29"),
        (1.005, "0.00", "1.01"),
        (-0.5, "0", "-1"),
        (1_250_500, "#,##0,", "1,251"),
        (1536, "#,###", "1,536"),
        (7, "#", "7"),
        (0, "#", "0"),
        (0.12, "#%", "12%"),
        (-1234, "#,###_);(#,###)", "-1,234"),
        (1e40, "0.0", f"1{'0' * 40}.0"),
        ("one_x000D_\ntwo_x005F_", "General", "one\r\ntwo_"),
        (-1234.5, "#,##0.0;[Red]-#,##0.0", "-1,234.5"),
        (-1234.5, "#,##0.0_);(#,##0.0)", "-1,234.5"),
        (-0.001, "0.0", "0.0"),
        (2.5, "0.##", "2.5"),
        (2, "0.##", "2"),
        (2.25, "0.0#", "2.25"),
        (1_500_000, '0.0,,"M"', "1.5M"),
        (1_500_000, "#,##0,", "1,500"),
        (12, "[$€-407] #,##0.00", "€12.00"),
        (12, '#,##0.00 "kg"', "12.00 kg"),
        (1536.5, '#,##0.0 "m; EUR"', "1,536.5 m; EUR"),
        (-1536.5, '#,##0.0 "m; EUR";(#,##0.0) "owed"', "-1,536.5 owed"),
        (5000, '[>=1000000]0.0,,"M";[>=1000]0.0,"K";0', "5.0K"),
        (2_500_000, '[>=1000000]0.0,,"M";[>=1000]0.0,"K";0', "2.5M"),
        (-5, '[>=1000000]0.0,,"M";[>=1000]0.0,"K";0', "-5"),
        (5, '[>=1000]0.0,"K"', "5"),
        (3.2, '[<1]0.0%;0.0"x"', "3.2x"),
        (0.5, '[<1]0.0%;0.0"x"', "50.0%"),
        (3, '"up "0;"down "0', "up 3"),
        (-3, '"up "0;"down "0', "down 3"),
        (-3, '0" gain";-0" loss"', "-3 loss"),
        (5, "[$EUR] 0", "EUR 5"),
        (320193, "0000000000", "0000320193"),
        (5, "00.0", "05.0"),
        (12, '_-"£"* #,##0.00_-', "£12.00"),
        (12.5, "0.00E+00", "12.5"),
        (12345678901.25, "General", "12345678901.25"),
        (-1234567890123.45, "General", "-1234567890123.45"),
        (0.00001, "General", "0.00001"),
        (1e16, "General", "10000000000000000"),
        (12345.67 - 12000.12, "General", "345.55"),
        (1234567890123456789, "General", "1234567890123456789"),
        (float("inf"), "General", "inf"),
        (-0.0, "General", "0"),
        (0.5, "# ?/?", "0.5"),
        (12, "@", "12"),
        (5, '"no digits"', "5"),
        (float("nan"), "0.0", "nan"),
        (datetime.datetime(2024, 3, 31), "dd/mm/yyyy", "2024-03-31"),
        (datetime.datetime(2024, 3, 31, 14, 30), "dd/mm/yyyy hh:mm", "2024-03-31 14:30"),
        (datetime.datetime(2024, 3, 1), "mmm-yy", "Mar 2024"),
        (datetime.datetime(2024, 1, 1), "yyyy", "2024"),
        (datetime.datetime(2024, 3, 1), r"[$-de-DE]mmm\ yy;@", "Mar 2024"),
        (datetime.datetime(2024, 3, 1), "[$-da-DK]yyyy", "2024"),
        (datetime.time(9, 5), "h:mm", "09:05"),
        (datetime.time(9, 5, 7), "h:mm:ss", "09:05:07"),
        (datetime.timedelta(hours=27, minutes=30), "[h]:mm", "27:30"),
        (-datetime.timedelta(seconds=61), "[h]:mm", "-0:01:01"),
    ],
)  # fmt: skip
def test_cells_are_read_as_a_person_reads_them(value: object, number_format: str, text: str) -> None:
    assert cell_text(value, number_format) == text


def test_wrong_dimensions_and_far_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sheet_of([["Item", "Price"], ["Pump", 99]])
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<dimension ref="A1:B2"', b'<dimension ref="A1:A1"'))
    assert read_xlsx(file.getvalue())[1][1].text.splitlines()[2] == "| Pump | 99 |"

    def fill(book: Any) -> None:
        book.active["A1"] = "here"
        book.active["ZZ5000"] = "far away"

    monkeypatch.setattr(xlsx, "MAX_VISITED", 3000)
    with pytest.raises(UnreadableDocument, match="too many cells in sheet 'Sheet'"):
        read_xlsx(workbook(fill))


def test_entities_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret", encoding="utf-8")
    data = sheet_of([["PLACE", "Price"], ["Pump", 99]])
    doctype = f'<!DOCTYPE d [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'.encode()
    target = tmp_path / "attack.xlsx"
    attacked = []
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if b"PLACE" in part:
                root = part.index(b"<sst" if name.endswith("sharedStrings.xml") else b"<worksheet")
                part = part[:root] + doctype + part[root:].replace(b"PLACE", b"&x;")
                attacked.append(name)
            new.writestr(name, part)
    assert attacked
    with pytest.raises(UnreadableDocument, match=r"damaged.*Entit"):
        read_document(target, "attack.xlsx")


def test_numbers_in_a_heading_of_a_sheet() -> None:
    assert read_xlsx(sheet_of([["a", "b"], [1, 2]]))[1][0] == Block(
        "heading", "Sheet", level=1, sheet="Sheet"
    )
