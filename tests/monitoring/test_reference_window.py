from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from simulated import Prompts, score, window

from selfaug.errors import DataError
from selfaug.monitoring.novelty import NoveltySketch
from selfaug.monitoring.reference_window import ReferenceWindow, measure_reference_window


def of(lengths: np.ndarray, drift: np.ndarray) -> ReferenceWindow:
    return ReferenceWindow(lengths, drift, np.zeros(len(drift)), {}, "a", NoveltySketch.of([]))


def test_z_is_by_bucket_of_length() -> None:
    """1,000 prompts, four buckets, with a drift that goes with length: the naive loop over quarters."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.arange(1000) + 20)
    drift = np.exp(rng.normal(-4, 0.5, 1000) + lengths / 400)
    reference = of(lengths, drift)
    order = np.argsort(lengths)
    for quarter in range(4):
        inside = order[quarter * 250 : (quarter + 1) * 250]
        logs = [math.log(drift[place]) for place in inside]
        for place in inside[:5]:
            z = (math.log(drift[place]) - mean(logs)) / stdev(logs)
            assert reference.standardised([drift[place]], [lengths[place]])[0] == pytest.approx(z)
    # A change of lengths alone moves nothing much.
    assert abs(reference.standardised(drift[order[:250]], lengths[order[:250]]).mean()) < 1e-9


@pytest.mark.parametrize("lengths", [np.full(1000, 30), np.repeat([30, 31], [990, 10]), np.arange(120)])
def test_equal_lengths_and_few_prompts_are_one_bucket(lengths: np.ndarray) -> None:
    drift = np.random.default_rng(0).lognormal(size=len(lengths))
    z = of(lengths, drift).standardised(drift, lengths)
    logs = np.log(drift)
    assert z == pytest.approx((logs - logs.mean()) / logs.std(ddof=1))


def test_no_drift_at_all_is_finite_and_a_tenth_more_is_no_alert() -> None:
    reference = of(np.arange(100), np.zeros(100))
    assert reference.standardised([0.0, -1e-9], [3, 4]) == pytest.approx([0, 0])
    alike = of(np.arange(100), np.full(100, 0.02))
    assert alike.standardised([0.022], [3])[0] < 1


def test_held_out_prompts_come_first() -> None:
    source = Prompts(3)
    held_out, training = [source.draw() for _ in range(60)], [source.draw() for _ in range(500)]
    got = measure_reference_window([*held_out, [7]], training, score, adapter="a", prompts=100, batch_size=7)
    assert got.sources == {"held out": 60, "training": 40}
    measured = dict(zip(got.drift.tolist(), got.lengths.tolist(), strict=True))
    for prompt in held_out:  # each with its own length
        assert measured[prompt[0] / 1e7] == len(prompt)
    assert got.summary() == {"prompts": 100, "held out": 60, "training": 40}
    more = measure_reference_window(held_out, training, score, adapter="a", prompts=55)
    assert more.sources == {"held out": 55, "training": 0}


def test_it_comes_back_from_the_folder(tmp_path: Path) -> None:
    before = window(300)
    before.save(tmp_path / "monitor")
    after = ReferenceWindow.load(tmp_path / "monitor")
    assert after.drift == pytest.approx(before.drift)
    assert after.novelty == pytest.approx(before.novelty)
    assert (after.lengths == before.lengths).all()
    assert (after.sources, after.adapter) == (before.sources, before.adapter)
    prompt = Prompts(9).draw()
    assert after.sketch.novelty(prompt) == before.sketch.novelty(prompt)


def test_too_few_prompts_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="19 prompts says too little"):
        window(19)
    with pytest.raises(DataError, match="no reference window"):
        ReferenceWindow.load(tmp_path)
    window(60).save(tmp_path)
    record = json.loads((tmp_path / "reference.json").read_text(encoding="utf-8"))
    del record["data"]["drift"]
    (tmp_path / "reference.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        ReferenceWindow.load(tmp_path)
