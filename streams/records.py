"""The wire contracts: what a news item, a sentiment signal and a dead letter look like on Kafka.

Values are JSON in UTF-8 and the key is the news id. This module knows nothing of Faust, torch or SQL:
it turns bytes into checked records and records into bytes, and says in one sentence why it cannot.
The JSON Schemas under ``deploy/schemas/`` are generated from these structs (``json_schemas``).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

#: 1 MiB: the largest message that the news topic takes.
MAX_MESSAGE_BYTES = 1_048_576
#: The limit of the dead-letter topic: room for a whole message and the letter's headers.
MAX_DEAD_LETTER_BYTES = 2 * MAX_MESSAGE_BYTES
#: The score needs these two; a model without them gives ``score`` 0.
POSITIVE, NEGATIVE = "positive", "negative"

NewsId = Annotated[str, Meta(min_length=1, max_length=256, description="The feed's own id of the story.")]
Symbol = Annotated[str, Meta(min_length=1, max_length=64)]
Moment = Annotated[datetime, Meta(tz=True)]


class BadNews(ValueError):
    """A message that cannot become a `NewsItem`. Its text is the reason, for the dead letter's header."""


class NewsItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revision of one story, as a feed publishes it. Unknown fields are ignored."""

    id: NewsId
    headline: Annotated[str, Meta(min_length=1, max_length=4096)]
    published_at: Annotated[
        datetime, Meta(tz=True, description="RFC 3339 with an offset: when the publisher says it came out.")
    ]
    body: str | None = None
    source: Annotated[str, Meta(max_length=256)] | None = None
    symbols: Annotated[list[Symbol], Meta(max_length=1024)] | None = None
    language: Annotated[str, Meta(max_length=35, description="BCP 47; absent means the model's own.")] | None = None
    url: Annotated[str, Meta(max_length=8192)] | None = None
    revision: Annotated[int, Meta(ge=1, le=2**31 - 1, description="A correction raises it.")] = 1

    @property
    def text(self) -> str:
        """What the model reads: the headline, and the body below it where there is one."""
        return f"{self.headline}\n{self.body}" if self.body else self.headline


class SentimentSignal(msgspec.Struct, frozen=True, kw_only=True):
    """What one model said of one revision of one story, how it came to say so, and when.

    Times and origin are null for a text that was scored without Kafka. Milliseconds are wall-clock durations.
    """

    signal_id: str
    news_id: NewsId
    revision: int
    symbols: list[Symbol]
    source: str | None
    # The answer.
    label: str
    score: Annotated[float, Meta(ge=-1, le=1, description="P(positive) - P(negative).")]
    probabilities: dict[str, float]
    confidence: Annotated[float, Meta(ge=0, le=1, description="The largest of the probabilities.")]
    # Times: published by the feed, ingested by the broker, scored by us.
    published_at: Moment | None
    ingested_at: Moment | None
    scored_at: Moment
    queue_ms: Annotated[float, Meta(description="From the fetch to the start of inference.")] | None
    inference_ms: Annotated[float, Meta(description="Of the window that the text travelled in.")]
    # Provenance.
    model: str
    model_revision: str
    policy: str
    dial: float
    precision: str
    exit_depth: int
    predicted_depth: float | None
    depth_limit: int
    tokens: Annotated[int, Meta(description="Read by the model.")]
    tokens_kept: Annotated[int, Meta(description="Alive in the last layer run.")]
    # Origin.
    topic: str | None
    partition: int | None
    offset: int | None


_news_decoder = msgspec.json.Decoder(NewsItem)
_signal_decoder = msgspec.json.Decoder(SentimentSignal)
_encoder = msgspec.json.Encoder()


def decode_news(value: bytes | None) -> NewsItem:
    """Read one message of the news topic.

    U+0000, which JSON allows and Postgres does not, is removed first; times are brought to UTC.

    Raises
    ------
    BadNews
        With the reason in one sentence: a tombstone, too large, not UTF-8, not JSON, or against the contract.
    """
    if value is None:
        raise BadNews("tombstone: the message has no value")
    if len(value) > MAX_MESSAGE_BYTES:
        raise BadNews(f"message of {len(value)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    try:
        item = _news_decoder.decode(value)
        if b"\\u0000" in value:
            item = msgspec.convert(_without_nul(msgspec.to_builtins(item, builtin_types=(datetime,))), NewsItem)
        if not item.headline.strip():
            raise BadNews("headline is blank - at `$.headline`")
        return msgspec.structs.replace(item, published_at=item.published_at.astimezone(UTC))
    except UnicodeDecodeError as error:
        raise BadNews(f"not UTF-8: {error}") from error
    except msgspec.ValidationError as error:
        raise BadNews(f"against the contract: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadNews(f"not JSON: {error}") from error
    except OverflowError as error:
        raise BadNews(f"published_at is out of range in UTC: {error}") from error


def decode_signal(value: bytes) -> SentimentSignal:
    """Read one message of the sentiment topic; raises ``msgspec.MsgspecError`` or ``UnicodeDecodeError``."""
    return _signal_decoder.decode(value)


def encode(record: NewsItem | SentimentSignal) -> bytes:
    """The record as JSON, the way it travels."""
    return _encoder.encode(record)


def signal_id(news_id: str, revision: int, model_revision: str, policy: str) -> str:
    """The same news scored by the same model under the same policy always has the same id (32 hex digits)."""
    # JSON keeps the parts apart: no two different tuples join to one string.
    parts = _encoder.encode((news_id, revision, model_revision, policy))
    return hashlib.sha256(parts).hexdigest()[:32]


def broker_time(record: Any) -> datetime:
    """Return a message's timestamp, which on the topics that we create is the broker's clock (LogAppendTime).

    Parameters
    ----------
    record
        An ``aiokafka.ConsumerRecord``.

    Raises
    ------
    BadNews
        It is out of range: on other people's topics the producer chooses it.
    """
    try:
        return datetime.fromtimestamp(record.timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadNews(f"the message's timestamp {record.timestamp} is out of range: {error}") from error


def text_id(text: str) -> str:
    """The news id of a text that came without one."""
    return f"text:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of each record, by name."""
    records: tuple[type[NewsItem] | type[SentimentSignal], ...] = (NewsItem, SentimentSignal)
    return {
        record.__name__: {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(record)}
        for record in records
    }


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "")
        case list():
            return [_without_nul(one) for one in value]
        case dict():
            return {key: _without_nul(one) for key, one in value.items()}
    return value
