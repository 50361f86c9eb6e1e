"""HTML pages to blocks."""

from __future__ import annotations

import pytest

from selfaug.retrieval.document import Block, UnreadableDocument
from selfaug.retrieval.html import html_blocks, read_html


def test_headings_paragraphs_lists_and_tables_without_scripts_and_navigation() -> None:
    title, blocks = read_html(
        b"""<!DOCTYPE html><html><head><title> Pumps &amp; valves </title><style>p { color: red }</style></head>
        <body><nav><ul><li><a href="/">Home</a></li></ul></nav><div role="navigation">Menu</div>
        <h1>Pumps</h1><script>var x = "<p>no</p>";</script>
        <p>Pumps are <b>checked</b><br>every <!-- not --> week.</p>Loose text<div>and a part of its own</div>
        <ul><li>Close the valve.<ul><li>Slowly.</li></ul></li><li><p>Read it.</p><p>Write it down.</p></li></ul>
        <div hidden>never</div><p style="display: none">never</p><p aria-hidden="true">never</p>
        <table><caption>Pressure in bar</caption><tr><th>Pump</th><th>2023</th></tr>
        <tr><td>P1</td><td>12.5</td></tr></table>
        <pre>  if x:
    y
</pre></body></html>"""
    )
    assert title == "Pumps & valves"
    assert blocks == [
        Block("heading", "Pumps", level=1),
        Block("text", "Pumps are checked\nevery week."),
        Block("text", "Loose text"),
        Block("text", "and a part of its own"),
        Block("text", "- Close the valve.\n  - Slowly.\n- Read it.\n  Write it down."),
        Block("text", "Pressure in bar"),
        Block("table", "| Pump | 2023 |\n| --- | --- |\n| P1 | 12.5 |"),
        Block("text", "  if x:\n    y"),
    ]


def test_hidden_headings_and_lists_end_nothing() -> None:
    blocks = html_blocks(
        "<ul><li>a</li><li><ul style='display:none'><li>x</li></ul>b</li><li>c</li></ul>Words<h2 hidden>x</h2> and more"
    )
    assert [(block.kind, block.text) for block in blocks] == [
        ("text", "- a\n- b\n- c"),
        ("text", "Words"),
        ("text", "and more"),
    ]


def test_scripts_within_a_sentence_do_not_divide_it() -> None:
    assert html_blocks("<p>one <script>x</script>sentence</p>") == [Block("text", "one sentence")]


def test_elements_that_html_does_not_know_are_of_their_sentence() -> None:
    """Nearly every figure of a filing in inline XBRL has a tag of its own; what its pages don't show is no text."""
    assert html_blocks(
        "<div style='display:block'><ix:header><ix:hidden><ix:nonNumeric name='x'>0001</ix:nonNumeric></ix:hidden>"
        "</ix:header></div><p>Revenue rose to $<ix:nonFraction scale='6'>4.2</ix:nonFraction> million in "
        "<st1:City>Oslo</st1:City>, as <my-note>said</my-note>.</p>"
        "<table><tr><td>Year</td><td>Revenue</td></tr><tr><td>2023</td>"
        "<td>(<ix:nonFraction>4.2</ix:nonFraction>)</td></tr></table>"
    ) == [
        Block("text", "Revenue rose to $4.2 million in Oslo, as said."),
        Block("table", "| Year | Revenue |\n| --- | --- |\n| 2023 | (4.2) |"),
    ]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("$1,234<sup>1</sup> million", "$1,234^1 million"),
        ("in 2023<sup><a href='#n2'>2</a></sup>, as said", "in 2023^2, as said"),
        ("$5 million<sup>1,2</sup> of 4.5 %<sup>3</sup>", "$5 million^1,2 of 4.5 %^3"),
        ("(56)<sup>a</sup> or 7<span style='vertical-align: super'>b</span>", "(56)^a or 7^b"),
        ("10<sup>6</sup> of 10<sup>−6</sup>", "10^6 of 10^−6"),
        ("1<sup>st</sup>, 2<sup>e</sup> and 3<sup>rd</sup> quarter", "1st, 2e and 3rd quarter"),
        ("5 m<sup>2</sup>, 12 km<sup>2</sup>, Ca<sup>2+</sup>", "5 m2, 12 km2, Ca2+"),
        ("$1,234<sup>(1)</sup>, 7<sup>*</sup> and <sup>2</sup> alone", "$1,234(1), 7* and 2 alone"),
    ],
)
def test_superscripts_are_no_digits_of_the_figure_before_them(html: str, text: str) -> None:
    assert html_blocks(f"<p>{html}</p>") == [Block("text", text)]
    assert html_blocks(f"<table><tr><td>{html}</td><td>7</td></tr></table>") == [Block("text", f"{text} | 7")]


def test_names_of_columns_with_marks_of_notes_are_names() -> None:
    (block,) = html_blocks(
        "<table><tr><th></th><th colspan=2>North</th></tr><tr><td></td><td>2022</td><td>2023<sup>2</sup></td></tr>"
        "<tr><td>Revenue</td><td>5</td><td>6<sup>1</sup></td></tr></table>"
    )
    assert block.text.splitlines() == [
        "|  | North 2022 | North 2023^2 |",
        "| --- | --- | --- |",
        "| Revenue | 5 | 6^1 |",
    ]


def test_rows_and_cells_that_are_not_shown_are_left_out() -> None:
    (block,) = html_blocks(
        "<table><caption hidden>Old</caption><tr><th>Item</th><th hidden>Id</th><th>2023</th></tr>"
        "<tr style='display: none'><td>Draft</td><td>x</td><td>1</td></tr>"
        "<tbody hidden><tr><td>Old</td><td>x</td><td>2</td></tr></tbody>"
        "<tbody><tr><td>Revenue<span hidden>?</span></td><td style='display:none'>x</td><td>3</td></tr></tbody></table>"
    )
    assert block.text == "| Item | 2023 |\n| --- | --- |\n| Revenue | 3 |"


def test_the_title_of_a_picture_is_not_that_of_the_page() -> None:
    picture = b"<svg><title>icon menu</title></svg>"
    assert read_html(b"<body>" + picture + b"<p>text</p></body>") == ("", [Block("text", "text")])
    assert read_html(b"<body>" + picture + b"<title>Pumps</title><p>text</p></body>")[0] == "Pumps"


def test_cells_that_span_have_their_text_in_each_row_and_column() -> None:
    (block,) = html_blocks(
        """<table><thead><tr><th rowspan=2>Pump</th><th colspan=2>Pressure</th></tr>
        <tr><th>low</th><th>high</th></tr></thead><tbody>
        <tr><td rowspan="2">P1</td><td>1.5</td><td>2.5</td></tr><tr><td>3.5</td><td>4.5</td></tr>
        <tr><td>P2</td><td>5.5</td><td>6.5</td></tr></tbody></table>"""
    )
    assert block.text.splitlines() == [
        "| Pump | Pressure low | Pressure high |",
        "| --- | --- | --- |",
        "| P1 | 1.5 | 2.5 |",
        "| P1 | 3.5 | 4.5 |",
        "| P2 | 5.5 | 6.5 |",
    ]


def test_tables_that_only_arrange_the_page_are_read_through() -> None:
    blocks = html_blocks(
        "<table><tr><td><h2>News</h2><p>Much to tell.</p></td><td><table><tr><th>a</th><th>b</th></tr>"
        "<tr><td>1</td><td>2</td></tr></table></td></tr></table>"
    )
    assert [block.kind for block in blocks] == ["heading", "text", "table"]


def test_absurd_spans_are_bounded() -> None:
    rows = "<tr><td>a</td><td colspan=99999999 rowspan=99999999>b</td></tr>" * 3
    assert len(html_blocks(f"<table>{rows}</table>")[0].text) < 100_000
    with pytest.raises(UnreadableDocument, match="more than 2,000,000 cells"):
        html_blocks("<table>" + ("<tr>" + "<td colspan=100>b</td>" * 100 + "</tr>") * 210 + "</table>")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(UnreadableDocument, match="nested too deeply"):
        read_html(b"<div>" * 100_000 + b"text")
    assert html_blocks("<div>" * 500 + "text" + "</div>" * 500) == [Block("text", "text")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>für</p>".encode(), "für"),
        ("<p>für</p>".encode("cp1252"), "für"),
        ('<meta charset="iso-8859-1"><p>“für”</p>'.encode("cp1252"), "“für”"),
        ('<meta charset="iso-8859-1"><p>für</p>'.encode(), "für"),
        (
            '<meta http-equiv="Content-Type" content="text/html; charset=koi8-r"><p>да</p>'.encode("koi8-r"),
            "да",
        ),
        ('<?xml version="1.0" encoding="shift_jis"?><html><p>日本</p></html>'.encode("shift_jis"), "日本"),
        ('<meta charset="gb2312"><p>朱镕基</p>'.encode("gbk"), "朱镕基"),
        ('<meta charset="Shift_JIS"><p>㈱ノ①</p>'.encode("cp932"), "㈱ノ①"),
        ('<meta charset="x-sjis"><p>㈱</p>'.encode("cp932"), "㈱"),
        ('<meta charset="ks_c_5601-1987"><p>똠</p>'.encode("cp949"), "똠"),
        ('<meta charset="iso-8859-9"><p>“ş”</p>'.encode("cp1254"), "“ş”"),
        ("<p>für</p>".encode("utf-16"), "für"),
        (b'<meta charset="nonsense"><p>text</p>', "text"),
    ],
)
def test_encodings(data: bytes, text: str) -> None:
    assert [block.text for block in read_html(data)[1]] == [text]


def test_pages_with_nothing_in_them() -> None:
    for data in (b"<!-- -->", b"<html></html>", b"<p> </p>", b"<script>x</script>"):
        assert read_html(data)[1] == []
