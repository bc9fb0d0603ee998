"""Rows as lines of COPY's CSV format (https://www.postgresql.org/docs/current/sql-copy.html).

Pure: it knows the columns' types, and nothing of connections. What can be seen to be wrong with a row without asking
the database is refused here.

A JSON array without its brackets is such a line: strings in double quotes, in which a backslash escapes quotes and
itself, and a bare ``null``. So msgspec encodes a row in one call; only control characters, for which JSON has escapes
that CSV does not have, are written out by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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

Row = Mapping[str, Any]

_TYPES: dict[type, Any] = {
    Text: str,
    Integer: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    BigInteger: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
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
        self._lists = [name for name, kind in zip(self.columns, kinds, strict=True) if kind is ARRAY]
        self._objects = [name for name, kind in zip(self.columns, kinds, strict=True) if kind is JSONB]

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
        try:
            checked: Any = msgspec.convert(list(map(row.get, self.columns)), self._checked)
            for name in self._lists:
                if (elements := getattr(checked, name)) is not None:
                    setattr(checked, name, _array(elements))
            for name in self._objects:
                if (value := getattr(checked, name)) is not None:
                    setattr(checked, name, _to_json(value).decode())
            line = _to_json(checked)[1:-1] + b"\n"
        except msgspec.ValidationError as error:
            raise ValueError(re.sub(r"\$\[(\d+)\]", lambda at: self.columns[int(at[1])], str(error))) from error
        except UnicodeEncodeError:  # quotes the whole text
            raise ValueError("not UTF-8: a lone surrogate") from None
        if len(line) > MAX_ROW_BYTES:
            raise ValueError(f"the row has {len(line)} bytes; the limit is {MAX_ROW_BYTES}")
        if b"\\" in line and _JSON_ESCAPE.search(line):
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
