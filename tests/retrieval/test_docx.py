"""Word documents to blocks: with real files, and hostile ones."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from lxml.etree import XMLSyntaxError

from selfaug.retrieval.document import Block, UnreadableDocument
from selfaug.retrieval.docx import read_docx
from selfaug.retrieval.plain_text import said_title


def saved(document: Any) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def with_part(data: bytes, name: str, change: Any) -> bytes:
    """The archive with one part changed by a function of its text."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            part = old.read(member)
            new.writestr(member, change(part.decode()).encode() if member == name else part)
    return file.getvalue()


def test_headings_paragraphs_lists_and_tables_keep_their_order() -> None:
    document = docx.Document()
    document.core_properties.title = "Handbook"
    document.add_heading("Handbook of the plant", 0)
    document.add_heading("Pumps", 1)
    document.add_paragraph("Pumps are checked\nevery week.")
    document.add_paragraph("Close the valve.", style="List Bullet")
    document.add_paragraph("Read the pressure.", style="List Number")
    table = document.add_table(rows=3, cols=3)
    for row, cells in enumerate([["Pump", "2023", "2024"], ["P1", "12.5", "13.1"], ["P|2", "7.0", "8.2"]]):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.add_heading("Valves", 2)
    document.add_paragraph("")
    document.add_paragraph("Valves are not checked.")

    title, blocks, _ = read_docx(saved(document))
    assert title == "Handbook"
    assert blocks == [
        Block("heading", "Handbook of the plant", level=1),
        Block("heading", "Pumps", level=1),
        Block("text", "Pumps are checked\nevery week."),
        Block("text", "- Close the valve.\n1. Read the pressure."),
        Block(
            "table",
            "| Pump | 2023 | 2024 |\n| --- | --- | --- |\n| P1 | 12.5 | 13.1 |\n| P\\|2 | 7.0 | 8.2 |",
        ),
        Block("heading", "Valves", level=2),
        Block("text", "Valves are not checked."),
    ]


def test_merged_cells_have_their_text_in_each_row_and_column() -> None:
    document = docx.Document()
    table = document.add_table(rows=4, cols=3)
    table.cell(0, 1).merge(table.cell(0, 2)).text = "Pressure"
    table.cell(2, 0).merge(table.cell(3, 0)).text = "P1"
    texts = {
        (1, 0): "Pump",
        (1, 1): "low",
        (1, 2): "high",
        (2, 1): "1.5",
        (2, 2): "2.5",
        (3, 1): "3.5",
        (3, 2): "4.5",
    }
    for place, text in texts.items():
        table.cell(*place).text = text
    (block,) = read_docx(saved(document))[1]
    assert block.text.splitlines() == [
        "| Pump | Pressure low | Pressure high |",
        "| --- | --- | --- |",
        "| P1 | 1.5 | 2.5 |",
        "| P1 | 3.5 | 4.5 |",
    ]


def test_a_merged_cell_that_begins_in_a_deleted_row_goes_on_below() -> None:
    document = docx.Document()
    table = document.add_table(rows=4, cols=2)
    table.cell(2, 0).merge(table.cell(3, 0)).text = "P2"
    for place, text in {(0, 0): "Pump", (0, 1): "low", (1, 0): "P1", (1, 1): "1.5", (3, 1): "3.5"}.items():
        table.cell(*place).text = text
    table.rows[2]._tr.get_or_add_trPr().append(parse_xml(f'<w:del {nsdecls("w")} w:id="1" w:author="a"/>'))
    (block,) = read_docx(saved(document))[1]
    assert block.text.splitlines() == ["| Pump | low |", "| --- | --- |", "| P1 | 1.5 |", "| P2 | 3.5 |"]


def test_headings_by_style_of_ones_own_and_by_outline_level() -> None:
    document = docx.Document()
    style = document.styles.add_style("Chapter", 1)
    style.base_style = document.styles["Heading 3"]
    document.add_paragraph("By its style", style="Chapter")
    paragraph = document.add_paragraph("By its level")
    paragraph._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {nsdecls("w")} w:val="1"/>'))
    blocks = read_docx(saved(document))[1]
    assert [(block.kind, block.level) for block in blocks] == [("heading", 3), ("heading", 2)]


def test_content_controls_links_and_tracked_changes() -> None:
    document = docx.Document()
    document.add_paragraph("first")
    w = nsdecls("w")
    run = "<w:r><w:t xml:space='preserve'>{}</w:t></w:r>"
    for xml in (
        f"<w:sdt {w}><w:sdtContent><w:p>{run.format('in a control')}</w:p></w:sdtContent></w:sdt>",
        f"<w:p {w}><w:hyperlink>{run.format('a link')}</w:hyperlink><w:ins>{run.format(' and more')}</w:ins>"
        "<w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>",
    ):
        document.element.body.insert(-1, parse_xml(xml))
    assert [block.text for block in read_docx(saved(document))[1]] == [
        "first",
        "in a control",
        "a link and more",
    ]


def test_text_boxes_follow_the_paragraph_that_they_are_anchored_in() -> None:
    """The year of a box was read as digits of the figure before it."""
    document = docx.Document()
    mc = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    wps = 'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'

    def box(*paragraphs: str) -> Any:
        content = f"<w:txbxContent>{''.join(paragraphs)}</w:txbxContent>"
        shape = f"<w:drawing><wps:wsp><wps:txbx>{content}</wps:txbx></wps:wsp></w:drawing>"
        old = f"<w:pict>{content}</w:pict>"
        choice = f"<mc:Choice Requires='wps'>{shape}</mc:Choice><mc:Fallback>{old}</mc:Fallback>"
        return parse_xml(
            f"<w:r {nsdecls('w')} {mc} {wps}><mc:AlternateContent>{choice}</mc:AlternateContent></w:r>"
        )

    def inner(text: str, properties: str = "") -> str:
        return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"

    paragraph = document.add_paragraph("Revenue was 1,536")
    paragraph._p.append(box(inner("2023 highlights", '<w:outlineLvl w:val="0"/>'), inner("Costs fell.")))
    paragraph.add_run(" million.")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Year", "Profit", "2023", "5"], strict=True):
        cell.text = text
    table.cell(1, 1).paragraphs[0]._p.append(box(inner("7 before tax")))
    assert read_docx(saved(document))[1] == [
        Block("text", "Revenue was 1,536 million."),
        Block("heading", "2023 highlights", level=1),
        Block("text", "Costs fell."),
        Block("table", "| Year | Profit |\n| --- | --- |\n| 2023 | 5 7 before tax |"),
    ]


def test_a_style_that_is_based_on_itself_ends() -> None:
    document = docx.Document()
    one, two = document.styles.add_style("One", 1), document.styles.add_style("Two", 1)
    one.base_style, two.base_style = two, one
    document.add_paragraph("text", style="One")
    assert read_docx(saved(document))[1] == [Block("text", "text")]


def test_external_entities_are_not_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret", encoding="utf-8")
    document = docx.Document()
    document.add_paragraph("before PLACE after")

    def attack(xml: str) -> str:
        doctype = f'<!DOCTYPE d [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
        return xml.replace("<w:document", doctype + "<w:document", 1).replace("PLACE", "&x;")

    (block,) = read_docx(with_part(saved(document), "word/document.xml", attack))[1]
    assert "before" in block.text
    assert "the secret" not in block.text


def test_entities_that_grow_do_not() -> None:
    document = docx.Document()
    document.add_paragraph("before PLACE after")

    def attack(xml: str) -> str:
        grown = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
        doctype = f'<!DOCTYPE d [<!ENTITY a0 "ha">{grown}]>'
        return xml.replace("<w:document", doctype + "<w:document", 1).replace("PLACE", "&a9;")

    data = with_part(saved(document), "word/document.xml", attack)
    try:
        (block,) = read_docx(data)[1]
    except XMLSyntaxError:  # newer parsers refuse it altogether
        return
    assert len(block.text) < 100


def test_old_and_encrypted_files_are_named() -> None:
    ole = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(500)
    with pytest.raises(UnreadableDocument, match="old Office file"):
        read_docx(ole)
    with pytest.raises(UnreadableDocument, match="password-protected"):
        read_docx(ole + "EncryptedPackage".encode("utf-16-le"))


def with_notes(document: Any, kind: str, texts: dict[str, str]) -> None:
    """Give a document footnotes or endnotes by their id, as Word does."""
    notes = "".join(
        f'<w:{kind} w:id="{number}"><w:p><w:r><w:{kind}Ref/></w:r><w:r><w:t>{text}</w:t></w:r></w:p></w:{kind}>'
        for number, text in texts.items()
    )
    part = Part(
        PackURI(f"/word/{kind}s.xml"),
        f"application/vnd.openxmlformats-officedocument.wordprocessingml.{kind}s+xml",
        f"<w:{kind}s {nsdecls('w')}>{notes}</w:{kind}s>".encode(),
        document.part.package,
    )
    document.part.relate_to(
        part, f"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}s"
    )


def refer(paragraph: Any, kind: str, number: int) -> None:
    paragraph._p.append(parse_xml(f'<w:r {nsdecls("w")}><w:{kind}Reference w:id="{number}"/></w:r>'))


def test_notes_follow_what_refers_to_them() -> None:
    document = docx.Document()
    with_notes(
        document, "footnote", {"-1": "", "1": "Unaudited.", "2": "Net of tax.", "3": "Deleted.", "4": "Item."}
    )
    with_notes(document, "endnote", {"1": "See the annex."})
    paragraph = document.add_paragraph("Revenue was 7.")
    refer(paragraph, "footnote", 1)
    refer(paragraph, "endnote", 1)
    refer(document.add_paragraph("Again the first."), "footnote", 1)
    deleted = f'<w:del {nsdecls("w")}><w:r><w:footnoteReference w:id="3"/></w:r></w:del>'
    document.add_paragraph("Cut.")._p.append(parse_xml(deleted))
    refer(document.add_paragraph("one", style="List Bullet"), "footnote", 4)
    document.add_paragraph("two", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Year", "Profit", "2023", "5"], strict=True):
        cell.text = text
    refer(table.cell(1, 1).paragraphs[0], "footnote", 2)
    assert [block.text.splitlines()[-1] for block in read_docx(saved(document))[1]] == [
        *("Revenue was 7.", "Unaudited.", "See the annex.", "Again the first.", "Cut."),
        *("- two", "Item.", "| 2023 | 5 |", "Net of tax."),
    ]


def test_what_is_hidden_or_struck_through_is_left_out() -> None:
    document = docx.Document()
    with_notes(document, "footnote", {"1": "Of the old target."})
    paragraph = document.add_paragraph("The target is ")
    for mark, text in [
        ("vanish", "(ask legal) "),
        ("strike", "10 "),
        ("dstrike w:val='1'", "11 "),
        ("b", "12"),
        ("vanish w:val='0'", " euros"),
        ("strike w:val='false'", "."),
    ]:
        note = '<w:footnoteReference w:id="1"/>' if mark == "strike" else ""
        xml = f"<w:rPr><w:{mark}/></w:rPr><w:t xml:space='preserve'>{text}</w:t>{note}"
        paragraph._p.append(parse_xml(f"<w:r {nsdecls('w')}>{xml}</w:r>"))
    assert read_docx(saved(document))[1] == [Block("text", "The target is 12 euros.")]


def test_equations_and_tabs_to_a_place_are_text() -> None:
    document = docx.Document()
    m, w = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"', nsdecls("w")
    term = "<m:r><m:t>{}</m:t></m:r>"
    document.add_paragraph("Margin: ")._p.append(
        parse_xml(
            f"<m:oMath {m}><m:f><m:num>{term.format('4.2')}</m:num><m:den>{term.format('5')}</m:den></m:f>"
            f"{term.format(' = 1 - r')}<m:d><m:e><m:sSup><m:e>{term.format('x')}</m:e>"
            f"<m:sup>{term.format('2')}</m:sup></m:sSup></m:e></m:d></m:oMath>"
        )
    )
    document.add_paragraph("Revenue")._p.append(parse_xml(f"<w:r {w}><w:ptab/><w:t>7</w:t></w:r>"))
    assert [block.text for block in read_docx(saved(document))[1]] == [
        "Margin: 4.2/5 = 1 - r(x^2)",
        "Revenue 7",
    ]


def test_superscripts_are_no_digits_of_the_figure_before_them() -> None:
    document = docx.Document()
    paragraph = document.add_paragraph("Revenue was $1,234")
    for part in ("1", ",2"):
        paragraph.add_run(part).font.superscript = True
    paragraph.add_run(" million in the 1")
    paragraph.add_run("st").font.superscript = True
    paragraph.add_run(" quarter, on 5 m")
    paragraph.add_run("2").font.superscript = True
    paragraph.add_run(", CO")
    paragraph.add_run("2").font.subscript = True
    assert [block.text for block in read_docx(saved(document))[1]] == [
        "Revenue was $1,234^1,2 million in the 1st quarter, on 5 m2, CO2"
    ]


def test_symbols_of_fonts_with_codes_of_their_own() -> None:
    document = docx.Document()
    paragraph = document.add_paragraph()
    for font, code in [
        ("Symbol", "F0B3"),
        ("Symbol", "6D"),
        ("Wingdings", "F0FC"),
        ("Arial", "2265"),
        ("Wingdings", "F0FF"),
        ("Webdings", "F061"),
        ("Symbol", "none"),
    ]:
        paragraph._p.append(parse_xml(f'<w:r {nsdecls("w")}><w:sym w:font="{font}" w:char="{code}"/></w:r>'))
    paragraph.add_run(" 5 %")
    assert [block.text for block in read_docx(saved(document))[1]] == ["≥μ✓≥ 5 %"]


def test_tables_that_arrange_the_page_are_read_as_its_parts() -> None:
    document = docx.Document()
    frame = document.add_table(rows=1, cols=1).cell(0, 0)
    frame.paragraphs[0].text = "Results"
    frame.paragraphs[0].style = document.styles["Heading 1"]
    for text in ("more", "less"):
        frame.add_paragraph(text, style="List Bullet")
    layout = document.add_table(rows=1, cols=2)
    layout.cell(0, 0).text = "Left of it"
    inner = layout.cell(0, 1).add_table(rows=2, cols=2)
    for cell, text in zip(inner._cells, ["Year", "Profit", "2023", "5"], strict=True):
        cell.text = text
    assert read_docx(saved(document))[1] == [
        Block("heading", "Results", level=1),
        Block("text", "- more\n- less"),
        Block("text", "Left of it"),
        Block("table", "| Year | Profit |\n| --- | --- |\n| 2023 | 5 |"),
    ]


def with_lists(document: Any, kind: str, *lists: str, levels: tuple[str, ...]) -> None:
    """Give a document a kind of lists, described by its levels, and lists of it with these properties, by number."""
    numbering = document.part.numbering_part.element
    described = "".join(f'<w:lvl w:ilvl="{place}">{level}</w:lvl>' for place, level in enumerate(levels))
    numbering.append(
        parse_xml(f'<w:abstractNum {nsdecls("w")} w:abstractNumId="{kind}">{described}</w:abstractNum>')
    )
    for one in lists:
        name, _, override = one.partition(" ")
        numbering.append(
            parse_xml(
                f'<w:num {nsdecls("w")} w:numId="{name}"><w:abstractNumId w:val="{kind}"/>{override}</w:num>'
            )
        )


def level(written: str, text: str, start: int = 1, more: str = "") -> str:
    return f'<w:start w:val="{start}"/><w:numFmt w:val="{written}"/>{more}<w:lvlText w:val="{text}"/>'


def numbered(document: Any, text: str, name: str, depth: int = 0, style: str | None = None) -> Any:
    paragraph = document.add_paragraph(text, style=style)
    properties = f'<w:numPr {nsdecls("w")}><w:ilvl w:val="{depth}"/><w:numId w:val="{name}"/></w:numPr>'
    paragraph._p.get_or_add_pPr().append(parse_xml(properties))
    return paragraph


def texts(document: Any) -> list[str]:
    return [line for block in read_docx(saved(document))[1] for line in block.text.split("\n")]


def test_clauses_have_the_numbers_that_word_shows() -> None:
    """ "Subject to clause 2.1" pointed nowhere: the numbers are in no paragraph's text."""
    document = docx.Document()
    linked = '<w:pStyle w:val="{}"/>'
    levels = (
        level("decimal", "%1.", more=linked.format("Heading1")),
        level("decimal", "%1.%2", more=linked.format("Heading2")),
        level("lowerLetter", "(%3)"),
        level("lowerRoman", "(%4)"),
    )
    with_lists(document, "90", "91", levels=levels)
    for style in ("Heading 1", "Heading 2"):  # their levels are known by the list alone
        document.styles[style]._element.get_or_add_pPr().append(
            parse_xml(f'<w:numPr {nsdecls("w")}><w:numId w:val="91"/></w:numPr>')
        )
    own = document.styles.add_style("Clause", 1)
    own.base_style = document.styles["Heading 2"]
    document.add_heading("Term", 1)
    document.add_paragraph("Initial term", style="Clause")
    numbered(document, "It is two years,", "91", 2)
    numbered(document, "from signing", "91", 3)
    numbered(document, "or from delivery,", "91", 3)
    numbered(document, "and is renewed.", "91", 2)
    document.add_heading("Renewal", 2)
    numbered(document, "By a year.", "91", 2)
    document.add_heading("", 1)  # is shown with its number, and so is counted
    document.add_heading("Fees", 1)
    numbered(document, "A heading without a number", "0", style="Heading 2")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Clause", "Fee", "", "5"], strict=True):
        cell.text = text
    table.cell(1, 0).paragraphs[0].style = own
    for row in table.add_row(), table.add_row():  # of the first all is deleted, of the second one paragraph
        row.cells[0].paragraphs[0].style = own
    table.rows[2]._tr.get_or_add_trPr().append(parse_xml(f'<w:del {nsdecls("w")} w:id="1" w:author="a"/>'))
    gone = f'<w:rPr {nsdecls("w")}><w:del w:id="2" w:author="a"/></w:rPr>'
    table.cell(3, 0).paragraphs[0]._p.pPr.append(parse_xml(gone))
    table.cell(3, 1).text = "6"
    document.add_heading("Late fees", 2)
    assert texts(document) == [
        *("1. Term", "1.1 Initial term", "    (a) It is two years,", "      (i) from signing"),
        *("      (ii) or from delivery,", "    (b) and is renewed.", "1.2 Renewal", "    (a) By a year."),
        *("3. Fees", "A heading without a number"),
        *("| Clause | Fee |", "| --- | --- |", "| 3.1 | 5 |", "|  | 6 |", "3.2 Late fees"),
    ]


def test_lists_of_word_go_on_or_begin_anew_and_count_in_its_formats() -> None:
    document = docx.Document()
    levels = (
        level("upperRoman", "Article %1", 4),
        level("decimalZero", "%1-%2", more="<w:isLgl/>"),
        level("upperLetter", "%3)", 26, '<w:lvlRestart w:val="0"/>'),
        level("bullet", "\uf0b7"),
        level("none", ""),
        level("chineseCounting", "第%6条"),
    )
    anew = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="1"/></w:lvlOverride>'
    with_lists(document, "90", "91", "92", f"93 {anew}", levels=levels)
    for name, depth in [
        *(("91", 0), ("91", 1), ("91", 2), ("92", 0), ("92", 1), ("92", 2)),  # of one kind: they are one list
        *(("93", 0), ("93", 0), ("93", 3), ("93", 4), ("93", 5), ("94", 0)),
    ]:
        numbered(document, "x", name, depth)
    # Of a kind that is a style's, and with a paragraph between that is deleted.
    document.styles.element.append(
        parse_xml(
            f'<w:style {nsdecls("w")} w:type="numbering" w:styleId="Clauses"><w:pPr><w:numPr><w:numId w:val="93"/>'
            "</w:numPr></w:pPr></w:style>"
        )
    )
    with_lists(document, "95", "96", levels=())
    kind = document.part.numbering_part.element[-2]
    kind.append(parse_xml(f'<w:numStyleLink {nsdecls("w")} w:val="Clauses"/>'))
    deleted = f'<w:rPr {nsdecls("w")}><w:del w:id="1" w:author="a"/></w:rPr>'
    numbered(document, "", "96")._p.pPr.append(parse_xml(deleted))
    numbered(document, "x", "96")
    assert [line.strip() for line in texts(document)] == [
        *("Article IV x", "4-1 x", "Z) x", "Article V x", "5-1 x", "AA) x"),
        *("Article I x", "Article II x", "- x", "x", "第1条 x", "- x", "Article III x"),
    ]


@pytest.mark.parametrize(
    "title", ["Document1", "NDA_template.dotx", "Word Document", "Q3 results.pptm", "flyer.ai"]
)
def test_a_title_that_word_put_there_is_none(title: str) -> None:
    document = docx.Document()
    document.core_properties.title = title
    document.add_paragraph("text")
    assert read_docx(saved(document))[0] == ""


@pytest.mark.parametrize(
    "title",
    ["Agreement with Booking.com", "Guide to Node.js", "ASP.NET", "Norvik Co.Ltd", "Agreement with C3.ai"],
)
def test_a_title_that_ends_in_a_name_with_a_dot_is_one(title: str) -> None:
    assert said_title(title) == title
