"""From Kafka to Postgres: real headlines at full speed, then at three shares of it, next to the engine alone.

Both roles run as processes, as ``earlybell run`` starts them. The first replays only warm up the broker. Each of the
others, at full speed, also counts the processor time of each part; sent again, the file must add no row. The engine
alone runs before and after each of them, and medians count. Then stories come at 10, 50 and 80 % of the rate that was
reached. A latency is the difference between a story's and its signal's LogAppendTime, so only the broker's clock
counts. The results are checked too: every distinct story has one row in each table and a signal on the topic.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import psycopg2
from confluent_kafka import Producer

from earlybell.deploy.local.stack import Stack
from earlybell.inference.engine import open_engine
from earlybell.storage import migrations
from earlybell.streams.commands import feeds
from earlybell.streams.commands.rows import Columns, open_file
from earlybell.streams.demo.sample import FEED
from earlybell.streams.records import NewsItem, decode_news, decode_signal
from earlybell.streams.settings import Settings
from tests.benchmarks import processor_time
from tests.integration.whole_pipeline import count, messages
from tests.own_topics import as_environment, own_topics

DATA = Path(os.environ.get("EARLYBELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
HEADLINES = DATA / "replay" / "headlines_2026.jsonl"
#: Shares of the capacity at which latency is measured, the seconds of load, and how many of them, the last, are
#: measured: a broker runs for months, and after a change of load its JIT compiler is busy for about a minute.
LOADS, LOAD_S, MEASURED_S = (0.1, 0.5, 0.8), 150, 90
WARM_UP_STORIES = 20
#: Replays at full speed while the broker's JIT compiler is still busy, and those whose median counts.
WARM_UP_REPLAYS, REPLAYS = 5, 3
#: A feed wakes up this often and sends what has come in since.
TURN_S = 0.005

_numbers = itertools.count()


def measure(servers: Stack) -> dict[str, Any]:
    """Measure texts/s end to end and of the engine alone, and the p50 and p99 from publish to signal in ms."""
    file, options = (HEADLINES, []) if HEADLINES.exists() else (FEED, ["--raw"])
    news = news_of(file, raw="--raw" in options)
    texts = list({(item.id, item.revision): item.text for item in news}.values())
    for _ in range(WARM_UP_REPLAYS):
        full_speed(servers, file, options, len(texts))
    # In turn, and more than once: the machine's speed changes from one minute to the next.
    alone, replays = [engine_alone(texts)], []
    for _ in range(REPLAYS):
        replays.append(full_speed(servers, file, options, len(texts)))
        alone.append(engine_alone(texts))
    parts = {
        name: median(replay["seconds"][name] for replay in replays) / len(news) * 1e6 for name in replays[0]["seconds"]
    }
    parts["engine_alone"] = median(seconds for _, seconds in alone) / len(texts) * 1e6
    scored, alone_rate = median(replay["publish_to_signal"] for replay in replays), median(rate for rate, _ in alone)
    return {
        "feed": file.name,
        "messages": len(news),
        "stories": len(texts),
        "rows_after_a_second_replay": replays[-1]["rows"],
        "texts_per_second": {
            "publish_to_signal": scored,
            "publish_to_row": median(replay["publish_to_row"] for replay in replays),
            "engine_alone": alone_rate,
        },
        "all_texts_per_second": {
            "publish_to_signal": [replay["publish_to_signal"] for replay in replays],
            "engine_alone": [rate for rate, _ in alone],
        },
        "full_speed_ms": replays[-1]["latency_ms"],
        **{f"at_{load:.0%}_of_capacity_ms": steady(servers, texts, load * scored) for load in LOADS},
        "processor_microseconds_per_story": parts,
        "ratios": {
            "end_to_end_vs_engine_alone": scored / alone_rate,
            "engine_alone_vs_both_roles_processor_time": parts["engine_alone"]
            / sum(parts[name] for name in ("scoring", "engine", "storing")),
        },
    }


def full_speed(servers: Stack, file: Path, options: Sequence[str], stories: int) -> dict[str, Any]:
    """Replay a file as fast as it goes, and once more, which must add no row."""
    with prepared(servers) as settings, running_roles(settings) as roles:
        warm_up(settings)
        processes = processor_time.parts(servers, roles)
        used, feed_used = processor_time.used(processes), children_seconds()
        replay(settings, file, *options)
        feed_s = children_seconds() - feed_used
        wait_for_rows(settings, stories + WARM_UP_STORIES, every_s=0.5)
        stored_at = time.time()
        seconds = {name: after - used[name] for name, after in processor_time.used(processes).items()}
        seconds["feed"] = feed_s
        latency_ms = latencies(settings, stories)
        arrived = [record.timestamp for record in messages(settings, settings.news_topic) if not is_warm_up(record.key)]
        replay(settings, file, *options)
        settle(settings)
        rows = {table: count(settings, table) - WARM_UP_STORIES for table in ("news", "signals")}
    if set(rows.values()) != {stories}:
        raise RuntimeError(f"{stories} stories, but rows {rows}")
    return {
        "publish_to_signal": latency_ms.pop("texts_per_second"),
        "publish_to_row": stories / (stored_at - min(arrived) / 1000),
        "latency_ms": latency_ms,
        "seconds": seconds,
        "rows": rows,
    }


def steady(servers: Stack, texts: Sequence[str], per_second: float) -> dict[str, float]:
    """Publish at a rate, and return the latencies in ms and the share of time that other machines took."""
    with prepared(servers) as settings, running_roles(settings):
        warm_up(settings)
        before = psutil.cpu_times()
        publish_steadily(settings, texts, per_second, LOAD_S)
        stolen = stolen_since(before)
        settle(settings)
        measured = latencies(settings, None, MEASURED_S)
    del measured["texts_per_second"]
    return {**measured, "stolen": stolen}


@contextmanager
def prepared(servers: Stack) -> Iterator[Settings]:
    """Yield settings with topics and an empty database of their own, and otherwise as users have them."""
    usual = {name: Settings.model_fields[name].default for name in ("commit_interval_s", "session_timeout_s")}
    with own_database(servers) as url:
        yield own_topics(servers.kafka_bootstrap, database_url=url, **usual)


@contextmanager
def own_database(servers: Stack) -> Iterator[str]:
    """Yield the URL of an empty, migrated database.

    It is dropped afterwards: Postgres would clean up after one measurement (autovacuum) during the next.
    """
    name = f"bench_{os.getpid()}_{next(_numbers)}"
    head, _, _ = servers.database_url.rpartition("/")
    with closing(psycopg2.connect(servers.database_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
        try:
            migrations.upgrade(f"{head}/{name}")
            yield f"{head}/{name}"
        finally:
            connection.cursor().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def running_roles(settings: Settings) -> Iterator[int]:
    """Run both roles as ``earlybell run`` does, and yield its process id; call `warm_up` before timing anything."""
    environment = {**os.environ, **as_environment(settings), "EARLYBELL_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "earlybell.streams.cli", "run"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def replay(settings: Settings, file: Path, *options: str) -> None:
    """Run ``earlybell replay FILE``."""
    command = [sys.executable, "-m", "earlybell.streams.cli", "replay", str(file), *options]
    subprocess.run(command, env={**os.environ, **as_environment(settings)}, check=True, stdout=subprocess.DEVNULL)


def warm_up(settings: Settings) -> None:
    """Send a few stories through both roles, so that the model is loaded and the partitions are assigned."""
    before = count(settings, "signals")
    texts = ["Meridian Freight raises its outlook"] * WARM_UP_STORIES
    publish_steadily(settings, texts, WARM_UP_STORIES, 1.0, prefix=f"warm-up-{before}")
    wait_for_rows(settings, before + WARM_UP_STORIES)


def is_warm_up(key: bytes) -> bool:
    """Whether a message with this key was sent by `warm_up`."""
    return key.startswith(b"warm-up-")


def publish_steadily(
    settings: Settings, texts: Sequence[str], per_second: float, seconds: float, prefix: str = "steady"
) -> None:
    """Publish at a rate for a time, each story under an id of its own; the texts may come more than once.

    By librdkafka, as most feeds do, and encoded beforehand: both save processor time, which the pipeline competes for.
    """
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
    encoded = [
        _encoded(f"{prefix}-{number}", text)
        for number, text in enumerate(itertools.islice(itertools.cycle(texts), int(per_second * seconds)))
    ]
    began = time.monotonic()
    for number, (key, value) in enumerate(encoded):
        if (early_s := began + number / per_second - time.monotonic()) > 0:
            producer.poll(0)  # forget what has been acknowledged
            time.sleep(max(early_s, TURN_S))
        producer.produce(settings.news_topic, value, key)
    producer.flush()


def _encoded(news_id: str, text: str) -> tuple[bytes, bytes]:
    item = {"id": news_id, "headline": text[:4096], "published_at": "2026-01-05T09:30:00Z"}
    return news_id.encode(), json.dumps(item).encode()


def news_of(file: Path, *, raw: bool) -> list[NewsItem]:
    """Return the news that ``earlybell replay FILE`` publishes."""
    opened = open_file(str(file))
    rows = feeds.messages(opened, "jsonl", Columns.parse([], None), lambda line, reason: None)
    return [decode_news(message.value) for message in (feeds.raw_messages(opened) if raw else rows)]


def wait_for_rows(settings: Settings, stories: int, timeout_s: float = 600, every_s: float = 0.05) -> None:
    """Wait until both tables have a row for each story, and count them at this interval, which costs time too."""
    deadline = time.monotonic() + timeout_s
    while min(count(settings, "news"), count(settings, "signals")) < stories:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count(settings, 'signals')} of {stories} signals after {timeout_s} s")
        time.sleep(every_s)


def settle(settings: Settings) -> None:
    """Wait until each news item has a signal or a dead letter, and the tables no longer grow."""

    def published(*topics: str) -> int:
        return sum(len(messages(settings, topic)) for topic in topics)

    while published(settings.sentiment_topic, settings.dead_topic) < published(settings.news_topic):
        time.sleep(0.5)
    rows = -1
    while rows != (rows := count(settings, "signals") + count(settings, "news")):
        time.sleep(1)


def latencies(settings: Settings, stories: int | None, last_s: float | None = None) -> dict[str, float]:
    """Return p50 and p99 from publish to signal in ms, by the broker's clock; mean exit depth; and texts/s.

    The latencies are of all stories, or of those ingested in the last `last_s` seconds.
    """
    records = [message for message in messages(settings, settings.sentiment_topic) if not is_warm_up(message.key)]
    signals = [(decode_signal(record.value), record.timestamp) for record in records]
    if stories is not None and len({signal.signal_id for signal, _ in signals}) != stories:
        raise RuntimeError(f"{stories} stories, but {len(signals)} signals")
    times = [(signal.ingested_at.timestamp() * 1000, appended) for signal, appended in signals if signal.ingested_at]
    latency_ms = np.array([appended - ingested for ingested, appended in times])
    if last_s is not None:
        ingested_ms = np.array([ingested for ingested, _ in times])
        latency_ms = latency_ms[ingested_ms > ingested_ms.max() - last_s * 1000]
    span_s = (max(appended for _, appended in times) - min(ingested for ingested, _ in times)) / 1000
    return {
        "p50": float(np.percentile(latency_ms, 50)),
        "p99": float(np.percentile(latency_ms, 99)),
        "mean_depth": float(np.mean([signal.exit_depth for signal, _ in signals])),
        "texts_per_second": len(times) / span_s,
    }


def stolen_since(before: Any) -> float:
    """Return the share of the processors' time that other virtual machines took, since these `psutil.cpu_times`."""
    now = psutil.cpu_times()
    share: float = (getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)) / (sum(now) - sum(before))
    return share


def children_seconds() -> float:
    """Return the processor time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def engine_alone(texts: Sequence[str]) -> tuple[float, float]:
    """Return texts/s of the same engine on the same texts in windows of the same size, and its processor seconds."""
    engine = open_engine("cpu")
    engine.warm_up()
    window = Settings.model_fields["window_texts"].default
    began, used = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), window):
        engine.score(texts[start : start + window])
    return len(texts) / (time.perf_counter() - began), time.process_time() - used
