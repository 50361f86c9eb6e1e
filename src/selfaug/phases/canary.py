"""The canary set of a run: which prompts it has, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.config import TrainConfig
from selfaug.core.printable import counted
from selfaug.data import EncodedRow
from selfaug.errors import SelfAugError
from selfaug.eval.canary import record_canary, replay_canary
from selfaug.eval.general_suite import general_suite
from selfaug.model.adapters import why_not_exact
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.hidden import own_forward
from selfaug.model.reference import AdapterOff, Reference
from selfaug.phases.inputs import load_training_data, on_day
from selfaug.phases.progress import Progress
from selfaug.phases.resuming import Begun
from selfaug.phases.run_models import hashes_of_weights
from selfaug.phases.trained_template import trained_template
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir

__all__ = [
    "canary_problems",
    "canary_rows",
    "lacks_canary",
    "recorded_canary",
    "write_canary",
    "write_canary_anew",
    "write_missing_canary",
]

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


def lacks_canary(run: RunDir) -> bool:
    """Whether a complete run has no canary set, as one whose weights were sharded in training."""
    return run.is_complete() and not run.canary.exists()


def write_missing_canary(
    run: RunDir,
    config: TrainConfig,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    on_progress: Callable[[Progress], None],
) -> bool:
    """Record the canary set of a run that lacks it, on the prompts that training would have taken.

    Args:
        run: a run for which `lacks_canary` holds.
        config: its settings, from `load_run_config`.
        model: its tuned model, as `load_run_models` gives it.
        tokenizer: of its base model.
        on_progress: called with what takes long, and with what is recorded, or why nothing is.

    Returns:
        Whether it is recorded. It is not where the weights are others than training has written: a server would then
        take these for what was trained.

    Raises:
        StorageError, DataError: if a record can't be read or written.
    """
    which = "held-out" if config.data.eval else "training"
    on_progress(
        Progress("canary set", message="comparing the weights with those that training has written ...")
    )
    if hashes_of_weights(run) != read_record(run.record, "train")["weights"]:
        message = f"no canary set is recorded: the weights in {run.path} are not those that its training has written."
        on_progress(Progress("warning", message=message))
        return False
    begun = Begun.read(run)
    on_progress(Progress("canary set", message=f"reading the {which} rows, for prompts of a canary set ..."))
    rows = _rows_as_trained(run, config, begun)
    asked, day = canary_rows(rows or []), date.fromisoformat(begun.day)
    write_canary(run, model, on_day(tokenizer, day), asked, config.data.chat_template_kwargs, model.dtype)
    prompts = counted(len(read_record(run.canary, _KIND)["prompts"]), "prompt")
    message = (
        f"{run.path} had no canary set: it is recorded now, of {prompts}, for `selfaug serve` to replay."
    )
    if rows is None:
        message += f" All are general ones: its {which} rows can't be read as they were when it was trained."
    on_progress(Progress("canary set", message=message))
    return True


def _rows_as_trained(run: RunDir, config: TrainConfig, begun: Begun) -> list[EncodedRow] | None:
    """The rows that training takes a canary set's prompts from; None where they can't be read as they were then."""
    data = config.data
    if data.eval:  # read as if they were trained on: the training rows are not asked for
        data = data.model_copy(update={"train": data.eval, "eval": [], "replay": []})
    try:
        now = load_training_data(
            config.model_copy(update={"data": data}), trained_template(run), date.fromisoformat(begun.day)
        )
    except (SelfAugError, OSError):
        return None
    parts = ("eval",) if config.data.eval else ("train", "replay")
    before = [begun.data[part]["digest"] for part in parts if part in begun.data]
    found = [now.report[part]["digest"] for part in ("train", "replay") if part in now.report]
    return now.train.rows if found == before else None


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
