"""Removes a worker that was killed from its consumer group.

A killed worker cannot leave its group. The broker learns of its end when its session ends, and only then gives its
partitions to its successor. The successor knows better: its supervisor has seen the predecessor's end.
"""

from __future__ import annotations

from contextlib import closing

import structlog
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.errors import CoordinatorNotAvailableError, KafkaError

from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings

log = structlog.get_logger(__name__)


def remove_predecessors(settings: Settings, group: str, client_id: str) -> int:
    """Remove the members that joined under this client id, which must all be dead, and return their number.

    If the broker does not allow it, their partitions are free when their sessions end.
    """
    try:
        with closing(KafkaAdminClient(**client_options(settings))) as admin:
            described = admin.describe_groups([group])[group]
            members = [
                MemberToRemove(member_id=member["member_id"], reason="the worker was killed")
                for member in described["members"]
                if member["client_id"] == client_id
            ]
            if members:
                admin.remove_group_members(group, members)
    except CoordinatorNotAvailableError:
        return 0  # of a new group
    except KafkaError as error:
        log.warning("predecessor_not_removed", group=group, reason=repr(error))
        return 0
    if members:
        log.info("predecessor_removed", group=group, members=len(members))
    return len(members)
