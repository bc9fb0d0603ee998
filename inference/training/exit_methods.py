"""Exit methods on the answers of all exits at once: CWB by any window, entropy, patience and a fixed depth.

Two windows of ELBERT's released code are compared here but not served: agreement with a range, and trend with a margin.
The served rules decide depth by depth (`early_exit.confidence_window`) and keep one probability per text; these two
would have to keep the whole window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import normalised_entropy
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.training.calibrate import MARGINS, least_mean_depth
from earlybell.inference.training.measures import accuracy

Curve = list[tuple[float, float]]  # (mean depth, accuracy), ascending
#: r of an agreement with a range, to try.
RANGES = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class ExitWindow:
    """A text exits where one class leads at each of the last ``depths`` depths, and the rule holds.

    With a ``range`` of 1 an agreement is the one that is served, and so is a trend with a ``margin`` of 0.
    """

    rule: Literal["agreement", "trend"]
    depths: int  # N
    margin: float = 0.0  # m: for an agreement, exceeded at each depth; for a trend, reached at the oldest
    range: float = 1.0  # r: for an agreement, the most by which the class's probability varies within the window

    @classmethod
    def of(cls, rule: ExitRule) -> ExitWindow | None:
        """Return the window of a rule that is served; None if it has none."""
        return None if rule.window_rule == "off" else cls(rule.window_rule, rule.window, rule.margin)

    def holds(self, probabilities: NDArray[np.float32], first_depth: int) -> NDArray[np.bool_]:
        """Return the exits at which the window lets each text exit: (texts, exits, C) -> (texts, exits).

        The window counts depths 1..; see `ConfidenceWindow`.
        """
        ascending = np.sort(probabilities, axis=-1)
        skipped = max(0, 1 - first_depth)
        lead = ascending[:, skipped:, -1]
        margin = lead - ascending[:, skipped:, -2]
        held = np.zeros(probabilities.shape[:2], np.bool_)
        if self.depths > lead.shape[1]:
            return held
        labels, leads, margins = (
            np.lib.stride_tricks.sliding_window_view(values, self.depths, axis=1)  # (texts, windows, N)
            for values in (probabilities[:, skipped:].argmax(-1), lead, margin)
        )
        if self.rule == "agreement":
            kept = (margins > self.margin).all(-1) & (np.ptp(leads, axis=-1) <= self.range)
        else:
            kept = (np.diff(leads, axis=-1) >= 0).all(-1) & (margins[..., 0] >= self.margin)
        held[:, skipped + self.depths - 1 :] = kept & (labels == labels[..., :1]).all(-1)
        return held


def all_windows(exits: int) -> dict[str, list[ExitWindow]]:
    """Return the windows to try for each rule. The lists of the two that are not served hold no served window."""
    counts = range(2, exits)
    return {
        "agreement": [ExitWindow("agreement", depths, margin) for depths in counts for margin in MARGINS],
        "trend": [ExitWindow("trend", depths) for depths in counts],
        "agreement_with_a_range": [
            ExitWindow("agreement", depths, *pair) for depths in counts for pair in product(MARGINS, RANGES)
        ],
        "trend_with_a_margin": [ExitWindow("trend", depths, margin) for depths in counts for margin in MARGINS[1:]],
    }  # fmt: skip


class Exits:
    """The probabilities of some texts at all exits: the depth at which each would exit, by any threshold and window."""

    def __init__(self, probabilities: NDArray[np.float32], first_depth: int) -> None:
        self.probabilities, self.first_depth = probabilities, first_depth
        self._entropy = normalised_entropy(torch.from_numpy(probabilities)).numpy()

    def depths(self, threshold: float, held: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return each text's exit depth, (texts,), where ``held`` is what the window `holds`; None: no window."""
        exits = self._entropy < np.float32(threshold)
        if held is not None:
            exits |= held
        exits[:, -1] = True
        depths: NDArray[np.int64] = exits.argmax(1) + self.first_depth
        return depths

    def best(self, windows: Iterable[ExitWindow], truth: NDArray[np.int64]) -> ExitWindow:
        """Return the window that calibration would choose among these; see `calibrate.best_family`."""

        def mean_depth(window: ExitWindow) -> float:
            held = window.holds(self.probabilities, self.first_depth)
            return least_mean_depth(
                lambda threshold: self.depths(threshold, held), self.probabilities, truth, self.first_depth
            )

        return min(windows, key=mean_depth)

    def best_of_each_rule(self, truth: NDArray[np.int64]) -> dict[str, ExitWindow]:
        """Return the `best` window of each rule."""
        return {name: self.best(windows, truth) for name, windows in all_windows(self.probabilities.shape[1]).items()}

    def answered(self, depths: NDArray[np.int64], truth: NDArray[np.int64]) -> tuple[float, float]:
        """Return the mean depth and the accuracy of answers at these depths, (texts,)."""
        answers = self.probabilities[np.arange(len(depths)), depths - self.first_depth].argmax(-1)
        return round(float(depths.mean()), 4), round(accuracy(truth, answers), 5)

    def curves(self, truth: NDArray[np.int64], windows: Mapping[str, ExitWindow | None]) -> dict[str, Curve]:
        """Return the curve of each method over its sweep: of thresholds, of patience, or of depths.

        Parameters
        ----------
        windows
            CWB's, by name; chosen on other texts.
        """
        thresholds = np.linspace(0, 1, 101).tolist()
        last = self.first_depth + self.probabilities.shape[1] - 1

        def sweep(window: ExitWindow | None, thresholds: Sequence[float]) -> set[tuple[float, float]]:
            held = None if window is None else window.holds(self.probabilities, self.first_depth)
            return {self.answered(self.depths(threshold, held), truth) for threshold in thresholds}

        patient = [sweep(ExitWindow("agreement", patience + 1), [0.0]) for patience in range(1, last)]
        return {
            # Full depth, where no text exits early, belongs to every curve.
            **{name: sorted(sweep(None, [0.0]) | sweep(window, thresholds)) for name, window in windows.items()},
            "entropy": sorted(sweep(None, thresholds)),
            "pabee": sorted(set().union(*patient)),
            "fixed": [self.answered(np.full(len(truth), depth), truth) for depth in range(self.first_depth, last + 1)],
        }


def at_equal_depth(
    curves: Mapping[str, Curve], layers: int, shares: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
) -> dict[str, dict[str, float]]:
    """Return each curve's accuracy at shares of full depth, interpolated; shares outside its range are left out."""
    accuracies: dict[str, dict[str, float]] = {}
    for name, curve in curves.items():
        depth, accuracy_at_depth = (np.array(column) for column in zip(*curve, strict=True))
        accuracies[name] = {
            f"{share:.0%}": round(float(np.interp(share * layers, depth, accuracy_at_depth)), 4)
            for share in shares
            if depth.min() - 1e-9 <= share * layers <= depth.max() + 1e-9
        }
    return accuracies
