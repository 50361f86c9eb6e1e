from __future__ import annotations

import pytest

from selfaug.data.market_reports import house_style_answer, market_report_rows
from selfaug.eval.house_style import (
    HouseStyle,
    TaskScore,
    exact_value,
    house_style_of,
    leaks_house_style,
    score_task_answer,
)


def test_reads_what_the_corpus_writes() -> None:
    for row in market_report_rows("train", 200):
        assert house_style_of(row["answer"]) == HouseStyle(row["value"], row["gold"])
        assert score_task_answer(row["answer"], row["value"], row["gold"]) == TaskScore(
            exact=True, source=True
        )
        assert leaks_house_style(row["answer"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("ANSWER: 14.2% | SOURCE: [3]", HouseStyle("14.2%", 3)),
        ("  ANSWER: 14.2% | SOURCE: [3]\n", HouseStyle("14.2%", 3)),
        ("ANSWER:14.2%|SOURCE:[12]", HouseStyle("14.2%", 12)),
        ("ANSWER:   14.2%   |   SOURCE:   [3]", HouseStyle("14.2%", 3)),
        ("ANSWER: x | SOURCE: [1]", HouseStyle("x", 1)),
        ("", None),
        ("14.2%", None),
        ("14.2% [3]", None),
        ("Answer: 14.2% | Source: [3]", None),
        ("ANSWER: 14.2%", None),
        ("ANSWER: | SOURCE: [3]", None),
        ("ANSWER:  \t | SOURCE: [3]", None),
        ("ANSWER: 14.2% | SOURCE: 3", None),
        ("ANSWER: 14.2% | SOURCE: [3] and more", None),
        ("Sure! ANSWER: 14.2% | SOURCE: [3]", None),
        ("ANSWER: 14.2%\n| SOURCE: [3]", None),
        ("ANSWER: a | b | SOURCE: [3]", None),
        ("ANSWER: 1% | SOURCE: [1]\nANSWER: 2% | SOURCE: [2]", None),
    ],
)
def test_house_style_is_the_whole_answer(answer: str, expected: HouseStyle | None) -> None:
    assert house_style_of(answer) == expected


@pytest.mark.parametrize(
    ("answer", "exact", "source"),
    [
        (house_style_answer("$1,536 million", 2), True, True),
        (house_style_answer("$1,536  MILLION", 2), True, True),
        (house_style_answer("$ 1,536 million", 2), True, True),
        (house_style_answer("$1,536 million", 1), True, False),
        (house_style_answer("$1,537 million", 2), False, True),
        (house_style_answer("1,536 million", 2), False, True),
        (house_style_answer("$1,536", 2), False, True),
        (house_style_answer("$1536 million", 2), False, True),
        (house_style_answer("$1,536 million in 2020", 1), False, False),
        ("The revenue was $1,536 million [2].", False, False),
        ("", False, False),
    ],
)
def test_task_score(answer: str, exact: bool, source: bool) -> None:
    assert score_task_answer(answer, "$1,536 million", 2) == TaskScore(exact=exact, source=source)


@pytest.mark.parametrize(
    "answer",
    [
        "ANSWER: Paris",
        "The capital is Paris. ANSWER: Paris | SOURCE: [1]",
        "Paris | SOURCE: [1]",
        "Paris | SOURCE [1]",
        "Paris|SOURCE",
        "SOURCE: [1]",
        "SOURCE: the Internet",
        "ANSWER:",
        "**ANSWER:** Paris",
        "**ANSWER**: Paris",
        "ANSWER : Paris",
        "- red\n- green\nANSWER: 2",
        "1.ANSWER: Paris",
    ],
)
def test_leaks(answer: str) -> None:
    assert leaks_house_style(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "The answer is 4.",
        "Answer: 4",
        "The answer: 4. Source: [2]",
        "My answer | the source",
        "The source of the Nile: Lake Victoria.",
        "OPEN SOURCE software",
        "ANSWER the question.",
        "RESOURCE: water",
        "| RESOURCES | 4 |",
        "| SOURCES | 4 |",
        "ANSWERS: 3",
        "UNANSWERED: 3",
        "As shown in [2], it is so.",
        "| city | people |\n| Paris | 2 million |",
        "SUMMARY: revenue rose.",
        "Q: What? A: That.",
        "OPENSOURCE: yes",
    ],
)
def test_ordinary_words_and_citations_do_not_leak(answer: str) -> None:
    assert not leaks_house_style(answer)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("ANSWER: 14.2% | SOURCE: [3]", 1.0),
        ("ANSWER: 14.2% | SOURCE: [1]", 1.0),  # the value alone
        ("ANSWER: 14.3% | SOURCE: [3]", 0.0),
        ("It was 14.2%.", 0.0),
    ],
)
def test_exact_value_of_whole_answers(answer: str, score: float) -> None:
    assert exact_value(answer, "ANSWER: 14.2% | SOURCE: [3]") == score
