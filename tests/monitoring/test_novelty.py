from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import Prompts

from selfaug.errors import DataError
from selfaug.monitoring import novelty
from selfaug.monitoring.novelty import NoveltySketch

PROMPT = st.lists(st.integers(0, 5), min_size=0, max_size=30)


def half(prompt: list[int]) -> int:
    return hashlib.blake2b(np.asarray(prompt, dtype="<i8").tobytes(), digest_size=1).digest()[0] & 1


def naive(prompt: list[int], training: list[list[int]]) -> float:
    """With sets of token triples."""
    known = {
        tuple(other[place : place + 3])
        for other in training
        if half(other) != half(prompt)
        for place in range(len(other) - 2)
    }
    own = [tuple(prompt[place : place + 3]) for place in range(len(prompt) - 2)]
    return sum(triple not in known for triple in own) / len(own) if own else 0.0


@given(training=st.lists(PROMPT, max_size=12), prompt=PROMPT)
def test_novelty_is_that_of_sets(training: list[list[int]], prompt: list[int]) -> None:
    assert NoveltySketch.of(training).novelty(prompt) == pytest.approx(naive(prompt, training))


def test_collisions_are_few() -> None:
    rng = np.random.default_rng(0)
    training = [rng.integers(0, 50_000, size=400).tolist() for _ in range(300)]
    sketch = NoveltySketch.of(training)
    fresh = [sketch.novelty(rng.integers(0, 50_000, size=400).tolist()) for _ in range(50)]
    assert 0.85 < np.mean(fresh) < 1  # one bit in eight is set at most


def test_hashes_of_many_prompts_are_merged_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    text = rng.integers(0, 50_000, size=2000)
    first = NoveltySketch.of([number, *text] for number in range(200))
    monkeypatch.setattr(novelty, "_FEWEST_MERGED", 4000)
    tracemalloc.start()
    sketch = NoveltySketch.of([number, *text] for number in range(200))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (sketch._halves == first._halves).all()
    assert most < 1_000_000  # all of them are 3 MB, in 8 bytes each


def test_training_prompts_and_live_ones_of_their_kind_are_measured_alike() -> None:
    """Also though the sketch is made of the former."""
    source = Prompts(0)
    training = [source.draw() for _ in range(400)]
    sketch = NoveltySketch.of(training)
    seen = np.asarray([sketch.novelty(prompt) for prompt in training])
    live = np.asarray([sketch.novelty(source.draw()) for _ in range(400)])
    unseen = np.asarray([sketch.novelty(source.draw(unseen=True)) for _ in range(100)])
    assert abs(seen.mean() - live.mean()) < 3 * np.sqrt(seen.var() / 400 + live.var() / 400)
    assert unseen.min() > live.max()


def test_a_sketch_comes_back_from_its_file_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    source = Prompts(0)
    sketch = NoveltySketch.of(source.draw() for _ in range(30))
    sketch.save(tmp_path / "novelty.npy")
    again = NoveltySketch.load(tmp_path / "novelty.npy")
    for prompt in [source.draw() for _ in range(30)]:
        assert again.novelty(prompt) == sketch.novelty(prompt)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "novelty.npy").read_bytes()[:500])
    np.save(tmp_path / "other.npy", np.zeros((3, 10)))
    for name in ("cut.npy", "other.npy", "missing.npy"):
        with pytest.raises(DataError, match=name):
            NoveltySketch.load(tmp_path / name)
