"""Rows as lines of COPY's text format (https://www.postgresql.org/docs/current/sql-copy.html).

Pure: it knows the columns' types, and nothing of connections. What can be seen to be wrong with a row without asking
the database is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Double, Integer, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

#: A larger row is refused without sending it. The contract's largest message is 1 MiB.
MAX_ROW_BYTES = 64 * 2**20

Row = Mapping[str, Any]

_SPECIAL = re.compile(r"[\\\n\r\t\0]")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_QUOTED = re.compile(r'(["\\])')
_to_json = msgspec.json.Encoder().encode


class Lines:
    """Encodes the rows of one table.

    Attributes
    ----------
    columns
        The names of the columns, in the order of a line's fields.
    """

    def __init__(self, table: Table) -> None:
        self.columns = tuple(column.name for column in table.columns)
        self._table = table.name
        self._known = frozenset(self.columns)
        self._fields = [(column.name, _ENCODERS[type(column.type)]) for column in table.columns]

    def check_columns(self, row: Row) -> None:
        """Raise ``ValueError`` if the row names a column that the table does not have."""
        if not row.keys() <= self._known:
            raise ValueError(f"{self._table} has no column {', '.join(sorted(row.keys() - self._known))}")

    def line(self, row: Row) -> bytes:
        """Return the line of a row; a missing column is null.

        Raises
        ------
        ValueError
            The row can never be stored. The text says why, in one line.
        """
        fields = []
        for name, encode in self._fields:
            value = row.get(name)
            try:
                fields.append("\\N" if value is None else encode(value))
            except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
                raise ValueError(f"{name} {error}") from error
        try:
            line = ("\t".join(fields) + "\n").encode()
        except UnicodeEncodeError:  # quotes the whole text
            raise ValueError("not UTF-8: a lone surrogate") from None
        if len(line) > MAX_ROW_BYTES:
            raise ValueError(f"the row has {len(line)} bytes; the limit is {MAX_ROW_BYTES}")
        return line


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("is not a string")
    return _SPECIAL.sub(_escape, value) if _SPECIAL.search(value) else value


def _escape(match: re.Match[str]) -> str:
    if match[0] == "\0":
        raise ValueError("has U+0000 in it")
    return _ESCAPES[match[0]]


def _integer(bits: int) -> Callable[[Any], str]:
    limit = 2 ** (bits - 1)

    def encode(value: Any) -> str:
        if not isinstance(value, int):
            raise TypeError("is not an integer")
        if not -limit <= value < limit:
            raise ValueError(f"is out of range for {bits} bits")
        return str(value)

    return encode


def _double(value: Any) -> str:
    if not isinstance(value, (float, int)) or value - value != 0:
        raise ValueError("is not a finite number")
    return repr(value)


def _moment(value: Any) -> str:
    # Postgres would accept text such as "yesterday", and read a time without an offset in the session's zone.
    if not isinstance(value, datetime):
        raise TypeError("is not a datetime")
    if value.utcoffset() is None:
        raise ValueError("has no offset from UTC")
    return value.isoformat()


def _texts(value: Any) -> str:
    if not isinstance(value, (list, tuple)) or not all(isinstance(element, str) for element in value):
        raise TypeError("is not a list of strings")
    return _text("{" + ",".join('"' + _QUOTED.sub(r"\\\1", element) + '"' for element in value) + "}")


def _json(value: Any) -> str:
    return _text(_to_json(value).decode())


_ENCODERS: dict[type, Callable[[Any], str]] = {
    Text: _text,
    Integer: _integer(32),
    BigInteger: _integer(64),
    Double: _double,
    TIMESTAMP: _moment,
    ARRAY: _texts,
    JSONB: _json,
}
