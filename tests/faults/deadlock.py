"""A deadlock between a writer and another session, which takes its locks in the opposite order."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import errors

from tests.faults.load import Revision

_INSERT = (
    'INSERT INTO news (news_id, revision, headline, symbols, published_at, ingested_at, topic, partition, "offset")'
    " VALUES (%s, %s, 'never committed', '{}', now(), now(), 'none', 0, 0)"
)
_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


def deadlock(url: str, coming: Revision, patience_s: float) -> bool:
    """Deadlock the transaction that is about to store a story; return False if none came.

    The writer locks the table, then the story's key. This session holds the key and then requests the table. Postgres
    aborts the session that detects the deadlock first: the writer, which has waited longer.
    """
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        # This session never detects it, and gives up soon after the writer should have.
        cursor.execute("SET deadlock_timeout = '1min'; SET lock_timeout = '5s'")
        deadline = time.monotonic() + patience_s
        try:
            cursor.execute(_INSERT, coming)
            while not _waited_for(cursor):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
            cursor.execute("LOCK TABLE news IN SHARE MODE")
        except (errors.UniqueViolation, errors.LockNotAvailable):
            return False
        finally:
            connection.rollback()
    return True


def _waited_for(cursor: Any) -> bool:
    cursor.execute(_WAITING)
    return bool(cursor.fetchone()[0])
