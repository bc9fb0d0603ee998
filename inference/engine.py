"""A checkpoint on a device: texts in, predictions out. Can be imported and used alone.

It joins checkpoint, reader, kernels and batching strategy, and decides what hangs on the machine (precision,
strategy, threads). It knows nothing of Kafka, SQL or processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.int8_weights import QuantisedEncoder
from earlybell.inference.backends.packed_batches import PackedEncoder
from earlybell.inference.backends.padded import PaddedEncoder
from earlybell.inference.batching.backend import Encoder, Window, bucket
from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.kernels import build, wordpiece
from earlybell.inference.kernels.wordpiece import WordPieces
from earlybell.inference.model.checkpoint import SHIPPED, Checkpoint, load
from earlybell.inference.precision import PRECISIONS, fastest_precision, int8_kernels
from earlybell.inference.predictions import ModelDescription, Predictions

#: Padded tokens of a batch. On a CPU more than this no longer fits its caches; a GPU wants to be filled, but a batch of
#: fixed shape costs a small window as much as a large one (reckoned, not measured: 0.1 to 0.2 ms a layer on an H200).
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2_048, 16_384
#: Of the exact mode on a CPU, where every row that idles is computed too.
EXACT_BATCH_TOKENS = 256
#: Tokens of a batch of packed texts: as many as the largest chunk has, so that no small rest is left of it.
PACKED_BATCH_TOKENS = 6_144
#: Characters that one thread takes at a time. While they are computed the next ones are read.
LEAST_CHUNK, LARGEST_CHUNK, SHARES = 1_200, 18_000, 1.5
#: Characters of a text that are counted: about as many as are read of a long one.
COUNTED = 2_500
#: Texts that a GPU gets at a time, while the next are read; and texts that a thread reads at a time. Most of
#: reading is Python's own, which holds up whoever launches steps; more readers than two would only wait their turn.
PORTION, READ_AT_ONCE, READERS = 16_384, 128, 2


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
        strategy: str = "auto",
        batch_tokens: int = 0,
        exact: bool = False,
        threads: int = 0,
    ) -> None:
        if strategy != "auto" and strategy not in STRATEGIES:
            raise EngineError(f"no strategy {strategy!r}: choose auto or one of {', '.join(STRATEGIES)}")
        calibration, model = checkpoint.calibration, checkpoint.model.eval()
        chosen = calibration.default_dial if dial is None else dial
        try:
            point = calibration.point(chosen)
        except ValueError as error:
            raise EngineError(str(error)) from error
        self._device = _device(device)
        kernels = int8_kernels(model.config) if self._device.type == "cpu" else None
        if precision == "auto":
            precision = fastest_precision(model, self._device, kernels)
        if precision not in PRECISIONS:
            raise EngineError(f"no precision {precision!r}: choose auto, {' or '.join(PRECISIONS)}")
        if precision == "int8" and kernels is None:
            raise EngineError("no int8 here: it needs a CPU device, a C compiler and a cache directory; choose auto")
        if strategy == "auto":
            strategy = default_strategy(precision, self._device)
        if exact and precision != "int8" and strategy != "refill":
            if strategy in ("padded", "predict"):
                raise EngineError(f"the strategy {strategy!r} is never exact: choose auto or refill")
            strategy = "refill"
        self._strategy = STRATEGIES[strategy]
        self._threads, self._count = None, 1
        self.encoder: Encoder
        if kernels is not None and precision == "int8":
            self.encoder = PackedEncoder(
                kernels=QuantisedEncoder(model, kernels),
                rule=point.rule,
                temperatures=np.array(calibration.temperatures, np.float32),
                alpha=point.alpha,
                batch_tokens=batch_tokens or PACKED_BATCH_TOKENS,
            )
            self._count = threads or _cores()
            if self._count > 1:
                self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="engine")
        else:
            model.to(self._device)
            # The exits stay in float32: they are small, and a confidence is compared with a threshold.
            model.embedding.to(PRECISIONS[precision])
            model.layers.to(PRECISIONS[precision])
            self.encoder = PaddedEncoder(
                model=model,
                rule=point.rule,
                temperatures=torch.tensor(calibration.temperatures, device=self._device),
                alpha=point.alpha,
                device=self._device,
                batch_tokens=batch_tokens or _batch_tokens(self._device, exact),
                fixed=exact or self._device.type == "cuda",
            )
        # Of the strategies on a GPU only this one gives a text the same bits however a window is cut.
        reads_ahead = self._device.type == "cuda" and strategy == "refill"
        self._ahead: Executor | None = ThreadPoolExecutor(READERS, "reader") if reads_ahead else None
        self._reader = checkpoint.reader
        compiled = build.library()
        if compiled is not None and wordpiece.fits(self._reader.tokenizer):
            self._reader = replace(self._reader, quick=WordPieces(self._reader.tokenizer, compiled))
        expected = calibration.expected_depths(model.config.depths.start)
        self._expected_depth = None if expected is None else expected.numpy()
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
        self.strategy = strategy

    @property
    def description(self) -> ModelDescription:
        """Which model this is and how it runs."""
        return self._description

    def warm_up(self) -> None:
        """Run the widths of headlines, and the widest, once: kernels are chosen and memory is claimed.

        On a GPU every width: each is recorded as a CUDA graph at its first use (`fixed_slots`).
        """
        widest = self._description.max_tokens
        widths = {widest} if not self.encoder.pads else {*range(8, 36, 4), 40, 48, 64, bucket(widest)}
        if self._device.type == "cuda":
            widths = {bucket(tokens) for tokens in range(1, widest + 1)}
        for width in sorted(min(width, widest) for width in widths):
            self._answer([np.full(width, self._reader.sep_id, np.int32)])

    def read(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The token ids of each text, as the model reads it."""
        return self._reader.read(texts)

    def score(self, texts: Sequence[str]) -> Predictions:
        """Score the texts; an empty window gives no rows."""
        classes = len(self._description.labels)
        if not texts:
            return Predictions.concatenate([], classes)
        if self._ahead is not None and len(texts) > PORTION:
            portions = read_ahead(self.read, texts, self._ahead)
            return Predictions.concatenate([self._answer(rows) for rows in portions], classes)
        chunks = self._chunks(texts) if self._threads is not None else []
        if self._threads is None or len(chunks) == 1:
            return self._answer(self.read(texts))
        running = [self._threads.submit(self._answer, self.read(texts[start:stop])) for start, stop in chunks]
        return Predictions.concatenate([chunk.result() for chunk in running], classes)

    def _chunks(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Where to cut a window for the threads: ever smaller, so that they end together."""
        sizes = [min(len(text), COUNTED) + 1 for text in texts]
        left, start, chunks = sum(sizes), 0, []
        while start < len(texts):
            wanted = min(max(left / (SHARES * self._count), LEAST_CHUNK), LARGEST_CHUNK)
            stop, taken = start, 0
            while stop < len(texts) and taken < wanted:
                taken += sizes[stop]
                stop += 1
            chunks.append((start, stop))
            left, start = left - taken, stop
        return chunks

    def _answer(self, rows: list[NDArray[np.int32]]) -> Predictions:
        predicted = self.predict_depths(rows)
        with torch.inference_mode():
            answers = self._strategy(self.encoder, Window(rows, predicted))
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
        # In double precision a text's mean does not hang on what was summed before it.
        values = self._expected_depth[np.concatenate([row[1:-1] for row in rows])].astype(np.float64)
        starts = np.minimum(np.cumsum(lengths) - lengths, len(values))
        sums = np.add.reduceat(np.append(values, 0.0), starts)
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
    strategy: str = "auto",
    batch_tokens: int = 0,
    exact: bool = False,
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
        ``float32``, ``bfloat16``, ``int8`` (a CPU with a C compiler), or ``auto``: whichever measured fastest on this
        machine, remembered from then on.
    threads
        Of a CPU engine; 0: one a core. Holds for the whole process.
    strategy
        How a window is put into batches: one of `refilling.STRATEGIES`, or ``auto``.
    batch_tokens
        Tokens of a batch, padding included; 0: what suits the device.
    exact
        Promise the same bits for a text whatever stands beside it, at the cost of speed where int8 is not at hand.

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
        exact=exact,
        threads=threads,
    )


def read_ahead(
    read: Callable[[Sequence[str]], list[NDArray[np.int32]]], texts: Sequence[str], threads: Executor
) -> Iterator[list[NDArray[np.int32]]]:
    """What ``read`` gives for the texts, in their order, `PORTION` texts at a time.

    While the caller has one portion the threads read the next, and no further: what they hold of the interpreter is
    the caller's loss. ``read`` is called by several of them at once.
    """
    reading: list[Future[list[NDArray[np.int32]]]] = []
    for start in range(0, len(texts) + PORTION, PORTION):
        stop = min(start + PORTION, len(texts))
        cuts = range(start, stop, READ_AT_ONCE)
        following = [threads.submit(read, texts[cut : min(cut + READ_AT_ONCE, stop)]) for cut in cuts]
        if reading:
            yield [row for chunk in reading for row in chunk.result()]
        reading = following


def default_strategy(precision: str, device: torch.device) -> str:
    """What measured fastest (tests/benchmarks/README.md).

    Packed texts gain nothing from an order; a padded batch wants to stay full on a GPU, and on a CPU to do no more
    work than it must.
    """
    if precision == "int8":
        return "shrink"
    return "refill" if device.type == "cuda" else "presort"


def _batch_tokens(device: torch.device, exact: bool) -> int:
    if device.type == "cuda":
        return GPU_BATCH_TOKENS
    return EXACT_BATCH_TOKENS if exact else CPU_BATCH_TOKENS


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
