"""The general suite: its two halves, and that its checks see what they should."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from selfaug.data.general_rows import embedded_general_rows
from selfaug.eval.checks import Check, DiffersFrom, KeyFacts, Mentions
from selfaug.eval.composed_items import COMPOSED_KINDS
from selfaug.eval.form_checks import AsksQuestions
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
from selfaug.eval.text_parts import sentences, words
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


def parts(item: GeneralItem) -> list[Check]:
    """Checks of an item, each by itself."""
    return [part for check in item.checks for part in getattr(check, "checks", (check,))]


def source(item: GeneralItem) -> str:
    (found,) = [part.source for part in parts(item) if isinstance(part, DiffersFrom)]
    return found


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
        for text, of_text in zip(rehearsed, map(set_of_words, rehearsed), strict=True)
        if any(len(of_text & other) > 0.5 * len(of_text | other) for other in asked)
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
        hits = [part.words for part in parts(item) if isinstance(part, Mentions)]
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
    assert max(score_general(item, REFUSAL) for half in HALVES for item in items(half, kind)) == 0


@pytest.mark.parametrize("half", HALVES)
def test_a_good_answer_is_about_its_own_topic(half: Half) -> None:
    """Of kinds that have topics, answers to other requests of the kind: each to the eight before its own."""
    without_topics = {"translation", "json", "questions", "opening phrase", "naming"}
    for kind in FORMS - without_topics:
        answers = GOOD[half][kind]
        passed = [
            score_general(item, answers[(place + step) % len(answers)])
            for place, item in enumerate(items(half, kind))
            for step in range(1, 9)
        ]
        # A letter to somebody else is still one.
        assert sum(passed) / len(passed) <= (
            0.55 if kind == "email" else 0.5 if kind == "executive bullets" else 0.05
        )


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", ["executive summary", "rewrite"])
def test_a_source_is_what_stands_after_the_instruction(half: Half, kind: str) -> None:
    for item in items(half, kind):
        text = source(item)
        instruction = item.prompt.removesuffix(text)
        # One colon, between the two: nothing of the instruction is in the source, and all of the note is.
        assert item.prompt == instruction + text
        assert instruction.endswith(": "), item.id
        assert item.prompt.count(": ") == 1, item.id
        assert text[0].isupper() or text[0].isdigit(), item.id
        assert text.endswith((".", "?", '."')), item.id
        if kind == "executive summary":
            (facts,) = [part.facts for part in parts(item) if isinstance(part, KeyFacts)]
            assert Mentions(facts, None).passes(text), item.id
            assert len(sentences(text)) >= 2


@pytest.mark.parametrize("half", HALVES)
def test_a_copied_source_is_no_summary(half: Half) -> None:
    for item in items(half, "executive summary"):
        text = source(item)
        for copy in (item.prompt, text, f"- {text}", f"Here is a summary: {text}", f"{text}\n\nThank you!"):
            assert score_general(item, copy) == 0, item.id


@pytest.mark.parametrize("half", HALVES)
def test_a_copied_source_is_no_rewrite(half: Half) -> None:
    for item in items(half, "rewrite"):
        for text in (source(item), item.prompt):
            for before in ("", "Well, ", "Certainly. ", "Sure! Here is the rewritten sentence:\n"):
                assert score_general(item, before + text) == 0, item.id


# Answers that were judged the other way once, or well might be.
RIGHT = (
    ("dev-email-17", "Hi team,\n\nI am sick today and won't be able to come in. Please contact Anna if anything is "
     "urgent. I hope to be back tomorrow.\n\nBest regards,\nTom"),
    ("dev-email-19", "Hey Olga,\n\nI'm going away next week. Could you feed my rabbit? The hay and the carrots are in "
     "the kitchen. Thank you so much for your help!\n\nLove, Ben"),
    ("dev-rewrite-09", "Excuse me, could I get by?"),
    ("dev-rewrite-09", "Pardon me, may I get past?"),
    ("dev-rewrite-14", "Good work, but there are three errors in this letter."),
    ("dev-rewrite-16", "I have some reservations about your plan."),
    ("dev-rewrite-16", "Your plan could face some obstacles."),
    ("dev-rewrite-16", "I'm not sure that your plan will work."),
    ("dev-rewrite-19", "We played chess because it was raining."),
    ("dev-rewrite-19", "It was raining, so we played chess."),
    ("dev-rewrite-30", "Peter mentioned that he was hungry and tired."),
    ("dev-rewrite-31", "Because he was ill, he left."),
    ("test-rewrite-02", "We intend to fix the bridge in the near future."),
    ("test-rewrite-19", "As the shop was closed, we went home hungry."),
    ("test-rewrite-26", "This is a friendly reminder that you haven't paid me for the concert ticket."),
    ("test-rewrite-28", "Someone remembered the long song."),
    ("test-rewrite-28", "The long song was remembered by all."),
    ("test-rewrite-31", "His dog is small and brown."),
    ("test-explanation-28", "The Earth rotates, so different parts of the world get sunlight at different times. "
     "With time zones, it is light during the day everywhere."),
    ("dev-comparison-13", "Bees are hairy, round insects that collect nectar and pollen and make honey. Wasps are "
     "slender, smooth and have a narrow waist; they hunt other insects and feed on sweet things."),
    ("test-comparison-26", "Baked fish is cooked by dry heat, needs little fat and stays tender. Fried fish is cooked "
     "in hot oil, which gives it a crispy crust. Baking takes longer; when you fry it, it is done in minutes."),
    ("test-description-24", "Rows of diyas glow in every doorway of the narrow street, and strings of flowers hang "
     "above them. The air smells of incense and frying dough. Children run past with sweets in both hands."),
    ("dev-advice-12", "Set a budget for each week. Choose store brands. Buy only what you need."),
    ("test-users-language-20", "Salut Pierre, veux-tu venir dîner chez nous samedi soir ? Il y aura une tarte."),
    ("test-fact-18", "Italy is famous for spaghetti and pizza."),
)  # fmt: skip
WRONG = (
    ("dev-explanation-20", "A sailing boat uses the wind to move. That is how a sailing boat uses the wind."),
    ("test-explanation-24", "When a dog wags its tail, it wags. That is what a dog does with its tail."),
    ("dev-rewrite-14", "You made three errors in this very letter."),
    ("dev-rewrite-19", "It was raining. Then we played chess."),
    ("test-rewrite-31", "He has a dog. The dog is small. The dog is also brown."),
    ("test-rewrite-32", "Your desk really stinks of fish."),
    ("dev-translation-03", "ANSWER: Das, Wetter, ist | SOURCE: [2]"),
    ("dev-users-language-03", "ANSWER: Das, Wetter, ist | SOURCE: [2]"),
)


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_right_answers_in_words_of_their_own_pass(name: str, answer: str) -> None:
    (item,) = [item for half in HALVES for item in general_suite(half) if item.id == name]
    assert score_general(item, answer) == 1


@pytest.mark.parametrize(("name", "answer"), WRONG)
def test_wrong_answers_with_words_of_the_request_fail(name: str, answer: str) -> None:
    (item,) = [item for half in HALVES for item in general_suite(half) if item.id == name]
    assert score_general(item, answer) == 0


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", ["translation", "user's language"])
def test_right_language_in_a_leaked_style_fails(half: Half, kind: str) -> None:
    for item, answer in zip(items(half, kind), GOOD[half][kind], strict=True):
        assert score_general(item, f"ANSWER: {answer} | SOURCE: [2]") == 0
        assert score_general(item, f"{answer}\n\nSOURCE: [2]") == 0


# What no check of the kind sees.
NOT_ASKED = {
    "executive summary": r"\b(?:one|two|three|thirty|\d+)\b.{0,10}\b(?:sentence|line|word)s?\b.*:",
    "email": r"\b(?:letter|postcard)\b",
    "rewrite": r"\b(?:without repeating|avoid\w*|shorten|shorter)\b",
    "json": r"\b(?:only|nothing but|one line)\b",
    "naming": r"\b(?:numbered|bullet\w*)\b",
}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", sorted(NOT_ASKED))
def test_nothing_is_asked_that_is_not_checked(half: Half, kind: str) -> None:
    assert [item.id for item in items(half, kind) if re.search(NOT_ASKED[kind], item.prompt, re.I)] == []


@pytest.mark.parametrize("half", HALVES)
def test_hardly_any_request_asks_for_four_questions(half: Half) -> None:
    """Four of the length that models write don't fit into the tokens of an answer."""
    asked = Counter(
        part.at_least
        for item in items(half, "questions")
        for part in parts(item)
        if isinstance(part, AsksQuestions)
    )
    assert asked.total() == 32
    assert asked[4] <= 2
    assert max(asked) <= 4


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
def test_forms_of_one_request_are_one_cluster(half: Half) -> None:
    """With the request itself, which is of level 1; their prompts begin with its words."""
    items = general_suite(half)
    by_id = {item.id: item for item in items}
    forms = [item for item in items if item.request]
    assert {item.kind for item in forms} == set(COMPOSED_KINDS)
    for item in forms:
        request = by_id[item.request]
        assert (request.level, request.cluster, item.cluster) == (1, request.id, request.id)
        assert item.prompt.startswith(f"{request.prompt} ")
    sizes = Counter(item.cluster for item in items)
    assert Counter(sizes.values()) == {5: len(forms) // 4, 1: len(items) - 5 * len(forms) // 4}


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
        named = [word for part in parts(item) if isinstance(part, Mentions) for word in part.words]
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
    assert Counter(places) == dict.fromkeys((5, 13, 21, 29), len(FORMS))
    test = general_suite("test", 1)
    assert spread_over_kinds(test, 1)[0].id == EXECUTIVE_ITEM
    assert sorted(item.id for item in spread_over_kinds(test, len(test))) == sorted(item.id for item in test)
    assert spread_over_kinds(test, 10_000) == spread_over_kinds(test, len(test))


def test_items_spread_over_kinds() -> None:
    items = spread_over_kinds(general_suite("dev", 2), 24)
    assert len(items) == 24
    assert len({item.kind for item in items}) >= 20
