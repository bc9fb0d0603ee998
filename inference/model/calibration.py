"""What calibration found out about a model: temperatures, token table, and the dial's curve. Plain data and its JSON.

How it is found is ``training.calibrate``'s matter; this module only keeps it, so that serving need not load training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from earlybell.inference.early_exit.confidence_window import ExitRule

FORMAT = 1


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One setting of the dial: the rules that it stands for, and what they cost and gave on the dev set."""

    dial: float  # 0: full depth, no pruning .. 1: the fastest calibrated
    rule: ExitRule
    alpha: float  # ACC's share that a layer keeps; 1: no pruning
    accuracy: float
    accuracy_lost: float  # against dial 0, as a share: 0.005 is half a point; of the kind of text that loses most
    mean_depth: float
    cost: float  # share of full depth's layer work, pruning counted analytically

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "dial": self.dial,
            "threshold": self.rule.threshold,
            "window_rule": self.rule.window_rule,
            "window": self.rule.window,
            "margin": self.rule.margin,
            "alpha": self.alpha,
            "accuracy": self.accuracy,
            "accuracy_lost": self.accuracy_lost,
            "mean_depth": self.mean_depth,
            "cost": self.cost,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        rule = ExitRule(values["threshold"], values["window_rule"], values["window"], values["margin"])
        measured = {name: float(values[name]) for name in ("accuracy", "accuracy_lost", "mean_depth", "cost")}
        return cls(dial=float(values["dial"]), rule=rule, alpha=float(values["alpha"]), **measured)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything that serving needs besides weights and tokenizer."""

    name: str  # of the model, as signals give it
    languages: tuple[str, ...]  # BCP 47 primary subtags; the first is the model's own
    max_tokens: int  # read of one text
    temperatures: tuple[float, ...]  # one an exit
    curve: tuple[OperatingPoint, ...]  # ascending dial; the first is dial 0
    default_dial: float
    #: (V, exits) P(exit depth | token), GEEP's table; None: nothing predicts.
    token_table: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.curve or self.curve[0].dial != 0.0 or not self.curve[0].rule.never or self.curve[0].alpha != 1.0:
            raise ValueError("the dial's curve must start at dial 0 with full depth and no pruning")
        if list(self.curve) != sorted(self.curve, key=lambda one: one.dial):
            raise ValueError("the dial's curve must ascend")
        if not self.languages:
            raise ValueError("a calibration names at least one language")
        if any(not one > 0 for one in self.temperatures):
            raise ValueError("temperatures must be positive")

    def point(self, dial: float) -> OperatingPoint:
        """The fastest calibrated point that is no faster than ``dial``; raises ``ValueError`` outside 0..1."""
        if not 0.0 <= dial <= 1.0:
            raise ValueError(f"the dial goes from 0 (full depth) to 1 (fastest), not {dial}")
        return [one for one in self.curve if one.dial <= dial + 1e-9][-1]

    def expected_depths(self, first_depth: int) -> Tensor | None:
        """(V,) float32: the mean exit depth that each token speaks for. A text's prediction is the mean over tokens."""
        if self.token_table is None:
            return None
        depths = torch.arange(first_depth, first_depth + self.token_table.shape[1], dtype=torch.float32)
        return self.token_table.float() @ depths

    def to_json(self) -> dict[str, Any]:
        """Plain values; the token table is kept beside them, as a tensor."""
        return {
            "format": FORMAT,
            "name": self.name,
            "languages": list(self.languages),
            "max_tokens": self.max_tokens,
            "temperatures": list(self.temperatures),
            "default_dial": self.default_dial,
            "curve": [one.to_json() for one in self.curve],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], token_table: Tensor | None) -> Self:
        """The inverse of `to_json`; raises ``ValueError``, ``KeyError`` or ``TypeError`` on what it is not."""
        if values["format"] != FORMAT:
            raise ValueError(f"calibration format {values['format']}, but this version reads {FORMAT}")
        return cls(
            name=str(values["name"]),
            languages=tuple(values["languages"]),
            max_tokens=int(values["max_tokens"]),
            temperatures=tuple(float(one) for one in values["temperatures"]),
            curve=tuple(OperatingPoint.from_json(one) for one in values["curve"]),
            default_dial=float(values["default_dial"]),
            token_table=token_table,
        )

    @classmethod
    def uncalibrated(cls, name: str, exits: int, max_tokens: int, languages: tuple[str, ...] = ("en",)) -> Self:
        """Full depth whatever the dial says, and no temperatures."""
        nan = float("nan")
        point = OperatingPoint(0.0, ExitRule(), 1.0, accuracy=nan, accuracy_lost=0.0, mean_depth=nan, cost=1.0)
        return cls(name, languages, max_tokens, (1.0,) * exits, (point,), 0.0)
