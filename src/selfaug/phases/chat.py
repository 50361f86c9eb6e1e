"""Talking to the base model and the tuned model of a run, side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.errors import DataError
from selfaug.model.generate import chat_prompt_ids, generate_greedy, text_prompt_ids
from selfaug.model.hidden import adapter_off
from selfaug.phases.inputs import model_window, resolve_device, tokenizer_of
from selfaug.phases.run_files import load_run_config, require_named_base
from selfaug.phases.run_models import load_run_models, trained_weights
from selfaug.rundir import RunDir

__all__ = ["Answers", "Chat", "TooLongError", "open_chat"]

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answers:
    """What both models say to the same prompt.

    Attributes:
        dropped: questions, the oldest ones, that were left out for it with their answers.
    """

    base: str
    tuned: str
    dropped: int = 0


class TooLongError(DataError):
    """A question that doesn't fit into the model's window, be it alone; the conversation is as it was."""


@dataclass
class Chat:
    """Two conversations with the same user, one with the base model and one with the tuned model.

    Attributes:
        step: the checkpoint's step, if the run is not complete; else None.
        window: tokens of prompt and answer together; None if nobody knows.
    """

    tokenizer: PreTrainedTokenizerBase
    tuned: PreTrainedModel | PeftModel
    base: PreTrainedModel | None
    """None: the tuned model with its adapter off."""
    chat_template_kwargs: dict[str, Any]
    system: str | None = None
    max_new_tokens: int = 256
    step: int | None = None
    window: int | None = None
    _base_turns: Messages = field(default_factory=list)
    _tuned_turns: Messages = field(default_factory=list)

    def ask(self, prompt: str) -> Answers:
        """Both answers; greedy, so the same prompt gives the same answers.

        What no longer fits into the window goes from the beginning, the same of both conversations.

        Raises:
            TooLongError: if the prompt alone doesn't fit.
            DataError: if the chat template refuses the messages, such as a system message.
        """
        dropped = self._make_room(prompt)
        if self.base is not None:
            base = self._answer(self.base, self._base_turns, prompt)
        else:
            assert isinstance(self.tuned, PeftModel)
            with adapter_off(self.tuned):
                base = self._answer(self.tuned, self._base_turns, prompt)
        return Answers(base, self._answer(self.tuned, self._tuned_turns, prompt), dropped)

    def start_anew(self) -> None:
        """Forget what was said."""
        self._base_turns.clear()
        self._tuned_turns.clear()

    def _make_room(self, prompt: str) -> int:
        """Drop the oldest questions and answers until this prompt fits; returns how many questions."""
        if self.window is None:
            return 0
        if (alone := len(self._ids([], prompt))) >= self.window:
            raise TooLongError(
                f"the question has {alone:,} tokens, which leave no room for an answer in the model's window of "
                f"{self.window:,}.",
                hint="ask in fewer words.",
            )
        room = max(self.window - self.max_new_tokens, alone)
        dropped = 0
        while max(len(self._ids(turns, prompt)) for turns in (self._base_turns, self._tuned_turns)) > room:
            del self._base_turns[:2], self._tuned_turns[:2]
            dropped += 1
        return dropped

    def _answer(self, model: Any, turns: Messages, prompt: str) -> str:
        ids = self._ids(turns, prompt)
        most = (
            self.max_new_tokens if self.window is None else min(self.max_new_tokens, self.window - len(ids))
        )
        answer = generate_greedy(model, self.tokenizer, [ids], max_new_tokens=most)[0]
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return answer

    def _ids(self, turns: Messages, prompt: str) -> list[int]:
        """The prompt after these turns, as the models get it."""
        opening = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*opening, *turns, {"role": "user", "content": prompt}]
        if self.tokenizer.chat_template is None:  # a base model, trained on text: the last turn is the prompt
            return text_prompt_ids(self.tokenizer, messages[-1]["content"])
        return chat_prompt_ids(self.tokenizer, messages, **self.chat_template_kwargs)


def open_chat(
    run: str | os.PathLike[str],
    *,
    system: str | None = None,
    max_new_tokens: int = 256,
    device: str = "auto",
    offline: bool = False,
) -> Chat:
    """Load both models of a run. One that is not complete gives its latest complete checkpoint.

    Raises:
        StorageError: if there is no such run, or nothing to load in it.
        ModelError: if the base model can't be loaded, or is another than the run's.
    """
    folder = RunDir.open(run)
    config = load_run_config(folder, offline=offline)
    weights, step = trained_weights(folder, config)
    require_named_base(folder, config)
    tokenizer = tokenizer_of(config)
    base, tuned = load_run_models(folder, config, weights, device=resolve_device(device))
    return Chat(
        tokenizer,
        tuned,
        base,
        chat_template_kwargs=config.data.chat_template_kwargs,
        system=system,
        max_new_tokens=max_new_tokens,
        step=step,
        window=model_window(config),
    )
