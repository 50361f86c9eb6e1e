"""The report of a training run, finished or not: what it learned and forgot, its curves, and where it comes from."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from selfaug.core.gate import named_loss, named_old_sources
from selfaug.core.printable import counted, printable_size
from selfaug.records import read_lines, read_record
from selfaug.report.charts import lines_svg
from selfaug.report.document import Block, Cell, Chart, Outcome, Report, Section, Summary, Table, Text, Tile
from selfaug.report.evaluation_report import (
    bound_block,
    cut_off_blocks,
    evaluation_outcome,
    evaluation_provenance,
    evaluation_sections,
    evaluation_tiles,
    evaluation_verdict,
    suites_block,
)
from selfaug.report.provenance import files_provenance, machine_in_words
from selfaug.rundir import RunDir
from selfaug.wording.numbers import duration, percent, points, span

__all__ = ["curve_rows", "logged", "run_curves", "run_report", "run_summary", "run_verdict", "steps_done"]

# Of a curve's data table, so many steps are given; the record beside has them all.
_TABLE_ROWS = 25

# Of a file of metrics, so much is read whole; of a longer one so many lines, evenly spread, and all of those that are
# rare: drift and loss on held-out rows, of which each is a point of its curve.
_MOST_BYTES_OF_METRICS = 2_000_000
_LINES_OF_A_LONG_RUN = 1_000
_RARE = (b'"general_drift"', b'"eval_')
_TAIL_BYTES = 20_000

_REALIGNED: dict[str, tuple[Outcome, str]] = {
    "pass": ("good", "this one stays within all bounds"),
    "fail": ("bad", "this one is outside of a bound"),
    # Too few items, or nothing that the deployed run could lose.
    "inconclusive": ("open", "what was asked doesn't say whether this one stays within all bounds"),
}

# The best first.
_OUTCOMES: tuple[Outcome, ...] = ("good", "open", "mixed", "bad")


def run_report(run: RunDir) -> Report:
    """All that a run's folder holds.

    Args:
        run: its folder; without a record it is shown as far as it has come.
    """
    record = read_record(run.record, "train") if run.is_complete() else None
    evaluation = read_record(run.evaluation, "evaluation") if run.evaluation.exists() else None
    sections: list[Section] = []
    if evaluation is not None:
        sections += evaluation_sections(
            evaluation, run.samples / "evaluation", samples_folder="samples/evaluation"
        )
    realignment = _realignment_of(run)
    if realignment is not None:
        sections.append(_realignment(realignment))
    sections.append(_training(run, record))
    return Report(
        **vars(_summary(run, record, evaluation, realignment)),
        sections=sections,
        provenance=[
            *_provenance(run, record),
            *([] if evaluation is None else evaluation_provenance(evaluation)),
        ],
        made_by="selfaug train" if evaluation is None else "selfaug train and selfaug evaluate",
    )


def run_summary(run: RunDir) -> Summary:
    """What is said first of a run."""
    record = read_record(run.record, "train") if run.is_complete() else None
    evaluation = read_record(run.evaluation, "evaluation") if run.evaluation.exists() else None
    return _summary(run, record, evaluation, _realignment_of(run))


def _realignment_of(run: RunDir) -> dict[str, Any] | None:
    return read_record(run.realignment, "realignment") if run.realignment.exists() else None


def _summary(
    run: RunDir,
    record: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    realignment: Mapping[str, Any] | None,
) -> Summary:
    steps = 0 if record or evaluation else steps_done(run)
    outcome, verdict = run_verdict(record, evaluation, steps, realignment)
    return Summary(
        kind="train",
        name=f"Run {run.path.absolute().name}",
        outcome=outcome,
        verdict=verdict,
        tiles=[*([] if evaluation is None else evaluation_tiles(evaluation)), *_cost(record)],
    )


def run_verdict(
    record: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    steps_done: int,
    realignment: Mapping[str, Any] | None = None,
) -> tuple[Outcome, str]:
    """What is said of a run; without an evaluation or a re-alignment, that nothing is known.

    A re-alignment that did not pass its gate is told beside the evaluation, which can't make up for it.

    Args:
        record: of the finished training; None before.
        evaluation: of the run.
        steps_done: steps that were logged.
        realignment: what it was compared with, if it goes on from a deployed run.
    """
    realigned = None if realignment is None else _realigned(realignment)
    if evaluation is not None:
        outcome, verdict = evaluation_outcome(evaluation), evaluation_verdict(evaluation)
        if realigned is None or realigned[0] == "good":
            return outcome, verdict
        return max(outcome, realigned[0], key=_OUTCOMES.index), f"{verdict} {realigned[1]}"
    if realigned is not None:
        return realigned
    if record is None:
        return "open", f"This run is not finished: {counted(steps_done, 'step is', 'steps are')} done."
    return "open", (
        f"Trained for {counted(record['steps'], 'step')}, and not evaluated yet: what it learned and what it forgot "
        "isn't known."
    )


def _realigned(realignment: Mapping[str, Any]) -> tuple[Outcome, str]:
    """One sentence on a run against the deployed one that it goes on from."""
    gate = realignment["gate"]
    stays = _REALIGNED[gate["of_bounds"]][1]
    if unmeasured := gate["unmeasured"]:
        stays += f" (not measured, for want of held-out rows: {', '.join(unmeasured)})"
    sources = named_old_sources(realignment.get("old_sources", {}))
    # Of sources, only those that fail are among the bounds.
    lost = {
        name: one
        for name, one in sources.items()
        if any(bound["name"] == named_loss(name) for bound in gate["bounds"])
    }
    changes = ", ".join(
        f"{name} {points(change['value'])} ({span(change)})"
        for name, suite in (realignment["suites"] | lost).items()
        for change in (suite["difference"]["difference"],)
    )
    told = f"Against the deployed run {realignment['deployed']}, {stays}: {changes}."
    return _REALIGNED[gate["outcome"]][0], told


def run_curves(run: RunDir) -> list[Chart]:
    """nll, alignment loss, alpha and drift over the steps, as far as they were logged."""
    rows = logged(run)
    limit = None if not run.config.exists() else _settings(run).get("selfaug", {}).get("drift_limit")
    charts = []
    for key, name, unit, about, marks in (
        (
            "nll",
            "Learning the job (nll)",
            "nats per completion token",
            "Loss on the answers of the rows.",
            False,
        ),
        (
            "alignment_loss",
            "Alignment loss",
            "nats per prompt token",
            "Distance from the base model on the prompts of the rows: what SelfAug holds down."
            + ("" if limit is None else " The dashed line is the drift limit."),
            False,
        ),
        ("alpha", "Alpha", "weight of the alignment loss", "Weight of the alignment loss.", False),
        (
            "general_drift",
            "Drift on general prompts",
            "nats per token",
            "How far the model has moved from the base model, at each checkpoint.",
            True,
        ),
        (
            "eval_nll",
            "nll on held-out rows",
            "nats per completion token",
            "On rows that it is not trained on.",
            True,
        ),
    ):
        values = [{"step": row["step"], "value": row[key]} for row in rows if row.get(key) is not None]
        if len(values) < 2 or (
            key in ("alpha", "alignment_loss") and len({one["value"] for one in values}) == 1
        ):
            continue  # a point is no curve, and what is held constant needs none
        svg = lines_svg(values, unit, marks=marks, limit=limit if key == "alignment_loss" else None)
        charts.append(Chart(name, about, svg, ["step", unit], curve_rows(values)))
    return charts


def curve_rows(values: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A curve's data table: steps and values evenly spread over it, and the last one.

    Args:
        values: each a `step` with its `value`; at least one.
    """
    every = -(-len(values) // _TABLE_ROWS)
    kept = list(values[::every])
    if kept[-1] != values[-1]:
        kept.append(values[-1])
    return [[str(one["step"]), f"{one['value']:.4f}"] for one in kept]


def steps_done(run: RunDir) -> int:
    """The last step that was logged; 0 before the first."""
    last = _last_line(run.metrics)
    return int(last["step"]) if last else 0


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file that may be written at this moment."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "step" in found:
                return found
    return None


def logged(run: RunDir) -> list[dict[str, Any]]:
    """Lines of metrics: all of them, or of a long run lines from all over it, and all with drift or a held-out loss."""
    if not run.metrics.exists():
        return []
    size = run.metrics.stat().st_size
    if size <= _MOST_BYTES_OF_METRICS:
        return read_lines(run.metrics)
    found: list[dict[str, Any]] = []
    at, due = 0, 0.0
    with run.metrics.open("rb") as file:
        for line in file:
            spread = at >= due
            if spread or any(mark in line for mark in _RARE):
                with contextlib.suppress(ValueError):  # the last can be written at this moment
                    found.append(json.loads(line))
            at += len(line)
            due += size / _LINES_OF_A_LONG_RUN if spread else 0
    last = _last_line(run.metrics)
    return found if last is None or found[-1:] == [last] else [*found, last]


def _settings(run: RunDir) -> dict[str, Any]:
    loaded = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def _cost(record: Mapping[str, Any] | None) -> list[Tile]:
    if record is None:
        return []
    memory = record["peak_memory_bytes"]
    notes = [] if memory is None else [f"memory at its peak: {printable_size(memory)}"]
    if record["reference_cache_bytes"]:
        notes.append(f"reference cache: {printable_size(record['reference_cache_bytes'])}")
    if record["anchor_seconds"]:
        notes.append(f"writing anchors: {duration(record['anchor_seconds'])} of it")
    return [Tile("Cost", duration(record["seconds"]), notes)]


def _training(run: RunDir, record: Mapping[str, Any] | None) -> Section:
    blocks: list[Block] = []
    if record is not None:
        final = record["final"]
        told = [
            f"{name.replace('_', ' ')} {final[name]:.4f}"
            for name in ("nll", "alignment_loss", "alpha")
            if final[name] is not None
        ]
        if told:
            blocks.append(Text(f"Over the last quarter of the steps: {', '.join(told)}."))
        if dial := record.get("dial"):
            blocks.append(
                Text(
                    f"Chosen by a balance: the run {dial['run']} with its adapter at {dial['scale']:g} of its change. "
                    "What is said of the training is of the adapter as it was trained, at 1."
                )
            )
        if record["noise_floor"] is not None:
            blocks.append(
                Text(
                    f"Numeric noise floor: an alignment loss of {record['noise_floor']:.1e} at step 0, where both "
                    "models are equal."
                )
            )
        if best := record.get("best"):
            blocks.append(_checkpoints(best))
    blocks += run_curves(run)
    return Section("Training", "", blocks)


def _checkpoints(best: Mapping[str, Any]) -> Block:
    """The job's score at each checkpoint, of which the best was taken."""
    title = f"Score of the checkpoints on {best['rows']} rows ({best['scorer']})"
    about = f"The weights are those of step {best['step']}."
    if not best["within"]:
        about = (
            "No checkpoint was within selfaug.stop_at_drift; the weights are the last one's, of step "
            f"{best['step']}."
        )
    if len(best["scores"]) < 2:  # a point is no curve
        rows = [[Cell(step), Cell(percent(score))] for step, score in best["scores"].items()]
        return Table(title, ["step", "score"], rows, about)
    values = [{"step": int(step), "value": 100 * score} for step, score in best["scores"].items()]
    svg = lines_svg(values, "score of the job (%)", marks=True)
    return Chart(
        title,
        about,
        svg,
        ["step", "score (%)"],
        [[str(one["step"]), f"{one['value']:.1f}"] for one in values],
    )


def _realignment(record: Mapping[str, Any]) -> Section:
    gate = record["gate"]
    sources = named_old_sources(record.get("old_sources", {}))
    return Section(
        f"Re-alignment: {gate['outcome']}",
        f"This run goes on from {record['deployed']}; both were asked the same."
        + (f" Judged: {record['judged']}." if record["judged"] else ""),
        [
            suites_block(
                record["suites"] | sources,
                "its scorer",
                base="deployed run",
                tuned="this run",
                title="Against the deployed run",
            ),
            *cut_off_blocks(record["suites"], base="deployed run", tuned="this run"),
            *(bound_block(one, before="deployed model") for one in gate["bounds"]),
        ],
    )


def _provenance(run: RunDir, record: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    settings = _settings(run) if run.config.exists() else {}
    model, data = settings.get("model", {}), settings.get("data", {})
    found = [
        ("folder", str(run.path)),
        ("model", str(model.get("name", "not known"))),
        ("rows", ", ".join(map(str, data.get("train") or [data.get("prepared") or "not known"]))),
    ]
    if record is None:
        return found
    processes = record["environment"]["processes"]
    return [
        *found,
        *files_provenance(record["data"]),
        ("seed", str(settings.get("train", {}).get("seed", "not known"))),
        ("base weights", f"hash {record['model']['weights_hash'][:16]}…"),
        ("settings", f"SHA-256 {record['settings_sha256'][:16]}…, whole in config.yaml"),
        *(("weights", f"{one['file']}: SHA-256 {one['sha256'][:16]}…") for one in record["weights"]),
        (
            "trained on",
            machine_in_words(
                record["environment"], f"{processes} {'process' if processes == 1 else 'processes'}"
            ),
        ),
        ("licences and limits", "see README.md, the model card, beside the weights"),
    ]
