"""Rows as lines of COPY's CSV format (https://www.postgresql.org/docs/current/sql-copy.html).

Pure: it knows the columns' types, and nothing of connections. What can be seen to be wrong with a row without asking
the database is refused here.

A JSON array without its brackets is such a line: strings in double quotes, in which a backslash escapes quotes and
itself, and a bare ``null``. So msgspec encodes a row in one call; only control characters, for which JSON has escapes
that CSV does not have, are written out by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import BigInteger, Double, Integer, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

#: The options of COPY that make it read our lines.
OPTIONS = r"(FORMAT csv, NULL 'null', ESCAPE '\')"
#: A larger row is refused without sending it. The contract's largest message is 1 MiB.
MAX_ROW_BYTES = 64 * 2**20

#: All values, in the order of the columns, from a source that has checked their types: here only the range of integers
#: is. Or a mapping from names of columns to values, whose types are checked here, which takes about twice as long.
Row = tuple[Any, ...] | Mapping[str, Any]

#: The largest value of each kind of integer.
_LARGEST: dict[type, int] = {Integer: 2**31 - 1, BigInteger: 2**63 - 1}
_TYPES: dict[type, Any] = {
    Text: str,
    **{kind: Annotated[int, Meta(ge=-largest - 1, le=largest)] for kind, largest in _LARGEST.items()},
    Double: float,
    # Postgres would accept text such as "yesterday", and read a time without an offset in the session's zone.
    TIMESTAMP: Annotated[datetime, Meta(tz=True)],
    ARRAY: list[str],
    JSONB: dict[str, float],
}
_JSON_ESCAPE = re.compile(rb'\\[^"\\]')
_CONTROL = re.compile(r"\\(?:([\"\\])|u([0-9a-f]{4})|([bfnrt]))")
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
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
        self.columns = tuple(str(column.name) for column in table.columns)
        self._table = table.name
        self._known = frozenset(self.columns)
        kinds = [type(column.type) for column in table.columns]
        fields = [(name, _TYPES[kind] | None, None) for name, kind in zip(self.columns, kinds, strict=True)]
        self._checked = msgspec.defstruct(table.name, fields, array_like=True)
        self._lists = [place for place, kind in enumerate(kinds) if kind is ARRAY]
        self._objects = [place for place, kind in enumerate(kinds) if kind is JSONB]
        self._integers = [(place, _LARGEST[kind]) for place, kind in enumerate(kinds) if kind in _LARGEST]

    def check_columns(self, row: Row) -> None:
        """Raise ``ValueError`` if the row names a column that the table does not have, or lacks values."""
        if isinstance(row, tuple):
            if len(row) != len(self.columns):
                raise ValueError(f"{self._table} has {len(self.columns)} columns; the row has {len(row)} values")
        elif not row.keys() <= self._known:
            raise ValueError(f"{self._table} has no column {', '.join(sorted(row.keys() - self._known))}")

    def values(self, row: Row) -> tuple[Any, ...]:
        """Return the values of a row in the order of the columns; a missing column is null.

        Raises
        ------
        ValueError
            A value does not fit its column. The text says why, in one line.
        """
        if isinstance(row, tuple):
            # JSON's integers have no limit, and a look-up by one that is too large would fail for the whole batch.
            for place, largest in self._integers:
                if (number := row[place]) is not None and not -largest <= number <= largest:
                    raise ValueError(f"Expected `int` within ±{largest} - at `{self.columns[place]}`")
            return row
        try:
            checked = msgspec.convert(list(map(row.get, self.columns)), self._checked)
        except msgspec.ValidationError as error:
            raise ValueError(re.sub(r"\$\[(\d+)\]", lambda at: self.columns[int(at[1])], str(error))) from error
        return msgspec.structs.astuple(checked)

    def line(self, values: Sequence[Any]) -> bytes:
        """Return the line of a row.

        Raises
        ------
        ValueError
            The row can never be stored. The text says why, in one line.
        """
        fields = list(values)
        quotes = 0  # that are within a field, each behind a backslash
        try:
            for place in self._lists:
                if fields[place] is not None:
                    fields[place] = array = _array(fields[place])
                    quotes += array.count('"')
            for place in self._objects:
                if fields[place] is not None:
                    fields[place] = encoded = _to_json(fields[place]).decode()
                    quotes += encoded.count('"')
            line = _to_json(fields)[1:-1] + b"\n"
        except UnicodeEncodeError:  # quotes the whole text
            raise ValueError("not UTF-8: a lone surrogate") from None
        if len(line) > MAX_ROW_BYTES:
            raise ValueError(f"the row has {len(line)} bytes; the limit is {MAX_ROW_BYTES}")
        # Counting is faster than the search, which few rows need.
        if line.count(b"\\") != quotes and _JSON_ESCAPE.search(line):
            line = _CONTROL.sub(_control, line.decode()).encode()
        return line


def _array(elements: list[str]) -> str:
    """Return a list as Postgres writes an array."""
    if _QUOTED.search("".join(elements)):
        elements = [_QUOTED.sub(r"\\\1", element) for element in elements]
    return '{"' + '","'.join(elements) + '"}' if elements else "{}"


def _control(escape: re.Match[str]) -> str:
    quoted, code, letter = escape.groups()
    if quoted:
        return escape[0]
    if code == "0000":
        raise ValueError("U+0000 cannot be stored")
    return _CONTROLS[letter] if letter else chr(int(code, 16))
