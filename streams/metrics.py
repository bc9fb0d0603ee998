"""Every metric of a role, declared once: name, unit and meaning. A test compares them with ``docs/metrics.md``.

Base units; counters end with ``_total``, durations with ``_seconds``. What is known only when it is asked for (lag, the
workers' memory) is sampled at each scrape (`sample`). This module knows nothing of HTTP; `streams.probes` serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)  # process_*: memory, processor time and files of the role's own process

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"earlybell_{name}", meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(f"earlybell_{name}", meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(f"earlybell_{name}", meaning, registry=REGISTRY, buckets=(*buckets, float("inf")))


STORIES = _counter("stories_total", "Messages of the news topics that were fetched for scoring.")
SIGNALS = _counter("signals_total", "Signals that the broker has acknowledged.")
DEAD_LETTERS = _counter("dead_letters_total", "Dead letters that were sent, by the stage that failed.", "stage")
DEFERRED = _counter("deferred_total", "Expired news that was moved to the backfill topic.")
ROWS = _counter("rows_total", "Rows submitted to a table: new, known already, or refused.", "table", "outcome")
RETRIES = _counter("retries_total", "Attempts at a window's work or settlement that failed.", "step", "cause")
COMMIT_FAILURES = _counter("commit_failures_total", "Commits that the broker refused or did not answer.")
PARTITIONS_REOPENED = _counter(
    "partitions_reopened_total", "Times that the broker did not have a position, by the reason.", "reason"
)
BROKER_CONNECTIONS_LOST = _counter(
    "broker_connections_lost_total", "Connections to brokers that broke or were given up; they are opened again."
)
DATABASE_CONNECTIONS_LOST = _counter(
    "database_connections_lost_total", "Connections to the database that were found broken; they are opened again."
)
LOOP_STALLED = _counter("event_loop_stalled_seconds_total", "How long the event loop has not turned when it should.")
EXITS = _counter("exits_total", "Texts by the depth that answered.", "depth")
PREDICTED_DEPTH = _counter("predicted_depth_total", "Sum of the predicted exit depths of texts.")
ACTUAL_DEPTH = _counter("actual_depth_total", "Sum of the exit depths of the texts whose depth was predicted.")
WINDOW_TEXTS = _histogram("window_texts", "Texts of a window.", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024))
WINDOW_TOKENS = _histogram(
    "window_tokens", "Tokens that the model read in a window.", (16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536)
)
QUEUE_SECONDS = _histogram("queue_seconds", "What a window spent in the pool apart from inference.", _SECONDS)
INFERENCE_SECONDS = _histogram("inference_seconds", "Inference of a window.", _SECONDS)
PUBLISH_SECONDS = _histogram("publish_seconds", "Until the broker had acknowledged a window's messages.", _SECONDS)
STORE_SECONDS = _histogram("store_seconds", "A transaction in Postgres.", _SECONDS)
BROKER_PROBE_SECONDS = _histogram("broker_probe_seconds", "Until a broker answered a probe, or did not.", _SECONDS)
DATABASE_PROBE_SECONDS = _histogram(
    "database_probe_seconds", "Until the database answered a probe, or did not.", _SECONDS
)
BROKER_REACHABLE = _gauge("broker_reachable", "1 if a broker answered the latest probe.")
DATABASE_REACHABLE = _gauge("database_reachable", "1 if the database answered the latest probe, and takes writes.")
DIAL = _gauge("adaptive_dial", "Where the adaptive dial stands.")
MODEL = _gauge(
    "model_info",
    "1; the labels say which model answers, and how.",
    *("model", "revision", "policy", "precision", "arithmetic", "processor"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A metric that is computed at each scrape: its values by their labels' values."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()

    def family(self, values: Mapping[tuple[str, ...], float]) -> Metric:
        """Return the metric with these values."""
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(f"earlybell_{self.name}", self.meaning, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


_PARTITION, _WORKER = ("topic", "partition"), ("worker",)
LAG = Sample("lag_messages", "Messages of a partition that are not safe yet, fetched or not.", _PARTITION)
OLDEST_MESSAGE = Sample(
    "oldest_unacknowledged_seconds",
    "Age, since the broker took it in, of the oldest message of a partition that is in work.",
    _PARTITION,
)
OLDEST_WINDOW = Sample("oldest_window_seconds", "How long the oldest window has been in work; 0 if there is none.")
LOOP_AGE = Sample("event_loop_age_seconds", "How long ago the event loop last turned.")
WORKERS = Sample("workers", "Worker processes that are ready for windows.")
WORKER_RESTARTS = Sample("worker_restarts_total", "Worker processes that died and were replaced.")
WORKER_CPU = Sample("worker_cpu_seconds_total", "Processor time of a worker process.", _WORKER)
WORKER_MEMORY = Sample("worker_resident_memory_bytes", "Resident memory of a worker process.", _WORKER)
SAMPLES = (LAG, OLDEST_MESSAGE, OLDEST_WINDOW, LOOP_AGE, WORKERS, WORKER_RESTARTS, WORKER_CPU, WORKER_MEMORY)

Sampled = Mapping[Sample, Mapping[tuple[str, ...], float]]


class Sampler(Collector):
    """Computes the samples at each scrape."""

    def __init__(self) -> None:
        self.compute: Callable[[], Sampled] = dict

    def collect(self) -> Iterator[Metric]:
        """Return the samples."""
        values = self.compute()
        for sample in SAMPLES:
            yield sample.family(values.get(sample, {}))


SAMPLER = Sampler()
REGISTRY.register(SAMPLER)


def names() -> dict[str, str]:
    """Return the type of every metric of Earlybell's own, by the name that Prometheus knows it by."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in REGISTRY.collect()
        if family.name.startswith("earlybell_")
    }
