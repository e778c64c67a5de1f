"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "gpu_extract"
BUCKETS_SECONDS = (1, 5, 15, 60, 300, 1800, 7200, 43200)


class Meters:
    """Counters of one service. No label names a job or a client: their number has no bound."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.frames = self._counter("frames", "Frames that were cut.")
        self.faces = self._counter("faces", "Faces that were written.")
        self._shards = self._counter("shards_ended", "Processes, by how they ended.", "kind", "outcome")
        self.streams = Gauge(f"{PREFIX}_sse_clients", "Event streams that are open.", registry=self._registry)
        self._seconds = Histogram(
            f"{PREFIX}_shard_seconds", "What processes took.", buckets=BUCKETS_SECONDS, registry=self._registry
        )
        self._gauges: dict[str, Gauge] = {}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self._registry)

    def shard_ended(self, kind: str, outcome: str, seconds: float) -> None:
        self._shards.labels(kind, outcome).inc()
        self._seconds.observe(seconds)

    def set(self, name: str, text: str, label: str | None, values: Iterable[tuple[str, float]]) -> None:
        """What is so at the moment: one value, or one for each value of a label."""
        labels = [] if label is None else [label]
        gauge = self._gauges.get(name) or Gauge(f"{PREFIX}_{name}", text, labels, registry=self._registry)
        self._gauges[name] = gauge
        for of, value in values:
            (gauge.labels(of) if label is not None else gauge).set(value)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
