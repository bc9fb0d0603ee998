"""`earlybell up`, `down` and `status`: the Kafka and Postgres that Earlybell runs on this machine."""

from __future__ import annotations

import json
import sys

from earlybell.deploy.local import postgres, stack


def up() -> None:
    """Start the servers and print their addresses.

    Raises
    ------
    StackError
        They cannot be started.
    """
    servers = stack.up(progress=lambda line: print(line, file=sys.stderr))
    print(f"Kafka     {servers.kafka_bootstrap}\nPostgres  {postgres.without_password(servers.database_url)}")
    print("Next: `earlybell db upgrade`, then `earlybell run`. `earlybell down` stops the servers.")


def down(*, purge: bool) -> None:
    """Stop the servers and print which ones were running."""
    stopped = stack.down(purge=purge)
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def status(*, as_json: bool) -> None:
    """Print the servers' state and addresses."""
    report = stack.status()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for name in ("kafka", "postgres"):
        server = report[name]
        state = "running" if server["healthy"] else "not answering" if server["running"] else "not running"
        print(f"{name:<9} {state:<16} {server['address'] or ''}")
    if not report["running"]:
        print("`earlybell up` starts them")
