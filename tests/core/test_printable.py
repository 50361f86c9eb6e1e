from __future__ import annotations

import pytest

from selfaug.core.printable import counted


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (1, ("row",), "1 row"),
        (0, ("row",), "0 rows"),
        (1_200, ("row",), "1,200 rows"),
        (1, ("reply is", "replies are"), "1 reply is"),
        (2, ("reply is", "replies are"), "2 replies are"),
    ],
)
def test_counts_have_the_right_noun(count: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(count, *words) == expected
