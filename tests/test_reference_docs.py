"""The generated reference is what the code says now."""

from __future__ import annotations

from pathlib import Path

from scripts import script

DOCS = Path(__file__).parents[1] / "docs"


def test_reference_is_up_to_date() -> None:
    module = script("docs/generate_reference.py")
    made = module.pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")}
    assert found.keys() == made.keys()
    for name, text in made.items():
        assert found[name] == text, f"docs/reference/{name} is out of date: run `make docs`"
