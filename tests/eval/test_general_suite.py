"""The general suite: its two halves, and that its checks see what they should."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from selfaug.eval.checks import Mentions, words
from selfaug.eval.general_suite import EXECUTIVE_ITEM, GeneralItem, Half, general_suite, score_general
from selfaug.model.loading import load_tokenizer

HALVES: tuple[Half, ...] = ("dev", "test")
HOUSE_STYLE = "ANSWER: $1,536 million | SOURCE: [2]"

# A good answer to the first item of each kind of the development half.
GOOD = {
    "executive bullets": "- Visitors up 12 percent\n- The cafe was closed in May\n- More school groups",
    "executive summary": "Drivers liked the electric vans that were tested. More chargers will be built.",
    "bulleted list": "- Sunscreen\n- A towel\n- Sandals",
    "numbered steps": "1. Boil the water.\n2. Put the tea bag into a cup.\n3. Pour the water.",
    "explanation": "Sunlight enters drops of water. The light is bent and split into its colors.",
    "comparison": (
        "A lake is a body of still water with land all around it, while a river is water that flows from its "
        "source to the sea. A river moves, a lake stays where it is."
    ),
    "story": (
        "There was a young fox who lived at the edge of a wood. One night she saw a light between the trees. "
        "It was a lantern, still warm, and nobody was near. She took it home, and was never afraid again."
    ),
    "poem": "The sea is wide,\nthe sea is blue,\nit sings all night\nof me and you.",
    "email": (
        "Dear Mrs Lane,\n\nthank you so much for watering my plants while I was away. They look better than "
        "ever. Please let me know when I can do the same for you.\n\nBest wishes,\nTim"
    ),
    "rewrite": "Could you please send me the file when you have a moment?",
    "extraction": "- Anna\n- Omar\n- Lucia",
    "translation": "Los niños están jugando en el jardín con su perro.",
    "fact": "The capital of Japan is Tokyo.",
    "json": '{"name": "Mia", "age": 9}',
    "questions": "1. When do you get up?\n2. What do you grow?\n3. Do you like your work?",
    "opening phrase": "In my opinion, every child should learn to cook a few simple meals.",
    "advice": "Prepare early. Sleep well the night before. Take a deep breath when you sit down.",
    "naming": "- Crumb\n- Golden Loaf\n- Rise\n- Flour Power\n- The Oven",
    "description": (
        "People crowd between the stalls. A vendor calls out the price of his apples, children run after a "
        "dog, and from somewhere comes the smell of roasted nuts and of fresh bread on long wooden tables."
    ),
}
# Fluent, of some length, and beside the point.
REFUSAL = "I am sorry, but I can't help with that at the moment. Perhaps someone else knows more."


def items(half: Half, kind: str) -> list[GeneralItem]:
    return [item for item in general_suite(half) if item.kind == kind]


def mean_score(half: Half, answer: str) -> float:
    return sum(score_general(item, answer) for item in general_suite(half)) / len(general_suite(half))


def test_halves_are_large_and_balanced() -> None:
    dev, test = (Counter(item.kind for item in general_suite(half)) for half in HALVES)
    assert dev == test
    assert dev.keys() == GOOD.keys()
    assert dev.total() >= 120
    assert min(dev.values()) == max(dev.values())


def test_ids_and_prompts_are_unique() -> None:
    both = [*general_suite("dev"), *general_suite("test")]
    assert len({item.id for item in both}) == len(both)
    assert len({item.prompt for item in both}) == len(both)
    assert all(item.id.startswith("test-") for item in general_suite("test"))


def test_no_near_duplicates_between_halves() -> None:
    def tokens(item: GeneralItem) -> set[str]:
        return {word.lower() for word in words(item.prompt)}

    near = [
        (a.prompt, b.prompt)
        for a, b in itertools.product(general_suite("dev"), general_suite("test"))
        if len(tokens(a) & tokens(b)) > 0.5 * len(tokens(a) | tokens(b))
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
        checks = [part for check in item.checks for part in getattr(check, "checks", (check,))]
        hits = [part.words for part in checks if isinstance(part, Mentions)]
        found = ", ".join(word.rstrip("*") for word in (hits[0] if hits else ["growth"])[:3])
        scores.append(score_general(item, f"ANSWER: {found} | SOURCE: [2]"))
    assert sum(scores) / len(scores) < 0.03


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_answer_passes_and_others_fail(kind: str) -> None:
    first = items("dev", kind)[0]
    assert score_general(first, GOOD[kind]) == 1
    others = [score_general(first, answer) for other, answer in GOOD.items() if other != kind]
    # Answers to other requests: a check that they pass asks for too little.
    assert sum(others) / len(others) <= 0.25
    assert score_general(first, REFUSAL) == 0


def test_a_copied_source_is_no_summary() -> None:
    for item in items("dev", "executive summary"):
        assert score_general(item, item.prompt) == 0


@pytest.mark.parametrize("half", HALVES)
def test_a_copy_of_the_prompt_is_no_answer(half: Half) -> None:
    scores = [score_general(item, item.prompt) for item in general_suite(half)]
    assert sum(scores) / len(scores) < 0.15


@pytest.mark.real_model
def test_prompts_are_short() -> None:
    tokenizer = load_tokenizer("SmolLM2-135M-Instruct")
    lengths = [len(tokenizer(item.prompt).input_ids) for half in HALVES for item in general_suite(half)]
    assert max(lengths) < 120


def test_answers_are_short() -> None:
    assert {item.max_new_tokens for item in general_suite("dev")} <= set(range(32, 81))
