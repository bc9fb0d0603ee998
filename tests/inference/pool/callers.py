"""Steps that the pool's tests share: run in a fresh loop, list the workers, check a window's result."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import psutil

from earlybell.inference.pool.pool import WindowResult

Test = Callable[..., Coroutine[Any, Any, None]]


def in_a_loop(test: Test) -> Callable[..., None]:
    """Run an async test, and fail it if it leaves a worker running."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))
        assert workers_of(os.getpid()) == []

    return run


def workers_of(pid: int) -> list[int]:
    """Return the ids of live descendants that are pool workers."""
    return [
        child.pid
        for child in psutil.Process(pid).children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "earlybell.inference.pool" in child.cmdline()
    ]


def numbers(n: int, start: int = 0) -> list[str]:
    return [str(i) for i in range(start, start + n)]


def answers(result: WindowResult) -> list[int]:
    tokens: list[int] = result.predictions.tokens.tolist()
    return tokens


def expect(result: WindowResult, texts: Sequence[str], faulty: set[int]) -> None:
    """Check that each text has exactly one prediction, in order, or, if it is faulty, a reason."""
    assert set(result.faults) == faulty
    assert answers(result) == [int(text.split()[0]) for i, text in enumerate(texts) if i not in faulty]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  another process cannot set an asyncio.Event
        await asyncio.sleep(0.01)


async def begun(directory: Path, number: int) -> None:
    await until((directory / f"begun-{number}").exists)


def go_on(directory: Path, *numbered: int) -> None:
    for number in numbered:
        (directory / f"go-{number}").touch()
