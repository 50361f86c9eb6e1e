from __future__ import annotations

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from selfaug.retrieval.split import near_duplicates, split_documents
from selfaug.retrieval.tokens import Words

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def test_questions_in_other_words_are_alike_and_those_about_other_things_are_not() -> None:
    questions = [
        f"What was the {metric} of {company} in {year}?"
        for metric in ("revenue", "net margin", "headcount")
        for company in ("Alder", "Birch", "Cedar", "Douglas")
        for year in (2021, 2022, 2023)
    ]
    alike = [
        "In 2021, what was the revenue of Alder?",
        "what were the revenues of Alder in 2021",
        "What was the revenue of Alder in 2020?",
    ]
    found = near_duplicates([*questions, *alike], 0.85, Words())
    assert found == [(0, 36), (0, 37), (36, 37)]


BAGS = st.lists(st.text("abcdef", max_size=6).map(" ".join), min_size=2, max_size=14)


@settings(max_examples=200, deadline=None)
@given(BAGS, st.floats(0.3, 1.0))
def test_near_duplicates_are_those_of_the_plain_definition(questions: list[str], similar: float) -> None:
    bags = [set(question.split()) for question in questions]
    count = Counter(word for bag in bags for word in bag)
    weight = {word: math.log((len(bags) + 1) / count[word]) for word in count}
    expected = []
    for j in range(len(bags)):
        for i in range(j):
            both, one = bags[i] | bags[j], bags[i] & bags[j]
            if one and (
                bags[i] == bags[j]
                or sum(map(weight.get, sorted(one))) / sum(map(weight.get, sorted(both))) >= similar  # type: ignore[arg-type]
            ):
                expected.append((i, j))
    found = near_duplicates(questions, similar, str.split)
    # A similarity within rounding of the threshold may fall on either side.
    doubtful = [
        pair
        for pair in {*expected, *found} - ({*expected} & {*found})
        if abs(_similarity(bags[pair[0]], bags[pair[1]], weight) - similar) > 1e-9
    ]
    assert doubtful == []


def _similarity(one: set[str], other: set[str], weight: dict[str, float]) -> float:
    return sum(weight[word] for word in one & other) / sum(weight[word] for word in one | other)


def test_documents_of_a_question_and_of_similar_questions_stay_together() -> None:
    documents = [f"{n}.md" for n in range(40)]
    questions = [{f"{n}.md"} for n in range(40)] + [{"0.md", "1.md"}, {"1.md", "2.md"}, set()]
    splits = split_documents(documents, questions, [(5, 6), (42, 7), (6, 8)], SHARES, seed=0)
    assert set(splits) == set(documents)
    assert splits["0.md"] == splits["1.md"] == splits["2.md"]
    assert splits["5.md"] == splits["6.md"] == splits["8.md"]
    count = Counter(splits.values())
    assert 26 <= count["train"] <= 30
    assert 3 <= count["validation"] <= 5
    assert 7 <= count["test"] <= 9


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 30),
    st.lists(st.sets(st.integers(0, 29), max_size=2), max_size=60),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=5),
    st.integers(0, 5),
)
def test_every_document_has_one_split_and_links_hold(
    count: int, asked: list[set[int]], alike: list[tuple[int, int]], seed: int
) -> None:
    documents = [str(n) for n in range(count)]
    questions = [{str(n % count) for n in found} for found in asked]
    pairs = [(one % len(questions), other % len(questions)) for one, other in alike] if questions else []
    splits = split_documents(documents, questions, pairs, SHARES, seed)
    assert sorted(splits) == sorted(documents)
    for found in questions:
        assert len({splits[document] for document in found}) <= 1
    for one, other in pairs:
        assert len({splits[document] for document in questions[one] | questions[other]}) <= 1
    assert splits == split_documents(documents, questions, pairs, SHARES, seed)


def test_shares_are_met_and_a_share_of_nothing_gets_nothing() -> None:
    documents = [f"{n}" for n in range(200)]
    questions = [{f"{n}"} for n in range(150) for _ in range(n % 5 + 1)]
    splits = split_documents(documents, questions, [], {"train": 0.8, "validation": 0.0, "test": 0.2}, seed=3)
    asked = Counter(splits[next(iter(found))] for found in questions)
    assert asked["validation"] == 0
    assert asked["test"] / len(questions) == 0.2
    # Those without questions are dealt out too: as passages they stand in the rows of one split alone.
    silent = Counter(splits[f"{n}"] for n in range(150, 200))
    assert silent == {"train": 40, "test": 10}


def test_another_seed_deals_out_otherwise() -> None:
    documents = [f"{n}" for n in range(50)]
    questions = [{name} for name in documents]
    assert split_documents(documents, questions, [], SHARES, 0) != split_documents(
        documents, questions, [], SHARES, 1
    )
