"""Batched generation: greedy, with the same text as one prompt at a time, and sampled.

Not `model.generate`: that decodes a batch until its longest answer ends, and applies the sampling options
and repetition penalties that a model's folder may carry. Here the next prompts take the places of finished answers,
and each token is the arg max (or drawn as asked), nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.errors import DataError, ModelError
from selfaug.model.answer_text import AnswerText
from selfaug.model.memory import release_memory
from selfaug.model.running_batch import RunningBatch

__all__ = [
    "chat_ends",
    "chat_prompt_ids",
    "draw",
    "end_tokens",
    "generate_greedy",
    "generate_greedy_ids",
    "sample_ids",
    "stream_greedy",
    "text_prompt_ids",
]

# Taking rows out of the key-value cache, or into it, copies it: it waits until this share of the batch is finished.
_FINISHED_SHARE = 0.25

_LIKELY = 1000

# Logits over less are infinite, and then there are no probabilities. Long before that only the likeliest is drawn.
_COLDEST = 1e-30

# A tokeniser changes its own settings when it is called, and fails if another thread is using it at that moment.
_TOKENISING = threading.Lock()

# What stands for an answer where a chat template is rendered to see what comes after one.
_ANSWER = "selfaug's answer"


def chat_prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: str | Sequence[Mapping[str, str]], **template_arguments: Any
) -> list[int]:
    """Token ids of a chat that waits for the assistant's turn; a text is the user's only message.

    Args:
        tokenizer: with a chat template.
        messages: of the chat.
        template_arguments: of the template, such as `enable_thinking=False`.

    Raises:
        ModelError: if the tokeniser has no chat template.
        DataError: if the template takes no such messages, such as a system message or one role twice in a row.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokeniser has no chat template.",
            hint="use the model's instruction-tuned version, or set tokenizer.chat_template.",
        )
    chat = (
        [{"role": "user", "content": messages}]
        if isinstance(messages, str)
        else [dict(one) for one in messages]
    )
    try:
        with _TOKENISING:
            ids = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=False, **template_arguments
            )
    except TemplateError as error:
        raise DataError(
            f"the chat template refuses these messages: {error}",
            hint="send what the model's template takes: many want user and assistant in turn, some no system message.",
        ) from error
    return [int(token) for token in ids]


def text_prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without a chat template.

    As in training, a text that begins with the tokeniser's beginning token, as a prompt that was rendered by hand does,
    gets no second one.
    """
    with _TOKENISING:
        before, ids = (list(tokenizer(part)["input_ids"]) for part in ("", text))
    if ids[: 2 * len(before)] == 2 * before:
        ids = ids[len(before) :]
    return [int(token) for token in ids]


def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int = 32,
    on_answer: Callable[[int, str], None] = lambda *_: None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[str]:
    """Greedy answers as texts without special tokens; arguments as for `generate_greedy_ids`, and

    Args:
        on_answer: called with a prompt's place and its answer when this ends.
    """
    texts = [""] * len(prompts)
    count = _Counter(len(prompts), on_progress)

    def finished(index: int, answer: list[int]) -> None:
        texts[index] = tokenizer.decode(answer, skip_special_tokens=True)
        on_answer(index, texts[index])
        count(index, answer)

    _generate(model, prompts, _likeliest, end_tokens(model, tokenizer), max_new_tokens, batch_size, finished)
    return texts


_Choose = Callable[[Tensor], Tensor]
"""Next tokens [N] from logits [N, vocabulary]."""


def _likeliest(logits_NV: Tensor) -> Tensor:
    return logits_NV.argmax(-1)


class _Counter:
    """Tells how many answers have ended."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def __call__(self, index: int, answer: list[int]) -> None:
        self._done += 1
        self._on_progress(self._done, self._total)


def generate_greedy_ids(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    eos_ids: frozenset[int] | None = None,
    max_new_tokens: int | Sequence[int],
    batch_size: int = 32,
    on_answer: Callable[[int, list[int]], None] = lambda *_: None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[list[int]]:
    """Greedy answers as token ids, in the order of the prompts, without the token that ended them.

    An answer of `max_new_tokens` tokens was cut off there.

    Args:
        model: in any mode; runs in evaluation mode and gets its mode back.
        prompts: token ids of each prompt.
        eos_ids: tokens that end an answer; by default those of the model's generation config.
        max_new_tokens: one limit for all, or one for each prompt.
        batch_size: prompts decoded together, the longest first; the next join when a quarter of these have ended. Fewer
            where a GPU's memory doesn't suffice for so many of their length.
        on_answer: called with a prompt's place and its answer when this ends.
        on_progress: called with (finished, all) whenever an answer ends.
    """
    count = _Counter(len(prompts), on_progress)

    def finished(index: int, answer: list[int]) -> None:
        on_answer(index, answer)
        count(index, answer)

    return _generate(model, prompts, _likeliest, eos_ids, max_new_tokens, batch_size, finished)


def stream_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    on_text: Callable[[str], None],
) -> str:
    """The greedy answer to one prompt, told as it is made; the same as that of `generate_greedy`.

    Args:
        model: in any mode; runs in evaluation mode and gets its mode back.
        tokenizer: its tokeniser.
        prompt: token ids.
        max_new_tokens: longest answer.
        on_text: called with each further piece of text. A character of several tokens comes when it is whole.
    """
    eos_ids = end_tokens(model, tokenizer)
    text = AnswerText(tokenizer)

    def choose(logits_NV: Tensor) -> Tensor:
        next_ids = logits_NV.argmax(-1)
        if int(next_ids[0]) not in eos_ids and (piece := text.add(int(next_ids[0]))):
            on_text(piece)
        return next_ids

    answer = _generate(model, [prompt], choose, eos_ids, max_new_tokens, 1, lambda *_: None)[0]
    if rest := text.end():
        on_text(rest)
    return str(tokenizer.decode(answer, skip_special_tokens=True))


def sample_ids(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    eos_ids: frozenset[int] | None = None,
    max_new_tokens: int | Sequence[int],
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[list[int]]:
    """Sampled answers as token ids; arguments as for `generate_greedy_ids`, and

    Args:
        seed: of the draws, which leave torch's own random state alone. They depend on `batch_size` too.
        temperature: logits are divided by it.
        top_p: draws from the likeliest tokens that together have this probability.

    Raises:
        ValueError: if temperature or top_p is out of range.
    """
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature must be positive and top_p in (0, 1], got {temperature} and {top_p}")
    generator = torch.Generator(model.device).manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        return draw(logits, temperature, top_p, generator)

    finished = _Counter(len(prompts), on_progress)
    return _generate(model, prompts, choose, eos_ids, max_new_tokens, batch_size, finished)


def draw(logits_NV: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """Tokens [N] drawn from logits [N, vocabulary].

    Args:
        logits_NV: of the next tokens.
        temperature: logits are divided by it; positive.
        top_p: draws from the likeliest tokens that together have this probability; in (0, 1].
        generator: of the draws.
    """
    p_NV = (logits_NV.float() / max(temperature, _COLDEST)).softmax(-1)
    if top_p == 1.0:
        return torch.multinomial(p_NV, 1, generator=generator).squeeze(-1)
    # Sorting a whole vocabulary takes longer than a small model: a thousand tokens nearly always suffice.
    likely_NK, token_NK = p_NV.topk(min(_LIKELY, p_NV.shape[-1]), dim=-1)
    if likely_NK.sum(-1).min() < top_p:
        likely_NK, token_NK = p_NV.sort(-1, descending=True)
    # A token stays if those before it don't reach top_p: the first one also where that is 0 in 32 bits.
    over_NK = likely_NK.cumsum(-1) - likely_NK >= top_p
    over_NK[:, 0] = False
    likely_NK[over_NK] = 0.0
    return token_NK.gather(-1, torch.multinomial(likely_NK, 1, generator=generator)).squeeze(-1)


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choose: _Choose,
    eos_ids: frozenset[int] | None,
    max_new_tokens: int | Sequence[int],
    batch_size: int,
    on_finished: Callable[[int, list[int]], None],
) -> list[list[int]]:
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(limits)} values of max_new_tokens")
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    if eos_ids is None:
        eos_ids = end_tokens(model)

    answers: list[list[int]] = [[] for _ in prompts]
    for index, limit in enumerate(limits):
        if limit <= 0:
            on_finished(index, answers[index])
    # Like lengths waste the least padding. The longest first: those that come last are short, so that the batch is
    # full for most of the time, and memory that doesn't suffice shows at once.
    waiting = deque(
        sorted(
            (index for index, limit in enumerate(limits) if limit > 0),
            key=lambda index: (limits[index], len(prompts[index])),
            reverse=True,
        )
    )
    batch = RunningBatch(model)
    longest = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
    most_tokens: int | None = None  # of a batch at its longest; known when memory has not sufficed
    rows: list[int] = []  # of the batch, by their prompts' places
    next_ids = torch.empty(0, dtype=torch.long, device=model.device)
    ended: set[int] = set()
    taken = [0] * len(prompts)  # tokens, those after an answer's end included

    def room() -> int:
        """Rows that there may be with the next prompts among them."""
        if most_tokens is None:
            return batch_size
        width = max(longest[index] for index in (*rows, *islice(waiting, batch_size)))
        return max(1, min(batch_size, most_tokens // width))

    def take(asked: Sequence[int], logits_NV: Tensor) -> Tensor:
        """The next tokens [N] of these prompts."""
        chosen = choose(logits_NV)
        for index, token in zip(asked, chosen.tolist(), strict=True):
            taken[index] += 1
            if index in ended:
                continue
            if token not in eos_ids:
                answers[index].append(token)
            if token in eos_ids or len(answers[index]) == limits[index]:
                ended.add(index)
                on_finished(index, answers[index])
        return chosen

    with _evaluation_mode(model):
        while True:
            joining: list[int] = []
            try:
                left = [place for place, index in enumerate(rows) if index not in ended]
                if len(left) <= (1 - _FINISHED_SHARE) * len(rows):
                    batch.keep(left)
                    rows = [rows[place] for place in left]
                    next_ids = next_ids[torch.tensor(left, dtype=torch.long, device=next_ids.device)]
                if waiting and len(rows) <= (1 - _FINISHED_SHARE) * room() and batch.open:
                    joining = [waiting.popleft() for _ in range(min(room() - len(rows), len(waiting)))]
                    first_ids = take(joining, batch.join([prompts[index] for index in joining]))
                    rows, next_ids = rows + joining, torch.cat([next_ids, first_ids])
                elif rows:
                    over = [place for place, index in enumerate(rows) if taken[index] >= limits[index]]
                    next_ids = take(rows, batch.step(next_ids, over=over))
                else:
                    return answers
                continue
            except torch.OutOfMemoryError:
                together = list(dict.fromkeys(rows + joining))
                if len(together) < 2:
                    raise
            # The GPU's memory is too small for so many: half as many of their length, and from their beginning those
            # that have not ended. Not where the error is caught, which still holds what it ran out with.
            batch.keep([])
            release_memory()
            most_tokens = len(together) // 2 * max(longest[index] for index in together)
            rows, next_ids = [], next_ids[:0]
            for index in reversed([index for index in together if index not in ended]):
                answers[index].clear()
                taken[index] = 0
                waiting.appendleft(index)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> frozenset[int]:
    """End tokens of the generation config (one or several).

    With a tokeniser, its own too, and what its chat template writes after an answer: training teaches to end with
    these, and the generation config of a model that was made for plain text doesn't know of chats.
    """
    ends = getattr(model.generation_config, "eos_token_id", None)
    known = frozenset([ends] if isinstance(ends, int) else ends or ())
    return known if tokenizer is None else known | chat_ends(tokenizer)


def chat_ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """What ends an answer as far as a tokeniser knows: its end token, and what its chat template writes after one."""
    return frozenset(token for token in (tokenizer.eos_token_id, _turn_end(tokenizer)) if token is not None)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an answer, one that was added to the vocabulary; else None.

    Not only a special one: whoever adds a token for a chat template of their own may not have called it that.
    """
    if tokenizer.chat_template is None:
        return None
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        with _TOKENISING:
            text = str(tokenizer.apply_chat_template(chat, tokenize=False))
            _, found, after = text.rpartition(_ANSWER)
            ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    return int(ids[0]) if ids and ids[0] in tokenizer.added_tokens_decoder else None


@contextmanager
def _evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode for the time being; every module gets back the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
