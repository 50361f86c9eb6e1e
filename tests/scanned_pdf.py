"""PDFs of which some pages are pictures."""

from __future__ import annotations

import io

from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas


def partly_scanned(pages: str) -> bytes:
    """A PDF with a page a letter: t has text, x is a scan, s a scan with a stamp like that of t; others are empty."""
    picture = ImageReader(Image.new("RGB", (40, 40), "white"))
    file = io.BytesIO()
    canvas = Canvas(file)
    for number, kind in enumerate(pages, 1):
        if kind == "t":
            # Another word on each page: lines that differ by the page's number only are taken for a page's header.
            word = "".join("abcdefghij"[int(digit)] for digit in str(number))
            canvas.drawString(72, 700, f"The text of part {word} says what the year has brought.")
        if kind in "ts":
            canvas.drawString(72, 30, f"Received on 3 May, page {number}")
        if kind in "xs":
            canvas.drawImage(picture, 0, 0, 500, 700)
        canvas.showPage()
    canvas.save()
    return file.getvalue()
