"""The contract between batching and computing: token ids in batches go in, answers come out.

A strategy (`strategies`) decides which texts form a batch and how they exit; a backend (`backends`) runs the batch.
Neither knows the other. This module knows no tensors, tokenizers or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.config import Config
from earlybell.inference.token_ids import TokenIds


@dataclass(frozen=True, slots=True)
class Window:
    """The texts that are scored together."""

    texts: TokenIds
    predicted: NDArray[np.float32]  # (texts,) predicted exit depth; NaN without a prediction


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of a window that a backend runs together, and the width that they are padded to."""

    rows: NDArray[np.int64]  # indices into the window
    width: int  # 0 where the backend does not pad


@dataclass(frozen=True, slots=True)
class Answers:
    """The answer to each text, in the order of the texts."""

    probabilities: NDArray[np.float32]  # (texts, C)
    exit_depth: NDArray[np.int16]
    tokens_kept: NDArray[np.int32]  # in the last layer that ran

    @classmethod
    def empty(cls, texts: int, classes: int) -> Answers:
        """Return answers to be filled in; a depth of -1 marks those that are not."""
        return cls(np.zeros((texts, classes), np.float32), np.full(texts, -1, np.int16), np.zeros(texts, np.int32))

    def put(self, rows: NDArray[np.int64], answers: Answers) -> None:
        """Fill in the answers of these rows."""
        self.probabilities[rows] = answers.probabilities
        self.exit_depth[rows] = answers.exit_depth
        self.tokens_kept[rows] = answers.tokens_kept


class Backend(Protocol):
    """A model on a device, and the rule that texts exit by."""

    @property
    def config(self) -> Config:
        """The model's shape."""
        ...

    @property
    def batch_tokens(self) -> int:
        """The token budget of a batch, padding included."""
        ...

    @property
    def pads(self) -> bool:
        """Whether the texts of a batch are padded to a common width."""
        ...

    def at(self, rule: ExitRule, pruning: Pruning) -> Self:
        """Return a backend with the same weights and other rules."""
        ...

    def run(
        self,
        texts: TokenIds,
        width: int,
        *,
        depth: int | None = None,
        prunes: bool = True,
        continuous: bool = False,
    ) -> Answers:
        """Run a batch until every text has exited.

        Parameters
        ----------
        texts
            Any number of texts, none longer than ``width`` where the backend pads.
        width
            Tokens that each text is padded to; ignored where the backend does not pad.
        depth
            Answer every text at this depth. None: each text exits by the backend's own rule.
        prunes
            Prune tokens, if the backend was set up to (ACC).
        continuous
            The texts are a queue, longer than a batch may be: those that exit are replaced by the next ones, and every
            step has the same shape, so a text's answer has the same bits in any company. Needs ``depth`` None.
        """
        ...
