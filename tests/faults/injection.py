"""Faults that hit servers, processes and the network between them, for as long as a random number wants."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import psycopg2

from earlybell.streams.roles import Role
from earlybell.streams.supervisor import Roles
from tests.faults.own_servers import OwnServers
from tests.faults.tcp_proxy import TcpProxy

Fault = Callable[[random.Random], Awaitable[None]]


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
    """

    def __init__(
        self,
        servers: OwnServers,
        network: TcpProxy,
        database_network: TcpProxy,
        roles: Roles,
        another: Callable[[Role], Roles],
    ) -> None:
        self._servers = servers
        self._network, self._database_network = network, database_network
        self._roles, self._another = roles, another
        self._kafka_pid = servers.stack.kafka.pid or 0
        self._postgres_pid = servers.stack.postgres.pid or 0

    def weights(self) -> Mapping[Fault, int]:
        """Return all faults, and how often each comes relative to the others."""
        return {
            self.kill_a_role: 5,
            self.terminate_a_role: 1,
            self.pause_a_role: 1,
            self.kill_a_pool_worker: 1,
            self.hang_a_pool_worker: 1,
            self.join_a_second_worker: 1,
            self.reset_the_network: 1,
            self.stall_the_network: 1,
            self.half_open_the_network: 1,
            self.slow_the_network: 1,
            self.pause_the_broker: 1,
            self.kill_the_broker: 1,
            self.restart_the_broker: 1,
            self.restart_the_database: 1,
            self.cut_the_databases_connections: 1,
            self.stall_the_databases_network: 1,
            self.lock_the_tables: 1,
            self.turn_the_database_read_only: 1,
        }

    # The roles

    async def kill_a_role(self, draw: random.Random) -> None:
        _signal(await self._pid(draw), signal.SIGKILL)

    async def terminate_a_role(self, draw: random.Random) -> None:
        _signal(await self._pid(draw), signal.SIGTERM)

    async def pause_a_role(self, draw: random.Random) -> None:
        pid = await self._pid(draw)
        _signal(pid, signal.SIGSTOP)
        await asyncio.sleep(draw.uniform(0.5, 12.0))
        _signal(pid, signal.SIGCONT)

    async def kill_a_pool_worker(self, draw: random.Random) -> None:
        worker = await self._worker(draw)
        with suppress(psutil.NoSuchProcess):
            worker.kill()

    async def hang_a_pool_worker(self, draw: random.Random) -> None:
        worker = await self._worker(draw)
        with suppress(psutil.NoSuchProcess):
            worker.suspend()
            await asyncio.sleep(draw.uniform(0.5, 12.0))
            worker.resume()

    async def join_a_second_worker(self, draw: random.Random) -> None:
        async with self._another(draw.choice(list(Role))) as other:
            await asyncio.sleep(draw.uniform(5.0, 15.0))
            if draw.random() < 0.5:
                other.kill()

    # The network to the broker

    async def reset_the_network(self, draw: random.Random) -> None:
        for _ in range(draw.randint(1, 5)):
            self._network.reset()
            await asyncio.sleep(draw.uniform(0.0, 0.5))

    async def stall_the_network(self, draw: random.Random) -> None:
        self._network.stall()
        await asyncio.sleep(draw.uniform(0.5, 12.0))
        self._network.resume()

    async def half_open_the_network(self, _: random.Random) -> None:
        self._network.half_open()

    async def slow_the_network(self, draw: random.Random) -> None:
        self._network.delay_s = draw.uniform(0.01, 0.5)
        await asyncio.sleep(draw.uniform(1.0, 6.0))
        self._network.delay_s = 0.0

    # The broker

    async def pause_the_broker(self, draw: random.Random) -> None:
        os.kill(self._kafka_pid, signal.SIGSTOP)
        await asyncio.sleep(draw.uniform(0.5, 12.0))
        os.kill(self._kafka_pid, signal.SIGCONT)

    async def kill_the_broker(self, draw: random.Random) -> None:
        await self._restart_the_broker(draw, signal.SIGKILL)

    async def restart_the_broker(self, draw: random.Random) -> None:
        await self._restart_the_broker(draw, signal.SIGTERM)

    async def _restart_the_broker(self, draw: random.Random, number: int) -> None:
        await _end(self._kafka_pid, number)
        await asyncio.sleep(draw.uniform(0.0, 10.0))
        self._kafka_pid = await asyncio.to_thread(self._servers.start_kafka)

    # The database

    async def restart_the_database(self, draw: random.Random) -> None:
        await _end(self._postgres_pid, draw.choice([signal.SIGINT, signal.SIGQUIT]))
        await asyncio.sleep(draw.uniform(0.0, 10.0))
        self._postgres_pid = await asyncio.to_thread(self._servers.start_postgres)

    async def cut_the_databases_connections(self, _: random.Random) -> None:
        await asyncio.to_thread(self._cut_connections)

    async def stall_the_databases_network(self, draw: random.Random) -> None:
        self._database_network.stall()
        await asyncio.sleep(draw.uniform(0.5, 12.0))
        self._database_network.resume()

    async def lock_the_tables(self, draw: random.Random) -> None:
        with self._database() as cursor:
            await asyncio.to_thread(cursor.execute, "LOCK TABLE news, signals IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(draw.uniform(0.5, 12.0))

    async def turn_the_database_read_only(self, draw: random.Random) -> None:
        def turn(value: str) -> None:
            with self._database() as cursor:
                cursor.execute("SET TRANSACTION READ WRITE")
                cursor.execute("SELECT current_database()")
                cursor.execute(f'ALTER DATABASE "{cursor.fetchone()[0]}" SET default_transaction_read_only = {value}')
            self._cut_connections()

        await asyncio.to_thread(turn, "on")
        await asyncio.sleep(draw.uniform(0.5, 12.0))
        await asyncio.to_thread(turn, "off")

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

    # Processes

    async def _pid(self, draw: random.Random) -> int:
        """Return the process id of a role, once it runs."""
        role = draw.choice(list(Role))
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


def _signal(pid: int, number: int) -> None:
    """Send a signal to a role, which another fault may have ended by now."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


async def _end(pid: int, number: int) -> None:
    """Send the signal, and wait for the process to end."""
    os.kill(pid, number)
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
