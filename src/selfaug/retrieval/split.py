"""Which document and question goes into which split: none is in two, and similar questions stay together."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Splits", "near_duplicates", "split_documents"]


def near_duplicates(
    questions: Sequence[str], similar: float, words: Callable[[str], list[str]]
) -> list[tuple[int, int]]:
    """Pairs of questions that are alike: their words' weighted Jaccard similarity is at least `similar`.

    A word weighs log(n / how many questions have it), so that questions which differ in a company's name or in a year
    are not alike, and questions which differ in "what was" and "tell me" are.

    Args:
        questions: in words.
        similar: in (0, 1].
        words: of a question.

    Returns:
        Pairs of indexes, the lower one first, sorted.
    """
    bags = [frozenset(words(question)) for question in questions]
    frequency = Counter(word for bag in bags for word in bag)
    weight = {word: math.log((len(bags) + 1) / count) for word, count in frequency.items()}
    totals = [sum(weight[word] for word in bag) for bag in bags]
    at: dict[str, list[int]] = defaultdict(list)
    found: set[tuple[int, int]] = set()
    for index, bag in enumerate(bags):
        # Two bags that are alike share a word of each one's rarest, which weigh more than (1 - similar) of it.
        rarest = list(
            _prefix(sorted(bag, key=lambda word: (-weight[word], word)), weight, totals[index], similar)
        )
        for other in {other for word in rarest for other in at[word]}:
            shared = sum(weight[word] for word in bag & bags[other])
            both = totals[index] + totals[other] - shared
            if bag == bags[other] or (both > 0 and shared / both >= similar):
                found.add((other, index))
        for word in rarest:
            at[word].append(index)
    return sorted(found)


def _prefix(
    ranked: Sequence[str], weight: Mapping[str, float], total: float, similar: float
) -> Iterator[str]:
    left = total
    for word in ranked:
        yield word
        left -= weight[word]
        if left < similar * total * (1 - 1e-9):
            return


@dataclass(frozen=True, slots=True)
class Splits:
    """What goes where.

    Attributes:
        documents: split by document.
        questions: split by the question's name.
        moved: documents that are in another split than they were.
        asked: questions of each set of documents that stay together, the most first.
    """

    documents: dict[str, str]
    questions: dict[str, str]
    moved: list[str]
    asked: list[int]


def split_documents(
    documents: Sequence[str],
    questions: Mapping[str, Collection[str]],
    alike: Sequence[tuple[int, int]],
    shares: Mapping[str, float],
    seed: int,
    known: Mapping[str, str] | None = None,
    known_questions: Mapping[str, str] | None = None,
    copies: Sequence[Sequence[str]] = (),
) -> Splits:
    """The split of each document and each question.

    A question stays with its documents and with those that are like it, and so do these with each other, over any
    number of steps. What stays together is dealt out from the most questions to the fewest, each time to the split
    that lacks most; documents without questions by their number; questions without documents after these, to splits
    that have documents.

    Args:
        documents: all of them.
        questions: by name, the documents that hold the answer.
        alike: pairs of questions, by their places, that are alike.
        shares: of the questions, by split; they add up to 1. Of what stays together and was in several splits, all goes
            to the first of these.
        seed: of the order in which they are dealt out.
        known: documents' splits from before, which they keep.
        known_questions: the same of questions, by name.
        copies: sets of documents that are the same, and stay together.
    """
    names = list(questions)
    groups = _groups(documents, questions, alike, copies)
    of_document = {document: groups.root(document) for document in documents}
    of_question = {name: groups.root((name,)) for name in names}
    before = _known_splits([(of_document, known or {}), (of_question, known_questions or {})], list(shares))
    linked: dict[_Node, list[str]] = defaultdict(list)
    for document, root in of_document.items():
        linked[root].append(document)
    asked = Counter(of_question[name] for name in names if questions[name])
    order = sorted(linked, key=str)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda root: -asked[root])  # stable: equals stay shuffled
    wanted = [split for split, share in shares.items() if share > 0]
    dealt: dict[_Node, str] = {}
    # Apart: documents without questions fill no split's share of the questions.
    for has_questions in (False, True):
        sizes = {
            root: asked[root] or len(linked[root]) for root in order if (asked[root] > 0) == has_questions
        }
        dealt |= _dealt(sizes, {split: shares[split] for split in wanted}, before)
    # Questions without a document to go with; a split without documents has no passages for them.
    rest = sorted((name for name in names if of_question[name] not in dealt), key=_shuffled(seed))
    alone = Counter(of_question[name] for name in rest)
    searched = {split: shares[split] for split in wanted if split in dealt.values()}
    dealt |= _dealt(
        dict(alone.most_common()),  # equals in the order of their first
        searched,
        {root: split for root, split in before.items() if split in searched},
    )
    in_split = {document: dealt[root] for document, root in of_document.items()}
    return Splits(
        documents=in_split,
        questions={name: dealt[root] for name, root in of_question.items()},
        moved=[
            document for document, split in (known or {}).items() if in_split.get(document, split) != split
        ],
        asked=sorted(asked.values(), reverse=True),
    )


# A document by its path, a question by a tuple of its name: the two can be equal.
_Node = str | tuple[str]


class _Groups:
    """What stays together. Where there is a document among it, one is the root."""

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self._above: dict[_Node, _Node] = {node: node for node in nodes}

    def root(self, node: _Node) -> _Node:
        while self._above[node] != node:
            self._above[node] = self._above[self._above[node]]
            node = self._above[node]
        return node

    def join(self, first: _Node, other: _Node) -> None:
        upper, lower = self.root(first), self.root(other)
        if isinstance(lower, str) and not isinstance(upper, str):
            upper, lower = lower, upper
        self._above[lower] = upper


def _groups(
    documents: Sequence[str],
    questions: Mapping[str, Collection[str]],
    alike: Sequence[tuple[int, int]],
    copies: Sequence[Sequence[str]],
) -> _Groups:
    names = list(questions)
    groups = _Groups([*documents, *((name,) for name in names)])
    for same in copies:
        for document in same:
            groups.join(same[0], document)
    for name, found in questions.items():
        for document in sorted(found):
            groups.join(min(found), document)
            groups.join(document, (name,))
    for one, other in alike:
        # The lowest document first: which one is the root decides where a group stands before it is shuffled.
        first, second = sorted(
            (names[one], names[other]),
            key=lambda name: (not questions[name], min(questions[name], default="")),
        )
        groups.join((first,), (second,))
    return groups


def _known_splits(
    known: Sequence[tuple[Mapping[str, _Node], Mapping[str, str]]], order: Sequence[str]
) -> dict[_Node, str]:
    """The split that a group keeps, by its root: the first one of its members', so that none leaves training.

    Args:
        known: roots by name, and splits from before by name, of documents and of questions.
        order: of the splits.
    """
    kept: dict[_Node, str] = {}
    for roots, splits in known:
        for name, split in splits.items():
            if name in roots and split in order:
                kept[roots[name]] = min(kept.get(roots[name], split), split, key=order.index)
    return kept


def _dealt(
    sizes: Mapping[_Node, int], shares: Mapping[str, float], before: Mapping[_Node, str]
) -> dict[_Node, str]:
    """The split of each group, by its root: the one from before, or the one that lacks most."""
    dealt = {root: before[root] for root in sizes if root in before}
    have = Counter[str]()
    for root, split in dealt.items():
        have[split] += sizes[root]
    for root, size in sizes.items():
        if root not in dealt:
            total = sum(have.values()) + size
            dealt[root] = max(shares, key=lambda split: (shares[split] * total - have[split], shares[split]))
            have[dealt[root]] += size
    return dealt


def _shuffled(seed: int) -> Callable[[str], bytes]:
    return lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()
