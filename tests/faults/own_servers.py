"""A Kafka and a Postgres for the faults that stop, pause or kill servers, with the broker behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

from earlybell.deploy.local import kafka, postgres, processes, stack
from earlybell.deploy.local.stack import START_SECONDS, Stack
from earlybell.deploy.local.waiting import Patience
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

    def database_through(self, port: int) -> str:
        """Return the database's URL, with another port."""
        url = urlsplit(self.stack.database_url)
        return url._replace(netloc=url.netloc.replace(f":{url.port}", f":{port}")).geturl()

    @property
    def database_port(self) -> int:
        """The port on which the database listens."""
        return urlsplit(self.stack.database_url).port or 5432

    def start_kafka(self) -> int:
        """Start the broker on its data and ports, wait until it answers, and return its process id."""
        _wait_until_free(int(self.stack.kafka_bootstrap.rpartition(":")[2]), self.behind)
        server = kafka.start(self.stack.home, _ignore, Patience(START_SECONDS), _ignore)
        assert server.address == self.stack.kafka_bootstrap, "the broker must come back where the clients look for it"
        return server.pid or 0

    def start_postgres(self) -> int:
        """Start the database on its data and port, wait until it answers, and return its process id."""
        _wait_until_free(self.database_port)
        server = postgres.start(self.stack.home, _ignore, Patience(START_SECONDS), lasting=False)
        assert server.address == self.stack.database_url
        return server.pid or 0

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[TcpProxy]:
        """Run the proxy to the broker."""
        async with proxy(self.behind, self.before) as forwarding:
            yield forwarding


@contextmanager
def own_servers(home: Path | None = None, tls: Mapping[str, str] | None = None) -> Iterator[OwnServers]:
    """Start the servers, and stop them afterwards.

    Parameters
    ----------
    tls
        Settings of the second listener, which then speaks TLS.
    """
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
            file.write(f"listener.security.protocol.map={protocols},PROXIED:{'SSL' if tls else 'PLAINTEXT'}\n")
            file.writelines(f"listener.name.proxied.{name}={value}\n" for name, value in (tls or {}).items())
        return port

    with patch.object(kafka, "_configure", with_a_second_listener), stack.running(home) as servers:
        yield OwnServers(servers, behind, before)


def _wait_until_free(*ports: int) -> None:
    """Wait until no other program's connection occupies these ports."""
    patience = Patience(START_SECONDS)
    free = patience.until(lambda: all(processes.free_port(port) == port for port in ports), while_=lambda: True)
    assert free, f"one of the ports {ports} stays taken"


def _ignore(_: object) -> None:
    return None
