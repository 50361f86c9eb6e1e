"""Documents that are nearly the same, by sketches of their words and figures."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from selfaug.retrieval import near_copies as module
from selfaug.retrieval.document import Block, Document
from selfaug.retrieval.near_copies import near_copies, sketch_of

WORDS = [f"{first}{last}" for first in ("al", "be", "cor", "dun", "el") for last in ("ba", "da", "fo", "gi")]


def document(*texts: str) -> Document:
    return Document("a.md", "a", "digest", tuple(Block("text", text) for text in texts))


def alike(one: Document, other: Document, similar: float = 0.7) -> bool:
    return near_copies({"one": sketch_of(one), "other": sketch_of(other)}, similar) == [["one", "other"]]


def prose(seed: int, count: int = 600) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def report(seed: int, figures: int) -> str:
    """Words by the first number, and a figure after every eighth of them by the second."""
    amounts = random.Random(figures)
    words = prose(seed)
    return " ".join(
        f"{word} {amounts.randint(1000, 999_999):,}" if place % 8 == 7 else word
        for place, word in enumerate(words)
    )


def test_a_table_is_known_in_another_markup() -> None:
    rows = [
        [f"Line {word} {place}", f"{place * 7919:,}", f"{place}.5"] for place, word in enumerate(prose(0, 80))
    ]
    table = "\n".join(
        ["| Item | FY2023 | FY2022 |", "| --- | ---: | ---: |", *(f"| {' | '.join(row)} |" for row in rows)]
    )
    lines = "\n".join(["Item FY2023 FY2022", *(" ".join(row) for row in rows)])
    assert alike(document("• ITEMS", table), document("Items", lines), 1.0)
    # 1,536.50 or 1536.5: a format's own.
    assert sketch_of(document("it was 1,536.50")) != sketch_of(document("it was 1,536.40"))
    zeros = (document("it was 1,536.50", *prose(1)), document("it was 1536.5", *prose(1)))
    assert alike(*zeros)


def test_another_year_of_one_template_is_no_copy() -> None:
    # Few figures among many words that are all the same: the words alone would say that it is one.
    words = " ".join(prose(1, 2000))
    this = document(words, "Revenue was 1,536 in 2023 and 1,402 in 2022; its margin was 12.5 %.")
    last = document(words, "Revenue was 1,402 in 2022 and 1,377 in 2021; its margin was 11.9 %.")
    assert not alike(this, last)
    assert alike(this, document(words, "Its margin: 12.5 %. Revenue: 1,402 in 2022, 1,536 in 2023."))
    assert not alike(document(report(1, figures=1)), document(report(1, figures=2)))


@pytest.mark.parametrize("sign", [".", ","])
def test_sheets_of_one_template_differ_in_their_percentages(sign: str) -> None:
    def sheet(seed: int, sign: str = sign) -> Document:
        draw = random.Random(seed)
        shares = (f"{draw.randint(1, 99)}{sign}{draw.randint(1, 9)} %" for _ in range(12))
        return document(" ".join(prose(1, 400)), " ".join(shares))

    assert not alike(sheet(1), sheet(2))
    assert alike(sheet(1), sheet(1, "."), 1.0)


def test_figures_are_the_same_however_they_are_divided() -> None:
    one = document("1,234.5 1,234,567 12.5 2,345", *prose(1))
    assert alike(one, document("1.234,5 1.234.567 12,50 2'345", *prose(1)), 0.95)
    assert alike(one, document("1 234,5 1\u2019234\u2019567 12,5 2,345 [7,8] 1,2,3", *prose(1)), 0.95)


def test_long_rows_of_figures_take_no_longer_than_they_are() -> None:
    began = time.process_time()
    sketch_of(document("123 " * 12_000))  # 3 s, if each figure were read with all that follow it
    assert time.process_time() - began < 1.5


def test_contracts_of_one_template_are_no_copies() -> None:
    """The numbers of their clauses were most of their figures."""
    clauses = [
        f"{first}.{second}{'.' * (second % 2)} The Supplier keeps to clauses {first}.1, {first}.2 and § 20.5."
        for first in range(1, 20)
        for second in range(1, 6)
    ]
    one = document(*clauses, "The fee is $250,000 from 2023.", "12.5 million are insured, of which 1.5.")
    other = document(*clauses, "The fee is $310,000 from 2024.", "11.5 million are insured, of which 2.5.")
    assert not alike(one, other)
    assert alike(
        one, document(*[f"- {clause}" for clause in clauses], one.blocks[-2].text, one.blocks[-1].text)
    )


def test_the_same_figures_in_other_words_are_no_copy() -> None:
    assert not alike(document(report(1, figures=1)), document(report(2, figures=1)))


def test_a_draft_is_a_copy_until_it_is_much_changed() -> None:
    words = report(3, figures=3).split()

    def without(share: float) -> Document:
        draw = random.Random(5)
        return document(" ".join(word for word in words if draw.random() >= share))

    final = document(" ".join(words))
    assert alike(final, without(0.03))
    assert not alike(final, without(0.3))


def test_estimates_are_close_to_the_similarity() -> None:
    words = [str(number) for number in range(10, 99)] * 12  # of two digits, which are no figures
    shuffled = [random.Random(seed).sample(words, len(words)) for seed in (1, 2)]
    for share in (0.5, 0.8):
        cut = int(share * len(words))
        one, other = (document(" ".join(shuffled[0][:cut] + rest[cut:])) for rest in shuffled)
        runs = [set(zip(text, text[1:], text[2:], strict=False)) for text in (
            each.blocks[0].text.split() for each in (one, other)
        )]  # fmt: skip
        similarity = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        assert alike(one, other, similarity - 0.15)
        assert not alike(one, other, similarity + 0.15)


def test_a_long_document_is_sketched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    long = document(report(6, figures=6))
    whole = sketch_of(long)
    for size in (7, 374, 747, 748):
        monkeypatch.setattr(module, "_AT_ONCE", size)
        assert sketch_of(long) == whole


def test_short_documents_are_compared_and_empty_ones_are_not() -> None:
    short, same, longer = document("See annex."), document("see", "ANNEX"), document("See annex 2.")
    assert alike(short, same, 1.0)
    assert not alike(short, longer, 0.1)
    assert sketch_of(document("– … |")) == ""
    assert near_copies({"a": "", "b": ""}, 0.1) == []
    assert near_copies({}, 0.7) == []
    # Letters of scripts without spaces are words.
    chinese = "当社の収益は増加した。従業員は百人いる。"
    assert alike(document(chinese), document(chinese.replace("。", "。\n")), 1.0)
    assert not alike(document(chinese), document(chinese[::-1]), 0.3)


def test_what_is_alike_is_one_set_over_any_number_of_steps() -> None:
    words = report(4, figures=4).split()
    # Each begins 20 words after the one before: the first and the last have little in common.
    chain = {
        str(start): document(" ".join(words[start : start + 300])) for start in (100, 0, 120, 20, 80, 40, 60)
    }
    other = {"other": document(report(5, figures=5)), "nothing": document("…")}
    sketches = {name: sketch_of(each) for name, each in {**chain, **other}.items()}
    assert near_copies(sketches, 0.7) == [list(chain)]
    assert near_copies({name: sketches[name] for name in ("0", "120", "other")}, 0.7) == []


def test_a_sketch_is_the_same_in_every_process() -> None:
    code = (
        "from selfaug.retrieval.document import Block, Document\n"
        "from selfaug.retrieval.near_copies import sketch_of\n"
        "print(sketch_of(Document('a', 'a', 'd', (Block('text', 'Ré revenue of 1,536.5 in 2023'),))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {sketch_of(document("re\u0301 REVENUE of 1,536.5", "in 2023"))}
    # On every machine, too: indexes are carried about.
    assert found.pop().startswith("gapZEnwCACj9ci1xbDKm")


@pytest.mark.parametrize("similar", [0.001, 1.0])
def test_nothing_in_common_is_never_alike(similar: float) -> None:
    assert not alike(document("one two three 1234"), document("four five six 5678"), similar)


def test_documents_of_one_template_take_no_longer_than_others() -> None:
    """All words the same, and no figure: each had the figures of all before it copied."""
    draw = np.random.default_rng(0)

    def seconds(words: np.ndarray | None) -> float:
        texts = [draw.integers(0, 1 << 16, 256, dtype=np.uint16) for _ in range(3000)]
        if words is not None:
            texts = [np.concatenate([words, text[128:]]) for text in texts]
        sketches = {str(n): base64.b64encode(text.tobytes()).decode() for n, text in enumerate(texts)}
        begun = time.process_time()
        assert near_copies(sketches, 0.7) == []
        return time.process_time() - begun

    assert seconds(draw.integers(0, 1 << 16, 128, dtype=np.uint16)) < 4 * seconds(None)
