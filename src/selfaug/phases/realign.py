"""Re-alignment: a deployed adapter learns from new rows, and is compared with itself as it was.

Training goes on from the deployed adapter, and is aligned with the original base model, not with what was deployed: so
drift does not add up from one re-alignment to the next. Aligning prompts protects general behaviour, not old
completions: a share of the old rows is rehearsed for these.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig
from selfaug.errors import ConfigError, PathError, SelfAugError
from selfaug.eval.scorers import named_scorer
from selfaug.phases.held_out import HeldOut, held_out_before, hold_out, kept_if_begun
from selfaug.phases.inputs import tokenizer_of
from selfaug.phases.own_process import require_no_launcher
from selfaug.phases.progress import Progress
from selfaug.phases.realign_checks import (
    judged_by_both,
    other_documents,
    require_not_chosen,
    require_old_rows,
    require_same_adapter,
    require_same_rows,
    require_same_tokenizer,
    require_trained_form,
    require_trained_template,
    what_is_measured,
)
from selfaug.phases.realign_comparison import (
    RECORD_KIND,
    compared,
    decided_anew,
    old_task_scorers,
    old_task_sources,
    suites_of_tasks,
)
from selfaug.phases.realign_settings import REHEARSAL, RealignSettings
from selfaug.phases.registry import add_run, finished_run, require_addable
from selfaug.phases.run_files import load_run_config, place_of, require_named_base, tell_of_changes
from selfaug.phases.run_models import trained_weights
from selfaug.phases.train import train
from selfaug.phases.trained_template import trained_no_answer
from selfaug.records import read_record, write_record
from selfaug.registry import CANDIDATE, CHAMPION, RE_ALIGNED, Registry, champion_instead_of
from selfaug.rundir import RunDir
from selfaug.settings_file import from_home

__all__ = [
    "RECORD_KIND",
    "REHEARSAL",
    "RealignSettings",
    "Realignment",
    "realign",
    "realign_config",
]


@dataclass(frozen=True)
class Realignment:
    """A re-aligned run.

    Attributes:
        run: its folder.
        record: data of its `realignment.json`.
        outcome: of the gate.
        version: of the registry, if it is the candidate.
    """

    run: Path
    record: dict[str, Any]
    outcome: str
    version: int | None = None


def _with_held_out_rows(
    run: RunDir, new: RunDir, settings: RealignSettings, sets: Sequence[str]
) -> tuple[RealignSettings, HeldOut | None]:
    """Settings with held-out new rows where none are given, in files beside the new run; and what was set apart.

    With too few rows, settings stay as they are, and so they do where held-out rows are given or none are wanted. A run
    that has begun keeps what was set apart for it, and nothing is set apart where nothing was.

    Raises:
        ConfigError, DataError: if settings or rows can't be used.
        StorageError: if files can't be written, a run was begun with other rows, or another process trains it.
    """
    if settings.eval_data or settings.hold_out <= 0:
        return settings, None
    config = load_run_config(run, sets=sets)
    folder = Path(f"{new.path}-rows")
    found: HeldOut | None
    with new.training():  # or another process that begins with other rows would have its files replaced
        if new.started.exists():
            found = held_out_before(config, load_run_config(new), settings.data, folder)
        else:
            found = hold_out(run, config, settings.data, folder, share=settings.hold_out)
    if found is None:
        return settings, None
    return replace(settings, data=found.data, eval_data=found.eval_data), found


def _new_run(run: RunDir, output: str | None, sets: Sequence[str]) -> RunDir:
    """The run that is trained."""
    chosen, _ = _divided(sets, "run.output")
    return RunDir(load_run_config(run, sets=chosen).run.output if chosen else _output(run, output))


def _by_own_name(run: RunDir) -> RunDir:
    """The run, if it is named "." or "..", by the name of its folder: from elsewhere they are other folders."""
    return RunDir(run.path.resolve()) if run.path.name in ("", "..") else run


def _output(run: RunDir, output: str | None) -> str:
    return os.path.expanduser((output or f"{str(run.path).rstrip('/')}-realigned").rstrip("/"))


def realign_config(
    run: RunDir,
    data: Sequence[str],
    *,
    eval_data: Sequence[str] = (),
    rehearsal: float = REHEARSAL,
    output: str | None = None,
    sets: Sequence[str] = (),
) -> TrainConfig:
    """Settings of the training: the run's own, from its adapter, with new rows of which a share is old ones.

    But for `train.best_of_rows`: the gate judges by the rows that it would choose on. And but for
    `evaluation.at_end`: the deployed run's data and suites may be gone, and the gate compares both runs anyway. What a
    held-out row asks is not trained on.

    `data.eval` in `sets` stands for the deployed run's own: the held-out new rows are added to it.

    Args:
        run: the deployed run.
        data: sources of the new rows.
        eval_data: sources of held-out new rows: with the old ones, what the next re-alignment judges its old task by.
        rehearsal: share of old rows among all; 0 rehearses none, and a later re-alignment still can.
        output: folder of the new run; None: beside the old one.
        sets: further settings of `selfaug train`, as `section.key=value`.

    Raises:
        ConfigError: with every problem; also if `sets` has the checkpoint chosen on held-out rows.
    """
    run = _by_own_name(run)
    evals, others = _divided(sets, "data.eval")
    config = load_run_config(run, sets=evals)
    old = config.data
    held_out = set(map(place_of, old.eval))
    changes: dict[str, Any] = {
        "data.train": list(data),
        "data.eval": [*old.eval, *(source for source in eval_data if place_of(source) not in held_out)],
        # A source can be there again: with rows that were learnt before.
        "data.replay": list(dict.fromkeys([*old.train, *old.replay])),
        "data.replay_share": rehearsal,
        "data.skip_held_out": True,
        "lora.start_from": str(run.path),
        "train.best_of_rows": 0,
        "evaluation.at_end": "none",  # the comparison measures what there is to decide on
        "run.output": _output(run, output),
        "run.overwrite": False,
    }
    of_anchors, _ = _divided(sets, "selfaug.anchor_count", "train.seed")
    if config.selfaug.anchors != "none" and run.anchors.exists() and not of_anchors:
        changes["selfaug.anchors"] = str(run.anchors)  # the base model would write the same ones again
    realigned = load_run_config(
        run, sets=[*(f"{name}={json.dumps(value)}" for name, value in changes.items()), *others]
    )
    require_not_chosen(realigned)
    return realigned


def _divided(sets: Sequence[str], *names: str) -> tuple[list[str], list[str]]:
    """Those of `section.key=value` that set one of these settings, and the others."""
    chosen = [one for one in sets if one.partition("=")[0].strip() in names]
    return chosen, [one for one in sets if one not in chosen]


def realign(
    run: str | os.PathLike[str],
    settings: RealignSettings,
    *,
    sets: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Realignment:
    """Train on from a deployed run, and decide whether the result may take its place. Goes on where it was cut off.

    Args:
        run: folder of the deployed run.
        settings: what is learnt, and what may be lost. Where it names no held-out rows, some of the new ones are set
            apart, in files beside the new run.
        sets: further settings of the training, as for `realign_config`.
        on_progress: called with what is being done.

    Raises:
        ConfigError: if the run has no LoRA adapter to go on from, a scorer can't be used, the checkpoint would be
            chosen on rows that the gate judges by, the registry has one of the folders with other weights, or a
            launcher has started several processes.
        DataError: if new rows are text where the run was trained without any, or rows can't be used or judged.
        StorageError, ModelError: if models or folders can't be used, the deployed run is not complete, another process
            trains the new one, or the tokeniser is another one by now.
    """
    require_no_launcher(
        "realign",
        "start it without the launcher, as one process. To train with it, and compare nothing: `selfaug train --config "
        "RUN/config.yaml --set lora.start_from=RUN`, with --train and --output.",
    )
    old = _by_own_name(finished_run(run))  # weights that go on changing can't be compared with
    settings = replace(
        settings, data=from_home(list(settings.data)), eval_data=from_home(list(settings.eval_data))
    )
    old_config = load_run_config(old)
    if old_config.lora.method != "lora":
        raise ConfigError(
            f"{old.path} was trained with lora.method {old_config.lora.method}; re-alignment goes on from a LoRA "
            "adapter.",
            hint="train anew, with `data.replay` for the old rows.",
        )
    named_scorer(settings.scorer)
    trained_weights(old, old_config)

    def tell(told: str) -> None:
        on_progress(Progress("warning", message=told))

    tell_of_changes(old, old_config, "train", "eval", "replay", tell=tell)
    given = settings.data
    new = _new_run(old, settings.output, sets)
    settings, held_out = _with_held_out_rows(old, new, settings, sets)
    with kept_if_begun(held_out, new):
        config = realign_config(
            old,
            settings.data,
            eval_data=settings.eval_data,
            rehearsal=settings.rehearsal,
            output=settings.output,
            sets=sets,
        )
        old_sources = old_task_sources(old_config, config, settings)
        for measured in what_is_measured(held_out, settings, old_sources):
            tell(measured)
        if (told_of := other_documents(config, given)) is not None:
            tell(told_of)
        old_scorers = old_task_scorers(old, old_config, settings, old_sources)
        require_old_rows(old, config, old_sources)
        if (told_of := judged_by_both(old_sources, settings.eval_data)) is not None:
            tell(told_of)
        require_trained_template(old, config)
        require_trained_form(old, config, settings.eval_data)
        with new.training():  # a run that another process has just made is not what a kill has left
            new.discard_unstarted()
        if new.is_run():
            require_same_rows(new, config)
            require_same_adapter(new, config)
        if settings.registry is not None:  # not only after hours of training
            require_addable(settings.registry, old.path, planned=new.path)
        champion = _other_champion(old, new, settings.registry)
        if champion is not None:
            tell(_not_the_champion(old, champion, settings.registry))
        if new.realignment.exists():
            train(config, resume=True, on_progress=on_progress)
            record = decided_anew(
                old, old_config, new, read_record(new.realignment, RECORD_KIND), settings, config
            )
        else:
            require_named_base(old, config)
            tokenizer = tokenizer_of(config)
            require_same_tokenizer(old, config)
            # What can't be asked or judged shows here, and not after hours of training.
            suites, of_sources = suites_of_tasks(
                config, tokenizer, old_scorers, settings, no_answer=trained_no_answer(old)
            )
            for suite in suites.values():
                if suite.warning is not None:
                    on_progress(Progress("warning", message=suite.warning))
            train(config, resume=new.is_run(), on_progress=on_progress)
            record = compared(
                old,
                old_config,
                old_scorers,
                suites,
                of_sources,
                new,
                config,
                tokenizer,
                settings,
                on_progress,
            )
    before, champion = champion, _other_champion(old, new, settings.registry)
    if champion is not None and champion != before:  # another re-alignment was promoted during these hours
        tell(_not_the_champion(old, champion, settings.registry))
    told = dict(record)
    if champion is not None:
        told["champion_instead"] = champion
    elif _is_champion(old, settings.registry):
        told.pop("champion_instead", None)
    if told != record:
        record = told
        write_record(new.realignment, RECORD_KIND, record)
    outcome = record["gate"]["outcome"]
    if outcome != "pass" and (told_of := _withdrawn(new, settings.registry)) is not None:
        tell(told_of)
    return Realignment(new.path, record, outcome, _registered(old, new, settings, outcome, tell))


def _other_champion(old: RunDir, new: RunDir, registry: str | None) -> str | None:
    """Folder of the registry's champion, where the deployed run was entered and is not it; None if there is no other.

    The same weights in another folder are no other. Nor is the new run, where a finished comparison is decided anew.
    """
    champion = None if registry is None else champion_instead_of(old.path, registry)
    is_other = champion != str(new.path.resolve()) and not _is_champion(old, registry)
    return champion if is_other else None


def _not_the_champion(old: RunDir, champion: str, registry: str | None) -> str:
    opened = Registry(str(registry))
    versions = {version.run: version for version in opened.versions()}
    number = versions[str(old.path.resolve())].number
    goes_on_from_it = opened.goes_on_from(number, versions[champion].weights)
    return f"{old.path} is not the champion of {registry}: that is {champion}. " + (
        "The new run is not compared with that one, from which it goes on by way of others: losses may add up."
        if goes_on_from_it
        else "What that one has learnt, the new run won't know."
    )


def _is_champion(old: RunDir, registry: str | None) -> bool:
    """Whether the registry's champion has the deployed run's weights, in whatever folder; not where there is none, or
    nobody can say."""
    if registry is None:
        return False
    opened, folder = Registry(registry), str(old.path.resolve())
    try:
        champion = opened.current()
        weights = {version.weights for version in opened.versions() if version.run == folder}
    except SelfAugError:
        return False
    return champion is not None and champion[0].weights in weights


def _withdrawn(new: RunDir, registry: str | None) -> str | None:
    """Take back that a run is the candidate, as it passed by other bounds; what the user should know of a run that does
    not pass, or None if it is neither candidate nor champion."""
    if registry is None:
        return None
    opened, folder = Registry(registry), str(new.path.resolve())
    try:
        candidate, champion = opened.current(CANDIDATE), opened.current(CHAMPION)
    except PathError:  # there is no registry yet
        return None
    number = candidate[0].number if candidate is not None and candidate[0].run == folder else None
    if number is not None:
        opened.withdraw(CANDIDATE, number)
    if champion is not None and champion[0].run == folder:
        return (
            f"version {champion[0].number} does not pass: it is the champion of {registry}, and is still served; "
            f"`selfaug registry rollback --registry {shlex.quote(registry)}` takes the one before it."
        )
    if number is None:
        return None
    return f"version {number} does not pass any more: it is the candidate of {registry} no longer."


def _registered(
    old: RunDir, new: RunDir, settings: RealignSettings, outcome: str, tell: Callable[[str], None]
) -> int | None:
    """The new run's version, if it passed and there is a registry: the candidate. Nothing is promoted here.

    One that is or was the champion waits for nobody: it would take the place of the candidate that does.
    """
    if settings.registry is None or outcome != "pass":
        return None
    registry = Registry(settings.registry)
    add_run(registry.path, old.path)
    version = add_run(registry.path, new.path, note=RE_ALIGNED)
    number, champions = version.number, [move.version for move in registry.moves(CHAMPION)]
    if number in champions:
        named = ["selfaug", "registry", "promote", str(number), "--registry", str(registry.path)]
        tell(
            f"version {number} is the champion of {registry.path}: there is nothing to promote."
            if number == champions[-1]
            else f"version {number} was the champion of {registry.path} before, so it is no candidate. To serve it "
            f"again: {shlex.join(named)}"
        )
        return None
    before = registry.current(CANDIDATE)
    if before is not None and before[0].number > number and before[0].number not in champions:
        tell(f"version {number} takes the place of version {before[0].number} as the candidate.")
    registry.point(CANDIDATE, number, "passed its gate")
    return number
