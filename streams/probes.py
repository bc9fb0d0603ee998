"""What a role says of itself over HTTP: ``/metrics``, ``/livez``, ``/readyz`` and ``/info``.

- ``/livez`` fails when only a restart will help: the event loop does not turn, a window has been in work for too long,
  or an agent has ended.
- ``/readyz`` fails when the role cannot do its work now: also while the model loads, the group is not joined, or a
  broker or the database does not answer.

Both answer with one problem a line, and 503 if there is any. A thread serves them, so that it can tell that the loop
hangs. Knows nothing of what the role does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psutil
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from earlybell.database_url import DatabaseUrl
from earlybell.inference.pool.pool import Pool, PoolError
from earlybell.storage.exceptions import StorageError
from earlybell.streams import metrics
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.windows import Windows

if TYPE_CHECKING:
    from earlybell.storage.writer import Writer

log = structlog.get_logger(__name__)

#: The pause between two probes of the broker and the database, and how long one may take.
PROBE_EVERY_S, PROBE_TIMEOUT_S = 2.0, 5.0
#: The loop turns many times a second; one that has not for this long hangs.
LOOP_HANGS_AFTER_S = 30.0
_BEAT_S = 0.5
_ANNOUNCE_EVERY_S = 0.1


@dataclass(eq=False, slots=True)
class Probes:
    """The state of one role, as its parts come into being.

    Attributes
    ----------
    app
        The role's Faust app, once there is one.
    pool
        The pool of the scoring role.
    writers
        The writers of the storing role.
    """

    role: Role
    settings: Settings
    app: Any = None
    windows: Sequence[Windows[Any, Any]] = ()
    pool: Pool | None = None
    writers: Sequence[Writer] = ()
    port: int | None = None
    _beat: float = field(default_factory=time.monotonic)
    _started_at: float = field(default_factory=time.time)
    _ready: bool = False
    _broker: str | None = "no broker has answered yet"
    _database: str | None = "the database has not answered yet"

    def failures(self) -> list[str]:
        """Return why only a restart will help; empty if the role lives."""
        problems = []
        if (age := time.monotonic() - self._beat) > LOOP_HANGS_AFTER_S:
            problems.append(f"the event loop has not turned for {age:.0f} s")
        if (age := self._oldest_window_s()) > self.settings.stuck_after_s:
            problems.append(f"a window has been in work for {age:.0f} s")
        if self.app is not None and self.app.started:
            problems += [
                f"the agent {agent.fun.__name__} has ended" for agent in self.app.agents.values() if _ended(agent)
            ]
        return problems

    def obstacles(self) -> list[str]:
        """Return why the role cannot do its work now; empty if it is ready."""
        problems = self.failures()
        if self.role is Role.SCORING and self._model() is None:
            problems.append("the model is not loaded")
        elif self.pool is not None and not self.pool.pids:
            problems.append("no worker is ready")
        if self.app is None or not self.app.started or self.app.rebalancing or self.app.consumer_generation_id <= 0:
            problems.append("the consumer group is not joined")
        if self._broker is not None:
            problems.append(self._broker)
        if self.writers and self._database is not None:
            problems.append(self._database)
        return problems

    def info(self) -> dict[str, Any]:
        """Return who this is."""
        model = self._model()
        return {
            "role": self.role,
            "version": version("earlybell"),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "lag": self._lag(),
            "restarted_workers": self.pool.restarts if self.pool is not None else 0,
            "model": None
            if model is None
            else {
                "name": model.model,
                "revision": model.served_revision,
                "policy": model.policy,
                "precision": model.precision,
                "arithmetic": model.arithmetic,
                "processor": model.kernels or model.device,
                "devices": self.settings.devices,
            },
        }

    def _lag(self) -> dict[str, int]:
        """Return how many messages of each topic are not safe yet."""
        lags: dict[str, int] = {}
        if self.app is not None and self.app.started:
            for tp, lag in self.app.consumer.lags().items():
                lags[tp.topic] = lags.get(tp.topic, 0) + lag.messages
        return lags

    def samples(self) -> metrics.Sampled:
        """Return what is computed at each scrape."""
        sampled: dict[metrics.Sample, dict[tuple[str, ...], float]] = {
            metrics.OLDEST_WINDOW: {(): self._oldest_window_s()},
            metrics.LOOP_AGE: {(): time.monotonic() - self._beat},
        }
        if self.app is not None and self.app.started:
            lags = self.app.consumer.lags()
            names = {tp: (tp.topic, str(tp.partition)) for tp in lags}
            sampled[metrics.LAG] = {names[tp]: lag.messages for tp, lag in lags.items()}
            sampled[metrics.OLDEST_MESSAGE] = {names[tp]: lag.oldest_s for tp, lag in lags.items()}
        if self.pool is not None:
            sampled[metrics.WORKERS] = {(): len(self.pool.pids)}
            sampled[metrics.WORKER_RESTARTS] = {(): self.pool.restarts}
            sampled |= self._workers(self.pool.pids)
        return sampled

    def _workers(self, pids: Sequence[int]) -> dict[metrics.Sample, dict[tuple[str, ...], float]]:
        cpu: dict[tuple[str, ...], float] = {}
        memory: dict[tuple[str, ...], float] = {}
        for number, pid in enumerate(pids):
            with contextlib.suppress(psutil.Error):  # it has just died
                process = psutil.Process(pid)
                times = process.cpu_times()
                cpu[str(number),] = times.user + times.system
                memory[str(number),] = process.memory_info().rss
        return {metrics.WORKER_CPU: cpu, metrics.WORKER_MEMORY: memory}

    def _oldest_window_s(self) -> float:
        return max((windows.oldest_s for windows in self.windows), default=0.0)

    def _model(self) -> Any:
        with contextlib.suppress(PoolError):
            return self.pool.description if self.pool is not None else None
        return None

    async def beat(self) -> None:
        """Show for ever that the loop turns, and count the time in which it did not."""
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_S)
            metrics.LOOP_STALLED.inc(max(0.0, time.monotonic() - self._beat - _BEAT_S))

    async def announce(self) -> None:
        """Log when the role becomes ready, and when it no longer is, until it stops."""
        while self.app is None or not self.app.should_stop:
            problems = self.obstacles()
            if self._ready and problems:
                log.info("role_unready", role=self.role, problems=problems)
            elif not self._ready and not problems:
                log.info("role_ready", role=self.role, **self._summary())
            self._ready = not problems
            await asyncio.sleep(_ANNOUNCE_EVERY_S)

    def _summary(self) -> dict[str, Any]:
        """Return what the role reads, where its answers go, and its model if it has one."""
        assigned = Counter(tp.topic for tp in self.app.consumer.assignment())
        writes = (
            self.settings.sentiment_topic
            if self.role is Role.SCORING
            else DatabaseUrl.parse(self.settings.database).address
        )
        return {"reads": dict(sorted(assigned.items())), "writes": writes, "model": self.info()["model"]}

    async def probe(self) -> None:
        """Ask the broker and the database for ever whether they answer; more often until the role is ready."""
        while True:
            self._broker, self._database = await asyncio.gather(
                _problem("no broker answers", self._probe_broker), _problem("the database", self._probe_database)
            )
            metrics.BROKER_REACHABLE.set(self._broker is None)
            if self.writers:
                metrics.DATABASE_REACHABLE.set(self._database is None)
            if (model := self._model()) is not None:
                metrics.MODEL.clear()
                shown = (model.model, model.served_revision, model.policy, model.precision, model.arithmetic)
                metrics.MODEL.labels(*shown, model.kernels or model.device).set(1)
            await asyncio.sleep(PROBE_EVERY_S if self._ready else _ANNOUNCE_EVERY_S)

    async def _probe_broker(self) -> None:
        if self.app is None or not self.app.started:
            raise TimeoutError("there is no connection yet")
        with metrics.BROKER_PROBE_SECONDS.time():
            await self.app.producer.ping(PROBE_TIMEOUT_S)

    async def _probe_database(self) -> None:
        for writer in self.writers:
            with metrics.DATABASE_PROBE_SECONDS.time():
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await asyncio.to_thread(writer.ping)


@contextlib.asynccontextmanager
async def serving(probes: Probes, port: int) -> AsyncIterator[None]:
    """Serve the probes at this port, or at a free one if it is taken, for as long as an ``async with``."""
    server = _open(probes, port)
    probes.port = server.server_address[1]
    metrics.SAMPLER.compute = probes.samples
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    log.info("probes_served", role=probes.role, url=f"http://{probes.settings.probe_host}:{probes.port}")
    tasks = [asyncio.create_task(forever()) for forever in (probes.beat, probes.probe, probes.announce)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        server.shutdown()
        server.server_close()


def _open(probes: Probes, port: int) -> ThreadingHTTPServer:
    host = probes.settings.probe_host

    class Handler(_Handler):
        answers = probes

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        log.warning("probe_port_taken", role=probes.role, host=host, port=port, reason=str(error))
        return ThreadingHTTPServer((host, 0), Handler)


class _Handler(BaseHTTPRequestHandler):
    answers: Probes
    timeout = 10.0

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, generate_latest(metrics.REGISTRY), CONTENT_TYPE_LATEST)
            case "/livez":
                self._verdict(self.answers.failures())
            case "/readyz":
                self._verdict(self.answers.obstacles())
            case "/info":
                self._answer(200, json.dumps(self.answers.info()).encode() + b"\n", "application/json")
            case _:
                self._answer(404, b"/metrics, /livez, /readyz or /info\n")

    def _verdict(self, problems: Sequence[str]) -> None:
        self._answer(503 if problems else 200, "".join(f"{line}\n" for line in problems or ["ok"]).encode())

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Log no request."""


async def _problem(what: str, probe: Callable[[], Any]) -> str | None:
    try:
        await probe()
    except StorageError as error:
        return str(error)
    except Exception as error:
        return f"{what}: {error!r}" if str(error) else f"{what}: {type(error).__name__}"
    return None


def _ended(agent: Any) -> bool:
    tasks = [actor.actor_task for actor in agent._actors if actor.actor_task is not None]
    return not tasks or all(task.done() for task in tasks)
