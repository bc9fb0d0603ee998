"""From Kafka to Postgres: the real headlines at full speed, then at a quiet pace, beside what the engine alone does.

Both roles run as processes, as ``earlybell run`` starts them. Latencies are differences of the broker's own clock:
from a story's LogAppendTime to its signal's. It also checks what it timed: every distinct story has one row in each
table and a signal on the topic, and a second replay adds no row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2

from earlybell.deploy.local.stack import Stack
from earlybell.inference.engine import open_engine
from earlybell.storage import migrations
from earlybell.streams.brokers import open_producer
from earlybell.streams.demo.sample import FEED
from earlybell.streams.records import decode_news, decode_signal
from earlybell.streams.settings import Settings
from tests.integration.whole_pipeline import count, messages
from tests.own_topics import as_environment, own_topics

DATA = Path(os.environ.get("EARLYBELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
HEADLINES = DATA / "replay" / "headlines_2026.jsonl"
QUIET_PER_S, QUIET_S = 100, 15
WARMING = 20


def measure(servers: Stack) -> dict[str, Any]:
    """Texts/s end to end and of the engine alone, and p50/p99 from publish to signal."""
    database = fresh_database(servers.database_url)
    settings = own_topics(servers.kafka_bootstrap, database_url=database)
    migrations.upgrade(database)
    file, options = (HEADLINES, []) if HEADLINES.exists() else (FEED, ["--raw"])
    with roles(settings):
        warm(settings)
        replay(settings, file, *options)
        news = [one for one in messages(settings, settings.news_topic) if not warming(one.key)]
        texts = {(item.id, item.revision): item.text for item in map(decode_news, (one.value for one in news))}
        wait_for(settings, len(texts) + WARMING)
        stored_s = time.time() - min(one.timestamp for one in news) / 1000
        full_speed = latencies(settings, len(texts))
        replay(settings, file, *options)
        settle(settings)
        rows_after_second = {table: count(settings, table) for table in ("news", "signals")}
    quiet = own_topics(servers.kafka_bootstrap, database_url=database)
    with roles(quiet):
        warm(quiet)
        feed_quietly(quiet, list(texts.values()))
        settle(quiet)
        at_ease = latencies(quiet, None)
    alone = engine_alone(list(texts.values()))
    scored = full_speed.pop("texts_per_second")
    at_ease.pop("texts_per_second")
    if set(rows_after_second.values()) != {len(texts) + WARMING}:
        raise RuntimeError(f"{len(texts)} stories and {WARMING} to warm up, but rows {rows_after_second}")
    return {
        "feed": file.name,
        "messages": len(news),
        "stories": len(texts),
        "rows_after_a_second_replay": {table: rows - WARMING for table, rows in rows_after_second.items()},
        "texts_per_second": {
            "publish_to_signal": scored,
            "publish_to_row": len(texts) / stored_s,
            "engine_alone": alone,
        },
        "full_speed_ms": full_speed,
        f"at_{QUIET_PER_S}_per_second_ms": at_ease,
        "ratios": {"end_to_end_vs_engine_alone": scored / alone},
    }


def fresh_database(url: str) -> str:
    """A database of this run's own."""
    name = f"bench_{os.getpid()}"
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
    head, _, _ = url.rpartition("/")
    return f"{head}/{name}"


@contextmanager
def roles(settings: Settings) -> Iterator[None]:
    """Both roles, ready: each has its partitions before anything is timed."""
    environment = {**os.environ, **as_environment(settings), "EARLYBELL_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "earlybell.streams.cli", "run"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def replay(settings: Settings, file: Path, *options: str) -> None:
    """``earlybell replay FILE``."""
    command = [sys.executable, "-m", "earlybell.streams.cli", "replay", str(file), *options]
    subprocess.run(command, env={**os.environ, **as_environment(settings)}, check=True, stdout=subprocess.DEVNULL)


def warm(settings: Settings) -> None:
    """A few stories through everything: then the model is loaded, and the partitions are assigned."""
    before = count(settings, "signals")
    feed_quietly(settings, ["Meridian Freight raises its outlook"] * WARMING, prefix=f"warming-{before}")
    wait_for(settings, before + WARMING)


def warming(key: bytes) -> bool:
    """Whether a message is one of those."""
    return key.startswith(b"warming-")


def feed_quietly(settings: Settings, texts: Sequence[str], prefix: str = "quiet") -> None:
    """Publish at an even pace."""

    producer = open_producer(settings)
    began = time.monotonic()
    for number, text in enumerate(texts[: QUIET_PER_S * QUIET_S]):
        time.sleep(max(0.0, began + number / QUIET_PER_S - time.monotonic()))
        item = {"id": f"{prefix}-{number}", "headline": text[:4096], "published_at": "2026-01-05T09:30:00Z"}
        producer.send(settings.news_topic, key=item["id"].encode(), value=json.dumps(item).encode())
    producer.close()


def wait_for(settings: Settings, stories: int, timeout_s: float = 600) -> None:
    """Wait for the rows."""
    limit = time.monotonic() + timeout_s
    while min(count(settings, "news"), count(settings, "signals")) < stories:
        if time.monotonic() > limit:
            raise TimeoutError(f"{count(settings, 'signals')} of {stories} signals after {timeout_s} s")
        time.sleep(0.05)


def settle(settings: Settings) -> None:
    """Wait until as many signals are on the topic as there is news, and the tables no longer grow."""
    while len(messages(settings, settings.sentiment_topic)) < len(messages(settings, settings.news_topic)):
        time.sleep(0.5)
    rows = -1
    while rows != (rows := count(settings, "signals") + count(settings, "news")):
        time.sleep(1)


def latencies(settings: Settings, stories: int | None) -> dict[str, float]:
    """Milliseconds from publish to signal by the broker's clock, and the speed over the whole."""
    seen = [one for one in messages(settings, settings.sentiment_topic) if not warming(one.key)]
    signals = [(decode_signal(one.value), one.timestamp) for one in seen]
    if stories is not None and len({signal.signal_id for signal, _ in signals}) != stories:
        raise RuntimeError(f"{stories} stories, but {len(signals)} signals")
    times = [(signal.ingested_at.timestamp() * 1000, at) for signal, at in signals if signal.ingested_at]
    took = np.array([at - ingested for ingested, at in times])
    span_s = (max(at for _, at in times) - min(ingested for ingested, _ in times)) / 1000
    return {
        "p50": float(np.percentile(took, 50)),
        "p99": float(np.percentile(took, 99)),
        "mean_depth": float(np.mean([signal.exit_depth for signal, _ in signals])),
        "texts_per_second": len(times) / span_s,
    }


def engine_alone(texts: Sequence[str]) -> float:
    """Texts a second of the same engine on the same texts in the same windows, with the machine to itself."""
    engine = open_engine("cpu")
    engine.warm_up()
    window = Settings.model_fields["window_texts"].default
    began = time.perf_counter()
    for start in range(0, len(texts), window):
        engine.score(texts[start : start + window])
    return len(texts) / (time.perf_counter() - began)
