"""Watching what a server answers: from its requests to the run's monitor, without a request ever waiting for it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from peft import PeftModel
from transformers import PreTrainedModel

from selfaug.errors import SelfAugError
from selfaug.eval.checks import Refuses
from selfaug.model.reference import FrozenModel
from selfaug.monitoring.metric_names import HISTOGRAMS, METRICS
from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.reference_window import Score
from selfaug.phases.monitor import drift_score, open_monitor
from selfaug.phases.progress import Progress
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.generation import EngineError
from selfaug.serving.upstream import UpstreamAwayError
from selfaug.serving.watcher import Answered, Family

__all__ = ["WatchSettings", "Watching"]

_REMEMBERED = 100_000
"""Answers that can be voted on."""

_AGAIN_SECONDS = 60.0
"""After which another server is asked again that was away or did not answer as recorded."""

_ENDINGS = ("_bucket", "_sum", "_count")
_REFUSES = Refuses()


def _no_score(prompts: list[list[int]]) -> list[float]:
    raise EngineError("the models are elsewhere: drift can't be measured")


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
        engine: in whose thread drift is measured, while nothing is answered; None where another server has the models:
            then all signals but drift are watched, against a reference window that is there already.
        tuned: the tuned model; None without an engine.
        base: the base model; None: the tuned model with its adapter off.
        form: that answers from documents have; None if there is none.
        settings: how it is watched.
        check: replays the canary set: what is not as recorded, or None if there is none. None: it is not replayed.
        on_canary: called with what later replays find.
        tell: called with what the user should know.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        engine: EmbeddedEngine | None,
        tuned: PreTrainedModel | PeftModel | None,
        base: PreTrainedModel | None,
        *,
        form: re.Pattern[str] | None,
        settings: WatchSettings,
        check: Callable[[], list[str] | None] | None,
        on_canary: Callable[[list[str] | None], None],
        tell: Callable[[str], None],
    ) -> None:
        self._run, self._engine, self._form, self._settings = run, engine, form, settings
        self._check, self._on_canary, self._tell = check, on_canary, tell
        self._score: Score = _no_score
        if engine is not None and tuned is not None:
            self._score = drift_score(tuned, None if base is None else FrozenModel(base), self._alone)
        self._monitor: Monitor | None = None
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- what the server calls: see `Watcher`

    def answered(self, request: Answered) -> None:
        """A request was answered to its end."""
        monitor = self._monitor
        if monitor is None:
            return
        self._answered[request.request_id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        from_documents = request.passages is not None
        has_answer = request.completion_tokens > 0
        monitor.offer(
            Observation(
                request.request_id,
                request.prompt_ids,
                request.completion_tokens,
                refused=_REFUSES.passes(request.answer) if has_answer else None,
                format_violation=self._form.fullmatch(request.answer.strip()) is None
                if self._form is not None and from_documents and has_answer
                else None,
                empty_retrieval=request.passages == 0 if from_documents else None,
                text=request.prompt,
            )
        )

    def vote(self, request_id: str, up: bool) -> bool:
        """A user's thumb, up or down; False if no such request was answered lately."""
        monitor = self._monitor
        if monitor is None or request_id not in self._answered:
            return False
        monitor.vote(request_id, up)
        return True

    def families(self) -> list[Family]:
        """The monitor's metrics."""
        samples: defaultdict[str, list[tuple[str, dict[str, str], float]]] = defaultdict(list)
        for name, labels, value in self._monitor.metrics() if self._monitor else []:
            stem = next((name.removesuffix(end) for end in _ENDINGS if name.endswith(end)), name)
            samples[stem if stem in HISTOGRAMS else name].append((name, labels, value))
        return [
            Family(
                name.removesuffix("_total"),
                "histogram" if name in HISTOGRAMS else "counter" if name.endswith("_total") else "gauge",
                METRICS[name],
                found,
            )
            for name, found in samples.items()
        ]

    # ---- its life

    def start(self, problems: list[str] | None) -> None:
        """Begin, in the background.

        Args:
            problems: what the canary set showed at the start; None if it wasn't replayed.
        """
        self._thread = threading.Thread(
            target=self._watch, args=[problems], name="selfaug-watching", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End; what waits is committed. Called before the engine is closed, which ends what is being measured."""
        self._stop.set()
        if self._monitor is not None:
            self._monitor.close()

    def join(self, seconds: float | None = None) -> None:
        """Wait until nothing of it uses the models, or for so long; the engine is closed."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _watch(self, problems: list[str] | None) -> None:
        try:
            monitor = self._open(measure=not problems and self._engine is not None)
        except EngineError:  # the server ends
            return
        except Exception as error:  # whatever it is: a server that can't be watched answers all the same
            if not self._stop.is_set():
                reason = str(error) if isinstance(error, SelfAugError) else f"{type(error).__name__}: {error}"
                self._tell(f"NOT watched: {reason}")
            return
        self._monitor = monitor
        if self._stop.is_set():
            monitor.close()
            return
        without = "" if self._engine is not None else ", all but drift: the models are elsewhere"
        self._tell(f"watching{without}: `selfaug monitor {os.fspath(self._run)}` shows the state.")
        wait = self._settings.canary_seconds
        while True:
            if problems is not None:
                monitor.canary(not problems, "; ".join(problems))
            if self._stop.wait(wait) or self._check is None:
                return
            wait = self._settings.canary_seconds
            try:
                problems = self._replayed(self._check)
            except EngineError:
                return
            except UpstreamAwayError as error:  # nothing is known of the models: no drift, and not ready
                self._on_canary([str(error)])
                problems, wait = None, min(wait, _AGAIN_SECONDS)
                continue
            except Exception as error:
                problems = [f"the canary set can't be replayed: {type(error).__name__}: {error}"]
            if problems and self._engine is None:  # another server may soon have what is missing
                wait = min(wait, _AGAIN_SECONDS)
            self._on_canary(problems)

    def _open(self, *, measure: bool) -> Monitor:
        told = False

        def progress(now: Progress) -> None:
            nonlocal told
            if now.total and not told:
                told = True
                self._tell(
                    f"measuring the reference window of {now.total:,} prompts in the background; requests are "
                    "watched when that is done."
                )

        settings, engine = self._settings, self._engine
        return open_monitor(
            self._run,
            self._score,
            # Without models no request is sampled: none would wait for a measurement that can't come.
            settings=settings.monitor if engine is not None else replace(settings.monitor, sample=0.0),
            webhook=settings.webhook,
            measure=measure,
            compute_clock=time.perf_counter if engine is None else lambda: engine.job_seconds,
            on_progress=progress,
        )

    def _replayed(self, check: Callable[[], list[str] | None]) -> list[str] | None:
        if self._engine is None:
            return check()
        return self._engine.when_idle(check, patience=self._settings.canary_seconds / 24)

    def _alone(self, work: Callable[[], list[float]]) -> list[float]:
        if self._stop.is_set() or self._engine is None:
            raise EngineError("the server ends")
        return self._engine.when_idle(work, patience=self._settings.patience)
