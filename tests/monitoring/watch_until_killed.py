"""Offers requests without end, and says on stdout how many rows each commit has brought the store to."""

from __future__ import annotations

import sys
from itertools import count

from simulated import Prompts, score, window

from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.store import Batch


def main(folder: str, name: str) -> None:
    settings = MonitorSettings(
        sample=0.5, compute_share=1.0, scored_per_hour=1e7, taken_per_hour=1e7, queue_size=300
    )
    monitor = Monitor(folder, window(50), score, settings=settings)
    committed = monitor._store.counts().get("processed", 0)
    commit = monitor._store.commit

    def reported(batch: Batch) -> int:
        nonlocal committed
        first = commit(batch)
        committed += batch.counts.get("processed", 0)
        if committed:  # the first commit may come before the first request
            sys.stdout.write(f"{committed}\n")
            sys.stdout.flush()
        return first

    monitor._store.commit = reported  # type: ignore[method-assign]
    prompts = [Prompts().draw() for _ in range(100)]
    for number in count():
        monitor.offer(Observation(f"{name}-{number}", prompts[number % 100], 5))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
