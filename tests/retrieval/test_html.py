"""HTML pages to blocks."""

from __future__ import annotations

import pytest

from selfaug.retrieval.document import Block, Contents, UnreadableDocument
from selfaug.retrieval.html import html_blocks, read_html
from selfaug.retrieval.pairs import holds


def test_headings_paragraphs_lists_and_tables_without_scripts_and_navigation() -> None:
    title, blocks, _ = read_html(
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
    assert read_html(b"<body>" + picture + b"<p>text</p></body>") == Contents("", [Block("text", "text")])
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


def _filing_row(label: str, *figures: str) -> str:
    """As programs for filings write it: a label over three columns, then three for a space and three for each year."""
    cells = "".join(f'<td colspan="3"></td>{figure}' for figure in figures)
    return f'<tr><td colspan="3">{label}</td>{cells}</tr>'


def test_tables_of_filings_have_a_column_for_each_year() -> None:
    years = '<td colspan="9">Years ended September 30,</td>'
    table = (
        "<table><tr>" + "<td style='width: 1%'></td>" * 15 + "</tr>",
        _filing_row("", years),
        _filing_row("", '<td colspan="3">2023</td>', '<td colspan="3">2022</td>'),
        '<tr><td colspan="6">Net sales:</td><td colspan="9"></td></tr>',
        _filing_row("iPhone", "<td>$</td><td>200,583</td><td></td>", "<td>$</td><td>205,489</td><td></td>"),
        _filing_row("Mac", '<td colspan="2">29,357</td><td></td>', '<td colspan="2">40,177</td><td></td>'),
        _filing_row("Other", '<td colspan="2">(565</td><td>)</td>', '<td colspan="2">—</td><td></td>'),
        _filing_row("Growth", '<td colspan="2">(27</td><td>)%</td>', '<td colspan="2">14</td><td>%</td>'),
        "</table>",
    )
    (block,) = html_blocks("".join(table))
    assert block.text.splitlines() == [
        "|  | Years ended September 30, 2023 | Years ended September 30, 2022 |",
        "| --- | --- | --- |",
        "| Net sales: |  |  |",
        "| iPhone | $200,583 | $205,489 |",
        "| Mac | 29,357 | 40,177 |",
        "| Other | (565) | — |",
        "| Growth | (27)% | 14% |",
    ]
    for copied in ("iPhone\t$\t200,583\t\t$\t205,489", "Mac 29,357 40,177", "Other (565 ) —", "(27 )%"):
        assert holds(block.text, copied)


def test_signs_with_cells_of_their_own_are_of_their_figures() -> None:
    """In the columns that a name lies over, and in one that has none; a name that looks like a figure is one."""
    (block,) = html_blocks(
        "<table><tr><td></td><td></td><td colspan=2>30.09.2023</td><td></td><td colspan=2>Change</td></tr>"
        "<tr><td>Revenue</td><td></td><td>US$</td><td>1,200</td><td></td><td>20</td><td>%</td></tr>"
        "<tr><td>Loss</td><td></td><td></td><td>(36</td><td>)</td><td>n/m</td></tr></table>"
    )
    assert block.text.splitlines() == [
        "|  | 30.09.2023 | Change |",
        "| --- | --- | --- |",
        "| Revenue | US$1,200 | 20% |",
        "| Loss | (36) | n/m |",
    ]


def test_columns_that_say_two_things_stay_two() -> None:
    """A column of units, a figure over two years, and a label over the columns of two."""
    (units,) = html_blocks(
        "<table><tr><th>Item</th><th>Unit</th><th>2022</th><th>2023</th></tr>"
        "<tr><td>Price</td><td>$</td><td>12</td><td>13</td></tr>"
        "<tr><td>Dividend</td><td>$</td><td colspan=2>7</td></tr>"
        "<tr><td>Volume</td><td>t</td><td>5</td><td>6</td></tr></table>"
    )
    assert units.text.splitlines()[::2] == [
        "| Item | Unit | 2022 | 2023 |",
        "| Price | $ | 12 | 13 |",
        "| Volume | t | 5 | 6 |",
    ]
    (regions,) = html_blocks(
        "<table><tr><th>Region</th><th>City</th><th>2023</th></tr><tr><td colspan=3>Europe</td></tr>"
        "<tr><td rowspan=2>North</td><td>Oslo</td><td>1</td></tr><tr><td>Bergen</td><td>2</td></tr></table>"
    )
    assert regions.text.splitlines()[2:] == [
        "| Europe |  |  |",
        "| North | Oslo | 1 |",
        "| North | Bergen | 2 |",
    ]


@pytest.mark.parametrize(
    ("title", "facts", "expected"),
    [
        (
            "aapl-20230930",
            {"EntityRegistrantName": "Apple <b>Inc.</b>", "DocumentPeriodEndDate": "September 30, 2023"},
            "Apple Inc., September 30, 2023: aapl-20230930",
        ),
        ("10-K", {"EntityRegistrantName": "Tesla, Inc.", "DocumentType": "10-K"}, "Tesla, Inc.: 10-K"),
        ("APPLE INC. 10-K", {"EntityRegistrantName": "Apple Inc."}, "APPLE INC. 10-K"),
        ("", {"EntityRegistrantName": " ", "DocumentType": "10-Q"}, "10-Q"),
    ],
)
def test_titles_of_filings_say_whose_they_are(title: str, facts: dict[str, str], expected: str) -> None:
    tags = "".join(f"<ix:nonNumeric name='dei:{name}'>{fact}</ix:nonNumeric>" for name, fact in facts.items())
    page = f"<title>{title}</title><ix:header><ix:hidden>{tags}</ix:hidden></ix:header><p>text</p>"
    assert read_html(page.encode()) == Contents(expected, [Block("text", "text")])


def test_what_is_struck_through_or_invisible_is_left_out() -> None:
    assert html_blocks(
        "<p>Revenue was <del>$10m</del> <ins>$12m</ins>. <s>Buy</s> <strike>Sell</strike> Hold"
        "<span style='TEXT-DECORATION: underline line-through'>, or not</span>.</p>"
        "<p style='visibility: hidden'>never</p><p style='-webkit-backface-visibility: hidden'>always</p>"
        "<table><tr><td>Target <s>10</s></td><td>12</td></tr></table>"
    ) == [Block("text", "Revenue was $12m. Hold."), Block("text", "always"), Block("text", "Target | 12")]


def test_what_stands_around_the_text_of_a_page_is_left_out() -> None:
    _, blocks, _ = read_html(
        b"""<body><header><h1>ACME</h1><ul><li>Login</li></ul></header><div role="banner">Search</div>Loose
        <aside>Most read</aside>text<main><article><header><h1>Norvik</h1><p>1 March 2024</p></header>
        <p>Revenue rose.</p><aside>In short: buy.</aside><textarea>draft</textarea><option>one</option>
        <footer>By A. Author</footer></article><aside>Also read</aside></main>
        <aside><aside role="doc-footnote">1. Unaudited.</aside></aside>
        <footer role="doc-endnotes">2. Net of tax.</footer><footer>Imprint</footer></body>"""
    )
    assert [block.text for block in blocks] == [
        *("Loose", "text", "Norvik", "1 March 2024", "Revenue rose.", "In short: buy.", "By A. Author"),
        *("1. Unaudited.", "2. Net of tax."),
    ]


def test_a_header_with_the_only_main_heading_of_a_page_stays() -> None:
    page = "<header><h1>Norvik</h1><p>1 March 2024</p></header><main>{}<p>Revenue rose.</p></main><footer>x</footer>"
    kept = [
        Block("heading", "Norvik", level=1),
        Block("text", "1 March 2024"),
        Block("text", "Revenue rose."),
    ]
    for heading in ("", "<h1> </h1>"):
        assert read_html(page.format(heading).encode())[1] == kept
    assert read_html(page.format("<h1>Results</h1>").encode())[1] == [
        Block("heading", "Results", level=1),
        Block("text", "Revenue rose."),
    ]
    # Of a piece in Markdown nothing is a site's: programs write notes in asides there.
    assert html_blocks("<header>a</header><aside>b</aside>") == [Block("text", "a"), Block("text", "b")]


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


def test_asides_of_a_page_without_articles_are_of_its_text() -> None:
    _, blocks, _ = read_html(
        b"""<main><p>Revenue rose.</p><aside>Unaudited.</aside></main><div role="main"><aside>In millions.</aside>
        </div><section><aside>Net of tax.</aside></section><aside>Most read</aside>"""
    )
    assert [block.text for block in blocks] == ["Revenue rose.", "Unaudited.", "In millions.", "Net of tax."]


@pytest.mark.parametrize(
    "begin",
    [
        "<body><header id='title-block-header'><h1 class='title'>Norvik</h1>",
        "<title>Norvik</title><body><header><h1>\n Norvik</h1>",
        "<title>Another</title><body><header><h1>Norvik</h1>",
    ],
)
def test_a_header_with_the_title_of_the_page_stays(begin: str) -> None:
    page = f"{begin}<p class='date'>1 March 2024</p></header><h1>Results</h1><p>Revenue rose.</p></body>"
    is_head = "Another" not in begin
    assert [block.text for block in read_html(page.encode())[1]] == [
        *(["Norvik", "1 March 2024"] if is_head else []),
        *("Results", "Revenue rose."),
    ]


def test_without_a_heading_of_the_first_level_those_of_the_second_are_the_main_ones() -> None:
    page = "<header><h2>Norvik</h2><p>1 March 2024</p></header>{}<p>Revenue rose.</p><footer><h2>Contact</h2></footer>"
    assert [block.text for block in read_html(page.format("").encode())[1]] == [
        *("Norvik", "1 March 2024", "Revenue rose."),
    ]
    assert [block.text for block in read_html(page.format("<h2>Results</h2>").encode())[1]] == [
        *("Results", "Revenue rose."),
    ]


def test_a_page_that_a_script_shows_when_it_is_loaded_is_read() -> None:
    page = b"<html style='visibility:hidden'><body style='display: none'><p>text</p><p style='display:none'>no</p>"
    assert read_html(page) == Contents("", [Block("text", "text")])


def test_ordered_lists_have_their_numbers() -> None:
    """ "As step 4 says" pointed nowhere, where each item had a bullet."""
    assert html_blocks(
        "<ol start=3><li>a</li><li hidden>no</li><li><p>b</p><p>more</p><ol type=a><li>x</li><li value=28>y</li></ol>"
        "</li></ol><p>-</p><ol reversed><li>two</li><li>one</li></ol><p>-</p><ol type=I start=9><li>x<li type=A>y</ol>"
        "<p>-</p><ol style='list-style: none'><li>x</ol><p>-</p><ol style='list-style-type:lower-roman'><li>x</ol>"
        "<p>-</p><ol start=x><li>x</ol>"
    )[::2] == [
        Block("text", "3. a\n4. b\n  more\n  a. x\n  ab. y"),
        Block("text", "2. two\n1. one"),
        Block("text", "IX. x\nJ. y"),
        Block("text", "- x"),
        Block("text", "i. x"),
        Block("text", "1. x"),
    ]


def test_numbers_stand_before_what_items_begin_with() -> None:
    table = (
        "<table><tr><td><ol><li>a</li><li hidden>no<li>b<ul><li>c</ul><li>d</ol></td><td>7</td></tr></table>"
    )
    assert html_blocks(
        "<ol><li><h3>Fees</h3><p>They are due.</p></li><li><h3>Term</h3><p>Two years.</p><p>More.</p></li>"
        f"<li><pre>pip install</pre>Run it.</li><li>{table}</li></ol><ul><li><h3>Notes</h3><p>None.</p></li></ul>"
    ) == [
        *(Block("heading", "1. Fees", level=3), Block("text", "They are due.")),
        *(Block("heading", "2. Term", level=3), Block("text", "Two years.\nMore.\n3.")),
        *(Block("text", "pip install"), Block("text", "Run it.\n4.")),
        *(
            Block("text", "1. a 2. b c 3. d | 7"),
            Block("heading", "Notes", level=3),
            Block("text", "- None."),
        ),
    ]


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("pip install x<br>x --serve", ["pip install x", "x --serve"]),
        ("<code><span>a<br></span><span>  b<br></span><span><br></span>c</code>", ["a", "  b", "", "c"]),
        ("<div>a</div>\n<div>  b</div><div><br></div><div>c</div>", ["a", "  b", "", "c"]),
        ("<ol><li>a</li><li>b <b>c</b></li></ol>", ["a", "b c"]),
    ],
)
def test_lines_of_code_that_elements_make_stay_lines(code: str, lines: list[str]) -> None:
    assert html_blocks(f"<pre>{code}</pre>") == [Block("text", "\n".join(lines))]


def test_formulas_are_in_their_sentence_once() -> None:
    parts = "<mrow> <msup><mn>2</mn><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></msup> </mrow>"
    tex = "<annotation encoding='application/x-tex'>2^{n+1}</annotation>"
    katex = f"<span><math><semantics>{parts}{tex}</semantics></math></span><span aria-hidden=true>2n+1</span>"
    assert html_blocks(f"<p>The delay is {katex} seconds.</p>") == [
        Block("text", "The delay is 2^{n+1} seconds.")
    ]
    plain = f"<math><mfrac>{parts}<msqrt><mn>3</mn></msqrt></mfrac><mo>=</mo><mi>x</mi></math>"
    assert html_blocks(f"<table><tr><td>{plain}</td><td>7</td></tr></table>") == [
        Block("text", "2^(n+1)/√3=x | 7")
    ]
    wiki = f"<span class='mwe-math-mathml-inline' style='display: none;'><math>{parts}{tex}</math></span><img alt=x>"
    assert html_blocks(f"<p>It is {wiki}.</p>") == [Block("text", "It is 2^{n+1}.")]


@pytest.mark.parametrize(
    ("math", "text"),
    [
        ("<mn>4</mn><mstyle><mfrac><mn>1</mn><mn>2</mn></mfrac></mstyle><mn>3</mn>", "4 1/2 3"),
        ("<mn>1</mn><mn>0</mn><mi>x</mi><msup><mn>2</mn><mn>3</mn></msup><mn>4</mn>", "10x2^3 4"),
        ("<mroot><mn>8</mn><mn>3</mn></mroot>", "root(8, 3)"),
        (
            "<mo>(</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mfrac><mn>2</mn><mn>3</mn></mfrac></mtd></mtr>"
            "<mtr><mtd><mn>4</mn></mtd></mtr></mtable><mo>)</mo>",
            "(1 2/3; 4)",
        ),
        ("<mfrac><mn>1</mn><mfrac><mn>2</mn><mn>3</mn></mfrac></mfrac>", "1/(2/3)"),
        ("<msqrt><mi>a</mi><mo>+</mo><mi>b</mi></msqrt>", "√(a+b)"),
        (
            "<msup><mrow><mo>(</mo><mi>a</mi><mo>)</mo></mrow><mn>2</mn></msup><mtext> if&nbsp;</mtext><mi>b</mi>",
            "(a)^2 if b",
        ),
        ("<mn>2</mn><mfenced><mi>a</mi><mrow><mi>b</mi> + </mrow></mfenced>", "2(a, b+)"),
    ],
)
def test_formulas_without_tex_keep_their_numbers_apart(math: str, text: str) -> None:
    assert html_blocks(f"<math>{math}</math>") == [Block("text", text)]
