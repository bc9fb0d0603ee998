"""What a role reports about itself, at work and in trouble: on real servers."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from earlybell.deploy.local.processes import free_port
from earlybell.deploy.local.stack import Stack
from earlybell.inference.pool.pool import Pool
from earlybell.inference.predictions import Predictions
from earlybell.storage import migrations
from earlybell.streams import health, languages, metrics, probes, role_process
from earlybell.streams.commands import status as status_command
from earlybell.streams.roles import Role
from earlybell.streams.scoring import Scoring
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.own_topics import own_topics
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import publish, until

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


class Waiting(ConstantScorer):
    """Waits for the files that texts name."""

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        for text in texts:
            while text.startswith("wait for ") and not Path(text.removeprefix("wait for ")).exists():
                time.sleep(0.01)
        return super().score(texts)


@pytest.fixture
def settings(kafka_bootstrap: str, fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    migrations.upgrade(fresh_database)
    monkeypatch.setattr(role_process, "open_pool", lambda _: Pool(Waiting, ["cpu"], backoff_s=0.01))
    monkeypatch.setattr(probes, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 1.0)
    scoring, storing = free_port(), free_port()
    return own_topics(
        kafka_bootstrap, database_url=fresh_database, scoring_port=scoring, storing_port=storing, stuck_after_s=1.5
    )


@asynccontextmanager
async def serving(settings: Settings, role: Role) -> AsyncIterator[asyncio.Task[int]]:
    """Run a role, with its probes, until it is ready."""
    stop = asyncio.Event()
    task = asyncio.create_task(role_process.serve(role, settings, stop))
    try:
        await told(settings, role)
        yield task
    finally:
        stop.set()
        await task


async def told(settings: Settings, role: Role, problem: str = "") -> dict[str, Any]:
    """Wait until the role reports this problem, or that it is ready; return the report."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            report = await asyncio.to_thread(health.report, settings, role)
            if any(problem in line for line in report["problems"]) if problem else report["ready"]:
                return report
            await asyncio.sleep(0.05)


def page(settings: Settings, role: Role, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", settings.probe_port(role), timeout=PATIENCE_S)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def value(settings: Settings, role: Role, metric: str) -> float:
    """Return the sum of a metric over its labels, those that are given left out."""
    _, text = page(settings, role, "/metrics")
    name, _, labels = metric.partition("{")
    lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return sum(
        float(number) for found, number in lines if all(label in found for label in labels.strip("}").split(","))
    )


def story(number: int, headline: str = "Acme wins") -> bytes:
    return json.dumps({"id": f"s{number}", "headline": headline, "published_at": "2026-01-05T09:30:00Z"}).encode()


def test_the_documented_metrics_are_the_emitted_ones() -> None:
    rows = re.findall(r"^\| `(earlybell_\w+)` \| (\w+) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == metrics.names()
    for name in metrics.names():
        assert not re.search(r"_(ms|milliseconds|kb|mb|minutes)(_|$)", name), "base units only"


async def test_a_ready_role_has_loaded_what_identifies_languages(settings: Settings) -> None:
    languages._detector.cache_clear()
    async with serving(settings, Role.SCORING):
        assert languages._detector.cache_info().currsize == 1, "else the first text that needs it holds up its window"


async def test_a_role_at_work(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answered = tmp_path / "answered"
    monkeypatch.setenv("EARLYBELL_KAFKA_BOOTSTRAP", settings.kafka_bootstrap)
    monkeypatch.setenv("EARLYBELL_DATABASE_URL", settings.database)
    assert not health.report(settings, Role.SCORING)["running"]
    assert (await asyncio.to_thread(status_command.status, settings, as_json=True)) == 3
    async with serving(settings, Role.SCORING):
        names = (*metrics.names(), "earlybell_window_texts_sum")
        before = {name: value(settings, Role.SCORING, name) for name in names}
        publish(settings, [*(story(number) for number in range(30)), b"broken", story(99, f"wait for {answered}")])

        def grown(name: str) -> float:
            return value(settings, Role.SCORING, name) - before[name]

        await until(lambda: grown("earlybell_stories_total") == 32)
        await until(lambda: value(settings, Role.SCORING, "earlybell_lag_messages") > 0)
        await until(lambda: value(settings, Role.SCORING, "earlybell_oldest_window_seconds") > 1.5)
        await told(settings, Role.SCORING, "a window has been in work")
        report = await asyncio.to_thread(health.report, settings, Role.SCORING)
        assert (report["running"], report["alive"], report["ready"]) == (True, False, False)
        assert value(settings, Role.SCORING, "earlybell_oldest_unacknowledged_seconds") > 1
        answered.touch()
        await told(settings, Role.SCORING)
        await until(lambda: value(settings, Role.SCORING, "earlybell_lag_messages") == 0)
        assert grown("earlybell_signals_total") == 31
        assert value(settings, Role.SCORING, 'earlybell_dead_letters_total{stage="decode"}') >= 1
        assert grown("earlybell_exits_total") == grown("earlybell_window_texts_sum") == 31
        assert value(settings, Role.SCORING, "earlybell_worker_resident_memory_bytes") > 1e6
        status, info = page(settings, Role.SCORING, "/info")
        assert (status, json.loads(info)["model"]["name"], json.loads(info)["pid"]) == (200, "constant", os.getpid())
        assert "earlybell_model_info{" in page(settings, Role.SCORING, "/metrics")[1]
        assert page(settings, Role.SCORING, "/secret")[0] == 404
        capsys.readouterr()
        assert (await asyncio.to_thread(status_command.status, settings, as_json=False)) == 3
        assert re.search(r"scoring +ready +.*\n.*constant .* on ", capsys.readouterr().out)
    assert not health.report(settings, Role.SCORING)["running"]


async def test_a_killed_worker_and_an_agent_that_raises(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(ConstantScorer, ["cpu"])
    monkeypatch.setattr(role_process, "open_pool", lambda _: pool)
    async with serving(settings, Role.SCORING) as role:
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda: value(settings, Role.SCORING, "earlybell_worker_restarts_total") == 1)
        await told(settings, Role.SCORING)

        async def take(self: Scoring, chunk: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(Scoring, "take", take)
        publish(settings, [story(1)])
        # Its messages would never be acknowledged: the process ends, and the supervisor starts another.
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.shield(role) == 1


async def test_a_database_that_takes_no_writes(settings: Settings) -> None:
    name = settings.database.rsplit("/", 1)[1]
    with closing(psycopg2.connect(settings.database.rsplit("/", 1)[0] + "/postgres")) as admin:
        admin.autocommit = True
        cursor = admin.cursor()
        async with serving(settings, Role.STORING):
            assert value(settings, Role.STORING, "earlybell_database_reachable") == 1
            lost = value(settings, Role.STORING, "earlybell_database_connections_lost_total")
            cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            report = await told(settings, Role.STORING, "read-only")
            assert value(settings, Role.STORING, "earlybell_database_connections_lost_total") > lost
            assert (report["alive"], report["ready"]) == (True, False)
            publish(settings, [story(1)])
            retries = 'earlybell_retries_total{step="settle",cause="StorageUnavailable"}'
            await until(lambda: value(settings, Role.STORING, retries) > 0)
            cursor.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            await told(settings, Role.STORING)
            await until(lambda: value(settings, Role.STORING, "earlybell_lag_messages") == 0)
            assert value(settings, Role.STORING, 'earlybell_rows_total{table="news",outcome="new"}') >= 1


async def test_a_broker_that_does_not_answer(settings: Settings, private_stack: Stack) -> None:
    if private_stack.kafka.pid is None:
        pytest.skip("the broker is not ours to stop")
    async with serving(settings, Role.SCORING):
        probed = value(settings, Role.SCORING, "earlybell_broker_probe_seconds_sum")
        os.kill(private_stack.kafka.pid, signal.SIGSTOP)
        try:
            assert not (await told(settings, Role.SCORING, "no broker answers"))["ready"]
            assert value(settings, Role.SCORING, "earlybell_broker_reachable") == 0
            assert (
                value(settings, Role.SCORING, "earlybell_broker_probe_seconds_sum") >= probed + probes.PROBE_TIMEOUT_S
            )
        finally:
            os.kill(private_stack.kafka.pid, signal.SIGCONT)
        await told(settings, Role.SCORING)


async def test_a_loop_that_hangs_is_seen_from_outside(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LOOP_HANGS_AFTER_S", 1.0)
    found: list[str] = []

    def ask() -> None:
        status, text = 200, ""
        while status == 200:
            time.sleep(0.05)
            status, text = page(settings, Role.STORING, "/livez")
        found.append(text)

    stalled = "earlybell_event_loop_stalled_seconds_total"
    async with serving(settings, Role.STORING):
        before = value(settings, Role.STORING, stalled)
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(PATIENCE_S)  # the loop hangs for as long as that
        assert found and "event loop" in found[0]
        await told(settings, Role.STORING)
        # The loop hangs for a second at least until that is reported; half a second of it may be between two beats.
        await until(lambda: value(settings, Role.STORING, stalled) > before + 0.4)


async def test_a_role_collects_no_garbage_in_what_it_has_loaded(settings: Settings) -> None:
    gc.unfreeze()
    async with serving(settings, Role.STORING):
        assert gc.get_freeze_count() > 0
    gc.unfreeze()


async def test_a_port_that_is_taken_does_not_stop_a_role(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.storing_port)):
        role = probes.Probes(Role.STORING, settings)
        async with probes.serving(role, settings.storing_port):
            assert role.port not in {None, settings.storing_port}
            moved = settings.model_copy(update={"storing_port": role.port})
            assert page(moved, Role.STORING, "/livez") == (200, "ok\n")
            assert page(moved, Role.STORING, "/readyz")[0] == 503
