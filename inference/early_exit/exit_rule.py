"""When a text exits, in numbers. `confidence_window` carries the rule out in torch, `kernels/forward.c` in C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Window = Literal["off", "agreement", "trend"]


@dataclass(frozen=True, slots=True)
class ExitRule:
    """When a text exits. The numbers are calibrated; the defaults mean full depth."""

    threshold: float = 0.0  # delta: exit when the normalised entropy is below it
    window_rule: Window = "off"
    window: int = 2  # N: depths that must agree
    margin: float = 0.0  # m: for `agreement`, the class's lead over the second at each of them

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0 + 1e-9:
            raise ValueError(f"the entropy threshold must be 0..1, not {self.threshold}")
        if self.window < 1:
            raise ValueError(f"a window holds at least one depth, not {self.window}")
        if not 0.0 <= self.margin <= 1.0:
            raise ValueError(f"the margin must be 0..1, not {self.margin}")

    @property
    def never(self) -> bool:
        """Whether no text can exit before the last depth."""
        return self.threshold <= 0.0 and self.window_rule == "off"
