"""Run by Alembic for each command, in the transaction that `storage.migrations` has opened.

It does not know ``storage.tables``: each migration contains its own SQL.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
