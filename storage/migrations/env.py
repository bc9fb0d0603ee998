"""What Alembic runs for each command: it works in the transaction that `storage.migrations` has opened.

It does not know the tables of today: a step's SQL, names and all, is what the step itself writes out.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
