"""The signals of live traffic: each has values, a reference, a detector and a state. No threads, no storage.

What comes in (drift, novelty, prompt length) is compared with the prompts of training; what goes out (completion
length, refusals, format violations, empty retrieval, thumbs down) with the first days of live traffic, because training
has no such values. On the first days each detector's threshold is calibrated too: until then a signal is learning.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfaug.core.alert_state import (
    ALERTS,
    LONGEST_PAUSE,
    WATCH_FROM,
    AlertLevel,
    State,
    after_silence,
    next_level,
    worst,
)
from selfaug.core.change_detection import (
    CUSUM_SLACK,
    CUSUM_THRESHOLD,
    STEP,
    WINDOW,
    Cusum,
    RankWindow,
    RateDetector,
    critical_z,
    highest_rate,
    placements,
    population_stability_index,
    rate_threshold,
    tie_factor,
)
from selfaug.core.false_alarms import MONTH_DAYS, budget_shares, calibrated_threshold
from selfaug.monitoring.reference_window import ReferenceWindow

__all__ = ["SIGNALS", "SignalView", "Signals", "StateChange"]

Floats = NDArray[np.float64]
Detector = Cusum | RankWindow | RateDetector
SignalName = Literal[
    "drift",
    "novelty",
    "prompt_length",
    "completion_length",
    "refusals",
    "format_violations",
    "empty_retrieval",
    "thumbs_down",
]

INPUTS: tuple[SignalName, ...] = ("drift", "novelty", "prompt_length")
"""Compared with training. The monitor as a whole is learning until these have learnt."""
RATES: tuple[SignalName, ...] = ("refusals", "format_violations", "empty_retrieval", "thumbs_down")
SIGNALS: tuple[SignalName, ...] = (*INPUTS, "completion_length", *RATES)

UNITS = {"drift": "nats/token", "novelty": "share", "prompt_length": "tokens", "completion_length": "tokens"}

LEARNING_DAYS = 3.0
_LEAST = 500
"""Values to learn from; also what the population stability index needs."""
_LEAST_VOTES = 50
_LEAST_COMPARED = 1000
"""Reference values for the population stability index: with fewer it is mostly noise."""
_MOST_REFERENCE = 2000
_LOWEST_RATE = 0.001
"""A rate that stays under this is not looked at more closely."""


@dataclass(frozen=True)
class StateChange:
    """A signal, or the monitor as a whole ("monitor"), has another state than before."""

    time: float
    signal: str
    before: State
    after: State
    statistic: float | None
    threshold: float | None


@dataclass(frozen=True)
class SignalView:
    """A signal as it is shown.

    Attributes:
        name: of the signal.
        state: one of `selfaug.core.alert_state.STATES`.
        unit: of value and reference.
        value: mean of the last 100 values, or None.
        reference: mean of the reference, or the highest rate that it allows; None while that is learnt.
        statistic: the detector's.
        threshold: of the statistic.
        psi: population stability index of the last 500 values against 1,000 or more; None with fewer, and for rates.
            Never alerts.
        values: how many have come; while it is learning, how many of these it learns from.
        needed: how many are needed to learn.
        note: what the user should know, or empty.
    """

    name: str
    state: State
    unit: str
    value: float | None
    reference: float | None
    statistic: float | None
    threshold: float | None
    psi: float | None
    values: int
    needed: int
    note: str


class _Signal:
    """One signal. Subclasses say what its detector takes, and what it learns."""

    def __init__(self, name: SignalName, share: float, per_month: float, learning_days: float) -> None:
        self.name, self.share, self.per_month = name, share, per_month
        self.needed = _LEAST_VOTES if name == "thumbs_down" else _LEAST
        self.values = 0
        self.first: float | None = None
        self.last: float | None = None
        self.level = AlertLevel("learning")
        self.detector: Detector | None = None
        self.note = ""
        self.acknowledged: float | None = None  # when someone has last said that its alert is dealt with
        self._learning_seconds = learning_days * 86_400
        self._since_step = 0
        self._learning: list[tuple[Floats, Floats]] = []
        # How many it learns from, and when the first and the last of them came. Not all that ever came: what an earlier
        # process had may have been deleted since.
        self._learning_count, self._learning_from, self._learning_to = 0, math.inf, -math.inf
        self._recent: deque[float] = deque(maxlen=_LEAST)

    # ---- what differs between signals

    def scores(self, values: Floats, lengths: Floats) -> Floats:
        """What is learnt from and what the detector takes."""
        return values

    def learn(self, scores: Floats) -> None:
        """Take a reference from the first days, where training has none."""

    def placed(self, scores: Floats) -> Floats:
        """Scores as the detector takes them."""
        return scores

    def fresh(self, threshold: float) -> Detector:
        """A detector from its beginning."""
        raise NotImplementedError

    def highest_factor(self, scores: Floats) -> float:
        """Calibration raises the threshold to so many times that for independent values, and no further.

        Traffic that was nothing like the reference from the first day on alerts all the same.
        """
        return 2.0

    def threshold_if_independent(self) -> float:
        """Where it alarms if the values don't depend on each other."""
        raise NotImplementedError

    def reference(self) -> float | None:
        """What the values are compared with, as one number."""
        raise NotImplementedError

    def reference_values(self) -> Floats | None:
        """The reference's values, for the population stability index."""
        return None

    def learnt(self) -> dict[str, Any]:
        """What `learn` took."""
        return {}

    def recall(self, learnt: Mapping[str, Any]) -> None:
        """Take what `learnt` gave."""

    # ---- what all do

    def update(self, times: Floats, values: Floats, lengths: Floats) -> list[StateChange]:
        """Take values in the order in which they came; says how the state changed."""
        if values.size == 0:
            return []
        self._recent.extend(values.tolist())
        self.values += values.size
        self.first = float(times.min()) if self.first is None else self.first
        before = float(times[0]) if self.last is None else self.last
        self.last = max(float(times.max()), before)
        scores = self.scores(values, lengths)
        if self.detector is None:
            self._learn_from(times, scores)
            return [self._end_learning()] if self._has_enough() else []
        pauses = np.diff(times, prepend=before)
        return self._look(times, self.placed(scores), np.maximum(pauses - LONGEST_PAUSE, 0.0))

    def _learn_from(self, times: Floats, scores: Floats) -> None:
        self._learning.append((times, scores))
        self._learning_count += times.size
        self._learning_from = min(self._learning_from, float(times.min()))
        self._learning_to = max(self._learning_to, float(times.max()))

    def _has_enough(self) -> bool:
        lasted = self._learning_to - self._learning_from
        return self._learning_count >= self.needed and lasted >= self._learning_seconds

    def _end_learning(self) -> StateChange:
        times, scores = (np.concatenate(part) for part in zip(*self._learning, strict=True))
        self._learning.clear()
        # Prompts that wait for their drift come later than others.
        order = np.argsort(times, kind="stable")
        times, scores = times[order], scores[order]
        self.learn(scores)
        usual = self.threshold_if_independent()
        threshold, wanted = calibrated_threshold(
            times,
            self.placed(scores),
            lambda series: self.fresh(math.inf).advance(series),
            share=self.share,
            lowest=usual,
            highest=self.highest_factor(scores) * usual,
        )
        if wanted > threshold:
            self.note = "the first days were unlike the reference: an alert is to be expected"
        elif threshold > 2 * usual:
            self.note = "the first days went up and down: a change is found later than in even traffic"
        self.detector = self.fresh(threshold)
        return self._move(AlertLevel("ok"), times[-1])

    def _look(self, times: Floats, scores: Floats, not_counted: Floats) -> list[StateChange]:
        """Advance the detector, and the state after each `STEP` values.

        Args:
            times: of the values [N].
            scores: as the detector takes them [N].
            not_counted: seconds before each value that are no time in drift [N].
        """
        assert self.detector is not None
        path = self.detector.advance(scores)
        ends = np.arange(STEP - self._since_step, path.size + 1, STEP)
        self._since_step = (self._since_step + path.size) % STEP
        if self.level.state == "ok" and path.max() < WATCH_FROM * self.detector.threshold:
            return []
        changes: list[StateChange] = []
        begin = 0
        for end in [*ends.tolist(), path.size]:
            if end > begin:
                ratio = float(path[begin:end].max()) / self.detector.threshold
                level = next_level(
                    self.level,
                    ratio,
                    float(times[end - 1]),
                    step_done=end in ends,
                    not_counted=float(not_counted[begin:end].sum()),
                )
                if level.state != self.level.state:
                    changes.append(self._move(level, float(times[end - 1])))
                self.level = level
                begin = end
        return changes

    def _move(self, level: AlertLevel, time: float) -> StateChange:
        before, self.level = self.level.state, level
        statistic = None if self.detector is None else self.detector.value
        threshold = None if self.detector is None else self.detector.threshold
        return StateChange(time, self.name, before, level.state, statistic, threshold)

    def acknowledge(self, time: float, now: float) -> list[StateChange]:
        """End its alert, if that began before a time, and look anew from now on; what it has learnt stays.

        Each time ends one alert at most: values from before it may come later, and an alert that they raise is another.
        """
        if time == self.acknowledged:
            return []
        self.acknowledged, since = time, self.level.since
        if self.detector is None or self.level.state not in ALERTS or since is None or since > time:
            return []
        self.detector = self.fresh(self.detector.threshold)
        self._since_step = 0
        return [self._move(AlertLevel("ok"), now)]

    def state(self, now: float) -> State:
        """Its state, or that it has no data."""
        return after_silence(self.level.state, math.inf if self.last is None else now - self.last)

    def view(self, now: float) -> SignalView:
        """As it is shown."""
        recent = list(self._recent)
        compared = self.reference_values()
        psi = None
        if compared is not None and len(compared) >= _LEAST_COMPARED and len(recent) == _LEAST:
            psi = population_stability_index(recent, compared)
        return SignalView(
            self.name,
            self.state(now),
            UNITS.get(self.name, "share"),
            float(np.mean(recent[-WINDOW:])) if recent else None,
            self.reference(),
            None if self.detector is None else self.detector.value,
            None if self.detector is None else self.detector.threshold,
            psi,
            self._learning_count if self.detector is None else self.values,
            self.needed,
            self.note,
        )

    def snapshot(self) -> dict[str, Any]:
        """What `restore` takes, as JSON; the values that it learns from are not in it."""
        return {
            "values": self.values,
            "first": self.first,
            "last": self.last,
            "level": asdict(self.level),
            "acknowledged": self.acknowledged,
            "since_step": self._since_step,
            "detector": None if self.detector is None else self.detector.state(),
        }

    def lessons(self) -> dict[str, Any] | None:
        """What it has learnt, as JSON; None while it is learning."""
        if self.detector is None:
            return None
        return {"threshold": self.detector.threshold, "note": self.note, **self.learnt()}

    def restore(
        self,
        snapshot: Mapping[str, Any],
        lessons: Mapping[str, Any] | None,
        history: Callable[[int | None], tuple[Floats, Floats, Floats]],
    ) -> None:
        """Go on from a snapshot.

        Args:
            snapshot: from `snapshot`.
            lessons: from `lessons`; not used if the signal was learning when the snapshot was taken.
            history: times, values and lengths of the last so many values, of all for None. What came after the
                snapshot, as votes do while nobody watches, is left for `update`.
        """
        self.values, self.first, self.last = snapshot["values"], snapshot["first"], snapshot["last"]
        self.level, self._since_step = AlertLevel(**snapshot["level"]), snapshot["since_step"]
        self.acknowledged = snapshot["acknowledged"]
        if snapshot["detector"] is None:  # it was learning: the lessons are another adapter's
            lessons = None
        if lessons is not None:
            self.recall(lessons)
            self.note = lessons["note"]
            self.detector = self.fresh(lessons["threshold"])
            self.detector.resume(snapshot["detector"])
        times, values, lengths = history(None if lessons is None else _LEAST)
        seen = times <= (-math.inf if self.last is None else self.last)
        times, values, lengths = times[seen], values[seen], lengths[seen]
        self._recent.extend(values[-_LEAST:].tolist())
        if lessons is None and values.size:
            self._learn_from(times, self.scores(values, lengths))


class _Drift(_Signal):
    """Cumulative sum of standardised drift."""

    def __init__(self, window: ReferenceWindow, **common: Any) -> None:
        super().__init__("drift", **common)
        self._window = window

    def scores(self, values: Floats, lengths: Floats) -> Floats:
        return self._window.standardised(values, lengths)

    def fresh(self, threshold: float) -> Detector:
        return Cusum(threshold)

    def highest_factor(self, scores: Floats) -> float:
        # Under the slack on average, whatever its seasons: then the sum comes back to 0, and seasons may need room.
        return 20.0 if scores.mean() < CUSUM_SLACK else 4.0

    def threshold_if_independent(self) -> float:
        return CUSUM_THRESHOLD

    def reference(self) -> float | None:
        return float(self._window.drift.mean())

    def reference_values(self) -> Floats | None:
        return self._window.drift


class _Ranks(_Signal):
    """Mann-Whitney test against a reference, which is learnt where none is given."""

    def __init__(self, name: SignalName, reference: ArrayLike | None, two_sided: bool, **common: Any) -> None:
        super().__init__(name, **common)
        self._two_sided = two_sided
        self._of_training = reference is not None
        self._sorted: Floats | None = (
            None if reference is None else np.sort(np.asarray(reference, np.float64))
        )

    def learn(self, scores: Floats) -> None:
        if not self._of_training:
            drawn = np.random.default_rng(0).permutation(len(scores))[:_MOST_REFERENCE]
            self._sorted = np.sort(scores[drawn])

    def placed(self, scores: Floats) -> Floats:
        assert self._sorted is not None
        return placements(scores, self._sorted)

    def fresh(self, threshold: float) -> Detector:
        assert self._sorted is not None
        return RankWindow(len(self._sorted), tie_factor(self._sorted), threshold, self._two_sided)

    def threshold_if_independent(self) -> float:
        return critical_z(self.share, self.per_month / STEP, two_sided=self._two_sided)

    def reference(self) -> float | None:
        return None if self._sorted is None else float(self._sorted.mean())

    def reference_values(self) -> Floats | None:
        return self._sorted

    def learnt(self) -> dict[str, Any]:
        assert self._sorted is not None
        return {} if self._of_training else {"reference": self._sorted.tolist()}

    def recall(self, learnt: Mapping[str, Any]) -> None:
        if not self._of_training:
            self._sorted = np.asarray(learnt["reference"], dtype=np.float64)


class _Rate(_Signal):
    """Sequential test of a rate against the highest that the first days allow."""

    def __init__(self, name: SignalName, **common: Any) -> None:
        super().__init__(name, **common)
        self._rate: float | None = None

    def learn(self, scores: Floats) -> None:
        self._rate = min(max(highest_rate(int(scores.sum()), len(scores)), _LOWEST_RATE), 0.99)

    def fresh(self, threshold: float) -> Detector:
        assert self._rate is not None
        return RateDetector(self._rate, threshold)

    def threshold_if_independent(self) -> float:
        return rate_threshold(self.share, self.per_month)

    def reference(self) -> float | None:
        return self._rate

    def learnt(self) -> dict[str, Any]:
        return {"rate": self._rate}

    def recall(self, learnt: Mapping[str, Any]) -> None:
        self._rate = learnt["rate"]


class Signals:
    """All signals of one deployed adapter.

    Args:
        window: the reference window of its training.
        scored_per_hour: most prompts whose drift is measured in an hour; the budget of false alarms is spent on these.
            0 where none is measured: the drift has no part in the state of all signals together then.
        taken_per_hour: most requests that the other signals look at.
        learning_days: how long the first days are.
    """

    def __init__(
        self,
        window: ReferenceWindow,
        *,
        scored_per_hour: float,
        taken_per_hour: float,
        learning_days: float = LEARNING_DAYS,
    ) -> None:
        shares = budget_shares("drift", SIGNALS[1:])

        def common(name: SignalName) -> dict[str, Any]:
            per_hour = scored_per_hour if name == "drift" else taken_per_hour
            return {
                "share": shares[name],
                "per_month": max(1.0, per_hour) * 24 * MONTH_DAYS,
                "learning_days": learning_days,
            }

        self._of: dict[SignalName, _Signal] = {
            "drift": _Drift(window, **common("drift")),
            "novelty": _Ranks("novelty", window.novelty, False, **common("novelty")),
            "prompt_length": _Ranks("prompt_length", window.lengths, True, **common("prompt_length")),
            "completion_length": _Ranks("completion_length", None, True, **common("completion_length")),
            **{name: _Rate(name, **common(name)) for name in RATES},
        }
        self._watched = tuple(name for name in SIGNALS if name != "drift" or scored_per_hour > 0)

    @property
    def watched(self) -> tuple[SignalName, ...]:
        """The signals that have a part in the state of all together."""
        return self._watched

    def update(
        self, name: SignalName, times: ArrayLike, values: ArrayLike, lengths: ArrayLike | None = None
    ) -> list[StateChange]:
        """Take values of one signal, in the order in which they came.

        Args:
            name: of the signal.
            times: in seconds, ascending [N].
            values: in the signal's unit, 0 or 1 for rates [N].
            lengths: for drift, tokens of each prompt [N].

        Returns:
            How its state changed.
        """
        of = np.asarray(values, dtype=np.float64)
        prompts = np.zeros_like(of) if lengths is None else np.asarray(lengths, dtype=np.float64)
        return self._of[name].update(np.asarray(times, dtype=np.float64), of, prompts)

    def acknowledge(self, times: Mapping[str, float], now: float) -> list[StateChange]:
        """End alerts that someone has dealt with: quiet alone ends that of a signal with few values only after months.

        Args:
            times: when somebody has said so, in seconds, by signal. What began later is another alert; so is what
                begins once the one of that time has ended.
            now: in seconds.

        Returns:
            How states changed.
        """
        return [
            change
            for name, signal in self._of.items()
            if name in times
            for change in signal.acknowledge(times[name], now)
        ]

    def state(self, now: float) -> State:
        """The state of all together: the worst alert; else learning, if a signal of what comes in is; else ok."""
        if all(self._of[name].state(now) == "no_data" for name in self._watched):
            return "no_data"
        levels = {name: self._of[name].level.state for name in self._watched}
        found = worst("ok" if state in ("no_data", "learning") else state for state in levels.values())
        if found == "ok" and any(levels.get(name) == "learning" for name in INPUTS):
            return "learning"
        return found

    def views(self, now: float) -> list[SignalView]:
        """All signals as they are shown."""
        return [signal.view(now) for signal in self._of.values()]

    def snapshot(self) -> dict[str, Any]:
        """Small and JSON; for `restore`, with `lessons`."""
        return {name: signal.snapshot() for name, signal in self._of.items()}

    def lessons(self) -> dict[str, Any]:
        """What each signal that is not learning any more has learnt."""
        found = {name: signal.lessons() for name, signal in self._of.items()}
        return {name: lessons for name, lessons in found.items() if lessons is not None}

    def restore(
        self,
        snapshot: Mapping[str, Any],
        lessons: Mapping[str, Any],
        history: Callable[[SignalName, int | None], tuple[Floats, Floats, Floats]],
    ) -> None:
        """Go on as if there had been no break.

        Args:
            snapshot: from `snapshot`.
            lessons: from `lessons`.
            history: of a signal, times, values and lengths of its last so many values, or of all.
        """
        for name, signal in self._of.items():
            if name in snapshot:
                signal.restore(snapshot[name], lessons.get(name), partial(history, name))
