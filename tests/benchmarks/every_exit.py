"""Every exit's answer to every text, in a backend's own precision, and the time that each depth takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.batching.backend import Backend, Window
from earlybell.inference.batching.planning import batches
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.calibration import Calibration, OperatingPoint
from earlybell.inference.token_ids import TokenIds
from tests.benchmarks import engine_clock


def uncalibrated(name: str, exits: int, max_tokens: int) -> Calibration:
    """Return a calibration of full depth at every dial, and temperatures of 1."""
    nan = float("nan")
    point = OperatingPoint(0.0, ExitRule(), Pruning(), accuracy=nan, accuracy_lost=0.0, mean_depth=nan, cost=1.0)
    return Calibration(name, ("en",), max_tokens, (1.0,) * exits, (point,), 0.0)


def every_exit(backend: Backend, texts: TokenIds) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Run all texts to each depth in turn.

    Returns
    -------
    probabilities
        (texts, exits, C), calibrated.
    seconds
        (L + 1,): the time that each depth adds, exit included, for all texts.
    """
    config = backend.config
    probabilities = np.zeros((len(texts), len(config.depths), config.classes), np.float32)
    cumulative = np.zeros(config.layers + 1)
    window = Window(texts, np.full(len(texts), np.nan, np.float32))
    for batch in batches(window, "length", backend.batch_tokens, backend.pads):
        rows = texts.take(batch.rows)
        for exit_, depth in enumerate(config.depths):
            began = engine_clock.now()
            probabilities[batch.rows, exit_] = backend.run(rows, batch.width, depth=depth).probabilities
            cumulative[depth] += engine_clock.now() - began
    return probabilities, np.maximum(np.diff(cumulative, prepend=0.0), 0.0)
