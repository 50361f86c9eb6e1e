"""Every error says what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import selfaug
from selfaug import errors

KINDS = set(errors.__all__)


def test_every_error_has_a_hint() -> None:
    without = [
        f"{file.name}:{node.lineno}: {ast.unparse(node)[:80]}"
        for file in sorted(Path(selfaug.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in KINDS
        and "hint" not in {keyword.arg for keyword in node.keywords}
    ]
    assert without == []
