"""What stands around the text of a page: header and footer of the site, and what is beside its articles."""

from __future__ import annotations

from typing import Any

from selfaug.retrieval.plain_text import tidy

__all__ = ["hide_surroundings"]

_OF_SITE = "//header | //footer | //*[@role='banner' or @role='contentinfo']"
_ARTICLES = "descendant::article | descendant::*[@role='article']"
_OF_A_PART = frozenset({"article", "main", "section", "aside", "blockquote"})
_ROLES_OF_A_PART = frozenset({"article", "main"})
_TITLE_OF_PANDOC = "title-block-header"


def hide_surroundings(root: Any) -> None:
    """Mark as hidden what every page of a site repeats, or offers beside its text.

    Headers and footers of articles and sections are parts of their text, and so is an aside within these, within a main
    part without articles, or with notes. A header with the page's title, or its only main heading, stays as well.

    Args:
        root: of a whole page, which is changed.
    """
    of_site = [element for element in root.xpath(_OF_SITE) if not _is_of_a_part(element)]
    title = _text(*root.xpath("//title[not(ancestor::svg)]")[:1])
    level = "h1" if any(map(_text, root.iter("h1"))) else "h2"
    around = set(of_site)
    has_other = any(
        _text(heading) and around.isdisjoint(heading.iterancestors()) for heading in root.iter(level)
    )
    for element in of_site:
        is_head = not has_other and _is_header(element) and any(map(_text, element.iter(level)))
        if not is_head and not _has_title(element, title):
            element.set("hidden", "")
    for element in root.iter("aside"):
        if not _is_of_the_text(element) and not _has_notes(element):
            element.set("hidden", "")


def _has_title(element: Any, title: str) -> bool:
    """Whether a header has the title of the page: Pandoc writes further main headings below it."""
    if element.get("id") == _TITLE_OF_PANDOC:
        return True
    return any(title == _text(heading) != "" for heading in element.iter("h1"))


def _is_header(element: Any) -> bool:
    return bool(element.tag == "header" or element.get("role") == "banner")


def _is_of_the_text(aside: Any) -> bool:
    return _is_within(aside, frozenset({"article", "section"}), frozenset({"article"})) or any(
        (outer.tag == "main" or outer.get("role") == "main") and not outer.xpath(_ARTICLES)
        for outer in aside.iterancestors()
    )


def _is_of_a_part(element: Any) -> bool:
    if role := element.get("role"):
        return role not in ("banner", "contentinfo")
    return _is_within(element, _OF_A_PART, _ROLES_OF_A_PART)


def _is_within(element: Any, tags: frozenset[str], roles: frozenset[str]) -> bool:
    return any(outer.tag in tags or outer.get("role") in roles for outer in element.iterancestors())


def _text(*elements: Any) -> str:
    return tidy("".join("".join(element.itertext()) for element in elements)).casefold()


def _has_notes(element: Any) -> bool:
    """Whether it is, or has, a part of a text by its role: Sphinx and Pandoc write footnotes so."""
    return bool(element.xpath("descendant-or-self::*[starts-with(@role, 'doc-')]"))
