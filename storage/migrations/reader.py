"""The read-only role, which strategies and researchers connect as or are members of."""

from __future__ import annotations

import logging

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

#: A group role without a login. Grant it to users: ``GRANT earlybell_reader TO alice``.
ROLE = "earlybell_reader"

_log = logging.getLogger(__name__)

# Roles belong to the whole server: another database's upgrade may create this one at the same time.
_CREATE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$
"""
_GRANT = f"""
DO $$ BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema());
    GRANT SELECT ON news, signals TO {ROLE};
    GRANT EXECUTE ON FUNCTION
        signals_as_of(timestamptz),
        symbol_bars(interval, timestamptz, timestamptz, text),
        symbol_sentiment_as_of(timestamptz, interval)
    TO {ROLE};
END $$
"""


def grant(connection: Connection) -> None:
    """Create the role if it is missing, and let it read everything and change nothing.

    A user who may not create roles still gets the schema; a warning then says what an administrator has to run.
    """
    for statement in (_CREATE, _GRANT):
        try:
            with connection.begin_nested():
                connection.execute(text(statement))
        except ProgrammingError as error:
            if getattr(error.orig, "pgcode", None) != "42501":  # insufficient_privilege
                raise
            _log.warning(
                "this user may not set up the read-only role: ask an administrator to run `CREATE ROLE %s NOLOGIN`, "
                "then run `earlybell db upgrade` again as the owner of the tables",
                ROLE,
            )
            return
