"""The results of calibrating a model: tempering, token table and the dial's curve, as plain data and JSON.

``training.calibrate`` computes them; this module only holds them, so that serving does not import training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning

#: 2: pruning may begin at a length; a reader of format 1 would prune every text.
#: 3: exits are sharpened; a reader of format 2 would return other probabilities.
FORMAT_VERSION = 3
READABLE_FORMATS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One position of the dial: its rules, and their accuracy and cost on the dev set."""

    dial: float  # 0: full depth, no pruning .. 1: the fastest calibrated
    rule: ExitRule
    pruning: Pruning
    accuracy: float
    accuracy_lost: float  # relative to dial 0: 0.005 is half a point; of the kind of text that loses most
    mean_depth: float
    cost: float  # share of full depth's layer work; pruning is counted analytically

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "dial": self.dial,
            "threshold": self.rule.threshold,
            "window_rule": self.rule.window_rule,
            "window": self.rule.window,
            "margin": self.rule.margin,
            "alpha": self.pruning.alpha,
            "prunes_from_tokens": self.pruning.from_tokens,
            "accuracy": self.accuracy,
            "accuracy_lost": self.accuracy_lost,
            "mean_depth": self.mean_depth,
            "cost": self.cost,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` returned; in format 1 pruning begins at any length."""
        rule = ExitRule(values["threshold"], values["window_rule"], values["window"], values["margin"])
        measured = {name: float(values[name]) for name in ("accuracy", "accuracy_lost", "mean_depth", "cost")}
        pruning = Pruning(float(values["alpha"]), int(values.get("prunes_from_tokens", 0)))
        return cls(dial=float(values["dial"]), rule=rule, pruning=pruning, **measured)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What serving needs in addition to weights and tokenizer."""

    name: str  # of the model, as it appears in signals
    languages: tuple[str, ...]  # BCP 47 primary subtags; the first is the default
    max_tokens: int  # that the model reads of one text
    temperatures: tuple[float, ...]  # one per exit; see `early_exit.tempering`
    curve: tuple[OperatingPoint, ...]  # ascending dial; the first is dial 0
    default_dial: float
    #: (V, exits) GEEP's P(exit depth | token); None: depths are not predicted.
    token_table: NDArray[np.float32] | None = None
    sharpening: tuple[float, ...] = ()  # one per exit; empty: none is sharpened

    def __post_init__(self) -> None:
        start = self.curve[0] if self.curve else None
        if start is None or start.dial != 0.0 or not start.rule.never or not start.pruning.never:
            raise ValueError("the dial's curve must start at dial 0 with full depth and no pruning")
        if list(self.curve) != sorted(self.curve, key=lambda point: point.dial):
            raise ValueError("the dial's curve must ascend")
        if not self.languages:
            raise ValueError("a calibration must name at least one language")
        if any(not temperature > 0 for temperature in self.temperatures):
            raise ValueError("temperatures must be positive")
        if self.sharpening and len(self.sharpening) != len(self.temperatures):
            raise ValueError("every exit needs a temperature and a sharpening, or none is sharpened")
        if any(not 0 <= sharpening < math.inf for sharpening in self.sharpening):
            raise ValueError("sharpening must not be negative")

    @property
    def tempering(self) -> NDArray[np.float32]:
        """The temperature and sharpening of each exit: (exits, 2)."""
        sharpening = self.sharpening or (0.0,) * len(self.temperatures)
        return np.array([self.temperatures, sharpening], np.float32).T.copy()

    def point(self, dial: float) -> OperatingPoint:
        """Return the fastest calibrated point that is no faster than ``dial``; raise ``ValueError`` outside 0..1."""
        if not 0.0 <= dial <= 1.0:
            raise ValueError(f"the dial goes from 0 (full depth) to 1 (fastest), not {dial}")
        return [point for point in self.curve if point.dial <= dial + 1e-9][-1]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the token table, which is stored as a tensor."""
        return {
            "format": FORMAT_VERSION,
            "name": self.name,
            "languages": list(self.languages),
            "max_tokens": self.max_tokens,
            "temperatures": list(self.temperatures),
            "sharpening": list(self.sharpening),
            "default_dial": self.default_dial,
            "curve": [point.to_json() for point in self.curve],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], token_table: NDArray[np.float32] | None) -> Self:
        """Read what `to_json` returned; raise ``ValueError``, ``KeyError`` or ``TypeError`` on anything else."""
        if values["format"] not in READABLE_FORMATS:
            known = " and ".join(map(str, READABLE_FORMATS))
            raise ValueError(f"calibration format {values['format']}, but this version reads {known}")
        return cls(
            name=str(values["name"]),
            languages=tuple(values["languages"]),
            max_tokens=int(values["max_tokens"]),
            temperatures=tuple(float(temperature) for temperature in values["temperatures"]),
            curve=tuple(OperatingPoint.from_json(point) for point in values["curve"]),
            default_dial=float(values["default_dial"]),
            token_table=token_table,
            sharpening=tuple(float(sharpening) for sharpening in values.get("sharpening", ())),
        )
