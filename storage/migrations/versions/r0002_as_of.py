"""Create the as-of functions: signals known at a moment, bars per symbol, and sentiment per symbol."""

from __future__ import annotations

from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

# An anti-join that the planner can inline, rather than DISTINCT ON: conditions on time, symbol or story from outside
# the function then reach the indexes, and still select among the newest revisions only.
_SIGNALS_AS_OF = """
CREATE FUNCTION signals_as_of(ts timestamptz) RETURNS SETOF signals LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT known.*
    FROM signals AS known
    WHERE known.available_at <= ts
    AND NOT EXISTS (
        SELECT FROM signals AS newer
        WHERE newer.news_id = known.news_id
        AND newer.model_revision = known.model_revision
        AND newer.policy = known.policy
        AND newer.revision > known.revision
        AND newer.available_at <= ts
    )
$$
"""

# - date_bin's bins are closed on the left; subtracting a microsecond, the resolution of timestamptz, closes them on the
#   right.
# - Adding a day to a timestamptz follows the session's daylight saving; in UTC it does not, and neither does date_bin.
# - Sums are taken in a fixed order, so that the last bit of a mean is the same on every machine and every run.
_SYMBOL_BARS = """
CREATE FUNCTION symbol_bars(
    width interval, since timestamptz, until timestamptz, of_symbol text DEFAULT NULL
) RETURNS TABLE (
    symbol text,
    bar_end timestamptz,
    model_revision text,
    policy text,
    signals bigint,
    mean_score double precision,
    last_score double precision,
    positive bigint,
    negative bigint
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        mentioned.symbol,
        bar.ends,
        s.model_revision,
        s.policy,
        count(*),
        avg(s.score ORDER BY s.available_at, s.signal_id),
        (array_agg(s.score ORDER BY s.available_at, s.signal_id))[count(*)],
        count(*) FILTER (WHERE s.label = 'positive'),
        count(*) FILTER (WHERE s.label = 'negative')
    FROM signals AS s
    CROSS JOIN LATERAL (
        SELECT (
            date_bin(width, s.available_at - interval '1 microsecond', since) AT TIME ZONE 'UTC' + width
        ) AT TIME ZONE 'UTC'
    ) AS bar (ends)
    CROSS JOIN LATERAL (SELECT DISTINCT unnest(s.symbols)) AS mentioned (symbol)
    WHERE s.available_at > since
    AND s.available_at <= until
    AND bar.ends <= until
    AND (of_symbol IS NULL OR (s.symbols @> ARRAY[of_symbol] AND mentioned.symbol = of_symbol))
    AND NOT EXISTS (
        SELECT FROM signals AS newer
        WHERE newer.news_id = s.news_id
        AND newer.model_revision = s.model_revision
        AND newer.policy = s.policy
        AND newer.revision > s.revision
        AND newer.available_at <= bar.ends
    )
    GROUP BY mentioned.symbol, bar.ends, s.model_revision, s.policy
$$
"""

_SYMBOL_SENTIMENT_AS_OF = """
CREATE FUNCTION symbol_sentiment_as_of(ts timestamptz, lookback interval) RETURNS TABLE (
    symbol text,
    model_revision text,
    policy text,
    signals bigint,
    mean_score double precision,
    last_score double precision,
    positive bigint,
    negative bigint,
    last_available_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        mentioned.symbol,
        s.model_revision,
        s.policy,
        count(*),
        avg(s.score ORDER BY s.available_at, s.signal_id),
        (array_agg(s.score ORDER BY s.available_at, s.signal_id))[count(*)],
        count(*) FILTER (WHERE s.label = 'positive'),
        count(*) FILTER (WHERE s.label = 'negative'),
        max(s.available_at)
    FROM signals_as_of(ts) AS s
    CROSS JOIN LATERAL (SELECT DISTINCT unnest(s.symbols)) AS mentioned (symbol)
    WHERE s.available_at > (ts AT TIME ZONE 'UTC' - lookback) AT TIME ZONE 'UTC'
    GROUP BY mentioned.symbol, s.model_revision, s.policy
$$
"""

_SIGNATURES = {
    "signals_as_of(timestamptz)": "What was known at the moment: of each story, model and policy the newest revision "
    "that was available by then (available_at <= ts).",
    "symbol_bars(interval, timestamptz, timestamptz, text)": "Bars of the signals of each symbol, by the time at which "
    "one could act on them. A bar is labelled by its end and holds (bar_end - width, bar_end]; bars end at since + "
    "width, since + 2 * width ... until. Of a story only the revision that was newest at the bar''s end counts; a "
    "later correction counts in its own bar and changes no earlier one. Bars without signals are left out.",
    "symbol_sentiment_as_of(timestamptz, interval)": "Of each symbol the signals known at the moment that became "
    "available in the time before it: (ts - lookback, ts].",
}


def upgrade() -> None:
    """Create the functions, and comment on them."""
    for function in (_SIGNALS_AS_OF, _SYMBOL_BARS, _SYMBOL_SENTIMENT_AS_OF):
        op.execute(function)
    for signature, meaning in _SIGNATURES.items():
        op.execute(f"COMMENT ON FUNCTION {signature} IS '{meaning}'")


def downgrade() -> None:
    """Drop the functions."""
    for signature in reversed(_SIGNATURES):
        op.execute(f"DROP FUNCTION {signature}")
