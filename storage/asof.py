"""As-of queries: what a strategy could have known at a moment, without a look into its future.

Three SQL functions do the work, for clients in any language (``storage/migrations/versions/r0002_as_of.py``); these are
their Python counterparts, which return rows. They depend on ``available_at``, the time at which a signal was on its
topic, and on no time that a publisher or a worker claims.

- ``signals_as_of(ts)``: for each story, model and policy, the newest revision that was available by then.
- ``symbol_bars(width, since, until, of_symbol)``: per symbol, model and policy. A bar is labelled by its end and holds
  the signals of ``(bar_end - width, bar_end]``.
- ``symbol_sentiment_as_of(ts, lookback)``: per symbol, model and policy, over ``(ts - lookback, ts]``.

A row that arrives later, whether late news or a correction, changes no answer about an earlier moment. But rows that
are still on their way from the topic to the database are missing: for the last few seconds, watch the topic. Answers of
different models or policies are never mixed, so running two side by side counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Double, Interval, Row, Text, column, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.sql.selectable import TableValuedAlias

from earlybell.storage.tables import signals

_MOMENT = TIMESTAMP(timezone=True)
_MEASURES = (
    column("signals", BigInteger),
    column("mean_score", Double),
    column("last_score", Double),
    column("positive", BigInteger),
    column("negative", BigInteger),
)


def signals_as_of(connection: Connection, at: datetime, *, symbol: str | None = None) -> Sequence[Row[Any]]:
    """Return the signals known at a moment: for each story, model and policy, the newest revision available by then.

    Parameters
    ----------
    connection
        For example from `storage.connection.open_snapshot`, where all queries see one snapshot.
    at
        The moment, with an offset. A signal that became available at exactly this time is known.
    symbol
        Return only the signals whose newest revision names this symbol; a correction may have removed it.

    Returns
    -------
    Sequence[Row]
        The columns of ``storage.tables.signals``; the rows in the order in which they became available.

    Raises
    ------
    ValueError
        `at` has no offset from UTC.
    """
    columns = (column(field.name, field.type) for field in signals.columns)
    known = func.signals_as_of(_moment(at, "at")).table_valued(*columns)
    query = select(known).order_by(known.c.available_at, known.c.signal_id)
    if symbol is not None:
        query = query.where(known.c.symbols.op("@>")(literal([symbol], ARRAY(Text))))
    return connection.execute(query).all()


def symbol_bars(
    connection: Connection, width: timedelta, since: datetime, until: datetime, *, symbol: str | None = None
) -> Sequence[Row[Any]]:
    """Return bars of sentiment per symbol, by the time at which a strategy could act on the signals.

    A bar is labelled by its end and holds the signals that became available in ``(bar_end - width, bar_end]``: it is
    complete at ``bar_end``, and no later signal changes it. It counts the revision of each story that was the newest at
    its end; a later correction counts in its own bar.

    Parameters
    ----------
    connection
        For example from `storage.connection.open_snapshot`.
    width
        The width of a bar; a day is 24 hours, regardless of daylight saving.
    since, until
        Bars end at ``since + width``, ``since + 2 * width`` and so on, up to and including ``until``.
    symbol
        Return only this symbol's bars.

    Returns
    -------
    Sequence[Row]
        ``symbol, bar_end, model_revision, policy, signals, mean_score, last_score, positive, negative``, sorted by the
        first four. Bars without signals are omitted.

    Raises
    ------
    ValueError
        A time has no offset from UTC, or `width` is not positive.
    """
    if width <= timedelta(0):
        raise ValueError(f"width must be positive, not {width}")
    bars: TableValuedAlias = func.symbol_bars(
        literal(width, Interval), _moment(since, "since"), _moment(until, "until"), literal(symbol, Text)
    ).table_valued(
        column("symbol", Text),
        column("bar_end", _MOMENT),
        column("model_revision", Text),
        column("policy", Text),
        *_MEASURES,
    )
    order = (bars.c.symbol, bars.c.bar_end, bars.c.model_revision, bars.c.policy)
    return connection.execute(select(bars).order_by(*order)).all()


def symbol_sentiment_as_of(connection: Connection, at: datetime, lookback: timedelta) -> Sequence[Row[Any]]:
    """Return each symbol's sentiment as known at a moment, over the signals that became available shortly before.

    Parameters
    ----------
    connection
        For example from `storage.connection.open_snapshot`.
    at
        The moment, with an offset.
    lookback
        Count the signals of ``(at - lookback, at]``, with the newest revision of each story.

    Returns
    -------
    Sequence[Row]
        ``symbol, model_revision, policy, signals, mean_score, last_score, positive, negative, last_available_at``,
        sorted by the first three.

    Raises
    ------
    ValueError
        `at` has no offset from UTC.
    """
    table: TableValuedAlias = func.symbol_sentiment_as_of(_moment(at, "at"), literal(lookback, Interval)).table_valued(
        column("symbol", Text),
        column("model_revision", Text),
        column("policy", Text),
        *_MEASURES,
        column("last_available_at", _MOMENT),
    )
    order = (table.c.symbol, table.c.model_revision, table.c.policy)
    return connection.execute(select(table).order_by(*order)).all()


def _moment(value: datetime, name: str) -> Any:
    if value.utcoffset() is None:
        raise ValueError(f"{name} has no offset from UTC: {value.isoformat()}")
    return literal(value, _MOMENT)
