"""The sides of an answer from documents, and which rows each of them is looked at in."""

from __future__ import annotations

import pytest

from selfaug.eval.document_answers import rows_of_side, sides_of, unknown_no_answers
from selfaug.eval.scorers import named_scorer

SIDES = sides_of([])
GOLD = "ANSWER: $1,536 million | SOURCE: [2]"
NONE = "ANSWER: not reported | SOURCE: none"


@pytest.mark.parametrize(
    ("answer", "gold", "value", "source", "answers"),
    [
        (GOLD, GOLD, 1, 1, 1),
        ("answer: $1,536  million | source: [2]", GOLD, 1, 1, 1),
        ("ANSWER: $1,536 million | SOURCE: [3]", GOLD, 1, 0, 1),
        ("ANSWER: $1,536 million | SOURCE: [2] [3]", GOLD, 1, 0, 1),
        ("ANSWER: -$1,536 million | SOURCE: [2]", GOLD, 0, 1, 1),
        ("ANSWER: $1,536 | SOURCE: [2]", GOLD, 0, 1, 1),
        ("It was $1,536 million [2].", GOLD, 0, 1, 1),
        (NONE, GOLD, 0, 0, 0),
        ("$4 million [1]", "$4 million [1]", 1, 1, 1),
        ("", GOLD, 0, 0, 0),
    ],
)
def test_sides_where_there_is_an_answer(
    answer: str, gold: str, value: int, source: int, answers: int
) -> None:
    scores = [side.score(answer, gold, "") for side in SIDES if side.answerable]
    assert scores == [value, source, answers]
    assert named_scorer("value")(answer, gold, "") == value


def test_abstention_is_looked_at_where_there_is_none() -> None:
    golds = [GOLD, NONE, "The documents don't say.", "12 %"]
    assert [rows_of_side(side, golds, []) for side in SIDES] == [[0, 3], [0], [0, 3], [1, 2]]
    (side,) = (side for side in SIDES if not side.answerable)
    assert side.score("The reports don't say.", NONE, "") == 1
    assert side.score(GOLD, NONE, "") == 0


@pytest.mark.parametrize(
    "no_answer", ["N/A", "Das steht nicht in den Berichten.", "ANSWER: none | SOURCE: none"]
)
def test_what_rows_say_where_there_is_no_answer_is_known_from_them(no_answer: str) -> None:
    # The last one is an answer that the documents give, though it sounds like none.
    golds = [GOLD, no_answer, "12 %", "The margin was not disclosed [1]"]
    *answerable, abstains = sides_of([no_answer])
    assert [rows_of_side(side, golds, [no_answer]) for side in answerable] == [[0, 2, 3], [0, 3], [0, 2, 3]]
    assert rows_of_side(abstains, golds, [no_answer]) == [1]
    for answer, gold, expected in (
        (no_answer, no_answer, 1), ("The documents don't say.", no_answer, 1), (GOLD, no_answer, 0),
    ):  # fmt: skip
        assert abstains.score(answer, gold, "") == expected
    answers = answerable[2]
    for answer, gold, expected in (
        (GOLD, GOLD, 1), (no_answer, GOLD, 0), ("The documents don't say.", GOLD, 0), (golds[3], golds[3], 1),
    ):  # fmt: skip
        assert answers.score(answer, gold, "") == expected


def test_a_model_may_have_learnt_other_words_than_the_rows_have() -> None:
    """Its folder was prepared anew: what it says is the old, and what the rows have the new."""
    old, new = "Steht nicht darin.", "Keine Angabe."
    sides = {side.name: side for side in sides_of([old, new])}
    assert sides["abstains where it must"].score(old, new, "") == 1
    assert sides["answers where it can"].score(old, GOLD, "") == 0
    assert rows_of_side(sides["value"], [GOLD, new, old], [old, new]) == [0]


def test_a_base_model_abstains_in_words_of_its_own() -> None:
    """It was never shown those of the rows; where its language isn't known, that is told."""
    sides = {side.name: side for side in sides_of(["Keine Angabe."])}
    said = "Die Dokumente enthalten dazu keine Informationen."
    assert sides["abstains where it must"].score(said, "Keine Angabe.", "") == 1
    assert sides["answers where it can"].score(said, "5 Mio. € [1]", "") == 0
    assert unknown_no_answers(["Keine Angabe."]) == unknown_no_answers([]) == []
    assert unknown_no_answers(["Ei ilmoitettu."]) == ["Ei ilmoitettu."]


@pytest.mark.parametrize("no_answers", [[], ["Not stated."]])
def test_sources_are_looked_at_where_the_right_answer_cites_some(no_answers: list[str]) -> None:
    source = next(side for side in sides_of(no_answers) if side.name == "source")
    assert rows_of_side(
        source, ["$4 million", "Not stated.", "12 %", "$5 million (passage 2)"], no_answers
    ) == [3]
    assert rows_of_side(source, ["$4 million", "12 %"], no_answers) == []


@pytest.mark.parametrize("no_answers", [[], ["Not stated."]])
@pytest.mark.parametrize(
    ("answer", "gold", "answers"),
    [
        ("No, breakfast is not included [1].", "Breakfast is not included in the rate [1].", 1),
        ("No data is stored outside the EU [2].", "It is stored in the EU alone [2].", 1),
        # The right answer sounds like none, and so does what says the same.
        ("It was never disclosed [1].", "The margin was not disclosed [1].", 1),
        ("It was never disclosed.", "The margin was not disclosed [1].", 0),
        ("It was never disclosed [2].", "The margin was not disclosed [1].", 0),
        # It says where it has looked.
        ("Passages 1 and 2 do not state it.", "$5 million [1]", 0),
        ("The revenue is not in the passages [1], [2].", "$5 million [1]", 0),
        ("Not stated.", "$5 million [1]", 0),
    ],
)
def test_what_is_not_included_is_an_answer(
    answer: str, gold: str, answers: int, no_answers: list[str]
) -> None:
    side = next(side for side in sides_of(no_answers) if side.name == "answers where it can")
    assert side.score(answer, gold, "") == answers
    assert rows_of_side(side, [gold], no_answers) == [0]
