"""How every page is made: one file, without network and without scripts, with all text of models escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from selfaug.core.printable import printable

__all__ = ["render"]


def render(template: str, limit: int, **values: Any) -> str:
    """A page from its template.

    Args:
        template: file beside this one. Its filter `shown` is for text of models.
        limit: most bytes of one such text, as HTML; longer ones are cut off, and it says so.
        values: what the template shows.
    """
    environment = Environment(
        loader=PackageLoader("selfaug", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda text: _shown(text, limit)
    return environment.get_template(template).render(**values)


def _shown(text: str, limit: int) -> Markup:
    """A model's text as HTML: escaped, control characters visible, and cut off where it takes too much room."""
    # No character takes less than a byte, so more of them than that are not looked at.
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
