"""How many bytes a message takes up in a batch, whether it comes in or goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Sizeable(Protocol):
    """A message that came in, or one that goes out."""

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def size_of(message: Sizeable) -> int:
    """Return the bytes that a message takes up in a batch: no fewer than it really does."""
    return bytes_in_batch(message.key, message.value, message.headers)


def bytes_in_batch(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    """Return what a message with these parts takes up in a batch."""
    size = len(key or b"") + len(value or b"") + 40
    for name, content in headers:
        size += len(name.encode(errors="replace")) + len(content or b"") + 10
    return size
