"""Batching strategies: which texts form a batch, and how they exit.

``padded``: full depth, in order of arrival, padded to the longest text. What most people run; the baseline.
``shrink``: texts that exit are dropped, and the batch shrinks (FastBERT's way).
``presort``: as ``shrink``, with texts of similar predicted exit depth together (GEEP's order), so batches stay full.
``predict``: GEEP's pure form: a batch runs to its predicted depth, and only that depth's exit is evaluated.
``refill``: continuous batching: a text that exits is replaced by the next one in the queue (ours).

In all but ``padded`` and ``predict`` each text exits by its own rule, and its answer does not depend on its
neighbours: to the last bit in int8, and in ``refill`` on any backend; elsewhere to within 1e-5 (float32) or 1e-3
(bfloat16), because a library's matrix product may sum in another order when the number of rows changes.

Source of the prediction: GEEP, Li et al. 2024, doi 10.1007/s11704-022-2341-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.batching.backend import Answers, Backend, Batch, Window
from earlybell.inference.batching.planning import UNLIMITED, Order, batches, batches_as_they_come
from earlybell.inference.model.config import Config


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way of batching a window and exiting from it."""

    name: str
    order: Order = "arrival"
    #: Where a text exits: by its own rule, at its predicted depth unchecked, or at the last depth, unpruned.
    exits: Literal["rule", "predicted", "last"] = "rule"
    continuous: bool = False

    @property
    def exact(self) -> bool:
        """Whether a text's answer has the same bits in every window, on any backend: every step has the same shape."""
        return self.continuous

    def run(self, backend: Backend, window: Window) -> Answers:
        """Score a window."""
        answers = Answers.empty(len(window.texts), backend.config.classes)
        for depth, batch in self._plan(backend, window):
            texts, prunes = window.texts.take(batch.rows), self.exits != "last"
            answers.put(
                batch.rows, backend.run(texts, batch.width, depth=depth, prunes=prunes, continuous=self.continuous)
            )
        return answers

    def _plan(self, backend: Backend, window: Window) -> Iterator[tuple[int | None, Batch]]:
        """Yield the batches, and the depth that each runs to; None: until every text has exited."""
        budget, pads = backend.batch_tokens, backend.pads
        match self.exits:
            case "last":
                for batch in batches_as_they_come(window, budget):
                    yield backend.config.layers, batch
            case "predicted":
                depths = _rounded(window.predicted, backend.config)
                for depth in np.unique(depths):
                    for batch in batches(window, self.order, budget, pads, among=np.flatnonzero(depths == depth)):
                        yield int(depth), batch
            case "rule":
                for batch in batches(window, self.order, UNLIMITED if self.continuous else budget, pads):
                    yield None, batch


def _rounded(predicted: NDArray[np.float32], config: Config) -> NDArray[np.int64]:
    """Round predictions to depths that have an exit; a text without a prediction runs to full depth."""
    first, last = config.depths[0], config.depths[-1]
    return np.clip(np.rint(np.nan_to_num(predicted, nan=last)), first, last).astype(np.int64)


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("padded", exits="last"),
        Strategy("shrink"),
        Strategy("presort", order="predicted"),
        Strategy("predict", order="length", exits="predicted"),
        Strategy("refill", order="predicted", continuous=True),
    )
}
