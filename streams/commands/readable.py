"""How a message of any bytes reads: its headline, or its whole value, on lines that cannot command a terminal."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import msgspec

#: Characters of a value that are shown.
MAX_VALUE_CHARACTERS = 4_000
#: How the reasons of most dead letters begin; lists leave it out.
CONTRACT = "violates the contract: "
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def summary(value: bytes | None) -> str:
    """Return the headline of a message that is no valid news, else how it begins."""
    if value is None:
        return "(no value: a tombstone)"
    if not value.strip():
        return "(empty)"
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = msgspec.json.decode(value)
        headline = fields.get("headline") if isinstance(fields, dict) else None
        if isinstance(headline, str) and headline.strip("\0 "):
            return headline
    return value[:200].decode(errors="replace")


def readable(value: bytes | None) -> str:
    """Return a value as indented JSON, else as it is, on lines that a terminal can print."""
    text = text_of(value) or ""
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    cut = len(text) > MAX_VALUE_CHARACTERS
    # A letter's bytes must not command the terminal.
    lines = (_CONTROL.sub("\ufffd", line) for line in text[:MAX_VALUE_CHARACTERS].split("\n"))
    return "\n".join(lines) + (f"\n... and {len(text) - MAX_VALUE_CHARACTERS:,} characters more" if cut else "")


def text_of(value: bytes | None) -> str | None:
    """Return bytes as text; what is not UTF-8 is replaced."""
    return None if value is None else value.decode(errors="replace")
