"""A question to a tuned model, answered from the documents: retrieve, prompt, generate, cite."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.config import TrainConfig
from selfaug.core.printable import counted
from selfaug.core.thoughts import without_thoughts
from selfaug.data.special_tokens import without_special_tokens
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import ConfigError, DataError
from selfaug.eval.citations import cited_sources
from selfaug.model.generate import chat_prompt_ids, stream_greedy
from selfaug.model.hidden import adapter_off
from selfaug.phases.answer_form import answer_form
from selfaug.phases.chat import open_chat
from selfaug.phases.inputs import model_window
from selfaug.phases.prepared_folder import (
    outdated_documents,
    prepare_again_command,
    prepared_record,
    prepared_retriever,
    require_folder_name,
    working_folder_elsewhere,
)
from selfaug.phases.run_files import load_run_config, require_named_files
from selfaug.phases.trained_template import trained_template
from selfaug.retrieval.retriever import Passage, Retriever
from selfaug.rundir import RunDir

__all__ = [
    "Answer",
    "Assistant",
    "DocumentPrompts",
    "NothingFoundError",
    "cited_passages",
    "open_assistant",
    "open_documents",
]


class NothingFoundError(DataError):
    """No passage has anything of the question."""


@dataclass(frozen=True)
class Answer:
    """What a model said, and from what.

    Attributes:
        text: of the answer.
        passages: that were in the prompt, numbered from 1 there.
        cited: numbers of those that the answer names, after its thoughts if it has some.
        dropped: passages that were found and didn't fit into the prompt.
        invalid: numbers that the answer names, and no passage has.
    """

    text: str
    passages: list[Passage]
    cited: list[int]
    dropped: int = 0
    invalid: list[int] = field(default_factory=list)


@dataclass
class DocumentPrompts:
    """Prompts with the passages that are found for a question. Made by `open_documents`.

    Attributes:
        template: of the prompts, the one that the model was trained with.
        passages: that go into a prompt.
        window: tokens of prompt and answer together.
        prepared: folder that `selfaug prepare` wrote.
        prepared_in: working folder that they have to be prepared in again; None: this one.
        outdated: documents that are new, changed or gone since they were prepared.
        form: that answers were trained to have.
    """

    tokenizer: PreTrainedTokenizerBase
    retriever: Retriever
    template: RetrievalTemplate
    passages: int
    window: int
    chat_template_kwargs: dict[str, Any]
    prepared: Path
    prepared_in: Path | None = None
    outdated: list[str] = field(default_factory=list)
    form: re.Pattern[str] | None = None

    def __post_init__(self) -> None:
        self._plain = without_special_tokens(self.tokenizer)

    def outdated_in_words(self) -> str:
        """That documents aren't as they were prepared, and what helps; empty if they are."""
        if not self.outdated:
            return ""
        command = prepare_again_command(self.prepared, working_folder=self.prepared_in)
        return (
            f"{counted(len(self.outdated), 'document is', 'documents are')} new, changed or gone since the folder was "
            f"prepared ({self.outdated[0]}); `{command}` reads what has changed (--skip-bad-rows leaves out questions "
            "whose answer is gone)"
        )

    def prompt(
        self, question: str, max_new_tokens: int, *, window: int | None = None
    ) -> tuple[list[int], list[Passage], int]:
        """Token ids, the passages in them, and how many passages didn't fit: whole ones go from the end.

        Args:
            question: in words.
            max_new_tokens: of the answer.
            window: tokens of prompt and answer that whoever answers has, where these may be fewer than `self.window`.

        Raises:
            NothingFoundError: if nothing is found for it.
            DataError: if the question is empty, or doesn't fit into the window.
        """
        if not question.strip():
            raise DataError("the question is empty.", hint="ask in words that the documents have.")
        found = self.retriever.search(question, self.passages)
        if not found:
            raise NothingFoundError(
                f"no passage shares a word with {question!r:.80}.", hint="ask in the documents' own words."
            )
        room = self.window if window is None else min(self.window, window)
        asked, texts = self._plain(question), [self._plain(passage.text) for passage in found]
        for used in range(len(found), 0, -1):
            messages = self.template.messages(asked, texts[:used])
            prompt = chat_prompt_ids(self.tokenizer, messages, **self.chat_template_kwargs)
            if len(prompt) + max_new_tokens <= room:
                return prompt, found[:used], len(found) - used
        raise DataError(
            f"the question and one passage have {len(prompt):,} tokens; with an answer of {max_new_tokens:,} "
            f"they don't fit into {room:,}.",
            hint="ask in fewer words, or for a shorter answer (--max-new-tokens; `max_tokens` of a request).",
        )


@dataclass
class Assistant:
    """A model with its documents. Made by `open_assistant`.

    Attributes:
        documents: that questions are answered from.
        tuned: the tuned model.
        base: the base model; None: the tuned model with its adapter off.
    """

    documents: DocumentPrompts
    tuned: PreTrainedModel | PeftModel
    base: PreTrainedModel | None
    max_new_tokens: int = 256

    def ask(
        self,
        question: str,
        *,
        use_base: bool = False,
        on_passages: Callable[[list[Passage]], None] = lambda _: None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """Answer from the passages that are found for the question; greedy.

        Args:
            question: in words.
            use_base: ask the base model.
            on_passages: called with the passages of the prompt, before the answer.
            on_text: called with each further piece of the answer.

        Raises:
            DataError: if the question is empty, nothing is found for it, or it doesn't fit into the window.
        """
        prompt, passages, dropped = self.documents.prompt(question, self.max_new_tokens)
        on_passages(passages)
        text = self._answer(prompt, use_base, on_text)
        cited = cited_passages(text, len(passages))
        invalid = cited_sources(without_thoughts(text)) - {*cited}
        return Answer(text, passages, cited, dropped, sorted(invalid))

    def _answer(self, prompt: list[int], use_base: bool, on_text: Callable[[str], None]) -> str:
        def stream(model: Any) -> str:
            return stream_greedy(
                model,
                self.documents.tokenizer,
                prompt,
                max_new_tokens=self.max_new_tokens,
                on_text=on_text,
            )

        if not use_base:
            return stream(self.tuned)
        if self.base is not None:
            return stream(self.base)
        assert isinstance(self.tuned, PeftModel)
        with adapter_off(self.tuned):
            return stream(self.tuned)


def cited_passages(text: str, passages: int) -> list[int]:
    """Numbers of the passages that an answer cites, of so many that it had; what its thoughts name is not cited."""
    return sorted(number for number in cited_sources(without_thoughts(text)) if 1 <= number <= passages)


def open_assistant(
    run: str | os.PathLike[str],
    *,
    prepared: str | os.PathLike[str] | None = None,
    passages: int | None = None,
    max_new_tokens: int = 256,
    device: str = "auto",
    offline: bool = False,
) -> Assistant:
    """Load a run's models and the index of its documents.

    Args:
        run: folder of the run.
        prepared: folder that `selfaug prepare` wrote; by default the one that the run was trained on.
        passages: in a prompt; by default as prepared.
        max_new_tokens: longest answer.
        device: "auto", "cpu" or "cuda".
        offline: use only what is on this machine.

    Raises:
        StorageError: if there is no such run, or it has no weights yet.
        ConfigError: if the run's prompts and those of `prepared` have another form, or no documents are named.
        DataError: if the index is missing or damaged.
    """
    folder = RunDir.open(run)
    config = load_run_config(folder)
    # Before the models, which take longer: what is wrong with the documents is said at once.
    prepared_retriever(*_documents(folder, config, prepared)[:2])
    chat = open_chat(run, max_new_tokens=max_new_tokens, device=device, offline=offline)
    documents = open_documents(run, chat.tokenizer, prepared=prepared, passages=passages, offline=offline)
    return Assistant(documents, chat.tuned, chat.base, max_new_tokens)


def open_documents(
    run: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prepared: str | os.PathLike[str] | None = None,
    passages: int | None = None,
    offline: bool = False,
) -> DocumentPrompts:
    """The index of a run's documents, and the form of its prompts; arguments and errors as of `open_assistant`."""
    folder = RunDir.open(run)
    config = load_run_config(folder, offline=offline)
    found = _documents(folder, config, prepared)
    return DocumentPrompts(
        tokenizer=tokenizer,
        retriever=prepared_retriever(found.folder, found.record),
        template=found.template,
        passages=passages or found.record["retrieval"]["passages"],
        window=min(config.data.max_length, model_window(config) or config.data.max_length),
        chat_template_kwargs=config.data.chat_template_kwargs,
        prepared=found.folder,
        prepared_in=working_folder_elsewhere(found.record),
        outdated=outdated_documents(found.folder, found.record),
        form=answer_form(found.record),
    )


class _Documents(NamedTuple):
    folder: Path
    record: dict[str, Any]
    template: RetrievalTemplate


def _documents(run: RunDir, config: TrainConfig, prepared: str | os.PathLike[str] | None) -> _Documents:
    """The folder that was prepared, and the template that both it and the run have."""
    if prepared is not None:
        require_folder_name(prepared)
    source = prepared or config.data.prepared
    if source is None:
        raise ConfigError(
            f"{run.path} was not trained on documents that `selfaug prepare` read.",
            hint="name them: --prepared FOLDER, the --output of `selfaug prepare`.",
        )
    if prepared is None:
        require_named_files(run, config, "prepared", instead="name their folder with --prepared")
    record = prepared_record(Path(source))
    template = trained_template(run)
    if template is None:
        raise ConfigError(
            f"{run.path} was not trained on retrieval rows, so it has no form for questions with passages.",
            hint="`selfaug chat` talks to it.",
        )
    if template.to_dict() != record["template"]:
        raise ConfigError(
            f"the prompts of {source} have another form than those that {run.path} was trained with.",
            hint="prepare the documents with the template of the run's training (rows.template), or train anew.",
        )
    return _Documents(Path(source), record, template)
