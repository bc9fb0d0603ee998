"""Create the tables ``news`` and ``signals``, and the trigger that keeps them append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

_SYMBOLS = "COALESCE(array_ndims(symbols), 1) = 1 AND array_position(symbols, NULL) IS NULL"
_MOMENT = postgresql.TIMESTAMP(timezone=True)

# Once per statement, not per row, so that even an UPDATE that would change nothing is refused.
_REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only, % is refused: a correction is a new revision', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'restrict_violation',
        HINT = 'For maintenance the owner may TRUNCATE the table, or ALTER TABLE ... DISABLE TRIGGER append_only.';
END
$$
"""


def upgrade() -> None:
    """Create the tables and the trigger."""
    op.create_table(
        "news",
        sa.Column("news_id", sa.Text, nullable=False, comment="The feed's own id of the story."),
        sa.Column("revision", sa.Integer, nullable=False, comment="1 for the first version; a correction raises it."),
        sa.Column("headline", sa.Text, nullable=False, comment="As it came, without U+0000."),
        sa.Column("body", sa.Text, comment="As it came, without U+0000."),
        sa.Column("source", sa.Text, comment="Who published it."),
        sa.Column(
            "symbols",
            postgresql.ARRAY(sa.Text),
            nullable=False,
            comment="Instruments that the feed says the story is about.",
        ),
        sa.Column("language", sa.Text, comment="BCP 47; null means the language of the model."),
        sa.Column("url", sa.Text, comment="Where it was published."),
        sa.Column(
            "published_at",
            _MOMENT,
            nullable=False,
            comment="When the publisher says it came out; not to be trusted.",
        ),
        sa.Column(
            "ingested_at",
            _MOMENT,
            nullable=False,
            comment="When the broker took it in (LogAppendTime): the first moment at which anyone could read it here.",
        ),
        sa.Column("topic", sa.Text, nullable=False, comment="Origin: the Kafka topic."),
        sa.Column("partition", sa.Integer, nullable=False, comment="Origin: the partition of the topic."),
        sa.Column("offset", sa.BigInteger, nullable=False, comment="Origin: the offset in the partition."),
        sa.PrimaryKeyConstraint("news_id", "revision", name="pk_news"),
        sa.CheckConstraint("char_length(news_id) BETWEEN 1 AND 256", name="ck_news_news_id"),
        sa.CheckConstraint("revision >= 1", name="ck_news_revision"),
        sa.CheckConstraint("headline <> ''", name="ck_news_headline"),
        sa.CheckConstraint('partition >= 0 AND "offset" >= 0', name="ck_news_origin"),
        sa.CheckConstraint(_SYMBOLS, name="ck_news_symbols"),
        comment="Every revision of every story, as it came in. Append-only.",
    )
    op.create_index("ix_news_ingested_at", "news", ["ingested_at"])
    op.create_index("ix_news_symbols", "news", ["symbols"], postgresql_using="gin")

    op.create_table(
        "signals",
        sa.Column(
            "signal_id",
            sa.Text,
            nullable=False,
            comment="Hash of (news_id, revision, model_revision, policy): the same work always has the same id.",
        ),
        sa.Column("news_id", sa.Text, nullable=False, comment="The story; joins news on (news_id, revision)."),
        sa.Column("revision", sa.Integer, nullable=False, comment="The revision of the story that was scored."),
        sa.Column(
            "symbols",
            postgresql.ARRAY(sa.Text),
            nullable=False,
            comment="Instruments that the feed says the story is about.",
        ),
        sa.Column("source", sa.Text, comment="Who published the story."),
        sa.Column("label", sa.Text, nullable=False, comment="The class with the largest probability."),
        sa.Column("score", sa.Double, nullable=False, comment="P(positive) - P(negative), -1 .. 1."),
        sa.Column(
            "probabilities",
            postgresql.JSONB,
            nullable=False,
            comment="Probability of each class, after the exit's temperature.",
        ),
        sa.Column("confidence", sa.Double, nullable=False, comment="The largest of the probabilities."),
        sa.Column("published_at", _MOMENT, comment="When the publisher says the story came out; not to be trusted."),
        sa.Column("ingested_at", _MOMENT, comment="When the broker took the story in (LogAppendTime)."),
        sa.Column("scored_at", _MOMENT, nullable=False, comment="When the model had answered, by the worker's clock."),
        sa.Column(
            "available_at",
            _MOMENT,
            nullable=False,
            comment="When the signal was on its topic (LogAppendTime): the first moment at which a strategy could act "
            "on it. Every as-of query goes by this time alone.",
        ),
        sa.Column("queue_ms", sa.Double, comment="Milliseconds from the fetch of the story to the start of inference."),
        sa.Column(
            "inference_ms",
            sa.Double,
            nullable=False,
            comment="Milliseconds of inference of the window it was part of.",
        ),
        sa.Column("model", sa.Text, nullable=False, comment="Name of the checkpoint."),
        sa.Column("model_revision", sa.Text, nullable=False, comment="Hash over weights, tokenizer and calibration."),
        sa.Column(
            "policy",
            sa.Text,
            nullable=False,
            comment="How the model traded depth for speed: dial=0.50, or adaptive.",
        ),
        sa.Column("dial", sa.Double, nullable=False, comment="0: full depth .. 1: the fastest calibrated."),
        sa.Column("precision", sa.Text, nullable=False, comment="Arithmetic of the model: float32, bfloat16 ..."),
        sa.Column(
            "exit_depth",
            sa.Integer,
            nullable=False,
            comment="The depth that answered; 0 is before the first layer.",
        ),
        sa.Column("predicted_depth", sa.Double, comment="The depth that was expected, where the model predicts it."),
        sa.Column("depth_limit", sa.Integer, nullable=False, comment="The deepest it could have gone."),
        sa.Column("tokens", sa.Integer, nullable=False, comment="Tokens that the model read."),
        sa.Column("tokens_kept", sa.Integer, nullable=False, comment="Tokens alive in the last layer that ran."),
        sa.Column("topic", sa.Text, comment="Origin of the story: the Kafka topic."),
        sa.Column("partition", sa.Integer, comment="Origin of the story: the partition of the topic."),
        sa.Column("offset", sa.BigInteger, comment="Origin of the story: the offset in the partition."),
        sa.PrimaryKeyConstraint("signal_id", name="pk_signals"),
        sa.CheckConstraint("char_length(news_id) BETWEEN 1 AND 256", name="ck_signals_news_id"),
        sa.CheckConstraint("revision >= 1", name="ck_signals_revision"),
        sa.CheckConstraint("score BETWEEN -1 AND 1", name="ck_signals_score"),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name="ck_signals_confidence"),
        sa.CheckConstraint(
            "jsonb_typeof(probabilities) = 'object' AND probabilities ? label"
            """ AND NOT probabilities @? '$.* ? (@.type() <> "number")'""",
            name="ck_signals_probabilities",
        ),
        sa.CheckConstraint("dial BETWEEN 0 AND 1", name="ck_signals_dial"),
        sa.CheckConstraint("exit_depth BETWEEN 0 AND depth_limit AND predicted_depth >= 0", name="ck_signals_depth"),
        sa.CheckConstraint("tokens_kept BETWEEN 0 AND tokens", name="ck_signals_tokens"),
        sa.CheckConstraint('partition >= 0 AND "offset" >= 0', name="ck_signals_origin"),
        sa.CheckConstraint(_SYMBOLS, name="ck_signals_symbols"),
        comment="What one model said of one revision of one story, how it came to say so, and when. Append-only.",
    )
    op.create_index(
        "ix_signals_news_id_model_revision_policy_revision",
        "signals",
        ["news_id", "model_revision", "policy", "revision"],
        unique=True,
    )
    op.create_index("ix_signals_available_at", "signals", ["available_at"])
    op.create_index("ix_signals_symbols", "signals", ["symbols"], postgresql_using="gin")

    op.execute(_REFUSE_CHANGE)
    for table in ("news", "signals"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    """Drop the tables, with everything in them, and the trigger."""
    op.drop_table("signals")
    op.drop_table("news")
    op.execute("DROP FUNCTION refuse_change()")
