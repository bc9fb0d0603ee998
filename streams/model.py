"""The model that the settings name, as something that a pool's workers can build.

Imports no torch: that is for the workers, and seconds and hundreds of megabytes for everyone else.
"""

from __future__ import annotations

import functools
from pathlib import Path

from earlybell.inference.pool.pool import MakeScorer
from earlybell.inference.predictions import Scorer
from earlybell.streams.settings import Settings


def scorer(settings: Settings) -> MakeScorer:
    """Device → engine, with the checkpoint, dial, precision and threads of the settings; can be pickled."""
    return functools.partial(
        _open,
        checkpoint=settings.checkpoint,
        dial=settings.dial,
        precision=settings.precision,
        threads=settings.cpu_threads,
    )


def _open(device: str, *, checkpoint: Path | None, dial: float | None, precision: str, threads: int) -> Scorer:
    from earlybell.inference.engine import open_engine

    return open_engine(device, checkpoint=checkpoint, dial=dial, precision=precision, threads=threads)
