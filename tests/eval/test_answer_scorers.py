"""Scorers against verdicts written by hand (`answer_cases.tsv`), and properties that hold for all amounts."""

from __future__ import annotations

import csv
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfaug.errors import DataError
from selfaug.eval.abstention import abstains
from selfaug.eval.amounts import parse_quantities
from selfaug.eval.citations import citation_scores, cited_sources, same_value
from selfaug.eval.groundedness import groundedness
from selfaug.eval.numeric_scorers import numeric_match, numeric_or_f1
from selfaug.eval.text_scorers import contains, exact_match, token_f1

with (Path(__file__).parent / "answer_cases.tsv").open(encoding="utf-8", newline="") as file:
    CASES = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

SCORERS = {
    "numeric": numeric_match,
    "numeric-or-f1": numeric_or_f1,
    "exact": lambda answer, gold: exact_match(answer, [gold]),
    "f1": lambda answer, gold: token_f1(answer, [gold]),
    "citations": lambda answer, gold: citation_scores(answer, gold).f1,
    "abstains": lambda answer, _: abstains(answer),
    "contains": contains,
    "grounded": groundedness,
}


def is_expected(got: bool | float, expected: str) -> bool:
    if expected in ("yes", "no"):
        return got is (expected == "yes")
    return got == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("scorer", SCORERS)
def test_verdicts_written_by_hand(scorer: str) -> None:
    wrong = []
    for case in CASES:
        if case["scorer"] == scorer:
            answer, gold, expected = case["answer"], case["gold"], case["expected"]
            got = SCORERS[scorer](answer, gold)
            if not is_expected(got, expected):
                wrong.append((answer, gold, expected, got))
    assert wrong == []


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 200
    assert {case["scorer"] for case in CASES} == set(SCORERS)


AMOUNTS = st.decimals(min_value=-(10**6), max_value=10**6, places=2)


@given(AMOUNTS, st.sampled_from(["", "$", "€"]), st.sampled_from(["", " million", " billion", "%"]))
def test_an_amount_is_itself(value: Decimal, before: str, after: str) -> None:
    text = f"{'-' if value < 0 else ''}{before}{abs(value):,}{after}"
    assert numeric_match(text, text)
    (quantity,) = parse_quantities(text)
    assert (quantity.value < 0) == (value < 0)
    if value:
        assert not numeric_match(text, text.removeprefix("-") if value < 0 else f"-{text}")


@given(st.integers(1, 10**6))
def test_how_the_scale_is_written_does_not_matter(value: int) -> None:
    for written in (
        f"${value:,} million",
        f"{value}m USD",
        f"US${value * 10**6:,}",
        f"{value * 1000} thousand",
    ):
        assert numeric_match(written, f"${value} million")
        assert not numeric_match(written, f"${value} thousand")


@given(AMOUNTS, st.floats(0, 0.5), st.floats(0, 0.5), st.floats(-0.6, 0.6))
def test_more_tolerance_never_fails_what_less_passes(
    gold: Decimal, one: float, other: float, error: float
) -> None:
    answer = str(round(float(gold) * (1 + error), 2))
    low, high = sorted((one, other))
    assert numeric_match(answer, str(gold), high) or not numeric_match(answer, str(gold), low)


def test_coarser_answers_need_a_tolerance() -> None:
    assert not numeric_match("$1.5 billion", "$1,536 million")
    assert numeric_match("$1.5 billion", "$1,536 million", tolerance=0.03)


@pytest.mark.parametrize(
    "gold", ["no number here", "5 May 2023", "March 2023", "Q3 2023", "FY 2023", "fiscal 2023", "Section 12"]
)
def test_a_gold_without_an_amount_is_an_error(gold: str) -> None:
    with pytest.raises(DataError, match="states no amount"):
        numeric_match("12", gold)


@pytest.mark.parametrize("begin", ["The answer is:", "The final answer is:", "**Answer**:", "Answer is"])
@pytest.mark.parametrize("amount", ["$5 million", "**$5 million**"])
def test_what_is_called_the_answer_may_stand_on_a_line_of_its_own(begin: str, amount: str) -> None:
    assert numeric_match(
        f"Of $7, $8 and $9 million, none.\n{begin}\n\n{amount}\n\nSee $6 million.", "$5 million"
    )


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Von 3, 4 und 7 Mio. €\nANTWORT: 2 Mio. €", "2 Mio. €"),
        ("3億円、4億円、7億円のうち\n回答：2億円｜出典：[3]", "2億円"),
        ("Parmi 3, 4 et 7 M€\nRéponse : 2 M€", "2 M€"),
    ],
)
def test_what_is_called_the_answer_in_other_languages_counts_alone(answer: str, gold: str) -> None:
    assert numeric_match(answer, gold)
    assert not numeric_match(answer, gold.replace("2", "3"))


@pytest.mark.parametrize("last", ["6", "**$6 million**", "$6 million.", "6 [2]", "$$\n6\n$$", "**6**\n\n[2]"])
def test_an_amount_alone_on_the_last_line_is_the_answer(last: str) -> None:
    reckoned = "Revenue was $50 million in 2020, $56 million in 2021 and costs were $44 million."
    gold = "$6 million" if "million" in last else "6"
    assert numeric_match(f"{reckoned}\n\n{last}\n", gold)
    assert not numeric_match(f"{reckoned}\n\n{last}\n", gold.replace("6", "50"))


@pytest.mark.parametrize(
    "answer",
    [
        "50\n56\n6", "- 50\n- 56\n- 6", "1. 50\n2. 56\n3. 6", "| 50 |\n| 56 |\n| 6 |", "50, 56, 44\nand 6",
        "10-20 = 50\n20-30 = 56\n30-40 = 6", "56 - 50 = 6\n**7**", "50, 56, 44\n6?", "50, 56, 44\n> 6",
    ],
)  # fmt: skip
def test_the_last_of_several_amounts_is_no_answer(answer: str) -> None:
    assert not numeric_match(answer, "6")


def test_an_answer_that_says_there_is_none_has_not_answered_elsewhere() -> None:
    assert not numeric_match("It was $5 million in 2021.\nThe answer is not stated.", "$5 million")


def test_an_answer_that_is_a_clause_has_not_answered_with_its_number() -> None:
    assert numeric_match("The answer is based on clause 12. It is 30 days.", "30 days")
    for answer in (
        "Answer: Section 12.3\nThe period is 30 days.",
        "Answer: Version 3 | 30 days, by version 3",
    ):
        assert numeric_match(answer, "30 days")


@pytest.mark.parametrize(
    "part",
    [
        *(
            "1." + " " * 3000,
            "five ",
            "answer is ",
            "-",
            "(",
            "[1,",
            "sources 1,",
            "none of the ",
            "passage 1 and ",
        ),
        *(
            "source" + " " * 3000,
            "11,",
            "the report, which ",
            "the data ",
            "not in the ",
            "some information ",
        ),
        *(
            "minus ",
            "5% very ",
            "a.",
            "fell ",
            "fell, it was ",
            "they only mention ",
            "passages" + " " * 9000,
            "56 - 50 = ",
            "by 6, from 5 to ",
            "\\boxed{",
            "\\boxed{6} and \\text{",
        ),
        *(
            "TEUR ",
            "[2、",
            "1と",
            "出典：1、",
            "資料に記載",
            "die Dokumente enthalten ",
            "les documents ne ",
            "no hay ",
            "no hay" + " " * 9000,
            "contexto no incluye" + " " * 9000,
            "no existe" + " " * 9000,
            "nicht in Texten a ",
            "若资料无法确定",
        ),
    ],
)
def test_long_nonsense_is_read_at_once(part: str) -> None:
    # A long row of spaces is what is slow by itself, and comes several times in any case.
    text = part * ((30_000 if len(part) > 1000 else 15_000) // len(part))
    began = time.process_time()
    assert not numeric_match(text, "77")
    assert not contains(text, "zebra")
    assert not abstains(text)
    assert exact_match(text, [text])
    assert cited_sources(text) <= {1}
    assert not citation_scores(text, [2]).f1
    assert numeric_or_f1(text, "77") == 0.0
    assert time.process_time() - began < 5  # a second and a half at most, with coverage measured


def test_letters_of_full_width_are_those_of_half_width() -> None:
    assert same_value("回答：１２億円｜出典：［２］", "回答:12億円|出典:[3]")
    assert not same_value("10²", "102")


def test_the_best_of_several_golds_counts() -> None:
    assert token_f1("grew", ["fell", "grew strongly"]) == pytest.approx(2 / 3)
    assert token_f1("grew", []) == 0.0
    assert exact_match("grew", ["fell", "Grew"])
    assert citation_scores("[1, 2]", [2, 3]) == pytest.approx((0.5, 0.5, 0.5))


def test_amounts_are_scored_as_amounts_and_the_rest_by_words() -> None:
    assert numeric_or_f1("It was 1,536.0", "1536") == 1.0
    assert numeric_or_f1("It was 1,537", "1536") == 0.0
    assert numeric_or_f1("in 2019", "2019") == 1.0
    assert numeric_or_f1("3 months", "three months") == 1.0
    assert numeric_or_f1("The Four Seasons has 300 rooms", "Four Seasons") == pytest.approx(4 / 7)
    assert numeric_or_f1("one", "Formula One") == pytest.approx(2 / 3)
    assert numeric_or_f1("Airbus 737", "Boeing 737") == pytest.approx(1 / 2)
    assert 0 < numeric_or_f1("the lower revenue", "lower revenue and 3 % more cost in all") < 1
