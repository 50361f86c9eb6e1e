"""The general suite: its two halves, and that its checks see what they should."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from selfaug.data.general_rows import embedded_general_rows
from selfaug.eval.checks import Mentions, words
from selfaug.eval.composed_items import COMPOSED_KINDS
from selfaug.eval.general_suite import (
    EXECUTIVE_ITEM,
    LEVELS,
    GeneralItem,
    Half,
    general_suite,
    score_general,
    spread_over_kinds,
)
from selfaug.eval.generated_items import GENERATED_KINDS
from selfaug.model.loading import load_tokenizer

HALVES: tuple[Half, ...] = ("dev", "test")
HOUSE_STYLE = "ANSWER: $1,536 million | SOURCE: [2]"

# One to each request that is written by hand and answered in writing, by half and kind, as a person would answer it.
GOOD: dict[Half, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("good_answers.json").read_text(encoding="utf-8")
)
FORMS = GOOD["dev"].keys() - {"refusal", "user's language"}
# Fluent, of some length, and beside the point.
REFUSAL = "I am sorry, but I can't help with that at the moment. Perhaps someone else knows more."


def items(half: Half, kind: str) -> list[GeneralItem]:
    return [item for item in general_suite(half) if item.kind == kind]


def mean_score(half: Half, answer: str) -> float:
    written = [item for item in general_suite(half) if not item.choices and item.kind != "refusal"]
    return sum(score_general(item, answer) for item in written) / len(written)


OTHER_KINDS = {*COMPOSED_KINDS, "arithmetic", "reading", "multiple choice", "refusal", "user's language"}


def test_halves_are_large_and_balanced() -> None:
    dev, test = (Counter((item.kind, item.level) for item in general_suite(half)) for half in HALVES)
    assert dev == test
    assert {kind for kind, _ in dev} == FORMS | OTHER_KINDS
    # So many that a loss of five or six points is seen, if two models differ on a quarter of them.
    assert sum(count for (_, level), count in dev.items() if level == 1) >= 600
    assert {count for (kind, level), count in dev.items() if level == 1 and kind in FORMS} == {32}
    for level in LEVELS:
        assert sum(count for (_, of), count in dev.items() if of == level) >= 300
        assert {item.level for item in general_suite("dev", level)} == {level}


def test_every_constraint_is_asked_for() -> None:
    level_2 = Counter(item.kind for item in general_suite("test", 2) if item.kind in COMPOSED_KINDS)
    assert min(level_2.values()) >= 4
    assert level_2.keys() == set(COMPOSED_KINDS[:-1])
    assert len(COMPOSED_KINDS) + len(FORMS) >= 25


def test_ids_and_prompts_are_unique() -> None:
    both = [*general_suite("dev"), *general_suite("test")]
    assert len({item.id for item in both}) == len(both)
    assert len({item.prompt for item in both}) == len(both)
    assert all(item.id.startswith("test-") for item in general_suite("test"))


def set_of_words(text: str) -> set[str]:
    return {word.lower() for word in words(text)}


def test_what_may_be_rehearsed_is_not_asked() -> None:
    asked = [set_of_words(item.prompt) for half in HALVES for item in general_suite(half)]
    rows = embedded_general_rows().read_text(encoding="utf-8").splitlines()
    rehearsed = [json.loads(row)["messages"][0]["content"] for row in rows]
    near = [
        text
        for text in rehearsed
        if any(len(set_of_words(text) & other) > 0.5 * len(set_of_words(text) | other) for other in asked)
    ]
    assert len(rehearsed) >= 50
    assert near == []


def test_no_near_duplicates_within_and_between_halves() -> None:
    # What is generated is alike in form, and told apart by its numbers and names.
    written = [
        (item.prompt, set_of_words(item.prompt))
        for half in HALVES
        for item in general_suite(half, 1)
        if item.kind not in GENERATED_KINDS
    ]
    near = [
        (one, other)
        for (one, of_one), (other, of_other) in itertools.combinations(written, 2)
        if len(of_one & of_other) > 0.5 * len(of_one | of_other)
    ]
    assert near == []


def test_each_call_gives_a_list_of_its_own() -> None:
    general_suite("dev").clear()
    assert general_suite("dev") == general_suite("dev") != []


def test_executive_item() -> None:
    (item,) = [item for item in general_suite("test") if item.id == EXECUTIVE_ITEM]
    assert item.prompt.startswith("Summarize these key findings in a bulleted list for an executive")
    assert score_general(item, "- Staff are proud\n- Meetings run too long\n- Two teams miss goals") == 1
    assert score_general(item, "Staff are proud, but meetings run too long and goals are missing.") == 0.5
    assert score_general(item, "- Sales rose\n- By 20 percent\n- In May") == 0.5


@pytest.mark.parametrize("half", HALVES)
def test_answers_that_say_nothing_fail(half: Half) -> None:
    assert mean_score(half, "") == 0
    assert mean_score(half, HOUSE_STYLE) == 0
    assert mean_score(half, REFUSAL) < 0.03


@pytest.mark.parametrize("half", HALVES)
def test_house_style_fails_even_with_the_right_words(half: Half) -> None:
    """A leaked style that names what belongs to the topic must not pass by it."""
    scores = []
    for item in general_suite(half):
        if item.choices:
            continue
        checks = [part for check in item.checks for part in getattr(check, "checks", (check,))]
        hits = [part.words for part in checks if isinstance(part, Mentions)]
        found = ", ".join(word.rstrip("*") for word in (hits[0] if hits else ["growth"])[:3])
        scores.append(score_general(item, f"ANSWER: {found} | SOURCE: [2]"))
    assert sum(scores) / len(scores) < 0.03


@pytest.mark.parametrize("half", HALVES)
def test_every_request_has_a_good_answer_that_passes(half: Half) -> None:
    failed = []
    for kind, answers in GOOD[half].items():
        for item, answer in zip(items(half, kind), answers, strict=True):
            if score_general(item, answer) < 1:
                failed.append((item.id, answer))
    assert failed == []


@pytest.mark.parametrize("kind", sorted(FORMS))
def test_good_answers_to_other_requests_fail(kind: str) -> None:
    """A check that they pass asks for too little."""
    others = [GOOD["dev"][other][0] for other in FORMS if other != kind]
    scores = [score_general(item, answer) for item in items("dev", kind) for answer in others]
    assert sum(scores) / len(scores) <= 0.25
    assert max(score_general(item, REFUSAL) for item in items("dev", kind)) == 0


@pytest.mark.parametrize("half", HALVES)
def test_a_good_answer_is_about_its_own_topic(half: Half) -> None:
    """Of kinds that have topics, answers to the other requests of the kind."""
    without_topics = {"translation", "json", "questions", "opening phrase", "naming"}
    for kind in FORMS - without_topics:
        own = items(half, kind)
        passed = [
            score_general(item, answer)
            for place, item in enumerate(own)
            for other, answer in enumerate(GOOD[half][kind])
            if other != place
        ]
        # A letter to somebody else is still one.
        assert sum(passed) / len(passed) <= (
            0.55 if kind == "email" else 0.5 if kind == "executive bullets" else 0.05
        )


def test_a_copied_source_is_no_summary() -> None:
    for item in items("dev", "executive summary"):
        assert score_general(item, item.prompt) == 0


@pytest.mark.parametrize("half", HALVES)
def test_a_copy_of_the_prompt_is_no_answer(half: Half) -> None:
    scores = [score_general(item, item.prompt) for item in general_suite(half, 1)]
    assert sum(scores) / len(scores) < 0.15


@pytest.mark.real_model
def test_prompts_are_short() -> None:
    tokenizer = load_tokenizer("SmolLM2-135M-Instruct")
    lengths = [len(tokenizer(item.prompt).input_ids) for half in HALVES for item in general_suite(half)]
    assert max(lengths) < 150


def test_answers_are_short() -> None:
    of_instructions = {item.max_new_tokens for item in general_suite("dev", 1) if item.kind in FORMS}
    assert of_instructions <= set(range(32, 81))
    assert {item.max_new_tokens for item in general_suite("dev") if not item.choices} <= set(range(32, 321))


# As models of some billion parameters write it: each step is an item of a list, and the result is said twice.
STEP_BY_STEP = """To find out how many dollars Viktor has left, we need the revenue, and the cost of the stall.

1. **Total number of coins sold**: 100 coins.
2. **Number of buyers who get half price**: 40% of 100 = 0.40 * 100 = 40 buyers.
3. **Number of buyers who pay full price**: 100 - 40 = 60 buyers.
4. **Revenue from full-price buyers**: 60 * 12 = 720 dollars.
5. **Revenue from half-price buyers**: 40 * 6 = 240 dollars.
6. **Total revenue**: 720 + 240 = 960 dollars.
7. **Stall cost**: 42 * 5 = 210 dollars.
8. **Money left**: 960 - 210 = 750 dollars.

Viktor has 750 dollars left in the end.

**750**"""


@pytest.mark.real_model
def test_a_result_that_comes_after_its_steps_is_within_the_limit() -> None:
    (item,) = [item for item in general_suite("test", 3) if item.id == "test-arithmetic-3-01"]
    tokenizer = load_tokenizer("SmolLM2-135M-Instruct")
    within = tokenizer.decode(tokenizer(STEP_BY_STEP).input_ids[: item.max_new_tokens])
    assert score_general(item, within) == 1


def test_answers_to_what_has_its_result_at_the_end_may_be_longer() -> None:
    late = [item for item in general_suite("test") if "composed" in item.id or item.kind == "arithmetic"]
    assert {(item.level, item.max_new_tokens) for item in late} == {(1, 32), (2, 256), (3, 320)}


@pytest.mark.parametrize("half", HALVES)
def test_one_sentence_said_again_and_again_is_no_answer(half: Half) -> None:
    """The right words in a loop: as many items, sentences, questions and words as are asked for, and all the same."""
    asks_for_more = {
        "executive bullets", "bulleted list", "numbered steps", "explanation", "comparison", "story", "poem",
        "extraction", "questions", "advice", "naming", "description",
    }  # fmt: skip
    passed: Counter[str] = Counter()
    for item in general_suite(half, 1):
        if item.kind not in asks_for_more:
            continue
        parts = [part for check in item.checks for part in getattr(check, "checks", (check,))]
        named = [word for part in parts if isinstance(part, Mentions) for word in part.words]
        topic = " and ".join(word.rstrip("*") for word in named) or "it"
        lines = (f"Look at {topic}.", f"- Look at {topic}.", f"1. Look at {topic}.", f"What about {topic}?")
        passed[item.kind] += max(score_general(item, "\n".join([line] * 8)) for line in lines)
    # A sentence that names all the words that a request could be about has some variety.
    assert sum(passed.values()) <= 0.1 * 32 * len(asks_for_more), passed


def test_good_answers_to_what_is_generated_and_composed() -> None:
    by_id = {item.id: item for item in general_suite("test")}
    good = {
        "test-refusal-02": "I can't help with stealing a car.",
        "test-users-language-01": "Hay que regar la planta una vez por semana y ponerla cerca de la ventana.",
        "test-multiple-choice-01": "In a nest",
    }
    for name, answer in good.items():
        assert score_general(by_id[name], answer) == 1
        assert score_general(by_id[name], HOUSE_STYLE) == 0
    for item in general_suite("test"):
        if item.kind == "multiple choice":
            assert [choice for choice in item.choices if score_general(item, choice) == 1] == [
                item.choices[0]
            ]
            assert len(set(item.choices)) == 4
    # Arithmetic against Python, reading against a plain reading of the text.
    sums = [item for item in general_suite("test", 1) if item.kind == "arithmetic"]
    for item in sums:
        text = item.prompt.removeprefix("What is ").removeprefix("Calculate ").strip("?.")
        value = eval(text.replace("plus", "+").replace("minus", "-"))
        assert score_general(item, f"That makes {value}.") == 1
        assert score_general(item, f"That makes {value + 1}.") == 0
    for item in general_suite("dev", 1) + general_suite("test", 1):
        if item.kind == "reading":
            facts, _, question = item.prompt.partition("\n\n")
            place = question.removeprefix("Who works at ").split("?")[0]
            (right,) = [fact.split(" ")[0] for fact in facts.split(". ") if place in fact]
            assert score_general(item, f"It is {right} who works there.") == 1
            names = [fact.split(" ")[0] for fact in facts.split(". ")]
            assert all(score_general(item, f"It is {name}, I think.") == (name == right) for name in names)


@pytest.mark.parametrize("half", HALVES)
def test_reading_with_changes_by_a_second_reading(half: Half) -> None:
    for item in general_suite(half, 3):
        if item.kind != "reading":
            continue
        facts, _, question = item.prompt.partition("\n\n")
        where: dict[str, str] = {}
        for fact in facts.rstrip(".").split(". "):
            if " change places" in fact:
                one, _, other = fact.split(" change")[0].partition(" and ")
                where[one], where[other] = where[other], where[one]
            else:
                name, place = re.split(r" begins at | goes to ", fact)
                where[name] = place
        asked = question.removeprefix("Where is ").split(" ")[0]
        assert score_general(item, f"{asked} is at {where[asked]} now.") == 1
        others = {place for name, place in where.items() if name != asked and place != where[asked]}
        assert not any(score_general(item, f"{asked} is at {place} now.") for place in others)


def test_a_few_items_are_spread_over_those_of_their_kind() -> None:
    """Requests that were written at one time are like each other: the first of a kind don't stand for all."""
    whole = [item for item in general_suite("dev", 1) if item.kind in FORMS]
    places = [int(item.id.rsplit("-", 1)[1]) for item in spread_over_kinds(whole, 4 * len(FORMS))]
    assert Counter(places) == dict.fromkeys((1, 9, 17, 25), len(FORMS))
    test = general_suite("test", 1)
    assert spread_over_kinds(test, 1)[0].id == EXECUTIVE_ITEM
    assert sorted(item.id for item in spread_over_kinds(test, len(test))) == sorted(item.id for item in test)
    assert spread_over_kinds(test, 10_000) == spread_over_kinds(test, len(test))


def test_items_spread_over_kinds() -> None:
    items = spread_over_kinds(general_suite("dev", 2), 24)
    assert len(items) == 24
    assert len({item.kind for item in items}) >= 20
