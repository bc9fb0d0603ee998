"""``python -m earlybell.streams.health ROLE``: exit with 0 while a worker of the role is in its consumer group.

For the health checks of containers: a process may be alive and yet have lost its brokers. So this asks the broker,
which hands out the work, and knows nothing of what the role does.
"""

from __future__ import annotations

import socket
import sys

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from earlybell.streams.brokers import client_options
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings, load_settings


def working(settings: Settings, role: str, hosts: set[str] | None = None) -> bool:
    """Return whether the role's consumer group is stable and has a member, on one of `hosts` if these are given."""
    group = settings.consumer_group(role)
    try:
        admin = KafkaAdminClient(**client_options(settings))
        try:
            description = admin.describe_groups([group])[group]
        finally:
            admin.close()
    except (KafkaError, KeyError):
        return False
    members = {member["client_host"].lstrip("/") for member in description["members"]}
    return description["group_state"] == "Stable" and bool(members & hosts if hosts is not None else members)


def own_addresses() -> set[str]:
    """Return the addresses by which other machines know this one."""
    try:
        return {str(address[0]) for *_, address in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


if __name__ == "__main__":
    sys.exit(0 if working(load_settings(), Role(sys.argv[1]), own_addresses()) else 1)
