"""``python -m earlybell.streams.health ROLE``: exit code 0 while a worker of the role is in the consumer group.

For the health checks of containers: a process may live and yet have lost its brokers. It asks the broker, which is the
one that hands out the work, and knows nothing of what the role does.
"""

from __future__ import annotations

import socket
import sys

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from earlybell.streams.brokers import client_options
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings


def working(settings: Settings, role: str, hosts: set[str] | None = None) -> bool:
    """Whether the role's consumer group is at work, with a member among `hosts` where these are given.

    Parameters
    ----------
    hosts
        Addresses of which one has to be a member's.
    """
    group = settings.consumer_group(role)
    try:
        admin = KafkaAdminClient(**client_options(settings))
        try:
            found = admin.describe_groups([group])[group]
        finally:
            admin.close()
    except (KafkaError, KeyError):
        return False
    members = {member["client_host"].lstrip("/") for member in found["members"]}
    return found["group_state"] == "Stable" and bool(members & hosts if hosts is not None else members)


def own_addresses() -> set[str]:
    """The addresses by which this machine is known to others."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


if __name__ == "__main__":
    sys.exit(0 if working(Settings(), Role(sys.argv[1]), own_addresses()) else 1)
