"""Watching a deployed run: what its server needs to do so, and what the user sees of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from selfaug.config import TrainConfig
from selfaug.core.alert_state import ALERTS, UNWATCHED_AFTER
from selfaug.errors import ConfigError, SelfAugError, StorageError
from selfaug.eval.drift import measure_drift
from selfaug.model.loading import load_tokenizer
from selfaug.model.reference import FrozenModel, Reference
from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.reference_window import (
    WANTED_PROMPTS,
    ReferenceWindow,
    Score,
    measure_reference_window,
)
from selfaug.monitoring.retention import delete_before, delete_expired
from selfaug.monitoring.standing import standing_state
from selfaug.monitoring.store import acknowledge, read_kept, read_texts
from selfaug.phases.chat import open_chat
from selfaug.phases.dated_prompts import Undated
from selfaug.phases.inputs import load_training_data
from selfaug.phases.progress import Progress
from selfaug.phases.realign import REHEARSAL
from selfaug.phases.run_files import load_run_config, require_named_base, require_named_files, tell_of_changes
from selfaug.phases.run_models import hash_of_weights, trained_weights
from selfaug.phases.trained_template import trained_template
from selfaug.records import write_lines, write_text, writing_into
from selfaug.registry import DEFAULT_REGISTRY, Registry
from selfaug.rundir import RunDir

__all__ = [
    "RULE_FILES",
    "acknowledge_alerts",
    "drift_score",
    "export_texts",
    "is_alert",
    "monitor_status",
    "open_monitor",
    "purge_expired",
    "purge_expired_runs",
    "purge_monitor",
    "record_reference_window",
    "write_rules",
]

RULE_FILES = ("prometheus_rules.yaml", "grafana_dashboard.json")


def drift_score(
    model: nn.Module,
    reference: Reference | None,
    alone: Callable[[Callable[[], list[float]]], list[float]] | None = None,
) -> Score:
    """The drift of prompts, by the function that training and evaluation measure it with.

    Args:
        model: the tuned model.
        reference: as for `measure_drift`: None switches the model's adapter off while it is measured.
        alone: calls what it is given where nothing else uses the model, such as an engine's `when_idle`. Needed where
            the same model answers requests: an adapter that is switched off is off for them too. Prompts are measured
            one by one then, so that requests wait for one at most.
    """

    def score(prompts: list[list[int]]) -> list[float]:
        drift = measure_drift(model, prompts, reference=reference, batch_size=len(prompts))
        return [sum(nats) / len(nats) for nats in drift.per_token]

    if alone is None:
        return score
    return lambda prompts: [nats for prompt in prompts for nats in alone(partial(score, [prompt]))]


def record_reference_window(
    run: str | os.PathLike[str],
    *,
    score: Score | None = None,
    data: Sequence[str] = (),
    prompts: int | None = None,
    device: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> ReferenceWindow:
    """The reference window of a run, measured once and kept in it.

    Args:
        run: folder of a run.
        score: measures the drift of prompts; None loads the run's models for it.
        data: sources of held-out rows beside those that the run evaluated on.
        prompts: how many are wanted; None takes whatever a window that is there has, and else WANTED_PROMPTS.
        device: "auto", "cpu" or "cuda", where models are loaded.
        offline: use only what is on this machine.
        overwrite: measure anew.
        on_progress: called while it is measured.

    Raises:
        StorageError: if there is no such run, or it can't be written; or, without `overwrite`, if `data`, or another
            number of `prompts`, is given where the window is there.
        DataError, ModelError, ConfigError: if rows or models can't be loaded.
    """
    folder = RunDir.open(run)

    def tell(told: str) -> None:
        on_progress(Progress("warning", message=told))

    config = load_run_config(folder, tell)
    adapter = hash_of_weights(trained_weights(folder, config)[0])
    if not overwrite and (folder.monitor / "reference.json").exists():
        window = ReferenceWindow.load(folder.monitor)
        if window.adapter == adapter:
            _require_unchanged(folder, window, data, prompts)
            return window
    on_progress(Progress("data"))
    require_named_files(
        folder,
        config,
        "train",
        "eval",
        *(["replay"] if config.data.replay_share > 0 else []),  # else they aren't read
        instead=f"measure the reference window there (selfaug monitor RUN --reference), and copy {folder.monitor}",
    )
    require_named_base(folder, config)
    tell_of_changes(folder, config, "train", "eval", tell=tell)
    # Nothing is trained here.
    changed = {"eval": [*config.data.eval, *data], "skip_held_out": False}
    today = date.today()
    rows = load_training_data(
        config.model_copy(
            update={
                "data": config.data.model_copy(update=changed),
                "run": config.run.model_copy(update={"offline": offline or config.run.offline}),
            }
        ),
        trained_template(folder),
        today,
    )
    undated = Undated(rows.tokenizer, **config.data.chat_template_kwargs)
    if score is None:
        on_progress(Progress("model"))
        chat = open_chat(run, device=device, offline=offline)
        score = drift_score(chat.tuned, None if chat.base is None else FrozenModel(chat.base))
    window = measure_reference_window(
        [] if rows.eval is None else [row.prompt() for row in rows.eval.rows],
        [row.prompt() for row in rows.train.rows],
        score,
        adapter=adapter,
        prompts=WANTED_PROMPTS if prompts is None else prompts,
        undated=lambda prompt: undated(prompt, today),
        on_progress=lambda done, total: on_progress(Progress("drift of the reference window", done, total)),
    )
    window.save(folder.monitor)
    return window


def _require_unchanged(
    run: RunDir, window: ReferenceWindow, data: Sequence[str], prompts: int | None
) -> None:
    """Refuse what a window that is there would leave out: other rows, or another number of prompts."""
    size = len(window.lengths)
    # Where the rows had no more than it has, so would they have now.
    has_all = window.wanted is None or window.wanted > size
    other = prompts is not None and prompts != size and not (prompts > size and has_all)
    flags = [*(["--data"] if data else []), *(["--prompts"] if other else [])]
    if flags:
        raise StorageError(
            f"{run.path} has a reference window of {size:,} prompts already, which {' and '.join(flags)} would not "
            "change.",
            hint=f"use --overwrite to measure it anew, or leave out {' and '.join(flags)}.",
        )


def open_monitor(
    run: str | os.PathLike[str],
    score: Score,
    *,
    settings: MonitorSettings | None = None,
    webhook: str | None = None,
    measure: bool = True,
    canary: Sequence[str] | None = None,
    offline: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
    compute_clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Monitor:
    """The monitor of a run, for its server. Measures the reference window first where there is none.

    Args:
        run: folder of the run that is served.
        score: from `drift_score`, of the models that are served.
        settings: what it may cost, and what it keeps.
        webhook: URL that is told of changes of state.
        measure: whether a reference window that is missing, or is another adapter's, is measured; else whatever is
            there is taken.
        canary: what of the canary set has not come back, as for `Monitor`.
        offline: use only what is on this machine.
        tell: called with what the user should know about the webhook, and where the tokeniser can't be loaded: then
            prompts are watched with the dates that are in them.
        clock: seconds since 1970.
        compute_clock: seconds of computing, as for `Monitor`.
        on_progress: called while the reference window is measured.

    Raises:
        StorageError, DataError, ConfigError: if the run has no rows to compare with, or can't be written.
        ModelError: if the reference window has to be measured, and the tokeniser can't be loaded.
    """
    folder = RunDir.open(run)
    if measure:
        window = record_reference_window(run, score=score, offline=offline, on_progress=on_progress)
    else:
        window = ReferenceWindow.load(folder.monitor)
    config = load_run_config(folder)
    undated, problem = _undated(config, offline or config.run.offline)
    monitor = Monitor(
        folder.monitor,
        window,
        score,
        run=str(folder.path),
        settings=settings,
        webhook=webhook,
        canary=canary,
        tell=tell,
        realign=_realign_settings(folder, config),
        undated=undated,
        clock=clock,
        compute_clock=compute_clock,
    )
    if problem:
        tell(problem)
    return monitor


def _undated(
    config: TrainConfig, offline: bool
) -> tuple[Callable[[Sequence[int], float], Sequence[int]], str]:
    """What takes the day's date out of a prompt, and why that can't be done, or "": prompts stay as they are then."""
    model = config.model
    try:
        tokenizer = load_tokenizer(model.name, trust_remote_code=model.trust_remote_code, offline=offline)
    except Exception as error:  # whatever it is: all else is watched without the tokeniser
        problem = f"a date that the chat template writes into prompts counts as novel: {error}"
        return (lambda prompt, _: prompt), problem
    undated = Undated(tokenizer, **config.data.chat_template_kwargs)
    return (lambda prompt, time: undated(prompt, date.fromtimestamp(time))), ""


def _realign_settings(run: RunDir, config: TrainConfig) -> dict[str, Any] | None:
    """Flags of `selfaug realign` with a file for the new rows; None if it can't go on from this run."""
    if config.lora.method != "lora":
        return None
    return {
        "run": str(run.path),
        "data": [str(run.monitor / "new.jsonl")],
        "rehearsal": REHEARSAL,
    }


def monitor_status(
    run: str | os.PathLike[str],
    *,
    registry: str | os.PathLike[str] = DEFAULT_REGISTRY,
    now: float | None = None,
) -> dict[str, Any]:
    """What a run's monitor has last written down, and how long ago that was.

    What has been kept for its time is deleted first: no server may be running that does.

    Args:
        run: folder of a run.
        registry: the file that says whether another run has taken its place: its alert is over a day later then.
        now: seconds since 1970; None for the clock's.

    Raises:
        StorageError: if there is no such run, or nothing has been watched yet.
    """
    folder = RunDir.open(run)
    kept, _ = read_kept(folder.monitor, ["status"])
    if "status" not in kept:
        raise StorageError(
            f"{folder.path} has not been watched yet.",
            hint="`selfaug serve` watches what it answers; for another server, docs/how-to/monitor.md has the lines.",
        )
    status: dict[str, Any] = kept["status"]
    now = time.time() if now is None else now
    with suppress(SelfAugError, OSError):  # who may only read sees it all the same
        delete_expired(folder.monitor, now=now)
    seconds = max(0.0, now - status["time"])
    status["state"] = standing_state(status["state"], seconds, run, registry)
    reports = sorted((folder.monitor / "alerts").glob("*/record.json"))
    return {
        **status,
        "seconds_ago": seconds,
        "watched": seconds <= UNWATCHED_AFTER,
        "report": str(reports[-1].parent) if reports else None,
    }


def is_alert(status: dict[str, Any]) -> bool:
    """Whether the state calls for someone to act."""
    return status["state"] in ALERTS


def acknowledge_alerts(run: str | os.PathLike[str], signal: str) -> tuple[list[str], bool]:
    """Say that someone has dealt with the alert of a signal: the monitor ends it, and looks anew.

    The process that watches the run does so within a minute; where none does, the next one that watches it.

    Args:
        run: folder of a run.
        signal: its name; "all" for all that alert.

    Returns:
        Names of the signals, and whether the run is being watched.

    Raises:
        StorageError: if nothing has been watched yet, or it can't be written.
        ConfigError: if no such signal alerts.
    """
    status = monitor_status(run)
    alerting = [one["name"] for one in status["signals"] if one["state"] in ALERTS]
    wanted = signal.strip().replace(" ", "_").replace("-", "_")
    chosen = alerting if wanted == "all" else [name for name in alerting if name == wanted]
    if not chosen:
        raise ConfigError(
            f"there is no alert of {'any signal' if wanted == 'all' else signal}: "
            f"{', '.join(alerting) or 'no signal'} alerts.",
            hint="name one that does. What the canary set has raised ends when it comes back as recorded.",
        )
    acknowledge(RunDir(run).monitor, chosen, time=time.time())
    return chosen, status["watched"]


def purge_monitor(run: str | os.PathLike[str], *, older_than_days: float = 0.0) -> int:
    """Delete what the monitor of a run has kept of requests: rows, texts, votes, the evidence of alerts, and the key of
    the hashes. Counts, states and reports stay.

    Args:
        run: folder of a run; it may be served meanwhile.
        older_than_days: what is younger stays.

    Returns:
        How many requests were deleted.

    Raises:
        StorageError: if there is nothing, or it can't be written.
        DataError: if evidence is damaged.
    """
    now = time.time()
    return delete_before(RunDir.open(run).monitor, now - older_than_days * 86_400, now=now)


def purge_expired_runs(registry: str | os.PathLike[str]) -> None:
    """Delete what the monitors of a registry's runs have kept for its time: where a run isn't served, nobody else does.

    Args:
        registry: the file.

    Raises:
        StorageError: if the registry can't be read. A run that can't be written is passed over.
    """
    for version in Registry(registry).versions():
        purge_expired(version.run)


def purge_expired(run: str | os.PathLike[str]) -> None:
    """Delete what a run's monitor has kept for its time. Where there is nothing, or it can't be written, it stays so.

    Args:
        run: folder of the run; it may be served meanwhile.
    """
    with suppress(SelfAugError, OSError):
        delete_expired(RunDir(run).monitor, now=time.time())


def export_texts(run: str | os.PathLike[str], file: str | os.PathLike[str]) -> int:
    """Write what a run was asked, as far as it was kept: rows whose answer is blank, for someone to review and answer.

    With the blank filled in, a row trains on the prompt that was served, as far as nothing of it was redacted.

    Args:
        run: folder of a run whose server kept texts; it may be served meanwhile.
        file: JSONL with `id`, `time` in seconds since 1970, `drift` in nats and `vote` (null where there is none), and
            the fields of a row, redacted: `messages`, `question` with `context`, or `prompt`; and the model's own
            answer as `model_answer`. A `text` alone is for reading: it was too long, or nothing was found for it. Not
            replaced. Only its owner can read it.

    Returns:
        How many there are.

    Raises:
        StorageError: if no text was kept, or the file is there already or can't be written.
    """
    folder = RunDir.open(run)
    with suppress(SelfAugError, OSError):
        delete_expired(folder.monitor, now=time.time())
    found = read_texts(folder.monitor)
    if not found:
        raise StorageError(
            f"{os.fspath(run)} has kept no text of its requests.",
            hint="texts are kept by `selfaug serve --keep-texts` only, and for --keep-days.",
        )
    if Path(file).exists():
        raise StorageError(f"{os.fspath(file)} is there already.", hint="name another file.")
    write_lines(Path(file), map(_row_to_answer, found), private=True)
    return len(found)


def _row_to_answer(kept: dict[str, Any]) -> dict[str, Any]:
    """A text as a row with a blank answer: until that is filled in, no training takes it."""
    row = {"id": kept["request_id"], **{name: one for name, one in kept.items() if name != "request_id"}}
    if "messages" in row:
        # Without this turn an earlier one would be the answer that is trained.
        return {**row, "messages": [*row["messages"], {"role": "assistant", "content": ""}]}
    if "question" in row:
        return {**row, "answer": ""}
    return {**row, "completion": ""} if "prompt" in row else row


def write_rules(folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
    """Write alert rules for Prometheus and a dashboard for Grafana.

    Args:
        folder: made if it does not exist.
        overwrite: replace files that are there.

    Returns:
        The files.

    Raises:
        StorageError: if a file is there already, or can't be written.
    """
    place = Path(folder)
    targets = [place / name for name in RULE_FILES]
    for target in targets:
        if target.exists() and not overwrite:
            raise StorageError(
                f"{target} is there already.", hint="choose another folder, or use --overwrite."
            )
    with writing_into(place, hint="choose another folder."):
        place.mkdir(parents=True, exist_ok=True)
    for name, target in zip(RULE_FILES, targets, strict=True):
        write_text(target, (files("selfaug.monitoring") / name).read_text(encoding="utf-8"))
    return targets
