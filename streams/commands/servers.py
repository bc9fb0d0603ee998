"""`earlybell up`, `down` and `status`: the Kafka and Postgres on this machine, and what runs on them."""

from __future__ import annotations

import json
import sys

from earlybell.deploy.local import postgres, stack
from earlybell.inference.kernels import library
from earlybell.streams import health
from earlybell.streams.exit_codes import NOT_RUNNING, UNHEALTHY
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings


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


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the state and addresses of the servers and the roles, and the form of the kernels that this machine runs.

    Returns
    -------
    int
        The exit code: 0 if all are healthy; 1 if a server does not answer or a role that runs is not ready; otherwise
        3 if a role does not run.
    """
    servers = stack.status()
    form, forms, missing = library.chosen_form(), library.forms(), library.missing()
    kernels = {"form": form, "forms": forms, "missing": missing}
    roles = {role: health.report(settings, role) for role in Role}
    if as_json:
        print(json.dumps({**servers, "roles": roles, "kernels": kernels}, indent=2))
    else:
        for name in ("kafka", "postgres"):
            server = servers[name]
            state = "running" if server["healthy"] else "not answering" if server["running"] else "not running"
            print(f"{name:<9} {state:<16} {server['address'] or ''}".rstrip())
        for role, report in roles.items():
            state = "ready" if report["ready"] else "not ready" if report["running"] else "not running"
            details = "; ".join(report["problems"]) if report["running"] else ""
            print(f"{role:<9} {state:<16} {report['url'] if report['running'] else ''}  {details}".rstrip())
        print(f"kernels   {form or 'missing':<16} {missing or 'of ' + ', '.join(forms)}")
        if not servers["running"]:
            print("`earlybell up` starts the servers")
    if not servers["running"] or any(report["running"] and not report["ready"] for report in roles.values()):
        return UNHEALTHY
    return 0 if all(report["running"] for report in roles.values()) else NOT_RUNNING
