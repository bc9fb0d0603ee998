"""`earlybell up` and `down`: the Kafka and Postgres on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from earlybell.deploy.local import postgres, stack


def up() -> None:
    """Start the servers and print their addresses.

    Raises
    ------
    StackError
        They cannot be started.
    """
    servers = stack.up(progress=lambda line: print(line, file=sys.stderr))
    for server, address in (
        (servers.kafka, servers.kafka_bootstrap),
        (servers.postgres, postgres.without_password(servers.database_url)),
    ):
        known = "already running" if server.ours else "your own"
        print(f"{server.name:<9} {'started' if server.name in servers.started else known:<16} {address}")
    if servers.started:
        print("Next: `earlybell db upgrade`, then `earlybell run`. `earlybell down` stops the servers.")


def down(*, purge: bool) -> None:
    """Stop the servers; print which ones were running, and what was deleted."""
    sizes = {directory: _bytes(directory) for directory in stack.directories()} if purge else {}
    stopped = stack.down(purge=purge)
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
    for directory, size in sizes.items():
        print(f"{'could not delete' if directory.exists() else 'deleted'}: {directory} ({size / 1e6:,.0f} MB)")
    if purge and not sizes:
        print("there was nothing to delete")


def _bytes(directory: Path) -> int:
    return sum(file.lstat().st_size for file in directory.rglob("*") if not file.is_dir())
