"""Sets up the logs: structlog for our own lines, and the standard library's loggers of our clients through it.

One line an event on the standard error: JSON, or colours on a terminal. Passwords are masked here, at the last gate,
whoever let them into an event.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

Level = Literal["debug", "info", "warning", "error"]

MASK = "***"
#: Whose own progress is of no interest unless one debugs; their warnings are.
CHATTY = ("aiokafka", "kafka", "faust", "mode", "asyncio", "alembic", "urllib3")
_SECRET_NAME = re.compile(r"password|passwd|secret|credential|api_?key|^token$|authorization", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):[^\s/@]+@")


def configure(level: Level, form: Literal["auto", "json", "console"]) -> None:
    """Send every log line of this process to the standard error in one form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    known: list[Processor] = [
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
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        # A traceback becomes text first, so that what it quotes is masked too.
        structlog.processors.format_exc_info,
        mask_secrets,
        renderer,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=known))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *known,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def silence() -> None:
    """For commands that talk to people: their Kafka clients' own lines would come in between."""
    logging.getLogger().handlers = [logging.NullHandler()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )


def mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Mask the values of fields that are named like secrets, and passwords in URLs wherever they stand."""
    return {name: MASK if _SECRET_NAME.search(name) else masked(value) for name, value in event.items()}


def masked(value: Any) -> Any:
    """The value with the passwords of URLs in it replaced."""
    match value:
        case str():
            return _URL_PASSWORD.sub(rf"\1:{MASK}@", value)
        case dict():
            return mask_secrets(None, "", value)
        case list() | tuple():
            return [masked(one) for one in value]
    return value
