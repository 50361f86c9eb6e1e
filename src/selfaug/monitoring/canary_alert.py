"""The alert of a canary set that does not come back, for a run that no monitor watches.

A monitor compares traffic with the reference window, and that is not measured with models that are not what was
trained. So a server that begins with such models has no monitor; what it has to say is as urgent all the same.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from filelock import Timeout

from selfaug.core.alert_state import STATES, State
from selfaug.errors import StorageError
from selfaug.file_lock import FileLock
from selfaug.monitoring import metric_names
from selfaug.monitoring.evidence import Alert, write_alert
from selfaug.monitoring.metric_names import Sample
from selfaug.monitoring.monitor import PROCESSED, MonitorSettings
from selfaug.monitoring.signals import StateChange
from selfaug.monitoring.store import FILE, Batch, Store, read_kept
from selfaug.monitoring.webhook import Webhook

__all__ = ["CanaryAlert"]

_NO_COUNTS = dict.fromkeys(("offered", "dropped", *PROCESSED), 0)
"""As `Monitor.counts`."""


class CanaryAlert:
    """Writes down, where a monitor would, that the canary set did not come back, and tells the webhook.

    Args:
        folder: of the run's monitor; made if it does not exist.
        run: name of the run, for reports.
        adapter: which weights are served.
        settings: of the monitor that there will be: for how long it keeps what an earlier one has kept.
        webhook: URL that is told of changes of state.
        tell: called with what the user should know about the webhook, as that of `Webhook`.
        clock: seconds since 1970.

    Raises:
        StorageError: if what an earlier server has written there can't be read.
        ConfigError: if the webhook is no address.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        run: str,
        adapter: str,
        settings: MonitorSettings | None = None,
        webhook: str | None = None,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._run, self._adapter, self._clock = Path(folder), run, adapter, clock
        self._settings = settings or MonitorSettings()
        self._state: State = "drift" if _is_alert(self._folder) else "no_data"
        self._written: float | None = None  # when the status was
        self._writing = threading.Lock()
        self._webhook = (
            None if webhook is None else Webhook(webhook, tell=tell, on_failure=self._keep_failure)
        )

    def tell(self, problems: Sequence[str]) -> None:
        """Say what a replay has found.

        Args:
            problems: what was not as recorded; if there are none, the alert ends, if there is one.

        Raises:
            StorageError: if it can't be written down; the webhook is told all the same.
        """
        before, self._state = self._state, "drift" if problems else "no_data"
        if before == self._state == "no_data":
            return
        change = StateChange(self._clock(), "monitor", before, self._state, None, None)
        report: Path | None = None
        try:
            report = self._write(change, problems)
        finally:
            if self._webhook is not None and before != self._state:
                self._webhook.send(
                    {
                        "event": "selfaug.state_change",
                        "run": self._run,
                        "adapter": self._adapter,
                        "report": None if report is None else str(report),
                        **asdict(change),
                    }
                )

    def metrics(self) -> list[Sample]:
        """The state for Prometheus, while there is an alert, and the webhook's messages."""
        told = [] if self._webhook is None else self._webhook.metrics()
        if self._state == "no_data":
            return told
        return [
            *(
                Sample(metric_names.ALERT_STATE, {"state": name}, float(name == self._state))
                for name in STATES
            ),
            *told,
        ]

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits, for so many seconds at most."""
        if self._webhook is not None:
            self._webhook.close(timeout)

    def _write(self, change: StateChange, problems: Sequence[str]) -> Path | None:
        """The status, and at its beginning a report; its folder."""
        changed = change.before != change.after
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (
                self._writing,
                FileLock(self._folder / "monitor.lock").acquire(timeout=0),
                closing(Store(self._folder)) as store,
            ):
                store.commit(
                    Batch(
                        changes=[(change.time, self._adapter, *astuple(change)[1:])] if changed else [],
                        kept={"status": self._status(change, problems)},
                    )
                )
                self._written = change.time
            if changed and problems:
                why = "; ".join(problems)
                alert = Alert(change.time, self._run, self._adapter, change, [], _NO_COUNTS, [], None, why)
                return write_alert(self._folder / "alerts", alert)
        except Timeout as error:
            raise StorageError(
                f"another monitor is using {self._folder}.", hint="one server watches a run at a time."
            ) from error
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"can't write into {self._folder}: {error}",
                hint="free space, or change the folder's permissions.",
            ) from error
        return None

    def _keep_failure(self) -> None:
        """Write into the status that a message failed: it was sent when the status was there already.

        Where that can't be written, the next replay that fails does it.
        """
        assert self._webhook is not None
        with (
            suppress(Timeout, OSError, sqlite3.Error, StorageError),
            self._writing,
            FileLock(self._folder / "monitor.lock").acquire(timeout=0),
            closing(Store(self._folder)) as store,
        ):
            status = store.kept("status")
            if status is not None and status["time"] == self._written:  # else it is a monitor's by now
                store.commit(Batch(kept={"status": {**status, "webhook": self._webhook.status()}}))

    def _status(self, change: StateChange, problems: Sequence[str]) -> dict[str, Any]:
        """As `Monitor.status`, of a monitor that has seen nothing."""
        return {
            "time": change.time,
            "run": self._run,
            "adapter": self._adapter,
            "state": change.after,
            "signals": [],
            "canary": {"passed": not problems, "why": "; ".join(problems)},
            "counts": _NO_COUNTS,
            "coverage": 0.0,
            "reference": {"prompts": 0, "held out": 0, "training": 0},
            "settings": asdict(self._settings),
            "webhook": None if self._webhook is None else self._webhook.status(),
            "last_error": "",
        }


def _is_alert(folder: Path) -> bool:
    """Whether what was last written there is an alert of the canary set without a monitor."""
    if not (folder / FILE).is_file():
        return False
    status = read_kept(folder, ["status"])[0].get("status")
    return status is not None and not status["signals"] and status["canary"]["passed"] is False
