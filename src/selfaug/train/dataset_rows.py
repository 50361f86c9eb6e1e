"""Rows of a data set as the trainer takes them: with a prompt that trl masks, as documents, and their tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice, pairwise
from typing import Any, cast

import numpy as np
from datasets import Dataset, Features, IterableDataset, Json, List
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import remove_none_values

from selfaug.core.positions import IGNORED
from selfaug.data.encode import encode_rows
from selfaug.data.row import Row
from selfaug.errors import ConfigError, DataError
from selfaug.model.cache import Document
from selfaug.train.selfaug_config import SelfAugConfig

__all__ = [
    "count_row_tokens",
    "document_slices",
    "documents",
    "longest_document",
    "no_prompt_tokens",
    "require_prepared_rows",
    "require_prompt_tokens",
    "require_serving_prompts",
    "row_lengths",
    "warn_of_long_rows",
    "with_completions",
]

logger = logging.getLogger(__name__)

_MASKS = ("completion_mask", "assistant_masks")
"""Columns of tokenised rows that say which tokens are completion; with both, a token has to be in both.

Beside `labels`, only the first counts: `assistant_masks` are left over there, and trl leaves given labels alone.
"""

_CHATS = ("messages", "prompt", "completion", "tools")
"""Columns with messages, and with the tools that these may call."""

_LOOKED_AT = 100
_LOOKED_AT_FOR_PROMPTS = 1000


def count_row_tokens(rows: Any) -> int:
    """Tokens of prepared rows."""
    if isinstance(rows, Dataset):  # in a hundredth of the time that one row after the other takes
        return int(row_lengths(rows).sum())
    return sum(len(row["input_ids"]) for row in rows)


def longest_document(rows: Dataset) -> int:
    """Tokens of the longest document of prepared rows."""
    if "seq_lengths" in rows.column_names:  # of packed rows
        column = rows.with_format("arrow", columns=["seq_lengths"])[:].column("seq_lengths")
        lengths = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    else:
        lengths = [row_lengths(rows)]
    return max((int(chunk.max(initial=0)) for chunk in lengths), default=0)


def row_lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row of prepared rows [rows]."""
    chunks = rows.data.column("input_ids").chunks
    lengths = np.concatenate(
        [np.zeros(0, dtype=np.int64), *(chunk.value_lengths().to_numpy() for chunk in chunks)]
    )
    # Of filtered rows, all public ways to a column copy row by row, which for a million takes half a minute and 1 GB.
    return lengths if rows._indices is None else lengths[rows._indices.column(0).to_numpy()]


def document_slices(row: dict[str, Any]) -> list[slice]:
    """Where each document of a prepared row is; a packed row has several."""
    ends = list(accumulate(row.get("seq_lengths") or [len(row["input_ids"])]))
    return [slice(begin, end) for begin, end in pairwise([0, *ends])]


def documents(rows: Iterable[dict[str, Any]]) -> Iterator[Document]:
    """The documents of prepared rows."""
    for row in rows:
        for part in document_slices(row):
            yield Document(row["input_ids"][part], row["labels"][part])


def require_prepared_rows(train: Any, evals: list[Any], args: SelfAugConfig) -> None:
    """Refuse data sets of which trl's truncation has left nothing, and training rows that aren't tokenised yet.

    Args:
        train: training rows as trl has prepared them.
        evals: rows of each evaluation, likewise.
        args: the settings.

    Raises:
        DataError: if nothing is left.
        ConfigError: if the training rows aren't tokenised.
    """
    if any(isinstance(rows, Dataset) and len(rows) == 0 for rows in (train, *evals)):
        raise DataError(
            f"max_length={args.max_length} leaves no completion token in any row.",
            hint="raise max_length, or leave it out: rows are not cut then.",
        )
    if isinstance(train, IterableDataset):
        return
    wanted = {"input_ids", "labels"} if args.alpha > 0 else {"input_ids"}
    if lacking := wanted - train[0].keys():
        raise ConfigError(
            f"skip_prepare_dataset leaves rows without {' and '.join(sorted(lacking))}: they are looked at before "
            "training, when no data_collator has made these of them.",
            hint="tokenise the rows beforehand, with `labels` of -100 on the prompt; or leave "
            "skip_prepare_dataset out.",
        )


def warn_of_long_rows(rows: list[Any], window: int | None) -> None:
    """Warn of prepared data sets with documents that are longer than the model's window, if that is known."""
    known = [one for one in rows if isinstance(one, Dataset) and "input_ids" in one.column_names]
    longest = max(map(longest_document, known), default=0)
    if window is not None and longest > window:
        logger.warning(
            "the longest row has %d tokens, and the model was made for %d: set max_length, or leave such rows out",
            longest,
            window,
        )


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


def no_prompt_tokens(what: str, *, own_collator: bool = False) -> DataError:
    """The error of rows, named in the plural, that have nothing to align.

    Args:
        what: the rows.
        own_collator: whether a collator of the user's has made batches of them.
    """
    instead = (
        "leave data_collator out, or have it keep the rows' `labels`, which are -100 on the prompt"
        if own_collator
        else "give rows as prompt and completion, or as messages that end with the assistant's turn"
    )
    return DataError(
        f"{what} have no prompt tokens: every token is a completion, so there is nothing to align.",
        hint=f"{instead}, or set alpha=0 for plain fine-tuning.",
    )


def with_completions(rows: Any, args: SelfAugConfig, *, is_formatted: bool = False) -> Any:
    """Rows in a form whose prompt trl masks: prompt–completion, or tokenised with labels.

    trl trains on every token of messages rows, and ignores a `completion_mask` in tokenised rows unless
    `completion_only_loss=True`; it ignores an `attention_mask` always: what tokenised rows are padded with is cut off.
    Chat rows get the settings' `chat_template_kwargs`, if they have none of their own.

    Args:
        rows: a data set, a stream of rows, or a list.
        args: the settings.
        is_formatted: whether trl will make texts of the rows with a `formatting_func`.

    Raises:
        DataError: if there are no rows, no completion in any, or rows whose prompt can't be known.
        ConfigError: if a setting makes every prompt token a completion.
    """
    rows = _with_calls_as_given(_as_dataset(rows))
    if (first := next(iter(rows), None)) is None:
        raise DataError("the data set has no rows.", hint="give at least one row.")
    columns = set(rows.column_names or first)
    if is_formatted and "input_ids" not in columns:
        if args.alpha > 0:
            raise ConfigError(
                "formatting_func makes plain text of the rows, in which no prompt can be told, so there is nothing to "
                "align.",
                hint="leave it out, and give `prompt` and `completion` or `messages`; or set alpha=0 for plain "
                "fine-tuning.",
            )
        return rows
    _require_prompts(columns, args)
    if {"input_ids", "attention_mask"} <= columns and _may_be_padded(rows):
        rows = rows.map(_without_padding, with_indices=True)
    masks = [name for name in (_MASKS[:1] if "labels" in columns else _MASKS) if name in columns]
    if "input_ids" in columns and masks:
        rows = rows.map(_labels_from_masks, fn_kwargs={"masks": masks}, remove_columns=masks)
        _require_completion_tokens(rows, [*masks, "labels"] if "labels" in columns else masks)
    elif "messages" in columns and not args.assistant_only_loss and "prompt" not in columns:
        rows = rows.map(_split_messages, remove_columns=["messages"], features=_split_features(rows))
    return _with_template_arguments(rows, first, args)


def _as_dataset(rows: Any) -> Any:
    """Rows as a `Dataset` or an `IterableDataset` of lists."""
    if rows is None:
        raise DataError("train_dataset is missing.", hint="pass rows as a datasets.Dataset.")
    if isinstance(rows, list):
        rows = _from_list(rows)
    if isinstance(rows, dict):
        raise DataError(
            f"the rows are a {type(rows).__name__} of {', '.join(map(str, rows))}.",
            hint="choose a split, as with rows['train']; of columns, Dataset.from_dict(rows) makes a data set.",
        )
    if not isinstance(rows, Dataset | IterableDataset):
        raise DataError(
            f"the rows are a {type(rows).__name__}, not a datasets.Dataset.",
            hint="make them one: Dataset.from_list(list(rows)), with a dict for each row.",
        )
    # Not in a format of torch's or numpy's, which hides columns, and of which trl would make tensors anew.
    has_transform = isinstance(rows, Dataset) and rows.format["type"] == "custom"
    return rows if has_transform else rows.with_format(None)


def _from_list(rows: list[dict[str, Any]]) -> Dataset:
    """Rows of a list as a data set, with messages that call tools, and the tools, as they are given.

    Arrow would give each object the fields of all: `{"city": "Paris"}` beside `{"amount": 5}` would become a call with
    an amount that is null, and be trained so.
    """
    given = {name: [row.get(name) for row in rows] for name in _CHATS if any(name in row for row in rows)}
    given = {name: values for name, values in given.items() if any(_has_calls(name, one) for one in values)}
    if not given:
        return Dataset.from_list(rows)
    columns = {name: [row.get(name) for row in rows] for name in rows[0] if name not in given}
    return Dataset.from_dict(
        columns | given,
        features=Features({**Dataset.from_dict(columns).features, **dict.fromkeys(given, List(Json()))}),
    )


def _has_calls(column: str, value: Any) -> bool:
    """Whether a row's value in a column is tools, or messages of which some call tools."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return False
    return bool(value) if column == "tools" else any("tool_calls" in message for message in value)


def _with_calls_as_given(rows: Any) -> Any:
    """Rows whose messages that call tools, and tools, lack what is null in them.

    Arrow has added it (see `_from_list`), or has what was null from the beginning: that can't be told any more.
    """
    kinds = rows.features
    if kinds is not None:
        columns = [name for name in _CHATS if _is_of_arrow(name, kinds.get(name))]
    else:  # a stream
        first: dict[str, Any] = next(iter(rows), {})
        columns = [name for name in _CHATS if _has_calls(name, first.get(name))]
    if not columns:
        return rows
    features = None if kinds is None else Features({**kinds, **dict.fromkeys(columns, List(Json()))})
    return rows.map(_without_nulls, fn_kwargs={"columns": columns}, features=features)


def _is_of_arrow(column: str, kind: Any) -> bool:
    """Whether a column's type is of tools, or of messages that call tools, with one set of fields for all."""
    fields = getattr(kind, "feature", None)
    return isinstance(fields, dict) and (column == "tools" or "tool_calls" in fields)


def _without_nulls(row: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    return {name: row[name] and remove_none_values(row[name]) for name in columns}


def _require_completion_tokens(rows: Any, columns: list[str]) -> None:
    """Refuse a data set whose masks leave nothing to learn; rows of a stream are only seen as they come."""
    if isinstance(rows, IterableDataset):
        return
    if any(label != IGNORED for labels in rows.with_format(None)["labels"] for label in labels):
        return
    raise DataError(
        f"no row has a completion token by {' and '.join(columns)}.",
        hint="a chat template without {% generation %} gives `assistant_masks` of zeros: drop the column, or give "
        "`labels`."
        if "assistant_masks" in columns
        else "set `completion_mask` to 1 for the tokens of the completion.",
    )


def _require_prompts(columns: set[str], args: SelfAugConfig) -> None:
    """Refuse rows of which it can't be known what is prompt and what is completion."""
    if "prompt" in columns and not columns & {"completion", "labels", *_MASKS}:
        raise DataError(
            f"rows with the columns {sorted(columns)} have a prompt and no completion.",
            hint="drop the column `prompt`: the last assistant turn of `messages` is the completion then."
            if "messages" in columns
            else "call the column with the answer `completion`.",
        )
    has_masks = "input_ids" in columns and columns & set(_MASKS)
    if args.alpha > 0 and not has_masks and not columns & {"labels", "prompt", "messages"}:
        raise DataError(
            f"rows with the columns {sorted(columns)} have no prompt, so there is nothing to align.",
            hint="give `prompt` and `completion`, `messages`, or `input_ids` with `labels`, `completion_mask` or "
            "`assistant_masks`; or set alpha=0 for plain fine-tuning.",
        )
    if args.alpha > 0 and args.completion_only_loss is False and not columns & {"labels", "assistant_masks"}:
        raise ConfigError(
            "completion_only_loss=False makes every prompt token a completion, so there is nothing to align.",
            hint="leave it out, or set alpha=0.",
        )


def _with_template_arguments(rows: Any, first: dict[str, Any], args: SelfAugConfig) -> Any:
    """Chat rows with the settings' arguments of the chat template, in the column that trl takes them from."""
    if not args.chat_template_kwargs and "chat_template_kwargs" not in first:
        return rows
    is_chat = any(isinstance(first.get(name), list) for name in ("prompt", "messages", "conversations"))
    if not is_chat or "input_ids" in first:
        return rows
    # Also where the first row has its own: those of others may be None, which trl can't take.
    # A text is read as JSON when the settings are made.
    arguments = cast("dict[str, Any]", args.chat_template_kwargs or {})
    return rows.map(
        _template_arguments, fn_kwargs={"arguments": arguments}, features=_argument_features(rows, arguments)
    )


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


def _template_arguments(row: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    own = row.get("chat_template_kwargs")
    return {"chat_template_kwargs": arguments if own is None else own}


def _argument_features(rows: Any, arguments: dict[str, Any]) -> Features | None:
    """Types of the columns when rows get arguments of the chat template; None for a stream. Why: `_split_features`."""
    if isinstance(rows, IterableDataset):
        return None
    name = "chat_template_kwargs"
    added, own = Dataset.from_list([{name: arguments}]).features[name], rows.features.get(name)
    return Features({**rows.features, name: {**added, **own} if isinstance(own, dict) else added})


def _labels_from_masks(row: dict[str, Any], masks: list[str]) -> dict[str, Any]:
    tokens = zip(row.get("labels", row["input_ids"]), *(row[name] for name in masks), strict=True)
    return {"labels": [token if all(kept) else IGNORED for token, *kept in tokens]}


def masked_labels_error(which: str) -> DataError:
    """The error for tokens that are to be learnt by their labels, and are padding by their attention mask."""
    return DataError(
        f"{which} are to be learnt, and have an attention_mask of 0.",
        hint="set the attention_mask to 1 where a token is meant, such as an end token that is the padding token "
        "too, and the label of padding to -100 (its completion_mask to 0).",
    )


def _may_be_padded(rows: Any) -> bool:
    """Whether an attention mask has a 0 somewhere, or may have: of filtered rows, those left out are looked at too."""
    if isinstance(rows, IterableDataset):
        return True
    # As arrow has them: row by row, it would take minutes for a million.
    chunks = rows.data.column("attention_mask").chunks
    return any(not chunk.flatten().to_numpy(zero_copy_only=False).all() for chunk in chunks)


def _without_padding(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A tokenised row's columns of tokens where its attention mask is not 0."""
    mask = row["attention_mask"]
    if "labels" in row:
        are_learnt = [[label != IGNORED for label in row["labels"]]]
    else:
        are_learnt = [row[name] for name in _MASKS if name in row]
    if are_learnt and (
        count := sum(all(learnt) and not kept for kept, *learnt in zip(mask, *are_learnt, strict=True))
    ):
        raise masked_labels_error(f"{count} tokens of row {number + 1}")
    present = [name for name in ("input_ids", "attention_mask", "labels", *_MASKS) if name in row]
    return {name: [one for one, kept in zip(row[name], mask, strict=True) if kept] for name in present}


def _split_features(rows: Any) -> Features | None:
    """Types of the columns when messages are split; None for a stream.

    Of new columns, datasets would take them from the first 1,000 rows, where a field of messages may have no value.
    """
    if isinstance(rows, IterableDataset):
        return None
    others = {name: kind for name, kind in rows.features.items() if name != "messages"}
    messages = rows.features["messages"]
    return Features({**others, "prompt": messages, "completion": messages})


def _split_messages(row: dict[str, Any]) -> dict[str, Any]:
    messages = row["messages"]
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(
            "a messages row does not end with an assistant's turn after a prompt: "
            f"{[message.get('role') for message in messages]}.",
            hint="end each row with the assistant's message that is to be learnt.",
        )
    return {"prompt": messages[:-1], "completion": messages[-1:]}
