"""Dead letters: messages that cannot be processed, kept unchanged on a topic of their own, with the reason.

A dead letter has the key and value of the original message. Its headers give the reason in the two dialects that tools
read: Kafka Connect's (``__connect.errors.*``) and Kafka Streams' (``__streams.errors.*``). `earlybell redrive`
(`streams.commands.redrive`) sends dead letters back once the cause is fixed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import structlog

from earlybell.streams import metrics
from earlybell.streams.fetching import Unreadable
from earlybell.streams.message_size import Sizeable, size_of
from earlybell.streams.producer import MessagesTooLargeError, Outgoing
from earlybell.streams.records import MAX_DEAD_LETTER_BYTES

log = structlog.get_logger(__name__)

#: The header of each particular, in both dialects.
TOPIC = ("__connect.errors.topic", "__streams.errors.topic")
PARTITION = ("__connect.errors.partition", "__streams.errors.partition")
OFFSET = ("__connect.errors.offset", "__streams.errors.offset")
EXCEPTION = ("__connect.errors.exception.class.name", "__streams.errors.exception")
REASON = ("__connect.errors.exception.message", "__streams.errors.message")
STAGE = "__connect.errors.stage"
#: Set, with the value's size in bytes, if the letter goes without its value, because it is too large or could not be
#: decoded (then the size is ``unknown``). The original is at the origin.
VALUE_OMITTED = "earlybell.value.omitted"
#: Set if the letter stands for several messages that could not be decoded: the offset after the last of them.
END_OFFSET = "earlybell.offset.end"
#: Prefixes of the headers that a letter adds to those of its message.
ADDED_HEADERS = ("__connect.errors.", "__streams.errors.", "earlybell.")
#: The reason is for people, and a message could make it arbitrarily long.
MAX_REASON_CHARACTERS = 1_000
#: The largest letter: the topic's limit, with room for the batch around it.
MAX_LETTER_BYTES = MAX_DEAD_LETTER_BYTES - 1_024


class Origin(Sizeable, Protocol):
    """A message as it was read (a `streams.fetching.Message`)."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...


def letter(message: Origin, *, stage: str, kind: str, reason: str) -> Outgoing:
    """Build the dead letter of a message. One that would be too large goes without its value, or even its key.

    Parameters
    ----------
    message
        The message that could not be processed.
    stage
        Where it failed: ``decode``, ``language``, ``expired``, ``inference``, ``signal`` or ``store``.
    kind
        The class of the fault, such as ``BadNews``.
    reason
        One sentence.
    """
    if isinstance(message, Unreadable):
        kind, reason = type(message).__name__, message.reason
    particulars = [
        (TOPIC, message.topic),
        (PARTITION, str(message.partition)),
        (OFFSET, str(message.offset)),
        (EXCEPTION, kind),
        (REASON, reason[:MAX_REASON_CHARACTERS]),
    ]
    headers = [(name, text.encode("utf-8", "backslashreplace")) for names, text in particulars for name in names]
    headers.append((STAGE, stage.encode()))
    if isinstance(message, Unreadable):
        headers += [(END_OFFSET, str(message.end).encode()), (VALUE_OMITTED, b"unknown")]
    whole = Outgoing(message.key, message.value, [*message.headers, *headers])
    return next((form for form in _forms(whole) if size_of(form) <= MAX_LETTER_BYTES), whole)


async def send(
    letters: Sequence[Outgoing], topic: str, send_all: Callable[[str, Sequence[Outgoing]], Awaitable[None]]
) -> None:
    """Send letters. One that the broker finds too large goes without its value; one that is still too large is logged.

    Raises
    ------
    KafkaError
        The broker cannot take them now; try again later.
    """
    try:
        await send_all(topic, letters)
    except MessagesTooLargeError as error:
        for index in error.indices:
            await _send_shrinking(letters[index], topic, send_all)
    for dead_letter in letters:
        metrics.DEAD_LETTERS.labels(stage=dict(dead_letter.headers)[STAGE].decode()).inc()


async def _send_shrinking(
    dead_letter: Outgoing, topic: str, send_all: Callable[[str, Sequence[Outgoing]], Awaitable[None]]
) -> None:
    for form in islice(_forms(dead_letter), 1, None):
        try:
            return await send_all(topic, [form])
        except MessagesTooLargeError:
            continue
    origin = {name: text.decode() for name, text in dead_letter.headers if name in (TOPIC[0], PARTITION[0], OFFSET[0])}
    log.error("dead_letter_refused", **{name.rsplit(".", 1)[-1]: text for name, text in origin.items()})
    return None


def _forms(whole: Outgoing) -> Iterator[Outgoing]:
    """Yield a letter as it is, without its value, and with nothing but the headers that were added to its message's."""
    yield whole
    headers = list(whole.headers)
    if whole.value is not None:
        headers.append((VALUE_OMITTED, str(len(whole.value)).encode()))
        yield Outgoing(whole.key, None, headers)
    added = max(number for number, (name, _) in enumerate(headers) if name == TOPIC[0])
    yield Outgoing(None, None, headers[added:])
