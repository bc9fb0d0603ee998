"""Configures logging: our own structlog events and our clients' standard loggers, in one form.

One line per event on the standard error: JSON, or a sentence on a terminal (`streams.sentences`). Passwords are masked
here, as the last step, whichever module put them into an event.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from earlybell import masking
from earlybell.streams.sentences import SENTENCES, sentence

Level = Literal["debug", "info", "warning", "error"]

#: How long a process that has just started may look for the group's coordinator before that is logged.
COORDINATOR_AFTER_S = 30.0
_NO_COORDINATOR = re.compile("GroupCoordinatorNotAvailable|Marking the coordinator dead")
_STARTED = time.monotonic()

#: A client's line that is repeated is logged once in this time; lines that are remembered for it.
REPEATED_AFTER_S, MAX_REPEATED_LINES = 10.0, 1_000
_DIGITS = re.compile(r"\d+")

#: Libraries whose progress is logged at debug level only, and whose warnings always.
CHATTY_LIBRARIES = ("aiokafka", "faust", "mode", "asyncio", "alembic", "urllib3")


def configure(level: Level, log_format: Literal["auto", "json", "console"]) -> None:
    """Send every log event of this process to the standard error, in one form."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    enrich: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor
    select: list[Processor] = []
    if console:
        renderer = _Console(colours=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
        if level != "debug":
            select = [_drop_unsaid]
    else:
        renderer = structlog.processors.JSONRenderer(default=str)
    render: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        # Tracebacks become text first, so that passwords in them are masked too.
        structlog.processors.format_exc_info,
        mask_secrets,
        renderer,
    ]
    handler = logging.StreamHandler(sys.stderr)
    if level != "debug":
        handler.addFilter(_not_noise)
        handler.addFilter(_Repetitions())
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=render, foreign_pre_chain=enrich))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # The command line's client raises what it logs.
    logging.getLogger("kafka").setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL)
    for name in CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    # A commit that takes longer than its interval is no fault; the lag shows a broker that is too slow.
    logging.getLogger("mode.timers").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *select,
            *enrich,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class _Console:
    """Renders an event as a line for a person: time, role and sentence."""

    def __init__(self, *, colours: bool) -> None:
        self._dim, self._ready, self._warning, self._error, self._reset = (
            ("\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m") if colours else ("", "", "", "", "")
        )

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> str:
        time, level, exception = event.pop("timestamp")[11:19], event.pop("level"), event.pop("exception", None)
        role = event.pop("role", "")
        event.pop("logger", None)
        style = {"warning": self._warning, "error": self._error, "critical": self._error}.get(level, "")
        name = str(event.pop("event"))
        style = self._ready if name == "role_ready" else style
        text = sentence(name, event) or name
        mark = f"{level}: " if level in {"warning", "error", "critical"} else ""
        line = f"{self._dim}{time}  {role:<8}{self._reset} {style}{mark}{text}{self._reset if style else ''}"
        return f"{line}\n{exception}" if exception else line


def _drop_unsaid(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Drop the events that a person need not see."""
    if SENTENCES.get(event["event"], sentence) is None:
        raise structlog.DropEvent
    return event


def _not_noise(record: logging.LogRecord) -> bool:
    """Return whether a record is more than the noise of a healthy start.

    Faust's base class logs each start and stop of a service in our modules' names; our own events are mappings here,
    not text. Kafka's client logs errors while the broker creates the topic of the offsets, which it does when the first
    group joins.
    """
    if record.name.startswith("earlybell.") and isinstance(record.msg, str):
        return record.levelno >= logging.WARNING
    coordinator = record.name == "aiokafka.consumer.group_coordinator"
    if not coordinator or time.monotonic() - _STARTED > COORDINATOR_AFTER_S:
        return True
    return _NO_COORDINATOR.search(record.getMessage()) is None


class _Repetitions(logging.Filter):
    """Passes a line that a client repeats only once in `REPEATED_AFTER_S`, with how often it was left out since.

    Kafka's client writes 250 lines a second while its broker is down. Lines that differ only in their digits (ports,
    nodes, offsets) count as the same. Our own events are mappings here, and pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int, str], _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record; if others were left out, its field ``repeated`` says how many."""
        if not isinstance(record.msg, str):
            return True
        key = record.name, record.levelno, _DIGITS.sub("#", record.getMessage())
        seen, now = self._seen.get(key), time.monotonic()
        if seen is not None and now - seen.written < REPEATED_AFTER_S:
            seen.left_out += 1
            return False
        if seen is not None and seen.left_out:
            record.repeated = seen.left_out
        if len(self._seen) >= MAX_REPEATED_LINES:
            self._seen.clear()
        self._seen[key] = _Seen(now)
        return True


@dataclass(slots=True)
class _Seen:
    """When a line was last written, by the monotonic clock in s, and how many like it were left out since."""

    written: float
    left_out: int = 0


def name_role(role: str) -> None:
    """Add the role's name to every event of this process."""
    structlog.contextvars.bind_contextvars(role=str(role))


def silence() -> None:
    """Log nothing: for commands whose output is for people, so that no Kafka client writes into it."""
    logging.getLogger().handlers = [logging.NullHandler()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )


def mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Mask the values of fields that are named like secrets, and the secrets in all others."""
    return {name: masking.MASK if masking.names_secret(name) else masked(value) for name, value in event.items()}


def masked(value: Any) -> Any:
    """Return the value with the secrets in it masked, however deep."""
    match value:
        case str():
            return masking.masked(value)
        case dict():
            return mask_secrets(None, "", value)
        case list() | tuple():
            return [masked(element) for element in value]
        case None | bool() | int() | float():
            return value
    return masking.masked(str(value))
