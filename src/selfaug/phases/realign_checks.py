"""What a re-alignment requires of runs and rows before anything is trained, and what it tells of them first."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from selfaug.config import TrainConfig
from selfaug.data import rows_without_template
from selfaug.data.sources import data_files, describe_sources
from selfaug.errors import ConfigError, DataError, ModelError, StorageError
from selfaug.model.stored_weights import stored_tokenizer_hash
from selfaug.phases.held_out import LEAST_HELD_OUT, HeldOut
from selfaug.phases.inputs import read_rows, template_of, tokenizer_of
from selfaug.phases.prepared_folder import is_prepared, prepared_record
from selfaug.phases.realign_settings import RealignSettings
from selfaug.phases.resuming import Begun, other_adapter
from selfaug.phases.run_files import place_of, require_named_base, require_named_files
from selfaug.phases.run_models import (
    alike_where_known,
    trained_base,
)
from selfaug.phases.trained_template import trained_template
from selfaug.records import read_record
from selfaug.relative_path import relative_path
from selfaug.rundir import RunDir

__all__ = [
    "judged_by_both",
    "other_documents",
    "require_not_chosen",
    "require_old_rows",
    "require_same_adapter",
    "require_same_rows",
    "require_same_tokenizer",
    "require_trained_form",
    "require_trained_template",
    "what_is_measured",
]


def what_is_measured(
    held_out: HeldOut | None, settings: RealignSettings, old_sources: Sequence[str]
) -> list[str]:
    """Which new rows are held out, and which task has no rows to be judged by, in words; before hours of training.

    Args:
        held_out: what was set apart; None where nothing was.
        settings: with the held-out new rows.
        old_sources: of the rows that the old task is judged by.
    """
    told, few = [], ""
    if held_out is not None:
        few = (
            f" (of {held_out.of:,} rows, {settings.hold_out:g} is less than {LEAST_HELD_OUT}, or a few prompts come "
            "again and again)"
        )
        if held_out.known:
            told.append(
                f"{held_out.known:,} of {held_out.of + held_out.known:,} rows are not new: held-out rows ask the same, "
                "or the deployed run was trained on them."
            )
        if held_out.unknown:
            told.append(
                "not all that the deployed run has learnt is known: a run that it went on from is gone, or a "
                "learnt.json. Rows that it has learnt may count as new; --eval-data names rows that it has not."
            )
        if held_out.rows:
            told.append(
                f"{held_out.rows:,} of {held_out.of:,} new rows are held out, to measure the new task by: "
                f"{', '.join(held_out.eval_data)}"
            )
    missing = []
    if not settings.eval_data:
        missing.append(f"the new task has no held-out rows{few}: give some with --eval-data")
    if not old_sources:
        missing.append(
            "the old task has none: the deployed run's settings name none (data.eval): name some with --set "
            "data.eval=[FILE]"
        )
    if missing:
        then = "passes without" if settings.allow_unmeasured else "can't pass without --allow-unmeasured"
        told.append(f"{'; '.join(missing)}. So the gate {then}.")
    return told


def other_documents(config: TrainConfig, data: Sequence[str]) -> str | None:
    """That new rows are of other prepared documents than the new run is to answer from; None where they aren't.

    Args:
        config: of the training.
        data: sources of the new rows, before some are set apart.
    """
    prepared = config.data.prepared
    if prepared is None:
        return None
    folders = dict.fromkeys(
        relative_path(Path(source).parent)
        for source in data
        if os.path.exists(source) and is_prepared(Path(source).parent)
    )
    others = [folder for folder in folders if place_of(folder) != place_of(prepared)]
    if not others:
        return None
    return (
        f"the new rows are of {', '.join(others)}, and the new run will answer from the documents of {prepared}: for "
        f"those of the new rows, --set data.prepared={shlex.quote(others[-1])}."
    )


def require_not_chosen(config: TrainConfig) -> None:
    """Refuse to choose the checkpoint on rows that the gate judges by: it would pass on what it was chosen for.

    Args:
        config: of the training.

    Raises:
        ConfigError: if it is chosen so.
    """
    if config.train.best_of_rows > 0:
        raise ConfigError(
            f"train.best_of_rows is {config.train.best_of_rows}: a re-alignment's gate judges by rows of data.eval, so "
            "its checkpoint can't be chosen on them.",
            hint="leave it out: a re-alignment ends with its last checkpoint.",
        )


def require_same_rows(new: RunDir, config: TrainConfig) -> None:
    """Refuse to go on with a run that was begun with other rows: it would answer for these with what it knows of those.

    Args:
        new: the run that has begun.
        config: of the training that is to go on.

    Raises:
        StorageError: if they are others.
    """
    begun = read_record(new.started, "train-started")["data"]
    for what, part, sources in (
        ("new rows", "train", config.data.train),
        ("held-out rows", "eval", config.data.eval),
    ):
        # A file is known by what is in it, wherever it lies; a hub data set by its name.
        before, now = (
            [one.get("sha256", one["source"]) for one in described]
            for described in (begun.get(part, {}).get("sources", []), describe_sources(sources))
        )
        if before != now:
            raise StorageError(
                f"{new.path} was begun with other {what}.",
                hint="choose another --output for these; or give those again, to go on with it.",
            )


def require_same_adapter(new: RunDir, config: TrainConfig) -> None:
    """Refuse to go on with a run that was begun from other weights than the deployed run has by now: it is not made of
    those that it would be compared with.

    Args:
        new: the run that has begun.
        config: of the training that is to go on.

    Raises:
        StorageError: if they are others.
    """
    if (other := other_adapter(Begun.read(new), config)) is not None:
        raise StorageError(
            f"{new.path} was begun from another adapter than {other} has now.",
            hint="choose another --output, to go on from that one; or put the adapter back that it was begun from.",
        )


def require_trained_template(run: RunDir, config: TrainConfig) -> None:
    """Refuse prompts of another form than the deployed run answers, and documents that are prepared for another one.

    The template's file may have been written anew, and the new run may be given other documents.

    Args:
        run: the deployed one.
        config: of the training.

    Raises:
        ConfigError: if they have one.
    """
    trained = trained_template(run)
    given = template_of(config)
    if trained is not None and trained.to_dict() != given.to_dict():
        raise ConfigError(
            f"the prompts of {config.data.template or 'the built-in template'} have another form than those that "
            f"{run.path} was trained with.",
            hint="name the one that it was trained with, --set data.template=FILE; for another form, train anew.",
        )
    prepared = None if config.data.prepared is None else Path(config.data.prepared)
    # Documents that are gone can't be asked about; rows of theirs can still be learnt.
    if (
        prepared is not None
        and is_prepared(prepared)
        and prepared_record(prepared)["template"] != given.to_dict()
    ):
        raise ConfigError(
            f"{prepared} was prepared for prompts of another form than those that are trained: `selfaug ask` would "
            "refuse the new run.",
            hint="prepare the documents with the template of the training, --set rows.template=FILE; or leave them "
            "out, --set data.prepared=null.",
        )


def require_same_tokenizer(run: RunDir, config: TrainConfig) -> None:
    """Refuse another tokeniser or chat template than the run was trained with, as a new download may bring.

    Both models would be asked by it, so that what the deployed one loses by it would not show; and a server that
    follows the registry could not go on with the new run.

    Args:
        run: the deployed one.
        config: of the training, with the base model.

    Raises:
        ModelError: if it is another one.
    """
    now = stored_tokenizer_hash(config.model.name)
    if not alike_where_known(trained_base(run).get("stored_tokenizer_hash"), now):
        raise ModelError(
            f"{config.model.name} has another tokeniser or chat template than when {run.path} was trained.",
            hint="put those files back, or name a folder that has them, --set model.name=FOLDER; for the new ones, "
            "train anew.",
        )


def require_trained_form(run: RunDir, config: TrainConfig, eval_data: Sequence[str]) -> None:
    """Refuse rows of plain text where the deployed run answers chats or questions with passages, and nothing else.

    They would train, and judge, prompts that no request has: without the chat template.

    Args:
        run: the deployed one.
        config: of the training, with the new rows.
        eval_data: sources of held-out new rows.

    Raises:
        DataError: if there are some.
        ModelError: if the base model's folder is not there.
    """
    if _was_trained_on_text(run):
        return
    template = template_of(config)
    rows = [
        row
        for sources in (config.data.train, eval_data)
        if sources
        for row in read_rows(config, template, sources).rows
    ]
    require_named_base(run, config)
    tokenizer = tokenizer_of(config)
    if text := rows_without_template(rows, tokenizer):
        raise DataError(
            f"{len(text):,} of {len(rows):,} new rows are plain text, the first of them {text[0].file}:{text[0].line}; "
            f"{run.path} was trained on messages or on questions with passages alone, and its requests go through the "
            "chat template, which such rows don't.",
            hint="write them as `messages`, or as `question`, `context` and `answer`; `selfaug monitor RUN --texts "
            "FILE` writes requests so. For a model that is to go on with plain text too, train anew with both.",
        )


def _was_trained_on_text(run: RunDir) -> bool:
    """Whether rows of text were among those that a run was trained on, as far as its record tells."""
    data = read_record(run.started, "train-started")["data"]
    return any(data[part]["rows_of_text"] for part in ("train", "replay") if part in data)


def require_old_rows(run: RunDir, config: TrainConfig, sources: Sequence[str]) -> None:
    """Refuse where files of old held-out rows are gone.

    Args:
        run: the deployed one.
        config: of the training.
        sources: of the rows that the old task is judged by.

    Raises:
        DataError: if some are.
    """
    data = config.data.model_copy(update={"eval": list(sources)})
    require_named_files(
        run,
        config.model_copy(update={"data": data}),
        "eval",
        instead="name others to judge the old task by, --set data.eval=[FILE]",
    )


def judged_by_both(old_sources: Sequence[str], eval_data: Sequence[str]) -> str | None:
    """That the old task and the new one are judged by the same files, in words; None where they aren't.

    Args:
        old_sources: of the rows that the old task is judged by.
        eval_data: sources of held-out new rows.
    """
    both = _files_of(old_sources) & _files_of(eval_data)
    if not both:
        return None
    return (
        f"the old task and the new one are both judged by {', '.join(sorted(both))}. Where that was written anew, as "
        "by `selfaug prepare --overwrite`, or is new in its folder, it says nothing of the old task: give the earlier "
        "rows, --set data.eval=[FILE]."
    )


def _files_of(sources: Sequence[str]) -> set[str]:
    """Whole paths of the files of sources, those in folders too; names of hub data sets."""
    files = (data_files(Path(source)) if os.path.isdir(source) else [source] for source in sources)
    return {place_of(str(file)) for of_source in files for file in of_source}
