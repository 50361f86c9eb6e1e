"""Serving a run: both its models behind one endpoint, ready only if they are what was trained."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError, StorageError
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import context_window
from selfaug.model.reference import AdapterOff, FrozenModel
from selfaug.monitoring.webhook import check_address
from selfaug.phases.ask import DocumentPrompts, NothingFoundError, cited_passages, open_documents
from selfaug.phases.canary import canary_problems
from selfaug.phases.chat import open_chat
from selfaug.phases.watching import Watching, WatchSettings
from selfaug.rundir import RunDir
from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.guard import Limits, write_to_stderr
from selfaug.serving.http_server import HttpServer
from selfaug.serving.keys import ApiKeys
from selfaug.serving.served import SHUTTING_DOWN, FoundPrompt, Readiness, Served
from selfaug.serving.watcher import Answered

__all__ = ["ALIAS", "ServeSettings", "Server", "open_server", "server_keys"]

ALIAS = "champion"
"""The name by which clients ask for whatever model is the current one."""


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
        check: whether the canary set must come back before requests are answered.
        watch: how the run's monitor watches what is answered; None: nobody does.
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
    check: bool = True
    watch: WatchSettings | None = field(default_factory=WatchSettings)
    offline: bool = False


def server_keys(run: str | os.PathLike[str], *, new: bool = False) -> tuple[ApiKeys, str | None]:
    """Keys of a run's server, and the key itself if it was made now: it can't be shown again.

    `SELFAUG_API_KEY` in the environment is the key, if it is set.

    Args:
        run: folder of the run.
        new: make another key, which takes the place of the one before.

    Raises:
        ConfigError: if the key of the environment is too short to be one.
        StorageError: if keys can't be read or written.
    """
    given = os.environ.get("SELFAUG_API_KEY")
    if given is not None:
        if len(given) < _SHORTEST_KEY:
            raise ConfigError(
                f"SELFAUG_API_KEY has {len(given)} characters; a key has at least {_SHORTEST_KEY}.",
                hint="unset it and a key is made, or set a long random one.",
            )
        return ApiKeys.of(given), None
    file = RunDir.open(run).serving / "keys.json"
    if file.exists() and not new:
        return ApiKeys.load(file), None
    return ApiKeys.make(file)


_SHORTEST_KEY = 16


class Server:
    """A run's server. Made by `open_server`.

    Attributes:
        served: what it serves.
        url: where it listens, once it does.
    """

    def __init__(
        self,
        served: Served,
        settings: ServeSettings,
        check: Callable[[], list[str] | None],
        log: Callable[[str], None],
        watch: Callable[[Callable[[list[str] | None], None], Callable[[str], None]], Watching] | None = None,
    ) -> None:
        self.served = served
        self._settings, self._check, self._log, self._watch = settings, check, log, watch
        self._watching: Watching | None = None
        self._server: HttpServer | None = None
        self.url = ""

    def run(
        self,
        keys: ApiKeys | None,
        on_ready: Callable[[Readiness], None] = lambda _: None,
        on_watching: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Listen until a signal ends it: SIGTERM and SIGINT let running answers end.

        Args:
            keys: that are taken; None takes requests without a key.
            on_ready: called once it is known whether the server is ready.
            on_watching: called with what there is to say about watching its traffic.

        Raises:
            StorageError: if the address can't be listened on.
        """
        settings = self._settings
        self._server = HttpServer(
            create_app(self.served, keys=keys, limits=settings.limits, log=self._log),
            self.served.readiness,
            host=settings.host,
            port=settings.port,
            drain_seconds=settings.drain_seconds,
        )
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            listening = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
        except OSError as error:
            raise StorageError(
                f"can't listen on {settings.host}:{settings.port}: {error.strerror or error}.",
                hint="choose another port with --port, 0 for a free one.",
            ) from error
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if self._watch is not None:
            self.served.watcher = self._watching = self._watch(self._judge, on_watching)
        checking = threading.Thread(target=self._become_ready, args=[on_ready], daemon=True)
        checking.start()
        try:
            self._server.run(sockets=[listening])
        finally:
            listening.close()
            # It runs the models: a process that ends meanwhile would crash.
            checking.join()
            if self._watching is not None:
                self._watching.close()
            self.served.engine.close()
            if self._watching is not None:
                self._watching.join()

    def stop(self) -> None:
        """End it from another thread, as SIGTERM does."""
        if self._server is not None:
            self._server.handle_exit(signal.SIGTERM, None)

    def _become_ready(self, on_ready: Callable[[Readiness], None]) -> None:
        readiness = self.served.readiness
        problems: list[str] | None = None
        if not self._settings.check:
            readiness.become(True, "not checked against the record of training")
        else:
            readiness.become(False, "replaying the canary set")
            try:
                problems = self._check()
            except Exception as error:  # whatever it is: the server says it instead of ending
                problems = [f"the canary set can't be replayed: {type(error).__name__}: {error}"]
            self._judge(problems)
        if readiness.reason == SHUTTING_DOWN:
            return
        on_ready(readiness)
        if self._watching is not None:
            self._watching.start(problems)

    def _judge(self, problems: list[str] | None) -> None:
        """Be ready or not, by what a replay of the canary set has shown."""
        readiness = self.served.readiness
        if problems is None:
            readiness.become(True, "the run has no canary set: nothing to check")
        elif problems:
            readiness.become(False, "; ".join(problems))
        else:
            readiness.become(True, "drift and answers of the canary set are as recorded at training")


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
    folder = RunDir.open(run)
    config = load_config(folder.config)
    if settings.watch is not None and settings.watch.webhook is not None:
        check_address(settings.watch.webhook)
    chat = open_chat(run, device=settings.device, offline=settings.offline)
    tokenizer = chat.tokenizer
    engine = EmbeddedEngine(
        chat.tuned, chat.base, tokenizer, max_batch=settings.max_batch, max_waiting=settings.max_waiting
    )
    base, tuned = config.model.name, folder.path.resolve().name
    if tuned in (base, ALIAS):
        tuned = f"{tuned}-tuned"
    documents = _documents(folder, config, settings, tokenizer)
    served = Served(
        engine=engine,
        names={tuned: "tuned", base: "base", ALIAS: "tuned"},
        base=base,
        tuned=tuned,
        chat_ids=lambda messages: chat_prompt_ids(tokenizer, messages, **config.data.chat_template_kwargs),
        text_ids=lambda text: [int(token) for token in tokenizer(text)["input_ids"]],
        vocabulary=chat.tuned.get_input_embeddings().weight.shape[0],
        window=_window(settings, config),
        max_tokens=settings.max_tokens,
        request_seconds=settings.request_seconds,
        created=int(folder.config.stat().st_mtime),
    )
    if documents is not None:
        served.find = _find(documents, served)

    def check() -> list[str] | None:
        return _replayed(folder, chat.tuned, chat.base)

    def watch(
        on_canary: Callable[[list[str] | None], None], tell: Callable[[str], None], how: WatchSettings
    ) -> Watching:
        return Watching(
            run,
            engine,
            chat.tuned,
            chat.base,
            form=None if documents is None else documents.form,
            settings=how,
            check=check if settings.check else None,
            on_canary=on_canary,
            tell=tell,
        )

    how = settings.watch
    return Server(served, settings, check, log, None if how is None else partial(watch, how=how))


def _replayed(
    run: RunDir, tuned: PreTrainedModel | PeftModel, base: PreTrainedModel | None
) -> list[str] | None:
    reference = AdapterOff(tuned) if base is None else FrozenModel(base)
    return canary_problems(run, tuned, reference)


def _window(settings: ServeSettings, config: TrainConfig) -> int:
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


def _documents(
    folder: RunDir, config: TrainConfig, settings: ServeSettings, tokenizer: PreTrainedTokenizerBase
) -> DocumentPrompts | None:
    """The run's documents, if it has any."""
    if settings.prepared is None and config.data.prepared is None:
        return None
    return open_documents(folder.path, tokenizer, prepared=settings.prepared, offline=settings.offline)


def _find(documents: DocumentPrompts, served: Served) -> Callable[[str, int], FoundPrompt]:
    """Prompts for questions about the documents."""

    def find(question: str, max_tokens: int) -> FoundPrompt:
        try:
            prompt, passages, _ = documents.prompt(question, max_tokens)
        except NothingFoundError:
            if served.watcher is not None:  # it is not answered, but says something about what is asked
                name = f"rag-{secrets.token_hex(12)}"
                served.watcher.answered(Answered(name, served.text_ids(question), 0, "", question, 0))
            raise
        sources: Sequence[dict[str, Any]] = [
            {"document": one.document, "page": one.page, "id": one.id, "text": one.text} for one in passages
        ]
        return FoundPrompt(prompt, list(sources), lambda text: cited_passages(text, len(sources)))

    return find
