"""The pool that the settings describe, and how its workers build the model.

A worker imports this module for `_open`, so it imports nothing at the top level: the settings alone would cost a worker
as much time as the engine.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from earlybell.inference.pool.pool import MakeScorer, Pool
    from earlybell.inference.predictions import Scorer
    from earlybell.streams.settings import Settings


def open_pool(settings: Settings) -> Pool:
    """Return a pool, not started yet, of one engine on each device.

    Raises
    ------
    PoolError
        The devices are malformed.
    """
    from earlybell.inference.pool.pool import Pool, devices

    return Pool(scorer(settings), devices(settings.devices), mixed_arithmetic=settings.mixed_arithmetic)


def scorer(settings: Settings) -> MakeScorer:
    """Return a picklable function from a device to the engine that the settings describe."""
    return functools.partial(
        _open,
        checkpoint=settings.checkpoint,
        dial=settings.dial,
        precision=settings.precision,
        threads=settings.cpu_threads,
        exact=settings.exact,
    )


def _open(
    device: str, *, checkpoint: Path | None, dial: float | None, precision: str, threads: int, exact: bool
) -> Scorer:
    from earlybell.inference.engine import open_engine
    from earlybell.signal_fields import LABELS
    from earlybell.streams.exceptions import CommandError

    engine = open_engine(device, checkpoint=checkpoint, dial=dial, precision=precision, threads=threads, exact=exact)
    if not set(engine.description.labels) <= set(LABELS):
        found = ", ".join(engine.description.labels)
        raise CommandError(f"{checkpoint} answers {found}: serve a model whose labels are among {', '.join(LABELS)}")
    return engine
