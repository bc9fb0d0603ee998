"""A Kafka and a Postgres for the faults that stop, pause or kill servers, with the broker behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from earlybell.deploy.local import kafka, processes, stack
from earlybell.deploy.local.stack import Stack
from tests.faults.tcp_proxy import TcpProxy, proxy


@dataclass(frozen=True)
class OwnServers:
    """A private stack whose broker has a second listener, to be reached through a proxy only.

    Attributes
    ----------
    behind, before
        The port of that listener, and the port that the broker tells clients to use instead.
    """

    stack: Stack
    behind: int
    before: int

    @property
    def proxied_bootstrap(self) -> str:
        """``host:port`` of the brokers through the proxy."""
        return f"127.0.0.1:{self.before}"

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[TcpProxy]:
        """Run the proxy to the broker."""
        async with proxy(self.behind, self.before) as forwarding:
            yield forwarding


@contextmanager
def own_servers(home: Path | None = None) -> Iterator[OwnServers]:
    """Start the servers, and stop them afterwards."""
    behind = processes.free_port()
    before = processes.free_port(taken=[behind])
    configure = kafka._configure

    def with_a_second_listener(directory: Path) -> int:
        port = configure(directory)
        properties = directory / "server.properties"
        settings = dict(line.split("=", 1) for line in properties.read_text().splitlines())
        protocols = settings["listener.security.protocol.map"]
        # The last value of a name counts.
        with properties.open("a") as file:
            file.write(f"listeners={settings['listeners']},PROXIED://127.0.0.1:{behind}\n")
            file.write(f"advertised.listeners={settings['advertised.listeners']},PROXIED://127.0.0.1:{before}\n")
            file.write(f"listener.security.protocol.map={protocols},PROXIED:PLAINTEXT\n")
        return port

    with patch.object(kafka, "_configure", with_a_second_listener), stack.running(home) as servers:
        yield OwnServers(servers, behind, before)
