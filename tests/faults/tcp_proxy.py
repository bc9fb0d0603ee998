"""A TCP proxy that can break its connections: drop, stall, reset or slow them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpProxy:
    """Forwards connections to one address.

    Attributes
    ----------
    port
        Where it listens, on the loopback interface.
    delay_s
        How long every piece of data is held back.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self._flowing = _set()
        self._dead: list[asyncio.Event] = []
        self.delay_s = 0.0
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen: on any free port, or on the one given."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and reset every connection: for clients, the server is gone."""
        if self._server is not None:
            self._server.close()
        for flowing in self._dead:
            flowing.set()
        self.resume()
        self.reset()
        await asyncio.gather(*self._forwarding)

    def lead_to(self, port: int) -> None:
        """Forward new connections to another port from now on."""
        self._target = self._target[0], port

    def stall(self) -> None:
        """Forward nothing until `resume`, without either side noticing."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward what is waiting, and what follows."""
        self._flowing.set()

    def half_open(self) -> None:
        """Never forward anything on the present connections again, without either side noticing: a dead router."""
        self._flowing.clear()
        # Without this reference the tasks that wait for the event are collected, which closes their connections.
        self._dead.append(self._flowing)
        self._flowing = _set()  # for new connections

    def reset(self) -> None:
        """Abort every connection."""
        for writer in list(self._connections):
            with contextlib.suppress(OSError):
                # Closing with SO_LINGER at 0 sends a reset instead of an orderly end.
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, far_writer}
        flowing = self._flowing
        both = self._carry(reader, far_writer, flowing), self._carry(far_reader, writer, flowing)
        tasks = {asyncio.create_task(carry) for carry in both}
        self._forwarding |= tasks
        try:
            await asyncio.gather(*tasks)
        finally:
            self._connections -= {writer, far_writer}
            self._forwarding -= tasks

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(self.delay_s)
                await flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@asynccontextmanager
async def proxy(target: int, port: int = 0) -> AsyncIterator[TcpProxy]:
    """Run a proxy on the loopback interface, from `port` to the port `target`."""
    forwarding = TcpProxy("127.0.0.1", target)
    await forwarding.start(port)
    try:
        yield forwarding
    finally:
        await forwarding.stop()
