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


def _symbols(comment: str) -> Column[Any]:
    return Column("symbols", ARRAY(Text), nullable=False, comment=comment)


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
    _symbols("Instruments that the feed says the story is about."),
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
    Column(
        "signal_id",
        Text,
        primary_key=True,
        comment="Hash of (news_id, revision, text_hash, model_revision, policy): the same work always has the same id.",
    ),
    Column("news_id", Text, nullable=False, comment="The story; joins news on (news_id, revision)."),
    Column("revision", Integer, nullable=False, comment="The revision of the story that was scored."),
    _symbols("Instruments that the feed says the story is about."),
    Column("source", Text, comment="Who published the story."),
    Column(
        "text_hash",
        Text,
        comment="SHA-256 of the text that was scored, 32 hex digits; null for signals of earlier versions.",
    ),
    Column("label", Text, nullable=False, comment="The class with the largest probability."),
    Column("score", Double, nullable=False, comment="P(positive) - P(negative), -1 .. 1."),
    Column("probabilities", JSONB, nullable=False, comment="Probability of each class, after the exit's temperature."),
    Column("confidence", Double, nullable=False, comment="The largest of the probabilities."),
    Column("published_at", _moment(), comment="When the publisher says the story came out; not to be trusted."),
    Column("ingested_at", _moment(), comment="When the broker took the story in (LogAppendTime)."),
    Column("scored_at", _moment(), nullable=False, comment="When the model had answered, by the worker's clock."),
    Column(
        "available_at",
        _moment(),
        nullable=False,
        comment="When the signal was on its topic (LogAppendTime): the first moment at which a strategy could act on "
        "it. Every as-of query goes by this time alone.",
    ),
    Column("queue_ms", Double, comment="Milliseconds from the fetch of the story to the start of inference."),
    Column("inference_ms", Double, nullable=False, comment="Milliseconds of inference of the window it was part of."),
    Column("model", Text, nullable=False, comment="Name of the checkpoint."),
    Column("model_revision", Text, nullable=False, comment="Hash over weights, tokenizer and calibration."),
    Column("policy", Text, nullable=False, comment="How the model traded depth for speed: dial=0.50, or adaptive."),
    Column("dial", Double, nullable=False, comment="0: full depth .. 1: the fastest calibrated."),
    Column("precision", Text, nullable=False, comment="Arithmetic of the model: float32, bfloat16 ..."),
    Column("exit_depth", Integer, nullable=False, comment="The depth that answered; 0 is before the first layer."),
    Column("predicted_depth", Double, comment="The depth that was expected, where the model predicts it."),
    Column("depth_limit", Integer, nullable=False, comment="The deepest it could have gone."),
    Column("tokens", Integer, nullable=False, comment="Tokens that the model read."),
    Column("tokens_kept", Integer, nullable=False, comment="Tokens alive in the last layer that ran."),
    Column("topic", Text, comment="Origin of the story: the Kafka topic."),
    Column("partition", Integer, comment="Origin of the story: the partition of the topic."),
    Column("offset", BigInteger, comment="Origin of the story: the offset in the partition."),
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
