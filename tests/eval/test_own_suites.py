"""Suites that a function of the user's gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfaug.errors import ConfigError
from selfaug.eval.form_checks import Words
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.own_suites import names_function, own_suite

HERE = "test_own_suites"
ITEM = GeneralItem("one", "list", 1, "List three colours.", (Words(3),), 16)


def good() -> list[GeneralItem]:
    return [ITEM]


def doubled() -> list[GeneralItem]:
    return [ITEM, ITEM]


def texts() -> list[str]:
    return ["List three colours."]


def nothing() -> None:
    return None


def with_argument(count: int) -> list[GeneralItem]:
    return [ITEM] * count


def failing() -> list[GeneralItem]:
    return [ITEM] * len({}["FIRM"])


def test_a_function_gives_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_function(f"{HERE}:good")
    assert not names_function("company.jsonl")
    assert not names_function("C:\\suites\\company.jsonl")
    monkeypatch.chdir(tmp_path)
    Path("a:b").write_text("{}")  # a file is a file, whatever its name
    assert not names_function("a:b")
    assert own_suite(f"{HERE}:good") == [ITEM]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:good", "can't be imported"),
        (f"{HERE}:missing", "can't be imported"),
        (f"{HERE}:texts", "no requests, or something else"),
        (f"{HERE}:nothing", "failed: TypeError: 'NoneType'"),
        (f"{HERE}:with_argument", "failed: TypeError"),
        (f"{HERE}:failing", "failed: KeyError: 'FIRM'"),
        (f"{HERE}:doubled", "two requests with the same id"),
    ],
)
def test_what_can_not_be_used(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_suite(name)
