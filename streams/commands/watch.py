"""`earlybell watch`: print signals as they arrive on the sentiment topic, as a table or as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec
from kafka import TopicPartition

from earlybell.streams.brokers import open_consumer, reaching
from earlybell.streams.exceptions import BrokerError
from earlybell.streams.records import SentimentSignal, decode_signal, encode
from earlybell.streams.settings import Settings

_COLOURS = {"positive": "\x1b[32m", "negative": "\x1b[31m"}
_POLL_MS = 250


def watch(settings: Settings, *, from_start: bool, symbol: str | None, as_json: bool) -> None:
    """Print signals until Ctrl-C.

    Raises
    ------
    BrokerError
        No broker answers, or the sentiment topic does not exist yet.
    """
    # A reader at the other end of a pipe wants each signal as it arrives.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    colour = sys.stdout.isatty() and not as_json
    if colour:
        print(f"\x1b[2m{HEADING}\x1b[0m")
    for value in arriving(settings, from_start=from_start):
        try:
            signal = decode_signal(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            print(f"not a signal: {error}", file=sys.stderr)
            continue
        if symbol is None or symbol in signal.symbols:
            print(encode(signal).decode() if as_json else line(signal, colour=colour))


def arriving(settings: Settings, *, from_start: bool) -> Iterator[bytes]:
    """Yield the values of the sentiment topic for ever, from its start or from now on."""
    with reaching(settings):
        consumer = open_consumer(settings, auto_offset_reset="earliest")
        try:
            partitions = [
                TopicPartition(settings.sentiment_topic, number)
                for number in sorted(consumer.partitions_for_topic(settings.sentiment_topic) or ())
            ]
            if not partitions:
                raise BrokerError(
                    f"no topic {settings.sentiment_topic} at {settings.kafka_bootstrap}: `earlybell run` creates it"
                )
            consumer.assign(partitions)
            if from_start:
                consumer.seek_to_beginning(*partitions)
            else:
                consumer.seek_to_end(*partitions)
            while True:
                for records in consumer.poll(timeout_ms=_POLL_MS).values():
                    yield from (record.value for record in records if record.value is not None)
        finally:
            consumer.close()


HEADING = f"{'scored at':<13}{'label':<9} {'score':>6} {'conf.':>5}  depth  symbols          news"


def line(signal: SentimentSignal, *, colour: bool) -> str:
    """Format a signal as a line of the table."""
    label = f"{signal.label:<9}"
    if colour:
        label = f"{_COLOURS.get(signal.label, '')}{label}\x1b[0m"
    revision = f" (revision {signal.revision})" if signal.revision > 1 else ""
    return (
        f"{signal.scored_at:%H:%M:%S.%f}"[:-3]
        + f" {label} {signal.score:+6.2f} {signal.confidence:5.2f}  {signal.exit_depth:>2}/{signal.depth_limit:<2}  "
        + f"{','.join(signal.symbols)[:16]:<16} {signal.news_id}{revision}"
    )
