"""What the server counts and times, for Prometheus, by the names of OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from selfaug.core import metric_names
from selfaug.core.metric_names import HISTOGRAMS, METRICS, Sample

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
        watched: Callable[[], Sequence[Sample]] = lambda: (),
    ) -> None:
        self.registry = CollectorRegistry()
        labels = ["gen_ai_request_model", "gen_ai_operation_name"]
        # Empty where a request was answered, which for Prometheus is no label at all.
        ended = [*labels, "error_type"]
        self.duration = self._histogram(metric_names.REQUEST_DURATION, ended)
        self.first_token = self._histogram(metric_names.TIME_TO_FIRST_TOKEN, ended)
        self.output_token = self._histogram(metric_names.TIME_PER_OUTPUT_TOKEN, labels)
        self.tokens = self._histogram(metric_names.TOKEN_USAGE, [*labels, "gen_ai_token_type"], _TOKENS)
        requests = metric_names.REQUESTS
        self.requests = Counter(requests, METRICS[requests], ["path", "status"], registry=self.registry)
        for name, value in (
            (metric_names.WAITING, waiting),
            (metric_names.RUNNING, running),
            (metric_names.READY, ready),
            (metric_names.FOLLOWS, follows),
        ):
            Gauge(name, METRICS[name], registry=self.registry).set_function(_number(value))
        self.registry.register(_Watched(watched))

    def _histogram(self, name: str, labels: list[str], buckets: tuple[float, ...] = _DURATIONS) -> Histogram:
        return Histogram(name, METRICS[name], labels, buckets=buckets, registry=self.registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Watched(Collector):
    """Metrics that are made when they are asked for."""

    def __init__(self, samples: Callable[[], Sequence[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for sample in self._samples():
            name = next((one for one in HISTOGRAMS if sample.name.startswith(f"{one}_")), sample.name)
            if name not in found:
                is_count = name.endswith("_total")
                kind = "histogram" if name in HISTOGRAMS else "counter" if is_count else "gauge"
                found[name] = Metric(name.removesuffix("_total"), METRICS[name], kind)
            found[name].add_sample(*sample)
        yield from found.values()


def _number(value: Callable[[], int | bool]) -> Callable[[], float]:
    return lambda: float(value())
