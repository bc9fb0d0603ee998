"""A checkpoint on a device: texts in, predictions out. Can be imported and used alone.

It joins tokenizer, batching strategy and backend, and decides what depends on the machine (precision, strategy,
threads). Serving in int8 imports no torch, which takes seconds and hundreds of megabytes: only `_torch_backends` loads
it, by name. It knows nothing of Kafka, SQL or processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from earlybell.errors import UserError
from earlybell.inference.backends.int8 import Int8Backend
from earlybell.inference.backends.int8_weights import Int8Weights
from earlybell.inference.batching.backend import Backend, Window
from earlybell.inference.batching.planning import bucket, cut_for_threads
from earlybell.inference.batching.strategies import STRATEGIES, Strategy
from earlybell.inference.cores import available_cores
from earlybell.inference.early_exit.depth_prediction import DepthPrediction
from earlybell.inference.kernels import library
from earlybell.inference.model.checkpoint import SHIPPED, Checkpoint, load
from earlybell.inference.precision import PRECISIONS, arithmetic_name, cpu_precision, int8_kernels
from earlybell.inference.predictions import ModelDescription, Predictions, Timed, timed
from earlybell.inference.token_ids import TokenIds

#: Padded tokens of a batch. On a CPU more than this exceeds the caches; a GPU wants to be filled, but a batch of fixed
#: shape costs a small window as much as a large one (estimated, not measured: 0.1 to 0.2 ms a layer on an H200).
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2_048, 16_384
#: Of the exact mode on a CPU, where idle rows are computed too.
EXACT_BATCH_TOKENS = 256
#: Of a packed batch: as many as the largest chunk has, so that no small batch is left over.
PACKED_BATCH_TOKENS = 6_144
#: Texts that a GPU gets at a time while the next are tokenized.
PORTION = 16_384


class EngineError(UserError, ValueError):
    """A device, precision, dial or strategy that is not available; one line that says what is."""


class UndefinedAnswerError(ArithmeticError):
    """The model's answer to a text is not a number: a value overflowed on the way. Other texts are not affected."""


class Engine:
    """One model on one device. Not for use from several threads at once, except for `begin`."""

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
        self._calibration, config = checkpoint.calibration, checkpoint.config
        calibration = self._calibration
        chosen_dial = calibration.default_dial if dial is None else dial
        try:
            point = calibration.point(chosen_dial)
        except ValueError as error:
            raise EngineError(str(error)) from error
        kind = _device_kind(device)
        self._on_gpu = kind == "cuda"
        kernels = None if self._on_gpu else int8_kernels(config)
        if precision == "auto":
            if not self._on_gpu and (reason := library.missing()):
                import structlog  # costs a process that has nothing to log a tenth of its start

                structlog.get_logger(__name__).warning("kernels_missing", reason=reason)
            precision = _torch_backends().gpu_precision() if self._on_gpu else cpu_precision(kernels is not None)
        if precision not in PRECISIONS:
            raise EngineError(f"no precision {precision!r}: choose auto, {' or '.join(PRECISIONS)}")
        if precision == "int8" and kernels is None:
            raise EngineError(f"no int8 here: {library.missing() or 'a GPU or this model has none'}; choose auto")
        self.strategy = _strategy(strategy, precision, kind, exact)
        self.backend: Backend
        self._threads, self._thread_count = None, 1
        if kernels is not None and precision == "int8":
            self.backend = Int8Backend(
                kernels,
                Int8Weights(config, checkpoint.weights),
                point.rule,
                calibration.tempering,
                point.pruning,
                batch_tokens or PACKED_BATCH_TOKENS,
            )
            self._thread_count = threads or available_cores()
            if self._thread_count > 1:
                self._threads = ThreadPoolExecutor(self._thread_count, thread_name_prefix="engine")
        else:
            tokens = batch_tokens or _batch_tokens(kind, self.strategy)
            self.backend = _torch_backends().open_padded(checkpoint, point, device, precision, tokens, threads)
        self._backends = {point.dial: self.backend}
        # Tokenizing ahead cuts a window into portions, which may not change a bit of an answer.
        ahead = self._on_gpu and self.strategy.exact
        self._ahead: Executor | None = ThreadPoolExecutor(1, "tokenizer") if ahead else None
        self._reader = checkpoint.reader
        self._depth_prediction = DepthPrediction.of(calibration.token_table, self._reader.pad_id, config.depths.start)
        self._description = ModelDescription(
            model=calibration.name,
            model_revision=checkpoint.revision,
            labels=config.labels,
            languages=calibration.languages,
            depth_limit=config.layers,
            max_tokens=calibration.max_tokens,
            dial=chosen_dial,
            policy=f"dial={chosen_dial:.2f}",
            precision=precision,
            device=device,
            arithmetic=arithmetic_name(precision, kind, self.strategy.exact, reads_figures=config.figures),
            kernels=kernels.form if kernels is not None and precision == "int8" else None,
            curve=tuple((point.dial, point.accuracy_lost) for point in calibration.curve),
        )

    @property
    def description(self) -> ModelDescription:
        """Which model this is and how it runs."""
        return self._description

    def warm_up(self) -> None:
        """Run the widths of headlines, and the widest, once: libraries choose kernels and allocate memory.

        On a GPU every width: each is recorded as a CUDA graph at its first use (`backends.slots`).
        """
        longest = self._description.max_tokens
        widths = {longest} if not self.backend.pads else {*range(8, 36, 4), 40, 48, 64, bucket(longest)}
        if self._on_gpu:
            widths = {bucket(tokens) for tokens in range(1, longest + 1)}
        for tokens in sorted(min(width, longest) for width in widths):
            self._answer(TokenIds.pack([np.full(tokens, self._reader.sep_id, np.int32)]), self.backend)

    def read(self, texts: Sequence[str]) -> TokenIds:
        """Return the token ids of each text, as the model reads it."""
        return self._reader.read(texts)

    def window(self, texts: TokenIds) -> Window:
        """Return the window of these texts, with a predicted exit depth for each."""
        return Window(texts, self._depth_prediction.predict(texts))

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        """Score the texts, at another dial than the engine's own if one is given; an empty window gives no rows.

        Raises
        ------
        ValueError
            The dial is not from 0 to 1.
        UndefinedAnswerError
            The answer to a text is not a number, which is never returned as if it were one.
        """
        classes = self._description.labels
        if not texts:
            return Predictions.concatenate([], classes)
        backend = self.backend if dial is None else self._backend_at(dial)
        if self._ahead is not None and len(texts) > PORTION:
            portions = read_ahead(self.read, texts, self._ahead)
            return Predictions.concatenate([self._answer(portion, backend) for portion in portions], classes)
        if self._threads is None or len(chunks := cut_for_threads(texts, self._thread_count)) == 1:
            return self._read_and_answer(texts, backend)
        return self._join(self._submit(texts, chunks, backend)).predictions

    def begin(self, texts: Sequence[str], dial: float | None = None) -> Callable[[], Timed]:
        """Begin to `score` a window, and return what waits for its answers: a `predictions.OverlappingScorer`.

        Each thread takes the first chunk that no other has taken, of this window or the next one that was begun: it
        does not wait until all have finished a window, and a window too small to be cut leaves a thread to the next.
        Without threads the answers are computed when they are asked for. May be called from any thread.
        """
        if self._threads is None or not texts:
            return partial(timed, self.score, texts, dial)
        backend = self.backend if dial is None else self._backend_at(dial)
        return partial(self._join, self._submit(texts, cut_for_threads(texts, self._thread_count), backend))

    def _submit(self, texts: Sequence[str], chunks: Sequence[tuple[int, int]], backend: Backend) -> list[Future[Timed]]:
        assert self._threads is not None
        return [
            self._threads.submit(timed, self._read_and_answer, texts[start:stop], backend) for start, stop in chunks
        ]

    def _join(self, running: Sequence[Future[Timed]]) -> Timed:
        chunks = [chunk.result() for chunk in running]
        return Timed(
            Predictions.concatenate([chunk.predictions for chunk in chunks], self._description.labels),
            min(chunk.started for chunk in chunks),
            max(chunk.ended for chunk in chunks),
        )

    def _read_and_answer(self, texts: Sequence[str], backend: Backend) -> Predictions:
        return self._answer(self.read(texts), backend)

    def _backend_at(self, dial: float) -> Backend:
        """Return the backend with the rules of another position of the dial; it shares the weights."""
        point = self._calibration.point(dial)
        if point.dial not in self._backends:
            self._backends[point.dial] = self.backend.at(point.rule, point.pruning)
        return self._backends[point.dial]

    def _answer(self, texts: TokenIds, backend: Backend) -> Predictions:
        window = self.window(texts)
        answers = self.strategy.run(backend, window)
        undefined = np.isnan(answers.probabilities).any(1)
        if undefined.any():
            depth = answers.exit_depth[undefined.argmax()]
            raise UndefinedAnswerError(f"the answer at depth {depth} is not a number, of {undefined.sum()} texts")
        return Predictions(
            probabilities=answers.probabilities,
            exit_depth=answers.exit_depth,
            predicted_depth=window.predicted,
            tokens=texts.lengths,
            tokens_kept=answers.tokens_kept,
            known=self._reader.known(texts),
            classes=self._description.labels,
        )


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
        Its directory; None: the shipped one.
    dial
        0: full depth .. 1: the fastest calibrated; None: the checkpoint's default.
    precision
        ``int8`` (on a CPU), ``float32``, ``bfloat16``, or ``auto``: int8 on a CPU that can, bfloat16 on a GPU that
        can, else float32.
    threads
        Of a CPU engine; 0: one per core that it may use (`cores`). Applies to the whole process.
    strategy
        How a window is batched: one of `batching.strategies.STRATEGIES`, or ``auto``.
    batch_tokens
        Tokens of a batch, padding included; 0: what suits the device.
    exact
        Give a text's answer the same bits whatever else is in the window, at the cost of speed unless int8 is
        available.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, damaged or foreign.
    EngineError
        If the device, precision, dial or strategy is not available.
    """
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


def read_ahead(read: Callable[[Sequence[str]], TokenIds], texts: Sequence[str], thread: Executor) -> Iterator[TokenIds]:
    """Yield what ``read`` returns for the texts, in order, `PORTION` texts at a time.

    While the caller works on one portion the thread reads the next, and no further.
    """
    reading: Future[TokenIds] | None = None
    for start in range(0, len(texts) + PORTION, PORTION):
        portion = texts[start : start + PORTION]
        following = thread.submit(read, portion) if portion else None
        if reading is not None:
            yield reading.result()
        reading = following


def default_strategy(precision: str, device_kind: str) -> Strategy:
    """Return the strategy that measured fastest (docs/benchmarks.md).

    Packed texts gain nothing from an order; a padded batch should stay full on a GPU, and on a CPU do as little work as
    possible.
    """
    if precision == "int8":
        return STRATEGIES["shrink"]
    return STRATEGIES["refill" if device_kind == "cuda" else "presort"]


def _strategy(name: str, precision: str, device_kind: str, exact: bool) -> Strategy:
    if name != "auto" and name not in STRATEGIES:
        raise EngineError(f"no strategy {name!r}: choose auto or one of {', '.join(STRATEGIES)}")
    strategy = default_strategy(precision, device_kind) if name == "auto" else STRATEGIES[name]
    if not exact or precision == "int8" or strategy.exact:
        return strategy
    if strategy.exits != "rule":
        raise EngineError(f"the strategy {name!r} is never exact: choose auto or refill")
    return STRATEGIES["refill"]


def _batch_tokens(device_kind: str, strategy: Strategy) -> int:
    if device_kind == "cuda":
        return GPU_BATCH_TOKENS
    return EXACT_BATCH_TOKENS if strategy.exact else CPU_BATCH_TOKENS


def _device_kind(name: str) -> str:
    """Return ``cpu`` or ``cuda``."""
    found = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", name)
    if found is None:
        raise EngineError(f"no device {name!r}: give cpu, cuda or cuda:N")
    if found[1]:
        return "cpu"
    gpus = _torch_backends().gpus()
    if int(found[2] or 0) >= gpus:
        raise EngineError(f"no device {name!r}: this machine has {gpus} GPUs")
    return "cuda"


def _torch_backends() -> Any:
    return import_module("earlybell.inference.backends.padded")
