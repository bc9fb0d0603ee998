"""A checkpoint on a device: texts in, predictions out. Can be imported and used alone.

It joins checkpoint, reader and batching strategy, and decides what hangs on the machine (precision, threads). It
knows nothing of Kafka, SQL or processes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inference.batching import STRATEGIES, Encoder, Window, bucket
from inference.checkpoint import SHIPPED, Checkpoint, load
from inference.predictions import ModelDescription, Predictions

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Padded tokens of a batch. On a CPU more than this no longer fits its caches; a GPU wants to be filled.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2_048, 65_536


class EngineError(ValueError):
    """A device, precision, dial or strategy that cannot be had; one line that says what can."""


class Engine:
    """One model on one device. Not for use from several threads at once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        dial: float | None,
        precision: str,
        strategy: str = "presort",
        batch_tokens: int = 0,
    ) -> None:
        if strategy not in STRATEGIES:
            raise EngineError(f"no strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
        self._strategy = STRATEGIES[strategy]
        calibration, model = checkpoint.calibration, checkpoint.model
        chosen = calibration.default_dial if dial is None else dial
        try:
            point = calibration.point(chosen)
        except ValueError as error:
            raise EngineError(str(error)) from error
        self._device = _device(device)
        model.to(self._device)
        if precision == "auto":
            precision = fastest_precision(model, self._device)
        if precision not in PRECISIONS:
            raise EngineError(f"no precision {precision!r}: choose auto, {' or '.join(PRECISIONS)}")
        # The exits stay in float32: they are small, and a confidence is compared with a threshold.
        model.embedding.to(PRECISIONS[precision])
        model.layers.to(PRECISIONS[precision])
        self._reader = checkpoint.reader
        expected = calibration.expected_depths(model.config.depths.start)
        self._expected_depth = None if expected is None else expected.numpy()
        self._encoder = Encoder(
            model=model,
            rule=point.rule,
            temperatures=torch.tensor(calibration.temperatures, device=self._device),
            alpha=point.alpha,
            device=self._device,
            batch_tokens=batch_tokens or (GPU_BATCH_TOKENS if self._device.type == "cuda" else CPU_BATCH_TOKENS),
        )
        self._description = ModelDescription(
            model=calibration.name,
            model_revision=checkpoint.revision,
            labels=model.config.labels,
            languages=calibration.languages,
            depth_limit=model.config.layers,
            max_tokens=calibration.max_tokens,
            dial=chosen,
            policy=f"dial={chosen:.2f}",
            precision=precision,
            device=str(self._device),
        )

    @property
    def description(self) -> ModelDescription:
        """Which model this is and how it runs."""
        return self._description

    def warm_up(self) -> None:
        """Run every width of a headline, and the widest, once: kernels are chosen and memory is claimed."""
        widths = sorted({bucket(tokens) for tokens in range(1, 65)} | {self._description.max_tokens})
        rows = [np.full(width, self._reader.sep_id, np.int32) for width in widths]
        self._answer(rows)

    def score(self, texts: Sequence[str]) -> Predictions:
        """Score the texts; an empty window gives no rows."""
        if not texts:
            return Predictions.concatenate([], len(self._description.labels))
        return self._answer(self._reader.read(texts))

    def _answer(self, rows: list[NDArray[np.int32]]) -> Predictions:
        predicted = self.predict_depths(rows)
        with torch.inference_mode():
            answers = self._strategy(self._encoder, Window(rows, predicted))
        return Predictions(
            probabilities=answers.probabilities,
            exit_depth=answers.exit_depth,
            predicted_depth=predicted,
            tokens=np.array([len(row) for row in rows], np.int32),
            tokens_kept=answers.tokens_kept,
        )

    def predict_depths(self, rows: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """(texts,) GEEP's expectation: the mean over a text's tokens, special ones apart; NaN without a token table."""
        if self._expected_depth is None:
            return np.full(len(rows), np.nan, np.float32)
        lengths = np.array([len(row) - 2 for row in rows])
        values = self._expected_depth[np.concatenate([row[1:-1] for row in rows])]
        sums = np.add.reduceat(np.append(values, 0.0), np.minimum(np.cumsum(lengths) - lengths, len(values)))
        # A text without a token of its own gets what an unseen token says.
        prior = float(self._expected_depth[self._reader.pad_id])
        return np.where(lengths > 0, sums / np.maximum(lengths, 1), prior).astype(np.float32)


def open_engine(
    device: str = "cpu",
    *,
    checkpoint: Path | None = None,
    dial: float | None = None,
    precision: str = "auto",
    threads: int = 0,
    strategy: str = "presort",
    batch_tokens: int = 0,
) -> Engine:
    """Load a checkpoint and put it on a device.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    checkpoint
        Its directory; None: the one that is shipped.
    dial
        0: full depth .. 1: the fastest calibrated; None: the checkpoint's default.
    precision
        ``float32``, ``bfloat16``, or ``auto``: whichever measures faster here.
    threads
        Of a CPU engine; 0: torch's own choice. Holds for the whole process.
    strategy
        How a window is put into batches: one of `batching.STRATEGIES`.
    batch_tokens
        Padded tokens of a batch; 0: what suits the device.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, damaged or foreign.
    EngineError
        If the device, precision, dial or strategy cannot be had.
    """
    if threads > 0:
        torch.set_num_threads(threads)
    return Engine(
        load(checkpoint or SHIPPED),
        device=device,
        dial=dial,
        precision=precision,
        strategy=strategy,
        batch_tokens=batch_tokens,
    )


def fastest_precision(model: torch.nn.Module, device: torch.device) -> str:
    """Which precision runs one layer fastest on this device now; processors differ more than one thinks."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    layer = model.get_submodule("layers.0.0")
    took: dict[str, float] = {}
    for name, dtype in PRECISIONS.items():
        layer.to(dtype)
        x = torch.zeros(32, 32, layer.get_submodule("qkv").in_features, dtype=dtype)  # type: ignore[call-overload]
        live = torch.ones(32, 32, dtype=torch.bool)
        with torch.inference_mode():
            layer(x, live)
            laps = []
            for _ in range(5):
                began = time.perf_counter()
                layer(x, live)
                laps.append(time.perf_counter() - began)
        took[name] = min(laps)
        layer.float()
    return min(took, key=lambda name: took[name])


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f"no device {name!r}: give cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f"no device {name!r}: give cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"no device {name!r}: this machine has {torch.cuda.device_count()} GPUs")
    return device
