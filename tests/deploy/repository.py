"""A small Maven repository on the loopback interface, with the faults that a real one can have."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Fault = Literal["missing", "wrong", "cut off", "stalled", "unavailable"]


class Repository:
    """Serves three jars by their coordinates.

    Attributes
    ----------
    faults
        What goes wrong with a jar, by file name, and how often; after that it is served as it should be.
    requests
        The paths that were asked for.
    """

    def __init__(self) -> None:
        self.jars = {f"org.example:{name}:1.0": name.encode() * 50_000 for name in ("kafka_2.13", "clients", "logging")}
        self.faults: dict[str, tuple[Fault, int]] = {}
        self.requests: list[str] = []
        self.authorizations: set[str | None] = set()
        self.url = ""

    @property
    def file_names(self) -> list[str]:
        return sorted(file_name(coordinate) for coordinate in self.jars)

    def write_pins(self, file: Path) -> None:
        """Write the list of jars as it is committed for the real ones."""
        lines = [f"{coordinate}  {hashlib.sha256(jar).hexdigest()}\n" for coordinate, jar in self.jars.items()]
        file.write_text("# A comment.\n" + "".join(lines))

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        self.authorizations.add(request.headers["Authorization"])
        paths = {f"/maven2/org/example/{c.split(':')[1]}/1.0/{file_name(c)}": jar for c, jar in self.jars.items()}
        jar = paths.get(request.path)
        name = request.path.rpartition("/")[2]
        fault, times = self.faults.get(name, (None, 0))
        if fault is not None:
            self.faults[name] = (fault, times - 1)
        if times <= 0:
            fault = None
        if jar is None or fault == "missing":
            request.send_error(404)
            return
        if fault == "unavailable":
            request.send_error(503)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(jar)))
        request.end_headers()
        if fault == "wrong":
            jar = jar[:-1] + b"?"
        if fault in ("cut off", "stalled"):
            jar = jar[: len(jar) // 2]
        request.wfile.write(jar)
        request.wfile.flush()
        if fault == "stalled":
            time.sleep(60)


def file_name(coordinate: str) -> str:
    _, name, version = coordinate.split(":")
    return f"{name}-{version}.jar"


@contextmanager
def serving() -> Iterator[Repository]:
    repository = Repository()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            repository.respond(self)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        repository.url = f"http://127.0.0.1:{server.server_port}/maven2"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield repository
        server.shutdown()
