"""False alarms of the monitor over simulated months, and how soon it finds a change.

    python -m benchmarks.monitoring --threads 2 --output benchmarks/results/monitoring.md

Each month has its own reference window, three days to learn from and thirty days that are watched, with all eight
signals as the monitor has them. Kinds of traffic:

- log-normal: independent values, drift log-normal with sigma 0.8; found is a rise of drift by half.
- seasonal: the same, with drift and rates that go up and down with the time of day, and topics that last for 20
  prompts.
- measured: drift, novelty and length of real prompts under the demo's tuned model (`benchmarks.prompt_drift`, or
  another run's with --prompts), in blocks; a half of them is the reference window, the other half the traffic. Found
  is the change of half of the traffic to general requests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import machine, publish, table
from selfaug.core.alert_state import ALERTS
from selfaug.core.statistics import wilson_interval
from selfaug.monitoring.novelty import NoveltySketch
from selfaug.monitoring.reference_window import ReferenceWindow
from selfaug.monitoring.signals import LEARNING_DAYS, SignalName, Signals

Floats = NDArray[np.float64]

_HOUR, _DAY = 3600.0, 86_400.0
_CHUNK_HOURS = 6
_WATCHED_DAYS = 30
_LONGEST_WAIT = 2000
_BLOCK = 20
PROMPTS = Path(__file__).parent / "results" / "prompt_drift.json"


@dataclass
class Prompts:
    """Drift in nats per prompt token, novelty and length of some prompts: [N] each."""

    drift: Floats
    novelty: Floats
    lengths: Floats

    def window(self) -> ReferenceWindow:
        return ReferenceWindow(
            self.lengths.astype(np.int64), self.drift, self.novelty, {}, "simulated", NoveltySketch.of([])
        )

    def take(self, places: NDArray[np.int64]) -> Prompts:
        return Prompts(self.drift[places], self.novelty[places], self.lengths[places])


Draw = Callable[[Floats, bool], Prompts]
"""Prompts that come at these times, before or after the change."""


def lognormal(rng: np.random.Generator, seasonal: bool) -> tuple[ReferenceWindow, Draw]:
    """Simulated prompts; with seasons, ±0.2 deviations over the day and topics of ±0.2 that last for 20 prompts."""

    def drawn(count: int, shift: Floats | float = 0.0) -> Prompts:
        return Prompts(
            np.exp(rng.normal(-4, 0.8, count) + shift),
            rng.beta(2, 8, count),
            np.ceil(rng.lognormal(5, 0.5, count)),
        )

    def at(times: Floats, changed: bool) -> Prompts:
        shift: Floats | float = np.log(1.5) if changed else 0.0
        if seasonal:
            topics = np.repeat(rng.normal(0, 0.16, len(times) // 20 + 1), 20)[: len(times)]
            shift = shift + 0.16 * np.sin(2 * np.pi * times / _DAY) + topics
        return drawn(len(times), shift)

    return drawn(1000).window(), at


def measured(rng: np.random.Generator, file: Path) -> tuple[ReferenceWindow, Draw]:
    """Real prompts: a half of the trained domain is the reference, blocks of the other half are the traffic."""
    domains = {
        name: Prompts(*(np.asarray([row[column] for row in rows], float) for column in (1, 2, 0)))
        for name, rows in json.loads(file.read_text(encoding="utf-8"))["domains"].items()
    }
    trained, other = domains.values()
    order = rng.permutation(len(trained.drift))
    half = len(order) // 2

    def blocks(count: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        starts = rng.integers(0, len(places), size=-(-count // _BLOCK))
        return places[((starts[:, None] + np.arange(_BLOCK)) % len(places)).reshape(-1)[:count]]

    def at(times: Floats, changed: bool) -> Prompts:
        found = trained.take(blocks(len(times), order[half:]))
        if changed:
            swapped = rng.random(len(times)) < 0.5
            new = other.take(rng.integers(0, len(other.drift), size=int(swapped.sum())))
            for name in ("drift", "novelty", "lengths"):
                getattr(found, name)[swapped] = getattr(new, name)
        return found

    return trained.take(order[:half]).window(), at


def month(seed: int, kind: str, per_hour: int, file: Path) -> dict[str, Any]:
    """Which signals alarmed in a month without any change, and after how many scored prompts a change was found."""
    rng = np.random.default_rng([seed, 7])
    window, draw = measured(rng, file) if kind == "measured" else lognormal(rng, kind == "seasonal")
    seasonal = kind == "seasonal"
    signals = Signals(window, scored_per_hour=200, taken_per_hour=1200)
    alarmed: set[str] = set()

    def told(changes: list[Any]) -> set[str]:
        return {change.signal for change in changes if change.after in ALERTS}

    def some(begin: float, hours: float, rate: float) -> Floats:
        return np.sort(begin + rng.random(round(rate * hours)) * hours * _HOUR)

    def feed(begin: float, hours: float) -> set[str]:
        found: set[str] = set()
        times = some(begin, hours, 200)
        prompts = draw(times, False)
        found |= told(signals.update("drift", times, prompts.drift, prompts.lengths))
        times = some(begin, hours, per_hour)
        prompts = draw(times, False)
        level = 1 + 0.3 * np.sin(2 * np.pi * times / _DAY) if seasonal else np.ones(len(times))
        values: dict[SignalName, Floats] = {
            "novelty": prompts.novelty,
            "prompt_length": prompts.lengths,
            "completion_length": np.ceil(rng.lognormal(4, 0.6, len(times))),
            "refusals": rng.random(len(times)) < 0.02 * level,
            "format_violations": rng.random(len(times)) < 0.01 * level,
            "empty_retrieval": rng.random(len(times)) < 0.05 * level,
        }
        for name, of in values.items():
            found |= told(signals.update(name, times, np.asarray(of, float)))
        voted = times[::50]
        found |= told(signals.update("thumbs_down", voted, rng.random(len(voted)) < 0.1))
        return found

    now = 1e9
    while now < 1e9 + (LEARNING_DAYS + _WATCHED_DAYS) * _DAY:
        alarmed |= feed(now, _CHUNK_HOURS)
        now += _CHUNK_HOURS * _HOUR
    return {"alarmed": sorted(alarmed), "found": None if alarmed else _found(signals, draw, now)}


def _found(signals: Signals, draw: Draw, now: float) -> dict[str, Any]:
    """After how many prompts of changed traffic the first signal alarms; each one is scored."""
    times = now + 18.0 * np.arange(_LONGEST_WAIT)
    prompts = draw(times, True)
    for at in range(0, _LONGEST_WAIT, 5):
        part = slice(at, at + 5)
        changes = signals.update("drift", times[part], prompts.drift[part], prompts.lengths[part])
        changes += signals.update("novelty", times[part], prompts.novelty[part])
        changes += signals.update("prompt_length", times[part], prompts.lengths[part])
        if by := [change.signal for change in changes if change.after in ALERTS]:
            return {"prompts": at + 5, "by": by[0]}
    return {"prompts": None, "by": None}


def row(kind: str, months: list[dict[str, Any]]) -> dict[str, str]:
    """A line of the table."""
    alarms = [one for one in months if one["alarmed"]]
    share = wilson_interval(len(alarms), len(months))
    by = Counter(name for one in alarms for name in one["alarmed"])
    waits = [one["found"]["prompts"] or np.inf for one in months if one["found"]]
    finders = Counter(one["found"]["by"] for one in months if one["found"])
    return {
        "traffic": kind,
        "months": str(len(months)),
        "with a false alarm": f"{len(alarms)} ({share.value:.1%}; {share.low:.1%}–{share.high:.1%})",
        "of": ", ".join(f"{name} {count}" for name, count in by.most_common()) or "–",
        "prompts until found: median": f"{np.median(waits):.0f}" if waits else "–",
        "95 %": f"{np.quantile(waits, 0.95):.0f}" if waits else "–",
        "found by": ", ".join(f"{name} {count}" for name, count in finders.most_common() if name) or "–",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=["log-normal", "seasonal", "measured"])
    parser.add_argument("--months", type=int, default=200)
    parser.add_argument("--per-hour", type=int, default=200, help="requests that the other signals look at")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="from benchmarks.prompt_drift")
    parser.add_argument("--threads", type=int, default=1, help="processes, each with months of its own")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    results: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(arguments.threads, mp_context=get_context("spawn")) as pool:
        for kind in arguments.kinds:
            results[kind] = []
            of_kind = partial(month, kind=kind, per_hour=arguments.per_hour, file=arguments.prompts)
            for one in pool.map(of_kind, range(arguments.months)):
                results[kind].append(one)
                if (count := len(results[kind])) % 10 == 0:
                    alarms = sum(bool(one["alarmed"]) for one in results[kind])
                    print(f"{kind}: {count} months, {alarms} with a false alarm", file=sys.stderr, flush=True)
    text = (
        "All eight signals, 200 scored prompts and "
        f"{arguments.per_hour} requests an hour, three days to learn from and {_WATCHED_DAYS} days watched. The budget "
        "is 5 % of the months, over all signals together; in brackets the share with its 95 % interval. After a month "
        "without an alarm: log-normal and seasonal drift rises by half; measured, half of the traffic becomes general "
        "requests.\n\n" + table([row(kind, months) for kind, months in results.items()])
    )
    data = {
        "arguments": {
            **{key: str(value) for key, value in vars(arguments).items() if key != "output"},
            "prompts": arguments.prompts.name,
        },
        "results": results,
    }
    publish("monitoring", "False alarms of the monitor", text, data, arguments.output, where)


if __name__ == "__main__":
    main()
