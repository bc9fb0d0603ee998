"""The demo's closing queries, such as a researcher would run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from earlybell.storage import asof
from earlybell.storage.connection import open_snapshot
from earlybell.streams.demo.screen import Result

#: The correction that changed a story's score the most, and when each of the two revisions became available.
_CORRECTION = text(
    """
    SELECT a.news_id, n1.headline AS before, n2.headline AS after, a.available_at AS first, b.available_at AS second
    FROM signals a
    JOIN signals b ON b.news_id = a.news_id AND b.revision = 2 AND a.revision = 1
    JOIN news n1 ON (n1.news_id, n1.revision) = (a.news_id, 1)
    JOIN news n2 ON (n2.news_id, n2.revision) = (a.news_id, 2)
    -- If one window scored both revisions, the first was never known without the second.
    ORDER BY b.available_at > a.available_at DESC, abs(b.score - a.score) DESC, a.news_id LIMIT 1
    """
)
#: How long each hop took; the names are those of the columns.
_HOPS = text(
    """
    SELECT hop, percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS median, max(ms) AS longest
    FROM signals
    CROSS JOIN LATERAL (VALUES
        ('waiting for inference (queue_ms)', queue_ms),
        ('inference (inference_ms)', inference_ms),
        ('scored_at to available_at', extract(epoch FROM available_at - scored_at) * 1000)
    ) AS hops (hop, ms)
    GROUP BY hop ORDER BY median DESC
    """
)


def results(url: str) -> Iterator[Result]:
    """Run the queries, all on one snapshot of the database.

    Raises
    ------
    StorageError
        The database cannot be reached.
    """
    with open_snapshot(url) as connection:
        yield _by_symbol(connection)
        yield _correction(connection)
        hops = connection.execute(_HOPS).all()
        cells = [(hop, f"{median:.1f}", f"{longest:.1f}") for hop, median, longest in hops]
        meaning = "columns of the table signals, slowest first"
        yield Result("Where the time goes", meaning, ("hop", "p50 ms", "max ms"), cells)


def _by_symbol(connection: Connection) -> Result:
    rows: Sequence[Any] = asof.symbol_sentiment_as_of(connection, datetime.now(UTC), timedelta(hours=1))
    ranked = sorted(rows, key=lambda row: row.mean_score)
    cells = [
        (
            row.symbol,
            str(row.signals),
            f"{row.mean_score:+.2f}",
            f"{row.last_score:+.2f}",
            f"{row.positive}/{row.negative}",
        )
        for row in (*ranked[:3], *ranked[-3:])
    ]
    return Result(
        "Sentiment by symbol",
        "the lowest and the highest: symbol_sentiment_as_of(now(), '1 hour')",
        ("symbol", "stories", "mean", "last", "pos/neg"),
        cells,
    )


def _correction(connection: Connection) -> Result:
    story = connection.execute(_CORRECTION).one()
    cells = []
    for name, at, headline in (
        ("before", story.second - timedelta(microseconds=1), story.before),
        ("after", story.second, story.after),
    ):
        known = next((row for row in asof.signals_as_of(connection, at) if row.news_id == story.news_id), None)
        seen = (str(known.revision), f"{known.score:+.2f}", headline) if known else ("none", "", "not known yet")
        cells.append((name, f"{at:%H:%M:%S.%f}"[:-3], *seen))
    return Result(
        "One story as of two moments",
        "never a correction early: signals_as_of(moment)",
        ("", "as of", "revision", "score", "headline"),
        cells,
    )
