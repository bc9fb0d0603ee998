"""The schema: the tables ``news`` and ``signals``.

Both are append-only, which the database enforces: a correction is a new revision. They are written by agents that do
not wait for each other, so they join on ``(news_id, revision)`` without a foreign key. Columns have the names of the
fields on Kafka.

``storage.migrations`` creates the database, and a test compares the two. Column comments are part of the schema:
changing one takes a migration. PostgreSQL 14 or newer.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Double, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from earlybell.signal_fields import SIGNAL_FIELDS

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _moment() -> TIMESTAMP:
    return TIMESTAMP(timezone=True)


def _field(name: str, kind: Any, **options: Any) -> Column[Any]:
    """Return a column for a field of a signal, with the field's meaning as its comment."""
    return Column(name, kind, comment=SIGNAL_FIELDS[name], **options)


def _symbols_are_a_plain_list() -> CheckConstraint:
    # Postgres accepts multi-dimensional arrays in text[], and unnest would silently flatten them.
    return CheckConstraint(
        "COALESCE(array_ndims(symbols), 1) = 1 AND array_position(symbols, NULL) IS NULL", name="symbols"
    )


news = Table(
    "news",
    metadata,
    Column("news_id", Text, primary_key=True, comment="The feed's own id of the story."),
    Column(
        "revision",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="1 for the first version; a correction raises it.",
    ),
    Column("headline", Text, nullable=False, comment="As it came, without U+0000."),
    Column("body", Text, comment="As it came, without U+0000."),
    Column("source", Text, comment="Who published it."),
    Column("symbols", ARRAY(Text), nullable=False, comment="Instruments that the feed says the story is about."),
    Column("language", Text, comment="BCP 47; null means the language of the model."),
    Column("url", Text, comment="Where it was published."),
    Column(
        "published_at", _moment(), nullable=False, comment="When the publisher says it came out; not to be trusted."
    ),
    Column(
        "ingested_at",
        _moment(),
        nullable=False,
        # This is when the news could first be read, so it needs no available_at.
        comment="When the broker took it in (LogAppendTime): the first moment at which anyone could read it here.",
    ),
    Column("topic", Text, nullable=False, comment="Origin: the Kafka topic."),
    Column("partition", Integer, nullable=False, comment="Origin: the partition of the topic."),
    Column("offset", BigInteger, nullable=False, comment="Origin: the offset in the partition."),
    # 256 characters of four bytes are well within the limit of a B-tree entry (2,704 bytes).
    CheckConstraint("char_length(news_id) BETWEEN 1 AND 256", name="news_id"),
    CheckConstraint("revision >= 1", name="revision"),
    CheckConstraint("headline <> ''", name="headline"),
    CheckConstraint('partition >= 0 AND "offset" >= 0', name="origin"),
    _symbols_are_a_plain_list(),
    Index(None, "ingested_at"),
    Index(None, "symbols", postgresql_using="gin"),
    comment="Every revision of every story, as it came in. Append-only.",
)

signals = Table(
    "signals",
    metadata,
    _field("signal_id", Text, primary_key=True),
    _field("news_id", Text, nullable=False),
    _field("revision", Integer, nullable=False),
    _field("symbols", ARRAY(Text), nullable=False),
    _field("source", Text),
    _field("text_hash", Text),
    _field("label", Text, nullable=False),
    _field("score", Double, nullable=False),
    _field("probabilities", JSONB, nullable=False),
    _field("confidence", Double, nullable=False),
    _field("published_at", _moment()),
    _field("ingested_at", _moment()),
    _field("scored_at", _moment(), nullable=False),
    Column(
        "available_at",
        _moment(),
        nullable=False,
        comment="When the signal was on its topic (LogAppendTime): the first moment at which a strategy could act on "
        "it. Every as-of query goes by this time alone.",
    ),
    _field("queue_ms", Double),
    _field("inference_ms", Double, nullable=False),
    _field("model", Text, nullable=False),
    _field("model_revision", Text, nullable=False),
    _field("policy", Text, nullable=False),
    _field("dial", Double, nullable=False),
    _field("precision", Text, nullable=False),
    _field("exit_depth", Integer, nullable=False),
    _field("predicted_depth", Double),
    _field("depth_limit", Integer, nullable=False),
    _field("tokens", Integer, nullable=False),
    _field("tokens_kept", Integer, nullable=False),
    _field("topic", Text),
    _field("partition", Integer),
    _field("offset", BigInteger),
    CheckConstraint("char_length(news_id) BETWEEN 1 AND 256", name="news_id"),
    CheckConstraint("revision >= 1", name="revision"),
    CheckConstraint("score BETWEEN -1 AND 1", name="score"),
    CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence"),
    CheckConstraint(
        "jsonb_typeof(probabilities) = 'object' AND probabilities ? label"
        """ AND NOT probabilities @? '$.* ? (@.type() <> "number")'""",
        name="probabilities",
    ),
    CheckConstraint("dial BETWEEN 0 AND 1", name="dial"),
    CheckConstraint("exit_depth BETWEEN 0 AND depth_limit AND predicted_depth >= 0", name="depth"),
    CheckConstraint("tokens_kept BETWEEN 0 AND tokens", name="tokens"),
    CheckConstraint('partition >= 0 AND "offset" >= 0', name="origin"),
    _symbols_are_a_plain_list(),
    # Finds the newer revisions of a signal, and allows only one answer per revision, model and policy.
    Index(None, "news_id", "model_revision", "policy", "revision", unique=True),
    Index(None, "available_at"),
    Index(None, "symbols", postgresql_using="gin"),
    comment="What one model said of one revision of one story, how it came to say so, and when. Append-only.",
)
