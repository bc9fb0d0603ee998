"""`earlybell blend`: a model between the one that a training started from and the one that it ended with.

Averaging their weights keeps most of what was learned and gives back most of what was forgotten: WiSE-FT, Wortsman et
al., arXiv 2109.01903. It costs no training and no time when serving.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from earlybell.inference.model.checkpoint import TOKENIZER_FILE, CheckpointError
from earlybell.inference.model.huggingface import read_pretrained, write_pretrained

EMBEDDING = "embedding.token.weight"


def blend(out: Path, start: Path, end: Path, share: float, changes: Mapping[str, Any]) -> None:
    """Write a model with ``share`` of the end's weights and the rest of the start's; it has the end's tokenizer.

    Parameters
    ----------
    changes
        Fields of the model's `Config`, such as ``figures=True``.

    Raises
    ------
    CheckpointError
        If the two do not have the same shape.
    """
    (first_config, first), (config, last) = read_pretrained(start), read_pretrained(end)
    if replace(first_config, figures=config.figures) != config:
        raise CheckpointError(f"{start} and {end} are models of different shapes: blend a model with its own start")
    weights = {name: ((1 - share) * first[name] + share * value).astype(np.float32) for name, value in last.items()}
    # Pieces that are new in the end's vocabulary have no counterpart, and others may have moved.
    before, after = _pieces(start), _pieces(end)
    weights[EMBEDDING] = last[EMBEDDING].copy()
    kept = [(before[piece], index) for piece, index in after.items() if piece in before]
    old, new = (np.array(indices) for indices in zip(*kept, strict=True))
    weights[EMBEDDING][new] = (1 - share) * first[EMBEDDING][old] + share * last[EMBEDDING][new]
    out.mkdir(parents=True, exist_ok=True)
    write_pretrained(replace(config, **changes), weights, out)
    shutil.copyfile(end / TOKENIZER_FILE, out / TOKENIZER_FILE)


def _pieces(directory: Path) -> dict[str, int]:
    pieces: dict[str, int] = json.loads((directory / TOKENIZER_FILE).read_text(encoding="utf-8"))["model"]["vocab"]
    return pieces
