from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfaug.core.pareto import knee, pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(POINTS.filter(bool))
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    unbeaten = {a for a in points if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points)}
    front = pareto_front(points)
    assert {points[i] for i in front} == unbeaten
    assert len(front) == len(unbeaten)
    firsts = [points[i][0] for i in front]
    assert firsts == sorted(firsts)
    assert all(points.index(points[i]) == i for i in front)


@pytest.mark.parametrize("points", [[1.0, 2.0], [[1, 2, 3]], [[float("nan"), 0]]])
def test_other_shapes_are_refused(points: list[object]) -> None:
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        pareto_front(points)


def test_the_knee_is_the_point_farthest_from_the_line() -> None:
    assert knee([(0.0, 1.0), (0.8, 0.9), (1.0, 0.0)]) == 1
    # The same with other units: distances are scaled.
    assert knee([(0.0, 100.0), (8.0, 90.0), (10.0, 0.0)]) == 1
    rng = random.Random(0)
    arc = sorted((x, (1 - x * x) ** 0.5) for x in [0.0, *(rng.random() for _ in range(20)), 1.0])
    found = knee(arc)
    assert found is not None
    assert found == min(range(len(arc)), key=lambda i: abs(arc[i][0] - arc[i][1]))


def test_without_a_bend_there_is_none() -> None:
    assert knee([]) is None
    assert knee([(0.0, 1.0), (1.0, 0.0)]) is None
    assert knee([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]) is None
    assert knee([(0.0, 1.0), (0.5, 0.2), (1.0, 0.0)]) is None
