from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from selfaug.retrieval.split import Splits, near_duplicates, split_documents
from selfaug.retrieval.tokens import Words

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def split(
    documents: Sequence[str],
    questions: Sequence[Collection[str]],
    alike: Sequence[tuple[int, int]] = (),
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    **known: Mapping[str, str],
) -> Splits:
    """Questions are named q0, q1 and so on."""
    named = {f"q{number}": found for number, found in enumerate(questions)}
    return split_documents(documents, named, alike, shares, seed, **known)


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
    splits = split(documents, questions, [(5, 6), (42, 7), (6, 8)]).documents
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
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=12),
    st.integers(0, 5),
)
def test_every_document_has_one_split_and_links_hold(
    count: int, asked: list[set[int]], alike: list[tuple[int, int]], seed: int
) -> None:
    documents = [str(n) for n in range(count)]
    questions = [{str(n % count) for n in found} for found in asked]
    pairs = [(one % len(questions), other % len(questions)) for one, other in alike] if questions else []
    whole = split(documents, questions, pairs, seed=seed)
    splits = whole.documents
    assert sorted(splits) == sorted(documents)
    assert len(whole.questions) == len(questions)
    for number, found in enumerate(questions):
        assert {splits[document] for document in found} <= {whole.questions[f"q{number}"]}
    for one, other in pairs:
        assert whole.questions[f"q{one}"] == whole.questions[f"q{other}"]
    assert whole == split(documents, questions, pairs, seed=seed)
    # The same again keeps all as it is, and so does any part of it being known.
    again = split(documents, questions, pairs, seed=seed, known=splits, known_questions=whole.questions)
    assert (again.documents, again.questions, again.moved) == (splits, whole.questions, [])


def test_copies_stay_together() -> None:
    documents = [f"{n:02}.md" for n in range(40)]
    copies = [[f"{n:02}.md", f"{n + 20:02}.md"] for n in range(20)]
    named = {f"q{number}": [name] for number, name in enumerate(documents)}
    found = split_documents(documents, named, [], SHARES, 0, copies=copies).documents
    assert all(found[one] == found[other] for one, other in copies)
    assert set(found.values()) == set(SHARES)


def test_shares_are_met_and_a_share_of_nothing_gets_nothing() -> None:
    documents = [f"{n}" for n in range(200)]
    questions = [{f"{n}"} for n in range(150) for _ in range(n % 5 + 1)]
    splits = split(
        documents, questions, shares={"train": 0.8, "validation": 0.0, "test": 0.2}, seed=3
    ).documents
    asked = Counter(splits[next(iter(found))] for found in questions)
    assert asked["validation"] == 0
    assert asked["test"] / len(questions) == 0.2
    # Those without questions are dealt out too: as passages they stand in the rows of one split alone.
    silent = Counter(splits[f"{n}"] for n in range(150, 200))
    assert silent == {"train": 40, "test": 10}


def test_another_seed_deals_out_otherwise() -> None:
    documents = [f"{n}" for n in range(50)]
    questions = [{name} for name in documents]
    assert split(documents, questions, seed=0) != split(documents, questions, seed=1)


def test_a_question_without_a_document_joins_those_that_it_is_like() -> None:
    documents = [f"{n:02}.md" for n in range(40)]
    # The first has no document, and is like one about each of two.
    questions = [set(), *({name} for name in documents)]
    for first in range(1, 38):
        found = split(documents, questions, [(0, first), (0, first + 3)])
        assert found.documents[documents[first - 1]] == found.documents[documents[first + 2]]


def test_questions_without_documents_stay_together_over_steps() -> None:
    documents = [f"{n:02}.md" for n in range(20)]
    # 0 is like 1, and 1 is like the question about a document; 0 stands before 1.
    about = [{name} for name in documents]
    for place in range(20):
        found = split(documents, [set(), set(), *about], [(0, 1), (1, place + 2)])
        wanted = found.documents[documents[place]]
        assert (found.questions["q0"], found.questions["q1"]) == (wanted, wanted)
    # Ten that are one question, and no document to go with.
    same = [(one, other) for other in range(10) for one in range(other)]
    for seed in range(10):
        found = split(documents, [*([set()] * 10), *([set()] * 30), *about], same, seed=seed)
        assert len({found.questions[f"q{n}"] for n in range(10)}) == 1
        # The others fill up what these leave.
        count = Counter(found.questions[f"q{n}"] for n in range(40))
        assert abs(count["train"] - 28) <= 1
        assert abs(count["test"] - 8) <= 3


def test_what_is_known_keeps_its_split() -> None:
    documents = [f"{n:02}.md" for n in range(40)]
    before = split(documents, [{name} for name in documents])
    more = [*(f"new{n}.md" for n in range(20)), *documents]
    after = split(more, [{name} for name in more], known=before.documents)
    assert {name: after.documents[name] for name in documents} == before.documents
    assert after.moved == []
    count = Counter(after.documents.values())
    assert (count["train"], count["validation"], count["test"]) == (42, 6, 12)
    # Documents that are joined now, of which one was trained on: no test may know it.
    trained = next(name for name in documents if before.documents[name] == "train")
    tested = next(name for name in documents if before.documents[name] == "test")
    joined = split(documents, [*({name} for name in documents), {trained, tested}], known=before.documents)
    assert joined.documents[tested] == "train"
    assert joined.moved == [tested]
    # A document under another name, asked the same question.
    renamed = split(["other.md"], [{"other.md"}], known_questions={"q0": "validation"})
    assert renamed.documents == {"other.md": "validation"}
