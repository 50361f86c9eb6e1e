"""Tables of PDFs without rules between their columns, and what must not be taken for one: with real files."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import pytest
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph, SimpleDocTemplate, Table, TableStyle

from selfaug.retrieval.chunking import Chunker
from selfaug.retrieval.document import Block, Document
from selfaug.retrieval.pdf import read_pdf

STYLES = getSampleStyleSheet()
BOOKTABS = [
    ("LINEABOVE", (0, 0), (-1, 0), 1, colors.black),
    ("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.black),
    ("LINEBELOW", (0, -1), (-1, -1), 1, colors.black),
    ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
]
STATEMENT = [
    ["In millions of euros", "Note", "2024", "2023"],
    ["Revenue", "4", "1,536", "1,402"],
    ["Other income", "5", "", "8"],
    ["Financial result", "", "(12)", "13"],
]
LEFT = 72

Place = tuple[Any, ...]  # x, text, and the side of the text that x is of, if it is not the usual one
Line = Sequence[Place]
Lines = Sequence[Line]

YEARS: Line = [(300, "2024"), (400, "2023")]
LONG_REMARK = (420, "as the board had expected it to do", "left")
ROWS = [["", "2024", "2023"], ["Revenue", "12", "13"], ["Costs", "5", "6"]]


def drawn(
    *pages: Lines, step: float = 14, size: float = 10, font: str = "Helvetica", rotated: bool = False
) -> bytes:
    """A PDF with a page of each of these: of each line the texts and their places, from `LEFT` on, else up to them."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4)
    for lines in pages:
        if rotated:
            canvas.setPageRotation(90)
            canvas.translate(A4[0], 0)
            canvas.rotate(90)
        canvas.setFont(font, size)
        for number, line in enumerate(lines):
            for x, text, *side in line:
                put = {
                    "left": canvas.drawString,
                    "right": canvas.drawRightString,
                    "middle": canvas.drawCentredString,
                }
                put[side[0] if side else "left" if x == LEFT else "right"](x, 500 - step * number, text)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def table_of(rows: Sequence[Sequence[str]], *ends: float) -> list[list[Place]]:
    """Lines of a table: labels at the left, figures up to the ends of their columns."""
    return [[(x, text) for x, text in zip((LEFT, *ends), row, strict=True) if text] for row in rows]


def blocks(data: bytes) -> list[Block]:
    return read_pdf(data)[1]


def rows_of(block: Block) -> list[list[str]]:
    assert block.kind == "table", block
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()]
    return [lines[0], *lines[2:]]


def only_table(data: bytes) -> list[list[str]]:
    (block,) = blocks(data)
    return rows_of(block)


def kinds(data: bytes) -> list[str]:
    return [block.kind for block in blocks(data)]


def text_of(data: bytes) -> str:
    assert "table" not in kinds(data)
    return "\n".join(block.text for block in blocks(data))


def test_marks_of_notes_are_no_digits_of_the_figures() -> None:
    def marked(text: str) -> Paragraph:
        return Paragraph(text, ParagraphStyle("figure", alignment=TA_RIGHT))

    rows = [
        ["", "2024", marked("2023<super>1</super>")],
        ["Revenue", "1,536", marked("1,402<super>2</super>")],
        ["Costs", "536", "402"],
    ]
    file = io.BytesIO()
    SimpleDocTemplate(file, pagesize=A4).build(
        [Table(rows, colWidths=[130, 60, 60], style=TableStyle(BOOKTABS))]
    )
    assert only_table(file.getvalue()) == [
        ["", "2024", "2023^1"],
        ["Revenue", "1,536", "1,402^2"],
        ["Costs", "536", "402"],
    ]


@pytest.mark.parametrize("side", ["TOP", "MIDDLE", "BOTTOM"])
def test_horizontal_rules_alone_an_empty_cell_and_a_label_of_two_lines(side: str) -> None:
    label = Paragraph("Profit attributable to the owners of the parent", STYLES["BodyText"])
    table = Table(
        [*STATEMENT, [label, "", "1,200", "1,100"], ["Dividend", "", "5", ""]],
        colWidths=[130, 40, 60, 60],
        style=TableStyle([*BOOKTABS, ("VALIGN", (0, 0), (-1, -1), side)]),
    )
    text = "Before the table stands a sentence."
    file = io.BytesIO()
    SimpleDocTemplate(file, pagesize=A4).build([Paragraph(text, STYLES["BodyText"]), table])
    before, found = blocks(file.getvalue())
    assert before.text == text
    assert found.page == 1
    assert rows_of(found) == [
        *STATEMENT,
        ["Profit attributable to the owners of the parent", "", "1,200", "1,100"],
        ["Dividend", "", "5", ""],
    ]


def test_no_rules_at_all_with_headings_within_and_names_of_two_lines() -> None:
    lines = [
        [(LEFT, "Statement of financial position")],
        [(330, "2024"), (400, "2023")],
        [(260, "Note"), (330, "€m"), (400, "€m")],
        [(LEFT, "Assets")],
        *table_of([["Goodwill", "7", "120.5", "n/a"], ["Cash", "", "–", "13.0 %"]], 260, 330, 400),
        [],
        [(LEFT, "Liabilities of the group and of its shareholders, all of them")],
        *table_of([["Debt", "9", "(50.1)", "$ 48"], ["Provisions", "", "7", ""]], 260, 330, 400),
        [],
        [
            (
                LEFT,
                "The notes on pages 12 to 40 are part of these statements, and the board has approved them.",
            )
        ],
    ]
    title, table, text = blocks(drawn(lines))
    assert title.text == "Statement of financial position"
    assert rows_of(table) == [
        ["", "Note", "2024 €m", "2023 €m"],
        ["Assets", "", "", ""],
        ["Goodwill", "7", "120.5", "n/a"],
        ["Cash", "", "–", "13.0 %"],
        ["Liabilities of the group and of its shareholders, all of them", "", "", ""],
        ["Debt", "9", "(50.1)", "$ 48"],
        ["Provisions", "", "7", ""],
    ]
    assert text.text.startswith("The notes on pages 12 to 40 are part")


def test_later_passages_of_a_long_table_have_its_years_too() -> None:
    rows = [
        ["", "2024", "2023"],
        *([f"Item {number}", f"{number},100", f"{number},200"] for number in range(1, 40)),
    ]
    found = blocks(drawn(table_of(rows, 300, 400), step=11))
    chunks = Chunker(80, 10).chunks(Document("report.pdf", "Report", "", tuple(found)))
    assert len(chunks) > 2
    assert all("| 2024 | 2023 |" in chunk.text for chunk in chunks)


def test_figures_as_in_switzerland_and_japan() -> None:
    rows = [
        ["", "2024", "2023"],
        ["Nettoumsatz", "1'234", "1\u2019100"],
        ["Betriebsgewinn", "(1'010)", "989"],
    ]
    assert only_table(drawn(table_of(rows, 300, 400))) == rows
    pdfmetrics.registerFont(UnicodeCIDFont("HeiseiMin-W3"))
    rows = [["", "2024", "2023"], ["純売上高", "1,234", "1,100"], ["営業利益", "△567", "▲89"]]
    assert only_table(drawn(table_of(rows, 300, 400), font="HeiseiMin-W3")) == rows


def test_currency_signs_and_leaders_at_the_left_of_figures() -> None:
    lines = [
        [(378, "Year ended December 31,", "middle")],
        [(340, "2024"), (440, "2023")],
        [(LEFT, "Net sales"), (300, "$", "left"), (340, "1,536"), (400, "$", "left"), (440, "1,402")],
        [(LEFT, "Cost of sales . . . . . . . . ."), (340, "(820"), (346, ")", "left"), (440, "(790)")],
        [
            (LEFT, "Gross margin .............."),
            (340, "46.6"),
            (348, "%", "left"),
            (440, "43.6"),
            (448, "%", "left"),
        ],
        [(LEFT, "........")],
        [(LEFT, "Net income"), (300, "$", "left"), (340, "716"), (400, "$", "left"), (440, "—")],
    ]
    table = blocks(drawn(lines))[0]
    assert rows_of(table) == [
        ["", "Year ended December 31, 2024", "Year ended December 31, 2023"],
        ["Net sales", "$ 1,536", "$ 1,402"],
        ["Cost of sales", "(820 )", "(790)"],
        ["Gross margin", "46.6 %", "43.6 %"],
        ["Net income", "$ 716", "$ —"],
    ]


FOUR = [
    ["Cash", "12", "13", "4", "5"],
    ["Debt", "112", "113", "104", "105"],
    ["Total", "124", "126", "108", "110"],
]


@pytest.mark.parametrize(
    "names", [[(376, "Group", "middle"), (516, "Company", "middle")], [(420, "Group"), (560, "Company")]]
)
def test_names_that_lie_over_several_columns(names: list[Place]) -> None:
    lines = [names, *table_of([["", "2024", "2023", "2024", "2023"], *FOUR], 350, 420, 490, 560)]
    assert only_table(drawn(lines)) == [
        ["", "Group 2024", "Group 2023", "Company 2024", "Company 2023"],
        *FOUR,
    ]


def test_names_that_lie_over_some_of_the_columns_and_stand_beside_others() -> None:
    lines = [
        [(376, "Reported", "middle")],
        [(LEFT, "in $ million"), (350, "2024"), (420, "2023"), (490, "Restated")],
        *table_of([["Sales", "12", "13", "14"], ["Costs", "5", "6", "7"]], 350, 420, 490),
    ]
    assert only_table(drawn(lines))[0] == ["in $ million", "Reported 2024", "Reported 2023", "Restated"]
    over_all = [[(420, "Reported in the financial statements", "middle")], *lines[1:]]
    assert only_table(drawn(over_all))[0][1:] == [
        f"Reported in the financial statements {name}" for name in ("2024", "2023", "Restated")
    ]
    covering = [[(300, "Long name over two of them", "left"), (490, "New")], *lines[1:]]
    assert only_table(drawn(covering))[0][1:] == [
        "Long name over two of them 2024",
        "Long name over two of them 2023",
        "New Restated",
    ]


def test_a_name_that_is_not_quite_above_its_column() -> None:
    rows = table_of(
        [["", "2024", "2023", "2022"], ["Sales", "12", "13", "14"], ["Costs", "5", "6", "7"]], 350, 420, 490
    )
    assert only_table(drawn([[(424, "Restated")], *rows]))[0] == ["", "2024", "Restated 2023", "2022"]


def test_typewriter_tables_with_single_spaces() -> None:
    lines = [
        "             Estimate Std. Error t value",
        "(Intercept)   251.405      6.824   36.84",
        "Days           10.467      1.545    6.77",
        "Weight        100.000    200.000  300.00",
    ]
    table = only_table(drawn([[(LEFT, line)] for line in lines], font="Courier"))
    assert table[0] == ["", "Estimate", "Std. Error", "t value"]
    assert table[2] == ["Days", "10.467", "1.545", "6.77"]
    close = ["       Female Male M - F", "young    3.01 3.28  0.27", "old      2.84 3.24  0.39"]
    assert only_table(drawn([[(LEFT, line)] for line in close], font="Courier")) == [
        ["", "Female", "Male", "M - F"],
        ["young", "3.01", "3.28", "0.27"],
        ["old", "2.84", "3.24", "0.39"],
    ]
    touching = ["       chisq df    p", "age    0.507  1 0.48", "weight 0.014  1 0.90"]
    assert kinds(drawn([[(LEFT, line)] for line in touching], font="Courier")) == ["text"]


def test_labels_that_go_on_in_the_next_line() -> None:
    lines = [
        [(300, "2024"), (400, "2023")],
        [(LEFT, "Profit attribut-")],
        [(LEFT, "able to owners"), (300, "12"), (400, "13")],
        [(LEFT, "Share of the profit of"), (300, "5"), (400, "6")],
        [(LEFT, "joint ventures")],
        [(LEFT, "Of which:")],
        [(LEFT, "restricted cash"), (300, "1"), (400, "2")],
        [(LEFT, "Depreciation of plant,"), (300, "7"), (400, "8")],
        [(LEFT, "machines and other"), (300, "9"), (400, "9")],
        [(LEFT, "Amortisation"), (300, "3"), (400, "4")],
        [(LEFT, "of intangible assets")],
    ]
    assert only_table(drawn(lines, step=12)) == [
        ["", "2024", "2023"],
        ["Profit attributable to owners", "12", "13"],
        ["Share of the profit of joint ventures", "5", "6"],
        ["Of which:", "", ""],
        ["restricted cash", "1", "2"],
        ["Depreciation of plant,", "7", "8"],
        ["machines and other", "9", "9"],
        ["Amortisation of intangible assets", "3", "4"],
    ]


def test_a_line_that_may_go_on_above_or_below_goes_with_the_nearer_one() -> None:
    def table(gap: int) -> list[list[str]]:
        lines: list[list[Place]] = [[] for _ in range(40)]
        lines[0] = [(300, "2024"), (400, "2023")]
        lines[4] = [(LEFT, "Cash"), (300, "12"), (400, "13")]
        lines[4 + gap] = [(LEFT, "of which is")]
        lines[10] = [(LEFT, "restricted"), (300, "1"), (400, "2")]
        lines[14] = [(LEFT, "Debt"), (300, "5"), (400, "6")]
        lines[18] = [(LEFT, "Equity"), (300, "5"), (400, "6")]
        return only_table(drawn(lines, step=4))

    labels = [[row[0] for row in table(gap)[1:]] for gap in (3, 4, 2)]
    assert labels == [
        ["Cash", "of which is", "restricted", "Debt", "Equity"],
        ["Cash", "of which is restricted", "Debt", "Equity"],
        ["Cash of which is", "restricted", "Debt", "Equity"],
    ]


def test_a_table_on_a_rotated_page() -> None:
    rows = [["", "2024", "2023"], ["Revenue", "12.5", ""], ["Costs", "5.0", "6.1"], ["Profit", "7.5", "7.0"]]
    assert only_table(drawn(table_of(rows, 300, 400), rotated=True)) == rows


def test_a_table_that_goes_on_has_its_names_again_and_other_rows_stay_lines() -> None:
    names = [["in $ million", "2024", "2023"]]
    first = [["Alpha", "1,100", "1,200"], ["Beta", "2,100", "2,200"]]
    second = [["Gamma", "3,100", "3,200"], ["Delta", "4,100", "4,200"]]
    one, other = blocks(drawn(table_of([*names, *first], 300, 400), table_of(second, 300, 400)))
    assert (one.page, other.page) == (1, 2)
    assert rows_of(one) == names + first
    assert rows_of(other) == names + second
    elsewhere = drawn(table_of([*names, *first], 300, 400), table_of(second, 300, 450))
    assert kinds(elsewhere) == ["table", "text"]
    note: Lines = [[], [], [(LEFT, "A note.")]]
    after_note = blocks(drawn([*table_of([*names, *first], 300, 400), *note], table_of(second, 300, 400)))
    assert [block.kind for block in after_note] == ["table", "text", "table"]
    assert rows_of(after_note[-1]) == names + second
    after_text = drawn([*table_of([*names, *first], 300, 400), *note * 5], table_of(second, 300, 400))
    assert "table" not in kinds(after_text)[1:]
    own = [["in $ million", "2022", "2021"], *second]
    assert rows_of(blocks(drawn(table_of([*names, *first], 300, 400), table_of(own, 300, 400)))[1]) == own


def test_names_at_the_head_of_each_page_stay_with_their_table() -> None:
    pages = []
    for page in range(4):
        rows = [
            ["", "2024", "2023"],
            *([f"Item {page}{n}", f"{page}{n},1", f"{n}{page},7"] for n in range(1, 5)),
        ]
        pages.append([*table_of(rows, 300, 400), [], [], [], [], [(LEFT, f"Annual report {page + 1}")]])
    found = blocks(drawn(*pages))
    assert [rows_of(block)[0] for block in found] == [["", "2024", "2023"]] * 4


def test_a_running_line_beneath_a_table_is_not_a_row_of_it() -> None:
    pages = []
    for page in range(4):
        rows = [
            ["", "2024", "2023"],
            *([f"Item {page}{n}", f"{page}{n},1", f"{n}{page},7"] for n in range(1, 5)),
        ]
        pages.append(table_of([*rows, ["Annual report", "", f"{page + 11}"]], 300, 400))
    text = "\n".join(block.text for block in blocks(drawn(*pages)))
    assert "Annual report" not in text
    assert "Item 34" in text


def test_the_number_of_the_page_beneath_a_table_is_not_a_row_of_it() -> None:
    pages = []
    for page in range(4):
        rows = [
            ["", "2024", "2023"],
            *([f"Item {page}{n}", f"{page}{n},1", f"{n}{page},7"] for n in range(1, 5)),
        ]
        pages.append([*table_of(rows, 300, 400), [], [(300, f"{page + 11}")]])
    assert [len(rows_of(block)) for block in blocks(drawn(*pages))] == [5] * 4


def test_another_table_right_beneath_has_names_of_its_own() -> None:
    first = [["", "2024", "2023"], ["Revenue", "12", "13"], ["Costs", "5", "6"]]
    second = [["(restated)", "2022", "2021"], ["Revenue", "10", "11"], ["Costs", "3", "4"]]
    third = [["", "North", "South"], ["Regions", "", ""], ["Revenue", "7", "8"], ["Costs", "1", "2"]]
    found = blocks(drawn(table_of([*first, *second, *third], 300, 400)))
    assert list(map(rows_of, found)) == [first, second, third]


def test_rows_of_words_within_and_columns_of_words() -> None:
    rows = [
        ["", "Unit", "2024", "2023"],
        ["Revenue", "€m", "12", "13"],
        ["Rating", "", "AA", "A+"],
        ["Staff", "people", "2,024", "2019"],
        ["Costs", "€m", "5", "6"],
        ["Total", "", "17", "19"],
    ]
    assert only_table(drawn(table_of(rows, 220, 300, 400))) == rows


def test_cells_of_several_lines_that_are_written_one_after_the_other() -> None:
    style = TableStyle([("ALIGN", (1, 0), (-1, -1), "RIGHT"), ("VALIGN", (0, 0), (-1, -1), "TOP")])
    table = Table(
        [["", "Average\nstaff", "Sales per\nhead"], ["North", "12", "1.5"], ["South", "15", "1.7"]],
        style=style,
    )
    file = io.BytesIO()
    SimpleDocTemplate(file, pagesize=A4).build([table])
    assert only_table(file.getvalue())[0] == ["", "Average staff", "Sales per head"]


def test_a_table_of_contents_stays_lines() -> None:
    entries = [[(LEFT, f"{n}. Chapter {n} of 2024" + " ." * 30), (450, str(n * 7))] for n in range(1, 9)]
    assert text_of(drawn([[(LEFT, "Contents"), (450, "Page")], *entries])).count("Chapter") == 8


def test_prose_in_two_columns_with_many_figures_stays_prose() -> None:
    def line(number: int) -> list[Place]:
        words = f"In {2010 + number} we sold 12.{number} and 13.{number},"
        return [(LEFT, words), (320, f"and costs were {number},512 of {number}.4", "left")]

    text_of(drawn([[(LEFT, "Revenue"), (320, "Costs", "left")], *map(line, range(12))]))


def test_lists_with_figures_stay_lists() -> None:
    entries = [
        [(LEFT, f"{n}."), (100, f"Revenue rose from {n}.5 to {n}.7 in 2024", "left")] for n in range(1, 6)
    ]
    assert text_of(drawn([[(LEFT, "Results of 2024 and 2023:")], *entries])).count("Revenue rose") == 5


def test_numbers_of_a_chart_stay_lines() -> None:
    rows = [(2021, 2022, 2023, 2024), (12, 13, 14, 15), (22, 33, 14, 15)]
    axis = [[(x, str(value)) for x, value in zip((100, 200, 300, 400), row, strict=True)] for row in rows]
    text_of(drawn(axis))


def test_text_beside_figures_stays_with_its_lines() -> None:
    figures = table_of([["in €m", "2024", "2023"], ["Revenue", "12", "13"], ["Costs", "5", "6"]], 210, 260)
    beside = [
        "Our view of the year",
        "The revenue of the region rose in every",
        "quarter of the year, as the board",
    ]
    lines = [[*line, (300, text, "left")] for line, text in zip(figures, beside, strict=True)]
    text_of(
        drawn(
            [
                *lines,
                [(LEFT, "Profit"), (210, "7"), (260, "7"), (300, "had expected it to do, and so", "left")],
            ]
        )
    )


PROSE = [
    ["The group had a good year and"],
    ["sold more than ever before in"],
    ["Europe and the Americas, while"],
    ["its costs were held."],
]


@pytest.mark.parametrize("label", ["EUR m", ""])
@pytest.mark.parametrize("pitch", [14, 12])
@pytest.mark.parametrize("beside", [PROSE, [["", "2022", "2021"], ["Cash", "1", "2"], ["Debt", "3", "4"]]])
def test_a_table_beside_what_was_written_before(beside: list[list[str]], pitch: int, label: str) -> None:
    """Lines of text were taken for labels of rows at their height, and names for those of the table on the left."""
    rows = [[label, "2024", "2023"], *ROWS[1:], ["Profit", "7", "7"]]
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4)
    canvas.setFont("Helvetica", 10)
    for lines, step, (left, *ends) in ((beside, 14, (LEFT, 200, 260)), (rows, pitch, (320, 450, 520))):
        for number, (first, *figures) in enumerate(lines):
            canvas.drawString(left, 500 - step * number, first)
            for end, figure in zip(ends, figures, strict=False):
                canvas.drawRightString(end, 500 - step * number, figure)
    canvas.save()
    first, table = blocks(file.getvalue())
    assert rows_of(table) == rows
    if beside is PROSE:
        assert first.text == " ".join(line for (line,) in PROSE)
    else:
        assert rows_of(first) == beside


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(table_of(ROWS[1:], 300, 400), id="no names"),
        pytest.param(
            [[(350, "Figures of the group", "middle")], *table_of(ROWS[1:], 300, 400)], id="one name for all"
        ),
        pytest.param([list(YEARS)[:1], *table_of(ROWS[1:], 300, 400)], id="a column without a name"),
        pytest.param(
            [
                [(LEFT, "Table 3: revenue and costs of the group in 2024 and in 2023")],
                *table_of(ROWS[1:], 300, 400),
            ],
            id="a title",
        ),
        pytest.param(
            [[(LEFT, "ill " * 17), (480, "2024"), (540, "2023")], *table_of(ROWS[1:], 480, 540)],
            id="a long name",
        ),
        pytest.param(table_of(ROWS[:2], 300, 400), id="one row"),
        pytest.param(
            [*table_of(ROWS[:2], 300, 400), [], [], [], [], *table_of(ROWS[2:], 300, 400)],
            id="far from one another",
        ),
        pytest.param(
            [YEARS, *[[(200, "12"), (300, "13"), (400, "Sales", "left")]] * 2], id="labels at the right"
        ),
        pytest.param(
            [YEARS, *([(LEFT, "Sales"), (300 + 40 * n, "12"), (402 + 40 * n, "13")] for n in range(3))],
            id="staggered",
        ),
        pytest.param(
            [YEARS, *([(LEFT, "Sales"), (250 + 17 * n, "1,200,000"), (400, "13")] for n in range(4))],
            id="not aligned",
        ),
        pytest.param(
            [YEARS, *([(LEFT, "Sales"), (300, "12"), (400, "13"), (420, "new", "left")] for _ in range(3))],
            id="words among the figures",
        ),
        pytest.param(
            [
                YEARS,
                *table_of([*ROWS[1:], *ROWS[1:]], 300, 400),
                [*table_of(ROWS[1:2], 300, 400)[0], LONG_REMARK],
            ],
            id="a sentence beside the figures",
        ),
        pytest.param(
            [[(40 * n + 100, f"N{n}") for n in range(65)]]
            + [[(LEFT, "Sales"), *((40 * n + 100, "12") for n in range(65))]] * 2,
            id="too many columns",
        ),
    ],
)
def test_what_is_not_certain_stays_lines(lines: Lines) -> None:
    read = "".join(text_of(drawn(lines)).split())
    assert sorted(read) == sorted("".join("".join(place[1] for line in lines for place in line).split()))


def test_a_sentence_across_the_columns_ends_a_table() -> None:
    sentence = "The rows below are of another company, whose years don't begin in January as ours do."
    other = [[(LEFT, "Other")], [(LEFT, sentence)], *table_of([["x", "4", "5"]], 300, 400)]
    found = blocks(drawn([*table_of(ROWS, 300, 400), *other]))
    assert rows_of(found[0]) == ROWS
    assert " ".join(" ".join(block.text for block in found[1:]).split()) == f"Other {sentence} x 4 5"


def test_each_page_of_a_statement_is_a_table_of_its_own() -> None:
    rows = [*STATEMENT, ["Total", "", "1", "2"]]
    found = blocks(drawn(*[table_of(rows, 220, 300, 400)] * 2))
    assert [rows_of(block) for block in found] == [rows] * 2


def test_pages_full_of_figures_take_no_time() -> None:
    rows: Lines = [
        [(LEFT, "Sales"), *((LEFT + 40 + 9 * n, "12") for n in range(60))],
        [(LEFT, "Costs")],
    ] * 140
    data = drawn(rows, step=1.9, size=1.7)
    began = time.process_time()
    assert "table" not in kinds(data)
    assert time.process_time() - began < 5
