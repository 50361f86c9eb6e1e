"""Self-anchors: requests that the reference model writes itself, with its own answers, aligned beside the rows.

Alignment on the rows' prompts says little about prompts unlike them. Without any data, the reference model can
write some: given the bare beginning of a user's turn, it samples a request, which it then answers greedily. An
anchor is a document without completion tokens: all its positions are aligned, and none has nll.

Sources: Magpie (arXiv 2406.08464) for the requests; what is done with them is selfaug's own.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfaug.core.positions import IGNORED
from selfaug.errors import ConfigError, DataError, ModelError
from selfaug.model.generate import (
    chat_prompt_ids,
    end_tokens,
    generate_greedy_ids,
    sample_ids,
    text_prompt_ids,
)
from selfaug.model.hidden import causal_model, reference_mode
from selfaug.records import write_lines
from selfaug.retrieval.plain_text import UNSPACED
from selfaug.train.dataset_rows import document_slices

__all__ = ["AnchorCollator", "read_anchors", "self_anchors", "self_requests", "write_anchors"]

_PART_OF_A_LETTER = "\ufffd"
_PLACEHOLDER = "\u241fselfaug\u241f"
_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
_ROUNDS = 3
_FEWEST_WORDS = 3
# In Japanese, Chinese or Thai, spaces don't tell words apart: three letters count as one; no greeting has three.
_WORD = re.compile(rf"[{UNSPACED}]{{1,3}}|[^\s{UNSPACED}]+")
# A tokeniser that joins spaces to words joins one to this.
_COMMON_WORD = "the"


def self_anchors(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    seed: int = 0,
    request_tokens: int = 64,
    completion_tokens: int = 80,
    batch_size: int = 128,
    template_arguments: Mapping[str, Any] = _NO_ARGUMENTS,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[list[int]]:
    """Token ids of requests that the reference model writes, each joined with its greedy answer.

    The same for the same seed and batch size.

    Args:
        model: the reference model, or a tuned model with an adapter, which is switched off.
        tokenizer: its tokeniser, with a chat template.
        count: how many; requests are different from each other.
        seed: of the requests.
        request_tokens: longest request, as for `self_requests`.
        completion_tokens: longest answer.
        batch_size: texts written together.
        template_arguments: of the chat template, such as `enable_thinking=False`.
        on_progress: called with texts finished and texts to write.

    Raises:
        ModelError: if the tokeniser has no chat template, or the model writes too few requests.
    """
    requests = self_requests(
        model,
        tokenizer,
        count,
        seed=seed,
        request_tokens=request_tokens,
        batch_size=batch_size,
        template_arguments=template_arguments,
        on_progress=lambda done, _: on_progress(done, 2 * count),
    )
    prompts = [chat_prompt_ids(tokenizer, request, **template_arguments) for request in requests]
    with reference_mode(model):
        answers = generate_greedy_ids(
            causal_model(model),
            prompts,
            eos_ids=end_tokens(causal_model(model), tokenizer),
            max_new_tokens=completion_tokens,
            batch_size=batch_size,
            on_progress=lambda done, total: on_progress(count + done * count // total, 2 * count),
        )
    return [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]


def self_requests(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    seed: int = 0,
    request_tokens: int = 64,
    batch_size: int = 128,
    template_arguments: Mapping[str, Any] = _NO_ARGUMENTS,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[str]:
    """Different requests that the reference model writes, sampled from where a user's words begin in its template.

    The same for the same seed and batch size. Source: Magpie (arXiv 2406.08464).

    Args:
        model: the reference model, or a tuned model with an adapter, which is switched off.
        tokenizer: its tokeniser, with a chat template.
        count: how many.
        seed: of the sampling (temperature 1, top-p 0.95).
        request_tokens: longest request; those that have not ended by then are only taken if others are lacking.
        batch_size: requests written together.
        template_arguments: of the chat template.
        on_progress: called with requests finished and requests to write.

    Raises:
        ModelError: if the tokeniser has no chat template, or the model writes too few requests.
    """
    turn = _user_turn(tokenizer, template_arguments)
    ends = end_tokens(causal_model(model), tokenizer) | turn.ends
    requests: dict[str, None] = {}
    # A request without its end is still a text that the model would write: better than none.
    cut_off: dict[str, None] = {}

    shown = 0

    def report(done: int, total: int) -> None:
        # Requests that turn out useless are written again: progress waits for them, and never goes back.
        nonlocal shown
        shown = max(shown, len(requests) + done * (count - len(requests)) // total)
        on_progress(shown, count)

    with reference_mode(model):
        for round_ in range(_ROUNDS):
            missing = count - len(requests)
            if missing <= 0:
                break
            drawn = sample_ids(
                causal_model(model),
                # Some come out empty, cut off or twice: a few more at once are cheaper than another round.
                [turn.prefix] * (missing + missing // 4 + 4),
                seed=seed + 1_000_003 * round_,
                top_p=0.95,
                eos_ids=ends,
                max_new_tokens=request_tokens,
                batch_size=batch_size,
                on_progress=report,
            )
            for ids in drawn:
                text, answered = _request(tokenizer.decode(ids, skip_special_tokens=True), turn)
                if len(_WORD.findall(text)) >= _FEWEST_WORDS:
                    (requests if answered or len(ids) < request_tokens else cut_off).setdefault(text)
    for text in cut_off:
        if len(requests) < count:
            requests.setdefault(text)
    if len(requests) < count:
        raise ModelError(
            f"the model wrote {len(requests)} different requests of its own, {count} are wanted.",
            hint="it is not a chat model, perhaps: give anchors as a file, fewer of them, or none.",
        )
    return list(requests)[:count]


class _UserTurn(NamedTuple):
    """Where a user's words begin and end in a chat.

    Attributes:
        prefix: token ids of a chat up to where they begin.
        ends: the token that the template writes behind them, where that is one that was added to the vocabulary.
        mark: the text that it writes there, where it is ordinary text, such as "[/INST]"; else empty.
    """

    prefix: list[int]
    ends: frozenset[int]
    mark: str


def _user_turn(tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any]) -> _UserTurn:
    """What the chat template writes around a user's words."""
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokeniser has no chat template, so the model can't write requests of its own.",
            hint="give anchors as a file of prompts and completions, or none.",
        )
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACEHOLDER}],
        tokenize=False,
        add_generation_prompt=True,
        **template_arguments,
    )
    before, found, after = str(rendered).partition(_PLACEHOLDER)
    if not found:
        raise ModelError(
            "the chat template changes the user's words, so the model can't write requests of its own.",
            hint="give anchors as a file of prompts and completions, or none.",
        )
    prefix = _ids(tokenizer, before)
    # "[INST] " is followed by "▁What", no "▁" and "What": the model has never seen a word after a space of its own.
    if _ids(tokenizer, before + _COMMON_WORD)[: len(prefix)] != prefix:
        prefix = _ids(tokenizer, before.rstrip(" "))
    # Not what ends an answer in many templates, such as Mistral's, gpt-oss's and OLMo 2's.
    behind = _ids(tokenizer, after.lstrip())
    if behind and behind[0] in tokenizer.added_tokens_decoder:
        return _UserTurn(prefix, frozenset(behind[:1]), "")
    text = tokenizer.decode(
        list(takewhile(lambda token: token not in tokenizer.added_tokens_decoder, behind))
    )
    return _UserTurn(prefix, frozenset(), text.strip().partition("\n")[0].rstrip())


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _request(text: str, turn: _UserTurn) -> tuple[str, bool]:
    """The user's words of a text that goes on with the answer, perhaps; and whether it does."""
    words, answered, _ = text.partition(turn.mark) if turn.mark else (text, "", "")
    return words.strip(), bool(answered)


def write_anchors(path: Path, anchors: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> None:
    """A line each, as text to look at, and as `input_ids` that `read_anchors` takes back."""
    write_lines(path, [{"text": tokenizer.decode(ids), "input_ids": list(ids)} for ids in anchors])


def read_anchors(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    template_arguments: Mapping[str, Any] = _NO_ARGUMENTS,
) -> list[list[int]]:
    """Token ids of the anchors in a JSONL file: rows with `input_ids`, `messages`, or `prompt` and `completion`.

    Args:
        path: the file.
        tokenizer: for rows that are texts or messages.
        max_length: longer anchors are cut.
        template_arguments: of the chat template, for rows that are messages.

    Raises:
        DataError: with every bad line at once.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"anchors can't be read from {path}: {error}.",
            hint='give a JSONL file, "self" for requests that the model writes, or "none".',
        ) from error
    anchors, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            ids = _encode(row, tokenizer, template_arguments)
        except (ValueError, TypeError) as error:
            problems.append(f"line {number}: {error}")
            continue
        if any(token >= len(tokenizer) for token in ids):
            problems.append(f"line {number}: holds token ids that this model doesn't have")
        elif not _are_of_their_text(row, ids, tokenizer):
            problems.append(
                f"line {number}: its input_ids are of another tokeniser: here they aren't its text"
            )
        elif len(ids) < 2:
            problems.append(f"line {number}: has fewer than two tokens, so nothing can be aligned")
        else:
            anchors.append(ids[:max_length])
    if not anchors and not problems:
        problems.append("the file is empty")
    if problems:
        raise DataError(
            f"{path} can't be used as anchors:",
            problems=problems,
            hint='a line is {"prompt": ..., "completion": ...}, {"messages": [...]} or {"input_ids": [...]}.',
        )
    return anchors


def _encode(row: Any, tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any]) -> list[int]:
    if not isinstance(row, dict):
        raise TypeError(f"is {type(row).__name__}, not an object")
    if "input_ids" in row:
        ids = row["input_ids"]
        if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
            raise TypeError("input_ids is not a list of token ids")
        return ids
    messages = row.get("messages")
    if messages is None and isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        messages = row["prompt"] + row["completion"]
    if messages is None and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        if tokenizer.chat_template is None:
            return text_prompt_ids(tokenizer, row["prompt"] + row["completion"])
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    if not isinstance(messages, list):
        raise TypeError("has neither input_ids, nor messages, nor prompt and completion")
    return list(
        tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **template_arguments)
    )


def _are_of_their_text(row: dict[str, Any], ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether token ids decode to the text beside them, if there is one.

    White space aside, and one may be more of the text than the other: it has no special tokens in other files than
    ours, and these may be cut, within a letter too.
    """
    text = row.get("text") if "input_ids" in row else None
    if not isinstance(text, str):
        return True
    given = _bare(text)
    for skipped in (False, True):
        decoded = _bare(tokenizer.decode(ids, skip_special_tokens=skipped).strip(_PART_OF_A_LETTER))
        if decoded in given or given in decoded:
            return True
    return False


def _bare(text: str) -> str:
    """Without white space, and with each letter in one form: tokenisers may change that."""
    return "".join(unicodedata.normalize("NFKC", text).split())


class AnchorCollator:
    """Adds anchors to the rows of a micro-batch.

    They are a batch of their own, under "anchors", which is run after the rows: anchors are shorter than rows, and
    would be padded to their width; and a step needs no more memory than its rows.

    Which ones a row brings is a hash of its token ids, so the rows of a step bring the same anchors however they are
    split over micro-batches and processes, and in each epoch.

    Args:
        collator: makes a batch of rows.
        anchors: token ids of each.
        share: anchors a row; 0.5 is one for every second row.
        seed: of the choice.
        together: make one batch of rows and anchors.
        always: have a batch of anchors even where none is drawn, because all processes must do the same.
    """

    def __init__(
        self,
        collator: Callable[[list[Any]], Any],
        anchors: Sequence[Sequence[int]],
        share: float,
        seed: int,
        *,
        together: bool = False,
        always: bool = False,
    ) -> None:
        self.collator, self.anchors, self.share, self.seed = collator, anchors, share, seed
        self.together, self.always = together, always

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """A batch of the rows, with one of their anchors."""
        chosen = [
            index
            for row in rows
            for part in document_slices(row)
            for index in self.drawn(row["input_ids"][part])
        ]
        packed = "seq_lengths" in rows[0]
        anchors = [_row(self.anchors[index], packed) for index in chosen]
        if self.together:
            return self.collator([*rows, *anchors])
        batch = self.collator(rows)
        if self.always and not anchors:
            anchors = [
                _row(self.anchors[0][:1], packed)
            ]  # one token predicts nothing: there is nothing to align
        if anchors:
            batch["anchors"] = self.collator(anchors)
        return batch

    def drawn(self, input_ids: Sequence[int]) -> list[int]:
        """Indices of the anchors that a document brings."""
        digest = hashlib.blake2b(
            np.asarray(input_ids, np.int64).tobytes(),
            digest_size=8,
            salt=self.seed.to_bytes(16, "little", signed=True),
        ).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        count = int(self.share) + int(rng.random() < self.share % 1)
        return [int(index) for index in rng.integers(len(self.anchors), size=count)]


def _row(input_ids: Sequence[int], packed: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"input_ids": list(input_ids), "labels": [IGNORED] * len(input_ids)}
    return {**row, "seq_lengths": [len(input_ids)]} if packed else row
