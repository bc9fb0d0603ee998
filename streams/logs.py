"""Configures logging: our own structlog events and our clients' standard loggers, in one form.

One line per event on the standard error: JSON, or colours on a terminal. Passwords are masked here, as the last step,
whichever module put them into an event.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from earlybell import masking

Level = Literal["debug", "info", "warning", "error"]

#: Libraries whose progress is logged at debug level only, and whose warnings always.
CHATTY_LIBRARIES = ("aiokafka", "kafka", "faust", "mode", "asyncio", "alembic", "urllib3")


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
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
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
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=render, foreign_pre_chain=enrich))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *enrich,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


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
