"""Padded batches on torch: float32 and bfloat16, on any device.

The batch steps through the depths and shrinks as texts exit; continuous batching is in `slots`.
It knows the model and tensors; nothing of strategies or tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from earlybell.inference.backends.cuda_graphs import staged
from earlybell.inference.backends.slots import SlotsByWidth, pad
from earlybell.inference.batching.backend import Answers
from earlybell.inference.cores import available_cores
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import tempered_probabilities
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.calibration import OperatingPoint
from earlybell.inference.model.checkpoint import Checkpoint
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.token_ids import TokenIds

#: What the layers are converted to, by precision.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PaddedBackend:
    """A model on a device; its embedding and layers have the precision that they were converted to."""

    model: ElbertForSequenceClassification
    rule: ExitRule
    tempering: Tensor  # (exits, 2) float32 on the device: see `early_exit.tempering`
    pruning: Pruning
    device: torch.device
    batch_tokens: int
    refill_every: int = 1  # continuous batching: steps between looks at which texts have exited
    pads: ClassVar[bool] = True

    @property
    def config(self) -> Config:
        """The model's shape."""
        return self.model.config

    def at(self, rule: ExitRule, pruning: Pruning) -> PaddedBackend:
        """Return a backend with the same weights and other rules."""
        return replace(self, rule=rule, pruning=pruning)

    def run(
        self,
        texts: TokenIds,
        width: int,
        *,
        depth: int | None = None,
        prunes: bool = True,
        continuous: bool = False,
    ) -> Answers:
        """Run a batch; see `batching.backend.Backend`."""
        with torch.inference_mode():
            if continuous:
                return self.slots.of_width(width).run(texts, self.refill_every)
            return self._shrink(texts, width, depth, self.pruning if prunes else Pruning())

    @cached_property
    def slots(self) -> SlotsByWidth:
        """The fixed slots of continuous batching, made at the first use of each width."""
        return SlotsByWidth(self.model, self.rule, self.tempering, self.pruning, self.device, self.batch_tokens)

    def _shrink(self, texts: TokenIds, width: int, depth: int | None, pruning: Pruning) -> Answers:
        config = self.config
        answers = Answers.empty(len(texts), config.classes)
        lengths, ids = pad(texts, width, config.pad_id)
        kept = pruning.by_depth(lengths, config.layers)  # (texts, L + 1)
        widths = pruning.widths(width, config.layers)  # a shape that does not depend on the neighbours
        x = self.model.embed(staged(ids, self.device))
        live = torch.arange(width, device=self.device) < staged(lengths, self.device)[:, None]
        last = config.layers if depth is None else depth
        # If only the last depth can answer, no exit before it is evaluated.
        first_exit = last if depth is not None or self.rule.never else config.depths.start
        rows, window = np.arange(len(texts)), ConfidenceWindow(self.rule, len(texts))
        for level in range(last + 1):
            if level > 0 and not pruning.never:
                keep = staged(kept[rows, level], self.device)
                x, live = self.model.deepen(x, live, level, keep, int(widths[level]))
            elif level > 0:
                x, live = self.model.deepen(x, live, level)
            if level < first_exit:
                continue
            probabilities = self._probabilities(x, live, level)
            exits = np.full(len(rows), True) if level == last else window.decide(probabilities, level).numpy()
            answers.put(
                rows[exits],
                Answers(
                    probabilities.numpy()[exits],
                    np.full(int(exits.sum()), level, np.int16),
                    kept[rows[exits], level].astype(np.int32),
                ),
            )
            if exits.all():
                break
            if exits.any():
                stays = np.flatnonzero(~exits)
                rows, index = rows[stays], staged(stays, self.device)
                x, live = x[index], live[index]
                window.select(torch.from_numpy(stays))
        return answers

    def _probabilities(self, x: Tensor, live: Tensor, depth: int) -> Tensor:
        """Return the answer of one exit, calibrated: (texts, C) on the CPU."""
        logits = self.model.exit_logits(x, live, depth)
        return tempered_probabilities(logits.float(), self.tempering[depth - self.config.depths.start]).cpu()


def open_padded(
    checkpoint: Checkpoint, point: OperatingPoint, device: str, precision: str, batch_tokens: int, threads: int = 0
) -> PaddedBackend:
    """Put a checkpoint on a device, at one position of its dial.

    Parameters
    ----------
    threads
        Of torch, in the whole process; 0: as they are, but not more than there are cores (`cores`).
    """
    torch.set_num_threads(threads or min(torch.get_num_threads(), available_cores()))
    model = ElbertForSequenceClassification.of(checkpoint.config, checkpoint.weights).eval().to(device)
    # The exits stay in float32: they are small, and a confidence is compared with a threshold.
    model.embedding.to(DTYPES[precision])
    model.layers.to(DTYPES[precision])
    tempering = torch.from_numpy(checkpoint.calibration.tempering).to(device)
    return PaddedBackend(model, point.rule, tempering, point.pruning, torch.device(device), batch_tokens)


def gpus() -> int:
    """Return how many GPUs torch can use."""
    return torch.cuda.device_count()


def gpu_precision() -> str:
    """Return what ``auto`` stands for on a GPU: bfloat16 if it multiplies it, else float32."""
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
