"""Looks at the past without seeing its future: what a strategy could have known at a moment.

Three functions in the database (``storage/migrations/versions/r0002_as_of.py``) do the work, for any language that
speaks SQL; here they are for Python, with rows as results. All of them go by ``available_at``, the time at which a
signal was on its topic, and by nothing that a publisher or a worker claims.

- ``signals_as_of(ts)``: of each story, model and policy the newest revision that was available by then.
- ``symbol_bars(width, since, until, of_symbol)``: per symbol, model and policy; a bar is labelled by its end and holds
  the signals of ``(bar_end - width, bar_end]``.
- ``symbol_sentiment_as_of(ts, lookback)``: per symbol, model and policy, over ``(ts - lookback, ts]``.

A row that comes later, be it late news or a correction, changes none of these for a moment that is past. What
is still on its way from the topic into the database is not there yet, though: for the last seconds, watch the topic.
Answers of different models or policies are never mixed, so that running two side by side counts nothing twice.
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
    """Give the signals known at a moment: of each story, model and policy the newest revision available by then.

    Parameters
    ----------
    connection
        For example of `storage.connection.reading`, which gives all its queries one snapshot.
    at
        The moment, with an offset; a signal that became available exactly then is known.
    symbol
        Only the signals that name it in that newest revision. A correction that takes a symbol back counts.

    Returns
    -------
    Sequence[Row]
        The columns of ``storage.tables.signals``, in the order in which they became available.

    Raises
    ------
    ValueError
        `at` has no offset from UTC.
    """
    known = func.signals_as_of(_moment(at, "at")).table_valued(*(column(one.name, one.type) for one in signals.columns))
    query = select(known).order_by(known.c.available_at, known.c.signal_id)
    if symbol is not None:
        query = query.where(known.c.symbols.op("@>")(literal([symbol], ARRAY(Text))))
    return connection.execute(query).all()


def symbol_bars(
    connection: Connection, width: timedelta, since: datetime, until: datetime, *, symbol: str | None = None
) -> Sequence[Row[Any]]:
    """Give bars of sentiment per symbol, by the time at which one could act on the signals.

    A bar is labelled by its end and holds the signals that became available in ``(bar_end - width, bar_end]``: at
    ``bar_end`` it can be known whole, and no later signal changes it. Of each story it counts the revision that was
    newest at the bar's end; a correction that comes in a later bar counts there.

    Parameters
    ----------
    connection
        For example of `storage.connection.reading`.
    width
        Of a bar; a day is 24 hours, whatever the clocks do.
    since, until
        Bars end at ``since + width``, ``since + 2 * width`` and so on, the last at ``until`` or before.
    symbol
        Only this symbol's bars.

    Returns
    -------
    Sequence[Row]
        ``symbol, bar_end, model_revision, policy, signals, mean_score, last_score, positive, negative``, in the order
        of the first four. Bars without signals are left out.

    Raises
    ------
    ValueError
        A time has no offset from UTC, or `width` is not positive.
    """
    if width <= timedelta(0):
        raise ValueError(f"width is {width}: a bar takes some time")
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
    """Give each symbol's sentiment as known at a moment, over the signals that became available shortly before it.

    Parameters
    ----------
    connection
        For example of `storage.connection.reading`.
    at
        The moment, with an offset.
    lookback
        How far back: the signals of ``(at - lookback, at]`` count, of each story the newest revision.

    Returns
    -------
    Sequence[Row]
        ``symbol, model_revision, policy, signals, mean_score, last_score, positive, negative, last_available_at``, in
        the order of the first three.

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
