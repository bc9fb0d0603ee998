"""ELBERT models small enough to test every rule in milliseconds."""

from __future__ import annotations

from typing import Any

import torch

from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification


def tiny(**changes: Any) -> Config:
    """Return a config of four narrow layers."""
    return Config(**{"vocabulary": 64, "embedding": 16, "hidden": 32, "heads": 4, "feed_forward": 64, "layers": 4,
                     "projection": True, "head_hidden": 16, "positions": 128, **changes})  # fmt: skip


def outspoken(config: Config, seed: int) -> ElbertForSequenceClassification:
    """Return a random model whose answers are far from uniform, so that texts exit at different depths."""
    torch.manual_seed(seed)
    model = ElbertForSequenceClassification(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.mul_(40.0 if "classifier" in name else 6.0)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1.0)
    return model.eval()
