"""Writes batches of news and signals, and stores each row once, however often it is submitted.

A row is a tuple of all its values, or a mapping from names of columns to values (`copying.Row`); this module does not
know where rows come from. A batch is one transaction.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from types import TracebackType
from typing import Any, Self

import psycopg2
from psycopg2.errors import UniqueViolation
from sqlalchemy import Connection, Table, event

from earlybell.storage import connection as connections
from earlybell.storage import driver
from earlybell.storage.copying import OPTIONS, Lines, Row
from earlybell.storage.exceptions import StorageUnavailable
from earlybell.storage.tables import news, signals

#: Bytes per COPY, which limits how much of a batch is in memory twice.
MAX_COPY_BYTES = 16 * 2**20
#: Bytes that the driver reads at once. Its default is 8 KiB.
_READ_BYTES = 2**20
#: A row's values, in the order of the columns.
Values = tuple[Any, ...]
_ANOTHER_TEXT = "this revision was stored before with another text: a correction needs a higher revision"


@dataclass(frozen=True, slots=True)
class RowRefused:
    """A row that the database will never accept."""

    index: int  # in the batch as submitted
    reason: str  # one line


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a batch: every row that is not refused is now in the database."""

    new: int  # rows that were not in the database before
    refused: tuple[RowRefused, ...] = ()


class Writer:
    """Appends to the ``news`` and ``signals`` tables.

    It connects with the first batch, and reconnects after a connection is lost, and after the database has refused to
    write (after a failover, the connection may still lead to the old primary). Threads may share it: two of them write
    at the same time, a third waits.

    Parameters
    ----------
    url
        The database. It may name several hosts: the one that takes writes is used.
    statement_timeout_s
        Give up a statement that takes longer; the batch then counts as not written.
    connection_lost
        Called when a connection turns out to be broken, from any thread.

    Rows go straight into the table by COPY, which has no ON CONFLICT: only if a row is known already are the known ones
    looked up and left out. The statements contain no rows, so a server that logs the statement of an error does not
    log the news.

    Measured in batches of 2,000 against PostgreSQL 18, in microseconds of processor time per row (client and server, on
    a Zen 3 with other load): signals 31 and 19, news 31 and 11. As one JSON parameter with ON CONFLICT they took 25 and
    44, and 25 and 21.
    """

    def __init__(
        self, url: str, *, statement_timeout_s: float = 60.0, connection_lost: Callable[[], object] = lambda: None
    ) -> None:
        self._url = url
        self._engine = connections.create(url, writes=True)
        self._limits = driver.limits(statement_timeout_s)
        event.listen(self._engine, "invalidate", lambda *_: connection_lost())
        self._repeating: set[str] = set()  # the tables whose last batch had rows that were known

    def write_news(self, rows: Sequence[Row]) -> Written:
        """Append the rows whose (news_id, revision) is new, in one transaction.

        The first row of a key stays. Another one is known if it has the same text (headline and body), whatever else
        is in it, and is refused if its text differs: a correction needs a revision of its own.

        Parameters
        ----------
        rows
            Values for the columns of ``storage.tables.news``: mappings by name, of which a missing column is null, or
            tuples in the order of the columns. Times are aware datetimes; symbols is a list of strings.

        Returns
        -------
        Written
            The number of new rows, and the rows that the database refuses, each with the reason. All others are
            stored.

        Raises
        ------
        StorageUnavailable
            As far as is known, nothing was written; submit the same rows again later.
        SchemaMismatch
            The tables are missing, or are not those of this version.
        StorageError
            The database's user may not write.
        ValueError
            A row names a column that the table does not have, or is a tuple of another length.
        """
        return self._write(_NEWS, rows)

    def write_signals(self, rows: Sequence[Row]) -> Written:
        """Append the rows whose signal_id, and whose (news_id, revision, model_revision, policy), is new.

        Like `write_news`; the text is compared by its hash, which signals of earlier versions do not have.
        ``probabilities`` is a mapping from class to probability.
        """
        return self._write(_SIGNALS, rows)

    def ping(self) -> None:
        """Return if the database answers and takes writes.

        Raises
        ------
        StorageUnavailable
            It does not; another batch will fail, too.
        """
        with connections.typed_errors(self._url), self._engine.connect() as connection:
            if connection.exec_driver_sql("SHOW transaction_read_only").scalar() != "off":
                raise StorageUnavailable(f"{driver.parse(self._url).address}: the server is read-only")

    def close(self) -> None:
        """Close the connections; another batch opens new ones."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _write(self, into: _Target, rows: Sequence[Row]) -> Written:
        submitted, refused = into.encode(rows)
        new = 0
        if submitted:
            try:
                with connections.typed_errors(self._url), self._engine.begin() as connection:
                    connection.exec_driver_sql(self._limits)
                    batch = _Batch(connection, into, refused)
                    for part in _parts(submitted):
                        # While messages are read again, a COPY that fails would come before each look-up.
                        new += batch.append(part, look_first=into.name in self._repeating)
            except StorageUnavailable:
                # Also if the connection is alive: it may lead to a server that is a replica by now.
                self._engine.dispose()
                raise
            (self._repeating.add if batch.known else self._repeating.discard)(into.name)
        return Written(new, tuple(sorted(refused, key=lambda row: row.index)))


@dataclass(slots=True)
class _Submitted:
    """A row of a batch that could be encoded."""

    index: int
    values: Values
    line: bytes


def _picker(table: Table, *columns: str) -> Callable[[Values], Values]:
    """Return what takes the values of some columns out of a row."""
    places = [table.columns.keys().index(column) for column in columns]
    if len(places) > 1:
        return itemgetter(*places)
    (only,) = places
    return lambda values: (values[only],)


class _Key:
    """Columns that are unique together, and how Postgres calls an array of each.

    ``of`` returns their values in a row.
    """

    def __init__(self, table: Table, columns: Sequence[str], arrays: Sequence[str]) -> None:
        self.columns, self.arrays = tuple(columns), tuple(arrays)
        self.of = _picker(table, *columns)


class _Target:
    """A table that rows are appended to, its unique keys, and what tells two texts apart.

    Parameters
    ----------
    text
        What tells the text of a stored row from another, in SQL.
    text_of
        The same of a row's values, or None if it is not known.
    """

    def __init__(self, table: Table, keys: Sequence[_Key], text: str, text_of: Callable[[Values], str | None]) -> None:
        self.name = table.name
        self.text_of = text_of
        self._lines = Lines(table)
        columns = ", ".join(f'"{name}"' for name in self._lines.columns)
        self.copy = f"COPY {table.name} ({columns}) FROM STDIN {OPTIONS}"
        self.keys = tuple(keys)
        self.lookups = tuple(
            f"SELECT {', '.join(key.columns)}, {text} FROM {table.name}"
            f" JOIN unnest({', '.join(f'%s::{array}' for array in key.arrays)}) AS k ({', '.join(key.columns)})"
            f" USING ({', '.join(key.columns)})"
            for key in keys
        )

    def encode(self, rows: Sequence[Row]) -> tuple[list[_Submitted], list[RowRefused]]:
        """Return the rows as lines, sorted by key, and the rows that cannot be encoded."""
        submitted: list[_Submitted] = []
        refused: list[RowRefused] = []
        for index, row in enumerate(rows):
            self._lines.check_columns(row)
            try:
                values = self._lines.values(row)
                submitted.append(_Submitted(index, values, self._lines.line(values)))
            except ValueError as error:
                refused.append(RowRefused(index, str(error)))
        # Writers that insert the same rows in different orders would deadlock. The last key is the story's own; of two
        # rows that have the same, the earlier stays the first.
        key = self.keys[-1].of
        try:
            submitted.sort(key=lambda one: key(one.values))
        except TypeError:  # None has no place among other values; the database will refuse it
            submitted.sort(key=lambda one: [(value is not None, value) for value in key(one.values)])
        return submitted, refused


_headline_and_body = _picker(news, "headline", "body")
_text_hash = _picker(signals, "text_hash")


def _news_text(values: Values) -> str:
    headline, body = _headline_and_body(values)
    return sha256(f"{headline}\n{body or ''}".encode()).hexdigest()


def _signal_text(values: Values) -> str | None:
    return _text_hash(values)[0]  # type: ignore[no-any-return]  # None in signals of earlier versions


_NEWS = _Target(
    news,
    [_Key(news, ("news_id", "revision"), ("text[]", "int[]"))],
    "encode(sha256(convert_to(headline || E'\\n' || coalesce(body, ''), 'UTF8')), 'hex')",
    _news_text,
)
_SIGNALS = _Target(
    signals,
    [
        _Key(signals, ("signal_id",), ("text[]",)),
        _Key(signals, ("news_id", "revision", "model_revision", "policy"), ("text[]", "int[]", "text[]", "text[]")),
    ],
    "text_hash",
    _signal_text,
)


class _Batch:
    """Appends the rows of one transaction.

    Attributes
    ----------
    known
        How many rows were in the table already.
    """

    def __init__(self, connection: Connection, into: _Target, refused: list[RowRefused]) -> None:
        self.known = 0
        self._connection = connection
        self._into = into
        self._refused = refused

    def append(self, rows: list[_Submitted], *, look_first: bool = False) -> int:
        """Append the rows that are new, and return how many these are."""
        new = 0
        rows, repeated = self._look_up(rows) if look_first else (rows, [])
        while rows:
            try:
                self._copy(rows)
                new += len(rows)
                break
            except psycopg2.Error as error:
                if isinstance(error, UniqueViolation):
                    left, more = self._look_up(rows)
                    repeated += more
                    if len(left) < len(rows):
                        rows = left  # once is enough, unless another writer stores the same rows at the same time
                        continue
                reason = driver.row_at_fault(error)
                if reason is None:
                    raise
                at = _row_at_fault(error, rows)
                if at is None and len(rows) > 1:
                    middle = len(rows) // 2
                    new += self.append(rows[:middle])
                    rows = rows[middle:]
                    continue
                at = at or 0
                new += self.append(rows[:at])
                self._refused.append(RowRefused(rows[at].index, reason))
                rows = rows[at + 1 :]
        # Only now is it known whether the first row of their key is stored.
        return new + self.append(repeated, look_first=True) if repeated else new

    def _copy(self, rows: Sequence[_Submitted]) -> None:
        """Append the rows, or none of them and leave the transaction usable."""
        lines = io.BytesIO(b"".join([one.line for one in rows]))
        with self._cursor() as cursor:
            cursor.execute("SAVEPOINT before_copy")
            try:
                cursor.copy_expert(self._into.copy, lines, _READ_BYTES)
            except psycopg2.Error:
                if cursor.connection.closed:
                    self._connection.invalidate()
                else:
                    cursor.execute("ROLLBACK TO SAVEPOINT before_copy")
                raise

    def _look_up(self, rows: list[_Submitted]) -> tuple[list[_Submitted], list[_Submitted]]:
        """Leave out the rows whose key is stored, and refuse those of them that have another text.

        Return the others: the first of each key, and those that repeat a key within the batch.
        """
        stored: dict[tuple[Any, ...], str | None] = {}
        with self._cursor() as cursor:
            for key, lookup in zip(self._into.keys, self._into.lookups, strict=True):
                values = [list(column) for column in zip(*(key.of(one.values) for one in rows), strict=True)]
                cursor.execute(lookup, values)
                stored.update(((*key.columns, *found[:-1]), found[-1]) for found in cursor)
        first, repeated = [], []
        seen: set[tuple[Any, ...]] = set()
        for one in rows:
            keys = [(*key.columns, *key.of(one.values)) for key in self._into.keys]
            texts = {stored[key] for key in keys if key in stored}
            if texts:
                text = self._into.text_of(one.values)
                if text is None or texts <= {text, None}:
                    self.known += 1
                else:
                    self._refused.append(RowRefused(one.index, _ANOTHER_TEXT))
            elif seen.isdisjoint(keys):
                first.append(one)
                seen.update(keys)
            else:
                repeated.append(one)
        return first, repeated

    def _cursor(self) -> Any:
        return self._connection.connection.cursor()


def _parts(rows: list[_Submitted]) -> Iterator[list[_Submitted]]:
    start = size = 0
    for end, one in enumerate(rows):
        if end > start and size + len(one.line) > MAX_COPY_BYTES:
            yield rows[start:end]
            start, size = end, 0
        size += len(one.line)
    yield rows[start:]


def _row_at_fault(error: psycopg2.Error, rows: Sequence[_Submitted]) -> int | None:
    """Return the index of the row that the database was at: it names the line in the context of the error."""
    found = re.search(r"COPY\D*(\d+)", error.diag.context or "")
    lines_left = int(found[1]) if found else 0
    for index, one in enumerate(rows if found else ()):
        lines_left -= one.line.count(b"\n")  # a text may have several
        if lines_left <= 0:
            return index
    return None
