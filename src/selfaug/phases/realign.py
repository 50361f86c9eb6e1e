"""Re-alignment: a deployed adapter learns from new rows, and is compared with itself as it was.

Training goes on from the deployed adapter, and is aligned with the original base model, not with what was deployed: so
drift does not add up from one re-alignment to the next. Aligning prompts protects general behaviour, not old
completions: a share of the old rows is rehearsed for these.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel

from selfaug.config import EvaluationSettings, LevelName, TrainConfig, load_config
from selfaug.core.gate import Outcome, at_least, at_most, overall
from selfaug.core.statistics import Interval
from selfaug.data import rows_without_template
from selfaug.errors import ConfigError, DataError, PathError, SelfAugError, StorageError
from selfaug.eval.scorers import files_of_scorer, named_scorer
from selfaug.model.hidden import adapter_off
from selfaug.model.loading import load_tokenizer
from selfaug.model.stored_weights import stored_tokenizer_hash
from selfaug.phases.evaluate import RECORD_KIND as EVALUATION
from selfaug.phases.evaluation_settings import digests_of
from selfaug.phases.held_out import HELD_OUT_SHARE, HeldOut, held_out_before, hold_out
from selfaug.phases.inputs import describe_sources, read_rows, resolve_device, template_of
from selfaug.phases.progress import Progress
from selfaug.phases.registry import add_run, champion_run, require_addable
from selfaug.phases.run_files import load_run_config, place_of, tell_of_changes
from selfaug.phases.run_models import TOKENIZER, alike_where_known, load_run_models, trained_weights
from selfaug.phases.suites import (
    Suite,
    answers_to,
    compare_answers,
    compared_anew,
    fitting_level,
    general_prompts,
    level_of,
    select_items,
    share_cut_off,
    task_prompts,
)
from selfaug.phases.train import train
from selfaug.phases.trained_template import trained_template
from selfaug.records import read_record, write_record
from selfaug.registry import CANDIDATE, CHAMPION, Registry, champion_instead_of
from selfaug.rundir import RunDir

__all__ = [
    "RECORD_KIND",
    "REHEARSAL",
    "RealignSettings",
    "Realignment",
    "realign",
    "realign_config",
    "with_held_out_rows",
]

RECORD_KIND = "realignment"

REHEARSAL = 0.1
"""Share of old rows when new ones are learnt."""

_OLD, _NEW, _GENERAL = "old task", "new task", "general"

# Settings by which the comparison is decided, and those that say what is asked and how answers are judged.
_BOUNDS = ("max_task_loss", "max_general_loss", "min_new_gain", "allow_unmeasured")
_ASKED = ("scorer", "old_scorer", "level", "general_items", "task_items", "max_new_tokens")


@dataclass(frozen=True)
class RealignSettings:
    """How a run is re-aligned, and what the result may lose.

    Attributes:
        data: sources of the new rows.
        eval_data: sources of held-out new rows; without any, `with_held_out_rows` sets some of `data` apart.
        output: folder of the new run; None: beside the old one.
        rehearsal: share of old rows among all; 0 rehearses none.
        scorer: of the new rows, as for `evaluate`.
        old_scorer: of all old rows; None: each source's own, as remembered from the re-alignment that it came with,
            or that of the deployed run's evaluation; else `scorer`.
        level: of the general suite, as for `evaluate`.
        general_items: how many general requests; None for all.
        task_items: how many new rows, evenly over their sources, and how many of each source of old ones; None for
            all.
        max_new_tokens: longest answer to a row.
        batch_size: prompts answered together.
        max_task_loss: share; what the old task's score may lose against the deployed model.
        max_general_loss: share; what the general score may lose.
        min_new_gain: share; what the new task's score must gain.
        hold_out: share of the new rows that is set apart where `eval_data` names none; 0 sets none apart.
        allow_unmeasured: whether a run may pass though the old task or the new one has no held-out rows, and nobody
            knows what it loses or gains there.
        registry: file in which a new run that passes becomes the candidate; None: in none.
    """

    data: Sequence[str]
    eval_data: Sequence[str] = ()
    output: str | None = None
    rehearsal: float = REHEARSAL
    scorer: str = "exact"
    old_scorer: str | None = None
    level: LevelName = "auto"
    general_items: int | None = None
    task_items: int | None = None
    max_new_tokens: int = 128
    batch_size: int = 32
    max_task_loss: float = 0.03
    max_general_loss: float = 0.03
    min_new_gain: float = 0.0
    hold_out: float = HELD_OUT_SHARE
    allow_unmeasured: bool = False
    registry: str | None = None


@dataclass(frozen=True)
class Realignment:
    """A re-aligned run.

    Attributes:
        run: its folder.
        record: data of its `realignment.json`.
        outcome: of the gate.
        version: of the registry, if it has become the candidate.
    """

    run: Path
    record: dict[str, Any]
    outcome: str
    version: int | None = None


def with_held_out_rows(
    run: RunDir, settings: RealignSettings, *, sets: Sequence[str] = (), offline: bool = False
) -> tuple[RealignSettings, HeldOut | None]:
    """Settings with held-out new rows where none are given, in files beside the new run; and what was set apart.

    With too few rows, settings stay as they are, and so they do where held-out rows are given or none are wanted. A run
    that has begun keeps what was set apart for it, and nothing is set apart where nothing was.

    Raises:
        ConfigError, DataError: if settings or rows can't be used.
        StorageError: if files can't be written, or a run was begun with other rows.
    """
    if settings.eval_data or settings.hold_out <= 0:
        return settings, None
    config = load_run_config(run, sets=sets)
    output = _output(run, settings.output)
    if any(one.partition("=")[0].strip() == "run.output" for one in sets):
        output = config.run.output.rstrip("/")
    folder, offline = Path(f"{output}-rows"), offline or config.run.offline
    new = RunDir(output)
    if new.started.exists():
        found = held_out_before(config, load_run_config(new), settings.data, folder, offline=offline)
        if found is None:
            return settings, None
    else:
        found = hold_out(run, config, settings.data, folder, share=settings.hold_out, offline=offline)
    return replace(settings, data=found.data, eval_data=found.eval_data), found


def _learns_held_out(new: RunDir) -> bool:
    """Whether a run was begun with rows that ask what held-out rows ask, by an earlier version or as it was set."""
    return new.started.exists() and not load_config(new.config).data.skip_held_out


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

    But for `train.best_of_rows`: the gate judges by the rows that it would choose on. And what one of these rows asks
    is not trained on, unless a run goes on that was begun so.

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
    config = load_run_config(run)
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
        "run.output": _output(run, output),
        "run.overwrite": False,
    }
    others = {"selfaug.anchor_count", "train.seed"} & {one.partition("=")[0].strip() for one in sets}
    if config.selfaug.anchors != "none" and run.anchors.exists() and not others:
        changes["selfaug.anchors"] = str(run.anchors)  # the base model would write the same ones again
    realigned = load_run_config(
        run, sets=[*(f"{name}={json.dumps(value)}" for name, value in changes.items()), *sets]
    )
    _require_not_chosen(realigned)
    if _learns_held_out(RunDir(realigned.run.output)):
        as_begun = realigned.data.model_copy(update={"skip_held_out": False})
        return realigned.model_copy(update={"data": as_begun})
    return realigned


def _require_not_chosen(config: TrainConfig) -> None:
    """Refuse to choose the checkpoint on rows that the gate judges by: it would pass on what it was chosen for.

    Raises:
        ConfigError: if it is chosen so.
    """
    if config.train.best_of_rows > 0:
        raise ConfigError(
            f"train.best_of_rows is {config.train.best_of_rows}: a re-alignment's gate judges by rows of data.eval, so "
            "its checkpoint can't be chosen on them.",
            hint="leave it out: a re-alignment ends with its last checkpoint.",
        )


def realign(
    run: str | os.PathLike[str],
    settings: RealignSettings,
    *,
    config: TrainConfig | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Realignment:
    """Train on from a deployed run, and decide whether the result may take its place. Goes on where it was cut off.

    Args:
        run: folder of the deployed run.
        settings: what is learnt, and what may be lost.
        config: of the training; None takes the run's own with `realign_config`, and `with_held_out_rows`.
        on_progress: called with what is being done.

    Raises:
        ConfigError: if the run has no LoRA adapter to go on from, a scorer can't be used, the checkpoint would be
            chosen on rows that the gate judges by, or the registry has one of the folders with other weights.
        DataError: if new rows are text where the run was trained without any, or can't be used.
        StorageError, ModelError: if models or folders can't be used.
    """
    old = RunDir.open(run)
    old_config = load_run_config(old)
    if old_config.lora.method != "lora":
        raise ConfigError(
            f"{old.path} was trained with lora.method {old_config.lora.method}; re-alignment goes on from a LoRA "
            "adapter.",
            hint="train anew, with `data.replay` for the old rows.",
        )
    named_scorer(settings.scorer)
    old_scorers = _old_scorers(old, old_config, settings)
    trained_weights(old, old_config)
    tell_of_changes(
        old, old_config, "train", "eval", tell=lambda told: on_progress(Progress("warning", message=told))
    )
    if config is None:
        settings, _ = with_held_out_rows(old, settings)
        config = realign_config(
            old,
            settings.data,
            eval_data=settings.eval_data,
            rehearsal=settings.rehearsal,
            output=settings.output,
        )
    _require_not_chosen(config)
    _require_trained_template(old, config)
    _require_trained_form(old, config, settings.eval_data)
    new = RunDir(config.run.output)
    if new.is_run() and not new.started.exists():  # killed while its folder was made
        new.discard()
    if new.is_run():
        _require_last_checkpoint(new)
        _require_same_rows(new, config)
    if settings.registry is not None:  # not only after hours of training
        require_addable(settings.registry, old.path, planned=new.path)
    champion = _other_champion(old, new, settings.registry)
    if champion is not None:
        on_progress(
            Progress(
                "warning",
                message=f"{old.path} is not the champion of {settings.registry}: that is {champion}. What that one has "
                "learnt, the new run won't know.",
            )
        )
    train(config, resume=new.is_run(), on_progress=on_progress)
    if new.realignment.exists():
        record = _decided_anew(new, read_record(new.realignment, RECORD_KIND), settings, config)
    else:
        record = _compared(old, old_config, old_scorers, new, config, settings, on_progress)
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
        on_progress(Progress("warning", message=told_of))
    return Realignment(new.path, record, outcome, _registered(old, new, settings, outcome))


def _other_champion(old: RunDir, new: RunDir, registry: str | None) -> str | None:
    """Folder of the registry's champion, where the deployed run was entered and is not it; None if there is no other.

    The new run itself may be it by now, where a finished comparison is decided anew.
    """
    champion = None if registry is None else champion_instead_of(old.path, registry)
    return None if champion == str(new.path.resolve()) else champion


def _is_champion(old: RunDir, registry: str | None) -> bool:
    """Whether the deployed run is the registry's champion; not where there is none, or nobody can say."""
    try:
        return registry is not None and champion_run(registry) == str(old.path.resolve())
    except SelfAugError:
        return False


def _require_last_checkpoint(new: RunDir) -> None:
    """Refuse what was begun when a re-alignment still took over `train.best_of_rows` from the deployed run.

    Raises:
        StorageError: if its checkpoint is chosen on rows.
    """
    if load_config(new.config).train.best_of_rows > 0:
        raise StorageError(
            f"{new.path} was begun with train.best_of_rows: its checkpoint is chosen on rows that the gate judges by.",
            hint="choose another --output.",
        )


def _require_same_rows(new: RunDir, config: TrainConfig) -> None:
    """Refuse to go on with a run that was begun with other rows: it would answer for these with what it knows of those.

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


def _require_trained_template(run: RunDir, config: TrainConfig) -> None:
    """Refuse prompts of another form than the deployed run answers: its file may have been written anew.

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


def _require_trained_form(run: RunDir, config: TrainConfig, eval_data: Sequence[str]) -> None:
    """Refuse rows of plain text where the deployed run answers chats or questions with passages, and nothing else.

    They would train, and judge, prompts that no request has: without the chat template.

    Raises:
        DataError: if there are some.
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
    tokenizer = load_tokenizer(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=config.run.offline
    )
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
    parts = [data[part] for part in ("train", "replay") if part in data]
    # Earlier records count them together with prompts and completions that are messages.
    return any(part.get("rows_of_text", part["forms"].get("prompt-completion", 0)) for part in parts)


def _old_scorers(run: RunDir, config: TrainConfig, settings: RealignSettings) -> dict[str, str]:
    """Scorer of each source of the deployed run's held-out rows.

    Raises:
        ConfigError: if one can't be used, before anything is trained.
    """
    sources = config.data.eval
    # Records have the names of the run's settings, wherever these are found from here.
    names = load_config(run.config).data.eval
    known: dict[str, str] = {}
    other = settings.scorer if settings.old_scorer is None else settings.old_scorer
    if settings.old_scorer is None and run.realignment.exists():
        record = read_record(run.realignment, RECORD_KIND)
        # In records without scorers of each source, this one has judged all rows.
        known, other = record.get("scorers", {}), record["settings"]["scorer"]
    elif settings.old_scorer is None:
        # A run can be evaluated on other rows than these: that scorer is not theirs.
        if run.evaluation.exists():
            evaluated = read_record(run.evaluation, EVALUATION)["settings"]
            known = dict.fromkeys(evaluated["data"], evaluated["scorer"])
        if config.evaluation.scorer != EvaluationSettings().scorer:
            rows = config.evaluation.data or sources
            known |= {
                name: config.evaluation.scorer
                for name, source in zip(names, sources, strict=True)
                if source in rows
            }
    # Sources of earlier records may begin with `~`.
    known = {os.path.expanduser(source): name for source, name in known.items()}
    scorers = {
        source: known.get(name, known.get(source, other)) for name, source in zip(names, sources, strict=True)
    }
    for source, name in scorers.items():
        try:
            named_scorer(name)
        except ConfigError as error:
            raise ConfigError(
                f"old rows of {source} can't be judged: {error.message}",
                hint="restore what the scorer needs, or give another one for old rows with --old-scorer.",
            ) from error
    return scorers


def _as_named(run: RunDir, scorers: Mapping[str, str]) -> dict[str, str]:
    """Scorers of sources under the names that the run's own settings have for these, wherever they were found."""
    names = load_config(run.config).data.eval
    name_at = {
        place_of(source): name for name, source in zip(names, load_run_config(run).data.eval, strict=True)
    }
    return {
        source if source in names else name_at.get(place_of(source), source): scorer
        for source, scorer in scorers.items()
    }


def _judged(scorers: Mapping[str, Mapping[str, str]]) -> str:
    """Which scorer judges which rows, by task and source, in words."""
    tasks = []
    for task, of_source in scorers.items():
        names = [
            f"{name} ({', '.join(source for source in of_source if of_source[source] == name)})"
            for name in dict.fromkeys(of_source.values())
        ]
        tasks += [f"{task} by {', '.join(names)}"] if names else []
    return "; ".join(tasks)


def _joined(parts: Sequence[Suite]) -> Suite:
    """One suite of the rows of several, each scored as in its own."""
    places = [(part, index) for part in parts for index in range(len(part.ids))]
    # Numbered anew, as `task_prompts` does: each part begins with 0.
    names = [part.ids[index].partition(": ")[2] for part, index in places]
    return Suite(
        ids=[f"{number}: {name}" for number, name in enumerate(names)],
        texts=[text for part in parts for text in part.texts],
        prompts=[prompt for part in parts for prompt in part.prompts],
        limits=[limit for part in parts for limit in part.limits],
        choices=[choices for part in parts for choices in part.choices],
        score=lambda index, answer: places[index][0].score(places[index][1], answer),
        golds=[gold for part in parts for gold in part.golds],
        clusters=[part.clusters[index] if part.clusters else "" for part, index in places],
    )


def _compared(
    old: RunDir,
    old_config: TrainConfig,
    old_scorers: Mapping[str, str],
    new: RunDir,
    config: TrainConfig,
    settings: RealignSettings,
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Ask both models everything, and write down what differs."""
    offline = config.run.offline
    tokenizer = load_tokenizer(
        config.model.name, trust_remote_code=config.model.trust_remote_code, offline=offline
    )
    template = config.data.chat_template_kwargs

    def asked(sources: Sequence[str], scorer: str) -> Suite:
        return task_prompts(
            config,
            tokenizer,
            sources,
            score=named_scorer(scorer),
            items=settings.task_items,
            max_new_tokens=settings.max_new_tokens,
            offline=offline,
        )

    new_scorers = dict.fromkeys(settings.eval_data, settings.scorer)
    suites: dict[str, Suite] = {}
    if old_scorers:
        suites[_OLD] = _joined([asked([source], scorer) for source, scorer in old_scorers.items()])
    if new_scorers:
        suites[_NEW] = asked(list(new_scorers), settings.scorer)
    work = new.samples / "realignment"
    work.mkdir(parents=True, exist_ok=True)
    started = work / "started.json"
    if started.exists():
        _require_asked_alike(new, read_record(started, "realignment-started"), settings, config)
    else:
        write_record(started, "realignment-started", _asked(settings, config))

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(Progress(stage, done, total))

    answers: dict[str, dict[str, list[str]]] = {}
    level = level_of(settings.level)
    for which, run, of in (("deployed", old, old_config), ("new", new, config)):
        on_progress(Progress("model"))
        weights = trained_weights(run, of)[0]
        _, model = load_run_models(run, of, weights, device=resolve_device(of.model.device), offline=offline)
        if level is None:
            assert isinstance(model, PeftModel)
            with adapter_off(model):
                level = fitting_level(
                    work / "level-base.jsonl",
                    model,
                    tokenizer,
                    template,
                    settings.batch_size,
                    report("base: which level"),
                )
            for warning in level.warnings:
                on_progress(Progress("warning", message=warning))
        if _GENERAL not in suites:
            items = select_items("test", level.level, settings.general_items)
            suites[_GENERAL] = general_prompts(tokenizer, items, template)
        answers[which] = {
            name: answers_to(
                suite,
                work / f"{name.replace(' ', '-')}-{which}.jsonl",
                model,
                tokenizer,
                settings.batch_size,
                report(f"{which}: {name}"),
            )
            for name, suite in suites.items()
        }
        del model
        gc.collect()
    assert level is not None
    results = {
        name: {
            **compare_answers(suite, answers["new"][name], answers["deployed"][name]),
            "cut_off": {
                as_in: share_cut_off(suite, work / f"{name.replace(' ', '-')}-{which}.jsonl")
                for as_in, which in (("base", "deployed"), ("tuned", "new"))
            },
            "own_limits": name == _GENERAL,
        }
        for name, suite in suites.items()
    }
    differences = {name: asdict(suite["difference"]) for name, suite in results.items()}
    deployed = {name: suite["base"].value for name, suite in results.items()}
    write_record(
        new.realignment,
        RECORD_KIND,
        {
            "deployed": str(old.path),
            "run": str(new.path),
            "settings": _asked(settings, config),
            # Rows that were not trained on, because held-out rows ask the same.
            "left_out": read_record(new.started, "train-started")["data"].get("asked_by_held_out", {}),
            # What the next re-alignment judges its old rows by. A source that is old already keeps its scorer.
            "scorers": _as_named(new, {**new_scorers, **old_scorers}),
            "contents": _contents_of_scorers({**new_scorers, **old_scorers}),
            "judged": _judged({_OLD: old_scorers, _NEW: new_scorers}),
            "level": asdict(level),
            "suites": results,
            "gate": _gate(differences, deployed, settings),
        },
    )
    return read_record(new.realignment, RECORD_KIND)


def _gate(
    differences: Mapping[str, Mapping[str, Any]], deployed: Mapping[str, float], settings: RealignSettings
) -> dict[str, Any]:
    """What the bounds say, for the record.

    Args:
        differences: fields of a `PairedDifference` by suite, as a record has them.
        deployed: the deployed model's scores, shares: more it can't lose.
        settings: with the bounds.
    """
    bounds = []
    for name, most in ((_OLD, settings.max_task_loss), (_GENERAL, settings.max_general_loss)):
        if name in differences:
            gained = Interval(**differences[name]["difference"])
            lost = Interval(-gained.value, -gained.high, -gained.low)
            items, at_stake = differences[name]["items"], deployed[name]
            clusters = differences[name].get("clusters")
            bounds.append(at_most(f"loss, {name}", lost, most, items, at_stake=at_stake, clusters=clusters))
    if _NEW in differences:
        new = differences[_NEW]
        found = Interval(**new["difference"])
        bounds.append(
            at_least(
                "gain, new task", found, settings.min_new_gain, new["items"], clusters=new.get("clusters")
            )
        )
    unmeasured = [task for task in (_OLD, _NEW) if task not in differences]
    return {
        "outcome": _outcome(overall(bounds), unmeasured, settings),
        "of_bounds": overall(bounds),
        "bounds": [asdict(one) for one in bounds],
        "unmeasured": unmeasured,
    }


def _outcome(of_bounds: Outcome, unmeasured: Sequence[str], settings: RealignSettings) -> Outcome:
    """What the gate says in all: nothing is passed on a task that nobody has looked at, unless that is wanted."""
    if of_bounds == "pass" and unmeasured and not settings.allow_unmeasured:
        return "inconclusive"
    return of_bounds


def _decided_anew(
    new: RunDir, record: dict[str, Any], settings: RealignSettings, config: TrainConfig
) -> dict[str, Any]:
    """The comparison that is there, by the bounds of now: both models' answers stay as they are, and intervals are made
    anew from the items' scores.

    Raises:
        StorageError: if they were asked something else.
    """
    _require_asked_alike(new, record["settings"], settings, config)
    _require_judged_alike(new, record)
    suites = {name: compared_anew(suite) for name, suite in record["suites"].items()}
    gate = _gate(
        {name: suite["difference"] for name, suite in suites.items()},
        {name: suite["base"]["value"] for name, suite in suites.items()},
        settings,
    )
    bounds = {name: getattr(settings, name) for name in _BOUNDS}
    decided = {**record, "settings": {**record["settings"], **bounds}, "suites": suites, "gate": gate}
    if decided != record:
        write_record(new.realignment, RECORD_KIND, decided)
    return read_record(new.realignment, RECORD_KIND)


def _asked(settings: RealignSettings, config: TrainConfig) -> dict[str, Any]:
    """The settings, and what identifies the tokeniser and chat template that both models are asked by."""
    return {**asdict(settings), TOKENIZER: stored_tokenizer_hash(config.model.name)}


def _require_asked_alike(
    new: RunDir, before: Mapping[str, Any], settings: RealignSettings, config: TrainConfig
) -> None:
    """Refuse where both models were asked something else, or were judged otherwise.

    Raises:
        StorageError: if they were.
    """
    now = _asked(settings, config)
    changed = sorted(name for name in _ASKED if before.get(name) != now[name])
    if not alike_where_known(before.get(TOKENIZER), now[TOKENIZER]):
        changed.append(TOKENIZER)
    if changed:
        raise StorageError(
            f"{new.path} was compared with the deployed run with another {', '.join(changed)}.",
            hint=f"give the same again; or delete {new.realignment.name} and {new.samples / 'realignment'} to ask both "
            "models anew.",
        )


def _contents_of_scorers(scorers: Mapping[str, str]) -> dict[str, list[str]]:
    """SHA-256 of each file that scorers read, by its name."""
    return digests_of(sorted({file for scorer in scorers.values() for file in files_of_scorer(scorer)}))


def _require_judged_alike(new: RunDir, record: Mapping[str, Any]) -> None:
    """Refuse where a file that a scorer reads has changed since the answers were judged.

    Raises:
        StorageError: if one has.
    """
    now = _contents_of_scorers(record.get("scorers", {}))
    known = record.get("contents", {})  # there are none in older records
    if stale := sorted(file for file in now if known.get(file, now[file]) != now[file]):
        raise StorageError(
            f"{new.path} was compared with the deployed run before {', '.join(stale)} changed.",
            hint=f"put back what was in there then; or delete {new.realignment.name}, and the same command judges the "
            "kept answers by what is in there now.",
        )


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


def _registered(old: RunDir, new: RunDir, settings: RealignSettings, outcome: str) -> int | None:
    """The new run's version, if it passed and there is a registry: the candidate. Nothing is promoted here."""
    if settings.registry is None or outcome != "pass":
        return None
    parent = add_run(settings.registry, old.path).number
    version = add_run(settings.registry, new.path, parent=parent, note="re-aligned").number
    Registry(settings.registry).point(CANDIDATE, version, "passed its gate")
    return version
