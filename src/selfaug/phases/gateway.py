"""A gateway: a run that another server answers for, such as vLLM, behind this one's keys, limits and names."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
from transformers import PreTrainedTokenizerBase

from selfaug.errors import ConfigError, ModelError
from selfaug.model.generate import chat_ends, text_prompt_ids
from selfaug.model.loading import load_tokenizer
from selfaug.monitoring.webhook import check_address
from selfaug.phases.canary import recorded_canary
from selfaug.phases.chat import Chat, open_chat
from selfaug.phases.inputs import resolve_device
from selfaug.phases.live_run import LiveRun, not_exchangeable, tokenizer_problems
from selfaug.phases.registry import entered_weights
from selfaug.phases.run_files import load_run_config, require_named_base
from selfaug.phases.run_models import hash_of_weights, trained_otherwise
from selfaug.phases.serve import Server, ServeSettings, context_of
from selfaug.phases.watching import DriftModels
from selfaug.rundir import RunDir
from selfaug.serving.gate import Gate
from selfaug.serving.generation import BASE, TUNED, Model
from selfaug.serving.guard import write_to_stderr
from selfaug.serving.served import Served
from selfaug.serving.upstream import AnswerEnds, UpstreamAwayError, UpstreamEngine

__all__ = ["UpstreamSettings", "open_gateway"]

_SECONDS, _CONNECT_SECONDS = 60.0, 5.0

_LIST_SECONDS = 10.0
"""For the list of its models, which a server has at hand."""

_AWAY = (429, 502, 503, 504)
"""Statuses of a server, or of a proxy before it, that will answer later."""


@dataclass(frozen=True)
class UpstreamSettings:
    """The server behind the gateway.

    Attributes:
        url: its address, with `/v1`.
        base: what it calls the base model; None: as the run's settings do.
        tuned: what it calls the tuned model; None: as the run's folder is called.
        key: for it; None sends none.
        has_base: whether it has the base model; merged weights are served without.
        score_drift: whether the run's models are loaded here too, in the background, to measure drift with.
    """

    url: str
    base: str | None = None
    tuned: str | None = None
    key: str | None = None
    has_base: bool = True
    score_drift: bool = False


def open_gateway(
    run: str | os.PathLike[str],
    settings: ServeSettings,
    upstream: UpstreamSettings,
    *,
    log: Callable[[str], None] = write_to_stderr,
) -> Server:
    """A server that answers through another one; models are loaded here for measuring drift only, if at all.

    Args:
        run: folder of the run.
        settings: how it is served.
        upstream: the server that answers.
        log: gets a line of JSON for every request.

    Raises:
        StorageError: if there is no such run, or the registry can't be read.
        ConfigError: if the address is none, the key can't be sent, or drift is to be measured on a device that isn't
            there.
        ModelError, DataError: if tokeniser or documents can't be loaded.
    """
    parts = httpx.URL(upstream.url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigError(
            f"--upstream {upstream.url} is no address.", hint="give one like http://127.0.0.1:8001/v1."
        )
    if settings.watch is not None and settings.watch.webhook is not None:
        check_address(settings.watch.webhook)
    if upstream.score_drift:
        resolve_device(settings.device)
    folder = RunDir.open(run)
    config = load_run_config(folder)
    require_named_base(folder, config)
    tokenizer = load_tokenizer(
        config.model.name,
        trust_remote_code=config.model.trust_remote_code,
        offline=settings.offline or config.run.offline,
    )
    live = LiveRun.open(run, tokenizer, prepared=settings.prepared, offline=settings.offline)
    names: dict[Model, str] = {TUNED: upstream.tuned or live.tuned}
    if upstream.has_base:
        names[BASE] = upstream.base or live.base
    engine = UpstreamEngine(
        upstream.url,
        names,
        ends=AnswerEnds(tokenizer),
        key=_sendable(upstream.key),
        max_running=settings.max_batch,
        max_waiting=settings.max_waiting,
    )
    own_window = context_of(settings, config)
    served = Served(
        engine=engine,
        text_ids=partial(text_prompt_ids, tokenizer),
        vocabulary=len(tokenizer),
        window=own_window,
        max_tokens=settings.max_tokens,
        request_seconds=settings.request_seconds,
        most_at_once=settings.max_batch + settings.max_waiting,
        gate=Gate(settings.max_batch + settings.max_waiting),
        has_base=upstream.has_base,
    )
    live.serve_by(served, tokenizer)

    def within(tokens: int) -> None:
        served.window = min(own_window, tokens)

    load = partial(open_chat, device=settings.device, offline=settings.offline)
    models = UpstreamModels(
        engine,
        tokenizer,
        load if upstream.score_drift else None,
        {live.folder.path.resolve(): names[TUNED]},
        within,
        settings.registry,
        None if settings.registry is None else entered_weights(settings.registry, live.folder),
    )
    return Server(served, models, live, tokenizer, settings, log)


def _sendable(key: str | None) -> str | None:
    """A key as a header can have it: white space around it is often the end of a file's line."""
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "SELFAUG_UPSTREAM_KEY has characters that can't be sent: control characters, or others than ASCII's.",
            hint="set it to the key alone.",
        )
    return key or None


_AS_RECORDED = "the answers to the canary set are as recorded at training"
_NOT_AS_RECORDED = "are not as recorded"
_WITHOUT_END = "don't end where a turn does, as if the server didn't heed stop_token_ids"


_BEYOND_END = 2
"""Tokens that are asked for beyond an answer's last one: its end, and one that only an answer without an end has."""


class _NoListError(UpstreamAwayError):
    """What came is no list of models: the key may be wrong, or the server has none."""


class UpstreamModels:
    """The models that another server has.

    Args:
        engine: that asks it.
        tokenizer: of both models.
        load: loads the models of a run's folder into this process, to measure drift with; None: it is not measured.
        called: what the other server calls the tuned model of a run, by the run's resolved folder; of other runs, it is
            called as its folder is.
        on_window: called with the tokens that prompt and answer may have together there, each time that it says so.
        registry: whose champion is followed; None if none is.
        weights: hash of the adapter that is served first; None where nobody knows it yet.
    """

    def __init__(
        self,
        engine: UpstreamEngine,
        tokenizer: PreTrainedTokenizerBase,
        load: Callable[[Path], Chat] | None,
        called: Mapping[Path, str],
        on_window: Callable[[int], None] = lambda _: None,
        registry: str | None = None,
        weights: str | None = None,
    ) -> None:
        self.engine, self._tokenizer, self._load, self._called = engine, tokenizer, load, called
        self._on_window, self._registry = on_window, registry
        # Hashes of the weights that have been served, by what the other server calls them; and of those that are next.
        self._served = {} if weights is None else {engine.names[TUNED]: weights}
        self._next = ""
        self._ends = chat_ends(tokenizer)
        self.checked = _AS_RECORDED

    def check(self, run: RunDir) -> list[str] | None:
        """Whether the other server has the models and answers a run's canary set as recorded; None without a set.

        Drift is not compared: log-probabilities of another engine differ from training's. Of the answers, what no
        rounding in 16 bits can change is compared: other servers compute in these whatever training did.

        Raises:
            UpstreamAwayError: if it doesn't answer.
        """
        return self._check(run, self.engine.names[TUNED])

    def missing(self) -> list[str]:
        """What the other server lacks of what it is asked for; nothing is generated for it.

        Raises:
            UpstreamAwayError: if it doesn't answer, or not with a list of its models.
        """
        return self._lacking(list(self.engine.names.values()), self._cards())

    def _check(self, run: RunDir, tuned: str) -> list[str] | None:
        problems = self._missing([*self._base, tuned])
        record = recorded_canary(run)
        if problems or record is None:
            return problems or None
        if not any(map(self._certain, record["prompts"])):
            self.checked = "the models are there; rounding could change all answers to the canary set"
            return []
        found = {one["id"]: self._problem_of(tuned, one) for one in record["prompts"]}
        self.checked = _AS_RECORDED
        return [
            f"the answers to {len(wrong)} of {len(found)} canary prompts {what}: {', '.join(wrong[:3])}"
            for what in (_NOT_AS_RECORDED, _WITHOUT_END)
            if (wrong := [name for name, problem in found.items() if problem == what])
        ]

    def for_drift(self, run: RunDir) -> Callable[[], DriftModels] | None:
        """What loads a run's models for measuring drift; None if it is not measured."""
        load = self._load
        if load is None:
            return None

        def loaded() -> DriftModels:
            chat = load(run.path)
            return chat.tuned, chat.base

        return loaded

    def require_exchangeable(self, now: LiveRun, new: LiveRun, *, check: bool) -> None:
        """Refuse a run that the other server, or this one, can't answer for; nothing is changed.

        Number formats and methods are the other server's own: what they make of the run is seen in its answers.

        Args:
            now: the run that is served.
            new: the run that is to take its place; the other server has its adapter, under the name of its folder, or
                under the one that was given when the gateway was opened with it.
            check: whether the answers to its canary set are compared.

        Raises:
            ConfigError: if the run was trained on another base model, or with another tokeniser or chat template than
                the one that is served, with which this server goes on; or if other weights are, or were, asked for by
                its name.
            ModelError: if the other server hasn't the adapter, or doesn't answer as recorded.
        """
        differs = trained_otherwise((now.trained_on, now.config), (new.trained_on, new.config))
        unlike = ["it was trained on another base model"] if differs else []
        unlike += tokenizer_problems(now, new)
        if unlike:
            raise not_exchangeable(new, unlike)
        name, asked = self._name_of(new), self.engine.names[TUNED]
        # Without a registry that says what was served. Gigabytes are read for it, so not at the start, where nobody
        # needs it, nor while requests have to wait.
        if asked not in self._served:
            self._served[asked] = hash_of_weights(now.weights)
        if name in self._served and self._served[name] != hash_of_weights(new.weights):
            # Whether it is there would be answered by the adapter of the run that is served, or was.
            at = (
                ""
                if self._registry is None
                else f" --registry {shlex.quote(os.path.abspath(self._registry))}"
            )
            raise ConfigError(
                f"{new.folder.path} has other weights than a run that is served, or was before, and "
                f"{self.engine.shown} would be asked for both by the name {name}.",
                # Else a later rollback would go back to a folder that is gone.
                hint=f"`selfaug registry rollback{at}` first; then rename its folder, have that server serve its "
                "adapter under the new name, and promote it from there. The run before is served on.",
            )
        problems = self._check(new.folder, name) if check else self._missing([name])
        if problems:
            raise ModelError(
                f"{self.engine.shown} can't answer for {new.folder.path}: {'; '.join(problems)}",
                hint=f"have it serve that run's adapter as {name} (vLLM takes one while it runs at "
                "/v1/load_lora_adapter: docs/how-to/serve-behind-vllm.md); the run before is served on.",
            )
        self._next = self._served[name] if name in self._served else hash_of_weights(new.weights)

    def exchange(self, new: LiveRun, *, check: bool, on_exchanged: Callable[[], None]) -> None:
        """Ask for the adapter of another run from now on.

        Args:
            new: the run that takes the place of the one that is served.
            check: has no meaning here: `require_exchangeable` has checked, and looked at its weights.
            on_exchanged: called once, before anything else is asked.
        """
        name = self._name_of(new)
        on_exchanged()
        self.engine.names[TUNED] = name
        self._served[name] = self._next

    def _name_of(self, run: LiveRun) -> str:
        return self._called.get(run.folder.path.resolve(), run.tuned)

    @property
    def _base(self) -> list[str]:
        """What the other server calls the base model, if it has it."""
        return [name for model, name in self.engine.names.items() if model == BASE]

    def _missing(self, names: Sequence[str]) -> list[str]:
        try:
            there = self._cards()
        except _NoListError as error:
            return [str(error)]
        return self._lacking(names, there)

    def _cards(self) -> dict[str, dict[str, Any]]:
        """What the other server says of each of its models, by name. UpstreamAwayError if it says nothing."""
        try:
            cards = _content(self._ask("GET", "/models", seconds=_LIST_SECONDS))["data"]
            return {one["id"]: one for one in cards}
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise _NoListError(
                f"{self.engine.shown}/models can't be read: {type(error).__name__}: {error}"
            ) from error

    def _lacking(self, names: Sequence[str], there: Mapping[str, Mapping[str, Any]]) -> list[str]:
        lacking = [name for name in names if name not in there]
        if not lacking:
            if (window := _window(there, names)) is not None:
                self._on_window(window)
            return []
        return [f"{self.engine.shown} has no {' and no '.join(lacking)}; it has {', '.join(sorted(there))}"]

    def _problem_of(self, tuned: str, prompt: dict[str, Any]) -> str | None:
        """What is wrong with the greedy answer: it begins with what rounding can't change, and ends where that does."""
        sure = self._certain(prompt)
        if not sure:
            return None
        ends = len(sure) < prompt["sure_16_bits"]
        body = {
            "model": tuned,
            "prompt": prompt["ids"],
            "max_tokens": len(sure) + _BEYOND_END * ends,
            "temperature": 0,
        }
        choice = self._completed(body)["choices"][0]
        expected = self._text_after(prompt["ids"], sure)
        if ends and choice.get("finish_reason") == "length" and choice["text"].startswith(expected):
            return _WITHOUT_END
        return None if choice["text"] == expected else _NOT_AS_RECORDED

    def _certain(self, prompt: dict[str, Any]) -> list[int]:
        """Tokens that any server's greedy answer begins with.

        Recorded answers end with the model's own ends only, and go on after that of a chat, with which others may end.
        """
        sure: list[int] = prompt["answer"][: prompt["sure_16_bits"]]
        return sure[: next((place for place, token in enumerate(sure) if token in self._ends), len(sure))]

    def _text_after(self, ids: Sequence[int], answer: Sequence[int]) -> str:
        """The answer as it reads behind its prompt: some tokenisers drop a space where a text begins."""
        before = self._tokenizer.decode(ids, skip_special_tokens=True)
        whole = str(self._tokenizer.decode([*ids, *answer], skip_special_tokens=True))
        return whole.removeprefix(before)

    def _completed(self, body: dict[str, Any]) -> Any:
        """The other server's answer, with an end as the engine asks for it."""
        for ends in self.engine.ends.ways():
            found = self._ask("POST", "/completions", body | ends)
            if not self.engine.ends.may_be_refused(ends, found.status_code, found.content):
                break
        answer = _content(found)
        self.engine.ends.were_taken(ends)
        return answer

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = _SECONDS
    ) -> httpx.Response:
        try:
            found = httpx.request(
                method,
                f"{self.engine.url}{path}",
                json=body,
                headers=self.engine.headers,
                timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
                trust_env=False,
            )
        except httpx.TransportError as error:
            # What is wrong with a request has the request in it, the key too.
            why = "" if isinstance(error, httpx.LocalProtocolError) else f": {error}"
            raise UpstreamAwayError(
                f"{self.engine.shown} does not answer: {type(error).__name__}{why}"
            ) from error
        if found.status_code in _AWAY:
            raise UpstreamAwayError(f"{self.engine.shown} does not answer yet: status {found.status_code}")
        return found


def _window(cards: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> int | None:
    """The fewest tokens of context that a server says its models have, vLLM in `max_model_len`; None if it doesn't.

    Args:
        cards: of all its models, by name. vLLM's of an adapter says nothing of it, but names the base model.
        names: of those that are asked for.
    """
    parents = [parent for name in names if isinstance(parent := cards[name].get("parent"), str)]
    found = [cards[name].get("max_model_len") for name in (*names, *parents) if name in cards]
    return min((one for one in found if type(one) is int and one > 0), default=None)


def _content(found: httpx.Response) -> Any:
    if not found.is_success:
        # Not httpx's own words: they have the whole address, and a password may stand in that.
        raise httpx.HTTPStatusError(f"status {found.status_code}", request=found.request, response=found)
    return found.json()
