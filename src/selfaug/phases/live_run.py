"""The run that is served: its models and documents, and how another run takes its place between two requests."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError, ModelError
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import add_adapter
from selfaug.model.reference import AdapterOff, FrozenModel
from selfaug.phases.ask import DocumentPrompts, NothingFoundError, cited_passages, open_documents
from selfaug.phases.canary import canary_problems
from selfaug.phases.run_files import load_run_config
from selfaug.phases.run_models import alike_where_known, same_weights, trained_base, trained_weights
from selfaug.phases.watching import DriftModels
from selfaug.rundir import RunDir
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.generation import BASE, TUNED, Model
from selfaug.serving.lanes import rows_can_mix
from selfaug.serving.served import FoundPrompt, Served
from selfaug.serving.watcher import Answered

__all__ = ["ALIAS", "LiveModels", "LiveRun", "not_exchangeable", "tokenizer_problems", "tuned_name"]

ALIAS = "champion"
"""The name by which clients ask for whatever model is the current one."""


def tuned_name(run: RunDir, base: str) -> str:
    """What a run's tuned model is called where it is served: as its folder, unless that name is taken.

    Args:
        run: the run.
        base: name of the base model.
    """
    name = run.path.resolve().name
    return f"{name}-tuned" if name in (base, ALIAS) else name


@dataclass(frozen=True)
class LiveRun:
    """A run as it is served, without its models.

    Attributes:
        folder: of the run.
        config: of the run.
        base: name of the base model: as the run's settings have it, wherever its folder is found from here.
        weights: of the adapter, or of the whole model.
        step: of the checkpoint that they are, if the run is not complete; else None.
        documents: that questions are answered from; None if there are none.
        trained_on: its base model and tokeniser, as `trained_base` had it when the run was opened: its folder may be
            gone when another run takes its place.
    """

    folder: RunDir
    config: TrainConfig
    base: str
    weights: Path
    step: int | None
    documents: DocumentPrompts | None
    trained_on: Mapping[str, Any]

    @classmethod
    def open(
        cls,
        run: str | os.PathLike[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        prepared: str | None,
        offline: bool,
    ) -> LiveRun:
        """Look at what belongs to a run.

        Raises:
            StorageError: if there is no such run, or it has no weights yet.
            ConfigError, DataError: if its documents can't be opened, or its record can't be read.
        """
        folder = RunDir.open(run)
        config = load_run_config(folder)
        documents = None
        if prepared is not None or config.data.prepared is not None:
            documents = open_documents(folder.path, tokenizer, prepared=prepared, offline=offline)
        base = load_config(folder.config).model.name
        return cls(folder, config, base, *trained_weights(folder, config), documents, trained_base(folder))

    @property
    def tuned(self) -> str:
        """Name of the tuned model."""
        return tuned_name(self.folder, self.base)

    def serve_by(self, served: Served, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make a server answer with this run's name, chat template settings and documents."""
        template = self.config.data.chat_template_kwargs
        served.chat_ids = lambda messages: chat_prompt_ids(tokenizer, messages, **template)
        served.base, served.tuned = self.base, self.tuned
        base: dict[str, Model] = {self.base: BASE} if served.has_base else {}
        served.names = {self.tuned: TUNED, **base, ALIAS: TUNED}
        served.created = int(self.folder.config.stat().st_mtime)
        served.find = None if self.documents is None else _find(self.documents, served)


def _find(documents: DocumentPrompts, served: Served) -> Callable[[str, int, Model], FoundPrompt]:
    """Prompts for questions about the documents."""

    def find(question: str, max_tokens: int, model: Model) -> FoundPrompt:
        try:
            prompt, passages, _ = documents.prompt(question, max_tokens, window=served.window)
        except NothingFoundError:
            # It is not answered, but says something about what the tuned model is asked: nothing was found. The bare
            # question is no prompt like those that it gets.
            if served.watcher is not None and model == TUNED:
                name = f"rag-{secrets.token_hex(12)}"
                served.watcher.answered(Answered(name, [], 0, "", question, 0))
            raise
        sources: Sequence[dict[str, Any]] = [
            {"document": one.document, "page": one.page, "id": one.id, "text": one.text} for one in passages
        ]
        return FoundPrompt(prompt, list(sources), lambda text: cited_passages(text, len(sources)))

    return find


class LiveModels:
    """The models that answer.

    Args:
        tuned: the tuned model.
        base: the base model; None: the tuned model with its adapter off.
        engine: that answers with them.
    """

    checked = "drift and answers of the canary set are as recorded at training"

    def __init__(
        self, tuned: PreTrainedModel | PeftModel, base: PreTrainedModel | None, engine: EmbeddedEngine
    ) -> None:
        self.tuned, self.base, self.engine = tuned, base, engine
        self._exchanges = 0

    def check(self, run: RunDir) -> list[str] | None:
        """What the canary set of a run shows; None if it has none. Nothing else uses the models meanwhile."""
        reference = AdapterOff(self.tuned) if self.base is None else FrozenModel(self.base)
        return canary_problems(run, self.tuned, reference)

    def for_drift(self, run: RunDir) -> Callable[[], DriftModels]:
        """Gives the models that drift is measured with: those that answer."""
        return lambda: (self.tuned, self.base)

    def missing(self) -> list[str]:
        """None of them: they are in this process."""
        return []

    def require_exchangeable(self, now: LiveRun, new: LiveRun, *, check: bool) -> None:
        """Refuse a run that can't take the place of another while the server runs; nothing is changed.

        Args:
            now: the run that is served.
            new: the run that is to take its place.
            check: has no meaning here: what is loaded is compared with the record when it is.

        Raises:
            ConfigError: if it can't.
        """
        _require_exchangeable(now, new)

    def exchange(self, new: LiveRun, *, check: bool, on_exchanged: Callable[[], None]) -> None:
        """Answer with the adapter of another run.

        Requests that came before are answered with the old one, later ones wait. The old adapter goes only when the
        new one has reproduced its run's canary set.

        Args:
            new: the run that takes the place of the one that is served.
            check: whether its canary set is replayed first.
            on_exchanged: called once, before anything else uses the models.

        Raises:
            ConfigError: if the two can't be exchanged while the server runs.
            ModelError: if the new adapter can't be loaded, or isn't what was trained.
        """
        self._exchanges += 1
        name = f"exchanged-{self._exchanges}"
        self.engine.in_turn(lambda: self._exchange(new, name, check, on_exchanged))

    def _exchange(self, new: LiveRun, name: str, check: bool, on_exchanged: Callable[[], None]) -> None:
        tuned = self.tuned
        assert isinstance(tuned, PeftModel)
        old = tuned.active_adapter
        add_adapter(tuned, new.weights, name)
        try:
            self.engine.use_adapter(name)
            if self.engine.mixes and not rows_can_mix(tuned):
                raise not_exchangeable(new, ["its adapter is not plain LoRA"])
            problems = self.check(new.folder) if check else None
            if problems:
                raise ModelError(
                    f"{new.folder.path} is not what was trained: {'; '.join(problems)}",
                    hint="the server goes on with the run before; train that one anew.",
                )
        except BaseException:
            self.engine.use_adapter(old)
            tuned.delete_adapter(name)
            raise
        on_exchanged()
        tuned.delete_adapter(old)


def _require_exchangeable(now: LiveRun, new: LiveRun) -> None:
    problems = [
        f"{run.folder.path} has all weights trained" for run in (now, new) if run.config.lora.method == "full"
    ]
    bases = [run.trained_on for run in (now, new)]
    # The same weights as they are stored are others in 4 bits, and that is no part of their hash.
    formats = {
        (run.config.model.quantization, base["dtype"]) for run, base in zip((now, new), bases, strict=True)
    }
    # Stored otherwise, they may be the same once they are loaded.
    same = same_weights(*bases) or bases[0]["weights_hash"] == bases[1]["weights_hash"]
    if not same or len(formats) > 1:
        problems.append("it was trained on another base model, or in another number format")
    problems += tokenizer_problems(now, new)
    if problems:
        raise not_exchangeable(new, problems)


def tokenizer_problems(now: LiveRun, new: LiveRun) -> list[str]:
    """Why a run can't be served with the tokeniser of another, which its server goes on with; empty if it can.

    Args:
        now: the run that is served.
        new: the run that is to take its place.
    """
    if alike_where_known(*(run.trained_on.get("stored_tokenizer_hash") for run in (now, new))):
        return []
    return ["it was trained with another tokeniser or chat template of its base model"]


def not_exchangeable(new: LiveRun, problems: list[str]) -> ConfigError:
    """The error for a run that can't take the place of another while the server runs, for these reasons."""
    return ConfigError(
        f"{new.folder.path} can't take the place of the run that is served while the server runs.",
        problems=problems,
        hint="start a server for it.",
    )
