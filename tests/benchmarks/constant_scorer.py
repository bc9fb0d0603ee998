"""A scorer that answers every text alike, at once: with it, what is measured is the stream and not the model.

For benchmarks and fault tests only; nothing that ships can reach it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from earlybell.inference.predictions import ModelDescription, Predictions


class ConstantScorer:
    """Neutral, whatever it is told."""

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
        )

    def warm_up(self) -> None:
        """Nothing to warm."""

    def score(self, texts: Sequence[str]) -> Predictions:
        """The same answer for each."""
        n = len(texts)
        return Predictions(
            probabilities=np.tile(np.array([0.1, 0.8, 0.1], np.float32), (n, 1)),
            exit_depth=np.ones(n, np.int16),
            predicted_depth=np.full(n, np.nan, np.float32),
            tokens=np.full(n, 8, np.int32),
            tokens_kept=np.full(n, 8, np.int32),
        )
