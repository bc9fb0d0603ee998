"""Real engines for the pool's tests, and a scorer whose arithmetic may be another after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from earlybell.inference.predictions import Scorer
from tests.inference.pool.scorers import ObedientScorer


def engine_in(device: str, checkpoint: Path) -> Scorer:
    """Open an engine on the CPU, in the precision that stands after the colon."""
    from earlybell.inference.engine import open_engine

    return open_engine("cpu", checkpoint=checkpoint, precision=device.partition(":")[2], threads=1)


def obedient_in(device: str, arithmetic: Path, built: Path) -> ObedientScorer:
    """Answer in the arithmetic that the file names, and count the scorers that were built."""
    scorer = ObedientScorer(device, "first", None, None)
    scorer.description = replace(scorer.description, arithmetic=arithmetic.read_text())
    with built.open("a") as file:
        file.write("built\n")
    return scorer
