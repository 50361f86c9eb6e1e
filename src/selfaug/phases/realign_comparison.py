"""A re-aligned run is compared with the deployed one: what both are asked, who judges it, and what the gate says.

Both models' answers are kept, so that a finished comparison can be decided anew by other bounds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from selfaug.config import EvaluationSettings, TrainConfig, load_config
from selfaug.core.gate import (
    OLD_TASK,
    GateResult,
    Outcome,
    bound_on_gain,
    bound_on_loss,
    named_loss,
    named_old_sources,
    overall,
)
from selfaug.errors import ConfigError, StorageError
from selfaug.eval.scorers import files_of_scorer, named_scorer
from selfaug.model.hidden import adapter_off
from selfaug.model.stored_weights import stored_tokenizer_hash
from selfaug.phases.evaluate import RECORD_KIND as EVALUATION
from selfaug.phases.evaluation_settings import digests_of
from selfaug.phases.inputs import resolve_device
from selfaug.phases.progress import Progress
from selfaug.phases.realign_settings import RealignSettings
from selfaug.phases.run_files import load_run_config, place_of
from selfaug.phases.run_models import (
    TOKENIZER,
    alike_where_known,
    hash_of_weights,
    load_run_models,
    trained_weights,
)
from selfaug.phases.suites import (
    Suite,
    answers_to,
    compare_answers,
    compare_scores,
    fitting_level,
    general_prompts,
    level_of,
    select_items,
    share_cut_off,
    task_prompts,
)
from selfaug.records import as_json, read_record, write_record
from selfaug.rundir import RunDir

__all__ = [
    "DEPLOYED_WEIGHTS",
    "RECORD_KIND",
    "compared",
    "decided_anew",
    "old_task_scorers",
    "old_task_sources",
    "suites_of_tasks",
]

RECORD_KIND = "realignment"

_NEW, _GENERAL = "new task", "general"

DEPLOYED_WEIGHTS, _NEW_WEIGHTS = "deployed_weights", "new_weights"
"""Of a comparison's settings in its record: hashes of what was compared. Earlier versions of selfaug kept none."""

# Settings by which the comparison is decided, and those that say what is asked and how answers are judged.
_BOUNDS = ("max_task_loss", "max_general_loss", "min_new_gain", "allow_unmeasured")
_ASKED = ("scorer", "old_scorer", "level", "general_items", "task_items", "max_new_tokens")


def old_task_sources(old: TrainConfig, config: TrainConfig, settings: RealignSettings) -> list[str]:
    """Sources of the rows that the old task is judged by: the deployed run's, or those that were set for them.

    Args:
        old: settings of the deployed run.
        config: of the training.
        settings: with the new rows.
    """
    own = list(map(place_of, old.data.eval))
    of_new = set(map(place_of, settings.eval_data))
    if list(map(place_of, config.data.eval[: len(own)])) == own:  # no others were set
        of_new -= set(own)
    return [source for source in config.data.eval if place_of(source) not in of_new]


def old_task_scorers(
    run: RunDir, config: TrainConfig, settings: RealignSettings, sources: Sequence[str]
) -> dict[str, str]:
    """Scorer of each of these sources, as far as they are the deployed run's held-out rows its own.

    Args:
        run: the deployed one.
        config: its settings, with sources as they are found from here.
        settings: with the scorers that are given.
        sources: of the rows that the old task is judged by.

    Raises:
        ConfigError: if one can't be used, before anything is trained.
    """
    # Records have the names of the run's settings, wherever these are found from here.
    own = list(zip(load_config(run.config).data.eval, config.data.eval, strict=True))
    name_at = {place_of(source): name for name, source in own}
    known: dict[str, str] = {}
    other = settings.scorer if settings.old_scorer is None else settings.old_scorer
    if settings.old_scorer is None and run.realignment.exists():
        record = read_record(run.realignment, RECORD_KIND)
        # Others that stand for the old rows are judged as its new rows were.
        known, other = record["scorers"], record["settings"]["scorer"]
    elif settings.old_scorer is None:
        # A run can be evaluated on other rows than these: that scorer is not theirs.
        if run.evaluation.exists():
            evaluated = read_record(run.evaluation, EVALUATION)["settings"]
            known = dict.fromkeys(evaluated["data"], evaluated["scorer"])
        if config.evaluation.scorer != EvaluationSettings().scorer:
            rows = config.evaluation.data or config.data.eval
            known |= {name: config.evaluation.scorer for name, source in own if source in rows}
    scorers = {
        source: known.get(name_at.get(place_of(source), source), known.get(source, other))
        for source in sources
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
    names = [name for part in parts for name in part.row_ids]
    return Suite(
        ids=[f"{number}: {name}" for number, name in enumerate(names)],
        texts=[text for part in parts for text in part.texts],
        prompts=[prompt for part in parts for prompt in part.prompts],
        limits=[limit for part in parts for limit in part.limits],
        choices=[choices for part in parts for choices in part.choices],
        score=lambda index, answer: places[index][0].score(places[index][1], answer),
        golds=[gold for part in parts for gold in part.golds],
        clusters=[part.clusters[index] if part.clusters else "" for part, index in places],
        warning=next((part.warning for part in parts if part.warning), None),
    )


def suites_of_tasks(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    old_scorers: Mapping[str, str],
    settings: RealignSettings,
    *,
    no_answer: str | None,
) -> tuple[dict[str, Suite], list[str]]:
    """What is asked of the old task and the new one, as far as they have held-out rows; and each old row's source.

    Args:
        config: of the training.
        tokenizer: of the base model.
        old_scorers: by source of the old rows.
        settings: with the new rows and their scorer.
        no_answer: what the deployed run's rows said where there was no answer; others may be prepared by now.

    Raises:
        DataError: if rows can't be read, or can't be judged by their scorer.
    """

    def asked(sources: Sequence[str], scorer: str) -> Suite:
        return task_prompts(
            config,
            tokenizer,
            sources,
            score=named_scorer(scorer),
            items=settings.task_items,
            max_new_tokens=settings.max_new_tokens,
            no_answer=no_answer,
        )

    suites: dict[str, Suite] = {}
    parts = {source: asked([source], scorer) for source, scorer in old_scorers.items()}
    if parts:
        suites[OLD_TASK] = _joined(list(parts.values()))
    if settings.eval_data:
        suites[_NEW] = asked(list(dict.fromkeys(settings.eval_data)), settings.scorer)
    return suites, [source for source, part in parts.items() for _ in part.ids]


def _loaded_alike(deployed: TrainConfig, config: TrainConfig) -> TrainConfig:
    """Settings of the deployed run with the base model as the new run has found and loaded it."""
    run = deployed.run.model_copy(update={"offline": config.run.offline})
    found = {name: getattr(config.model, name) for name in ("name", "device", "dtype", "trust_remote_code")}
    return deployed.model_copy(update={"model": deployed.model.model_copy(update=found), "run": run})


def compared(
    old: RunDir,
    old_config: TrainConfig,
    old_scorers: Mapping[str, str],
    task_suites: Mapping[str, Suite],
    of_sources: Sequence[str],
    new: RunDir,
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    settings: RealignSettings,
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Ask both models everything, and write down what differs. What was answered before counts.

    Args:
        old: the deployed run.
        old_config: its settings.
        old_scorers: by source of the old rows.
        task_suites: what is asked of the old task and the new one; the general suite is added.
        of_sources: the source of each of the old task's rows.
        new: the re-aligned run.
        config: its settings.
        tokenizer: of the base model.
        settings: with what is asked beside that, and the bounds.
        on_progress: called with what is being done.

    Returns:
        Data of the record.

    Raises:
        StorageError: if they were asked something else before, or weights of a run are not there, or are others than
            when they were asked.
        ModelError: if a model can't be used.
    """
    template = config.data.chat_template_kwargs
    new_scorers = dict.fromkeys(settings.eval_data, settings.scorer)
    suites = dict(task_suites)
    work = new.samples / "realignment"
    work.mkdir(parents=True, exist_ok=True)
    started = work / "started.json"
    asked = _asked(settings, config) | _weights_of((old, old_config), (new, config))
    if started.exists():
        _require_asked_alike(old, new, read_record(started, "realignment-started"), asked)
    else:
        write_record(started, "realignment-started", asked)

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(Progress(stage, done, total))

    answers: dict[str, dict[str, list[str]]] = {}
    level = level_of(settings.level)
    for which, run, of in (("deployed", old, _loaded_alike(old_config, config)), ("new", new, config)):
        on_progress(Progress("model"))
        weights = trained_weights(run, of)[0]
        _, model = load_run_models(run, of, weights, device=resolve_device(of.model.device))
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
    sources = _by_source(task_suites.get(OLD_TASK), of_sources, results)
    write_record(
        new.realignment,
        RECORD_KIND,
        {
            "deployed": str(old.path),
            "run": str(new.path),
            "settings": asked,
            # Rows that were not trained on, because held-out rows ask the same.
            "left_out": read_record(new.started, "train-started")["data"].get("asked_by_held_out", {}),
            # What the next re-alignment judges its old rows by. A source that is old already keeps its scorer.
            "scorers": _as_named(new, {**new_scorers, **old_scorers}),
            "contents": _contents_of_scorers({**new_scorers, **old_scorers}),
            "judged": _judged({OLD_TASK: old_scorers, _NEW: new_scorers}),
            "level": asdict(level),
            "suites": results,
            "old_sources": sources,
            "gate": _gate(as_json(results), as_json(sources), settings),
        },
    )
    return read_record(new.realignment, RECORD_KIND)


def _by_source(
    suite: Suite | None, sources: Sequence[str], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The old task's scores by the source of its rows, which may lose much that all together don't show.

    Args:
        suite: of the old task; None where it has no rows.
        sources: of each of its rows.
        results: of all suites, as `compare_answers`.

    Returns:
        Scores by source, as `compare_answers` but for the items; nothing where there is only one source.
    """
    if suite is None or len(set(sources)) < 2:
        return {}
    scores, together = results[OLD_TASK]["scores"], suite.together
    found = {}
    for source in dict.fromkeys(sources):
        rows = [row for row, its_source in enumerate(sources) if its_source == source]
        ids = [suite.ids[row] for row in rows]
        tuned, base = ([scores[one][which] for one in ids] for which in ("tuned", "base"))
        of_source = compare_scores(ids, tuned, base, [together[row] for row in rows])
        found[source] = {key: value for key, value in of_source.items() if key not in ("scores", "clusters")}
    return found


def _gate(
    suites: Mapping[str, Mapping[str, Any]],
    old_sources: Mapping[str, Mapping[str, Any]],
    settings: RealignSettings,
) -> dict[str, Any]:
    """What the bounds say, for the record.

    Each source of old rows has the old task's bound: among many others, what is lost of one hardly shows. But few rows
    of one decide nothing, so only what is wholly beyond it is among the bounds.

    Args:
        suites: scores of both models, as a record has them.
        old_sources: of the old task by source, as a record has them.
        settings: with the bounds.
    """

    def loss(name: str, scores: Mapping[str, Any], most: float) -> GateResult:
        return bound_on_loss(named_loss(name), scores["difference"], most, scores["base"]["value"])

    bounds = [
        loss(name, suites[name], most)
        for name, most in ((OLD_TASK, settings.max_task_loss), (_GENERAL, settings.max_general_loss))
        if name in suites
    ]
    if _NEW in suites:
        bounds.append(bound_on_gain("gain, new task", suites[_NEW]["difference"], settings.min_new_gain))
    of_sources = (
        loss(name, scores, settings.max_task_loss) for name, scores in named_old_sources(old_sources).items()
    )
    bounds += [bound for bound in of_sources if bound.outcome == "fail"]
    unmeasured = [task for task in (OLD_TASK, _NEW) if task not in suites]
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


def decided_anew(
    old: RunDir,
    old_config: TrainConfig,
    new: RunDir,
    record: dict[str, Any],
    settings: RealignSettings,
    config: TrainConfig,
) -> dict[str, Any]:
    """The comparison that is there, by the bounds of now: both models' answers stay as they are.

    Args:
        old: the deployed run.
        old_config: its settings.
        new: the re-aligned run.
        record: data of its comparison.
        settings: with the bounds of now.
        config: of the training.

    Returns:
        Data of the record, as it is now.

    Raises:
        StorageError: if they were asked something else, a run has other weights by now, or a file has changed that a
            scorer reads.
    """
    asked = _asked(settings, config) | _weights_of((old, old_config), (new, config))
    _require_asked_alike(old, new, record["settings"], asked)
    _require_judged_alike(new, record)
    gate = _gate(record["suites"], record.get("old_sources", {}), settings)
    bounds = {name: getattr(settings, name) for name in _BOUNDS}
    decided = {**record, "settings": {**record["settings"], **bounds}, "gate": gate}
    if decided != record:
        write_record(new.realignment, RECORD_KIND, decided)
    return read_record(new.realignment, RECORD_KIND)


def _asked(settings: RealignSettings, config: TrainConfig) -> dict[str, Any]:
    """The settings, and what identifies the tokeniser and chat template that both models are asked by."""
    return {**asdict(settings), TOKENIZER: stored_tokenizer_hash(config.model.name)}


def _weights_of(deployed: tuple[RunDir, TrainConfig], new: tuple[RunDir, TrainConfig]) -> dict[str, str]:
    """What identifies the weights that are compared: a run can be trained anew in its folder."""
    return {
        name: hash_of_weights(trained_weights(run, config)[0])
        for name, (run, config) in ((DEPLOYED_WEIGHTS, deployed), (_NEW_WEIGHTS, new))
    }


def _require_asked_alike(old: RunDir, new: RunDir, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse where both models were asked something else, were judged otherwise, or have other weights by now.

    Args:
        old: the deployed run.
        new: the re-aligned run.
        before: what they were asked, and their weights, as far as an earlier version of selfaug has kept those.
        now: the same as it is now.

    Raises:
        StorageError: if they were.
    """
    for name, run in ((DEPLOYED_WEIGHTS, old), (_NEW_WEIGHTS, new)):
        if not alike_where_known(before.get(name), now[name]):
            raise StorageError(
                f"{run.path} has other weights than when both runs were compared.",
                hint=f"put those weights back; or delete {new.realignment.name} and {new.samples / 'realignment'} to "
                "ask both models anew.",
            )
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
    now = _contents_of_scorers(record["scorers"])
    known = record["contents"]
    if stale := sorted(file for file in now if known.get(file, now[file]) != now[file]):
        raise StorageError(
            f"{new.path} was compared with the deployed run before {', '.join(stale)} changed.",
            hint=f"put back what was in there then; or delete {new.realignment.name}, and the same command judges the "
            "kept answers by what is in there now.",
        )
