"""What the server counts and times, for Prometheus, by the names of OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from selfaug.serving.watcher import Family

__all__ = ["Metrics"]

_DURATIONS = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68
)  # fmt: skip
"""Those of the conventions, and on to the longest that an answer may take if nobody says otherwise."""
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


class Metrics:
    """Metrics of one server, in a registry of their own.

    Args:
        waiting: requests that have not begun.
        running: requests that are being answered.
        ready: whether the server is ready.
        follows: whether what is served is the registry's champion, or no registry is followed.
        watched: metrics of whoever watches the traffic.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        running: Callable[[], int],
        ready: Callable[[], bool],
        follows: Callable[[], bool],
        watched: Callable[[], Sequence[Family]] = lambda: (),
    ) -> None:
        self.registry = CollectorRegistry()
        labels = ["gen_ai_request_model", "gen_ai_operation_name"]
        # Empty where a request was answered, which for Prometheus is no label at all.
        ended = [*labels, "error_type"]
        self.duration = self._histogram(
            "gen_ai_server_request_duration_seconds", "From a request to the end of its answer.", ended
        )
        self.first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "From a request to its first token.", ended
        )
        self.output_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds", "Of the tokens after the first.", labels
        )
        self.tokens = self._histogram(
            "gen_ai_client_token_usage", "Tokens of a request.", [*labels, "gen_ai_token_type"], _TOKENS
        )
        self.requests = Counter(
            "selfaug_requests",
            "Requests answered, by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        for name, text, value in (
            ("selfaug_requests_waiting", "Requests that have not begun.", waiting),
            ("selfaug_requests_running", "Requests that are being answered.", running),
            ("selfaug_ready", "1 if the server answers as the record says it should.", ready),
            (
                "selfaug_follows_champion",
                "0 while the registry's champion can't be served, else 1.",
                follows,
            ),
        ):
            Gauge(name, text, registry=self.registry).set_function(_number(value))
        self.registry.register(_Watched(watched))

    def _histogram(
        self, name: str, text: str, labels: list[str], buckets: tuple[float, ...] = _DURATIONS
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Watched(Collector):
    """Metrics that are made when they are asked for."""

    def __init__(self, families: Callable[[], Sequence[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


def _number(value: Callable[[], int | bool]) -> Callable[[], float]:
    return lambda: float(value())
