"""Rows of a data set as the trainer takes them: with a prompt that trl masks, as documents, and their tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice, pairwise
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from selfaug.core.positions import IGNORED
from selfaug.data.encode import encode_rows
from selfaug.data.rows import Row
from selfaug.errors import ConfigError, DataError
from selfaug.model.cache import Document
from selfaug.train.selfaug_config import SelfAugConfig

__all__ = [
    "count_row_tokens",
    "document_slices",
    "documents",
    "fill_up",
    "no_prompt_tokens",
    "require_prompt_tokens",
    "require_serving_prompts",
    "with_completions",
]

_LOOKED_AT = 100
_LOOKED_AT_FOR_PROMPTS = 1000


def count_row_tokens(rows: Any) -> int:
    """Tokens of prepared rows."""
    if isinstance(rows, Dataset):  # in a hundredth of the time that one row after the other takes
        column = rows.with_format("arrow")[:].column("input_ids")
        return sum(int(chunk.value_lengths().to_numpy().sum()) for chunk in column.chunks)
    return sum(len(row["input_ids"]) for row in rows)


def document_slices(row: dict[str, Any]) -> list[slice]:
    """Where each document of a prepared row is; a packed row has several."""
    ends = list(accumulate(row.get("seq_lengths") or [len(row["input_ids"])]))
    return [slice(begin, end) for begin, end in pairwise([0, *ends])]


def documents(rows: Iterable[dict[str, Any]]) -> Iterator[Document]:
    """The documents of prepared rows."""
    for row in rows:
        for part in document_slices(row):
            yield Document(row["input_ids"][part], row["labels"][part])


def fill_up(rows: Dataset, multiple: int, pad_token_id: int) -> Dataset:
    """Prepared rows with empty ones at the end, up to a multiple of so many: what counts for nothing fills a batch."""
    lacking = -len(rows) % multiple
    if lacking == 0:
        return rows
    # One token predicts nothing: it has no nll and no alignment.
    empty = {"input_ids": [pad_token_id], "labels": [IGNORED], "seq_lengths": [1]}
    rows = rows.select_columns([name for name in rows.column_names if name in empty])
    columns = {name: [empty[name]] * lacking for name in rows.column_names}
    return concatenate_datasets([rows, Dataset.from_dict(columns, features=rows.features)])


def require_prompt_tokens(rows: Any) -> None:
    """Refuse prepared rows without any prompt token: the alignment would vanish without a word.

    Looks at the first rows; rows of a stream are only seen as they come.

    Raises:
        DataError: if every token is a completion.
    """
    if isinstance(rows, IterableDataset):
        return
    for row in rows.select(range(min(len(rows), _LOOKED_AT_FOR_PROMPTS))):
        # A completion-only document has an ignored label at most at its first token.
        if IGNORED in list(row["labels"])[1:]:
            return
    raise no_prompt_tokens("the training rows")


def no_prompt_tokens(what: str) -> DataError:
    """The error of rows, named in the plural, that have nothing to align."""
    return DataError(
        f"{what} have no prompt tokens: every token is a completion, so there is nothing to align.",
        hint="give rows as prompt and completion, or as messages that end with the assistant's turn, or set "
        "alpha=0 for plain fine-tuning.",
    )


def with_completions(rows: Any, args: SelfAugConfig) -> Any:
    """Rows in a form whose prompt trl masks: prompt–completion, or tokenised with labels.

    trl trains on every token of messages rows, and ignores a `completion_mask` in tokenised rows unless
    `completion_only_loss=True`.

    Raises:
        DataError: if there are no rows, or rows whose prompt can't be known.
    """
    if rows is None:
        raise DataError("train_dataset is missing.", hint="pass rows as a datasets.Dataset.")
    if isinstance(rows, list):
        rows = Dataset.from_list(rows)
    if not isinstance(rows, IterableDataset) and len(rows) == 0:
        raise DataError("the data set has no rows.", hint="give at least one row.")
    columns = set(rows.column_names or next(iter(rows)))
    if "prompt" in columns and not columns & {"completion", "labels", "completion_mask"}:
        raise DataError(
            f"rows with the columns {sorted(columns)} have a prompt and no completion.",
            hint="call the column with the answer `completion`.",
        )
    if {"input_ids", "completion_mask"} <= columns:
        rows = rows.map(_labels_from_mask, remove_columns=["completion_mask"])
    elif "messages" in columns and not args.assistant_only_loss and "prompt" not in columns:
        rows = rows.map(_split_messages, remove_columns=["messages"])
    elif args.alpha > 0 and not columns & {"labels", "prompt", "messages"}:
        raise DataError(
            f"rows with the columns {sorted(columns)} have no prompt, so there is nothing to align.",
            hint="give `prompt` and `completion`, `messages`, or `input_ids` with `labels` or `completion_mask`; "
            "or set alpha=0 for plain fine-tuning.",
        )
    if args.alpha > 0 and args.completion_only_loss is False and "labels" not in columns:
        raise ConfigError(
            "completion_only_loss=False makes every prompt token a completion, so there is nothing to align.",
            hint="leave it out, or set alpha=0.",
        )
    return rows


def require_serving_prompts(rows: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse chat rows whose prompt in training is not the prompt in serving, as trl would only warn.

    Looks at the first rows whose completion is one assistant message, with the arguments of the chat template that the
    first of them has.

    Args:
        rows: from `with_completions`.
        tokenizer: with the chat template.

    Raises:
        DataError: with the rows, and where their tokens differ.
    """
    looked_at = 1 if isinstance(rows, IterableDataset) else _LOOKED_AT
    chats = [row for row in islice(rows, looked_at) if _is_plain_chat(row)]
    if not chats:
        return
    arguments = chats[0].get("chat_template_kwargs")
    encode_rows(
        [
            Row(
                id=f"row {number}",
                prompt=row["prompt"],
                completion=row["completion"],
                file="train_dataset",
                line=number,
                tools=json.loads(tools) if isinstance(tools := row.get("tools"), str) else tools,
            )
            for number, row in enumerate(chats, start=1)
            if row.get("chat_template_kwargs") == arguments
        ],
        tokenizer,
        max_length=None,
        chat_template_kwargs=arguments,
    )


def _is_plain_chat(row: dict[str, Any]) -> bool:
    prompt, completion = row.get("prompt"), row.get("completion")
    return (
        isinstance(prompt, list)
        and isinstance(completion, list)
        and len(completion) == 1
        and completion[0].get("role") == "assistant"
        and all(isinstance(message.get("content"), str) for message in [*prompt, *completion])
    )


def _labels_from_mask(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row.get("labels", row["input_ids"]), row["completion_mask"], strict=True)
    return {"labels": [token if kept else IGNORED for token, kept in pairs]}


def _split_messages(row: dict[str, Any]) -> dict[str, Any]:
    messages = row["messages"]
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(
            "a messages row does not end with an assistant's turn after a prompt: "
            f"{[message.get('role') for message in messages]}.",
            hint="end each row with the assistant's message that is to be learnt.",
        )
    return {"prompt": messages[:-1], "completion": messages[-1:]}
