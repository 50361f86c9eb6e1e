"""What is written down when drift is found: what was seen, as it was then, and what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from selfaug.core.alert_state import ALERTS
from selfaug.core.printable import printable
from selfaug.monitoring.signals import SignalView, StateChange
from selfaug.records import write_lines, write_record, write_text, writing_into

__all__ = ["EVIDENCE_ROWS", "RECORD_KIND", "Alert", "write_alert"]

RECORD_KIND = "drift-report"
EVIDENCE_ROWS = 1000


@dataclass(frozen=True)
class Alert:
    """All that is known when drift is found.

    Attributes:
        time: in seconds since 1970.
        run: name of the run.
        adapter: which weights were watched.
        change: what raised it.
        signals: all of them.
        counts: of the monitor.
        rows: the last requests, without texts.
        realign: settings for training with new data, or None.
        canary: what of the canary set did not come back, or empty.
    """

    time: float
    run: str
    adapter: str
    change: StateChange
    signals: Sequence[SignalView]
    counts: Mapping[str, int]
    rows: Sequence[Mapping[str, Any]]
    realign: Mapping[str, Any] | None
    canary: str = ""


def write_alert(folder: Path, alert: Alert) -> Path:
    """Write evidence.jsonl, report.md, realign.yaml and, last, record.json into a new folder named by the time.

    Where nothing but the canary set alerts there is no realign.yaml: traffic is not what has changed, and the model
    that answers is not the one that training would go on from.

    Args:
        folder: where alerts are kept.
        alert: what is known.

    Returns:
        The new folder.

    Raises:
        StorageError: if it can't be written; nothing is left behind then.
    """
    if _is_of_canary_alone(alert):
        alert = replace(alert, realign=None)
    at = datetime.fromtimestamp(alert.time, UTC)
    place = folder / at.strftime("%Y-%m-%dT%H-%M-%SZ")
    with writing_into(folder, hint="free space, or change the folder's permissions."):
        number = 1
        while place.exists():
            number += 1
            place = folder / f"{at.strftime('%Y-%m-%dT%H-%M-%SZ')}-{number}"
        place.mkdir(parents=True)
    try:
        _write_files(place, alert, at)
    except BaseException:  # as on a full disk: half a report would be none, and it is tried again
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def _write_files(place: Path, alert: Alert, at: datetime) -> None:
    write_lines(place / "evidence.jsonl", alert.rows, private=True)
    if alert.realign is not None:
        write_text(place / "realign.yaml", _realign(alert.realign))
    write_text(place / "report.md", _report(alert, at))
    record = asdict(alert)
    record["rows"] = len(alert.rows)
    write_record(place / "record.json", RECORD_KIND, record)


def _realign(settings: Mapping[str, Any]) -> str:
    head = (
        "# selfaug realign --config THIS-FILE\n"
        "#\n"
        "# Training goes on from this run's adapter, with the original base model as the reference. The result is\n"
        "# held against the run on its old validation rows, new rows that are set apart, and general requests.\n"
        "# Put the new rows into the file under data, or name another one.\n"
    )
    return head + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def _alerting(alert: Alert) -> list[str]:
    return [signal.name for signal in alert.signals if signal.state in ALERTS]


def _is_of_canary_alone(alert: Alert) -> bool:
    return bool(alert.canary) and not _alerting(alert)


_OF_TRAFFIC = (
    "Drift of prompts, novelty and prompt length say that what comes in is not what the model was trained on. "
    "They do not say that answers have become worse: look at the feedback and at the canary set, and at a sample "
    "of the requests."
)
_OF_CANARY = (
    "No signal of live traffic alerts. The model that answers does not do what the trained one did, or could not be "
    "asked: look at the adapter, the base model, the chat template and the number format that are served."
)


def _report(alert: Alert, at: datetime) -> str:
    of_canary = _is_of_canary_alone(alert)
    names = ", ".join(_alerting(alert)) or alert.change.signal
    found = "the canary set did not come back" if of_canary else f"drift in {names}"
    lines = [
        f"# Drift report of {printable(alert.run)}",
        "",
        f"{at:%Y-%m-%d %H:%M:%S} UTC: {found}. Adapter {printable(alert.adapter)}.",
        *(["", f"The canary set did not come back: {printable(alert.canary)}."] if alert.canary else []),
        "",
        "| signal | value | reference | statistic | threshold | state |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for signal in alert.signals:
        numbers = [signal.value, signal.reference, signal.statistic, signal.threshold]
        shown = " | ".join("–" if number is None else f"{number:.4g}" for number in numbers)
        lines.append(f"| {signal.name} | {shown} | {signal.state} |")
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(alert.counts.items()))
    lines += [
        "",
        f"Requests and votes: {counts}.",
        "",
        _OF_CANARY if of_canary else _OF_TRAFFIC,
        "",
        f"`evidence.jsonl` holds the last {len(alert.rows):,} measured requests as numbers and keyed hashes."
        + (
            ""
            if alert.realign is None
            else " If the new traffic is here to stay, `realign.yaml` trains with new data."
        ),
    ]
    return "\n".join(lines) + "\n"
