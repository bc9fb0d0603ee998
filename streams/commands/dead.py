"""`earlybell dead`: count the dead letters by reason, list the latest, and show one in full."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from earlybell.streams.brokers import open_consumer, reaching
from earlybell.streams.commands.lines import Column, GrowingTable, plain
from earlybell.streams.commands.readable import CONTRACT, readable, summary, text_of
from earlybell.streams.dead_letters import OFFSET, PARTITION, REASON, STAGE, TOPIC, VALUE_OMITTED
from earlybell.streams.exceptions import CommandError
from earlybell.streams.settings import Settings

COLUMNS = (
    Column("letter", 9),
    Column("UTC", 14, from_width=110),
    Column("stage", 9, from_width=90),
    Column("message", 34),
    Column("reason"),
)
COUNTS = (Column("letters", 7, right=True), Column("reason"))
_POLL_MS = 250


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, as it is shown.

    Attributes
    ----------
    place
        ``PARTITION:OFFSET`` on the dead-letter topic: what `earlybell dead` takes.
    origin
        ``TOPIC PARTITION:OFFSET`` of the message that could not be processed.
    """

    place: str
    at: datetime
    origin: str
    stage: str
    reason: str
    key: bytes | None
    value: bytes | None
    value_omitted: bool

    @property
    def summary(self) -> str:
        """The headline of the message, else how it begins."""
        return "(value left out)" if self.value_omitted else summary(self.value)

    @property
    def kind(self) -> str:
        """The reason without the particulars of one message, so that like ones are counted together."""
        return re.sub(r"(?<![\w-])\d+(?![\w-])", "N", self.reason).partition(" (byte")[0].partition(": line N")[0]

    def as_json(self) -> str:
        """Return the letter as one line of JSON; bytes that are not UTF-8 are replaced."""
        return json.dumps(
            {
                "letter": self.place, "at": self.at.isoformat(), "origin": self.origin, "stage": self.stage,
                "reason": self.reason, "key": text_of(self.key), "value": text_of(self.value),
            },
            ensure_ascii=False,
        )  # fmt: skip


def show(settings: Settings, *, place: str | None, last: int, as_json: bool) -> None:
    """Print the letter at ``PARTITION:OFFSET``; or how many there are of each reason, and the latest.

    Raises
    ------
    BrokerError
        No broker answers.
    CommandError
        There is no such letter.
    """
    with reaching(settings), closing(open_consumer(settings, auto_offset_reset="earliest")) as consumer:
        if place is not None:
            letter = _one(consumer, settings, place)
            print(letter.as_json() if as_json else _in_full(letter))
            return
        kinds: Counter[str] = Counter()
        latest: deque[Letter] = deque(maxlen=last)
        for letter in _all(consumer, settings):
            if as_json:
                print(letter.as_json())
            kinds[letter.kind] += 1
            latest.append(letter)
    if as_json:
        return
    if not kinds:
        print(f"no dead letters on {settings.dead_topic}")
        return
    print(f"{kinds.total():,} dead letter{'' if kinds.total() == 1 else 's'} on {settings.dead_topic}")
    counts = GrowingTable(COUNTS)
    for kind, count in kinds.most_common(20):
        counts.row([(f"{count:,}", ""), (kind, "")])
    print(f"\nThe latest {len(latest)}:" if len(latest) < kinds.total() else "")
    table = GrowingTable(COLUMNS)
    for letter in sorted(latest, key=lambda letter: letter.at):
        moment, reason = f"{letter.at:%m-%d %H:%M:%S}", letter.reason.removeprefix(CONTRACT)
        table.row([(letter.place, ""), (moment, "dim"), (letter.stage, ""), (letter.summary, ""), (reason, "dim")])
    print("\n`earlybell dead LETTER` shows one in full; `earlybell redrive` sends them back.")


def _in_full(letter: Letter) -> str:
    lines = [
        ("letter", f"{letter.place}, {letter.at:%Y-%m-%d %H:%M:%S} UTC"),
        ("message", letter.origin),
        ("key", plain(text_of(letter.key) or "(none)")),
        ("stage", letter.stage),
        ("reason", plain(letter.reason)),
        ("value", letter.summary if not (letter.value or b"").strip() else f"{len(letter.value or b''):,} bytes"),
    ]
    shown = "\n".join(f"{name:<9}{value}" for name, value in lines)
    return f"{shown}\n\n{readable(letter.value)}" if (letter.value or b"").strip() else shown


def _one(consumer: KafkaConsumer, settings: Settings, place: str) -> Letter:
    found = re.fullmatch(r"(\d+):(\d+)", place)
    if found is None:
        raise CommandError(f"{place} is not a dead letter: give PARTITION:OFFSET, as `earlybell dead` lists them")
    partition, offset = TopicPartition(settings.dead_topic, int(found[1])), int(found[2])
    if partition.partition in (consumer.partitions_for_topic(settings.dead_topic) or ()):
        consumer.assign([partition])
        if consumer.beginning_offsets([partition])[partition] <= offset < consumer.end_offsets([partition])[partition]:
            consumer.seek(partition, offset)
            while consumer.position(partition) <= offset:
                for record in consumer.poll(timeout_ms=_POLL_MS, max_records=1).get(partition, ()):
                    if record.offset == offset:
                        return _letter(record)
    raise CommandError(f"no dead letter {place} on {settings.dead_topic}: `earlybell dead` lists them")


def _all(consumer: KafkaConsumer, settings: Settings) -> Iterator[Letter]:
    """Yield every letter that is on the topic now."""
    numbers = consumer.partitions_for_topic(settings.dead_topic) or ()
    partitions = [TopicPartition(settings.dead_topic, number) for number in sorted(numbers)]
    if not partitions:
        return
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    consumer.seek_to_beginning(*partitions)
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for partition, records in consumer.poll(timeout_ms=_POLL_MS).items():
            yield from (_letter(record) for record in records if record.offset < ends[partition])


def _letter(record: Any) -> Letter:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    topic, partition, offset = (headers.get(names[0], "?") for names in (TOPIC, PARTITION, OFFSET))
    return Letter(
        place=f"{record.partition}:{record.offset}",
        at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
        origin=f"{topic} {partition}:{offset}",
        stage=headers.get(STAGE, "?"),
        reason=headers.get(REASON[0], "no reason given"),
        key=record.key,
        value=record.value,
        value_omitted=VALUE_OMITTED in headers,
    )
