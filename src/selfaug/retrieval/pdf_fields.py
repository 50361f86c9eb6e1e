"""What is filled into the fields of a PDF's form: pdfium has no text of theirs on the page."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium

from selfaug.retrieval.plain_text import tidy

__all__ = ["field_lines", "form_of"]

_WITH_TEXT = (pdfium.FPDF_FORMFIELD_TEXTFIELD, pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX)
_NOT_SHOWN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_LONGEST_LABEL = 120  # letters
_LABEL_ABOVE = 18.0  # points above a field


class _Field(NamedTuple):
    """A field that is shown, with text in it or without; in points of the page's own space.

    Attributes:
        left, bottom, right, top: its box.
        value: what is filled in.
        name: what its author calls it for a reader; empty where there is no such name.
    """

    left: float
    bottom: float
    right: float
    top: float
    value: str
    name: str


@contextlib.contextmanager
def form_of(document: Any) -> Iterator[Any]:
    """The form of a document, as pdfium has it; None where it has none."""
    if pdfium.FPDF_GetFormType(document) == pdfium.FORMTYPE_NONE:
        yield None
        return
    settings = pdfium.FPDF_FORMFILLINFO(version=2)  # pdfium keeps it until the form is closed
    form = pdfium.FPDFDOC_InitFormFillEnvironment(document, settings)
    try:
        yield form or None
    finally:
        if form:
            pdfium.FPDFDOC_ExitFormFillEnvironment(form)


def field_lines(page: Any, textpage: Any, form: Any) -> list[str]:
    """A line for each field with text, in the order of the page's fields: `Revenue in 2023: 1,536 million`.

    Before the text stands the field's label: the text at its left, or else above it, or else the name that a reader is
    shown for it.

    Args:
        page: of the document.
        textpage: of the page.
        form: of the document; None where it has none.
    """
    if form is None:
        return []
    fields = list(_fields(page, form))
    lines = []
    for field in fields:
        if field.value:
            label = (_label(textpage, field, fields) or field.name).rstrip(" :")
            lines.append(f"{label}: {field.value}" if label else field.value)
    return lines


def _fields(page: Any, form: Any) -> Iterator[_Field]:
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            field = _field(annotation, form)
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)
        if field is not None:
            yield field


def _field(annotation: Any, form: Any) -> _Field | None:
    """None for what is no field, can't be seen, or has no text: ticks, buttons, signatures and passwords."""
    box = pdfium.FS_RECTF()
    if (
        pdfium.FPDFAnnot_GetSubtype(annotation) != pdfium.FPDF_ANNOT_WIDGET
        or pdfium.FPDFAnnot_GetFlags(annotation) & _NOT_SHOWN
        or pdfium.FPDFAnnot_GetFormFieldType(form, annotation) not in _WITH_TEXT
        or pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & pdfium.FPDF_FORMFLAG_TEXT_PASSWORD
        or not pdfium.FPDFAnnot_GetRect(annotation, box)
    ):
        return None
    value = _text(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation)
    name = _text(pdfium.FPDFAnnot_GetFormFieldAlternateName, form, annotation)
    return _Field(box.left, box.bottom, box.right, box.top, value, name)


def _text(get: Callable[..., int], form: Any, annotation: Any) -> str:
    size = get(form, annotation, None, 0)
    buffer = ctypes.create_string_buffer(size)
    get(form, annotation, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return tidy(buffer.raw.decode("utf-16-le", errors="replace").rstrip("\0"))


def _label(textpage: Any, field: _Field, fields: list[_Field]) -> str:
    """The text at a field's left, up to the next field there, or right above it; nothing where there is neither."""
    middle = (field.bottom + field.top) / 2
    begins = max(
        (other.right for other in fields if other.right <= field.left and other.bottom < middle < other.top),
        default=None,
    )
    beside = tidy(textpage.get_text_bounded(begins, field.bottom, field.left, field.top))
    if beside:
        return beside[-_LONGEST_LABEL:]
    above = textpage.get_text_bounded(field.left, field.top, field.right, field.top + _LABEL_ABOVE)
    return tidy(above)[-_LONGEST_LABEL:]
