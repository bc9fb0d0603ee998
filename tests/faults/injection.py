"""Faults that hit servers, processes and the network between them, each for a random time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import psycopg2

from earlybell.streams.roles import Role
from earlybell.streams.supervisor import Roles
from tests.faults.deadlock import deadlock
from tests.faults.full_disk import Disk, NoDisk
from tests.faults.load import Load
from tests.faults.own_servers import OwnServers
from tests.faults.tcp_proxy import TcpProxy

Fault = Callable[[random.Random], Awaitable[None]]

#: How long the other session waits for a writer to deadlock with.
DEADLOCK_S = 10.0
#: The share of a role's faults that wait until it is ready, and for how long at most.
AT_WORK, READY_S = 0.3, 10.0


class Faults:
    """What may happen. Each fault ends with everything healed that does not heal by itself.

    Parameters
    ----------
    network, database_network
        What carries the roles' connections to the broker and to the database.
    roles
        The processes of both roles.
    another
        Return one more process of a role, which joins its consumer group.
    load
        What is being published.
    disk
        What the tables are on; None if no such disk can be mounted.
    ready
        Whether a role is ready, as far as an observer knows.
    pace
        Factor of the drawn durations.

    Attributes
    ----------
    ended
        How many processes were ended, by kind and manner. A target may already have ended by itself.
    """

    def __init__(
        self,
        servers: OwnServers,
        network: TcpProxy,
        database_network: TcpProxy,
        roles: Roles,
        another: Callable[[Role], Roles],
        load: Load,
        disk: Disk | None,
        ready: Callable[[Role], bool],
        pace: float = 1.0,
    ) -> None:
        self.ended: Counter[str] = Counter()
        self._servers = servers
        self._network, self._database_network = network, database_network
        self._roles, self._another = roles, another
        self._load, self._disk = load, disk
        self._ready, self._pace = ready, pace
        self._kafka_pid = servers.stack.kafka.pid or 0
        self._postgres_pid = servers.stack.postgres.pid or 0

    def weights(self) -> Mapping[Fault, int]:
        """Return all faults with their relative weights. Restarting a broker is slow, so it is rare."""
        return {
            self.kill_a_role: 20,
            self.terminate_a_role: 2,
            self.pause_a_role: 2,
            self.kill_a_pool_worker: 2,
            self.hang_a_pool_worker: 2,
            self.join_a_second_worker: 2,
            self.reset_the_network: 2,
            self.stall_the_network: 2,
            self.half_open_the_network: 2,
            self.slow_the_network: 2,
            self.pause_the_broker: 2,
            self.kill_the_broker: 1,
            self.restart_the_broker: 1,
            self.restart_the_database: 2,
            self.cut_the_databases_connections: 2,
            self.stall_the_databases_network: 2,
            self.lock_the_tables: 2,
            self.turn_the_database_read_only: 2,
            self.fill_the_databases_disk: 2,
            self.deadlock_a_writer: 2,
        }

    # The roles

    async def kill_a_role(self, draw: random.Random) -> None:
        self.ended["role killed"] += _signal(await self._pid(draw), signal.SIGKILL)

    async def terminate_a_role(self, draw: random.Random) -> None:
        self.ended["role terminated"] += _signal(await self._pid(draw), signal.SIGTERM)

    async def pause_a_role(self, draw: random.Random) -> None:
        pid = await self._pid(draw)
        _signal(pid, signal.SIGSTOP)
        await self._last(draw, 0.5, 12.0)
        _signal(pid, signal.SIGCONT)

    async def kill_a_pool_worker(self, draw: random.Random) -> None:
        worker = await self._worker(draw)
        with suppress(psutil.NoSuchProcess):
            worker.kill()
            self.ended["pool worker killed"] += 1

    async def hang_a_pool_worker(self, draw: random.Random) -> None:
        worker = await self._worker(draw)
        with suppress(psutil.NoSuchProcess):
            worker.suspend()
            await self._last(draw, 0.5, 12.0)
            worker.resume()

    async def join_a_second_worker(self, draw: random.Random) -> None:
        async with self._another(draw.choice(list(Role))) as other:
            # At any pace: it has to start, join, and be given partitions.
            await asyncio.sleep(draw.uniform(5.0, 15.0))
            if draw.random() < 0.5:
                self.ended["role killed"] += len(other.pids)
                other.kill()

    # The network to the broker

    async def reset_the_network(self, draw: random.Random) -> None:
        for _ in range(draw.randint(1, 5)):
            self._network.reset()
            await asyncio.sleep(draw.uniform(0.0, 0.5))

    async def stall_the_network(self, draw: random.Random) -> None:
        self._network.stall()
        await self._last(draw, 0.5, 12.0)
        self._network.resume()

    async def half_open_the_network(self, _: random.Random) -> None:
        self._network.half_open()

    async def slow_the_network(self, draw: random.Random) -> None:
        self._network.delay_s = draw.uniform(0.01, 0.5)
        await self._last(draw, 1.0, 6.0)
        self._network.delay_s = 0.0

    # The broker

    async def pause_the_broker(self, draw: random.Random) -> None:
        os.kill(self._kafka_pid, signal.SIGSTOP)
        await self._last(draw, 0.5, 12.0)
        os.kill(self._kafka_pid, signal.SIGCONT)

    async def kill_the_broker(self, draw: random.Random) -> None:
        await self._restart_the_broker(draw, signal.SIGKILL)
        self.ended["broker killed"] += 1

    async def restart_the_broker(self, draw: random.Random) -> None:
        await self._restart_the_broker(draw, signal.SIGTERM)
        self.ended["broker terminated"] += 1

    async def _restart_the_broker(self, draw: random.Random, number: int) -> None:
        await _end(self._kafka_pid, number)
        await self._last(draw, 0.0, 10.0)
        self._kafka_pid = await asyncio.to_thread(self._servers.start_kafka)

    # The database

    async def restart_the_database(self, draw: random.Random) -> None:
        number = draw.choice([signal.SIGINT, signal.SIGQUIT])
        await _end(self._postgres_pid, number)
        self.ended["database terminated" if number == signal.SIGINT else "database aborted"] += 1
        await self._last(draw, 0.0, 10.0)
        self._postgres_pid = await asyncio.to_thread(self._servers.start_postgres)

    async def cut_the_databases_connections(self, _: random.Random) -> None:
        await asyncio.to_thread(self._cut_connections)

    async def stall_the_databases_network(self, draw: random.Random) -> None:
        self._database_network.stall()
        await self._last(draw, 0.5, 12.0)
        self._database_network.resume()

    async def lock_the_tables(self, draw: random.Random) -> None:
        with self._database() as cursor:
            await asyncio.to_thread(cursor.execute, "LOCK TABLE news, signals IN ACCESS EXCLUSIVE MODE")
            await self._last(draw, 0.5, 12.0)

    async def turn_the_database_read_only(self, draw: random.Random) -> None:
        await asyncio.to_thread(self._set_read_only, "on")
        await self._last(draw, 0.5, 12.0)
        await asyncio.to_thread(self._set_read_only, "off")

    async def fill_the_databases_disk(self, draw: random.Random) -> None:
        if self._disk is None:
            raise NoDisk
        await asyncio.to_thread(self._disk.fill)
        await self._last(draw, 0.5, 12.0)
        await asyncio.to_thread(self._disk.clear)

    async def deadlock_a_writer(self, _: random.Random) -> None:
        url = self._servers.stack.database_url
        self.ended["transaction in deadlock"] += await asyncio.to_thread(deadlock, url, self._load.coming, DEADLOCK_S)

    def _set_read_only(self, value: str) -> None:
        with self._database() as cursor:
            cursor.execute("SET TRANSACTION READ WRITE")
            cursor.execute("SELECT current_database()")
            cursor.execute(f'ALTER DATABASE "{cursor.fetchone()[0]}" SET default_transaction_read_only = {value}')
        self._cut_connections()

    def _cut_connections(self) -> None:
        with self._database() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )

    @contextmanager
    def _database(self) -> Iterator[Any]:
        connection = psycopg2.connect(self._servers.stack.database_url)
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    async def heal(self) -> None:
        """Undo what an unfinished fault left behind."""
        for pid in (*self._roles.pids.values(), *(worker.pid for worker in self._workers())):
            _signal(pid, signal.SIGCONT)
        for network in (self._network, self._database_network):
            network.delay_s = 0.0
            network.resume()
        _signal(self._kafka_pid, signal.SIGCONT)
        if self._disk is not None:
            await asyncio.to_thread(self._disk.clear)
        if not _alive(self._kafka_pid):
            self._kafka_pid = await asyncio.to_thread(self._servers.start_kafka)
        if not _alive(self._postgres_pid):
            self._postgres_pid = await asyncio.to_thread(self._servers.start_postgres)
        await asyncio.to_thread(self._set_read_only, "off")

    # Processes

    async def _last(self, draw: random.Random, shortest_s: float, longest_s: float) -> None:
        """Wait while a fault lasts, for a random time."""
        await asyncio.sleep(draw.uniform(shortest_s, longest_s) * self._pace)

    async def _pid(self, draw: random.Random) -> int:
        """Return the process id of a role once it runs; it may be ready, or still starting."""
        role = draw.choice(list(Role))
        if draw.random() < AT_WORK:
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    while not self._ready(role):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
        while (pid := self._roles.pids.get(role)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return pid

    async def _worker(self, draw: random.Random) -> psutil.Process:
        """Return a worker of the scoring role's pool, once there is one."""
        choice = draw.random()
        while not (workers := self._workers()):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        return workers[int(choice * len(workers))]

    def _workers(self) -> list[psutil.Process]:
        with suppress(psutil.Error, KeyError):
            return psutil.Process(self._roles.pids[Role.SCORING]).children(recursive=True)
        return []


def _signal(pid: int, number: int) -> bool:
    """Send a signal to a process; return False if another fault has ended it by now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


async def _end(pid: int, number: int) -> None:
    """Send the signal, and wait for the process to end."""
    os.kill(pid, number)
    while _alive(pid):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
