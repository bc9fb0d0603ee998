"""ACC: how many tokens each layer keeps, the analytical speed-up of that, and its inverse.

Source: Kachuee & Sharifkhani, arXiv 2201.03327; no code was released and only abstracts could be read, so this is a
reconstruction (ours). Which tokens are kept is decided in `elbert.strongest_tokens`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: [CLS] and one more token.
LEAST_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Pruning:
    """How many tokens the layers keep of a text, by its own length alone; the defaults keep all."""

    alpha: float = 1.0  # share of tokens that a layer keeps
    from_tokens: int = 0  # of the shortest text that is pruned

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha <= 1.0:
            raise ValueError(f"alpha must be above 0 and at most 1, not {self.alpha}")
        if self.from_tokens < 0:
            raise ValueError(f"texts are pruned from a length of 0 or more, not {self.from_tokens}")

    @property
    def never(self) -> bool:
        """Whether every text keeps all its tokens."""
        return self.alpha == 1.0

    def kept(self, tokens: NDArray[np.integer[Any]], layers: int) -> NDArray[np.int64]:
        """Return how many of each text's n_0 tokens, (B,), are alive after layers 1..: (B, layers).

        n_l = max(n_min, ceil(alpha^l n_0)), never more than the text has.
        """
        # Products, since a C library's power function may differ from another's in the last bit.
        shares = np.cumprod(np.full(layers, self.alpha))
        # 1e-9: 0.9 * 10 is 9, also in binary floating point.
        pruned = np.maximum(np.ceil(tokens[:, None] * shares - 1e-9).astype(np.int64), LEAST_TOKENS)
        whole = tokens[:, None].astype(np.int64)
        return np.where(whole >= self.from_tokens, np.minimum(pruned, whole), whole)

    def by_depth(self, tokens: NDArray[np.integer[Any]], layers: int) -> NDArray[np.int64]:
        """Return how many of each text's tokens, (B,), are alive at depths 0..layers: (B, layers + 1)."""
        return np.concatenate([tokens[:, None].astype(np.int64), self.kept(tokens, layers)], axis=1)

    def widths(self, width: int, layers: int) -> NDArray[np.int64]:
        """Return the most tokens that a text of at most ``width`` tokens has at depths 0..layers: (layers + 1,)."""
        widest: NDArray[np.int64] = self.by_depth(np.arange(width + 1), layers).max(0)
        return widest


def speed_up(tokens: int, alpha: float, layers: int, hidden: int) -> float:
    """Return K, the analytical speed-up over no pruning, for a feed-forward of 4h and n_l from `Pruning`.

    K = L (24 n_0 h^2 + 4 n_0^2 h) / sum_l [8 n_{l-1} h^2 + 4 n_{l-1}^2 h + 16 n_l h^2].
    """
    counts: list[int] = [tokens, *Pruning(alpha).kept(np.array([tokens]), layers)[0].tolist()]
    full = layers * (24 * tokens * hidden**2 + 4 * tokens**2 * hidden)
    pruned: int = sum(
        8 * before * hidden**2 + 4 * before**2 * hidden + 16 * after * hidden**2 for before, after in pairwise(counts)
    )
    return full / pruned


def solve_alpha(wanted: float, tokens: int, layers: int, hidden: int) -> float:
    """Return the alpha whose analytical speed-up at ``tokens`` tokens is ``wanted``, by bisection.

    Raises
    ------
    ValueError
        If ``wanted`` is below 1, or above the speed-up of keeping the fewest tokens in every layer.
    """
    if wanted < 1.0:
        raise ValueError(f"the speed-up must be at least 1, not {wanted}")
    most = speed_up(tokens, 1e-6, layers, hidden)
    if wanted > most:
        raise ValueError(f"a speed-up of {wanted} is out of reach at {tokens} tokens: the most is {most:.2f}")
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = math.sqrt(low * high) if high / low > 2 else (low + high) / 2
        # Rounding up makes K a staircase in alpha; bisection finds the step that crosses the wanted value.
        if speed_up(tokens, middle, layers, hidden) >= wanted:
            low = middle
        else:
            high = middle
    return low
