"""`earlybell watch`: print signals as they arrive on the sentiment topic, as a table or as JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import msgspec
from kafka import KafkaConsumer, TopicPartition

from earlybell.streams.brokers import open_consumer, reaching
from earlybell.streams.commands.headlines import Headlines
from earlybell.streams.commands.lines import Column, GrowingTable, Notice
from earlybell.streams.records import SentimentSignal, decode_signal, encode
from earlybell.streams.settings import Settings

COLUMNS = (
    Column("UTC", 8),
    Column("score", 5, right=True),
    Column("label", 8, from_width=60),
    Column("conf.", 5, right=True, from_width=100),
    Column("depth", 5, right=True, from_width=110),
    Column("ms", 6, right=True, from_width=120),
    Column("symbols", 10, from_width=70),
    Column("headline"),
)
_POLL_MS = 250
#: How often to look for a topic that does not exist yet.
_LOOK_EVERY_S = 0.5


def watch(settings: Settings, *, from_start: bool, symbol: str | None, as_json: bool) -> None:
    """Print signals until Ctrl-C, which is the ordinary end.

    Raises
    ------
    BrokerError
        No broker answers.
    """
    # A reader at the other end of a pipe wants each signal as it arrives.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    notice = Notice()
    table = GrowingTable(COLUMNS)
    try:
        with reaching(settings), closing(open_consumer(settings, auto_offset_reset="earliest")) as consumer:
            _assign(consumer, settings, notice, from_start=from_start)
            about = f" about {symbol}" if symbol else ""
            notice.show(f"waiting for signals{about} on {settings.sentiment_topic} at {settings.kafka_bootstrap} ...")
            if as_json:
                for signals in _arriving(consumer, symbol, notice):
                    sys.stdout.writelines(f"{encode(signal).decode()}\n" for signal in signals)
                return
            with closing(Headlines(settings)) as headlines:
                for signals in _arriving(consumer, symbol, notice):
                    found = headlines.find(signals)
                    for signal in signals:
                        table.row(cells(signal, found.get(signal.signal_id)))
    except KeyboardInterrupt:
        notice.clear()


def cells(signal: SentimentSignal, headline: str | None) -> list[tuple[str, str]]:
    """Return the row of a signal in the table: text and style of each of `COLUMNS`."""
    arrived = signal.ingested_at
    latency = f"{(signal.scored_at - arrived).total_seconds() * 1000:.0f}" if arrived else ""
    revision = f"(revision {signal.revision}) " if signal.revision > 1 else ""
    return [
        (f"{signal.scored_at:%H:%M:%S}", "dim"),
        (f"{signal.score:+.2f}", signal.label),
        (signal.label, signal.label),
        (f"{signal.confidence:.2f}", ""),
        (f"{signal.exit_depth}/{signal.depth_limit}", ""),
        (latency, ""),
        (",".join(signal.symbols), ""),
        (revision + (headline or signal.news_id), ""),
    ]


def _assign(consumer: KafkaConsumer, settings: Settings, notice: Notice, *, from_start: bool) -> None:
    """Assign the sentiment topic to the consumer, from its start or from now on; wait for it if need be."""
    while not (numbers := consumer.partitions_for_topic(settings.sentiment_topic)):
        if not from_start:
            notice.show(f"waiting for the topic {settings.sentiment_topic}: `earlybell run` creates it ...")
        from_start = True  # all that it will hold arrives from now on
        time.sleep(_LOOK_EVERY_S)
        consumer.topics()  # asks the broker again
    partitions = [TopicPartition(settings.sentiment_topic, number) for number in sorted(numbers)]
    consumer.assign(partitions)
    if from_start:
        consumer.seek_to_beginning(*partitions)
    else:
        consumer.seek_to_end(*partitions)
        for partition in partitions:
            consumer.position(partition)  # now, not at the first poll


def _arriving(consumer: KafkaConsumer, symbol: str | None, notice: Notice) -> Iterator[Sequence[SentimentSignal]]:
    """Yield the signals of each poll for ever; what is not a signal is reported and passed over."""
    while True:
        signals = []
        for records in consumer.poll(timeout_ms=_POLL_MS).values():
            for record in records:
                try:
                    signal = decode_signal(record.value or b"")
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    notice.clear()
                    print(
                        f"partition {record.partition}, offset {record.offset}: not a signal: {error}", file=sys.stderr
                    )
                    continue
                if symbol is None or symbol in signal.symbols:
                    signals.append(signal)
        if signals:
            notice.clear()
            yield signals
