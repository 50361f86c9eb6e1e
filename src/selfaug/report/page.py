"""How every page is made: one file, without network and without scripts, with all text of models escaped."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from selfaug.core.printable import printable
from selfaug.report.charts import COLORS
from selfaug.report.document import Answers, HeatedText, Report, Table, Text

__all__ = ["document_page", "environment", "text_limit"]

_MOST_BYTES_OF_ONE = 4_000
_MOST_BYTES_OF_A_CELL = 1_000
_BYTES_OF_ALL = 900_000
_LONGEST_NAME = 200

# Heat has so many steps: strict pages allow no style of an element's own, only classes.
_HEAT_STEPS = 20

# A token's heat shows the square root of its nats: 1 nat and more is full, 0.01 a tenth.
_FULL_NATS = 1.0

# A heated text may take as much room as so many others: most of it is what its tokens are wrapped in.
_ROOM_OF_HEAT = 12


def document_page(report: Report) -> str:
    """A report as one HTML file of under 2 MB: no network, no scripts, printable."""
    template = environment().get_template("document_page.html.j2")
    return template.render(report=report, text_limit=text_limit(report), colors=COLORS)


def text_limit(report: Report) -> int:
    """Most bytes of one text, so that all of a report's together stay in bounds."""
    texts = 0
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Answers):
                texts += 1 + len(block.answers)
            elif isinstance(block, HeatedText):
                texts += _ROOM_OF_HEAT
            elif isinstance(block, Text):
                texts += 1
            elif isinstance(block, Table):
                texts += sum(len(row) for row in block.rows) // 20
    return max(200, min(_MOST_BYTES_OF_ONE, _BYTES_OF_ALL // max(1, texts)))


@cache
def environment() -> Environment:
    """Where templates are found, with their filters; the templates of others can be added to a copy (`overlay`).

    The filter `shown` is for text of models and users, `brief` for what of theirs should be short, `name` for such a
    text in an attribute or where there is little room. Templates need `text_limit`: most bytes of one such text, as
    HTML; longer ones are cut off, and it says so.
    """
    made = Environment(
        loader=PackageLoader("selfaug", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(shown=_shown, brief=_brief, name=_name, slug=_slug, heated=_heated, picture=_picture)
    return made


@pass_context
def _shown(context: Context, text: str) -> Markup:
    """A model's text as HTML: escaped, control characters visible, and cut off where it takes too much room."""
    return _escaped(text, int(context["text_limit"]))


@pass_context
def _brief(context: Context, text: str) -> Markup:
    """The same for what should be short: a cell, a title. There are hundreds of them in a page."""
    return _escaped(text, min(_MOST_BYTES_OF_A_CELL, int(context["text_limit"])))


def _escaped(text: str, limit: int) -> Markup:
    # No character takes less than a byte, so more of them than that are not looked at.
    if len(text) * 10 <= limit:  # the common case, quickly: no character becomes longer than that
        return Markup(str(escape(printable(text))))
    shown, size = [], 0
    for character in text[:limit]:
        piece = str(escape(printable(character)))
        size += len(piece.encode())
        if size > limit:
            break
        shown.append(piece)
    html = Markup("".join(shown))  # escaped above, piece by piece
    if len(shown) < len(text):
        cut = f"cut off here: {len(shown):,} of {len(text):,} characters"
        html += Markup('<span class="cut"> … {}</span>').format(cut)
    return html


def _name(text: str) -> str:
    """A text where there is little room."""
    text = str(text)
    return printable(text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…")


def _slug(text: str) -> str:
    """A text as the name of a place in a page."""
    return re.sub(r"[^a-z0-9]+", "-", str(text)[:_LONGEST_NAME].lower()).strip("-") or "part"


def _picture(svg: str) -> Markup:
    """An SVG as it is. Safe: its text comes from us and from vl-convert, which escapes it."""
    return Markup(svg)


@pass_context
def _heated(context: Context, text: HeatedText) -> Markup:
    """Tokens as HTML, each on a ground as strong as its drift; cut off where they take too much room."""
    pieces: list[Markup] = []
    size, limit = 0, _ROOM_OF_HEAT * int(context["text_limit"])
    for token, value in zip(text.tokens, text.nats, strict=True):
        shown = Markup(str(escape(printable(token[:_LONGEST_NAME]))))
        if value is None:
            piece = Markup('<span class="unmeasured">{}</span>').format(shown)
        else:
            step = round(_HEAT_STEPS * min(1.0, max(0.0, value) / _FULL_NATS) ** 0.5)
            piece = Markup('<span class="heat h{}" title="{} nats">{}</span>').format(
                step, f"{value:.4f}", shown
            )
        size += len(piece.encode())
        if size > limit:
            rest = f"cut off here: {len(pieces):,} of {len(text.tokens):,} tokens"
            pieces.append(Markup('<span class="cut"> … {}</span>').format(rest))
            break
        pieces.append(piece)
    return Markup("").join(pieces)
