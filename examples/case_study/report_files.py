"""Drafts as files: PDF, DOCX, XLSX, HTML and Markdown, always the same bytes for the same draft."""

from __future__ import annotations

import html
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from document_parts import Block, Draft, Findings, Format, Paragraph, Table

__all__ = ["write_draft"]

_HOUSE_LINE = "Halloway Pike Research. For clients only."
_NUMBER = re.compile(r"\d{1,3}(,\d{3})*(\.\d+)?")
_MOMENT = datetime(
    2025, 6, 2, 9, 0, 0
)  # in every file's metadata, so that the bytes don't depend on the clock


def write_draft(draft: Draft, folder: Path) -> dict[str, int]:
    """Write the draft under the folder.

    Returns:
        pages of its sections by heading, from 1, where the format has pages; else nothing.
    """
    path = folder / draft.path
    path.parent.mkdir(parents=True, exist_ok=True)
    return _WRITERS[draft.format](draft, path)


# ---- Markdown and HTML


def _write_markdown(draft: Draft, path: Path) -> dict[str, int]:
    parts = [f"# {draft.title}", draft.byline]
    for section in draft.sections:
        parts.append(f"## {section.heading}")
        parts += [_markdown(block) for block in section.blocks]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")
    return {}


def _markdown(block: Block) -> str:
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Findings):
        return "\n".join(f"- {item}" for item in block.items)
    header, *rows = block.rows
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _write_html(draft: Draft, path: Path) -> dict[str, int]:
    body = [f"<h1>{html.escape(draft.title)}</h1>", f"<p class='byline'>{html.escape(draft.byline)}</p>"]
    for section in draft.sections:
        body.append(f"<h2>{html.escape(section.heading)}</h2>")
        body += [_html(block) for block in section.blocks]
    text = "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f"<title>{html.escape(draft.title)}</title>",
            "<style>table { border-collapse: collapse } td, th { border: 1px solid #999; padding: 2px 8px }</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            f"<footer>{_HOUSE_LINE}</footer>",
            "</body>",
            "</html>",
        )
    )
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return {}


def _html(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Findings):
        items = "\n".join(f"<li>{html.escape(item)}</li>" for item in block.items)
        return f"<ul>\n{items}\n</ul>"
    header, *rows = [[html.escape(cell) for cell in row] for row in block.rows]
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


# ---- Word and Excel


def _write_docx(draft: Draft, path: Path) -> dict[str, int]:
    from docx import Document

    document = Document()
    properties = document.core_properties
    properties.title, properties.author = draft.title, "Halloway Pike Research"
    properties.created = properties.modified = _MOMENT
    document.add_heading(draft.title, level=0)
    document.add_paragraph(draft.byline)
    for section in draft.sections:
        document.add_heading(section.heading, level=1)
        for block in section.blocks:
            if isinstance(block, Paragraph):
                document.add_paragraph(block.text)
            elif isinstance(block, Findings):
                for item in block.items:
                    document.add_paragraph(item, style="List Bullet")
            else:
                _add_table(document, block)
    document.save(str(path))
    _fix_times(path)
    return {}


def _add_table(document: Any, block: Table) -> None:
    table = document.add_table(rows=len(block.rows), cols=len(block.rows[0]), style="Table Grid")
    for line, row in zip(table.rows, block.rows, strict=True):
        for cell, value in zip(line.cells, row, strict=True):
            cell.text = value


def _write_xlsx(draft: Draft, path: Path) -> dict[str, int]:
    from openpyxl import Workbook
    from openpyxl.styles import Font

    workbook = Workbook()
    workbook.properties.title, workbook.properties.creator = draft.title, "Halloway Pike Research"
    workbook.properties.created = _MOMENT
    workbook.remove(workbook.worksheets[0])
    for number, section in enumerate(draft.sections):
        sheet = workbook.create_sheet(section.heading)
        sheet["A1"] = draft.title
        sheet["A1"].font = Font(bold=True, size=14)
        sheet["A2"] = draft.byline if number == 0 else section.heading
        row = 4
        for block in section.blocks:
            for line in block.rows if isinstance(block, Table) else [(text,) for text in block.lines]:
                for column, text in enumerate(line, start=1):
                    cell = sheet.cell(row, column)
                    cell.value, cell.number_format = _number_as_shown(text)
                    if isinstance(block, Table) and line is block.rows[0]:
                        cell.font = Font(bold=True)
                row += 1
            row += 1
        sheet.column_dimensions["A"].width = 34
    workbook.save(path)
    _fix_times(path)
    return {}


def _number_as_shown(text: str) -> tuple[float | str, str]:
    """Value and number format of a cell that shows this text: "3,689.0" is 3689, shown with a comma and a decimal."""
    if not _NUMBER.fullmatch(text):
        return text, "General"
    decimals = len(text.partition(".")[2])
    value = float(text.replace(",", ""))
    return (value, "#,##0." + "0" * decimals) if decimals else (int(value), "#,##0")


def _fix_times(path: Path) -> None:
    """Write the archive again with one time for all its parts; openpyxl puts the hour into its properties too."""
    with zipfile.ZipFile(path) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    stamp = _MOMENT.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts:
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            archive.writestr(zipfile.ZipInfo(name, _MOMENT.timetuple()[:6]), content, zipfile.ZIP_DEFLATED)


# ---- PDF


def _write_pdf(draft: Draft, path: Path) -> dict[str, int]:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Flowable, KeepTogether, ListFlowable, ListItem, SimpleDocTemplate, Spacer
    from reportlab.platypus import Paragraph as PdfParagraph
    from reportlab.platypus import Table as PdfTable

    styles = getSampleStyleSheet()
    pages: dict[str, int] = {}

    class Mark(Flowable):  # type: ignore[misc]
        """Takes no room, and notes the page that it comes to lie on."""

        def __init__(self, heading: str) -> None:
            super().__init__()
            self.heading = heading

        def wrap(self, *_: float) -> tuple[float, float]:
            return 0, 0

        def draw(self) -> None:
            pages[self.heading] = self.canv.getPageNumber()

    def flowable(block: Block) -> Any:
        if isinstance(block, Paragraph):
            return PdfParagraph(html.escape(block.text), styles["BodyText"])
        if isinstance(block, Findings):
            items = [ListItem(PdfParagraph(html.escape(item), styles["BodyText"])) for item in block.items]
            return ListFlowable(items, bulletType="bullet", start="•", leftIndent=14)
        table = PdfTable([list(row) for row in block.rows], hAlign="LEFT", spaceBefore=4)
        table.setStyle(
            [("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("FONT", (0, 0), (-1, 0), "Helvetica-Bold")]
        )
        return table

    def footer(canvas: Any, document: Any) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(72, 40, _HOUSE_LINE)
        canvas.drawRightString(A4[0] - 72, 40, f"Page {document.page}")

    story: list[Any] = [
        PdfParagraph(html.escape(draft.title), styles["Title"]),
        PdfParagraph(html.escape(draft.byline), styles["Normal"]),
        Spacer(1, 12),
    ]
    for section in draft.sections:
        heading = PdfParagraph(html.escape(section.heading), styles["Heading2"])
        # A section stays on one page, so that its page is that of all its facts.
        story.append(
            KeepTogether([Mark(section.heading), heading, *map(flowable, section.blocks), Spacer(1, 8)])
        )
    SimpleDocTemplate(
        str(path), pagesize=A4, title=draft.title, author="Halloway Pike Research", invariant=1
    ).build(story, onFirstPage=footer, onLaterPages=footer)
    return pages


_WRITERS: dict[Format, Callable[[Draft, Path], dict[str, int]]] = {
    "pdf": _write_pdf,
    "docx": _write_docx,
    "xlsx": _write_xlsx,
    "html": _write_html,
    "md": _write_markdown,
}
