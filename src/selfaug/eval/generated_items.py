"""Arithmetic and reading from generators: as many items as wanted, each with the one right answer."""

from __future__ import annotations

import random

from selfaug.eval.checks import AllOf, Check, LastNamed, Result
from selfaug.eval.form_checks import Words
from selfaug.eval.general_item import LEVELS, GeneralItem, Half, Level

__all__ = ["GENERATED_KINDS", "arithmetic_items", "reading_items"]

GENERATED_KINDS = ("arithmetic", "reading")

_ARITHMETIC = 24
# The result comes last: a model that writes out four steps, each as an item of a list, needs some 250 for it.
_ARITHMETIC_TOKENS: dict[Level, int] = {1: 32, 2: 256, 3: 320}
_READING = 16

# Names and things apart from each other: no text of one half is close to one of the other.
_NAMES: dict[Half, tuple[str, ...]] = {
    "dev": ("Lena", "Marco", "Priya", "Owen", "Hana", "Felix", "Ruth", "Samir"),
    "test": ("Clara", "Diego", "Yuki", "Peter", "Amina", "Viktor", "Grace", "Tomas"),
}
_THINGS: dict[Half, tuple[str, ...]] = {
    "dev": ("apples", "stamps", "marbles", "candles"),
    "test": ("pears", "coins", "buttons", "shells"),
}
_PLACES: dict[Half, tuple[str, ...]] = {
    "dev": ("the library", "the harbour", "the museum", "the bakery", "the theatre", "the stadium"),
    "test": ("the market", "the castle", "the pool", "the station", "the gallery", "the farm"),
}


def arithmetic_items(half: Half) -> list[GeneralItem]:
    """Sums (level 1), problems of two steps (level 2) and of four steps (level 3); the last number is the result."""
    items = []
    for level in LEVELS:
        rng = random.Random(f"{half}/arithmetic/{level}")
        seen: set[str] = set()
        while len(seen) < _ARITHMETIC:
            prompt, result = _PROBLEMS[level](rng, half)
            # The number of a source that is cited must not be taken for a result.
            if prompt in seen or result < 5:
                continue
            seen.add(prompt)
            items.append(
                GeneralItem(
                    id=f"{half}-arithmetic-{level}-{len(seen):02d}",
                    kind="arithmetic",
                    level=level,
                    prompt=prompt,
                    checks=(Result(result),),
                    max_new_tokens=_ARITHMETIC_TOKENS[level],
                )
            )
    return items


def _sum(rng: random.Random, half: Half) -> tuple[str, int]:
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    b += (a + b + (half == "test")) % 2  # even results in one half, odd ones in the other: no sum is in both
    if rng.random() < 0.4:
        a, b = max(a, b), min(a, b)
        return rng.choice((f"What is {a} minus {b}?", f"Calculate {a} - {b}.")), a - b
    return rng.choice((f"What is {a} plus {b}?", f"Calculate {a} + {b}.")), a + b


def _two_steps(rng: random.Random, half: Half) -> tuple[str, int]:
    name, other = rng.sample(_NAMES[half], 2)
    thing = rng.choice(_THINGS[half])
    a, b, c = rng.randint(11, 60), rng.randint(3, 10), rng.randint(2, 9)
    if rng.random() < 0.5:
        text = f"{name} has {a} {thing} and gives {b} of them to {other}. Then {name} buys {c} more."
        return f"{text} How many {thing} does {name} have now? End with the number.", a - b + c
    text = f"{name} fills {b} boxes with {c} {thing} each, and {a} {thing} are left over."
    return f"{text} How many {thing} are there in all? End with the number.", a + b * c


def _four_steps(rng: random.Random, half: Half) -> tuple[str, int]:
    name = rng.choice(_NAMES[half])
    thing = rng.choice(_THINGS[half])
    price, sold, percent = rng.randint(2, 9), 20 * rng.randint(4, 15), rng.choice((10, 20, 25, 40, 50))
    rent, days = rng.randint(15, 60), rng.randint(2, 6)
    discounted = sold * percent // 100
    text = (
        f"{name} sells {sold} {thing} at {price * 2} dollars each. {percent} percent of the buyers get theirs at "
        f"half price. The stall costs {rent} dollars a day, and {name} needs it for {days} days."
    )
    result = (sold - discounted) * price * 2 + discounted * price - rent * days
    return f"{text} How many dollars are left in the end? End with the number.", result


_PROBLEMS = {1: _sum, 2: _two_steps, 3: _four_steps}


def reading_items(half: Half) -> list[GeneralItem]:
    """A fact to find (level 1), facts to compare (level 2), and facts that change (level 3)."""
    items = []
    for level in LEVELS:
        rng = random.Random(f"{half}/reading/{level}")
        seen: set[str] = set()
        while len(seen) < _READING:
            prompt, check = _TEXTS[level](rng, half)
            if prompt in seen:
                continue
            seen.add(prompt)
            items.append(
                GeneralItem(
                    id=f"{half}-reading-{level}-{len(seen):02d}",
                    kind="reading",
                    level=level,
                    prompt=prompt,
                    checks=(AllOf((check, Words(3))),),
                    max_new_tokens={1: 40, 2: 80, 3: 128}[level],
                )
            )
    return items


def _find(rng: random.Random, half: Half) -> tuple[str, Check]:
    names, places = rng.sample(_NAMES[half], 3), rng.sample(_PLACES[half], 3)
    text = " ".join(f"{name} works at {place}." for name, place in zip(names, places, strict=True))
    asked = rng.randrange(3)
    prompt = f"{text}\n\nWho works at {places[asked]}? Answer in a sentence."
    return prompt, LastNamed(names[asked], tuple(names))


def _compare(rng: random.Random, half: Half) -> tuple[str, Check]:
    names = rng.sample(_NAMES[half], 5)
    counts = rng.sample(range(12, 95), 5)
    thing = rng.choice(_THINGS[half])
    text = " ".join(f"{name} collected {count} {thing}." for name, count in zip(names, counts, strict=True))
    most = rng.random() < 0.5
    right = names[counts.index((max if most else min)(counts))]
    prompt = f"{text}\n\nWho collected the {'most' if most else 'fewest'} {thing}? Answer in a sentence."
    return prompt, LastNamed(right, tuple(names))


def _change(rng: random.Random, half: Half) -> tuple[str, Check]:
    names = rng.sample(_NAMES[half], 4)
    places = rng.sample(_PLACES[half], 4)
    where = dict(zip(names, places, strict=True))
    lines = [f"{name} begins at {place}." for name, place in where.items()]
    for _ in range(4):
        one, other = rng.sample(names, 2)
        if rng.random() < 0.5:
            lines.append(f"{one} and {other} change places with each other.")
            where[one], where[other] = where[other], where[one]
        else:
            place = rng.choice([place for place in _PLACES[half] if place not in where.values()])
            lines.append(f"{one} goes to {place}.")
            where[one] = place
    asked = rng.choice(names)
    prompt = f"{' '.join(lines)}\n\nWhere is {asked} in the end? Answer in a sentence."
    return prompt, LastNamed(where[asked].removeprefix("the "), tuple(_bare(half)))


def _bare(half: Half) -> list[str]:
    return [place.removeprefix("the ") for place in _PLACES[half]]


_TEXTS = {1: _find, 2: _compare, 3: _change}
