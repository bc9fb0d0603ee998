"""Checks what the roles need before they start, so that whatever is missing is reported once, and immediately.

Each role checks the same again when it starts, as it may run by itself and later.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from earlybell.inference.pool.devices import devices
from earlybell.storage import schema
from earlybell.streams.exceptions import CommandError
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.topics import check_topics, create_topics


def check(settings: Settings, roles: Collection[Role]) -> None:
    """Check model, broker, topics and database; create the topics that are missing.

    Raises
    ------
    UserError
        What is missing: of several, the first that a user would mend.
    """
    if Role.SCORING in roles:
        devices(settings.devices)
        if settings.checkpoint is not None and not (settings.checkpoint / "manifest.json").is_file():
            raise CommandError(f"EARLYBELL_CHECKPOINT={settings.checkpoint} is no checkpoint: it has no manifest.json")
    with ThreadPoolExecutor(2) as threads:
        topics = threads.submit(_topics, settings)
        database = threads.submit(schema.check, settings.database) if Role.STORING in roles else None
    topics.result()
    if database is not None:
        database.result()


def _topics(settings: Settings) -> None:
    create_topics(settings)
    check_topics(settings)
