"""How long a user waits: a cold ``earlybell score``, ``earlybell run`` to its first signal, a role after a crash.

Each figure is of fresh processes, with the files in the page cache. ``import torch``, measured in turn with the first
command, says how fast the machine is: compare ratios, not seconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from kafka import KafkaConsumer, TopicPartition

from earlybell.deploy.local.stack import Stack
from earlybell.streams.brokers import client_options, open_producer
from earlybell.streams.settings import Settings
from tests.benchmarks.end_to_end import prepared
from tests.own_topics import as_environment

ROUNDS = 5
TEXTS = "Acme profit soars to a record\nBorealis warns of losses\n"
EARLYBELL = (sys.executable, "-m", "earlybell.streams.cli")
TIMEOUT_S = 180.0


def measure(servers: Stack) -> dict[str, Any]:
    """Measure seconds, CPU seconds and megabytes from cold."""
    with tempfile.TemporaryDirectory() as directory:
        texts, log = Path(directory, "texts"), Path(directory, "log")
        texts.write_text(TEXTS)
        commands = {
            "score": [*EARLYBELL, "score", str(texts)],
            "import_torch": [sys.executable, "-c", "import torch"],
        }
        times = alternately(commands)
        with prepared(servers) as settings:
            run = run_and_crash(settings.model_copy(update={"devices": "cpu"}), log)
    seconds = {name: statistics.median(wall for wall, _ in rounds) for name, rounds in times.items()}
    return {
        "seconds": seconds,
        "cpu_seconds": {name: statistics.median(cpu for _, cpu in rounds) for name, rounds in times.items()},
        "run": run,
        "ratios": {"cold_score_vs_import_torch": seconds["score"] / seconds["import_torch"]},
    }


def alternately(commands: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[float, float]]]:
    """Return the wall and CPU seconds of each round of each command; the commands take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for counted in (False, *[True] * ROUNDS):
        for name, command in commands.items():
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            if counted:
                times[name].append((wall, cpu))
    return times


def run_and_crash(settings: Settings, log: Path) -> dict[str, float]:
    """Run both roles with a story waiting, kill the scoring role, and return what each step took."""
    publish(settings, "first")
    environment = {**os.environ, **as_environment(settings), "EARLYBELL_LOG_FORMAT": "json"}
    with signals_of(settings) as arrived, log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen([*EARLYBELL, "run"], env=environment, stdout=output, stderr=output)
        try:
            until(lambda: "first" in arrived(), log)
            first_signal_s = time.perf_counter() - began
            scoring = events(log, "role_started", role="scoring")[-1]["pid"]
            worker_mb = sum(child.memory_full_info().pss for child in psutil.Process(scoring).children(True)) / 1e6
            os.kill(scoring, signal.SIGKILL)
            publish(settings, "second")
            until(lambda: "second" in arrived(), log)
            second = time.time()
        finally:
            process.terminate()
            process.wait(timeout=60)
    started, loaded = events(log, "role_started", role="scoring"), events(log, "model_loaded")
    return {
        "seconds_to_the_first_signal": first_signal_s,
        "seconds_to_the_model": loaded[0]["at"] - started[0]["at"],
        "seconds_to_the_model_after_a_kill": loaded[1]["at"] - started[1]["at"],
        "seconds_to_a_signal_after_a_kill": second - started[1]["at"],
        "session_timeout_s": settings.session_timeout_s,
        "worker_megabytes": worker_mb,
    }


def publish(settings: Settings, story: str) -> None:
    """Publish one story."""
    item = {"id": story, "headline": "Meridian Freight raises its outlook", "published_at": "2026-01-05T09:30:00Z"}
    with closing(open_producer(settings)) as producer:
        producer.send(settings.news_topic, key=story.encode(), value=json.dumps(item).encode())
        producer.flush()


@contextmanager
def signals_of(settings: Settings) -> Iterator[Callable[[], set[str]]]:
    """Yield a function that returns the ids of the stories that have a signal by now."""
    ids: set[str] = set()
    with closing(KafkaConsumer(**client_options(settings), auto_offset_reset="earliest")) as consumer:
        consumer.assign([TopicPartition(settings.sentiment_topic, number) for number in range(settings.partitions)])

        def arrived() -> set[str]:
            for records in consumer.poll(timeout_ms=20).values():
                ids.update(record.key.decode() for record in records)
            return ids

        yield arrived


def until(done: Callable[[], object], log: Path) -> None:
    """Wait until ``done``, or fail with the log."""
    deadline = time.monotonic() + TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(log.read_text())


def events(log: Path, name: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the log's events of this name with these fields, each with its time, ``at``, in seconds."""
    found = []
    for line in log.read_text().splitlines():
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if event.get("event") == name and all(event.get(field) == value for field, value in fields.items()):
            found.append({**event, "at": datetime.fromisoformat(event["timestamp"]).timestamp()})
    return found
