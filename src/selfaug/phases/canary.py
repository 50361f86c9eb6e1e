"""The canary set of a run: which prompts it has, and where it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.data import EncodedRow
from selfaug.eval.canary import record_canary, replay_canary
from selfaug.eval.general_suite import general_suite
from selfaug.model.adapters import why_not_exact
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.hidden import own_forward
from selfaug.model.reference import AdapterOff, Reference
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir

__all__ = ["canary_problems", "canary_rows", "recorded_canary", "write_canary", "write_canary_anew"]

_KIND = "canary"
_TASK, _GENERAL = 4, 8
_MOST_TOKENS = 512


def write_canary(
    run: RunDir,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[EncodedRow],
    chat_template_kwargs: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    """Record what the trained model does on a few prompts of its task and a few general ones.

    Of a model without an adapter that can be switched off, the answers alone. `rows` are from `canary_rows`; `dtype` is
    that of its products.
    """
    prompts = {
        **{f"task {number}": list(row.prompt()) for number, row in enumerate(rows, start=1)},
        **_general_prompts(tokenizer, chat_template_kwargs),
    }
    if prompts:
        _write(run, model, prompts, dtype)


def canary_rows(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """The shortest rows, whose prompts are asked: what is checked at every start of a server should be quick."""
    usable = (
        row for row in sorted(rows, key=lambda row: len(row.ids)) if 2 <= len(row.prompt()) <= _MOST_TOKENS
    )
    return list(islice(usable, _TASK))


def write_canary_anew(run: RunDir, before: RunDir, model: PreTrainedModel | PeftModel) -> None:
    """Record what another model does on the prompts of a run that it was made of; nothing if that has no canary set.

    Args:
        run: of the model.
        before: the run whose prompts are taken.
        model: as it is loaded.

    Raises:
        StorageError, DataError: if a record can't be read or written.
    """
    record = recorded_canary(before)
    if record is not None:
        _write(run, model, {one["id"]: one["ids"] for one in record["prompts"]}, model.dtype)


def _write(
    run: RunDir,
    model: PreTrainedModel | PeftModel,
    prompts: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
) -> None:
    if why_not_exact(model) is not None:
        write_record(run.canary, _KIND, record_canary(model, None, prompts, dtype))
        return
    # An adapter on weights of 16 bits is loaded without training's autocast, which rounds its factors to 16 bits too.
    with own_forward(model):
        write_record(run.canary, _KIND, record_canary(model, AdapterOff(model), prompts, dtype))


def canary_problems(run: RunDir, model: PreTrainedModel, reference: Reference | None) -> list[str] | None:
    """What the model does otherwise than recorded; None if the run has no canary set.

    Raises:
        StorageError: if the record can't be read.
    """
    record = recorded_canary(run)
    return None if record is None else replay_canary(record, model, reference)


def recorded_canary(run: RunDir) -> dict[str, Any] | None:
    """The canary set of a run with what it did at training; None if it has none.

    Raises:
        StorageError: if the record can't be read.
    """
    return read_record(run.canary, _KIND) if run.canary.exists() else None


def _general_prompts(
    tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: dict[str, Any]
) -> dict[str, Sequence[int]]:
    if tokenizer.chat_template is None:
        return {}
    items = [item for item in general_suite("dev") if not item.choices]
    chosen = [items[place * len(items) // _GENERAL] for place in range(_GENERAL)]
    return {item.id: chat_prompt_ids(tokenizer, item.prompt, **chat_template_kwargs) for item in chosen}
