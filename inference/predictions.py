"""What an engine says of a window of texts, and what it says of itself.

Plain data that crosses process boundaries: it knows nothing of torch, Kafka or SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: The arithmetic of the int8 kernels. Raise the number whenever it changes an answer by a single bit.
INT8_ARITHMETIC = "int8.2"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The model behind an answer: enough for a consumer to tell two answers apart."""

    model: str  # the checkpoint's name
    model_revision: str  # hash over weights, tokenizer and calibration
    labels: tuple[str, ...]  # class order of `Predictions.probabilities`
    languages: tuple[str, ...]  # BCP 47 primary subtags that the model reads; the first is its own
    depth_limit: int  # the deepest an answer can come from
    max_tokens: int  # the most tokens it reads of one text
    dial: float  # 0: full depth .. 1: the fastest calibrated
    policy: str  # "dial=0.50"
    precision: str  # "float32", "bfloat16" ...
    device: str  # "cpu", "cuda:0" ...
    arithmetic: str  # "int8.2", "bfloat16.cuda.torch2.13" ...; two that differ answer differently
    kernels: str | None = None  # the form of the int8 kernels: "avx2" ...; None if torch computes

    @property
    def served_revision(self) -> str:
        """The revision that signals carry: the checkpoint's, and the arithmetic that it is served in."""
        return f"{self.model_revision}+{self.arithmetic}"


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers to N texts: one row a text, in the order in which the texts came."""

    probabilities: NDArray[np.float32]  # (texts, classes), after the exit's temperature
    exit_depth: NDArray[np.int16]  # (texts,) the depth that answered
    predicted_depth: NDArray[np.float32]  # (texts,) GEEP's expectation; NaN where the checkpoint has no token table
    tokens: NDArray[np.int32]  # (texts,) read, special tokens included
    tokens_kept: NDArray[np.int32]  # (texts,) alive in the last layer that ran

    def __len__(self) -> int:
        return len(self.exit_depth)

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions], classes: int) -> Predictions:
        """The rows of all the parts, one part after the other; no parts give no rows."""
        if not parts:
            return cls(
                np.empty((0, classes), np.float32),
                np.empty(0, np.int16),
                np.empty(0, np.float32),
                np.empty(0, np.int32),
                np.empty(0, np.int32),
            )
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.exit_depth for part in parts]),
            np.concatenate([part.predicted_depth for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.tokens_kept for part in parts]),
        )


class Scorer(Protocol):
    """What a pool worker runs: an engine, or in a test or a benchmark something that stands in for one."""

    @property
    def description(self) -> ModelDescription:
        """Which model this is and how it runs."""
        ...

    def warm_up(self) -> None:
        """Run every shape once, so that the first window is as fast as the last."""
        ...

    def score(self, texts: Sequence[str]) -> Predictions:
        """Score the texts; an empty window gives no rows."""
        ...
