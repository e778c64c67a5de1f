"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS_SECONDS = (1, 5, 15, 60, 300, 1800, 7200, 43200)


class Meters:
    """Counters of one service. No label names a job or a client: their number has no bound."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        made = {"namespace": "gpu_extract", "registry": self._registry}
        self.frames = Counter("frames", "Frames that were cut.", **made)
        self.faces = Counter("faces", "Faces that were written.", **made)
        self.upload_bytes = Counter("upload_bytes", "Bytes that were uploaded.", **made)
        self.streams = Gauge("sse_clients", "Event streams that are open.", **made)
        self._shards = Counter("shards_ended", "Processes, by how they ended.", ["kind", "outcome"], **made)
        self._seconds = Histogram("shard_seconds", "What processes took.", buckets=BUCKETS_SECONDS, **made)
        self._gauges: dict[str, Gauge] = {}

    def shard_ended(self, kind: str, outcome: str, seconds: float) -> None:
        self._shards.labels(kind, outcome).inc()
        self._seconds.observe(seconds)

    def set(self, name: str, text: str, label: str | None, values: Iterable[tuple[str, float]]) -> None:
        """What is so at the moment: one value, or one for each value of a label."""
        labels = [] if label is None else [label]
        gauge = self._gauges.get(name) or Gauge(name, text, labels, namespace="gpu_extract", registry=self._registry)
        self._gauges[name] = gauge
        for of, value in values:
            (gauge.labels(of) if label is not None else gauge).set(value)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
