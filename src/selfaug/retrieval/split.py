"""Which document goes into which split: none is in two, and similar questions stay together."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

__all__ = ["near_duplicates", "split_documents"]


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


def split_documents(
    documents: Sequence[str],
    questions: Sequence[Collection[str]],
    alike: Sequence[tuple[int, int]],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """The split of each document.

    Args:
        documents: all of them.
        questions: for each one the documents that hold its answer, which stay together.
        alike: pairs of indexes of questions whose documents stay together.
        shares: of the questions, by split; they add up to 1.
        seed: of the order in which they are dealt out.

    Returns:
        Split by document. Documents that stay together are dealt out from the most questions to the fewest, each time
        to the split that lacks most; those without questions are dealt out by their number.
    """
    above: dict[str, str] = {document: document for document in documents}

    def root(document: str) -> str:
        while above[document] != document:
            above[document] = above[above[document]]
            document = above[document]
        return document

    together = [*questions, *([*questions[one], *questions[other]] for one, other in alike)]
    for first, *others in (sorted(group) for group in together if group):
        for other in others:
            above[root(other)] = root(first)
    linked: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        linked[root(document)].append(document)
    asked = Counter(root(min(group)) for group in questions if group)
    order = sorted(linked)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -asked[name])  # stable: equals stay shuffled
    dealt: dict[str, str] = {}
    have = {False: Counter[str](), True: Counter[str]()}
    wanted = [split for split, share in shares.items() if share > 0]
    for name in order:
        size = asked[name] or len(linked[name])
        so_far = have[asked[name] > 0]
        total = sum(so_far.values()) + size
        split = max(wanted, key=lambda one: (shares[one] * total - so_far[one], shares[one]))
        so_far[split] += size
        dealt |= dict.fromkeys(linked[name], split)
    return dealt
