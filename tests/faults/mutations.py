"""Changes that break a promise of delivery: what looks for lost and doubled messages must notice each of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2

import earlybell

PACKAGE = Path(earlybell.__file__).parent


@dataclass(frozen=True)
class Mutation:
    """A change of one file of the package, or of the database.

    Attributes
    ----------
    finding
        The column of the account in which it must show.
    file
        Path in the package; empty if only the database changes.
    old, new
        Text that occurs once in the file, and what takes its place.
    sql
        What changes the database, after its migrations.
    """

    finding: str
    file: str = ""
    old: str = ""
    new: str = ""
    sql: str = ""

    def source(self) -> str:
        """Return the changed file."""
        source = (PACKAGE / self.file).read_text()
        assert source.count(self.old) == 1, f"{self.file} no longer contains what this mutation changes"
        return source.replace(self.old, self.new)


_SETTLE = '        await _retry("settle", lambda: self._settle(items, result))\n'
_ACKNOWLEDGE = "        for waiting in window:\n            waiting.unsettled.settle_one()\n"

MUTATIONS: Mapping[str, Mutation] = {
    # Acknowledged before the rows are committed, or the signals are on the broker.
    "acknowledged-too-early": Mutation(
        "lost", file="streams/windows.py", old=_SETTLE + _ACKNOWLEDGE, new=_ACKNOWLEDGE + _SETTLE
    ),
    # The committed offset is that of the message after the next.
    "offset-off-by-one": Mutation(
        "lost",
        file="streams/offsets.py",
        old="            end = ticket.end\n",
        new="            end = ticket.end + 1\n",
    ),
    "no-unique-keys": Mutation(
        "doubled",
        sql="ALTER TABLE news DROP CONSTRAINT pk_news; ALTER TABLE signals DROP CONSTRAINT pk_signals; "
        "DROP INDEX ix_signals_news_id_model_revision_policy_revision",
    ),
}


@contextmanager
def package_with(mutation: Mutation | None) -> Iterator[Mapping[str, str]]:
    """Yield the environment with which child processes import a changed copy of the package, if a file is changed."""
    if mutation is None or not mutation.file:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="earlybell-mutant-") as directory:
        copy = Path(directory, PACKAGE.name)
        shutil.copytree(PACKAGE, copy)
        (copy / mutation.file).write_text(mutation.source())
        # The working directory, which may contain the package, would come before it.
        yield {"PYTHONPATH": directory, "PYTHONSAFEPATH": "1"}


def change_the_database(mutation: Mutation, url: str) -> None:
    """Execute the mutation's SQL."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(mutation.sql)
