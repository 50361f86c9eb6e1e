"""Serving a run: both its models behind one endpoint, ready only if they are what was trained."""

from __future__ import annotations

import math
import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from selfaug.config import TrainConfig
from selfaug.errors import ConfigError, SelfAugError, StorageError
from selfaug.loopback import is_loopback
from selfaug.model.generate import text_prompt_ids
from selfaug.model.loading import context_window
from selfaug.model.own_thread import in_own_thread
from selfaug.model.running_batch import rows_can_join
from selfaug.monitoring.webhook import check_address
from selfaug.phases.canary import lacks_canary
from selfaug.phases.chat import Chat, open_chat
from selfaug.phases.live_run import LiveModels, LiveRun
from selfaug.phases.monitor import purge_expired, purge_expired_runs
from selfaug.phases.registry import champion_move, followed_run
from selfaug.phases.watching import DriftModels, Watching, WatchSettings
from selfaug.phases.whose_code import code_of_run
from selfaug.rundir import RunDir
from selfaug.serving.app import create_app
from selfaug.serving.connections import ConnectionLimits
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.gate import Gate
from selfaug.serving.generation import EngineError
from selfaug.serving.guard import Limits, without_write_errors, write_to_stderr
from selfaug.serving.http_server import HttpServer, address, listening_socket
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import SHUTTING_DOWN, Readiness, Served
from selfaug.serving.upstream import UpstreamAwayError

__all__ = ["Models", "ServeSettings", "Server", "context_of", "open_server", "server_keys"]


@dataclass(frozen=True)
class ServeSettings:
    """How a run is served.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        device: "auto", "cpu" or "cuda".
        prepared: documents to answer from; by default those that the run was trained on, if any.
        max_batch: answers made at once.
        max_waiting: requests that may wait for their turn.
        max_tokens: longest answer where a request doesn't say.
        window: tokens of prompt and answer together; by default the model's own.
        request_seconds: after which an answer is given up.
        drain_seconds: that running answers have when the server is told to end.
        limits: of a single request.
        connections: what a connection may take.
        check: whether the canary set must come back before requests are answered.
        watch: how the run's monitor watches what is answered; None: nobody does.
        registry: whose champion is followed; None: the run is served until the server ends.
        follow_seconds: between two looks at it.
        retry_seconds: until a champion that could not be served is tried again; twice as long after each time that
            requests had to wait for it, up to an hour.
        offline: use only what is on this machine.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"
    prepared: str | None = None
    max_batch: int = 16
    max_waiting: int = 64
    max_tokens: int = 1024
    window: int | None = None
    request_seconds: float = 300.0
    drain_seconds: float = 30.0
    limits: Limits = field(default_factory=Limits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    check: bool = True
    watch: WatchSettings | None = field(default_factory=WatchSettings)
    registry: str | None = None
    follow_seconds: float = 2.0
    retry_seconds: float = 60.0
    offline: bool = False


def server_keys(
    run: str | os.PathLike[str], *, registry: str | None = None, new: bool = False, keep_hours: float = 0.0
) -> tuple[ApiKeys, str | None]:
    """Keys of a run's server, and the key itself if it was made now: it can't be shown again.

    `SELFAUG_API_KEY` in the environment is the key, if it is set, and `SELFAUG_OLD_API_KEY` one beside it.

    Args:
        run: folder of the run.
        registry: whose champion is followed: the key stays the same then, whatever the run.
        new: make another key, which takes the place of those before.
        keep_hours: for which those before are taken beside a new one.

    Raises:
        ConfigError: if a key of the environment is too short to be one, has characters that can't be sent, or is an
            old one without another.
        StorageError, DataError: if keys can't be read or written.
    """
    if own := _keys_of_the_environment():
        return ApiKeys.of(*own), None
    file = RunDir.open(run).serving / "keys.json" if registry is None else Path(f"{registry}.keys.json")
    if file.exists() and not new:
        return ApiKeys.load(file), None
    return ApiKeys.make(file, keep_hours=keep_hours)


_OWN_KEY, _OLD_KEY = "SELFAUG_API_KEY", "SELFAUG_OLD_API_KEY"
_SHORTEST_KEY = 16


def _keys_of_the_environment() -> list[str]:
    names = [name for name in (_OWN_KEY, _OLD_KEY) if name in os.environ]
    if names == [_OLD_KEY]:
        raise ConfigError(
            f"{_OLD_KEY} is set without {_OWN_KEY}: it is for a key that another one has replaced.",
            hint=f"set {_OWN_KEY} to the new key, or unset {_OLD_KEY}.",
        )
    return [_key_of_the_environment(name) for name in names]


def _key_of_the_environment(name: str) -> str:
    # As those of clients are: white space around it is often the end of a file's line.
    key = os.environ[name].strip()
    hint = "unset it and a key is made, or set a long random one."
    if name == _OLD_KEY:
        hint = "unset it, so that it is not taken any more."
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{name} has characters that no client can send: control characters, or others than ASCII's.",
            hint=hint,
        )
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(f"{name} has {len(key)} characters; a key has at least {_SHORTEST_KEY}.", hint=hint)
    return key


_NO_JOINING = (
    "this model has layers with sliding windows or states of their own: answers are made in batches that none can "
    "join, so a request waits for the end of those that began before it."
)

_NOT_CHECKED = "not checked against the record of training"
_NO_CANARY = "the run has no canary set: nothing to check"

_ASKED_SECONDS = 2.0
"""That a server which ends waits for an answer about the models of another one."""

_AGAIN_SECONDS = 2.0
"""After which models that were away are asked again."""

_OTHERWISE_SECONDS = 60.0
"""After which another server that did not answer as recorded is asked again."""

_LOOK_SECONDS = 15.0
"""Between two looks whether another server still has its models."""

_PATIENCE_SECONDS = 20.0
"""After which its models are missing where every look since has failed: under load, it may be slow to say so."""

_SOON_SECONDS = 300.0
"""For which a server in trouble is asked again soon; later as rarely as any other."""

_WAITING_FOR_IT = "waiting for the server behind this one"

_LONGEST_RETRY_SECONDS = 3600.0
"""After which a champion that could not be served is tried again, however often that was in vain."""

_PURGE_SECONDS = 3600.0
"""Between two looks at what the run that is served, and others of its registry, have kept of requests."""


class Models(Protocol):
    """The models that answer, wherever they are.

    Attributes:
        checked: what holds if the canary set shows nothing.
    """

    checked: str

    def check(self, run: RunDir) -> list[str] | None:
        """What the canary set of a run shows; None if it has none. UpstreamAwayError if they aren't there yet."""
        ...

    def missing(self) -> list[str]:
        """Which of them aren't there, found at little cost. UpstreamAwayError if the server that has them can't say."""
        ...

    def for_drift(self, run: RunDir) -> Callable[[], DriftModels] | None:
        """What gives the models that the drift of a run's prompts is measured with; None if it is not measured."""
        ...

    def require_exchangeable(self, now: LiveRun, new: LiveRun, *, check: bool) -> None:
        """Look whether another run's tuned model could answer, while requests go on. SelfAugError if it can't."""
        ...

    def exchange(self, new: LiveRun, *, check: bool, on_exchanged: Callable[[], None]) -> None:
        """Answer with another run's tuned model from now on; no request is let in meanwhile.

        Args:
            new: the other run.
            check: whether its canary set must come back.
            on_exchanged: called once, before anything else uses the models.

        Raises:
            SelfAugError: if that can't be; the run before answers on.
        """
        ...


class Server:
    """A run's server. Made by `open_server`.

    Attributes:
        served: what it serves.
        url: where it listens, once it does.
    """

    def __init__(
        self,
        served: Served,
        models: Models,
        live: LiveRun,
        tokenizer: PreTrainedTokenizerBase,
        settings: ServeSettings,
        log: Callable[[str], None],
    ) -> None:
        self.served = served
        self._models, self._live, self._tokenizer = models, live, tokenizer
        self._settings, self._log = settings, log
        self._watching: Watching | None = None
        self._tell: Callable[[str], None] = lambda _: None
        self._code_told: set[str] = set()
        self._exchanging, self._judging = threading.Lock(), threading.Lock()
        self._ending, self._ended, self._checked = threading.Event(), threading.Event(), threading.Event()
        self._lost = ""
        self._server: HttpServer | None = None
        self._listening: socket.socket | None = None
        self.url = ""

    def listen(self) -> socket.socket:
        """Take the address; `run` does, where nobody has before. Nothing is answered until then.

        Raises:
            StorageError: if the address can't be listened on.
        """
        host, port = self._settings.host, self._settings.port
        try:
            self._listening = listening_socket(host, port)
        except OSError as error:
            raise StorageError(
                f"can't listen on {host}:{port}: {error.strerror or error}.",
                hint="choose another port with --port, 0 for a free one.",
            ) from error
        self.url = address(*self._listening.getsockname()[:2])
        return self._listening

    def run(
        self,
        keys: ApiKeys | None,
        on_ready: Callable[[Readiness], None] = lambda _: None,
        on_watching: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Listen until a signal ends it: SIGTERM and SIGINT let running answers end.

        Args:
            keys: that are taken; None takes requests without a key, and where only this machine is listened to none
                that names another host.
            on_ready: called once it is known whether the server is ready.
            on_watching: called with what there is to say about watching its traffic, and about how it answers.

        Raises:
            StorageError: if the address can't be listened on.
            SelfAugError: if the models were lost.
        """
        settings = self._settings
        self._server = HttpServer(
            create_app(
                self.served,
                keys=keys,
                limits=settings.limits,
                only_here=keys is None and is_loopback(settings.host),
                log=self._log,
            ),
            self.served.readiness,
            host=settings.host,
            port=settings.port,
            drain_seconds=settings.drain_seconds,
            limits=settings.connections,
            on_exit=self.served.engine.begin_no_more,
        )
        listening = self._listening or self.listen()
        # Who is told may be gone, as a pipe is: the threads that tell go on.
        self._tell, on_ready = without_write_errors(on_watching), without_write_errors(on_ready)
        if self._here is not None and not rows_can_join(self._here.tuned):
            self._tell(_NO_JOINING)
        self._tell_of_run()
        self._watch()
        checking = threading.Thread(target=self._become_ready, args=[on_ready], daemon=True)
        checking.start()
        following = threading.Thread(target=self._follow, name="selfaug-following", daemon=True)
        following.start()
        try:
            self._server.run(sockets=[listening])
        finally:
            listening.close()
            self._ending.set()
            # What runs the models here is waited for: a process that ends meanwhile would crash. What waits for another
            # server is not.
            longest = None if self._here is not None else _ASKED_SECONDS
            checking.join(longest)
            self._ended.set()
            following.join(longest)
            if self._watching is not None:
                self._watching.close()
            self.served.engine.close()
            if self._watching is not None:
                self._watching.join(longest)
        if self._lost:
            raise SelfAugError(f"{self._lost}.", hint="start the server anew.")

    def stop(self) -> None:
        """End it from another thread, as SIGTERM does."""
        if self._server is not None:
            self._server.handle_exit(signal.SIGTERM, None)

    def lose(self, reason: str) -> None:
        """End it because its models can't be used any more; `run` raises then, so that whoever started it can again."""
        self._lost = reason
        self.served.readiness.become(False, reason, "the models can't be used any more")
        self.stop()

    @property
    def _here(self) -> LiveModels | None:
        """The models, if they are in this process."""
        return self._models if isinstance(self._models, LiveModels) else None

    def _become_ready(self, on_ready: Callable[[Readiness], None]) -> None:
        readiness = self.served.readiness
        problems: list[str] | None = None
        if not self._settings.check:
            readiness.become(True, _NOT_CHECKED)
        else:
            readiness.become(False, "replaying the canary set")
            problems = self._replayed_canary()
            self._judge(problems)
        if readiness.reason == SHUTTING_DOWN:
            return
        on_ready(readiness)
        self._start_watching(problems)
        self._checked.set()
        if self._here is None:
            self._look_after_models(problems)

    def _replayed_canary(self) -> list[str] | None:
        """What the canary set shows, once there are models that it can be asked of."""
        told = ""
        while True:
            try:
                return self._models.check(self._live.folder)
            except UpstreamAwayError as error:
                if str(error) != told:
                    told = str(error)
                    self.served.readiness.become(False, f"{told}; it is asked again", _WAITING_FOR_IT)
                    self._tell(f"waiting: {told}.")
                if self._ending.wait(_AGAIN_SECONDS):
                    return [told]
            except Exception as error:  # whatever it is: the server says it instead of ending
                return [_not_replayed(error)]

    def _look_after_models(self, problems: list[str] | None) -> None:
        """Be ready only while another server has the models.

        It may go, be started anew without the adapter that it was given, or be loading it still. When it has them
        again, the canary set says whether they are those of the run.

        Args:
            problems: what the canary set showed at the start.
        """
        # Who wants no check may have a server that doesn't list its models.
        known, gone = self._settings.check, False
        failing_since = troubled_since = math.inf
        replay_at, pause = time.monotonic() + _OTHERWISE_SECONDS, 0.0
        while not self._ending.wait(pause):
            with self._exchanging:  # about whichever run is served then
                try:
                    missing, can_say = self._models.missing(), True
                    # What does not come back is replayed by who watches, where somebody does.
                    is_late = self._watching is None and problems and time.monotonic() >= replay_at
                    if known and not missing and (gone or is_late):
                        problems = self._replayed_again()
                        replay_at = time.monotonic() + _OTHERWISE_SECONDS
                except UpstreamAwayError as error:
                    missing, can_say = [str(error)], False
                now = time.monotonic()
                if not missing:
                    known, gone, failing_since = True, False, math.inf
                else:
                    failing_since = min(failing_since, now)
                    gone = gone or can_say or now - failing_since >= _PATIENCE_SECONDS
                    if known and gone:
                        self._become(False, "; ".join(missing), _WAITING_FOR_IT)
            in_trouble = known and bool(missing or not self.served.readiness.ready)
            troubled_since = min(troubled_since, now) if in_trouble else math.inf
            pause = _AGAIN_SECONDS if 0 <= now - troubled_since < _SOON_SECONDS else _LOOK_SECONDS

    def _replayed_again(self) -> list[str] | None:
        """What the canary set shows now; be ready or not by it. UpstreamAwayError if there are no models again."""
        if not self._settings.check:
            self._become(True, _NOT_CHECKED)
            return None
        problems: list[str] | None
        try:
            problems = self._models.check(self._live.folder)
        except UpstreamAwayError:
            raise
        except (
            Exception
        ) as error:  # whatever it is: what can't be checked is not ready, and is looked at again
            problems = [_not_replayed(error)]
        self._judge(problems)
        if problems and self._watching is not None:
            self._watching.replay_soon()  # so that the monitor, too, knows it before the day is over
        return problems

    def exchange(self, run: str | os.PathLike[str]) -> None:
        """Serve another run from now on, without a failed request; called from another thread than `run`.

        Requests that came before are answered by the run before, later ones wait for the new one. Whether the canary
        set has to come back is as it was for the first run.

        Args:
            run: folder of a run with a LoRA adapter of the same base model.

        Raises:
            StorageError, ConfigError, ModelError, DataError: if it can't be; the run before is served on.
        """
        settings = self._settings
        with self._exchanging:
            self._tell_whose_code(run)  # before it runs: documents are opened with their retriever
            new = LiveRun.open(run, self._tokenizer, prepared=settings.prepared, offline=settings.offline)
            self._models.require_exchangeable(self._live, new, check=settings.check)
            before = self._watching
            with self.served.gate.closed():
                self._models.exchange(
                    new,
                    check=settings.check,
                    # At once: what it would find from now on is about other weights than it thinks.
                    on_exchanged=lambda: before.cancel() if before is not None else None,
                )
                self._live = new
                new.serve_by(self.served, self._tokenizer)
                problems: list[str] | None = [] if settings.check and new.folder.canary.exists() else None
                if settings.check:
                    self._judge(problems)
                else:
                    self._become(True, _NOT_CHECKED)
                if before is not None:
                    self._watch()
            self._tell_of_run()
            self._start_watching(problems, after=before)

    def _tell_whose_code(self, run: str | os.PathLike[str]) -> None:
        """Say whose code a run's folder has run; once, as a run that can't take the place is tried again and again."""
        for note in code_of_run(run, searches=True, prepared=self._settings.prepared):
            if note not in self._code_told:
                self._code_told.add(note)
                self._tell(f"note: {note}.")

    def _tell_of_run(self) -> None:
        """Say where a run is served as it was halfway, or from documents that have changed since.

        Who answers has read the documents at the start.
        """
        live = self._live
        if live.step is not None:
            said = (
                "of which step the other server's model is, is not known here"
                if self._here is None
                else f"the tuned model is its checkpoint at step {live.step}"
            )
            self._tell(f"note: {live.folder.path} is not complete; {said}.")
        documents = live.documents
        if documents is not None and (outdated := documents.outdated_in_words()):
            self._tell(f"note: {outdated}, and a server that is started anew serves it.")

    def _follow(self) -> None:
        """Serve the registry's champion, whichever that is. One that can't be is told of once, and tried again."""
        registry = self._settings.registry
        if registry is None:
            self._purge_hourly()
            return
        seen, again_at, purge_at = 0, math.inf, time.monotonic()
        retry = self._settings.retry_seconds
        while not self._ended.wait(self._settings.follow_seconds):
            closings = self.served.gate.closings
            try:
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + _PURGE_SECONDS
                    purge_expired_runs(registry)
                if not self._checked.is_set():
                    continue
                if (move := champion_move(registry)) == seen and time.monotonic() < again_at:
                    continue
                if move != seen:
                    retry = self._settings.retry_seconds
                seen, again_at = move, math.inf
                run = followed_run(registry)
                if Path(run) != self._live.folder.path.resolve():
                    self.exchange(run)
                    self._tell(f"serving {run}: it is the champion now.")
                self.served.readiness.not_followed = ""
                retry = self._settings.retry_seconds
            except EngineError:  # the server ends
                return
            except Exception as error:  # whatever it is: the run before is served on
                # Its folder may still be on its way here. Not at once: a look at its weights hashes all of them. A
                # server that is away is asked at once: one that gets another adapter is often started anew.
                wait = 0.0 if isinstance(error, UpstreamAwayError) else retry
                again_at = time.monotonic() + wait
                if self.served.gate.closings > closings:
                    # Requests have waited for it, and may again in vain: less and less often.
                    retry = min(2 * retry, _LONGEST_RETRY_SECONDS)
                reason = str(error) if isinstance(error, SelfAugError) else f"{type(error).__name__}: {error}"
                if reason != self.served.readiness.not_followed:
                    self.served.readiness.not_followed = reason
                    self._tell(f"NOT following the registry: {reason}")

    def _purge_hourly(self) -> None:
        """Delete what the served run has kept for its time. Its monitor does, too, but there may be none."""
        while True:
            purge_expired(self._live.folder.path)
            if self._ended.wait(_PURGE_SECONDS):
                return

    def _watch(self) -> None:
        how, live = self._settings.watch, self._live
        if how is not None:
            here = self._here
            self._watching = self.served.watcher = Watching(
                live.folder.path,
                None if here is None else here.engine,
                self._models.for_drift(live.folder),
                form=None if live.documents is None else live.documents.form,
                settings=how,
                check=partial(self._models.check, live.folder) if self._settings.check else None,
                on_canary=self._judge,
                tell=self._tell,
                offline=self._settings.offline,
            )

    def _start_watching(self, problems: list[str] | None, after: Watching | None = None) -> None:
        if self._watching is not None:
            self._watching.start(problems, after=after)

    def _judge(self, problems: list[str] | None) -> None:
        """Be ready or not, by what a replay of the canary set has shown."""
        if problems is None:
            self._become(True, f"{_NO_CANARY}{_how_to_get_canary(self._live.folder)}", _NO_CANARY)
        elif problems:
            plain = "the canary set did not come back as recorded, or could not be replayed"
            self._become(False, "; ".join(problems), plain)
        else:
            self._become(True, self._models.checked)

    def _become(self, ready: bool, reason: str, plain: str | None = None) -> None:
        """Be ready or not, and tell where that is new: of the start, `on_ready` tells."""
        readiness = self.served.readiness
        with self._judging:
            was_ready = readiness.ready
            readiness.become(ready, reason, plain)
            is_new = readiness.ready != was_ready and readiness.reason != SHUTTING_DOWN
        if is_new and self._checked.is_set():
            self._tell(f"{'ready' if ready else 'NOT ready'}: {reason}.")


def _how_to_get_canary(run: RunDir) -> str:
    """What records the canary set of a run without one; empty where only training can, which has not ended."""
    if not lacks_canary(run):
        return ""
    as_before = ""
    if run.evaluation.exists():
        as_before = ", with the settings of its evaluation, but no bounds, --forecast or --also-score,"
    return f"; `selfaug evaluate {shlex.quote(str(run.path))}`{as_before} records one"


def _not_replayed(error: Exception) -> str:
    return f"the canary set can't be replayed: {type(error).__name__}: {error}"


def open_server(
    run: str | os.PathLike[str],
    settings: ServeSettings,
    *,
    log: Callable[[str], None] = write_to_stderr,
) -> Server:
    """Load a run's models for serving.

    Args:
        run: folder of the run.
        settings: how it is served.
        log: gets a line of JSON for every request.

    Raises:
        StorageError: if there is no such run, or it has no weights yet.
        ModelError, ConfigError, DataError: if model or documents can't be loaded.
    """
    if settings.watch is not None and settings.watch.webhook is not None:
        check_address(settings.watch.webhook)
    # The engine's thread is the one that uses the models from now on.
    chat, live, engine = in_own_thread(lambda: _loaded(run, settings))
    tokenizer = chat.tokenizer
    served = Served(
        engine=engine,
        text_ids=partial(text_prompt_ids, tokenizer),
        vocabulary=chat.tuned.get_input_embeddings().weight.shape[0],
        window=context_of(settings, live.config),
        max_tokens=settings.max_tokens,
        request_seconds=settings.request_seconds,
        most_at_once=settings.max_batch + settings.max_waiting,
        gate=Gate(settings.max_batch + settings.max_waiting),
    )
    live.serve_by(served, tokenizer)
    server = Server(served, LiveModels(chat.tuned, chat.base, engine), live, tokenizer, settings, log)
    engine.on_lost = server.lose
    return server


def _loaded(run: str | os.PathLike[str], settings: ServeSettings) -> tuple[Chat, LiveRun, EmbeddedEngine]:
    """A run's models, what else of the run is served, and the engine that answers with them."""
    chat = open_chat(run, device=settings.device, offline=settings.offline)
    live = LiveRun.open(run, chat.tokenizer, prepared=settings.prepared, offline=settings.offline)
    engine = EmbeddedEngine(
        chat.tuned,
        chat.base,
        chat.tokenizer,
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
        max_seconds=settings.request_seconds,
    )
    return chat, live, engine


def context_of(settings: ServeSettings, config: TrainConfig) -> int:
    """Tokens that prompt and answer may have together.

    Raises:
        ConfigError: if the settings say more than the model has.
    """
    own = context_window(
        config.model.name,
        trust_remote_code=config.model.trust_remote_code,
        offline=settings.offline or config.run.offline,
    )
    if settings.window is not None and own is not None and settings.window > own:
        raise ConfigError(
            f"--max-model-len {settings.window:,} is more than the model's {own:,} tokens.",
            hint="leave it out.",
        )
    return settings.window or own or config.data.max_length
