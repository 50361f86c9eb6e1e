"""Which rows ask the same, between those that are trained on and those that are held out."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfaug.data import Row, load_rows
from selfaug.data.same_prompt import (
    asked_among,
    learnt_digests,
    prompt_keys,
    taught_among,
    without_held_out,
    without_rows_of,
)

Write = Callable[..., Path]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


SAID = {"role": "assistant", "content": "this."}


@pytest.fixture
def rows(write_jsonl: Write) -> Callable[[list[dict[str, Any]]], list[Row]]:
    return lambda fields: load_rows([write_jsonl(*fields)]).rows


def question(asked: str, passage: str, answer: str = "a", **more: Any) -> dict[str, Any]:
    return {"question": asked, "context": [passage], "answer": answer, **more}


def chat(*turns: dict[str, str]) -> dict[str, Any]:
    return {"messages": [*turns, SAID]}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (question("Revenue?", "x"), question(" revenue?\n", "y", "b"), True),
        (question("Revenue?", "x"), question("Profit?", "x"), False),
        (question("Revenue?", "x"), question("Revenue?", "x", follow_ups=[question("And?", "")]), True),
        (chat(user("Revenue?")), chat(user("Revenue?"), SAID, user("And?")), True),
        (chat(system("Be brief."), user("Revenue?")), chat(user("Revenue?")), True),
        (chat(system("Classify this ticket:"), user("a")), chat(system("Classify this ticket:"), user("b")), False),
        (chat(user("Revenue?")), question("Revenue?", "x"), True),
        ({"prompt": [user("Revenue?")], "completion": [SAID]}, chat(user("Revenue?")), True),
        ({"prompt": "Revenue?", "completion": "a"}, {"prompt": "Revenue?", "completion": "b"}, True),
        ({"prompt": "Revenue?", "completion": "a"}, {"prompt": "Profit?", "completion": "a"}, False),
        (chat(system("Say something.")), chat(system("Say something.")), True),
        (chat(system("Say something.")), chat(system("Say nothing.")), False),
        ({"prompt": "Wo liegt Ko\u0308ln?", "completion": "a"}, question("Wo liegt K\u00f6ln?", "x"), True),
    ],
)  # fmt: skip
def test_what_asks_the_same(
    rows: Callable[[list[dict[str, Any]]], list[Row]],
    one: dict[str, Any],
    other: dict[str, Any],
    same: bool,
) -> None:
    first, second = prompt_keys(rows([one, other]))
    assert (first == second) == same


@pytest.mark.parametrize(
    "make",
    [
        lambda number: chat(user("Hello"), SAID, user(f"the revenue of {number}?")),
        lambda number: chat(system(f"Document {number}"), user("Summarise the document.")),
        lambda number: question("When does the contract end?", f"contract {number}"),
    ],
)
def test_words_that_begin_everything_say_nothing(
    rows: Callable[[list[dict[str, Any]]], list[Row]], make: Callable[[int], dict[str, Any]]
) -> None:
    """Else one held-out row would take all training rows away."""
    for count, left in ((5, 0), (6, 5), (40, 39)):
        every = rows([make(number) for number in range(count)])
        (kept,) = without_held_out(every[:1], every[1:])
        assert len(kept) == left
        # In whichever part they stand.
        assert without_held_out(every[:1], every[1:2], every[2:]) == [kept[:1] if left else [], kept[1:]]
        # The same setting is the same row.
        assert without_held_out(every, every[:1]) == [[]]


def test_a_chat_that_goes_on_is_the_same_after_a_greeting_too(
    rows: Callable[[list[dict[str, Any]]], list[Row]],
) -> None:
    turns = [user("Hello"), SAID]
    every = rows(
        [
            *(chat(*turns, user(f"the revenue of {number}?")) for number in range(10)),
            *(chat(*turns, user(f"the revenue of {number}?"), SAID, user("And?")) for number in range(10)),
        ]
    )
    assert without_held_out(every[:3], every[10:]) == [every[13:]]


@pytest.mark.parametrize(
    "make",
    [
        lambda text: question("Revenue?", text),
        lambda text: {"prompt": text, "completion": "a"},
        lambda text: chat(system(text), user("Revenue?")),
    ],
)
def test_texts_are_not_kept_twice(
    rows: Callable[[list[dict[str, Any]]], list[Row]], make: Callable[[str], dict[str, Any]]
) -> None:
    every = rows([make(f"{number}" * 20_000) for number in range(10, 60)])  # 2 MB
    tracemalloc.start()
    try:
        assert len(set(prompt_keys(every))) == 50
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


LONG = chat(user("Hi"), SAID, user("Help me."), SAID, user("Reset my password."))
FOLLOWED = question("Revenue?", "x y", follow_ups=[{"question": "Profit?", "answer": "b"}])


def call(number: int) -> dict[str, Any]:
    return {**SAID, "content": "", "tool_calls": [{"function": {"name": "add", "arguments": str(number)}}]}


@pytest.mark.parametrize(
    ("asked", "learnt", "known"),
    [
        (chat(user("hi "), SAID, user("help me."), SAID, user("reset my  password.")), LONG, True),
        (chat(user("Hi"), SAID, user("Help me."), SAID, user("Cancel my order.")), LONG, False),
        (chat(user("Hi")), LONG, True),  # each of its answers was trained
        (chat(user("Hi")), chat(user("Hi"), {**SAID, "weight": 0}, user("Help me.")), False),
        (LONG, chat(user("Hi")), False),
        (chat(SAID, user("Hi")), chat(SAID, user("Hi"), SAID, user("Bye")), True),
        (chat(system("Be brief."), user("Hi")), chat(user("Hi")), False),
        (chat(user("Hi"), call(1), user("Go on.")), chat(user("Hi"), call(1), user("go on.")), True),
        (chat(user("Hi"), call(1), user("Go on.")), chat(user("Hi"), call(2), user("Go on.")), False),
        (question("profit?", "X  y"), FOLLOWED, True),
        (question("Revenue?", "x y"), FOLLOWED, True),
        (question("Revenue?", "z"), FOLLOWED, False),
        (question("Debts?", "x y"), FOLLOWED, False),
        (FOLLOWED, question("Profit?", "x y"), True),
        (FOLLOWED, question("Revenue?", "x y"), False),  # it is the last one that is asked
        ({"prompt": "REVENUE?", "completion": "a"}, {"prompt": "Revenue?\n", "completion": "b"}, True),
        ({"prompt": "Revenue?", "completion": "a"}, chat(user("Revenue?")), False),
    ],
)  # fmt: skip
def test_which_prompts_were_learnt(
    write_jsonl: Write, asked: dict[str, Any], learnt: dict[str, Any], known: bool
) -> None:
    one, other = (
        load_rows([write_jsonl(fields, name=name)], every_assistant_turn=True).rows
        for name, fields in (("asked.jsonl", asked), ("learnt.jsonl", learnt))
    )
    assert asked_among(one, learnt_digests(other)) == [known]


def test_a_turn_that_was_not_trained_was_not_learnt(
    rows: Callable[[list[dict[str, Any]]], list[Row]],
) -> None:
    (long, first) = rows([LONG, chat(user("Hi"))])
    assert asked_among([first, long], learnt_digests([long])) == [False, True]


def test_a_standard_question_about_another_contract_is_another_row(
    rows: Callable[[list[dict[str, Any]]], list[Row]],
) -> None:
    old = rows([question("Is it signed?", name, "Yes.") for name in ("a", "b", "c")])
    new = rows([question("Is it signed? ", "b", "Yes."), question("Is it signed?", "c", "No.")])
    assert without_rows_of(new, old) == [old[0], old[2]]


@pytest.mark.parametrize(("contracts", "known"), [(5, True), (6, False)])
def test_an_answer_that_was_taught_is_known_with_other_passages_unless_all_are_asked_so(
    rows: Callable[[list[dict[str, Any]]], list[Row]], contracts: int, known: bool
) -> None:
    learnt = learnt_digests(rows([question("Signed?", f"contract {n}", "Yes.") for n in range(contracts)]))
    new = [question("signed?", "contract 0", "Yes."), question("Signed?", "contract 9", "Yes.")]
    other = [question("Signed?", "contract 0", "No."), question("Lost?", "contract 0", "Yes.")]
    assert taught_among(rows(new + other), learnt) == [True, known, False, False]
    # The same row is known in whichever company it comes again.
    again = rows([question("Signed?", f"contract {n}", "Yes.") for n in range(contracts - 1, 19)])
    assert taught_among(again, learnt) == [True] + [False] * (19 - contracts)
