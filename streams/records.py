"""The wire contracts: what a news item and a sentiment signal look like on Kafka.

Values are JSON in UTF-8; the key is the news id. This module turns bytes into validated records and records into
bytes, or gives the reason in one sentence why it cannot. It knows nothing of Faust, torch or SQL. The JSON Schemas in
``deploy/schemas/`` are generated from these structs (`json_schemas`).
"""

from __future__ import annotations

import codecs
import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from earlybell.signal_fields import SIGNAL_FIELDS

#: 1 MiB: the limit of the news and sentiment topics.
MAX_MESSAGE_BYTES = 1_048_576
#: The limit of the dead-letter topic: enough for a full message and the letter's headers.
MAX_DEAD_LETTER_BYTES = 2 * MAX_MESSAGE_BYTES
#: A message's ``timestamp_type`` if its timestamp is the broker's clock.
LOG_APPEND_TIME = 1

NewsId = Annotated[str, Meta(min_length=1, max_length=256)]
Symbol = Annotated[str, Meta(min_length=1, max_length=64)]
Moment = Annotated[datetime, Meta(tz=True)]
Label = Literal["negative", "neutral", "positive"]


class BadNews(ValueError):
    """A message that is not a valid `NewsItem`. Its text is the reason, for the dead letter's header."""


class NewsItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revision of one story, as a feed publishes it. Unknown fields are ignored."""

    id: Annotated[
        NewsId, Meta(description="The feed's id for the story; also the message's key. A correction keeps it.")
    ]
    headline: Annotated[str, Meta(min_length=1, max_length=4096, description="The headline, as plain text.")]
    published_at: Annotated[
        Moment, Meta(description="When it came out, according to its publisher: RFC 3339 with an offset.")
    ]
    body: Annotated[str | None, Meta(description="The text below the headline; the model reads both.")] = None
    source: Annotated[
        Annotated[str, Meta(max_length=256)] | None, Meta(description="Who published it, such as a newswire.")
    ] = None
    symbols: Annotated[
        Annotated[list[Symbol], Meta(max_length=1024)] | None,
        Meta(description="The instruments that the story is about, in the feed's own notation."),
    ] = None
    language: Annotated[
        Annotated[str, Meta(max_length=35)] | None,
        Meta(description="Its language in BCP 47, such as en-GB; absent or und: not known."),
    ] = None
    url: Annotated[Annotated[str, Meta(max_length=8192)] | None, Meta(description="Where it was published.")] = None
    revision: Annotated[int, Meta(ge=1, le=2**31 - 1, description="1 at first; each correction raises it.")] = 1

    @property
    def text(self) -> str:
        """The text that the model reads: the headline, and the body below it if there is one."""
        return f"{self.headline}\n{self.body}" if self.body else self.headline


class SentimentSignal(msgspec.Struct, frozen=True, kw_only=True):
    """One model's answer to one revision of one story, with its provenance and times.

    Delivery is at least once: drop a signal_id that was seen before, and a revision of a story that is lower than the
    highest seen. Times and origin are null for a text that was scored without Kafka. Milliseconds are wall-clock
    durations.
    """

    # `signal_fields` has the meaning of each field. One that is added later has a default, for ever: retained messages
    # must stay readable.
    signal_id: str
    news_id: NewsId
    revision: int
    symbols: list[Symbol]
    source: str | None
    text_hash: str | None = None
    # The answer.
    label: Label
    score: Annotated[float, Meta(ge=-1, le=1)]
    probabilities: dict[str, float]
    confidence: Annotated[float, Meta(ge=0, le=1)]
    # Times: of publication by the feed, of arrival at the broker, and of the answer.
    published_at: Moment | None
    ingested_at: Moment | None
    scored_at: Moment
    queue_ms: float | None
    inference_ms: float
    # Provenance.
    model: str
    model_revision: str
    policy: str
    dial: float
    precision: str
    exit_depth: int
    predicted_depth: float | None
    depth_limit: int
    tokens: int
    tokens_kept: int
    # Origin.
    topic: str | None
    partition: int | None
    offset: int | None


_news_decoder = msgspec.json.Decoder(NewsItem)
_signal_decoder = msgspec.json.Decoder(SentimentSignal)
_encoder = msgspec.json.Encoder()
_BRACE = ord("{")
#: A schema registry's serializers write a zero byte and the schema's id, 32 bits, before the JSON.
_REGISTRY_HEADER_BYTES = 5


def decode_news(value: bytes | None) -> NewsItem:
    """Decode a message of the news topic.

    Removes U+0000, which JSON allows and Postgres does not, and converts times to UTC. A byte order mark or a schema
    registry's header may precede the JSON.

    Raises
    ------
    BadNews
        The message is a tombstone, empty, too large, not UTF-8, not JSON, or violates the contract; the text says
        which.
    """
    if value is None:
        raise BadNews("tombstone: the message has no value")
    if len(value) > MAX_MESSAGE_BYTES:
        raise BadNews(f"message of {len(value)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    if not value or value.isspace():
        raise BadNews("empty: the message has a value without content")
    try:
        item = _news_decoder.decode(value if value[0] == _BRACE else _without_prefix(value))
        if b"\\" in value and b"\\u0000" in value:  # one byte is faster to look for, and few messages have it
            item = msgspec.convert(_without_nul(msgspec.to_builtins(item, builtin_types=(datetime,))), NewsItem)
        if not item.headline.strip():
            raise BadNews("headline is blank - at `$.headline`")
        if item.published_at.tzinfo is UTC:
            return item
        return msgspec.structs.replace(item, published_at=item.published_at.astimezone(UTC))
    except UnicodeDecodeError as error:
        raise BadNews(f"not UTF-8: {error}") from error
    except msgspec.ValidationError as error:
        raise BadNews(f"violates the contract: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadNews(f"not JSON: {error}") from error
    except OverflowError as error:
        raise BadNews(f"published_at is out of range in UTC: {error}") from error


def _without_prefix(value: bytes) -> bytes:
    """Return a message without what some clients write before their JSON."""
    if value.startswith(codecs.BOM_UTF8):
        return value.removeprefix(codecs.BOM_UTF8)
    if value[0] == 0 and value[_REGISTRY_HEADER_BYTES:].startswith(b"{"):
        return value[_REGISTRY_HEADER_BYTES:]
    return value


def decode_signal(value: bytes) -> SentimentSignal:
    """Decode a message of the sentiment topic, of this version or an earlier one.

    Raises
    ------
    msgspec.MsgspecError, UnicodeDecodeError
        It is not a signal.
    """
    return _signal_decoder.decode(value)


def encode(record: NewsItem | SentimentSignal) -> bytes:
    """Encode a record as JSON."""
    return _encoder.encode(record)


def signal_id(news_id: str, revision: int, text_hash: str, model_revision: str, policy: str) -> str:
    """Return the id of a signal, 32 hex digits: the same text of the same story, scored by the same model under the
    same policy, always has the same id, and another text has another.
    """
    # JSON keeps the parts apart: different tuples never encode to the same bytes.
    parts = _encoder.encode((news_id, revision, text_hash, model_revision, policy))
    return hashlib.sha256(parts).hexdigest()[:32]


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, shortened to 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def broker_time(record: Any) -> datetime:
    """Return when the broker had a message (LogAppendTime).

    Parameters
    ----------
    record
        A `streams.fetching.Message`, or another object with its times.

    Raises
    ------
    BadNews
        Its time is the producer's claim (CreateTime), or out of range.
    """
    if record.timestamp_type != LOG_APPEND_TIME:
        raise BadNews("the message has its producer's time, not the broker's (message.timestamp.type)")
    try:
        return datetime.fromtimestamp(record.timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadNews(f"the message's timestamp {record.timestamp} is out of range: {error}") from error


def text_id(text: str) -> str:
    """Return the news id of a text that came without one."""
    return f"text:{text_hash(text)}"


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema (2020-12) of each record, by name; every field has a description."""
    records: tuple[type[NewsItem] | type[SentimentSignal], ...] = (NewsItem, SentimentSignal)
    schemas = {
        record.__name__: {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(record)}
        for record in records
    }
    signal = schemas[SentimentSignal.__name__]["$defs"][SentimentSignal.__name__]["properties"]
    for name, meaning in SIGNAL_FIELDS.items():
        signal[name] = {"description": meaning, **signal[name]}
    return schemas


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "")
        case list():
            return [_without_nul(element) for element in value]
        case dict():
            return {key: _without_nul(element) for key, element in value.items()}
    return value
