"""PDF to headings, paragraphs and tables: with real files."""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from reportlab.lib import colors, pdfencrypt
from reportlab.lib.pagesizes import A4, landscape
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from scanned_pdf import partly_scanned
from selfaug.retrieval.document import Block, UnreadableDocument
from selfaug.retrieval.pdf import read_pdf

STYLES = getSampleStyleSheet()
RULED = TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black)])
SENTENCE = "The revenue of the region rose in every quarter of the year, as the board had expected. "
FIGURES = [["Region", "2023", "2024"], ["North", "12.5", "13.1"], ["South", "7.0", "8.2"]]


def pdf(
    flowables: list[object], *, on_page: Callable[[Canvas, object], None] = lambda *_: None, **how: object
) -> bytes:
    """A PDF of reportlab's flowables."""
    file = io.BytesIO()
    SimpleDocTemplate(file, **{"pagesize": A4, **how}).build(
        flowables, onFirstPage=on_page, onLaterPages=on_page
    )
    return file.getvalue()


def drawn(draw: Callable[[Canvas], None], **how: object) -> bytes:
    """A PDF of one page that is drawn."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, **how)
    draw(canvas)
    canvas.save()
    return file.getvalue()


def in_fonts(*pages: tuple[str, str]) -> bytes:
    """A PDF with a line a page: in Helvetica, in a font of numbered shapes, or in letters that are drawn (Type 3)."""
    codes = [f"{code:03o}" for code in range(128)]
    names = " ".join(f"/a{code}" for code in codes)
    procedures = " ".join(f"/a{code} 6 0 R" for code in codes)
    shape = "600 0 0 0 600 700 d1 0 0 500 600 re f"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} "
        f"/Kids [{' '.join(f'{number} 0 R' for number in range(8, 8 + 2 * len(pages), 2))}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /Own /Encoding /Identity-H /DescendantFonts [5 0 R] >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Own /FontDescriptor 7 0 R /DW 600 "
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        f"<< /Length {len(shape)} >>\nstream\n{shape}\nendstream",
        "<< /Type /FontDescriptor /FontName /Own /Flags 4 /FontBBox [0 0 600 700] >>",
    ]
    drawn_letters = (
        f"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 600 700] /FontMatrix [0.001 0 0 0.001 0 0] /FirstChar 0 "
        f"/LastChar 127 /Widths [{'600 ' * 128}] /Encoding << /Differences [0 {names}] >> "
        f"/CharProcs << {procedures} >> >>"
    )
    fonts = f"<< /Helvetica 3 0 R /Numbered 4 0 R /Drawn {drawn_letters} >>"
    for font, text in pages:
        numbers = "".join(f"{ord(letter) - 29:04x}" for letter in text) if font == "Numbered" else ""
        content = f"BT /{font} 6 Tf 72 700 Td <{numbers or text.encode().hex()}> Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {len(objects) + 2} 0 R "
            f"/Resources << /Font {fonts} >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    parts = [f"{number} 0 obj\n{one}\nendobj\n" for number, one in enumerate(objects, start=1)]
    # Without a table of where they are: pdfium looks for them.
    return "".join(["%PDF-1.5\n", *parts, "trailer\n<< /Root 1 0 R >>\n%%EOF\n"]).encode()


def body(text: str, style: str = "BodyText") -> Paragraph:
    return Paragraph(text, STYLES[style])


def blocks(data: bytes) -> list[Block]:
    return read_pdf(data)[1]


def table_rows(block: Block) -> list[list[str]]:
    assert block.kind == "table", block
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()]
    assert set(lines[1]) == {"---"}
    return [lines[0], *lines[2:]]


def test_lines_become_paragraphs_and_large_type_headings_with_their_pages() -> None:
    data = pdf(
        [
            body("Annual report", "Title"),
            body("Results", "Heading2"),
            body(SENTENCE * 4),
            body(SENTENCE * 2),
            PageBreak(),
            body("Outlook", "Heading2"),
            body(SENTENCE * 3),
        ],
        title="Report of the year",
    )
    title, found, _ = read_pdf(data)
    assert title == "Report of the year"
    assert [(block.kind, block.level, block.page) for block in found] == [
        ("heading", 1, 1),
        ("heading", 2, 1),
        ("text", 0, 1),
        ("text", 0, 1),
        ("heading", 2, 2),
        ("text", 0, 2),
    ]
    assert [block.text for block in found[:4]] == [
        "Annual report",
        "Results",
        (SENTENCE * 4).strip(),
        (SENTENCE * 2).strip(),
    ]


def test_a_ruled_table_keeps_its_numbers_in_their_rows_and_columns() -> None:
    data = pdf([body(SENTENCE), Table(FIGURES, style=RULED), Spacer(1, 20), body(SENTENCE)])
    before, table, after = blocks(data)
    assert table_rows(table) == FIGURES
    assert table.page == 1
    assert before.text == after.text == SENTENCE.strip()


def test_cells_that_span_and_cells_of_several_lines() -> None:
    rows = [
        ["Revenue in millions", "", ""],
        ["Region", "Year", ""],
        ["", "2023", "2024"],
        [body("North and the islands<br/>in the sea"), "12.5", "13.1"],
        ["South", "7.0", ""],
    ]
    spans = [("SPAN", (0, 0), (2, 0)), ("SPAN", (0, 1), (0, 2)), ("SPAN", (1, 1), (2, 1))]
    style = TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black), *spans])
    caption, table = blocks(pdf([Table(rows, colWidths=[100, 50, 50], style=style)]))
    assert (caption.kind, caption.text) == ("text", "Revenue in millions")
    assert table_rows(table) == [
        ["Region", "Year 2023", "Year 2024"],
        ["North and the islands in the sea", "12.5", "13.1"],
        ["South", "7.0", ""],
    ]


def test_rows_without_rules_between_them_are_told_apart_by_their_lines() -> None:
    style = TableStyle(
        [("BOX", (0, 0), (-1, -1), 1, colors.black), ("INNERGRID", (0, 0), (-1, 0), 1, colors.black)]
    )
    style.add("LINEBELOW", (0, 0), (-1, 0), 1, colors.black)
    for column in (0, 1):
        style.add("LINEAFTER", (column, 0), (column, -1), 1, colors.black)
    (table,) = blocks(pdf([Table(FIGURES, style=style)]))
    assert table_rows(table) == FIGURES


def test_tables_without_rules_at_their_sides() -> None:
    style = TableStyle(
        [("LINEBELOW", (0, 0), (-1, -1), 1, colors.black), ("LINEABOVE", (0, 0), (-1, 0), 1, colors.black)]
    )
    style.add("LINEAFTER", (0, 0), (-2, -1), 1, colors.black)
    (table,) = blocks(pdf([Table(FIGURES, style=style)]))
    assert table_rows(table) == FIGURES


def test_cells_that_are_filled_rectangles() -> None:
    def draw(canvas: Canvas) -> None:
        for row, cells in enumerate(FIGURES):
            for column, text in enumerate(cells):
                canvas.setFillGray(0.9)
                canvas.rect(72 + 90 * column, 700 - 20 * row, 90, 20, stroke=0, fill=1)
                canvas.setFillGray(0)
                canvas.drawString(76 + 90 * column, 706 - 20 * row, text)

    (table,) = blocks(drawn(draw))
    assert table_rows(table) == FIGURES


def test_a_table_that_goes_on_keeps_its_header() -> None:
    rows = [["Item", "Price"], *([f"item {number}", f"{number}.50"] for number in range(60))]
    first, second = blocks(pdf([Table(rows, style=RULED)]))
    assert (first.page, second.page) == (1, 2)
    assert table_rows(first)[0] == table_rows(second)[0] == ["Item", "Price"]
    assert table_rows(first)[1:] + table_rows(second)[1:] == rows[1:]


def rows_on_page_two(
    *between: object, above: list[list[str]] = FIGURES, rows: list[list[str]]
) -> list[list[str]]:
    """The table of the second page: of one on each, as wide, with something between them."""
    first, second = (Table(one, colWidths=[120, 60, 60][: len(one[0])], style=RULED) for one in (above, rows))
    return table_rows(blocks(pdf([body(SENTENCE * 4), first, PageBreak(), *between, second]))[-1])


MORE = [["East", "5.5", "6.1"], ["West", "–", "4.0"]]


@pytest.mark.parametrize(("sentences", "mark"), [(12, ""), (0, "1 "), (0, "(a) "), (0, "* "), (0, "Note: ")])
def test_a_table_goes_on_past_headers_and_footnotes_of_its_pages(sentences: int, mark: str) -> None:
    """Each page has lines of its own: the first row there was taken for the names, and no figure had its year."""
    words = ["one", "two", "three", "four"]

    def on_page(canvas: Canvas, document: Any) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(72, 810, f"Part {words[document.page]}")
        for number in range(6):
            word = words[document.page - 1] * (number + 1)
            canvas.drawString(72, 60 - 9 * number, f"{mark}Remark {word} is small.")

    rows = [["Region", "2023", "2024"], *([f"Region {n}", f"{n}.5", f"{n}.1"] for n in range(80))]
    found = blocks(pdf([body(SENTENCE * sentences), Table(rows, style=RULED)], on_page=on_page))
    tables = [block for block in found if block.kind == "table"]
    assert [block.page for block in tables] == [1, 2, 3]
    assert [table_rows(block)[0] for block in tables] == [rows[0]] * 3
    assert [row for block in tables for row in table_rows(block)[1:]] == rows[1:]


@pytest.mark.parametrize(
    "between",
    [[], ["Note: small."], ["(in millions) 2023"], ["Regions, cont."], [("Regions (continued)", "Heading2")]],
)
def test_what_may_lie_between_the_parts_of_a_table(between: list[Any]) -> None:
    lines = [body(*([line] if isinstance(line, str) else line)) for line in between]
    assert rows_on_page_two(*lines, rows=MORE) == [FIGURES[0], *MORE]
    # A heading within stands above the figures.
    assert rows_on_page_two(*lines, rows=[["Abroad", "", ""], *MORE]) == [
        FIGURES[0],
        ["Abroad", "", ""],
        *MORE,
    ]


@pytest.mark.parametrize(
    "between",
    [
        ["Costs fell as the board had hoped. " * 12],
        ["Days overdue"],
        ["Table 7: People by age"],
        ["2021 2022"],
        ["In 2021", "FY21 FY22"],
        [("Staff", "Heading2")],
    ],
)
def test_figures_after_text_are_of_another_table(between: list[Any]) -> None:
    """Names that are not theirs would be worse than none."""
    lines = [body(*([line] if isinstance(line, str) else line)) for line in between]
    assert rows_on_page_two(*lines, rows=MORE) == MORE


def test_a_table_with_names_of_its_own_keeps_them() -> None:
    for names in (["Region", "2021", "2022"], ["", "31.12.2021", "31.12.2022"]):
        assert rows_on_page_two(rows=[names, *MORE]) == [names, *MORE]
        assert rows_on_page_two(body("* A note."), rows=[names, *MORE]) == [names, *MORE]
    other = [["Town", "Height", "Depth"], *MORE]
    assert rows_on_page_two(body("* A note."), rows=other) == other
    # Figures are no names of others, and two columns of another table often have the same borders.
    assert rows_on_page_two(above=MORE, rows=MORE[::-1]) == MORE[::-1]
    pairs = [[["Item", "Price"], ["Salt", "5"]], [["Tin", "7"], ["Oil", "9"]]]
    assert rows_on_page_two(body("* A note."), above=pairs[0], rows=pairs[1]) == pairs[1]
    assert rows_on_page_two(above=pairs[0], rows=pairs[1]) == [pairs[0][0], *pairs[1]]


def test_a_table_of_words_goes_on_at_the_head_of_the_next_page() -> None:
    above = [["Name", "Role", "Since"], ["Ann", "Chair", "2019"]]
    assert rows_on_page_two(above=above, rows=[["Bob", "Member", "2020"]] * 2)[0] == above[0]


def test_a_header_in_large_type_on_both_pages_is_no_title_of_another_table() -> None:
    def on_page(canvas: Canvas, document: object) -> None:
        canvas.setFont("Helvetica", 16)
        canvas.drawString(72, 810, "Facts of the year")

    first, second = (Table(rows, colWidths=[120, 60, 60], style=RULED) for rows in (FIGURES, MORE))
    found = blocks(pdf([body(SENTENCE * 4), first, PageBreak(), second], on_page=on_page))
    assert table_rows(found[-1]) == [FIGURES[0], *MORE]


def test_names_of_two_rows_and_the_caption_above_them_stand_on_the_next_page_too() -> None:
    rows = [
        ["Revenue in millions", "", ""],
        ["Region", "Year", ""],
        ["", "2023", "2024"],
        *([f"Region {n}", f"{n}.5", f"{n}.1"] for n in range(50)),
    ]
    spans = [("SPAN", (0, 0), (2, 0)), ("SPAN", (0, 1), (0, 2)), ("SPAN", (1, 1), (2, 1))]
    style = TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black), *spans])
    first, one, second, other = blocks(pdf([Table(rows, colWidths=[100, 50, 50], style=style)]))
    assert first.text == second.text == "Revenue in millions"
    assert (one.page, other.page) == (1, 2)
    assert table_rows(one)[0] == table_rows(other)[0] == ["Region", "Year 2023", "Year 2024"]


def test_rotated_pages_and_tables_in_forms() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setPageRotation(90)
        canvas.translate(A4[0], 0)
        canvas.rotate(90)
        canvas.beginForm("table")
        Table(FIGURES, style=RULED).wrapOn(canvas, 400, 400)
        table = Table(FIGURES, style=RULED)
        table.wrapOn(canvas, 400, 400)
        table.drawOn(canvas, 0, 0)
        canvas.endForm()
        canvas.drawString(100, 500, "Beneath this line is a table that lies across the sheet.")
        canvas.translate(100, 300)
        canvas.doForm("table")

    text, table = blocks(drawn(draw))
    assert text.text == "Beneath this line is a table that lies across the sheet."
    assert table_rows(table) == FIGURES


def test_charts_and_frames_are_not_tables() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.rect(50, 50, 500, 750)
        for step in range(10):
            canvas.line(100, 200 + 20 * step, 400, 200 + 20 * step)
            canvas.line(100 + 30 * step, 200, 100 + 30 * step, 400)
        canvas.drawString(200, 420, "Revenue by quarter")
        canvas.drawString(102, 205, "0")

    assert {block.kind for block in blocks(drawn(draw))} == {"text"}


def test_figures_without_rules_and_names_stay_lines() -> None:
    def draw(canvas: Canvas) -> None:
        for row, cells in enumerate(FIGURES[1:]):
            for column, text in enumerate(cells):
                canvas.drawString(72 + 90 * column, 700 - 14 * row, text)

    (block,) = blocks(drawn(draw))
    assert block.text.splitlines() == ["North 12.5 13.1", "South 7.0 8.2"]


@pytest.mark.parametrize("rise", [2, 3.5, 5])
def test_superscripts_are_no_digits_of_the_figure_before_them(rise: float) -> None:
    def up(text: str) -> str:
        return f'<super rise="{rise}" size="6">{text}</super>'

    text = (
        f"Revenue was $1,234{up('1,2')} million in 2023{up('a')} on 4.5%{up('3')} of sales{up('4')} in the 1{up('st')} "
        f"quarter, 10{up('-6')} of 12 km{up('2')} and (56){up('7')} at most, of 10{up('6')} cells"
    )
    (block,) = blocks(pdf([body(text)]))
    assert block.text == (
        "Revenue was $1,234^1,2 million in 2023^a on 4.5%^3 of sales^4 in the 1st quarter, 10^-6 of 12 km2 and (56)^7 "
        "at most, of 10^6 cells"
    )
    rows = [
        ["Region", "2022", f"2023{up('2')}"],
        ["North", f"12.5{up('1')}", "13"],
        ["South", "7", f"8.25{up('3')}"],
    ]
    (table,) = blocks(pdf([Table([[body(cell) for cell in row] for row in rows], style=RULED)]))
    assert table_rows(table) == [
        ["Region", "2022", "2023^2"],
        ["North", "12.5^1", "13"],
        ["South", "7", "8.25^3"],
    ]


def test_large_digits_and_small_ones_on_the_line_are_no_superscripts() -> None:
    def draw(canvas: Canvas) -> None:
        text = canvas.beginText(72, 500)
        for size, rise, part in [
            (10, 0, "CO"),
            (7, -2, "2"),
            (10, 0, " of 12"),
            (7, 0, "34"),
            (10, 4, "5"),
            (10, 0, " t"),
        ]:
            text.setFont("Helvetica", size)
            text.setRise(rise)
            text.textOut(part)
        canvas.drawText(text)

    assert "^" not in "".join(block.text for block in blocks(drawn(draw)))


def test_small_figures_elsewhere_on_the_page_are_no_superscripts() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setFont("Helvetica", 10)
        canvas.drawString(72, 500, "Sales of 1,234")
        canvas.setFont("Helvetica", 7)
        canvas.drawString(300, 600, "12")

    assert [block.text for block in blocks(drawn(draw))] == ["Sales of 1,234", "12"]


def test_a_gap_in_the_middle_of_a_line_does_not_end_its_paragraph() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(72, 700, "The revenue of the region rose in the")
        canvas.drawString(72, 686, "last four quarters")
        canvas.drawString(72 + canvas.stringWidth("last four quarters") + 5, 686, "of 2024, as it was")
        canvas.drawString(72, 672, "expected by all of those who know it")

    (block,) = blocks(drawn(draw))
    assert "rose in the last four quarters of 2024, as it was expected by all" in block.text


def test_words_divided_at_the_end_of_a_line_are_joined_and_compounds_keep_their_hyphen() -> None:
    def draw(canvas: Canvas) -> None:
        lines = [
            "The consoli-",
            "dated statement of the well-known company shows a well-",
            "known result for 2023-",
            "2024 in every line.",
        ]
        for number, line in enumerate(lines):
            canvas.drawString(72, 700 - 14 * number, line)

    text = " ".join(block.text for block in blocks(drawn(draw))).replace("\n", " ")
    assert "The consolidated statement" in text
    assert "a well-known result" in text
    assert "2023-2024" in text.replace("- ", "-")


def test_lines_of_a_script_without_spaces_are_joined_without_one() -> None:
    pdfmetrics.registerFont(UnicodeCIDFont("HeiseiMin-W3"))
    # The third line ends a paragraph: the next year had room behind it.
    lines = [
        "当社は四月に東京証",
        "券取引所に上場し、",
        "増資。",
        "2024年の三月期は、",
        "「本業」が伸びて",
        "いる。",
    ]

    def draw(canvas: Canvas) -> None:
        canvas.setFont("HeiseiMin-W3", 10)
        for number, line in enumerate(lines):
            canvas.drawString(72, 700 - 14 * number, line)

    assert [block.text for block in blocks(drawn(draw))] == ["".join(lines[:3]), "".join(lines[3:])]
    rows = [["地域", "2023"], ["東京証\n券取引所", "12.5"], ["大阪", "7.0"]]
    style = [("GRID", (0, 0), (-1, -1), 0.5, colors.black), ("FONT", (0, 0), (-1, -1), "HeiseiMin-W3", 10)]
    (table,) = blocks(pdf([Table(rows, style=TableStyle(style))]))
    assert table_rows(table)[1] == ["東京証券取引所", "12.5"]


def test_lists_keep_their_items() -> None:
    def draw(canvas: Canvas) -> None:
        lines = [
            "We found three things in the whole of the year:",
            "• revenue rose",
            "• costs fell",
            "• plans held",
        ]
        for number, line in enumerate(lines):
            canvas.drawString(72, 700 - 14 * number, line)

    (block,) = blocks(drawn(draw))
    assert block.text.splitlines()[1:] == ["- revenue rose", "- costs fell", "- plans held"]


def test_running_headers_and_page_numbers_go_and_data_stay() -> None:
    def on_page(canvas: Canvas, document: object) -> None:
        canvas.drawString(72, 810, "Annual report 2024")
        canvas.drawString(72, 30, f"Page {canvas.getPageNumber()} of 4")
        canvas.drawString(300, 790, f"Total {canvas.getPageNumber() ** 2 * 7} million")

    flowables = [part for number in range(4) for part in (body(f"{SENTENCE}Part {number}."), PageBreak())]
    text = "\n".join(block.text for block in blocks(pdf(flowables, on_page=on_page)))
    assert "Annual report" not in text
    assert "Page" not in text
    assert [f"Total {number} million" in text for number in (7, 28, 63, 112)] == [True] * 4


def test_headings_that_count_as_the_pages_do_are_no_page_numbers() -> None:
    flowables = [
        part
        for number, region in enumerate(("Northern", "Eastern", "Southern", "Western"), start=1)
        for part in (
            Paragraph(f"Chapter {number}", STYLES["Heading1"]),
            body(SENTENCE.replace("The", region) * 5),
            PageBreak(),
        )
    ]
    headings = [block.text for block in blocks(pdf(flowables)) if block.kind == "heading"]
    assert headings == [f"Chapter {number}" for number in range(1, 5)]


def test_years_that_count_as_the_pages_do_are_no_page_numbers() -> None:
    flowables = [
        part
        for year in range(2020, 2024)
        for part in (body(f"Results of the year {year}"), body(f"{SENTENCE}"), PageBreak())
    ]
    text = "\n".join(block.text for block in blocks(pdf(flowables)))
    assert [f"Results of the year {year}" in text for year in range(2020, 2024)] == [True] * 4


def test_a_title_that_programs_put_there_is_none() -> None:
    assert read_pdf(pdf([body(SENTENCE)], title="Microsoft Word - draft7.docx"))[0] == ""
    assert read_pdf(pdf([body(SENTENCE)]))[0] == ""  # reportlab's is "(anonymous)"


def test_a_scan_says_that_it_is_one() -> None:
    picture = ImageReader(Image.new("RGB", (40, 40), "white"))
    with pytest.raises(UnreadableDocument, match="scanned; needs OCR first"):
        read_pdf(drawn(lambda canvas: canvas.drawImage(picture, 0, 0, 500, 700)))


def test_scanned_pages_among_others_are_named_and_the_others_are_read() -> None:
    data = partly_scanned("ttxt-xxst")
    _, found, missing = read_pdf(data)
    assert [block.page for block in found] == [1, 2, 4, 9]
    assert missing == (
        "4 of 9 pages are pictures without text, which need OCR first if they are scans: 3, 6-8"
    )


def test_where_no_page_is_missing_there_is_nothing_to_say() -> None:
    assert read_pdf(partly_scanned("tt-t")).missing == ""


def test_pages_whose_letters_cant_be_told_are_named_and_not_read() -> None:
    """They were read as what pdfium takes the numbers of the letters for: 5HYHQXH for Revenue."""
    order = {letter: chr(33 + number) for number, letter in enumerate(dict.fromkeys(SENTENCE))}
    text, renumbered = SENTENCE.strip(), "".join(map(order.__getitem__, SENTENCE))
    data = in_fonts(("Helvetica", text), ("Numbered", text), ("Drawn", text), ("Drawn", renumbered))
    _, found, missing = read_pdf(data)
    assert [(block.page, block.text) for block in found] == [(1, text), (3, text)]
    reason = "text whose letters can't be told, since its fonts don't say them"
    assert missing == f"2 of 4 pages are {reason}, and need OCR first: 2, 4"
    with pytest.raises(UnreadableDocument, match=f"{reason}; needs OCR first"):
        read_pdf(in_fonts(("Numbered", text)))


def test_what_is_filled_into_a_form_is_read_with_its_labels() -> None:
    def draw(canvas: Canvas) -> None:
        def fill(name: str, x: int, y: int, value: str, **how: object) -> None:
            canvas.acroForm.textfield(
                tooltip=name, name=name, value=value, x=x, y=y, width=90, height=20, **how
            )

        canvas.drawString(72, 700, "Revenue:")
        fill("a", 130, 694, "1,536 million")
        canvas.drawString(250, 700, "Costs")
        fill("b", 300, 694, "1,402 million")
        canvas.drawString(72, 650, "Country")
        canvas.acroForm.choice(
            value="Norway", options=["Norway", "Peru"], name="c", x=72, y=625, width=90, height=20
        )
        fill("Auditor", 300, 500, "Ann Bo")  # by the name that a reader is shown
        fill("d", 300, 450, "")
        fill("e", 300, 400, "secret", fieldFlags="password")

    found = blocks(drawn(draw))
    assert found[-1] == Block(
        "text", "Revenue: 1,536 million\nCosts: 1,402 million\nCountry: Norway\nAuditor: Ann Bo", page=1
    )


def test_damaged_pages_are_named() -> None:
    data = partly_scanned("tttt")
    place = data.index(b"/Type /Page\n", data.index(b"/Type /Page\n") + 1)
    damaged = data[:place] + b"/Type /Font\n" + data[place + 12 :]
    _, found, missing = read_pdf(damaged)
    assert [block.page for block in found] == [1, 3, 4]
    assert missing == "1 of 4 pages are damaged: 2"


def test_many_missing_pages_are_named_in_a_line() -> None:
    line = read_pdf(partly_scanned("tx" * 40)).missing
    assert line.startswith("40 of 80 pages are")
    assert line.endswith("2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 30 more places")
    with pytest.raises(UnreadableDocument, match="no text"):
        read_pdf(drawn(lambda canvas: canvas.line(0, 0, 100, 100)))


def test_a_password_is_named_and_one_for_changes_alone_does_not_matter() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.drawString(72, 700, SENTENCE)

    with pytest.raises(UnreadableDocument, match="password-protected"):
        read_pdf(drawn(draw, encrypt="secret"))
    owner_only = pdfencrypt.StandardEncryption("", ownerPassword="secret", canCopy=0)
    assert blocks(drawn(draw, encrypt=owner_only))[0].text == SENTENCE.strip()


def test_damaged_files() -> None:
    data = pdf([body(SENTENCE)])
    with pytest.raises(UnreadableDocument, match="damaged"):
        read_pdf(b"%PDF-1.7\n" + b"\x00\xff" * 500)
    with contextlib.suppress(UnreadableDocument):  # pdfium mends what it can
        read_pdf(data[: len(data) // 2])


def test_landscape_pages_with_two_columns_are_read_column_by_column() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setPageSize(landscape(A4))
        for left in (72, 420):
            for number in range(5):
                canvas.drawString(
                    left, 500 - 14 * number, f"Column {left} has words in its line {number} and"
                )

    text = " ".join(block.text for block in blocks(drawn(draw))).replace("\n", " ")
    assert text.index("Column 72 has words in its line 4") < text.index("Column 420 has words in its line 0")


def test_pages_with_nothing_but_the_same_title_keep_it() -> None:
    found = blocks(pdf([part for _ in range(4) for part in (body("Map of the region"), PageBreak())]))
    assert [block.text for block in found] == ["Map of the region"] * 4


def test_drawings_of_many_rectangles_take_no_time() -> None:
    def draw(canvas: Canvas) -> None:
        places = random.Random(0)
        canvas.drawString(50, 800, "A plan of the town")
        for _ in range(2000):
            canvas.rect(
                places.random() * 500, places.random() * 700, places.random() * 60, places.random() * 60
            )

    data = drawn(draw)
    began = time.process_time()
    assert [block.kind for block in blocks(data)] == ["text"]
    assert time.process_time() - began < 3
