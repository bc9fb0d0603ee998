"""From an exit's logits to calibrated probabilities: a temperature, and a sharpening that grows with the lead.

One temperature scales sure and doubtful answers alike. An exit may say too little where it is sure and too much where
it is not, and then no temperature mends both. So the scale also grows with the lead of a text's first class over its
second. The order of the classes never changes. Source: temperature, Guo et al. 2017, arXiv 1706.04599; a scale that
depends on the text, Balanya et al. 2022, arXiv 2208.00461; this form is ours.

Its twin in C, for the int8 backend, is ``earlybell_softmax`` in `kernels/forward.c`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: An answer with a larger lead is certain, to float32's precision.
LARGEST_LEAD = 20.0


def tempered_probabilities(logits: Tensor, tempering: Tensor) -> Tensor:
    """Return the softmax of y (1 + sharpening * lead), where y = logits / temperature, and lead is that of y.

    Parameters
    ----------
    logits
        (..., C).
    tempering
        (..., 2): temperature and sharpening, of each row of the logits.

    Returns
    -------
    probabilities
        (..., C).
    """
    scaled = logits / tempering[..., :1]
    two = scaled.topk(2, -1).values
    lead = (two[..., :1] - two[..., 1:]).clamp(max=LARGEST_LEAD)
    probabilities: Tensor = (scaled * (1.0 + tempering[..., 1:] * lead)).softmax(-1)
    return probabilities


def unsharpened(temperatures: Sequence[float]) -> NDArray[np.float32]:
    """Return the tempering, (exits, 2), of temperatures alone."""
    return np.array([(temperature, 0.0) for temperature in temperatures], np.float32)


def tempered(logits: NDArray[np.float32], tempering: NDArray[np.float32]) -> NDArray[np.float32]:
    """Do as `tempered_probabilities`, on arrays."""
    probabilities: NDArray[np.float32] = tempered_probabilities(
        torch.from_numpy(logits), torch.from_numpy(tempering)
    ).numpy()
    return probabilities
