"""Watching what a server answers: from its requests to the run's monitor, without a request ever waiting for it."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from peft import PeftModel
from transformers import PreTrainedModel

from selfaug.core import metric_names
from selfaug.core.metric_names import Sample
from selfaug.core.thoughts import without_thoughts
from selfaug.errors import SelfAugError, StorageError
from selfaug.eval.checks import declines
from selfaug.model.reference import FrozenModel
from selfaug.monitoring.monitor import Monitor, MonitorSettings, lowest_priority
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.reference_window import Score
from selfaug.monitoring.signals import StateChange
from selfaug.monitoring.store import add_vote, has_request
from selfaug.monitoring.webhook import Webhook
from selfaug.phases.monitor import drift_score, open_monitor
from selfaug.phases.progress import Progress
from selfaug.rundir import RunDir
from selfaug.serving.embedded import Cancellation, EmbeddedEngine
from selfaug.serving.generation import EngineError
from selfaug.serving.upstream import UpstreamAwayError
from selfaug.serving.watcher import Answered

__all__ = ["DriftModels", "WatchSettings", "Watching"]

DriftModels = tuple[PreTrainedModel | PeftModel, PreTrainedModel | None]
"""The tuned model, and the base model; None for the tuned model with its adapter off."""

_REMEMBERED = 100_000
"""Answers that can be voted on."""

_AGAIN_SECONDS = 60.0
"""After which the canary set is replayed again where it was not as recorded, or could not be replayed; and after which
the monitor is opened again where that failed."""

_AWAY_SECONDS = 2.0
"""After which it is replayed again where the server that has the models did not answer."""

_REST = 10.0
"""So many times as long as measuring a reference window took in vain, it is not begun again."""

_AWAY = ", all but drift: the models are elsewhere"
_NOT_LOADED = ", all but drift: its models are not loaded"
"""What is not watched, as it is told."""


def _no_score(prompts: list[list[int]]) -> list[float]:
    raise EngineError("there are no models to measure drift with")


@dataclass(frozen=True)
class WatchSettings:
    """How a server is watched.

    Attributes:
        monitor: what it may cost, and what it keeps.
        webhook: URL that is told of changes of state.
        canary_seconds: after which the canary set is replayed again.
        patience: seconds that measuring waits for a moment without requests.
    """

    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    webhook: str | None = None
    canary_seconds: float = 86_400.0
    patience: float = 30.0


class Watching:
    """Hands what is answered to the run's monitor. Until that is open, requests pass by.

    Args:
        run: folder of the run that is served.
        engine: in whose thread drift is measured, while nothing is answered; None where another server answers: then it
            is measured in the threads that watch.
        models: gives the tuned and the base model (None: the tuned model with its adapter off) that drift is measured
            with; called once, in the background, and may take its time. None, or where it fails: all signals but drift
            are watched, against a reference window that is there already.
        form: that answers from documents have; None if there is none.
        settings: how it is watched.
        check: replays the canary set: what is not as recorded, or None if there is none. None: it is not replayed.
        on_canary: called with what later replays find.
        tell: called with what the user should know.
        offline: use only what is on this machine.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        engine: EmbeddedEngine | None,
        models: Callable[[], DriftModels] | None,
        *,
        form: re.Pattern[str] | None,
        settings: WatchSettings,
        check: Callable[[], list[str] | None] | None,
        on_canary: Callable[[list[str] | None], None],
        tell: Callable[[str], None],
        offline: bool = False,
    ) -> None:
        self._run, self._engine, self._form, self._settings = run, engine, form, settings
        self._offline = offline
        self._check, self._on_canary, self._tell = check, on_canary, tell
        self._models, self._using = models, threading.Lock()
        self._score: Score = _no_score
        self._without = _AWAY if models is None else ""
        self._monitor: Monitor | None = None
        self._webhook: Webhook | None = None  # the monitor has its own
        self._before: str | os.PathLike[str] | None = None
        self._after: Watching | None = None
        self._not_watched = ""
        # Seconds until it is tried again; None: it is open, or has not been tried.
        self._open_after: float | None = None
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._stop, self._cancellation = threading.Event(), Cancellation()
        # Set for what ends a pause: the end of all, or that the canary set is wanted.
        self._wake = threading.Event()
        self._telling = threading.Lock()
        self._thread: threading.Thread | None = None

    # ---- what the server calls: see `Watcher`

    def answered(self, request: Answered) -> None:
        """A request was answered to its end."""
        monitor = self._monitor
        if monitor is None or self._stop.is_set():
            return
        self._answered[request.request_id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        from_documents = request.passages is not None
        has_answer = request.completion_tokens > 0
        said = without_thoughts(
            request.answer
        )  # the form is of what comes after the thoughts, and so is a refusal
        keeps = self._settings.monitor.keep_texts  # else no text waits in the monitor's queue either
        monitor.offer(
            Observation(
                request.request_id,
                request.prompt_ids,
                request.completion_tokens,
                refused=declines(said) if has_answer else None,
                format_violation=self._form.fullmatch(said.strip()) is None
                if self._form is not None and from_documents and has_answer
                else None,
                empty_retrieval=request.passages == 0 if from_documents else None,
                text=request.prompt if keeps else None,
                row=request.row if keeps else None,
                answer=request.answer if keeps else None,
            )
        )

    def vote(self, request_id: str, up: bool) -> bool:
        """A user's thumb, up or down; False if no such request was answered lately.

        Answers from before this server, or of the run whose place this one took, are known if they are kept.
        """
        monitor, folder = self._monitor, RunDir(self._run).monitor
        try:
            if monitor is not None and (request_id in self._answered or has_request(folder, request_id)):
                monitor.vote(request_id, up)
                return True
            elsewhere = [folder] if monitor is None else []
            if self._before is not None:
                elsewhere.append(RunDir(self._before).monitor)
            return any(add_vote(one, request_id, up, time=time.time()) for one in elsewhere)
        except (SelfAugError, OSError):  # a store that can't be used is no reason for the server to fail
            return False

    def samples(self) -> list[Sample]:
        """The monitor's metrics, and whether there is one."""
        source = self._monitor or self._webhook
        watching = Sample(metric_names.WATCHING, {}, float(self._monitor is not None))
        return [watching, *(source.metrics() if source is not None else [])]

    # ---- its life

    def start(self, problems: list[str] | None, after: Watching | None = None) -> None:
        """Begin, in the background.

        Args:
            problems: what the canary set showed at the start; None if it wasn't replayed.
            after: whose place it takes: it begins when that one has ended, as both may be of the same run.
        """
        self._before, self._after = None if after is None else after._run, after
        self._thread = threading.Thread(
            target=self._begin, args=[problems, after], name="selfaug-watching", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        """From now on it uses no model, and nothing that it finds changes anything. Waits for nothing."""
        with self._telling:
            self._stop.set()
        self._wake.set()
        self._cancellation.cancel()

    def replay_soon(self) -> None:
        """Replay the canary set as soon as nothing else is being done, not only when it is time. Waits for nothing."""
        self._wake.set()

    def close(self) -> None:
        """End; what waits is committed, without its drift."""
        self.cancel()
        for one in (self._monitor, self._webhook):
            if one is not None:
                one.close()

    def join(self, seconds: float | None = None) -> None:
        """Wait until nothing of it uses the models, and for its thread no longer than so many seconds; it is closed."""
        if self._thread is not None:
            self._thread.join(seconds)
        if (after := self._after) is not None:  # it may still be loading its own
            after.join(seconds)
        with self._using:
            self._score = _no_score  # lets go of models that were loaded for it alone

    def _begin(self, problems: list[str] | None, after: Watching | None) -> None:
        if after is not None:
            after.close()
            after.join()
            self._after = None
        self._watch(problems)

    def _watch(self, problems: list[str] | None) -> None:
        """Open the monitor, and replay the canary set from time to time, whether there is a monitor or not."""
        # What is missing may soon be there: an adapter that another server still loads, memory that the answers needed
        # which were running. Until it is looked at again, no request is answered.
        wait, found, away = _AGAIN_SECONDS if problems else math.inf, problems, False
        while True:
            try:
                if not away:
                    self._take(problems)
                if self._waited(min(wait, self._settings.canary_seconds), found):
                    return
            except EngineError:  # it ends
                return
            problems, wait, away = None, math.inf, False
            if self._check is None:
                continue
            try:
                problems = self._replayed(self._check)
            except EngineError:
                return
            except UpstreamAwayError as error:  # nothing is known of the models: no drift, and not ready
                self._tell_canary([str(error)])
                wait, away = _AWAY_SECONDS, True
                continue
            except Exception as error:
                problems = [f"the canary set can't be replayed: {type(error).__name__}: {error}"]
            wait, found = _AGAIN_SECONDS if problems else math.inf, problems
            self._tell_canary(problems)

    def _waited(self, seconds: float, problems: list[str] | None) -> bool:
        """Wait for the next replay, and try to open the monitor meanwhile where that failed. Whether it ends.

        Another server that still has the run ends, a disk gets room, a reference window is measured by hand.
        """
        while self._open_after is not None and self._open_after < seconds:
            wait = self._open_after
            if self._woken(wait):
                return self._stop.is_set()
            seconds -= wait
            self._open_monitor(problems)
        if not self._stop.is_set():
            self._woken(seconds)
        return self._stop.is_set()

    def _woken(self, seconds: float) -> bool:
        """Wait for so long. Whether something has ended that before, or all ends."""
        woken = self._wake.wait(seconds)
        if woken:  # else what is set just now would be lost
            self._wake.clear()  # before it is looked at what was wanted: that is set before
        return woken or self._stop.is_set()

    def _take(self, problems: list[str] | None) -> None:
        """What a replay has found goes to the monitor, and where there is none yet, to whom it concerns."""
        if self._monitor is None:
            self._open_monitor(problems)
        if problems is None or self._stop.is_set():
            return
        if self._monitor is not None:
            self._monitor.canary(not problems, "; ".join(problems))
        elif problems and self._webhook is None and self._settings.webhook is not None:
            # Once: each minute brings the same.
            self._webhook = Webhook(self._settings.webhook, tell=self._tell)
            change = StateChange(time.time(), "monitor", "no_data", "drift", None, None)
            self._webhook.send_change(change, run=str(RunDir(self._run).path), adapter=None, report=None)

    def _open_monitor(self, problems: list[str] | None) -> None:
        """Open it if that can be; if not, it is tried again later."""
        began = time.monotonic()
        try:
            monitor = self._open(problems)
        except EngineError:
            raise
        except Exception as error:  # whatever it is: a server that can't be watched answers all the same
            self._tell_not_watched(error)
            self._open_after = self._rest(time.monotonic() - began)
            return
        self._monitor, self._open_after = monitor, None
        if self._stop.is_set():
            monitor.close()
            return
        self._not_watched = ""
        self._tell(f"watching{self._without}: `selfaug monitor {os.fspath(self._run)}` shows the state.")

    def _rest(self, took: float) -> float:
        """Seconds until the monitor is opened again, after so many in vain.

        Without a reference window that means reading the run's rows and measuring them: not all the time.
        """
        if os.path.exists(RunDir(self._run).monitor / "reference.json"):
            return _AGAIN_SECONDS
        return max(_AGAIN_SECONDS, _REST * took)

    def _tell_not_watched(self, error: Exception) -> None:
        reason = _reason(error)
        if reason != self._not_watched and not self._stop.is_set():
            self._not_watched = reason
            self._tell(f"NOT watched: {reason}")

    def _tell_canary(self, problems: list[str] | None) -> None:
        with self._telling:  # who has cancelled it is told of nothing later
            if not self._stop.is_set():
                self._on_canary(problems)

    def _open(self, problems: list[str] | None) -> Monitor:
        as_trained = not problems
        if not as_trained and not (RunDir(self._run).monitor / "reference.json").exists():
            raise StorageError(
                "there is no reference window, and none is measured while the canary set does not come back.",
                hint="serve the weights, the template and the number format that the run was trained with.",
            )
        self._load()
        told = False

        def progress(now: Progress) -> None:
            nonlocal told
            if now.stage == "warning":
                self._tell(now.message)
            if now.total and not told:
                told = True
                self._tell(
                    f"measuring the reference window of {now.total:,} prompts in the background; requests are "
                    "watched when that is done."
                )

        settings, engine = self._settings, self._engine
        return open_monitor(
            self._run,
            lambda prompts: self._score(prompts),
            settings=self._monitor_settings(),
            webhook=settings.webhook,
            measure=as_trained and not self._without,
            canary=problems,
            offline=self._offline,
            tell=self._tell,
            compute_clock=time.perf_counter if engine is None else lambda: engine.job_seconds,
            on_progress=progress,
        )

    def _monitor_settings(self) -> MonitorSettings:
        # Each prompt may wait for a busy engine, and the monitor with it: what comes meanwhile waits for one only.
        settings = replace(self._settings.monitor, batch_size=1)
        # Without models no request is sampled: none would wait for a measurement that can't come.
        return replace(settings, sample=0.0) if self._without else settings

    def _load(self) -> None:
        """Get the models, unless it has them or could not have them. Without them all but drift is watched."""
        if self._models is None or self._without or self._score is not _no_score:
            return
        if self._engine is None:  # requests are answered meanwhile, and while these models are used
            lowest_priority()
            self._tell(
                "loading the models for drift in the background; requests are watched when they are there."
            )
        with self._using:
            self._require_wanted()
            try:
                tuned, base = self._models()
            except Exception as error:  # whatever it is: the other signals need no models
                self._without = _NOT_LOADED
                self._tell(f"drift is NOT measured: {_reason(error)}")
                return
            self._score = drift_score(tuned, None if base is None else FrozenModel(base), self._alone)

    def _require_wanted(self) -> None:
        if self._stop.is_set():
            raise EngineError("nobody wants this any more")

    def _replayed(self, check: Callable[[], list[str] | None]) -> list[str] | None:
        if self._engine is None:
            return check()
        return self._engine.when_idle(
            check, patience=self._settings.canary_seconds / 24, unless=self._cancellation
        )

    def _alone(self, work: Callable[[], list[float]]) -> list[float]:
        """Measure a prompt where nothing else uses the models, unless it has ended."""
        if self._engine is not None:
            return self._engine.when_idle(work, patience=self._settings.patience, unless=self._cancellation)
        with self._using:
            self._require_wanted()
            return work()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SelfAugError) else f"{type(error).__name__}: {error}"
