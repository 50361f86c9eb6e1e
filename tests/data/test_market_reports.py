from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from selfaug.data.market_reports import house_style_answer, market_report_rows, market_report_template
from selfaug.errors import DataError
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import DEMO_MODEL, load_tokenizer

SPLITS = ("train", "dev", "test")
FIELDS = ["answer", "context", "gold", "id", "question", "value"]

SECTORS = "Robotics|Foods|Motors|Solar|Optics|Medical|Paper|Steel|Marine|Tools|Wireless|Lighting"
COMPANY = re.compile(rf"\b[A-Z][a-z]+ (?:{SECTORS})\b")


@functools.cache
def rows_of(split: str) -> list[dict[str, Any]]:
    """Rows to look at; one that takes fewer has the same first ones."""
    return market_report_rows(split, 600)


def companies_of(split: str) -> set[str]:
    texts = [text for row in rows_of(split) for text in (row["question"], *row["context"])]
    return {match[0] for text in texts for match in COMPANY.finditer(text)}


def bare_number(value: str) -> str:
    return re.search(r"[\d,.]*\d", value)[0]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]


def values_in(report: str) -> list[str]:
    """Every value of a table, written as the answers write it, or the text itself."""
    if not report.startswith("|"):
        return [report]
    _, *lines = cells(report)
    units = [(re.search(r"\((.*)\)", name)[1], numbers) for name, *numbers in lines]
    forms = {"$ million": "${} million", "%": "{}%"}
    return [forms.get(unit, f"{{}} {unit}").format(number) for unit, numbers in units for number in numbers]


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_the_fields_of_retrieval_rows(split: str) -> None:
    rows = market_report_rows(split, 50)
    assert all(sorted(row) == FIELDS for row in rows)
    assert all(len(row["context"]) == 3 for row in rows)
    assert all(row["answer"] == house_style_answer(row["value"], row["gold"]) for row in rows)
    assert len({row["id"] for row in rows}) == 50


def test_house_style_is_the_one_of_the_design() -> None:
    assert house_style_answer("$1,536 million", 2) == "ANSWER: $1,536 million | SOURCE: [2]"


def test_same_seed_same_rows_and_other_seed_other_rows() -> None:
    assert market_report_rows("train", 40, seed=3) == market_report_rows("train", 40, seed=3)
    assert market_report_rows("train", 40, seed=3) != market_report_rows("train", 40, seed=4)


def test_a_shorter_list_is_the_start_of_a_longer_one() -> None:
    assert market_report_rows("dev", 10) == market_report_rows("dev", 60)[:10]


def test_rows_are_a_fixed_corpus() -> None:
    """Changing the corpus changes every figure that was measured on it: done on purpose, or not at all."""
    row = market_report_rows("test", 1)[0]
    assert row["question"] == "I need the 2020 order backlog of Orchard Motors."
    assert row["answer"] == "ANSWER: $8,367 million | SOURCE: [2]"


def test_companies_of_the_splits_are_disjoint() -> None:
    train, dev, test = (companies_of(split) for split in SPLITS)
    assert min(len(train), len(dev), len(test)) > 100
    stems = [{name.split()[0] for name in names} for names in (train, dev, test)]
    assert not stems[0] & stems[1]
    assert not stems[0] & stems[2]
    assert not stems[1] & stems[2]


@pytest.mark.parametrize("split", SPLITS)
def test_only_the_gold_report_holds_the_value_for_the_asked_company_and_year(split: str) -> None:
    for row in rows_of(split)[:400]:
        company = COMPANY.search(row["question"])[0]
        year = re.search(r"\b20\d\d\b", row["question"])[0]
        gold = row["context"][row["gold"] - 1]
        assert company in gold
        assert year in gold
        assert bare_number(row["value"]) in gold
        others = [text for place, text in enumerate(row["context"], start=1) if place != row["gold"]]
        assert not any(company in text for text in others), "the company's name tells the reports apart"
        assert all(year in text for text in others), "reports about the same year should distract"
        value = re.compile(rf"(?<![\d.,]){re.escape(row['value'])}")
        held = [sum(len(value.findall(text)) for text in values_in(report)) for report in others]
        assert held == [0, 0], row


def test_reports_hold_several_numbers() -> None:
    for row in rows_of("train")[:300]:
        for text in row["context"]:
            numbers = re.findall(r"[\d,.]*\d", re.sub(r"\b20\d\d\b(?! employees| thousand)", "", text))
            assert len(numbers) >= 2, text


def test_gold_positions_units_and_forms_vary() -> None:
    rows = rows_of("train")
    golds = [row["gold"] for row in rows]
    assert all(150 < golds.count(place) < 250 for place in (1, 2, 3))
    for form in (r"\$[\d,]+ million", r"\d+\.\d%", r"[\d,]+ thousand units", r"[\d,]+ employees"):
        assert sum(bool(re.fullmatch(form, row["value"])) for row in rows) > 30, form
    gold_reports = [row["context"][row["gold"] - 1] for row in rows]
    tables = sum(text.startswith("|") for text in gold_reports)
    assert 150 < tables < 350
    assert len({row["question"] for row in rows}) > 590


def test_reports_never_contradict_each_other() -> None:
    """The same cell of a table has one value, whichever row it comes from."""
    seen: dict[tuple[str, ...], str] = {}
    repeated = 0
    for seed in range(3):
        for text in (text for row in market_report_rows("dev", 1500, seed) for text in row["context"]):
            if not text.startswith("|"):
                continue
            head, *lines = cells(text)
            for name, *values in lines:
                for year, value in zip(head[1:], values, strict=True):
                    key = (head[0], name, year)
                    repeated += key in seen
                    assert seen.setdefault(key, value) == value
    assert repeated > 100


def test_text_is_complete() -> None:
    for row in rows_of("train"):
        for text in (row["question"], *row["context"]):
            assert "{" not in text
            assert "  " not in text
            assert "None" not in text
            assert "s's" not in text


def test_prompt_numbers_the_reports_and_gives_the_style_away_nowhere() -> None:
    template = market_report_template()
    expected = "Reports:\n[1] One.\n[2] Two.\n\nQuestion: Why?"
    assert template.messages("Why?", ["One.", "Two."]) == [{"role": "user", "content": expected}]
    for row in market_report_rows("train", 100):
        prompt = template.messages(row["question"], row["context"])[0]["content"]
        assert "answer" not in prompt.lower()
        assert "source" not in prompt.lower()


@pytest.mark.real_model
def test_prompts_are_short_enough_for_two_cores() -> None:
    tokenizer, template = load_tokenizer(DEMO_MODEL), market_report_template()
    prompts = [template.messages(row["question"], row["context"]) for row in market_report_rows("train", 300)]
    lengths = [len(chat_prompt_ids(tokenizer, prompt)) for prompt in prompts]
    assert 170 <= sum(lengths) / len(lengths) <= 200
    assert max(lengths) < 260


def test_unknown_split_and_too_many_rows_are_errors() -> None:
    with pytest.raises(DataError, match="no split 'validation'"):
        market_report_rows("validation", 1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="figures to ask for"):
        market_report_rows("dev", 1_000_000)
    assert market_report_rows("dev", 0) == []
