"""A scorer that gives every text the same answer at once, to measure and test the stream without a model.

For benchmarks and tests only; no shipped code imports it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from earlybell.inference.predictions import ModelDescription, Predictions


class ConstantScorer:
    """Answer "neutral" to every text."""

    def __init__(self, device: str = "cpu") -> None:
        self.description = ModelDescription(
            model="constant",
            model_revision="0" * 16,
            labels=("negative", "neutral", "positive"),
            languages=("en",),
            depth_limit=1,
            max_tokens=512,
            dial=0.0,
            policy="dial=0.00",
            precision="float32",
            device=device,
            arithmetic="none",
        )

    def warm_up(self) -> None:
        """Do nothing."""

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        """Return the same answer for each text."""
        count = len(texts)
        return Predictions(
            probabilities=np.tile(np.array([0.1, 0.8, 0.1], np.float32), (count, 1)),
            exit_depth=np.ones(count, np.int16),
            predicted_depth=np.full(count, np.nan, np.float32),
            tokens=np.full(count, 8, np.int32),
            tokens_kept=np.full(count, 8, np.int32),
            known=np.ones(count, np.float32),
        )
