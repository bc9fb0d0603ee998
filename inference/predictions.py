"""An engine's answers to a window of texts, and its description of itself.

Plain data that crosses process boundaries: it knows nothing of torch, Kafka or SQL.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from earlybell.signal_fields import LABELS, NEGATIVE, POSITIVE

#: The arithmetic of the int8 kernels. Raise the number whenever it changes an answer by a single bit.
INT8_ARITHMETIC = "int8.2"
#: Rows that the printed form of predictions shows.
PRINTED_ROWS = 20


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
    policy: str  # "dial=0.50", or "adaptive" if each window has its own
    precision: str  # "float32", "bfloat16" ...
    device: str  # "cpu", "cuda:0" ...
    arithmetic: str  # "int8.2.figures3", "bfloat16.cuda.torch2.13" ...; two that differ answer differently
    kernels: str | None = None  # the form of the int8 kernels: "avx2" ...; None if torch computes
    #: The calibrated positions of the dial, ascending, each with the accuracy that it loses against dial 0.
    curve: tuple[tuple[float, float], ...] = ()

    @property
    def served_revision(self) -> str:
        """The revision that signals carry: the checkpoint's, and the arithmetic that it is served in."""
        return f"{self.model_revision}+{self.arithmetic}"


class Prediction(NamedTuple):
    """The answer to one text."""

    label: str  # the class with the largest probability
    score: float  # P(positive) - P(negative); a class that the model does not have counts 0
    confidence: float  # the largest of the probabilities
    probabilities: Mapping[str, float]
    exit_depth: int  # the depth that answered
    predicted_depth: float | None  # GEEP's prediction; None where the checkpoint has no token table
    tokens: int  # that the model read
    tokens_kept: int  # alive in the last layer that ran
    known: float  # share of the tokens that are words of the vocabulary


@dataclass(frozen=True, slots=True, repr=False)
class Predictions:
    """The answers to N texts, in the order in which the texts came: arrays with one row a text.

    Iterate over them for one `Prediction` a text, or turn them into a frame with `to_pandas` or `to_polars`.
    """

    probabilities: NDArray[np.float32]  # (texts, classes), calibrated
    exit_depth: NDArray[np.int16]  # (texts,) the depth that answered
    predicted_depth: NDArray[np.float32]  # (texts,) GEEP's prediction; NaN where the checkpoint has no token table
    tokens: NDArray[np.int32]  # (texts,) read, special tokens included
    tokens_kept: NDArray[np.int32]  # (texts,) alive in the last layer that ran
    known: NDArray[np.float32]  # (texts,) share of the tokens that are whole words of the vocabulary, or emoji
    classes: tuple[str, ...] = LABELS  # of `probabilities`

    def __post_init__(self) -> None:
        shape, texts, classes = self.probabilities.shape, len(self), len(self.classes)
        if shape != (texts, classes):
            raise ValueError(f"probabilities of shape {shape} for {texts} texts and {classes} classes")

    def __len__(self) -> int:
        return len(self.exit_depth)

    def __getitem__(self, row: int) -> Prediction:
        row = range(len(self))[row]
        return next(self._records(slice(row, row + 1)))

    def __iter__(self) -> Iterator[Prediction]:
        return self._records(slice(None))

    def _records(self, rows: slice) -> Iterator[Prediction]:
        # Whole columns become Python's numbers at once, not one element after the other. A softmax in float32 may sum
        # to 1 + 1e-7, so its largest part may exceed 1.
        columns = (
            self.probabilities[rows].clip(0.0, 1.0),
            self.exit_depth[rows],
            self.predicted_depth[rows],
            self.tokens[rows],
            self.tokens_kept[rows],
            self.known[rows],
        )
        for answer, depth, predicted, *counts in zip(*(column.tolist() for column in columns), strict=True):
            probabilities = dict(zip(self.classes, answer, strict=True))
            confidence = max(answer)
            yield Prediction(
                self.classes[answer.index(confidence)],
                probabilities.get(POSITIVE, 0.0) - probabilities.get(NEGATIVE, 0.0),
                confidence,
                probabilities,
                depth,
                None if math.isnan(predicted) else predicted,
                *counts,
            )

    @property
    def labels(self) -> list[str]:
        """The class with the largest probability, of each text."""
        return [self.classes[best] for best in self.probabilities.argmax(1)]

    @property
    def scores(self) -> NDArray[np.float32]:
        """P(positive) - P(negative) of each text; a class that the model does not have counts 0."""
        positive, negative = (
            self.probabilities[:, self.classes.index(name)] if name in self.classes else np.zeros(len(self), np.float32)
            for name in (POSITIVE, NEGATIVE)
        )
        return positive - negative

    def columns(self) -> dict[str, Any]:
        """Return the columns of a frame by name: label, score, confidence, a probability a class, depth and tokens."""
        return {
            "label": self.labels,
            "score": self.scores,
            "confidence": self.probabilities.max(1),
            **{name: self.probabilities[:, number] for number, name in enumerate(self.classes)},
            "exit_depth": self.exit_depth,
            "tokens": self.tokens,
        }

    def to_pandas(self) -> Any:
        """Return the `columns` as a pandas frame, if pandas is installed."""
        return import_module("pandas").DataFrame(self.columns())

    def to_polars(self) -> Any:
        """Return the `columns` as a polars frame, if polars is installed."""
        return import_module("polars").DataFrame(self.columns())

    def __repr__(self) -> str:
        shown = min(len(self), PRINTED_ROWS)
        lines = [f"{'label':<9}{'score':>6}{'conf.':>7}{'depth':>7}"] if shown else []
        lines += [
            f"{answer.label:<9}{answer.score:>+6.2f}{answer.confidence:>7.2f}{answer.exit_depth:>7}"
            for answer in map(self.__getitem__, range(shown))
        ]
        lines.append(f"({len(self):,} texts)" if shown == len(self) else f"... ({len(self):,} texts)")
        return "\n".join(lines)

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions], classes: tuple[str, ...]) -> Predictions:
        """Return the rows of all the parts, one part after the other; no parts have no rows."""
        if not parts:
            return cls(
                np.empty((0, len(classes)), np.float32),
                np.empty(0, np.int16),
                np.empty(0, np.float32),
                np.empty(0, np.int32),
                np.empty(0, np.int32),
                np.empty(0, np.float32),
                classes,
            )
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.exit_depth for part in parts]),
            np.concatenate([part.predicted_depth for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.tokens_kept for part in parts]),
            np.concatenate([part.known for part in parts]),
            classes,
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

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        """Score the texts, at another dial than the scorer's own if one is given; an empty window gives no rows."""
        ...


@runtime_checkable
class OverlappingScorer(Scorer, Protocol):
    """A scorer that begins a window while it finishes the one before, so that none of its threads has to wait."""

    def begin(self, texts: Sequence[str], dial: float | None = None) -> Callable[[], Timed]:
        """Begin to `score` the texts, after all that was begun before, and return at once.

        Returns
        -------
        Callable
            Waits for the answers and returns them, or raises what `score` raises.
        """
        ...


class Timed(NamedTuple):
    """Answers, and when they were computed."""

    predictions: Predictions
    started: float  # of time.perf_counter()
    ended: float


def timed(score: Callable[..., Predictions], *window: Any) -> Timed:
    """Call ``score`` with a window, and note when it began and ended."""
    started = time.perf_counter()
    return Timed(score(*window), started, time.perf_counter())
