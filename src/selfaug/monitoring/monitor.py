"""The monitor of a deployed adapter: takes what the server offers, and works in the background.

Offering never blocks and never raises. One thread of the lowest priority does everything else: it measures the drift of
sampled prompts, keeps signals and states, writes to the store, and tells of changes. Whatever fails there is counted.
"""

from __future__ import annotations

import hashlib
import math
import os
import queue
import sqlite3
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import Timeout

from selfaug.core import metric_names
from selfaug.core.alert_state import ALERTS, STATES, State
from selfaug.core.metric_names import Sample
from selfaug.core.rate_limit import RateLimit
from selfaug.errors import SelfAugError, StorageError
from selfaug.file_lock import FileLock
from selfaug.monitoring.evidence import EVIDENCE_ROWS, Alert, write_alert
from selfaug.monitoring.kept_text import kept_text
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.offer_count import OfferCount
from selfaug.monitoring.prompt_hashes import KEY_FILE, PromptHashes
from selfaug.monitoring.reference_window import ReferenceWindow, Score
from selfaug.monitoring.retention import delete_files_before
from selfaug.monitoring.signals import LEARNING_DAYS, SIGNALS, SignalName, Signals, StateChange
from selfaug.monitoring.store import ACKNOWLEDGED, Batch, Row, Store
from selfaug.monitoring.webhook import Webhook

__all__ = ["Monitor", "MonitorSettings", "lowest_priority"]

_ADAPTER_DIGITS = 12
"""Of the hash of its weights, as `selfaug monitor` shows it."""
_AT_ONCE = 256
"""Things from the queue that are committed together."""
_PAUSE = 0.2
_HEARTBEAT = 60.0
_VIEWS_EVERY = 5.0
_TRACE_EVERY = 900.0
"""Seconds between two points of the detectors' course, for pictures."""
_MOST_TRACED = 2880
"""Points: thirty days of them."""
_PURGE_EVERY = 3600.0
_MOST_PENDING = 32
"""Sampled prompts that wait for compute at most, or four times as many as are measured at once."""
_WAITS_FOR_SCORE = 600.0
"""Seconds that a sampled prompt waits for compute; then it is kept without its drift."""
_DRIFT_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


PROCESSED = (
    "processed",
    "lost",
    "unanswered",
    "scored",
    "thinned",
    "over_hour",
    "over_compute",
    "score_failed",
    "votes",
    "canaries",
)
"""What is counted of things that were offered and not dropped; see `Monitor.counts`."""


@dataclass(frozen=True)
class MonitorSettings:
    """What the monitor may cost, and what it keeps.

    Attributes:
        sample: share of requests whose prompt's drift is measured.
        scored_per_hour: most such prompts in an hour.
        compute_share: most of the time that measuring may take.
        taken_per_hour: most further requests in an hour that the other signals look at.
        batch_size: prompts measured at once.
        queue_size: requests that wait at most; more are dropped.
        learning_days: days before a signal can alert.
        keep_texts: keep prompts and answers as redacted text.
        keep_days: days after which requests, texts, votes and evidence are deleted.
        most_bytes: the store grows no larger: where it is full, the oldest texts are deleted before their time.
    """

    sample: float = 0.01
    scored_per_hour: float = 200.0
    compute_share: float = 0.01
    taken_per_hour: float = 1000.0
    batch_size: int = 8
    queue_size: int = 1000
    learning_days: float = LEARNING_DAYS
    keep_texts: bool = False
    keep_days: float = 30.0
    most_bytes: int | None = 2 << 30


class _Vote(NamedTuple):
    request_id: str
    up: bool


class _Canary(NamedTuple):
    passed: bool | None
    """None until it is replayed."""
    why: str


def _hourly(count: float) -> RateLimit:
    """So many an hour, and none for 0: unused ones add up to five minutes' worth."""
    return RateLimit(count / 3600, burst=max(1.0, count / 12) if count > 0 else 0.0)


class Monitor:
    """Watches the traffic of one adapter.

    Args:
        folder: where everything is kept; made if it does not exist. One monitor at a time.
        window: the reference window of the adapter's training.
        score: drift of prompts, by the training's own function; called in the monitor's thread, with at most
            `settings.batch_size` prompts.
        run: name of the run, for reports.
        settings: what it may cost, and what it keeps.
        webhook: URL that is told of changes of state.
        canary: what of the canary set has not come back, as far as it has been replayed already: empty if all has;
            None if it has not been. Without it, a monitor that begins while the set fails would say at first that all
            is well again.
        tell: called with what the user should know about the webhook, as that of `Webhook`.
        realign: settings that are written as realign.yaml on an alert.
        undated: takes a date that is another one each day out of a prompt of some time, in seconds since 1970, as it
            was taken out of the reference window's.
        clock: seconds since 1970.
        compute_clock: seconds of computing, of which the difference before and after is what a call of `score` took.
        threaded: whether a thread works in the background; else `work` is called.

    Raises:
        StorageError: if the folder can't be used, or another monitor uses it.
        ConfigError: if the webhook is no address.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        window: ReferenceWindow,
        score: Score,
        *,
        run: str = "",
        settings: MonitorSettings | None = None,
        webhook: str | None = None,
        canary: Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda _: None,
        realign: Mapping[str, Any] | None = None,
        undated: Callable[[Sequence[int], float], Sequence[int]] = lambda prompt, _: prompt,
        clock: Callable[[], float] = time.time,
        compute_clock: Callable[[], float] = time.perf_counter,
        threaded: bool = True,
    ) -> None:
        self._settings = settings or MonitorSettings()
        self._folder, self._run, self._realign = Path(folder), run, realign
        self._window, self._adapter, self._score = window, window.adapter, score
        self._undated, self._clock, self._compute_clock = undated, clock, compute_clock
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._closed = False
        self._pending: deque[tuple[float, Observation]] = deque()
        self._scored = _hourly(self._settings.scored_per_hour)
        self._taken = _hourly(self._settings.taken_per_hour)
        self._next_score = self._next_beat = self._next_views = self._next_purge = float("-inf")
        self._latest = float("-inf")
        self._purging: Iterator[int] = iter(())
        self._unwritten: Counter[str] = Counter()
        self._untold: list[StateChange] = []
        self._unreported: Alert | None = None
        self._next_report = float("-inf")
        self._canary = _Canary(None, "") if canary is None else _Canary(not canary, "; ".join(canary))
        self._last_error = ""
        self._drift_buckets = [0] * (len(_DRIFT_BOUNDS) + 1)
        self._drift_sum, self._scoring_seconds = 0.0, 0.0
        self._trace: list[dict[str, Any]] = []
        scored_per_hour = self._settings.scored_per_hour if self._settings.sample > 0 else 0.0
        self._signals = Signals(
            window,
            scored_per_hour=scored_per_hour,
            taken_per_hour=self._settings.taken_per_hour + scored_per_hour,
            learning_days=self._settings.learning_days,
        )
        self._open()
        self._webhook = None if webhook is None else Webhook(webhook, tell=tell)
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._work_on, name="selfaug-monitor", daemon=True)
            self._thread.start()

    def _open(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file_lock = FileLock(
                self._folder / "monitor.lock", thread_local=False
            )  # closed by any thread
            self._file_lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(
                f"another monitor is using {self._folder}.", hint="one server watches a run at a time."
            ) from error
        except OSError as error:
            raise _not_writable(self._folder, error) from error
        try:
            self._hashes = PromptHashes(self._folder / KEY_FILE)
            self._store = Store(self._folder, most_bytes=self._settings.most_bytes)
            self._counts = Counter(self._store.counts())
            self._offers = OfferCount(self._folder / "offered.bin")
            self._count_lost()
            self._overall: State = "no_data"
            # As they were last written; None where the store has those of another adapter, or none.
            self._lessons: dict[str, Any] | None = None
            self._missed_votes: list[tuple[float, bool]] = []
            before = self._store.kept("state")
            if before is not None and before["adapter"] == self._adapter:
                self._overall = before["overall"]
                self._signals.restore(before["signals"], self._store.kept("lessons") or {}, self._history)
                self._missed_votes = self._votes_after(before["signals"]["thumbs_down"]["last"])
                self._trace = self._store.kept("trace") or []
                self._lessons = self._signals.lessons()
            # Made anew by the thread, never changed: other threads read it at any time.
            self._views = self._signals.views(self._clock())
        except BaseException as error:
            self._file_lock.release()
            if isinstance(error, OSError):
                raise _not_writable(self._folder, error) from error
            raise

    def _history(self, signal: SignalName, count: int | None) -> Any:
        return self._store.history(signal, self._adapter, count)

    def _votes_after(self, time: float | None) -> list[tuple[float, bool]]:
        """Time and thumb of votes that were written while nobody watched: the signal has not had them yet."""
        times, downs, _ = self._store.history("thumbs_down", self._adapter, None)
        seen = -math.inf if time is None else time
        return [(at, not down) for at, down in zip(times.tolist(), downs.tolist(), strict=True) if at > seen]

    def _count_lost(self) -> None:
        """What an earlier process was offered, and neither dropped nor committed."""
        known = self._counts["processed"] + self._counts["lost"]
        lost = self._offers.offered - self._offers.dropped - known
        if lost < 0:  # the file of the counts is newer than that of the offers
            self._offers.offered -= lost
        elif lost > 0:
            self._unwritten["lost"] += lost
            self._counts["lost"] += lost

    # ---- called by the server

    def offer(self, observation: Observation) -> None:
        """Hand over an answered request. Returns at once and never raises; what finds no room is counted as dropped.

        Args:
            observation: not changed afterwards.
        """
        self._put(observation)

    def vote(self, request_id: str, up: bool) -> None:
        """Hand over a user's thumb, up or down; only the first for a request counts. As quick as `offer`, and never
        dropped for want of room."""
        self._put(_Vote(request_id, up))

    def canary(self, passed: bool, why: str = "") -> None:
        """Say whether the canary set was reproduced; if not, the state is drift until it is. As quick as `offer`."""
        self._put(_Canary(passed, why))

    def _put(self, thing: Any) -> None:
        try:
            with self._lock:
                if self._closed:
                    return
                # Votes were promised to whoever gave them, and what the canary set shows decides the state: both are
                # little.
                never_dropped = isinstance(thing, _Vote | _Canary)
                full = self._queue.qsize() >= self._settings.queue_size and not never_dropped
                self._offers.add(dropped=full)
                if not full:
                    self._queue.put((self._clock(), thing))
        except Exception as error:
            self._last_error = type(error).__name__

    def state(self) -> State:
        """The state of all signals together, and of the canary set, a minute old at most."""
        return self._overall

    def _state(self, now: float) -> State:
        found = self._signals.state(now)
        return "drift" if self._canary.passed is False and found not in ALERTS else found

    def status(self) -> dict[str, Any]:
        """Everything that is shown, as JSON: state, signals, counts, coverage. See `selfaug monitor --json`."""
        return self._status(self._counts)

    def _status(self, processed: Mapping[str, int]) -> dict[str, Any]:
        """The status, with other counts of what was processed than those of now."""
        counts = self._counts_with(processed)
        requests = max(1, counts["processed"] - counts["votes"] - counts["canaries"])
        return {
            "time": self._clock(),
            "run": self._run,
            "adapter": self._adapter,
            "state": self._overall,
            "signals": [dict(vars(view)) for view in self._views],
            "canary": {"passed": self._canary.passed, "why": self._canary.why},
            "counts": counts,
            "coverage": counts["scored"] / requests,
            "reference": self._window.summary(),
            "settings": asdict(self._settings),
            "webhook": None if self._webhook is None else self._webhook.status(),
            "last_error": self._last_error,
        }

    def counts(self) -> dict[str, int]:
        """What was offered, by what became of it.

        offered = dropped + processed + lost + what waits. Of the processed: votes, canaries, and requests; of those:
        unanswered (nothing was found), scored, thinned (beyond what is looked at in an hour), and of the sampled ones
        those not scored: over_hour, over_compute, score_failed.
        """
        return self._counts_with(self._counts)

    def _counts_with(self, processed: Mapping[str, int]) -> dict[str, int]:
        return {
            "offered": self._offers.offered,
            "dropped": self._offers.dropped,
            **{name: processed.get(name, 0) for name in PROCESSED},
        }

    def metrics(self) -> list[Sample]:
        """All numbers for Prometheus that are the monitor's."""
        overall = self._overall
        samples = [
            Sample(metric_names.ALERT_STATE, {"state": name}, float(name == overall)) for name in STATES
        ]
        for view in self._views:
            labels = {"signal": view.name}
            # A drift that is measured no longer has the state of then: nothing would ever end its alert.
            if view.name in self._signals.watched:
                samples += [
                    Sample(metric_names.SIGNAL_STATE, {**labels, "state": name}, float(name == view.state))
                    for name in STATES
                ]
            if view.value is not None:
                samples.append(Sample(metric_names.SIGNAL_VALUE, labels, view.value))
            if view.reference is not None:
                samples.append(Sample(metric_names.SIGNAL_REFERENCE, labels, view.reference))
            if view.statistic is not None and view.threshold is not None:
                ratio = view.statistic / view.threshold
                samples.append(Sample(metric_names.SIGNAL_THRESHOLD_SHARE, labels, ratio))
        below = 0
        for bound, count in zip((*map(str, _DRIFT_BOUNDS), "+Inf"), self._drift_buckets, strict=True):
            below += count
            samples.append(Sample(f"{metric_names.PROMPT_DRIFT}_bucket", {"le": bound}, below))
        samples.append(Sample(f"{metric_names.PROMPT_DRIFT}_sum", {}, self._drift_sum))
        samples.append(Sample(f"{metric_names.PROMPT_DRIFT}_count", {}, below))
        # They go on where an adapter's monitor stopped: another one's are another series, and no jump of this one.
        adapter = self._adapter[:_ADAPTER_DIGITS]
        samples += [
            Sample(metric_names.OBSERVATIONS, {"adapter": adapter, "outcome": name}, count)
            for name, count in self.counts().items()
        ]
        samples.append(Sample(metric_names.SCORING_SECONDS, {}, self._scoring_seconds))
        return samples if self._webhook is None else samples + self._webhook.metrics()

    def close(self, timeout: float = 5.0) -> None:
        """Stop; commit what waits, without measuring its drift. Waits for so many seconds at most."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
        else:
            self._finish()
        if self._webhook is not None:
            self._webhook.close(timeout)

    # ---- in the background

    def _work_on(self) -> None:
        lowest_priority()
        while not self._stop.is_set():
            if not self.work():
                self._stop.wait(_PAUSE)
        self._finish()  # here: who closes it may have waited long enough before the last measurement is done

    def _finish(self) -> None:
        while self.work(score=False):
            pass
        if any(self._unwritten.values()):
            self._next_beat = float("-inf")
            self.work(score=False)
        with suppress(Exception):
            self._store.close()
        self._offers.close()
        self._file_lock.release()

    def work(self, *, score: bool = True) -> bool:
        """Do what is to be done now. Never raises; what fails is counted as lost.

        What takes long has to wait until what was taken from the queue is committed, for meanwhile more comes: a piece
        of what is to be deleted, and the drift, which is measured only once nothing waits.

        Args:
            score: whether drift may be measured; else prompts that wait for it are kept without, and nothing is
                deleted: the monitor is about to end.

        Returns:
            Whether there was anything in the queue.
        """
        things: list[tuple[float, Any]] = []
        while len(things) < _AT_ONCE:
            try:
                things.append(self._queue.get_nowait())
            except queue.Empty:
                break
        self._do(partial(self._take, things))
        if not score:
            self._do(self._wait_no_longer)
            return bool(things)
        self._purge()
        if len(things) < _AT_ONCE:
            self._do(self._measure)  # also where the first has failed, as on a full disk
        return bool(things)

    def _do(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self._last_error = type(error).__name__
            self._count_rest_as_lost()

    def _count_rest_as_lost(self) -> None:
        """What was offered, and is neither counted otherwise nor waiting."""
        with self._lock:
            waiting = self._queue.qsize() + len(self._pending)
            known = self._offers.dropped + self._counts["processed"] + self._counts["lost"]
            lost = self._offers.offered - known - waiting
        self._counts["lost"] += lost
        self._unwritten["lost"] += lost

    def _take(self, things: list[tuple[float, Any]]) -> None:
        """Everything that one batch of things brings about, in its order."""
        now = self._clock()
        if now < self._latest:  # the clock was set back: nothing waits until it is where it was
            self._next_score = self._next_beat = self._next_views = self._next_purge = self._next_report = now
        self._latest = now
        done: Counter[str] = Counter()
        rows: list[Row] = []
        votes: dict[str, tuple[float, bool]] = {}
        for at, thing in things:
            if isinstance(thing, Observation):
                if (row := self._sorted(at, thing, done)) is not None:
                    rows.append(row)
                continue
            done["processed"] += 1
            if isinstance(thing, _Vote):
                done["votes"] += 1
                votes.setdefault(thing.request_id, (at, thing.up))
            else:
                done["canaries"] += 1
                self._canary = thing
        if rows or done or self._untold or now >= self._next_beat:
            self._keep(now, rows, done, votes)

    def _measure(self) -> None:
        """Measure the drift of prompts that wait for it, if it is time; keep those that have waited too long."""
        now = self._clock()
        done: Counter[str] = Counter()
        rows: list[Row] = []
        if self._pending and now >= self._next_score:
            rows += self._measured(now, done)
        while self._pending and now - self._pending[0][0] > _WAITS_FOR_SCORE:
            rows += self._unmeasured(done, 1)
        if rows:
            self._next_views = now  # the views of before have only just been made
            self._keep(self._clock(), rows, done)

    def _wait_no_longer(self) -> None:
        """Keep prompts that wait for their drift without it."""
        if self._pending:
            done: Counter[str] = Counter()
            rows = self._unmeasured(done, len(self._pending))
            self._keep(self._clock(), rows, done)

    def _keep(
        self,
        now: float,
        rows: list[Row],
        done: Counter[str],
        votes: Mapping[str, tuple[float, bool]] | None = None,
    ) -> None:
        """Give values to the signals, write all down, and tell of changes."""
        changes = self._acknowledged(now) if now >= self._next_views else []
        self._next_beat = now + _HEARTBEAT
        new = {name: vote for name, vote in (votes or {}).items() if not self._store.has_voted(name)}
        changes += self._update(rows, [*self._missed_votes, *new.values()])
        self._missed_votes = []
        overall = self._state(now)
        if overall != self._overall:
            changes.append(StateChange(now, "monitor", self._overall, overall, None, None))
            self._overall = overall
        if changes or now >= self._next_views:
            self._next_views = now + _VIEWS_EVERY
            self._views = self._signals.views(now)
        batch = Batch(rows, [(name, at, self._adapter, up) for name, (at, up) in new.items()])
        self._untold += changes
        try:
            self._commit(batch, done)
        finally:  # also on a full disk
            self._tell(now, changes)

    def _acknowledged(self, now: float) -> list[StateChange]:
        """End alerts that someone has dealt with, and has said so since they began."""
        try:
            times: Mapping[str, float] = self._store.kept(ACKNOWLEDGED) or {}
        except StorageError as error:  # signals take their values all the same
            self._last_error = type(error).__name__
            return []
        return self._signals.acknowledge(times, now)

    def _purge(self) -> None:
        """Delete a piece of what has been kept for its time: there may be much after a change of that time."""
        now = self._clock()
        if next(self._purging, None) is None and now >= self._next_purge:
            self._purging = self._purged(now)
            next(self._purging, None)

    def _purged(self, now: float) -> Iterator[int]:
        """Delete all of it, piece by piece. What fails is tried again with the next heartbeat."""
        self._next_purge = now + _PURGE_EVERY
        before = now - self._settings.keep_days * 86_400
        try:
            delete_files_before(self._folder, before, now=now)
        except Exception as error:  # whatever it is: requests are watched all the same
            self._last_error = type(error).__name__
            self._next_purge = now + _HEARTBEAT
        try:
            yield from self._store.purging(before)
        except Exception as error:
            self._last_error = type(error).__name__
            self._next_purge = now + _HEARTBEAT

    def _sorted(self, at: float, observation: Observation, done: Counter[str]) -> Row | None:
        """Let a sampled request wait for its drift, leave one out that is too many, or make its row."""
        digest = hashlib.blake2b(observation.request_id.encode(), digest_size=8).digest()
        answered = len(observation.prompt_ids) > 0
        if answered and int.from_bytes(digest, "little") < self._settings.sample * 2**64:
            # Nothing predicts the first token: a prompt of one has no drift.
            if len(observation.prompt_ids) > 1 and self._scored.wait(at) == 0:
                if len(self._pending) < max(_MOST_PENDING, 4 * self._settings.batch_size):
                    self._pending.append((at, observation))
                    return None
                done["over_compute"] += 1
            else:
                done["over_hour"] += 1
        done["processed"] += 1
        taken = self._taken.wait(at) == 0
        if not answered:
            done["unanswered"] += 1
        elif not taken:
            done["thinned"] += 1
        return self._row(at, observation, None) if taken else None

    def _measured(self, now: float, done: Counter[str]) -> list[Row]:
        """Rows of those whose drift is measured now: as many as are measured at once."""
        rows: list[Row] = []
        count = min(len(self._pending), self._settings.batch_size)
        chosen = [self._pending.popleft() for _ in range(count)]
        began = self._compute_clock()
        drifts: list[float | None]
        try:
            drifts = list(self._score([list(thing.prompt_ids) for _, thing in chosen]))
            if len(drifts) != count:
                raise ValueError(f"{len(drifts)} drifts of {count} prompts")
        except Exception as error:
            self._last_error = type(error).__name__
            drifts = [None] * count
        seconds = self._compute_clock() - began
        self._scoring_seconds += seconds
        self._next_score = now + seconds / max(self._settings.compute_share, 1e-9)
        for (at, thing), drift in zip(chosen, drifts, strict=True):
            usable = drift is not None and math.isfinite(drift)
            done["scored" if usable else "score_failed"] += 1
            done["processed"] += 1
            rows.append(self._row(at, thing, drift if usable else None))
        return rows

    def _unmeasured(self, done: Counter[str], count: int) -> list[Row]:
        """Rows of so many that wait for their drift, without it."""
        chosen = [self._pending.popleft() for _ in range(count)]
        done["over_compute"] += count
        done["processed"] += count
        return [self._row(at, thing, None) for at, thing in chosen]

    def _row(self, at: float, observation: Observation, drift: float | None) -> Row:
        key_id, prompt_hash = self._hashes.hash(observation.prompt_ids, at)
        return Row(
            at,
            observation.request_id,
            self._adapter,
            key_id,
            prompt_hash,
            len(observation.prompt_ids),
            observation.completion_tokens,
            self._window.sketch.novelty(self._undated(observation.prompt_ids, at)),
            observation.refused,
            observation.format_violation,
            observation.empty_retrieval,
            drift,
            kept_text(observation) if self._settings.keep_texts else None,
        )

    def _update(self, rows: list[Row], votes: list[tuple[float, bool]]) -> list[StateChange]:
        """Give the values to the signals."""
        values: dict[SignalName, list[tuple[float, float, int]]] = {name: [] for name in SIGNALS}
        for row in rows:
            of_row: dict[SignalName, float | None] = {"empty_retrieval": row.empty_retrieval}
            if row.prompt_tokens:  # else there was neither prompt nor answer
                of_row |= {
                    "drift": row.drift,
                    "novelty": row.novelty,
                    "prompt_length": row.prompt_tokens,
                    "completion_length": row.completion_tokens,
                    "refusals": row.refused,
                    "format_violations": row.format_violation,
                }
            for name, value in of_row.items():
                if value is not None:
                    values[name].append((row.time, float(value), row.prompt_tokens))
            if row.drift is not None:
                self._drift_buckets[bisect_left(_DRIFT_BOUNDS, row.drift)] += 1
                self._drift_sum += row.drift
        values["thumbs_down"] = [(at, float(not up), 0) for at, up in votes]
        changes: list[StateChange] = []
        for name, found in values.items():
            if found:
                times, of, lengths = zip(*found, strict=True)
                changes += self._signals.update(name, times, of, lengths)
        return changes

    def _commit(self, batch: Batch, done: Counter[str]) -> None:
        """Write the batch with the counts and the detectors' state; take over the counts once that is done."""
        batch.changes = [
            (one.time, self._adapter, one.signal, one.before, one.after, one.statistic, one.threshold)
            for one in self._untold
        ]
        batch.counts = dict(done + self._unwritten)
        lessons = self._signals.lessons()
        batch.kept["state"] = {
            "adapter": self._adapter,
            "overall": self._overall,
            "signals": self._signals.snapshot(),
        }
        if lessons != self._lessons:
            batch.kept["lessons"] = lessons
        counts = self._counts + done
        batch.kept["status"] = status = self._status(counts)
        trace = self._traced(status)
        if trace is not self._trace:
            batch.kept["trace"] = trace
        self._write(batch)
        self._counts = counts  # not before: what is shown never goes down
        self._lessons, self._trace = lessons, trace
        self._unwritten.clear()
        self._untold.clear()

    def _write(self, batch: Batch) -> None:
        """Commit a batch; in a full store, or on a full disk, without its texts: numbers matter more.

        In a full store what is over its time makes room, and else the oldest texts do for later ones. On a full disk
        they stay: others may fill what would be free then, and they don't come back. Where another process has the
        file, it is tried once more.
        """
        try:
            self._store.commit(batch)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                raise
            self._last_error = type(error).__name__
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                self._store.commit(batch)
                return
            if self._store.is_full_for(batch):
                self._purge()
            if self._store.is_full_for(batch):
                self._store.delete_oldest_texts(_AT_ONCE)  # as many as a batch can bring
            batch.rows = [replace(row, text=None) for row in batch.rows]
            self._store.commit(batch)

    def _traced(self, status: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The course of the detectors, with this moment if it is time for one."""
        trace = self._trace
        if trace and status["time"] < trace[-1]["time"]:  # the clock was set back: what is ahead was never
            trace = [point for point in trace if point["time"] <= status["time"]]
        if trace and status["time"] < trace[-1]["time"] + _TRACE_EVERY:
            return trace
        signals = {
            view["name"]: [view["statistic"], view["threshold"]]
            for view in status["signals"]
            if view["statistic"] is not None
        }
        point = {"time": status["time"], "state": status["state"], "signals": signals}
        return [*trace, point][-_MOST_TRACED:]

    def _tell(self, now: float, changes: list[StateChange]) -> None:
        """Write down what is known at the beginning of each alert, and tell the webhook of every change.

        Also where another signal has alerted before: that may go on for months, and says nothing of this one.
        """
        alerts = [one for one in changes if one.after in ALERTS and one.before not in ALERTS]
        if alerts:
            of_all = next((one for one in alerts if one.signal == "monitor"), alerts[0])
            self._unreported, self._next_report = self._frozen(now, of_all), now
        place = self._report(now)
        if self._webhook is not None:
            for one in changes:
                self._webhook.send_change(one, run=self._run, adapter=self._adapter, report=place)

    def _frozen(self, now: float, change: StateChange) -> Alert:
        """What is known now."""
        try:
            rows = self._store.recent(self._adapter, EVIDENCE_ROWS)
        except sqlite3.Error as error:  # a report without evidence is better than none
            self._last_error = type(error).__name__
            rows = []
        return Alert(
            now,
            self._run,
            self._adapter,
            change,
            self._signals.views(now),
            self.counts(),
            rows,
            self._realign,
            self._canary.why,
        )

    def _report(self, now: float) -> str | None:
        """Write the report that is due, if there is one, and say where; on a full disk it is tried again later."""
        if self._unreported is None or now < self._next_report:
            return None
        try:
            place = write_alert(self._folder / "alerts", self._unreported)
        except (SelfAugError, OSError) as error:
            self._last_error = type(error).__name__
            self._next_report = now + _HEARTBEAT
            return None
        self._unreported = None
        return str(place)


def lowest_priority() -> None:
    """Give way to all other threads from now on; on Linux alone, where a thread has a priority of its own."""
    if sys.platform != "linux":
        return  # the number of a thread may be that of another program's process there
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"can't write into {folder}: {error.strerror or error}",
        hint="free space, or change the folder's permissions.",
    )
