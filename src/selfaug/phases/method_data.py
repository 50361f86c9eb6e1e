"""What some methods need before training: texts that the base model writes. Written once, and kept as they end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.data_loader import SeedableRandomSampler
from transformers import PreTrainedTokenizerBase

from selfaug.config import TrainConfig
from selfaug.data import Row
from selfaug.data.row import as_read
from selfaug.data.special_tokens import without_special_tokens
from selfaug.errors import ModelError
from selfaug.eval.scorers import SCORERS
from selfaug.eval.text_parts import numbers
from selfaug.model.generate import chat_prompt_ids, end_tokens, generate_greedy_ids
from selfaug.phases.inputs import read_rows, template_of
from selfaug.records import append_line, read_lines, write_lines
from selfaug.train.anchors import self_requests

__all__ = ["forget_parts", "write_distilled_rows", "write_self_dialogues"]

OnProgress = Callable[[int, int], None]

# Beside the file that is written: what it is made of, until it is there.
_REQUESTS, _PARTS = ".requests.jsonl", ".parts.jsonl"

# Most answers of a small chat model end within so many.
_DIALOGUE_TOKENS = 256

_REWRITE = (
    "\n\nA correct answer is: {answer}\n\n"
    "Use it as a guide, and write the answer to the question above in your own words."
)


class _Text(NamedTuple):
    """A text of the model's, and whether it ended by itself or at the token limit."""

    text: str
    ended: bool


def write_self_dialogues(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    seed: int,
    template_arguments: Mapping[str, Any],
    on_progress: OnProgress,
) -> dict[str, int]:
    """Requests that the base model writes, each with its answer, as rows of messages.

    An answer that reached the token limit would teach to stop in the middle of a sentence: such dialogues are taken
    only where fewer than half of what is asked for have ended by themselves, and only up to that half.
    Requests are kept when all are there, and answers as they end, so that what was cut off goes on.
    Source: SA-SFT (arXiv 2602.20162), with requests as in Magpie (arXiv 2406.08464).

    Args:
        path: the JSONL file to write.
        model: the base model.
        tokenizer: its tokeniser.
        count: dialogues to write.
        seed: of the requests.
        template_arguments: of the chat template.
        on_progress: called with texts written and texts to write.

    Returns:
        `rows` that were written, and how many of them were cut off, `rows_cut_off`.

    Raises:
        ModelError: if the model has no chat template, or writes nothing.
    """
    asked = path.with_suffix(_REQUESTS)
    requests = _requests(asked, model, tokenizer, count, seed, template_arguments, on_progress)
    parts = path.with_suffix(_PARTS)
    answers = _texts(
        parts,
        model,
        tokenizer,
        [chat_prompt_ids(tokenizer, request, **template_arguments) for request in requests],
        end_tokens(model, tokenizer),
        _DIALOGUE_TOKENS,
        lambda done, total: on_progress(count + done * count // max(total, 1), 2 * count),
    )
    ended: list[list[dict[str, str]]] = []
    cut_off: list[list[dict[str, str]]] = []
    for request, answer in zip(requests, answers, strict=True):
        if text := answer.text.strip():
            row = [{"role": "user", "content": request}, {"role": "assistant", "content": text}]
            (ended if answer.ended else cut_off).append(row)
    filling = cut_off[: max(0, -(-count // 2) - len(ended))]
    rows = ended + filling
    if not rows:
        raise ModelError(
            "the base model's answers to its own requests are all empty.",
            hint="it is not a chat model, perhaps: leave out the methods that replay its dialogues.",
        )
    write_lines(
        path,
        [{"id": f"dialogue-{number}", "messages": messages} for number, messages in enumerate(rows, start=1)],
    )
    return {"rows": len(rows), "rows_cut_off": len(filling)}


def write_distilled_rows(
    path: Path,
    config: TrainConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    seed: int,
    on_progress: OnProgress,
) -> dict[str, int]:
    """The training rows of a run, those that it reaches with completions in the base model's own words.

    The base model sees the prompt and the right completion, and writes the answer anew; so with each turn of a row of
    which every assistant turn is learnt. A new text replaces the
    completion only if it ended by itself and says the same: it has all of the completion's numbers, or, where there
    are none, its words. Rows that the run doesn't reach stay as they are, in their places: the order is of all rows.
    Texts are kept as they end, beside the file, so that what was cut off goes on and other seeds find them.
    Source: SDFT (arXiv 2402.13669).

    Args:
        path: the JSONL file to write.
        config: of the run, but for its seed and its rows' completions.
        model: the base model.
        tokenizer: its tokeniser.
        max_new_tokens: longest text.
        seed: of the run's training.
        on_progress: called with texts written and texts to write.

    Returns:
        `rows` that were rewritten, `rows_asked` that the model was given to rewrite, `of_rows` all, and
        `texts_cut_off`, which were not taken because of that.
    """
    rows = read_rows(config, template_of(config), config.data.train).rows
    plain = without_special_tokens(tokenizer)
    dialogues = [_messages(row, plain) for row in rows]
    reached = _reached(config, seed, len(rows))
    turns = [(place, turn) for place in reached for turn in _learnt_turns(rows[place], dialogues[place])]
    asked = [_asked_anew(dialogues[place], turn) for place, turn in turns]
    texts = _texts(
        path.with_name(f"distilled{_PARTS}"),
        model,
        tokenizer,
        [
            chat_prompt_ids(
                tokenizer, messages, **rows[place].template_arguments(config.data.chat_template_kwargs)
            )
            for (place, _), messages in zip(turns, asked, strict=True)
        ],
        end_tokens(model, tokenizer),
        max_new_tokens,
        on_progress,
    )
    rewritten: set[int] = set()
    for (place, turn), (text, ended) in zip(turns, texts, strict=True):
        message = dialogues[place][turn]
        content = message["content"]
        if ended and _says_the_same(text, content) and text.strip() != content.strip():
            # The space between a prompt of plain text and its completion stands before the completion.
            before = content[: len(content) - len(content.lstrip())]
            dialogues[place][turn] = {**message, "content": before + text.strip()}
            rewritten.add(place)
    told = zip(rows, dialogues, strict=True)
    write_lines(path, [as_read(_with_messages(row, messages)) for row, messages in told])
    return {
        "rows": len(rewritten),
        "rows_asked": len(reached),
        "of_rows": len(rows),
        "texts_cut_off": sum(not ended for _, ended in texts),
    }


def _messages(row: Row, plain: Callable[[str], str]) -> list[dict[str, Any]]:
    """The whole of a row, as a dialogue that becomes tokens."""
    prompt = row.prompt_for(plain)
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": row.completion}]
    return [*prompt, *(turn for turn in row.completion if isinstance(turn, dict))]


def _learnt_turns(row: Row, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the assistant turns that are trained: the last one, or all; those with a text and a request before."""
    return [
        place
        for place in (row.trained_turns() if isinstance(row.prompt, list) else [len(messages) - 1])
        if messages[place]["role"] == "assistant"
        and all(isinstance(one.get("content"), str) for one in messages[place - 1 : place + 1])
    ]


def _asked_anew(messages: Sequence[dict[str, Any]], turn: int) -> list[dict[str, Any]]:
    """What the base model is asked, to write a turn in its own words."""
    *before, request = messages[:turn]
    rewrite = _REWRITE.format(answer=messages[turn]["content"])
    return [*before, {**request, "content": request["content"] + rewrite}]


def _reached(config: TrainConfig, seed: int, count: int) -> list[int]:
    """Places of those rows, of so many, that a run of this seed trains on within its steps.

    All of them where that isn't known: where rows may be left out, or come in another order, packed or by length.
    """
    train, data = config.train, config.data
    may_be_fewer = data.skip_bad_rows or (data.skip_held_out and data.eval)
    if train.steps is None or train.packing or train.group_by_length or may_be_fewer:
        return list(range(count))
    # As the Trainer draws a run's first epoch; within a second one, every row has been reached.
    order = SeedableRandomSampler(range(count), generator=torch.Generator(), data_seed=seed)
    return sorted(islice(order, train.steps * train.batch_size * train.gradient_accumulation))


def forget_parts(path: Path) -> None:
    """Delete what a file, and no other, was made of. Called when it is there, and known to be."""
    for ending in (_REQUESTS, _PARTS):
        path.with_suffix(ending).unlink(missing_ok=True)


def _requests(
    file: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    seed: int,
    template_arguments: Mapping[str, Any],
    on_progress: OnProgress,
) -> list[str]:
    """The base model's own requests; those in the file, if it is there."""
    if not file.exists():
        requests = self_requests(
            model,
            tokenizer,
            count,
            seed=seed,
            template_arguments=template_arguments,
            on_progress=lambda done, _: on_progress(done, 2 * count),
        )
        write_lines(file, [{"request": request} for request in requests])
    return [line["request"] for line in read_lines(file)]


def _texts(
    parts: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    eos_ids: frozenset[int],
    max_new_tokens: int,
    on_progress: OnProgress,
) -> list[_Text]:
    """The model's greedy texts: those in the file, and the others added to it as they end."""
    names = [hashlib.sha256(repr(list(prompt)).encode()).hexdigest() for prompt in prompts]
    lines = [line for line in read_lines(parts) if "ended" in line] if parts.exists() else []
    # Without a last line that a crash cut off: the next one would be joined to it.
    write_lines(parts, lines)
    texts = {line["prompt"]: _Text(line["text"], line["ended"]) for line in lines}
    missing = {name: prompt for name, prompt in zip(names, prompts, strict=True) if name not in texts}
    there, waiting = len(set(names)) - len(missing), list(missing)

    def keep(place: int, ids: list[int]) -> None:
        text = _Text(str(tokenizer.decode(ids, skip_special_tokens=True)), len(ids) < max_new_tokens)
        texts[waiting[place]] = text
        append_line(parts, {"prompt": waiting[place], "text": text.text, "ended": text.ended})

    generate_greedy_ids(
        model,
        list(missing.values()),
        eos_ids=eos_ids,
        max_new_tokens=max_new_tokens,
        on_answer=keep,
        on_progress=lambda done, total: on_progress(there + done, there + total),
    )
    return [texts[name] for name in names]


def _with_messages(row: Row, messages: list[dict[str, Any]]) -> Row:
    """The row with other texts to learn, and nothing else changed."""
    *prompt, last = messages
    if isinstance(row.completion, str):
        return replace(row, completion=last["content"])
    retrieval = row.retrieval
    if retrieval is not None and retrieval.follow_ups:
        answer, *further = [one["content"] for one in messages if one["role"] == "assistant"]
        follow_ups = [
            replace(one, answer=text) for one, text in zip(retrieval.follow_ups, further, strict=True)
        ]
        retrieval = replace(retrieval, answer=answer, follow_ups=tuple(follow_ups))
    return replace(row, prompt=prompt, completion=[last], retrieval=retrieval)


def _says_the_same(text: str, completion: str) -> bool:
    wanted = numbers(completion)
    if wanted:
        return set(wanted) <= set(numbers(text))
    return SCORERS["contains"](text, completion, "") > 0
