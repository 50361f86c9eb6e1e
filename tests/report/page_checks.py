"""What every page and every Markdown text of a report must be."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

MOST_BYTES = 2_000_000


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "path", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class Blocks(HTMLParser):
    """What follows what: `svg` and `table`, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("figure", "svg") or (tag == "table" and ("class", "data") in attrs):
            self.found.append(tag)


def require_sound(html: str, *, calm: bool = True) -> Page:
    """One file that asks for nothing, runs nothing and is well-formed."""
    page = Page(html)
    assert html.lstrip().startswith("<!doctype html>")
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form", "embed", "video", "audio"}
    ids = [attributes["id"] for tag, attributes in page.tags if "id" in attributes and tag != "svg"]
    named = [one for one in ids if one]
    assert len(named) == len(set(named))
    for _, attributes in page.tags:
        assert not attributes.keys() & {"src", "srcset", "action", "xlink:href", "style"}
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("href") or "#")[1:] in ["", *named]
        assert attributes.get("aria-labelledby") in [None, *named]
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert "default-src 'none'" in html
    assert '<meta name="generator" content="selfaug">' in html[:4_000]
    if calm:
        assert not re.search(r"https?://|@import|url\(|javascript:", html)
    assert len(html.encode()) < MOST_BYTES
    # Of characters that no one sees there are none.
    assert not [one for one in html if ord(one) < 32 and one not in "\n\t"]
    assert not set(html) & set("\u202e\u2066\u2028\ufeff\ud800\x9b")
    # Behind every picture there are its numbers.
    assert [one for one in Blocks(html).found if one != "figure"].count("svg") == html.count("<figure")
    assert re.sub(r"figure svg table ?", "", " ".join(Blocks(html).found)) == ""
    for picture in re.findall(r"<svg.*?</svg>", html, re.S):
        ElementTree.fromstring(picture)
    return page


def flat(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def require_no_markup(markdown: str) -> None:
    """Outside of fences nothing is HTML, a link, a fence or a sequence that a terminal obeys."""
    outside, fence = [], ""
    for line in markdown.split("\n"):
        marked = re.match(r"(`{3,})(text)?$", line)
        if fence:
            fence = "" if line == fence else fence
        elif marked and marked[2]:
            fence = marked[1]
        else:
            outside.append(line)
    assert fence == "", "every fence is closed"
    text = re.sub(r"`selfaug [a-z ]+`", "", "\n".join(outside))
    assert not re.search(r"(?<!\\)[<>`~]|(?<!\\)\]\(|https?://", text.replace("\\\\", ""))
    assert not [one for one in markdown if ord(one) < 32 and one not in "\n\t"]
    assert not set(markdown) & set("\u202e\u2066\u2028\ufeff\ud800\x9b")
    headings = [line for line in outside if line.startswith("# ")]
    assert len(headings) == 1
