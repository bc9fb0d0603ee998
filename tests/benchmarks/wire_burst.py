"""The busiest of three days of a news wire at 1,000 times its speed, with the adaptive dial and without.

Kafka, Postgres and both roles are real. The wire's times are minutes, so all stories of a minute come at once: up to
319 in 60 ms. Latency is from publish to signal by the broker's clock. The objective is half of p99 without the dial, in
a first run that also warms up the broker: a constant would be out of reach on one processor, and never at stake on
another. What the dial costs is counted in two ways: by the calibrated curve, and as the share of stories whose label
differs from that at the default dial.
"""

from __future__ import annotations

import lzma
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from earlybell.deploy.local.stack import Stack
from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.streams.records import decode_signal
from tests.benchmarks.end_to_end import DATA, is_warm_up, own_database, replay, running_roles, settle, warm_up
from tests.integration.whole_pipeline import messages
from tests.own_topics import own_topics

WIRE = DATA / "replay" / "wire_2012-12-17_to_19.tsv.xz"
DAY, SPEED = "2012-12-18", 1000
OBJECTIVE, MOST_LOST = 0.5, 0.02
PICTURE = Path(__file__).parent / "results" / "wire_burst.png"


@dataclass(frozen=True)
class Run:
    """What came out of one replay, by story, in the order of publication."""

    at_s: NDArray[np.float64]  # since the first story
    latency_ms: NDArray[np.float64]
    dial: NDArray[np.float64]
    labels: dict[str, str]


def missing() -> str | None:
    """Return why this benchmark cannot run."""
    return None if WIRE.exists() else f"{WIRE} is missing"


def measure(servers: Stack) -> dict[str, Any]:
    """Return latencies in ms and what the dial cost, with the controller off and on."""
    with own_database(servers) as database:
        objective_ms = float(round(OBJECTIVE * np.percentile(run(servers, database).latency_ms, 99)))
        runs = {
            name: run(servers, database, latency_objective_ms=objective, most_accuracy_lost=MOST_LOST)
            for name, objective in {"fixed": 0.0, "adaptive": objective_ms}.items()
        }
    draw(runs, objective_ms)
    lost = {point.dial: point.accuracy_lost for point in load(SHIPPED).calibration.curve}
    labels, default = runs["fixed"].labels, runs["fixed"].dial.max()
    return {
        "load": f"the wire of {DAY}, {len(labels)} stories at {SPEED} times its speed; objective {objective_ms:g} ms",
        **{
            name: {
                **{f"p{share}_ms": float(np.percentile(found.latency_ms, share)) for share in (50, 90, 99)},
                "longest_ms": float(found.latency_ms.max()),
                "stories_above_default_dial": float((found.dial > default).mean()),
                "accuracy_lost_by_the_curve": float(np.mean([lost[dial] for dial in found.dial])),
                "labels_unlike_the_default_dial": float(
                    np.mean([label != labels[identity] for identity, label in found.labels.items()])
                ),
            }
            for name, found in runs.items()
        },
    }


def run(servers: Stack, database: str, **more: float) -> Run:
    """Replay the day through both roles, and return what came out."""
    settings = own_topics(servers.kafka_bootstrap, database_url=database, **more)
    with tempfile.TemporaryDirectory() as directory, running_roles(settings):
        day = Path(directory) / "day.tsv"
        with lzma.open(WIRE, "rt") as wire:
            day.write_text("".join(line for line in wire if line.startswith(DAY)))
        warm_up(settings)
        # Once at full speed, so that the broker has compiled what it runs: these stories are known afterwards.
        replay(settings, day, "--map", "published_at=1", "--map", "headline=2", "--limit", "1000")
        settle(settings)
        warm = {message.key for message in messages(settings, settings.sentiment_topic)}
        replay(settings, day, "--map", "published_at=1", "--map", "headline=2", "--speed", str(SPEED))
        settle(settings)
        records = [
            (decode_signal(message.value), message.timestamp)
            for message in messages(settings, settings.sentiment_topic)
            if not is_warm_up(message.key) and message.key not in warm
        ]
    times = [(signal.ingested_at.timestamp() * 1000, appended) for signal, appended in records if signal.ingested_at]
    ingested, appended = (np.array(column, dtype=np.float64) for column in zip(*times, strict=True))
    order = np.argsort(ingested)
    return Run(
        (ingested[order] - ingested.min()) / 1000,
        (appended - ingested)[order],
        np.array([signal.dial for signal, _ in records])[order],
        {signal.news_id: signal.label for signal, _ in records},
    )


def draw(runs: dict[str, Run], objective_ms: float) -> None:
    """Plot load, latency and dial over time."""
    mpl.use("agg")
    figure, (load_axes, above, below) = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    for name, found in runs.items():
        seconds = np.arange(0.0, found.at_s.max() + 0.5, 0.5)
        slot = np.digitize(found.at_s, seconds)
        longest = [found.latency_ms[slot == number].max(initial=0.0) for number in range(1, len(seconds) + 1)]
        above.plot(seconds, longest, label=name)
        below.plot(found.at_s, found.dial, ".", markersize=3, label=name)
        if name == "fixed":
            load_axes.bar(seconds, np.bincount(slot, minlength=len(seconds) + 1)[1:] * 2, width=0.5, color="#999999")
    above.axhline(objective_ms, color="#888888", linestyle=":", label="objective")
    above.set_yscale("log")
    load_axes.set_ylabel("stories a second")
    above.set_ylabel("longest latency, ms")
    below.set_ylabel("dial")
    below.set_xlabel(f"s; the wire of {DAY} at {SPEED} times its speed")
    for axes in (above, below):
        axes.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=100)
    plt.close(figure)
